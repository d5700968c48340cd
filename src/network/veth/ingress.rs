//! The ingress filter of a machine's link (tc(8), `clsact`): it keeps packets of the link from the host's
//! loopback addresses, with and without a firewall table. Called by `veth.rs` and by the supervisor.

use crate::error::{Context, Error, Result};
use crate::sys::filter::Instruction;
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use std::net::Ipv4Addr;

/// Drops packets to and from loopback addresses that arrive at an interface; with an address, also ARP
/// messages of other senders: each sender known to the kernel occupies an entry of the host's neighbour
/// table.
///
/// # Errors
/// A missing interface, or a kernel without classifiers (`CONFIG_NET_CLS_BPF`).
pub(crate) fn protect(interface: &str, sender: Option<Ipv4Addr>) -> Result<()> {
    let doing = || format!("cannot install the ingress filter of '{interface}'");
    // Protocol 0 is NETLINK_ROUTE.
    let socket =
        rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)
            .context(doing)?;
    let index = rustix::net::netdevice::name_to_index(&socket, interface).context(doing)?;
    for message in [qdisc(index), filter(index, &program(sender))] {
        let to = SocketAddrNetlink::new(0, 0);
        rustix::net::sendto(&socket, &message, SendFlags::empty(), &to).context(doing)?;
        let mut answer = [0_u8; 1024];
        // The kernel replies before sendto(2) returns.
        let (_, length) = rustix::net::recv(&socket, &mut answer[..], RecvFlags::DONTWAIT).context(doing)?;
        let code = answer.get(16..20).filter(|_| length >= 20).and_then(|bytes| bytes.first_chunk());
        match code.map(|bytes| i32::from_ne_bytes(*bytes)) {
            Some(0) => {}
            Some(code) => return Err(Error::from(Errno::from_raw_os_error(-code))).context(doing),
            None => return Err(Error::new("the kernel did not reply")).context(doing),
        }
    }
    Ok(())
}

const TC_H_CLSACT: u32 = 0xffff_fff1;
const TC_H_MIN_INGRESS: u32 = 0xfff2;

/// tc qdisc add dev INTERFACE clsact
fn qdisc(index: u32) -> Vec<u8> {
    message(libc::RTM_NEWQDISC, [index, TC_H_CLSACT & 0xffff_0000, TC_H_CLSACT, 0], &text("clsact"))
}

/// tc filter replace dev INTERFACE ingress protocol all prio 1 handle 1 bpf direct-action bytecode PROGRAM
fn filter(index: u32, program: &[Instruction]) -> Vec<u8> {
    const TCA_BPF_OPS_LEN: u16 = 4;
    const TCA_BPF_OPS: u16 = 5;
    const TCA_BPF_FLAGS: u16 = 8;
    const TCA_BPF_FLAG_ACT_DIRECT: u32 = 1;
    const PRIORITY: u32 = 1;
    let length = u16::try_from(program.len()).unwrap_or(u16::MAX);
    let bytes: Vec<u8> = program
        .iter()
        .flat_map(|one| [&one.code.to_ne_bytes()[..], &[one.jt, one.jf], &one.k.to_ne_bytes()].concat())
        .collect();
    let options = [
        attribute(TCA_BPF_OPS_LEN, &length.to_ne_bytes()),
        attribute(TCA_BPF_OPS, &bytes),
        attribute(TCA_BPF_FLAGS, &TCA_BPF_FLAG_ACT_DIRECT.to_ne_bytes()),
    ];
    let all = u32::from((libc::ETH_P_ALL as u16).to_be());
    let place = [index, 1, TC_H_CLSACT & 0xffff_0000 | TC_H_MIN_INGRESS, PRIORITY << 16 | all];
    message(
        libc::RTM_NEWTFILTER,
        place,
        &[text("bpf"), attribute(libc::TCA_OPTIONS, &options.concat())].concat(),
    )
}

/// Returns the classic BPF program; its result is an action (`TC_ACT_*`).
fn program(sender: Option<Ipv4Addr>) -> Vec<Instruction> {
    const HALF: u16 = (libc::BPF_LD | libc::BPF_H | libc::BPF_ABS) as u16;
    const BYTE: u16 = (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16;
    const WORD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    /// `TC_ACT_UNSPEC`: other filters decide.
    const PASS: u32 = u32::MAX;
    /// `TC_ACT_SHOT`.
    const DROP: u32 = 2;
    let load = |code, k| Instruction { code, jt: 0, jf: 0, k };
    let equal = |k, jt, jf| Instruction { code: EQUAL, jt, jf, k };
    let address = sender.map_or(0, Ipv4Addr::to_bits);
    // ARP: without a known sender all messages pass.
    let other = u8::from(sender.is_none());
    vec![
        // 0: the kernel removes a VLAN tag inside a tag after this filter
        load(HALF, 12),
        equal(0x8100, 20, 0),
        equal(0x88a8, 19, 0),
        equal(0x0800, 3, 0),
        equal(0x86dd, 6, 0),
        equal(0x0806, 13, 0),
        load(RETURN, PASS),
        // 7: ip daddr 127.0.0.0/8, ip saddr 127.0.0.0/8
        load(BYTE, 30),
        equal(127, 13, 0),
        load(BYTE, 26),
        equal(127, 11, 12),
        // 11: ip6 daddr ::1
        load(WORD, 38),
        equal(0, 0, 10),
        load(WORD, 42),
        equal(0, 0, 8),
        load(WORD, 46),
        equal(0, 0, 6),
        load(WORD, 50),
        equal(1, 3, 4),
        // 19: arp saddr ip; 0.0.0.0 is the sender of an address probe
        load(WORD, 28),
        equal(address, 2, 0),
        equal(0, 1, other),
        load(RETURN, DROP),
        load(RETURN, PASS),
    ]
}

/// Creates a traffic control request for an interface: `struct tcmsg` and attributes.
fn message(kind: u16, place: [u32; 4], attributes: &[u8]) -> Vec<u8> {
    const NLM_F_REQUEST: u16 = 1;
    const NLM_F_ACK: u16 = 4;
    const NLM_F_CREATE: u16 = 0x400;
    let length = u32::try_from(36 + attributes.len()).unwrap_or(u32::MAX);
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend((NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE).to_ne_bytes());
    // Sequence number, port, family and padding.
    bytes.extend([0; 12]);
    place.iter().for_each(|number| bytes.extend(number.to_ne_bytes()));
    bytes.extend(attributes);
    bytes
}

/// Returns the attribute with the kind of a queueing discipline or classifier.
fn text(kind: &str) -> Vec<u8> {
    attribute(libc::TCA_KIND, &[kind.as_bytes(), &[0]].concat())
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}
