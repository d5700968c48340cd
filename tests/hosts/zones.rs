//! Zones: machines that reach each other by name and by address, isolated from all others. The bridge exists
//! as long as the zone has machines, also after kills.

use crate::support::{Host, LONG, Snapshot, page};

fn zoned(zone: &str) -> String {
    format!("[network]\nmode = \"zone\"\nzone = \"{zone}\"\n")
}

/// Starts a defined machine.
fn start(host: &Host, name: &str) {
    host.coracle(&["start", "--wait=running", name]);
}

/// Returns whether a machine receives the page of another machine by the given name or address.
fn sees(host: &Host, guest: &str, target: &str) -> bool {
    let script = format!(
        "busybox wget -T 1 -q -O - http://{}/ | grep 'hello from busybox'",
        crate::support::bracketed(target)
    );
    host.in_guest(guest, &["sh", "-c", &script]).status == 0
}

#[track_caller]
fn assert_sees(host: &Host, guest: &str, target: &str) {
    let hosts = || host.in_guest(guest, &["cat", "/etc/hosts"]).stdout;
    assert!(sees(host, guest, target), "{guest} does not see {target}\n{}", hosts());
}

fn hosts_of(host: &Host, guest: &str) -> String {
    host.in_guest(guest, &["cat", "/etc/hosts"]).success("its names").stdout
}

/// The common part of Perl scripts that broadcast a frame from host0. `frame` takes the source link-layer
/// address, the protocol and the packet.
const FORGE: &str = r#"
use Socket qw(:DEFAULT inet_pton inet_aton);
my ($v4, $v6, $mac) = @ARGV;
my $own = `cat /sys/class/net/host0/address 2>/dev/null` || `ip -o link show host0` ;
$own =~ /((?:[0-9a-f]{2}:){5}[0-9a-f]{2})/ or die; $own = pack("H2" x 6, split /:/, $1);
my $theirs = pack("H2" x 6, split /:/, $mac);
my $index = (split /:/, `ip -o link show host0`)[0];
my $local = "\xfe\x80" . "\0" x 6 . (substr($own, 0, 1) ^ "\x02") . substr($own, 1, 2) . "\xff\xfe" . substr($own, 3, 3);
socket(S, 17, SOCK_RAW, 0) or die "socket: $!";
sub frame { my ($from, $protocol, $packet) = @_;
  my $to = pack("S n L S C C a8", 17, $protocol, $index, 0, 0, 6, "\xff" x 6);
  send(S, "\xff" x 6 . $from . pack("n", $protocol) . $packet, 0, $to) or die "send: $!" }
sub ip6 { my ($from, $next, $data) = @_;
  pack("N n C C", 0x60000000, length $data, $next, 255) . $from . "\xff\x02" . "\0" x 13 . "\1" . $data }
sub ip4 { my ($from, $data) = @_;
  pack("C C n n n C C n", 0x45, 0, 20 + length $data, 0, 0, 64, 17, 0) . inet_aton($from) . "\xff" x 4 . $data }
"#;
const FORGERIES: [(&str, &str); 7] = [
    ("an IPv6 address of another", "frame($own, 0x86dd, ip6(inet_pton(AF_INET6, $v6), 59, ''));"),
    (
        "an advertisement of another's IPv6 address",
        "frame($own, 0x86dd, ip6($local, 58, pack('C C n N', 136, 0, 0, 0x20000000) . inet_pton(AF_INET6, $v6)));",
    ),
    (
        "an advertisement of a router",
        "frame($own, 0x86dd, ip6($local, 58, pack('C C n', 134, 0, 0) . chr(0) x 12));",
    ),
    ("an IPv4 address of another", "frame($own, 0x0800, ip4($v4, chr(0) x 8));"),
    ("an answer by DHCP", "frame($own, 0x0800, ip4('0.0.0.0', pack('n n n n', 67, 68, 8, 0)));"),
    (
        "an answer by ARP with another's address",
        "frame($own, 0x0806, pack('n n C C n', 1, 0x800, 6, 4, 2) . $own . inet_aton($v4) . $own . inet_aton($v4));",
    ),
    ("a link-layer address of another", "frame($theirs, 0x0800, ip4($v4, chr(0) x 8));"),
];

