//! The command line: every verb and option, from which help, completions and the options in the
//! manual come as well. Called by `main`; it runs no machine.

pub mod change;
pub mod check;
pub mod completions;
pub mod config;
pub mod insight;
pub mod layer;
pub mod list;
pub mod machines;
pub mod manual;
pub mod network;
pub mod output;
pub mod run;
pub mod top;
pub mod verbs;

pub use insight::{Doctor, Inspect, Stats, Top};
pub use network::Network;
pub use run::Run;
pub use verbs::{
    Apply, Bind, Check, Completions, Config, Copy, Exec, Kill, List, Logs, Names, One, Set, Shell, Show,
    Start, Status, Switch, Unbind, Whom,
};

use crate::error::{Error, Result};
use crate::machine::name::Name;
use clap::error::ErrorKind;
use clap::{Args, Command, FromArgMatches, Parser, Subcommand};
use std::ffi::OsString;
use std::path::PathBuf;

/// Boots whole root file systems as machines
///
/// A machine is a plain systemd unit, registered with systemd-machined, with its cgroup, a private
/// network, and its logs in the host's journal. See coracle(1) and coracle.toml(5).
#[derive(Debug, Parser)]
#[command(name = "coracle", version, disable_help_subcommand = true)]
#[command(subcommand_value_name = "VERB", subcommand_help_heading = "Verbs")]
pub struct Cli {
    /// What every verb takes
    #[command(flatten)]
    pub common: Common,

    /// What to do
    #[command(subcommand)]
    pub verb: Verb,
}

/// What every verb takes.
#[derive(Debug, Args)]
pub struct Common {
    /// Look for every file below this directory instead of '/'
    #[arg(long, global = true, value_name = "DIR", default_value = "/", hide_default_value = true)]
    pub root: PathBuf,

    /// Log every step
    #[arg(long, global = true)]
    pub debug: bool,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Run a command or a whole system in the foreground
    ///
    /// The options are those of systemd-nspawn(1), with the same names and meaning.
    Run(Box<Run>),
    /// Start machines as units
    Start(Start),
    /// Stop machines in their own orderly way
    Stop(Names),
    /// Stop machines and start them again
    Restart(Start),
    /// Start machines at every boot of the host
    Enable(Switch),
    /// Start machines at boot no longer
    Disable(Switch),
    /// Ask the systems inside to power off
    Poweroff(Names),
    /// Ask the systems inside to reboot
    Reboot(Names),
    /// End machines at once, without asking them
    Terminate(Names),
    /// Send a signal to the processes of machines
    Kill(Kill),
    /// Stop all processes of machines where they are
    Freeze(Names),
    /// Let machines that were frozen go on
    Thaw(Names),
    /// List the machines that run
    List(List),
    /// Show how machines are, for people
    Status(Status),
    /// Show everything known of machines, for programs
    Show(Show),
    /// Show console and journal of a machine, also of one that is dead
    Logs(Logs),
    /// Show what is wrong with this host, or with machines, and the hint
    ///
    /// The exit status is 1 where something is wrong.
    Doctor(Doctor),
    /// Show what machines use: processor, memory, io, network, tasks, pressure
    Stats(Stats),
    /// Show zones and their machines, addresses, ports, and what the firewall has dropped
    Network(Network),
    /// Watch what machines use, on a terminal
    Top(Top),
    /// Show how a machine is isolated: namespaces, mounts, capabilities, limits
    Inspect(Inspect),
    /// Run a command in a machine that runs
    ///
    /// It needs no bus and no init that answers in the machine. The exit status is the command's own.
    Exec(Exec),
    /// Open a login shell in a machine that runs
    Shell(Shell),
    /// Copy files from the host into a machine that runs
    ///
    /// SRC '-' is a tar archive on standard input, put into the directory DST. Owners keep their
    /// numbers as the machine counts. What DST is named appears only when all of it is there.
    CopyTo(Copy),
    /// Copy files of a machine that runs to the host
    ///
    /// DST '-' is a tar archive on standard output. Owners keep their numbers as the machine counts;
    /// set-user-ID bits and file capabilities do not come along.
    CopyFrom(Copy),
    /// Mount a part of the host's tree in a machine that runs, or list what is
    ///
    /// The mount is there until it is taken off or the machine ends or reboots; what is to be there
    /// always belongs in the definition.
    Bind(Bind),
    /// Take off what was bound
    Unbind(Unbind),
    /// See the console of a machine that runs, and type there
    ///
    /// '^]' three times within a second detaches. The last 64 KiB of the console come first.
    Attach(One),
    /// Get a login prompt of a machine that runs
    Login(One),
    /// Change settings of a machine, also while it runs
    ///
    /// The change is kept in a drop-in of the definition. Limits, ports, bounds of the network and bind
    /// mounts (mount=SOURCE:TARGET:ro) hold at once; of other settings it is said that they need a restart.
    Set(Set),
    /// Make a machine that runs what its definition says
    ///
    /// Limits, ports, bounds of the network and further bind mounts are changed while it runs; of the
    /// rest it is said that it needs a restart.
    Apply(Apply),
    /// Check definitions, and show every problem with its place
    Check(Check),
    /// Show the settings of a machine and where each comes from
    Config(Config),
    /// Print the completions for a shell
    Completions(Completions),
    /// Print the names of machines, for completions
    #[command(hide = true)]
    Names,
    /// Set a machine up: what its unit runs
    #[command(hide = true)]
    Launch(Launch),
    /// Answer the connections that start a machine: what systemd runs at the first
    #[command(hide = true)]
    Answer(Launch),
    /// Undo what a machine left behind
    #[command(hide = true)]
    Cleanup(Launch),
    /// Put the machines into the host's firewall again, after somebody has made that anew
    #[command(hide = true)]
    Refit,
    /// Give machines the host's name servers again, after those have changed
    #[command(hide = true)]
    Resolve(Resolve),
}

