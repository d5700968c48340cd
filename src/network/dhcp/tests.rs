//! Requests and replies byte by byte, and random input.

use super::*;
use crate::machine::id128::Id128;
use crate::machine::name::Name;
use crate::network::addresses;

const BROADCAST: [u8; 4] = [255; 4];

fn lease() -> Lease {
    let plan = addresses::plan(&Name::new("web").unwrap(), Id128::new([1; 16]), &[]).unwrap();
    let resolver = Resolver {
        at_loopback: None,
        servers: vec!["192.0.2.53".parse().unwrap(), "2001:db8::53".parse().unwrap()],
        search: vec!["example.org".into(), "bad..name".into()],
        options: Vec::new(),
    };
    Lease::new(&plan, Some(&resolver))
}

/// Returns a client's message of a type, with options.
fn question(lease: &Lease, kind: u8, options: &[u8]) -> Vec<u8> {
    let mut message = vec![0; 240];
    message[..4].copy_from_slice(&[1, 1, 6, 0]);
    message[4..8].copy_from_slice(b"tran");
    message[28..34].copy_from_slice(&lease.guest_mac.octets());
    message[236..].copy_from_slice(&[99, 130, 83, 99]);
    message.extend([53, 1, kind]);
    message.extend(options);
    message.push(255);
    let length = |more: usize| u16::try_from(message.len() + more).unwrap().to_be_bytes();
    let ip = [&[0x45, 0][..], &length(28), &[0, 0, 0, 0, 64, 17, 0, 0, 0, 0, 0, 0], &BROADCAST].concat();
    let udp = [&[0, 68, 0, 67][..], &length(8), &[0, 0]].concat();
    [&[255; 6][..], &lease.guest_mac.octets(), &[8, 0], &ip, &udp, &message].concat()
}

fn solicitation(lease: &Lease) -> Vec<u8> {
    let ip = [&[0x60, 0, 0, 0, 0, 8, 58, 255][..], &[0; 16], &[0xff; 16]].concat();
    [&[0x33; 6][..], &lease.guest_mac.octets(), &[0x86, 0xdd], &ip, &[133, 0, 0, 0, 0, 0, 0, 0]].concat()
}

/// Returns the value of an option of a reply.
fn option(answer: &[u8], wanted: u8) -> Option<Vec<u8>> {
    let mut rest = &answer[14 + 28 + 240..];
    while rest[0] != 255 {
        let (value, after) = rest[2..].split_at(rest[1].into());
        if rest[0] == wanted {
            return Some(value.to_vec());
        }
        rest = after;
    }
    None
}

#[test]
fn who_asks_gets_what_it_has() {
    let lease = lease();
    let offer = lease.answer(&question(&lease, 1, &[])).unwrap();
    assert_eq!(offer[..6], lease.guest_mac.octets());
    assert_eq!(checksum(&[&offer[14..34]]), 0, "the header's checksum");
    let pseudo = [&offer[26..34], &[0, 17], &offer[38..40]].concat();
    assert_eq!(checksum(&[&pseudo, &offer[34..]]), 0, "the datagram's checksum");
    assert_eq!(offer[30..34], BROADCAST);
    let message = &offer[42..];
    assert_eq!((&message[..3], &message[4..8]), (&[2, 1, 6][..], &b"tran"[..]));
    assert_eq!(message[16..20], lease.address.octets());
    assert!(message.len() >= 300);
    assert_eq!(option(&offer, 53).unwrap(), [2]);
    assert_eq!(option(&offer, 1).unwrap(), [255, 255, 255, 252]);
    for router in [3, 54] {
        assert_eq!(option(&offer, router).unwrap(), lease.router.octets());
    }
    assert_eq!(option(&offer, 6).unwrap(), [192, 0, 2, 53]);
    assert_eq!(option(&offer, 51).unwrap(), [255; 4]);
    assert_eq!(option(&offer, 119).unwrap(), b"\x07example\x03org\0");
    let wanted = [&[50, 4][..], &lease.address.octets()].concat();
    let acknowledged = lease.answer(&question(&lease, 3, &wanted)).unwrap();
    assert_eq!(option(&acknowledged, 53).unwrap(), [5]);
}

