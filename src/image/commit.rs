//! Commits the changes of an ended build session: its writable layer becomes the uppermost layer of its base, or
//! of a new stack on the layers of the base. Called by `control`, and by `run`, which records what a session
//! stands on. It kills no process.
//!
//! First a stack gets an empty layer on top, which changes nothing. Then the directory of that layer and the
//! one of the session are exchanged, by one system call.

use super::clone::shared_layers;
use super::freeze::{self, create_like};
use super::locks::{self, HeldLocks};
use super::stack::{Stack, StackPart};
use super::store::Store;
use super::store::draft::{Draft, DraftContent};
use super::store::layer::{LayerDraft, LayerId, LayerInfo};
use super::{find, refuse, throwaway};
use crate::error::{Context, Error, Result};
use crate::host::lock::LockMode;
use crate::machine::name::Name;
use crate::machine::root::RootSource;
use crate::paths::Paths;
use crate::state::build::CreatedFile;
use crate::sys::guest_files::GuestRoot;
use crate::sys::mount;
use crate::sys::overlay::DATA;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::RenameFlags;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A commit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CommitRequest<'a> {
    /// The places of Coracle.
    pub(crate) paths: &'a Paths,
    /// The base of the session.
    pub(crate) base: &'a RootSource,
    /// The name of a new image. `None` to change the base.
    pub(crate) name: Option<&'a Name>,
}

/// The changes of an ended session.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SessionChanges<'a> {
    /// Its throw-away layer.
    pub(crate) layer: &'a Path,
    /// The inodes of the directories that it stands on, as [`inodes`] returned them when it began.
    pub(crate) lower: &'a [u64],
    /// The files that Coracle has created in it.
    pub(crate) created: &'a [CreatedFile],
}

/// A base that no other program changes.
#[derive(Debug)]
pub(crate) struct LockedBase(HeldLocks);

/// Returns the inodes of the directories that the root of a stack stands on, the uppermost first, without empty
/// ones on top, which change nothing.
///
/// # Errors
/// An invalid stack, or a directory that cannot be looked at.
pub(crate) fn inodes(stack: &Path) -> Result<Vec<u64>> {
    let directories: Vec<PathBuf> = match Stack::read(stack)?.root {
        StackPart::Overlay { layers, writable } => {
            writable.map(|writable| writable.join(DATA)).into_iter().chain(layers).collect()
        }
        StackPart::Directory(bind) => vec![bind.source],
        StackPart::Partition(_) | StackPart::Tmpfs => Vec::new(),
    };
    let has_files =
        |directory: &&PathBuf| std::fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_some());
    let first = directories.iter().position(|directory| has_files(&directory)).unwrap_or(directories.len());
    let inode = |directory: &PathBuf| {
        let found = directory.metadata().context(|| format!("cannot look at '{}'", directory.display()));
        found.map(|found| found.ino())
    };
    directories.iter().skip(first).map(inode).collect()
}

/// Refuses a base that cannot get another layer, and an existing image of the new name. Called before the session
/// is changed. Keeps writers out of the base.
///
/// # Errors
/// Such a base or name, or a base in use by a writer.
pub(crate) fn prepare(request: CommitRequest<'_>) -> Result<LockedBase> {
    let CommitRequest { paths, base, name } = request;
    let path = base.path();
    let shown = find::name_of(path).map_or_else(|| path.display().to_string(), |name| name.to_string());
    match base {
        RootSource::Stack(_) => {}
        RootSource::Directory(_) => {
            return Err(Error::new(format!(
                "the base '{shown}' is a directory: only a stack can get another layer"
            ))
            .with_hint(format!("convert it: end its sessions, and run 'coracle convert {shown} stack'")));
        }
        RootSource::Image(_) => refuse::disk_image(base, "cannot get another layer")?,
    }
    refuse::version(path)?;
    match name {
        Some(name) => refuse::existing(paths, name)?,
        None => {
            refuse::of_package(paths, base)?;
            refuse::writable_link(base)?;
        }
    }
    if !shared_layers::are_possible(&Stack::read(path)?, path)? {
        return Err(Error::new(format!(
            "the base '{shown}' does not consist of layers and a writable layer"
        ))
        .with_hint(
            "make it a stack of directories: 'coracle convert', first to a directory, then to a stack",
        ));
    }
    let mut held = HeldLocks::default();
    if let Some(name) = name {
        held.take(paths, [locks::of_name(paths, name, &image(paths, name))])?;
    }
    held.take(paths, locks::of_path(paths, path, LockMode::Shared)?)?;
    Ok(LockedBase(held))
}

