//! Creates an image as a clone of another one, by the fastest method that applies: a Btrfs snapshot, a stack
//! on the same layers, a stack on a directory that never changes, or a copy. Called by `control`. Until it is
//! complete the clone has a hidden name.

mod disk_image;
pub(super) mod shared_layers;

use super::identity;
use super::locks::{self, HeldLocks};
use super::snapshot::{self, Snapshots, Tag};
use super::stack::Stack;
use super::stack_root::StackRoot;
use super::store::Store;
use super::store::draft::{self, Draft, DraftContent};
use super::store::layer::LayerInfo;
use super::{base_check, find, freeze, oci_config, refuse};
use crate::error::{Context, Result};
use crate::host::lock::LockMode;
use crate::machine::name::Name;
use crate::machine::root::RootSource;
use crate::paths::Paths;
use crate::sys::btrfs::{self, Access};
use crate::sys::guest_files::GuestRoot;
use crate::sys::mount;
use crate::sys::read_only;
use crate::tree;
use crate::tree::copy::{Copied, CopyProgress};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::RenameFlags;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The identity of a clone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CloneIdentity {
    /// A new one: machine id, host name, host keys.
    New,
    /// That of the source.
    Exact,
}

/// Whether a clone can be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CloneAccess {
    /// Its machine can change it.
    Writable,
    /// No machine can change it: a stack without a writable layer, or a directory with the read-only flag.
    ReadOnly,
}

/// A request for a clone.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CloneRequest<'a> {
    /// The places of Coracle.
    pub(crate) paths: &'a Paths,
    /// The name of the source.
    pub(crate) source: &'a Name,
    /// Its snapshot. `None` for its present state.
    pub(crate) tag: Option<&'a Tag>,
    /// The locked snapshots of the source, if this one was taken for the clone, which may take its files.
    pub(crate) taken_for_it: Option<&'a Snapshots>,
    /// The name of the clone.
    pub(crate) name: &'a Name,
    /// The identity of the clone.
    pub(crate) identity: CloneIdentity,
    /// Whether the clone can be changed.
    pub(crate) access: CloneAccess,
}

/// The method of a clone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CloneMethod {
    /// By a snapshot of a subvolume.
    Snapshot,
    /// As a stack on the layers of the source.
    Layers,
    /// As a stack on the directory of the source.
    Base,
    /// By a copy.
    Copy(Copied),
    /// From the copy in the snapshot that was taken for it.
    Taken,
}

/// A finished clone.
#[derive(Debug)]
pub(crate) struct Cloned {
    /// Its path.
    pub(crate) path: PathBuf,
    /// The method.
    pub(crate) method: CloneMethod,
    /// The message about files of its identity that could not be renewed.
    pub(crate) kept_identity: Option<String>,
    /// The file of the source, which is read-only, that a stack on it would lose.
    pub(crate) marked: Option<PathBuf>,
}

/// Creates a clone. `progress` is called with the bytes copied so far.
///
/// # Errors
/// A missing or running source, an existing image with the name, or a file that cannot be created. Nothing is
/// left then.
pub(crate) fn clone(request: CloneRequest<'_>, progress: &mut CopyProgress<'_>) -> Result<Cloned> {
    let CloneRequest { source, name, tag, .. } = request;
    let tag = tag.map_or_else(String::new, |tag| format!("@{tag}"));
    clone_image(request, progress)
        .map_err(|error| error.context(format!("cannot clone image '{source}{tag}' to '{name}'")))
}

fn clone_image(request: CloneRequest<'_>, progress: &mut CopyProgress<'_>) -> Result<Cloned> {
    let CloneRequest { paths, source, name, .. } = request;
    // A snapshot is not removed meanwhile.
    let is_locked = request.taken_for_it.is_some();
    let snapshots = request.tag.filter(|_| !is_locked).map(|_| Snapshots::lock(paths, source)).transpose()?;
    let image = match request.tag {
        Some(tag) => snapshot::find(paths, source, Some(tag))?.source(),
        None => find::existing(paths, source)?,
    };
    refuse_existing(paths, name)?;
    refuse::writable_link(&image)?;
    let store = Store::of(paths);
    create_directory(&paths.images())?;
    draft::sweep_images(&paths.images());
    draft::sweep_store(&store);
    let cloner = Cloner { request, store };
    let cloned = match &image {
        RootSource::Directory(path) => cloner.of_directory(path, progress),
        RootSource::Stack(path) => cloner.of_stack(path, progress),
        RootSource::Image(path) => cloner.of_disk(path, progress),
    };
    drop(snapshots);
    cloned
}

