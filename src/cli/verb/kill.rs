//! `coracle kill`.

use super::VerbResult;
use crate::ask::{Ask, AskVerb, OptionValue, Options};
use crate::cli::arguments::MachineNames;
use crate::config::boot::Signal;
use crate::config::values::{RawValue, Value};
use crate::control::signal;
use crate::error::{Error, Result};
use crate::machine::name::Name;
use crate::paths::Paths;
use clap::{Args, ValueEnum};
use rustix::termios;

/// Send a signal to processes of machines
#[derive(Debug, Args)]
pub struct KillArgs {
    #[command(flatten)]
    machines: MachineNames,

    /// The signal, by name or number
    #[arg(short, long, value_name = "SIGNAL", default_value = "SIGTERM", value_parser = signal)]
    signal: i32,

    /// The receivers: PID 1 or all processes of the machine
    #[arg(long, value_name = "WHOM", value_enum, default_value_t = Whom::All)]
    kill_whom: Whom,
}

/// The receivers of a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Whom {
    /// PID 1 of the machine.
    Leader,
    /// All processes of the machine.
    All,
}

fn signal(text: &str) -> Result<i32> {
    Signal::read(&RawValue::Text(text)).map(|signal| signal.0)
}

impl KillArgs {
    /// Returns the request for the service.
    pub(in crate::cli) fn ask(&self) -> Result<Ask> {
        let whom = match self.kill_whom {
            Whom::Leader => "leader",
            Whom::All => "all",
        };
        let signal = u32::try_from(self.signal).map_err(|_| Error::usage("the signal is negative"))?;
        let options =
            Options::default().with("signal", OptionValue::Number(signal)).with_text("whom", Some(whom));
        Ask::new(AskVerb::Kill, self.machines.names.clone(), options, Vec::new())
    }

    pub(super) fn run(self, paths: &Paths) -> VerbResult {
        let whom = match self.kill_whom {
            Whom::Leader => signal::KillTarget::Leader,
            Whom::All => signal::KillTarget::All,
        };
        let is_terminal = termios::isatty(rustix::stdio::stderr());
        let report = |name: &Name, count: usize| {
            let processes = if count == 1 { "process" } else { "processes" };
            if is_terminal {
                log::info!("sent {} to {count} {processes} of machine '{name}'", Signal(self.signal).name());
            }
        };
        signal::kill(paths, &self.machines.names, self.signal, whom, report)?;
        Ok(0)
    }
}
