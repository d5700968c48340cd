//! Files, directories and devices that the builder creates, as the guest's root, in file systems that the
//! builder has mounted. Called by `builder`. Paths are resolved by descriptor inside the root.

use super::host_mounts::HostMounts;
use super::tree_paths::{Directory, TreePaths};
use crate::error::{Context, Error, Result};
use crate::plan::step::{Device, SessionFile};
use crate::sys::mount::{self, Depth, MountAttributes};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Uid};
use std::path::Path;

/// Returns a path as a directory and the path below it: the root of a file system, or the opened parent. No
/// link is on the way to its last component.
pub(super) fn parent<'t, 'p>(paths: &'t TreePaths, path: &'p Path) -> Result<(Directory<'t>, &'p Path)> {
    if let Some((root, rest)) = paths.direct(path) {
        return Ok((Directory::Root(root), rest));
    }
    let directory = path.parent().unwrap_or(Path::new("/"));
    let opened = paths.open_as(directory, OFlags::PATH | OFlags::DIRECTORY).map_err(|error| {
        let error = Error::from(error).context(format!("cannot open '{}' in the tree", directory.display()));
        match paths.open(directory).and_then(|link| read_link(&link)) {
            Ok(to) => error.with_hint(format!(
                "'{}' is a link to '{to}', and links are resolved inside the tree: use a path without that link",
                directory.display()
            )),
            Err(_) => error,
        }
    });
    let name = path.file_name().map_or(Path::new("."), Path::new);
    Ok((Directory::Opened(opened?), name))
}

/// Returns the target of the symbolic link at a descriptor.
pub(super) fn read_link(link: &OwnedFd) -> std::io::Result<String> {
    Ok(rustix::fs::readlinkat(link, c"", Vec::new())?.to_string_lossy().into_owned())
}