#[test]
fn another_address_is_refused_and_another_server_meant_not_us() {
    let lease = lease();
    let refused = lease.answer(&question(&lease, 3, &[50, 4, 192, 168, 0, 7])).unwrap();
    assert_eq!(option(&refused, 53).unwrap(), [6]);
    assert_eq!((option(&refused, 51), &refused[42 + 16..42 + 20]), (None, &[0; 4][..]));
    assert_eq!(lease.answer(&question(&lease, 3, &[54, 4, 192, 168, 0, 1])), None);
    // Neither an address nor a supported type.
    assert_eq!(lease.answer(&question(&lease, 3, &[])), None);
    for kind in [0, 2, 4, 5, 7, 9, 255] {
        assert_eq!(lease.answer(&question(&lease, kind, &[])), None);
    }
    let informed = lease.answer(&question(&lease, 8, &[])).unwrap();
    assert_eq!((option(&informed, 53).unwrap(), option(&informed, 51)), (vec![5], None));
}

#[test]
fn a_router_is_advertised_with_the_prefix() {
    let lease = lease();
    let frame = lease.answer(&solicitation(&lease)).unwrap();
    // In a frame to this machine only.
    assert_eq!((&frame[..6], &frame[6..12]), (&lease.guest_mac.octets()[..], &lease.host_mac.octets()[..]));
    let (ip, message) = frame[14..].split_at(40);
    assert_eq!((ip[6], ip[7], message[0]), (58, 255, 134));
    assert_eq!(checksum(&[&ip[8..], &[0, 0], &ip[4..6], &[0, 0, 0, 58], message]), 0);
    assert!(message.windows(16).any(|window| window == lease.prefix.octets()));
    assert_eq!(message[message.len() - 24..message.len() - 20], [25, 3, 0, 0]);
    // A forwarded solicitation is ignored.
    let mut far = solicitation(&lease);
    far[21] = 254;
    assert_eq!(lease.answer(&far), None);
}

#[test]
fn strangers_and_noise_get_nothing() {
    let lease = lease();
    let wanted = [&[50, 4][..], &lease.address.octets()].concat();
    for good in [question(&lease, 1, &[]), question(&lease, 3, &wanted), solicitation(&lease)] {
        let mut stranger = good.clone();
        stranger[6] ^= 4;
        assert_eq!(lease.answer(&stranger), None);
        // Truncated anywhere, any byte changed: no panic, and never a longer reply.
        for at in 0..good.len() {
            lease.answer(&good[..at]);
            for byte in [0, 1, 0x45, 0x4f, 0x7f, 0xff, good[at] ^ 1] {
                let mut changed = good.clone();
                changed[at] = byte;
                assert!(lease.answer(&changed).is_none_or(|answer| answer.len() <= LONGEST));
            }
        }
    }
    // Options with a false length.
    for options in [&[50, 4, 1][..], &[50, 0], &[53, 0], &[54, 3, 1, 2, 3], &[12, 255], &[12]] {
        let mut frame = question(&lease, 1, options);
        frame.pop();
        lease.answer(&frame);
    }
    for length in 0..LONGEST {
        assert_eq!(lease.answer(&vec![0xff; length]), None);
    }
}

#[test]
fn many_domains_are_bounded() {
    let mut lease = lease();
    lease.search = (0..100).map(|number| format!("domain{number}.example.org")).collect();
    lease.servers = vec![IpAddr::V4(Ipv4Addr::LOCALHOST); 100];
    let offer = lease.answer(&question(&lease, 1, &[])).unwrap();
    assert!(offer.len() <= LONGEST && option(&offer, 6).unwrap().len() == 32);
}
