//! Device nodes in a running machine, created and removed by `control`, which has entered the machine's mount
//! namespace with the rights of the host. The guest controls its `/dev`: links are not followed, and only
//! nodes of the expected device are removed.

use crate::error::{Context, Error, Result};
use crate::sys::guest_files::GuestRoot;
use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid};
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
        let (directory, name) = self.directory(Missing::Create)?;
        // The mode is not reduced.
        let umask = rustix::process::umask(Mode::empty());
        let made =
            rustix::fs::mknodat(&directory, name, self.kind(), Mode::from_raw_mode(self.mode), self.number);
        rustix::process::umask(umask);
        made.context(doing)?;
        give(&directory, name, self.owner).context(doing)?;
        if let Some(properties) = properties
            && let Ok(directory) = GuestRoot::of_caller()?.find_link(Path::new(PROPERTIES))
        {
            self.write_properties(&directory, properties).context(doing)?;
        }
        Ok(())
    }

    fn write_properties(&self, directory: &OwnedFd, properties: &[u8]) -> std::io::Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let name = self.properties_name();
        let file = rustix::fs::openat(directory, &name, flags, Mode::from_raw_mode(0o644))?;
        std::fs::File::from(file).write_all(properties)?;
        Ok(give(directory, Path::new(&name), self.owner)?)
    }

    /// Removes the node and its properties. A missing node, and any other file in its place, is left alone.
    ///
    /// # Errors
    /// Any error of unlinkat(2).
    pub(crate) fn remove(&self) -> Result<()> {
        let root = GuestRoot::of_caller()?;
        if let Ok(directory) = root.find_link(Path::new(PROPERTIES)) {
            let _ = rustix::fs::unlinkat(&directory, self.properties_name(), AtFlags::empty());
        }
        let Ok((directory, name)) = self.directory(Missing::Fail) else { return Ok(()) };
        let found = rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW);
        let is_it = found.is_ok_and(|found| {
            FileType::from_raw_mode(found.st_mode) == self.kind() && found.st_rdev == self.number
        });
        if !is_it {
            return Ok(());
        }
        rustix::fs::unlinkat(&directory, name, AtFlags::empty())
            .context(|| format!("cannot remove '{}' in the machine", self.path.display()))
    }

    /// Opens the directory of the node, one name after the other.
    fn directory(&self, missing: Missing) -> Result<(OwnedFd, &Path)> {
        let opening = || format!("cannot open the directory of '{}' in the machine", self.path.display());
        let below = self.path.strip_prefix("/dev").unwrap_or(&self.path);
        let name = below.file_name().map(Path::new).unwrap_or(below);
        let mut directory = GuestRoot::of_caller()?.find_link(Path::new("/dev")).context(opening)?;
        let kind = rustix::fs::fstatfs(&directory).context(opening)?.f_type;
        if u32::try_from(kind) != Ok(TMPFS) {
            return Err(Error::new("'/dev' of the machine is not its own").context(opening()));
        }
        for part in below.parent().unwrap_or(Path::new("")).components() {
            let Component::Normal(part) = part else { continue };
            if missing == Missing::Create {
                match rustix::fs::mkdirat(&directory, part, Mode::from_raw_mode(0o755)) {
                    Ok(()) => give(&directory, Path::new(part), self.owner).context(opening)?,
                    Err(rustix::io::Errno::EXIST) => {}
                    Err(errno) => return Err(Error::from(errno).context(opening())),
                }
            }
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            directory = rustix::fs::openat(&directory, part, flags, Mode::empty()).context(opening)?;
        }
        Ok((directory, name))
    }
}

/// The action for a missing directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Missing {
    Create,
    Fail,
}

/// Makes the guest's root the owner of a new file.
fn give(directory: &OwnedFd, name: &Path, owner: u32) -> rustix::io::Result<()> {
    let (uid, gid) = (Uid::from_raw(owner), Gid::from_raw(owner));
    rustix::fs::chownat(directory, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
}
