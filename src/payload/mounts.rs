//! Mounts of the builder. Called by its steps and by `bind`. Every target is resolved by descriptor inside
//! the root, so that no symbolic link of the tree, and no rename during the build, redirects a mount out of
//! the tree.

use super::host_mounts::HostMounts;
use super::nodes;
use super::tree_paths::{Directory, TreePaths};
use crate::error::{Context, Error, Result};
use crate::plan::step::{BindSource, BuildStep, IfMissing};
use crate::sys::mount::{self, Depth, MountAttributes, NewFileSystem};
use crate::sys::{descriptor, process};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use std::path::{Path, PathBuf};

/// Mount points that may be symbolic links in a tree, followed inside it: systems with all their files below
/// /usr have such links. Other mount points must be directories: the isolation depends on them.
const MAY_BE_LINKS: [&str; 2] = ["/run", "/tmp"];

/// Creates every missing directory of a path inside a root, mode 755, owned by a host id.
pub(crate) fn make_directories(paths: &TreePaths, path: &Path, owner: u32) -> Result<()> {
    let mut made = PathBuf::from("/");
    for part in path.strip_prefix("/").unwrap_or(path) {
        made.push(part);
        if paths.direct(&made).is_some() {
            make_directory(paths, &made, owner)?;
            continue;
        }
        match paths.open(&made) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                make_directory(paths, &made, owner)?
            }
            Err(error) => {
                return Err(error).context(|| format!("cannot open '{}' in the tree", made.display()));
            }
        }
    }
    Ok(())
}

fn make_directory(paths: &TreePaths, path: &Path, owner: u32) -> Result<()> {
    let (parent, name) = nodes::parent(paths, path)?;
    match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
        Ok(()) => nodes::give(&parent, name, owner),
        Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(rustix::io::Errno::ROFS) => Err(Error::new("read-only file system")
            .context(format!("cannot create mount point '{}' in the tree", path.display()))
            .with_hint("create that directory in the tree, or mount its file system read-write once")),
        Err(errno) => {
            Err(errno).context(|| format!("cannot create mount point '{}' in the tree", path.display()))
        }
    }
}

/// Opens a mount target. A symbolic link as the last component is refused.
pub(super) fn open_target(paths: &TreePaths, target: &Path) -> Result<OwnedFd> {
    let place = paths.open(target).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory => missing(paths, target),
        _ => cannot_open(error.into(), target),
    })?;
    let stat = rustix::fs::fstat(&place).context(|| "cannot get the type of the mount target")?;
    refuse_link(paths, target, FileType::from_raw_mode(stat.st_mode))?;
    Ok(place)
}

fn cannot_open(error: Error, target: &Path) -> Error {
    error.context(format!("cannot open mount target '{}'", target.display()))
}

pub(super) fn missing(paths: &TreePaths, target: &Path) -> Error {
    match nodes::parent(paths, target) {
        Ok(_) => cannot_open(rustix::io::Errno::NOENT.into(), target),
        Err(error) => error,
    }
}

fn refuse_link(paths: &TreePaths, target: &Path, kind: FileType) -> Result<()> {
    if kind != FileType::Symlink {
        return Ok(());
    }
    let to = paths.open(target).and_then(|link| nodes::read_link(&link)).unwrap_or_default();
    Err(Error::new(format!("mount target '{}' is a symbolic link to '{to}'", target.display()))
        .with_hint("use the link's target inside the tree as the mount target, or remove the link"))
}

/// An existing mount target: a directory and a path below it, which is empty for the directory itself.
#[derive(Debug)]
struct Target<'t, 'p> {
    directory: Directory<'t>,
    path: &'p Path,
    kind: FileType,
}

impl Target<'_, '_> {
    fn attach(&self, mount: &OwnedFd) -> Result<()> {
        mount::attach_at(mount.as_fd(), self.directory.as_fd(), self.path)
            .context(|| "cannot attach the mount")
    }
}

fn is_missing(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory)
}

