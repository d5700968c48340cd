//! Command lines of systemd-nspawn(1), compared with what that program does.

use super::Reply;
use crate::cli::nspawn::Nspawn;
use crate::error::Result;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

/// Parses the words of a line.
fn parsed(line: &str) -> Result<Nspawn> {
    of(line.split_whitespace().map(OsString::from).collect())
}

fn of(words: Vec<OsString>) -> Result<Nspawn> {
    let line = [vec![OsString::from("systemd-nspawn")], words].concat();
    Nspawn::read(&line).map(|(nspawn, _)| nspawn)
}

#[track_caller]
fn refused(line: &str, message: &str) {
    let error = parsed(line).unwrap_err();
    assert_eq!((error.to_string().as_str(), error.hint()), (message, None), "{line}");
}

#[test]
fn the_first_other_word_ends_the_options() {
    for (line, command) in [
        ("-D /t sh -q --boot", "sh -q --boot"),
        ("-D /t -- -q", "-q"),
        ("-D /t sh -- -q", "sh -- -q"),
        ("-D /t - -q", "- -q"),
        ("-D /t -- -- -q", "-- -q"),
        ("-D /t", ""),
    ] {
        let run = parsed(line).unwrap().run;
        let words: Vec<&str> = run.command.iter().filter_map(|word| word.to_str()).collect();
        assert_eq!((words.join(" ").as_str(), run.quiet, run.boot), (command, false, false), "{line}");
    }
    let run = of(["-D", "/t", "", "-q"].map(OsString::from).into()).unwrap().run;
    assert_eq!(run.command, ["", "-q"]);
}

#[test]
fn values_are_attached_or_the_next_word() {
    for line in ["-M web", "-Mweb", "--machine=web", "--machine web", "--machi web", "-bqMweb", "-qbM web"] {
        assert_eq!(parsed(line).unwrap().run.machine.as_deref(), Some("web"), "{line}");
    }
    // Any word is a value, and an equals sign after a letter belongs to it.
    assert_eq!(parsed("--machine -q").unwrap().run.machine.as_deref(), Some("-q"));
    assert_eq!(parsed("-M -- -q").unwrap().run.machine.as_deref(), Some("--"));
    assert_eq!(parsed("-M=web").unwrap().run.machine.as_deref(), Some("=web"));
    assert_eq!(parsed("--setenv=A=b").unwrap().run.setenv, ["A=b"]);
    let run = parsed("--volatile state --private-users pick").unwrap().run;
    assert_eq!((run.volatile.as_deref(), run.private_users), (Some("yes"), None));
    assert_eq!(run.command, ["state", "--private-users", "pick"]);
    let run = parsed("--volatile=state --private-users=pick").unwrap().run;
    assert_eq!((run.volatile.as_deref(), run.private_users.as_deref()), (Some("state"), Some("pick")));
}

#[test]
fn the_last_of_repeated_options_counts() {
    let run = parsed("-q -q -M a -M b -E A=1 -E B=2 --bind=/a --bind /b").unwrap().run;
    assert_eq!(
        (run.quiet, run.machine.as_deref(), run.setenv.len(), run.mounts.bind.len()),
        (true, Some("b"), 2, 2)
    );
    let run = parsed("-P --console=passive").unwrap().run;
    assert_eq!((run.pipe, run.console.as_deref()), (false, Some("passive")));
    let run = parsed("--console=passive -P").unwrap().run;
    assert_eq!((run.pipe, run.console), (true, None));
    let run = parsed("--private-users-ownership=map -U --private-users=no").unwrap().run;
    assert_eq!((run.user_namespace, run.private_users.as_deref()), (false, Some("no")));
    assert_eq!(run.private_users_ownership.as_deref(), Some("map"));
    assert!(parsed("--private-users=no -U").unwrap().run.user_namespace);
}

#[test]
fn an_empty_value_sets_the_default() {
    let run = parsed("-M web --hostname x --machine= --hostname= -u x --uid=").unwrap().run;
    assert_eq!((run.machine, run.hostname, run.uid), (None, None, None));
}

#[test]
fn the_older_meaning_of_user_has_a_value() {
    assert_eq!(parsed("--user=ann true").unwrap().own.user.as_deref(), Some("ann"));
    let nspawn = parsed("--user ann true").unwrap();
    assert_eq!((nspawn.own.user.as_deref(), nspawn.run.command.len()), (Some("ann"), 1));
    assert_eq!(parsed("--user -q true").unwrap().own.user.as_deref(), Some(""));
    let nspawn = parsed("--user --system").unwrap();
    assert_eq!((nspawn.own.user, nspawn.own.system), (None, true));
}

#[test]
fn errors_are_those_of_getopt() {
    refused("--x", "unrecognized option '--x'");
    refused("--x=1", "unrecognized option '--x'");
    refused("-y", "unrecognized option '-y'");
    refused("-qy", "unrecognized option '-y'");
    refused("-U=3", "unrecognized option '-='");
    refused("-D", "option '-D' requires an argument");
    refused("-bqD", "option '-D' requires an argument");
    refused("--directory", "option '--directory' requires an argument");
    refused("--boot=yes", "option '--boot' doesn't allow an argument");
    refused("--roo=/", "option '--roo' is ambiguous; possibilities: --root-hash, --root-hash-sig");
    refused("--notify-ready=maybe", "invalid value: '--notify-ready=maybe'");
    let words = vec![OsString::from_vec(b"-M\xff".to_vec())];
    assert_eq!(of(words).unwrap_err().to_string(), "invalid value: '-M \u{fffd}'");
}

#[test]
fn own_options_and_those_of_later_versions_are_refused() {
    for line in ["--dry-run", "--debug", "--rootless"] {
        assert!(parsed(line).unwrap_err().to_string().starts_with("unrecognized option"), "{line}");
    }
    let mut run = crate::cli::verb::RunArgs::default();
    for name in super::reference::others(&run.table()) {
        let refused = parsed(&format!("--{name}=x")).err().map(|error| error.to_string());
        let is_own = refused.as_ref().is_none_or(|message| message.contains("doesn't allow"));
        assert!(is_own || refused == Some(super::reference::refusal(name)), "{refused:?}");
    }
}

#[test]
fn texts_are_requested_before_later_words() {
    for (line, expected) in [
        ("n --version --x", Some(Reply::Option("version"))),
        ("n -qh", Some(Reply::Option("help"))),
        ("n --help=", None),
        ("n --resolv-conf=help", Some(Reply::Words("resolv-conf"))),
        ("n --console help --x", Some(Reply::Words("console"))),
        ("n -M help", Some(Reply::Complete)),
        ("n --x --version", None),
        ("n true --version", Some(Reply::Complete)),
    ] {
        let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
        assert_eq!(Nspawn::read(&words).map(|(_, reply)| reply).ok(), expected, "{line}");
    }
}
