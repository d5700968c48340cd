//! Saves the state of an image as a snapshot. Called by the verbs on images.

use super::{ImageKind, Method, SnapshotInfo, Snapshots, Tag};
use crate::error::{Context, Error, Result};
use crate::host::lock::LockMode;
use crate::image::freeze;
use crate::image::oci_config;
use crate::image::refuse;
use crate::image::store::draft::{Draft, DraftContent};
use crate::image::store::layer::{LayerDraft, LayerInfo};
use crate::machine::name::Name;
use crate::machine::root::RootSource;
use crate::sys::btrfs::{self, Access};
use crate::sys::mount;
use crate::tree;
use crate::tree::copy::{Copied, CopyMethod, CopyProgress};
use crate::tree::live_copy::LiveCopy;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use std::ffi::OsStr;
use std::path::Path;
use std::time::SystemTime;

/// A pause of the machine that changes an image.
pub(crate) trait Pause {
    /// Begins it: the image does not change from here on.
    ///
    /// # Errors
    /// A machine that cannot be paused.
    fn begin(&mut self) -> Result<()>;

    /// Ends it.
    ///
    /// # Errors
    /// The machine was resumed in the meantime.
    fn end(&mut self) -> Result<()>;
}

/// A finished snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Taken {
    /// The method.
    pub(crate) method: Method,
    /// The copied bytes.
    pub(crate) bytes: u64,
}

/// The reason why an image does not change while it is saved.
pub(crate) enum Quiet<'a> {
    /// Its exclusive locks are held.
    Locked,
    /// Its shared locks are held: its users do not change it.
    Shared,
    /// The machine that changes it is paused.
    Paused(&'a mut dyn Pause),
}

/// Saves the state of an image. `progress` is called with the bytes copied so far.
///
/// # Errors
/// An existing tag, or a file that cannot be saved. No snapshot is left.
pub(crate) fn take<'a>(
    snapshots: &'a Snapshots,
    (name, image): (&Name, &RootSource),
    tag: &'a Tag,
    quiet: Quiet<'a>,
    progress: &'a mut CopyProgress<'a>,
) -> Result<Taken> {
    refuse::disk_image(image, "has no snapshots")?;
    snapshots.refuse_existing(tag)?;
    refuse::writable_link(image)?;
    let path = image.path();
    let path = path.canonicalize().context(|| format!("cannot open '{}'", path.display()))?;
    let mut saving = Saving { snapshots, tag, quiet, progress, bytes: 0, method: Method::Layers };
    match image {
        RootSource::Directory(_) | RootSource::Image(_) => saving.directory(&path),
        RootSource::Stack(_) => saving.stack(name, &path),
    }
}

/// A snapshot that is being taken.
struct Saving<'a> {
    snapshots: &'a Snapshots,
    tag: &'a Tag,
    quiet: Quiet<'a>,
    progress: &'a mut CopyProgress<'a>,
    /// The copied bytes.
    bytes: u64,
    /// The method of most effort.
    method: Method,
}

/// A tree that is being copied.
enum TreeCopy {
    /// Its source does not change.
    Finished(Copied),
    /// Its source is still changed.
    Live(LiveCopy),
}