/// `resolve`.
#[derive(Debug, Args)]
pub struct Resolve {
    /// The machine; all that run where none is named
    #[arg(value_name = "NAME", value_parser = Name::new)]
    pub name: Option<Name>,
}

/// One machine, for the verbs of its unit.
#[derive(Debug, Args)]
pub struct Launch {
    /// The machine
    #[arg(value_name = "NAME", value_parser = Name::new)]
    pub name: Name,
}

/// Reads the command line, `arguments[0]` being the program. Nothing where help or the version was
/// asked for, which is then printed.
///
/// # Errors
/// Wrong usage, as an error of kind [`crate::error::Kind::Usage`].
pub fn parse(arguments: &[OsString]) -> Result<Option<Cli>> {
    if let Some(cli) = quick(arguments) {
        return Ok(Some(cli));
    }
    match Cli::try_parse_from(arguments) {
        Ok(cli) => Ok(Some(cli)),
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            output::text(&error.render().to_string())?;
            Ok(None)
        }
        Err(error) => Err(usage(&error)),
    }
}

/// The verbs that people wait for, read by their own part of the definition: all of it takes longer to build than
/// the rest of a start takes in this process. Nothing where the line is not of these or not as it should be.
fn quick(arguments: &[OsString]) -> Option<Cli> {
    let verb = match arguments.get(1)?.to_str()? {
        "run" => Run::augment_args(Command::new("run")),
        "exec" => Exec::augment_args(Command::new("exec")),
        "launch" => Launch::augment_args(Command::new("launch")),
        _ => return None,
    };
    let command = Common::augment_args(Command::new("coracle")).subcommand(verb);
    let matches = command.try_get_matches_from(arguments).ok()?;
    let (name, its) = matches.subcommand()?;
    let verb = match name {
        "run" => Verb::Run(Box::new(Run::from_arg_matches(its).ok()?)),
        "exec" => Verb::Exec(Exec::from_arg_matches(its).ok()?),
        _ => Verb::Launch(Launch::from_arg_matches(its).ok()?),
    };
    Some(Cli { common: Common::from_arg_matches(&matches).ok()?, verb })
}

/// clap's error in our form: its first paragraph is what is wrong, its tip the hint.
fn usage(error: &clap::Error) -> Error {
    let text = error.render().to_string();
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return Error::usage("no verb is given").with_hint("'coracle --help' lists the verbs");
    }
    let (what, rest) = text.split_once("\n\n").unwrap_or((&text, ""));
    let (what, rest) = (what.replace("subcommand", "verb"), rest.replace("subcommand", "verb"));
    let what: Vec<&str> = what.trim_start_matches("error: ").lines().map(str::trim).collect();
    let tip = rest.lines().find_map(|line| line.trim().strip_prefix("tip: "));
    let usage = rest.lines().find_map(|line| line.strip_prefix("Usage: "));
    let error = Error::usage(what.join(" "));
    match (tip, usage) {
        (Some(tip), _) => error.with_hint(tip),
        (None, Some(usage)) => error.with_hint(format!("usage: {usage}")),
        (None, None) => error.with_hint("'--help' after the verb shows its options"),
    }
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
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_command_ends_the_options() {
        let Verb::Run(run) = parsed("coracle run -D /x sh -c --quiet").unwrap().unwrap().verb else {
            panic!("no run")
        };
        assert_eq!(run.command, ["sh", "-c", "--quiet"]);
        assert!(!run.quiet);
        assert!(parsed("coracle run -D /x -- -x").is_ok());
    }

    #[test]
    fn quick_reads_as_all_does() {
        for line in [
            "coracle run -D /x -U --debug true --quiet",
            "coracle run --root /y -M a -b",
            "coracle exec --root=/y a -u root -- sh -c x",
            "coracle launch a",
        ] {
            let all = Cli::try_parse_from(words(line)).unwrap();
            assert_eq!(format!("{:?}", quick(&words(line)).unwrap()), format!("{all:?}"), "{line}");
        }
        for line in [
            "coracle run --bogus",
            "coracle run --help",
            "coracle exec",
            "coracle --debug run",
            "coracle list",
        ] {
            assert!(quick(&words(line)).is_none(), "{line}");
        }
    }

    #[test]
    fn wrong_usage_has_a_hint() {
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
