//! A tree as source. Each entry is opened by its name in an open directory, links are never followed, and the
//! file type is checked before the file is opened for reading. Concurrent changes of the tree cannot lead the
//! walk elsewhere.

use super::entry::{Content, EntryKind, Meta, Monitor, Sink, TreeSide, quoted, read_part, shown};
use super::id_mapping::IdMapping;
use super::xattr::{Attributes, XattrPlace};
use crate::error::{Context, Error, Result};
use crate::sys::{btrfs, guest_files};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, SeekFrom, Stat, StatxFlags};
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// The maximum depth of a tree: each level needs a descriptor.
const DEEPEST: usize = 512;

/// The words between the name of a tree and the number of a part of it.
const PART: &str = ".#part-";

/// A walk over one tree.
pub(crate) struct Walk<'a, S: Sink> {
    sink: &'a mut S,
    monitor: &'a mut dyn Monitor,
    ids: IdMapping,
    side: TreeSide,
    /// Whether everything is copied: devices, sockets, and all extended attributes.
    is_exact: bool,
    device: u64,
    mount: u64,
    names: HashMap<(u64, u64), PathBuf>,
}

impl<'a, S: Sink> Walk<'a, S> {
    /// Copies a file by its descriptor (`O_PATH`), and all its entries on the same file system.
    ///
    /// # Errors
    /// A file that cannot be read, or any error of the sink.
    pub(crate) fn run(
        place: &OwnedFd,
        side: TreeSide,
        ids: IdMapping,
        sink: &'a mut S,
        monitor: &'a mut dyn Monitor,
    ) -> Result<()> {
        Self::walk(place, side, ids, false, sink, monitor)
    }

    /// Copies a file of the host as [`Self::run`], with devices, sockets and all extended attributes.
    ///
    /// # Errors
    /// A file that cannot be read, or any error of the sink.
    pub(crate) fn run_exactly(place: &OwnedFd, sink: &'a mut S, monitor: &'a mut dyn Monitor) -> Result<()> {
        Self::run_exactly_as(place, IdMapping::HOST, sink, monitor)
    }

    /// Copies a file as [`Self::run_exactly`], with ids of a guest.
    ///
    /// # Errors
    /// A file that cannot be read, or any error of the sink.
    pub(crate) fn run_exactly_as(
        place: &OwnedFd,
        ids: IdMapping,
        sink: &'a mut S,
        monitor: &'a mut dyn Monitor,
    ) -> Result<()> {
        Self::walk(place, TreeSide::Host, ids, true, sink, monitor)
    }

    fn walk(
        place: &OwnedFd,
        side: TreeSide,
        ids: IdMapping,
        is_exact: bool,
        sink: &'a mut S,
        monitor: &'a mut dyn Monitor,
    ) -> Result<()> {
        let inspecting = || "cannot inspect the source";
        let device = rustix::fs::fstat(place).context(inspecting)?.st_dev;
        let mount = mount_of(place.as_fd()).context(inspecting)?;
        let mut walk = Self { sink, monitor, ids, side, is_exact, device, mount, names: HashMap::new() };
        walk.entry(place, Path::new(""), 0)
    }

    fn entry(&mut self, place: &OwnedFd, path: &Path, depth: usize) -> Result<()> {
        let inspecting = || format!("cannot inspect {}", shown(path, "the source"));
        let stat = rustix::fs::fstat(place).context(inspecting)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        // Files of one overlayfs have the devices of its layers, and a subvolume of Btrfs has its own device.
        if stat.st_dev != self.device && mount_of(place.as_fd()).context(inspecting)? != self.mount {
            self.monitor.skip(path, "it is on another file system");
            return Ok(());
        }
        self.monitor.count_entry()?;
        if self.sink.has(path, &stat) && kind != FileType::Directory {
            self.names.insert((stat.st_dev, stat.st_ino), path.to_owned());
            return Ok(());
        }
        if kind != FileType::Directory && stat.st_nlink > 1 {
            if let Some(first) = self.names.get(&(stat.st_dev, stat.st_ino)).cloned() {
                let meta = self.meta(&stat, Vec::new());
                return self.sink.take(path, &meta, EntryKind::Hard(first), self.monitor);
            }
            self.names.insert((stat.st_dev, stat.st_ino), path.to_owned());
        }
        match kind {
            FileType::Directory => self.directory(place, path, &stat, depth),
            FileType::RegularFile => {
                let file = guest_files::reopen_file(place, OFlags::RDONLY);
                let file = File::from(file.context(|| format!("cannot open {}", shown(path, "the source")))?);
                let meta = self.meta_of_open(&stat, file.as_fd(), path)?;
                self.sink.take(path, &meta, EntryKind::File(&mut Extents::of(&file)), self.monitor)
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(place, c"", Vec::new())
                    .context(|| format!("cannot read the link {}", shown(path, "the source")))?;
                let meta = self.meta_of_place(&stat, place, path)?;
                let target = PathBuf::from(OsString::from_vec(target.into_bytes()));
                self.sink.take(path, &meta, EntryKind::Link(target), self.monitor)
            }
            FileType::Fifo => {
                let meta = self.meta_of_place(&stat, place, path)?;
                self.sink.take(path, &meta, EntryKind::Fifo, self.monitor)
            }
            kind if self.is_exact => {
                let meta = self.meta_of_place(&stat, place, path)?;
                self.sink.take(path, &meta, EntryKind::Node(kind, stat.st_rdev), self.monitor)
            }
            _ if depth == 0 => Err(Error::new("devices and sockets are not copied")),
            FileType::Socket => {
                self.monitor.skip(path, "it is a socket");
                Ok(())
            }
            _ => {
                self.monitor.skip(path, "it is a device");
                Ok(())
            }
        }
    }

