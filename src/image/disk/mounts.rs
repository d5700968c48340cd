//! Opens disk images, and mounts their partitions: detached, each from a loop device of its own. Called by
//! `attach`, `run` and the verbs on images.

use super::bytes::OpenDisk;
use super::dissect::{self, DissectRequest, DissectedMounts};
use super::partition_types::Role;
use super::partitions::{self, Partition};
use super::policy;
use super::superblock::{Content, FileSystem};
use crate::error::{Context, Error, Result};
use crate::machine::root::Root;
use crate::sys::loops::{self, LoopDevice, LoopPart};
use crate::sys::mount::{self, MountAttributes};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{FileType, Mode, OFlags, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The time for the mounts of an earlier machine on an image to end.
const ENDING: Duration = Duration::from_secs(5);

/// Whether an image is written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DiskAccess {
    /// It is only read.
    Read,
    /// It is read and written.
    Write,
}

/// An open disk image.
#[derive(Debug)]
pub(crate) struct Disk {
    disk: OpenDisk,
    path: PathBuf,
    is_block_device: bool,
    /// Its partitions, the root first.
    pub(crate) partitions: Vec<Partition>,
    /// Whether one of them must be verified or decrypted.
    is_protected: bool,
    /// Their mounts, if they are.
    dissected: Option<DissectedMounts>,
}

impl Disk {
    /// Opens an image and reads its partitions.
    ///
    /// # Errors
    /// It is missing, neither a file nor a block device, damaged, or cannot be written to.
    pub(crate) fn open(path: &Path, access: DiskAccess) -> Result<Self> {
        let doing = || format!("cannot use the disk image '{}'", path.display());
        open(path, access).map_err(|error| error.context(doing()))
    }

    /// Leaves out the partitions that the policy of the image does not let a machine use.
    ///
    /// # Errors
    /// The image violates the policy.
    pub(crate) fn under(mut self, root: &Root) -> Result<Self> {
        let doing = || format!("cannot use the disk image '{}'", self.path.display());
        let partitions = std::mem::take(&mut self.partitions);
        let permitted = policy::apply(&self.path, partitions, root.image_policy.as_ref(), &root.verity)
            .map_err(|error| error.context(doing()))?;
        Ok(Self { partitions: permitted.partitions, is_protected: permitted.is_protected, ..self })
    }

    /// Verifies or decrypts the partitions, if that is necessary. `scratch` is an existing directory of the
    /// host.
    ///
    /// # Errors
    /// The host cannot do it, the key is missing, or the image is changed.
    pub(crate) fn unlock(mut self, root: &Root, access: DiskAccess, scratch: &Path) -> Result<Self> {
        if !self.is_protected {
            return Ok(self);
        }
        let request = DissectRequest {
            image: &self.path,
            read_only: access == DiskAccess::Read,
            policy: root.image_policy.as_ref(),
            verity: &root.verity,
            roles: self.partitions.iter().map(|partition| partition.role).collect(),
            scratch,
        };
        let mounts = dissect::mount(&request).map_err(|error| {
            error.context(format!("cannot use the protected disk image '{}'", self.path.display()))
        })?;
        self.partitions.retain(|partition| mounts.has(partition.role));
        self.dissected = Some(mounts);
        Ok(self)
    }

    /// Returns the partition with the root.
    ///
    /// # Errors
    /// The image has `/usr` only.
    pub(crate) fn root(&self) -> Result<&Partition> {
        self.of_role(Role::Root).ok_or_else(|| {
            Error::new(format!(
                "the disk image '{}' has no root partition that may be used",
                self.path.display()
            ))
            .with_hint(
                "add a root partition, for example with systemd-repart(8), or change root.image-policy",
            )
        })
    }

    /// Returns the partition with a role.
    pub(crate) fn of_role(&self, role: Role) -> Option<&Partition> {
        self.partitions.iter().find(|partition| partition.role == role)
    }

    /// Mounts a partition, detached, with mapped ids if there is a map.
    ///
    /// # Errors
    /// An encrypted or unknown file system, no free loop device, or a mount that the kernel refuses.
    pub(crate) fn mount(
        &self,
        partition: &Partition,
        access: DiskAccess,
        id_map: Option<BorrowedFd<'_>>,
    ) -> Result<OwnedFd> {
        let doing = || match partition.number {
            0 => format!("cannot mount the disk image '{}'", self.path.display()),
            number => format!(
                "cannot mount partition {number} ({}) of the disk image '{}'",
                partition.role.name(),
                self.path.display()
            ),
        };
        self.mount_partition(partition, access, id_map).map_err(|error| error.context(doing()))
    }