impl Saving<'_> {
    fn directory(&mut self, path: &Path) -> Result<Taken> {
        let source = mount::open_directory(path)?;
        let source = open(source.as_fd(), ".")?;
        if btrfs::is_subvolume(source.as_fd()) && btrfs::is_alone(source.as_fd()) {
            match self.subvolume(source.as_fd()) {
                // The store is on another file system.
                Err(error) if error.1 => log::debug!("{}, copying instead", error.0),
                saved => return saved.map_err(|error| error.0),
            }
        }
        self.method = Method::Reflink;
        let draft = Draft::in_store(&self.snapshots.store)?;
        let copy = self.copy(source.as_fd(), draft.directory(), draft.name())?;
        self.finish(vec![copy])?;
        self.publish(draft, ImageKind::Directory, DraftContent::Data)
    }

    /// Creates a read-only snapshot of a subvolume, which is complete when it exists. The error says whether
    /// another method may succeed.
    fn subvolume(&mut self, source: BorrowedFd<'_>) -> std::result::Result<Taken, (Error, bool)> {
        let fatal = |error| (error, false);
        let doing = || "cannot create a snapshot of the subvolume";
        let directory = mount::open_directory(&self.snapshots.directory).map_err(fatal)?;
        let directory = open(directory.as_fd(), ".").map_err(fatal)?;
        if !btrfs::lies_on(directory.as_fd()) {
            return Err((Error::new("the store is on another file system").context(doing()), true));
        }
        // Most of the data is written before the pause.
        rustix::fs::syncfs(source).context(doing).map_err(fatal)?;
        self.method = Method::Subvolume;
        self.describe(ImageKind::Directory).map_err(fatal)?;
        self.begin_pause().map_err(fatal)?;
        let name = OsStr::new(&self.tag.0);
        let created = btrfs::snapshot(source, directory.as_fd(), name, Access::ReadOnly);
        if let Err(error) = created {
            let _ = self.end_pause();
            let is_elsewhere = error.kind() == std::io::ErrorKind::CrossesDevices;
            self.snapshots.remove_unfinished();
            return Err((Error::from(error).context(doing()), is_elsewhere));
        }
        self.end_pause().map_err(|error| {
            let removed = self.snapshots.remove(self.tag);
            removed.unwrap_or_else(|error| log::warn!("{error}, ignoring"));
            fatal(error)
        })?;
        Ok(Taken { method: self.method, bytes: 0 })
    }

    fn stack(&mut self, name: &Name, path: &Path) -> Result<Taken> {
        let store = &self.snapshots.store;
        let info = LayerInfo::of(name);
        // With other users of the image the writable layer stays where it is.
        if matches!(self.quiet, Quiet::Locked) && has_layers(path)? {
            let _held = store.lock(LockMode::Shared)?;
            freeze::freeze(store, path, &info)?;
        }
        let draft = Draft::in_store(store)?;
        let directory = draft.create_directory(0o700)?;
        let mut copies = Vec::new();
        let mut layers = Vec::new();
        for entry in entries(path)? {
            let Some(kind) = EntryKind::of(&entry)? else { continue };
            let source = path.join(&entry);
            let opening = || format!("cannot open '{}'", source.display());
            let is_link = source.symlink_metadata().context(opening)?.file_type().is_symlink();
            let real = source.canonicalize().context(opening)?;
            match kind {
                EntryKind::Layer | EntryKind::Bind if is_link => {
                    std::os::unix::fs::symlink(&real, draft.path().join(&entry))
                        .context(|| format!("cannot create the entry '{entry}'"))?;
                }
                EntryKind::Bind => {
                    let from = open(mount::open_directory(&real)?.as_fd(), ".")?;
                    copies.push(self.copy(from.as_fd(), directory.as_fd(), OsStr::new(&entry))?);
                }
                EntryKind::Layer | EntryKind::Writable => {
                    let (entry, from) = match kind {
                        EntryKind::Layer => (entry, open(mount::open_directory(&real)?.as_fd(), ".")?),
                        _ => match self.writable(path)? {
                            Some(writable) => writable,
                            None => continue,
                        },
                    };
                    let layer = LayerDraft::create(store, &info)?;
                    let to = OsStr::new(LayerDraft::tree_name());
                    copies.push(self.copy(from.as_fd(), layer.directory(), to)?);
                    layers.push((entry, layer));
                }
            }
        }
        self.finish(copies)?;
        self.save_config(path)?;
        self.publish_stack(draft, layers)
    }

    /// Saves the configuration of an OCI image, before the snapshot has its name.
    fn save_config(&self, stack: &Path) -> Result<()> {
        let config = oci_config::beside(stack);
        let reading = || format!("cannot read '{}'", config.display());
        match std::fs::read(&config) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            read => {
                let (store, path) = (&self.snapshots.store, self.snapshots.config(self.tag));
                Draft::publish_text(store, &path, &read.context(reading)?)
            }
        }
    }

    /// Returns the name for a layer with the files of the writable one, and its directory. `None` if it has
    /// none.
    fn writable(&self, path: &Path) -> Result<Option<(String, OwnedFd)>> {
        let Some(writable) = freeze::open_writable(path)? else { return Ok(None) };
        if !has_layers(path)? {
            // It is the whole root.
            return Ok(Some(("layer@0".to_owned(), open(writable.as_fd(), ".")?)));
        }
        let data = freeze::open_data(writable.as_fd())?.filter(freeze::has_entries);
        data.map(|data| Ok((freeze::next_entry(path)?, data))).transpose()
    }

    /// Publishes the layers of a stack and then the stack.
    fn publish_stack(&mut self, draft: Draft, layers: Vec<(String, LayerDraft)>) -> Result<Taken> {
        // Nothing stands on the layers meanwhile.
        let _held = self.snapshots.store.lock(LockMode::Shared)?;
        let content = if layers.is_empty() { DraftContent::Entries } else { DraftContent::Data };
        for (entry, layer) in layers {
            let id = layer.publish(&self.snapshots.store, DraftContent::Data)?;
            freeze::link(&id.tree(&self.snapshots.store), &draft.path().join(entry))?;
        }
        self.publish(draft, ImageKind::Stack, content)
    }

    /// Copies a tree: completely, or in a first pass.
    fn copy(&mut self, from: BorrowedFd<'_>, parent: BorrowedFd<'_>, name: &OsStr) -> Result<TreeCopy> {
        let before = self.bytes;
        let mut progress = |bytes| (self.progress)(before + bytes);
        Ok(if matches!(self.quiet, Quiet::Paused(_)) {
            TreeCopy::Live(LiveCopy::begin(from, parent, name, &mut progress)?)
        } else {
            let copied = tree::copy::copy(from, parent, name, &mut progress)?;
            self.count(copied);
            TreeCopy::Finished(copied)
        })
    }

    fn count(&mut self, copied: Copied) {
        if copied.method == CopyMethod::Copy {
            self.bytes += copied.bytes;
        }
        // A tree without data has no method.
        if self.method != Method::Copy && copied.bytes > 0 {
            self.method = Method::of(copied);
        }
    }

    /// Pauses the machine, and finishes copies.
    fn finish(&mut self, copies: Vec<TreeCopy>) -> Result<()> {
        if copies.iter().all(|copy| matches!(copy, TreeCopy::Finished(_))) {
            return Ok(());
        }
        self.begin_pause()?;
        let (before, progress) = (self.bytes, &mut self.progress);
        let finished: Result<Vec<Copied>> = copies
            .into_iter()
            .map(|copy| match copy {
                TreeCopy::Finished(copied) => Ok(copied),
                TreeCopy::Live(live) => live.finish(&mut |bytes| progress(before + bytes)),
            })
            .collect();
        let ended = self.end_pause();
        finished?.into_iter().for_each(|copied| self.count(copied));
        ended
    }

    fn begin_pause(&mut self) -> Result<()> {
        if let Quiet::Paused(pause) = &mut self.quiet { pause.begin() } else { Ok(()) }
    }

    fn end_pause(&mut self) -> Result<()> {
        if let Quiet::Paused(pause) = &mut self.quiet { pause.end() } else { Ok(()) }
    }

    fn describe(&self, kind: ImageKind) -> Result<()> {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let created = u64::try_from(since.as_micros()).unwrap_or(u64::MAX);
        self.snapshots.describe(self.tag, &SnapshotInfo { kind, created, method: self.method })
    }

    fn publish(&self, draft: Draft, kind: ImageKind, content: DraftContent) -> Result<Taken> {
        self.describe(kind)?;
        let published = draft.publish(&self.snapshots.path(self.tag), content);
        if published.is_err() {
            self.snapshots.remove_unfinished();
        }
        published?;
        Ok(Taken { method: self.method, bytes: self.bytes })
    }
}

