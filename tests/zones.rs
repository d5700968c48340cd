//! Zones: machines that see each other by name and by address, apart from all others; a bridge that is there as long
//! as they are, whatever kills whom.

mod support;

use support::{Host, LONG, Snapshot};

fn zoned(zone: &str) -> String {
    format!("[network]\nmode = \"zone\"\nzone = \"{zone}\"\n")
}

/// Starts a machine that is defined.
fn start(host: &Host, name: &str) {
    host.coracle(&["start", "--wait=running", name]);
}

/// Whether a machine gets a page of another by this name or address.
fn sees(host: &Host, guest: &str, whom: &str) -> bool {
    let whom = if whom.contains(':') { format!("[{whom}]") } else { whom.to_owned() };
    let script = format!("busybox wget -T 1 -q -O - http://{whom}/ | grep 'hello from busybox'");
    host.in_guest(guest, &["sh", "-c", &script]).status == 0
}

#[track_caller]
fn assert_sees(host: &Host, guest: &str, whom: &str) {
    let hosts = || host.in_guest(guest, &["cat", "/etc/hosts"]).stdout;
    assert!(sees(host, guest, whom), "{guest} does not see {whom}\n{}", hosts());
}

fn hosts_of(host: &Host, guest: &str) -> String {
    host.in_guest(guest, &["cat", "/etc/hosts"]).success("its names").stdout
}

