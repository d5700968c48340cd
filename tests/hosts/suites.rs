//! Hosts of three Debian suites, with systemd 252, 257 and the newest version: the whole life cycle of a
//! machine on each. `make test-all` runs all other tests on them, too.

use std::time::Duration;

use crate::support::{Host, Snapshot};

const LONG: Duration = Duration::from_secs(30);

/// Starts, queries, enters, reboots and stops a machine, and asserts that no state is left.
fn life_cycle(suite: &str, systemd: u32) {
    let host = Host::builder().suite(suite).guest("busybox").start();
    let version = host.ok(&["systemctl", "--version"]);
    let version = version.split_whitespace().nth(1).and_then(|text| text.parse::<u32>().ok());
    assert!(version.is_some_and(|version| version >= systemd), "{version:?}");
    host.activate_machined();
    host.sh_ok("systemctl start machine.slice");
    let before = Snapshot::take(&host);
    host.define("busybox", "");
    host.sh_ok("coracle start busybox");

    let list = host.ok(&["machinectl", "list", "--no-legend"]);
    let row: Vec<&str> = list.split_whitespace().collect();
    assert_eq!(&row[..3], &["busybox", "container", "coracle"], "{list}");
    let shown = host.ok(&["machinectl", "show", "busybox", "-p", "Unit", "-p", "State"]);
    assert_eq!(shown, "Unit=coracle@busybox.service\nState=running\n");
    let status = host.ok(&["coracle", "status", "busybox"]);
    assert!(status.starts_with("busybox: running\n"), "{status}");
    cgroups(&host);
    host.ok(&["ping", "-c1", "-W5", "busybox"]);
    assert_eq!(host.ok(&["coracle", "exec", "busybox", "--", "/bin/hostname"]), "busybox\n");
    let map = host.in_guest("busybox", &["/bin/cat", "/proc/self/uid_map"]);
    assert!(map.stdout.trim_start().starts_with("0 ") && !map.stdout.contains(" 0 4294967295"), "{map}");

    let supervisor = host.sh_ok("systemctl show -P MainPID coracle@busybox.service");
    // Repeated, because machined reports the exit of the old PID 1 at a different moment each time.
    (0..4).for_each(|_| reboot(&host));
    assert_eq!(host.sh_ok("systemctl show -P MainPID coracle@busybox.service"), supervisor);
    assert_eq!(host.sh_ok("systemctl is-active coracle@busybox.service"), "active\n");

    host.ok(&["coracle", "stop", "busybox"]);
    assert_eq!(host.sh_ok("systemctl show -P Result coracle@busybox.service"), "success\n");
    assert_eq!(host.ok(&["machinectl", "list", "--no-legend"]), "");
    before.assert_same(&host);
    host.stop();
}

/// Reboots the machine and waits until its new PID 1 is registered and it replies to ping.
fn reboot(host: &Host) {
    let leader = host.ok(&["machinectl", "show", "busybox", "-p", "Leader", "--value"]);
    host.ok(&["coracle", "reboot", "busybox"]);
    let script = "now=$(machinectl show busybox -p Leader --value) && [ \"$now\" != ";
    host.wait_until(LONG, &format!("{script}{} ]", leader.trim()));
    host.wait_until(LONG, "ping -c1 -W1 busybox");
}

/// Asserts that the supervisor has a separate cgroup, also with versions of systemd without
/// DelegateSubgroup=.
fn cgroups(host: &Host) {
    let unit = "/sys/fs/cgroup/machine.slice/coracle@busybox.service";
    let supervisor = host.sh_ok("systemctl show -P MainPID coracle@busybox.service");
    assert_eq!(host.read(&format!("{unit}/supervisor/cgroup.procs")), supervisor);
    assert_eq!(host.read(&format!("{unit}/cgroup.procs")), "");
}

#[test]
fn bookworm() {
    life_cycle("bookworm", 252);
}

#[test]
fn trixie() {
    life_cycle("trixie", 257);
}

#[test]
fn sid() {
    life_cycle("sid", 260);
}
