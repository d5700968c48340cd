//! The firewall as a table: what becomes of a packet of a machine, by the link it is sent on, the protocol, the source
//! address, the destination and `network.egress`. Each packet has a number of its own in its header, and the host
//! records which numbers are forwarded and which are delivered.

use crate::support::{Host, LONG};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Sends frames, one in hexadecimal digits per line of standard input, by an interface.
const SEND: &str = r#"
use Socket;
chomp(my $ifindex = `cat /sys/class/net/$ARGV[0]/ifindex 2>/dev/null`);
$ifindex = (split /:/, `ip -o link show $ARGV[0]`)[0];
socket(my $s, 17, SOCK_RAW, 0) or die "socket: $!";
my $n = 0;
while (my $frame = <STDIN>) {
  chomp $frame;
  send($s, pack("H*", $frame), 0, pack("SnlSCCa8", 17, 0, $ifindex, 0, 0, 6, "")) or die "send: $!";
  select(undef, undef, undef, 0.01) if ++$n % 64 == 0;
}
"#;

/// Records the numbers of packets that come by links of machines.
const RECORD: &str = r#"
nft -f - <<'END'
table inet seen {
	set through4 { typeof ip id; flags dynamic; size 65535; }
	set through6 { typeof ip6 flowlabel; flags dynamic; size 65535; }
	set here4 { typeof ip id; flags dynamic; size 65535; }
	set here6 { typeof ip6 flowlabel; flags dynamic; size 65535; }
	chain through {
		type filter hook forward priority 10;
		iifname { "ve-*", "vz-*", "wx*", "br0", "up0", "pv0" } jump recorded_through
	}
	chain recorded_through {
		add @through4 { ip id }
		add @through6 { ip6 flowlabel }
	}
	chain here {
		type filter hook input priority 10;
		iifname { "ve-*", "vz-*", "wx*", "br0", "up0", "pv0" } jump recorded_here
	}
	chain recorded_here {
		add @here4 { ip id }
		add @here6 { ip6 flowlabel }
	}
}
END
"#;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    Host0,
    Zone,
    Extra,
    Bridge,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Own,
    OfHost,
    Foreign,
    None,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum To {
    /// The host's address on the link.
    Host,
    /// Another address of the host.
    HostElsewhere,
    /// A loopback address of the host.
    Loopback,
    /// A machine with a link of its own.
    Machine,
    /// A network outside.
    Outside,
    /// A network outside that `network.egress` names.
    Named,
    /// The metadata service of a provider.
    Metadata,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Here,
    Through,
    Nowhere,
}

use Verdict::{Here, Nowhere, Through};

