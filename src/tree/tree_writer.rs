//! A directory as sink. All files are created below a temporary name beside the destination, relative to
//! descriptors. No symbolic link is followed, not even one created in the meantime. The complete copy is
//! renamed to the destination.

use super::entry::{Content, EntryKind, Meta, Monitor, Sink, quoted, shown};
use super::id_mapping::IdMapping;
use super::long_path::{LONGEST, open_below, parts};
use super::walk;
use super::xattr::XattrPlace;
use crate::error::{Context, Error, Result};
use crate::sys::guest_files;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The maximum size of a part of a file, bytes.
const PART: usize = 256 << 10;

/// A sink that writes a tree below a directory.
pub(crate) struct TreeWriter {
    directory: OwnedFd,
    temporary: OsString,
    ids: IdMapping,
    /// Whether owners are set.
    has_owners: bool,
    /// Directories. Their metadata is set at the end: a read-only mode would prevent their entries.
    directories: BTreeMap<PathBuf, Meta>,
    /// Whether the root exists already.
    is_existing: bool,
    /// The bytes of files that share all of their blocks with the source.
    shared: u64,
    done: bool,
}

impl TreeWriter {
    /// Creates a sink in a directory; `temporary` is a unique name.
    pub(crate) fn new(directory: OwnedFd, temporary: OsString, ids: IdMapping) -> Self {
        let directories = BTreeMap::new();
        let (is_existing, shared, done) = (false, 0, false);
        Self { directory, temporary, ids, has_owners: true, directories, is_existing, shared, done }
    }

    /// Leaves all files to the user of this process, who may have no right to give them away.
    pub(crate) fn without_owners(mut self) -> Self {
        self.has_owners = false;
        self
    }

    /// Creates a sink for an existing, empty directory, which is the root of the copy, and to which no other process
    /// writes. It stays, also unfinished.
    pub(crate) fn into_existing(directory: OwnedFd) -> Self {
        let (temporary, directories) = (".".into(), BTreeMap::new());
        Self {
            directory,
            temporary,
            ids: IdMapping::HOST,
            has_owners: true,
            directories,
            is_existing: true,
            shared: 0,
            done: true,
        }
    }

    /// Renames the copy to its name; `force` replaces an existing file.
    ///
    /// # Errors
    /// An existing file with this name.
    pub(crate) fn finish(mut self, name: &OsStr, force: Replace) -> Result<()> {
        self.finish_directories()?;
        self.publish(self.directory.as_fd(), self.directory.as_fd(), &self.temporary, name, force)?;
        self.done = true;
        Ok(())
    }

    /// Completes the copy under its temporary name. Returns the bytes of files that share all of their blocks
    /// with the source.
    ///
    /// # Errors
    /// A directory whose metadata cannot be set.
    pub(crate) fn finish_in_place(mut self) -> Result<u64> {
        self.finish_directories()?;
        self.done = true;
        Ok(self.shared)
    }

    /// Begins a second pass over the source: the metadata of all directories is passed again.
    pub(super) fn begin_again(&mut self) {
        self.directories.clear();
    }

    /// Updates the metadata of a directory of the copy.
    pub(super) fn update_directory(&mut self, path: &Path, meta: &Meta) {
        self.directories.insert(path.to_owned(), meta.clone());
    }

    /// Removes an entry of the copy. A missing one is not an error.
    ///
    /// # Errors
    /// A file that cannot be removed.
    pub(super) fn remove_entry(&self, path: &Path) -> Result<()> {
        // A parent that is missing, or is not a directory any more, has no entries.
        let Ok((parent, name)) = self.parent(path) else { return Ok(()) };
        walk::remove(parent.as_fd(), &name).map_err(|error| error.context("cannot replace a changed file"))
    }

    /// Moves the entries of the copy into the directory itself.
    ///
    /// # Errors
    /// An existing file with one of the names. No entry is moved then.
    pub(crate) fn finish_into(mut self, force: Replace) -> Result<()> {
        self.finish_directories()?;
        let Ok(below) = self.open(Path::new(""), OFlags::RDONLY | OFlags::DIRECTORY) else { return Ok(()) };
        let names = entries(&below)?;
        if force == Replace::No
            && let Some(name) = names.iter().find(|name| exists(self.directory.as_fd(), name))
        {
            return Err(exists_error(name));
        }
        for name in &names {
            self.publish(below.as_fd(), self.directory.as_fd(), name, name, force)?;
        }
        Ok(())
    }

