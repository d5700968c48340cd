//! Adds a machine to the firewall tables and removes it. The tables exist while any machine needs them.
//! Called by `launch`, `cleanup` and the event loop.

pub(crate) mod watch;

use crate::claim::{self, loopback_resolver};
use crate::error::{Error, Result};
use crate::host::lock::{self, Held};
use crate::host::runtime::runtime;
use crate::machine::name::Name;
use crate::machine::network::{Network, Port};
use crate::network::firewall::{Nfnetlink, PolicyChain, coexist};
use crate::network::{firewall, firewalld, listeners, sysctl, veth};
use crate::paths::Paths;
use crate::state::record::Record;

/// Removes dead machines from the tables, unless they have been started again.
///
/// # Errors
/// A record that cannot be read, or any error of nftables.
pub(crate) fn forget(paths: &Paths, dead: &[Record]) -> Result<()> {
    let socket = Nfnetlink::open();
    for Record { name, .. } in dead {
        if let Some(record) = Record::read(paths, name)?.filter(|record| !record.is_alive()) {
            leave(&socket, paths, &record, record.part())?;
        }
    }
    Ok(())
}

/// Changes the part of a running machine: its ports and its traffic policy. During the change the record
/// names the old and the new part, so that a cleanup after a kill removes both. After an error the old part
/// stays.
///
/// # Errors
/// A machine without a part, a port in use, or any error of the kernel.
pub(crate) fn change(
    paths: &Paths,
    record: &mut Record,
    wanted: Vec<Port>,
    bounds: firewall::TrafficPolicy,
) -> Result<()> {
    let Some(before) = record.firewall.clone() else {
        return Err(Error::new("the machine has no link of its own, or the host has no NAT"));
    };
    let at_loopback = loopback_resolver(paths, record);
    let after = before.clone().with_policy(bounds).with_ports(wanted).with_resolver(at_loopback);
    let after = after.with_filtered_bridges(sysctl::filters_bridges());
    if after == before {
        return Ok(());
    }
    let new: Vec<Port> =
        after.ports().iter().filter(|port| !before.ports().contains(port)).copied().collect();
    let held = claim::of_claims(paths)?;
    let dead = claim::refuse_claimed(paths, &record.name, &new)?;
    // Only new ports: a process that listens at an already published port started later.
    listeners::refuse_listening(paths, &new)?;
    record.firewall = Some(before.clone().merged_with(&after));
    // Not while `recreate` creates the tables from the records.
    let lock = lock(paths)?;
    record.write(paths)?;
    drop((lock, held));
    let changed = forget(paths, &dead).and_then(|()| firewall::change(&before, &after, &record.extras));
    record.firewall = Some(if changed.is_ok() { after } else { before });
    record.write(paths)?;
    changed?;
    if let (false, Some(member)) = (record.ports().is_empty(), &record.firewall) {
        enable_loopback_ports(member);
    }
    record.firewall.as_ref().into_iter().for_each(allow_resolver_replies);
    Ok(())
}

/// Allows replies of the host's resolver at a loopback address to the machine, if the firewall redirects to
/// it.
pub(crate) fn allow_resolver_replies(member: &firewall::Member) {
    if member.resolver().is_some()
        && let Err(error) = open_loopback(member)
    {
        log::warn!("{error}: the host's resolver cannot answer the machine");
    }
}

/// Allows packets from the host's loopback addresses to a machine. The sysctl also opens the host's loopback
/// addresses to the link, so an ingress filter protects them, also without the tables.
fn open_loopback(member: &firewall::Member) -> Result<()> {
    let sender = member.zone().is_none().then_some(member.addresses().0);
    veth::ingress::protect(member.host_end(), sender)?;
    sysctl::enable_route_localnet(member.interface())
}

/// Changes the part of a rebooting machine to that of its definition. After an error it keeps the old part.
pub(crate) fn apply_definition(paths: &Paths, record: &mut Record, network: &Network) {
    if record.firewall.is_some()
        && let Err(error) = change(paths, record, network.ports.clone(), firewall::TrafficPolicy::of(network))
    {
        log::warn!("{error}: the machine keeps the ports and the traffic policy from before its reboot");
    }
}