/// Creates an image on a tree of the store, which never changes: a snapshot of its subvolume, a stack on it, or with
/// `is_copied` a directory. The names of both images are locked.
///
/// # Errors
/// A file that cannot be created.
pub(super) fn of_base(
    paths: &Paths,
    base: &Path,
    name: &Name,
    is_copied: bool,
    progress: &mut CopyProgress<'_>,
) -> Result<Cloned> {
    let (tag, taken_for_it) = (None, None);
    let (identity, access) = (CloneIdentity::New, CloneAccess::Writable);
    let request = CloneRequest { paths, source: name, tag, taken_for_it, name, identity, access };
    let cloner = Cloner { request, store: Store::of(paths) };
    let directory = mount::open_directory(base)?;
    if btrfs::is_subvolume(directory.as_fd()) && btrfs::is_alone(directory.as_fd()) {
        match cloner.snapshot(&directory) {
            Ok(cloned) => return Ok(cloned),
            Err(error) => log::debug!("{error}, choosing another method"),
        }
    }
    if is_copied {
        return cloner.copy(&directory, cloner.path(""), progress);
    }
    cloner.on_base(base, &directory)
}

/// Refuses the name of a clone that has an image, or snapshots of a former one.
///
/// # Errors
/// Such a name.
pub(crate) fn refuse_existing(paths: &Paths, name: &Name) -> Result<()> {
    refuse::existing(paths, name)?;
    refuse::former_snapshots(paths, name)
}

/// Creates the directory of images like systemd: only root can enter it.
///
/// # Errors
/// Any error of mkdir(2).
pub(super) fn create_directory(images: &Path) -> Result<()> {
    let creating = || format!("cannot create '{}'", images.display());
    if images.is_dir() {
        return Ok(());
    }
    if let Some(above) = images.parent() {
        std::fs::create_dir_all(above).context(creating)?;
    }
    match std::fs::DirBuilder::new().mode(0o700).create(images) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error).context(creating),
        _ => Ok(()),
    }
}

/// Removes a clone that cannot be completed.
pub(super) fn remove(image: &Path) {
    let removed = Draft::of_image(image).and_then(|draft| draft.take(image));
    removed.unwrap_or_else(|error| log::warn!("{error}, ignoring"));
}

/// A clone in progress.
struct Cloner<'a> {
    request: CloneRequest<'a>,
    store: Store,
}

