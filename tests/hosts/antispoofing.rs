//! The traffic policy of a machine with a private link: forged addresses are dropped, egress and rates are
//! limited, and `coracle status` counts dropped packets.

use crate::support::{Host, Snapshot};
use std::time::Instant;

const SECOND: &str = "ip netns exec outside busybox httpd -p '[::]:8080' -h /srv/www";

/// A program that sends the given raw Ethernet frames from the interface with the given index.
const FORGE: &str = r#"
use Socket;
my ($ifindex, @frames) = @ARGV;
socket(my $s, 17, SOCK_RAW, 0) or die "socket: $!";
for (@frames) { send($s, pack("H*", $_), 0, pack("SnlSCCa8", 17, 0, $ifindex, 0, 0, 6, "")) or die "send: $!" }
"#;

fn host_with_outside(names: &[&str]) -> Host {
    let host = names.iter().fold(Host::builder(), |all, name| all.guest_as("busybox", name)).start();
    host.add_outside_with_page();
    host.sh_ok(SECOND);
    host.activate_machined();
    host
}

fn page(server: &str) -> Vec<String> {
    let url = format!("http://{server}/");
    ["busybox", "wget", "-T", "1", "-q", "-O", "-", &url].map(str::to_owned).to_vec()
}

fn reaches(host: &Host, guest: &str, server: &str) -> bool {
    let words = page(server);
    host.in_guest(guest, &words.iter().map(String::as_str).collect::<Vec<_>>()).status == 0
}

fn mac(text: &str) -> String {
    text.trim().replace(':', "")
}

/// Returns a frame, in hexadecimal, from `source` to 192.0.2.2 (an echo request) or to 2001:db8::2.
fn frame(to: &str, from: &str, source: &str) -> String {
    let source: std::net::IpAddr = source.parse().expect("an address");
    match source {
        std::net::IpAddr::V4(source) => {
            let mut header = vec![0x45, 0, 0, 28, 0, 1, 0, 0, 64, 1, 0, 0];
            header.extend(source.octets());
            header.extend([192, 0, 2, 2]);
            let sum =
                header.chunks(2).fold(0_u32, |sum, two| sum + u32::from(two[0]) * 256 + u32::from(two[1]));
            let sum = !(((sum & 0xffff) + (sum >> 16)) as u16);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            header.extend([8, 0, 0xf7, 0xff, 0, 0, 0, 0]);
            format!("{to}{from}0800{}", hex(&header))
        }
        std::net::IpAddr::V6(source) => {
            // No next header: the destination replies with an error, which proves the delivery.
            let mut header = vec![0x60, 0, 0, 0, 0, 0, 59, 64];
            header.extend(source.octets());
            header.extend("2001:db8::2".parse::<std::net::Ipv6Addr>().expect("an address").octets());
            format!("{to}{from}86dd{}", hex(&header))
        }
    }
}

