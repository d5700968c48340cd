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

#[test]
fn the_host_resolves_names_of_zones_by_a_hook_of_resolved() {
    let host = Host::builder().suite("sid").guest_as("busybox", "web").guest_as("busybox", "db-1").start();
    // Services of systemd with hooks create it at boot.
    host.sh_ok("mkdir -p /run/systemd/resolve.hook");
    host.define("web", "[network]\nzone = \"lan\"\n");
    host.define("db-1", "[network]\nzone = \"lan\"\n");
    let socket = "/run/systemd/resolve.hook/io.coracle1";
    host.sh_ok(&format!("! test -e {socket}"));
    host.coracle(&["start", "web", "db-1"]);
    for name in ["web", "db-1"] {
        let resolved = host.wait_until(LONG, &format!("resolvectl query {name}.lan")).stdout;
        for address in host.property(name, "addresses").split(' ').filter(|one| !one.starts_with("fe80:")) {
            assert!(resolved.contains(address), "{name}: no {address} in {resolved}");
        }
    }
    let service = host.ok(&["systemctl", "show", "-P", "ActiveState", "coracle-zone-names.service"]);
    assert_eq!(service, "active\n");
    host.sh_ok("! resolvectl query other.lan && ! resolvectl query web.lab");
    // Only the user of resolved can connect, and hold connections.
    assert_eq!(host.sh_ok(&format!("stat -c '%U %a' {socket}")), "systemd-resolve 600\n");
    // Another zone, while resolved is connected.
    host.define("db-1", "[network]\nzone = \"lab\"\n");
    host.coracle(&["restart", "db-1"]);
    host.wait_until(LONG, "resolvectl query db-1.lab");
    host.wait_until(LONG, "! resolvectl query db-1.lan");
    host.coracle(&["stop", "web", "db-1"]);
    host.wait_until(LONG, &format!("! test -e {socket} && ! systemctl is-active coracle-zone-names.service"));
    host.stop();
}
