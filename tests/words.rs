//! The words that users of other tools type: each verb of machinectl, incus, lxc-* and podman is a verb of
//! Coracle or has the hint in `tests/cli/words.toml`. Runs locally, without a host.

#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeSet;
use std::process::{Command, Output};

/// Verbs that end or change a machine. No hint names them for another word, unless that word means the same.
const HARMFUL: &[&str] = &[
    "stop",
    "restart",
    "poweroff",
    "reboot",
    "terminate",
    "kill",
    "freeze",
    "rollback",
    "remove",
    "rename",
    "migrate",
    "convert",
    "read-only",
    "prune",
    "apply",
    "set",
    "disable",
];

/// The words that mean a harmful verb, and that verb.
const SYNONYMS: &[(&str, &[&str])] = &[
    ("remove", &["rm", "delete", "destroy", "rmi"]),
    ("stop", &["down", "halt", "shutdown"]),
    ("freeze", &["pause"]),
    ("prune", &["clean"]),
    ("rename", &["move", "mv"]),
    ("rollback", &["restore"]),
    ("apply", &["diff"]),
    ("set", &["profile", "update-config", "set-limit", "cgroup", "device"]),
];

fn coracle(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_coracle")).args(arguments).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Returns the verbs that `--help` lists.
fn listed() -> BTreeSet<String> {
    let help = String::from_utf8(coracle(&["--help"]).stdout).unwrap();
    let (_, verbs) = help.split_once("Verbs:\n").unwrap();
    let (verbs, _) = verbs.split_once("\n\n").unwrap();
    verbs.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

/// Returns the verbs that a hint names: the words after 'coracle', and a quoted word that is proposed.
fn named(hint: &str) -> Vec<&str> {
    let mut named = Vec::new();
    for quoted in hint.split('\'').skip(1).step_by(2) {
        let mut words = quoted.split(' ');
        match words.next() {
            Some("coracle") => named.extend(words.next().filter(|word| !word.starts_with('-'))),
            Some(word) if words.next().is_none() => named.push(word),
            _ => {}
        }
    }
    named
}

/// Returns the hint and the message for a word that is not a verb.
fn refused(word: &str) -> (String, String) {
    let output = coracle(&[word, "web"]);
    assert_eq!(output.status.code(), Some(2), "{word}: {}", stderr(&output));
    let text = stderr(&output);
    let lines: Vec<&str> = text.lines().collect();
    let [message, hint] = lines[..] else { panic!("{word}: not a message and a hint: {text}") };
    (message.to_owned(), hint.strip_prefix("hint: ").unwrap().to_owned())
}

/// Asserts that a hint names verbs that are listed, and none that is harmful and means something else.
fn assert_harmless(word: &str, hint: &str, listed: &BTreeSet<String>) {
    for verb in named(hint) {
        assert!(listed.contains(verb), "{word}: --help does not list '{verb}': {hint}");
        let means_it = SYNONYMS.iter().any(|(known, words)| *known == verb && words.contains(&word));
        let is_near = strsim::osa_distance(word, verb) <= 1;
        assert!(!HARMFUL.contains(&verb) || means_it || is_near, "{word}: harmful: {hint}");
    }
}

#[test]
fn words_of_other_tools_are_verbs_or_have_their_hint() {
    let text = include_str!("cli/words.toml");
    let tools: toml::Table = text.parse().unwrap();
    let listed = listed();
    let mut wrong = Vec::new();
    for (tool, words) in &tools {
        for (word, expected) in words.as_table().unwrap() {
            let expected = expected.as_str().unwrap();
            if expected == "verb" {
                assert!(coracle(&[word, "--help"]).status.success(), "{tool} {word} is not a verb");
                continue;
            }
            let (message, hint) = refused(word);
            assert_harmless(word, &hint, &listed);
            let seen = match message.ends_with("is not supported yet") {
                true => format!("missing: {hint}"),
                false => hint,
            };
            if seen != expected {
                wrong.push(format!("{tool} {word}: '{seen}', not '{expected}'"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn hints_for_misspelled_verbs_do_no_harm() {
    let listed = listed();
    for verb in &listed {
        for at in 0..verb.len() {
            // One letter less, one more, and two letters less.
            let shorter = format!("{}{}", &verb[..at], &verb[at + 1..]);
            let longer = format!("{}x{}", &verb[..at], &verb[at..]);
            let shortest = format!("{}{}", &verb[..at], verb.get(at + 2..).unwrap_or_default());
            for word in [shorter, longer, shortest] {
                if word.is_empty() || word.starts_with('-') || coracle(&[&word, "--help"]).status.success() {
                    continue;
                }
                let (_, hint) = refused(&word);
                assert_harmless(&word, &hint, &listed);
            }
        }
    }
}

#[test]
fn help_and_version_are_understood_as_verbs() {
    for (verb, option) in [
        (&["help"][..], &["--help"][..]),
        (&["help", "start"], &["start", "--help"]),
        (&["help", "network", "reload"], &["network", "reload", "--help"]),
        (&["version"], &["--version"]),
    ] {
        let (verb, option) = (coracle(verb), coracle(option));
        assert!(verb.status.success(), "{}", stderr(&verb));
        assert_eq!(verb.stdout, option.stdout);
    }
    assert_eq!(coracle(&["help", "nosuch"]).status.code(), Some(2));
}

#[test]
fn options_are_proposed_only_if_they_are_similar() {
    for (line, message, hint) in [
        (
            "run --secret=x",
            "unexpected argument '--secret' found",
            "show the options with 'coracle run --help'",
        ),
        ("logs --folow web", "unexpected argument '--folow' found", "a similar argument exists: '--follow'"),
        ("list --cedential", "unexpected argument '--cedential' found", "usage: coracle list [OPTIONS]"),
    ] {
        let output = coracle(&line.split(' ').collect::<Vec<_>>());
        assert_eq!(stderr(&output), format!("coracle: {message}\nhint: {hint}\n"), "{line}");
        assert_eq!(output.status.code(), Some(2));
    }
}

#[test]
fn columns_are_explained_and_renamed_words_are_gone() {
    let help = String::from_utf8(coracle(&["list", "--help"]).stdout).unwrap();
    let manual = concat!(include_str!("../man/coracle.1"), include_str!("../man/coracle.toml.5"));
    for column in ["STATE", "BOOT", "LEADER", "UPTIME", "UNCONFINED"] {
        assert!(help.contains(column), "'list --help' does not explain {column}");
    }
    assert!(manual.contains("UNCONFINED"));
    for word in ["refit", "walled", "flight", "lived"] {
        let is_it = |text: &str| text.split(|c: char| !c.is_ascii_alphanumeric()).any(|found| found == word);
        assert!(!is_it(manual), "the manual has '{word}'");
        for verb in listed() {
            let help = String::from_utf8(coracle(&[&verb, "--help"]).stdout).unwrap();
            assert!(!is_it(&help), "'{verb} --help' has '{word}'");
        }
    }
}
