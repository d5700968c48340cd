//! The reasons that forbid a change of an image. Called by the verbs that change images, which hold its
//! locks. They change nothing.

use super::{find, named_files, read_only, snapshot, users};
use crate::error::{Context, Error, Result};
use crate::host::procfs;
use crate::machine::name::Name;
use crate::machine::root::RootSource;
use crate::paths::Paths;
use crate::state::record::Record;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// Refuses a machine that is running, or whose last run was not cleaned up.
///
/// # Errors
/// Such a machine.
pub(super) fn running(paths: &Paths, name: &Name) -> Result<()> {
    match Record::read(paths, name)? {
        None => Ok(()),
        Some(record) if record.is_alive() => Err(Error::new(format!("machine '{name}' is running"))
            .with_hint(format!("stop it: coracle stop {name}"))),
        Some(_) => Err(Error::new(format!("machine '{name}' has left a state record"))
            .with_hint(format!("clean up after it: coracle cleanup {name}"))),
    }
}

/// Refuses an image below `/usr`.
///
/// # Errors
/// Such an image.
pub(super) fn of_package(paths: &Paths, image: &RootSource) -> Result<()> {
    if !paths.strip(image.path()).starts_with("/usr") {
        return Ok(());
    }
    Err(Error::new(format!("'{}' belongs to a package", image.path().display()))
        .with_hint("copy it to '/var/lib/machines' under another name, and use the copy"))
}

/// Refuses a verb that is not for disk images: `problem` says why.
///
/// # Errors
/// A disk image.
pub(super) fn disk_image(image: &RootSource, problem: &str) -> Result<()> {
    let RootSource::Image(file) = image else { return Ok(()) };
    Err(Error::new(format!("the disk image '{}' {problem}", file.display())).with_hint(
        "clone it: a clone shares all blocks on xfs and btrfs; or copy its files to a directory: 'systemd-dissect \
         --copy-from'",
    ))
}

/// Refuses a version of an image in a directory `NAME.v`.
///
/// # Errors
/// Such an image.
pub(super) fn version(image: &Path) -> Result<()> {
    let above = image.parent().unwrap_or(image);
    if above.extension().is_none_or(|suffix| suffix != "v") {
        return Ok(());
    }
    Err(Error::new(format!("'{}' is one of several versions", image.display()))
        .with_hint(format!("manage the versions in '{}' by hand, or change a clone", above.display())))
}

/// Refuses a read-only directory or disk image.
///
/// # Errors
/// Such an image.
pub(super) fn read_only(name: &Name, image: &Path) -> Result<()> {
    if !read_only::is_protected(image) {
        return Ok(());
    }
    Err(Error::new(format!("'{}' is read-only", image.display()))
        .with_hint(format!("make it writable first: coracle read-only {name} no")))
}

/// Refuses an image that stacks, snapshots, links or definitions of other machines need.
///
/// # Errors
/// The first kind of users, all named.
pub(super) fn used(image: &Path, users: &[PathBuf], others: &[Name]) -> Result<()> {
    users::refuse(image, users)
        .map_err(|error| error.with_hint("remove them first: without the image they do not start"))?;
    if others.is_empty() {
        return Ok(());
    }
    let named: Vec<String> = others.iter().map(|name| format!("'{name}'")).collect();
    Err(Error::new(format!("'{}' is the root in the definition of {}", image.display(), named.join(", ")))
        .with_hint("change 'root' in these definitions, or remove these machines first"))
}

/// Refuses an image with snapshots that clones stand on.
///
/// # Errors
/// Such clones, all named.
pub(super) fn used_snapshots(paths: &Paths, name: &Name) -> Result<()> {
    let snapshots = snapshot::directory(paths, name);
    users::refuse(&snapshots, &users::of(paths, &snapshots)?).map_err(|error| {
        error.with_hint("remove them first, or convert them to directories: they are clones of its snapshots")
    })
}

/// Refuses a new name that has an image of any kind, also one that Coracle does not start.
///
/// # Errors
/// Such a name, or one that ends like the file of an image.
pub(super) fn existing(paths: &Paths, name: &Name) -> Result<()> {
    find::refuse_suffix(name)?;
    for directory in paths.image_directories().into_iter().filter(|directory| directory.is_dir()) {
        for suffix in ["", ".raw", ".mstack", ".v", ".raw.v", ".mstack.v"] {
            let file = directory.join(format!("{name}{suffix}"));
            if named_files::exists(&file)? {
                return Err(Error::new(format!("image '{name}' exists already: '{}'", file.display()))
                    .with_hint("choose another name, or remove that image"));
            }
        }
    }
    Ok(())
}

/// Refuses a new name with snapshots: its former image was deleted without them, and a rollback would restore
/// it.
///
/// # Errors
/// Such a name.
pub(super) fn former_snapshots(paths: &Paths, name: &Name) -> Result<()> {
    let found = snapshot::tags(paths, name)?;
    let Some(first) = found.first() else { return Ok(()) };
    Err(Error::new(format!("snapshot '{first}' of a former image '{name}' exists"))
        .with_hint(format!("remove all snapshots of that image: coracle remove {name}")))
}

/// Refuses to rename a stack with links through its name: they would dangle.
///
/// # Errors
/// The first such link.
pub(super) fn own_name(image: &Path) -> Result<()> {
    let Some(entry) = users::through_own_name(image)? else { return Ok(()) };
    Err(Error::new(format!("'{}' leads through the name of the image", entry.display()))
        .with_hint("make it a link to the directory itself, or relative to the stack"))
}

/// Refuses a stack with a link as its writable part: the files behind it are not part of the image, and a
/// copy of the link would share them.
///
/// # Errors
/// Such a stack.
pub(super) fn writable_link(image: &RootSource) -> Result<()> {
    let RootSource::Stack(stack) = image else { return Ok(()) };
    let Some(entry) =
        ["rw", "root", "bind@-"].iter().map(|name| stack.join(name)).find(|path| path.is_symlink())
    else {
        return Ok(());
    };
    Err(Error::new(format!("'{}' is a link: the files behind it are not part of the image", entry.display()))
        .with_hint("put the directory in the place of the link"))
}

/// Refuses an image that is a mount point or contains one: the mount would be lost or stay in the way.
///
/// # Errors
/// The first mount point.
pub(super) fn mounts(image: &Path) -> Result<()> {
    let doing = || format!("cannot look for mounts in '{}'", image.display());
    let directory = image.canonicalize().context(doing)?;
    let mounts = std::fs::read("/proc/self/mountinfo").context(doing)?;
    let point = |line: &[u8]| {
        let field = line.split(|byte| *byte == b' ').nth(4)?;
        Some(PathBuf::from(OsString::from_vec(procfs::unescaped(field))))
    };
    let mut points = mounts.split(|byte| *byte == b'\n').filter_map(point);
    let Some(found) = points.find(|point| point.starts_with(&directory)) else { return Ok(()) };
    Err(Error::new(format!("'{}' is a mount point", found.display()))
        .with_hint(format!("unmount it: umount '{}'", found.display())))
}
