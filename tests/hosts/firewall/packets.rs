//! Numbered packets, the interfaces of machines that send them, and the numbers of the packets forwarded or
//! received by the host.

use crate::support::Host;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Sends the frames on standard input, one per line in hexadecimal digits, by an interface.
pub(super) const SEND: &str = r#"
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

/// Records the numbers of packets received from links of machines.
pub(super) const RECORD: &str = r#"
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
		ip ttl { 199, 200 } add @through4 { ip id }
		ip6 hoplimit { 254, 255 } add @through6 { ip6 flowlabel }
	}
	chain here {
		type filter hook input priority 10;
		iifname { "ve-*", "vz-*", "wx*", "br0", "up0", "pv0" } jump recorded_here
	}
	chain recorded_here {
		ip ttl 200 add @here4 { ip id }
		ip6 hoplimit 255 add @here6 { ip6 flowlabel }
	}
}
END
"#;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Link {
    Host0,
    Zone,
    Extra,
    Bridge,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Here,
    Through,
    Nowhere,
}

use Verdict::{Here, Nowhere, Through};

/// Returns the internet checksum of the concatenated parts.
pub(super) fn checksum(parts: &[&[u8]]) -> [u8; 2] {
    let bytes = parts.concat();
    let sum = bytes
        .chunks(2)
        .fold(0_u32, |sum, two| sum + u32::from(two[0]) * 256 + u32::from(two.get(1).copied().unwrap_or(0)));
    let sum = (sum & 0xffff) + (sum >> 16);
    (!(((sum & 0xffff) + (sum >> 16)) as u16)).to_be_bytes()
}

pub(super) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// Returns the payload of a packet of a protocol.
pub(super) fn data(protocol: u8, from: IpAddr, to: IpAddr) -> Vec<u8> {
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

/// The time to live of the packets. Those of the kernel have another one, with random identifications.
const TTL: u8 = 200;

/// Returns a packet with a number in its header.
pub(super) fn packet(number: u16, protocol: u8, from: IpAddr, to: IpAddr, data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(data.len()).expect("a short packet");
    let mut header = match from {
        IpAddr::V4(_) => {
            let total = (length + 20).to_be_bytes();
            let number = number.to_be_bytes();
            vec![0x45, 0, total[0], total[1], number[0], number[1], 0, 0, TTL, protocol, 0, 0]
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

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// An interface of a machine, with the addresses of both ends.
pub(super) struct Attachment {
    pub(super) machine: &'static str,
    pub(super) inside: &'static str,
    pub(super) link: Link,
    pub(super) is_bound: bool,
    /// Both link-layer addresses, the receiver's first, without the EtherType.
    pub(super) ether: String,
    pub(super) own: [IpAddr; 2],
    pub(super) host: [IpAddr; 2],
}

pub(super) fn address(text: &str) -> IpAddr {
    text.parse().unwrap_or_else(|_| panic!("'{text}' is not an address"))
}

pub(super) fn two(text: &str) -> [IpAddr; 2] {
    let all: Vec<IpAddr> = text.split(' ').map(address).collect();
    <[IpAddr; 2]>::try_from(all).unwrap_or_else(|all| panic!("not two addresses: {all:?}"))
}

pub(super) fn attachment(
    host: &Host,
    (machine, inside, link, is_bound): (&'static str, &'static str, Link, bool),
    outer: &str,
    ends: Option<[&str; 2]>,
) -> Attachment {
    let plain = |text: String| text.trim().replace(':', "");
    let to = plain(host.sh_ok(&format!("cat /sys/class/net/{outer}/address")));
    let from = plain(host.in_guest(machine, &["cat", &format!("/sys/class/net/{inside}/address")]).stdout);
    let [own, of_host] = match ends {
        Some(ends) => ends.map(two),
        None => ["addresses", "host-addresses"].map(|name| two(&host.property(machine, name))),
    };
    Attachment { machine, inside, link, is_bound, ether: format!("{to}{from}"), own, host: of_host }
}

/// Sends packets by an attachment.
pub(super) fn send(host: &Host, attachment: &Attachment, packets: &[Vec<u8>]) {
    let leader = host.machine_leader(attachment.machine);
    send_in(host, &format!("nsenter -t {leader} -n"), attachment.inside, &attachment.ether, packets);
}

/// Sends packets by an interface of another network namespace.
pub(super) fn send_in(host: &Host, enter: &str, interface: &str, ether: &str, packets: &[Vec<u8>]) {
    let line = |packet: &Vec<u8>| {
        let protocol = if packet[0] >> 4 == 4 { "0800" } else { "86dd" };
        format!("{ether}{protocol}{}\n", hex(packet))
    };
    let frames: String = packets.iter().map(line).collect();
    host.write("/run/frames", &frames);
    host.sh_ok(&format!("{enter} perl /run/send.pl {interface} </run/frames"));
}

/// Returns the link-layer addresses of a frame from an interface of the namespace 'outside' to an interface
/// of the host.
pub(super) fn ether(host: &Host, outer: &str, inner: &str) -> String {
    let plain = |text: String| text.trim().replace(':', "");
    let to = plain(host.sh_ok(&format!("cat /sys/class/net/{outer}/address")));
    let shown = host.sh_ok(&format!("ip -n outside -br link show {inner}"));
    to + &plain(shown.split_whitespace().nth(2).expect("a link-layer address").to_owned())
}

/// Returns the numbers recorded by the host.
pub(super) fn recorded(host: &Host, set: &str) -> BTreeSet<u16> {
    let text = host.sh_ok(&format!("nft list set inet seen {set}"));
    let elements = text.split("elements = {").nth(1).unwrap_or_default();
    let words = elements.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    let number = |word: &str| match word.strip_prefix("0x") {
        Some(digits) => u16::from_str_radix(digits, 16).ok(),
        None => word.parse().ok(),
    };
    words.filter_map(number).collect()
}

pub(super) fn verdict(host: &Host) -> impl Fn(bool, u16) -> Verdict + use<> {
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

pub(super) fn host() -> Host {
    let guests = ["free", "bound", "zfree", "zbound", "bridged"];
    let host = guests.iter().fold(Host::builder(), |all, name| all.guest_as("busybox", name)).start();
    host.add_outside_with_page();
    host.activate_machined();
    host.sh_ok("ip link add br0 type bridge; ip link set br0 up");
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
    host.wait_for_address_detection();
    host.write("/run/send.pl", SEND);
    host.sh_ok(RECORD);
    host
}

pub(super) fn attachments(host: &Host) -> Vec<Attachment> {
    let extra = |number| {
        [format!("10.9.{number}.2 2001:db8:9{number}::2"), format!("10.9.{number}.1 2001:db8:9{number}::1")]
    };
    let [[own0, host0], [own1, host1]] = [extra(0), extra(1)];
    vec![
        attachment(host, ("free", "host0", Link::Host0, false), "ve-free", None),
        attachment(host, ("bound", "host0", Link::Host0, true), "ve-bound", None),
        attachment(host, ("zfree", "host0", Link::Zone, false), "vz-lan", None),
        attachment(host, ("zbound", "host0", Link::Zone, true), "vz-lan", None),
        attachment(host, ("free", "lan1", Link::Extra, false), "wx0", Some([&own0, &host0])),
        attachment(host, ("bound", "lan1", Link::Extra, true), "wx1", Some([&own1, &host1])),
        attachment(
            host,
            ("bridged", "host0", Link::Bridge, false),
            "br0",
            Some(["10.8.0.2 2001:db8:8::2", "10.8.0.1 2001:db8:8::1"]),
        ),
    ]
}