/// Finds a mount target. `None` if it does not exist; a symbolic link is refused.
fn existing<'t, 'p>(paths: &'t TreePaths, target: &'p Path) -> Result<Option<Target<'t, 'p>>> {
    let found = match paths.direct(target) {
        Some((root, path)) => paths
            .kind(target)
            .unwrap_or_else(|| {
                let stat = rustix::fs::statat(root, path, AtFlags::SYMLINK_NOFOLLOW)?;
                Ok(FileType::from_raw_mode(stat.st_mode))
            })
            .map(|kind| (Directory::Root(root), path, kind)),
        None => paths.open(target).and_then(|place| {
            let stat = rustix::fs::fstat(&place)?;
            Ok((Directory::Opened(place), Path::new(""), FileType::from_raw_mode(stat.st_mode)))
        }),
    };
    match found {
        Ok((directory, path, kind)) => {
            refuse_link(paths, target, kind)?;
            Ok(Some(Target { directory, path, kind }))
        }
        Err(error) if is_missing(&error) => Ok(None),
        Err(error) => Err(cannot_open(error.into(), target)),
    }
}

/// Mounts a new file system.
pub(crate) fn new(
    paths: &mut TreePaths,
    kind: &str,
    options: &[(&str, &str)],
    attributes: MountAttributes,
    target: &Path,
    owner: u32,
) -> Result<()> {
    let NewFileSystem { mount: file_system, context } = mount::new_file_system(kind, options, attributes)?;
    descriptor::leave(context);
    // A link is no directory, so that the kernel refuses to mount a directory on it.
    let attached = paths
        .direct(target)
        .is_some_and(|(root, path)| mount::attach_at(file_system.as_fd(), root, path).is_ok());
    if !attached {
        let place = open_or_make(paths, target, owner)?;
        mount::attach(file_system.as_fd(), place.as_fd()).context(|| "cannot attach it")?;
    }
    paths.keep(target, file_system, attributes, kind);
    Ok(())
}

/// Refuses a mount target of a file system that is not a directory.
fn refuse_file(target: &Path, place: OwnedFd) -> Result<OwnedFd> {
    let stat = rustix::fs::fstat(&place).context(|| "cannot get the type of the mount target")?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        return Ok(place);
    }
    Err(Error::new(format!("mount target '{}' is not a directory", target.display()))
        .with_hint("replace it with a directory in the tree"))
}

/// Opens the mount target of a new file system. It is created if it does not exist.
fn open_or_make(paths: &TreePaths, target: &Path, owner: u32) -> Result<OwnedFd> {
    match paths.open(target) {
        Ok(place)
            if nodes::read_link(&place).is_ok()
                && MAY_BE_LINKS.iter().any(|link| Path::new(link) == target) =>
        {
            paths.open_as(target, OFlags::PATH | OFlags::DIRECTORY).map_err(|error| {
                let error =
                    Error::from(error).context(format!("cannot follow the link '{}'", target.display()));
                error.with_hint("create the link's target directory in the tree, or remove the link")
            })
        }
        Ok(_) => open_target(paths, target).and_then(|place| refuse_file(target, place)),
        Err(_) => {
            make_directories(paths, target, owner)?;
            open_target(paths, target)
        }
    }
}

