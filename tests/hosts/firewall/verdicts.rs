//! The firewall as a table: the verdict on a packet of a machine, by link kind, protocol, source address,
//! destination and `network.egress`.

use super::packets::Verdict::{Here, Nowhere, Through};
use super::packets::{Link, Verdict, attachments, data, host, packet, send, two, verdict};

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
    /// A machine with its own link.
    Machine,
    /// An outside network.
    Outside,
    /// An outside network listed in `network.egress`.
    Named,
    /// The metadata service of a cloud provider.
    Metadata,
}

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

#[test]
fn each_packet_gets_its_verdict() {
    let host = host();
    let mut attachments = attachments(&host);
    // Restricted machines first, before other machines create connections: replies would pass.
    attachments.sort_by_key(|attachment| !attachment.is_bound);
    let own = |name| attachments.iter().find(|attachment| attachment.machine == name).expect("a machine").own;
    let machines = [own("free"), own("bound")];
    let mut cases = Vec::new();
    let mut number = 0;
    for attachment in &attachments {
        let mut packets = Vec::new();
        for (version, protocols) in [IPV4, IPV6].into_iter().enumerate() {
            for (link, source, to, free, bound) in TABLE.iter().filter(|row| row.0 == attachment.link) {
                let from = match source {
                    Source::Own => attachment.own[version],
                    Source::OfHost => attachment.host[version],
                    Source::Foreign => two("198.51.100.7 2001:db8:77::7")[version],
                    Source::None => two("0.0.0.0 ::")[version],
                };
                let other = machines[usize::from(attachment.machine == "free")];
                let target = match to {
                    To::Host => attachment.host[version],
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
                    let expected = if attachment.is_bound { bound } else { free };
                    let name = format!(
                        "{link:?} {source:?} {to:?} protocol {protocol} egress {}",
                        attachment.is_bound
                    );
                    cases.push((from.is_ipv4(), number, *expected, name));
                }
            }
        }
        send(&host, attachment, &packets);
    }
    let found = verdict(&host);
    let wrong: Vec<String> = cases
        .iter()
        .filter(|(is_ipv4, number, expected, _)| found(*is_ipv4, *number) != *expected)
        .map(|(is_ipv4, number, expected, name)| {
            format!("IPv4 {is_ipv4} {name}: {:?} instead of {expected:?}", found(*is_ipv4, *number))
        })
        .collect();
    assert!(wrong.is_empty(), "{}\n{}", wrong.join("\n"), host.ok(&["nft", "list", "ruleset"]));
    for name in ["free", "bound", "zfree", "zbound"] {
        let status = host.coracle(&["status", name]);
        assert!(status.contains("with a forged address"), "{name}: {status}");
    }
    host.stop();
}
