//! Exact copies of trees within the host: owners, modes, times, all extended attributes, hard links, holes,
//! devices, sockets and named pipes. Files share their blocks with the source if the file system can
//! (ioctl_ficlone(2)). Called by `image`. What is mounted in the tree is not copied.

use super::entry::{Monitor, shown};
use super::id_mapping::IdMapping;
use super::tree_writer::TreeWriter;
use super::walk::Walk;
use crate::error::{Context, Result};
use rustix::fd::{BorrowedFd, OwnedFd};
use std::ffi::OsStr;
use std::path::Path;

/// The observer of a copy. It is called with the bytes copied so far; an error interrupts the copy.
pub(crate) type CopyProgress<'a> = dyn FnMut(u64) -> Result<()> + 'a;

/// The method of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CopyMethod {
    /// All files share their blocks with the source.
    Reflink,
    /// The content of at least one file was copied.
    Copy,
}

/// A finished copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Copied {
    /// The method.
    pub(crate) method: CopyMethod,
    /// The copied bytes, or the shared ones if none were copied.
    pub(crate) bytes: u64,
}

/// Copies a directory as `name` into another one. `progress` is called with the bytes copied so far. The copy
/// is not written to the disk yet.
///
/// # Errors
/// A file that cannot be copied. Nothing is left under the name then.
pub(crate) fn copy(
    from: BorrowedFd<'_>,
    to_parent: BorrowedFd<'_>,
    name: &OsStr,
    progress: &mut CopyProgress<'_>,
) -> Result<Copied> {
    let mut writer = TreeWriter::new(duplicate(to_parent)?, name.to_owned(), IdMapping::HOST);
    let mut monitor = Count { bytes: 0, shows_skipped: true, progress };
    Walk::run_exactly(&duplicate(from)?, &mut writer, &mut monitor)?;
    let shared = writer.finish_in_place()?;
    Ok(Copied::of(monitor.bytes, shared))
}

/// Copies a directory into an existing, empty one, as [`copy`].
///
/// # Errors
/// A file that cannot be copied.
pub(crate) fn copy_into(
    from: BorrowedFd<'_>,
    to: OwnedFd,
    progress: &mut CopyProgress<'_>,
) -> Result<Copied> {
    let mut writer = TreeWriter::into_existing(to);
    let mut monitor = Count { bytes: 0, shows_skipped: true, progress };
    Walk::run_exactly(&duplicate(from)?, &mut writer, &mut monitor)?;
    let shared = writer.finish_in_place()?;
    Ok(Copied::of(monitor.bytes, shared))
}

impl Copied {
    /// Returns the result for copied and shared bytes.
    pub(super) fn of(copied: u64, shared: u64) -> Self {
        match copied {
            0 => Self { method: CopyMethod::Reflink, bytes: shared },
            bytes => Self { method: CopyMethod::Copy, bytes },
        }
    }
}

pub(super) fn duplicate(fd: BorrowedFd<'_>) -> Result<OwnedFd> {
    rustix::io::fcntl_dupfd_cloexec(fd, 3).context(|| "cannot duplicate a descriptor")
}

/// Counts the copied bytes.
pub(super) struct Count<'a> {
    /// The number of bytes.
    pub(super) bytes: u64,
    /// Whether skipped entries are shown: files of a tree that changes come and go.
    pub(super) shows_skipped: bool,
    /// The observer of the number.
    pub(super) progress: &'a mut CopyProgress<'a>,
}

