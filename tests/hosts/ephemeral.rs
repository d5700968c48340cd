//! Roots whose changes are discarded: on the disk, in memory, and the volatile modes of systemd-nspawn.

use crate::support::{Host, LONG, Snapshot};

const BASE: &str = "/var/lib/machines/base";
const STORAGE: &str = "/var/lib/machines/.storage/throwaway";

/// Starts a host with a tree, and with the store beside it: the host's own root is an overlay.
fn host() -> Host {
    let host = Host::builder().guest_as("busybox", "base").on_disk().start();
    host.sh_ok(
        "mkdir -m 700 /var/lib/machines/.storage; mkdir -p /var/lib/coracle
         ln -s /var/lib/machines/.storage /var/lib/coracle/storage
         cat >/usr/local/bin/list <<'EOF'\n#!/bin/sh\ncd \"$1\" && find . -printf '%P %y %m %U:%G %s %l\\n' | sort && \
         find . -type f -exec md5sum {} + | sort\nEOF
         chmod 755 /usr/local/bin/list; list /var/lib/machines/base >/tmp/before",
    );
    host.activate_machined();
    host
}

/// Asserts that the tree is as before, and that no throw-away layer is left.
#[track_caller]
fn is_unchanged(host: &Host) {
    host.sh_ok(&format!("list {BASE} | diff /tmp/before -; ! ls -A {STORAGE} 2>/dev/null | grep ."));
}

#[test]
fn ephemeral_machines_share_a_tree_and_leave_nothing() {
    let host = host();
    host.coracle(&["run", "-q", "-x", "-D", BASE, "true"]);
    let before = Snapshot::take(&host);
    for (name, users, kind) in [
        ("a", "pick", "true"),
        ("b", "no", "\"disk\""),
        ("c", "pick", "\"memory\""),
        ("d", "no", "\"memory\""),
    ] {
        host.define(
            name,
            &format!("[root]\ndirectory = \"{BASE}\"\nephemeral = {kind}\n[users]\nprivate = \"{users}\"\n"),
        );
        host.coracle(&["start", name]);
        host.sh_ok(&format!(
            "coracle exec {name} -- sh -c 'echo {name} >/which; rm -r /var/www; mkdir /var/www; chown 33 /var/www'"
        ));
    }
    for name in ["a", "b", "c", "d"] {
        host.sh_ok(&format!(
            "coracle exec {name} -- sh -ec 'grep {name} /which; stat -c %u /var/www | grep -x 33'"
        ));
    }
    host.sh_ok(&format!("ls {STORAGE} | wc -l | grep -x 2; stat -c %a {STORAGE} | grep -x 700"));
    host.coracle(&["stop", "a"]);
    host.kill_supervisor("b");
    host.wait_for_unit("b", "failed");
    host.kill_supervisor("c");
    host.wait_for_unit("c", "failed");
    host.coracle(&["stop", "d"]);
    host.sh_ok("systemctl reset-failed");
    before.assert_same(&host);
    is_unchanged(&host);
    // In the foreground, also after a kill: the next start of any ephemeral machine removes what is left.
    let job = host.spawn(&["coracle", "run", "-q", "-x", "-D", BASE, "-M", "e", "sleep", "600"]);
    host.wait_until(LONG, "coracle exec e -- true");
    host.sh_ok("kill -9 $(sed -n 's/.*\"supervisor\": \\([0-9]*\\),/\\1/p' /run/coracle/e/state.json)");
    job.wait(LONG);
    host.sh_ok(&format!("mkdir -p {STORAGE}/left/0/data"));
    host.coracle(&["run", "-q", "-x", "-D", BASE, "-M", "f", "true"]);
    before.assert_same(&host);
    is_unchanged(&host);
    host.stop();
}

