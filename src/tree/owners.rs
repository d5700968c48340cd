//! Changes the owners of all files of a tree to those in a range of ids. Called by `run`. Entries are opened by
//! descriptor, and no link is followed.

use super::entry::shown;
use super::id_mapping::IdMapping;
use super::walk::mount_of;
use super::xattr::{Attributes, XattrPlace};
use crate::error::{Context, Error, Result};
use crate::sys::guest_files;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Uid};
use rustix::io::Errno;
use std::ffi::{CStr, OsStr};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The number of ids of a range (systemd's UIDS-GIDS).
const RANGE_SIZE: u32 = 65536;

/// The maximum depth of a tree: each level needs two descriptors.
const DEEPEST: usize = 512;

/// The attribute of a file whose owner is being changed: its mode, and its capabilities. chown(2) removes both.
const PENDING: &[u8] = b"trusted.coracle.owner";

/// File capabilities (capabilities(7), "File capabilities").
const CAPABILITIES: &[u8] = b"security.capability";

/// Gives a tree, on its file system, to the range of ids from `base` on: each id keeps its place in a range of
/// [`RANGE_SIZE`]. Access lists follow; modes and file capabilities stay. The root is the last entry, and an
/// entry with the right owner is left as it is: a call after an interruption continues. Mounts below are not
/// entered. Returns the number of changed entries.
///
/// # Errors
/// An entry that cannot be changed, or any error of `check`, which is called for each directory.
pub(crate) fn change(root: &Path, base: u32, check: &mut dyn FnMut() -> Result<()>) -> Result<u64> {
    let doing = || format!("cannot change the owners of the files in '{}'", root.display());
    let place = crate::sys::mount::open_directory(root)?;
    let stat = rustix::fs::fstat(&place).context(doing)?;
    let mount = mount_of(place.as_fd()).context(doing)?;
    let mut change = OwnerChange { base, device: stat.st_dev, mount, changed: 0, check };
    change.entry(&place, Path::new(""), 0).map_err(|error| error.context(doing()))?;
    Ok(change.changed)
}

struct OwnerChange<'a> {
    base: u32,
    device: u64,
    mount: u64,
    changed: u64,
    check: &'a mut dyn FnMut() -> Result<()>,
}

impl OwnerChange<'_> {
    fn entry(&mut self, place: &OwnedFd, path: &Path, depth: usize) -> Result<()> {
        let changing = || format!("cannot change {}", shown(path, "the root"));
        let stat = rustix::fs::fstat(place).context(changing)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        // Files of one overlayfs have the devices of its layers, and a subvolume of Btrfs has its own device.
        if stat.st_dev != self.device && mount_of(place.as_fd()).context(changing)? != self.mount {
            return Ok(());
        }
        if kind == FileType::Directory {
            self.below(place, path, depth)?;
        }
        self.give(place, &stat, kind).map_err(|errno| {
            let error = Error::from(errno).context(changing());
            match errno {
                Errno::PERM => error.with_hint("it may be immutable: see lsattr(1)"),
                _ => error,
            }
        })
    }

    fn below(&mut self, place: &OwnedFd, path: &Path, depth: usize) -> Result<()> {
        let reading = || format!("cannot read {}", shown(path, "the root"));
        if depth >= DEEPEST {
            return Err(Error::new(format!("the tree is more than {DEEPEST} directories deep")));
        }
        (self.check)()?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(place, c".", flags, Mode::empty()).context(reading)?;
        for entry in Dir::read_from(&directory).context(reading)? {
            let entry = entry.context(reading)?;
            if matches!(entry.file_name().to_bytes(), b"." | b"..") {
                continue;
            }
            let path = path.join(OsStr::from_bytes(entry.file_name().to_bytes()));
            let below = open(&directory, entry.file_name());
            let below = below.context(|| format!("cannot open {}", shown(&path, "the root")))?;
            self.entry(&below, &path, depth + 1)?;
        }
        Ok(())
    }

    fn inside(&self, id: u32) -> u32 {
        self.base + id % RANGE_SIZE
    }

    /// Gives away one entry. Its owner changes after its access lists and before its mode and capabilities,
    /// which an attribute holds meanwhile.
    fn give(&mut self, place: &OwnedFd, stat: &Stat, kind: FileType) -> rustix::io::Result<()> {
        let (uid, gid) = (self.inside(stat.st_uid), self.inside(stat.st_gid));
        let is_given = (uid, gid) == (stat.st_uid, stat.st_gid);
        let at = XattrPlace::by_reference(place);
        if !is_given {
            if kind != FileType::Symlink {
                self.map_lists(place)?;
            }
            if kind == FileType::RegularFile {
                let capabilities = at.value(CAPABILITIES)?.unwrap_or_default();
                if stat.st_mode & 0o6000 != 0 || !capabilities.is_empty() {
                    let kept =
                        [&stat.st_mode.to_le_bytes()[..], &self.map_capabilities(capabilities)].concat();
                    at.set(PENDING, &kept)?;
                }
            }
            let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
            rustix::fs::chownat(place, c"", uid, gid, AtFlags::EMPTY_PATH)?;
            self.changed += 1;
        }
        match at.value(PENDING)?.filter(|_| kind == FileType::RegularFile) {
            Some(kept) => restore(place, &at, &kept),
            None => Ok(()),
        }
    }

    /// Maps the ids of access lists (acl(5)).
    fn map_lists(&self, place: &OwnedFd) -> rustix::io::Result<()> {
        let attributes = Attributes { place: XattrPlace::by_reference(place), ids: IdMapping::HOST };
        for (name, list) in attributes.read(false)? {
            if name.starts_with(b"system.posix_acl_") {
                attributes.place.set(&name, &IdMapping::in_list(&list, |id| self.inside(id)))?;
            }
        }
        Ok(())
    }

    /// Maps the root of the user namespace in which capabilities take effect (`struct vfs_ns_cap_data`).
    fn map_capabilities(&self, mut capabilities: Vec<u8>) -> Vec<u8> {
        const ROOT: std::ops::Range<usize> = 20..24;
        if let Some(root) = capabilities.get_mut(ROOT)
            && let Ok(bytes) = <[u8; 4]>::try_from(&*root)
        {
            root.copy_from_slice(&self.inside(u32::from_le_bytes(bytes)).to_le_bytes());
        }
        capabilities
    }
}

