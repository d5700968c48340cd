//! Standard streams of a command in a machine. Called by `exec` around the clone. The command inherits pipes
//! and `/dev/null` only. Every other stream is replaced by a pipe, and this process transfers the bytes: the
//! command could read and configure a terminal, reopen a file of the host through `/proc/self/fd` with other
//! access modes than the descriptor's, or send descriptors over a socket.

use super::forward::{Direction, Flow, PIPE_SIZE};
use crate::error::{Context, Error, Result};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{FileType, Mode, OFlags, Stat};

/// The standard streams by number: name and direction.
const STREAMS: [(&str, Direction); 3] = [
    ("standard input", Direction::In),
    ("standard output", Direction::Out),
    ("standard error", Direction::Out),
];

/// Standard streams replaced by pipes.
#[derive(Debug, Default)]
pub(crate) struct RedirectedStdio {
    flows: Vec<Flow>,
    /// The original streams, restored later.
    own_end: Vec<(usize, OwnedFd)>,
}

impl RedirectedStdio {
    /// Replaces each standard stream that grants more than its bytes by a pipe, which a child inherits; `all`
    /// streams but `/dev/null`, if none may stay open after the command.
    ///
    /// # Errors
    /// A stream that is a directory: it would lead the command out of the machine.
    pub(crate) fn redirect(all: bool) -> Result<Self> {
        let mut stdio = Self::default();
        for (number, (name, direction)) in STREAMS.into_iter().enumerate() {
            let stream = stream(number);
            // A closed stream grants no access.
            let Ok(stat) = rustix::fs::fstat(stream) else { continue };
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                return Err(Error::new(format!("{name} is a directory of the host"))
                    .with_hint("it would lead out of the machine; give a file, a pipe or /dev/null"));
            }
            if !(is_null(&stat) || !all && is_harmless(&stat))
                && let Err(error) = stdio.redirect_one(number, direction)
            {
                stdio.restore()?;
                return Err(error);
            }
        }
        Ok(stdio)
    }

    /// Replaces standard output by a pipe, and the other streams by `/dev/null`. Returns the pipe.
    ///
    /// # Errors
    /// Any error of pipe(2), dup2(2) or open(2).
    pub(super) fn collect() -> Result<(Self, OwnedFd)> {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .context(|| "cannot create a pipe for a stream")?;
        // Not in the place of a closed stream.
        let [read, write] = [read, write].map(|end| rustix::io::fcntl_dupfd_cloexec(end, 3));
        let (read, write) = (read?, write?);
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
            .context(|| "cannot open '/dev/null'")?;
        let mut stdio = Self::default();
        for (number, end) in [(0, &null), (1, &write), (2, &null)] {
            // A closed stream stays so.
            let Ok(own_end) = rustix::io::fcntl_dupfd_cloexec(stream(number), 3) else { continue };
            place(number, end.as_fd())?;
            stdio.own_end.push((number, own_end));
        }
        Ok((stdio, read))
    }

    fn redirect_one(&mut self, number: usize, direction: Direction) -> Result<()> {
        let keep = |fd: BorrowedFd<'_>| {
            rustix::io::fcntl_dupfd_cloexec(fd, 3).context(|| "cannot duplicate a stream")
        };
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .context(|| "cannot create a pipe for a stream")?;
        // A larger pipe blocks less often. A smaller one works as well.
        let _ = rustix::pipe::fcntl_setpipe_size(&write, PIPE_SIZE);
        let own_end = if direction == Direction::In { &write } else { &read };
        rustix::io::ioctl_fionbio(own_end, true).context(|| "cannot set a pipe to non-blocking mode")?;
        let own_end = keep(stream(number))?;
        let (machine_end, flow) = match direction {
            Direction::In => (read, Flow::new(direction, keep(own_end.as_fd())?, write)),
            Direction::Out => (write, Flow::new(direction, read, keep(own_end.as_fd())?)),
        };
        place(number, machine_end.as_fd())?;
        self.flows.push(flow);
        self.own_end.push((number, own_end));
        Ok(())
    }

    /// Restores the original streams, after the child has inherited the pipes.
    ///
    /// # Errors
    /// Any error of dup2(2).
    pub(crate) fn restore(&mut self) -> Result<()> {
        self.own_end.drain(..).try_for_each(|(number, own_end)| place(number, own_end.as_fd()))
    }

    /// Returns the streams to transfer.
    pub(crate) fn into_flows(self) -> Vec<Flow> {
        self.flows
    }
}

/// Returns whether a stream grants no more than its bytes.
fn is_harmless(stat: &Stat) -> bool {
    match FileType::from_raw_mode(stat.st_mode) {
        // A named pipe is a file: it can be reopened for the other direction.
        FileType::Fifo => is_nameless(stat),
        _ => is_null(stat),
    }
}

/// Returns whether a stream is `/dev/null`.
fn is_null(stat: &Stat) -> bool {
    let is_device = FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice;
    is_device && stat.st_rdev == rustix::fs::makedev(1, 3)
}

/// Returns whether a pipe was created by pipe(2): it is on the kernel's own file system for pipes.
fn is_nameless(stat: &Stat) -> bool {
    let own = rustix::pipe::pipe().and_then(|(read, _write)| rustix::fs::fstat(read));
    own.is_ok_and(|own| own.st_dev == stat.st_dev)
}

fn stream(number: usize) -> BorrowedFd<'static> {
    match number {
        0 => rustix::stdio::stdin(),
        1 => rustix::stdio::stdout(),
        _ => rustix::stdio::stderr(),
    }
}

fn place(number: usize, fd: BorrowedFd<'_>) -> Result<()> {
    let placed = match number {
        0 => rustix::stdio::dup2_stdin(fd),
        1 => rustix::stdio::dup2_stdout(fd),
        _ => rustix::stdio::dup2_stderr(fd),
    };
    placed.context(|| "cannot set a standard stream")
}
