//! The names of machines and of their host in each machine's `/etc/hosts`. Called by `launch` and `cleanup`,
//! for a zone with its lock held. A file that cannot be written is a warning.

use crate::machine::network::Zone;
use crate::network::firewall::Member;
use crate::paths::Paths;
use crate::state::record::Record;
use std::net::{IpAddr, Ipv4Addr};

/// Writes the names of a machine outside of zones: its own names and its host's.
pub(crate) fn write_own(record: &Record) {
    write(record, &(own_lines(record, &[]) + &host_lines(&record.host_addresses)));
}

/// Updates the hosts files of all running machines of a zone after a change of one machine, `own`.
pub(crate) fn update_zone(paths: &Paths, zone: &Zone, own: &Record, change: ZoneChange) {
    let is_other =
        |record: &Record| record.name != own.name && record.zone.as_ref() == Some(zone) && record.is_alive();
    let mut members: Vec<Record> = Record::all(paths).into_iter().filter(is_other).collect();
    if change == ZoneChange::Joins {
        members.push(own.clone());
        members.sort_by(|one, other| one.name.cmp(&other.name));
    }
    // All machines of a zone have the same host addresses; a new record has none yet.
    let known = members.iter().chain([own]).map(|record| &record.host_addresses);
    let host = known.clone().find(|addresses| !addresses.is_empty()).cloned().unwrap_or_default();
    let lines: String = members.iter().map(|member| machine_lines(member, zone)).collect();
    let lines = lines + &host_lines(&host);
    let taken: Vec<&str> = members.iter().map(|member| member.name.as_str()).collect();
    members.iter().for_each(|member| write(member, &(lines.clone() + &own_lines(member, &taken))));
}

/// A change of a zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ZoneChange {
    /// The machine joins the zone.
    Joins,
    /// The machine leaves the zone.
    Leaves,
}

/// Removes Coracle's lines from the hosts file.
pub(crate) fn clear(record: &Record) {
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
    let names =
        if is_reserved(name.as_str()) { format!("{name}.{zone}") } else { format!("{name} {name}.{zone}") };
    addresses(record).iter().map(|address| format!("{address} {names}\n")).collect()
}

/// Returns the lines for a machine's own host names, except those `taken` by machines of its zone. Without an
/// address from Coracle the names resolve to 127.0.1.1, as in hosts(5) of Debian.
fn own_lines(record: &Record, taken: &[&str]) -> String {
    let is_own =
        |name: &&String| !is_reserved(name) && !taken.iter().any(|taken| taken.eq_ignore_ascii_case(name));
    let names: Vec<&str> = record.hostnames.iter().filter(is_own).map(String::as_str).collect();
    if names.is_empty() {
        return String::new();
    }
    let mut addresses = addresses(record);
    if addresses.is_empty() {
        addresses.push(Ipv4Addr::new(127, 0, 1, 1).into());
    }
    addresses.iter().map(|address| format!("{address} {}\n", names.join(" "))).collect()
}

/// Returns whether a name is reserved for the host.
fn is_reserved(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    ["host", "localhost"].contains(&lower.as_str()) || lower.ends_with(".localhost")
}

fn addresses(record: &Record) -> Vec<IpAddr> {
    match record.firewall.as_ref().map(Member::addresses) {
        Some((ipv4, ipv6)) => vec![ipv4.into(), ipv6.into()],
        None => record.addresses.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::name::Name;

    #[test]
    fn own_names_resolve_to_the_machine_unless_taken() {
        let hostnames = ["web", "Db", "www.example.org", "localhost"].map(str::to_owned).to_vec();
        let mut record = Record { hostnames, ..Record::new(Name::new("web").unwrap()) };
        assert_eq!(own_lines(&record, &[]), "127.0.1.1 web Db www.example.org\n");
        record.addresses = vec!["192.0.2.7".parse().unwrap()];
        assert_eq!(own_lines(&record, &["web", "db"]), "192.0.2.7 www.example.org\n");
        record.hostnames = vec!["host".into()];
        assert_eq!(own_lines(&record, &[]), "");
    }
}
