//! A server of testbeds for autopkgtest(1), under the name `autopkgtest-virt-coracle`: build sessions that are begun
//! and discarded as the tests require. It reads requests from standard input and answers on standard output; the
//! session ends with this process.

use crate::cli::output;
use crate::cli::usage;
use crate::cli::verb::{SessionOptions, begin_session, end_own_session};
use crate::control::testbed::{self, Request, encoded};
use crate::error::{Context, Error, Result};
use crate::machine::name::Name;
use crate::paths::Paths;
use clap::Parser;
use clap::error::ErrorKind;
use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{BufRead, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The exit status of a failure (`Quit(12)` of autopkgtest's servers).
pub const FAILURE: u8 = 12;
/// The longest request, bytes.
const LONGEST: u64 = 64 << 10;

/// Serve testbeds for autopkgtest(1) in build sessions
#[derive(Debug, Parser)]
#[command(name = "autopkgtest-virt-coracle", version)]
pub struct Server {
    /// Show debugging messages
    #[arg(short = 'd', long)]
    debug: bool,

    #[command(flatten)]
    options: SessionOptions,
}

/// Parses the command line. `None` if help was printed.
///
/// # Errors
/// An invalid option, or a program with the rights of its owner.
pub fn parse(arguments: &[OsString]) -> Result<Option<Server>> {
    super::refuse_setuid()?;
    match Server::try_parse_from(arguments) {
        Ok(server) => Ok(Some(Server { options: server.options.for_testbed(), ..server })),
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            output::text(&error.render().to_string()).map(|()| None)
        }
        Err(error) => Err(usage::error(&error)),
    }
}

/// A session with its scratch directory, which has the same path in all sessions of a server.
#[derive(Debug, Default)]
struct Testbed {
    session: Option<Name>,
    scratch: Option<PathBuf>,
}

impl Server {
    /// Returns whether debugging messages are shown.
    pub fn is_debugged(&self) -> bool {
        self.debug
    }

    /// Serves until the end of the requests. Returns the exit status.
    ///
    /// # Errors
    /// The end of the input without a request to quit, an invalid request, or one that fails. The session is
    /// ended.
    pub fn run(&self, paths: &Paths) -> Result<u8> {
        crate::control::require_root()?;
        let mut testbed = Testbed::default();
        let served = self.serve(paths, &mut testbed);
        let closed = testbed.close(paths);
        served.and(closed).map(|()| 0)
    }

    fn serve(&self, paths: &Paths, testbed: &mut Testbed) -> Result<()> {
        output::line("ok")?;
        loop {
            let request = Request::parse(&read_line()?)?;
            log::debug!("request {request:?}");
            if request == Request::Quit {
                // autopkgtest reads no answer to it.
                return Ok(());
            }
            let answer = self.answer(paths, testbed, request)?;
            output::line(format!("ok {answer}").trim_end())?;
        }
    }

    /// Returns the answer to a request.
    fn answer(&self, paths: &Paths, testbed: &mut Testbed, request: Request) -> Result<String> {
        match request {
            Request::Capabilities => self.capabilities(paths),
            Request::Open if testbed.session.is_some() => Err(Error::new("the testbed is open already")),
            Request::Open => self.open(paths, testbed),
            Request::Revert => {
                testbed.session()?;
                testbed.close(paths)?;
                self.open(paths, testbed)
            }
            Request::Reboot { prepare_only } => {
                if !self.options.boots() {
                    return Err(
                        Error::new("a session without an init does not reboot").with_hint("pass --boot")
                    );
                }
                testbed::reboot(paths, testbed.session()?, prepare_only).map(|()| String::new())
            }
            Request::Close => testbed.close(paths).map(|()| String::new()),
            Request::PrintExecuteCommand => execute_command(testbed.session()?),
            Request::DebugFail => {
                let session = testbed.session.as_ref().map_or("none", Name::as_str);
                log::info!("the session of the testbed: {session}");
                Ok(String::new())
            }
            Request::CopyDown(copy) => {
                testbed::copy_down(paths, testbed.session()?, &copy).map(|()| String::new())
            }
            Request::CopyUp(copy) => {
                testbed::copy_up(paths, testbed.session()?, &copy).map(|()| String::new())
            }
            Request::Shell { directory, variables } => {
                shell(testbed.session()?, &directory, &variables).map(|()| String::new())
            }
            Request::Quit => Ok(String::new()),
        }
    }

    /// Returns the features of the server.
    fn capabilities(&self, paths: &Paths) -> Result<String> {
        let mut words =
            vec!["revert".to_owned(), "revert-full-system".to_owned(), "root-on-testbed".to_owned()];
        words.push(format!("suggested-normal-user={}", self.options.request(paths)?.build.user.name));
        if self.options.boots() {
            words.extend(["isolation-container".to_owned(), "reboot".to_owned()]);
        }
        Ok(words.join(" "))
    }

    /// Begins a session, which ends with this process, and returns its scratch directory.
    fn open(&self, paths: &Paths, testbed: &mut Testbed) -> Result<String> {
        let mut request = self.options.request(paths)?;
        request.with_processes.push(std::process::id());
        testbed.session = Some(begin_session(paths, request)?);
        let scratch = testbed.scratch.clone().map_or_else(testbed::choose_scratch, Ok)?;
        testbed::create_scratch(paths, testbed.session()?, &scratch)?;
        let answer = encoded(scratch.as_os_str().as_bytes());
        testbed.scratch = Some(scratch);
        Ok(answer)
    }
}

impl Testbed {
    fn session(&self) -> Result<&Name> {
        self.session.as_ref().ok_or_else(|| Error::new("the testbed is not open"))
    }

    /// Ends the session, if there is one.
    fn close(&mut self, paths: &Paths) -> Result<()> {
        self.session.take().map_or(Ok(()), |session| end_own_session(paths, &session))
    }
}

/// Reads a request.
fn read_line() -> Result<Vec<u8>> {
    let mut line = Vec::new();
    // Locked for one request only: a shell is not read from it.
    let mut input = std::io::stdin().lock().take(LONGEST);
    input.read_until(b'\n', &mut line).context(|| "cannot read a request")?;
    match line.pop() {
        Some(b'\n') => Ok(line),
        None => Err(Error::new("the caller has ended without a request to quit")),
        Some(_) if input.limit() == 0 => Err(Error::new("a request is too long")),
        Some(_) => Err(Error::new("the caller has ended within a request")),
    }
}

/// Returns this program.
fn program() -> Result<PathBuf> {
    std::env::current_exe().context(|| "cannot find the program")
}

/// Returns the command that runs another one as root of a session: words separated by commas.
fn execute_command(session: &Name) -> Result<String> {
    let program = program()?;
    let words = [
        "build",
        "run",
        "--keep-processes",
        "--failure-status=254",
        "--max-status=253",
        "-T",
        "-u",
        "root",
        "-w",
        "/",
    ];
    let words = words.into_iter().chain([session.as_str(), "--"]).map(|word| encoded(word.as_bytes()));
    Ok(std::iter::once(encoded(program.as_os_str().as_bytes())).chain(words).collect::<Vec<_>>().join(","))
}

/// Runs a shell of root on the terminal of this process.
fn shell(session: &Name, directory: &Path, variables: &[String]) -> Result<()> {
    let doing = || "cannot run a shell on '/dev/tty'";
    let terminal = OpenOptions::new().read(true).write(true).open("/dev/tty").context(doing)?;
    let mut command = Command::new(program()?);
    command.args(["build", "shell", "-u", "root", "-w"]).arg(directory);
    for variable in variables {
        command.args(["-E", variable]);
    }
    let copy = || terminal.try_clone().context(doing);
    command.arg(session.as_str()).stdin(copy()?).stdout(copy()?).stderr(copy()?);
    command.status().map(drop).context(doing)
}
