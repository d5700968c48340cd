//! Tests the harness of the host suite: hosts boot, commands are passed, time limits hold, planted leaks are
//! found.

use std::time::Duration;

use crate::support::{Host, LONG, Snapshot, TIMED_OUT};

fn bare() -> Host {
    Host::builder().without_coracle().start()
}

#[test]
fn boots_and_powers_off() {
    let host = bare();
    assert_eq!(host.ok(&["systemctl", "is-system-running"]), "running\n");
    assert_eq!(host.ok(&["hostname"]).trim(), host.name());
    assert_eq!(host.ok(&["cat", "/proc/1/comm"]), "systemd\n");
    let own = host.ok(&["sh", "-c", "grep ^0:: /proc/self/cgroup"]);
    assert!(own.starts_with("0::/exec."), "{own}");
    host.stop();
}

#[test]
fn passes_status_streams_and_input() {
    let host = bare();
    let out = host.exec(&["sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!((out.status, out.stdout.as_str(), out.stderr.as_str()), (7, "out\n", "err\n"));
    assert_eq!(host.exec(&["sh", "-c", "kill -9 $$"]).status, 128 + 9);
    assert_eq!(host.exec_with_input(b"abc", &["wc", "-c"]).stdout, "3\n");
    assert_eq!(host.exec_on_tty(Duration::from_secs(10), "tty; exit 3").status, 3);
    host.write("/etc/deep/er/file", "text\n");
    assert_eq!(host.read("/etc/deep/er/file"), "text\n");
    let mut job = host.spawn_with_pipe(&["cat"]);
    std::io::Write::write_all(&mut job.input(), b"typed").unwrap();
    assert_eq!(job.wait(Duration::from_secs(10)).stdout, "typed");
}

#[test]
fn time_bounds_kill_descendants() {
    let host = bare();
    let out = host.exec_for(Duration::from_millis(500), &["sh", "-c", "setsid sleep 1234 & sleep 1234"]);
    assert_eq!(out.status, TIMED_OUT);
    host.wait_until(LONG, "! pgrep -x sleep");
}

#[test]
fn networkd_is_off_by_default() {
    let (without, with) = (bare(), Host::builder().without_coracle().networkd().start());
    assert_eq!(without.exec(&["systemctl", "is-active", "systemd-networkd"]).stdout, "inactive\n");
    assert_eq!(with.exec(&["systemctl", "is-active", "systemd-networkd"]).stdout, "active\n");
}

#[test]
fn guests_can_be_idmapped() {
    let host = Host::builder().without_coracle().on_disk().guest_as("busybox", "bb").start();
    assert_eq!(host.ok(&["stat", "-f", "-c", "%T", "/var/lib/machines/bb"]), "ext2/ext3\n");
    let images = host.ok(&["machinectl", "list-images", "--no-legend"]);
    assert!(images.starts_with("bb "), "{images}");
    host.sh_ok(
        "mount --bind -o X-mount.idmap=b:0:1000000:65536 /var/lib/machines/bb /mnt; stat -c %u /mnt/etc",
    );
}

/// A planted leak, its removal, and the line that must report it.
const LEAKS: &[(&str, &str, &str)] = &[
    ("mount -t tmpfs leak /mnt", "umount /mnt", "+ mount: /mnt root=/ type=tmpfs"),
    ("ip link add ve-leak type bridge", "ip link del ve-leak", "+ link: ve-leak"),
    ("ip addr add 192.0.2.1/32 dev lo", "ip addr del 192.0.2.1/32 dev lo", "+ address: lo inet 192.0.2.1/32"),
    ("ip route add blackhole 192.0.2.2", "ip route del blackhole 192.0.2.2", "+ route: blackhole 192.0.2.2"),
    ("ip rule add from 192.0.2.3 table 7", "ip rule del from 192.0.2.3 table 7", "from 192.0.2.3 lookup 7"),
    ("ip netns add leak", "ip netns del leak", "+ netns: /run/netns/leak"),
    (
        "unshare -n sleep 99 </dev/null & echo $! >/run/leak; until grep -qx sleep /proc/$!/comm; do :; done",
        "kill $(cat /run/leak); rm /run/leak",
        "+ netns: of a process 'sleep' in /exec.",
    ),
    ("mkdir /sys/fs/cgroup/leak", "rmdir /sys/fs/cgroup/leak", "+ cgroup: /leak"),
    ("nft add table inet leak", "nft delete table inet leak", "+ nft: table inet leak {"),
    (
        "truncate -s 1M /var/tmp/leak; losetup -f /var/tmp/leak",
        "losetup -d $(losetup -nO NAME -j /var/tmp/leak); rm /var/tmp/leak",
        "+ loop: /var/tmp/leak",
    ),
    (
        "systemd-run -q --unit leak --slice machine.slice sleep 99
         busctl call org.freedesktop.machine1 /org/freedesktop/machine1 org.freedesktop.machine1.Manager \
         RegisterMachine sayssus leak 0 test container $(systemctl show -P MainPID leak) ''",
        "systemctl stop leak; busctl call org.freedesktop.machine1 /org/freedesktop/machine1 \
         org.freedesktop.machine1.Manager UnregisterMachine s leak || true",
        "+ registration: \"/org/freedesktop/machine1/machine/leak\"",
    ),
    (
        "systemd-run -q --scope --unit leak sleep 99 & until systemctl -q is-active leak.scope; do sleep .05; done",
        "systemctl stop leak.scope",
        "+ unit: leak.scope",
    ),
    ("mkdir -p /run/coracle; touch /run/coracle/leak", "rm -r /run/coracle", "+ file: /run/coracle/leak"),
    (
        "touch /run/systemd/system/leak.service",
        "rm /run/systemd/system/leak.service",
        "/run/systemd/system/leak",
    ),
    (
        "mkdir -p /run/systemd/network; touch /run/systemd/network/leak.network",
        "rm /run/systemd/network/leak.network",
        "+ file: /run/systemd/network/leak.network",
    ),
    (
        "mkdir -p /run/systemd/nspawn-uid; touch /run/systemd/nspawn-uid/1234",
        "rm -r /run/systemd/nspawn-uid",
        "+ file: /run/systemd/nspawn-uid/1234",
    ),
    ("touch /var/lib/machines/.#leak.lck", "rm /var/lib/machines/.#leak.lck", "/var/lib/machines/.#leak.lck"),
    (
        "cp /bin/sleep /run/coracle-leak; /run/coracle-leak 99 </dev/null & until grep -qx coracle-leak /proc/$!/comm; do :; done",
        "pkill -x coracle-leak; rm /run/coracle-leak",
        "+ process: coracle-leak in /exec.",
    ),
];

#[test]
fn finds_every_planted_leak() {
    let host = bare();
    // The first use creates permanent state: machined's slice, the mount on /run/netns.
    host.activate_machined();
    host.sh_ok("ip netns add first; ip netns del first");
    let before = Snapshot::take(&host);
    for (plant, undo, expected) in LEAKS {
        host.sh_ok(plant);
        let difference = before.difference(&Snapshot::take(&host));
        assert!(difference.iter().any(|line| line.contains(expected)), "`{plant}` gave {difference:#?}");
        host.sh_ok(undo);
    }
    before.assert_same(&host);
    host.stop();
}

#[test]
fn coracle_is_installed_as_a_user_does() {
    let host = Host::start(&[]);
    let generator = "/usr/lib/systemd/system-generators/coracle-generator";
    let files = host.ok(&["stat", "-L", "-c", "%U %a %s", "/usr/bin/coracle", generator]);
    let size = std::fs::metadata(crate::support::install::binary()).unwrap().len();
    assert_eq!(files, format!("root 755 {size}\n").repeat(2));
}

#[test]
fn the_setup_refuses_to_run_on_the_machine_itself() {
    // Runs inside a host, where a missing refusal does no harm.
    let here = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support");
    let host = Host::builder().without_coracle().bind(here, "/mnt").guest("busybox").start();
    host.sh_ok(
        "mkdir -p /var/tmp/s/upper /var/tmp/s/work /var/tmp/s/root /var/tmp/s/machines /var/tmp/s/vartmp",
    );
    let setting = "STATE=/var/tmp/s TREE=/var/lib/machines/busybox NAME=x BINDS= NETWORKD=0";
    let apart = "unshare --mount --pid --fork --kill-child";
    let before = Snapshot::take(&host);
    for (how, environment, message) in [
        ("", "", "STATE: parameter null or not set"),
        ("", "STATE= TREE=/", "STATE: parameter null or not set"),
        ("", "OUTER_MNT=mnt:[1]", "not PID 1 of a new pid namespace"),
        (
            "unshare --pid --fork --kill-child",
            "OUTER_MNT=$(readlink /proc/1/ns/mnt)",
            "still in the outer mount",
        ),
        (apart, "OUTER_MNT=/", "names no mount namespace"),
        (apart, "OUTER_MNT=mnt:[1] STATE=/", "'/' is no plain absolute directory"),
        (apart, "OUTER_MNT=mnt:[1] STATE=/var/tmp/../tmp/s", "is no plain absolute directory"),
        (apart, "OUTER_MNT=mnt:[1]", "is not marked as a nested host's state"),
    ] {
        let setting = if message.contains("null") { "" } else { setting };
        let out = host.sh(&format!("{how} env {setting} {environment} bash /mnt/nested-host.sh"));
        assert!(out.status != 0 && out.stderr.contains(message), "{how} {environment}: {out}");
    }
    before.assert_same(&host);
}
