//! `snapshot` and `rollback`: saves and restores states of images. A running machine is paused by its
//! supervisor, while the connection of this process is open: nothing stays frozen if this process is killed.

use super::defined_stacks;
use super::progress::Progress;
use crate::error::{Context, Error, Result};
use crate::host::cgroup;
use crate::host::lock::{self, LockMode};
use crate::host::systemd::varlink;
use crate::image::find;
use crate::image::locks::{self, HeldLocks};
use crate::image::prune;
use crate::image::recovery;
pub(crate) use crate::image::snapshot::Tag;
use crate::image::snapshot::{self, BEFORE_ROLLBACK, Method, Pause, Quiet, Snapshot, Snapshots, Taken};
use crate::image::users;
use crate::machine::name::Name;
use crate::machine::root::RootSource;
use crate::paths::Paths;
use crate::protocol::Call;
use crate::state::record::Record;
use crate::tree::usage;
use serde::Serialize;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// A row of the list of snapshots.
#[derive(Debug, Serialize)]
pub(crate) struct SnapshotRow {
    #[serde(flatten)]
    snapshot: Snapshot,
}

/// The columns of [`SnapshotRow::cells`].
pub(crate) const COLUMNS: [&str; 3] = ["TAG", "CREATED", "METHOD"];

impl SnapshotRow {
    /// Returns the cells of the row of a table.
    pub(crate) fn cells(&self) -> Vec<String> {
        let Snapshot { tag, info, .. } = &self.snapshot;
        let method = match info.method {
            Method::Layers => "layers",
            Method::Subvolume => "subvolume",
            Method::Reflink => "reflink",
            Method::Copy => "copy",
        };
        vec![tag.to_string(), super::when(info.created), method.to_owned()]
    }
}

/// Returns the snapshots of an image, the oldest first.
///
/// # Errors
/// A directory that cannot be read, or an unknown name.
pub(crate) fn list(paths: &Paths, name: &Name) -> Result<Vec<SnapshotRow>> {
    let rows = snapshot::all(paths, name)?.into_iter().map(|snapshot| SnapshotRow { snapshot });
    let rows: Vec<SnapshotRow> = rows.collect();
    // The snapshots of a removed image are listed too.
    if rows.is_empty() {
        find::existing(paths, name)?;
    }
    Ok(rows)
}

/// Removes a snapshot of an image.
///
/// # Errors
/// A missing snapshot, one that a stack stands on, or one that cannot be removed.
pub(crate) fn remove(paths: &Paths, name: &Name, tag: &Tag) -> Result<()> {
    let path = snapshot::path(paths, name, tag)?;
    defined_stacks::record(paths)?;
    let snapshots = Snapshots::lock(paths, name)?;
    users::refuse(&path, &users::of(paths, &path)?)?;
    snapshots.remove(tag)?;
    drop(snapshots);
    prune::after_removal(paths);
    Ok(())
}

/// A new snapshot.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct SnapshotReport {
    name: Name,
    tag: Tag,
    method: Method,
    /// The copied bytes, or those of shared blocks.
    bytes: u64,
    /// The time for which a running machine was paused, in milliseconds. `None` for an image that does not run.
    paused_ms: Option<u64>,
    hint: Option<String>,
}

impl SnapshotReport {
    /// Returns the lines for a person.
    pub(crate) fn text(&self) -> String {
        let Self { name, tag, method, bytes, .. } = self;
        let pause = self.paused_ms.map_or_else(String::new, |time| format!(" (paused {time} ms)"));
        let hint = self.hint.as_ref().map_or_else(String::new, |hint| format!("\nhint: {hint}"));
        format!("{name}: snapshot '{tag}': {}{pause}{hint}", method.describe(*bytes))
    }
}