/// Creates the tables of all running machines again, after another program has replaced the host's firewall.
///
/// # Errors
/// Any error of the kernel.
pub(crate) fn recreate(paths: &Paths) -> Result<()> {
    if !paths.state().exists() {
        return Ok(());
    }
    let lock = lock(paths)?;
    let records: Vec<Record> = Record::all(paths).into_iter().filter(Record::is_alive).collect();
    if records.iter().all(|record| record.part().is_empty()) {
        return Ok(());
    }
    recreate_tables(&records)?;
    drop(lock);
    bind(&interfaces(records.iter().map(Record::part)));
    sysctl::enable()
}

/// Adds the interface of a machine to firewalld's zone of machines again, after a reload of firewalld.
pub(crate) fn bind_again(record: &Record) {
    wait_for(firewalld::add_again(&interfaces(std::iter::once(record.part()))));
}

/// Adds interfaces of the host to firewalld's zone of machines.
fn bind(interfaces: &[&str]) {
    wait_for(firewalld::add(interfaces));
}

/// Runs requests to firewalld.
fn wait_for(requests: impl Future<Output = ()>) {
    match runtime() {
        Ok(runtime) => runtime.block_on(requests),
        Err(error) => log::warn!("{error}, ignoring"),
    }
}

/// Returns the host's interfaces that receive packets of machines.
fn interfaces<'a>(parts: impl Iterator<Item = firewall::Part<'a>>) -> Vec<&'a str> {
    let mut interfaces: Vec<&str> =
        parts.filter_map(|part| part.member).map(firewall::Member::interface).collect();
    interfaces.sort_unstable();
    interfaces.dedup();
    interfaces
}

/// Creates the tables again with the parts of these machines. The caller holds the lock.
fn recreate_tables(records: &[Record]) -> Result<()> {
    let parts: Vec<firewall::Part<'_>> =
        records.iter().map(Record::part).filter(|part| !part.is_empty()).collect();
    firewall::recreate(&parts)?;
    coexist::open(&interfaces(parts.iter().copied()))
}

/// The result of a check of the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TableState {
    /// The machine's part is complete.
    Complete,
    /// Another process holds the lock of the tables.
    Busy,
    /// A part was missing, and the tables were created again.
    Recreated,
}

/// Creates the tables again if a part of this machine is missing. It does not wait for other processes.
///
/// # Errors
/// Any error of the kernel.
pub(crate) fn repair(paths: &Paths, record: &Record) -> Result<TableState> {
    if record.part().is_empty() || firewall::is_complete(record.part()) {
        return Ok(TableState::Complete);
    }
    let Some(_lock) = lock::attempt(paths, "firewall")? else { return Ok(TableState::Busy) };
    // Another supervisor may have repaired them meanwhile.
    if firewall::is_complete(record.part()) {
        return Ok(TableState::Complete);
    }
    let records: Vec<Record> = Record::all(paths).into_iter().filter(Record::is_alive).collect();
    recreate_tables(&records)?;
    Ok(TableState::Recreated)
}

/// Adds a machine, which its record already names. Without NAT in the kernel, or if forwarding cannot be
/// enabled (in a container, for example), the machine only reaches its host.
///
/// # Errors
/// Any error of the kernel, and a kernel without NAT if the machine has published ports.
pub(crate) fn join(paths: &Paths, record: &mut Record) -> Result<()> {
    if record.part().is_empty() {
        return Ok(());
    }
    let lock = lock(paths)?;
    let mut added = firewall::add(record.part())?;
    if !matches!(added, firewall::Added::Done) && !firewall::can_count_connections() {
        log::warn!(
            "the kernel cannot count connections (CONFIG_NFT_CONNLIMIT): those of the machine are not limited"
        );
        record.firewall = record.firewall.take().map(firewall::Member::without_connection_limit);
        added = firewall::add(record.part())?;
    }
    let part = record.part();
    if matches!(added, firewall::Added::Incompatible) {
        let mut all: Vec<Record> =
            Record::all(paths).into_iter().filter(|other| other.name != record.name).collect();
        all.push(record.clone());
        recreate_tables(&all)?;
        added = firewall::Added::Done;
    }
    if let (firewall::Added::Done, Some(member)) = (&added, part.member)
        && let Err(error) = coexist::open(&[member.interface()])
    {
        log::warn!("{error}, ignoring");
    }
    drop(lock);
    if let (firewall::Added::Done, Some(member)) = (&added, part.member) {
        bind(&[member.interface()]);
    }
    let has_ports = !record.ports().is_empty();
    match added {
        firewall::Added::Done | firewall::Added::Incompatible if part.member.is_none() => {}
        firewall::Added::Done | firewall::Added::Incompatible => {
            if let Err(error) = sysctl::enable() {
                log::warn!("{error}: the machine has no connectivity beyond this host");
            }
        }
        firewall::Added::Unsupported(error) if !has_ports => {
            log::warn!("{error}: the machine has no connectivity beyond this host");
            record.firewall = None;
            record.extras.clear();
        }
        firewall::Added::Unsupported(error) => return Err(error.context("cannot forward ports")),
    }
    Ok(())
}

