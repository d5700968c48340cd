//! `coracle logs`.

use super::VerbResult;
use crate::ask::{Ask, AskVerb, OptionValue, Options};
use crate::cli::output;
use crate::cli::pager::Pager;
use crate::control::logs;
use crate::error::{Error, Result};
use crate::machine::name::Name;
use crate::paths::Paths;
use clap::{Args, ValueEnum};

/// Show the journal of a running or stopped machine, and its console
///
/// Lines of the console are shown while the guest has no journal; --console shows all. Entries of programs of
/// the host, such as its systemd, have 'host' before the program.
#[derive(Debug, Args)]
pub struct LogsArgs {
    /// The machines; entries of several ones are shown in one order, with the machine before the program
    #[arg(value_name = "NAME", required = true, value_parser = Name::new)]
    names: Vec<Name>,

    /// Follow new entries
    #[arg(short, long)]
    follow: bool,

    /// Show the last COUNT lines only
    #[arg(short = 'n', long, value_name = "COUNT", allow_hyphen_values = true, value_parser = count)]
    lines: Option<u32>,

    /// Show entries of this unit of the guest only, from the guest's journal; may be repeated
    #[arg(short, long, value_name = "UNIT")]
    unit: Vec<String>,

    /// Show the newest entries first
    #[arg(short, long, conflicts_with = "follow")]
    reverse: bool,

    /// Show all lines of the console, not only those without a journal of the guest
    #[arg(long)]
    console: bool,

    /// List the boots of the machine in the host's journal
    #[arg(long)]
    list_boots: bool,

    /// Show no pager on a terminal
    #[arg(long)]
    no_pager: bool,

    /// Show one boot only: 0 is the last boot, -1 the boot before, or a boot id
    #[arg(short, long, value_name = "BOOT", allow_hyphen_values = true)]
    boot: Option<String>,

    /// Show entries since this time, in the format of systemd.time(7)
    #[arg(short = 'S', long, value_name = "TIME", allow_hyphen_values = true)]
    since: Option<String>,

    /// Show entries until this time
    #[arg(short = 'U', long, value_name = "TIME", allow_hyphen_values = true)]
    until: Option<String>,

    /// Show entries of this or a more urgent priority, or of a range FROM..TO, by name or number
    #[arg(short, long, value_name = "PRIORITY")]
    priority: Option<String>,

    /// Show entries with a message that matches this regular expression (PCRE2)
    #[arg(short, long, value_name = "PATTERN", allow_hyphen_values = true)]
    grep: Option<String>,

    /// The output format
    #[arg(short, long, value_name = "FORMAT", value_enum, default_value_t = LogFormat::ShortIso)]
    output: LogFormat,
}

/// Parses a number of lines.
fn count(text: &str) -> std::result::Result<u32, String> {
    text.parse().map_err(|_| "it is not a number of lines, for example 50".to_owned())
}

/// The output format, with the names of journalctl(1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// A line with time, program and process id.
    ShortIso,
    /// A line with seconds since the epoch, program and process id.
    ShortUnix,
    /// The message only.
    Cat,
    /// The whole entry as one line of JSON.
    Json,
}

impl LogsArgs {
    /// Returns the request for the service.
    pub(in crate::cli) fn ask(&self) -> Result<Ask> {
        let format = self.output.to_possible_value();
        let options = Options::default()
            .with_flag("follow", self.follow)
            .with_flag("reverse", self.reverse)
            .with_flag("console", self.console)
            .with_flag("list-boots", self.list_boots)
            .with_texts("unit", self.unit.clone())
            .with_text("boot", self.boot.as_deref())
            .with_text("since", self.since.as_deref())
            .with_text("until", self.until.as_deref())
            .with_text("priority", self.priority.as_deref())
            .with_text("grep", self.grep.as_deref())
            .with_text("output", format.as_ref().map(clap::builder::PossibleValue::get_name));
        let options = match self.lines {
            Some(lines) => options.with("lines", OptionValue::Number(lines)),
            None => options,
        };
        Ask::new(AskVerb::Logs, self.names.clone(), options, Vec::new())
    }

    pub(super) fn run(self, paths: &Paths) -> VerbResult {
        let Some(name) = self.names.first() else { return Err(Error::usage("no machine is named").into()) };
        let query = logs::LogQuery {
            name,
            follow: self.follow,
            lines: self.lines,
            units: &self.unit,
            order: if self.reverse { logs::Order::NewestFirst } else { logs::Order::OldestFirst },
            with_console: self.console,
            boot: self.boot.as_deref(),
            filter: logs::Filter {
                since: self.since.as_deref(),
                until: self.until.as_deref(),
                priority: self.priority.as_deref(),
                grep: self.grep.as_deref(),
            },
            format: match self.output {
                LogFormat::ShortIso => logs::Format::ShortIso,
                LogFormat::ShortUnix => logs::Format::ShortUnix,
                LogFormat::Cat => logs::Format::Cat,
                LogFormat::Json => logs::Format::Json,
            },
        };
        let pager = (!self.no_pager && !self.follow).then(Pager::start).flatten();
        let shown = match (self.list_boots, self.names.len()) {
            (true, 1) => logs::list_boots(paths, &query, &mut output::Stream),
            (false, 1) => logs::show(paths, &query, &mut output::Stream),
            (true, _) => Err(Error::usage("--list-boots requires a single machine")),
            (false, _) => logs::show_several(paths, &self.names, &query, &mut output::Stream),
        };
        let finished = output::finish();
        // Before an error is printed.
        drop(pager);
        shown.and(finished)?;
        Ok(0)
    }
}
