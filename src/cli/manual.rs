//! The OPTIONS sections of coracle(1) and coracle-build(1), generated from the command line. Called by the test
//! that compares the pages with it, and rewrites them with BLESS=1.

use super::Cli;
use clap::{Arg, Command, CommandFactory};
use std::fmt::Write;

/// The verb with a page of its own.
const BUILD: &str = "build";

/// Returns the actions of `coracle build` and their options in roff.
pub fn build_options() -> String {
    let mut command = Cli::command();
    command.build();
    let mut roff = String::new();
    if let Some(build) = command.find_subcommand(BUILD) {
        verbs(&mut roff, build, "coracle build");
    }
    roff
}

/// Returns the verbs and their options in roff, but for those with a page of their own.
pub fn options() -> String {
    let mut command = Cli::command();
    command.build();
    let mut roff = String::new();
    section(
        &mut roff,
        "Options of all verbs",
        command.get_arguments().filter(|arg| !arg.is_positional() && !arg.is_hide_set()),
    );
    verbs(&mut roff, &command, "coracle");
    roff
}

/// Writes the visible verbs of a command, each followed by the verbs below it.
fn verbs(roff: &mut String, command: &Command, path: &str) {
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        let path = format!("{path} {}", verb.get_name());
        let _ = writeln!(roff, ".SS {}\n{}.", escape(&synopsis(verb, &path)), escape(&about(verb)));
        if verb.get_name() == BUILD {
            let _ = writeln!(roff, "See\n.BR coracle\\-build (1).");
            continue;
        }
        own_options(verb).for_each(|option| item(roff, option));
        verbs(roff, verb, &path);
    }
}

fn section<'a>(roff: &mut String, title: &str, options: impl Iterator<Item = &'a Arg>) {
    let _ = writeln!(roff, ".SS {}", escape(title));
    for option in options {
        item(roff, option);
    }
}

/// Returns the visible options of a verb without the options of all verbs.
fn own_options(verb: &Command) -> impl Iterator<Item = &Arg> {
    let is_own = |arg: &&Arg| !arg.is_positional() && !arg.is_global_set() && arg.get_id() != "help";
    verb.get_arguments().filter(is_own).filter(|arg| !arg.is_hide_set())
}

fn synopsis(verb: &Command, title: &str) -> String {
    let mut line = title.to_owned();
    for positional in verb.get_positionals() {
        let name = positional.get_value_names().map(|names| names.join(" ")).unwrap_or_default();
        let many = if matches!(positional.get_action(), clap::ArgAction::Append) { "…" } else { "" };
        let _ = match positional.is_required_set() {
            true => write!(line, " {name}{many}"),
            false => write!(line, " [{name}{many}]"),
        };
    }
    line
}

fn about(verb: &Command) -> String {
    verb.get_about().map(ToString::to_string).unwrap_or_default()
}

fn item(roff: &mut String, option: &Arg) {
    let mut names = Vec::new();
    let value = option
        .get_action()
        .takes_values()
        .then(|| option.get_value_names().map(|names| names.join(" ")))
        .flatten();
    if let Some(short) = option.get_short() {
        let value = value.as_ref().map(|value| format!(" {value}")).filter(|_| option.get_long().is_none());
        names.push(format!("-{short}{}", value.unwrap_or_default()));
    }
    if let Some(long) = option.get_long() {
        let optional = option.get_num_args().is_some_and(|number| number.min_values() == 0);
        let value = value.map(|value| if optional { format!("[={value}]") } else { format!("={value}") });
        names.push(format!("--{long}{}", value.unwrap_or_default()));
    }
    let help = option.get_help().map(ToString::to_string).unwrap_or_default();
    let _ = writeln!(roff, ".TP\n.B {}\n{}.", escape(&names.join(", ")), escape(&help));
    let words: Vec<String> =
        option.get_possible_values().iter().map(|word| word.get_name().to_owned()).collect();
    if option.get_action().takes_values() && !words.is_empty() {
        let _ = writeln!(roff, "One of {}.", escape(&words.join(", ")));
    }
}

/// Escapes backslashes, minus signs and leading control characters of roff.
fn escape(text: &str) -> String {
    let escaped = text.replace('\\', "\\e").replace('-', "\\-").replace('…', "\\|.\\|.\\|.");
    if escaped.starts_with(['.', '\'']) { format!("\\&{escaped}") } else { escaped }
}
