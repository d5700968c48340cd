//! Removes images, with all records about them. The image loses its name first, by one rename(2); everything
//! after that is repeated by the next verb if this one is killed. Called by `control`.

use super::changes::{Changes, Step};
use super::locks::{self, HeldLocks};
use super::named_files::{self, Keeper, NamedFile};
use super::{find, quota, refuse, snapshot, users};
use crate::error::Result;
use crate::host::lock::LockMode;
use crate::host::probe;
use crate::machine::name::Name;
use crate::paths::Paths;
use crate::state::id_ranges;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Whether files in `/etc` are deleted too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purge {
    /// They are kept.
    No,
    /// They are deleted.
    Yes,
}

/// A finished removal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Removal {
    /// The image. `None` if the machine had none.
    pub(crate) image: Option<PathBuf>,
    /// The number of its snapshots.
    pub(crate) snapshots: usize,
    /// The deleted files, without those of the image.
    pub(crate) files: Vec<PathBuf>,
    /// The failed unit that was reset.
    pub(crate) reset_unit: Option<String>,
    /// The files in `/etc` that were kept.
    pub(crate) kept: Vec<PathBuf>,
    /// The image that is now found for the name.
    pub(crate) uncovered: Option<PathBuf>,
}

/// Removes the image of a name. If another image of the name remains, the records and snapshots are its own.
/// `others` are the machines whose definitions have it as their root. `is_failed` is set if its unit has
/// failed, which the caller resets: a leftover like a file.
///
/// # Errors
/// A missing image; one that is running, read-only or of a package, or that others stand on; a file that
/// cannot be deleted.
pub(crate) fn remove(
    paths: &Paths,
    name: &Name,
    purge: Purge,
    others: &[Name],
    is_failed: bool,
) -> Result<Removal> {
    remove_image(paths, name, purge, others, is_failed)
        .map_err(|error| error.context(format!("cannot remove image '{name}'")))
}

fn remove_image(
    paths: &Paths,
    name: &Name,
    purge: Purge,
    others: &[Name],
    is_failed: bool,
) -> Result<Removal> {
    let image = find::by_name(paths, name);
    let path = image.as_ref().map(|image| image.path().to_owned());
    let directory = path.as_deref().and_then(Path::parent).map_or_else(|| paths.images(), Path::to_owned);
    let files = named_files::existing(paths, &directory, name)?;
    let remains = find::all_of(paths, name).any(|other| Some(other.path()) != path.as_deref());
    let is_kept = |file: &NamedFile| match file.keeper {
        Keeper::Administrator => purge == Purge::No,
        Keeper::Image => remains || file.is_of_package(paths),
    };
    let ids = if remains { Vec::new() } else { id_ranges::record_files(paths, name)? };
    if path.is_none() {
        if files.iter().all(is_kept) && ids.is_empty() && !is_failed {
            find::existing(paths, name)?;
        }
        find::refuse_other(paths, name)?;
    }
    let mut held = HeldLocks::default();
    held.take(
        paths,
        [locks::of_name(paths, name, path.as_deref().unwrap_or_else(|| Path::new(name.as_str())))],
    )?;
    refuse::running(paths, name)?;
    let mut changes = Changes { names: vec![name.clone()], images: Vec::new(), steps: Vec::new() };
    if let Some(image) = &image {
        let path = image.path();
        refuse::of_package(paths, image)?;
        refuse::version(path)?;
        // A link is removed, not the image that it leads to.
        if !path.is_symlink() {
            held.take(paths, locks::of_path(paths, path, LockMode::Exclusive)?)?;
            refuse::read_only(name, path)?;
            let snapshots = snapshot::directory(paths, name);
            let mut found = users::with_links(paths, path)?;
            // Its own snapshots are removed with it.
            found.retain(|user| remains || !user.starts_with(&snapshots));
            refuse::used(path, &found, others)?;
            refuse::mounts(path)?;
        }
        if !remains {
            refuse::used_snapshots(paths, name)?;
        }
        let trash = trash_of(path);
        changes.steps.push(Step::Rename { from: path.to_owned(), to: trash.clone(), immutable: false });
        changes.images = vec![path.to_owned(), trash];
    }
    let (kept, deleted): (Vec<_>, Vec<_>) = files.into_iter().partition(is_kept);
    let snapshots = if remains { 0 } else { snapshot::tags(paths, name)?.len() };
    let deleted: Vec<PathBuf> = deleted.into_iter().map(|file| file.path).chain(ids).collect();
    let state = Some(paths.machine(name)).filter(|directory| !remains && directory.exists());
    // The files of the image last: they take the longest time.
    let trash = changes.images.get(1).cloned();
    changes.steps.extend(deleted.iter().cloned().chain(state).chain(trash).map(Step::Delete));
    if let Some(image) = image.as_ref().filter(|image| !image.path().is_symlink()) {
        quota::forget(image);
    }
    changes.run(paths)?;
    let kept = kept.into_iter().filter(|file| file.keeper == Keeper::Administrator).map(|file| file.path);
    let uncovered = find::by_name(paths, name).map(|image| image.path().to_owned());
    Ok(Removal { image: path, snapshots, files: deleted, reset_unit: None, kept: kept.collect(), uncovered })
}

/// Returns a hidden name beside an image, which systemd removes at boot.
fn trash_of(image: &Path) -> PathBuf {
    let mut trash = OsString::from(".#");
    trash.push(image.file_name().unwrap_or_default());
    trash.push(format!(".removed-{}", probe::random_id()));
    image.with_file_name(trash)
}
