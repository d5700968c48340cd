//! The texts of `--help` and `--version`, from the definition of the options. Called by `nspawn`. Programs
//! search the first one for options and the second one for a version of systemd.

use super::{NspawnArgs, reference};
use crate::cli::verb::RunArgs;
use clap::{Arg, Args, Command};
use std::fmt::Write;

/// The column of the descriptions, and the last one of the text.
const DESCRIPTIONS: usize = 42;
const COLUMNS: usize = 80;

/// Returns the text of `--help`.
pub(super) fn text() -> String {
    let command = NspawnArgs::augment_args(Command::new("systemd-nspawn").disable_help_flag(true));
    let command = RunArgs::augment_args(command);
    let options: Vec<&Arg> = command.get_arguments().filter(|option| is_listed(option)).collect();
    let mut headings: Vec<&str> = Vec::new();
    for option in &options {
        let heading = option.get_help_heading().unwrap_or("Options");
        if !headings.contains(&heading) {
            headings.push(heading);
        }
    }
    let mut text = String::from(
        "systemd-nspawn [OPTIONS...] [PATH] [ARGUMENTS...]\n\n\
         Run a command or a whole system in a machine of coracle.\n",
    );
    for heading in headings {
        let _ = write!(text, "\n{heading}:\n");
        let of_heading = |option: &&&Arg| option.get_help_heading().unwrap_or("Options") == heading;
        options.iter().filter(of_heading).for_each(|option| item(&mut text, option));
    }
    text + "\nSee coracle-nspawn(1) for the differences from systemd-nspawn(1).\n"
}

/// Returns whether an option is in the text.
fn is_listed(option: &Arg) -> bool {
    !option.is_positional() && !option.is_hide_set() && option.get_long().is_none_or(reference::has)
}

/// Writes an option with its description.
fn item(text: &mut String, option: &Arg) {
    let short = option.get_short().map_or_else(|| "  ".to_owned(), |letter| format!("-{letter}"));
    let long = option.get_long().map_or_else(String::new, |name| format!(" --{name}"));
    let value = option.get_action().takes_values().then(|| option.get_value_names()).flatten();
    let value = value.map_or_else(String::new, |names| {
        let is_optional = option.get_num_args().is_some_and(|count| count.min_values() == 0);
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        if is_optional { format!("[={}]", names.join(" ")) } else { format!("={}", names.join(" ")) }
    });
    let mut line = format!("  {short}{long}{value}");
    let description = option.get_help().map(ToString::to_string).unwrap_or_default();
    if line.len() + 2 > DESCRIPTIONS {
        let _ = writeln!(text, "{line}");
        line.clear();
    }
    for word in description.split_whitespace() {
        if line.len() > DESCRIPTIONS && line.len() + word.len() + 1 > COLUMNS {
            let _ = writeln!(text, "{line}");
            line.clear();
        }
        match line.len() {
            length if length < DESCRIPTIONS => line = format!("{line:DESCRIPTIONS$}"),
            _ => line.push(' '),
        }
        line.push_str(word);
    }
    let _ = writeln!(text, "{line}");
}

/// Returns the text of `--version`: in the first line the version of systemd whose options are taken. Callers
/// read the second word, or like mkosi the third one, which is the full version.
pub(super) fn version() -> String {
    format!(
        "systemd {0} ({0}-coracle-{1})\n+SELINUX +APPARMOR +SECCOMP default-hierarchy=unified\n",
        reference::VERSION,
        env!("CARGO_PKG_VERSION")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::argument_table::ArgumentRow;
    use reference::tests::VERSIONS;

    #[test]
    fn the_help_names_every_option() {
        let text = text();
        let (mut run, mut own) = (RunArgs::default(), NspawnArgs::default());
        let names = run.table().iter().chain(&own.table()).filter_map(|row| row.long).collect::<Vec<_>>();
        for name in names.into_iter().filter(|name| reference::has(name)) {
            let is_old = ["private-users-chown", "share-system"].contains(&name);
            let is_named =
                text.split([' ', '=', '[', '\n']).any(|word| word.strip_prefix("--") == Some(name));
            assert_eq!(is_named, !is_old, "{name}: {text}");
        }
        assert!(!text.contains("--dry-run") && !text.contains("--root="), "{text}");
        assert!(text.lines().all(|line| line.len() <= COLUMNS), "{text}");
    }

    #[test]
    fn the_version_is_the_newest_whose_options_are_taken() {
        let (mut run, mut own) = (RunArgs::default(), NspawnArgs::default());
        let mut table: Vec<ArgumentRow<'_>> = run.table();
        table.extend(own.table());
        let missing = VERSIONS.map(|version| (version, reference::tests::missing(version, &table)));
        let complete = missing.iter().rev().find(|(_, missing)| missing.is_empty());
        let newest = complete.map_or(VERSIONS[0], |(version, _)| *version);
        assert_eq!(reference::VERSION, newest, "{missing:?}");
        assert!(version().starts_with(&format!("systemd {newest} ({newest}-coracle-")));
    }
}
