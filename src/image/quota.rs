//! Limits the disk space of the files that a machine changes (`resources.disk-max`): by a project quota on ext4 and
//! XFS, by systemd-machined for a subvolume of Btrfs. Called by `run` for a start, and by `control`.

use super::find;
use super::read_only;
use super::stack::Stack;
use crate::error::{Context, Error, Result};
use crate::host::runtime;
use crate::host::systemd::machined;
use crate::machine::Machine;
use crate::machine::name::Name;
use crate::machine::root::{Root, RootSource};
use crate::machine::size;
use crate::paths::Paths;
use crate::sys::btrfs;
use crate::sys::quota::{self, ProjectUsage};
use crate::tree::projects;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::XattrFlags;
use rustix::io::Errno;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The bit of all projects of Coracle: those of administrators are small numbers.
const OWN: u32 = 1 << 30;

/// The attribute of a directory whose limit is that of a definition. Without the key in the definition, the limit goes.
const MARK: &str = "trusted.coracle.disk-max";

/// Limits the space of the files that a machine changes, if its definition has a limit. That of a former definition is
/// removed; an error of that is logged.
///
/// # Errors
/// As for [`limit`].
pub(crate) fn limit_machine(paths: &Paths, machine: &Machine) -> Result<()> {
    if let Some(bytes) = machine.resources.disk_max {
        return limit(paths, &machine.root, Some(bytes));
    }
    if is_marked(&machine.root.source) {
        match lift(paths, &machine.root.source) {
            Ok(()) => log::info!("the definition has no disk-max any more: the limit is removed"),
            Err(error) => log::warn!("cannot remove the limit of a former definition: {error}, ignoring"),
        }
    }
    Ok(())
}

/// Removes the limit of a directory with a mark. Its copy has the mark, and no project.
fn lift(paths: &Paths, source: &RootSource) -> Result<()> {
    let place = writable(source)?;
    let directory = read_only::open(&place)?;
    if btrfs::lies_on(directory.as_fd()) {
        limit_subvolume(paths, &place, &directory, None)?;
    } else {
        remove_limit(&directory)?;
    }
    mark(&directory, false);
    Ok(())
}

/// Removes the limit of a project of Coracle.
fn remove_limit(directory: &OwnedFd) -> Result<()> {
    match quota::project(directory.as_fd()) {
        Ok(project) if project & OWN != 0 => quota::set_limit(directory.as_fd(), project, None)
            .context(|| "cannot remove the limit of a project"),
        _ => Ok(()),
    }
}

/// Returns whether the limit of a root is that of a definition.
fn is_marked(source: &RootSource) -> bool {
    let place = match source {
        RootSource::Directory(path) => path.clone(),
        RootSource::Stack(path) => path.join("rw"),
        RootSource::Image(_) => return false,
    };
    rustix::fs::getxattr(&place, MARK, &mut [0; 1]).is_ok()
}

/// Marks a directory, or removes the mark. A file system without attributes has no limits either.
fn mark(directory: &OwnedFd, is_limited: bool) {
    let marked = match is_limited {
        true => rustix::fs::fsetxattr(directory, MARK, b"1", XattrFlags::empty()),
        false => rustix::fs::fremovexattr(directory, MARK),
    };
    marked.unwrap_or_else(|errno| log::debug!("cannot mark the limit of a directory: {errno}, ignoring"));
}

/// Limits the space of the files that a machine with this root changes. `None` for no limit.
///
/// # Errors
/// A root without files that are kept, or a file system that does not enforce limits.
pub(crate) fn limit(paths: &Paths, root: &Root, bytes: Option<u64>) -> Result<()> {
    let limiting = || {
        let bytes = bytes.map_or_else(|| "infinity".to_owned(), size::exact);
        format!("cannot set resources.disk-max = \"{bytes}\" for '{}'", root.path().display())
    };
    limit_root(paths, root, bytes).map_err(|error| error.context(limiting()))
}

/// Removes the limit of an image that is removed: it would stay in the records of the file system, with a project that
/// no other image gets. Errors are logged.
pub(super) fn forget(source: &RootSource) {
    let removed =
        writable(source).and_then(|place| read_only::open(&place)).and_then(|place| remove_limit(&place));
    removed.unwrap_or_else(|error| log::debug!("{error}, ignoring"));
}