impl Cloner<'_> {
    /// Returns the path of the clone.
    fn path(&self, suffix: &str) -> PathBuf {
        self.request.paths.images().join(format!("{}{suffix}", self.request.name))
    }

    /// Locks the name of the clone and its source.
    fn lock(&self, source: &Path, mode: LockMode) -> Result<HeldLocks> {
        let CloneRequest { paths, name, .. } = self.request;
        let take = || -> Result<HeldLocks> {
            let mut held = HeldLocks::default();
            held.take(paths, [locks::of_name(paths, name, &self.path(""))])?;
            held.take(paths, locks::of_path(paths, source, mode)?)?;
            Ok(held)
        };
        let mut held = take();
        // The end of another clone holds an exclusive lock for a moment, to delete its file.
        for _ in 0..5 {
            if held.is_ok() || mode == LockMode::Exclusive {
                break;
            }
            std::thread::sleep(Duration::from_millis(2));
            held = take();
        }
        held
    }

    fn of_directory(&self, source: &Path, progress: &mut CopyProgress<'_>) -> Result<Cloned> {
        let _held = self.lock(source, LockMode::Shared)?;
        let directory = mount::open_directory(source)?;
        let is_base = self.is_base(source);
        if btrfs::is_subvolume(directory.as_fd()) && btrfs::is_alone(directory.as_fd()) {
            match self.snapshot(&directory) {
                Ok(cloned) => return Ok(cloned),
                // For example another file system.
                Err(error) => log::debug!("{error}, choosing another method"),
            }
        }
        if self.request.taken_for_it.is_some() {
            let moved = self.of_taken(source)?;
            return moved.map_or_else(|| self.copy(&directory, self.path(""), progress), Ok);
        }
        let mut marked = None;
        if is_base {
            marked = base_check::find_marked(&self.store, source, &directory)?;
            if marked.is_none() {
                return self.on_base(source, &directory);
            }
        }
        let cloned = self.copy(&directory, self.path(""), progress)?;
        Ok(Cloned { marked, ..cloned })
    }

    /// Makes the copy in a snapshot the clone. `None` if it is on another file system.
    fn of_taken(&self, snapshot: &Path) -> Result<Option<Cloned>> {
        let draft = Draft::of_image(&self.path(""))?;
        let (from, to) = (rustix::fs::CWD, draft.directory());
        match rustix::fs::renameat_with(from, snapshot, to, draft.name(), RenameFlags::NOREPLACE) {
            Err(rustix::io::Errno::XDEV) => return Ok(None),
            moved => moved.context(|| format!("cannot move '{}'", snapshot.display()))?,
        }
        let kept_identity = self.renew(&GuestRoot::of_tree(&draft.path())?)?;
        let path = self.path("");
        draft.publish(&path, DraftContent::Data)?;
        self.forbid_changes(&path)?;
        Ok(Some(Cloned { path, method: CloneMethod::Taken, kept_identity, marked: None }))
    }

    /// Returns whether a directory never changes: it is read-only, a snapshot, or belongs to a package.
    fn is_base(&self, directory: &Path) -> bool {
        let vendor = ["/usr/lib/machines", "/usr/local/lib/machines"];
        let is_vendor = vendor.iter().any(|vendor| directory.starts_with(self.request.paths.join(vendor)));
        // An immutable directory, and a read-only subvolume or file system: root may write to any other one.
        is_vendor
            || self.request.tag.is_some()
            || rustix::fs::access(directory, rustix::fs::Access::WRITE_OK).is_err()
    }

    fn snapshot(&self, source: &OwnedFd) -> Result<Cloned> {
        let draft = Draft::of_image(&self.path(""))?;
        btrfs::snapshot(source.as_fd(), draft.directory(), draft.name(), Access::Writable)
            .context(|| "cannot create a snapshot")?;
        let kept_identity = self.renew(&GuestRoot::of_tree(&draft.path())?)?;
        let cloned = self.publish(draft, self.path(""), CloneMethod::Snapshot, kept_identity)?;
        self.forbid_changes(&cloned.path)?;
        Ok(cloned)
    }

    /// Creates a stack on a directory that never changes.
    fn on_base(&self, source: &Path, directory: &OwnedFd) -> Result<Cloned> {
        let _users = self.store.lock(LockMode::Shared)?;
        let draft = Draft::of_image(&self.path(".mstack"))?;
        let stack = draft.create_directory(0o755)?;
        let base = source.canonicalize().context(|| format!("cannot find '{}'", source.display()))?;
        freeze::link(&base, &draft.path().join("layer@0"))?;
        let needs_identity = self.request.identity == CloneIdentity::New
            && identity::is_needed(&GuestRoot::of_tree(source)?, self.request.source)?;
        if needs_identity || self.request.access == CloneAccess::Writable {
            shared_layers::create_writable(stack.as_fd(), Some(directory.as_fd()))?;
        }
        let kept_identity = if needs_identity { self.renew_stack(&draft.path())? } else { None };
        self.close(&draft.path())?;
        self.publish(draft, self.path(".mstack"), CloneMethod::Base, kept_identity)
    }

    fn of_stack(&self, source: &Path, progress: &mut CopyProgress<'_>) -> Result<Cloned> {
        let _users = self.store.lock(LockMode::Shared)?;
        let mut mode = LockMode::Shared;
        let mut held = self.lock(source, mode)?;
        let is_base = self.is_base(source);
        if !is_base && shared_layers::must_change(source)? {
            drop(held);
            mode = LockMode::Exclusive;
            held = self.lock(source, mode)?;
        }
        let stack = Stack::read(source)?;
        let is_possible = shared_layers::are_possible(&stack, source)?;
        if !is_possible || is_base && shared_layers::has_written_files(source)? {
            let directory = mount::open_directory(source)?;
            return self.copy(&directory, self.path(".mstack"), progress);
        }
        if mode == LockMode::Exclusive {
            shared_layers::share(&self.store, source, &LayerInfo::of(self.request.source))?;
        }
        let draft = Draft::of_image(&self.path(".mstack"))?;
        let directory = draft.create_directory(0o755)?;
        let copied = shared_layers::clone_entries(source, directory.as_fd(), progress)?;
        let kept_identity = match self.request.identity {
            CloneIdentity::New => self.renew_stack(&draft.path())?,
            CloneIdentity::Exact => None,
        };
        self.close(&draft.path())?;
        if copied {
            rustix::fs::syncfs(&directory).context(|| "cannot write the copied volumes to the disk")?;
        }
        let cloned = self.publish(draft, self.path(".mstack"), CloneMethod::Layers, kept_identity);
        drop(held);
        cloned
    }

    /// Copies a disk image, and changes the identity in its root.
    fn of_disk(&self, source: &Path, progress: &mut CopyProgress<'_>) -> Result<Cloned> {
        let _held = self.lock(source, LockMode::Shared)?;
        let path = self.path(".raw");
        let draft = Draft::of_image(&path)?;
        let is_read_only = self.request.access == CloneAccess::ReadOnly;
        let copied = disk_image::copy(source, draft.directory(), draft.name(), is_read_only, progress)?;
        let kept_identity = match self.request.identity {
            CloneIdentity::Exact => None,
            CloneIdentity::New => match disk_image::writable_root(&draft.path())? {
                Some(root) => self.renew(&GuestRoot::of_mount(root.as_fd())?)?,
                None => Some("the identity is kept: the file system of the root is read-only".to_owned()),
            },
        };
        // Its file system is unmounted: all of its data is in the file.
        draft.publish(&path, DraftContent::Data)?;
        Ok(Cloned { path, method: CloneMethod::Copy(copied), kept_identity, marked: None })
    }

    /// Copies a whole image.
    fn copy(&self, source: &OwnedFd, path: PathBuf, progress: &mut CopyProgress<'_>) -> Result<Cloned> {
        let draft = Draft::of_image(&path)?;
        let copied = tree::copy::copy(source.as_fd(), draft.directory(), draft.name(), progress)?;
        let is_stack = path.extension().is_some_and(|suffix| suffix == "mstack");
        let kept_identity = match self.request.identity {
            CloneIdentity::New if is_stack => self.renew_stack(&draft.path())?,
            _ => self.renew(&GuestRoot::of_tree(&draft.path())?)?,
        };
        self.publish_as(draft, &path, DraftContent::Data)?;
        self.forbid_changes(&path)?;
        Ok(Cloned { path, method: CloneMethod::Copy(copied), kept_identity, marked: None })
    }

    /// Gives the clone with this root a new identity, if one is requested.
    fn renew(&self, root: &GuestRoot) -> Result<Option<String>> {
        match self.request.identity {
            CloneIdentity::New => identity::renew(root, self.request.source, self.request.name, &self.store),
            CloneIdentity::Exact => Ok(None),
        }
    }

    /// Gives a stack a new identity through its mounted root.
    fn renew_stack(&self, stack: &Path) -> Result<Option<String>> {
        let root = StackRoot::mount(stack)?;
        let kept_identity = self.renew(&root.files()?)?;
        root.unmount()?;
        Ok(kept_identity)
    }

    /// Sets the read-only flag of a read-only clone. A draft with the flag could not be renamed.
    fn forbid_changes(&self, image: &Path) -> Result<()> {
        let is_stack = image.extension().is_some_and(|suffix| suffix == "mstack");
        match self.request.access {
            CloneAccess::ReadOnly if is_stack => self.close(image),
            CloneAccess::ReadOnly => super::read_only::open(image)
                .and_then(|directory| {
                    read_only::set(directory.as_fd(), true)
                        .context(|| format!("cannot make '{}' read-only", image.display()))
                })
                .inspect_err(|_| remove(image)),
            CloneAccess::Writable => Ok(()),
        }
    }

    /// Removes the writable layer of a read-only clone; its files become a layer.
    fn close(&self, stack: &Path) -> Result<()> {
        if self.request.access == CloneAccess::Writable {
            return Ok(());
        }
        freeze::freeze(&self.store, stack, &LayerInfo::of(self.request.name))?;
        tree::walk::remove(mount::open_directory(stack)?.as_fd(), "rw".as_ref())
    }

    fn publish(
        &self,
        draft: Draft,
        path: PathBuf,
        method: CloneMethod,
        kept_identity: Option<String>,
    ) -> Result<Cloned> {
        self.publish_as(draft, &path, DraftContent::Entries)?;
        Ok(Cloned { path, method, kept_identity, marked: None })
    }

    /// Publishes the clone, a stack with the configuration of the source, an image or a snapshot, if that has one. That
    /// of a former image of the name is not its own.
    fn publish_as(&self, draft: Draft, path: &Path, content: DraftContent) -> Result<()> {
        let is_stack = path.extension().is_some_and(|suffix| suffix == "mstack");
        let CloneRequest { paths, source, tag, .. } = self.request;
        let config = match tag {
            Some(tag) => snapshot::config_of(paths, source, tag),
            None => oci_config::of_name(paths, source),
        };
        let Some(config) = config.filter(|_| is_stack) else {
            if is_stack {
                oci_config::complete(path)?;
            }
            return draft.publish(path, content);
        };
        let text = std::fs::read(&config).context(|| format!("cannot read '{}'", config.display()))?;
        oci_config::publish(&self.store, draft, path, &text, content)
    }
}
