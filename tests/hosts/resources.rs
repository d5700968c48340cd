//! The resources of the host used by a machine: its cgroups, its limits, and the memory and wakeups of its
//! idle supervisor.

use std::thread;
use std::time::Duration;

use crate::support::{Host, install};

const UNIT: &str = "/sys/fs/cgroup/machine.slice/coracle@trixie.service";

#[test]
fn the_cgroup_tree_is_delegated() {
    let host = Host::start(&["trixie"]);
    host.define("trixie", "");
    host.coracle(&["start", "--wait=ready", "trixie"]);
    let tree = host.ok(&["systemd-cgls", "--no-pager", "-u", "coracle@trixie.service"]);
    for expected in ["payload", "supervisor", "coracle supervise", "init.scope", "systemd-journald.service"] {
        assert!(tree.contains(expected), "no '{expected}' in\n{tree}");
    }
    let directories =
        host.ok(&["find", UNIT, "-mindepth", "1", "-maxdepth", "1", "-type", "d", "-printf", "%f\n"]);
    let mut directories: Vec<&str> = directories.lines().collect();
    directories.sort_unstable();
    assert_eq!(directories, ["payload", "supervisor"]);
    let supervisor = host.read(&format!("{UNIT}/supervisor/cgroup.procs"));
    assert_eq!(supervisor.trim(), host.supervisor("trixie").to_string());
    let leader = host.machine_leader("trixie");
    assert!(
        host.read(&format!("{UNIT}/payload/init.scope/cgroup.procs"))
            .lines()
            .any(|pid| pid == leader.to_string())
    );
    let own = host.in_guest("trixie", &["grep", "^0::", "/proc/1/cgroup"]);
    assert_eq!(own.stdout, "0::/init.scope\n");

    let base = host.property("trixie", "id-base");
    let owners =
        host.ok(&["sh", "-c", &format!("cd {UNIT} && stat -c '%n %u:%g' payload payload/* supervisor")]);
    let guests = format!("{base}:{base}");
    let given =
        ["payload", "payload/cgroup.procs", "payload/cgroup.threads", "payload/cgroup.subtree_control"];
    for line in owners.lines().filter(|line| !line.starts_with("payload/") || line.contains("/cgroup.")) {
        let (file, owner) = line.split_once(' ').expect("two words");
        // memory.oom.group and similar files are not checked: the kernel decides whether they are delegated.
        let expected = if given.contains(&file) { &guests } else { "0:0" };
        assert_eq!(owner, expected, "{file}");
    }
    host.stop();
}

#[test]
fn limits_are_properties_of_the_unit() {
    let host = Host::start(&["busybox"]);
    host.define(
        "busybox",
        "[root]\n[resources]\nmemory-max = \"512M\"\nmemory-high = \"256M\"\ncpu-quota = \"150%\"\n\
         cpu-weight = 200\ntasks-max = 777\n[boot]\nstop-timeout = \"33s\"\n",
    );
    host.coracle(&["start", "busybox"]);
    for (property, expected) in [
        ("MemoryMax", "536870912"),
        ("MemoryHigh", "268435456"),
        ("CPUQuotaPerSecUSec", "1.500000s"),
        ("CPUWeight", "200"),
        ("TasksMax", "777"),
        ("TimeoutStopUSec", "48s"),
        ("Delegate", "yes"),
        ("Slice", "machine.slice"),
        ("DevicePolicy", "closed"),
        ("KillMode", "mixed"),
    ] {
        assert_eq!(host.unit("busybox", property), expected, "{property}");
    }
    let fragments = host.unit("busybox", "DropInPaths");
    assert!(fragments.contains("/run/systemd/generator/coracle@busybox.service.d/"), "{fragments}");
    // Most nested hosts have no controllers. If the unit has one, its file must have the same value.
    let unit = "/sys/fs/cgroup/machine.slice/coracle@busybox.service";
    for (file, expected) in
        [("pids.max", "777\n"), ("memory.max", "536870912\n"), ("cpu.max", "150000 100000\n")]
    {
        let file = format!("{unit}/{file}");
        if host.exec(&["test", "-e", &file]).status == 0 {
            assert_eq!(host.read(&file), expected, "{file}");
        }
    }
    // A changed definition applies at the next start, without a reload of systemd.
    host.define("busybox", "[root]\n[resources]\ntasks-max = 888\n");
    host.coracle(&["restart", "busybox"]);
    assert_eq!(host.unit("busybox", "TasksMax"), "888");
    assert_eq!(host.unit("busybox", "MemoryMax"), "infinity");
    host.stop();
}

