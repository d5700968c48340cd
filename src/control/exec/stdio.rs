//! Which of our standard streams a command in a machine gets as they are: pipes and `/dev/null`. Called by
//! `exec` around the clone. For every other stream the command gets a pipe, and we carry the bytes: a terminal
//! could be read and set, a file of the host opened again through `/proc/self/fd` with other rights than the
//! descriptor has, a socket sent other things than bytes.

use super::forward::{Direction, Flow};
use crate::error::{Context, Error, Result};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{FileType, Stat};

/// Our standard streams by number, what they are called, and which direction their bytes go.
const STREAMS: [(&str, Direction); 3] = [
    ("standard input", Direction::In),
    ("standard output", Direction::Out),
    ("standard error", Direction::Out),
];

/// The size of a pipe that carries a stream, what an unprivileged process may ask for (pipe(7)).
const PIPE_SIZE: usize = 1 << 20;

/// Streams that lead over us.
#[derive(Debug, Default)]
pub struct RedirectedStdio {
    flows: Vec<Flow>,
    /// Our own streams, to be put back where they were.
    own_end: Vec<(usize, OwnedFd)>,
}

impl RedirectedStdio {
    /// Puts a pipe in the place of each of our streams that gives more than its bytes, for a child to inherit.
    ///
    /// # Errors
    /// A stream that is a directory: it would lead the command out of the machine.
    pub fn redirect() -> Result<Self> {
        let mut stdio = Self::default();
        for (number, (name, direction)) in STREAMS.into_iter().enumerate() {
            let stream = stream(number);
            // One that is closed is nothing to be careful with.
            let Ok(stat) = rustix::fs::fstat(stream) else { continue };
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                return Err(Error::new(format!("{name} is a directory of the host"))
                    .with_hint("it would lead out of the machine; give a file, a pipe or /dev/null"));
            }
            if !is_harmless(&stat)
                && let Err(error) = stdio.redirect_one(number, direction)
            {
                stdio.restore()?;
                return Err(error);
            }
        }
        Ok(stdio)
    }

    fn redirect_one(&mut self, number: usize, direction: Direction) -> Result<()> {
        let keep =
            |fd: BorrowedFd<'_>| rustix::io::fcntl_dupfd_cloexec(fd, 3).context(|| "cannot keep a stream");
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .context(|| "cannot make a pipe for a stream")?;
        // What carries more at once has to wait less often; a smaller pipe does too.
        let _ = rustix::pipe::fcntl_setpipe_size(&write, PIPE_SIZE);
        let own_end = if direction == Direction::In { &write } else { &read };
        rustix::io::ioctl_fionbio(own_end, true).context(|| "cannot use a pipe")?;
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

    /// Puts our own streams back: to be called once the child has inherited the others.
    ///
    /// # Errors
    /// What dup2(2) says.
    pub fn restore(&mut self) -> Result<()> {
        self.own_end.drain(..).try_for_each(|(number, own_end)| place(number, own_end.as_fd()))
    }

    /// What is to be carried.
    pub fn into_flows(self) -> Vec<Flow> {
        self.flows
    }
}

/// Whether a stream gives no more than the bytes in it.
fn is_harmless(stat: &Stat) -> bool {
    match FileType::from_raw_mode(stat.st_mode) {
        // A pipe with a name is a file: its name can be opened for the other direction.
        FileType::Fifo => is_nameless(stat),
        FileType::CharacterDevice => stat.st_rdev == rustix::fs::makedev(1, 3),
        _ => false,
    }
}

/// Whether a pipe is one of pipe(2): on the file system of the kernel's own pipes.
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