fn limit_root(paths: &Paths, root: &Root, bytes: Option<u64>) -> Result<()> {
    let place = writable(&root.source)?;
    let directory = read_only::open(&place)?;
    let bytes = bytes.filter(|bytes| *bytes != u64::MAX);
    if btrfs::lies_on(directory.as_fd()) {
        limit_subvolume(paths, &place, &directory, bytes)?;
        mark(&directory, bytes.is_some());
        return Ok(());
    }
    require_enforcement(&directory)?;
    let project = project_of(&place, &directory)?;
    if let RootSource::Stack(path) = &root.source {
        include_volumes(path, project)?;
    }
    quota::set_limit(directory.as_fd(), project, bytes).context(|| "cannot set the limit of a project")?;
    mark(&directory, bytes.is_some());
    Ok(())
}

/// Counts the files in the volumes of a stack with those of its writable layer. A link leads to files of others.
fn include_volumes(stack: &Path, project: u32) -> Result<()> {
    for volume in volumes(stack)? {
        let directory = read_only::open(&volume)?;
        let setting = || format!("cannot set the project of '{}'", volume.display());
        let found = quota::project(directory.as_fd()).context(setting)?;
        if found != 0 && found & OWN == 0 {
            return Err(of_administrator(&volume, found));
        }
        if found != project {
            projects::set(directory.as_fd(), project).map_err(|error| error.context(setting()))?;
        }
    }
    Ok(())
}

/// Returns the directories of a stack, other than its root, that a machine writes to.
fn volumes(stack: &Path) -> Result<Vec<PathBuf>> {
    let binds = Stack::read(stack)?.binds.into_iter().filter(|bind| !bind.read_only).map(|bind| bind.source);
    Ok(binds.filter(|volume| volume.symlink_metadata().is_ok_and(|found| found.is_dir())).collect())
}

/// Has systemd-machined set the limit of a subvolume.
fn limit_subvolume(paths: &Paths, place: &Path, directory: &OwnedFd, bytes: Option<u64>) -> Result<()> {
    if !btrfs::is_subvolume(directory.as_fd()) {
        return Err(Error::new(format!("'{}' is not a subvolume of Btrfs", place.display()))
            .with_hint("create one: 'coracle export NAME NAME.tar', and 'coracle import NAME.tar OTHER'"));
    }
    let name = image_of(paths, place)?;
    runtime::runtime()?.block_on(machined::set_image_limit(&name, bytes))
}

/// Returns the name that systemd-machined knows a directory by. Another one of the same file name is another image.
fn image_of(paths: &Paths, place: &Path) -> Result<Name> {
    let is_place = |name: &Name| find::by_name(paths, name).is_some_and(|image| image.path() == place);
    find::name_of(place).filter(is_place).ok_or_else(|| {
        Error::new(format!("systemd-machined does not know '{}' as an image", place.display()))
            .with_hint("move it to /var/lib/machines, or remove resources.disk-max")
    })
}

/// Returns the directory with the files that a machine changes.
fn writable(source: &RootSource) -> Result<PathBuf> {
    match source {
        RootSource::Directory(path) => Ok(path.clone()),
        RootSource::Stack(path) if path.join("rw").is_dir() => Ok(path.join("rw")),
        RootSource::Stack(_) => Err(Error::new("the stack has no writable layer")),
        RootSource::Image(_) => Err(Error::new("the root is a disk image, whose size is its limit")
            .with_hint("remove resources.disk-max")),
    }
}

