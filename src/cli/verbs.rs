//! The options of every verb but `run`. Parts of the command line's definition: data only.

use crate::machine::name::Name;
use clap::{Args, ValueEnum};
use std::ffi::OsString;
use std::path::PathBuf;

/// Machines by name.
#[derive(Debug, Args)]
pub struct Names {
    /// The machines
    #[arg(value_name = "NAME", required = true, value_parser = Name::new)]
    pub names: Vec<Name>,
}

/// `start` and `restart`.
#[derive(Debug, Args)]
pub struct Start {
    /// The machines
    #[arg(value_name = "NAME", required = true, value_parser = Name::new)]
    pub names: Vec<Name>,

    /// Wait until the system inside is up, until PID 1 runs, or not at all; what the machine's
    /// definition says where not given
    #[arg(long, value_name = "WHEN", value_enum)]
    pub wait: Option<WaitFor>,
}

/// How long a start is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum WaitFor {
    /// Until the guest says that it is up.
    Ready,
    /// Until PID 1 was executed.
    Running,
    /// Until the job is queued.
    No,
}

/// `enable` and `disable`.
#[derive(Debug, Args)]
pub struct Switch {
    /// The machines
    #[arg(value_name = "NAME", required = true, value_parser = Name::new)]
    pub names: Vec<Name>,

    /// Start them too, or stop them
    #[arg(long)]
    pub now: bool,
}

/// `kill`.
#[derive(Debug, Args)]
pub struct Kill {
    /// The machines
    #[arg(value_name = "NAME", required = true, value_parser = Name::new)]
    pub names: Vec<Name>,

    /// The signal, by name or number
    #[arg(short, long, value_name = "SIGNAL", default_value = "SIGTERM", value_parser = signal)]
    pub signal: i32,

    /// Whom to send it: PID 1 alone or every process of the machine
    #[arg(long, value_name = "WHOM", value_enum, default_value_t = Whom::All)]
    pub kill_whom: Whom,
}

/// Who gets a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Whom {
    /// PID 1 of the machine.
    Leader,
    /// Every process of the machine.
    All,
}

fn signal(text: &str) -> crate::error::Result<i32> {
    use crate::config::boot::Signal;
    use crate::config::values::{RawValue, Value};
    Signal::read(&RawValue::Text(text)).map(|signal| signal.0)
}

/// `exec`.
#[derive(Debug, Args)]
pub struct Exec {
    /// The machine
    #[arg(value_name = "NAME", value_parser = Name::new)]
    pub name: Name,

    /// The program and its arguments
    #[arg(value_name = "COMMAND", required = true, trailing_var_arg = true)]
    pub command: Vec<OsString>,

    /// How it is entered
    #[command(flatten)]
    pub entry: Entry,
}

/// `shell`.
#[derive(Debug, Args)]
pub struct Shell {
    /// The machine
    #[arg(value_name = "NAME", value_parser = Name::new)]
    pub name: Name,

    /// As a session of the user, which the machine's logind knows of
    #[arg(long)]
    pub session: bool,

    /// How it is entered
    #[command(flatten)]
    pub entry: Entry,
}

/// How a machine is entered.
#[derive(Debug, Args)]
pub struct Entry {
    /// The user of the machine, and after a colon the group, by name or number
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub user: Option<String>,

    /// The working directory inside; the user's home where not given
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<PathBuf>,

    /// A variable; without a value, ours
    #[arg(short = 'E', long, value_name = "NAME[=VALUE]")]
    pub setenv: Vec<String>,

    /// On a terminal of its own, also where ours is none
    #[arg(short, long, conflicts_with = "no_tty")]
    pub tty: bool,

    /// On our streams, also where they are a terminal
    #[arg(short = 'T', long)]
    pub no_tty: bool,

    /// Wait until the system inside is up
    #[arg(long)]
    pub wait_ready: bool,
}

/// `attach` and `login`.
#[derive(Debug, Args)]
pub struct One {
    /// The machine
    #[arg(value_name = "NAME", value_parser = Name::new)]
    pub name: Name,
}

/// `set`.
#[derive(Debug, Args)]
pub struct Set {
    /// The machine
    #[arg(value_name = "NAME", value_parser = Name::new)]
    pub name: Name,

    /// Settings of the definition, as memory-max=512M; without a value what was set is forgotten
    #[arg(value_name = "KEY=VALUE", required = true)]
    pub changes: Vec<String>,

    /// Until the host reboots
    #[arg(long)]
    pub runtime: bool,
}

/// `apply`.
#[derive(Debug, Args)]
pub struct Apply {
    /// The machine
    #[arg(value_name = "NAME", value_parser = Name::new)]
    pub name: Name,

    /// Say what would be done
    #[arg(long)]
    pub dry_run: bool,
}

/// `bind`.
#[derive(Debug, Args)]
pub struct Bind {
    /// The machine
    #[arg(value_name = "NAME", value_parser = Name::new)]
    pub name: Name,

