//! Converts an image: a directory becomes the only layer of a stack, in constant time; the files of a stack
//! become a directory, by a copy. Called by `control` and `recovery`. At each step one of both is found by
//! the name.

use super::layers::Layers;
use super::locks::{self, HeldLocks};
use super::stack::{Stack, StackPart};
use super::store::Store;
use super::store::draft::{Draft, DraftContent};
use super::store::layer::{LayerDraft, LayerId, LayerInfo};
use super::store::redo::{Operation, RedoFile};
use super::{find, freeze, refuse, users};
use crate::error::{Context, Error, Result};
use crate::host::lock::LockMode;
use crate::machine::name::Name;
use crate::machine::root::RootSource;
use crate::paths::Paths;
use crate::sys::mount;
use crate::sys::overlay::DATA;
use crate::tree;
use crate::tree::copy::{Copied, CopyProgress};
use crate::tree::overlay_marks;
use rustix::fd::AsFd;
use rustix::fs::{Mode, OFlags, RenameFlags};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The kind of an image that it is converted to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ImageKind {
    /// A stack of directories.
    Stack,
    /// A directory.
    Directory,
}

/// The method of a conversion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ConvertMethod {
    /// It has that kind already.
    Unchanged,
    /// Its directory was moved.
    Moved,
    /// Its files were copied.
    Copied(Copied),
}

/// Converts the image of a name. `progress` is called with the bytes copied so far.
///
/// # Errors
/// A missing image, one in use, one of a package, or one that others stand on; a file that cannot be created.
pub(crate) fn convert(
    paths: &Paths,
    name: &Name,
    kind: ImageKind,
    others: &[Name],
    progress: &mut CopyProgress<'_>,
) -> Result<ConvertMethod> {
    let converting = || {
        let kind = if kind == ImageKind::Stack { "stack" } else { "directory" };
        format!("cannot convert image '{name}' to a {kind}")
    };
    convert_image(paths, name, kind, others, progress).map_err(|error| error.context(converting()))
}

fn convert_image(
    paths: &Paths,
    name: &Name,
    kind: ImageKind,
    others: &[Name],
    progress: &mut CopyProgress<'_>,
) -> Result<ConvertMethod> {
    let image = find::existing(paths, name)?;
    refuse::disk_image(&image, "cannot be converted")?;
    match (&image, kind) {
        (RootSource::Stack(_), ImageKind::Stack) | (RootSource::Directory(_), ImageKind::Directory) => {
            return Ok(ConvertMethod::Unchanged);
        }
        _ => refuse::of_package(paths, &image)?,
    }
    let path = image.path();
    refuse_special(path, name)?;
    refuse::writable_link(&image)?;
    let mut held = HeldLocks::default();
    held.take(paths, locks::of_image(paths, name, path, LockMode::Exclusive)?)?;
    refuse::used(path, &users::with_links(paths, path)?, others)?;
    let store = Store::of(paths);
    let _users = store.lock(LockMode::Shared)?;
    match &image {
        RootSource::Directory(directory) | RootSource::Image(directory) => {
            refuse_marks(directory)?;
            to_stack(&store, name, directory, progress)
        }
        RootSource::Stack(stack) => to_directory(&store, name, stack, progress),
    }
}

/// Refuses a directory with layers of nested containers: in a layer of a stack, their whiteouts and
/// attributes would be those of the stack, and disappear.
fn refuse_marks(directory: &Path) -> Result<()> {
    let Some(marked) = overlay_marks::find(mount::open_directory(directory)?.as_fd())? else { return Ok(()) };
    Err(Error::new(format!("'{}' belongs to an overlay inside the image", marked.display())).with_hint(
        "remove the images and containers inside it first, for example with 'podman system reset', or keep it a directory",
    ))
}

/// Refuses an image that cannot be moved: a link, a version, a read-only one, or one with mounts.
fn refuse_special(path: &Path, name: &Name) -> Result<()> {
    if path.is_symlink() {
        return Err(Error::new(format!("'{}' is a link", path.display()))
            .with_hint("convert the image that it leads to"));
    }
    refuse::version(path)?;
    refuse::read_only(name, path)?;
    refuse::mounts(path)
}

