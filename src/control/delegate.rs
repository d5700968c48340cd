//! Verbs of users without the rights of root: sends a request to the service `io.coracle1`, connects the streams
//! of its job with those of this process, and returns its result as the verb itself would.

use super::agent::Agent;
use super::exec::forward::{self, Direction, Flow, set_window_size};
use crate::ask::{Ask, Output};
use crate::error::{Context, Error, LAUNCH_STATUS, Result};
use crate::host::manager::{self, Connection, JobEnd, JobPath, Reply};
use crate::host::runtime::{Runtime, runtime};
use crate::host::systemd::bus;
use crate::sys::{process, terminal};
use nix::sys::signalfd::SignalFd;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};

/// The result of a request.
#[derive(Debug)]
pub(crate) struct Delegated {
    /// The exit status.
    pub(crate) status: u8,
    /// The output of the verb, or its document.
    pub(crate) output: String,
}

/// Whether users are asked for a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Passwords {
    /// By their desktop, or on this terminal.
    Asked,
    /// Not at all (`--no-ask-password`).
    NotAsked,
}

/// The result of a request, or all its errors.
pub(crate) type DelegatedResult = std::result::Result<Delegated, Vec<Error>>;

/// Writes what a job reads.
pub(crate) type WriteInput<'a> = dyn FnOnce(&mut dyn Write) -> Result<()> + 'a;
/// Reads what a job writes. Returns what is left to do after its success.
pub(crate) type ReadOutput<'a> = dyn FnOnce(&mut dyn Read) -> Result<Box<dyn FnOnce() -> Result<()>>> + 'a;

/// Runs a request through the service.
///
/// # Errors
/// Those of the service, and of the job.
pub(crate) fn run(ask: &Ask, passwords: Passwords) -> DelegatedResult {
    with_client(ask, |client| client.run(ask, passwords))
}

/// Runs a request whose job reads what `write` writes.
///
/// # Errors
/// Those of `write`, of the service, and of the job.
pub(crate) fn send(ask: &Ask, passwords: Passwords, write: Box<WriteInput<'_>>) -> DelegatedResult {
    with_client(ask, |client| client.send(ask, passwords, write))
}

/// Runs a request whose job writes what `read` reads.
///
/// # Errors
/// Those of `read`, of the service, and of the job.
pub(crate) fn receive(ask: &Ask, passwords: Passwords, read: Box<ReadOutput<'_>>) -> DelegatedResult {
    with_client(ask, |client| client.receive(ask, passwords, read))
}

fn with_client(ask: &Ask, call: impl FnOnce(&Client<'_>) -> DelegatedResult) -> DelegatedResult {
    let runtime = runtime().map_err(one)?;
    call(&Client::connect(&runtime, ask).map_err(one)?)
}

fn one(error: Error) -> Vec<Error> {
    vec![error]
}

/// A connection to the service.
struct Client<'a> {
    runtime: &'a Runtime,
    connection: Connection,
}

impl<'a> Client<'a> {
    fn connect(runtime: &'a Runtime, ask: &Ask) -> Result<Self> {
        let connection = runtime.block_on(bus::connect_for_questions());
        Ok(Self { runtime, connection: connection.map_err(|_| manager::needs_root(ask))? })
    }

    /// Sends a request, and lets polkit ask the user.
    fn call(&self, ask: &Ask, passwords: Passwords) -> Result<Reply> {
        let is_asked = passwords == Passwords::Asked;
        // It ends before the terminal belongs to the command.
        let _agent = if is_asked { Agent::start() } else { None };
        self.runtime.block_on(manager::call(&self.connection, ask, is_asked))
    }

    fn run(&self, ask: &Ask, passwords: Passwords) -> DelegatedResult {
        match self.call(ask, passwords).map_err(one)? {
            Reply::Document(output) => Ok(Delegated { status: 0, output }),
            Reply::Job(job, descriptors) => match ask.verb.output() {
                Output::Streams | Output::Terminal => {
                    let status = self.relay(&job, descriptors).map_err(one)?;
                    Ok(Delegated { status, output: String::new() })
                }
                Output::Stdout => {
                    self.copy(descriptors).map_err(one)?;
                    self.wait(&job)
                }
                Output::Stdin | Output::Report | Output::Document => self.wait(&job),
            },
        }
    }

