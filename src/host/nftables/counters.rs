//! What the tables have dropped so far. Called by the file above. It changes nothing.

use super::message::{Attributes, Batch, Family, Kind};
use super::table;
use crate::error::{Context, Result};
use rustix::io::Errno;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use serde::Serialize;
use std::collections::BTreeMap;

/// What one chain has dropped.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Dropped {
    /// Its table.
    pub table: String,
    /// Its name.
    pub chain: String,
    /// How many rules it has.
    pub rules: u64,
    /// Packets dropped.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Messages and what they hold: a header of so many bytes, its length in the first field.
const MESSAGE: usize = 16;
const ATTRIBUTE: usize = 4;
/// The length of nfnetlink's own header.
const NETFILTER: usize = 4;

/// What the chains of both tables have dropped; nothing of a table that is not there.
///
/// # Errors
/// What the kernel refuses.
pub fn dropped() -> Result<Vec<Dropped>> {
    let mut chains = BTreeMap::new();
    for (family, word) in [(Family::Inet, "inet"), (Family::Bridge, "bridge")] {
        list(family, word, &mut chains).context(|| "cannot list the rules of the firewall")?;
    }
    Ok(chains.into_values().collect())
}

type Chains = BTreeMap<(String, String), Dropped>;

fn list(family: Family, word: &str, chains: &mut Chains) -> rustix::io::Result<()> {
    let flags = SocketFlags::CLOEXEC;
    let socket =
        rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, Some(netlink::NETFILTER))?;
    let question = Batch::listing(family, Kind::GetRule, &Attributes::new().text(1, table::TABLE));
    rustix::net::sendto(&socket, &question, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    let mut buffer = vec![0; 65536];
    loop {
        let (_, length) = rustix::net::recv(&socket, &mut buffer[..], RecvFlags::empty())?;
        match read(buffer.get(..length).unwrap_or_default(), word, chains) {
            Ok(Part::More) => {}
            Ok(Part::Last) | Err(Errno::NOENT | Errno::OPNOTSUPP | Errno::AFNOSUPPORT) => return Ok(()),
            Err(errno) => return Err(errno),
        }
    }
}

/// Whether there is more to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    More,
    Last,
}

fn read(mut answers: &[u8], word: &str, chains: &mut Chains) -> rustix::io::Result<Part> {
    const ERROR: u16 = 2;
    const DONE: u16 = 3;
    while let Some((header, rest)) = answers.split_at_checked(MESSAGE) {
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let body = rest.get(..length.saturating_sub(MESSAGE)).unwrap_or_default();
        match u16::from_ne_bytes([header[4], header[5]]) {
            DONE => return Ok(Part::Last),
            ERROR => {
                let code = body.first_chunk::<4>().map_or(0, |code| i32::from_ne_bytes(*code));
                return if code == 0 { Ok(Part::Last) } else { Err(Errno::from_raw_os_error(-code)) };
            }
            _ => count(body.get(NETFILTER..).unwrap_or_default(), word, chains),
        }
        answers = answers.get(length.max(MESSAGE).next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(Part::More)
}

/// Adds a rule to what its chain has.
fn count(rule: &[u8], word: &str, chains: &mut Chains) {
    let (mut table, mut chain, mut counted, mut drops) = (String::new(), String::new(), None, false);
    for (kind, value) in attributes(rule) {
        match kind {
            1 => table = text(value),
            2 => chain = text(value),
            4 => {
                for (_, expression) in attributes(value) {
                    let part = |wanted| attributes(expression).find(|(kind, _)| *kind == wanted);
                    let (Some((_, name)), Some((_, data))) = (part(1), part(2)) else { continue };
                    match text(name).as_str() {
                        "counter" => counted = Some((number(data, 2), number(data, 1))),
                        "immediate" => drops |= is_drop(data),
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    if table != table::TABLE {
        return;
    }
    let table = format!("{word} {table}");
    let key = (table.clone(), chain.clone());
    let found = chains.entry(key).or_insert_with(|| Dropped { table, chain, ..Dropped::default() });
    found.rules += 1;
    if let Some((packets, bytes)) = counted.filter(|_| drops) {
        found.packets += packets;
        found.bytes += bytes;
    }
}

/// Whether what is loaded is the verdict to drop, which is zero.
fn is_drop(immediate: &[u8]) -> bool {
    let within = |bytes, kind| attributes(bytes).find(|(found, _)| *found == kind).map(|(_, value)| value);
    let verdict =
        within(immediate, 2).and_then(|data| within(data, 2)).and_then(|verdict| within(verdict, 1));
    verdict.is_some_and(|code| code == [0; 4])
}

fn number(data: &[u8], kind: u16) -> u64 {
    let value = attributes(data).find(|(found, _)| *found == kind);
    value.and_then(|(_, bytes)| bytes.try_into().ok()).map_or(0, u64::from_be_bytes)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned()
}

/// The attributes in a buffer, less what is cut off.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    const KIND: u16 = 0x3fff;
    std::iter::from_fn(move || {
        let header = bytes.get(..ATTRIBUTE)?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & KIND;
        let value = bytes.get(ATTRIBUTE..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_off_or_strange_ends_the_list() {
        assert_eq!(attributes(&[]).count(), 0);
        assert_eq!(attributes(&[3, 0, 1, 0]).count(), 0, "shorter than its header");
        assert_eq!(attributes(&[9, 0, 1, 0, 1]).count(), 0, "longer than there is");
        let whole = [5, 0, 1, 0x80, 7, 0, 0, 0, 4, 0, 2, 0];
        assert_eq!(attributes(&whole).collect::<Vec<_>>(), [(1, &[7][..]), (2, &[][..])]);
    }
}
