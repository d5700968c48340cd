//! The configuration of an OCI image beside its stack, `NAME.oci-config`, as importctl(1) has it. Called by `import`,
//! `clone` and `control`. A stack gets its configuration before it has its name.

use super::find;
use super::store::Store;
use super::store::draft::{Draft, DraftContent};
use super::store::redo::{Operation, RedoFile};
use crate::error::{Context, Result};
use crate::machine::name::Name;
use crate::machine::root::RootSource;
use crate::paths::Paths;
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Returns the configuration of the stack of a name. `None` if it has none.
pub(crate) fn of_name(paths: &Paths, name: &Name) -> Option<PathBuf> {
    match find::by_name(paths, name)? {
        RootSource::Stack(path) => Some(path.with_file_name(format!("{name}.oci-config"))),
        RootSource::Directory(_) | RootSource::Image(_) => None,
    }
    .filter(|config| config.is_file())
}

/// Publishes a new stack with its configuration. Interrupted in between, the next verb removes the configuration.
///
/// # Errors
/// An existing stack, or a file that cannot be written. Nothing is left then.
pub(super) fn publish(
    store: &Store,
    draft: Draft,
    stack: &Path,
    config: &[u8],
    content: DraftContent,
) -> Result<()> {
    let redo = RedoFile::write(store, Operation::CreateStack { stack: stack.to_owned() })?;
    let published = write(&beside(stack), config).and_then(|()| draft.publish(stack, content));
    complete(stack)?;
    redo.finish()?;
    published
}

/// Replaces a stack and its configuration, which is deleted without a new one. The draft is the former stack then.
/// Interrupted in between, the next verb writes the configuration.
///
/// # Errors
/// A missing stack, or a file that cannot be written, also after the stack is replaced: [`is_replaced`] tells. A replaced
/// stack has its configuration, at the latest by the next verb.
pub(super) fn replace(
    store: &Store,
    draft: &Draft,
    stack: &Path,
    config: Option<&[u8]>,
    content: DraftContent,
) -> Result<()> {
    let inode = inode(draft)?;
    let text = config.map(|config| String::from_utf8_lossy(config).into_owned());
    let operation = Operation::ReplaceStack { stack: stack.to_owned(), inode, config: text.clone() };
    let redo = RedoFile::write(store, operation)?;
    let exchanged = draft.exchange(stack, content);
    // Also if the exchange cannot be written to the disk.
    complete_replaced(stack, inode, text.as_deref())?;
    let finished = redo.finish();
    exchanged.and(finished)
}

/// Returns the inode of the draft of a stack.
///
/// # Errors
/// Any error of stat(2).
pub(super) fn inode(draft: &Draft) -> Result<u64> {
    let found = draft.path().symlink_metadata();
    Ok(found.context(|| format!("cannot look at '{}'", draft.path().display()))?.ino())
}

/// Returns whether a stack is replaced by the draft that had this inode.
pub(super) fn is_replaced(stack: &Path, inode: u64) -> bool {
    stack.symlink_metadata().is_ok_and(|found| found.ino() == inode)
}

/// Writes, or deletes, the configuration of a stack that was replaced without it. One with another inode was not
/// replaced.
///
/// # Errors
/// A file that cannot be written or deleted.
pub(super) fn complete_replaced(stack: &Path, inode: u64, config: Option<&str>) -> Result<()> {
    match config {
        _ if !is_replaced(stack, inode) => Ok(()),
        Some(config) => write(&beside(stack), config.as_bytes()),
        None => delete(&beside(stack)),
    }
}

/// Returns the path of the configuration of a stack.
pub(super) fn beside(stack: &Path) -> PathBuf {
    stack.with_extension("oci-config")
}

/// Writes a configuration, in place of one that another image has left.
fn write(path: &Path, config: &[u8]) -> Result<()> {
    let writing = || format!("cannot write '{}'", path.display());
    let draft = Draft::of_image(path)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = rustix::fs::openat(draft.directory(), draft.name(), flags, Mode::from_raw_mode(0o644));
    let mut file = File::from(file.context(writing)?);
    file.write_all(config).and_then(|()| file.sync_all()).context(writing)?;
    if path.symlink_metadata().is_ok() {
        return draft.exchange(path, DraftContent::Entries);
    }
    draft.publish(path, DraftContent::Entries)
}

/// Removes the configuration of a stack that was not published, or that was removed without it.
///
/// # Errors
/// A file that cannot be removed.
pub(super) fn complete(stack: &Path) -> Result<()> {
    if stack.symlink_metadata().is_ok() {
        return Ok(());
    }
    delete(&beside(stack))
}

