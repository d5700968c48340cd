//! The firewall: one table, `inet coracle`, spoken to over netlink without the program nft(8). Made
//! with the first machine, removed with the last. Called by the supervisor, which names a machine's
//! part in the state record first, and by `cleanup`. Own code: of the crates, some link C, some run
//! the program, and those that speak netlink have neither masquerade nor connection state.

mod admission;
mod bridge;
pub mod coexist;
pub mod connections;
pub mod counters;
mod element;
mod expression;
mod extras;
mod guard;
mod inet;
mod member;
mod message;
mod part;
pub mod policy;
mod sets;
pub mod trace;

pub use extras::Extra;
pub use member::{Bounds, Counters, Member, Others, Reach};
pub use part::Part;

use crate::error::{Context, Error, Result};
use crate::sys::filter::Instruction;
use element::Element;
use message::{Attributes, Batch, Existing, Kind, Message};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// What came of taking a machine in.
#[derive(Debug)]
pub enum Added {
    /// It is in the table.
    Member,
    /// The kernel has no nftables, or no NAT in it.
    Unsupported(Error),
    /// The table is there, and not as we make it: [`renew`] it.
    Strange,
}

/// Takes a machine into the table, which is made where it is not there. One that is in it stays.
///
/// # Errors
/// A kernel that refuses.
pub fn add(part: Part<'_>) -> Result<Added> {
    let doing = || format!("cannot set up the firewall of '{}'", part.interface());
    // Another first machine may make the table between the question and the answer, or a last one remove it.
    let mut was_strange = false;
    for _ in 0..3 {
        let mut batch = Batch::new();
        // Asked first: a transaction that fails waits until no processor is in the old rules.
        let mut is_made = is_there(message::INET);
        if !is_made {
            inet::make(&mut batch);
        }
        if part.is_bridged() {
            if is_there(message::BRIDGE) {
                is_made = true;
            } else {
                bridge::make(&mut batch);
            }
        }
        part.enter(&mut batch);
        match commit(batch) {
            Ok(()) => return Ok(Added::Member),
            Err(Errno::EXIST) => {}
            Err(Errno::NOENT) if is_made => was_strange = true,
            Err(errno @ (Errno::OPNOTSUPP | Errno::AFNOSUPPORT | Errno::PROTONOSUPPORT | Errno::NOENT)) => {
                return Ok(Added::Unsupported(without(Error::from(errno).context(doing()))));
            }
            Err(errno) => return Err(errno).context(doing),
        }
    }
    if was_strange {
        return Ok(Added::Strange);
    }
    Err(Error::new("others change it all the time").context(doing()))
}

