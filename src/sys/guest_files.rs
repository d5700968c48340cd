//! Files under the control of a guest: the tree of a machine, running or not. The only module that opens
//! files below a machine's root for the host; used by `payload`, `host`, `supervisor` and `control`.
//!
//! Every open stays below the root (openat2(2)), does not block (`O_NONBLOCK`: neither on the writer of a
//! pipe nor on the holder of a lease), takes no controlling terminal, and checks a file before opening it:
//! opening a device has effects. Code with more rights than the guest's root changes files by
//! [`GuestRoot::open_own`] only, which refuses symbolic links, other mounts and files of other owners.

mod reopen;

use reopen::reopen_regular;
pub(crate) use reopen::{keep_descriptors, reopen_file, reopen_file_by, reopen_pipe, set_mode, set_times};

use crate::error::{Context, Result};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Uid};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

/// The type of tmpfs in statfs(2) (`TMPFS_MAGIC` of `linux/magic.h`).
const TMPFS_MAGIC: u64 = 0x0102_1994;

/// The root directory of a machine, seen from the host or from inside.
#[derive(Debug)]
pub(crate) struct GuestRoot(OwnedFd);

/// The user and group ids of a machine in the host's view: a file of another owner does not belong to the
/// guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owners {
    /// The first id.
    pub(crate) first: u32,
    /// The number of ids.
    pub(crate) count: u32,
}

impl Owners {
    /// All owners: for a machine that shares the user ids of the host.
    pub(crate) const ALL: Self = Self { first: 0, count: u32::MAX };

    fn include(self, stat: &Stat) -> bool {
        let own = |id: u32| id.checked_sub(self.first).is_some_and(|id| id < self.count);
        own(stat.st_uid) && own(stat.st_gid)
    }
}

impl GuestRoot {
    /// Opens the root of a tree.
    ///
    /// # Errors
    /// Any error of openat(2), with the path.
    pub(crate) fn of_tree(path: &Path) -> Result<Self> {
        super::mount::open_directory(path).map(Self)
    }

    /// Returns the root of a mount.
    ///
    /// # Errors
    /// No free descriptors.
    pub(crate) fn of_mount(mount: BorrowedFd<'_>) -> Result<Self> {
        rustix::io::fcntl_dupfd_cloexec(mount, 3).map(Self).context(|| "cannot keep a mount")
    }

    /// Opens the root of a running machine, by its PID 1. A lookup in it may block on a file system served by
    /// the guest: for a caller that can be killed.
    ///
    /// # Errors
    /// Any error of openat(2), with the path.
    pub(crate) fn of_process(pid: u32) -> Result<Self> {
        Self::of_tree(&PathBuf::from(format!("/proc/{pid}/root")))
    }

    /// Opens the root of the calling process, for a child inside a machine.
    ///
    /// # Errors
    /// Any error of openat(2).
    pub(crate) fn of_caller() -> Result<Self> {
        Self::of_tree(Path::new("/"))
    }

    /// Opens the target of a path for reference (`O_PATH`); symbolic links are resolved inside the root.
    ///
    /// # Errors
    /// Any error of openat2(2).
    pub(crate) fn find(&self, path: &Path) -> std::io::Result<OwnedFd> {
        open_inside_as(self.0.as_fd(), path, OFlags::PATH, Mode::empty())
    }

    /// Opens a path for reference (`O_PATH`) without following a symbolic link at its end.
    ///
    /// # Errors
    /// Any error of openat2(2).
    pub(crate) fn find_link(&self, path: &Path) -> std::io::Result<OwnedFd> {
        open_inside(self.0.as_fd(), path)
    }

    /// Returns the literal target of a symbolic link.
    ///
    /// # Errors
    /// Any error of openat2(2) and readlinkat(2).
    pub(crate) fn link(&self, path: &Path) -> std::io::Result<PathBuf> {
        Ok(target(&self.find_link(path)?)?)
    }

