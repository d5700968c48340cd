//! Static addresses in each mode: there before PID 1 runs, answered by DHCP, kept over reboots, and refused if
//! they are in use.

use crate::support::{Host, LONG, Snapshot};

/// A bridge of the host with an outside network, 198.51.100.0/24.
const BRIDGE: &str = "
ip netns add outside
ip link add br0 type bridge; ip link set br0 up; ip addr add 198.51.100.2/24 dev br0
ip link add up0 type veth peer name out0 netns outside; ip link set up0 master br0; ip link set up0 up
ip link add low0 type veth peer name out1 netns outside; ip link set low0 up
ip -n outside link add hub type bridge; ip -n outside link set hub up
ip -n outside link set out0 master hub; ip -n outside link set out1 master hub
ip -n outside link set out0 up; ip -n outside link set out1 up; ip -n outside link set lo up
ip -n outside addr add 198.51.100.1/24 dev hub; ip -n outside addr add 2001:db8:5::1/64 dev hub nodad
ip -n outside addr add 203.0.113.1/32 dev lo
";

const SCRIPT: &str = "#!/bin/sh
[ \"$1\" = bound ] && echo \"bound: $ip/$mask router $router\"
exit 0
";

fn define(host: &Host, name: &str, network: &str) {
    host.define(name, &format!("[network]\n{network}\n"));
}

/// Asserts that a start is refused with a message.
#[track_caller]
fn refused(host: &Host, name: &str, network: &str, text: &str) {
    define(host, name, network);
    let out = host.exec(&["coracle", "start", name]);
    assert!(out.status == 1 && out.stderr.contains(text), "{out}");
    host.sh_ok(&format!("systemctl reset-failed coracle@{name}"));
}

/// Returns the addresses of an interface of a guest.
fn inside(host: &Host, guest: &str, interface: &str) -> String {
    let list = format!("ip -o addr show dev {interface} scope global");
    let listed = host.in_guest(guest, &["sh", "-c", &list]).success("list").stdout;
    let words: Vec<&str> = listed.lines().filter_map(|line| line.split_whitespace().nth(3)).collect();
    words.join(" ")
}

fn reboot(host: &Host, name: &str) {
    let leader = host.machine_leader(name);
    host.in_guest(name, &["reboot"]);
    host.wait_for_reboot(name, leader);
    host.wait_until(LONG, &format!("coracle exec {name} -- true"));
}

#[test]
fn a_link_has_the_defined_addresses() {
    let host = Host::start(&["busybox"]);
    host.activate_machined();
    host.enable_forwarding();
    host.wait_for_address_detection();
    host.write("/var/lib/machines/busybox/script", SCRIPT);
    let before = Snapshot::take(&host);
    define(&host, "busybox", "address = [\"192.168.50.7/24\", \"fd12:50::7/64\"]\nports = [\"8080:80\"]");
    host.coracle(&["start", "busybox"]);
    assert_eq!(inside(&host, "busybox", "host0"), "192.168.50.7/24 fd12:50::7/64");
    assert_eq!(host.property("busybox", "addresses"), "192.168.50.7 fd12:50::7");
    for address in ["192.168.50.7", "[fd12:50::7]"] {
        host.wait_for_page(address);
    }
    host.wait_for_page("127.0.0.1:8080");
    let ask = "chmod 755 /script; udhcpc -i host0 -f -q -n -t 3 -T 1 -s /script 2>&1";
    let offer = host.in_guest("busybox", &["sh", "-c", ask]).success("udhcpc").stdout;
    assert!(offer.contains("bound: 192.168.50.7/24 router 192.168.50.1"), "{offer}");
    reboot(&host, "busybox");
    assert_eq!(inside(&host, "busybox", "host0"), "192.168.50.7/24 fd12:50::7/64");
    // The definition changes while the machine runs: the reboot uses the new addresses.
    let network = "address = \"192.168.51.1/24\"\ngateway = \"192.168.51.9\"\nports = [\"8080:80\"]";
    define(&host, "busybox", network);
    reboot(&host, "busybox");
    let now = inside(&host, "busybox", "host0");
    assert!(now.starts_with("192.168.51.1/24 fd") && !now.contains("fd12:50::7"), "{now}");
    host.wait_for_page("192.168.51.1");
    host.wait_for_page("127.0.0.1:8080");
    assert!(!host.sh_ok("ip addr show").contains("192.168.50."));
    host.coracle(&["stop", "busybox"]);
    host.assert_clean_stop("busybox");
    before.assert_same(&host);
    host.stop();
}

#[test]
fn a_zone_has_the_network_of_its_first_machine() {
    let host = Host::builder().guest_as("busybox", "a").guest_as("busybox", "b").start();
    host.activate_machined();
    host.enable_forwarding();
    host.wait_for_address_detection();
    let before = Snapshot::take(&host);
    define(&host, "a", "zone = \"lan\"\naddress = [\"192.168.50.7/24\", \"fd12:50::7/64\"]");
    define(&host, "b", "zone = \"lan\"");
    host.coracle(&["start", "a"]);
    host.coracle(&["start", "b"]);
    assert_eq!(inside(&host, "a", "host0"), "192.168.50.7/24 fd12:50::7/64");
    let other = inside(&host, "b", "host0");
    assert!(other.starts_with("192.168.50.") && other.contains("/24 fd12:50::"), "{other}");
    host.wait_for_page("192.168.50.7");
    for ping in ["ping -c1 -W5 192.168.50.7", "ping -6 -c1 -W5 fd12:50::7"] {
        host.in_guest("b", &["sh", "-c", ping]).success(ping);
    }
    host.coracle(&["stop", "b"]);
    let taken = "'192.168.50.7/24' in network.address is the address of machine 'a'";
    refused(&host, "b", "zone = \"lan\"\naddress = \"192.168.50.7/24\"", taken);
    let outside = "'10.9.0.7/24' in network.address is not in the network of zone 'lan', 192.168.50.0/24";
    refused(&host, "b", "zone = \"lan\"\naddress = \"10.9.0.7/24\"", outside);
    refused(&host, "b", "address = \"192.168.50.9/24\"", "is in the network 192.168.50.0/24 of zone 'lan'");
    host.coracle(&["stop", "a"]);
    host.assert_clean_stop("a");
    before.assert_same(&host);
    host.stop();
}

#[test]
fn interfaces_have_the_defined_addresses() {
    let host = Host::builder().guest_as("busybox", "m").guest_as("busybox", "n").start();
    host.sh_ok(BRIDGE);
    host.activate_machined();
    host.enable_forwarding();
    host.wait_for_address_detection();
    let before = Snapshot::take(&host);
    let addresses = "address = [\"198.51.100.7/24\", \"2001:db8:5::7/64\"]\ngateway = [\"198.51.100.1\", \"2001:db8:5::1\"]";
    for (mode, interface) in [
        ("bridge = \"br0\"", "host0"),
        ("mode = \"macvlan\"\nmacvlan = [\"low0\"]", "mv-low0"),
        ("mode = \"ipvlan\"\nipvlan = [\"low0:lan\"]", "lan"),
    ] {
        define(&host, "m", &format!("{mode}\n{addresses}"));
        let started = host.exec(&["coracle", "start", "m"]);
        if mode.contains("ipvlan") && started.status != 0 {
            // The kernel of the test machine may lack ipvlan.
            assert!(started.stderr.contains("CONFIG_IPVLAN"), "{started}");
            host.sh_ok("systemctl reset-failed coracle@m");
            continue;
        }
        started.success("start");
        for boot in 0..2 {
            assert_eq!(inside(&host, "m", interface), "198.51.100.7/24 2001:db8:5::7/64", "{mode}");
            assert_eq!(host.property("m", "addresses"), "198.51.100.7 2001:db8:5::7", "{mode}");
            host.sh_ok("ip -n outside neigh flush all");
            // The second is reached by the default route.
            for address in ["198.51.100.1", "203.0.113.1"] {
                host.wait_until_in_guest("m", &format!("ping -c1 -W1 {address}"));
            }
            if boot == 0 {
                reboot(&host, "m");
            }
        }
        refused(
            &host,
            "n",
            &format!("{mode}\naddress = \"198.51.100.7/24\""),
            "is the address of machine 'm'",
        );
        refused(
            &host,
            "n",
            &format!("{mode}\naddress = \"198.51.100.2/24\""),
            "is the address of interface 'br0' of the host",
        );
        host.coracle(&["stop", "m"]);
        host.assert_clean_stop("m");
    }
    before.assert_same(&host);
    host.stop();
}

#[test]
fn networkd_of_the_guest_keeps_the_addresses() {
    let host = Host::start(&["trixie"]);
    host.sh_ok(BRIDGE);
    host.enable_networkd("trixie");
    for network in ["bridge = \"br0\"", "mode = \"veth\"\n", "zone = \"lan\""] {
        let own = if network.contains("br0") { "198.51.100.7/24" } else { "192.168.50.7/24" };
        define(&host, "trixie", &format!("{network}\naddress = [\"{own}\", \"fd12:50::7/64\"]"));
        host.coracle(&["start", "--wait=ready", "trixie"]);
        host.wait_until_in_guest("trixie", "networkctl list host0 --no-legend | grep configured");
        let now = inside(&host, "trixie", "host0");
        assert_eq!(now, format!("{own} fd12:50::7/64"), "{network}");
        host.coracle(&["stop", "trixie"]);
    }
    host.stop();
}

#[test]
fn addresses_in_use_are_refused() {
    let host = Host::builder().guest_as("busybox", "m").guest_as("busybox", "n").start();
    host.sh_ok("ip link add d0 type bridge; ip link set d0 up; ip addr add 192.168.60.1/24 dev d0; ip route add 192.168.61.0/25 dev d0");
    for (address, text) in [
        (
            "192.168.60.1/24",
            "'192.168.60.1/24' in network.address is the address of interface 'd0' of the host",
        ),
        ("192.168.60.7/28", "is in the network 192.168.60.0/24 of interface 'd0' of the host"),
        ("192.168.61.7/24", "is in the network of the route 192.168.61.0/25, interface 'd0' of the host"),
    ] {
        refused(&host, "m", &format!("address = \"{address}\""), text);
        let check = host.exec(&["coracle", "check", "m"]);
        assert!(check.stdout.contains("warning: ") || check.stderr.contains("warning: "), "{check}");
    }
    define(&host, "m", "address = \"192.168.50.7/24\"");
    define(&host, "n", "address = \"192.168.50.8/24\"");
    // Started together, neither has a link when the other one looks for it.
    let both = host.exec(&["coracle", "start", "m", "n"]);
    assert!(
        both.status == 1 && both.stderr.contains("is in the network 192.168.50.0/24 of machine"),
        "{both}"
    );
    host.sh_ok("systemctl stop coracle@m coracle@n; systemctl reset-failed");
    host.coracle(&["start", "m"]);
    refused(&host, "n", "address = \"192.168.50.8/24\"", "is in the network 192.168.50.0/24 of machine 'm'");
    refused(&host, "n", "address = \"192.168.50.7/24\"", "in network.address is");
    // A change of the running machine takes effect at its next start.
    let set = host.ok(&["coracle", "set", "m", "address=192.168.52.7/24"]);
    assert!(set.contains("network.address"), "{set}");
    host.coracle(&["restart", "m"]);
    assert!(inside(&host, "m", "host0").starts_with("192.168.52.7/24"));
    host.coracle(&["stop", "m"]);
    let run = "coracle run --network-veth --network-address=192.168.53.7/24 --network-gateway=192.168.53.3 \
               -D /var/lib/machines/n sh -c 'ip -o addr show host0; ip route'";
    let shown = host.sh_ok(run);
    assert!(shown.contains("192.168.53.7/24") && shown.contains("via 192.168.53.3"), "{shown}");
    host.stop();
}
