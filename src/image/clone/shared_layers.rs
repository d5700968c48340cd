//! Stacks on the layers of another stack. Called by `clone` and `commit`.

use super::super::freeze;
use super::super::stack::{Stack, StackPart};
use super::super::store::Store;
use super::super::store::draft::{Draft, DraftContent};
use super::super::store::layer::{LayerDraft, LayerInfo};
use crate::error::{Context, Result};
use crate::sys::mount;
use crate::sys::overlay::DATA;
use crate::tree;
use crate::tree::copy::CopyProgress;
use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::{Mode, RenameFlags};
use std::path::{Path, PathBuf};

/// The prefix of layers.
const LAYER: &str = "layer@";
/// The entry of the writable layer.
const WRITABLE: &str = "rw";

/// Returns the entries of a stack by their names.
fn entries(stack: &Path) -> Result<Vec<(String, PathBuf)>> {
    let reading = || format!("cannot read '{}'", stack.display());
    let mut found = Vec::new();
    for entry in std::fs::read_dir(stack).context(reading)? {
        let entry = entry.context(reading)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') {
            found.push((name, entry.path()));
        }
    }
    found.sort();
    Ok(found)
}

/// Returns whether the root of a stack consists of layers that another stack can share, and of a writable
/// layer.
pub(in crate::image) fn are_possible(stack: &Stack, path: &Path) -> Result<bool> {
    let has_layers = match &stack.root {
        StackPart::Overlay { .. } => true,
        StackPart::Directory(bind) => bind.read_only && bind.target == Path::new("/"),
        StackPart::Partition(_) | StackPart::Tmpfs => false,
    };
    let is_plain =
        |name: &str| !name.ends_with(".v") && name != "root" && name != "bind@-" && name != "robind@-";
    Ok(has_layers && stack.usr.is_none() && entries(path)?.iter().all(|(name, _)| is_plain(name)))
}

/// Returns whether a stack must be changed before its layers can be shared: its writable layer has files, or
/// layers are in the stack itself.
pub(in crate::image) fn must_change(stack: &Path) -> Result<bool> {
    let is_inner = |(name, path): &(String, PathBuf)| name.starts_with(LAYER) && !path.is_symlink();
    Ok(entries(stack)?.iter().any(is_inner) || has_written_files(stack)?)
}

/// Returns whether the writable layer of a stack has files.
pub(super) fn has_written_files(stack: &Path) -> Result<bool> {
    let Some(writable) = freeze::open_writable(stack)? else { return Ok(false) };
    Ok(freeze::open_data(writable.as_fd())?.is_some_and(|data| freeze::has_entries(&data)))
}

/// Moves all files of a stack into layers of the store. Its root stays the same at each step.
pub(in crate::image) fn share(store: &Store, stack: &Path, info: &LayerInfo) -> Result<()> {
    for (name, path) in entries(stack)? {
        let moving = || format!("cannot move '{}' into the store", path.display());
        if name.starts_with(LAYER) && !path.symlink_metadata().context(moving)?.is_symlink() {
            move_layer(store, &path, info).map_err(|error| error.context(moving()))?;
        }
    }
    freeze::freeze(store, stack, info)?;
    Ok(())
}

/// Moves the directory of a layer into the store. A link takes its place in the same system call.
fn move_layer(store: &Store, entry: &Path, info: &LayerInfo) -> Result<()> {
    let id = LayerDraft::create(store, info)?.publish(store, DraftContent::Entries)?;
    freeze::link(&id.tree(store), &id.tree(store))?;
    let place = rustix::fs::CWD;
    match rustix::fs::renameat_with(place, entry, place, id.tree(store), RenameFlags::EXCHANGE) {
        Err(rustix::io::Errno::XDEV) => {}
        exchanged => return exchanged.context(|| "cannot rename it"),
    }
    let (source, draft) = (mount::open_directory(entry)?, Draft::in_store(store)?);
    tree::copy::copy(source.as_fd(), draft.directory(), draft.name(), &mut |_| Ok(()))?;
    draft.exchange(&id.tree(store), DraftContent::Data)?;
    let link = Draft::of_image(entry)?;
    freeze::link(&id.tree(store), &link.path())?;
    link.exchange(entry, DraftContent::Entries)
}

/// Creates an empty writable layer in a new stack, like another one if there is one.
pub(super) fn create_writable(stack: BorrowedFd<'_>, like: Option<BorrowedFd<'_>>) -> Result<()> {
    let creating = || "cannot create a writable layer";
    rustix::fs::mkdirat(stack, WRITABLE, Mode::from_raw_mode(0o755)).context(creating)?;
    let Some(like) = like else { return Ok(()) };
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
    let writable = rustix::fs::openat(stack, WRITABLE, flags, Mode::empty()).context(creating)?;
    freeze::create_like(writable.as_fd(), DATA, like)
}

/// Creates the entries of a stack on the layers of another one, and copies its volumes. Returns whether
/// anything was copied.
pub(in crate::image) fn clone_entries(
    source: &Path,
    to: BorrowedFd<'_>,
    progress: &mut CopyProgress<'_>,
) -> Result<bool> {
    let data =
        freeze::open_writable(source)?.map(|writable| freeze::open_data(writable.as_fd())).transpose()?;
    create_writable(to, data.flatten().as_ref().map(AsFd::as_fd))?;
    let mut has_copied = false;
    for (name, path) in entries(source)? {
        let creating = || format!("cannot create the entry '{name}'");
        if name == WRITABLE {
            continue;
        }
        // The layers of a stack that never changes are in the stack itself.
        if path.is_symlink() || name.starts_with(LAYER) {
            let target = path.canonicalize().context(creating)?;
            rustix::fs::symlinkat(&target, to, name.as_str()).context(creating)?;
        } else {
            let volume = mount::open_directory(&path)?;
            tree::copy::copy(volume.as_fd(), to, name.as_ref(), progress)
                .map_err(|error| error.context(creating()))?;
            has_copied = true;
        }
    }
    Ok(has_copied)
}
