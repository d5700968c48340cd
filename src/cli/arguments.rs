//! Arguments shared by several verbs.

use super::argument_table::{ArgumentRow, Slot, TableParser, long, positional};
use super::output;
use crate::ask::{OptionValue, Options};
use crate::control::copy::{self, CopyOwners, LinkMode, Replace};
use crate::control::graph::{GraphFormat, LineStyle};
use crate::control::{exec, start};
use crate::error::{Context, Error, Result};
use crate::machine::name::Name;
use crate::paths::Paths;
use clap::{Args, ValueEnum};
use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};

/// The greatest size of a definition from a file or a stream, bytes: that of a request to the service.
const DEFINITION: u64 = 64 << 10;

/// The name of one machine.
#[derive(Debug, Args)]
pub(crate) struct MachineName {
    /// The machine
    #[arg(value_name = "NAME", value_parser = Name::new)]
    pub(crate) name: Name,
}

/// The names of one or more machines.
#[derive(Debug, Args)]
pub(crate) struct MachineNames {
    /// The machines
    #[arg(value_name = "NAME", required = true, value_parser = Name::new)]
    pub(crate) names: Vec<Name>,
}

/// The names of machines; without a name all running machines.
#[derive(Debug, Args)]
pub(crate) struct RunningMachines {
    /// The machines; all running machines by default
    #[arg(value_name = "NAME", value_parser = Name::new)]
    pub(crate) names: Vec<Name>,
}

/// The option that prints a graph.
#[derive(Debug, Args)]
pub(crate) struct GraphOption {
    /// Print a graph: as lines of text, as a picture, or for Graphviz
    #[arg(
        long,
        value_name = "text|svg|dot",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "text",
        value_parser = graph_format
    )]
    pub(crate) graph: Option<GraphFormat>,
}

fn graph_format(text: &str) -> std::result::Result<GraphFormat, &'static str> {
    match text {
        "text" if output::is_unicode() => Ok(GraphFormat::Text(LineStyle::Unicode)),
        "text" => Ok(GraphFormat::Text(LineStyle::Ascii)),
        "svg" => Ok(GraphFormat::Svg),
        "dot" => Ok(GraphFormat::Dot),
        _ => Err("write text, svg or dot"),
    }
}

/// The arguments of `start` and `restart`.
#[derive(Debug, Default, Args)]
pub(crate) struct StartOptions {
    /// The machines
    #[arg(value_name = "NAME", required_unless_present = "all", value_parser = Name::new)]
    pub(crate) names: Vec<Name>,

    /// All machines that start at boot, in the order of their definitions
    #[arg(long, conflicts_with = "names")]
    pub(crate) all: bool,

    /// Wait until the guest is ready, until PID 1 is executed, or not at all; by default as the definition
    /// sets
    #[arg(long, value_name = "WHEN", value_enum)]
    wait: Option<WaitFor>,
}

impl StartOptions {
    /// Reads the arguments without clap. `None` if clap must parse them.
    pub(super) fn read(parse: TableParser<'_>) -> Option<Self> {
        let mut start = Self::default();
        parse(vec![
            positional(Slot::Names(&mut start.names)),
            long("all", Slot::Flag(&mut start.all)),
            long("wait", Slot::Word(&mut start.wait)),
        ])?;
        // Either machines are named, or all are meant.
        (start.names.is_empty() == start.all).then_some(start)
    }

    /// Returns the named machines, or all enabled ones.
    ///
    /// # Errors
    /// A directory of definitions that cannot be read.
    pub(crate) fn names(&self, paths: &Paths) -> Result<Vec<Name>> {
        if self.all { start::enabled(paths) } else { Ok(self.names.clone()) }
    }

    /// Returns the word of the event to wait for.
    pub(crate) fn wait_word(&self) -> Option<&'static str> {
        self.wait.map(|wait| match wait {
            WaitFor::Ready => "ready",
            WaitFor::Running => "running",
            WaitFor::No => "no",
        })
    }

    /// Returns the event to wait for.
    pub(crate) fn wait(&self) -> start::StartWait {
        match self.wait {
            None => start::StartWait::Unit,
            Some(WaitFor::Ready) => start::StartWait::Ready,
            Some(WaitFor::Running) => start::StartWait::Running,
            Some(WaitFor::No) => start::StartWait::No,
        }
    }
}

/// The event that a start waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum WaitFor {
    /// The guest reports that it is ready.
    Ready,
    /// PID 1 is executed.
    Running,
    /// The job is queued.
    No,
}

