//! Users of `coracle exec` and `coracle shell` that getent(1) of the machine knows, and passwd(5) does not.

use crate::support::Host;

/// Runs commands with the memory of the caller, and with a copy for a terminal.
const WAYS: [&str; 2] = ["-T", "-t"];

/// Starts a host and a machine of which nss-systemd(8) knows the user `ann` and the groups `crew` and `more`.
fn host(definition: &str) -> Host {
    let host = Host::builder().guest_as("trixie", "m").start();
    let root = "/var/lib/machines/m";
    host.write(&format!("{root}/etc/nsswitch.conf"), "passwd: files systemd\ngroup: files systemd\n");
    for (file, text) in [
        (
            "ann.user",
            r#"{"userName":"ann","uid":3000,"gid":3001,"homeDirectory":"/srv","shell":"/bin/dash","disposition":"regular"}"#,
        ),
        ("crew.group", r#"{"groupName":"crew","gid":3001,"disposition":"regular"}"#),
        ("more.group", r#"{"groupName":"more","gid":3005,"disposition":"regular"}"#),
        ("ann:more.membership", "{}"),
    ] {
        host.sh_ok(&format!("mkdir -p {root}/etc/userdb"));
        host.write(&format!("{root}/etc/userdb/{file}"), text);
    }
    host.define("m", definition);
    host.start_machine("m");
    host
}

/// Asserts that all commands of the user run with its ids.
#[track_caller]
fn assert_finds_users(host: &Host) {
    let ids = "echo $(id -u) $(id -g) $(id -G); pwd; echo $HOME $USER $SHELL";
    for way in WAYS {
        for (user, expected) in [
            ("ann", "3000 3001 3001 3005\n/srv\n/srv ann /bin/dash\n"),
            ("ann:more", "3000 3005 3005\n/srv\n/srv ann /bin/dash\n"),
            ("nobody:more", "65534 3005 3005\n/\n/ nobody /usr/sbin/nologin\n"),
            ("7:more", "7 3005 3005\n"),
        ] {
            let out = host.sh_ok(&format!("coracle exec {way} m -u {user} -- sh -c '{ids}' </dev/null"));
            assert!(out.replace('\r', "").starts_with(expected), "{way} {user}: {out}");
        }
        let unknown = host.sh(&format!("coracle exec {way} m -u nothere -- true </dev/null"));
        assert_eq!(unknown.status, 125, "{way}: {unknown}");
        assert!(unknown.stderr.contains("user 'nothere' does not exist in machine 'm'"), "{way}: {unknown}");
    }
    let shell = host.sh_ok("echo 'echo $0; id -u' | coracle shell -u ann m");
    assert!(shell.contains("-dash") && shell.contains("3000"), "{shell}");
}

#[test]
fn exec_finds_users_of_getent() {
    let host = host("");
    assert_finds_users(&host);
    // The streams are those of the command, not of getent.
    assert_eq!(host.sh_ok("echo typed | coracle exec m -u ann -- cat"), "typed\n");
    assert_eq!(host.sh("coracle exec m -u ann -- sh -c 'exit 7'").status, 7);
    host.stop();
}

#[test]
fn exec_finds_users_of_getent_without_private_users() {
    let host = host("[users]\nprivate = \"no\"\n");
    assert_finds_users(&host);
    host.stop();
}

#[test]
fn a_hostile_getent_harms_only_the_call() {
    let host = host("");
    let getent = |script: &str| {
        let root = "/var/lib/machines/m/usr/bin";
        host.sh_ok(&format!(
            "rm {root}/getent; printf '#!/bin/sh\\n%s\\n' '{script}' >{root}/getent; chmod 755 {root}/getent"
        ));
    };
    for (script, message) in [
        ("exec yes", "'getent passwd' of the machine failed: its output is longer than 65536 bytes"),
        ("echo ann:x:-1:0::/:/bin/sh", "'getent passwd' of the machine returned an invalid entry"),
        ("exit 3", "'getent passwd' of the machine failed: exit status 3"),
        ("kill -9 $$", "'getent passwd' of the machine failed: killed by signal 9"),
        ("exit 2", "user 'ann' does not exist in machine 'm'"),
        (
            "[ $1 = passwd ] && echo ann:x:1:1::/: || echo ann x",
            "'getent initgroups' of the machine returned",
        ),
    ] {
        getent(script);
        let out = host.sh("coracle exec m -u ann -- echo ran </dev/null");
        assert_eq!((out.status, out.stdout.as_str()), (125, ""), "{script}: {out}");
        assert!(out.stderr.contains(message), "{script}: {out}");
    }
    // It does not see the streams of the caller, and has no more rights than the command.
    getent(
        "cat; readlink /proc/self/fd/0 /proc/self/fd/2 >/run/seen; grep CapEff /proc/self/status >>/run/seen; exit 2",
    );
    host.sh("echo secret | coracle exec m -u ann -- true");
    assert_eq!(
        host.sh_ok("coracle exec m -- sh -c 'cat /run/seen'"),
        format!("/dev/null\n/dev/null\n{}", host.sh_ok("coracle exec m -- grep CapEff /proc/self/status"))
    );
    // A signal ends the wait.
    getent("exec sleep 1000");
    let out = host.sh("timeout -k 15 -s INT 2 coracle exec m -u ann -- true </dev/null");
    assert!(out.stderr.contains("'getent passwd' of the machine failed: interrupted"), "{out}");
    host.sh_ok("! coracle exec m -- pgrep -x sleep");
    host.sh_ok("coracle exec m -- rm /usr/bin/getent");
    let out = host.sh("coracle exec m -u ann -- true </dev/null");
    assert!(out.stderr.contains("user 'ann' does not exist in machine 'm'"), "{out}");
    host.stop();
}
