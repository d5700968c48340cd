//! Parses the verbs that users and units wait for, without clap. Called by `parse` of `cli`, which leaves all
//! other verbs, help and errors to clap. The tests compare each table with the definition of clap.

#[cfg(test)]
mod tests;

use super::argument_table::{self, ArgumentRow, Slot, TableParser, long};
use super::verb::{BuildArgs, ExecArgs, LaunchArgs, RestartArgs, RunArgs, StartArgs, StopArgs};
use super::{Cli, Common, Verb};
use std::ffi::OsString;
use std::path::PathBuf;

/// The verb that consists of two words.
const BUILD_RUN: &str = "build run";

/// Parses the command line; `arguments[0]` is the program. `None` if clap must parse it.
pub(super) fn parse(arguments: &[OsString]) -> Option<Cli> {
    let (verb, words) = (arguments.get(1)?.to_str()?, arguments.get(2..)?);
    let (verb, words) = match words.split_first() {
        Some((action, words)) if verb == "build" && action == "run" => (BUILD_RUN, words),
        _ => (verb, words),
    };
    let (mut root, mut common) = (None, Common::default());
    let verb = read_verb(verb, &mut |table| {
        argument_table::parse(words, &mut with_common(table, &mut root, &mut common))
    })?;
    common.root = root.unwrap_or_else(|| PathBuf::from("/"));
    Some(Cli { common, host: None, verb })
}

/// Adds the options of all verbs to the table of a verb.
fn with_common<'a>(
    mut table: Vec<ArgumentRow<'a>>,
    root: &'a mut Option<PathBuf>,
    common: &'a mut Common,
) -> Vec<ArgumentRow<'a>> {
    table.extend([
        long("root", Slot::Path(root)),
        long("debug", Slot::Flag(&mut common.debug)),
        long("no-ask-password", Slot::Flag(&mut common.no_ask_password)),
        long("expect", Slot::Texts(&mut common.expect)),
        long("report", Slot::Flag(&mut common.report)),
    ]);
    table
}

/// Reads the arguments of a verb. `None` if the verb has no table, or if clap must parse them.
fn read_verb(verb: &str, parse: TableParser<'_>) -> Option<Verb> {
    match verb {
        "run" => RunArgs::read(parse).map(|run| Verb::Run(Box::new(run))),
        "exec" => ExecArgs::read(parse).map(Verb::Exec),
        BUILD_RUN => BuildArgs::read_run(parse).map(Verb::Build),
        "launch" => LaunchArgs::read(parse).map(Verb::Launch),
        "start" => StartArgs::read(parse).map(Verb::Start),
        "stop" => StopArgs::read(parse).map(Verb::Stop),
        "restart" => RestartArgs::read(parse).map(Verb::Restart),
        _ => None,
    }
}
