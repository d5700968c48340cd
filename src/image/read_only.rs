//! Makes images read-only and writable again, as systemd-machined does: the immutable flag of a directory,
//! the property of a subvolume, the mode of a disk image. Called by `control`.

use super::locks::{self, HeldLocks};
use super::store::Store;
use super::{base_check, find, refuse, users};
use crate::error::{Context, Error, Result};
use crate::host::lock::LockMode;
use crate::machine::name::Name;
use crate::machine::root::RootSource;
use crate::paths::Paths;
use crate::sys::read_only;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, StatxAttributes, StatxFlags};
use rustix::io::Errno;
use std::path::Path;

/// The method of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    /// It was as requested already.
    Unchanged,
    /// By the immutable flag of its directory.
    ImmutableFlag,
    /// By the property of its subvolume.
    Subvolume,
    /// By the mode of its file.
    FileMode,
}

/// The bits of the mode of a writable disk image.
const WRITE: Mode = Mode::WUSR.union(Mode::WGRP).union(Mode::WOTH);

impl std::fmt::Display for Method {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Unchanged => "unchanged",
            Self::ImmutableFlag => "the immutable flag of its directory",
            Self::Subvolume => "the property of its subvolume",
            Self::FileMode => "the mode of its file",
        })
    }
}

/// Returns whether the directory of an image has a read-only flag. The image may be missing.
pub(crate) fn is_set(image: &Path) -> bool {
    /// `BTRFS_FIRST_FREE_OBJECTID`: the inode of the root of every subvolume.
    const SUBVOLUME: u64 = 256;
    let Ok(found) = rustix::fs::statx(rustix::fs::CWD, image, AtFlags::empty(), StatxFlags::INO) else {
        return false;
    };
    // Most images need no further call.
    found.stx_attributes.contains(StatxAttributes::IMMUTABLE)
        || found.stx_ino == SUBVOLUME
            && open(image).is_ok_and(|directory| read_only::is_set(directory.as_fd()).unwrap_or(false))
}

/// Makes the image of a name read-only, or writable again.
///
/// # Errors
/// A missing image, one in use, one of a package, a version, a stack, a file system without the flag; to make
/// it writable, also stacks that stand on it.
pub(crate) fn set(paths: &Paths, name: &Name, read_only: bool) -> Result<Method> {
    let doing = || {
        let state = if read_only { "read-only" } else { "writable" };
        format!("cannot make image '{name}' {state}")
    };
    change(paths, name, read_only).map_err(|error| error.context(doing()))
}

fn change(paths: &Paths, name: &Name, read_only: bool) -> Result<Method> {
    let image = find::existing(paths, name)?;
    refuse::of_package(paths, &image)?;
    refuse::version(image.path())?;
    let path = match &image {
        RootSource::Directory(path) => path,
        RootSource::Stack(stack) => return change_stack(stack, name, read_only),
        RootSource::Image(file) => return change_disk(paths, file, name, read_only),
    };
    let mut held = HeldLocks::default();
    held.take(paths, locks::of_image(paths, name, path, LockMode::Exclusive)?)?;
    let directory = open(path)?;
    let doing = || format!("cannot change the flags of '{}'", path.display());
    if read_only::is_set(directory.as_fd()).context(doing)? == read_only {
        return Ok(Method::Unchanged);
    }
    if !read_only {
        users::refuse(path, &users::of(paths, path)?).map_err(|error| {
            error.with_hint("remove them first: changes of an image destroy stacks that stand on it")
        })?;
    }
    let set = read_only::set(directory.as_fd(), read_only);
    let hint = match set.as_ref().map_err(Errno::from_io_error) {
        Err(Some(Errno::NOTTY | Errno::OPNOTSUPP)) => {
            Some("its file system has no immutable flag: move the image to ext4, xfs or btrfs")
        }
        Err(Some(Errno::PERM)) => Some("the flag requires CAP_LINUX_IMMUTABLE, which containers lack"),
        _ => None,
    };
    let set = set.and_then(|()| Ok(rustix::fs::fsync(&directory)?)).context(doing);
    set.map_err(|error| if let Some(hint) = hint { error.with_hint(hint) } else { error })?;
    if read_only {
        prepare_clones(paths, path, &directory);
    }
    let is_subvolume = crate::sys::btrfs::is_subvolume(directory.as_fd());
    Ok(if is_subvolume { Method::Subvolume } else { Method::ImmutableFlag })
}

