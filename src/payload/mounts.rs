//! Mounts of the builder. Called by its steps and by `bind`. Every target is resolved by descriptor inside
//! the root, so that no symbolic link of the tree, and no rename during the build, redirects a mount out of
//! the tree.

use super::tree_paths::TreePaths;
use super::{nodes, submounts};
use crate::error::{Context, Error, Result};
use crate::plan::step::{BindSource, BuildStep, IfMissing};
use crate::sys::mount::{self, Depth, MountAttributes};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use std::path::{Path, PathBuf};

/// Mount points that may be symbolic links in a tree, followed inside it: systems with all their files below
/// /usr have such links. Other mount points must be directories: the isolation depends on them.
const MAY_BE_LINKS: [&str; 2] = ["/run", "/tmp"];

/// Opens the root tree, creates missing mount points, and attaches it.
pub(crate) fn attach_root(
    directory: &Path,
    at: &Path,
    userns: Option<BorrowedFd<'_>>,
    read_only: bool,
    mount_points: &[PathBuf],
) -> Result<OwnedFd> {
    let host = TreePaths::new(mount::open_directory(directory)?);
    for point in mount_points {
        // On the host's own mount: an idmapped one has no id for the host's root to create with.
        make_directories(&host, point, 0)?;
    }
    let below = userns.map_or_else(|| Ok(Vec::new()), |_| submounts::of(directory))?;
    // Without mounts below, or without mapped ids, one recursive copy suffices.
    let depth = if below.is_empty() { Depth::Tree } else { Depth::One };
    let attributes = MountAttributes { read_only, ..MountAttributes::default() };
    let copy = |from: BorrowedFd<'_>, path: &Path| {
        let tree = mount::copy_tree(from, depth).context(|| "cannot copy the tree's mount")?;
        if let Some(userns) = userns {
            mount::map_ids(tree.as_fd(), depth, userns)
                .map_err(|error| submounts::no_idmap(directory, path, from, error))?;
        }
        if read_only {
            mount::restrict(tree.as_fd(), depth, attributes).context(|| "cannot make the root read-only")?;
        }
        Ok::<_, Error>(tree)
    };
    let tree = copy(host.root(), Path::new("/"))?;
    let place = mount::open_directory(at)?;
    mount::attach(tree.as_fd(), place.as_fd()).context(|| "cannot attach the root")?;
    let root = rustix::io::fcntl_dupfd_cloexec(&tree, 3).context(|| "cannot keep a descriptor")?;
    let root = TreePaths::new(root);
    // Mounts below the machine's own mount points would be covered: they are not copied.
    for path in below.iter().filter(|path| !mount_points.iter().any(|point| path.starts_with(point))) {
        let from = host.open(path).context(|| format!("cannot open '{}' in the tree", path.display()))?;
        let mounted = copy(from.as_fd(), path)?;
        let place = open_target(&root, path)?;
        mount::attach(mounted.as_fd(), place.as_fd()).context(|| "cannot attach the mount")?;
    }
    Ok(tree)
}

/// Creates every missing directory of a path inside a root, mode 755, owned by a host id.
pub(crate) fn make_directories(paths: &TreePaths, path: &Path, owner: u32) -> Result<()> {
    let mut made = PathBuf::from("/");
    for part in path.strip_prefix("/").unwrap_or(path) {
        made.push(part);
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
    existing(paths, target)?.map(|(place, _)| place).ok_or_else(|| {
        let error = Error::from(rustix::io::Errno::NOENT);
        match nodes::parent(paths, target) {
            Ok(_) => error.context(format!("cannot open mount target '{}'", target.display())),
            Err(error) => error,
        }
    })
}

/// Opens a mount target and returns its type. `None` if it does not exist.
fn existing(paths: &TreePaths, target: &Path) -> Result<Option<(OwnedFd, FileType)>> {
    let place = match paths.open(target) {
        Ok(place) => place,
        Err(error)
            if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) =>
        {
            return Ok(None);
        }
        Err(error) => {
            return Err(error).context(|| format!("cannot open mount target '{}'", target.display()));
        }
    };
    let stat = rustix::fs::fstat(&place).context(|| "cannot get the type of the mount target")?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Symlink => Err(Error::new(format!(
            "mount target '{}' is a symbolic link to '{}'",
            target.display(),
            nodes::read_link(&place).unwrap_or_default()
        ))
        .with_hint("use the link's target inside the tree as the mount target, or remove the link")),
        kind => Ok(Some((place, kind))),
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
    let file_system = mount::new_file_system(kind, options, attributes)?;
    let is_link = paths.open(target).is_ok_and(|place| nodes::read_link(&place).is_ok());
    let place = if is_link && MAY_BE_LINKS.iter().any(|point| Path::new(point) == target) {
        paths.open_as(target, OFlags::PATH | OFlags::DIRECTORY).map_err(|error| {
            let error = Error::from(error).context(format!("cannot follow the link '{}'", target.display()));
            error.with_hint("create the link's target directory in the tree, or remove the link")
        })?
    } else if let Some((place, _)) = existing(paths, target)? {
        place
    } else {
        make_directories(paths, target, owner)?;
        open_target(paths, target)?
    };
    mount::attach(file_system.as_fd(), place.as_fd()).context(|| "cannot attach it")?;
    paths.keep(target, file_system);
    Ok(())
}