/// Makes the table anew with these machines in it: at no moment it is not there. For one that somebody
/// has flushed or removed, and one of another version of ours.
///
/// # Errors
/// A kernel that refuses.
pub fn renew(parts: &[Part<'_>]) -> Result<()> {
    /// A transaction has to fit a socket's buffer.
    const FULL: usize = 96 << 10;
    let doing = || "cannot make the firewall table 'inet coracle' anew";
    let table = Attributes::new().text(1, inet::TABLE);
    let mut batch = Batch::new();
    batch.push(Kind::NewTable, Existing::Keep, &table);
    batch.push(Kind::DeleteTable, Existing::Keep, &table);
    inet::make(&mut batch);
    if parts.iter().any(Part::is_bridged) {
        batch.push_for(message::BRIDGE, Kind::NewTable, Existing::Keep, &table);
        batch.push_for(message::BRIDGE, Kind::DeleteTable, Existing::Keep, &table);
        bridge::make(&mut batch);
    }
    for part in parts {
        part.enter(&mut batch);
        if batch.length() > FULL {
            commit(std::mem::replace(&mut batch, Batch::new())).context(doing)?;
        }
    }
    commit(batch).context(doing)
}

/// Changes a machine's part while it is in the table.
///
/// # Errors
/// A kernel that refuses; then nothing has changed.
pub fn change(before: &Member, after: &Member, extras: &[Extra]) -> Result<()> {
    let mut batch = Batch::new();
    before.become_other(after, extras, &mut batch);
    commit(batch).context(|| format!("cannot change the firewall of '{}'", before.interface()))
}

/// The dropped packets of a machine; `None` if there is no table.
pub fn counters(part: Part<'_>) -> Option<Counters> {
    let mut counters = Counters::default();
    for (family, set, key, is_forged) in part.counted() {
        let named = Attributes::new().text(1, inet::TABLE).text(2, set);
        let into = if is_forged { &mut counters.forged } else { &mut counters.refused };
        dump(&Batch::dump(family, Kind::GetElements, &named), |message| *into += count(&key, message.body))
            .ok()?;
    }
    Some(counters)
}

/// The packets that the element of a key has counted.
fn count(key: &[u8], elements: message::Read<'_>) -> u64 {
    let mut all = elements.list(3);
    all.find_map(|element| {
        let found = element.nested(1)?.bytes(1)?;
        found.starts_with(key).then(|| element.nested(7)?.nested(2)?.long(2)).flatten()
    })
    .unwrap_or(0)
}

/// Whether the tables have all rules, and all of a machine's part.
pub fn is_whole(part: Part<'_>) -> bool {
    let Ok(chains) = counters::dropped() else { return false };
    let has = |word: &str, (chain, count): &(&str, usize)| {
        let table = format!("{word} {}", inet::TABLE);
        let of_chain = |found: &&counters::Dropped| found.table == table && found.chain == *chain;
        chains.iter().find(of_chain).is_some_and(|found| found.rules == *count as u64)
    };
    let bridged = if part.is_bridged() { bridge::counts() } else { Vec::new() };
    let is_there = |element: &Element| {
        let named = element::request(element);
        ask(&Batch::question(element.family, Kind::GetElements, &named)).is_ok()
    };
    inet::counts().iter().all(|count| has("inet", count))
        && bridged.iter().all(|count| has("bridge", count))
        && part.going(Others::default()).iter().filter(|element| element.is_plain()).all(is_there)
}

/// Subscribes to deletions of tables, chains, rules and sets (`NFNLGRP_NFTABLES`). The socket never blocks. Elements of
/// sets come and go with each machine of the host and are left out: no supervisor wakes up for another machine.
///
/// # Errors
/// A kernel that refuses.
pub fn subscribe() -> rustix::io::Result<OwnedFd> {
    const NFNLGRP_NFTABLES: u32 = 7;
    let socket = open(1 << (NFNLGRP_NFTABLES - 1))?;
    rustix::io::ioctl_fionbio(&socket, true)?;
    crate::sys::packet::attach_filter(&socket, &deletions())
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::INVAL))?;
    Ok(socket)
}

/// A classic BPF program that accepts notifications that begin with a deletion.
fn deletions() -> Vec<Instruction> {
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

/// Deletions in the firewall of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Lost {
    /// From the tables of machines.
    pub own: bool,
    /// Chains or the table of firewalld, which begins anew.
    pub firewalld: bool,
}

impl Lost {
    /// Notifications that were not received.
    const UNKNOWN: Self = Self { own: true, firewalld: true };

    fn add(&mut self, message: &Message<'_>) {
        let is = |kinds: &[Kind]| kinds.iter().any(|kind| message.is(*kind));
        let deleted = [Kind::DeleteTable, Kind::DeleteChain, Kind::DeleteRule, Kind::DeleteSet];
        match message.body.text(1) {
            Some(inet::TABLE) => self.own |= is(&deleted),
            Some(coexist::FIREWALLD) => self.firewalld |= is(&[Kind::DeleteTable, Kind::DeleteChain]),
            _ => {}
        }
    }
}

