//! machinectl on a host with control addresses in machined (systemd 261 and later): its verbs for virtual
//! machines work for machines of Coracle.

use std::time::Duration;

use crate::support::{Host, LONG, Snapshot};

#[test]
fn machinectl_pauses_resumes_reboots_and_ends() {
    let host = Host::builder().suite("sid").guest("trixie").guest("busybox").start();
    host.activate_machined();
    let before = Snapshot::take(&host);
    host.ok(&["coracle", "start", "trixie", "busybox"]);
    let listed = "varlinkctl call /run/systemd/machine/io.systemd.Machine io.systemd.Machine.List '{\"name\":\"busybox\"}'";
    assert!(host.sh_ok(listed).contains("/run/coracle/busybox/control"));
    for guest in ["trixie", "busybox"] {
        host.ok(&["machinectl", "pause", guest]);
        assert!(
            host.ok(&["coracle", "list"])
                .lines()
                .any(|line| line.starts_with(guest) && line.contains("frozen"))
        );
        host.ok(&["machinectl", "resume", guest]);
        host.ok(&["coracle", "exec", guest, "--", "true"]);
        // After an orderly reboot, the new registration has a control address, too.
        let boot = host.ok(&["coracle", "show", guest, "-p", "leader", "--json"]);
        host.ok(&["machinectl", "reboot", guest]);
        let rebooted = format!(
            "[ '{}' != \"$(coracle show {guest} -p leader --json)\" ] && coracle exec {guest} -- true",
            boot.trim()
        );
        host.wait_until(LONG, &rebooted);
        host.wait_until(LONG, &format!("coracle exec --wait-ready {guest} -- true"));
        host.ok(&["machinectl", "pause", guest]);
        host.ok(&["machinectl", "resume", guest]);
    }
    // After a restart of machined, the machine is registered again with its control address.
    host.sh_ok(
        "systemctl stop systemd-machined; rm -f /run/systemd/machines/*; systemctl start systemd-machined",
    );
    host.wait_until(LONG, "machinectl pause busybox && machinectl resume busybox");
    host.ok(&["machinectl", "poweroff", "trixie"]);
    host.ok(&["machinectl", "terminate", "busybox"]);
    host.wait_until(Duration::from_secs(60), "[ -z \"$(coracle list --no-legend)\" ]");
    assert!(!host.sh("systemctl --failed --no-legend").stdout.contains("coracle"));
    before.assert_same(&host);
    host.stop();
}
