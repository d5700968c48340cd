//! A machine's coming to and going from the firewall's table, which is there while any machine needs
//! it. Called by `launch` and `cleanup`.

use crate::error::{Context, Result};
use crate::host::state::Record;
use crate::host::{forwarding, nftables};
use crate::machine::name::Name;
use crate::paths::Paths;
use std::fs::File;

/// Takes a machine in. Its record names it already. Where forwarding cannot be switched on, as in a
/// container, it reaches its host.
///
/// # Errors
/// A kernel that has no nftables or refuses.
pub fn join(paths: &Paths, member: &nftables::Member) -> Result<()> {
    if let Err(error) = forwarding::enable(paths) {
        log::warn!("{error}: the machine reaches no more than its host");
    }
    let _lock = lock(paths)?;
    nftables::add(member)
}

/// Takes a machine out, and the table away with the last.
///
/// # Errors
/// A kernel that refuses.
pub fn leave(paths: &Paths, record: &Record, member: &nftables::Member) -> Result<()> {
    let _lock = lock(paths)?;
    if is_needed(paths, &record.name) {
        nftables::remove(member)?;
    } else {
        nftables::remove_table()?;
    }
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

/// Whether any other machine has a part in the table. The first that has one answers.
fn is_needed(paths: &Paths, own: &str) -> bool {
    let entries = std::fs::read_dir(paths.state()).into_iter().flatten().flatten();
    let mut names = entries.filter_map(|entry| Name::new(entry.file_name().to_str()?).ok());
    names.any(|name| {
        let record = || Record::read(paths, &name).ok().flatten();
        name.as_str() != own && record().is_some_and(|record| record.firewall.is_some())
    })
}
