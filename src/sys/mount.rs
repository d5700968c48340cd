//! The new mount API: detached trees, idmapped mounts, file systems with the kernel's own messages.
#![allow(unsafe_code)]

use crate::error::{Context, Error, Result};
use nix::sched::{CloneFlags, setns, unshare};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags};
use rustix::path::Arg;
use std::ffi::CStr;
use std::path::Path;

/// `struct mount_attr` of `linux/mount.h`.
#[repr(C)]
#[derive(Default)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// Attributes of one mount (mount_setattr(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MountAttributes {
    /// Read-only.
    pub(crate) read_only: bool,
    /// Ignores setuid bits and file capabilities.
    pub(crate) no_setuid: bool,
    /// Disables device nodes.
    pub(crate) no_devices: bool,
    /// Disables execution.
    pub(crate) no_exec: bool,
}

impl MountAttributes {
    /// No setuid, no devices, no execution: for proc, sysfs and the like.
    pub(crate) const INERT: Self =
        Self { read_only: false, no_setuid: true, no_devices: true, no_exec: true };

    /// Returns whether these attributes include all the other ones.
    pub(crate) fn include(self, other: Self) -> bool {
        self.flags().contains(other.flags())
    }

    /// Returns these attributes and the other ones.
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            read_only: self.read_only || other.read_only,
            no_setuid: self.no_setuid || other.no_setuid,
            no_devices: self.no_devices || other.no_devices,
            no_exec: self.no_exec || other.no_exec,
        }
    }

    /// Returns the attributes with read-only added.
    pub(crate) const fn read_only(self) -> Self {
        Self { read_only: true, ..self }
    }

    fn flags(self) -> MountAttrFlags {
        let mut flags = MountAttrFlags::empty();
        flags.set(MountAttrFlags::MOUNT_ATTR_RDONLY, self.read_only);
        flags.set(MountAttrFlags::MOUNT_ATTR_NOSUID, self.no_setuid);
        flags.set(MountAttrFlags::MOUNT_ATTR_NODEV, self.no_devices);
        flags.set(MountAttrFlags::MOUNT_ATTR_NOEXEC, self.no_exec);
        flags
    }
}

/// Whether an operation affects one mount or all mounts below it too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// One mount.
    One,
    /// The mount and all mounts below.
    Tree,
}

/// Calls mount_setattr(2) for the mount of a descriptor.
fn set(mount: BorrowedFd<'_>, depth: Depth, attributes: &MountAttr) -> std::io::Result<()> {
    set_at(mount, c"", depth, attributes)
}

/// Calls mount_setattr(2) for the mount of a path below a directory; the path is empty for the directory.
fn set_at(
    directory: BorrowedFd<'_>,
    path: &CStr,
    depth: Depth,
    attributes: &MountAttr,
) -> std::io::Result<()> {
    let mut flags = libc::AT_EMPTY_PATH;
    if depth == Depth::Tree {
        flags |= libc::AT_RECURSIVE;
    }
    // SAFETY: the path is a C string, the attributes live across the call and have the size passed.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            directory.as_raw_fd(),
            path.as_ptr(),
            flags,
            std::ptr::from_ref(attributes),
            std::mem::size_of::<MountAttr>(),
        )
    };
    if result == -1 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}

/// Adds attributes to a mount.
///
/// # Errors
/// Any error of mount_setattr(2).
pub(crate) fn restrict(
    mount: BorrowedFd<'_>,
    depth: Depth,
    attributes: MountAttributes,
) -> std::io::Result<()> {
    set(mount, depth, &MountAttr { attr_set: u64::from(attributes.flags().bits()), ..MountAttr::default() })
}

/// Separates a detached copy from the host's mounts: it neither receives nor sends mounts any more. Adds
/// attributes, and maps its ids through a user namespace if there is one (MOUNT_ATTR_IDMAP, Linux 5.12).
///
/// # Errors
/// `EINVAL` if a file system of the tree does not support mapped ids, `EPERM` if they are mapped already.
pub(crate) fn separate(
    tree: BorrowedFd<'_>,
    userns: Option<BorrowedFd<'_>>,
    attributes: MountAttributes,
) -> std::io::Result<()> {
    const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;
    let mut wanted = MountAttr {
        attr_set: u64::from(attributes.flags().bits()),
        propagation: libc::MS_PRIVATE,
        ..MountAttr::default()
    };
    if let Some(userns) = userns {
        wanted.attr_set |= MOUNT_ATTR_IDMAP;
        wanted.userns_fd = u64::try_from(userns.as_raw_fd()).unwrap_or_default();
    }
    set(tree, Depth::Tree, &wanted)
}

/// Makes a detached copy receive the mounts of its original, and send none. Adds attributes.
///
/// # Errors
/// Any error of mount_setattr(2).
pub(crate) fn receive(tree: BorrowedFd<'_>, attributes: MountAttributes) -> std::io::Result<()> {
    let attr_set = u64::from(attributes.flags().bits());
    set(tree, Depth::Tree, &MountAttr { attr_set, propagation: libc::MS_SLAVE, ..MountAttr::default() })
}

