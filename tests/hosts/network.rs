//! Machines on the network of their host: connections by address and name, without networkd and with networkd
//! on the host or in the guest.

use crate::support::{Host, LONG, Snapshot};

/// Asserts that a busybox guest receives the page of another machine.
#[track_caller]
fn guest_sees_page(host: &Host, guest: &str, address: &str) {
    let script = format!("busybox wget -T 2 -q -O - http://{address}/ | grep 'hello from busybox'");
    host.in_guest(guest, &["sh", "-c", &script]).success("a page of the other machine");
}

/// Starts the machines `a` and `b`, and asserts that they reach the host and each other.
fn two_machines(host: &Host) {
    for name in ["a", "b"] {
        host.start_machine(name);
    }
    let (a, b) = (host.address("a"), host.address("b"));
    for (address, name) in [(&a, "a"), (&b, "b")] {
        host.wait_for_page(address);
        host.wait_for_page(name);
    }
    guest_sees_page(host, "a", &b);
    guest_sees_page(host, "b", &a);
    for name in ["a", "b"] {
        for address in host.property(name, "host-addresses").split(' ') {
            host.in_guest(name, &["ping", "-c1", "-W5", address]).success("reach the host");
        }
        for address in host.property(name, "addresses").split(' ') {
            host.ok(&["ping", "-c1", "-W5", address]);
        }
    }
    // IPv6 between guests.
    let v6 =
        host.property("b", "addresses").split(' ').find(|one| one.contains(':')).expect("IPv6").to_owned();
    host.in_guest("a", &["ping", "-c1", "-W5", &v6]).success("reach the other by IPv6");
}

fn stop_two(host: &Host, before: &Snapshot) {
    host.coracle(&["stop", "a", "b"]);
    for name in ["a", "b"] {
        host.assert_clean_stop(name);
    }
    before.assert_same(host);
}

fn two_guests() -> crate::support::Builder {
    Host::builder().guest_as("busybox", "a").guest_as("busybox", "b")
}

#[test]
fn machines_are_connected_without_networkd() {
    let host = two_guests().start();
    host.activate_machined();
    host.enable_forwarding();
    let before = Snapshot::take(&host);
    two_machines(&host);
    // A restarted machine keeps its addresses.
    let addresses = host.property("a", "addresses");
    host.coracle(&["restart", "a"]);
    assert_eq!(host.property("a", "addresses"), addresses);
    stop_two(&host, &before);
    host.stop();
}

#[test]
fn machines_are_connected_with_networkd_on_the_host() {
    let host = two_guests().networkd().start();
    host.activate_machined();
    host.enable_forwarding();
    // At the first masquerade networkd creates empty tables, which remain.
    host.start_machine("a");
    host.wait_until(LONG, "nft list table ip io.systemd.nat");
    host.coracle(&["stop", "a"]);
    let before = Snapshot::take(&host);
    two_machines(&host);
    for name in ["a", "b"] {
        let link = format!("ve-{name}");
        host.wait_until(LONG, &format!("networkctl list {link} --no-legend | grep -w configured"));
        let host_address = host.property(name, "host-addresses");
        let host_address = host_address.split(' ').next().expect("an address");
        host.ok(&["sh", "-c", &format!("ip -4 -o addr show {link} | grep -w {host_address}")]);
    }
    // networkd keeps addresses and routes that are not its own.
    two_addresses_stay(&host);
    host.ok(&["systemctl", "restart", "systemd-networkd"]);
    two_addresses_stay(&host);
    stop_two(&host, &before);
    host.stop();
}

fn two_addresses_stay(host: &Host) {
    for name in ["a", "b"] {
        let address = host.address(name);
        host.wait_for_page(&address);
    }
}

/// Asserts that networkd in the guest keeps the address assigned at the start of the machine.
#[track_caller]
fn assert_networkd_keeps_the_address(host: &Host) {
    host.enable_networkd("trixie");
    host.coracle(&["start", "--wait=ready", "trixie"]);
    let address = host.address("trixie");
    host.ok(&["ping", "-c1", "-W5", &address]);
    let own = host.in_guest("trixie", &["networkctl", "status", "host0", "--no-pager"]).success("networkctl");
    assert!(own.stdout.contains(&address), "{own}");
    host.wait_until_in_guest("trixie", "networkctl list host0 --no-legend | grep configured");
    host.ok(&["ping", "-c1", "-W5", &address]);
    assert_eq!(host.in_guest("trixie", &["systemctl", "is-system-running"]).stdout, "running\n");
    host.coracle(&["stop", "trixie"]);
    host.assert_clean_stop("trixie");
}

#[test]
fn networkd_of_a_guest_keeps_its_address() {
    assert_networkd_keeps_the_address(&Host::start(&["trixie"]));
}

#[test]
fn networkd_of_a_guest_keeps_its_address_beside_networkd_of_the_host() {
    assert_networkd_keeps_the_address(&Host::builder().guest("trixie").networkd().start());
}

#[test]
fn long_names_have_distinct_interfaces() {
    let (one, two) = ("a-machine-with-a-long-name-1", "a-machine-with-a-long-name-2");
    let host = Host::builder().guest_as("busybox", one).guest_as("busybox", two).start();
    host.activate_machined();
    let before = Snapshot::take(&host);
    for name in [one, two] {
        host.start_machine(name);
        let address = host.address(name);
        host.wait_for_page(&address);
        let link = host.property(name, "host-interface");
        assert!(link.len() <= 15 && link.starts_with("ve-a-machin"), "{link}");
        assert!(host.ok(&["ip", "link", "show", &link]).contains(&format!("altname ve-{name}")));
    }
    assert_ne!(host.property(one, "host-interface"), host.property(two, "host-interface"));
    host.coracle(&["stop", one, two]);
    before.assert_same(&host);
    host.stop();
}

#[test]
fn a_machine_without_a_network_has_a_loopback_interface_only() {
    let host = Host::start(&["busybox"]);
    host.define("busybox", "[network]\nmode = \"none\"\n");
    host.coracle(&["start", "busybox"]);
    let links = host.in_guest("busybox", &["ls", "/sys/class/net"]).success("list links");
    assert_eq!(links.stdout, "lo\n");
    host.coracle(&["stop", "busybox"]);
    host.stop();
}

#[test]
fn a_machine_shares_the_network_of_the_host() {
    let host = Host::start(&["busybox"]);
    host.define("busybox", "[network]\nmode = \"host\"\n");
    host.coracle(&["start", "busybox"]);
    let own = host.ok(&["readlink", "/proc/1/ns/net"]);
    assert_eq!(host.in_guest("busybox", &["readlink", "/proc/1/ns/net"]).stdout, own);
    assert!(host.coracle(&["list"]).contains("network"), "the list warns of it");
    host.coracle(&["stop", "busybox"]);
    host.assert_clean_stop("busybox");
    host.stop();
}

#[test]
fn a_link_is_gone_after_a_stop_even_if_its_namespace_is_in_use() {
    let host = Host::start(&["busybox"]);
    host.start_machine("busybox");
    host.coracle(&["stop", "busybox"]);
    host.sh_ok("! ip link show ve-busybox");
    host.coracle(&["start", "busybox"]);
    let leader = host.machine_leader("busybox").to_string();
    let holder = host.spawn(&["nsenter", "-t", &leader, "-n", "sleep", "1000"]);
    host.wait_until(LONG, "pgrep -x sleep");
    host.coracle(&["stop", "busybox"]);
    host.sh_ok("! ip link show ve-busybox");
    host.assert_clean_stop("busybox");
    drop(holder);
    host.stop();
}