    /// A file or directory of the host; without it, what is bound is listed
    #[arg(value_name = "SRC")]
    pub source: Option<PathBuf>,

    /// Where it appears inside; the same path where not given
    #[arg(value_name = "DST")]
    pub target: Option<PathBuf>,

    /// Read-only inside
    #[arg(long)]
    pub read_only: bool,

    /// Make the place inside where it is missing
    #[arg(long)]
    pub mkdir: bool,

    /// Whose files are whose: 'ids', every owner keeps his number; 'root', the source's owner is root
    /// inside; 'owner', he is the owner of the place inside; a user of the host and one of the machine;
    /// with these three all others are nobody. 'none': all stay the host's
    #[arg(long, value_name = "ids|root|owner|none|USER:USER", default_value = "ids", value_parser = crate::control::bind::Map::new)]
    pub map: crate::control::bind::Map,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `unbind`.
#[derive(Debug, Args)]
pub struct Unbind {
    /// The machine
    #[arg(value_name = "NAME", value_parser = Name::new)]
    pub name: Name,

    /// The places inside
    #[arg(value_name = "DST", required = true)]
    pub targets: Vec<PathBuf>,
}

/// `copy-to` and `copy-from`.
#[derive(Debug, Args)]
pub struct Copy {
    /// The machine
    #[arg(value_name = "NAME", value_parser = Name::new)]
    pub name: Name,

    /// What to copy
    #[arg(value_name = "SRC")]
    pub source: PathBuf,

    /// Where to; the same path where not given
    #[arg(value_name = "DST")]
    pub destination: Option<PathBuf>,

    /// Replace what is there
    #[arg(long)]
    pub force: bool,
}

/// `list`.
#[derive(Debug, Args)]
pub struct List {
    /// Also the machines that do not run
    #[arg(short, long)]
    pub all: bool,

    /// Print JSON
    #[arg(long)]
    pub json: bool,

    /// Print no header
    #[arg(long)]
    pub no_legend: bool,
}

/// `status`.
#[derive(Debug, Args)]
pub struct Status {
    /// The machines; all that run where none is named
    #[arg(value_name = "NAME", value_parser = Name::new)]
    pub names: Vec<Name>,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `show`.
#[derive(Debug, Args)]
pub struct Show {
    /// The machines; all that run where none is named
    #[arg(value_name = "NAME", value_parser = Name::new)]
    pub names: Vec<Name>,

    /// Print JSON
    #[arg(long)]
    pub json: bool,

    /// Print this property only; may be given several times
    #[arg(short, long, value_name = "PROPERTY")]
    pub property: Vec<String>,
}

/// `logs`.
#[derive(Debug, Args)]
pub struct Logs {
    /// The machine
    #[arg(value_name = "NAME", value_parser = Name::new)]
    pub name: Name,

    /// Go on as the machine does
    #[arg(short, long)]
    pub follow: bool,

    /// The last lines only
    #[arg(short = 'n', long, value_name = "COUNT")]
    pub lines: Option<u32>,

    /// One boot only: 0 the last one, -1 the one before, or a boot id
    #[arg(short, long, value_name = "BOOT", allow_hyphen_values = true)]
    pub boot: Option<String>,

    /// Entries from this time on, as systemd.time(7) has it
    #[arg(short = 'S', long, value_name = "TIME", allow_hyphen_values = true)]
    pub since: Option<String>,

    /// Entries up to this time
    #[arg(short = 'U', long, value_name = "TIME", allow_hyphen_values = true)]
    pub until: Option<String>,

    /// Entries of this priority and more urgent ones, or a range FROM..TO, by word or number
    #[arg(short, long, value_name = "PRIORITY")]
    pub priority: Option<String>,

    /// Entries whose message matches this regular expression (PCRE2)
    #[arg(short, long, value_name = "PATTERN", allow_hyphen_values = true)]
    pub grep: Option<String>,

    /// How entries are written
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t = LogFormat::ShortIso)]
    pub output: LogFormat,
}

/// How entries of a log are written, by journalctl's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// A line with the time, the program, its process id.
    ShortIso,
    /// The same with seconds since the epoch.
    ShortUnix,
    /// The message alone.
    Cat,
    /// The whole entry as journalctl has it, a line of JSON.
    Json,
}

/// `check`.
#[derive(Debug, Args)]
pub struct Check {
    /// The definitions and drop-ins; all of this host where none is named
    #[arg(value_name = "FILE")]
    pub files: Vec<PathBuf>,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `config`.
#[derive(Debug, Args)]
pub struct Config {
    /// The machine
    #[arg(value_name = "NAME", value_parser = Name::new)]
    pub name: Name,

    /// Say of each value where it comes from
    #[arg(long)]
    pub explain: bool,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `completions`.
#[derive(Debug, Args)]
pub struct Completions {
    /// The shell
    #[arg(value_name = "SHELL", value_enum)]
    pub shell: clap_complete::Shell,
}
