//! Checks the shell scripts in the tests. With `sh -e` a refusal (`! command`) ends the script only as its last command.

use super::source::sources_of;

/// Returns the refusals in the text of a file whose failure nobody sees: another command follows.
fn silent_refusals(text: &str) -> Vec<&str> {
    let mut lines = text.lines().map(str::trim).filter(|line| !line.starts_with("//")).peekable();
    let mut found = Vec::new();
    while let Some(line) = lines.next() {
        let is_last = lines.peek().is_none_or(|next| next.starts_with('"')) || line.ends_with('\\');
        let commands: Vec<&str> = line.split(';').collect();
        let (last, others) = commands.split_last().expect("a line has a part");
        let is_silent = |part: &str| {
            let command = part.rsplit('"').next().unwrap_or(part).trim_start();
            command.starts_with("! ") && !command.contains(['\'', '&', '|'])
        };
        let ends = !is_last && !last.contains('"') && is_silent(last);
        if ends || others.iter().any(|part| is_silent(part)) {
            found.push(line);
        }
    }
    found
}

#[test]
fn refusals_in_scripts_are_seen() {
    let silent = |source: &super::source::Source| {
        let lines = silent_refusals(&source.raw).into_iter();
        lines.map(|line| format!("tests/{}: {line}", source.path.display())).collect::<Vec<_>>()
    };
    let sources = sources_of("tests");
    let others = sources.iter().filter(|source| !source.path.starts_with("architecture"));
    let wrong: Vec<String> = others.flat_map(silent).collect();
    super::none(&wrong);
}

#[test]
fn silent_refusals_are_found() {
    let script = |lines: &[&str]| silent_refusals(&lines.join("\n")).len();
    assert_eq!(script(&["sh(\"! test -e a; test -e b\")"]), 1);
    assert_eq!(script(&["\"test -e b", "! test -e a", "test -e c\""]), 1);
    assert_eq!(script(&["\"test -e b; ! test -e a\""]), 0);
    assert_eq!(script(&["\"test -e b", "! test -e a", "\""]), 0);
    assert_eq!(script(&["\"if ! test -e b; then exit 1; fi\""]), 0);
}