/// Returns the path of an image of this name beside another one, which must not exist.
fn beside(path: &Path, file: String) -> Result<PathBuf> {
    let path = path.with_file_name(file);
    if path.symlink_metadata().is_ok() {
        return Err(Error::new(format!("'{}' exists already", path.display())).with_hint("remove that image"));
    }
    Ok(path)
}

fn to_stack(
    store: &Store,
    name: &Name,
    directory: &Path,
    progress: &mut CopyProgress<'_>,
) -> Result<ConvertMethod> {
    let stack = beside(directory, format!("{name}.mstack"))?;
    let source = mount::open_directory(directory)?;
    let layer = LayerId::random();
    let (at, to) = (directory.to_owned(), stack.clone());
    let operation = Operation::ConvertToStack { directory: at, stack: to, layer: layer.clone() };
    let redo = RedoFile::write(store, operation)?;
    let mut create = || -> Result<ConvertMethod> {
        LayerDraft::create(store, &LayerInfo::of(name))?.publish_as(store, &layer, DraftContent::Entries)?;
        let draft = Draft::of_image(&stack)?;
        let entries = draft.create_directory(0o755)?;
        freeze::link(&layer.tree(store), &draft.path().join("layer@0"))?;
        let creating = || "cannot create the writable layer";
        rustix::fs::mkdirat(&entries, "rw", Mode::from_raw_mode(0o755)).context(creating)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let writable = rustix::fs::openat(&entries, "rw", flags, Mode::empty()).context(creating)?;
        freeze::create_like(writable.as_fd(), DATA, source.as_fd())?;
        // The directory is found first for the name, until it is moved below this stack.
        draft.publish(&stack, DraftContent::Entries)?;
        let place = rustix::fs::CWD;
        match rustix::fs::renameat_with(place, directory, place, layer.tree(store), RenameFlags::NOREPLACE) {
            Err(rustix::io::Errno::XDEV) => {}
            renamed => {
                return renamed
                    .map(|()| ConvertMethod::Moved)
                    .context(|| format!("cannot move '{}' into the store", directory.display()));
            }
        }
        let draft = Draft::in_store(store)?;
        let copied = tree::copy::copy(source.as_fd(), draft.directory(), draft.name(), progress)?;
        draft.publish(&layer.tree(store), DraftContent::Data)?;
        Draft::of_image(directory)?.take(directory)?;
        Ok(ConvertMethod::Copied(copied))
    };
    let converted = create();
    complete_stack(store, directory, &stack, &layer)?;
    redo.finish()?;
    converted
}

/// Undoes a conversion to a stack that has not moved the directory yet. Otherwise it is complete.
///
/// # Errors
/// A file that cannot be removed.
pub(super) fn complete_stack(store: &Store, directory: &Path, stack: &Path, layer: &LayerId) -> Result<()> {
    if directory.symlink_metadata().is_err() {
        return Ok(());
    }
    // Another image of the name could have been created in the meantime.
    if std::fs::read_link(stack.join("layer@0")).is_ok_and(|target| target == layer.tree(store)) {
        Draft::of_image(stack)?.take(stack)?;
    }
    if layer.path(store).symlink_metadata().is_ok() {
        Draft::of_trash(store, &layer.path(store))?;
    }
    Ok(())
}

