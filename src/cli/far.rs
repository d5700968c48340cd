//! `-H HOST`: executes the verb on another host by ssh(1). Nothing listens there; the far side's sudo(8) or polkit(8)
//! decides. Called by `main`.

use crate::error::{Context, Error, Result};
use rustix::termios::isatty;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// The variable that names another program than ssh(1).
const PROGRAM: &str = "CORACLE_SSH";
/// Verbs that need a terminal on the far side if they have one here.
const INTERACTIVE: [&str; 7] = ["exec", "shell", "login", "attach", "top", "edit", "run"];
/// Verbs that read or write files of this host.
const LOCAL_FILES: [&str; 5] = ["copy-to", "copy-from", "import", "export", "provision"];
/// Options of all verbs that read files of this host.
const LOCAL_OPTIONS: [&[u8]; 2] = [b"--root-password-file", b"--ssh-key"];

/// Executes ssh(1) with the verb and its words. Returns only after a failure.
///
/// # Errors
/// An invalid host, a verb about files of this host, or ssh(1) cannot be executed.
pub fn execute(arguments: &[OsString], host: &str) -> Result<u8> {
    let words = words(arguments);
    let verb = verb(&words);
    let mut options = words.iter().take_while(|word| *word != "--");
    let reads_file = |word: &OsString| LOCAL_OPTIONS.iter().any(|name| word.as_bytes().starts_with(name));
    let is_local =
        options.any(reads_file) || verb.is_some_and(|verb| LOCAL_FILES.iter().any(|local| verb == local));
    if let Some(verb) = verb.filter(|_| is_local) {
        let verb = verb.to_string_lossy();
        return Err(Error::usage(format!("'{verb}' cannot be executed on another host"))
            .with_hint("copy the file to that host first, for example with scp(1)"));
    }
    let program = std::env::var_os(PROGRAM).unwrap_or_else(|| "ssh".into());
    let mut ssh = Command::new(&program);
    let (host, port) = parse(host)?;
    port.iter().for_each(|port| {
        ssh.arg("-p").arg(port);
    });
    let is_terminal = isatty(rustix::stdio::stdin()) && isatty(rustix::stdio::stdout());
    if is_terminal && verb.is_some_and(|verb| INTERACTIVE.iter().any(|it| verb == it)) && !is_plain(&words) {
        ssh.arg("-t");
    }
    let mut line = OsString::from("coracle");
    words.iter().for_each(|word| {
        line.push(" ");
        line.push(quoted(word));
    });
    let error = ssh.arg("--").arg(host).arg(line).exec();
    Err(error).context(|| format!("cannot execute '{}'", program.to_string_lossy()))
}

/// Splits `[USER@]HOST[:PORT]`. An IPv6 address with a port is in brackets.
fn parse(host: &str) -> Result<(String, Option<String>)> {
    let invalid = || {
        Error::usage(format!("'{}' is not a host", host.escape_debug()))
            .with_hint("write [USER@]HOST[:PORT]; an IPv6 address with a port in brackets")
    };
    let is_port = |port: &str| port.parse::<u16>().is_ok_and(|port| port != 0);
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !name.contains(':') || name.ends_with(']') => {
            (name, Some(port.to_owned()).filter(|port| is_port(port)).map(Some).ok_or_else(invalid)?)
        }
        _ => (host, None),
    };
    let bare = name.rsplit_once('@').map_or(name, |(_, bare)| bare);
    if bare.is_empty() || name.starts_with('-') || name.contains(char::is_whitespace) {
        return Err(invalid());
    }
    Ok((name.replace(['[', ']'], ""), port))
}

/// Returns the arguments without the program and without the host, which is before the verb.
fn words(arguments: &[OsString]) -> Vec<OsString> {
    let mut words = Vec::new();
    let mut rest = arguments.iter().skip(1);
    while let Some(word) = rest.next() {
        match word.as_bytes() {
            b"-H" | b"--host" => {
                rest.next();
            }
            bytes if bytes.starts_with(b"-H") || bytes.starts_with(b"--host=") => {}
            b"--root" => {
                words.push(word.clone());
                words.extend(rest.next().cloned());
            }
            bytes => {
                words.push(word.clone());
                if !bytes.starts_with(b"-") {
                    words.extend(rest.by_ref().cloned());
                }
            }
        }
    }
    words
}

/// Returns the verb: the first word that is neither an option nor the value of one.
fn verb(words: &[OsString]) -> Option<&OsString> {
    let mut rest = words.iter();
    let mut verb = rest.next();
    while let Some(word) = verb.filter(|word| word.as_bytes().starts_with(b"-")) {
        if word == "--root" {
            rest.next();
        }
        verb = rest.next();
    }
    verb
}

/// Returns whether an option of the verb says that there is no terminal. Behind the second argument,
/// the machine, is the command.
fn is_plain(words: &[OsString]) -> bool {
    let mut rest = words.iter();
    let mut named = 0;
    while let Some(word) = rest.next().filter(|word| *word != "--" && named < 3) {
        match word.as_bytes() {
            b"-T" | b"--no-tty" => return true,
            b"--root" | b"-u" | b"--user" | b"-w" | b"--workdir" | b"-E" | b"--setenv" => {
                rest.next();
            }
            bytes => named += usize::from(!bytes.starts_with(b"-")),
        }
    }
    false
}

/// Quotes a word for a shell.
fn quoted(word: &OsStr) -> OsString {
    let mut quoted = vec![b'\''];
    for byte in word.as_bytes() {
        match byte {
            b'\'' => quoted.extend(b"'\\''"),
            byte => quoted.push(*byte),
        }
    }
    quoted.push(b'\'');
    OsString::from_vec(quoted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_have_users_and_ports() {
        let host = |text| parse(text).ok();
        let expected = |name: &str, port: Option<&str>| Some((name.to_owned(), port.map(str::to_owned)));
        assert_eq!(host("web"), expected("web", None));
        assert_eq!(host("admin@web:22"), expected("admin@web", Some("22")));
        assert_eq!(host("fd00::1"), expected("fd00::1", None));
        assert_eq!(host("admin@[fd00::1]:2222"), expected("admin@fd00::1", Some("2222")));
        for bad in ["", "-oProxyCommand=x", "web:0", "web:x", "a b", "admin@", "web:"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_host_is_removed_before_the_verb_only() {
        let all = |line: &str| -> Vec<OsString> { line.split(' ').map(OsString::from).collect() };
        for line in [
            "coracle -H web exec a curl -H x",
            "coracle --host=web exec a curl -H x",
            "coracle -Hweb exec a curl -H x",
        ] {
            assert_eq!(words(&all(line)), all("exec a curl -H x"), "{line}");
        }
        assert_eq!(words(&all("coracle --root /x -H web list")), all("--root /x list"));
    }

    #[test]
    fn the_verb_is_found_behind_options() {
        let all = |line: &str| -> Vec<OsString> { line.split(' ').map(OsString::from).collect() };
        for line in ["copy-to a f", "--root /x copy-to a f", "--root=/x --debug copy-to a f"] {
            assert_eq!(verb(&all(line)), Some(&OsString::from("copy-to")), "{line}");
        }
        assert_eq!(verb(&all("--root /x")), None);
        assert!(is_plain(&all("exec -u app -T web sh")) && is_plain(&all("exec web --no-tty sh")));
        assert!(!is_plain(&all("exec web ssh -T x")) && !is_plain(&all("exec -E -T web sh")));
    }

    #[test]
    fn words_are_quoted() {
        assert_eq!(quoted(OsStr::new("it's $x")), OsString::from(r"'it'\''s $x'"));
    }
}
