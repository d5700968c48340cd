//! Errors of the command line: converts those of clap to one line and a hint. Called by `parse` of `cli`.

use super::nspawn::{is_nspawn_option, replacement};
use super::{Cli, other_tools};
use crate::error::Error;
use clap::CommandFactory;
use clap::error::{ContextKind, ContextValue, ErrorKind};

/// Verbs that neither end nor change anything: the only ones proposed for words that differ by more than one
/// letter.
const HARMLESS: [&str; 18] = [
    "attach",
    "check",
    "completions",
    "config",
    "copy-from",
    "doctor",
    "exec",
    "images",
    "inspect",
    "list",
    "login",
    "logs",
    "network",
    "shell",
    "show",
    "start",
    "stats",
    "status",
];

/// The largest number of different letters between a typed word and a proposed one.
const DISTANCE: usize = 2;

/// Converts an error of clap: its first paragraph is the message, its tip the hint.
pub(super) fn error(error_of_clap: &clap::Error) -> Error {
    let typed = |kind| match error_of_clap.get(kind) {
        Some(ContextValue::String(word)) => Some(word.as_str()),
        _ => None,
    };
    match error_of_clap.kind() {
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            return Error::usage("a verb is required").with_hint("list the verbs with 'coracle --help'");
        }
        ErrorKind::InvalidSubcommand if command(error_of_clap) == "coracle" => {
            if let Some(word) = typed(ContextKind::InvalidSubcommand) {
                return unknown_verb(word);
            }
        }
        ErrorKind::UnknownArgument => {
            let is_run = command(error_of_clap) == "coracle run";
            let option = typed(ContextKind::InvalidArg).filter(|option| is_run && is_nspawn_option(option));
            if let Some(option) = option {
                let refused = match replacement(option) {
                    Some(reason) => format!("'{option}' is not supported: {reason}"),
                    None => format!("'{option}' is not supported yet"),
                };
                return Error::usage(refused).with_hint("show the options with 'coracle run --help'");
            }
        }
        _ => {}
    }
    other(error_of_clap, typed(ContextKind::InvalidArg))
}

/// Returns the error for a verb that does not exist.
fn unknown_verb(word: &str) -> Error {
    let unknown = || Error::usage(format!("unrecognized verb '{word}'"));
    if let Some(other) = other_tools::find(word) {
        let error = if other.is_supported {
            unknown()
        } else {
            Error::usage(format!("'{word}' is not supported yet"))
        };
        return error.with_hint(other.hint);
    }
    let command = Cli::command();
    let verbs = command.get_subcommands().filter(|verb| !verb.is_hide_set()).map(clap::Command::get_name);
    let nearest = verbs
        .map(|verb| (strsim::osa_distance(word, verb), verb))
        .filter(|(distance, verb)| *distance <= if HARMLESS.contains(verb) { DISTANCE } else { 1 })
        .filter(|(distance, verb)| distance * 2 < verb.len())
        .min();
    match nearest {
        Some((_, verb)) => unknown().with_hint(format!("did you mean '{verb}'?")),
        None => unknown().with_hint("list the verbs with 'coracle --help'"),
    }
}

/// Returns the words before the arguments in the usage text of an error.
fn command(error_of_clap: &clap::Error) -> String {
    let text = error_of_clap.render().to_string();
    let usage = text.lines().find_map(|line| line.strip_prefix("Usage: ")).unwrap_or("coracle");
    let words: Vec<&str> = usage.split(' ').take_while(|word| !word.starts_with(['[', '<', '-'])).collect();
    words.join(" ")
}

/// Converts an error without a rule of its own. `typed` is the argument with the mistake.
fn other(error_of_clap: &clap::Error, typed: Option<&str>) -> Error {
    let text = error_of_clap.render().to_string();
    let (message, rest) = text.split_once("\n\n").unwrap_or((&text, ""));
    let (message, rest) = (message.replace("subcommand", "verb"), rest.replace("subcommand", "verb"));
    let message: Vec<&str> = message.trim_start_matches("error: ").lines().map(str::trim).collect();
    let tip = rest.lines().find_map(|line| line.trim().strip_prefix("tip: "));
    let usage = rest.lines().find_map(|line| line.strip_prefix("Usage: "));
    let error = Error::usage(message.join(" "));
    // That of the parser of the value.
    let source = std::error::Error::source(error_of_clap).and_then(|source| source.downcast_ref::<Error>());
    if let Some(hint) = source.and_then(Error::hint) {
        return error.with_hint(hint);
    }
    let is_near = |tip: &&str| is_near(error_of_clap, typed, tip);
    match (tip, usage) {
        // A misspelled option is rarely meant as a value.
        (Some(tip), Some(_)) if tip.starts_with("to pass ") || !is_near(&tip) => {
            error.with_hint(format!("show the options with '{} --help'", command(error_of_clap)))
        }
        (Some(tip), _) => error.with_hint(tip),
        (None, Some(usage)) => error.with_hint(format!("usage: {usage}")),
        (None, None) => error.with_hint("show the options of a verb with 'coracle VERB --help'"),
    }
}

/// Returns whether the option that clap proposes is similar to the typed one. clap proposes '--setenv' for
/// '--set-credential'.
fn is_near(error_of_clap: &clap::Error, typed: Option<&str>, tip: &str) -> bool {
    let (Some(typed), Some(ContextValue::String(proposed))) =
        (typed, error_of_clap.get(ContextKind::SuggestedArg))
    else {
        return true;
    };
    !tip.contains(proposed.as_str()) || strsim::osa_distance(typed, proposed) <= DISTANCE
}