/// Reads notifications, a bounded number of them. A transaction that deletes more than the buffer holds counts as one
/// of both: a supervisor that idles has no memory to spare for it.
pub fn lost(socket: impl AsFd) -> Lost {
    const TURN: usize = 16;
    const LONGEST: usize = 4096;
    let mut buffer = [0; LONGEST];
    let mut lost = Lost::default();
    for _ in 0..TURN {
        match rustix::net::recv(&socket, &mut buffer[..], RecvFlags::DONTWAIT | RecvFlags::TRUNC) {
            Ok((_, length)) if length > LONGEST => lost = Lost::UNKNOWN,
            Ok((_, length)) => {
                let messages = message::messages(buffer.get(..length).unwrap_or_default());
                messages.for_each(|message| lost.add(&message));
            }
            Err(Errno::NOBUFS) => lost = Lost::UNKNOWN,
            Err(_) => break,
        }
    }
    lost
}

/// Whether a table of ours is there.
fn is_there(family: u8) -> bool {
    ask(&Batch::question(family, Kind::GetTable, &Attributes::new().text(1, inet::TABLE))).is_ok()
}

/// Takes a machine out of the tables, and those away that nobody else needs. What is not there is fine.
///
/// # Errors
/// A kernel that refuses.
pub fn remove(part: Part<'_>, others: Others) -> Result<()> {
    let doing = || format!("cannot take '{}' out of the firewall", part.interface());
    if part.is_bridged() && !others.zoned {
        remove_table(message::BRIDGE)?;
    }
    if !others.any {
        return remove_table(message::INET);
    }
    let mut batch = Batch::new();
    part.leave(&mut batch, others);
    match commit(batch) {
        Err(Errno::NOENT) => {}
        other => return other.context(doing),
    }
    // Part of it is gone already: then one by one.
    for batch in part.pieces(others) {
        gone(commit(batch)).context(doing)?;
    }
    Ok(())
}

/// Removes a table, with whatever is in it. None is fine.
fn remove_table(family: u8) -> Result<()> {
    let mut batch = Batch::new();
    batch.push_for(family, Kind::DeleteTable, Existing::Keep, &Attributes::new().text(1, inet::TABLE));
    gone(commit(batch)).context(|| "cannot remove the firewall table 'coracle'")
}

/// What is gone already is as it should be, also where the kernel has no nftables at all.
fn gone(result: rustix::io::Result<()>) -> rustix::io::Result<()> {
    match result {
        Err(Errno::NOENT | Errno::OPNOTSUPP | Errno::AFNOSUPPORT | Errno::PROTONOSUPPORT) => Ok(()),
        other => other,
    }
}

fn without(error: Error) -> Error {
    error.with_hint(
        "the kernel needs nftables with NAT for the inet family (CONFIG_NF_TABLES_INET, CONFIG_NFT_MASQ)",
    )
}

/// Carries a transaction out.
fn commit(batch: Batch) -> rustix::io::Result<()> {
    ask(&batch.finish())
}

/// A socket to the kernel, that hears what is told to these groups.
fn open(groups: u32) -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC;
    let socket =
        rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, Some(netlink::NETFILTER))?;
    if groups != 0 {
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, groups))?;
    }
    Ok(socket)
}

/// Sends messages and hears the first error.
fn ask(messages: &[u8]) -> rustix::io::Result<()> {
    ask_by(&open(0)?, messages)
}

/// The same by a socket. The kernel has answered when the sending is over.
fn ask_by(socket: impl AsFd, messages: &[u8]) -> rustix::io::Result<()> {
    rustix::net::sendto(&socket, messages, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
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

/// Asks for everything of a kind, and gives every answer.
fn dump(question: &[u8], mut take: impl FnMut(&Message<'_>)) -> rustix::io::Result<()> {
    let socket = open(0)?;
    rustix::net::sendto(&socket, question, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    let mut buffer = vec![0; 32768];
    loop {
        // The kernel has the next part ready: this waits for nobody.
        let (_, length) = rustix::net::recv(&socket, &mut buffer[..], RecvFlags::empty())?;
        let answers = buffer.get(..length).unwrap_or_default();
        if let Some(code) = message::first_error(answers) {
            return Err(Errno::from_raw_os_error(code));
        }
        for message in message::messages(answers) {
            if message.is_end() {
                return Ok(());
            }
            take(&message);
        }
        if length == 0 {
            return Ok(());
        }
    }
}
