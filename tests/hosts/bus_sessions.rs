//! The service `io.coracle1` for users without the rights of root: build sessions.

use super::bus::{by, host, host_on, is_refused, rule};
use crate::support::{Host, LONG, Output};

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
        ("Shell 'sa{sv}' own 1 offline b true", "unknown option 'offline'"),
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

/// Starts a host whose sessions keep their changes on the disk, with the image `base`.
fn host_with_layers() -> Host {
    let host = host_on(Host::builder().on_disk());
    host.add_guest("busybox", "base");
    host.sh_ok(
        "mkdir -m 700 /var/lib/machines/.storage; mkdir -p /var/lib/coracle /etc/coracle/build.d /var/lib/machines/.files
         ln -s /var/lib/machines/.storage /var/lib/coracle/storage",
    );
    host
}

/// Kills the supervisor of a session.
fn kill_supervisor(host: &Host, name: &str) {
    host.sh_ok(&format!(
        "pid=$(sed -n 's/.*\"supervisor\": *\\([0-9]*\\).*/\\1/p' /run/coracle/{name}/state.json); kill -9 $pid"
    ));
    host.wait_until(LONG, &format!("coracle build list --no-legend | grep -q '^{name} .* dead '"));
}

#[test]
fn a_definition_gives_users_nothing_of_the_host() {
    let host = host_with_layers();
    rule(&host, SESSIONS);
    let define = |name: &str, text: &str| {
        let root = "root.directory = '/var/lib/machines/base'\n";
        host.write(&format!("/etc/coracle/build.d/{name}.toml"), &format!("{root}{text}\n"));
    };
    let mount = "[[mount]]\nsource = '/var/lib/machines/.files'\ntarget = '/mnt'\n";
    for (name, text, key) in [
        ("ids", "users.private = 'no'", "users.private"),
        ("identity", "users.private = 'identity'", "users.private"),
        ("net", "network.mode = 'host'", "network.mode"),
        ("results", "build.results = ['/var/lib/machines/.files']", "build.results"),
        ("caches", "build.caches = ['apt']", "build.caches"),
        ("exposed", "users.private = 'identity'\nbuild.expose = true", "build.expose"),
        ("mapped", &format!("{mount}map-ids = true"), "mount"),
        ("devices", "security.devices = ['/dev/fuse']", "security.devices"),
        ("capable", "security.capabilities.add = ['CAP_SYS_TIME']", "security.capabilities.add"),
        ("calls", "security.syscalls.allow = ['bpf']", "security.syscalls"),
    ] {
        define(name, text);
        let out = by(&host, "ann", &format!("coracle build begin {name}"));
        let message = format!("a session on '{name}' must be run as root: it has '{key}'");
        assert!(out.status == 1 && out.stderr.contains(&message), "{name}: {out}");
    }
    assert_eq!(host.coracle(&["build", "list", "--no-legend"]), "");
    // An option closes what a definition opens, and other definitions are for all.
    by(&host, "ann", "coracle build begin net --name=closed --network=none").success("without the network");
    define("plain", "build.user = 'builder'\nresources.tasks-max = 99");
    by(&host, "ann", "coracle build begin plain --name=own").success("a session");
    assert_eq!(by(&host, "ann", "coracle build run own -- id -un").success("its user").stdout, "builder\n");
    // Neither does a recovery.
    host.coracle(&["build", "begin", "base", "--name=bound", "--bind=/var/lib/machines/.files"]);
    for (name, message) in [("own", "it has 'users.private'"), ("bound", "it has 'mount'")] {
        kill_supervisor(&host, name);
        define("plain", "users.private = 'no'");
        let out = by(&host, "ann", &format!("coracle build recover {name}"));
        assert!(out.status == 1 && out.stderr.contains(message), "{out}");
        define("plain", "build.user = 'builder'");
    }
    by(&host, "ann", "coracle build recover own").success("its own recovery");
    by(&host, "ann", "coracle build end own bound closed").success("the end");
    host.stop();
}

#[test]
fn sessions_that_reach_the_host_are_entered() {
    let host = host_with_layers();
    let nothing = "polkit.addRule(function (action, subject) {\n\
        if (action.id == 'io.coracle1.enter' && action.lookup('unconfined') == 'nothing') {\n\
        return polkit.Result.YES; } });\n";
    rule(&host, &format!("{SESSIONS}{nothing}"));
    host.coracle(&["build", "begin", "base", "--name=plain"]);
    by(&host, "ann", "coracle build run plain -- true").success("a session of root");
    for (name, options) in [
        ("ids", "--users=no"),
        ("identity", "--users=identity"),
        ("net", "--network=host"),
        ("files", "--bind=/var/lib/machines/.files"),
        ("results", "--results=/var/lib/machines/.files"),
    ] {
        host.sh_ok(&format!("coracle build begin base --name={name} {options}"));
        is_refused(&host, &format!("coracle build run {name} -- true"), 125, "enter");
        is_refused(&host, &format!("coracle build shell {name}"), 125, "enter");
    }
    // Files of the user who has begun it are open to no other user.
    host.sh_ok("SUDO_USER=bob SUDO_UID=$(id -u bob) SUDO_GID=$(id -g bob) coracle build begin base --name=sudo --bind=/var/lib/machines/.files");
    is_refused(&host, "coracle build run sudo -- true", 125, "enter");
    rule(&host, &format!("{SESSIONS}{}", nothing.replace("'nothing'", "'binds'")));
    by(&host, "ann", "coracle build run sudo -- true").success("an entry");
    host.coracle(&["build", "clean", "--all"]);
    host.stop();
}

#[test]
fn a_session_of_a_user_has_no_name_of_a_machine() {
    let host = host();
    host.add_guest("busybox", "base");
    host.write("/etc/coracle/machines.d/later.toml", "root.directory = '/srv/later'\n");
    rule(&host, SESSIONS);
    host.coracle(&["stop", "web"]);
    for name in ["web", "base", "later"] {
        let out = by(&host, "ann", &format!("coracle build begin base --name={name}"));
        let message = format!("'{name}' is the name of a machine or an image");
        assert!(out.status == 1 && out.stderr.contains(&message), "{out}");
    }
    for name in ["machines.d", "build.d"] {
        let out = by(&host, "ann", &format!("coracle build begin base --name={name}"));
        assert!(out.status == 2 && out.stderr.contains("invalid machine name"), "{out}");
    }
    // Rules see the name, and an image that changes instead of the session on it.
    let named = "if (action.id == 'io.coracle1.build' && action.lookup('target') == 'dev-1') \
                 { return polkit.Result.YES; }";
    let image = |details: &str| {
        format!(
            "polkit.addRule(function (action, subject) {{ {named}\n\
             if (action.id == 'io.coracle1.images' && {details}) {{ return polkit.Result.YES; }} }});\n"
        )
    };
    rule(&host, &image("action.lookup('machine') == 'dev-1'"));
    is_refused(&host, "coracle build begin base --name=other", 1, "build");
    by(&host, "ann", "coracle build begin base --name=dev-1").success("a session with this name");
    is_refused(&host, "coracle build commit dev-1", 1, "images");
    is_refused(&host, "coracle build commit dev-1 dev-1", 1, "images");
    rule(&host, &image("action.lookup('machine') == 'base' && action.lookup('session') == 'dev-1'"));
    let out = by(&host, "ann", "coracle build commit dev-1");
    assert!(out.status == 1 && out.stderr.contains("changes in memory cannot be committed"), "{out}");
    host.coracle(&["build", "end", "dev-1"]);
    host.stop();
}