/// Changes the owner of a new node to the guest's root. An idmapped tree has no id for the host's root, and a
/// directory may set the group of its files.
pub(super) fn give(directory: &Directory<'_>, name: &Path, owner: u32) -> Result<()> {
    let (uid, gid) = (Uid::from_raw(owner), Gid::from_raw(owner));
    rustix::fs::chownat(directory, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
        .context(|| format!("cannot change the owner of '{}' to the guest's root", name.display()))
}

/// Changes the owner of a node to ids of the host.
pub(crate) fn own(paths: &TreePaths, path: &Path, uid: u32, gid: u32) -> Result<()> {
    let (at, name) = parent(paths, path)?;
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    Ok(rustix::fs::chownat(&at, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Creates a directory, if it does not exist.
pub(crate) fn directory(paths: &TreePaths, path: &Path, mode: u32) -> Result<()> {
    let (at, name) = parent(paths, path)?;
    match rustix::fs::mkdirat(&at, name, Mode::from_raw_mode(mode)) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Creates a file with content.
pub(crate) fn file(paths: &TreePaths, path: &Path, mode: u32, content: &[u8]) -> Result<()> {
    let (at, name) = parent(paths, path)?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&at, name, flags, Mode::from_raw_mode(mode))?;
    std::io::Write::write_all(&mut std::fs::File::from(file), content).context(|| "cannot write its content")
}

/// Creates a file or directory of a build session.
pub(super) fn session(paths: &TreePaths, file: &SessionFile, owner: u32) -> Result<()> {
    match file {
        SessionFile::Replace { path, content } => replace(paths, path, content.as_bytes(), owner),
        SessionFile::Home { path, owner: (user, group) } => {
            home(paths, path, (owner.saturating_add(*user), owner.saturating_add(*group)))
        }
    }
}

/// Creates a file of mode 644 with content, owned by the guest's root, in the place of an existing one.
fn replace(paths: &TreePaths, path: &Path, content: &[u8], owner: u32) -> Result<()> {
    let (at, name) = parent(paths, path)?;
    match rustix::fs::unlinkat(&at, name, AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => {}
        Err(errno) => return Err(Error::from(errno).context("cannot remove the existing one")),
    }
    file(paths, path, 0o644, content)?;
    give(&at, name, owner)
}

/// Creates a home directory of mode 755 for a user, by the ids of the host. An existing one stays.
fn home(paths: &TreePaths, path: &Path, (uid, gid): (u32, u32)) -> Result<()> {
    let (at, name) = parent(paths, path)?;
    match rustix::fs::mkdirat(&at, name, Mode::from_raw_mode(0o755)) {
        Ok(()) => {}
        Err(rustix::io::Errno::EXIST) => return Ok(()),
        Err(errno) => return Err(errno.into()),
    }
    let (user, group) = (Uid::from_raw(uid), Gid::from_raw(gid));
    rustix::fs::chownat(&at, name, Some(user), Some(group), AtFlags::SYMLINK_NOFOLLOW)
        .context(|| "cannot change its owner")
}

/// Creates a named pipe.
pub(crate) fn fifo(paths: &TreePaths, path: &Path, mode: u32) -> Result<()> {
    let (at, name) = parent(paths, path)?;
    Ok(rustix::fs::mknodat(&at, name, FileType::Fifo, Mode::from_raw_mode(mode), 0)?)
}

/// Creates a socket without a listener, mode 000.
pub(crate) fn socket(paths: &TreePaths, path: &Path) -> Result<()> {
    let (at, name) = parent(paths, path)?;
    Ok(rustix::fs::mknodat(&at, name, FileType::Socket, Mode::empty(), 0)?)
}

/// Creates a symbolic link.
pub(crate) fn link(paths: &TreePaths, path: &Path, to: &Path) -> Result<()> {
    let (at, name) = parent(paths, path)?;
    Ok(rustix::fs::symlinkat(to, &at, name)?)
}

/// Creates a device node. If mknod(2) is not permitted (Coracle itself runs in a container), binds the host's
/// node instead, and skips the device 0:0 that covers others.
pub(crate) fn device(
    paths: &TreePaths,
    host: &HostMounts,
    path: &Path,
    device: Device,
    mode: u32,
) -> Result<()> {
    let (at, name) = parent(paths, path)?;
    let kind = if device.block { FileType::BlockDevice } else { FileType::CharacterDevice };
    let number = rustix::fs::makedev(device.major, device.minor);
    match rustix::fs::mknodat(&at, name, kind, Mode::from_raw_mode(mode), number) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::PERM) if device.major == 0 => Ok(()),
        Err(rustix::io::Errno::PERM) => bind_device(paths, host, path),
        Err(errno) => Err(errno.into()),
    }
}

fn bind_device(paths: &TreePaths, host: &HostMounts, path: &Path) -> Result<()> {
    file(paths, path, 0o666, b"")?;
    let tree = host.visit(|| {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let node = rustix::fs::open(path, flags, Mode::empty())
            .context(|| format!("cannot open the host's '{}'", path.display()))?;
        mount::copy_tree(node.as_fd(), Depth::One).context(|| "cannot copy its mount")
    })?;
    let attributes = MountAttributes { no_setuid: true, no_exec: true, ..MountAttributes::default() };
    mount::separate(tree.as_fd(), None, attributes).context(|| "cannot restrict it")?;
    let place = paths.open(path).context(|| "cannot open it")?;
    mount::attach(tree.as_fd(), place.as_fd()).context(|| "cannot attach it")
}

/// Binds a socket to a path inside the root. A socket address holds 108 bytes and is resolved from the
/// builder's own root, so the working directory becomes the directory of the socket.
pub(crate) fn bind_socket(paths: &TreePaths, socket: BorrowedFd<'_>, path: &Path, mode: u32) -> Result<()> {
    let (at, name) = parent(paths, path)?;
    // The name inherits the mode of the socket: it never exists with another mode, and no path is followed to
    // change it.
    rustix::fs::fchmod(socket, Mode::from_raw_mode(mode)).context(|| "cannot set the socket's mode")?;
    rustix::process::fchdir(at.as_fd()).context(|| "cannot enter its directory")?;
    let address = rustix::net::SocketAddrUnix::new(name).context(|| "cannot name the socket")?;
    rustix::net::bind(socket, &address).context(|| "cannot bind the socket")
}

/// Opens the first pty of the guest's devpts, whose slave belongs to the guest's root, and links
/// `/dev/console` to it. Returns the master.
pub(crate) fn console(paths: &TreePaths) -> Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NOFOLLOW;
    let ours = paths.open_as(Path::new("/dev/pts/ptmx"), flags).context(|| "cannot open a pty")?;
    rustix::pty::unlockpt(&ours).context(|| "cannot unlock the pty")?;
    link(paths, Path::new("/dev/console"), Path::new("pts/0"))?;
    Ok(ours)
}
