//! Forwards terminal, standard streams and signals between this process and a command in a machine. Called by
//! `exec`, and by `attach` for the signals. One poll(2) loop; only poll(2) blocks.

use super::time_limit::{TIMEOUT_STATUS, TimeLimit};
use crate::control::disconnect::DisconnectKey;
use crate::error::{Context, Error, LAUNCH_STATUS, Result};
use crate::sys::process::{self, Child, Ended};
use crate::sys::terminal;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;
use rustix::pipe::SpliceFlags;
use rustix::termios::Termios;
use std::cell::Cell;
use std::ops::Range;

/// Signals forwarded to the command.
const PASSED: [Signal; 7] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGALRM,
];

/// The bytes per read: a writable pipe accepts as many without blocking (pipe(7), PIPE_BUF).
const CHUNK: usize = 4096;
/// The bytes per read if a write does not block.
const LARGE_CHUNK: usize = 256 << 10;

/// The size of a pipe for a stream: the limit of an unprivileged process (pipe(7)).
pub(crate) const PIPE_SIZE: usize = 1 << 20;

/// The time without events after which the pages of the program are released: most commands end earlier.
const CALM: Timespec = Timespec { tv_sec: 0, tv_nsec: 500_000_000 };

/// The limit of reads after the command exits: other processes may continue to write.
const DRAINED: usize = 4096;

/// Blocks the forwarded signals and returns a descriptor to read them from.
///
/// # Errors
/// Any error of signalfd(2).
pub(crate) fn signals() -> Result<SignalFd> {
    let mut mask = SigSet::empty();
    let own_end = [Signal::SIGWINCH, Signal::SIGTSTP, Signal::SIGCONT];
    PASSED.into_iter().chain(own_end).for_each(|signal| mask.add(signal));
    mask.thread_block().context(|| "cannot block signals")?;
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    SignalFd::with_flags(&mask, flags).context(|| "cannot receive signals")
}

/// Direction of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// From this process to the command.
    In,
    /// From the command to this process.
    Out,
}

/// A stream from one descriptor to another.
#[derive(Debug)]
pub(crate) struct Flow {
    pub(crate) direction: Direction,
    /// Closed if the output cannot be written: the next write of the command fails.
    from: Option<OwnedFd>,
    /// Closed at the end of the input: the end of file of a pipe.
    to: Option<OwnedFd>,
    buffer: Vec<u8>,
    /// The part of the buffer that is read and not yet written.
    pending: Range<usize>,
    ended: bool,
    /// Whether output was lost, which is reported.
    failed: bool,
    chunk: usize,
    /// Whether splice(2) moves the bytes between a file and a pipe. The pages of a file are read-only in a
    /// pipe.
    splices: bool,
    /// The key that disconnects, for typed input.
    key: Option<DisconnectKey>,
    /// Whether the key was typed.
    is_disconnected: bool,
}

impl Flow {
    /// Creates a stream without pending bytes.
    pub(crate) fn new(direction: Direction, from: OwnedFd, to: OwnedFd) -> Self {
        let chunk = if never_blocks(&to) { LARGE_CHUNK } else { CHUNK };
        let splices = match direction {
            Direction::In => is_regular_file(&from),
            Direction::Out => is_regular_file(&to),
        };
        Self {
            direction,
            from: Some(from),
            to: Some(to),
            buffer: Vec::new(),
            pending: 0..0,
            ended: false,
            failed: false,
            chunk,
            splices,
            key: None,
            is_disconnected: false,
        }
    }