/// Checks a directory for the stacks of its clones, which are created at once then.
fn prepare_clones(paths: &Paths, path: &Path, directory: &OwnedFd) {
    match base_check::find_marked(&Store::of(paths), path, directory) {
        Ok(None) => {}
        Ok(Some(file)) => log::warn!(
            "clones of it will be copies: '{}' belongs to an overlay inside it, and would be lost in a stack",
            file.display()
        ),
        Err(error) => log::warn!("cannot look for overlays inside it: {error}, ignoring"),
    }
}

/// Changes nothing: the entries of a stack determine whether it is writable.
fn change_stack(stack: &Path, name: &Name, read_only: bool) -> Result<Method> {
    if !read_only && stack.join("rw").exists() {
        return Ok(Method::Unchanged);
    }
    let (problem, hint) = if read_only {
        let hint = "set root.read-only = true in the definition of its machine: a stack has no such flag";
        ("a stack", hint.to_owned())
    } else {
        ("a stack without a writable layer", format!("use a clone of it: coracle clone {name} NEW"))
    };
    Err(Error::new(format!("'{}' is {problem}", stack.display())).with_hint(hint))
}

/// Changes the mode of a disk image, as systemd-machined does.
fn change_disk(paths: &Paths, file: &Path, name: &Name, read_only: bool) -> Result<Method> {
    let doing = || format!("cannot change the mode of '{}'", file.display());
    let mut held = HeldLocks::default();
    held.take(paths, locks::of_image(paths, name, file, LockMode::Exclusive)?)?;
    let opened = rustix::fs::open(file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).context(doing)?;
    let mode = Mode::from_raw_mode(rustix::fs::fstat(&opened).context(doing)?.st_mode);
    if mode.intersects(WRITE) != read_only {
        return Ok(Method::Unchanged);
    }
    let wanted = if read_only { mode - WRITE } else { mode | Mode::WUSR };
    rustix::fs::fchmod(&opened, wanted).and_then(|()| rustix::fs::fsync(&opened)).context(doing)?;
    Ok(Method::FileMode)
}

/// Returns whether nobody may write to a disk image, which makes it read-only. The image may be missing.
pub(crate) fn is_protected(file: &Path) -> bool {
    let found = rustix::fs::stat(file);
    found.is_ok_and(|found| {
        FileType::from_raw_mode(found.st_mode) == FileType::RegularFile
            && !Mode::from_raw_mode(found.st_mode).intersects(WRITE)
    }) || is_set(file)
}

pub(super) fn open(directory: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(directory, flags, Mode::empty())
        .context(|| format!("cannot open '{}'", directory.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_own_directories_without_clones_are_changed() {
        let root = tempfile::Builder::new().tempdir_in("/var/tmp").unwrap();
        let paths = Paths::below(root.path());
        let at = |path: &str| root.path().join(path);
        for directory in
            ["golden", "web.mstack/rw", "closed.mstack"].map(|image| format!("var/lib/machines/{image}"))
        {
            std::fs::create_dir_all(at(&directory)).unwrap();
        }
        std::fs::create_dir_all(at("usr/lib/machines/vendor")).unwrap();
        let name = |text: &str| Name::new(text).unwrap();
        for (image, expected) in [
            ("none", "image 'none' does not exist"),
            ("vendor", "belongs to a package"),
            ("web", "web.mstack' is a stack"),
            ("closed", "closed.mstack' is a stack"),
        ] {
            let error = set(&paths, &name(image), true).unwrap_err();
            assert!(error.to_string().contains(expected) && error.hint().is_some(), "{error}");
        }
        assert_eq!(set(&paths, &name("web"), false), Ok(Method::Unchanged));
        let error = set(&paths, &name("closed"), false).unwrap_err();
        assert!(error.to_string().ends_with("is a stack without a writable layer"), "{error}");
        if set(&paths, &name("golden"), true).is_err() {
            // Without CAP_LINUX_IMMUTABLE.
            return;
        }
        assert!(is_set(&at("var/lib/machines/golden")));
        assert_eq!(set(&paths, &name("golden"), true), Ok(Method::Unchanged));
        std::os::unix::fs::symlink("../golden", at("var/lib/machines/web.mstack/layer@0")).unwrap();
        let error = set(&paths, &name("golden"), false).unwrap_err();
        assert!(error.to_string().contains("web.mstack' stands on image"), "{error}");
        std::fs::remove_file(at("var/lib/machines/web.mstack/layer@0")).unwrap();
        assert_eq!(set(&paths, &name("golden"), false), Ok(Method::ImmutableFlag));
        assert_eq!(std::fs::read_dir(at("run/systemd/nspawn/locks")).unwrap().count(), 0);
    }
}
