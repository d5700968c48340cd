//! Notifications about deleted rules: from the tables of Coracle, and from firewalld's table, which firewalld
//! deletes when it reloads. Called by the supervisor's event loop.

use super::coexist::FIREWALLD;
use super::netlink::nfta::NFTA_TABLE_NAME;
use super::netlink::nlmsg::{self, NetlinkMessage, Operation};
use super::netlink::{TABLE, open};
use crate::sys::filter::Instruction;
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::RecvFlags;

/// Deletions in the firewall of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Deletions {
    /// The tables of Coracle.
    pub(crate) own: bool,
    /// The table of firewalld or its chains: firewalld reloads.
    pub(crate) firewalld: bool,
}

impl Deletions {
    /// Notifications were lost.
    const UNKNOWN: Self = Self { own: true, firewalld: true };

    fn add(&mut self, message: &NetlinkMessage<'_>) {
        let is = |kinds: &[Operation]| kinds.iter().any(|kind| message.is(*kind));
        let deletes_table = is(&[Operation::DeleteTable, Operation::DeleteChain]);
        let deletes_content = is(&[Operation::DeleteRule, Operation::DeleteSet]);
        // The table has this attribute in messages about tables, chains, rules and sets.
        match message.body.text(NFTA_TABLE_NAME) {
            Some(TABLE) => self.own |= deletes_table || deletes_content,
            Some(FIREWALLD) => self.firewalld |= deletes_table,
            _ => {}
        }
    }
}

/// Subscribes to deletions of tables, chains, rules and sets (`NFNLGRP_NFTABLES`). The socket does not block.
/// Elements of sets are left out, because each machine of the host adds and deletes some: no supervisor wakes
/// up for another machine.
///
/// # Errors
/// Any error of socket(2), bind(2) or of attaching the filter.
pub(crate) fn subscribe() -> rustix::io::Result<OwnedFd> {
    let socket = open(1 << (libc::NFNLGRP_NFTABLES - 1))?;
    rustix::io::ioctl_fionbio(&socket, true)?;
    crate::sys::packet::attach_filter(&socket, &filter())
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::INVAL))?;
    Ok(socket)
}

/// A classic BPF program that accepts notifications that begin with a deletion.
fn filter() -> Vec<Instruction> {
    const BYTE: u16 = (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16;
    const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    const ALL: u32 = u32::MAX;
    // The low byte of nlmsghdr.nlmsg_type, which has the byte order of the host.
    let kind = if cfg!(target_endian = "little") { 4 } else { 5 };
    let step = |code, k, jt| Instruction { code, jt, jf: 0, k };
    let equal = |kind: i32, jt| step(EQUAL, kind.cast_unsigned(), jt);
    vec![
        step(BYTE, kind, 0),
        equal(libc::NFT_MSG_DELTABLE, 4),
        equal(libc::NFT_MSG_DELCHAIN, 3),
        equal(libc::NFT_MSG_DELRULE, 2),
        equal(libc::NFT_MSG_DELSET, 1),
        step(RETURN, 0, 0),
        step(RETURN, ALL, 0),
    ]
}

/// Reads notifications, a bounded number of them. A notification longer than the buffer counts as deletions
/// in both: an idle supervisor has no memory for a larger buffer.
#[inline(never)]
pub(crate) fn read(socket: impl AsFd) -> Deletions {
    const MOST: usize = 16;
    const LONGEST: usize = 4096;
    let mut buffer = [0; LONGEST];
    let mut deletions = Deletions::default();
    for _ in 0..MOST {
        match rustix::net::recv(&socket, &mut buffer[..], RecvFlags::DONTWAIT | RecvFlags::TRUNC) {
            Ok((_, length)) if length > LONGEST => deletions = Deletions::UNKNOWN,
            Ok((_, length)) => {
                let messages = nlmsg::messages(buffer.get(..length).unwrap_or_default());
                messages.for_each(|message| deletions.add(&message));
            }
            Err(Errno::NOBUFS) => deletions = Deletions::UNKNOWN,
            Err(_) => break,
        }
    }
    deletions
}