    fn publish(
        &self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        old: &OsStr,
        new: &OsStr,
        force: Replace,
    ) -> Result<()> {
        use rustix::fs::RenameFlags;
        let naming = || format!("cannot rename the copy to {}", quoted(new.as_bytes()));
        match rustix::fs::renameat_with(from, old, to, new, RenameFlags::NOREPLACE) {
            Err(rustix::io::Errno::EXIST) if force == Replace::No => Err(exists_error(new)),
            Err(rustix::io::Errno::EXIST)
                if force == Replace::Merged && is_directory(from, old) && is_directory(to, new) =>
            {
                self.merge(from, to, old, new)
            }
            Err(rustix::io::Errno::EXIST) => {
                // Exchanges old and new atomically, then removes the old file.
                rustix::fs::renameat_with(from, old, to, new, RenameFlags::EXCHANGE).context(naming)?;
                if let Err(error) = walk::remove(from, old) {
                    log::warn!("cannot remove the former {}: {error}, ignoring", quoted(new.as_bytes()));
                }
                Ok(())
            }
            renamed => renamed.context(naming),
        }
    }

    /// Moves the entries of a directory of the copy into an existing one.
    fn merge(&self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, old: &OsStr, new: &OsStr) -> Result<()> {
        let opening = || format!("cannot open {}", quoted(new.as_bytes()));
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let below = rustix::fs::openat(from, old, flags, Mode::empty()).context(opening)?;
        let target = rustix::fs::openat(to, new, flags, Mode::empty()).context(opening)?;
        for name in entries(&below)? {
            self.publish(below.as_fd(), target.as_fd(), &name, &name, Replace::Merged)?;
        }
        walk::remove(from, old)
    }

    fn finish_directories(&mut self) -> Result<()> {
        for (path, meta) in std::mem::take(&mut self.directories).iter().rev() {
            let directory = self.open(path, OFlags::RDONLY | OFlags::DIRECTORY)?;
            self.finish_one(directory.as_fd(), path, meta)?;
        }
        Ok(())
    }

    /// Sets owner, attributes, mode and times, in this order: a change of the owner clears mode bits, and
    /// every change updates the times.
    fn finish_one(&self, open: BorrowedFd<'_>, path: &Path, meta: &Meta) -> Result<()> {
        let (uid, gid) = self.owner(meta);
        rustix::fs::fchown(open, uid, gid)
            .context(|| format!("cannot set the owner of {}", shown(path, "the destination")))?;
        self.set_attributes(&XattrPlace::Open(open), path, meta)?;
        rustix::fs::fchmod(open, Mode::from_raw_mode(meta.mode))
            .context(|| format!("cannot set the mode of {}", shown(path, "the destination")))?;
        rustix::fs::futimens(open, &times(meta))
            .context(|| format!("cannot set the times of {}", shown(path, "the destination")))
    }

    fn set_attributes(&self, place: &XattrPlace<'_>, path: &Path, meta: &Meta) -> Result<()> {
        for (name, value) in &meta.attributes {
            let mapped;
            let value = if name.starts_with(b"system.posix_acl_") {
                mapped = IdMapping::in_list(value, |id| self.ids.outside(id));
                &mapped
            } else {
                value
            };
            let set = place.set(name, value);
            if !set.context(|| format!("cannot set an attribute of {}", shown(path, "the destination")))? {
                log::debug!("the file system has no extended attributes, ignoring");
            }
        }
        Ok(())
    }

    /// Returns the owner to set. `None` for that which the file has.
    fn owner(&self, meta: &Meta) -> (Option<Uid>, Option<Gid>) {
        if !self.has_owners {
            return (None, None);
        }
        (Some(Uid::from_raw(self.ids.outside(meta.uid))), Some(Gid::from_raw(self.ids.outside(meta.gid))))
    }

    /// Returns a path relative to the directory for a path of the copy.
    fn below(&self, path: &Path) -> PathBuf {
        let mut below = PathBuf::from(&self.temporary);
        below.extend(path);
        below
    }

    /// Opens a created entry, without following links.
    fn open(&self, path: &Path, flags: OFlags) -> Result<OwnedFd> {
        let opening = || format!("cannot open {}", shown(path, "the destination"));
        let below = self.below(path);
        if below.as_os_str().len() < LONGEST {
            return open_below(self.directory.as_fd(), &below, flags).context(opening);
        }
        let mut parts = parts(&below);
        let last = parts.pop().unwrap_or_default();
        let mut above = None::<OwnedFd>;
        for part in parts {
            let from = above.as_ref().map_or(self.directory.as_fd(), AsFd::as_fd);
            above = Some(open_below(from, &part, OFlags::PATH | OFlags::DIRECTORY).context(opening)?);
        }
        let from = above.as_ref().map_or(self.directory.as_fd(), AsFd::as_fd);
        open_below(from, &last, flags).context(opening)
    }