impl Monitor for Count<'_> {
    fn count_entry(&mut self) -> Result<()> {
        (self.progress)(self.bytes)
    }

    fn advance(&mut self, bytes: u64) -> Result<()> {
        self.bytes += bytes;
        (self.progress)(self.bytes)
    }

    fn skip(&mut self, path: &Path, reason: &str) {
        if self.shows_skipped {
            log::warn!("skipping {}: {reason}", shown(path, "the source"));
        }
    }

    fn interrupts(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::tree::walk;
    use rustix::fd::AsFd;
    use rustix::fs::{AtFlags, FileType, Mode, OFlags, XattrFlags};
    use std::collections::BTreeMap;
    use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
    use std::path::PathBuf;

    /// All that a copy keeps of an entry: type and mode, owner, group, device, time, length, link target,
    /// content and attributes.
    pub(in crate::tree) type Entry =
        (u32, u32, u32, u64, (i64, i64), u64, PathBuf, Vec<u8>, Vec<(Vec<u8>, Vec<u8>)>);

    fn entries(top: &Path, at: &Path, found: &mut BTreeMap<PathBuf, Entry>) {
        use crate::tree::xattr::{Attributes, XattrPlace};
        let data = at.symlink_metadata().unwrap();
        let place = rustix::fs::open(at, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty()).unwrap();
        let attributes = Attributes { place: XattrPlace::by_reference(&place), ids: IdMapping::HOST };
        let (kind, length) = (data.file_type(), if data.is_file() { data.len() } else { 0 });
        let target = if kind.is_symlink() { at.read_link().unwrap() } else { PathBuf::new() };
        let content = if kind.is_file() { std::fs::read(at).unwrap() } else { Vec::new() };
        let (time, attributes) = ((data.mtime(), data.mtime_nsec()), attributes.read(true).unwrap());
        let entry =
            (data.mode(), data.uid(), data.gid(), data.rdev(), time, length, target, content, attributes);
        found.insert(at.strip_prefix(top).unwrap().to_owned(), entry);
        if kind.is_dir() {
            for below in at.read_dir().unwrap() {
                entries(top, &below.unwrap().path(), found);
            }
        }
    }

    pub(in crate::tree) fn entries_of(top: &Path) -> BTreeMap<PathBuf, Entry> {
        let mut found = BTreeMap::new();
        entries(top, top, &mut found);
        found
    }

    pub(in crate::tree) fn open(path: &Path) -> OwnedFd {
        rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap()
    }

    /// Creates what only root can: owners, devices, and attributes of the kernel.
    fn create_as_root(top: &Path) {
        let directory = open(top);
        let make = |name: &str, kind, device| {
            rustix::fs::mknodat(&directory, name, kind, Mode::from_raw_mode(0o640), device).unwrap();
            std::os::unix::fs::lchown(top.join(name), Some(1000), Some(70_000)).unwrap();
        };
        make("whiteout", FileType::CharacterDevice, 0);
        make("null", FileType::CharacterDevice, rustix::fs::makedev(1, 3));
        make("disk", FileType::BlockDevice, rustix::fs::makedev(8, 1));
        make("socket", FileType::Socket, 0);
        // `cap_net_raw+ep` (`linux/capability.h`, VFS_CAP_REVISION_2).
        let capability: Vec<u8> =
            [0x0200_0001u32, 1 << 13, 0, 0, 0].iter().flat_map(|word| word.to_le_bytes()).collect();
        let set = |name: &str, attribute: &str, value: &[u8]| {
            rustix::fs::lsetxattr(top.join(name), attribute, value, XattrFlags::empty()).unwrap();
        };
        std::os::unix::fs::lchown(top.join("link"), Some(5), Some(6)).unwrap();
        std::os::unix::fs::chown(top.join("program"), Some(12), Some(13)).unwrap();
        std::fs::set_permissions(top.join("program"), std::fs::Permissions::from_mode(0o6755)).unwrap();
        set("program", "security.capability", &capability);
        set("below", "trusted.overlay.opaque", b"y");
        for name in ["link", "whiteout", "socket"] {
            set(name, "trusted.overlay.origin", b"0123");
        }
    }

    pub(in crate::tree) fn create(top: &Path) {
        std::fs::create_dir_all(top.join("below/deeper")).unwrap();
        std::fs::write(top.join("program"), "program").unwrap();
        std::fs::hard_link(top.join("program"), top.join("below/second")).unwrap();
        symlink("/etc/passwd", top.join("link")).unwrap();
        symlink("missing", top.join("below/dangling")).unwrap();
        nix::unistd::mkfifo(&top.join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let sparse = std::fs::File::create(top.join("sparse")).unwrap();
        sparse.write_all_at(b"data", 64 << 20).unwrap();
        sparse.set_len(128 << 20).unwrap();
        let set = |name: &str, attribute: &str, value: &[u8]| {
            rustix::fs::lsetxattr(top.join(name), attribute, value, XattrFlags::empty()).unwrap();
        };
        set("program", "user.long", &[7; 3000]);
        set("below/deeper", "user.empty", b"");
        // A version, then user, named user 1000, group, mask, others.
        let acl = [[2, 0, 0, 0].to_vec(), list(1, 7, u32::MAX), list(2, 6, 1000), list(4, 5, u32::MAX)];
        let acl = [acl.concat(), list(0x10, 7, u32::MAX), list(0x20, 0, u32::MAX)].concat();
        set("sparse", "system.posix_acl_access", &acl);
        set("below", "system.posix_acl_default", &acl);
        if rustix::process::geteuid().is_root() {
            create_as_root(top);
        }
        // Only the owner may enter it; its time is set last.
        std::fs::set_permissions(top.join("below/deeper"), std::fs::Permissions::from_mode(0o1500)).unwrap();
        for name in ["link", "program", "pipe", "below/deeper", "below", "."] {
            let time = rustix::fs::Timespec { tv_sec: 1_000_000_000, tv_nsec: 123_456_789 };
            let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
            let place = open(top);
            rustix::fs::utimensat(&place, name, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
        }
    }

    fn list(tag: u16, permissions: u16, id: u32) -> Vec<u8> {
        [&tag.to_le_bytes()[..], &permissions.to_le_bytes(), &id.to_le_bytes()].concat()
    }

    #[test]
    fn a_copy_equals_its_source() {
        let root = tempfile::Builder::new().tempdir_in("/var/tmp").unwrap();
        let (from, to) = (root.path().join("from"), root.path().join("to"));
        create(&from);
        let mut last = 0;
        let copied = copy(open(&from).as_fd(), open(root.path()).as_fd(), OsStr::new("to"), &mut |bytes| {
            last = bytes;
            Ok(())
        })
        .unwrap();
        assert_eq!(entries_of(&to), entries_of(&from));
        let inode = |name: &str| to.join(name).metadata().unwrap().ino();
        assert_eq!(inode("program"), inode("below/second"));
        assert!(to.join("sparse").metadata().unwrap().blocks() < 1000, "holes stay holes");
        if copied.method == CopyMethod::Copy {
            assert!(copied.bytes == last && copied.bytes < 1 << 20, "{copied:?}");
        }
    }

    #[test]
    fn paths_may_be_longer_than_those_of_system_calls() {
        let root = tempfile::Builder::new().tempdir_in("/var/tmp").unwrap();
        let (from, to) = (open(root.path()), OsStr::new("to"));
        let name = "n".repeat(250);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        rustix::fs::mkdirat(&from, "from", Mode::RWXU).unwrap();
        let top = rustix::fs::openat(&from, "from", flags, Mode::empty()).unwrap();
        let mut at = rustix::io::fcntl_dupfd_cloexec(&top, 3).unwrap();
        for _ in 0..40 {
            rustix::fs::mkdirat(&at, &name, Mode::RWXU).unwrap();
            at = rustix::fs::openat(&at, &name, flags, Mode::empty()).unwrap();
        }
        let file = rustix::fs::openat(&at, "file", OFlags::WRONLY | OFlags::CREATE, Mode::RUSR).unwrap();
        rustix::io::write(&file, b"text").unwrap();
        rustix::fs::linkat(&at, "file", &at, "second", AtFlags::empty()).unwrap();
        let copied = copy(top.as_fd(), from.as_fd(), to, &mut |_| Ok(())).unwrap();
        assert_eq!(copied.bytes, 4);
        let mut at = rustix::fs::openat(&from, to, flags, Mode::empty()).unwrap();
        for _ in 0..40 {
            at = rustix::fs::openat(&at, &name, flags, Mode::empty()).unwrap();
        }
        let found = rustix::fs::statat(&at, "file", AtFlags::empty()).unwrap();
        assert_eq!((found.st_size, found.st_nlink), (4, 2));
        // Parts left by a killed removal are found by the name of the tree, and nothing else.
        for name in ["from.#part-7", "from.1"] {
            rustix::fs::mkdirat(&from, name, Mode::RWXU).unwrap();
        }
        assert!(walk::has_parts(from.as_fd(), "from".as_ref()).unwrap());
        walk::remove_deep(from.as_fd(), "from".as_ref()).unwrap();
        assert!(!walk::has_parts(from.as_fd(), "from".as_ref()).unwrap());
        rustix::fs::unlinkat(&from, "from.1", AtFlags::REMOVEDIR).unwrap();
        walk::remove_deep(from.as_fd(), to).unwrap();
    }

    #[test]
    fn an_interrupted_copy_is_removed() {
        let root = tempfile::Builder::new().tempdir_in("/var/tmp").unwrap();
        let from = root.path().join("from");
        create(&from);
        let mut calls = 0;
        let mut interrupt = |_| {
            calls += 1;
            if calls < 3 { Ok(()) } else { Err(crate::error::Error::new("interrupted")) }
        };
        let (source, parent) = (open(&from), open(root.path()));
        let error = copy(source.as_fd(), parent.as_fd(), OsStr::new("to"), &mut interrupt).unwrap_err();
        assert!(error.to_string().ends_with("interrupted"), "{error}");
        assert_eq!(root.path().read_dir().unwrap().count(), 1);
    }

    #[test]
    fn an_existing_file_stays() {
        let root = tempfile::Builder::new().tempdir_in("/var/tmp").unwrap();
        let from = root.path().join("from");
        std::fs::create_dir_all(from.join("below")).unwrap();
        let (source, parent) = (open(&from), open(root.path()));
        let error = copy(source.as_fd(), parent.as_fd(), OsStr::new("from"), &mut |_| Ok(())).unwrap_err();
        assert!(error.to_string().contains("'from' already exists"), "{error}");
        assert!(from.join("below").exists());
    }
}
