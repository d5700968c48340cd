//! The command line: parses arguments, runs a verb, prints its result. Help, completions and the options in
//! coracle(1) are generated from it. Called by `main`.

mod argument_table;
mod arguments;
pub mod compat;
pub mod far;
mod fast_path;
pub mod manual;
pub mod nspawn;
mod other_tools;
pub(crate) mod output;
mod pager;
mod route;
mod usage;
pub(crate) mod verb;

pub use verb::{Failures, Verb, VerbResult};

use crate::error::Result;
use clap::error::ErrorKind;
use clap::{Args, Parser};
use std::ffi::OsString;
use std::path::PathBuf;

/// Boots whole root file systems as machines
///
/// A machine is a systemd unit registered with systemd-machined, with its own cgroup, a private network, and
/// its logs in the journal of the host. See coracle(1) and coracle.toml(5).
#[derive(Debug, Parser)]
#[command(
    name = "coracle",
    bin_name = "coracle",
    version,
    disable_help_subcommand = true,
    args_override_self = true
)]
#[command(subcommand_value_name = "VERB", subcommand_help_heading = "Verbs")]
pub struct Cli {
    /// The options of all verbs
    #[command(flatten)]
    pub common: Common,

    /// Execute the verb on another host, by ssh(1); before the verb
    #[arg(short = 'H', long, value_name = "[USER@]HOST[:PORT]")]
    pub host: Option<String>,

    /// The verb
    #[command(subcommand)]
    pub verb: Verb,
}

/// The options of all verbs.
#[derive(Debug, Default, Args)]
pub struct Common {
    /// Use files below this directory instead of '/'
    #[arg(long, global = true, value_name = "DIR", default_value = "/", hide_default_value = true)]
    pub root: PathBuf,

    /// Log every step
    #[arg(long, global = true)]
    pub debug: bool,

    /// Do not ask for a password if polkit(8) requires one
    #[arg(long, global = true)]
    pub no_ask_password: bool,

    /// The machine that a job of the service may act on
    #[arg(long, global = true, hide = true, value_name = "NAME:PID:START")]
    pub expect: Vec<String>,

    /// Report the result of a job as JSON on standard input, a channel of the service
    #[arg(long, global = true, hide = true)]
    pub report: bool,
}

/// Parses the command line; `arguments[0]` is the program. `None` if help or the version was requested and
/// printed.
///
/// # Errors
/// A usage error, of kind [`crate::error::Kind::Usage`].
pub fn parse(arguments: &[OsString]) -> Result<Option<Cli>> {
    if let Some(cli) = fast_path::parse(arguments) {
        return Ok(Some(cli));
    }
    let replaced = as_option(arguments);
    match Cli::try_parse_from(replaced.as_deref().unwrap_or(arguments)) {
        Ok(cli) => Ok(Some(cli)),
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            output::text(&error.render().to_string())?;
            Ok(None)
        }
        Err(error) => Err(usage::error(&error)),
    }
}

/// Replaces `help`, `help VERB` and `version` by the options. `None` for all other verbs.
fn as_option(arguments: &[OsString]) -> Option<Vec<OsString>> {
    let ([program, verb], words) = arguments.split_first_chunk()?;
    let option = if verb == "help" {
        "--help"
    } else if verb == "version" {
        "--version"
    } else {
        return None;
    };
    let option = OsString::from(option);
    Some(std::iter::once(program).chain(words).chain([&option]).cloned().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn words(line: &str) -> Vec<OsString> {
        line.split(' ').map(OsString::from).collect()
    }

    fn parsed(line: &str) -> Result<Option<Cli>> {
        parse(&words(line))
    }

    #[test]
    fn the_definition_is_valid() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_verb_has_a_help_text() {
        for verb in Cli::command().get_subcommands() {
            let about = verb.get_about().map(ToString::to_string).unwrap_or_default();
            assert!(about.len() > 10 && !about.ends_with('.'), "{}: {about}", verb.get_name());
        }
    }

    #[test]
    fn the_command_ends_the_options() {
        let Verb::Run(run) = parsed("coracle run -D /x sh -c --quiet").unwrap().unwrap().verb else {
            panic!("not 'run'")
        };
        assert_eq!(run.command, ["sh", "-c", "--quiet"]);
        assert!(!run.quiet);
        assert!(parsed("coracle run -D /x -- -x").is_ok());
    }

    #[test]
    fn network_reload_is_a_verb_below_network() {
        for line in ["coracle network", "coracle network --json", "coracle network reload"] {
            assert!(parsed(line).is_ok(), "{line}");
        }
        assert!(parsed("coracle network relaod").unwrap_err().hint().unwrap().contains("reload"));
    }

    #[test]
    fn hints_name_the_program_and_suit_the_mistake() {
        for (line, hint) in [
            ("/opt/x/program start", "usage: coracle start <NAME>..."),
            ("/opt/x/program run --bogus", "show the options with 'coracle run --help'"),
            ("coracle logs --folow a", "a similar argument exists: '--follow'"),
        ] {
            assert_eq!(parsed(line).unwrap_err().hint(), Some(hint), "{line}");
        }
        for line in ["coracle logs -n -5 a", "coracle logs --lines=-5 a", "coracle logs -n x a"] {
            let error = parsed(line).unwrap_err().to_string();
            assert!(error.contains("it is not a number of lines"), "{error}");
        }
    }

    #[test]
    fn usage_errors_have_a_hint() {
        for line in
            ["coracle", "coracle strat x", "coracle run --bogus", "coracle start", "coracle start a/b"]
        {
            let error = parsed(line).unwrap_err();
            assert_eq!(error.exit_status(), 2, "{line}");
            assert!(error.hint().is_some(), "{line}");
            assert!(!error.to_string().contains('\n'), "{error}");
        }
    }
}