/// Sets mode and capabilities of a file again after a change of its owner.
fn restore(place: &OwnedFd, at: &XattrPlace<'_>, kept: &[u8]) -> rustix::io::Result<()> {
    if let Some((mode, capabilities)) = kept.split_first_chunk::<4>() {
        guest_files::set_mode(place, Mode::from_raw_mode(u32::from_le_bytes(*mode)))?;
        if !capabilities.is_empty() {
            at.set(CAPABILITIES, capabilities)?;
        }
    }
    at.remove(PENDING)
}

fn open(directory: &OwnedFd, name: &CStr) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(directory, name, flags, Mode::empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{XattrFlags, getxattr, setxattr};
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    const BASE: u32 = 10 * RANGE_SIZE;

    fn tree() -> tempfile::TempDir {
        let root = tempfile::Builder::new().tempdir_in("/var/tmp").unwrap();
        let at = |name: &str| root.path().join(name);
        std::fs::create_dir(at("below")).unwrap();
        for file in ["below/plain", "setuid", "capable"] {
            std::fs::write(at(file), "text").unwrap();
            std::os::unix::fs::chown(at(file), Some(1000), Some(7)).unwrap();
        }
        std::fs::set_permissions(at("setuid"), PermissionsExt::from_mode(0o6751)).unwrap();
        std::fs::hard_link(at("setuid"), at("below/second")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", at("link")).unwrap();
        let entry = |tag: u16, id: u32| [&tag.to_le_bytes()[..], &[7, 0], &id.to_le_bytes()].concat();
        let list = [vec![2, 0, 0, 0], entry(1, u32::MAX), entry(2, 5), entry(4, u32::MAX)];
        let list = [&list.concat()[..], &entry(16, u32::MAX), &entry(32, u32::MAX)].concat();
        setxattr(at("below/plain"), "system.posix_acl_access", &list, XattrFlags::empty()).unwrap();
        let capability = [vec![0, 0, 0, 2, 0, 4, 0, 0], vec![0; 12]].concat();
        setxattr(at("capable"), "security.capability", &capability, XattrFlags::empty()).unwrap();
        root
    }

    fn value(path: &Path, name: &str) -> Vec<u8> {
        let mut value = [0; 128];
        let length = getxattr(path, name, &mut value[..]).unwrap();
        value[..length].to_vec()
    }

    fn check(root: &Path) {
        let owner = |name: &str| {
            let found = root.join(name).symlink_metadata().unwrap();
            (found.uid(), found.gid())
        };
        for (name, expected) in [
            ("", (0, 0)),
            ("below", (0, 0)),
            ("link", (0, 0)),
            ("below/plain", (1000, 7)),
            ("below/second", (1000, 7)),
        ] {
            assert_eq!(owner(name), (BASE + expected.0, BASE + expected.1), "{name}");
        }
        assert_eq!(root.join("setuid").metadata().unwrap().mode() & 0o7777, 0o6751);
        assert_eq!(value(&root.join("capable"), "security.capability")[..8], [0, 0, 0, 2, 0, 4, 0, 0]);
        let list = value(&root.join("below/plain"), "system.posix_acl_access");
        assert!(list.windows(4).any(|id| id == (BASE + 5).to_le_bytes()), "{list:?}");
        for name in ["setuid", "capable"] {
            let pending = getxattr(root.join(name), "trusted.coracle.owner", &mut [0u8; 64][..]);
            assert_eq!(pending.unwrap_err(), Errno::NODATA);
        }
        let host = std::fs::metadata("/etc/passwd").unwrap();
        assert_eq!(host.uid(), 0, "links are not followed");
    }

    #[test]
    fn owners_lists_modes_and_capabilities_move_to_the_range() {
        let root = tree();
        assert_eq!(change(root.path(), BASE, &mut || Ok(())).unwrap(), 6);
        check(root.path());
        assert_eq!(change(root.path(), BASE, &mut || Ok(())).unwrap(), 0, "nothing is left to do");
        change(root.path(), 20 * RANGE_SIZE, &mut || Ok(())).unwrap();
        change(root.path(), BASE, &mut || Ok(())).unwrap();
        check(root.path());
    }

    #[test]
    fn an_interrupted_change_continues() {
        let root = tree();
        let mut directories = 0;
        let mut interrupt = || {
            directories += 1;
            if directories == 2 { Err(Error::new("interrupted")) } else { Ok(()) }
        };
        change(root.path(), BASE, &mut interrupt).unwrap_err();
        assert_eq!(root.path().metadata().unwrap().uid(), 0, "the root is the last one");
        // Killed between the change of the owner and that of the mode.
        let setuid = root.path().join("setuid");
        let mode = setuid.metadata().unwrap().mode();
        setxattr(&setuid, "trusted.coracle.owner", &mode.to_le_bytes(), XattrFlags::empty()).unwrap();
        std::os::unix::fs::chown(&setuid, Some(BASE + 1000), Some(BASE + 7)).unwrap();
        assert_eq!(setuid.metadata().unwrap().mode() & 0o7000, 0);
        change(root.path(), BASE, &mut || Ok(())).unwrap();
        check(root.path());
    }
}