    /// Returns the descriptor to wait for: the destination if bytes are pending or come from a file, else the
    /// source.
    pub(crate) fn watched(&self) -> Option<PollFd<'_>> {
        let to = self.to.as_ref()?;
        if !self.pending.is_empty() || (!self.ended && self.splices && self.direction == Direction::In) {
            Some(PollFd::new(to, PollFlags::OUT))
        } else {
            self.from.as_ref().filter(|_| !self.ended).map(|from| PollFd::new(from, PollFlags::IN))
        }
    }

    /// Transfers once after the wait. Returns false if there was nothing to read.
    pub(crate) fn transfer(&mut self) -> bool {
        if self.pending.is_empty() {
            return if self.splices { self.splice() } else { self.read() };
        }
        self.write();
        true
    }

    /// Moves bytes without copying them to this process.
    fn splice(&mut self) -> bool {
        let (Some(from), Some(to)) = (&self.from, &self.to) else { return false };
        match rustix::pipe::splice(from, None, to, None, PIPE_SIZE, SpliceFlags::NONBLOCK) {
            Ok(1..) | Err(Errno::INTR) => true,
            Ok(0) => {
                self.end();
                true
            }
            // A full pipe is waited for; an empty one is all that there is now.
            Err(Errno::AGAIN) => false,
            // A file that is opened for appending, or of a file system without splice.
            Err(Errno::INVAL) => {
                self.splices = false;
                true
            }
            Err(errno) => {
                self.abandon(errno);
                true
            }
        }
    }

    /// Ends the stream after a failed write. An ended reader is not reported.
    fn abandon(&mut self, errno: Errno) {
        if self.direction == Direction::Out && errno != Errno::PIPE {
            log::error!("cannot write the output of the command: {}", Error::from(errno));
            self.failed = true;
        }
        (self.from, self.to, self.pending) = (None, None, 0..0);
    }

    fn read(&mut self) -> bool {
        let Some(from) = &self.from else { return false };
        self.buffer.resize(self.chunk, 0);
        match rustix::io::read(from, &mut self.buffer) {
            Ok(length @ 1..) => {
                self.pending = 0..length;
                let typed = self.buffer.get(..length).unwrap_or_default();
                self.is_disconnected = self.key.as_mut().is_some_and(|key| key.is_typed(typed));
            }
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return false,
            Ok(_) | Err(_) => self.end(),
        }
        true
    }

    fn write(&mut self) {
        let (Some(to), Some(pending)) = (&self.to, self.buffer.get(self.pending.clone())) else { return };
        match rustix::io::write(to, pending) {
            Ok(written) => self.pending.start += written,
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(errno) => self.abandon(errno),
        }
    }

    fn end(&mut self) {
        self.ended = true;
        let Some(to) = self.to.as_ref().filter(|_| self.direction == Direction::In) else { return };
        if rustix::termios::isatty(to) {
            // The end of file of a terminal: ^D at the start of a line.
            self.buffer = vec![4];
            self.pending = 0..1;
        } else {
            self.to = None;
        }
    }

    /// Transfers the remaining bytes after the command has exited, without waiting for new ones.
    pub(crate) fn drain(&mut self) {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        for _ in 0..DRAINED {
            // Pending bytes are always written; only reads do not wait.
            let patience = if self.pending.is_empty() { Some(&now) } else { None };
            let Some(watched) = self.watched() else { return };
            match poll(&mut [watched], patience) {
                Err(Errno::INTR) => {}
                Ok(1..) if self.transfer() => {}
                _ => return,
            }
        }
    }
}

/// Returns whether a write to a descriptor does not block: a regular file, or a non-blocking descriptor.
fn never_blocks(to: &OwnedFd) -> bool {
    is_regular_file(to) || rustix::fs::fcntl_getfl(to).is_ok_and(|flags| flags.contains(OFlags::NONBLOCK))
}

fn is_regular_file(fd: &OwnedFd) -> bool {
    rustix::fs::fstat(fd).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile)
}

/// The end of forwarding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ForwardEnd {
    /// The command ended, with this status.
    Exited(u8),
    /// The user has typed the disconnect key.
    Disconnected,
}

/// A running command.
pub(crate) struct Forwarder {
    child: Child,
    /// The host's end of its terminal, to set the window size.
    terminal: Option<OwnedFd>,
    flows: Vec<Flow>,
    signals: SignalFd,
    before: Option<Termios>,
    /// Whether the pages of the program were released for a long wait.
    is_resting: Cell<bool>,
    /// The time after which the command is terminated.
    limit: Option<TimeLimit>,
    /// Whether signals go to the process group of the command.
    signals_group: bool,
}