#[test]
fn an_interface_of_a_killed_machine_is_free_for_another_one() {
    let host = host();
    host.sh_ok(
        "ip link add row0 type veth peer name row1; ip link property add dev row0 altname rowalternative",
    );
    let before = Snapshot::take(&host);
    let run = ["coracle", "run", "-q", "-D", BASE, "--network-interface=row0"];
    let job = host.spawn(&[&run[..], &["-M", "a", "sleep", "600"]].concat());
    host.wait_until(LONG, "coracle exec a -- ls /sys/class/net/row0");
    host.sh_ok("kill -9 $(sed -n 's/.*\"supervisor\": \\([0-9]*\\),/\\1/p' /run/coracle/a/state.json)");
    job.wait(LONG);
    // Its machine holds the lock of its name while it is running.
    let second = host.spawn(&[&run[..], &["-M", "b", "sleep", "600"]].concat());
    host.wait_until(LONG, "coracle exec b -- ls /sys/class/net/row0");
    let third = host.exec(&[&run[..], &["-M", "c", "true"]].concat());
    assert!(third.status == 125 && third.stderr.contains("'row0'"), "{third}");
    host.sh_ok("coracle exec b -- ls /sys/class/net/row0; coracle stop b");
    second.wait(LONG);
    before.assert_same(&host);
    host.sh_ok("ip link show rowalternative");
    host.stop();
}

#[test]
fn a_reboot_keeps_changes_unless_they_are_to_be_fresh() {
    let host = host();
    let before = Snapshot::take(&host);
    for kind in ["disk", "memory"] {
        for fresh in [false, true] {
            host.define(
                "web",
                &format!(
                    "[root]\ndirectory = \"{BASE}\"\nephemeral = \"{kind}\"\nfresh-on-reboot = {fresh}\n"
                ),
            );
            host.coracle(&["start", "web"]);
            for round in 0..2 {
                let expected = if fresh && round == 1 { "test ! -e /kept" } else { "true" };
                host.sh_ok(&format!(
                    "coracle exec web -- sh -ec '{expected}; echo >>/kept; rm -f /etc/hostname'"
                ));
                let leader = host.machine_leader("web");
                host.ask_in_guest("web", &["reboot"]);
                host.wait_for_reboot("web", leader);
                host.wait_until(LONG, "coracle exec web -- true");
            }
            let lines = host.exec(&["coracle", "exec", "web", "--", "sh", "-c", "cat /kept | wc -l"]);
            assert_eq!(lines.stdout.trim(), if fresh { "0" } else { "2" }, "{kind} {fresh} {lines}");
            host.coracle(&["stop", "web"]);
            host.assert_clean_stop("web");
            before.assert_same(&host);
            is_unchanged(&host);
        }
    }
    host.stop();
}

#[test]
fn volatile_roots_are_those_of_nspawn() {
    let host = host();
    host.sh_ok(&format!("mkdir {BASE}/var/kept; list {BASE} >/tmp/before"));
    let before = Snapshot::take(&host);
    for users in ["pick", "no"] {
        let run = format!("coracle run -q --private-users={users} -D {BASE}");
        let run = if users == "pick" { format!("{run} --private-users-ownership=map") } else { run };
        host.sh_ok(&format!(
            "{run} --volatile sh -c 'set -e; test ! -e /var/kept; touch /new /etc/new; if touch /usr/new 2>/dev/null; then exit 1; fi
             stat -c %u / /usr /bin/sh | sort -u | grep -x 0'
             {run} --volatile=state sh -c 'set -e; test ! -e /var/kept; touch /var/new; ! touch /new 2>/dev/null'
             {run} --volatile=overlay sh -c 'set -e; test -e /var/kept; touch /var/new /new /usr/new; rm /etc/passwd'
             {run} --volatile=no --read-only sh -c 'test -e /var/kept && ! touch /new 2>/dev/null'
             {run} -x --read-only sh -c 'test -e /var/kept && ! touch /new 2>/dev/null'"
        ));
        // Of a machine that boots; a reboot begins afresh.
        host.define(
            "web",
            &format!(
                "[root]\ndirectory = \"{BASE}\"\nvolatile = \"overlay\"\n[users]\nprivate = \"{users}\"\n"
            ),
        );
        host.coracle(&["start", "web"]);
        host.sh_ok("coracle exec web -- touch /new");
        let leader = host.machine_leader("web");
        host.ask_in_guest("web", &["reboot"]);
        host.wait_for_reboot("web", leader);
        host.wait_until(LONG, "coracle exec web -- test ! -e /new");
        host.coracle(&["stop", "web"]);
        host.assert_clean_stop("web");
        before.assert_same(&host);
        is_unchanged(&host);
    }
    let refused = host.exec(&["coracle", "run", "-x", "--volatile", "-D", BASE, "true"]);
    assert!(refused.status != 0 && refused.stderr.contains("exclude each other"), "{refused}");
    host.sh_ok(&format!("cd {BASE}; rm bin; cp -a usr/bin bin"));
    let refused = host.exec(&["coracle", "run", "--volatile", "-D", BASE, "true"]);
    assert!(refused.status != 0 && refused.stderr.contains("'/bin' is not a link"), "{refused}");
    host.stop();
}