/// Returns a broadcast gratuitous ARP request, in hexadecimal, that announces `address` at `from`.
fn arp(from: &str, address: &str) -> String {
    let address = hex(&address.parse::<std::net::Ipv4Addr>().expect("an address").octets());
    format!("ffffffffffff{from}08060001080006040001{from}{address}000000000000{address}")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn forged_addresses_are_dropped() {
    let host = host_with_outside(&["evil", "good"]);
    host.start_machine("good");
    host.start_machine("evil");
    assert!(reaches(&host, "evil", "192.0.2.2") && reaches(&host, "good", "192.0.2.2"));
    host.write("/run/forge.pl", FORGE);
    let leader = host.machine_leader("evil");
    let inside = format!("nsenter -t {leader} -n");
    let to = mac(&host.sh_ok("cat /sys/class/net/ve-evil/address"));
    let own = mac(&host.in_guest("evil", &["cat", "/sys/class/net/host0/address"]).stdout);
    let ifindex = host.in_guest("evil", &["cat", "/sys/class/net/host0/ifindex"]).stdout;
    let addresses = |name: &str| {
        let all = host.property(name, "addresses");
        all.split(' ').map(str::to_owned).collect::<Vec<_>>()
    };
    let (evil, good) = (addresses("evil"), addresses("good"));
    // Counts the packets that the host forwards from the machine.
    host.sh_ok("nft add table inet seen; nft add chain inet seen c '{ type filter hook forward priority 10; }'; nft add rule inet seen c iifname ve-evil counter");
    let passed = || {
        host.sh_ok("nft list chain inet seen c | sed -n 's/.*packets \\([0-9]*\\) .*/\\1/p'")
            .trim()
            .parse::<u32>()
            .expect("a number")
    };
    let send = |frame: &str| {
        let before = passed();
        host.sh_ok(&format!("{inside} perl /run/forge.pl {} {frame}", ifindex.trim()));
        passed() - before
    };
    for source in &evil {
        assert_eq!(send(&frame(&to, &own, source)), 1, "{source} is its own");
    }
    let other = "020000000001";
    let link_local = "fe80::1234";
    for (what, from, source) in [
        ("another machine's IPv4 address", own.as_str(), good[0].as_str()),
        ("another machine's IPv6 address", &own, &good[1]),
        ("an address of the host's network", &own, "192.0.2.77"),
        ("a public address", &own, "198.51.100.7"),
        ("the host's loopback", &own, "127.0.0.1"),
        ("another IPv6 prefix", &own, "2001:db8::77"),
        ("its IPv4 address from another link-layer address", other, &evil[0]),
        ("its IPv6 address from another link-layer address", other, &evil[1]),
        ("a link-local address from another link-layer address", other, link_local),
    ] {
        assert_eq!(send(&frame(&to, from, source)), 0, "{what}");
    }
    // After an ARP announcement of `good`'s address by `evil`, packets for `good` are still delivered to it.
    host.sh_ok(&format!("{inside} perl /run/forge.pl {} {}", ifindex.trim(), arp(&own, &good[0])));
    host.wait_for_page(&good[0]);
    assert!(reaches(&host, "good", "192.0.2.2"));
    let status = host.coracle(&["status", "evil"]);
    let dropped = status.lines().find(|line| line.contains("dropped:")).unwrap_or_else(|| panic!("{status}"));
    assert!(dropped.contains("with a forged address"), "{dropped}");
    assert!(!host.coracle(&["status", "good"]).contains("dropped:"));
    host.sh_ok("nft delete table inet seen");
    host.coracle(&["stop", "evil", "good"]);
    host.stop();
}

#[test]
fn egress_restricts_a_machine() {
    let host = host_with_outside(&["a", "b"]);
    host.sh_ok("ip netns exec outside ip addr add 203.0.113.9/32 dev lo");
    host.start_machine("b");
    host.wait_for_address_detection();
    assert!(reaches(&host, "b", "203.0.113.9"));
    let before = Snapshot::take(&host);
    let b = host.address("b");
    let gateway =
        |name: &str| host.property(name, "host-addresses").split(' ').next().expect("one").to_owned();
    let outcome = |definition: &str| {
        host.define("a", &format!("[network]\nports = [\"8080:80\"]\n{definition}"));
        host.coracle(&["start", "a"]);
        let here = gateway("a");
        let server = host.serve_http("7000");
        let to = ["192.0.2.2", "[2001:db8::2]", "203.0.113.9", &b, &format!("{here}:7000")];
        let found = to.map(|server| reaches(&host, "a", server));
        drop(server);
        // Incoming connections are answered.
        host.wait_for_page("127.0.0.1:8080");
        host.wait_for_page_outside("[2001:db8::1]:8080");
        let status = host.coracle(&["status", "a"]);
        host.coracle(&["stop", "a"]);
        host.assert_clean_stop("a");
        (found, status.contains("outside of network.egress"))
    };
    assert_eq!(outcome(""), ([true, true, true, true, true], false));
    assert_eq!(outcome("egress = \"none\"\n"), ([false; 5], true));
    assert_eq!(
        outcome("egress = [\"192.0.2.0/24\", \"2001:db8::/32\", \"192.0.2.2\"]\n"),
        ([true, true, false, false, false], true)
    );
    assert_eq!(outcome("egress = [\"10.0.0.0/8\"]\n"), ([false, false, false, true, true], true));
    before.assert_same(&host);
    host.coracle(&["stop", "b"]);
    host.stop();
}

#[test]
fn rates_limit_a_machine() {
    let host = host_with_outside(&["busybox"]);
    host.sh_ok("head -c 12000000 /dev/zero >/srv/www/many");
    host.sh_ok("cp /srv/www/many /var/lib/machines/busybox/var/www/many");
    // The first start enables forwarding, which adds anycast routes that remain.
    host.start_machine("busybox");
    host.coracle(&["stop", "busybox"]);
    let before = Snapshot::take(&host);
    host.define("busybox", "[network]\nports = [\"8080:80\"]\nrate-in = \"20M\"\nrate-out = \"20M\"\n");
    host.coracle(&["start", "busybox"]);
    let fetch = || {
        let begun = Instant::now();
        let words = ["busybox", "wget", "-q", "-O", "/dev/null", "http://192.0.2.2/many"];
        host.in_guest("busybox", &words).success("fetch");
        96.0 / begun.elapsed().as_secs_f64()
    };
    let give = || {
        let begun = Instant::now();
        let many = crate::support::fetch("192.0.2.1:8080/many");
        host.sh_ok(&format!("ip netns exec outside {many} >/dev/null"));
        96.0 / begun.elapsed().as_secs_f64()
    };
    let (down, up) = (fetch(), give());
    assert!((8.0..28.0).contains(&down), "{down}");
    assert!((8.0..28.0).contains(&up), "{up}");
    host.coracle(&["set", "busybox", "network.rate-in=infinity", "rate-out=80M"]);
    let (down, up) = (fetch(), give());
    assert!(down > 100.0 && up > 28.0, "{down} {up}");
    host.coracle(&["stop", "busybox"]);
    host.sh_ok("rm -r /etc/coracle/machines.d/busybox.toml.d");
    before.assert_same(&host);
    host.stop();
}