    /// Returns the parent directory of a new entry, and its name.
    fn parent(&self, path: &Path) -> Result<(OwnedFd, OsString)> {
        match path.file_name() {
            None => {
                let directory = rustix::io::fcntl_dupfd_cloexec(&self.directory, 3)
                    .context(|| "cannot duplicate a descriptor")?;
                Ok((directory, self.temporary.clone()))
            }
            Some(name) => {
                let parent = path.parent().unwrap_or(Path::new(""));
                Ok((self.open(parent, OFlags::PATH | OFlags::DIRECTORY)?, name.to_owned()))
            }
        }
    }

    fn file(
        &mut self,
        path: &Path,
        meta: &Meta,
        content: &mut dyn Content,
        monitor: &mut dyn Monitor,
    ) -> Result<()> {
        let (parent, name) = self.parent(path)?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&parent, &name, flags, Mode::from_raw_mode(0o600))
            .context(|| format!("cannot create {}", shown(path, "the destination")))?;
        let file = File::from(file);
        let copying = || format!("cannot copy {}", shown(path, "the destination"));
        if content.file().is_some_and(|source| rustix::fs::ioctl_ficlone(&file, source).is_ok()) {
            self.shared += file.metadata().map(|data| data.len()).unwrap_or_default();
            return self.finish_one(file.as_fd(), path, meta);
        }
        let mut part = Vec::with_capacity(PART);
        while let Some(at) = content.next(&mut part, PART, monitor)? {
            file.write_all_at(&part, at).context(copying)?;
            monitor.advance(part.len() as u64)?;
        }
        // Unwritten ranges are holes, also at the end.
        file.set_len(content.length()).context(copying)?;
        self.finish_one(file.as_fd(), path, meta)
    }

    fn link(&self, path: &Path, meta: &Meta, target: &Path) -> Result<()> {
        let making = || format!("cannot create the link {}", shown(path, "the destination"));
        let (parent, name) = self.parent(path)?;
        rustix::fs::symlinkat(target, &parent, &name).context(making)?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = rustix::fs::openat(&parent, &name, flags, Mode::empty()).context(making)?;
        self.set_owner(&made, FileType::Symlink, meta).map_err(|error| error.context(making()))?;
        self.set_attributes(&XattrPlace::by_reference(&made), path, meta)?;
        rustix::fs::utimensat(&parent, &name, &times(meta), AtFlags::SYMLINK_NOFOLLOW).context(making)
    }

    fn fifo(&self, path: &Path, meta: &Meta) -> Result<()> {
        self.node(path, meta, FileType::Fifo, 0)
    }

    fn node(&self, path: &Path, meta: &Meta, kind: FileType, device: u64) -> Result<()> {
        let making = || {
            let kind = match kind {
                FileType::Fifo => "named pipe",
                FileType::Socket => "socket",
                _ => "device",
            };
            format!("cannot create the {kind} {}", shown(path, "the destination"))
        };
        let (parent, name) = self.parent(path)?;
        rustix::fs::mknodat(&parent, &name, kind, Mode::from_raw_mode(meta.mode), device).context(making)?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = rustix::fs::openat(&parent, &name, flags, Mode::empty()).context(making)?;
        self.set_owner(&made, kind, meta).map_err(|error| error.context(making()))?;
        self.set_attributes(&XattrPlace::by_reference(&made), path, meta)?;
        if self.is_existing {
            // The tree is the writer's own: it has no procfs.
            rustix::fs::chmodat(&parent, &name, Mode::from_raw_mode(meta.mode), AtFlags::empty())
                .context(making)?;
            return rustix::fs::utimensat(&parent, &name, &times(meta), AtFlags::SYMLINK_NOFOLLOW)
                .context(making);
        }
        // By descriptor: the name may refer to another file now. The umask has cleared mode bits.
        guest_files::set_mode(&made, Mode::from_raw_mode(meta.mode)).context(making)?;
        guest_files::set_times(&made, &times(meta)).context(making)
    }

    /// Sets the owner of a file created by name, after a check that it has not been replaced.
    fn set_owner(&self, made: &OwnedFd, kind: FileType, meta: &Meta) -> Result<()> {
        let stat = rustix::fs::fstat(made).context(|| "cannot inspect it")?;
        if FileType::from_raw_mode(stat.st_mode) != kind || stat.st_nlink != 1 {
            return Err(Error::new("it was replaced by another file"));
        }
        let (uid, gid) = self.owner(meta);
        rustix::fs::chownat(made, c"", uid, gid, AtFlags::EMPTY_PATH).context(|| "cannot set its owner")
    }

    fn hard(&self, path: &Path, first: &Path) -> Result<()> {
        let linking = || {
            format!("cannot link {} to {}", shown(path, "the destination"), shown(first, "the destination"))
        };
        let ((from, old), (to, new)) = (self.parent(first)?, self.parent(path)?);
        // Symbolic links are linked themselves; directories are never linked.
        rustix::fs::linkat(&from, &old, &to, &new, AtFlags::empty()).context(linking)
    }
}