/// Returns a host with busybox guests of the given names.
fn host_of(names: &[&str]) -> Host {
    let builder = names.iter().fold(Host::builder(), |builder, name| builder.guest_as("busybox", name));
    let host = builder.start();
    host.activate_machined();
    host.enable_forwarding();
    host
}

/// Asserts that a machine is isolated from another zone and from a machine without a zone, in both directions
/// and by both families.
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

/// Defines and starts machines of the zone `lan`.
fn start_zone(host: &Host, names: &[&str]) {
    for name in names {
        host.define(name, &zoned("lan"));
        start(host, name);
        host.wait_for_page(&host.address(name));
    }
}

#[test]
fn machines_of_a_zone_see_each_other_by_name_and_address() {
    const ALL: [&str; 3] = ["a", "b", "c"];
    let host = host_of(&ALL);
    // The first machine also reaches the last one, which is started later.
    start_zone(&host, &ALL);
    for guest in ALL {
        for other in ALL.iter().filter(|other| **other != guest) {
            assert_sees(&host, guest, other);
            assert_sees(&host, guest, &format!("{other}.lan"));
            for address in host.property(other, "addresses").split(' ') {
                assert_sees(&host, guest, address);
            }
        }
    }
    host.coracle(&[&["stop"][..], &ALL].concat());
    host.stop();
}

#[test]
fn zones_are_isolated_from_each_other_and_from_other_machines() {
    let host = host_of(&["a", "other", "alone"]);
    start_zone(&host, &["a"]);
    host.define("other", &zoned("dmz"));
    start(&host, "other");
    host.start_machine("alone");
    for name in ["other", "alone"] {
        host.wait_for_page(name);
    }
    assert_apart(&host);
    host.coracle(&["stop", "a", "other", "alone"]);
    host.stop();
}

#[test]
fn machines_of_a_zone_reach_their_host_and_the_outside() {
    let host = host_of(&["a", "alone"]);
    host.add_outside();
    host.wait_for_address_detection();
    start_zone(&host, &["a"]);
    host.start_machine("alone");
    for guest in ["a", "alone"] {
        let host_address = host.property(guest, "host-addresses");
        let answer = host.in_guest(guest, &["ping", "-c1", "-W5", "host"]).success("reach the host by name");
        assert!(host_address.split(' ').any(|address| answer.stdout.contains(address)), "{answer}");
    }
    for address in ["192.0.2.2", "2001:db8::2"] {
        host.in_guest("a", &["ping", "-c1", "-W5", address]).success("reach the outside");
    }
    host.coracle(&["stop", "a", "alone"]);
    host.stop();
}

#[test]
fn dhcp_and_the_resolver_of_the_host_know_machines_of_a_zone() {
    let host = host_of(&["a", "b"]);
    start_zone(&host, &["a", "b"]);
    let udhcpc = ["busybox", "udhcpc", "-f", "-n", "-q", "-i", "host0", "-s", "/bin/true"];
    let lease = host.in_guest("a", &udhcpc);
    assert!(lease.stderr.contains(&format!("lease of {} obtained", host.address("a"))), "{lease}");
    for name in ["a", "b"] {
        let known = host.sh_ok(&format!("getent -s mymachines ahosts {name}"));
        assert!(
            host.property(name, "addresses").split(' ').all(|address| known.contains(address)),
            "{known}"
        );
    }
    host.coracle(&["stop", "a", "b"]);
    host.stop();
}

#[test]
fn network_and_status_show_zones() {
    let host = host_of(&["a", "other"]);
    start_zone(&host, &["a"]);
    host.define("other", &zoned("dmz"));
    start(&host, "other");
    let shown = host.coracle(&["network"]);
    for part in ["lan   vz-lan", "vb-a", "bridge coracle  antispoof"] {
        assert!(shown.contains(part), "{part}\n{shown}");
    }
    assert!(host.coracle(&["network", "--json"]).contains("\"bridge\": \"vz-dmz\""));
    assert!(host.coracle(&["status", "a"]).contains("zone: lan"));
    // nft(8) can parse its own listing of the tables: rulesets are saved in this form.
    host.sh_ok("nft list ruleset >/run/saved; nft --check --file /run/saved");
    host.coracle(&["stop", "a", "other"]);
    host.stop();
}

