//! Device nodes in a running machine, created and removed by `control`, which has entered the machine's mount
//! namespace with the rights of the host. The guest controls its `/dev` and `/run`: links are not followed, other
//! mounts and files of others are left alone, and only nodes of the expected device are given away or removed.

use crate::error::{Context, Error, Result};
use crate::sys::guest_files::{GuestRoot, Owners};
use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Uid};
use rustix::io::Errno;
use std::io::Write;
use std::path::{Component, Path};

/// The magic number of tmpfs (statfs(2)).
const TMPFS: u32 = 0x0102_1994;
/// The directory of the device manager's properties, which exists in a guest that runs one.
const PROPERTIES: &str = "/run/udev/data";

/// A device node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HotplugNode {
    /// Its path inside, below `/dev`.
    pub(crate) path: std::path::PathBuf,
    /// Whether it is a block device.
    pub(crate) is_block: bool,
    /// Its number (makedev(3)).
    pub(crate) number: u64,
    /// The permission bits.
    pub(crate) mode: u32,
    /// The host id of the guest's root.
    pub(crate) owner: u32,
    /// The owners of the guest's directories.
    pub(crate) owners: Owners,
}

impl HotplugNode {
    fn kind(&self) -> FileType {
        if self.is_block { FileType::BlockDevice } else { FileType::CharacterDevice }
    }

    /// Returns the name of the file with its properties, as udev(7) names it.
    pub(crate) fn properties_name(&self) -> String {
        let kind = if self.is_block { 'b' } else { 'c' };
        format!("{kind}{}:{}", rustix::fs::major(self.number), rustix::fs::minor(self.number))
    }

    /// Creates the node, missing directories above it, and the file of its properties if the guest has a device
    /// manager.
    ///
    /// # Errors
    /// An existing file, or a `/dev` that is not the one of the machine.
    pub(crate) fn create(&self, properties: Option<&[u8]>) -> Result<()> {
        let doing = || format!("cannot create '{}' in the machine", self.path.display());
        let root = GuestRoot::of_caller()?;
        let (directory, name) = self.directory(&root, Missing::Create)?;
        // The mode is not reduced.
        let umask = rustix::process::umask(Mode::empty());
        let made =
            rustix::fs::mknodat(&directory, name, self.kind(), Mode::from_raw_mode(self.mode), self.number);
        rustix::process::umask(umask);
        made.context(doing)?;
        let given = self.give_node(&directory, name).map_err(std::io::Error::from);
        let written = given.and_then(|()| self.write_properties(&root, properties));
        if written.is_err() {
            let _ = self.remove();
        }
        written.context(doing)
    }

    /// Makes the guest's root the owner of the new node.
    fn give_node(&self, directory: &OwnedFd, name: &Path) -> rustix::io::Result<()> {
        let node = find_beside(directory, name)?;
        let found = rustix::fs::fstat(&node)?;
        if self.is_it(&found) { give(&node, self.owner) } else { Err(Errno::PERM) }
    }

    /// Writes the properties, if the guest has a device manager with a directory of its own.
    fn write_properties(&self, root: &GuestRoot, properties: Option<&[u8]>) -> std::io::Result<()> {
        let Some(properties) =
            properties.filter(|_| root.find_own(Path::new(PROPERTIES), self.owners).is_ok())
        else {
            return Ok(());
        };
        let path = Path::new(PROPERTIES).join(self.properties_name());
        root.create_own(&path, Mode::from_raw_mode(0o644), self.owners)?.write_all(properties)
    }

    /// Removes the node and its properties. A missing node, and any other file in its place, is left alone.
    ///
    /// # Errors
    /// Any error of unlinkat(2).
    pub(crate) fn remove(&self) -> Result<()> {
        let root = GuestRoot::of_caller()?;
        if let Ok(directory) = root.find_own(Path::new(PROPERTIES), self.owners) {
            let _ = rustix::fs::unlinkat(&directory, self.properties_name(), AtFlags::empty());
        }
        let Ok((directory, name)) = self.directory(&root, Missing::Fail) else { return Ok(()) };
        let found = rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW);
        if !found.is_ok_and(|found| self.is_it(&found)) {
            return Ok(());
        }
        rustix::fs::unlinkat(&directory, name, AtFlags::empty())
            .context(|| format!("cannot remove '{}' in the machine", self.path.display()))
    }

    /// Returns whether a file is a node of the device.
    fn is_it(&self, found: &Stat) -> bool {
        FileType::from_raw_mode(found.st_mode) == self.kind() && found.st_rdev == self.number
    }

    /// Returns whether a file belongs to the guest.
    fn is_owned(&self, found: &Stat) -> bool {
        let Owners { first, count } = self.owners;
        [found.st_uid, found.st_gid].iter().all(|id| id.checked_sub(first).is_some_and(|id| id < count))
    }

    /// Opens the directory of the node, one name after the other. Each is a directory of the guest in the file
    /// system of its `/dev`: the guest may have mounted directories of the host over others.
    fn directory(&self, root: &GuestRoot, missing: Missing) -> Result<(OwnedFd, &Path)> {
        let opening = || format!("cannot open the directory of '{}' in the machine", self.path.display());
        let below = self.path.strip_prefix("/dev").unwrap_or(&self.path);
        let name = below.file_name().map(Path::new).unwrap_or(below);
        let mut directory = root.find_own(Path::new("/dev"), self.owners).context(opening)?;
        let kind = rustix::fs::fstatfs(&directory).context(opening)?.f_type;
        if u32::try_from(kind) != Ok(TMPFS) {
            return Err(Error::new("'/dev' of the machine is not its own").context(opening()));
        }
        for part in below.parent().unwrap_or(Path::new("")).components() {
            let Component::Normal(part) = part else { continue };
            directory = self.subdirectory(&directory, Path::new(part), missing).context(opening)?;
        }
        Ok((directory, name))
    }

    fn subdirectory(&self, above: &OwnedFd, name: &Path, missing: Missing) -> rustix::io::Result<OwnedFd> {
        let is_new = missing == Missing::Create
            && match rustix::fs::mkdirat(above, name, Mode::from_raw_mode(0o755)) {
                Ok(()) => true,
                Err(Errno::EXIST) => false,
                Err(errno) => return Err(errno),
            };
        let directory = find_beside(above, name)?;
        let found = rustix::fs::fstat(&directory)?;
        if FileType::from_raw_mode(found.st_mode) != FileType::Directory {
            return Err(Errno::NOTDIR);
        }
        if !self.is_owned(&found) {
            // The guest cannot put a directory of the host's root in the place of the new one.
            if !is_new || found.st_uid != 0 {
                return Err(Errno::PERM);
            }
            give(&directory, self.owner)?;
        }
        Ok(directory)
    }
}

/// The action for a missing directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Missing {
    Create,
    Fail,
}

/// Opens a file of a directory for reference (`O_PATH`), in the same file system and no link.
fn find_beside(directory: &OwnedFd, name: &Path) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat2(directory, name, flags, Mode::empty(), resolve)
}

/// Makes the guest's root the owner of a file, by its descriptor: the guest may mount another one over its name.
fn give(file: &OwnedFd, owner: u32) -> rustix::io::Result<()> {
    let (uid, gid) = (Uid::from_raw(owner), Gid::from_raw(owner));
    rustix::fs::chownat(file, c"", Some(uid), Some(gid), AtFlags::EMPTY_PATH)
}