    /// Opens a directory for reading.
    ///
    /// # Errors
    /// Any error of openat2(2).
    pub(crate) fn open_directory(&self, path: &Path) -> std::io::Result<OwnedFd> {
        open_inside_as(self.0.as_fd(), path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
    }

    /// Opens the regular files of a directory and of its subdirectories, one level deep, with one of the
    /// suffixes: the `most` recently changed ones. Symbolic links, other kinds of files, other mounts and
    /// files of other owners are left out.
    pub(crate) fn files_of(
        &self,
        path: &Path,
        suffixes: &[&str],
        owners: Owners,
        most: usize,
    ) -> Vec<OwnedFd> {
        let Ok(top) = self.open_directory(path) else { return Vec::new() };
        let mut found = Vec::new();
        let below = |top: &OwnedFd, name: &OsStr| {
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
            let flags = OFlags::PATH | OFlags::CLOEXEC;
            let place = rustix::fs::openat2(top, name, flags, Mode::empty(), resolve).ok()?;
            let stat = rustix::fs::fstat(&place).ok()?;
            owners.include(&stat).then_some((place, stat))
        };
        let mut take = |directory: &OwnedFd| {
            let mut directories = Vec::new();
            for name in names(directory) {
                let Some((place, stat)) = below(directory, &name) else { continue };
                match FileType::from_raw_mode(stat.st_mode) {
                    FileType::Directory => directories.push(place),
                    FileType::RegularFile
                        if suffixes.iter().any(|end| name.as_bytes().ends_with(end.as_bytes())) =>
                    {
                        found.push((stat.st_mtime, place));
                    }
                    _ => {}
                }
            }
            directories
        };
        for directory in take(&top) {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            if let Ok(directory) = rustix::fs::openat(&directory, ".", flags, Mode::empty()) {
                take(&directory);
            }
        }
        found.sort_by_key(|(changed, _)| std::cmp::Reverse(*changed));
        found.iter().take(most).filter_map(|(_, place)| reopen_file(place, OFlags::RDONLY).ok()).collect()
    }

    /// Reads a regular file, at most `limit` bytes of it.
    ///
    /// # Errors
    /// `EINVAL` for another kind of file, `EAGAIN` for a file under a lease, else any error of openat2(2) and
    /// read(2).
    pub(crate) fn read(&self, path: &Path, limit: u64) -> std::io::Result<Vec<u8>> {
        let place = self.find(path)?;
        let stat = rustix::fs::fstat(&place)?;
        let mut file = File::from(reopen_regular(&place, &stat, OFlags::RDONLY)?);
        // One byte more than the file: a shorter read has found its end.
        let size = u64::try_from(stat.st_size).unwrap_or(0).saturating_add(1).min(limit);
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
        let count = file.read(&mut bytes)?;
        bytes.truncate(count);
        if count as u64 == size {
            file.take(limit - size).read_to_end(&mut bytes)?;
        }
        Ok(bytes)
    }

    /// Creates a directory with these mode bits, whatever the umask.
    ///
    /// # Errors
    /// Any error of openat2(2), mkdir(2) and fchmod(2).
    pub(crate) fn create_directory(&self, path: &Path, mode: Mode) -> std::io::Result<()> {
        let (above, name) = self.parent(path)?;
        rustix::fs::mkdirat(&above, &name, Mode::RWXU)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let created = rustix::fs::openat(&above, &name, flags, Mode::empty())?;
        Ok(rustix::fs::fchmod(&created, mode)?)
    }

    /// Removes a file or link. A missing one is not an error.
    ///
    /// # Errors
    /// Any error of openat2(2) and unlink(2).
    pub(crate) fn remove_file(&self, path: &Path) -> std::io::Result<()> {
        let (above, name) = self.parent(path)?;
        match rustix::fs::unlinkat(&above, &name, AtFlags::empty()) {
            Err(Errno::NOENT) => Ok(()),
            removed => Ok(removed?),
        }
    }

    /// Opens the parent of a path, and returns the name in it.
    fn parent(&self, path: &Path) -> std::io::Result<(OwnedFd, OsString)> {
        let (above, name) = path.parent().zip(path.file_name()).ok_or(Errno::INVAL)?;
        Ok((self.open_directory(above)?, name.to_owned()))
    }

    /// Opens for reference (`O_PATH`) a file on the root's own file system, or on the tmpfs at its `/run` or
    /// `/dev`. Symbolic links are not followed; one at the end is an error too.
    ///
    /// # Errors
    /// `ELOOP` for a symbolic link, `EXDEV` for another mount, `EPERM` for a file of an owner outside of
    /// `owners`.
    pub(crate) fn find_own(&self, path: &Path, owners: Owners) -> rustix::io::Result<OwnedFd> {
        let (place, kind) = self.find_any(path, owners)?;
        if kind == FileType::Symlink { Err(Errno::LOOP) } else { Ok(place) }
    }

    /// Returns the target of a symbolic link that fulfils the conditions of [`Self::find_own`].
    ///
    /// # Errors
    /// `EINVAL` for another kind of file, else as for [`Self::find_own`].
    pub(crate) fn link_own(&self, path: &Path, owners: Owners) -> rustix::io::Result<PathBuf> {
        let (place, kind) = self.find_any(path, owners)?;
        if kind != FileType::Symlink {
            return Err(Errno::INVAL);
        }
        target(&place)
    }

    fn find_any(&self, path: &Path, owners: Owners) -> rustix::io::Result<(OwnedFd, FileType)> {
        let place = self.open_beneath(path)?;
        let stat = rustix::fs::fstat(&place)?;
        if owners.include(&stat) {
            Ok((place, FileType::from_raw_mode(stat.st_mode)))
        } else {
            Err(Errno::PERM)
        }
    }

    /// Opens a regular file that fulfils the conditions of [`Self::find_own`].
    ///
    /// # Errors
    /// As for [`Self::find_own`] and [`reopen_file`].
    pub(crate) fn open_own(&self, path: &Path, flags: OFlags, owners: Owners) -> rustix::io::Result<File> {
        let place = self.find_own(path, owners)?;
        reopen_file(&place, flags).map(File::from)
    }

    /// Returns whether the caller may create files in a directory that fulfils the conditions of
    /// [`Self::find_own`].
    pub(crate) fn is_writable(&self, directory: &Path, owners: Owners) -> bool {
        let place = self.find_own(directory, owners);
        let (access, flags) = (rustix::fs::Access::WRITE_OK, rustix::fs::AtFlags::empty());
        place.is_ok_and(|place| rustix::fs::accessat(&place, ".", access, flags).is_ok())
    }

    /// Creates a file in an existing directory, with the owner of the directory. An existing file is an
    /// error.
    ///
    /// # Errors
    /// As for [`Self::find_own`] with the directory, else any error of openat(2) and fchown(2).
    pub(crate) fn create_own(&self, path: &Path, mode: Mode, owners: Owners) -> rustix::io::Result<File> {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let parent = self.find_own(parent, owners)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let name = path.file_name().ok_or(Errno::INVAL)?;
        let file = rustix::fs::openat(&parent, name, flags, mode)?;
        let (owner, made) = (rustix::fs::fstat(&parent)?, rustix::fs::fstat(&file)?);
        if (owner.st_uid, owner.st_gid) != (made.st_uid, made.st_gid) {
            let (uid, gid) = (Uid::from_raw(owner.st_uid), Gid::from_raw(owner.st_gid));
            rustix::fs::fchown(&file, Some(uid), Some(gid))?;
        }
        Ok(file.into())
    }

    fn open_beneath(&self, path: &Path) -> rustix::io::Result<OwnedFd> {
        let path = path.strip_prefix("/").unwrap_or(path);
        let within = |root: BorrowedFd<'_>, path: &Path, resolve| {
            let resolve = resolve | ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
            let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
            // These flags open a symbolic link at the end itself.
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::openat2(root, path, flags, Mode::empty(), resolve)
        };
        let found = within(self.0.as_fd(), path, ResolveFlags::NO_XDEV);
        let mut parts = path.components();
        match (found, parts.next()) {
            (Err(Errno::XDEV), Some(Component::Normal(first))) if first == "run" || first == "dev" => {
                let top = within(self.0.as_fd(), Path::new(first), ResolveFlags::empty())?;
                if u64::try_from(rustix::fs::fstatfs(&top)?.f_type) != Ok(TMPFS_MAGIC) {
                    return Err(Errno::XDEV);
                }
                within(top.as_fd(), parts.as_path(), ResolveFlags::NO_XDEV)
            }
            (found, _) => found,
        }
    }
}

