//! The changes of build sessions: committed to their base, recovered after a crash, and discarded in a time that
//! does not depend on them.

use crate::support::{Host, LONG, Snapshot};

const STORAGE: &str = "/var/lib/machines/.storage";

/// Starts a host with a base that is a stack.
fn host() -> (Host, Snapshot) {
    let host = Host::builder().guest_as("busybox", "base").on_disk().start();
    host.sh_ok(&format!(
        "mkdir -m 700 {STORAGE}; mkdir -p /var/lib/coracle; ln -s {STORAGE} /var/lib/coracle/storage
         coracle convert base stack"
    ));
    host.activate_machined();
    host.first_session(&[]);
    let before = Snapshot::take(&host);
    (host, before)
}

/// Asserts that nothing of a session is left.
#[track_caller]
fn is_clean(host: &Host, before: &Snapshot) {
    before.assert_same(host);
    host.sh_ok(&format!(
        "! ls -A {STORAGE}/throwaway | grep . && ! ls -A {STORAGE}/trash 2>/dev/null | grep . && ! ls -A {STORAGE}/tmp | grep ."
    ));
}

#[test]
fn a_committed_session_changes_its_base_for_later_ones() {
    let (host, before) = host();
    let in_base =
        |script: &str| host.sh_ok(&format!("coracle build once base -w / -u root -- sh -c '{script}'"));
    host.coracle(&["build", "begin", "base", "--name=old"]);
    host.sh_ok(
        "coracle build begin base --name=new; run() { coracle build run new -u root -- \"$@\"; }
         run sh -c 'echo 1 >/made; rm -r /var/www; chmod 751 /etc; sleep 555 & :' </dev/null
         coracle build commit new | grep -x 'new: committed to its base'; ! coracle build show new 2>/dev/null",
    );
    // A session in progress keeps its layers, and what Coracle has created is not committed.
    host.sh_ok("coracle build run old -- sh -c 'test ! -e /made && test -d /var/www'");
    assert_eq!(in_base("cat /made; stat -c %a:%u /etc; test ! -e /var/www"), "1\n751:0\n");
    host.sh_ok(&format!(
        "cd $(dirname {STORAGE}/layers/*/tree/made)/etc; test ! -e hosts; test ! -e resolv.conf; test ! -e passwd"
    ));
    // One of two commits on the same layers would undo the other.
    host.sh_ok("coracle build run old -u root -- touch /late");
    let output = host.exec(&["coracle", "build", "commit", "old"]);
    assert!(output.status == 1 && output.stderr.contains("has changed since the session began"), "{output}");
    host.sh_ok("coracle build list --no-legend | grep -E '^old .* dead '; coracle build end old");
    is_clean(&host, &before);
    // By one command, and nothing if it fails.
    host.sh_ok("coracle build once base --commit -u root -- sh -c 'echo 2 >/made'");
    host.sh_ok("coracle build once base --commit -u root -- sh -c 'echo 3 >/made; exit 4' || test $? = 4");
    assert_eq!(in_base("cat /made"), "2\n");
    // A new image, on the same layers.
    host.sh_ok(
        "coracle build begin base --name=s; coracle build run s -u root -- sh -c 'echo 4 >/made'
         coracle build commit s other | grep 'image .other.'
         coracle build once other -w / -- cat /made | grep -x 4; coracle build once base -w / -- cat /made | grep -x 2
         coracle build begin base --name=s; if coracle build commit s other 2>/dev/null; then exit 1; fi; coracle build run s -- true
         coracle build end s; coracle remove other",
    );
    // What a machine has written to the base is below the changes.
    host.sh_ok(
        "coracle run -q --mstack=/var/lib/machines/base.mstack -M own -- sh -c 'echo 5 >/own'
         coracle build once base --commit -u root -- sh -c 'cat /own >/copy'",
    );
    assert_eq!(in_base("cat /own /copy"), "5\n5\n");
    is_clean(&host, &before);
    host.stop();
}

#[test]
fn bases_without_layers_are_refused_before_the_command() {
    let (host, before) = host();
    host.sh_ok("coracle clone base plain; coracle convert plain directory; coracle read-only plain no 2>/dev/null || true");
    let output = host.exec(&["coracle", "build", "once", "plain", "--commit", "--", "touch", "/ran"]);
    assert!(output.status == 125 && output.stderr.contains("coracle convert plain stack"), "{output}");
    let output = host.exec(&["coracle", "build", "once", "base", "--commit", "--memory", "--", "true"]);
    assert!(output.stderr.contains("--commit excludes --memory"), "{output}");
    host.sh_ok("coracle build begin base --name=m --memory; coracle build begin plain --name=p");
    for name in ["m", "p"] {
        let output = host.exec(&["coracle", "build", "commit", name]);
        assert_eq!(output.status, 1, "{output}");
        host.sh_ok(&format!("coracle build run {name} -- true; coracle build end {name}"));
    }
    host.sh_ok("coracle remove plain");
    is_clean(&host, &before);
    host.stop();
}

