//! The streams of a job: pipes, or a terminal, of which the caller gets one end. Descriptors flow outwards only:
//! the service never reads, writes or resolves what a caller passes.

use super::words;
use crate::ask::{Ask, OptionValue, Output};
use crate::error::{Context, Result};
use crate::sys::terminal;
use rustix::fd::{AsFd, OwnedFd};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use std::os::unix::net::UnixStream;

/// The streams of a job and their other ends.
#[derive(Debug, Default)]
pub(super) struct Streams {
    /// Standard input, output and error of the job.
    pub(super) job: [Option<OwnedFd>; 3],
    /// The job's end for the report, if its standard input is something else.
    pub(super) reporter: Option<OwnedFd>,
    /// The ends for the caller.
    pub(super) caller: Vec<OwnedFd>,
    /// The end that receives the report.
    pub(super) report: Option<OwnedFd>,
    /// The end that receives a document.
    pub(super) document: Option<OwnedFd>,
    /// The end into which the exit status is written.
    pub(super) done: Option<OwnedFd>,
    /// The job's end of its terminal, to set the size.
    pub(super) terminal: Option<OwnedFd>,
}

impl Streams {
    /// Creates the streams that a request needs. `input` is the standard input that the caller passes.
    ///
    /// # Errors
    /// Any error of pipe(2), memfd_create(2) or posix_openpt(3).
    pub(super) fn of(ask: &Ask, input: Option<OwnedFd>) -> Result<Self> {
        if let Some(input) = input.map(Ok).or_else(|| ask.text().map(words::file)).transpose()? {
            return Self::with_input(input);
        }
        let has_terminal =
            ask.options.iter().any(|(key, value)| key == "terminal" && *value == OptionValue::Flag(true));
        match ask.verb.output() {
            Output::Report | Output::Document => Self::reported(),
            Output::Stdout => Self::logged(),
            Output::Stdin => {
                let (stdin, write_stdin) = pipe()?;
                Ok(Self { caller: vec![write_stdin], ..Self::with_input(stdin)? })
            }
            Output::Streams if !has_terminal => Self::piped(),
            Output::Streams | Output::Terminal => Self::on_terminal(ask),
        }
    }

    /// The job reads its standard input, and receives the channel for its report by [`words`].
    fn with_input(input: OwnedFd) -> Result<Self> {
        let mut streams = Self::reported()?;
        streams.reporter = streams.job[0].replace(input);
        Ok(streams)
    }

    /// The job reports into its standard input, which it does not need otherwise: only three descriptors can
    /// be passed to it.
    fn reported() -> Result<Self> {
        let ((report, write_report), (document, write_document)) = (channel()?, pipe()?);
        Ok(Self {
            job: [Some(write_report), Some(write_document), None],
            report: Some(report),
            document: Some(document),
            ..Self::default()
        })
    }

    fn logged() -> Result<Self> {
        let ((report, write_report), (output, write_output)) = (channel()?, pipe()?);
        let job = [Some(write_report), Some(write_output), None];
        Ok(Self { job, caller: vec![output], report: Some(report), ..Self::default() })
    }

    fn piped() -> Result<Self> {
        let ((stdin, write_stdin), (stdout, write_stdout)) = (pipe()?, pipe()?);
        let ((stderr, write_stderr), (done, write_done)) = (pipe()?, pipe()?);
        Ok(Self {
            job: [Some(stdin), Some(write_stdout), Some(write_stderr)],
            caller: vec![write_stdin, stdout, stderr, done],
            done: Some(write_done),
            ..Self::default()
        })
    }

    fn on_terminal(ask: &Ask) -> Result<Self> {
        let opening = || "cannot open a terminal";
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let caller = openpt(flags).context(opening)?;
        grantpt(&caller).context(opening)?;
        unlockpt(&caller).context(opening)?;
        let job = ioctl_tiocgptpeer(&caller, flags).context(opening)?;
        let size = |key: &str, default: u16| {
            ask.options.number(key).and_then(|number| u16::try_from(number).ok()).unwrap_or(default)
        };
        terminal::set_size(job.as_fd(), size("rows", 24), size("columns", 80));
        let (done, write_done) = pipe()?;
        let duplicate = || job.try_clone().context(opening);
        Ok(Self {
            job: [Some(duplicate()?), Some(duplicate()?), Some(duplicate()?)],
            caller: vec![caller, done],
            done: Some(write_done),
            terminal: Some(job),
            ..Self::default()
        })
    }
}

/// Creates a channel for a report. SYSTEMD(262): a descriptor for standard input must be readable, so it is no
/// pipe.
fn channel() -> Result<(OwnedFd, OwnedFd)> {
    let pair = UnixStream::pair().context(|| "cannot create a channel");
    pair.map(|(own, job)| (own.into(), job.into()))
}

fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    pipe_with(PipeFlags::CLOEXEC).context(|| "cannot create a pipe")
}