#[test]
fn the_last_machine_of_a_zone_removes_the_bridge() {
    let host = host_of(&["a", "b"]);
    let before = Snapshot::take(&host);
    start_zone(&host, &["a", "b"]);
    host.coracle(&["stop", "b"]);
    let names = hosts_of(&host, "a");
    assert!(!names.contains("b.lan") && names.contains("a.lan"), "{names}");
    host.sh_ok("ip link show vz-lan");
    host.coracle(&["stop", "a"]);
    host.sh_ok("! ip link show vz-lan && ! nft list table bridge coracle");
    assert!(!host.read("/var/lib/machines/a/etc/hosts").contains("coracle"));
    before.assert_same(&host);
    host.stop();
}

/// Returns a host with the running machines `a`, `b` and `thief` of one zone.
fn host_with_thief() -> Host {
    let host = host_of(&["a", "b", "thief"]);
    start_zone(&host, &["a", "b", "thief"]);
    assert!(sees(&host, "thief", &host.address("b")));
    host
}

/// Returns the link-layer address of a machine.
fn link_address(host: &Host, name: &str) -> String {
    host.in_guest(name, &["cat", "/sys/class/net/host0/address"])
        .success("its address")
        .stdout
        .trim()
        .to_owned()
}

/// Returns the number of packets that the bridge table has dropped as forged.
fn dropped(host: &Host) -> u64 {
    let rules = host.sh_ok("nft list chain bridge coracle antispoof");
    let counts = rules.split("packets ").skip(1);
    counts.filter_map(|rest| rest.split(' ').next()?.parse::<u64>().ok()).sum()
}

#[test]
fn a_machine_of_a_zone_cannot_take_the_address_of_another() {
    let host = host_with_thief();
    let (a, b) = (host.address("a"), host.address("b"));
    host.in_guest("thief", &["ip", "addr", "add", &format!("{b}/22"), "dev", "host0"]).success("take it");
    host.in_guest("thief", &["arping", "-c3", "-w3", "-U", "-I", "host0", &b]);
    let lost = host.in_guest("thief", &["ping", "-I", &b, "-c1", "-W1", &a]);
    assert_ne!(lost.status, 0, "{lost}");
    let neighbour =
        host.in_guest("a", &["sh", "-c", &format!("ping -c1 -W2 {b} >/dev/null; ip neigh show {b}")]);
    assert!(neighbour.stdout.contains(&link_address(&host, "b")), "{neighbour}");
    host.coracle(&["stop", "a", "b", "thief"]);
    host.stop();
}

#[test]
fn a_machine_of_a_zone_cannot_take_the_link_layer_address_of_another() {
    let host = host_with_thief();
    let (a, b) = (host.address("a"), host.address("b"));
    let mac = link_address(&host, "b");
    let script = format!("ip link set host0 down; ip link set host0 address {mac}; ip link set host0 up");
    host.in_guest("thief", &["sh", "-c", &script]).success("change it");
    assert_ne!(host.in_guest("thief", &["ping", "-c1", "-W1", &a]).status, 0);
    assert!(sees(&host, "a", &b));
    host.coracle(&["stop", "a", "b", "thief"]);
    host.stop();
}

#[test]
fn forged_frames_in_a_zone_are_dropped_and_counted() {
    let host = host_with_thief();
    let (leader, mac) = (host.machine_leader("thief"), link_address(&host, "b"));
    let addresses = host.property("b", "addresses");
    for (what, script) in FORGERIES {
        let before = dropped(&host);
        host.write("/run/forge.pl", &format!("{FORGE}{script}"));
        host.sh_ok(&format!("nsenter -t {leader} -n perl /run/forge.pl {addresses} {mac}"));
        assert!(dropped(&host) > before, "{what}");
    }
    let status = host.coracle(&["status", "thief"]);
    assert!(status.contains("with a forged address"), "{status}");
    host.coracle(&["stop", "a", "b", "thief"]);
    host.stop();
}