#[test]
fn a_stack_is_ephemeral_with_its_volumes() {
    let host = host();
    host.sh_ok(&format!(
        "cd /var/lib/machines; mkdir -p web.mstack/rw/data web.mstack/bind@srv web.mstack/robind@opt
         ln -s {BASE} web.mstack/layer@0; echo kept >web.mstack/rw/data/kept; echo v >web.mstack/bind@srv/volume
         list web.mstack >/tmp/stack"
    ));
    let before = Snapshot::take(&host);
    for kind in ["disk", "memory"] {
        for name in ["one", "two"] {
            host.define(
                name,
                &format!("[root]\nstack = \"/var/lib/machines/web.mstack\"\nephemeral = \"{kind}\"\n"),
            );
            host.coracle(&["start", name]);
            host.sh_ok(&format!(
                "coracle exec {name} -- sh -c 'set -e; grep kept /kept; rm /kept; grep v /srv/volume; rm /srv/volume
                 echo {name} >/srv/{name}; ls /srv | grep -x {name}; ! touch /opt/x 2>/dev/null'"
            ));
        }
        for name in ["one", "two"] {
            host.coracle(&["stop", name]);
            host.assert_clean_stop(name);
        }
        before.assert_same(&host);
        host.sh_ok("list /var/lib/machines/web.mstack | diff /tmp/stack -");
        is_unchanged(&host);
    }
    host.stop();
}

#[test]
fn a_root_is_copied_where_the_store_is_on_an_overlay() {
    // The host's own root is an overlay, and its trees are on a disk.
    let host = Host::builder().guest_as("busybox", "base").on_disk().start();
    host.activate_machined();
    host.sh_ok(&format!(
        "mkdir -p /var/lib/machines/s.mstack/layer@1/etc; ln -s {BASE} /var/lib/machines/s.mstack/layer@0
         echo of-stack >/var/lib/machines/s.mstack/layer@1/etc/layer; mkdir /var/lib/machines/s.mstack/rw
         stat -f -c %T /var/lib | grep -x overlayfs; coracle run -q -D {BASE} true"
    ));
    let before = Snapshot::take(&host);
    let files = || host.sh_ok("cd /var/lib/machines; find . -printf '%P %y %m %U:%G %l\n' | sort | md5sum");
    let unchanged = files();
    let script = "set -e; stat -c %u:%g / /var/www; echo new >/etc/new; rm -r /var/www; cat /etc/new";
    for program in ["coracle run", "/usr/lib/coracle/systemd-nspawn"] {
        for users in ["no", "pick"] {
            let options = format!("-q -x --pipe --private-users={users}");
            let out = host.sh_ok(&format!("{program} {options} -D {BASE} sh -c '{script}' </dev/null"));
            assert_eq!(out, "0:0\n0:0\nnew\n", "{program} {users}");
            let stack = "--mstack=/var/lib/machines/s.mstack";
            let out = host
                .sh_ok(&format!("{program} {options} {stack} sh -c '{script}; cat /etc/layer' </dev/null"));
            assert_eq!(out, "0:0\n0:0\nnew\nof-stack\n", "{program} {users}");
            host.sh_ok("! ls -A /var/lib/coracle/storage/throwaway | grep .");
        }
    }
    // A reboot keeps the changes.
    let reboot = "[ -e /root/first ] && exec cat /root/first; echo kept >/root/first; exec reboot -f";
    let out = host
        .sh_ok(&format!("/usr/lib/coracle/systemd-nspawn -q -x -P -D {BASE} sh -c '{reboot}' </dev/null"));
    assert_eq!(out, "kept\n");
    // A killed run leaves nothing but its copy, which the next one removes.
    let mut killed =
        host.spawn(&["coracle", "run", "-q", "-x", "--pipe", "-D", BASE, "sh", "-c", "echo up; sleep 1000"]);
    killed.wait_for_stdout("up", LONG);
    host.sh_ok("pkill -KILL -f '[c]oracle run.*sleep 1000'");
    killed.wait_for_exit(LONG);
    host.sh_ok(&format!(
        "coracle run -q -x --pipe -D {BASE} true; ! ls -A /var/lib/coracle/storage/throwaway | grep ."
    ));
    assert_eq!(files(), unchanged);
    before.assert_same(&host);
    host.stop();
}
