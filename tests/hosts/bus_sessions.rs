//! The service `io.coracle1` for users without the rights of root: build sessions.

use super::bus::{by, host, is_refused, rule};
use crate::support::{LONG, Output};

/// The rule that lets `ann` use sessions.
const SESSIONS: &str = "polkit.addRule(function (action, subject) {\n\
    if (action.id == 'io.coracle1.build' && subject.user == 'ann') { return polkit.Result.YES; } });\n";

/// Returns status and both streams, without the notice of a host whose store cannot hold layers: those of a job are in
/// the journal.
fn of(out: &Output) -> (i32, &str, String) {
    let lines = out.stderr.lines().filter(|line| !line.contains("changes are kept in memory"));
    (out.status, &out.stdout, lines.collect::<Vec<_>>().join("\n"))
}

#[test]
fn sessions_are_those_of_root() {
    let host = host();
    host.add_guest("busybox", "base");
    host.coracle(&["build", "begin", "base", "--name=own"]);
    is_refused(&host, "coracle build begin base", 1, "build");
    is_refused(&host, "coracle build run own -- true", 125, "build");
    is_refused(&host, "coracle build run --failure-status=77 own -- true", 77, "build");
    is_refused(&host, "coracle build shell own", 125, "build");
    is_refused(&host, "coracle build end own", 1, "build");
    is_refused(&host, "coracle build recover own", 1, "build");
    is_refused(&host, "coracle build clean", 1, "build");
    by(&host, "ann", "coracle build list").success("the list is for all");
    rule(&host, SESSIONS);
    assert_eq!(
        by(&host, "ann", "coracle build begin base --name=two --lifetime=2h").success("a session").stdout,
        "two\n"
    );
    for line in [
        "printf x | coracle build run own -- sh -c 'cat; echo e >&2; exit 7'",
        "coracle build run -E A='x y' -w /tmp own -- sh -c 'pwd; echo $A; id -u'",
        "coracle build run --timeout=1s own -- sleep 100",
        "coracle build run --max-status=3 own -- sh -c 'exit 9'",
        "coracle build run own -- /no/such",
        "coracle build run --failure-status=99 own -- /no/such",
        "coracle build run no-such -- true",
        "coracle build run --failure-status=99 no-such -- true",
        "coracle build end no-such",
        "coracle build begin no-such",
        "coracle build begin base --name=own",
        "coracle build recover own",
        "coracle build clean",
    ] {
        let (root, user) = (host.sh(line), by(&host, "ann", line));
        assert_eq!(of(&user), of(&root), "{line}");
    }
    // Neither files, ids nor the network of the host; and no session on another tree than an image.
    for option in
        ["--bind=/etc", "--results=/tmp", "--cache=apt", "--users=no", "--network=host", "--while=1"]
    {
        let out = by(&host, "ann", &format!("coracle build begin base {option}"));
        assert!(out.status == 1 && out.stderr.contains("needs root"), "{option} {out}");
    }
    let out = by(&host, "ann", "coracle build begin /");
    assert!(out.status == 1 && out.stderr.contains("needs root"), "{out}");
    for (call, message) in [
        ("Begin 'sa{sv}' / 0", "invalid machine name"),
        ("Begin 'sa{sv}' base 1 bind s /etc", "unknown option 'bind'"),
        ("Begin 'sa{sv}' base 1 network s host", "use one of none, nat"),
        ("Run 'sasa{sv}' own 0 0", "the command is empty"),
    ] {
        let line = format!("busctl call -- io.coracle1 /io/coracle1 io.coracle1.Session {call}");
        let out = by(&host, "ann", &line);
        assert!(out.status != 0 && out.stderr.contains(message), "{call}: {out}");
    }
    // A commit changes an image.
    is_refused(&host, "coracle build commit own new", 1, "images");
    assert!(by(&host, "ann", "coracle build end own two").success("the end").stdout.contains("two"));
    assert_eq!(host.coracle(&["build", "list", "--no-legend"]), "");
    host.wait_until(LONG, "! systemctl list-units --no-legend 'coracle-job-*' | grep .");
    host.stop();
}
