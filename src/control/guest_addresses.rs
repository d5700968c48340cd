//! The addresses of a machine that are not from Coracle: those that its guest has now, for example by DHCP from
//! the network of a bridge. Called by `list` and `doctor`.

use crate::error::{Context, Result};
use crate::network::guest_addresses;
use crate::state::record::Record;
use rustix::fd::AsFd;
use std::fs::File;
use std::net::IpAddr;

/// The maximum number of addresses.
const MOST: usize = 16;

/// Returns the global addresses of a running machine with a network of its own and no addresses from Coracle.
/// `None` for other machines, and for callers without the rights to look.
pub(super) fn of(record: &Record) -> Option<Vec<IpAddr>> {
    let has_network = !record.unconfined.iter().any(|word| word == "network");
    let leader = record.leader.filter(|_| has_network && record.addresses.is_empty())?;
    let found = list(leader);
    found.inspect_err(|error| log::debug!("{error}, ignoring")).ok()
}

fn list(leader: u32) -> Result<Vec<IpAddr>> {
    let path = format!("/proc/{leader}/ns/net");
    let namespace = File::open(&path).context(|| format!("cannot open '{path}'"))?;
    guest_addresses::all(namespace.as_fd(), MOST)
}
