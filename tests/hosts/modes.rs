//! Network modes other than a veth link and a zone: a bridge of the host, macvlan and ipvlan interfaces,
//! moved interfaces of the host, extra veth pairs, an existing network namespace.

use crate::support::{Host, LONG, Snapshot};

/// An outside network at the peer of `up0`: 198.51.100.1, not configured by Coracle.
const OUTSIDE: &str = "
ip netns add outside
ip link add up0 type veth peer name out0 netns outside
ip link set up0 address 02:00:00:00:00:01; ip link set up0 up
ip -n outside addr add 198.51.100.1/24 dev out0; ip -n outside addr add 2001:db8:5::1/64 dev out0 nodad
ip -n outside link set lo up; ip -n outside link set out0 up
";

fn host() -> Host {
    let host = Host::builder().guest_as("busybox", "m").start();
    host.sh_ok(OUTSIDE);
    host.activate_machined();
    host.enable_forwarding();
    host.wait_for_address_detection();
    host
}

/// Adds addresses to an interface of the guest and asserts that it reaches the outside network.
#[track_caller]
fn reaches_outside(host: &Host, interface: &str) {
    // The neighbour table may contain a link-layer address of an earlier boot.
    host.sh_ok("ip -n outside neigh flush all");
    let script = format!(
        "ip addr add 198.51.100.7/24 dev {interface}; ip addr add 2001:db8:5::7/64 dev {interface}; \
         ping -c1 -W5 198.51.100.1 || exit 1; \
         for i in 1 2 3 4 5 6 7 8; do ping -c1 -W1 2001:db8:5::1 && exit 0; sleep 0.5; done; exit 1"
    );
    host.in_guest("m", &["sh", "-c", &script]).success("reach the other side");
}