/// Changes the propagation of the mount at a path, and of those below it (`MS_PRIVATE`, `MS_SHARED`, …).
///
/// # Errors
/// Any error of mount_setattr(2).
pub(crate) fn propagate(mount_point: impl Arg, propagation: u64) -> std::io::Result<()> {
    let attributes = MountAttr { propagation, ..MountAttr::default() };
    mount_point.into_with_c_str(|path| Ok(set_at(CWD, path, Depth::Tree, &attributes)))?
}

/// Makes the mount at a path, and those below it, read-only and private.
///
/// # Errors
/// Any error of mount_setattr(2).
pub(crate) fn make_read_only(mount_point: &str) -> std::io::Result<()> {
    let attr_set = u64::from(MountAttrFlags::MOUNT_ATTR_RDONLY.bits());
    let attributes = MountAttr { attr_set, propagation: libc::MS_PRIVATE, ..MountAttr::default() };
    mount_point.into_with_c_str(|path| Ok(set_at(CWD, path, Depth::Tree, &attributes)))?
}

/// Returns a detached copy of the mount at a descriptor.
///
/// # Errors
/// Any error of open_tree(2).
pub(crate) fn copy_tree(place: BorrowedFd<'_>, depth: Depth) -> std::io::Result<OwnedFd> {
    copy_tree_at(place, Path::new(""), depth)
}

/// Returns a detached copy of the mount at a path below a directory; the path is empty for the directory. A
/// symbolic link as its last component is not followed.
///
/// # Errors
/// Any error of open_tree(2).
pub(crate) fn copy_tree_at(directory: BorrowedFd<'_>, path: &Path, depth: Depth) -> std::io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    flags |= OpenTreeFlags::AT_EMPTY_PATH | OpenTreeFlags::AT_SYMLINK_NOFOLLOW;
    flags.set(OpenTreeFlags::AT_RECURSIVE, depth == Depth::Tree);
    Ok(rustix::mount::open_tree(directory, path, flags)?)
}

/// Attaches a detached mount to the directory or file of a descriptor.
///
/// # Errors
/// Any error of move_mount(2).
pub(crate) fn attach(mount: BorrowedFd<'_>, place: BorrowedFd<'_>) -> std::io::Result<()> {
    attach_at(mount, place, Path::new(""))
}

/// Attaches a detached mount to a path below a directory; the path is empty for the directory. A symbolic
/// link as its last component is not followed.
///
/// # Errors
/// Any error of move_mount(2).
pub(crate) fn attach_at(
    mount: BorrowedFd<'_>,
    directory: BorrowedFd<'_>,
    path: &Path,
) -> std::io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(rustix::mount::move_mount(mount, c"", directory, path, flags)?)
}

/// A new, detached file system.
#[derive(Debug)]
pub(crate) struct NewFileSystem {
    /// Its mount.
    pub(crate) mount: OwnedFd,
    /// Its file system context (fsopen(2)).
    pub(crate) context: OwnedFd,
}

/// Creates a new, detached file system. `options` are pairs of key and value; an empty value sets a flag.
///
/// # Errors
/// Any error of the kernel, with its own messages if there are any.
pub(crate) fn new_file_system(
    kind: &str,
    options: &[(&str, &str)],
    attributes: MountAttributes,
) -> Result<NewFileSystem> {
    file_system_of(kind, kind, options, attributes)
}

/// Mounts the file system of a block device, detached. `options` are those of [`new_file_system`].
///
/// # Errors
/// As for [`new_file_system`].
pub(crate) fn device_file_system(
    kind: &str,
    device: &Path,
    options: &[(&str, &str)],
    attributes: MountAttributes,
) -> Result<OwnedFd> {
    Ok(file_system_of(kind, &device.to_string_lossy(), options, attributes)?.mount)
}

fn file_system_of(
    kind: &str,
    source: &str,
    options: &[(&str, &str)],
    attributes: MountAttributes,
) -> Result<NewFileSystem> {
    let context = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)
        .context(|| format!("cannot open file system '{kind}'"))?;
    let configure = || -> rustix::io::Result<OwnedFd> {
        rustix::mount::fsconfig_set_string(context.as_fd(), "source", source)?;
        for (key, value) in options {
            if value.is_empty() {
                rustix::mount::fsconfig_set_flag(context.as_fd(), *key)?;
            } else {
                rustix::mount::fsconfig_set_string(context.as_fd(), *key, *value)?;
            }
        }
        rustix::mount::fsconfig_create(context.as_fd())?;
        rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes.flags())
    };
    match configure() {
        Ok(mount) => Ok(NewFileSystem { mount, context }),
        Err(errno) => Err(refused(kind, errno, context.as_fd())),
    }
}

/// Returns the error of a file system that cannot be created, with the messages of the kernel as its hint.
fn refused(kind: &str, errno: rustix::io::Errno, context: BorrowedFd<'_>) -> Error {
    let error = Error::from(errno).context(format!("cannot create file system '{kind}'"));
    match kernel_messages(context) {
        Some(messages) if messages.contains("too revealing") => error.with_hint(format!(
            "messages of the kernel: {messages}; if this host is a machine itself, set security.nesting = true for it"
        )),
        Some(messages) => error.with_hint(format!("messages of the kernel: {messages}")),
        None => error,
    }
}