/// The arguments of `enable` and `disable`.
#[derive(Debug, Args)]
pub(crate) struct EnableOptions {
    /// The machines
    #[arg(value_name = "NAME", required = true, value_parser = Name::new)]
    pub(crate) names: Vec<Name>,

    /// Also start or stop the machines now
    #[arg(long)]
    pub(crate) now: bool,
}

/// The arguments of `copy-to` and `copy-from`.
#[derive(Debug, Args)]
pub(crate) struct CopyOptions {
    /// The machine
    #[arg(value_name = "NAME", value_parser = copied_machine)]
    name: Name,

    /// The file or directory to copy
    #[arg(value_name = "SRC")]
    pub(crate) source: PathBuf,

    /// The destination; the path of the source by default
    #[arg(value_name = "DST")]
    pub(crate) destination: Option<PathBuf>,

    /// Replace existing files
    #[arg(long)]
    force: bool,

    /// Copy a symbolic link SRC as a link, instead of the file that it leads to
    #[arg(short = 'P', long)]
    no_dereference: bool,

    /// The path of the one tree in the archive on standard input
    #[arg(long = "as", hide = true, value_name = "PATH")]
    archived: Option<PathBuf>,
}

/// Parses the machine of a copy. The order of the arguments is not that of scp(1).
fn copied_machine(text: &str) -> Result<Name> {
    Name::new(text).map_err(|error| match text.contains(['/', ':']) {
        true => Error::usage("the machine is the first argument").with_hint(
            "write 'coracle copy-to NAME SRC DST' with SRC on the host, or 'coracle copy-from NAME SRC DST' with \
             DST on the host",
        ),
        false => error,
    })
}

impl CopyOptions {
    /// Returns the request for `control`.
    pub(crate) fn request(&self) -> copy::CopyRequest<'_> {
        copy::CopyRequest {
            name: &self.name,
            source: &self.source,
            archived: self.archived.as_deref(),
            destination: self.destination.as_ref().unwrap_or(&self.source),
            replace: if self.force { Replace::Yes } else { Replace::No },
            links: if self.no_dereference { LinkMode::Keep } else { LinkMode::Follow },
            owners: CopyOwners::Kept,
        }
    }
}

/// Reads the text of a definition from a file; `-` for standard input.
///
/// # Errors
/// A file that cannot be read, or is larger than a definition may be.
pub(crate) fn text_of(file: &Path) -> Result<String> {
    let reading = || format!("cannot read '{}'", file.display());
    let mut text = String::new();
    let source: Box<dyn Read> = match file == Path::new("-") {
        true => Box::new(std::io::stdin().lock()),
        false => Box::new(std::fs::File::open(file).context(reading)?),
    };
    source.take(DEFINITION + 1).read_to_string(&mut text).context(reading)?;
    match text.len() as u64 > DEFINITION {
        true => {
            Err(Error::new(format!("a definition has at most {} KiB", DEFINITION >> 10)).context(reading()))
        }
        false => Ok(text),
    }
}

/// Returns a path as a word of a request for the service.
///
/// # Errors
/// A path that is not UTF-8.
pub(crate) fn word(path: &Path) -> Result<String> {
    path.to_str().map(str::to_owned).ok_or_else(|| {
        let error = Error::usage(format!("'{}' is not UTF-8", path.display()));
        error.with_hint("rename the file, or run the verb with sudo(8)")
    })
}

/// Returns the options of a request for a terminal like that of this process. Commands without a terminal have its
/// type in their environment too.
pub(crate) fn terminal_options() -> Options {
    let fits = |name: &String| name.bytes().all(|byte| byte.is_ascii_graphic()) && name.len() <= 64;
    let term = std::env::var("TERM").ok().filter(fits);
    let options = Options::default().with_text("term", term.as_deref());
    match rustix::termios::tcgetwinsize(rustix::stdio::stdin()) {
        Ok(size) => options
            .with("rows", OptionValue::Number(u32::from(size.ws_row)))
            .with("columns", OptionValue::Number(u32::from(size.ws_col))),
        Err(_) => options,
    }
}

/// The options of `exec` and `shell`.
#[derive(Debug, Default, Args)]
pub(crate) struct EntryOptions {
    /// The user, and after a colon the group, of the machine, by name or number
    #[arg(short, long, value_name = "USER[:GROUP]")]
    user: Option<String>,

    /// The working directory inside; the home directory of the user by default
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<PathBuf>,