impl Sink for TreeWriter {
    fn update(&mut self, path: &Path, meta: &Meta) -> Result<()> {
        self.update_directory(path, meta);
        Ok(())
    }

    fn remove(&mut self, path: &Path) -> Result<()> {
        self.directories.remove(path);
        self.remove_entry(path)
    }

    fn mark(&mut self, path: &Path, (name, value): (&str, &[u8])) -> Result<()> {
        let directory = self.open(path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        rustix::fs::fsetxattr(&directory, name, value, XattrFlags::empty())
            .context(|| format!("cannot mark {} for overlays", shown(path, "the root")))
    }

    fn take(
        &mut self,
        path: &Path,
        meta: &Meta,
        kind: EntryKind<'_>,
        monitor: &mut dyn Monitor,
    ) -> Result<()> {
        if path.as_os_str().is_empty() && self.is_existing {
            self.directories.insert(path.to_owned(), meta.clone());
            return Ok(());
        }
        if path.as_os_str().is_empty() && exists(self.directory.as_fd(), &self.temporary) {
            // It is not an unfinished copy of this sink, which would be removed.
            self.done = true;
            return Err(Error::new(format!("'{}' already exists", self.temporary.display())));
        }
        match kind {
            EntryKind::Directory => {
                let (parent, name) = self.parent(path)?;
                rustix::fs::mkdirat(&parent, &name, Mode::from_raw_mode(0o700))
                    .context(|| format!("cannot create directory {}", shown(path, "the destination")))?;
                self.directories.insert(path.to_owned(), meta.clone());
                Ok(())
            }
            EntryKind::File(content) => self.file(path, meta, content, monitor),
            EntryKind::Link(target) => self.link(path, meta, &target),
            EntryKind::Hard(first) => self.hard(path, &first),
            EntryKind::Fifo => self.fifo(path, meta),
            EntryKind::Node(kind, device) => self.node(path, meta, kind, device),
        }
    }
}

impl Drop for TreeWriter {
    /// Removes an unfinished copy.
    fn drop(&mut self) {
        if !self.done
            && let Err(error) = walk::remove(self.directory.as_fd(), &self.temporary)
        {
            log::warn!("cannot remove {error}, ignoring");
        }
    }
}

/// Whether an existing file is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Replace {
    /// An existing file is an error.
    No,
    /// An existing file is replaced as a whole.
    Yes,
    /// An existing file is replaced, and the entries of a directory are added to an existing one.
    Merged,
}

fn is_directory(directory: BorrowedFd<'_>, name: &OsStr) -> bool {
    let found = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW);
    found.is_ok_and(|found| FileType::from_raw_mode(found.st_mode) == FileType::Directory)
}

/// Returns the names in a directory of the copy.
fn entries(directory: &OwnedFd) -> Result<Vec<OsString>> {
    let reading = || "cannot read the copied directory";
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(directory).context(reading)? {
        let name = entry.context(reading)?.file_name().to_bytes().to_vec();
        if !matches!(name.as_slice(), b"." | b"..") {
            names.push(OsString::from_vec(name));
        }
    }
    Ok(names)
}

fn exists_error(name: &OsStr) -> Error {
    Error::new(format!("{} already exists at the destination", quoted(name.as_bytes())))
        .with_hint("choose another destination, or replace it with --force")
}

fn exists(directory: BorrowedFd<'_>, name: &OsStr) -> bool {
    rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).is_ok()
}

fn times(meta: &Meta) -> Timestamps {
    let (tv_sec, tv_nsec) = meta.modified;
    let last_modification = Timespec { tv_sec, tv_nsec };
    Timestamps { last_access: last_modification, last_modification }
}
