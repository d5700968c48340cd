//! The firewall: one table, `inet coracle`, spoken to over netlink without the program nft(8). Made
//! with the first machine, removed with the last. Called by the supervisor, which names a machine's
//! part in the state record first, and by `cleanup`. Own code: of the crates, some link C, some run
//! the program, and those that speak netlink have neither masquerade nor connection state.

mod message;
mod rules;

use crate::error::{Context, Error, Result};
use crate::host::netlink::plan::Plan;
use message::{Attributes, Batch, Existing, Kind};
use rustix::io::Errno;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use serde::{Deserialize, Serialize};
use std::net::{Ipv4Addr, Ipv6Addr};

/// A machine's part of the table: what its elements are made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The host's end of its link.
    interface: String,
    /// The link-layer address of its own end.
    mac: [u8; 6],
    /// Its IPv4 address.
    ipv4: Ipv4Addr,
    /// Its IPv6 address; all of its prefix of 64 bits is its.
    ipv6: Ipv6Addr,
}

impl Member {
    /// The part of the machine of this link.
    pub fn new(plan: &Plan) -> Self {
        Self {
            interface: plan.host_interface.clone(),
            mac: plan.guest_mac,
            ipv4: plan.ipv4.guest,
            ipv6: plan.ipv6.guest,
        }
    }

    /// The elements: of which set, and the key.
    fn elements(&self) -> [(&'static str, Vec<u8>); 5] {
        let mut interface = [0; 16];
        let length = self.interface.len().min(15);
        interface[..length].copy_from_slice(&self.interface.as_bytes()[..length]);
        let [a, b, c, d, e, f] = self.mac;
        let sender = [&interface[..], &[a, b, c, d, e, f, 0, 0]].concat();
        let prefix = Ipv6Addr::from_bits(self.ipv6.to_bits() >> 64 << 64).octets();
        [
            (rules::LINKS, interface.to_vec()),
            (rules::SOURCES_4, [&sender[..], &self.ipv4.octets()].concat()),
            (rules::SOURCES_6, [&sender[..], &prefix].concat()),
            (rules::INSIDE_4, self.ipv4.octets().to_vec()),
            (rules::INSIDE_6, prefix.to_vec()),
        ]
    }

    fn push(&self, batch: &mut Batch, kind: Kind) {
        for (set, key) in self.elements() {
            element(batch, kind, set, &key);
        }
    }
}

/// Takes a machine into the table, which is made where it is not there. One that is in it stays.
///
/// # Errors
/// A kernel without nftables, or one that refuses.
pub fn add(member: &Member) -> Result<()> {
    let doing = || format!("cannot set up the firewall of '{}'", member.interface);
    // Another first machine may make the table between our two tries.
    for _ in 0..3 {
        let mut batch = Batch::new();
        member.push(&mut batch, Kind::NewElements);
        match commit(batch) {
            Err(Errno::NOENT) => {}
            other => return other.context(doing),
        }
        let mut batch = Batch::new();
        rules::make(&mut batch);
        member.push(&mut batch, Kind::NewElements);
        match commit(batch) {
            Err(Errno::EXIST) => {}
            Err(errno @ (Errno::OPNOTSUPP | Errno::AFNOSUPPORT | Errno::PROTONOSUPPORT | Errno::NOENT)) => {
                return Err(errno).context(doing).map_err(without);
            }
            other => return other.context(doing),
        }
    }
    Err(Error::new("others change it all the time").context(doing()))
}

/// Takes a machine out of the table. One that is not in it is fine.
///
/// # Errors
/// A kernel that refuses.
pub fn remove(member: &Member) -> Result<()> {
    let doing = || format!("cannot take '{}' out of the firewall", member.interface);
    let mut batch = Batch::new();
    member.push(&mut batch, Kind::DeleteElements);
    match commit(batch) {
        Err(Errno::NOENT) => {}
        other => return other.context(doing),
    }
    // Part of it is gone already: then one by one.
    for (set, key) in member.elements() {
        let mut batch = Batch::new();
        element(&mut batch, Kind::DeleteElements, set, &key);
        gone(commit(batch)).context(doing)?;
    }
    Ok(())
}

/// Removes the table, with whatever is in it. None is fine.
///
/// # Errors
/// A kernel that refuses.
pub fn remove_table() -> Result<()> {
    let mut batch = Batch::new();
    batch.push(Kind::DeleteTable, Existing::Keep, &Attributes::new().text(1, rules::TABLE));
    gone(commit(batch)).context(|| "cannot remove the firewall table 'inet coracle'")
}

/// What is gone already is as it should be, also where the kernel has no nftables at all.
fn gone(result: rustix::io::Result<()>) -> rustix::io::Result<()> {
    match result {
        Err(Errno::NOENT | Errno::OPNOTSUPP | Errno::AFNOSUPPORT | Errno::PROTONOSUPPORT) => Ok(()),
        other => other,
    }
}

fn without(error: Error) -> Error {
    error.hint(
        "the kernel needs nftables with NAT for the inet family (CONFIG_NF_TABLES_INET, CONFIG_NFT_MASQ)",
    )
}

fn element(batch: &mut Batch, kind: Kind, set: &str, key: &[u8]) {
    let item = Attributes::new().nested(1, &Attributes::new().bytes(1, key));
    let elements = Attributes::new().text(1, rules::TABLE).text(2, set).list(3, &[item]);
    batch.push(kind, Existing::Keep, &elements);
}

/// Carries a transaction out. The kernel has answered when the sending is over.
fn commit(batch: Batch) -> rustix::io::Result<()> {
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(netlink::NETFILTER),
    )?;
    let kernel = SocketAddrNetlink::new(0, 0);
    rustix::net::sendto(&socket, &batch.finish(), SendFlags::empty(), &kernel)?;
    let mut buffer = vec![0; 16384];
    loop {
        match rustix::net::recv(&socket, &mut buffer[..], RecvFlags::DONTWAIT) {
            Ok((_, length)) => {
                let answers = buffer.get(..length).unwrap_or_default();
                if let Some(code) = message::first_error(answers) {
                    return Err(Errno::from_raw_os_error(code));
                }
            }
            Err(Errno::AGAIN) => return Ok(()),
            Err(errno) => return Err(errno),
        }
    }
}