    /// Set an environment variable; without VALUE, pass on the caller's
    #[arg(short = 'E', long, value_name = "NAME[=VALUE]")]
    setenv: Vec<String>,

    /// Allocate a terminal
    #[arg(short, long, overrides_with = "no_tty")]
    tty: bool,

    /// Do not allocate a terminal
    #[arg(short = 'T', long)]
    no_tty: bool,

    /// Wait until the guest is ready
    #[arg(long)]
    wait_ready: bool,

    /// Pass on ^] instead of disconnecting when it is typed three times within a second
    #[arg(long)]
    no_escape: bool,
}

impl EntryOptions {
    /// Returns the options of a command without a terminal of its own choice.
    pub(crate) fn of(user: Option<String>, workdir: Option<PathBuf>, setenv: Vec<String>) -> Self {
        Self { user, workdir, setenv, ..Self::default() }
    }

    /// Returns the options of the request for the service.
    pub(crate) fn options(&self, request: &exec::ExecRequest<'_>) -> Options {
        let is_terminal = || {
            rustix::termios::isatty(rustix::stdio::stdin())
                && rustix::termios::isatty(rustix::stdio::stdout())
        };
        let has_terminal = self.tty || !self.no_tty && is_terminal();
        let variables = request.environment.iter().map(|(name, value)| format!("{name}={value}"));
        terminal_options()
            .with("terminal", OptionValue::Flag(has_terminal))
            .with_text("user", request.user)
            .with_text("directory", request.directory.as_deref().and_then(Path::to_str))
            .with_texts("environment", variables.collect())
            .with_flag("wait-ready", self.wait_ready)
            .with_flag("no-escape", self.no_escape)
    }

    /// Returns the options as rows of a table, for parsing without clap.
    pub(super) fn table(&mut self) -> impl IntoIterator<Item = ArgumentRow<'_>> {
        [
            long("user", Slot::Text(&mut self.user)).or_short(b'u'),
            long("workdir", Slot::Path(&mut self.workdir)).or_short(b'w'),
            long("setenv", Slot::Texts(&mut self.setenv)).or_short(b'E'),
            long("tty", Slot::Flag(&mut self.tty)).or_short(b't').in_group("tty"),
            long("no-tty", Slot::Flag(&mut self.no_tty)).or_short(b'T').in_group("tty"),
            long("wait-ready", Slot::Flag(&mut self.wait_ready)),
            long("no-escape", Slot::Flag(&mut self.no_escape)),
        ]
    }

    /// Returns the request for `control`; an empty `command` is the login shell.
    ///
    /// # Errors
    /// An empty user, group, command or name of a variable, or a relative directory.
    pub(crate) fn request<'a>(
        &'a self,
        name: &'a Name,
        command: &[OsString],
    ) -> Result<exec::ExecRequest<'a>> {
        if let Some(user) = self.user.as_ref().filter(|user| user.split(':').any(str::is_empty)) {
            return Err(Error::usage(format!("'--user={user}' has an empty name"))
                .with_hint("write USER or USER:GROUP, each a name or a number"));
        }
        if let Some(variable) = self.setenv.iter().find(|text| text.is_empty() || text.starts_with('=')) {
            return Err(Error::usage(format!("'--setenv={variable}' has an empty name"))
                .with_hint("write NAME=VALUE, or NAME to pass on a variable"));
        }
        if command.first().is_some_and(|program| program.is_empty()) {
            return Err(Error::usage("the command is empty").with_hint("name a program of the machine"));
        }
        if let Some(directory) = self.workdir.as_ref().filter(|directory| !directory.is_absolute()) {
            return Err(Error::usage(format!("'--workdir={}' is not an absolute path", directory.display()))
                .with_hint("write a path that begins with '/'"));
        }
        let variable = |text: &String| match text.split_once('=') {
            Some((name, value)) => Some((name.to_owned(), value.to_owned())),
            None => std::env::var(text).ok().map(|value| (text.clone(), value)),
        };
        Ok(exec::ExecRequest {
            name,
            argv: command.to_vec(),
            user: self.user.as_deref(),
            directory: self.workdir.clone(),
            environment: self.setenv.iter().filter_map(variable).collect(),
            terminal: match (self.tty, self.no_tty) {
                (true, _) => exec::TerminalMode::Yes,
                (_, true) => exec::TerminalMode::No,
                _ => exec::TerminalMode::Auto,
            },
            wait_ready: self.wait_ready,
            disconnects: !self.no_escape,
            announces: command.is_empty(),
            apart: exec::Apart::default(),
        })
    }
}
