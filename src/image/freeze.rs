//! Freezes the writable layer of a stack: its files become a read-only layer of the store, in constant time,
//! and the stack goes on with an empty writable layer above. Called by the verbs that share the files of a
//! stack. The caller holds the exclusive locks of the stack, and the lock of the store.
//!
//! First the stack gets an empty layer on top, which changes nothing. Then the directory of that layer and
//! the directory of the writable layer are exchanged, by one system call. Interrupted before or after, the
//! root of the stack is the same.

use super::store::Store;
use super::store::draft::{Draft, DraftContent};
use super::store::layer::{LayerDraft, LayerId, LayerInfo};
use super::version;
use crate::error::{Context, Error, Result};
use crate::sys::mount;
use crate::sys::overlay::DATA;
use crate::tree;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Dir, Gid, Mode, OFlags, RenameFlags, Uid, XattrFlags};
use std::cmp::Ordering;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The maximum number of layers of an overlay (`OVL_MAX_STACK` of the kernel's `fs/overlayfs`).
const MOST_LAYERS: usize = 500;

/// Freezes the writable layer of a stack, if it contains files. Returns the new layer.
///
/// # Errors
/// A file that cannot be created or moved.
pub(crate) fn freeze(store: &Store, stack: &Path, info: &LayerInfo) -> Result<Option<LayerId>> {
    let freezing = || format!("cannot freeze the writable layer of '{}'", stack.display());
    freeze_writable(store, stack, info).map_err(|error| error.context(freezing()))
}

fn freeze_writable(store: &Store, stack: &Path, info: &LayerInfo) -> Result<Option<LayerId>> {
    let Some(writable) = open_writable(stack)? else { return Ok(None) };
    let Some(data) = open_data(writable.as_fd())?.filter(has_entries) else { return Ok(None) };
    let entry = stack.join(next_entry(stack)?);
    let layer = LayerDraft::create(store, info)?;
    create_like(layer.directory(), LayerDraft::tree_name(), data.as_fd())?;
    let id = layer.publish(store, DraftContent::Entries)?;
    link(&id.tree(store), &entry)?;
    let (from, to) = (writable.as_fd(), rustix::fs::CWD);
    match rustix::fs::renameat_with(from, DATA, to, id.tree(store), RenameFlags::EXCHANGE) {
        // Another mount, or a directory with a quota of its own.
        Err(rustix::io::Errno::XDEV) => copy(store, writable.as_fd(), data.as_fd(), &id),
        exchanged => exchanged.context(|| "cannot move its files into the store"),
    }?;
    Ok(Some(id))
}

/// Opens the directory of the writable layer. `None` if the stack has none.
pub(super) fn open_writable(stack: &Path) -> Result<Option<OwnedFd>> {
    let path = stack.join("rw");
    match path.symlink_metadata() {
        // Only a missing one is none: its files would be lost.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        _ => mount::open_directory(&path).map(Some),
    }
}

/// Opens the directory with the files of a writable layer. `None` if it does not exist yet.
pub(super) fn open_data(writable: BorrowedFd<'_>) -> Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match rustix::fs::openat(writable, DATA, flags, Mode::empty()) {
        Err(rustix::io::Errno::NOENT) => Ok(None),
        opened => opened.map(Some).context(|| format!("cannot open its directory '{DATA}'")),
    }
}

/// Returns whether a directory has entries, or cannot be read.
pub(super) fn has_entries(directory: &OwnedFd) -> bool {
    let Ok(mut entries) = Dir::read_from(directory) else { return true };
    entries.any(|entry| entry.map_or(true, |entry| !matches!(entry.file_name().to_bytes(), b"." | b"..")))
}

