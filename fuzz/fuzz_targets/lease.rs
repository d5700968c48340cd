//! Guest frames with a DHCP request or a router solicitation: the reply is bounded.
#![no_main]

use coracle::machine::id128::Id128;
use coracle::network::dhcp::Lease;
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

static LEASE: LazyLock<(Lease, [u8; 6])> = LazyLock::new(|| {
    let name = coracle::machine::name::Name::new("web").expect("a name");
    let plan = coracle::network::addresses::plan(&name, Id128::new([7; 16]), &[]).expect("a plan");
    (Lease::new(&plan, None), plan.guest_mac.octets())
});

fuzz_target!(|packet: &[u8]| {
    let (lease, guest) = &*LEASE;
    let mut packet = packet.to_vec();
    // A request is accepted only from the link-layer address of the link, which random input does not
    // contain.
    if let Some(client) = packet.get_mut(56..62) {
        client.copy_from_slice(guest);
    }
    for protocol in [[8, 0], [0x86, 0xdd]] {
        let frame = [&[0xff; 6][..], guest, &protocol, &packet].concat();
        if let Some(answer) = lease.answer(&frame) {
            assert!(answer.len() <= 1514);
        }
    }
    let _ = lease.answer(&packet);
});