/// Returns the messages of a file system context after a failure, joined.
pub(super) fn kernel_messages(context: BorrowedFd<'_>) -> Option<String> {
    let mut messages = Vec::new();
    let mut buffer = [0u8; 512];
    while let Ok(length) = rustix::io::read(context, &mut buffer[..]) {
        // The first two bytes are a class: "e " an error, "w " a warning, "i " a notice.
        let text = String::from_utf8_lossy(buffer.get(2..length).unwrap_or_default());
        messages.push(text.trim().to_owned());
    }
    (!messages.is_empty()).then(|| messages.join("; "))
}

/// Returns whether a descriptor refers to the root of a mount (STATX_ATTR_MOUNT_ROOT, Linux 5.8).
///
/// # Errors
/// Any error of statx(2).
pub(crate) fn is_root_of_mount(place: &OwnedFd) -> std::io::Result<bool> {
    let flags = rustix::fs::AtFlags::EMPTY_PATH;
    let stat = rustix::fs::statx(place, "", flags, rustix::fs::StatxFlags::MNT_ID)?;
    Ok(stat.stx_attributes.contains(rustix::fs::StatxAttributes::MOUNT_ROOT))
}

/// Opens a directory of the host for reference.
///
/// # Errors
/// Any error of openat(2), with the path.
pub(crate) fn open_directory(path: &Path) -> Result<OwnedFd> {
    rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .context(|| format!("cannot open directory '{}'", path.display()))
}

/// Calls a function in a new mount namespace, a private copy of the present one. This process returns to its
/// own, and to its working directory.
///
/// # Errors
/// Those of the function, of unshare(2) and of setns(2).
pub(crate) fn in_new_namespace<T>(act: impl FnOnce() -> Result<T>) -> Result<T> {
    let own = own_namespace()?;
    let directory = open_directory(Path::new("."))?;
    unshare(CloneFlags::CLONE_NEWNS).context(|| "cannot create a mount namespace")?;
    let private = propagate("/", libc::MS_PRIVATE).context(|| "cannot keep mounts from the host");
    let result = private.and_then(|()| act());
    setns(&own, CloneFlags::CLONE_NEWNS).context(|| "cannot return to the mount namespace")?;
    rustix::process::fchdir(&directory).context(|| "cannot return to the working directory")?;
    result
}

/// Opens the mount namespace of this process.
///
/// # Errors
/// There is no procfs.
pub(crate) fn own_namespace() -> Result<OwnedFd> {
    rustix::fs::open("/proc/self/ns/mnt", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .context(|| "cannot open the mount namespace of this process")
}

/// Makes the mount of a descriptor the root of this mount namespace, and detaches the old root. All processes
/// of the namespace with the old root as their root get the new one.
///
/// # Errors
/// Any error of pivot_root(2) and umount2(2).
pub(crate) fn pivot(root: BorrowedFd<'_>) -> std::io::Result<()> {
    rustix::process::fchdir(root)?;
    // The same directory for both arguments stacks the old root on the new one, from where it is detached: no
    // directory for the old root is needed (pivot_root(2), "pivot_root(".", ".")").
    rustix::process::pivot_root(".", ".")?;
    rustix::mount::unmount(".", rustix::mount::UnmountFlags::DETACH)?;
    Ok(rustix::process::chdir("/")?)
}

/// Makes the mount of a descriptor, attached over the root of this mount namespace, the root of this process.
/// Other processes keep theirs, and no process of the host is visited (pivot_root(2) visits all).
///
/// # Errors
/// Any error of fchdir(2) and chroot(2).
pub(crate) fn change_root(root: BorrowedFd<'_>) -> std::io::Result<()> {
    rustix::process::fchdir(root)?;
    Ok(rustix::process::chroot(".")?)
}

/// Returns whether the root of this process was not that of its mount namespace (chroot(2)). Joins its own
/// namespace: afterwards its root is that of the namespace, and its working directory is unchanged.
///
/// # Errors
/// Any error of setns(2), `EINVAL` in a process of several threads; or the working directory cannot be
/// restored.
pub(crate) fn leaves_chroot() -> std::io::Result<bool> {
    let identity = || {
        let mask = rustix::fs::StatxFlags::INO | rustix::fs::StatxFlags::MNT_ID;
        let stat = rustix::fs::statx(CWD, "/", rustix::fs::AtFlags::empty(), mask)?;
        Ok::<_, rustix::io::Errno>((stat.stx_dev_major, stat.stx_dev_minor, stat.stx_ino, stat.stx_mnt_id))
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(CWD, ".", flags, Mode::empty())?;
    let before = identity()?;
    // By process id: a chroot may have no procfs.
    let own = rustix::process::pidfd_open(rustix::process::getpid(), rustix::process::PidfdFlags::empty())?;
    nix::sched::setns(&own, nix::sched::CloneFlags::CLONE_NEWNS)?;
    rustix::process::fchdir(&directory)?;
    Ok(identity()? != before)
}
