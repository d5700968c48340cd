//! Machines with names that hash to the same addresses: each has distinct addresses, in any start order, and
//! keeps them.

use crate::support::{Host, Snapshot};
use coracle::machine::id128::Id128;
use coracle::machine::name::Name;
use coracle::network::addresses::plan;
use std::collections::HashMap;
use std::net::Ipv4Addr;

/// Returns two names that hash to the same addresses, and the IPv4 address of the guest among them.
fn alike() -> ([String; 2], Ipv4Addr) {
    let mut seen = HashMap::new();
    for number in 0.. {
        let name = format!("m{number}");
        let address = plan(&Name::new(&name).expect("a name"), Id128::NULL, &[]).expect("a plan").ipv4.guest;
        if let Some(other) = seen.insert(address, name.clone()) {
            return ([other, name], address);
        }
    }
    unreachable!("there are more names than addresses")
}

#[test]
fn machines_with_conflicting_addresses_get_distinct_ones() {
    let ([one, other], wanted) = alike();
    let host = Host::builder().guest_as("busybox", &one).guest_as("busybox", &other).start();
    host.activate_machined();
    host.enable_forwarding();
    for name in [&one, &other] {
        host.define(name, "");
    }
    let before = Snapshot::take(&host);
    // Without a conflict, each machine has the address derived from its name.
    for name in [&one, &other] {
        host.coracle(&["start", name]);
        assert_eq!(host.address(name), wanted.to_string());
        host.coracle(&["stop", name]);
    }
    before.assert_same(&host);
    for round in 0..8 {
        host.sh_ok(&format!("coracle start {one} & first=$!; coracle start {other} && wait $first"));
        let addresses = [&one, &other].map(|name| host.address(name));
        assert_ne!(addresses[0], addresses[1]);
        assert!(addresses.contains(&wanted.to_string()), "{addresses:?}");
        for name in [&one, &other] {
            for address in host.property(name, "addresses").split(' ') {
                let place = crate::support::bracketed(address);
                host.wait_for_page(&place);
            }
        }
        // The second machine keeps its addresses at a reboot, even if the first is stopped or killed.
        let (stays, goes) = if addresses[0] == wanted.to_string() { (&other, &one) } else { (&one, &other) };
        if round % 2 == 0 {
            host.coracle(&["stop", goes]);
        } else {
            host.kill_supervisor(goes);
        }
        let (leader, addresses) = (host.machine_leader(stays), host.property(stays, "addresses"));
        host.wait_for_page(addresses.split(' ').next().expect("one"));
        host.in_guest(stays, &["reboot"]);
        host.wait_for_reboot(stays, leader);
        host.wait_for_page(stays);
        assert_eq!(host.property(stays, "addresses"), addresses);
        host.coracle(&["stop", stays]);
        before.assert_same(&host);
    }
    host.stop();
}

#[test]
fn kills_during_conflicting_starts_release_the_addresses() {
    let ([one, other], _) = alike();
    let host = Host::builder().guest_as("busybox", &one).guest_as("busybox", &other).start();
    host.activate_machined();
    host.enable_forwarding();
    let before = Snapshot::take(&host);
    for delay in [5, 20, 40, 60, 90, 130] {
        host.sh(&format!(
            "coracle start {one} & a=$!; coracle start {other} & b=$!; sleep 0.{delay:03}; \
             for m in {one} {other}; do p=$(systemctl show -P MainPID coracle@$m); [ $p = 0 ] || kill -9 $p; done; \
             wait $a; wait $b"
        ));
        host.sh(&format!("coracle stop {one} {other}; systemctl reset-failed coracle@{one} coracle@{other}"));
        before.assert_same(&host);
        host.sh_ok("! ls /run/systemd/nspawn/locks | grep coracle-");
    }
    host.stop();
}