/// Link, source, destination, the verdict without `network.egress`, the verdict with it.
const TABLE: &[(Link, Source, To, Verdict, Verdict)] = &[
    (Link::Host0, Source::Own, To::Host, Here, Nowhere),
    (Link::Host0, Source::Own, To::HostElsewhere, Here, Nowhere),
    (Link::Host0, Source::Own, To::Loopback, Nowhere, Nowhere),
    (Link::Host0, Source::Own, To::Machine, Through, Nowhere),
    (Link::Host0, Source::Own, To::Outside, Through, Nowhere),
    (Link::Host0, Source::Own, To::Named, Through, Through),
    (Link::Host0, Source::OfHost, To::Host, Nowhere, Nowhere),
    (Link::Host0, Source::OfHost, To::HostElsewhere, Nowhere, Nowhere),
    (Link::Host0, Source::OfHost, To::Loopback, Nowhere, Nowhere),
    (Link::Host0, Source::OfHost, To::Machine, Nowhere, Nowhere),
    (Link::Host0, Source::OfHost, To::Outside, Nowhere, Nowhere),
    (Link::Host0, Source::OfHost, To::Named, Nowhere, Nowhere),
    (Link::Host0, Source::Foreign, To::Host, Nowhere, Nowhere),
    (Link::Host0, Source::Foreign, To::Loopback, Nowhere, Nowhere),
    (Link::Host0, Source::Foreign, To::Machine, Nowhere, Nowhere),
    (Link::Host0, Source::Foreign, To::Outside, Nowhere, Nowhere),
    (Link::Host0, Source::Foreign, To::Named, Nowhere, Nowhere),
    (Link::Host0, Source::None, To::Loopback, Nowhere, Nowhere),
    (Link::Host0, Source::None, To::Machine, Nowhere, Nowhere),
    (Link::Host0, Source::None, To::Outside, Nowhere, Nowhere),
    (Link::Host0, Source::None, To::Named, Nowhere, Nowhere),
    (Link::Host0, Source::Own, To::Metadata, Nowhere, Nowhere),
    (Link::Zone, Source::Own, To::Metadata, Nowhere, Nowhere),
    (Link::Zone, Source::Own, To::Host, Here, Nowhere),
    (Link::Zone, Source::Own, To::HostElsewhere, Here, Nowhere),
    (Link::Zone, Source::Own, To::Loopback, Nowhere, Nowhere),
    (Link::Zone, Source::Own, To::Machine, Nowhere, Nowhere),
    (Link::Zone, Source::Own, To::Outside, Through, Nowhere),
    (Link::Zone, Source::Own, To::Named, Through, Through),
    (Link::Zone, Source::OfHost, To::Host, Nowhere, Nowhere),
    (Link::Zone, Source::OfHost, To::Machine, Nowhere, Nowhere),
    (Link::Zone, Source::OfHost, To::Outside, Nowhere, Nowhere),
    (Link::Zone, Source::Foreign, To::Host, Nowhere, Nowhere),
    (Link::Zone, Source::Foreign, To::Machine, Nowhere, Nowhere),
    (Link::Zone, Source::Foreign, To::Outside, Nowhere, Nowhere),
    (Link::Zone, Source::None, To::Machine, Nowhere, Nowhere),
    (Link::Zone, Source::None, To::Outside, Nowhere, Nowhere),
    (Link::Extra, Source::Own, To::Host, Here, Here),
    (Link::Extra, Source::Own, To::HostElsewhere, Nowhere, Nowhere),
    (Link::Extra, Source::Own, To::Loopback, Nowhere, Nowhere),
    (Link::Extra, Source::Own, To::Machine, Nowhere, Nowhere),
    (Link::Extra, Source::Own, To::Outside, Nowhere, Nowhere),
    (Link::Extra, Source::Own, To::Named, Nowhere, Nowhere),
    (Link::Extra, Source::OfHost, To::Host, Nowhere, Nowhere),
    (Link::Extra, Source::OfHost, To::Outside, Nowhere, Nowhere),
    (Link::Extra, Source::Foreign, To::Host, Nowhere, Nowhere),
    (Link::Extra, Source::Foreign, To::Machine, Nowhere, Nowhere),
    (Link::Extra, Source::Foreign, To::Outside, Nowhere, Nowhere),
    (Link::Extra, Source::None, To::HostElsewhere, Nowhere, Nowhere),
    (Link::Extra, Source::None, To::Outside, Nowhere, Nowhere),
    (Link::Bridge, Source::Own, To::Host, Here, Here),
    (Link::Bridge, Source::Own, To::Loopback, Nowhere, Nowhere),
    (Link::Bridge, Source::Own, To::Outside, Through, Through),
];

const IPV4: &[u8] =
    &[1, 2, 4, 6, 17, 33, 41, 46, 47, 50, 51, 89, 94, 103, 108, 112, 115, 132, 136, 137, 253, 254, 255];
const IPV6: &[u8] =
    &[4, 6, 17, 33, 41, 46, 47, 50, 58, 59, 89, 94, 103, 108, 112, 115, 132, 136, 137, 253, 254, 255];

