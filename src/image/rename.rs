//! Renames images, with all files and records of their names. A rename that fails is undone; one that is
//! killed is completed by the next verb. Called by `control`.

use super::changes::{Changes, Step};
use super::locks::{self, HeldLocks};
use super::{find, named_files, refuse, snapshot, users};
use crate::error::{Context, Error, Result};
use crate::host::lock::LockMode;
use crate::machine::name::Name;
use crate::machine::root::RootSource;
use crate::paths::Paths;
use crate::state::id_ranges;
use crate::sys::mount;
use crate::sys::read_only;
use rustix::fd::AsFd;
use std::path::{Path, PathBuf};

/// Renames the image of a machine, and its files. `others` are the other machines whose definitions have it
/// as their root. Returns the new path of the image, and the number of other files.
///
/// # Errors
/// A missing image, one that is running or of a package, or that others stand on; a new name in use; a file
/// that cannot be renamed, after all renames have been undone.
pub(crate) fn rename(
    paths: &Paths,
    old: &Name,
    new: &Name,
    others: &[Name],
) -> Result<(Option<PathBuf>, usize)> {
    rename_all(paths, old, new, others)
        .map_err(|error| error.context(format!("cannot rename '{old}' to '{new}'")))
}

fn rename_all(paths: &Paths, old: &Name, new: &Name, others: &[Name]) -> Result<(Option<PathBuf>, usize)> {
    let image = find::by_name(paths, old);
    let path = image.as_ref().map(RootSource::path);
    let directory = path.and_then(Path::parent).map_or_else(|| paths.images(), Path::to_owned);
    let existing = named_files::existing(paths, &directory, old)?;
    if image.is_none() {
        if existing.is_empty() {
            find::existing(paths, old)?;
        }
        find::refuse_other(paths, old)?;
    }
    let shown = |name: &Name| Path::new(name.as_str()).to_owned();
    let mut held = HeldLocks::default();
    held.take(paths, [old, new].map(|name| locks::of_name(paths, name, path.unwrap_or(&shown(name)))))?;
    refuse::running(paths, old)?;
    refuse_taken(paths, &directory, new)?;
    let mut steps = Vec::new();
    let mut images = Vec::new();
    if let Some(image) = &image {
        let path = image.path();
        refuse::of_package(paths, image)?;
        refuse::version(path)?;
        held.take(paths, locks::of_path(paths, path, LockMode::Exclusive)?)?;
        // A link is renamed, not the image that it leads to.
        if !path.is_symlink() {
            refuse::used(path, &users::with_links(paths, path)?, others)?;
            if matches!(image, RootSource::Stack(_)) {
                refuse::own_name(path)?;
            }
        }
        refuse::used_snapshots(paths, old)?;
        let suffix = path.extension().filter(|_| !matches!(image, RootSource::Directory(_)));
        let suffix = suffix.map_or_else(String::new, |suffix| format!(".{}", suffix.display()));
        let to = directory.join(format!("{new}{suffix}"));
        let immutable = !path.is_symlink() && is_immutable(path);
        steps.push(Step::Rename { from: path.to_owned(), to: to.clone(), immutable });
        images = vec![path.to_owned(), to];
    }
    let renamed = named_files::all(paths, &directory, new)?;
    for (file, to) in named_files::all(paths, &directory, old)?.into_iter().zip(renamed) {
        if !existing.contains(&file) {
            continue;
        }
        if file.is_of_package(paths) {
            return Err(Error::new(format!("'{}' belongs to a package", file.path.display()))
                .with_hint("copy it to /etc/coracle/machines.d under the new name instead"));
        }
        steps.push(Step::Rename { from: file.path.clone(), to: to.path, immutable: false });
    }
    let ids = id_ranges::record_files(paths, old)?.into_iter().map(|file| Step::Write {
        file,
        old: format!("{old}\n"),
        new: format!("{new}\n"),
    });
    let count = steps.len().saturating_sub(usize::from(image.is_some()));
    steps.extend(ids);
    // Records of a machine of the new name that is gone. Nothing refers to them.
    forget(paths, new)?;
    let renamed = images.get(1).cloned();
    Changes { names: vec![old.clone(), new.clone()], images, steps }.run(paths)?;
    Ok((renamed, count))
}

fn is_immutable(directory: &Path) -> bool {
    let is_plain = |directory: &rustix::fd::OwnedFd| !crate::sys::btrfs::is_subvolume(directory.as_fd());
    mount::open_directory(directory)
        .is_ok_and(|directory| is_plain(&directory) && read_only::is_immutable(directory.as_fd()))
}

/// Refuses a new name that has an image, snapshots, a definition or other files.
fn refuse_taken(paths: &Paths, directory: &Path, new: &Name) -> Result<()> {
    refuse::existing(paths, new)?;
    refuse::former_snapshots(paths, new)?;
    let records = [paths.failure(new), snapshot::directory(paths, new)];
    let files = named_files::existing(paths, directory, new)?.into_iter().map(|file| file.path);
    let mut files = files.filter(|file| !records.contains(file));
    files.next().map_or(Ok(()), |path| {
        Err(Error::new(format!("'{}' exists already", path.display()))
            .with_hint(format!("choose another name, or remove it: coracle remove --purge {new}")))
    })
}

/// Deletes the records of a name without an image and a definition.
fn forget(paths: &Paths, name: &Name) -> Result<()> {
    for file in id_ranges::record_files(paths, name)?.into_iter().chain([paths.failure(name)]) {
        match std::fs::remove_file(&file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).context(|| format!("cannot delete '{}'", file.display()));
            }
            _ => {}
        }
    }
    // Without snapshots.
    named_files::delete_directory(&snapshot::directory(paths, name))
}