impl Forwarder {
    /// Takes over a command, with the host's end of its terminal if it has one, and the redirected streams.
    /// `key` disconnects from the terminal.
    ///
    /// # Errors
    /// A descriptor that cannot be duplicated. A terminal without raw mode is used unchanged.
    pub(crate) fn new(
        child: Child,
        terminal: Option<OwnedFd>,
        mut flows: Vec<Flow>,
        signals: SignalFd,
        key: Option<DisconnectKey>,
        limit: Option<TimeLimit>,
    ) -> Result<Self> {
        if let Some(machine_end) = &terminal {
            let keep = |fd: BorrowedFd<'_>| {
                rustix::io::fcntl_dupfd_cloexec(fd, 3).context(|| "cannot duplicate a descriptor")
            };
            // This end only: a guest that does not read cannot block its own output.
            rustix::io::ioctl_fionbio(machine_end, true)
                .context(|| "cannot set the terminal to non-blocking mode")?;
            let typed = Flow::new(Direction::In, keep(rustix::stdio::stdin())?, keep(machine_end.as_fd())?);
            flows.push(Flow { key, ..typed });
            flows.push(Flow::new(Direction::Out, keep(machine_end.as_fd())?, keep(rustix::stdio::stdout())?));
        }
        let is_resting = Cell::new(false);
        let (before, signals_group) = (None, false);
        let mut forward = Self { child, terminal, flows, signals, before, is_resting, limit, signals_group };
        forward.take_terminal();
        Ok(forward)
    }

    /// Sends signals to the process group of the command.
    pub(crate) fn with_group(self, signals_group: bool) -> Self {
        Self { signals_group, ..self }
    }

    /// Sets the terminal of this process to raw mode: all keys reach the command's terminal.
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

    /// Forwards until the command exits, or the user disconnects. The exit status is that of the command, or
    /// 128 plus the signal that killed it. A successful command of which output was lost has failed.
    ///
    /// # Errors
    /// Any error of poll(2) or waitid(2).
    pub(crate) fn run(mut self) -> Result<ForwardEnd> {
        let end = self.event_loop();
        self.restore_terminal();
        end
    }

    fn event_loop(&mut self) -> Result<ForwardEnd> {
        loop {
            let ready = self.wait()?;
            if ready.signalled {
                self.pass_signals();
            }
            if let Some(signal) = self.limit.as_mut().and_then(TimeLimit::due) {
                self.signal(signal);
            }
            for index in ready.flows {
                if let Some(flow) = self.flows.get_mut(index) {
                    flow.transfer();
                }
            }
            if self.flows.iter().any(|flow| flow.is_disconnected) {
                // The terminal is hung up with the end of this process, as after a lost connection.
                self.signal(libc::SIGHUP);
                return Ok(ForwardEnd::Disconnected);
            }
            if ready.ended {
                let ended = process::wait(self.child.pidfd.as_fd())?;
                self.flows.iter_mut().filter(|flow| flow.direction == Direction::Out).for_each(Flow::drain);
                let is_late = self.limit.as_ref().is_some_and(TimeLimit::is_exceeded);
                return Ok(ForwardEnd::Exited(match ended {
                    _ if is_late => TIMEOUT_STATUS,
                    Ended::Exited(0) if self.flows.iter().any(|flow| flow.failed) => LAUNCH_STATUS,
                    Ended::Exited(status) => u8::try_from(status).unwrap_or(1),
                    Ended::Killed(signal) => u8::try_from(128 + signal).unwrap_or(u8::MAX),
                }));
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
            let calm = (!self.is_resting.get()).then_some(CALM);
            let left = self.limit.as_ref().map(TimeLimit::left);
            match poll(&mut watched, calm.into_iter().chain(left).min().as_ref()) {
                Err(Errno::INTR) => {}
                Ok(0) if self.limit.as_ref().is_some_and(TimeLimit::is_due) => break,
                Ok(0) => {
                    self.is_resting.set(true);
                    process::release_program();
                }
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
                // SIGCONT has resumed this process already; the command is resumed with it.
                libc::SIGCONT => self.signal(libc::SIGCONT),
                _ if process::is_ignored_hangup(info.ssi_signo) => {}
                number => self.signal(number),
            }
        }
    }

    fn signal(&self, signal: i32) {
        let pidfd = self.child.pidfd.as_fd();
        let sent = match self.signals_group {
            true => process::send_signal_to_group(pidfd, signal),
            false => process::send_signal(pidfd, signal),
        };
        if let Err(error) = sent {
            log::debug!("cannot forward signal {signal}: {error}, ignoring");
        }
    }

    /// Stops the command and this process, as a job of the calling shell.
    fn pause(&mut self) {
        self.signal(libc::SIGSTOP);
        self.restore_terminal();
        if let Err(error) = nix::sys::signal::raise(Signal::SIGSTOP) {
            log::debug!("cannot stop: {error}, ignoring");
        }
        self.take_terminal();
    }
}

/// The ready descriptors.
struct Ready {
    ended: bool,
    signalled: bool,
    flows: Vec<usize>,
}

/// Sets the window size of a terminal in the machine to the size of this terminal, or to 80 by 24 without
/// one.
pub(crate) fn set_window_size(machine_end: BorrowedFd<'_>) {
    let stdin = rustix::stdio::stdin();
    if rustix::termios::isatty(stdin) {
        terminal::copy_size(stdin, machine_end);
    } else {
        terminal::set_size(machine_end, 24, 80);
    }
}