/// Refuses a file system that does not enforce limits of projects.
fn require_enforcement(directory: &OwnedFd) -> Result<()> {
    if quota::are_enforced(directory.as_fd()) {
        return Ok(());
    }
    const EXT4: u32 = 0xef53;
    const XFS: u32 = 0x5846_5342;
    let kind = rustix::fs::fstatfs(directory).context(|| "cannot find out the file system")?;
    let (error, hint) = match u32::try_from(kind.f_type) {
        Ok(EXT4) => (
            "ext4 is mounted without 'prjquota'",
            "unmount it, enable quotas by 'tune2fs -O project,quota -Q prjquota DEVICE', and mount it with the option \
             'prjquota'",
        ),
        Ok(XFS) => (
            "XFS is mounted without 'prjquota'",
            "unmount it, and mount it with the option 'prjquota'; for the root file system boot with \
             rootflags=prjquota",
        ),
        _ => ("its file system has no limits for directories", "move the image to ext4, XFS or Btrfs"),
    };
    Err(Error::new(error).with_hint(hint))
}

/// Returns the project of a directory. Its files get a new one if it has none.
fn project_of(place: &Path, directory: &OwnedFd) -> Result<u32> {
    let reading = || format!("cannot find out the project of '{}'", place.display());
    let found = quota::project(directory.as_fd()).context(reading)?;
    if found & OWN != 0 {
        return Ok(found);
    }
    if found != 0 {
        return Err(of_administrator(place, found));
    }
    let inode = place.metadata().context(reading)?.ino();
    // The inode is unique on its file system, but for its upper bits.
    let first = u32::try_from(inode & u64::from(OWN - 1)).unwrap_or_default();
    for number in (first..OWN).chain(1..first) {
        let project = OWN | number;
        let is_free = match quota::usage(directory.as_fd(), project) {
            Ok(ProjectUsage { bytes: 0, files: 0, limit: None }) => true,
            // XFS has no record of it.
            Err(error) if Errno::from_io_error(&error) == Some(Errno::NOENT) => true,
            Ok(_) => false,
            Err(error) => return Err(error).context(reading),
        };
        if is_free {
            projects::set(directory.as_fd(), project)
                .map_err(|error| error.context(format!("cannot set the project of '{}'", place.display())))?;
            return Ok(project);
        }
    }
    Err(Error::new("all projects are in use"))
}

fn of_administrator(place: &Path, project: u32) -> Error {
    let error = format!("'{}' belongs to project {project} of the administrator", place.display());
    Error::new(error).with_hint(
        "its limit would be that of all files of the project: set it with setquota(8), and remove \
         resources.disk-max",
    )
}

/// Returns the space of the files that a machine changes, by its root. `None` if it is not counted.
pub(crate) fn usage(root: &Path) -> Option<ProjectUsage> {
    let writable = root.join("rw");
    let is_stack = root.extension().is_some_and(|suffix| suffix == "mstack");
    let directory = read_only::open(if is_stack { &writable } else { root }).ok()?;
    let project = quota::project(directory.as_fd()).ok().filter(|project| *project != 0)?;
    quota::usage(directory.as_fd(), project).ok().filter(|usage| usage.limit.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_systems_without_limits_are_named() {
        let directory = tempfile::Builder::new().tempdir_in("/dev/shm").unwrap();
        let opened = read_only::open(directory.path()).unwrap();
        let error = require_enforcement(&opened).unwrap_err();
        assert_eq!(error.hint(), Some("move the image to ext4, XFS or Btrfs"));
        assert_eq!(usage(directory.path()), None);
    }

    #[test]
    fn volumes_are_directories_in_the_stack() {
        let root = tempfile::tempdir().unwrap();
        let stack = root.path().join("web.mstack");
        for entry in ["layer@0", "rw", "bind@data", "robind@etc"] {
            std::fs::create_dir_all(stack.join(entry)).unwrap();
        }
        std::os::unix::fs::symlink(root.path(), stack.join("bind@srv")).unwrap();
        assert_eq!(volumes(&stack).unwrap(), [stack.join("bind@data")]);
    }

    #[test]
    fn a_directory_elsewhere_is_not_the_image_of_its_file_name() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::below(root.path());
        let (image, other) = (paths.images().join("web"), root.path().join("srv/web"));
        for directory in [&image, &other] {
            std::fs::create_dir_all(directory).unwrap();
        }
        assert_eq!(image_of(&paths, &image).unwrap().as_str(), "web");
        assert!(image_of(&paths, &other).unwrap_err().to_string().contains("srv/web' as an image"));
    }
}
