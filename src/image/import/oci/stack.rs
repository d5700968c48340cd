//! Creates the stack of an image: links to its layers, a writable layer, and a directory for each volume. Its
//! configuration lies beside it, as importctl(1) has it. Called by `oci`, which holds the lock of the store.

use super::layers::StoredLayer;
use super::{LayoutImage, StackOptions};
use crate::error::{Context, Result};
use crate::image::layers::Layers;
use crate::image::snapshot::{self, Quiet, Snapshots, Tag};
use crate::image::stack::{self, Stack};
use crate::image::store::Store;
use crate::image::store::draft::{Draft, DraftContent};
use crate::image::{freeze, oci_config};
use crate::machine::name::Name;
use crate::machine::root::RootSource;
use crate::paths::Paths;
use crate::sys::mount;
use crate::sys::overlay::DATA;
use crate::tree;
use crate::tree::copy::CopyProgress;
use crate::tree::entry::quoted;
use crate::tree::tar::policy;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, Timespec, Timestamps};
use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

/// The directories of API file systems: a volume there would hide them.
const API: [&str; 4] = ["/proc", "/sys", "/dev", "/run"];
/// The length of the name of an entry, which has a word before it.
const LONGEST_ENTRY: usize = 240;
/// The maximum number of volumes.
const MOST_VOLUMES: usize = 100;

/// Creates the stack of an image and its configuration, with at most `largest` bytes in its volumes. An existing stack
/// becomes a snapshot if the options name one. Returns its path, and warnings.
///
/// # Errors
/// An existing file, or one that cannot be created. Nothing is left then, but the snapshot of a replaced stack.
pub(super) fn create(
    paths: &Paths,
    name: &Name,
    layers: &[StoredLayer],
    image: &LayoutImage,
    (options, largest): (StackOptions<'_>, u64),
    progress: &mut CopyProgress<'_>,
) -> Result<(PathBuf, Vec<String>)> {
    let path = paths.images().join(format!("{name}.mstack"));
    let draft = Draft::of_image(&path)?;
    let entries = draft.create_directory(0o755)?;
    let used = used(layers);
    for (number, layer) in used.iter().enumerate() {
        freeze::link(&layer.tree, &draft.path().join(format!("layer@{number}")))?;
    }
    let (volumes, warnings) = volumes(image.config.config.volumes.keys());
    if !volumes.is_empty() {
        let root = Layers::of_host().read_only(&Stack::read(&draft.path())?.root)?;
        let mut left = largest;
        for volume in &volumes {
            left -= create_volume(&root, volume, entries.as_fd(), left, progress)
                .map_err(|error| error.context(format!("cannot create the volume '{}'", volume.display())))?;
        }
    }
    if !options.is_read_only {
        create_writable(entries.as_fd(), &used)?;
    }
    let store = Store::of(paths);
    match options.former {
        None => oci_config::publish(&store, draft, &path, &image.config_text, DraftContent::Data)?,
        Some(tag) => replace((paths, name, tag), draft, &path, &image.config_text, progress)?,
    }
    Ok((path, warnings))
}

/// Replaces the stack of a name, which becomes a snapshot. Its locks are held.
///
/// # Errors
/// A file that cannot be written. The snapshot stays if the stack is replaced then: the draft, which is the former stack,
/// is removed.
fn replace(
    (paths, name, tag): (&Paths, &Name, &Tag),
    draft: Draft,
    path: &Path,
    config: &[u8],
    progress: &mut CopyProgress<'_>,
) -> Result<()> {
    let snapshots = Snapshots::lock(paths, name)?;
    let (image, inode) = (RootSource::Stack(path.to_owned()), oci_config::inode(&draft)?);
    snapshot::take(&snapshots, (name, &image), tag, Quiet::Locked, &mut |bytes| progress(bytes))?;
    let replaced = oci_config::replace(&Store::of(paths), &draft, path, Some(config), DraftContent::Data);
    if replaced.is_err() && oci_config::is_replaced(path, inode) {
        return replaced.map_err(|error| {
            error.context(format!("'{name}' is replaced, but not all of its files are written")).with_hint(
                format!("restore its former state, the snapshot '{tag}': coracle rollback {name} {tag}"),
            )
        });
    }
    if replaced.is_err() {
        snapshots.remove(tag).unwrap_or_else(|error| log::warn!("{error}, ignoring"));
    }
    replaced
}

/// Returns the layers that the root shows, the lowest first. An overlay cannot have a directory twice: of equal
/// layers the uppermost one hides all that the other ones have.
fn used(layers: &[StoredLayer]) -> Vec<&StoredLayer> {
    let from = layers.iter().rposition(|layer| layer.info.is_opaque).unwrap_or(0);
    let mut seen = BTreeSet::new();
    let mut used: Vec<&StoredLayer> =
        layers.iter().skip(from).rev().filter(|layer| seen.insert(&layer.tree)).collect();
    used.reverse();
    used
}

/// Creates the writable layer. Its root is that of the uppermost layer that describes one.
fn create_writable(entries: BorrowedFd<'_>, layers: &[&StoredLayer]) -> Result<()> {
    let creating = || "cannot create the writable layer";
    rustix::fs::mkdirat(entries, "rw", Mode::from_raw_mode(0o755)).context(creating)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let writable = rustix::fs::openat(entries, "rw", flags, Mode::empty()).context(creating)?;
    let described = layers.iter().rev().find(|layer| layer.info.has_root).or(layers.last());
    let Some(layer) = described else { return Ok(()) };
    let root = mount::open_directory(&layer.tree)?;
    freeze::create_like(writable.as_fd(), DATA, root.as_fd())?;
    let found = rustix::fs::fstat(&root).context(creating)?;
    let tv_nsec = i64::try_from(found.st_mtime_nsec).unwrap_or_default();
    let last_modification = Timespec { tv_sec: found.st_mtime, tv_nsec };
    let times = Timestamps { last_access: last_modification, last_modification };
    rustix::fs::utimensat(&writable, DATA, &times, AtFlags::SYMLINK_NOFOLLOW).context(creating)
}

/// Returns the volumes that the machine gets, and warnings about the other ones.
fn volumes<'a>(paths: impl Iterator<Item = &'a String>) -> (Vec<PathBuf>, Vec<String>) {
    let (mut found, mut warnings) = (Vec::new(), Vec::new());
    for text in paths {
        let path = Path::new(text);
        let is_plain = |part: Component<'_>| matches!(part, Component::Normal(_) | Component::RootDir);
        let is_valid = path.is_absolute()
            && path.components().all(is_plain)
            && path.parent().is_some()
            && !text.contains('\0')
            && text.len() < 200
            && stack::escaped(path).len() < LONGEST_ENTRY
            && !API.iter().any(|api| path.starts_with(api));
        let plain: PathBuf = path.components().collect();
        if is_valid && found.contains(&plain) {
            continue;
        }
        if is_valid && found.len() < MOST_VOLUMES {
            found.push(plain);
        } else {
            warnings.push(format!("ignoring the volume {}", quoted(text.as_bytes())));
        }
    }
    (found, warnings)
}