    fn directory(&mut self, place: &OwnedFd, path: &Path, stat: &Stat, depth: usize) -> Result<()> {
        let reading = || format!("cannot read directory {}", shown(path, "the source"));
        if depth >= DEEPEST {
            return Err(
                Error::new(format!("the tree is more than {DEEPEST} directories deep")).context(reading())
            );
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(place, ".", flags, Mode::empty())
            .context(|| format!("cannot open {}", shown(path, "the source")))?;
        let meta = self.meta_of_open(stat, directory.as_fd(), path)?;
        self.sink.take(path, &meta, EntryKind::Directory, self.monitor)?;
        // All names first: a directory that grows while it is read would never end.
        let mut names = Vec::new();
        for entry in Dir::read_from(&directory).context(reading)? {
            let name = entry.context(reading)?.file_name().to_bytes().to_vec();
            if !matches!(name.as_slice(), b"." | b"..") {
                names.push(name);
            }
        }
        names.sort();
        for name in names {
            let name = OsStr::from_bytes(&name);
            let child = path.join(name);
            if self.sink.is_hidden(&child) {
                continue;
            }
            match self.open_entry(&directory, name) {
                Ok(place) => self.entry(&place, &child, depth + 1)?,
                Err(rustix::io::Errno::XDEV) => self.mount_point(&directory, name, &child)?,
                Err(rustix::io::Errno::NOENT) => self.monitor.skip(&child, "it was deleted in the meantime"),
                Err(errno) => {
                    return Err(errno).context(|| format!("cannot open {}", shown(&child, "the source")));
                }
            }
        }
        Ok(())
    }

    /// Opens an entry for reference. `EXDEV` for a mount point in an exact copy.
    fn open_entry(&self, directory: &OwnedFd, name: &OsStr) -> rustix::io::Result<OwnedFd> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        if !self.is_exact {
            return rustix::fs::openat(directory, name, flags, Mode::empty());
        }
        rustix::fs::openat2(directory, name, flags, Mode::empty(), ResolveFlags::NO_XDEV)
    }

    /// Copies a mount point as an empty directory, without what is mounted there.
    fn mount_point(&mut self, directory: &OwnedFd, name: &OsStr, path: &Path) -> Result<()> {
        let inspecting = || format!("cannot inspect {}", shown(path, "the source"));
        let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).context(inspecting)?;
        self.monitor.skip(path, "another file system is mounted there");
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            return Ok(());
        }
        let meta = self.meta(&stat, Vec::new());
        self.sink.take(path, &meta, EntryKind::Directory, self.monitor)
    }

    /// Returns the metadata of an open file or directory.
    fn meta_of_open(&self, stat: &Stat, open: BorrowedFd<'_>, path: &Path) -> Result<Meta> {
        let attributes = Attributes { place: XattrPlace::Open(open), ids: self.ids };
        let read = attributes.read(self.is_exact);
        // An exact copy without one would not be one.
        let read = if self.is_exact { read } else { Ok(read.unwrap_or_default()) };
        Ok(self.meta(stat, read.context(|| reading_attributes(path))?))
    }

    /// Returns the metadata of an entry that is not opened, with its attributes in an exact copy.
    fn meta_of_place(&self, stat: &Stat, place: &OwnedFd, path: &Path) -> Result<Meta> {
        if !self.is_exact {
            return Ok(self.meta(stat, Vec::new()));
        }
        let attributes = Attributes { place: XattrPlace::by_reference(place), ids: self.ids };
        Ok(self.meta(stat, attributes.read(true).context(|| reading_attributes(path))?))
    }

    fn meta(&self, stat: &Stat, attributes: Vec<(Vec<u8>, Vec<u8>)>) -> Meta {
        // A set-user-ID program of a guest must not grant its owner's privileges on the host.
        let kept = if self.side == TreeSide::Guest { 0o1777 } else { 0o7777 };
        let ids = self.ids;
        Meta {
            mode: stat.st_mode & kept,
            uid: ids.inside(stat.st_uid),
            gid: ids.inside(stat.st_gid),
            modified: (stat.st_mtime, i64::try_from(stat.st_mtime_nsec).unwrap_or_default()),
            attributes,
        }
    }
}

