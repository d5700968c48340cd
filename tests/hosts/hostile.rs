//! All attacks available to a hostile root in a default machine, at the same time, while neighbours start,
//! reboot and stop: no neighbour fails, no pool of the host is exhausted, and no state remains.

use std::thread;
use std::time::Duration;

use crate::support::{Host, Snapshot};

/// The number of neighbours of the hostile machine, and the number of cycles of each.
struct Scale {
    neighbours: usize,
    lives: usize,
}

/// Returns a full scale if `CORACLE_STORM` is set, or a small one.
fn scale() -> Scale {
    match std::env::var_os("CORACLE_STORM") {
        Some(_) => Scale { neighbours: 20, lives: 5 },
        None => Scale { neighbours: 4, lives: 1 },
    }
}

/// The number of neighbours that run at the same time.
const SIDE_BY_SIDE: usize = 4;

/// Checks the targets of the attacks from the host: its pools and its router.
const HARM: &str = "
	/var/lib/machines/hostile/usr/bin/attacks
	if ip -6 route show default | grep fe80; then exit 1; fi
	! ip -6 address show | grep 2001:db8:bad
";

/// Starts, enters, reboots and stops machines.
fn live(host: &Host, names: &[String], lives: usize) {
    for _ in 0..lives {
        for name in names {
            host.coracle(&["start", name]);
            assert_eq!(host.coracle(&["exec", name, "--", "hostname"]).trim(), name);
            let leader = host.machine_leader(name);
            host.coracle(&["reboot", name]);
            host.wait_for_reboot(name, leader);
            host.coracle(&["stop", name]);
            host.assert_clean_stop(name);
        }
    }
}

/// Runs the cycles of all neighbours, `SIDE_BY_SIDE` at a time.
fn live_all(host: &Host, names: &[String], lives: usize) {
    thread::scope(|scope| {
        for names in names.chunks(names.len().div_ceil(SIDE_BY_SIDE)) {
            scope.spawn(move || live(host, names, lives));
        }
    });
}

/// Copies the attacks to a machine.
fn add_attacks(host: &Host, machine: &str) {
    let program = host.machines().join(machine).join("usr/bin/attacks");
    std::fs::copy(crate::support::program::build("tests/hostile/attacks.c", &[]), program)
        .expect("copy the attacks");
}

#[test]
fn pools_of_the_kernel_are_counted_per_machine() {
    let host = Host::builder().guest_as("busybox", "hostile").guest_as("trixie", "neighbour").start();
    add_attacks(&host, "hostile");
    host.coracle(&["start", "hostile"]);
    let mut attack = host.spawn(&["coracle", "exec", "hostile", "--", "attacks", "-", "inotify"]);
    attack.wait_for_stdout("inotify instances used up", Duration::from_secs(30));
    host.ok(&["/var/lib/machines/hostile/usr/bin/attacks"]);
    host.coracle(&["start", "neighbour"]);
    let state = host.in_guest("neighbour", &["systemctl", "is-system-running"]);
    assert_eq!(state.stdout, "running\n", "{state}");
    attack.kill();
    host.coracle(&["stop", "hostile", "neighbour"]);
    host.stop();
}

/// Succeeds if no open(2) has waited for the end of a lease: after 45 s the kernel ends a lease that an
/// open(2) waits for.
const STILL_LEASED: &str = "grep LEASE /proc/locks";

#[test]
fn a_lease_on_passwd_does_not_block_exec() {
    let host = Host::builder().guest_as("busybox", "hostile").start();
    add_attacks(&host, "hostile");
    host.coracle(&["start", "hostile"]);
    for words in [&["exec", "-u", "daemon", "hostile", "--", "true"][..], &["exec", "hostile", "--", "true"]]
    {
        let mut attack = host.spawn(&["coracle", "exec", "hostile", "--", "attacks", "-", "lease-on-passwd"]);
        attack.wait_for_stdout("ready", Duration::from_secs(30));
        host.wait_until(crate::support::LONG, "grep -q 'LEASE .* WRITE' /proc/locks");
        let out = host.exec_for(crate::support::LONG, &[&["coracle"], words].concat());
        assert!(out.status == 0 || out.stderr.contains("/etc/passwd"), "{words:?}: {out}");
        host.sh_ok(STILL_LEASED);
        attack.kill();
        host.wait_until(crate::support::LONG, "! grep -q LEASE /proc/locks");
    }
    host.coracle(&["stop", "hostile"]);
    host.stop();
}

