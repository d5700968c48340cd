//! Names of machines on the host: nss-mymachines(8) asks machined, which knows the addresses of machines.

use crate::support::{Host, LONG};

#[test]
fn the_host_resolves_machines_by_their_names() {
    let host = Host::builder().guest_as("busybox", "web").guest_as("busybox", "db-1").start();
    assert!(host.read("/etc/nsswitch.conf").contains("mymachines"));
    host.define("db-1", "[network]\nzone = \"lan\"\n");
    host.coracle(&["start", "web", "db-1"]);
    for name in ["web", "db-1"] {
        let resolved = host.ok(&["getent", "ahosts", name]);
        for address in host.property(name, "addresses").split(' ').filter(|one| !one.starts_with("fe80:")) {
            assert!(resolved.contains(address), "{name}: no {address} in {resolved}");
        }
        host.ok(&["getent", "hosts", name]);
        host.ok(&["ping", "-q", "-c1", "-W5", name]);
    }
    host.wait_for_page(&host.address("web"));
    // A machine that has stopped has no name.
    host.coracle(&["stop", "web"]);
    host.wait_until(LONG, "! getent hosts web");
    host.ok(&["getent", "hosts", "db-1"]);
    host.coracle(&["stop", "db-1"]);
    host.stop();
}