/// Saves the state of an image.
///
/// # Errors
/// A missing image, an existing tag, or a file that cannot be saved. No snapshot is left.
pub(crate) fn take(
    paths: &Paths,
    name: &Name,
    tag: Option<Tag>,
    progress: &mut Progress<'_>,
) -> Result<SnapshotReport> {
    recovery::recover(paths);
    let image = find::existing(paths, name)?;
    let tag = tag.unwrap_or_else(|| Tag::now(""));
    let doing = || format!("cannot create snapshot '{tag}' of '{name}'");
    let mut used = ImageUse::find(paths, name, &image)?;
    let snapshots = Snapshots::lock(paths, name)?;
    let total = || usage::of(image.path()).ok();
    let mut bar = progress.bar(name.as_str(), &total)?;
    let mut advance = |bytes| bar.advance(bytes);
    let quiet = match &mut used {
        ImageUse::Locked { .. } => Quiet::Locked,
        ImageUse::Shared { .. } => Quiet::Shared,
        ImageUse::Running(hold) => Quiet::Paused(hold.as_mut()),
    };
    let taken = snapshot::take(&snapshots, (name, &image), &tag, quiet, &mut advance)
        .map_err(|error| error.context(doing()))?;
    drop(bar);
    progress.clear();
    let paused_ms = match &used {
        ImageUse::Running(hold) => Some(super::milliseconds(hold.paused)),
        _ => None,
    };
    let Taken { method, bytes } = taken;
    let hint = hint(name, &image, method);
    Ok(SnapshotReport { name: name.clone(), tag, method, bytes, paused_ms, hint })
}

/// A restored snapshot.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct RollbackReport {
    name: Name,
    tag: Tag,
    method: Method,
    /// The copied bytes, or those of shared blocks.
    bytes: u64,
    /// The snapshot of the former state. `None` if that was discarded.
    former_state: Option<Tag>,
}

impl RollbackReport {
    /// Returns the line for a person.
    pub(crate) fn text(&self) -> String {
        let Self { name, tag, method, bytes, former_state } = self;
        let former = former_state.as_ref();
        let former = former.map_or_else(String::new, |tag| format!("; its former state is snapshot '{tag}'"));
        format!("{name}: rolled back to snapshot '{tag}': {}{former}", method.describe(*bytes))
    }
}

/// Restores a snapshot of an image: the newest one without a tag.
///
/// # Errors
/// A missing snapshot, an image in use, or a file that cannot be copied. The image is unchanged then.
pub(crate) fn rollback(
    paths: &Paths,
    name: &Name,
    tag: Option<&Tag>,
    present: Present,
    progress: &mut Progress<'_>,
) -> Result<RollbackReport> {
    recovery::recover(paths);
    let image = find::existing(paths, name)?;
    let found = snapshot::find(paths, name, tag)?;
    let doing = || format!("cannot roll '{name}' back to snapshot '{}'", found.tag);
    let _held = lock_image(paths, name, &image).map_err(|error| error.context(doing()))?;
    snapshot::refuse_unreplaceable(paths, name, &image).map_err(|error| error.context(doing()))?;
    let snapshots = Snapshots::lock(paths, name)?;
    let kept = (present == Present::Kept).then(|| Tag::now(BEFORE_ROLLBACK));
    let total = || usage::of(&found.path).ok();
    let mut bar = progress.bar(name.as_str(), &total)?;
    let mut advance = |bytes| bar.advance(bytes);
    let restored = snapshot::restore(&snapshots, (name, &image), &found, kept.as_ref(), &mut advance)
        .map_err(|error| error.context(doing()))?;
    drop(bar);
    progress.clear();
    let name = name.clone();
    Ok(RollbackReport {
        name,
        tag: found.tag,
        method: restored.method,
        bytes: restored.bytes,
        former_state: kept,
    })
}

/// Whether the present state of an image is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Present {
    /// It is saved as a snapshot.
    Kept,
    /// It is lost.
    Discarded,
}

/// Recommends a kind of image that needs no copies.
fn hint(name: &Name, image: &RootSource, method: Method) -> Option<String> {
    let is_copied = method == Method::Copy && matches!(image, RootSource::Directory(_));
    is_copied.then(|| {
        format!(
            "the file system cannot share blocks: 'coracle convert {name} stack' makes snapshots of it instant"
        )
    })
}

