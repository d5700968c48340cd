//! The agent that asks for passwords on a terminal: pkttyagent(1) of polkit, beside a verb that goes through the
//! service. A desktop has an agent of its own, which comes first.

use rustix::fd::AsRawFd;
use rustix::io::FdFlags;
use rustix::pipe::{PipeFlags, pipe_with};
use std::io::Read;
use std::process::{Child, Command};

/// A running agent, ended when dropped: it restores the terminal.
#[derive(Debug)]
pub(super) struct Agent(Child);

impl Agent {
    /// Starts the agent for this process, and waits until polkit knows it. `None` without a terminal or without
    /// pkttyagent: polkit then refuses what needs a password.
    pub(super) fn start() -> Option<Self> {
        if !rustix::termios::isatty(rustix::stdio::stdin()) {
            return None;
        }
        let (ready, notify) = pipe_with(PipeFlags::CLOEXEC).ok()?;
        // Inherited by the agent, which closes it when it is ready.
        rustix::io::fcntl_setfd(&notify, FdFlags::empty()).ok()?;
        let number = notify.as_raw_fd().to_string();
        let mut command = Command::new("pkttyagent");
        command.args(["--notify-fd", &number]);
        // Outside of a session there is no desktop, and polkit finds no agent that waits for one to fail.
        command.args(std::env::var_os("XDG_SESSION_ID").map(|_| "--fallback"));
        let child = command.spawn().ok();
        drop(notify);
        let agent = child.map(Self)?;
        let _ = std::fs::File::from(ready).read(&mut [0]);
        Some(agent)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Ok(pid) = i32::try_from(self.0.id())
            && let Some(pid) = rustix::process::Pid::from_raw(pid)
        {
            // It fails if the agent has ended.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let _ = self.0.wait();
    }
}
