//! The packages that a build session has downloaded: at its end they are linked into the caches of the host.
//! Called by `cleanup`, after the processes of the session have ended. It follows no link, takes regular files
//! only, and replaces none: the package managers of later sessions verify them.

use crate::error::{Context, Result};
use crate::machine::build_cache::{PackageManager, is_plain};
use crate::state::build::CacheRecord;
use crate::state::record::Record;
use crate::sys::mount;
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use std::fs::File;
use std::path::Path;

/// The largest number of packages of a session.
const MOST: usize = 20_000;

/// Adds the packages of a session to the caches of the host. Problems are logged.
pub(super) fn merge(record: &Record) {
    for cache in record.build.iter().flat_map(|build| &build.caches) {
        merge_cache(cache)
            .context(|| format!("cannot add packages to the cache '{}'", cache.directory.display()))
            .unwrap_or_else(|error| log::warn!("{error}, ignoring"));
    }
}

fn merge_cache(cache: &CacheRecord) -> Result<()> {
    let Ok(changes) = open_directory(rustix::fs::CWD, &cache.changes) else {
        // A session that did not start.
        return Ok(());
    };
    let mut merge = Merge { manager: cache.manager, left: MOST };
    merge.directory(&changes, &mount::open_directory(&cache.directory)?, cache.manager.depth())
}

struct Merge {
    manager: PackageManager,
    /// The number of packages that may follow.
    left: usize,
}

impl Merge {
    fn directory(&mut self, from: &OwnedFd, to: &OwnedFd, depth: usize) -> Result<()> {
        for entry in Dir::read_from(from).context(|| "cannot read a directory of packages")? {
            let entry = entry.context(|| "cannot read a directory of packages")?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            if self.left == 0 {
                log::warn!("a session has more than {MOST} packages, ignoring the others");
                return Ok(());
            }
            if self.manager.is_package(name) {
                self.left -= 1;
                package(from, to, name).context(|| format!("cannot add '{name}'"))?;
            } else if depth > 0 && is_plain(name) {
                let Ok(below) = open_directory(from.as_fd(), Path::new(name)) else { continue };
                match rustix::fs::mkdirat(to, name, Mode::from_raw_mode(0o755)) {
                    Err(errno) if errno != Errno::EXIST => {
                        return Err(errno).context(|| format!("cannot create '{name}'"));
                    }
                    _ => {}
                }
                let target = open_directory(to.as_fd(), Path::new(name));
                self.directory(&below, &target.context(|| format!("cannot open '{name}'"))?, depth - 1)?;
            }
        }
        Ok(())
    }
}

fn open_directory(above: BorrowedFd<'_>, path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(above, path, flags, Mode::empty())
}

/// Links a package into a cache, as a file of root that all can read. Other files, and one that is there, are left
/// alone.
fn package(from: &OwnedFd, to: &OwnedFd, name: &str) -> rustix::io::Result<()> {
    // Not blocked by a fifo.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(from, name, flags, Mode::empty()) {
        Err(Errno::LOOP | Errno::NXIO | Errno::NODEV | Errno::NOENT) => return Ok(()),
        file => file?,
    };
    let found = rustix::fs::fstat(&file)?;
    if FileType::from_raw_mode(found.st_mode) != FileType::RegularFile || found.st_size == 0 {
        return Ok(());
    }
    rustix::fs::fchown(&file, Some(Uid::ROOT), Some(Gid::ROOT))?;
    rustix::fs::fchmod(&file, Mode::from_raw_mode(0o644))?;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    match rustix::fs::linkat(rustix::fs::CWD, &*path, to, name, AtFlags::SYMLINK_FOLLOW) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(Errno::XDEV) => copy(file, to, name),
        Err(errno) => Err(errno),
    }
}

/// Copies a package to another file system. It has no name before it is complete.
fn copy(file: OwnedFd, to: &OwnedFd, name: &str) -> rustix::io::Result<()> {
    if rustix::fs::statat(to, name, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
        return Ok(());
    }
    let flags = OFlags::WRONLY | OFlags::TMPFILE | OFlags::CLOEXEC;
    let created = File::from(rustix::fs::openat(to, ".", flags, Mode::from_raw_mode(0o644))?);
    let copied = std::io::copy(&mut File::from(file), &mut &created);
    copied.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    let path = format!("/proc/self/fd/{}", created.as_raw_fd());
    match rustix::fs::linkat(rustix::fs::CWD, &*path, to, name, AtFlags::SYMLINK_FOLLOW) {
        Err(Errno::EXIST) => Ok(()),
        linked => linked,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    fn merge(manager: PackageManager, changes: &Path, directory: &Path) {
        let (changes, directory) = (changes.to_owned(), directory.to_owned());
        merge_cache(&CacheRecord { manager, directory, changes }).unwrap();
    }

    #[test]
    fn packages_are_added_and_nothing_else() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let root = tempfile::tempdir().unwrap();
        let [changes, cache] = ["changes", "cache"].map(|name| root.path().join(name));
        for directory in [&changes, &cache] {
            std::fs::create_dir(directory).unwrap();
        }
        for (name, text) in
            [("a.deb", "new"), ("b.deb", "b"), ("empty.deb", ""), ("x y.deb", "x"), ("lock", "x")]
        {
            std::fs::write(changes.join(name), text).unwrap();
        }
        std::fs::set_permissions(changes.join("b.deb"), PermissionsExt::from_mode(0o6755)).unwrap();
        std::fs::write(root.path().join("secret"), "secret").unwrap();
        symlink(root.path().join("secret"), changes.join("link.deb")).unwrap();
        std::fs::create_dir(changes.join("directory.deb")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, changes.join("fifo.deb"), Mode::RUSR).unwrap();
        std::fs::write(cache.join("a.deb"), "old").unwrap();
        merge(PackageManager::Apt, &changes, &cache);
        let mut names: Vec<_> =
            std::fs::read_dir(&cache).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["a.deb", "b.deb"]);
        assert_eq!(std::fs::read(cache.join("a.deb")).unwrap(), b"old");
        let found = cache.join("b.deb").metadata().unwrap();
        assert_eq!((found.mode() & 0o7777, found.uid()), (0o644, 0));
    }

    #[test]
    fn packages_of_repositories_keep_their_directories() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let root = tempfile::tempdir().unwrap();
        let [changes, cache] = ["changes", "cache"].map(|name| root.path().join(name));
        std::fs::create_dir_all(changes.join("fedora-1a/packages/too-deep")).unwrap();
        std::fs::create_dir(&cache).unwrap();
        for name in ["packages/a.rpm", "packages/too-deep/b.rpm", "solv"] {
            std::fs::write(changes.join("fedora-1a").join(name), "x").unwrap();
        }
        merge(PackageManager::Dnf, &changes, &cache);
        assert!(cache.join("fedora-1a/packages/a.rpm").exists());
        assert!(
            !cache.join("fedora-1a/packages/too-deep").exists() && !cache.join("fedora-1a/solv").exists()
        );
        // One of the session itself is a missing directory.
        merge(PackageManager::Dnf, &root.path().join("none"), &cache);
    }

    #[test]
    fn a_package_is_copied_to_another_file_system() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join("a"), "a").unwrap();
        let to = open_directory(rustix::fs::CWD, root.path()).unwrap();
        for _ in 0..2 {
            copy(File::open(root.path().join("a")).unwrap().into(), &to, "b.deb").unwrap();
        }
        assert_eq!(std::fs::read(root.path().join("b.deb")).unwrap(), b"a");
    }
}
