//! Between a command in a machine and us: its terminal or streams, our signals, its end. One poll
//! loop, in which nothing but the wait for events waits.

use crate::error::{Context, Result};
use crate::sys::process::{self, Child, Ended};
use crate::sys::terminal;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{FileType, OFlags};
use rustix::termios::Termios;

/// Signals passed on to the command.
const PASSED: [Signal; 7] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGALRM,
];

/// How much is taken at once: what a pipe that is writable is sure to take (pipe(7), PIPE_BUF).
const CHUNK: usize = 4096;
/// The same where a write cannot wait.
const LARGE_CHUNK: usize = 256 << 10;

/// How often what is left is asked for after the end of the command: others may go on to write.
const DRAINED: usize = 4096;

/// Blocks the signals that are passed on, to be read from a descriptor.
///
/// # Errors
/// What signalfd(2) says.
pub fn signals() -> Result<SignalFd> {
    let mut mask = SigSet::empty();
    let own_end = [Signal::SIGWINCH, Signal::SIGTSTP, Signal::SIGCONT];
    PASSED.into_iter().chain(own_end).for_each(|signal| mask.add(signal));
    mask.thread_block().map_err(std::io::Error::from).context(|| "cannot block signals")?;
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    SignalFd::with_flags(&mask, flags).map_err(std::io::Error::from).context(|| "cannot receive signals")
}

/// Which direction bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From us to the command.
    In,
    /// From the command to us.
    Out,
}

/// Bytes on their direction from one descriptor to another.
#[derive(Debug)]
pub struct Flow {
    direction: Direction,
    from: OwnedFd,
    /// Dropped at the end of the input: its own end for a pipe.
    to: Option<OwnedFd>,
    waiting: Vec<u8>,
    ended: bool,
    chunk: usize,
}

impl Flow {
    /// Nothing has flowed yet.
    pub fn new(direction: Direction, from: OwnedFd, to: OwnedFd) -> Self {
        let chunk = if never_blocks(&to) { LARGE_CHUNK } else { CHUNK };
        Self { direction, from, to: Some(to), waiting: Vec::new(), ended: false, chunk }
    }

    /// What is to be waited for now: to write what is held, else to read.
    fn watched(&self) -> Option<PollFd<'_>> {
        let to = self.to.as_ref()?;
        if !self.waiting.is_empty() {
            Some(PollFd::new(to, PollFlags::OUT))
        } else {
            (!self.ended).then(|| PollFd::new(&self.from, PollFlags::IN))
        }
    }

    /// Goes on after what was waited for came. False where there was nothing to read.
    fn transfer(&mut self) -> bool {
        if self.waiting.is_empty() {
            let mut buffer = vec![0u8; self.chunk];
            match rustix::io::read(&self.from, &mut buffer) {
                Ok(length @ 1..) => {
                    buffer.truncate(length);
                    self.waiting = buffer;
                }
                Err(rustix::io::Errno::INTR) => return true,
                Err(rustix::io::Errno::AGAIN) => return false,
                Ok(_) | Err(_) => self.end(),
            }
        } else {
            self.write();
        }
        true
    }

    fn write(&mut self) {
        let Some(to) = &self.to else { return };
        match rustix::io::write(to, &self.waiting) {
            Ok(written) => drop(self.waiting.drain(..written)),
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
            // Nobody reads any more: the command is to notice by its own next write.
            Err(_) => {
                self.waiting.clear();
                self.to = None;
            }
        }
    }

    fn end(&mut self) {
        self.ended = true;
        let Some(to) = self.to.as_ref().filter(|_| self.direction == Direction::In) else { return };
        if rustix::termios::isatty(to) {
            // The end of our input is the end of a line's for a terminal: ^D.
            self.waiting.push(4);
        } else {
            self.to = None;
        }
    }

    /// What is there still after the command's end, without waiting for more of it.
    fn drain(&mut self) {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        for _ in 0..DRAINED {
            // What is held is written in any case; only for more nobody waits.
            let patience = if self.waiting.is_empty() { Some(&now) } else { None };
            let Some(watched) = self.watched() else { return };
            match poll(&mut [watched], patience) {
                Err(rustix::io::Errno::INTR) => {}
                Ok(1..) if self.transfer() => {}
                _ => return,
            }
        }
    }
}

/// Whether a write to a descriptor returns at once: to a regular file, or without blocking.
fn never_blocks(to: &OwnedFd) -> bool {
    let is_file = rustix::fs::fstat(to)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile);
    is_file || rustix::fs::fcntl_getfl(to).is_ok_and(|flags| flags.contains(OFlags::NONBLOCK))
}

/// A command that runs.
pub struct Forwarder {
    child: Child,
    /// Our side of its terminal, for the size of its window.
    terminal: Option<OwnedFd>,
    flows: Vec<Flow>,
    signals: SignalFd,
    before: Option<Termios>,
}