fn reading_attributes(path: &Path) -> String {
    format!("cannot read the attributes of {}", shown(path, "the source"))
}

/// The content of an open file: its ranges with data.
struct Extents<'a> {
    file: &'a File,
    at: u64,
    /// The end of the current range.
    end: u64,
    /// Whether holes can be found, and the size is reliable.
    is_plain: bool,
}

impl<'a> Extents<'a> {
    fn of(file: &'a File) -> Self {
        // ext4, XFS, Btrfs, tmpfs, overlayfs, F2FS (`linux/magic.h`): other file systems may report any size.
        const PLAIN: [u64; 6] = [0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994, 0x794c_7630, 0xf2f5_2010];
        let kind = rustix::fs::fstatfs(file).ok().and_then(|found| u64::try_from(found.f_type).ok());
        Self { file, at: 0, end: 0, is_plain: kind.is_some_and(|kind| PLAIN.contains(&kind)) }
    }

    fn size(&self) -> std::io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// Seeks to the next data. Returns false at the end of the file.
    fn find(&mut self) -> std::io::Result<bool> {
        if !self.is_plain {
            self.end = u64::MAX;
        } else if self.at >= self.end {
            match rustix::fs::seek(self.file, SeekFrom::Data(self.at)) {
                Ok(data) => self.at = data,
                Err(rustix::io::Errno::NXIO) => {
                    self.at = self.size()?.max(self.at);
                    return Ok(false);
                }
                // The file system does not support holes.
                Err(_) => {}
            }
            self.end = rustix::fs::seek(self.file, SeekFrom::Hole(self.at)).unwrap_or(u64::MAX);
        }
        Ok(true)
    }
}

impl Content for Extents<'_> {
    fn next(&mut self, buffer: &mut Vec<u8>, most: usize, _: &mut dyn Monitor) -> Result<Option<u64>> {
        use std::os::unix::fs::FileExt;
        if !self.find().context(|| "cannot read")? {
            return Ok(None);
        }
        let most = usize::try_from(self.end.saturating_sub(self.at)).unwrap_or(most).min(most);
        let read = read_part(buffer, most, |buffer| self.file.read_at(buffer, self.at));
        let length = read.context(|| "cannot read")?;
        let at = self.at;
        self.at += length as u64;
        Ok((length > 0).then_some(at))
    }

    fn length(&self) -> u64 {
        self.at
    }

    fn expected_length(&self) -> Option<u64> {
        // Without a known size, the file is read to its end.
        if self.is_plain { self.size().ok() } else { None }
    }

    fn file(&self) -> Option<&File> {
        Some(self.file)
    }
}

/// Removes a file or tree by its name in a directory. Links are not followed, other mounts are not entered.
/// All other entries are removed if one cannot be.
///
/// # Errors
/// The first entry that cannot be removed.
pub(crate) fn remove(directory: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
    let mount = mount_of(directory).context(|| format!("cannot remove '{}'", name.display()))?;
    remove_below(directory, name, mount, 0)
}

/// Removes a tree of any depth by its name in a directory that no guest can change. Parts that are too deep
/// are moved into that directory first, and removed before the tree: a call after a kill finds them by its name.
///
/// # Errors
/// As for [`remove`].
pub(crate) fn remove_deep(directory: BorrowedFd<'_>, name: &OsStr) -> Result<()> {
    let doing = || format!("cannot remove '{}'", name.display());
    let mount = mount_of(directory).context(doing)?;
    let left = parts(directory, name).context(doing)?;
    let mut next = left.iter().map(|(number, _)| number + 1).max().unwrap_or_default();
    let mut names = vec![name.to_owned()];
    names.extend(left.into_iter().map(|(_, part)| part));
    while let Some(last) = names.last().cloned() {
        if let Some((parent, child)) = deepest(directory, &last, mount).context(doing)? {
            let part = part_of(name, next);
            next += 1;
            rustix::fs::renameat(&parent, &child, directory, &part).context(doing)?;
            names.push(part);
        } else {
            remove_below(directory, &last, mount, 0).map_err(|error| error.context(doing()))?;
            names.pop();
        }
    }
    Ok(())
}