fn to_directory(
    store: &Store,
    name: &Name,
    path: &Path,
    progress: &mut CopyProgress<'_>,
) -> Result<ConvertMethod> {
    let stack = Stack::read(path)?;
    if !stack.binds.is_empty() || stack.usr.is_some() || stack.root == StackPart::Tmpfs {
        return Err(Error::new("it has entries that are not part of its root: a directory has no volumes")
            .with_hint("remove its entries bind@PATH, robind@PATH and root"));
    }
    let directory = beside(path, name.to_string())?;
    let draft = Draft::of_image(&directory)?;
    let root = Layers::of_host().read_only(&stack.root)?;
    let copied = tree::copy::copy(root.as_fd(), draft.directory(), draft.name(), progress)?;
    drop(root);
    let inode = draft.path().metadata().context(|| "cannot look at the copy")?.ino();
    let (to, from) = (directory.clone(), path.to_owned());
    let operation = Operation::ConvertToDirectory { directory: to, stack: from, inode };
    let redo = RedoFile::write(store, operation)?;
    let published = draft.publish(&directory, DraftContent::Data);
    let completed = complete_directory(&directory, path, inode);
    redo.finish()?;
    published.and(completed)?;
    Ok(ConvertMethod::Copied(copied))
}

/// Removes the stack of a conversion that has created the directory, which is found first for the name.
///
/// # Errors
/// A stack that cannot be renamed.
pub(super) fn complete_directory(directory: &Path, stack: &Path, inode: u64) -> Result<()> {
    let is_created = directory.symlink_metadata().is_ok_and(|found| found.ino() == inode);
    if is_created && stack.symlink_metadata().is_ok() {
        Draft::of_image(stack)?.take(stack)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    fn host() -> (tempfile::TempDir, Paths, Name, PathBuf) {
        let root = tempfile::Builder::new().tempdir_in("/var/tmp").unwrap();
        let paths = Paths::below(root.path());
        let directory = paths.images().join("web");
        fs::create_dir_all(directory.join("etc")).unwrap();
        fs::write(directory.join("etc/file"), "text").unwrap();
        (root, paths, Name::new("web").unwrap(), directory)
    }

    #[test]
    fn a_directory_is_moved_below_a_stack() {
        let (_root, paths, name, directory) = host();
        let inode = directory.metadata().unwrap().ino();
        let method = convert(&paths, &name, ImageKind::Stack, &[], &mut |_| Ok(())).unwrap();
        assert_eq!(method, ConvertMethod::Moved);
        let stack = paths.images().join("web.mstack");
        assert_eq!(fs::metadata(stack.join("layer@0")).unwrap().ino(), inode);
        assert!(!directory.exists() && stack.join("rw/data").is_dir());
        assert_eq!(RedoFile::all(&Store::of(&paths)).unwrap().len(), 0);
        let method = convert(&paths, &name, ImageKind::Stack, &[], &mut |_| Ok(())).unwrap();
        assert_eq!(method, ConvertMethod::Unchanged);
        assert_eq!(fs::read_dir(paths.images()).unwrap().count(), 1);
    }

    #[test]
    fn images_that_others_stand_on_are_refused() {
        let (root, paths, name, directory) = host();
        let other = paths.images().join("other.mstack");
        fs::create_dir(&other).unwrap();
        symlink(&directory, other.join("layer@0")).unwrap();
        let error = |name: &Name| {
            convert(&paths, name, ImageKind::Stack, &[], &mut |_| Ok(())).unwrap_err().to_string()
        };
        assert!(error(&name).contains("other.mstack' stands on image"), "{}", error(&name));
        fs::remove_file(other.join("layer@0")).unwrap();
        fs::create_dir(paths.images().join("web.mstack")).unwrap();
        assert!(error(&name).contains("web.mstack' exists already"), "{}", error(&name));
        symlink(&directory, root.path().join("var/lib/machines/link")).unwrap();
        let link = error(&Name::new("link").unwrap());
        assert!(link.contains("is a link"), "{link}");
        assert!(directory.join("etc/file").exists());
    }

    #[test]
    fn an_interrupted_conversion_keeps_images_of_others() {
        let (_root, paths, _, directory) = host();
        let store = Store::of(&paths);
        let stack = paths.images().join("web.mstack");
        fs::create_dir(&stack).unwrap();
        complete_stack(&store, &directory, &stack, &LayerId::random()).unwrap();
        complete_directory(&directory, &stack, 1).unwrap();
        assert!(stack.exists());
        complete_directory(&directory, &stack, directory.metadata().unwrap().ino()).unwrap();
        assert!(!stack.exists() && directory.join("etc/file").exists());
    }
}
