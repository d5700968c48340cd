//! Coracle in coracle: the host is itself a machine. `CORACLE_HOST_BY=coracle` has every other test of the host suite
//! run on such a host; here is what shows that it is one, and a machine's life on it.

mod support;

use support::{Host, LONG, Snapshot};

#[test]
fn a_machine_is_a_host_of_machines() {
    let host = Host::builder().in_coracle().guest("busybox").guest("trixie").start();
    // What nested-host.sh makes says so here.
    assert_ne!(host.read("/run/host/container-manager").trim(), "nested-host");
    host.sh_ok("machinectl -q list");
    let before = Snapshot::take(&host);
    host.start_machine("busybox");
    host.define("trixie", "");
    host.coracle(&["start", "--wait=ready", "trixie"]);
    for name in ["busybox", "trixie"] {
        host.assert_registered(name, true);
        host.ok(&["ping", "-c1", "-W5", &host.address(name)]);
        let map = host.in_guest(name, &["cat", "/proc/self/uid_map"]).success("the id map");
        assert!(!map.stdout.contains(" 0 4294967295"), "users of its own, two levels deep: {map}");
    }
    assert_eq!(host.in_guest("trixie", &["systemctl", "is-system-running"]).stdout, "running\n");
    let leader = host.machine_leader("busybox");
    host.coracle(&["reboot", "busybox"]);
    host.wait_until(LONG, &format!("[ $(coracle show busybox -p leader) != leader={leader} ]"));
    host.coracle(&["stop", "busybox", "trixie"]);
    for name in ["busybox", "trixie"] {
        host.assert_clean_stop(name);
        host.assert_registered(name, false);
    }
    before.assert_same(&host);
    host.stop();
}