#[test]
fn a_zone_works_with_systemd_guests_and_networkd_on_the_host() {
    let host = Host::builder().guest("trixie").guest_as("busybox", "b").networkd().start();
    host.activate_machined();
    host.enable_forwarding();
    host.enable_networkd("trixie");
    // Netfilter on bridges may be built into the kernel of the test machine. With it, ports of zones do not
    // answer at ::1.
    host.sh_ok("! test -e /proc/sys/net/bridge || sysctl -q net.bridge.bridge-nf-call-ip6tables=0");
    host.define("b", &format!("{}ports = [\"8080:80\"]\n", zoned("lan")));
    host.define("trixie", &zoned("lan"));
    // At the first masquerade networkd creates empty tables, which remain.
    start(&host, "b");
    host.wait_until(LONG, "nft list table ip io.systemd.nat");
    host.coracle(&["stop", "b"]);
    let before = Snapshot::take(&host);
    start(&host, "b");
    host.coracle(&["start", "--wait=ready", "trixie"]);
    let pages = |host: &Host| {
        let by_name =
            "exec 3<>/dev/tcp/b.lan/80; printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3; grep 'hello from' <&3";
        host.in_guest("trixie", &["bash", "-c", by_name]).success("a page by name");
        host.in_guest("b", &["ping", "-c1", "-W5", "trixie"]).success("the other way");
        for url in ["127.0.0.1:8080", "[::1]:8080"] {
            let seen = host.sh(&page(url));
            assert_eq!(
                seen.status,
                0,
                "{url}\n{}",
                host.sh("ip -6 route show table all; nft list ruleset").stdout
            );
        }
        for address in host.property("b", "host-addresses").split(' ') {
            host.sh_ok(&format!("ip addr show dev vz-lan | grep -w {address}"));
        }
    };
    pages(&host);
    host.wait_until(LONG, "networkctl list vz-lan --no-legend | grep -w configured");
    host.ok(&["systemctl", "restart", "systemd-networkd"]);
    host.wait_until(LONG, "networkctl list vz-lan --no-legend | grep -w configured");
    pages(&host);
    // After a reboot requested by the guest, addresses and connections are unchanged.
    let (leader, addresses) = (host.machine_leader("b"), host.property("b", "addresses"));
    host.in_guest("b", &["reboot"]);
    host.wait_for_reboot("b", leader);
    host.wait_for_page("b");
    assert_eq!(host.property("b", "addresses"), addresses);
    pages(&host);
    assert_eq!(host.in_guest("trixie", &["systemctl", "is-system-running"]).stdout, "running\n");
    host.coracle(&["stop", "b", "trixie"]);
    before.assert_same(&host);
    host.stop();
}

#[test]
fn concurrent_starts_and_kills_keep_a_zone_consistent() {
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
        // After a kill of one machine, the remaining machines stay connected and lose its name. Then both
        // stop concurrently.
        let victim = ["a", "b", "c"][round % 3];
        host.kill_supervisor(victim);
        let left: Vec<&str> = ["a", "b", "c"].into_iter().filter(|name| *name != victim).collect();
        assert!(!hosts_of(&host, left[0]).contains(&format!("{victim}.lan")));
        assert_sees(&host, left[0], left[1]);
        host.sh_ok(&format!("coracle stop {} & one=$!; coracle stop {} && wait $one", left[0], left[1]));
        before.assert_same(&host);
    }
    host.stop();
}

#[test]
fn a_kill_during_a_start_in_a_zone_is_cleaned_up() {
    let host = host_of(&["a", "b"]);
    for name in ["a", "b"] {
        host.define(name, &zoned("lan"));
    }
    let before = Snapshot::take(&host);
    // The machines are killed during their start. The next start removes the stale lock.
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
fn hosts_files_of_a_read_only_and_an_edited_tree() {
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
    // The guest's own lines are kept, and a modified file receives the names again.
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