/// Creates a volume with the files that the image has there, at most `left` bytes. Returns their number: also a small
/// image can have the same files in many volumes.
fn create_volume(
    root: &OwnedFd,
    volume: &Path,
    entries: BorrowedFd<'_>,
    left: u64,
    progress: &mut CopyProgress<'_>,
) -> Result<u64> {
    let entry = format!("bind@{}", stack::escaped(volume));
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let mut limited = |bytes| if bytes > left { Err(policy::larger_than(left)) } else { progress(bytes) };
    match rustix::fs::openat2(root, volume, flags, Mode::empty(), resolve) {
        Ok(found) => {
            let copied = tree::copy::copy(found.as_fd(), entries, entry.as_ref(), &mut limited)?;
            // Also files that share all of their blocks.
            limited(copied.bytes)?;
            Ok(copied.bytes)
        }
        Err(rustix::io::Errno::NOENT) => {
            rustix::fs::mkdirat(entries, entry, Mode::from_raw_mode(0o755))?;
            Ok(0)
        }
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::store::layer::LayerInfo;

    fn layer(tree: &str, is_opaque: bool) -> StoredLayer {
        let info = LayerInfo { is_opaque, ..LayerInfo::of(&Name::new("web").unwrap()) };
        StoredLayer { tree: tree.into(), info }
    }

    #[test]
    fn hidden_and_repeated_layers_are_left_out() {
        let layers = |of: &[(&str, bool)]| {
            let layers: Vec<StoredLayer> = of.iter().map(|(tree, opaque)| layer(tree, *opaque)).collect();
            used(&layers).iter().map(|layer| layer.tree.display().to_string()).collect::<String>()
        };
        assert_eq!(layers(&[("a", false), ("b", false), ("c", false)]), "abc");
        assert_eq!(layers(&[("a", false), ("b", false), ("a", false)]), "ba");
        assert_eq!(layers(&[("a", false), ("b", true), ("c", false)]), "bc");
        assert_eq!(layers(&[("a", true), ("b", true)]), "b");
    }

    #[test]
    fn volumes_are_as_large_as_the_image_may_be() {
        let root = tempfile::Builder::new().tempdir_in("/var/tmp").unwrap();
        for directory in ["image/data", "stack"] {
            std::fs::create_dir_all(root.path().join(directory)).unwrap();
        }
        std::os::unix::fs::symlink("data", root.path().join("image/again")).unwrap();
        std::fs::write(root.path().join("image/data/file"), [b'a'; 5000]).unwrap();
        let image = mount::open_directory(&root.path().join("image")).unwrap();
        let entries = rustix::fs::open(
            root.path().join("stack"),
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .unwrap();
        let create = |path: &str, left: u64| {
            create_volume(&image, Path::new(path), entries.as_fd(), left, &mut |_| Ok(()))
        };
        assert_eq!(create("/data", 6000).unwrap(), 5000);
        let error = create("/again", 4000).unwrap_err().to_string();
        assert!(error.contains("larger than 4000 bytes"), "{error}");
        assert_eq!(create("/new", 0).unwrap(), 0);
    }

    #[test]
    fn volumes_are_below_the_root() {
        let paths: Vec<String> =
            ["/data", "/data/", "/var/lib/my-sql/", "/", "", "data", "/a/../b", "/proc/x", "/run", "/x\0"]
                .map(str::to_owned)
                .into();
        let long = format!("/{}", "ä".repeat(90));
        let (found, warnings) = volumes(paths.iter().chain([&long]));
        assert_eq!(found, [Path::new("/data"), Path::new("/var/lib/my-sql")]);
        assert_eq!(warnings.len(), 8);
    }
}