/// Carries out a `BuildStep::Bind`.
pub(crate) fn bind(
    paths: &mut TreePaths,
    step: &BuildStep,
    userns: Option<BorrowedFd<'_>>,
    owner: u32,
) -> Result<()> {
    let BuildStep::Bind { source, target, attributes, depth, map_ids, missing } = step else {
        return Err(Error::new("not a bind mount"));
    };
    let from = match source {
        BindSource::Host(path) => rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
            .context(|| format!("cannot open bind source '{}'", path.display())),
        BindSource::Inside(path) => open_target(paths, path),
    };
    let from = match from {
        Err(_) if *missing == IfMissing::Skip => return Ok(()),
        from => from?,
    };
    if matches!(source, BindSource::Host(_)) {
        make_target(paths, target, &from, owner)?;
    }
    let place = match open_target(paths, target) {
        Err(_) if *missing == IfMissing::Skip => return Ok(()),
        place => place?,
    };
    let tree = mount::copy_tree(from.as_fd(), *depth).context(|| "cannot copy the mount")?;
    if *map_ids && let Some(userns) = userns {
        mount::map_ids(tree.as_fd(), *depth, userns)
            .context(|| "cannot map ids: not supported by its file system")
            .map_err(|error| error.with_hint("set map-ids = false for this mount (:noidmap)"))?;
    }
    // Inside the tree only the top mount changes, so that mounts below can differ.
    let restricted = if matches!(source, BindSource::Host(_)) { *depth } else { Depth::One };
    mount::restrict(tree.as_fd(), restricted, *attributes).context(|| "cannot restrict the mount")?;
    mount::attach(tree.as_fd(), place.as_fd()).context(|| "cannot attach the mount")?;
    paths.cover(target, tree);
    Ok(())
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
pub(crate) fn restrict(paths: &TreePaths, target: &Path, attributes: MountAttributes) -> Result<()> {
    let place = open_target(paths, target)?;
    mount::restrict(place.as_fd(), Depth::One, attributes).context(|| "cannot restrict the mount")
}

/// Covers a path with an empty node of its type, a pipe with a socket. A missing path needs no cover. A path
/// that cannot be covered, for example a symbolic link, is an error.
pub(crate) fn mask(paths: &TreePaths, target: &Path) -> Result<()> {
    let Some((place, kind)) = existing(paths, target)? else { return Ok(()) };
    let cover = match kind {
        FileType::Directory => "dir",
        // Not a pipe: open(2) by root inside would wait for the other side for ever.
        FileType::Fifo | FileType::Socket => "sock",
        FileType::CharacterDevice => "chr",
        FileType::BlockDevice => "blk",
        _ => "reg",
    };
    let cover = Path::new("/run/host/inaccessible").join(cover);
    let from = open_target(paths, &cover)?;
    let tree = mount::copy_tree(from.as_fd(), Depth::One).context(|| "cannot copy the mount")?;
    mount::restrict(tree.as_fd(), Depth::One, MountAttributes::INERT.read_only())
        .context(|| "cannot restrict the mount")?;
    mount::attach(tree.as_fd(), place.as_fd()).context(|| "cannot attach the mount")
}

/// Detaches a mount that was only needed during the build, and removes its directory.
pub(crate) fn detach(paths: &mut TreePaths, target: &Path) -> Result<()> {
    let place = open_target(paths, target)?;
    let path = format!("/proc/self/fd/{}", rustix::fd::AsRawFd::as_raw_fd(&place));
    rustix::mount::unmount(path, rustix::mount::UnmountFlags::DETACH)
        .context(|| format!("cannot detach '{}'", target.display()))?;
    drop(place);
    paths.forget(target);
    let (parent, name) = nodes::parent(paths, target)?;
    rustix::fs::unlinkat(&parent, name, AtFlags::REMOVEDIR)
        .context(|| format!("cannot remove '{}'", target.display()))
}
