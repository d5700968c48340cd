//! User namespaces for idmapped mounts (mount_setattr(2), MOUNT_ATTR_IDMAP). They have no processes.

use crate::error::{Context, Result};
use crate::sys::process::Holder;
use crate::sys::pseudo_file;
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};

/// A range of ids: the first on disk, the first seen by processes, and the count.
pub(crate) type IdMapEntry = (u32, u32, u32);

/// The id of the host's root in a tree (systemd's `UID_MAPPED_ROOT`).
const MAPPED_ROOT: u32 = i32::MAX as u32 - 1;

/// Creates the user namespace that maps the ids of a machine's tree: `count` ids from `disk` to `base`; see
/// [`of_mount`].
///
/// # Errors
/// Any error of clone3(2) and of writing the map files.
pub(crate) fn of_trees(disk: u32, base: u32, count: u32) -> Result<OwnedFd> {
    of_mount((disk, base, count), (disk, base, count))
}

/// Creates the user namespace that maps ranges of users and groups. It is not the machine's own: a map of
/// ranges from the ids of the host also maps the host's root, to an id without files, so that the host can
/// create files there, for example the marks of an overlay, and tools inside the machine's mounts
/// (`machinectl copy-to`); systemd-nspawn(1) does the same.
///
/// # Errors
/// Any error of clone3(2) and of writing the map files.
pub(crate) fn of_mount(users: IdMapEntry, groups: IdMapEntry) -> Result<OwnedFd> {
    let with_root = |(disk, seen, count): IdMapEntry| {
        // The ids of the host need no other root, and one owner has no range for it.
        let is_range = count > 1 && seen > 0;
        let limit = MAPPED_ROOT.checked_sub(disk).filter(|_| is_range).unwrap_or(count);
        let range = (disk, seen, count.min(limit));
        if is_range { vec![range, (MAPPED_ROOT, 0, 1)] } else { vec![range] }
    };
    namespace(&with_root(users), &with_root(groups))
}

/// Creates the user namespace that maps ranges of users and groups, with a user and a group on the disk that
/// are seen as one of the range.
///
/// # Errors
/// Any error of clone3(2) and of writing the map files.
pub(crate) fn with_replaced(
    users: IdMapEntry,
    groups: IdMapEntry,
    user: Option<(u32, u32)>,
    group: Option<(u32, u32)>,
) -> Result<OwnedFd> {
    namespace(&around(users, user), &around(groups, group))
}

/// Returns the entries of a range without the place of one id, and the one of the id.
fn around(range: IdMapEntry, replaced: Option<(u32, u32)>) -> Vec<IdMapEntry> {
    let Some((id, place)) = replaced else { return vec![range] };
    let (disk, seen, count) = range;
    let before = place.saturating_sub(seen);
    let after = count.saturating_sub(before.saturating_add(1));
    let entries = [(disk, seen, before), (id, place, 1), (disk + before + 1, place + 1, after)];
    entries.into_iter().filter(|(.., count)| *count > 0).collect()
}

/// Creates a user namespace with mappings for users and groups.
///
/// # Errors
/// Any error of clone3(2) or of writing the map files.
pub fn namespace(users: &[IdMapEntry], groups: &[IdMapEntry]) -> Result<OwnedFd> {
    // The child exists until its namespace is mapped and opened: the files of an ended process belong to root
    // of the host, who does not exist in a host that is itself a machine.
    let holder = Holder::new(u64::from(libc::CLONE_NEWUSER.cast_unsigned()))?;
    let path = format!("/proc/{}", holder.pid().as_raw_nonzero());
    let write = |file: &str, ranges: &[IdMapEntry]| {
        let line = |(disk, seen, count): &IdMapEntry| format!("{disk} {seen} {count}\n");
        pseudo_file::write(format!("{path}/{file}"), ranges.iter().map(line).collect::<String>())
    };
    write("uid_map", users)
        .and_then(|()| write("gid_map", groups))
        .context(|| "cannot map ids for a mount")?;
    rustix::fs::open(format!("{path}/ns/user"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .context(|| "cannot open a mount's user namespace")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_takes_the_place_of_another() {
        let entries = |place| around((1000, 1000, 100), Some((7, place)));
        assert_eq!(entries(1050), [(1000, 1000, 50), (7, 1050, 1), (1051, 1051, 49)]);
        assert_eq!(entries(1000), [(7, 1000, 1), (1001, 1001, 99)]);
        assert_eq!(entries(1099), [(1000, 1000, 99), (7, 1099, 1)]);
    }
}