fn links_of(host: &Host) -> String {
    let listing = host.in_guest("m", &["ls", "/sys/class/net"]).success("its interfaces").stdout;
    listing.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Reboots the guest from inside and waits for the next boot.
fn reboot(host: &Host) {
    let leader = host.machine_leader("m");
    host.in_guest("m", &["reboot"]);
    host.wait_for_reboot("m", leader);
    host.wait_until(LONG, "coracle exec m -- true");
}

fn start(host: &Host, network: &str) {
    host.define("m", &format!("[network]\n{network}\n"));
    host.coracle(&["start", "m"]);
}

#[test]
fn a_bridge_gets_a_port_of_the_machine() {
    let host = host();
    host.sh_ok("ip link add br0 type bridge; ip link set up0 master br0; ip link set br0 up; ip -6 addr flush dev br0");
    let before = Snapshot::take(&host);
    start(&host, "bridge = \"br0\"");
    assert_eq!(links_of(&host), "host0 lo");
    reaches_outside(&host, "host0");
    let mac = host.in_guest("m", &["cat", "/sys/class/net/host0/address"]).stdout;
    reboot(&host);
    host.sh_ok("coracle show m -p host-interface | grep vb-m && ip link show vb-m | grep 'master br0'");
    assert_eq!(host.in_guest("m", &["cat", "/sys/class/net/host0/address"]).stdout, mac);
    host.coracle(&["stop", "m"]);
    host.assert_clean_stop("m");
    before.assert_same(&host);
    // A missing bridge is found before the host is changed.
    host.define("m", "[network]\nbridge = \"br7\"\n");
    assert_ne!(host.exec(&["coracle", "start", "m"]).status, 0);
    assert!(host.coracle(&["status", "m"]).contains("bridge 'br7' does not exist"));
    before.assert_same(&host);
    host.stop();
}

#[test]
fn a_machine_has_a_macvlan_and_extra_veth_pairs() {
    let host = host();
    let before = Snapshot::take(&host);
    start(&host, "mode = \"macvlan\"\nmacvlan = [\"up0\"]\nveth-extra = [\"ve-extra:extra0\"]");
    assert_eq!(links_of(&host), "extra0 lo mv-up0");
    reaches_outside(&host, "mv-up0");
    host.sh_ok("ip addr add 203.0.113.1/24 dev ve-extra");
    let script = "ip addr add 203.0.113.2/24 dev extra0; ping -c1 -W5 203.0.113.1";
    host.in_guest("m", &["sh", "-c", script]).success("reach the host by the further pair");
    reboot(&host);
    reaches_outside(&host, "mv-up0");
    host.coracle(&["stop", "m"]);
    before.assert_same(&host);
    // In addition to the veth link.
    start(&host, "macvlan = [\"up0:lan0\"]");
    assert_eq!(links_of(&host), "host0 lan0 lo");
    host.in_guest("m", &["ping", "-c1", "-W5", "host"]).success("reach the host by its link");
    reaches_outside(&host, "lan0");
    // An immediate restart: leftovers of the last boot do not prevent it.
    for _ in 0..3 {
        host.coracle(&["restart", "m"]);
        host.in_guest("m", &["sh", "-c", "ip link show lan0 | grep -q LOWER_UP"]).success("it is up");
    }
    host.kill_supervisor("m");
    before.assert_same(&host);
    host.stop();
}

#[test]
fn a_moved_interface_returns_to_the_host() {
    let host = host();
    host.sh_ok("ip link property add dev up0 altname the-uplink; ip link set up0 down");
    let before = Snapshot::take(&host);
    let link = host.ok(&["ip", "-d", "link", "show", "up0"]);
    start(&host, "mode = \"interface\"\ninterface = [\"up0:lan0\"]");
    assert_eq!(links_of(&host), "lan0 lo");
    host.sh_ok("! ip link show up0");
    reaches_outside(&host, "lan0");
    // The guest renames the interface and reboots.
    host.in_guest("m", &["sh", "-c", "ip link set lan0 down; ip link set lan0 name mine"])
        .success("rename it");
    // Another alternative name instead of its own, one that the host has.
    let leader = host.machine_leader("m");
    host.sh_ok(&format!(
        "ip link property add dev lo altname taken
         nsenter -n -t {leader} ip link property del dev mine altname the-uplink
         nsenter -n -t {leader} ip link property add dev mine altname taken"
    ));
    reboot(&host);
    host.sh_ok(&format!("nsenter -n -t {} ip link show lan0 | grep the-uplink", host.machine_leader("m")));
    reaches_outside(&host, "lan0");
    host.coracle(&["stop", "m"]);
    host.sh_ok("ip link property del dev lo altname taken");
    let altname = |text: String| text.contains("altname the-uplink");
    assert!(altname(link) && altname(host.ok(&["ip", "-d", "link", "show", "up0"])));
    before.assert_same(&host);
    // Returned as well after a kill of the supervisor, even during the start.
    host.coracle(&["start", "m"]);
    host.in_guest("m", &["sh", "-c", "ip link set lan0 down; ip link set lan0 name mine"])
        .success("rename it");
    host.kill_supervisor("m");
    before.assert_same(&host);
    for delay in [10, 20, 30, 40, 50, 60, 75, 90, 120] {
        host.sh(&format!(
            "coracle start m & one=$!; sleep 0.{delay:03}; p=$(systemctl show -P MainPID coracle@m); \
             [ $p = 0 ] || kill -9 $p; wait $one"
        ));
        host.sh("coracle stop m; systemctl reset-failed coracle@m");
        before.assert_same(&host);
    }
    host.stop();
}

#[test]
fn a_machine_joins_an_existing_network_namespace() {
    let host = host();
    // Root of a user namespace has no capabilities over this network namespace, for example to listen on a
    // low port.
    host.sh_ok("ip netns exec outside sysctl -q net.ipv4.ip_unprivileged_port_start=0");
    let before = Snapshot::take(&host);
    start(&host, "namespace-path = \"/run/netns/outside\"");
    assert_eq!(links_of(&host), "lo out0");
    let there = host.ok(&["stat", "-Lc", "%i", "/run/netns/outside"]);
    let leader = host.machine_leader("m");
    assert_eq!(host.ok(&["stat", "-Lc", "%i", &format!("/proc/{leader}/ns/net")]), there);
    let supervisor = host.property("m", "supervisor");
    assert_ne!(host.ok(&["stat", "-Lc", "%i", &format!("/proc/{supervisor}/ns/net")]), there);
    // The guest's service is reachable.
    host.sh_ok("ip addr add 198.51.100.9/24 dev up0");
    host.wait_for_page("198.51.100.1");
    host.sh_ok("ip addr del 198.51.100.9/24 dev up0");
    host.coracle(&["stop", "m"]);
    before.assert_same(&host);
    host.define("m", "[network]\nnamespace-path = \"/etc/hostname\"\n");
    assert_ne!(host.exec(&["coracle", "start", "m"]).status, 0);
    let status = host.coracle(&["status", "m"]);
    assert!(status.contains("cannot join the network namespace '/etc/hostname'"), "{status}");
    before.assert_same(&host);
    host.stop();
}

#[test]
fn impossible_interfaces_are_refused_before_the_start() {
    let host = host();
    let before = Snapshot::take(&host);
    for (network, why) in [
        ("macvlan = [\"eth7\"]", "the host has no interface 'eth7'"),
        ("interface = [\"lo\"]", "two interfaces of the machine have the name 'lo'"),
        ("interface = [\"lo:x\"]", "the loopback interface of the host cannot be moved"),
        ("veth-extra = [\"up0:x\"]", "interface 'up0' exists and does not belong to the machine"),
        // The kernel of the test machine may lack ipvlan.
        ("mode = \"ipvlan\"\nipvlan = [\"up0\"]", "ipvlan"),
    ] {
        host.define("m", &format!("[network]\n{network}\n"));
        let started = host.exec(&["coracle", "start", "m"]);
        if started.status == 0 && network.contains("ipvlan") {
            reaches_outside(&host, "iv-up0");
            host.coracle(&["stop", "m"]);
            continue;
        }
        let said = host.exec(&["coracle", "status", "m"]);
        let said = format!("{}{}{}", started.stderr, said.stdout, said.stderr);
        assert!(started.status != 0 && said.contains(why), "{network}\n{said}");
        before.assert_same(&host);
    }
    host.stop();
}

/// Many hosts have a kernel with IPv6 and disable it with a sysctl.
#[test]
fn a_host_without_ipv6_has_ipv4_machines() {
    let host = Host::builder().guest_as("busybox", "m").start();
    host.sh_ok(
        "machinectl -q list; sysctl -q net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1",
    );
    host.define("m", "[network]\nports = [\"8080:80\"]\n");
    let before = Snapshot::take(&host);
    host.coracle(&["start", "m"]);
    let addresses = host.property("m", "addresses");
    assert!(addresses.starts_with("10.") && !addresses.contains(':'), "{addresses}");
    host.wait_for_page("m");
    host.wait_for_page("127.0.0.1:8080");
    let said = host.sh_ok("journalctl -q -b -u coracle@m -o cat | grep -e 'coracle: ' -e ignoring || true");
    assert_eq!(said, "");
    host.coracle(&["stop", "m"]);
    before.assert_same(&host);
    host.stop();
}