/// The internet checksum of some bytes.
fn checksum(parts: &[&[u8]]) -> [u8; 2] {
    let bytes = parts.concat();
    let sum = bytes
        .chunks(2)
        .fold(0_u32, |sum, two| sum + u32::from(two[0]) * 256 + u32::from(two.get(1).copied().unwrap_or(0)));
    let sum = (sum & 0xffff) + (sum >> 16);
    (!(((sum & 0xffff) + (sum >> 16)) as u16)).to_be_bytes()
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// What a packet of a protocol has after the header.
fn data(protocol: u8, from: IpAddr, to: IpAddr) -> Vec<u8> {
    let (mut data, at) = match protocol {
        1 => (vec![8, 0, 0, 0, 0, 1, 0, 1], 2),
        58 => (vec![128, 0, 0, 0, 0, 1, 0, 1], 2),
        6 => ([&[0x30, 0x39, 0, 7, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff][..], &[0; 4]].concat(), 16),
        17 | 136 => (vec![0x30, 0x39, 0, 7, 0, 8, 0, 0], 6),
        _ => return vec![0; 16],
    };
    let length = u32::try_from(data.len()).expect("a short packet").to_be_bytes();
    let pseudo = match protocol {
        1 => Vec::new(),
        _ => [&octets(from)[..], &octets(to), &length, &[0, 0, 0, protocol]].concat(),
    };
    let sum = checksum(&[&pseudo, &data]);
    data[at..at + 2].copy_from_slice(&sum);
    data
}

/// A packet with a number.
fn packet(number: u16, protocol: u8, from: IpAddr, to: IpAddr, data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(data.len()).expect("a short packet");
    let mut header = match from {
        IpAddr::V4(_) => {
            let total = (length + 20).to_be_bytes();
            let number = number.to_be_bytes();
            vec![0x45, 0, total[0], total[1], number[0], number[1], 0, 0, 64, protocol, 0, 0]
        }
        IpAddr::V6(_) => {
            let (number, length) = (number.to_be_bytes(), length.to_be_bytes());
            vec![0x60, 0, number[0], number[1], length[0], length[1], protocol, 255]
        }
    };
    header.extend(octets(from));
    header.extend(octets(to));
    if from.is_ipv4() {
        let sum = checksum(&[&header]);
        header[10..12].copy_from_slice(&sum);
    }
    [&header, data].concat()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An interface of a machine, and who is at its ends.
struct Wire {
    machine: &'static str,
    inside: &'static str,
    link: Link,
    is_bound: bool,
    /// Both link-layer addresses, the receiver's first, and the protocol's number after them is missing.
    ether: String,
    own: [IpAddr; 2],
    host: [IpAddr; 2],
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap_or_else(|_| panic!("'{text}' is not an address"))
}

fn two(text: &str) -> [IpAddr; 2] {
    let all: Vec<IpAddr> = text.split(' ').map(address).collect();
    <[IpAddr; 2]>::try_from(all).unwrap_or_else(|all| panic!("not two addresses: {all:?}"))
}

fn wire(
    host: &Host,
    (machine, inside, link, is_bound): (&'static str, &'static str, Link, bool),
    outer: &str,
    ends: Option<[&str; 2]>,
) -> Wire {
    let plain = |text: String| text.trim().replace(':', "");
    let to = plain(host.sh_ok(&format!("cat /sys/class/net/{outer}/address")));
    let from = plain(host.in_guest(machine, &["cat", &format!("/sys/class/net/{inside}/address")]).stdout);
    let [own, of_host] = match ends {
        Some(ends) => ends.map(two),
        None => ["addresses", "host-addresses"].map(|name| two(&host.property(machine, name))),
    };
    Wire { machine, inside, link, is_bound, ether: format!("{to}{from}"), own, host: of_host }
}

/// Sends packets by a wire, all at once.
fn send(host: &Host, wire: &Wire, packets: &[Vec<u8>]) {
    let leader = host.machine_leader(wire.machine);
    send_in(host, &format!("nsenter -t {leader} -n"), wire.inside, &wire.ether, packets);
}

/// Sends packets by an interface of another network namespace.
fn send_in(host: &Host, enter: &str, interface: &str, ether: &str, packets: &[Vec<u8>]) {
    let line = |packet: &Vec<u8>| {
        let protocol = if packet[0] >> 4 == 4 { "0800" } else { "86dd" };
        format!("{ether}{protocol}{}\n", hex(packet))
    };
    let frames: String = packets.iter().map(line).collect();
    host.write("/run/frames", &frames);
    host.sh_ok(&format!("{enter} perl /run/send.pl {interface} </run/frames"));
}

/// The link-layer addresses of a frame from an interface of the namespace 'outside' to one of the host.
fn ether(host: &Host, outer: &str, inner: &str) -> String {
    let plain = |text: String| text.trim().replace(':', "");
    let to = plain(host.sh_ok(&format!("cat /sys/class/net/{outer}/address")));
    let shown = host.sh_ok(&format!("ip -n outside -br link show {inner}"));
    to + &plain(shown.split_whitespace().nth(2).expect("a link-layer address").to_owned())
}

/// The numbers that the host has recorded.
fn recorded(host: &Host, set: &str) -> BTreeSet<u16> {
    let text = host.sh_ok(&format!("nft list set inet seen {set}"));
    let elements = text.split("elements = {").nth(1).unwrap_or_default();
    let words = elements.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    let number = |word: &str| match word.strip_prefix("0x") {
        Some(digits) => u16::from_str_radix(digits, 16).ok(),
        None => word.parse().ok(),
    };
    words.filter_map(number).collect()
}

fn verdict(host: &Host) -> impl Fn(bool, u16) -> Verdict + use<> {
    let sets = ["through4", "through6", "here4", "here6"].map(|set| recorded(host, set));
    move |is_ipv4, number| {
        let [through, here] = if is_ipv4 { [&sets[0], &sets[2]] } else { [&sets[1], &sets[3]] };
        match (through.contains(&number), here.contains(&number)) {
            (true, _) => Through,
            (_, true) => Here,
            _ => Nowhere,
        }
    }
}

fn host() -> Host {
    let guests = ["free", "bound", "zfree", "zbound", "bridged"];
    let host = guests.iter().fold(Host::builder(), |all, name| all.guest_as("busybox", name)).start();
    host.add_outside_with_page();
    host.sh_ok("machinectl -q list; ip link add br0 type bridge; ip link set br0 up");
    host.sh_ok("ip addr add 10.8.0.1/24 dev br0; ip addr add 2001:db8:8::1/64 dev br0 nodad");
    let egress = "egress = [\"203.0.113.0/24\", \"2001:db8:203::/48\"]\n";
    let zone = "mode = \"zone\"\nzone = \"lan\"\n";
    for (name, text) in [
        ("free", "veth-extra = [\"wx0:lan1\"]\nports = [\"8080:80\"]\n".to_owned()),
        ("bound", format!("veth-extra = [\"wx1:lan1\"]\n{egress}")),
        ("zfree", format!("{zone}ports = [\"8090:80\"]\n")),
        ("zbound", format!("{zone}{egress}")),
        ("bridged", "mode = \"bridge\"\nbridge = \"br0\"\n".to_owned()),
    ] {
        host.define(name, &format!("[network]\n{text}"));
        host.coracle(&["start", name]);
    }
    for (outer, number) in [("wx0", 0), ("wx1", 1)] {
        host.sh_ok(&format!("ip addr add 10.9.{number}.1/24 dev {outer}"));
        host.sh_ok(&format!("ip addr add 2001:db8:9{number}::1/64 dev {outer} nodad"));
    }
    host.wait_until(LONG, "! ip -6 addr show tentative | grep .");
    host.write("/run/send.pl", SEND);
    host.sh_ok(RECORD);
    host
}

fn wires(host: &Host) -> Vec<Wire> {
    let extra = |number| {
        [format!("10.9.{number}.2 2001:db8:9{number}::2"), format!("10.9.{number}.1 2001:db8:9{number}::1")]
    };
    let [[own0, host0], [own1, host1]] = [extra(0), extra(1)];
    vec![
        wire(host, ("free", "host0", Link::Host0, false), "ve-free", None),
        wire(host, ("bound", "host0", Link::Host0, true), "ve-bound", None),
        wire(host, ("zfree", "host0", Link::Zone, false), "vz-lan", None),
        wire(host, ("zbound", "host0", Link::Zone, true), "vz-lan", None),
        wire(host, ("free", "lan1", Link::Extra, false), "wx0", Some([&own0, &host0])),
        wire(host, ("bound", "lan1", Link::Extra, true), "wx1", Some([&own1, &host1])),
        wire(
            host,
            ("bridged", "host0", Link::Bridge, false),
            "br0",
            Some(["10.8.0.2 2001:db8:8::2", "10.8.0.1 2001:db8:8::1"]),
        ),
    ]
}

#[test]
fn each_packet_has_its_verdict() {
    let host = host();
    let mut wires = wires(&host);
    // Nobody has spoken to them yet: an answer would pass.
    wires.sort_by_key(|wire| !wire.is_bound);
    let own = |name| wires.iter().find(|wire| wire.machine == name).expect("a machine").own;
    let machines = [own("free"), own("bound")];
    let mut cases = Vec::new();
    let mut number = 0;
    for wire in &wires {
        let mut packets = Vec::new();
        for (version, protocols) in [IPV4, IPV6].into_iter().enumerate() {
            for (link, source, to, free, bound) in TABLE.iter().filter(|row| row.0 == wire.link) {
                let from = match source {
                    Source::Own => wire.own[version],
                    Source::OfHost => wire.host[version],
                    Source::Foreign => two("198.51.100.7 2001:db8:77::7")[version],
                    Source::None => two("0.0.0.0 ::")[version],
                };
                let other = machines[usize::from(wire.machine == "free")];
                let target = match to {
                    To::Host => wire.host[version],
                    To::HostElsewhere => two("192.0.2.1 2001:db8::1")[version],
                    To::Loopback => two("127.0.0.1 ::1")[version],
                    To::Machine => other[version],
                    To::Outside => two("192.0.2.2 2001:db8::2")[version],
                    To::Metadata => two("169.254.169.254 fd00:ec2::254")[version],
                    To::Named => two("203.0.113.9 2001:db8:203::9")[version],
                };
                for protocol in protocols {
                    number += 1;
                    packets.push(packet(number, *protocol, from, target, &data(*protocol, from, target)));
                    let expected = if wire.is_bound { bound } else { free };
                    let name =
                        format!("{link:?} {source:?} {to:?} protocol {protocol} egress {}", wire.is_bound);
                    cases.push((from.is_ipv4(), number, *expected, name));
                }
            }
        }
        send(&host, wire, &packets);
    }
    let found = verdict(&host);
    let wrong: Vec<String> = cases
        .iter()
        .filter(|(is_ipv4, number, expected, _)| found(*is_ipv4, *number) != *expected)
        .map(|(is_ipv4, number, expected, name)| {
            format!("IPv4 {is_ipv4} {name}: {:?} instead of {expected:?}", found(*is_ipv4, *number))
        })
        .collect();
    println!("{} packets, {} with another verdict", cases.len(), wrong.len());
    assert!(wrong.is_empty(), "{}\n{}", wrong.join("\n"), host.ok(&["nft", "list", "ruleset"]));
    for name in ["free", "bound", "zfree", "zbound"] {
        let status = host.coracle(&["status", name]);
        assert!(status.contains("with a forged address"), "{name}: {status}");
    }
    host.stop();
}

/// A router advertisement: a default route of high preference, and a prefix.
fn advertisement(number: u16) -> Vec<u8> {
    let (from, to) = (address("fe80::bad"), address("ff02::1"));
    let mut data = vec![134, 0, 0, 0, 64, 0x08, 7, 8];
    data.extend([0; 8]);
    data.extend([3, 4, 64, 0xc0, 0, 1, 0x51, 0x80, 0, 0, 0x38, 0x40, 0, 0, 0, 0]);
    data.extend(octets(address("2001:db8:bad::")));
    let length = u32::try_from(data.len()).expect("a short packet").to_be_bytes();
    let sum = checksum(&[&octets(from), &octets(to), &length, &[0, 0, 0, 58], &data]);
    data[2..4].copy_from_slice(&sum);
    packet(number, 58, from, to, &data)
}

/// No advertisement of a machine, nor of the peer of a later link, gives the host a route or an address.
fn assert_no_router(host: &Host, wires: &[Wire], accept_ra: &str) {
    for wire in wires {
        send(host, wire, &[advertisement(60000)]);
    }
    let read = "cat /proc/sys/net/ipv6/conf/default/accept_ra";
    assert_eq!(host.sh_ok(read), accept_ra, "the setting for future interfaces");
    host.sh_ok("ip link add pv0 type veth peer name pv1 netns outside; ip link set pv0 up");
    host.sh_ok("ip -n outside link set pv1 up");
    send_in(host, "ip netns exec outside", "pv1", &ether(host, "pv0", "pv1"), &[advertisement(60001)]);
    let routes = host.sh_ok("ip -6 route show; ip -6 addr show");
    assert!(!routes.contains("proto ra") && !routes.contains("2001:db8:bad"), "{routes}");
    host.sh_ok("ip link del pv0");
}

/// Neighbour discovery has no connection; it is judged by where it goes.
fn assert_discovery_stays(host: &Host, wires: &[Wire]) {
    for wire in wires.iter().filter(|wire| wire.is_bound) {
        let to = address("2001:db8::2");
        let mut data = [&[135, 0, 0, 0, 0, 0, 0, 0][..], &octets(to)].concat();
        let length = u32::try_from(data.len()).expect("a short packet").to_be_bytes();
        let sum = checksum(&[&octets(wire.own[1]), &octets(to), &length, &[0, 0, 0, 58], &data]);
        data[2..4].copy_from_slice(&sum);
        send(host, wire, &[packet(60004, 58, wire.own[1], to, &data)]);
        assert_eq!(verdict(host)(false, 60004), Nowhere, "{}", wire.machine);
    }
}

/// Loopback addresses of the host are out of reach from a wire; published ports there answer the host itself.
fn assert_loopback_is_own(host: &Host) {
    let tcp = |number, from, to| {
        let (from, to) = (address(from), address(to));
        let mut data = data(6, from, to);
        data[2..4].copy_from_slice(&8080_u16.to_be_bytes());
        packet(number, 6, from, to, &data)
    };
    let packets = [tcp(60002, "192.0.2.2", "127.0.0.1"), tcp(60003, "127.0.0.1", "192.0.2.1")];
    send_in(host, "ip netns exec outside", "out0", &ether(host, "up0", "out0"), &packets);
    let found = verdict(host);
    assert_eq!([found(true, 60002), found(true, 60003)], [Nowhere, Nowhere]);
    let guard = host.ok(&["nft", "list", "chain", "inet", "coracle", "guard"]);
    let rule = guard.lines().find(|line| line.contains("ip daddr 127.0.0.0/8") && line.ends_with("drop"));
    assert!(rule.is_some_and(|rule| !rule.contains("packets 0 ")), "{guard}");
    host.wait_until(LONG, &format!("{} | grep hello", crate::support::fetch("127.0.0.1:8080")));
}

/// A link of another program with a name like ours stays as closed as its owner has made it.
fn assert_foreign_links_stay_closed(host: &Host) {
    host.sh_ok(
        "nft 'table inet hand { chain forward { type filter hook forward priority 0; policy drop; }; }'
         ip netns add db; ip link add ve-db type veth peer name db0 netns db
         ip addr add 10.5.0.1/24 dev ve-db; ip link set ve-db up
         ip -n db addr add 10.5.0.2/24 dev db0; ip -n db link set db0 up; ip -n db route add default via 10.5.0.1
         ip -n outside route add 10.5.0.0/24 via 192.0.2.1",
    );
    let reached = || host.sh("ip netns exec outside ping -c1 -W1 10.5.0.2").status == 0;
    assert!(!reached());
    for name in ["free", "zfree"] {
        host.coracle(&["restart", name]);
        host.wait_until(LONG, &format!("nft list table inet hand | grep -c 'machines of coracle' | grep -qv '^0$'; coracle show {name}"));
        let out = host.in_guest(name, &["busybox", "wget", "-T", "5", "-q", "-O", "-", "http://192.0.2.2/"]);
        assert_eq!(out.status, 0, "{name}: {out}\n{}", host.sh_ok("nft list table inet hand"));
    }
    assert!(!reached(), "{}", host.sh_ok("nft list table inet hand"));
    let rules = || host.sh_ok("nft list table inet hand");
    assert!(
        rules().contains("machines of coracle: ve-free") && rules().contains("machines of coracle: vz-lan")
    );
    host.coracle(&["stop", "free", "zfree"]);
    assert!(!rules().contains("ve-free") && rules().contains("vz-lan"), "{}", rules());
}

/// The host asks no machine for names, and hears no answer.
fn assert_no_names_of_machines(host: &Host, wires: &[Wire]) {
    host.sh_ok("systemctl start systemd-resolved");
    host.coracle(&["restart", "free", "zfree"]);
    for link in ["ve-free", "vz-lan", "wx0"] {
        for kind in ["llmnr", "mdns"] {
            let said = host.sh_ok(&format!("resolvectl {kind} {link}"));
            assert!(said.trim().ends_with(": no"), "{said}");
        }
    }
    host.sh_ok("ip addr add 10.9.0.1/24 dev wx0; ip addr add 2001:db8:90::1/64 dev wx0 nodad");
    let mut number = 60100;
    for wire in wires.iter().filter(|wire| matches!(wire.link, Link::Host0 | Link::Zone | Link::Extra)) {
        for (port, at) in [(137, 0), (5353, 0), (5353, 2), (5355, 0), (5355, 2)] {
            number += 1;
            let mut data = data(17, wire.own[0], wire.host[0]);
            data[at..at + 2].copy_from_slice(&u16::to_be_bytes(port));
            data[6..8].copy_from_slice(&[0, 0]);
            send(host, wire, &[packet(number, 17, wire.own[0], wire.host[0], &data)]);
            assert_eq!(verdict(host)(true, number), Nowhere, "{:?} port {port} at {at}", wire.link);
        }
    }
}

/// Without the table the host's loopback stays out of reach, and the table is soon there again.
fn assert_table_comes_back(host: &Host, wires: &[Wire]) {
    let loopback = |wire: &Wire, number| {
        let to = address("127.0.0.1");
        let tagged = |tags: &str| {
            let ether = format!("{}{tags}", wire.ether);
            let packet = packet(number, 17, wire.own[0], to, &data(17, wire.own[0], to));
            let leader = host.machine_leader(wire.machine);
            send_in(host, &format!("nsenter -t {leader} -n"), wire.inside, &ether, &[packet]);
        };
        for tags in ["", "81000000", "8100000081000000"] {
            tagged(tags);
        }
    };
    // No supervisor creates the table again meanwhile.
    let all = ["free", "bound", "zfree", "zbound", "bridged"];
    let pids = all.map(|name| host.supervisor(name).to_string()).join(" ");
    host.sh_ok(&format!("kill -STOP {pids}; nft delete table inet coracle; nft delete table bridge coracle"));
    assert_eq!(host.sh_ok("cat /proc/sys/net/ipv4/conf/ve-free/route_localnet"), "1\n");
    for (number, wire) in (60200..).zip(wires.iter().filter(|wire| wire.link != Link::Bridge)) {
        loopback(wire, number);
        assert_eq!(verdict(host)(true, number), Nowhere, "{} {}", wire.machine, wire.inside);
    }
    let doctor = host.exec(&["coracle", "doctor", "bound"]).stdout;
    assert!(doctor.contains("'inet coracle' is missing"), "{doctor}");
    host.sh_ok(&format!("kill -CONT {pids}"));
    let whole =
        "nft list table inet coracle | grep -q ve-bound; nft list table bridge coracle | grep -q vb-zfree";
    host.wait_until(LONG, whole);
    for lost in [
        "nft flush ruleset",
        "nft flush table inet coracle",
        "nft delete chain inet coracle forward",
        // Elements alone wake nobody up: they come and go with every machine.
        "nft flush set inet coracle senders; nft delete table bridge coracle",
    ] {
        host.sh_ok(lost);
        host.wait_until(
            LONG,
            &format!(
                "{whole}; test $(nft list chain inet coracle forward | grep -c drop) -gt 2; \
                 nft list set inet coracle senders | grep -q ve-bound; ! coracle doctor bound | grep 'is missing'"
            ),
        );
    }
    let journal = all.map(|name| host.unit_journal(name)).concat();
    let mended = journal.lines().filter(|line| line.contains("created it again")).count();
    assert!((1..=12).contains(&mended), "{mended} repairs\n{journal}");
}

/// A machine of a zone reaches its own published port as everybody else does.
fn assert_own_port_answers(host: &Host) {
    for place in ["192.0.2.1", "[2001:db8::1]"] {
        let url = format!("http://{place}:8090/");
        for name in ["zfree", "free"] {
            let page = host.in_guest(name, &["busybox", "wget", "-T", "5", "-q", "-O", "-", &url]);
            assert!(page.stdout.contains("hello from busybox"), "{name} by {place}: {page}");
        }
    }
}

#[test]
fn machines_and_neighbours_do_not_lead_the_host() {
    let host = host();
    let before = host.sh_ok("cat /proc/sys/net/ipv6/conf/default/accept_ra");
    assert_eq!(before, "1\n", "no machine has changed it");
    assert_no_router(&host, &wires(&host), &before);
    assert_discovery_stays(&host, &wires(&host));
    assert_loopback_is_own(&host);
    assert_own_port_answers(&host);
    assert_no_names_of_machines(&host, &wires(&host));
    assert_table_comes_back(&host, &wires(&host));
    assert_foreign_links_stay_closed(&host);
    host.stop();
}