/// Returns the names in a directory, up to a greatest number of entries.
fn names(directory: &OwnedFd) -> Vec<OsString> {
    const MOST: usize = 4096;
    let entries = Dir::read_from(directory).into_iter().flatten().flatten().take(MOST);
    let names = entries.map(|entry| OsString::from_vec(entry.file_name().to_bytes().to_vec()));
    names.filter(|name| name != "." && name != "..").collect()
}

fn target(link: &OwnedFd) -> rustix::io::Result<PathBuf> {
    let target = rustix::fs::readlinkat(link, c"", Vec::new())?;
    Ok(PathBuf::from(OsString::from_vec(target.into_bytes())))
}

/// Opens a path inside a root for reference (`O_PATH`): symbolic links, absolute or with `..`, do not lead
/// out of it (openat2(2), RESOLVE_IN_ROOT), and a link at the end is not followed.
///
/// # Errors
/// Any error of openat2(2).
pub(crate) fn open_inside(root: BorrowedFd<'_>, path: &Path) -> std::io::Result<OwnedFd> {
    open_inside_as(root, path, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty())
}

/// Opens a path inside a root with the given flags; symbolic links do not lead out of the root. For files
/// created by the builder; all other files are opened through [`GuestRoot`].
///
/// # Errors
/// Any error of openat2(2).
pub(crate) fn open_inside_as(
    root: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
    mode: Mode,
) -> std::io::Result<OwnedFd> {
    let path = path.strip_prefix("/").unwrap_or(path);
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    // EAGAIN: a rename anywhere on the system raced with a ".." lookup; the caller is expected to retry.
    for _ in 0..64 {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        match rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, mode, resolve) {
            Err(Errno::AGAIN) => {}
            result => return Ok(result?),
        }
    }
    Err(Errno::AGAIN.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    struct Tree {
        _directory: tempfile::TempDir,
        place: PathBuf,
        root: GuestRoot,
        own: Owners,
    }

    fn tree() -> Tree {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("tree");
        std::fs::create_dir_all(place.join("etc")).unwrap();
        std::fs::write(place.join("etc/file"), "inside").unwrap();
        std::fs::write(directory.path().join("outside"), "outside").unwrap();
        let root = GuestRoot::of_tree(&place).unwrap();
        let data = std::fs::metadata(&place).unwrap();
        let own = Owners { first: data.uid().min(data.gid()), count: data.uid().abs_diff(data.gid()) + 1 };
        Tree { _directory: directory, place, root, own }
    }

    #[test]
    fn links_stay_inside_or_are_refused() {
        let Tree { place, root, own, .. } = &tree();
        for (target, found) in [("../../../etc/file", true), ("/etc/file", true), ("/outside", false)] {
            let link = place.join("etc/link");
            symlink(target, &link).unwrap();
            assert_eq!(root.read(Path::new("/etc/link"), 99).is_ok(), found, "{target}");
            assert_eq!(root.find_own(Path::new("/etc/link"), *own).err(), Some(Errno::LOOP), "{target}");
            std::fs::remove_file(link).unwrap();
        }
        assert!(root.find_own(Path::new("../outside"), *own).is_err());
        symlink("etc", place.join("way")).unwrap();
        assert_eq!(root.open_own(Path::new("way/file"), OFlags::RDWR, *own).err(), Some(Errno::LOOP));
        assert!(root.create_own(Path::new("way/new"), Mode::RUSR, *own).is_err());
    }

    #[test]
    fn of_a_directory_only_own_regular_files_are_opened() {
        let Tree { place, root, own, .. } = &tree();
        let journals = place.join("log/0123");
        std::fs::create_dir_all(journals.join("deeper")).unwrap();
        for name in ["system.journal", "user.journal~", "other", "deeper/x.journal", "../top.journal"] {
            std::fs::write(journals.join(name), name).unwrap();
        }
        symlink("system.journal", journals.join("link.journal")).unwrap();
        symlink("0123", place.join("log/link")).unwrap();
        nix::unistd::mkfifo(&journals.join("pipe.journal"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let files = |owners, most| root.files_of(Path::new("/log"), &[".journal", ".journal~"], owners, most);
        assert_eq!(files(*own, 9).len(), 3);
        assert_eq!(files(*own, 2).len(), 2);
        assert_eq!(files(Owners { first: own.first + own.count, count: 9 }, 9).len(), 0);
        assert!(root.files_of(Path::new("/none"), &[""], *own, 9).is_empty());
    }

    #[test]
    fn only_regular_files_of_an_own_owner_are_opened() {
        let Tree { place, root, own, .. } = &tree();
        nix::unistd::mkfifo(&place.join("etc/pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(root.read(Path::new("/etc/pipe"), 9).is_err());
        assert_eq!(root.open_own(Path::new("etc/pipe"), OFlags::RDWR, *own).err(), Some(Errno::INVAL));
        let pipe = root.find_own(Path::new("etc/pipe"), *own).unwrap();
        assert_eq!(reopen_pipe(&pipe).err(), Some(Errno::NXIO));
        assert_eq!(root.read(Path::new("/etc/file"), 3).unwrap(), b"ins");
        let others = Owners { first: own.first + own.count, count: 9 };
        assert_eq!(root.open_own(Path::new("etc/file"), OFlags::RDWR, others).err(), Some(Errno::PERM));
        assert_eq!(root.create_own(Path::new("etc/new"), Mode::RUSR, others).err(), Some(Errno::PERM));
        let file = root.find_own(Path::new("etc/file"), *own).unwrap();
        set_mode(&file, Mode::from_raw_mode(0o100)).unwrap();
        assert_eq!(std::fs::metadata(place.join("etc/file")).unwrap().permissions().mode() & 0o777, 0o100);
        assert_eq!(root.create_own(Path::new("etc/file"), Mode::RUSR, *own).err(), Some(Errno::EXIST));
        assert!(root.create_own(Path::new("etc/new"), Mode::RUSR, *own).is_ok());
    }
}
