//! Between a command in a machine and us: its terminal, our signals, its end. One poll loop.

use crate::error::{Context, Result};
use crate::sys::process::{self, Child, Ended};
use crate::sys::terminal;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::termios::Termios;

/// Signals passed on to the command.
const PASSED: [Signal; 6] =
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGUSR1, Signal::SIGUSR2];

/// Blocks the signals that are passed on, to be read from a descriptor.
///
/// # Errors
/// What signalfd(2) says.
pub fn signals() -> Result<SignalFd> {
    let mut mask = SigSet::empty();
    PASSED.into_iter().chain([Signal::SIGWINCH]).for_each(|signal| mask.add(signal));
    mask.thread_block().map_err(std::io::Error::from).context(|| "cannot block signals")?;
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    SignalFd::with_flags(&mask, flags).map_err(std::io::Error::from).context(|| "cannot receive signals")
}

/// A command that runs.
pub struct Relay {
    child: Child,
    terminal: Option<OwnedFd>,
    signals: SignalFd,
    before: Option<Termios>,
    reads_input: bool,
}

impl Relay {
    /// Takes over a command, with our side of its terminal where it has one.
    ///
    /// # Errors
    /// None today; a terminal of ours that cannot be raw is used as it is.
    pub fn new(child: Child, terminal: Option<OwnedFd>, signals: SignalFd) -> Result<Self> {
        let stdin = rustix::stdio::stdin();
        let mut before = None;
        if let Some(theirs) = &terminal {
            if rustix::termios::isatty(stdin) {
                terminal::copy_size(stdin, theirs.as_fd());
                before = terminal::make_raw(stdin).ok();
            } else {
                terminal::set_size(theirs.as_fd(), 24, 80);
            }
        }
        Ok(Self { reads_input: terminal.is_some(), child, terminal, signals, before })
    }

    /// Runs until the command ends; returns its exit status, 128 and the signal's number where it
    /// was killed.
    ///
    /// # Errors
    /// What poll(2) or waitid(2) say.
    pub fn run(mut self) -> Result<u8> {
        let status = self.turns();
        if let Some(before) = &self.before {
            terminal::restore(rustix::stdio::stdin(), before);
        }
        status
    }

    fn turns(&mut self) -> Result<u8> {
        loop {
            let [ended, signalled, output, input] = self.wait()?;
            if signalled {
                self.pass_signals();
            }
            if output && !self.copy_output() {
                self.terminal = None;
            }
            if input {
                self.copy_input();
            }
            if ended {
                let ended = process::wait(self.child.pidfd.as_fd())?;
                self.drain();
                return Ok(match ended {
                    Ended::Exited(status) => u8::try_from(status).unwrap_or(1),
                    Ended::Killed(signal) => u8::try_from(128 + signal).unwrap_or(u8::MAX),
                });
            }
        }
    }

    /// Which of child, signals, terminal and standard input have something.
    fn wait(&self) -> Result<[bool; 4]> {
        let mut watched = vec![
            PollFd::new(&self.child.pidfd, PollFlags::IN),
            PollFd::from_borrowed_fd(self.signals.as_fd(), PollFlags::IN),
        ];
        if let Some(terminal) = &self.terminal {
            watched.push(PollFd::new(terminal, PollFlags::IN));
            if self.reads_input {
                watched.push(PollFd::from_borrowed_fd(rustix::stdio::stdin(), PollFlags::IN));
            }
        }
        loop {
            match poll(&mut watched, None) {
                Err(rustix::io::Errno::INTR) => {}
                result => break result.context(|| "cannot wait for the command").map(|_| ())?,
            }
        }
        let mut ready = [false; 4];
        for (flag, watched) in ready.iter_mut().zip(&watched) {
            *flag = !watched.revents().is_empty();
        }
        Ok(ready)
    }

    fn pass_signals(&self) {
        while let Ok(Some(info)) = self.signals.read_signal() {
            let number = i32::try_from(info.ssi_signo).unwrap_or(0);
            if number == libc::SIGWINCH {
                if let Some(theirs) = &self.terminal {
                    terminal::copy_size(rustix::stdio::stdin(), theirs.as_fd());
                }
            } else if let Err(error) = process::send_signal(self.child.pidfd.as_fd(), number) {
                log::debug!("cannot pass signal {number} on: {error}, ignoring");
            }
        }
    }

    /// Copies what the command wrote to its terminal; false where nobody has it open any more.
    fn copy_output(&self) -> bool {
        self.terminal.as_ref().is_some_and(|theirs| copy(theirs.as_fd(), rustix::stdio::stdout()) > 0)
    }

    fn copy_input(&mut self) {
        let Some(theirs) = &self.terminal else { return };
        if copy(rustix::stdio::stdin(), theirs.as_fd()) == 0 {
            // The end of our input is the end of a line's for a terminal: ^D.
            let _ = rustix::io::write(theirs, &[4]);
            self.reads_input = false;
        }
    }

    /// What is left on the terminal after the command's end; others may go on to write to it.
    fn drain(&self) {
        let Some(theirs) = &self.terminal else { return };
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        for _ in 0..256 {
            let mut watched = [PollFd::new(theirs, PollFlags::IN)];
            let has_more = poll(&mut watched, Some(&now)).is_ok_and(|ready| ready > 0);
            if !has_more || !watched[0].revents().contains(PollFlags::IN) || !self.copy_output() {
                return;
            }
        }
    }
}

/// Copies once; how many bytes, 0 at the end.
fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> usize {
    let mut buffer = [0u8; 8192];
    let length = rustix::io::read(from, &mut buffer).unwrap_or(0);
    let mut rest = buffer.get(..length).unwrap_or_default();
    while !rest.is_empty() {
        match rustix::io::write(to, rest) {
            Ok(written) => rest = rest.get(written..).unwrap_or_default(),
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => break,
        }
    }
    length
}