/// Carries out a `BuildStep::Bind`.
pub(crate) fn bind(
    paths: &mut TreePaths,
    step: &BuildStep,
    host: &HostMounts,
    userns: Option<BorrowedFd<'_>>,
    owner: u32,
) -> Result<()> {
    let BuildStep::Bind { source, target, attributes, depth, missing, .. } = step else {
        return Err(Error::new("not a bind mount"));
    };
    let is_skipped = |error: Error| if *missing == IfMissing::Skip { Ok(()) } else { Err(error) };
    let tree = match source {
        BindSource::Host(path) => {
            let tree = match host.visit(|| copy_from_host(path, *depth, owner)) {
                Err(error) => return is_skipped(error),
                Ok(tree) => tree,
            };
            make_target(paths, target, &tree, owner)?;
            separate(&tree, userns, *attributes)?;
            tree
        }
        BindSource::Inside(path) if *missing == IfMissing::Create => {
            let tree = copy_followed(paths, path, *depth)?;
            make_target(paths, target, &tree, owner)?;
            mount::restrict(tree.as_fd(), *depth, *attributes).context(|| "cannot restrict the mount")?;
            tree
        }
        BindSource::Inside(path) => {
            let Some(tree) = copy_inside(paths, path, *depth)? else {
                return is_skipped(self::missing(paths, path));
            };
            // Only the top mount changes, so that mounts below can differ.
            restrict_copy(paths, path, &tree, *attributes)?;
            tree
        }
    };
    if !attach(paths, &tree, target)? {
        return is_skipped(self::missing(paths, target));
    }
    // A part of a file system of the builder, bound in the same file system, has no foreign files; a directory
    // of the kernel that is bound over itself stays one.
    match source {
        BindSource::Inside(path) if paths.ours(path).is_some() => descriptor::leave(tree),
        BindSource::Inside(path) if path == target && paths.in_mount(path).is_some() => {
            descriptor::leave(tree);
        }
        _ => paths.cover(target, tree),
    }
    Ok(())
}

/// Binds a directory of the host, read-only, where later mounts of the host below it appear too.
pub(super) fn tunnel(
    paths: &mut TreePaths,
    host: &HostMounts,
    source: &Path,
    target: &Path,
    owner: u32,
) -> Result<()> {
    let tree = host.visit(|| copy_from_host(source, Depth::One, owner))?;
    mount::receive(tree.as_fd(), MountAttributes::INERT.read_only()).context(|| "cannot receive mounts")?;
    if !attach(paths, &tree, target)? {
        return Err(missing(paths, target));
    }
    paths.cover(target, tree);
    Ok(())
}

/// Separates a copied mount of the host from it.
fn separate(tree: &OwnedFd, userns: Option<BorrowedFd<'_>>, attributes: MountAttributes) -> Result<()> {
    let separated = mount::separate(tree.as_fd(), userns, attributes);
    if userns.is_none() {
        return separated.context(|| "cannot restrict the mount");
    }
    separated
        .context(|| "cannot map ids: not supported by its file system")
        .map_err(|error| error.with_hint("set map-ids = false for this mount (:noidmap)"))
}

/// Adds attributes to the copied mount at a path of the tree, unless it has them.
fn restrict_copy(paths: &TreePaths, path: &Path, tree: &OwnedFd, attributes: MountAttributes) -> Result<()> {
    if paths.attributes(path).include(attributes) {
        return Ok(());
    }
    mount::restrict(tree.as_fd(), Depth::One, attributes).context(|| "cannot restrict the mount")
}

/// Copies the mount at a path of the tree. `None` if the path does not exist.
pub(super) fn copy_inside(paths: &TreePaths, path: &Path, depth: Depth) -> Result<Option<OwnedFd>> {
    let copied = match paths.in_mount(path) {
        Some((root, rest)) => mount::copy_tree_at(root, rest, depth),
        None => match existing(paths, path)? {
            Some(from) => mount::copy_tree_at(from.directory.as_fd(), from.path, depth),
            None => return Ok(None),
        },
    };
    match copied {
        Err(error) if is_missing(&error) => Ok(None),
        copied => copied.map(Some).context(|| "cannot copy the mount"),
    }
}

/// Copies the mount at a path of the tree; links are followed inside.
fn copy_followed(paths: &TreePaths, path: &Path, depth: Depth) -> Result<OwnedFd> {
    let from = paths.open_as(path, OFlags::PATH);
    let from = from.context(|| format!("cannot open bind source '{}' of the machine", path.display()))?;
    mount::copy_tree(from.as_fd(), depth).context(|| "cannot copy the mount")
}