    /// Sends a request for a job with one stream.
    fn call_for_stream(&self, ask: &Ask, passwords: Passwords) -> Result<(JobPath, OwnedFd)> {
        match self.call(ask, passwords)? {
            Reply::Job(job, descriptors) => Ok((job, descriptors.into_iter().next().ok_or_else(incomplete)?)),
            Reply::Document(_) => Err(incomplete()),
        }
    }

    fn send(&self, ask: &Ask, passwords: Passwords, write: Box<WriteInput<'_>>) -> DelegatedResult {
        let (job, pipe) = self.call_for_stream(ask, passwords).map_err(one)?;
        let mut input = JobInput { pipe: pipe.into(), is_closed: false };
        let written = write(&mut input);
        if let (Err(error), false) = (&written, input.is_closed) {
            // Otherwise the job would take the end of the pipe for that of the input.
            let cancelled = self.runtime.block_on(manager::cancel(&self.connection, &job));
            cancelled.unwrap_or_else(|error| log::debug!("{error}, ignoring"));
            drop(input);
            let _ = self.wait(&job);
            return Err(one(error.clone()));
        }
        drop(input);
        // A job that does not read to the end reports the cause.
        let done = self.wait(&job)?;
        written.map(|()| done).map_err(one)
    }

    fn receive(&self, ask: &Ask, passwords: Passwords, read: Box<ReadOutput<'_>>) -> DelegatedResult {
        let (job, pipe) = self.call_for_stream(ask, passwords).map_err(one)?;
        let mut output = JobOutput { pipe: pipe.into(), has_ended: false };
        let finish = read(&mut output);
        let has_ended = output.has_ended;
        drop(output);
        match (finish, self.wait(&job)) {
            (Ok(finish), Ok(done)) => finish().map(|()| done).map_err(one),
            (Err(error), Ok(_)) => Err(one(error)),
            // A job whose output is not read to its end fails for this reason.
            (Err(error), Err(_)) if !has_ended => Err(one(error)),
            (_, Err(errors)) => Err(errors),
        }
    }

    /// Waits for the end of a job.
    fn wait(&self, job: &JobPath) -> DelegatedResult {
        let end = self.runtime.block_on(manager::wait(&self.connection, job));
        let JobEnd { status, errors, output } = end.map_err(one)?;
        match u8::try_from(status) {
            Ok(status) if errors.is_empty() => Ok(Delegated { status, output }),
            _ => Err(errors),
        }
    }

    /// Copies the output of a job to standard output until its end.
    fn copy(&self, descriptors: Vec<OwnedFd>) -> Result<()> {
        let output = descriptors.into_iter().next().ok_or_else(incomplete)?;
        let mut stdout = std::io::stdout().lock();
        match std::io::copy(&mut File::from(output), &mut stdout) {
            Err(error) if error.kind() != ErrorKind::BrokenPipe => {
                Err(Error::from(error).context("cannot write to standard output"))
            }
            _ => Ok(()),
        }
    }

    /// Connects the streams of a job with those of this process. Returns the exit status.
    fn relay(&self, job: &JobPath, descriptors: Vec<OwnedFd>) -> Result<u8> {
        let signals = forward::signals()?;
        let mut pass = |signal: i32| {
            if let Err(error) = self.runtime.block_on(manager::signal(&self.connection, job, signal)) {
                log::debug!("cannot forward signal {signal}: {error}, ignoring");
            }
        };
        let mut descriptors = descriptors.into_iter();
        let mut next = || descriptors.next().ok_or_else(incomplete);
        let first = next()?;
        if rustix::termios::isatty(&first) {
            let done = next()?;
            set_window_size(first.as_fd());
            pass(libc::SIGWINCH);
            let before = terminal::make_raw(rustix::stdio::stdin()).ok();
            let flows = vec![
                Flow::new(Direction::In, keep(rustix::stdio::stdin())?, keep(first.as_fd())?),
                Flow::new(Direction::Out, keep(first.as_fd())?, keep(rustix::stdio::stdout())?),
            ];
            let status = Relay { flows, done, terminal: Some(first), signals }.run(&mut pass);
            if let Some(before) = before {
                terminal::restore(rustix::stdio::stdin(), &before);
            }
            return status;
        }
        let (stdout, stderr, done) = (next()?, next()?, next()?);
        rustix::io::ioctl_fionbio(&first, true).context(|| "cannot set a pipe to non-blocking mode")?;
        let flows = vec![
            Flow::new(Direction::In, keep(rustix::stdio::stdin())?, first),
            Flow::new(Direction::Out, stdout, keep(rustix::stdio::stdout())?),
            Flow::new(Direction::Out, stderr, keep(rustix::stdio::stderr())?),
        ];
        Relay { flows, done, terminal: None, signals }.run(&mut pass)
    }
}