/// Deletes a configuration. A missing one is not an error.
fn delete(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed.context(|| format!("cannot delete '{}'", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_not_without_its_stack() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::below(root.path());
        std::fs::create_dir_all(paths.images()).unwrap();
        let (store, name) = (Store::of(&paths), Name::new("web").unwrap());
        let stack = paths.images().join("web.mstack");
        std::fs::write(paths.images().join("web.oci-config"), "old").unwrap();
        let draft = Draft::of_image(&stack).unwrap();
        draft.create_directory(0o755).unwrap();
        publish(&store, draft, &stack, b"new", DraftContent::Entries).unwrap();
        let config = of_name(&paths, &name).unwrap();
        assert_eq!(std::fs::read_to_string(&config).unwrap(), "new");
        assert_eq!(paths.images().read_dir().unwrap().count(), 2);
        // Interrupted before the stack has its name.
        std::fs::remove_dir(&stack).unwrap();
        RedoFile::write(&store, Operation::CreateStack { stack }).unwrap();
        crate::image::recovery::recover(&paths);
        assert!(!config.exists() && RedoFile::all(&store).unwrap().is_empty());
    }

    #[test]
    fn a_replaced_stack_gets_its_configuration() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::below(root.path());
        std::fs::create_dir_all(paths.images()).unwrap();
        let (store, name) = (Store::of(&paths), Name::new("web").unwrap());
        let stack = paths.images().join("web.mstack");
        let draft = || {
            let draft = Draft::of_image(&stack).unwrap();
            draft.create_directory(0o755).unwrap();
            draft
        };
        publish(&store, draft(), &stack, b"old", DraftContent::Entries).unwrap();
        let new = draft();
        replace(&store, &new, &stack, Some(b"new"), DraftContent::Entries).unwrap();
        drop(new);
        let config = || std::fs::read_to_string(of_name(&paths, &name).unwrap()).unwrap();
        assert_eq!((config().as_str(), paths.images().read_dir().unwrap().count()), ("new", 2));
        // Interrupted after, and before the exchange.
        for (offset, expected) in [(0, "redone"), (1, "redone")] {
            let inode = stack.symlink_metadata().unwrap().ino() + offset;
            let text = if offset == 0 { "redone" } else { "undone" };
            let operation =
                Operation::ReplaceStack { stack: stack.clone(), inode, config: Some(text.into()) };
            RedoFile::write(&store, operation).unwrap();
            crate::image::recovery::recover(&paths);
            assert_eq!(config(), expected);
            assert!(RedoFile::all(&store).unwrap().is_empty());
        }
        // One that has none does not get that of the former stack, also interrupted.
        let without = draft();
        replace(&store, &without, &stack, None, DraftContent::Entries).unwrap();
        drop(without);
        assert_eq!(of_name(&paths, &name), None);
        std::fs::write(beside(&stack), "former").unwrap();
        let inode = stack.symlink_metadata().unwrap().ino();
        RedoFile::write(&store, Operation::ReplaceStack { stack: stack.clone(), inode, config: None })
            .unwrap();
        crate::image::recovery::recover(&paths);
        assert!(of_name(&paths, &name).is_none() && RedoFile::all(&store).unwrap().is_empty());
    }

    #[test]
    fn a_replaced_stack_is_known_after_an_error() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::below(root.path());
        std::fs::create_dir_all(paths.images()).unwrap();
        let (store, stack) = (Store::of(&paths), paths.images().join("web.mstack"));
        let draft = || {
            let draft = Draft::of_image(&stack).unwrap();
            draft.create_directory(0o755).unwrap();
            draft
        };
        let new = draft();
        let number = inode(&new).unwrap();
        replace(&store, &new, &stack, Some(b"new"), DraftContent::Entries).unwrap_err();
        assert!(!is_replaced(&stack, number) && RedoFile::all(&store).unwrap().is_empty());
        std::fs::create_dir(&stack).unwrap();
        // The configuration cannot be replaced.
        std::fs::create_dir(beside(&stack)).unwrap();
        std::fs::write(beside(&stack).join("file"), "").unwrap();
        let is_exchanged = replace(&store, &new, &stack, None, DraftContent::Entries).is_err();
        assert!(is_exchanged && is_replaced(&stack, number));
        assert_eq!(RedoFile::all(&store).unwrap().len(), 1);
    }
}