#[test]
fn a_dead_session_is_recovered_with_its_changes() {
    let (host, before) = host();
    host.sh_ok("useradd -u 1234 ann; install -d -o ann -g ann /var/tmp/out");
    host.sh_ok(
        "export SUDO_USER=ann SUDO_UID=1234 SUDO_GID=1234
         coracle build begin base --name=s --results=/var/tmp/out --network=host --tasks-max=200
         coracle build run s -u root -- sh -c 'echo kept >/kept; rm -r /var/www; echo eve:x:77:77::/:/bin/sh >>/etc/passwd'
         coracle build run s -- sh -c 'echo 1 >/results/own; id -u' | grep -x 1234",
    );
    for _ in 0..3 {
        host.sh_ok(&format!("kill -9 {}", host.supervisor("s")));
        host.wait_until(LONG, "coracle build list --no-legend | grep -E '^s .* dead '");
        // The next session leaves it alone, and no machine takes its name.
        host.sh_ok("coracle build once base -w / -- true");
        let output = host.exec(&["coracle", "build", "begin", "base", "--name=s"]);
        assert!(output.status == 1 && output.stderr.contains("build recover s"), "{output}");
        let output = host.exec(&["coracle", "build", "run", "s", "--", "true"]);
        assert!(output.status == 125 && output.stderr.contains("build recover s"), "{output}");
        host.sh_ok(
            "coracle build recover s; run() { coracle build run s \"$@\"; }
             run cat /kept | grep -x kept; run sh -ec 'test ! -e /var/www; grep -q eve /etc/passwd; id -un' | grep -x ann
             run sh -c 'echo 2 >>/results/own'
             systemctl show -P TasksMax coracle-s.scope | grep -x 200
             coracle build show s --json | grep -c argv | grep -v -x 0",
        );
        let output = host.exec(&["coracle", "build", "recover", "s"]);
        assert!(output.status == 1 && output.stderr.contains("is running"), "{output}");
    }
    // Killed while it is recovered, at any time.
    for delay in ["0.001", "0.004", "0.008", "0.012", "0.02", "0.04"] {
        host.sh_ok(&format!("kill -9 {}", host.supervisor("s")));
        host.sh(&format!(
            "coracle build recover s & sleep {delay}; kill -9 $(pgrep -f '[c]oracle build recover'); wait"
        ));
        // The killed supervisor may take a moment to end.
        host.wait_until(
            LONG,
            "coracle build run s -- true 2>/dev/null || { coracle build recover s 2>/dev/null; false; }",
        );
        host.sh_ok("coracle build run s -- cat /kept | grep -x kept");
    }
    // Committed after a crash.
    host.sh_ok(&format!("kill -9 {}", host.supervisor("s")));
    host.wait_until(LONG, "coracle build list --no-legend | grep -E '^s .* dead '");
    host.sh_ok("coracle build commit s; coracle build once base -w / -- cat /kept | grep -x kept");
    host.sh_ok("stat -c %U /var/tmp/out/own | grep -x ann; rm -r /var/tmp/out");
    // Changes in memory are lost.
    host.sh_ok("coracle build begin base --name=m --memory");
    host.sh_ok(&format!("kill -9 {}", host.supervisor("m")));
    host.wait_until(LONG, "coracle build list --no-legend | grep -E '^m .* dead '");
    let output = host.exec(&["coracle", "build", "recover", "m"]);
    assert!(output.status == 1 && output.stderr.contains("are lost"), "{output}");
    host.sh_ok("coracle build end m");
    is_clean(&host, &before);
    host.stop();
}

#[test]
fn an_end_does_not_wait_for_the_removal_of_changes() {
    let (host, before) = host();
    // The supervisor is stopped after its answer, in the removal: the client does not wait for it.
    host.sh_ok(
        "coracle build begin base --name=s
         coracle build run s -u root -- sh -c 'mkdir /many; cd /many; seq 20000 | xargs touch'",
    );
    let supervisor = host.supervisor("s");
    host.sh_ok("coracle build end s | grep '^s: '; ! coracle build show s 2>/dev/null");
    // Its name is free at once.
    host.sh_ok("coracle build begin base --name=s; coracle build end s");
    host.wait_until(LONG, &format!("! test -d /proc/{supervisor}"));
    is_clean(&host, &before);
    // What a killed one has left is removed by the next session.
    host.sh_ok(
        "coracle build begin base --name=s
         coracle build run s -u root -- sh -c 'mkdir /many; cd /many; seq 20000 | xargs touch'
         pid=$(sed -n 's/.*\"supervisor\": \\([0-9]*\\),/\\1/p' /run/coracle/s/state.json); coracle build end s >/dev/null; kill -9 $pid 2>/dev/null || true
         while test -d /proc/$pid; do sleep 0.05; done; coracle build once base -w / -- true",
    );
    is_clean(&host, &before);
    host.stop();
}