/// A host with busybox guests of these names.
fn host_of(names: &[&str]) -> Host {
    let builder = names.iter().fold(Host::builder(), |builder, name| builder.guest_as("busybox", name));
    let host = builder.start();
    host.sh_ok("machinectl -q list; sysctl -q net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
    host
}

/// Apart from another zone, and from a machine in none, both ways and by both families.
#[track_caller]
fn assert_apart(host: &Host) {
    for (guest, others) in [("a", ["other", "alone"]), ("other", ["a", "alone"]), ("alone", ["a", "other"])] {
        for other in others {
            assert!(!sees(host, guest, other), "{guest} knows {other} by name");
            for address in host.property(other, "addresses").split(' ') {
                assert!(!sees(host, guest, address), "{guest} sees {other} by {address}");
            }
        }
    }
}

#[test]
fn three_see_each_other_and_nobody_else() {
    let host = host_of(&["a", "b", "c", "other", "alone"]);
    host.add_outside();
    host.wait_until(LONG, "! ip -6 addr show tentative | grep .");
    let before = Snapshot::take(&host);
    for name in ["a", "b", "c"] {
        host.define(name, &zoned("lan"));
        start(&host, name);
    }
    host.define("other", &zoned("dmz"));
    start(&host, "other");
    host.start_machine("alone");
    for name in ["a", "b", "c", "other", "alone"] {
        let address = host.address(name);
        host.wait_for_page(&address);
        host.wait_for_page(name);
    }
    println!("{}", host.ok(&["ip", "-br", "addr"]));
    println!("{}", hosts_of(&host, "a"));
    // The first sees the last, which came later.
    for guest in ["a", "b", "c"] {
        for other in ["a", "b", "c"].iter().filter(|other| **other != guest) {
            assert_sees(&host, guest, other);
            assert_sees(&host, guest, &format!("{other}.lan"));
            for address in host.property(other, "addresses").split(' ') {
                assert_sees(&host, guest, address);
            }
        }
    }
    assert_apart(&host);
    for guest in ["a", "other", "alone"] {
        let host_address = host.property(guest, "host-addresses");
        let answer = host.in_guest(guest, &["ping", "-c1", "-W5", "host"]).success("reach the host by name");
        assert!(host_address.split(' ').any(|address| answer.stdout.contains(address)), "{}", answer.stdout);
    }
    // Who asks by DHCP is told what it has; the host knows all by name.
    let lease =
        host.in_guest("a", &["busybox", "udhcpc", "-f", "-n", "-q", "-i", "host0", "-s", "/bin/true"]);
    assert!(lease.stderr.contains(&host.address("a")), "{lease}");
    println!("{}", lease.stderr);
    for name in ["a", "other"] {
        let known = host.sh_ok(&format!("getent -s mymachines ahosts {name}"));
        println!("{known}");
        assert!(
            host.property(name, "addresses").split(' ').all(|address| known.contains(address)),
            "{known}"
        );
    }
    // The outside, under the host's address.
    for address in ["192.0.2.2", "2001:db8::2"] {
        host.in_guest("a", &["ping", "-c1", "-W5", address]).success("reach the outside");
    }
    let shown = host.coracle(&["network"]);
    println!("$ coracle network\n{shown}");
    for part in ["lan   vz-lan", "a b c", "vb-a", "bridge coracle  guard"] {
        assert!(shown.contains(part), "{part}\n{shown}");
    }
    assert!(host.coracle(&["network", "--json"]).contains("\"bridge\": \"vz-dmz\""));
    assert!(host.coracle(&["status", "a"]).contains("zone: lan"));
    // Who goes is forgotten, and the bridge goes with the last.
    host.coracle(&["stop", "b", "c", "other", "alone"]);
    assert!(!hosts_of(&host, "a").contains("b.lan"), "{}", hosts_of(&host, "a"));
    assert!(hosts_of(&host, "a").contains("a.lan"));
    host.sh_ok("ip link show vz-lan && ! ip link show vz-dmz");
    host.coracle(&["stop", "a"]);
    host.sh_ok("! ip link show vz-lan; ! nft list table bridge coracle");
    assert!(!host.ok(&["cat", "/var/lib/machines/a/etc/hosts"]).contains("coracle"));
    before.assert_same(&host);
    host.stop();
}

#[test]
fn nobody_passes_for_another() {
    let host = host_of(&["a", "b", "thief"]);
    for name in ["a", "b", "thief"] {
        host.define(name, &zoned("lan"));
        start(&host, name);
        let address = host.address(name);
        host.wait_for_page(&address);
    }
    let (a, b) = (host.address("a"), host.address("b"));
    assert!(sees(&host, "a", &b) && sees(&host, "thief", &b));
    // With another's address it gets nowhere, though it says so all over.
    host.in_guest("thief", &["ip", "addr", "add", &format!("{b}/22"), "dev", "host0"]).success("take it");
    host.in_guest("thief", &["arping", "-c3", "-w3", "-U", "-I", "host0", &b]);
    host.in_guest("thief", &["sh", "-c", &format!("ping -I {b} -c1 -W1 {a}")]);
    let lost = host.in_guest("thief", &["ping", "-I", &b, "-c1", "-W1", &a]);
    assert_ne!(lost.status, 0, "{}", lost.stdout);
    let neighbour =
        host.in_guest("a", &["sh", "-c", &format!("ping -c1 -W2 {b} >/dev/null; ip neigh show {b}")]);
    let mac = host.in_guest("b", &["cat", "/sys/class/net/host0/address"]).stdout;
    assert!(neighbour.stdout.contains(mac.trim()), "{}", neighbour.stdout);
    // Nor with another's link-layer address.
    let script =
        format!("ip link set host0 down; ip link set host0 address {}; ip link set host0 up", mac.trim());
    host.in_guest("thief", &["sh", "-c", &script]).success("change it");
    assert_ne!(host.in_guest("thief", &["ping", "-c1", "-W1", &a]).status, 0);
    assert!(sees(&host, "a", &b));
    let dropped = host.sh_ok("nft list chain bridge coracle guard | tail -n3");
    println!("{dropped}");
    assert!(!dropped.contains("packets 0"), "{dropped}");
    host.coracle(&["stop", "a", "b", "thief"]);
    host.stop();
}

#[test]
fn two_at_once_and_kills_at_any_moment() {
    let host = host_of(&["a", "b", "c"]);
    for name in ["a", "b", "c"] {
        host.define(name, &zoned("lan"));
    }
    let before = Snapshot::take(&host);
    for round in 0..4 {
        host.sh_ok(
            "coracle start a & one=$!; coracle start b & two=$!; coracle start c && wait $one && wait $two",
        );
        let addresses: Vec<String> = ["a", "b", "c"].map(|name| host.address(name)).to_vec();
        assert!(addresses[0] != addresses[1] && addresses[1] != addresses[2], "{addresses:?}");
        for address in &addresses {
            host.wait_for_page(address);
        }
        assert_sees(&host, "a", "c");
        assert_sees(&host, "c", "a.lan");
        // One is killed, the others go on and forget it; then two go at once.
        let victim = ["a", "b", "c"][round % 3];
        host.sh_ok(&format!("kill -9 $(coracle show {victim} -p supervisor | cut -d= -f2)"));
        host.wait_for_unit(victim, "failed");
        let left: Vec<&str> = ["a", "b", "c"].into_iter().filter(|name| *name != victim).collect();
        assert!(!hosts_of(&host, left[0]).contains(&format!("{victim}.lan")));
        assert_sees(&host, left[0], left[1]);
        host.sh_ok(&format!("coracle stop {} & one=$!; coracle stop {} && wait $one", left[0], left[1]));
        before.assert_same(&host);
    }
    // Killed while they start. Whoever comes next takes a lock away that was held.
    for delay in [5, 15, 30, 45, 60, 80, 110, 150] {
        host.sh(&format!(
            "coracle start a & one=$!; coracle start b & two=$!; sleep 0.{delay:03}; \
             for m in a b; do p=$(systemctl show -P MainPID coracle@$m); [ $p = 0 ] || kill -9 $p; done; wait $one; wait $two"
        ));
        host.sh("coracle stop a b; systemctl reset-failed coracle@a coracle@b");
        before.assert_same(&host);
        host.sh_ok("! ls /run/systemd/nspawn-network-zone");
    }
    host.stop();
}

#[test]
fn a_tree_that_nobody_writes_and_one_that_its_guest_does() {
    let host = host_of(&["fixed", "free"]);
    host.sh_ok("grep -q localhost /var/lib/machines/fixed/etc/hosts || echo '127.0.0.1 localhost' >/var/lib/machines/fixed/etc/hosts");
    host.define("fixed", &format!("[root]\nread-only = true\n{}", zoned("lan")));
    host.define("free", &zoned("lan"));
    let before = Snapshot::take(&host);
    let own = host.ok(&["cat", "/var/lib/machines/fixed/etc/hosts"]);
    for name in ["fixed", "free"] {
        start(&host, name);
    }
    let names = hosts_of(&host, "fixed");
    assert!(names.contains("localhost") && names.contains("free free.lan"), "{names}");
    assert_ne!(host.in_guest("fixed", &["sh", "-c", "echo x >>/etc/hosts"]).status, 0);
    assert_eq!(host.ok(&["cat", "/var/lib/machines/fixed/etc/hosts"]), own);
    // A guest's own lines stay, and a file in place of ours gets the names again.
    host.in_guest("free", &["sh", "-c", "sed -i '1i 192.0.2.9 mine' /etc/hosts"]).success("edit its own");
    host.coracle(&["restart", "fixed"]);
    let names = hosts_of(&host, "free");
    assert!(names.contains("192.0.2.9 mine") && names.contains("fixed fixed.lan"), "{names}");
    host.in_guest("free", &["sh", "-c", "rm /etc/hosts; ln -s /etc/passwd /etc/hosts"]).success("a link");
    host.coracle(&["restart", "fixed"]);
    assert!(!host.in_guest("free", &["cat", "/etc/passwd"]).stdout.contains("lan"));
    host.coracle(&["stop", "fixed", "free"]);
    before.assert_same(&host);
    host.stop();
}