/// Creates an empty directory with the mode, owner and attributes of another one.
///
/// # Errors
/// Any error of mkdir(2), chown(2), chmod(2) and setxattr(2).
pub(super) fn create_like(above: BorrowedFd<'_>, name: &str, like: BorrowedFd<'_>) -> Result<()> {
    let creating = || format!("cannot create the directory '{name}'");
    let found = rustix::fs::fstat(like).context(creating)?;
    rustix::fs::mkdirat(above, name, Mode::RWXU).context(creating)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(above, name, flags, Mode::empty()).context(creating)?;
    let (owner, group) = (Uid::from_raw(found.st_uid), Gid::from_raw(found.st_gid));
    rustix::fs::fchown(&directory, Some(owner), Some(group)).context(creating)?;
    let mut names = vec![0u8; 65536];
    let length = rustix::fs::flistxattr(like, &mut names[..]).unwrap_or(0);
    for name in names.get(..length).unwrap_or_default().split(|byte| *byte == 0) {
        // Marks of the overlay describe the old directory.
        if name.is_empty() || name.starts_with(b"user.overlay.") {
            continue;
        }
        let (name, mut value) = (OsStr::from_bytes(name), vec![0u8; 65536]);
        let length = rustix::fs::fgetxattr(like, name, &mut value[..]).context(creating)?;
        let value = value.get(..length).unwrap_or_default();
        rustix::fs::fsetxattr(&directory, name, value, XattrFlags::empty()).context(creating)?;
    }
    rustix::fs::fchmod(&directory, Mode::from_raw_mode(found.st_mode)).context(creating)
}

/// Creates an entry of a stack as a link.
pub(super) fn link(target: &Path, entry: &Path) -> Result<()> {
    std::os::unix::fs::symlink(target, entry).context(|| format!("cannot create '{}'", entry.display()))
}

/// Returns the name of an entry above all layers of a stack.
pub(super) fn next_entry(stack: &Path) -> Result<String> {
    let reading = || format!("cannot read '{}'", stack.display());
    let mut ids = Vec::new();
    for entry in std::fs::read_dir(stack).context(reading)? {
        let name = entry.context(reading)?.file_name();
        let id = name.to_str().and_then(|name| name.strip_prefix("layer@"));
        ids.extend(id.map(|id| id.strip_suffix(".v").unwrap_or(id).to_owned()));
    }
    let leading = |id: &String| {
        let digits: String = id.chars().take_while(char::is_ascii_digit).collect();
        digits.parse::<u64>().unwrap_or_default()
    };
    if ids.is_empty() {
        return Err(Error::new("it is the whole root: the stack has no layers"));
    }
    // With the new layer and the writable one.
    if ids.len() + 2 > MOST_LAYERS {
        return Err(Error::new(format!(
            "the stack has {} layers, an overlay at most {MOST_LAYERS}",
            ids.len()
        ))
        .with_hint("merge them: 'coracle convert NAME directory', then 'coracle convert NAME stack'"));
    }
    // Most identifiers are numbers. A word is older than any number.
    let next = ids.iter().map(leading).max().unwrap_or_default().checked_add(1);
    let next = next.map(|next| next.to_string()).filter(|next| {
        ids.iter().all(|id| {
            version::compare(next, id) == Ordering::Greater && version::compare(id, next) == Ordering::Less
        })
    });
    next.map(|next| format!("layer@{next}"))
        .ok_or_else(|| Error::new("its layers have no numbers: none is above all of them"))
}

