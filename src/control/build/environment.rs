//! `/etc/environment` of a session, parsed as pam_env(8) does: commands get its variables. Called by `run`.

use crate::paths::Paths;
use crate::state::record::Record;
use crate::sys::guest_files::GuestRoot;
use std::path::Path;

/// The largest file that is read, bytes.
const LONGEST: u64 = 64 << 10;
/// The file.
const FILE: &str = "/etc/environment";

/// Returns the variables of a session, with names and values.
pub(super) fn variables(paths: &Paths, record: &Record) -> Vec<(String, String)> {
    let root = match &record.build {
        // The stub of such a session has another root directory.
        Some(build) if build.is_exposed => Some(GuestRoot::of_tree(&paths.session_root(&record.name))),
        _ => record.leader.map(GuestRoot::of_process),
    };
    let Some(Ok(root)) = root else { return Vec::new() };
    let Ok(text) = root.read(Path::new(FILE), LONGEST) else { return Vec::new() };
    parse(&String::from_utf8_lossy(&text))
}

/// Parses lines `NAME=VALUE`, maybe with `export` before them, quotes around the value, and comments. Others are
/// ignored.
fn parse(text: &str) -> Vec<(String, String)> {
    text.lines().filter_map(line).collect()
}

fn line(line: &str) -> Option<(String, String)> {
    // Comments end a line, also within quotes.
    let line = line.split('#').next()?.trim();
    let line = line.strip_prefix("export ").unwrap_or(line);
    let (name, value) = line.split_once('=')?;
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    if name.is_empty() || !name.bytes().all(fits) || value.is_empty() || value.contains('\0') {
        return None;
    }
    let value = match value.strip_prefix(['"', '\'']) {
        Some(quoted) => quoted.strip_suffix(['"', '\'']).unwrap_or(quoted),
        None => value,
    };
    Some((name.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_those_of_pam_env() {
        let text = "# comment\n\n  A=1\nexport B=2 # more\nC=\"a b\"\nD='x\nE=a\"b\"\nF=\nno line\nG H=1\n=x\nI=a=b\n";
        let expected = [("A", "1"), ("B", "2"), ("C", "a b"), ("D", "x"), ("E", "a\"b\""), ("I", "a=b")];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(parse(text), expected);
    }
}
