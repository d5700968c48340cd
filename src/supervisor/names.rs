//! The names that machines have for each other and for their host, in each one's `/etc/hosts`. Called by
//! `launch` and `cleanup`, for a zone with it locked. What cannot be written is warned of, and no more.

use crate::host::nftables::Member;
use crate::host::state::Record;
use crate::machine::network::Zone;
use crate::paths::Paths;
use std::net::IpAddr;

/// Tells a machine that is in no zone of its host.
pub fn tell(record: &Record) {
    write(record, &host_lines(&record.host_addresses));
}

/// Tells all machines of a zone of each other: `own`, which comes or goes, and those whose records say
/// that they are in it and run.
pub fn renew(paths: &Paths, zone: &Zone, own: &Record, change: Change) {
    let is_other =
        |record: &Record| record.name != own.name && record.zone.as_ref() == Some(zone) && record.is_alive();
    let mut members: Vec<Record> = Record::all(paths).into_iter().filter(is_other).collect();
    if change == Change::Comes {
        members.push(own.clone());
        members.sort_by(|one, other| one.name.cmp(&other.name));
    }
    // All have the same; one that has only just been written down has none yet.
    let known = members.iter().chain([own]).map(|record| &record.host_addresses);
    let host = known.clone().find(|addresses| !addresses.is_empty()).cloned().unwrap_or_default();
    let lines: String = members.iter().map(|member| machine_lines(member, zone)).collect();
    let lines = lines + &host_lines(&host);
    members.iter().for_each(|member| write(member, &lines));
}

/// What a machine does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It is in the zone now.
    Comes,
    /// It is not any more.
    Goes,
}

/// Takes our lines out again.
pub fn forget(record: &Record) {
    write(record, "");
}

fn write(record: &Record, lines: &str) {
    if let Some(hosts) = &record.hosts
        && let Err(error) = hosts.write(lines)
    {
        log::warn!("{error}, ignoring");
    }
}

fn host_lines(addresses: &[IpAddr]) -> String {
    addresses.iter().map(|address| format!("{address} host\n")).collect()
}

fn machine_lines(record: &Record, zone: &Zone) -> String {
    let name = &record.name;
    // No machine takes these from others.
    let lower = name.to_ascii_lowercase();
    let is_reserved = ["host", "localhost"].contains(&lower.as_str()) || lower.ends_with(".localhost");
    let names = if is_reserved { format!("{name}.{zone}") } else { format!("{name} {name}.{zone}") };
    let addresses = match record.firewall.as_ref().map(Member::addresses) {
        Some((ipv4, ipv6)) => vec![ipv4.into(), ipv6.into()],
        None => record.addresses.clone(),
    };
    addresses.iter().map(|address| format!("{address} {names}\n")).collect()
}