/// Copies the files of a writable layer into a layer on another file system, and empties the writable layer.
/// Meanwhile both have the same files, and the root of the stack stays the same.
fn copy(store: &Store, writable: BorrowedFd<'_>, data: BorrowedFd<'_>, id: &LayerId) -> Result<()> {
    let draft = Draft::in_store(store)?;
    tree::copy::copy(data, draft.directory(), draft.name(), &mut |_| Ok(()))?;
    draft.exchange(&id.tree(store), DraftContent::Data)?;
    // The name is ours: systemd and the kernel use only two others in this directory.
    const EMPTY: &str = "data.new";
    tree::walk::remove(writable, OsStr::new(EMPTY))?;
    create_like(writable, EMPTY, data)?;
    rustix::fs::renameat_with(writable, EMPTY, writable, DATA, RenameFlags::EXCHANGE)
        .context(|| "cannot empty it")?;
    tree::walk::remove(writable, OsStr::new(EMPTY))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::stack::{Stack, StackPart};
    use crate::machine::name::Name;
    use crate::paths::Paths;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::path::PathBuf;

    fn host() -> (tempfile::TempDir, Store, PathBuf, LayerInfo) {
        let root = tempfile::Builder::new().tempdir_in("/var/tmp").unwrap();
        let stack = root.path().join("var/lib/machines/web.mstack");
        for directory in ["layer@0", "rw/data", "rw/work"] {
            fs::create_dir_all(stack.join(directory)).unwrap();
        }
        let store = Store::of(&Paths::below(root.path()));
        (root, store, stack, LayerInfo::of(&Name::new("web").unwrap()))
    }

    fn layers(stack: &Path) -> Vec<PathBuf> {
        match Stack::read(stack).unwrap().root {
            StackPart::Overlay { layers, .. } => layers,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn files_of_a_writable_layer_become_a_layer() {
        let (_root, store, stack, info) = host();
        assert_eq!(freeze(&store, &stack, &info).unwrap(), None, "it is empty");
        let data = stack.join("rw/data");
        fs::write(data.join("a"), "a").unwrap();
        fs::set_permissions(&data, fs::Permissions::from_mode(0o751)).unwrap();
        rustix::fs::setxattr(&data, "user.kept", b"1", XattrFlags::empty()).unwrap();
        rustix::fs::setxattr(&data, "user.overlay.impure", b"y", XattrFlags::empty()).unwrap();
        let inode = data.metadata().unwrap().ino();
        let id = freeze(&store, &stack, &info).unwrap().unwrap();
        assert_eq!(id.tree(&store).metadata().unwrap().ino(), inode, "it is moved");
        assert_eq!(fs::read_to_string(stack.join("layer@1/a")).unwrap(), "a");
        assert_eq!(layers(&stack), [stack.join("layer@1"), stack.join("layer@0")]);
        assert_eq!(data.read_dir().unwrap().count(), 0);
        assert_eq!(data.metadata().unwrap().mode() & 0o7777, 0o751);
        let mut value = [0; 8];
        assert_eq!(rustix::fs::getxattr(&data, "user.kept", &mut value).unwrap(), 1);
        assert!(rustix::fs::getxattr(&data, "user.overlay.impure", &mut value).is_err());
        assert_eq!(freeze(&store, &stack, &info).unwrap(), None, "it is empty again");
    }

    #[test]
    fn files_on_another_file_system_are_copied() {
        let (_root, store, stack, info) = host();
        let data = stack.join("rw/data");
        fs::create_dir(data.join("below")).unwrap();
        fs::write(data.join("below/a"), "a").unwrap();
        let id = LayerDraft::create(&store, &info).unwrap().publish(&store, DraftContent::Entries).unwrap();
        fs::create_dir(id.tree(&store)).unwrap();
        let writable = open_writable(&stack).unwrap().unwrap();
        let open = open_data(writable.as_fd()).unwrap().unwrap();
        copy(&store, writable.as_fd(), open.as_fd(), &id).unwrap();
        assert_eq!(fs::read_to_string(id.tree(&store).join("below/a")).unwrap(), "a");
        let left: Vec<_> =
            fs::read_dir(stack.join("rw")).unwrap().flatten().map(|entry| entry.file_name()).collect();
        assert!(left.len() == 2 && data.read_dir().unwrap().count() == 0, "{left:?}");
    }

    #[test]
    fn a_new_layer_is_above_all_others() {
        let root = tempfile::tempdir().unwrap();
        for (entries, next) in [
            (&[][..], None),
            (&["layer@0", "layer@9", "layer@10"], Some("layer@11")),
            (&["layer@base", "rw"], Some("layer@1")),
            (&["layer@7-1.v", "layer@7^2"], Some("layer@8")),
            (&["layer@18446744073709551615"], None),
        ] {
            let stack = root.path().join("web.mstack");
            for entry in entries {
                fs::create_dir_all(stack.join(entry)).unwrap();
            }
            fs::create_dir_all(&stack).unwrap();
            assert_eq!(next_entry(&stack).ok().as_deref(), next, "{entries:?}");
            fs::remove_dir_all(&stack).unwrap();
        }
    }
}