fn lock_image(paths: &Paths, name: &Name, image: &RootSource) -> Result<HeldLocks> {
    let mut held = HeldLocks::default();
    held.take(paths, locks::of_image(paths, name, image.path(), LockMode::Exclusive)?)?;
    Ok(held)
}

/// The use of an image.
enum ImageUse<'a> {
    /// None: its exclusive locks are held.
    Locked { _held: HeldLocks },
    /// By programs that do not change it: its shared locks are held.
    Shared { _held: HeldLocks },
    /// By a running machine.
    Running(Box<Hold<'a>>),
}

impl<'a> ImageUse<'a> {
    fn find(paths: &'a Paths, name: &Name, image: &RootSource) -> Result<Self> {
        let error = match lock_image(paths, name, image) {
            Ok(_held) => return Ok(Self::Locked { _held }),
            Err(error) => error,
        };
        let mut shared = HeldLocks::default();
        if shared.take(paths, locks::of_path(paths, image.path(), LockMode::Shared)?).is_ok() {
            return Ok(Self::Shared { _held: shared });
        }
        Ok(Self::Running(Box::new(Hold::of_image(paths, image)?.ok_or(error)?)))
    }
}

/// The connection to the supervisor of a machine, which keeps it frozen.
pub(super) struct Hold<'a> {
    paths: &'a Paths,
    name: Name,
    payload: PathBuf,
    stream: Option<UnixStream>,
    begun: Instant,
    /// The time for which the machine was frozen.
    pub(super) paused: Duration,
}

impl<'a> Hold<'a> {
    /// Returns the pause of the running machine that changes an image. `None` if there is none.
    ///
    /// # Errors
    /// A machine without a cgroup of its own.
    pub(super) fn that_changes(paths: &'a Paths, image: &RootSource) -> Result<Option<Self>> {
        if !lock::is_taken(&locks::inode_file(paths, image.path())?) {
            return Ok(None);
        }
        let mut shared = HeldLocks::default();
        if shared.take(paths, locks::of_path(paths, image.path(), LockMode::Shared)?).is_ok() {
            return Ok(None);
        }
        Self::of_image(paths, image)
    }

    /// Returns the pause of the running machine with the locks of an image. `None` if there is none.
    fn of_image(paths: &'a Paths, image: &RootSource) -> Result<Option<Self>> {
        let file = locks::inode_file(paths, image.path())?;
        let mut records = Record::all(paths).into_iter().filter(Record::is_alive);
        let record = records.find(|record| record.files.contains(&file));
        record.map(|record| Self::new(paths, record)).transpose()
    }

    fn new(paths: &'a Paths, record: Record) -> Result<Self> {
        let payload = record.payload_cgroup().ok_or_else(|| {
            Error::new(format!("machine '{}' cannot be paused: it has no cgroup of its own", record.name))
                .with_hint("stop it first")
        })?;
        let (begun, paused) = (Instant::now(), Duration::ZERO);
        Ok(Self { paths, name: record.name, payload, stream: None, begun, paused })
    }
}

impl Pause for Hold<'_> {
    fn begin(&mut self) -> Result<()> {
        let pausing = || format!("cannot pause machine '{}'", self.name);
        let hint = "stop the machine first, or restart it if its supervisor is of an older version";
        let mut stream = varlink::connect(&self.paths.control(&self.name)).context(pausing)?;
        self.begun = Instant::now();
        let (method, parameters) = Call::Hold {}.into_parts();
        varlink::call(&mut stream, &method, &parameters)
            .map_err(|error| error.context(pausing()).with_hint(hint))?;
        self.stream = Some(stream);
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        let was_frozen = cgroup::is_frozen(&self.payload);
        self.stream = None;
        self.paused = self.begun.elapsed();
        if was_frozen {
            return Ok(());
        }
        Err(Error::new(format!("machine '{}' was resumed or stopped in the meantime", self.name))
            .with_hint("try again"))
    }
}
