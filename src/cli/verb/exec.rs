//! `coracle exec`.

use super::VerbResult;
use crate::ask::{Ask, AskVerb};
use crate::cli::argument_table::{Slot, TableParser, positional};
use crate::cli::arguments::EntryOptions;
use crate::control::exec;
use crate::error::Result;
use crate::machine::name::Name;
use crate::paths::Paths;
use clap::Args;
use std::ffi::OsString;

/// Run a command in a running machine
///
/// Needs neither D-Bus nor a responding init in the machine. The exit status is that of the command.
#[derive(Debug, Args)]
pub struct ExecArgs {
    /// The machine
    #[arg(value_name = "NAME", value_parser = Name::new)]
    name: Name,

    /// The program and its arguments
    #[arg(value_name = "COMMAND", required = true, trailing_var_arg = true)]
    command: Vec<OsString>,

    #[command(flatten)]
    entry: EntryOptions,
}

impl ExecArgs {
    /// Returns the request for the service.
    pub(in crate::cli) fn ask(&self) -> Result<Ask> {
        let request = self.entry.request(&self.name, &self.command)?;
        let command = request.argv.iter().map(|word| word.to_string_lossy().into_owned()).collect();
        Ask::new(AskVerb::Exec, vec![self.name.clone()], self.entry.options(&request), command)
    }

    /// Reads the arguments without clap. `None` if clap must parse them.
    pub(in crate::cli) fn read(parse: TableParser<'_>) -> Option<Self> {
        let (mut name, mut command, mut entry) = (None, Vec::new(), EntryOptions::default());
        let mut table = vec![positional(Slot::Name(&mut name)), positional(Slot::Command(&mut command))];
        table.extend(entry.table());
        parse(table)?;
        (!command.is_empty()).then_some(Self { name: name?, command, entry })
    }

    pub(super) fn run(self, paths: &Paths) -> VerbResult {
        Ok(exec::exec(paths, &self.entry.request(&self.name, &self.command)?)?)
    }
}