#[test]
fn a_lease_on_hosts_does_not_block_starts() {
    let names = ["hostile", "member", "other"];
    let host = names.iter().fold(Host::builder(), |all, name| all.guest_as("busybox", name)).start();
    add_attacks(&host, "hostile");
    for (name, zone) in names.into_iter().zip(["lan", "lan", "dmz"]) {
        host.define(name, &format!("[network]\nzone = \"{zone}\"\n"));
    }
    host.coracle(&["start", "hostile"]);
    let mut attack = host.spawn(&["coracle", "exec", "hostile", "--", "attacks", "-", "lease-on-hosts"]);
    attack.wait_for_stdout("ready", Duration::from_secs(30));
    host.wait_until(crate::support::LONG, "grep -q 'LEASE .* READ' /proc/locks");
    // The first start adds a name to the leased file.
    for name in ["member", "other"] {
        host.coracle(&["start", name]);
        host.sh_ok(STILL_LEASED);
    }
    assert!(host.unit_journal("member").contains("hosts"), "{}", host.unit_journal("member"));
    attack.kill();
    host.coracle(&["stop", "hostile", "member", "other"]);
    host.stop();
}

#[test]
fn a_stop_follows_no_link_of_runit() {
    let host = Host::start(&["runit"]);
    host.sh_ok(
        "mkdir -p /srv/share; echo data >/srv/share/file; chmod 0644 /srv/share/file; chmod 0700 /srv",
    );
    let mount = "[[mount]]\nsource = \"/srv/share\"\ntarget = \"/srv/share\"\n";
    host.define("runit", &format!("[boot]\nstop-timeout = \"3s\"\n{mount}"));
    // A new procfs shows the current modes of the kernel's inodes.
    let modes = "mkdir -p /run/fresh; mount -t proc proc /run/fresh; \
                 stat -c '%a %n' /run/fresh/execdomains /srv/share/file; umount /run/fresh";
    let before = host.sh_ok(modes);
    for target in ["/proc/execdomains", "/srv/share/file"] {
        host.coracle(&["start", "runit"]);
        host.wait_for_console("runit", "runit: enter stage: /etc/runit/2");
        let script = format!("rm -f /etc/runit/stopit /run/runit/stopit; ln -s {target} /etc/runit/stopit");
        host.in_guest("runit", &["sh", "-c", &script]).success("lead elsewhere");
        host.exec_for(crate::support::LONG, &["coracle", "stop", "runit"]);
        assert_eq!(host.sh_ok(modes), before, "{target}");
        host.sh_ok("systemctl reset-failed 'coracle@*' || true");
    }
    host.stop();
}

#[test]
fn a_hostile_machine_does_not_harm_others() {
    let scale = scale();
    let names: Vec<String> = (0..scale.neighbours).map(|number| format!("n{number}")).collect();
    let builder = names.iter().fold(Host::builder(), |all, name| all.guest_as("busybox", name));
    let host = builder.guest_as("busybox", "hostile").start();
    add_attacks(&host, "hostile");
    host.define("hostile", "[network]\nzone = \"lan\"\n");
    // Every second neighbour is in the zone of the hostile machine; the remaining ones have their own links.
    for (number, name) in names.iter().enumerate() {
        host.define(name, if number % 2 == 0 { "[network]\nzone = \"lan\"\n" } else { "" });
    }
    host.coracle(&["start", "hostile"]);
    host.coracle(&["stop", "hostile"]);
    let before = Snapshot::take(&host);

    host.coracle(&["start", "hostile"]);
    live_all(&host, &names, scale.lives);
    let gateway =
        host.sh_ok("coracle exec hostile -- ip route show default | sed -n 's/.* via \\([^ ]*\\).*/\\1/p'");
    let mut attack = host.spawn(&["coracle", "exec", "hostile", "--", "attacks", gateway.trim()]);
    attack.wait_for_stdout("ready", Duration::from_secs(30));
    // The attacks have filled the pools.
    host.wait_until(crate::support::LONG, "[ $(find /sys/fs/cgroup -name 'wide*' | wc -l) -gt 1000 ]");
    live_all(&host, &names, scale.lives);
    host.sh_ok(HARM);
    assert_eq!(host.coracle(&["exec", "hostile", "--", "hostname"]).trim(), "hostile");

    // The hostile machine stops like any other machine.
    host.coracle(&["stop", "hostile"]);
    host.assert_clean_stop("hostile");
    attack.kill();
    before.assert_same(&host);
    host.stop();
}