/// The pipe that a job reads.
struct JobInput {
    pipe: File,
    /// Whether the job has closed its end.
    is_closed: bool,
}

impl Write for JobInput {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.pipe.write(bytes);
        self.is_closed |= written.as_ref().is_err_and(|error| error.kind() == ErrorKind::BrokenPipe);
        written
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The pipe that a job writes.
struct JobOutput {
    pipe: File,
    /// Whether all was read.
    has_ended: bool,
}

impl Read for JobOutput {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        let read = self.pipe.read(bytes);
        self.has_ended |= read.as_ref().is_ok_and(|length| *length == 0) && !bytes.is_empty();
        read
    }
}

/// The streams of a running job.
struct Relay {
    flows: Vec<Flow>,
    /// The pipe with the exit status.
    done: OwnedFd,
    terminal: Option<OwnedFd>,
    signals: SignalFd,
}

impl Relay {
    /// Transfers bytes and signals until the job ends.
    fn run(mut self, pass: &mut dyn FnMut(i32)) -> Result<u8> {
        loop {
            let (is_done, is_signalled, ready) = self.wait()?;
            if is_signalled {
                self.pass_signals(pass);
            }
            for index in ready {
                if let Some(flow) = self.flows.get_mut(index) {
                    flow.transfer();
                }
            }
            if is_done {
                let outputs = self.flows.iter_mut().filter(|flow| flow.direction == Direction::Out);
                outputs.for_each(Flow::drain);
                return Ok(exit_status(&self.done));
            }
        }
    }

    fn wait(&self) -> Result<(bool, bool, Vec<usize>)> {
        let flows = self.flows.iter().enumerate();
        let (indices, flows): (Vec<usize>, Vec<PollFd<'_>>) =
            flows.filter_map(|(index, flow)| Some((index, flow.watched()?))).unzip();
        let signals = PollFd::from_borrowed_fd(self.signals.as_fd(), PollFlags::IN);
        let mut watched = vec![PollFd::new(&self.done, PollFlags::IN), signals];
        watched.extend(flows);
        loop {
            match poll(&mut watched, None) {
                Err(Errno::INTR) => {}
                result => break result.context(|| "cannot wait for the command").map(|_| ())?,
            }
        }
        let is_ready = |index: usize| watched.get(index).is_some_and(|one| !one.revents().is_empty());
        let ready = indices.iter().enumerate().filter(|(at, _)| is_ready(at + 2));
        Ok((is_ready(0), is_ready(1), ready.map(|(_, index)| *index).collect()))
    }

    fn pass_signals(&self, pass: &mut dyn FnMut(i32)) {
        while let Ok(Some(info)) = self.signals.read_signal() {
            if process::is_ignored_hangup(info.ssi_signo) {
                continue;
            }
            let signal = i32::try_from(info.ssi_signo).unwrap_or(0);
            if signal == libc::SIGWINCH
                && let Some(end) = &self.terminal
            {
                set_window_size(end.as_fd());
            }
            pass(signal);
            if signal == libc::SIGTSTP
                && let Err(error) = nix::sys::signal::raise(nix::sys::signal::Signal::SIGSTOP)
            {
                log::debug!("cannot stop: {error}, ignoring");
            }
        }
    }
}

/// Reads the exit status of an ended job: 125 if it is not known.
fn exit_status(done: &OwnedFd) -> u8 {
    let mut text = [0; 16];
    let length = rustix::io::read(done, &mut text).unwrap_or(0);
    let text = text.get(..length).and_then(|text| std::str::from_utf8(text).ok());
    text.and_then(|text| text.trim().parse().ok()).unwrap_or(LAUNCH_STATUS)
}

fn keep(fd: BorrowedFd<'_>) -> Result<OwnedFd> {
    rustix::io::fcntl_dupfd_cloexec(fd, 3).context(|| "cannot duplicate a descriptor")
}

fn incomplete() -> Error {
    Error::new("the service has passed too few descriptors")
}