/// Returns the kibibytes of a field of `/proc/PID/smaps_rollup`.
fn kibibytes(rollup: &str, key: &str) -> u64 {
    let line = rollup.lines().find_map(|line| line.strip_prefix(key));
    let number = line.and_then(|line| line.split_whitespace().next()).and_then(|number| number.parse().ok());
    number.unwrap_or_else(|| panic!("no {key} in {rollup}"))
}

/// Returns whether the binary under test is the static release binary, for which the small limit holds.
fn is_release() -> bool {
    let bytes = std::fs::read(install::binary()).expect("read the binary");
    !bytes.windows(15).any(|window| window == b"/ld-linux-x86-6")
}

#[test]
fn an_idle_supervisor_is_small_and_sleeps() {
    let host = Host::start(&["busybox", "trixie"]);
    for guest in ["busybox", "trixie"] {
        host.define(guest, "");
        host.coracle(&["start", "--wait=ready", guest]);
        // After a reboot the supervisor is a new process image, within the same limit.
        for _ in 0..2 {
            is_small(&host, guest);
            let leader = host.machine_leader(guest);
            host.coracle(&["reboot", guest]);
            host.wait_for_reboot(guest, leader);
        }
        host.coracle(&["stop", guest]);
    }
    // A supervisor that has registered again, and has briefly had a bus connection.
    host.coracle(&["start", "busybox"]);
    host.sh_ok(
        "systemctl stop systemd-machined; rm /run/systemd/machines/*; systemctl start systemd-machined",
    );
    host.wait_until(crate::support::LONG, "machinectl show busybox");
    is_small(&host, "busybox");
    // The start and stop of another machine do not wake the supervisor.
    host.sh_ok("cp -a /var/lib/machines/busybox /var/lib/machines/other");
    host.sh_ok(&format!(
        "a=$({SWITCHES} /proc/{pid}/status); coracle start other; coracle stop other; \
         [ \"$a\" = \"$({SWITCHES} /proc/{pid}/status)\" ]",
        pid = host.supervisor("busybox")
    ));
    host.stop();
}

fn is_small(host: &Host, guest: &str) {
    let pid = host.supervisor(guest);
    // Waits until the start of the guest is complete and the supervisor is idle.
    host.wait_until(
        crate::support::LONG,
        &format!(
            "a=$({SWITCHES} /proc/{pid}/status); sleep 1; [ \"$a\" = \"$({SWITCHES} /proc/{pid}/status)\" ]"
        ),
    );
    // Only anonymous memory counts: pages of the executable just written to disk are also dirty.
    let rollup = host.sh_ok(&format!("cat /proc/{pid}/smaps_rollup"));
    let own = kibibytes(&rollup, "Anonymous:");
    let bound = if is_release() { 112 } else { 2048 };
    assert!(own <= bound, "{guest}: {own} KiB of its own\n{rollup}");
    assert_eq!(host.ok(&["cat", &format!("/proc/{pid}/comm")]), "coracle\n");
    let status = host.read(&format!("/proc/{pid}/status"));
    assert!(status.contains("\nThreads:\t1\n"), "{status}");
    let switches = || host.sh_ok(&format!("{SWITCHES} /proc/{pid}/status"));
    let before = switches();
    thread::sleep(Duration::from_secs(3));
    assert_eq!(switches(), before, "{guest}: it woke up while idle");
    let descriptors = host.sh_ok(&format!("ls -l /proc/{pid}/fd"));
    // Six of them are locks: of the machine, its ids, its address, and three of its image.
    assert!(descriptors.lines().count() <= 28, "{descriptors}");
    let sockets = host.sh_ok(
        "for fd in $(ls -l /proc/PID/fd | grep -o 'socket:.*[0-9]' | tr -dc '0-9\n'); do \
         ss -xanp -H | grep -w \"$fd\" || true; done"
            .replace("PID", &pid.to_string())
            .as_str(),
    );
    assert!(!sockets.contains("dbus"), "it is on the bus: {sockets}");
}

const SWITCHES: &str = "grep voluntary_ctxt_switches";