impl Forwarder {
    /// Takes over a command, with our side of its terminal where it has one, and with those of our
    /// streams that it reaches over us.
    ///
    /// # Errors
    /// A descriptor that cannot be kept. A terminal of own_end that cannot be raw is used as it is.
    pub fn new(
        child: Child,
        terminal: Option<OwnedFd>,
        mut flows: Vec<Flow>,
        signals: SignalFd,
    ) -> Result<Self> {
        if let Some(machine_end) = &terminal {
            let keep = |fd: BorrowedFd<'_>| {
                rustix::io::fcntl_dupfd_cloexec(fd, 3).context(|| "cannot keep a descriptor")
            };
            // Ours alone: what the guest does not read must not hold up what it writes.
            rustix::io::ioctl_fionbio(machine_end, true).context(|| "cannot use the terminal")?;
            flows.push(Flow::new(Direction::In, keep(rustix::stdio::stdin())?, keep(machine_end.as_fd())?));
            flows.push(Flow::new(Direction::Out, keep(machine_end.as_fd())?, keep(rustix::stdio::stdout())?));
        }
        let mut forward = Self { child, terminal, flows, signals, before: None };
        forward.take_terminal();
        Ok(forward)
    }

    /// Every key is for the command's terminal, where it has one.
    fn take_terminal(&mut self) {
        if let Some(machine_end) = &self.terminal {
            set_window_size(machine_end.as_fd());
            self.before = terminal::make_raw(rustix::stdio::stdin()).ok();
        }
    }

    fn restore_terminal(&mut self) {
        if let Some(before) = self.before.take() {
            terminal::restore(rustix::stdio::stdin(), &before);
        }
    }

    /// Runs until the command ends; returns its exit status, 128 and the signal's number where it
    /// was killed.
    ///
    /// # Errors
    /// What poll(2) or waitid(2) say.
    pub fn run(mut self) -> Result<u8> {
        let status = self.event_loop();
        self.restore_terminal();
        status
    }

    fn event_loop(&mut self) -> Result<u8> {
        loop {
            let ready = self.wait()?;
            if ready.signalled {
                self.pass_signals();
            }
            for index in ready.flows {
                if let Some(flow) = self.flows.get_mut(index) {
                    flow.transfer();
                }
            }
            if ready.ended {
                let ended = process::wait(self.child.pidfd.as_fd())?;
                self.flows.iter_mut().filter(|flow| flow.direction == Direction::Out).for_each(Flow::drain);
                return Ok(match ended {
                    Ended::Exited(status) => u8::try_from(status).unwrap_or(1),
                    Ended::Killed(signal) => u8::try_from(128 + signal).unwrap_or(u8::MAX),
                });
            }
        }
    }

    fn wait(&self) -> Result<Ready> {
        let flows = self.flows.iter().enumerate();
        let (indices, flows): (Vec<usize>, Vec<PollFd<'_>>) =
            flows.filter_map(|(index, flow)| Some((index, flow.watched()?))).unzip();
        let mut watched = vec![
            PollFd::new(&self.child.pidfd, PollFlags::IN),
            PollFd::from_borrowed_fd(self.signals.as_fd(), PollFlags::IN),
        ];
        watched.extend(flows);
        loop {
            match poll(&mut watched, None) {
                Err(rustix::io::Errno::INTR) => {}
                result => break result.context(|| "cannot wait for the command").map(|_| ())?,
            }
        }
        let is_ready = |index: usize| watched.get(index).is_some_and(|one| !one.revents().is_empty());
        Ok(Ready {
            ended: is_ready(0),
            signalled: is_ready(1),
            flows: indices
                .iter()
                .enumerate()
                .filter(|(at, _)| is_ready(at + 2))
                .map(|(_, index)| *index)
                .collect(),
        })
    }

    fn pass_signals(&mut self) {
        while let Ok(Some(info)) = self.signals.read_signal() {
            match i32::try_from(info.ssi_signo).unwrap_or(0) {
                libc::SIGWINCH => {
                    if let Some(machine_end) = &self.terminal {
                        set_window_size(machine_end.as_fd());
                    }
                }
                libc::SIGTSTP => self.pause(),
                // We go on by it in any case; the command with us.
                libc::SIGCONT => self.signal(libc::SIGCONT),
                number => self.signal(number),
            }
        }
    }

    fn signal(&self, signal: i32) {
        if let Err(error) = process::send_signal(self.child.pidfd.as_fd(), signal) {
            log::debug!("cannot pass signal {signal} on: {error}, ignoring");
        }
    }

    /// Stops with the command, as a job of our shell.
    fn pause(&mut self) {
        self.signal(libc::SIGSTOP);
        self.restore_terminal();
        if let Err(error) = nix::sys::signal::raise(Signal::SIGSTOP) {
            log::debug!("cannot stop: {error}, ignoring");
        }
        self.take_terminal();
    }
}

/// What came.
struct Ready {
    ended: bool,
    signalled: bool,
    flows: Vec<usize>,
}

/// Gives a terminal in the machine the size of our window, or a usual one where we have none.
pub fn set_window_size(machine_end: BorrowedFd<'_>) {
    let stdin = rustix::stdio::stdin();
    if rustix::termios::isatty(stdin) {
        terminal::copy_size(stdin, machine_end);
    } else {
        terminal::set_size(machine_end, 24, 80);
    }
}
