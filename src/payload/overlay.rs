//! Overlays as further mounts: directories of the host and of the tree, combined. Called by `builder`.

use super::host_mounts::HostMounts;
use super::mounts::{attach, copy_from_host, copy_inside, make_directories, missing};
use super::tree_paths::TreePaths;
use crate::error::{Context, Error, Result};
use crate::plan::step::{BindSource, BuildStep, OverlayUpper};
use crate::sys::mount::{self, Depth, MountAttributes};
use crate::sys::overlay::{Marks, Overlay, Upper};
use crate::sys::process;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::path::Path;

/// The directory of changed files in a temporary layer.
const CHANGES: &str = "changes";

/// The environment of a step.
pub(super) struct Surroundings<'a> {
    /// The host's mount namespace.
    pub(super) host: &'a HostMounts,
    /// The user namespace that maps the ids of layers.
    pub(super) id_map: Option<BorrowedFd<'a>>,
    /// The host id of the guest's root.
    pub(super) owner: u32,
}

/// The directory of changed files: the mount around it, its name and that of the directory the kernel works
/// in.
struct OpenedUpper {
    mount: OwnedFd,
    data: OsString,
    work: OsString,
}

/// Carries out a `BuildStep::Overlay`.
pub(super) fn create(paths: &mut TreePaths, step: &BuildStep, around: &Surroundings<'_>) -> Result<()> {
    let BuildStep::Overlay { lower, upper, target, attributes, .. } = step else {
        return Err(Error::new("not an overlay"));
    };
    // The kernel expects the uppermost first.
    let lower = lower.iter().rev().map(|source| layer(paths, source, around)).collect::<Result<Vec<_>>>()?;
    let upper = match upper {
        OverlayUpper::None => None,
        OverlayUpper::Temporary => Some(temporary(&lower, around.owner)?),
        OverlayUpper::Directory(source) => Some(directory(paths, source, &lower, around)?),
    };
    let overlay = Overlay {
        lower: lower.iter().map(AsFd::as_fd).collect(),
        upper: upper.as_ref().map(|upper| Upper {
            mount: upper.mount.as_fd(),
            data: &upper.data,
            work: &upper.work,
        }),
        is_volatile: matches!(step, BuildStep::Overlay { upper: OverlayUpper::Temporary, .. }),
        marks: Marks::Trusted,
    };
    // Where procfs is the host's. The kernel changes the layers with the rights of this process.
    let tree = as_root_of_host(around.owner, || around.host.visit(|| overlay.mount()))?.mount;
    mount::restrict(tree.as_fd(), Depth::One, *attributes).context(|| "cannot restrict the mount")?;
    make_directories(paths, target, around.owner)?;
    if !attach(paths, &tree, target)? {
        return Err(missing(paths, target));
    }
    paths.cover(target, tree);
    Ok(())
}

/// Creates files as root of the host during an action.
fn as_root_of_host<T>(owner: u32, action: impl FnOnce() -> Result<T>) -> Result<T> {
    if owner == 0 {
        return action();
    }
    process::make_files_as(0)?;
    let done = action();
    process::make_files_as(owner)?;
    done
}

/// Copies the mount of a directory. That of the tree has mapped ids already.
fn layer(paths: &TreePaths, source: &BindSource, around: &Surroundings<'_>) -> Result<OwnedFd> {
    let path = match source {
        BindSource::Inside(path) => {
            return copy_inside(paths, path, Depth::One)?.ok_or_else(|| missing(paths, path));
        }
        BindSource::Host(path) => path,
    };
    let tree = around.host.visit(|| copy_from_host(path, Depth::One, around.owner))?;
    mount::separate(tree.as_fd(), around.id_map, MountAttributes::default())
        .context(|| format!("cannot map the ids of '{}'", path.display()))
        .map_err(|error| {
            error.with_hint("move it to ext4, xfs or btrfs, or set map-ids = false for this mount")
        })?;
    Ok(tree)
}

/// Creates a layer in memory, owned by the guest's root, which vanishes with the machine.
fn temporary(lower: &[OwnedFd], owner: u32) -> Result<OpenedUpper> {
    let owner = owner.to_string();
    let options = [("mode", "755"), ("uid", owner.as_str()), ("gid", owner.as_str())];
    let mount = mount::new_file_system("tmpfs", &options, MountAttributes::default())?.mount;
    prepare(mount, CHANGES.into(), lower)
}

/// Opens the directory of changed files by the mount of its parent: the kernel requires a second directory in
/// the same mount.
fn directory(
    paths: &TreePaths,
    source: &BindSource,
    lower: &[OwnedFd],
    around: &Surroundings<'_>,
) -> Result<OpenedUpper> {
    let (path, around_it): (&Path, fn(&Path) -> BindSource) = match source {
        BindSource::Host(path) => (path, |parent| BindSource::Host(parent.to_owned())),
        BindSource::Inside(path) => (path, |parent| BindSource::Inside(parent.to_owned())),
    };
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::new("the root directory cannot be the upper directory of an overlay"));
    };
    let mount = layer(paths, &around_it(parent), around)?;
    let is_of_host = matches!(source, BindSource::Host(_)) && around.id_map.is_none();
    let prepared = || prepare(mount, name.to_owned(), lower);
    let prepared = if is_of_host { as_root_of_host(around.owner, prepared) } else { prepared() };
    prepared.map_err(|error| error.context(format!("cannot use the upper directory '{}'", path.display())))
}

/// Creates missing directories of a writable layer.
fn prepare(mount: OwnedFd, data: OsString, lower: &[OwnedFd]) -> Result<OpenedUpper> {
    let work = OverlayUpper::work_directory(&data);
    let create = |name: &OsStr, mode: u32| match rustix::fs::mkdirat(&mount, name, Mode::from_raw_mode(mode))
    {
        Err(Errno::EXIST) => Ok(false),
        made => made.map(|()| true),
    };
    if create(&data, 0o755).context(|| "cannot create it")? {
        inherit(&mount, &data, lower)?;
    }
    create(&work, 0o700).context(|| format!("cannot create '{}' beside it", work.display()))?;
    Ok(OpenedUpper { mount, data, work })
}

/// Gives a new directory the mode and the owner of the layer below, as the mounts show them.
fn inherit(mount: &OwnedFd, data: &OsStr, lower: &[OwnedFd]) -> Result<()> {
    let doing = || "cannot set its owner";
    let Some(below) = lower.first() else { return Ok(()) };
    let like = rustix::fs::fstat(below).context(doing)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(mount, data, flags, Mode::empty()).context(doing)?;
    rustix::fs::fchown(&directory, Some(Uid::from_raw(like.st_uid)), Some(Gid::from_raw(like.st_gid)))
        .context(doing)?;
    rustix::fs::fchmod(&directory, Mode::from_raw_mode(like.st_mode)).context(doing)
}