/// Makes the published ports of a machine answer at the host's loopback addresses too. A failure is a
/// warning.
pub(crate) fn enable_loopback_ports(member: &firewall::Member) {
    if member.zone().is_some() && sysctl::filters_bridges() {
        log::info!(
            "bridges are filtered (net.bridge.bridge-nf-call-ip6tables): ports are not published at ::1"
        );
    }
    let interface = member.interface();
    if let Err(error) = open_loopback(member) {
        log::warn!("{error}: ports do not answer at 127.0.0.1");
    }
    let route = runtime().and_then(|runtime| runtime.block_on(veth::answer_loopback(interface)));
    if let Err(error) = route {
        log::info!("{error}: ports do not answer at ::1");
    }
}

/// Removes a machine, and the tables with the last one.
///
/// # Errors
/// Any error of the kernel.
pub(crate) fn leave(
    socket: &Nfnetlink,
    paths: &Paths,
    record: &Record,
    part: firewall::Part<'_>,
) -> Result<()> {
    if part.is_empty() {
        return Ok(());
    }
    let _lock = lock(paths)?;
    let others = others(paths, &record.name, part);
    firewall::remove(socket, part, others)?;
    // The interface of a zone stays for its other machines.
    let gone = part.member.filter(|member| member.zone().is_none() || !others.same_zone);
    if others.any {
        delete_unused_policies(socket, paths, &record.name)?;
        if let Some(member) = gone {
            coexist::close(socket, Some(member.interface()));
        }
    } else {
        coexist::close(socket, None);
    }
    if let (Some(member), Ok(runtime)) = (gone, runtime()) {
        runtime.block_on(firewalld::remove(socket, member.interface()));
    }
    // Before the lock is released: of two machines that leave at once the second removes the tables.
    let written =
        Record { firewall: None, extras: Vec::new(), forwarding: None, ..record.clone() }.write(paths);
    // No other machine sees a record that could not be written before either.
    written.or_else(|error| if Record::is_written(paths, &record.name) { Err(error) } else { Ok(()) })
}

/// Deletes the chains of traffic policies that no other machine uses.
fn delete_unused_policies(socket: &Nfnetlink, paths: &Paths, own: &Name) -> Result<()> {
    for bound in PolicyChain::existing(socket) {
        let has = |other: &Record| {
            other.name != *own && other.firewall.as_ref().is_some_and(|other| bound.is_needed_by(other))
        };
        if !Record::all(paths).iter().any(has) {
            bound.delete(socket)?;
        }
    }
    Ok(())
}

/// Takes the lock of the tables: joining waits while another process checks for remaining machines.
fn lock(paths: &Paths) -> Result<Held> {
    lock::wait(paths, "firewall")
}

/// Returns which other machines have a part in the tables. Without a bridge the first such machine suffices.
fn others(paths: &Paths, own: &Name, part: firewall::Part<'_>) -> firewall::Others {
    let entries = std::fs::read_dir(paths.state()).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| Name::new(entry.file_name().to_str()?).ok());
    let records = names
        .filter(|name| name != own)
        .filter_map(|name| Record::read(paths, &name).ok().flatten())
        .filter(|record| !record.part().is_empty());
    let zone = part.member.and_then(firewall::Member::zone);
    let mut found = firewall::Others::default();
    for other in records {
        found.any = true;
        found.zoned |= other.part().is_bridged();
        found.same_zone |= zone.is_some() && other.firewall.as_ref().and_then(firewall::Member::zone) == zone;
        if !part.is_bridged() || (found.zoned && (found.same_zone || zone.is_none())) {
            break;
        }
    }
    found
}