/// An entry of a stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EntryKind {
    /// A read-only layer.
    Layer,
    /// A directory that is mounted as it is.
    Bind,
    /// The writable layer.
    Writable,
}

impl EntryKind {
    /// Returns the kind of an entry by its name. `None` for a hidden one.
    pub(super) fn of(entry: &str) -> Result<Option<Self>> {
        Ok(match entry.split_once('@').map_or(entry, |(kind, _)| kind) {
            _ if entry.starts_with('.') => None,
            _ if entry.ends_with(".v") => return Err(Self::unsupported(entry)),
            "layer" => Some(Self::Layer),
            "bind" | "robind" => Some(Self::Bind),
            "rw" => Some(Self::Writable),
            _ => return Err(Self::unsupported(entry)),
        })
    }

    fn unsupported(entry: &str) -> Error {
        Error::new(format!("a stack with the entry '{entry}' has no snapshots"))
            .with_hint("give the stack layers instead, layer@ID and rw (systemd.mstack(7))")
    }
}

/// Returns whether a stack has layers below its writable one.
fn has_layers(stack: &Path) -> Result<bool> {
    Ok(entries(stack)?.iter().any(|entry| entry.starts_with("layer@")))
}

/// Returns the names of the entries of a stack or of its snapshot.
pub(super) fn entries(stack: &Path) -> Result<Vec<String>> {
    let reading = || format!("cannot read '{}'", stack.display());
    let mut names = Vec::new();
    for entry in std::fs::read_dir(stack).context(reading)? {
        let name = entry.context(reading)?.file_name();
        names.extend(name.into_string().ok());
    }
    names.sort();
    Ok(names)
}

/// Opens a directory for reading.
pub(super) fn open(directory: BorrowedFd<'_>, name: &str) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(directory, name, flags, Mode::empty()).context(|| format!("cannot open '{name}'"))
}
