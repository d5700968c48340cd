//! Restores a snapshot: a new tree beside the image is exchanged with it, by one system call. Called by the
//! verbs on images, which hold the exclusive locks of the image.

use super::take::{EntryKind, entries, open};
use super::{ImageKind, Method, Quiet, Snapshot, Snapshots, Tag, exists, take};
use crate::error::{Context, Error, Result};
use crate::image::store::draft::{self, Draft, DraftContent};
use crate::image::{oci_config, refuse, users};
use crate::machine::name::Name;
use crate::machine::root::RootSource;
use crate::paths::Paths;
use crate::sys::btrfs::{self, Access};
use crate::sys::mount;
use crate::tree::copy::{self, CopyMethod, CopyProgress};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::Mode;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// A finished rollback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Restored {
    /// The method.
    pub(crate) method: Method,
    /// The copied bytes.
    pub(crate) bytes: u64,
}

/// Restores a snapshot of an image. The present state becomes the snapshot `kept`, or is discarded.
/// `progress` is called with the bytes copied so far.
///
/// # Errors
/// An image of another kind, or a file that cannot be copied. The image is unchanged then.
pub(crate) fn restore(
    snapshots: &Snapshots,
    (name, image): (&Name, &RootSource),
    snapshot: &Snapshot,
    kept: Option<&Tag>,
    progress: &mut CopyProgress<'_>,
) -> Result<Restored> {
    if ImageKind::of(image) != snapshot.info.kind {
        let kind = match snapshot.info.kind {
            ImageKind::Directory => "directory",
            ImageKind::Stack => "stack",
        };
        return Err(Error::new(format!("snapshot '{}' is one of a {kind}", snapshot.tag))
            .with_hint(format!("convert the image first: coracle convert {name} {kind}")));
    }
    refuse::writable_link(image)?;
    let path = image.path();
    let path = path.canonicalize().context(|| format!("cannot open '{}'", path.display()))?;
    path.parent().into_iter().for_each(draft::sweep_images);
    if let Some(kept) = kept {
        take(snapshots, (name, image), kept, Quiet::Locked, progress)?;
    }
    let draft = draft_of(&path, snapshot, progress);
    if let (Err(_), Some(kept)) = (&draft, kept) {
        snapshots.remove(kept).unwrap_or_else(|error| log::warn!("{error}, ignoring"));
    }
    let (draft, restored) = draft?;
    let content = match restored.method {
        Method::Layers => DraftContent::Entries,
        _ => DraftContent::Data,
    };
    // The draft is the former image then, which is removed.
    match snapshot.info.kind {
        ImageKind::Stack => {
            let config = saved_config(snapshots, &snapshot.tag)?;
            oci_config::replace(&snapshots.store, &draft, &path, config.as_deref(), content)?;
        }
        ImageKind::Directory => draft.exchange(&path, content)?,
    }
    Ok(restored)
}

/// Returns the file with the configuration of an OCI image that was saved with a snapshot. `None` if the image had none.
pub(crate) fn config_of(paths: &Paths, name: &Name, tag: &Tag) -> Option<PathBuf> {
    Some(super::directory(paths, name).join(format!("{tag}{}", super::CONFIG))).filter(|file| file.is_file())
}

/// Returns the configuration of an OCI image that was saved with a snapshot. `None` if the image had none.
fn saved_config(snapshots: &Snapshots, tag: &Tag) -> Result<Option<Vec<u8>>> {
    let config = snapshots.config(tag);
    match std::fs::read(&config) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        read => read.map(Some).context(|| format!("cannot read '{}'", config.display())),
    }
}

/// Creates the draft of an image with the files of a snapshot.
fn draft_of(path: &Path, snapshot: &Snapshot, progress: &mut CopyProgress<'_>) -> Result<(Draft, Restored)> {
    let draft = Draft::of_image(path)?;
    let from = open(mount::open_directory(&snapshot.path)?.as_fd(), ".")?;
    let mut restoring = Restoring { draft, progress, bytes: 0, method: Method::Layers };
    match snapshot.info.kind {
        ImageKind::Directory => restoring.directory(&from)?,
        ImageKind::Stack => restoring.stack(&snapshot.path, path, &from)?,
    }
    let Restoring { draft, bytes, method, .. } = restoring;
    Ok((draft, Restored { method, bytes }))
}

/// Refuses an image that cannot be replaced: one of a package, a version, a read-only one, one with mounts, and
/// one that stacks stand on.
///
/// # Errors
/// Such an image.
pub(crate) fn refuse_unreplaceable(paths: &Paths, name: &Name, image: &RootSource) -> Result<()> {
    refuse::of_package(paths, image)?;
    refuse::version(image.path())?;
    refuse::read_only(name, image.path())?;
    refuse::mounts(image.path())?;
    users::refuse(image.path(), &users::of(paths, image.path())?)
}

/// A tree that is being restored.
struct Restoring<'a> {
    draft: Draft,
    progress: &'a mut CopyProgress<'a>,
    bytes: u64,
    method: Method,
}

impl Restoring<'_> {
    fn directory(&mut self, from: &OwnedFd) -> Result<()> {
        if btrfs::is_subvolume(from.as_fd()) {
            let (directory, name) = (self.draft.directory(), self.draft.name());
            match btrfs::snapshot(from.as_fd(), directory, name, Access::Writable) {
                Ok(()) => {
                    self.method = Method::Subvolume;
                    return Ok(());
                }
                Err(error) => log::debug!("cannot create a snapshot: {error}, copying instead"),
            }
        }
        self.method = Method::Reflink;
        let copied = copy::copy(from.as_fd(), self.draft.directory(), self.draft.name(), self.progress)?;
        self.count(copied);
        Ok(())
    }

    fn stack(&mut self, snapshot: &Path, image: &Path, from: &OwnedFd) -> Result<()> {
        let doing = || format!("cannot restore '{}'", image.display());
        let mode = |path: &Path| Ok::<_, Error>(rustix::fs::stat(path).context(doing)?.st_mode & 0o7777);
        let directory = self.draft.create_directory(0o700)?;
        for entry in entries(snapshot)? {
            if EntryKind::of(&entry)?.is_none() {
                continue;
            }
            let (source, name) = (snapshot.join(&entry), OsStr::new(&entry));
            if let Ok(target) = std::fs::read_link(&source) {
                rustix::fs::symlinkat(target, &directory, name).context(doing)?;
            } else {
                let before = self.bytes;
                let progress = &mut |bytes| (self.progress)(before + bytes);
                let source = open(from.as_fd(), &entry)?;
                let copied = copy::copy(source.as_fd(), directory.as_fd(), name, progress)?;
                self.count(copied);
            }
        }
        let writable = image.join("rw");
        if exists(&writable)? {
            let bits = Mode::from_raw_mode(mode(&writable)?);
            rustix::fs::mkdirat(&directory, "rw", bits).context(doing)?;
            rustix::fs::chmodat(&directory, "rw", bits, rustix::fs::AtFlags::empty()).context(doing)?;
        }
        rustix::fs::fchmod(&directory, Mode::from_raw_mode(mode(image)?)).context(doing)
    }

    fn count(&mut self, copied: copy::Copied) {
        if copied.method == CopyMethod::Copy {
            self.bytes += copied.bytes;
        }
        // A tree without data has no method.
        if self.method != Method::Copy && copied.bytes > 0 {
            self.method = Method::of(copied);
        }
    }
}
