//! Finishes or undoes the operations of killed processes, before a verb works on images. Called by the verbs
//! on images, without any lock.

use super::locks::{self, HeldLocks};
use super::store::Store;
use super::store::redo::{Operation, RedoFile};
use super::{changes, convert, find, oci_config};
use crate::error::Result;
use crate::host::lock::LockMode;
use crate::paths::Paths;

/// Finishes or undoes all operations of killed processes. Those of running processes hold the locks of their
/// images, and are left alone.
pub(crate) fn recover(paths: &Paths) {
    changes::finish(paths);
    let store = Store::of(paths);
    let begun = RedoFile::all(&store).unwrap_or_else(|error| {
        log::warn!("{error}, ignoring");
        Vec::new()
    });
    for redo in begun {
        let held = match lock(paths, &redo.operation) {
            Ok(held) => held,
            Err(error) => {
                log::debug!("an interrupted operation waits: {error}");
                continue;
            }
        };
        // Its process may have finished it before the locks were taken.
        if redo.exists()
            && let Err(error) = complete(&store, &redo.operation).and_then(|()| redo.finish())
        {
            log::warn!("cannot complete an interrupted operation: {error}, ignoring");
        }
        drop(held);
    }
}

/// Locks all images of an operation by their names, and those that exist.
fn lock(paths: &Paths, operation: &Operation) -> Result<HeldLocks> {
    let mut held = HeldLocks::default();
    let images = operation.images();
    let mut names: Vec<_> = images.iter().filter_map(|image| Some((find::name_of(image)?, image))).collect();
    names.dedup_by(|(one, _), (other, _)| one == other);
    held.take(paths, names.into_iter().map(|(name, image)| locks::of_name(paths, &name, image)))?;
    for image in images.iter().filter(|image| image.exists()) {
        held.take(paths, locks::of_path(paths, image, LockMode::Exclusive)?)?;
    }
    Ok(held)
}

fn complete(store: &Store, operation: &Operation) -> Result<()> {
    match operation {
        Operation::ConvertToStack { directory, stack, layer } => {
            convert::complete_stack(store, directory, stack, layer)
        }
        Operation::ConvertToDirectory { directory, stack, inode } => {
            convert::complete_directory(directory, stack, *inode)
        }
        Operation::CreateStack { stack } => oci_config::complete(stack),
        Operation::ReplaceStack { stack, inode, config } => {
            oci_config::complete_replaced(stack, *inode, config.as_deref())
        }
    }
}
