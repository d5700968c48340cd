//! Machines in copies of the empty mount namespace and in copies of that of the host, which older versions used and
//! which are the fall-back: both have the same mounts, and tools of the host enter both.

use crate::support::{Host, LONG};

/// The pinned namespace.
const PINNED: &str = "/run/coracle/.mounts/empty";

/// A definition without and with user ids of its own.
const DEFINITIONS: [&str; 2] = ["[users]\nprivate = false\n", ""];

/// Prints the root, the mount point and the attributes of each mount of PID 1. Those of services and of sessions come
/// and go.
fn mounts(host: &Host, guest: &str) -> String {
    let leader = host.machine_leader(guest);
    let volatile = "-e ' /run/credentials' -e ' /run/user/' -e ' /dev/hugepages ' -e ' /run/lock '";
    host.sh_ok(&format!("cut -d' ' -f4-6 /proc/{leader}/mountinfo | grep -v {volatile} | sort"))
}

/// Deletes the pinned namespace; later starts take that of the host.
const REFUSE: &str = "
    umount -l /run/coracle/.mounts/empty; umount -l /run/coracle/.mounts
    rm -rf /run/coracle/.mounts; mkdir -m 700 /run/coracle/.mounts; echo refused >/run/coracle/.mounts/empty";

#[test]
fn machines_have_the_same_mounts_as_in_a_copy_of_the_hosts_namespace() {
    let host = Host::start(&["busybox", "trixie"]);
    host.activate_machined();
    let start = |guest: &str, definition: &str| {
        host.define(guest, definition);
        host.coracle(&["start", "--wait=ready", guest]);
        if guest == "trixie" {
            host.wait_until_in_guest(guest, "systemctl is-system-running");
        }
        let found = mounts(&host, guest);
        host.coracle(&["stop", guest]);
        found
    };
    let all = || ["busybox", "trixie"].map(|guest| DEFINITIONS.map(|definition| start(guest, definition)));
    let with_empty = all();
    assert_eq!(host.sh_ok(&format!("stat -f -c %T {PINNED}")), "nsfs\n");
    host.sh_ok(REFUSE);
    assert_eq!(with_empty, all());
    // Neither has replaced the refusal, so the second time it was the namespace of the host.
    assert_eq!(host.read(PINNED), "refused\n");
    host.stop();
}

#[test]
fn tools_of_the_host_enter_a_machine_of_the_empty_namespace() {
    let host = Host::start(&["trixie"]);
    host.activate_machined();
    for definition in DEFINITIONS {
        host.define("trixie", definition);
        host.coracle(&["start", "--wait=ready", "trixie"]);
        assert_eq!(host.sh_ok(&format!("stat -f -c %T {PINNED}")), "nsfs\n");
        host.wait_until_in_guest("trixie", "systemctl is-system-running");
        let leader = host.machine_leader("trixie");
        let shell = host.exec_on_tty(LONG, "machinectl shell trixie /bin/sh -c 'echo in-$(hostname)'");
        assert!(shell.stdout.contains("in-trixie"), "{shell}");
        let run = host.exec(&["systemd-run", "-M", "trixie", "--wait", "--pipe", "-q", "hostname"]);
        assert_eq!((run.status, run.stdout.trim()), (0, "trixie"), "{run}");
        // All namespaces, and only that of mounts: the root is that of the namespace.
        for options in ["-a", "-m"] {
            let entered = host.sh_ok(&format!(
                "nsenter -t {leader} {options} sh -c '. /etc/os-release; echo $ID-$VERSION_ID'"
            ));
            assert_eq!(entered, "debian-13\n", "{options}");
        }
        // The root of the namespace is not empty: a process that leaves by `..` stays in the tree.
        let above =
            format!("nsenter -t {leader} -m -r sh -c 'cd /; cd ../..; test -e etc/os-release && pwd'");
        assert_eq!(host.sh_ok(&above), "/\n");
        host.coracle(&["stop", "trixie"]);
    }
    host.stop();
}

#[test]
fn masks_stay_locked_in_copies_of_the_empty_namespace() {
    let host = Host::start(&["busybox"]);
    host.start_machine("busybox");
    assert_eq!(host.sh_ok(&format!("stat -f -c %T {PINNED}")), "nsfs\n");
    for place in ["/proc/keys", "/sys", "/"] {
        let out = host.in_guest("busybox", &["umount", "-l", place]);
        assert!(out.status != 0, "unmounted {place}: {out}");
    }
    host.coracle(&["stop", "busybox"]);
    host.stop();
}