fn image(paths: &Paths, name: &Name) -> PathBuf {
    paths.images().join(format!("{name}.mstack"))
}

/// Commits the changes of a session whose processes have ended.
///
/// # Errors
/// A base that has changed since the session began, or a file that cannot be created. The changes stay.
pub(crate) fn commit(
    request: CommitRequest<'_>,
    locked: &LockedBase,
    changes: &SessionChanges<'_>,
) -> Result<()> {
    let CommitRequest { paths, base, name } = request;
    let base = base.path();
    let store = Store::of(paths);
    // No session attaches the layers meanwhile.
    let _alone = store.lock(LockMode::Exclusive)?;
    if inodes(base)? != changes.lower {
        return Err(Error::new(format!("the base '{}' has changed since the session began", base.display()))
            .with_hint("begin another session: its changes would be those to an older base"));
    }
    let info = LayerInfo::of(
        &name
            .cloned()
            .or_else(|| find::name_of(base))
            .ok_or_else(|| Error::new(format!("'{}' is no name of an image", base.display())))?,
    );
    if shared_layers::must_change(base)? {
        // Files may have to be copied, which sessions on the base still read.
        locked.0.exclude_others()?;
        shared_layers::share(&store, base, &info)?;
    }
    let part = mount::open_directory(&throwaway::part_of_root(changes.layer))?;
    let data = freeze::open_data(part.as_fd())?.ok_or_else(|| Error::new("the session has no files"))?;
    remove_created(&data, changes.created)?;
    match name {
        None => add_layer(&store, &info, base, &part, &data),
        Some(name) => {
            let stack = Draft::of_image(&image(paths, name))?;
            let entries = stack.create_directory(0o755)?;
            shared_layers::clone_entries(base, entries.as_fd(), &mut |_| Ok(()))?;
            add_layer(&store, &info, &stack.path(), &part, &data)?;
            stack.publish(&image(paths, name), DraftContent::Entries)
        }
    }
}

/// Adds the changes to a stack as its uppermost layer.
fn add_layer(store: &Store, info: &LayerInfo, stack: &Path, part: &OwnedFd, data: &OwnedFd) -> Result<()> {
    rustix::fs::syncfs(data).context(|| "cannot write the changes to the disk")?;
    let entry = stack.join(freeze::next_entry(stack)?);
    let layer = LayerDraft::create(store, info)?;
    create_like(layer.directory(), LayerDraft::tree_name(), data.as_fd())?;
    let id: LayerId = layer.publish(store, DraftContent::Entries)?;
    freeze::link(&id.tree(store), &entry)?;
    rustix::fs::renameat_with(part, DATA, rustix::fs::CWD, id.tree(store), RenameFlags::EXCHANGE)
        .context(|| "cannot move the changes into the store")
}

/// Removes the files that Coracle has created from the changes, unless a command has changed them: the files of
/// the base return.
fn remove_created(data: &OwnedFd, created: &[CreatedFile]) -> Result<()> {
    let root = GuestRoot::of_mount(data.as_fd())?;
    for file in created {
        if root.read(file.path(), LONGEST).is_ok_and(|content| file.had(&content)) {
            let removing = || format!("cannot remove '{}'", file.path().display());
            root.remove_file(file.path()).context(removing)?;
        }
    }
    Ok(())
}

/// The largest file that is compared with the one that Coracle has created, bytes.
const LONGEST: u64 = 1 << 20;