/// Attaches a mount to an existing path of the tree. Returns false if the path does not exist.
pub(super) fn attach(paths: &TreePaths, tree: &OwnedFd, target: &Path) -> Result<bool> {
    let attached = match paths.in_mount(target) {
        Some((root, path)) => mount::attach_at(tree.as_fd(), root, path),
        None => match existing(paths, target)? {
            Some(place) => return place.attach(tree).map(|()| true),
            None => return Ok(false),
        },
    };
    match attached {
        Err(error) if is_missing(&error) => Ok(false),
        attached => attached.map(|()| true).context(|| "cannot attach the mount"),
    }
}

/// Copies the mount of a bind source, in the host's mount namespace, as root of the host: a network file
/// system may know no other user.
pub(super) fn copy_from_host(path: &Path, depth: Depth, owner: u32) -> Result<OwnedFd> {
    if owner != 0 {
        process::make_files_as(0)?;
    }
    let opened = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    if owner != 0 {
        process::make_files_as(owner)?;
    }
    let from = opened.context(|| format!("cannot open bind source '{}'", path.display()))?;
    mount::copy_tree(from.as_fd(), depth).context(|| "cannot copy the mount")
}

/// Creates a missing target of the same type as the source.
pub(super) fn make_target(paths: &TreePaths, target: &Path, from: &OwnedFd, owner: u32) -> Result<()> {
    let stat = rustix::fs::fstat(from).context(|| "cannot get the type of the bind source")?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        return make_directories(paths, target, owner);
    }
    let parent = target.parent().unwrap_or(Path::new("/"));
    make_directories(paths, parent, owner)?;
    let (directory, name) = nodes::parent(paths, target)?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    match rustix::fs::openat(&directory, name, flags, Mode::from_raw_mode(0o644)) {
        Ok(_) => nodes::give(&directory, name, owner),
        Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(errno) => Err(errno).context(|| format!("cannot create mount target '{}'", target.display())),
    }
}

/// Adds attributes to the mount at a path.
pub(crate) fn restrict(paths: &mut TreePaths, target: &Path, attributes: MountAttributes) -> Result<()> {
    let restricted = match paths.root_of(target) {
        Some(root) => mount::restrict(root, Depth::One, attributes),
        None => mount::restrict(open_target(paths, target)?.as_fd(), Depth::One, attributes),
    };
    restricted.context(|| "cannot restrict the mount")?;
    paths.restricted(target, attributes);
    Ok(())
}

/// Covers a path with an empty node of its type, a pipe with a socket. A path that cannot be covered, for
/// example a symbolic link, is an error.
pub(crate) fn mask(paths: &TreePaths, target: &Path, if_missing: IfMissing) -> Result<()> {
    let Some(place) = existing(paths, target)? else {
        return if if_missing == IfMissing::Skip { Ok(()) } else { Err(missing(paths, target)) };
    };
    let cover = match place.kind {
        FileType::Directory => "dir",
        // Not a pipe: open(2) by root inside would wait for the other side for ever.
        FileType::Fifo | FileType::Socket => "sock",
        FileType::CharacterDevice => "chr",
        FileType::BlockDevice => "blk",
        _ => "reg",
    };
    let cover = Path::new("/run/host/inaccessible").join(cover);
    let tree = copy_inside(paths, &cover, Depth::One)?.ok_or_else(|| missing(paths, &cover))?;
    restrict_copy(paths, &cover, &tree, MountAttributes::INERT.read_only())?;
    place.attach(&tree)?;
    descriptor::leave(tree);
    Ok(())
}

/// Detaches a file system that was only needed during the build, and removes its directory.
pub(crate) fn detach(paths: &mut TreePaths, target: &Path) -> Result<()> {
    let root = paths.root_of(target).ok_or_else(|| missing(paths, target))?;
    // By the working directory: the process may have no procfs.
    rustix::process::fchdir(root)
        .and_then(|()| rustix::mount::unmount(".", rustix::mount::UnmountFlags::DETACH))
        .context(|| format!("cannot detach '{}'", target.display()))?;
    paths.forget(target);
    let (parent, name) = nodes::parent(paths, target)?;
    rustix::fs::unlinkat(&parent, name, AtFlags::REMOVEDIR)
        .context(|| format!("cannot remove '{}'", target.display()))
}
