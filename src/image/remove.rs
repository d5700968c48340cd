//! Removes images, with all records about them. The image loses its name first, by one rename(2); everything
//! after that is repeated by the next verb if this one is killed. Called by `control`.

use super::changes::{Changes, Step};
use super::find;
use super::locks::{self, HeldLocks};
use super::named_files::{self, Keeper, NamedFile};
use super::read_only;
use super::users;
use crate::error::{Context, Error, Result};
use crate::host::lock::LockMode;
use crate::host::{probe, procfs};
use crate::machine::name::Name;
use crate::paths::Paths;
use crate::state::id_ranges;
use crate::state::record::Record;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// Whether files in `/etc` are deleted too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purge {
    /// They are kept.
    No,
    /// They are deleted.
    Yes,
}

/// What was removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Removal {
    /// The image. `None` if the machine had none.
    pub(crate) image: Option<PathBuf>,
    /// The files in `/etc` that were kept.
    pub(crate) kept: Vec<PathBuf>,
    /// The image that is now found for the name.
    pub(crate) uncovered: Option<PathBuf>,
}

/// Removes the image of a name. `others` are the machines whose definitions have it as their root.
///
/// # Errors
/// A missing image; one that is running, read-only or of a package, or that others stand on; a file that
/// cannot be deleted.
pub(crate) fn remove(paths: &Paths, name: &Name, purge: Purge, others: &[Name]) -> Result<Removal> {
    remove_image(paths, name, purge, others)
        .map_err(|error| error.context(format!("cannot remove image '{name}'")))
}

fn remove_image(paths: &Paths, name: &Name, purge: Purge, others: &[Name]) -> Result<Removal> {
    let image = find::by_name(paths, name);
    let path = image.as_ref().map(|image| image.path().to_owned());
    let directory = path.as_deref().and_then(Path::parent).map_or_else(|| paths.images(), Path::to_owned);
    let files = named_files::existing(paths, &directory, name)?;
    let is_defined = files.iter().any(|file| file.keeper == Keeper::Administrator);
    if path.is_none() {
        if purge == Purge::No || !is_defined {
            find::existing(paths, name)?;
        }
        find::refuse_other(paths, name)?;
    }
    let mut held = HeldLocks::default();
    held.take(
        paths,
        [locks::of_name(paths, name, path.as_deref().unwrap_or_else(|| Path::new(name.as_str())))],
    )?;
    refuse_running(paths, name)?;
    let mut changes = Changes { names: vec![name.clone()], images: Vec::new(), steps: Vec::new() };
    if let Some(image) = &image {
        let path = image.path();
        find::refuse_vendor(paths, image)?;
        refuse_versioned(path)?;
        // A link is removed, not the image that it leads to.
        if !path.is_symlink() {
            held.take(paths, locks::of_path(paths, path, LockMode::Exclusive)?)?;
            refuse_protected(paths, name, path, others)?;
        }
        refuse_used_snapshots(paths, name)?;
        let trash = trash_of(path);
        changes.steps.push(Step::Rename { from: path.to_owned(), to: trash.clone(), immutable: false });
        changes.images = vec![path.to_owned(), trash];
    }
    let is_kept = |file: &NamedFile| {
        file.is_of_package(paths) || file.keeper == Keeper::Administrator && purge == Purge::No
    };
    let (kept, deleted): (Vec<_>, Vec<_>) = files.into_iter().partition(is_kept);
    let deleted = deleted.into_iter().map(|file| file.path).chain(id_ranges::record_files(paths, name)?);
    let state = Some(paths.machine(name)).filter(|directory| directory.exists());
    // The files of the image last: they take the longest time.
    let trash = changes.images.get(1).cloned();
    changes.steps.extend(deleted.chain(state).chain(trash).map(Step::Delete));
    changes.run(paths)?;
    let kept = kept.into_iter().filter(|file| file.keeper == Keeper::Administrator).map(|file| file.path);
    let uncovered = find::by_name(paths, name).map(|image| image.path().to_owned());
    Ok(Removal { image: path, kept: kept.collect(), uncovered })
}

/// Returns a hidden name beside an image, which systemd removes at boot.
fn trash_of(image: &Path) -> PathBuf {
    let mut trash = OsString::from(".#");
    trash.push(image.file_name().unwrap_or_default());
    trash.push(format!(".removed-{}", probe::random_id()));
    image.with_file_name(trash)
}

/// Refuses a machine that is running, or whose last run was not cleaned up. Its name is locked.
///
/// # Errors
/// Such a machine.
pub(super) fn refuse_running(paths: &Paths, name: &Name) -> Result<()> {
    match Record::read(paths, name)? {
        None => Ok(()),
        Some(record) if record.is_alive() => Err(Error::new(format!("machine '{name}' is running"))
            .with_hint(format!("stop it: coracle stop {name}"))),
        Some(_) => Err(Error::new(format!("machine '{name}' has left a state record"))
            .with_hint(format!("clean up after it: coracle cleanup {name}"))),
    }
}

/// Refuses a version of an image in a directory `NAME.v`.
///
/// # Errors
/// Such an image.
pub(super) fn refuse_versioned(image: &Path) -> Result<()> {
    let above = image.parent().unwrap_or(image);
    if above.extension().is_none_or(|suffix| suffix != "v") {
        return Ok(());
    }
    Err(Error::new(format!("'{}' is one of several versions", image.display()))
        .with_hint(format!("manage the versions in '{}' by hand", above.display())))
}

/// Refuses a directory that is read-only, contains mounts, or that others stand on.
fn refuse_protected(paths: &Paths, name: &Name, image: &Path, others: &[Name]) -> Result<()> {
    if read_only::is_set(image) {
        return Err(Error::new(format!("'{}' is read-only", image.display()))
            .with_hint("make it writable with 'coracle read-only NAME no' first"));
    }
    let snapshots = paths.storage().join("snapshots").join(name);
    let mut found = users::with_links(paths, image)?;
    // Its own snapshots are removed with it.
    found.retain(|user| !user.starts_with(&snapshots));
    refuse_used(image, &found, others)?;
    let mounts = mounts_in(image)?;
    if let Some(first) = mounts.first() {
        let text = format!("'{}' is a mount point", first.display());
        return Err(Error::new(text).with_hint(format!("unmount it: umount '{}'", first.display())));
    }
    Ok(())
}

/// Refuses an image that stacks, snapshots, links or definitions of other machines need.
///
/// # Errors
/// The first kind of users, all named.
pub(super) fn refuse_used(image: &Path, users: &[PathBuf], others: &[Name]) -> Result<()> {
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
pub(super) fn refuse_used_snapshots(paths: &Paths, name: &Name) -> Result<()> {
    let snapshots = paths.storage().join("snapshots").join(name);
    users::refuse(&snapshots, &users::of(paths, &snapshots)?)
        .map_err(|error| error.with_hint("remove them first: they are clones of its snapshots"))
}

/// Returns the mount points at a directory and below.
fn mounts_in(directory: &Path) -> Result<Vec<PathBuf>> {
    let doing = || format!("cannot look for mounts in '{}'", directory.display());
    let directory = directory.canonicalize().context(doing)?;
    let mounts = std::fs::read("/proc/self/mountinfo").context(doing)?;
    let point = |line: &[u8]| {
        let field = line.split(|byte| *byte == b' ').nth(4)?;
        Some(PathBuf::from(OsString::from_vec(procfs::unescaped(field))))
    };
    let points = mounts.split(|byte| *byte == b'\n').filter_map(point);
    Ok(points.filter(|point| point.starts_with(&directory)).collect())
}