/// Returns whether [`remove_deep`] was killed and has left parts of a tree.
///
/// # Errors
/// The directory cannot be read.
pub(crate) fn has_parts(directory: BorrowedFd<'_>, name: &OsStr) -> Result<bool> {
    Ok(!parts(directory, name)
        .context(|| format!("cannot look for parts of '{}'", name.display()))?
        .is_empty())
}

/// Returns the name of a part of a tree.
fn part_of(name: &OsStr, number: u32) -> OsString {
    let mut part = name.to_owned();
    part.push(format!("{PART}{number}"));
    part
}

/// Returns the parts of a tree with their numbers.
fn parts(directory: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<Vec<(u32, OsString)>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut found = Vec::new();
    for entry in Dir::read_from(rustix::fs::openat(directory, ".", flags, Mode::empty())?)? {
        let entry = entry?;
        let text = entry.file_name().to_bytes();
        let number = text.strip_prefix(name.as_bytes()).and_then(|rest| rest.strip_prefix(PART.as_bytes()));
        let number = number.and_then(|number| std::str::from_utf8(number).ok()?.parse().ok());
        found.extend(number.map(|number| (number, OsStr::from_bytes(text).to_owned())));
    }
    Ok(found)
}

/// Returns the first directory of a tree that is too deep: its parent, and its name in it.
fn deepest(
    directory: BorrowedFd<'_>,
    name: &OsStr,
    mount: u64,
) -> rustix::io::Result<Option<(OwnedFd, OsString)>> {
    /// Half of the maximum: what is moved becomes shallower with each round.
    const DEEP: usize = DEEPEST / 2;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let top = match rustix::fs::openat(directory, name, flags, Mode::empty()) {
        Ok(top) => top,
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR | rustix::io::Errno::LOOP) => {
            return Ok(None);
        }
        Err(errno) => return Err(errno),
    };
    let mut open = vec![Dir::read_from(&top)?];
    while let Some(reader) = open.last_mut() {
        let Some(entry) = reader.read().transpose()? else {
            open.pop();
            continue;
        };
        let name = entry.file_name().to_owned();
        let is_directory = matches!(entry.file_type(), FileType::Directory | FileType::Unknown);
        if !is_directory || matches!(name.as_bytes(), b"." | b"..") {
            continue;
        }
        let parent = rustix::io::fcntl_dupfd_cloexec(reader.fd()?, 3)?;
        let Ok(below) = rustix::fs::openat(&parent, &name, flags, Mode::empty()) else { continue };
        if mount_of(below.as_fd())? != mount {
            continue;
        }
        if open.len() >= DEEP {
            return Ok(Some((parent, OsStr::from_bytes(name.as_bytes()).to_owned())));
        }
        open.push(Dir::read_from(&below)?);
    }
    Ok(None)
}

fn remove_below(directory: BorrowedFd<'_>, name: &OsStr, mount: u64, depth: usize) -> Result<()> {
    let failed = || quoted(name.as_bytes());
    match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
        Err(rustix::io::Errno::ISDIR | rustix::io::Errno::PERM) => {}
        Err(rustix::io::Errno::NOENT) => return Ok(()),
        removed => return removed.context(failed),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let below = rustix::fs::openat(directory, name, flags, Mode::empty()).context(failed)?;
    if mount_of(below.as_fd()).context(failed)? != mount {
        return Err(Error::new("it is on another mount").context(failed()));
    }
    // At once, and also a read-only one.
    if btrfs::is_subvolume(below.as_fd()) && btrfs::destroy(directory, name).is_ok() {
        return Ok(());
    }
    if depth >= DEEPEST {
        return Err(Error::new("the tree is too deep").context(failed()));
    }
    let mut stays = Ok(());
    for entry in Dir::read_from(&below).context(failed)? {
        let entry = entry.context(failed)?.file_name().to_bytes().to_vec();
        if !matches!(entry.as_slice(), b"." | b"..") {
            stays = stays.and(remove_below(below.as_fd(), OsStr::from_bytes(&entry), mount, depth + 1));
        }
    }
    stays.map_err(|error| error.context(failed()))?;
    rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR).context(failed)
}

/// Returns the id of the mount of a descriptor (statx(2), STATX_MNT_ID, Linux 5.8).
pub(super) fn mount_of(place: BorrowedFd<'_>) -> rustix::io::Result<u64> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    Ok(rustix::fs::statx(place, c"", flags, StatxFlags::MNT_ID)?.stx_mnt_id)
}
