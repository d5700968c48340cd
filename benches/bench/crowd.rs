//! Many idle processes on the host: some system calls of a start take longer with each of them. Called by `start` and
//! `scale`.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The number of processes.
pub const SIZE: usize = 3000;
const BOUND: Duration = Duration::from_secs(120);

/// Idle processes in a process group of their own, killed when dropped.
pub struct Crowd {
    shell: Child,
}

impl Crowd {
    /// Starts the processes.
    ///
    /// # Errors
    /// The host does not create them in time.
    pub fn gather() -> Result<Self, String> {
        let script = format!("for one in $(seq {SIZE}); do sleep infinity & done; echo gathered; wait");
        let mut shell = Command::new("bash");
        shell.args(["-c", &script]).process_group(0).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut crowd = Self { shell: shell.spawn().map_err(|error| error.to_string())? };
        let own = crowd.shell.id();
        let children = format!("/proc/{own}/task/{own}/children");
        let end = Instant::now() + BOUND;
        loop {
            let text = std::fs::read_to_string(&children).unwrap_or_default();
            if text.split_whitespace().count() >= SIZE {
                return Ok(crowd);
            }
            if Instant::now() > end || crowd.shell.try_wait().map_or(true, |status| status.is_some()) {
                return Err(format!("there are not {SIZE} processes after {BOUND:?}"));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        // The shell is not reaped yet, so that its number is that of the group.
        let group = format!("-{}", self.shell.id());
        let _ = Command::new("kill").args(["-KILL", "--", &group]).status();
        let _ = self.shell.wait();
    }
}
