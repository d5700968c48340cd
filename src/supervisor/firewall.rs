//! A machine's coming to and going from the firewall's table, which is there while any machine needs
//! it. Called by `launch` and `cleanup`.

use crate::error::{Context, Error, Kind, Result};
use crate::host::state::Record;
use crate::host::{forwarding, netlink, nftables};
use crate::machine::name::Name;
use crate::paths::Paths;
use std::fs::File;

/// Writes a machine's record for the first time, which makes its ports its own. What a machine
/// that is dead has of them is taken from it.
///
/// # Errors
/// A port of another machine: then the record is not written, and names no part of the table.
pub fn reserve(paths: &Paths, record: &mut Record) -> Result<()> {
    let wanted = record.firewall.as_ref().map(|member| member.ports().to_vec()).unwrap_or_default();
    let zoned = record.firewall.clone().filter(|member| member.zone().is_some());
    if wanted.is_empty() && zoned.is_none() {
        return record.write(paths);
    }
    let lock = lock(paths)?;
    let others = Record::all(paths).into_iter().filter(|other| other.name != record.name);
    let mut dead = Vec::new();
    for other in others {
        if let (Some(own), Some(others)) = (&zoned, &other.firewall)
            && other.is_alive()
            && !own.fits_beside(others)
        {
            record.firewall = None;
            return Err(Error::new(format!("machine '{}' has taken the address meanwhile", other.name))
                .kind_of(Kind::Contended));
        }
        let held = other.firewall.iter().flat_map(nftables::Member::ports);
        let clash = held.flat_map(|held| wanted.iter().map(move |port| (held, port)));
        match clash.into_iter().find(|(held, port)| held.overlaps(port)) {
            Some((held, port)) if other.is_alive() => {
                let error =
                    Error::new(format!("cannot forward '{port}': machine '{}' has '{held}'", other.name));
                record.firewall = None;
                return Err(error.hint("stop that machine, or forward another port"));
            }
            Some(_) => dead.push(other),
            None => {}
        }
    }
    record.write(paths)?;
    drop(lock);
    for other in dead {
        if let Some(member) = &other.firewall {
            leave(paths, &other, member)?;
        }
    }
    Ok(())
}

/// Takes a machine in. Its record names it already. Where the kernel has no NAT, or forwarding
/// cannot be switched on, as in a container, it reaches its host.
///
/// # Errors
/// A kernel that refuses, and one without NAT where ports are asked for.
pub fn join(paths: &Paths, record: &mut Record) -> Result<()> {
    let Some(member) = &record.firewall else { return Ok(()) };
    let lock = lock(paths)?;
    let added = nftables::add(member)?;
    drop(lock);
    match added {
        nftables::Added::Member => {
            if let Err(error) = forwarding::enable() {
                log::warn!("{error}: the machine reaches no more than its host");
            }
        }
        nftables::Added::Unsupported(error) if member.ports().is_empty() => {
            log::warn!("{error}: the machine reaches no more than its host");
            record.firewall = None;
        }
        nftables::Added::Unsupported(error) => return Err(error.context("cannot forward ports")),
    }
    Ok(())
}

/// Lets ports of a machine answer at the host's loopback addresses. Without it they answer at others.
pub fn answer_loopback(interface: &str, ifindex: u32) {
    if let Err(error) = forwarding::let_loopback_out(interface) {
        log::warn!("{error}: ports do not answer at 127.0.0.1");
    }
    let route = super::runtime().and_then(|runtime| runtime.block_on(netlink::answer_loopback(ifindex)));
    if let Err(error) = route {
        log::info!("{error}: ports do not answer at ::1");
    }
}

/// Takes a machine out, and the table away with the last.
///
/// # Errors
/// A kernel that refuses.
pub fn leave(paths: &Paths, record: &Record, member: &nftables::Member) -> Result<()> {
    let _lock = lock(paths)?;
    nftables::remove(member, others(paths, &record.name, member))?;
    // Said before the lock is given back: of two that go at once the second takes the table away.
    Record { firewall: None, ..record.clone() }.write(paths)
}

/// Joining waits while somebody finds out whether the table is needed. The directory is locked
/// itself: a file would have to be removed.
fn lock(paths: &Paths) -> Result<File> {
    let doing = || format!("cannot lock '{}'", paths.state().display());
    let directory = File::open(paths.state()).context(doing)?;
    directory.lock().context(doing)?;
    Ok(directory)
}

/// Who else has a part in the table. Without a zone the first that has one answers.
fn others(paths: &Paths, own: &str, member: &nftables::Member) -> nftables::Others {
    let entries = std::fs::read_dir(paths.state()).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| Name::new(entry.file_name().to_str()?).ok());
    let members = names
        .filter(|name| name.as_str() != own)
        .filter_map(|name| Record::read(paths, &name).ok().flatten()?.firewall);
    let mut found = nftables::Others::default();
    for other in members {
        found.any = true;
        found.zoned |= other.zone().is_some();
        found.same_zone |= other.zone().is_some() && other.zone() == member.zone();
        if member.zone().is_none() || found.same_zone {
            break;
        }
    }
    found
}