    fn mount_partition(
        &self,
        partition: &Partition,
        access: DiskAccess,
        id_map: Option<BorrowedFd<'_>>,
    ) -> Result<OwnedFd> {
        let read_only = access == DiskAccess::Read || !partition.is_writable();
        let attributes = MountAttributes { read_only, no_devices: true, ..MountAttributes::default() };
        if let Some(mounts) = &self.dissected {
            let mounted = mounts.take(partition.role).ok_or_else(|| Error::new("it is mounted already"))?;
            mount::separate(mounted.as_fd(), id_map, attributes)
                .context(|| "cannot map its ids, or separate its mount from the host")?;
            return Ok(mounted);
        }
        let kind = file_system(partition.content)?;
        let device = self.device(partition, read_only)?;
        let node = device.as_ref().map_or(self.path.as_path(), |device| &device.path);
        let options = options(kind, read_only, device.is_some());
        let mounted =
            mount::device_file_system(kind.name(), node, &options, attributes).map_err(|error| {
                error.with_hint(format!("the kernel must have the file system: modprobe {kind}"))
            })?;
        mount::separate(mounted.as_fd(), id_map, attributes).map_err(|error| match id_map {
            Some(_) => Error::from(error)
                .context(format!("cannot map its ids: {kind} requires Linux {}", kind.maps_ids_since()))
                .with_hint(
                    "use another file system, or run the machine without a user namespace (users.private = \"no\", \
                     --private-users=no)",
                ),
            None => Error::from(error).context("cannot separate its mount from the host"),
        })?;
        Ok(mounted)
    }

    /// Returns a loop device for a partition. `None` for a block device without a partition table, which is
    /// mounted itself.
    fn device(&self, partition: &Partition, read_only: bool) -> Result<Option<LoopDevice>> {
        if self.is_block_device && partition.number == 0 {
            return Ok(None);
        }
        let part = LoopPart { offset: partition.start, size: partition.size, read_only };
        let file = self.disk.file().as_fd();
        let begun = Instant::now();
        while let Some(other) = loops::conflicting(file, part) {
            if begun.elapsed() > ENDING {
                return Err(Error::new(format!("it is in use by '{}'", other.display())).with_hint(format!(
                    "unmount and release that device: losetup --detach '{}'",
                    other.display()
                )));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let name = self.path.file_name().unwrap_or_default().to_string_lossy();
        loops::attach(file, part, &name).map(Some)
    }
}

fn open(path: &Path, access: DiskAccess) -> Result<Disk> {
    let mode = if access == DiskAccess::Write { OFlags::RDWR } else { OFlags::RDONLY };
    // The file may be a fifo or a terminal.
    let flags = mode | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| {
        let error = Error::from(errno);
        match errno {
            rustix::io::Errno::ROFS | rustix::io::Errno::ACCESS | rustix::io::Errno::PERM
                if access == DiskAccess::Write =>
            {
                error.with_hint("start the machine read-only (root.read-only, --read-only) or ephemeral")
            }
            _ => error,
        }
    })?;
    let found = rustix::fs::fstat(&file)?;
    let kind = FileType::from_raw_mode(found.st_mode);
    if kind != FileType::RegularFile && kind != FileType::BlockDevice {
        return Err(Error::new("it is neither a file nor a block device"));
    }
    let size = rustix::fs::seek(&file, SeekFrom::End(0)).context(|| "cannot find its size")?;
    let disk = OpenDisk::new(file.into(), size);
    let partitions = partitions::read(&disk)?;
    Ok(Disk {
        disk,
        path: path.to_owned(),
        is_block_device: kind == FileType::BlockDevice,
        partitions,
        is_protected: false,
        dissected: None,
    })
}

/// Returns the file system of a partition.
fn file_system(content: Content) -> Result<FileSystem> {
    match content {
        Content::FileSystem(kind) => Ok(kind),
        Content::Encrypted => Err(Error::new("it is encrypted (LUKS)")
            .with_hint("open it with cryptsetup(8), and use the opened block device")),
        Content::Verity | Content::Swap | Content::Unknown => Err(Error::new("it has no known file system")
            .with_hint("known are ext4, xfs, btrfs, squashfs, erofs and vfat")),
    }
}

/// Returns the options of a mount.
fn options(kind: FileSystem, read_only: bool, is_loop: bool) -> Vec<(&'static str, &'static str)> {
    let mut options = Vec::new();
    if read_only {
        options.push(("ro", ""));
        // The device refuses the writes of a recovery.
        match kind {
            FileSystem::Ext4 | FileSystem::Xfs => options.push(("norecovery", "")),
            FileSystem::Btrfs => options.push(("rescue", "nologreplay")),
            _ => {}
        }
    } else if is_loop && matches!(kind, FileSystem::Ext4 | FileSystem::Xfs | FileSystem::Btrfs) {
        // Deleted files free the blocks of the image.
        options.push(("discard", ""));
    }
    match kind {
        // Copies of an image have its UUID too.
        FileSystem::Xfs => options.push(("nouuid", "")),
        FileSystem::Vfat => options.push(("umask", "0077")),
        _ => {}
    }
    options
}
