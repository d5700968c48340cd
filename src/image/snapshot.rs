//! Snapshots: saved states of images, in the store. Of a stack, a directory of links to its layers; of a
//! directory, a read-only subvolume or a copy. Called by `control`.
//!
//! A snapshot `TAG` and its description `TAG.json` lie in the directory of the image's name. The description
//! is written first: a snapshot with its name is complete.

mod restore;
mod take;

pub(crate) use restore::{config_of, refuse_unreplaceable, restore};
pub(crate) use take::{Pause, Quiet, Taken, take};

use super::locks;
use super::store::draft::{self, Draft};
use super::store::{Store, StorePart};
use crate::error::{Context, Error, Result};
use crate::host::lock::{self, Held};
use crate::machine::name::Name;
use crate::machine::root::RootSource;
use crate::machine::size;
use crate::paths::Paths;
use crate::tree::copy::{Copied, CopyMethod};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The suffix of descriptions.
const DESCRIPTION: &str = ".json";
/// The suffix of the configurations of OCI images.
const CONFIG: &str = ".oci-config";
/// The first part of the tags that [`restore()`] creates.
pub(crate) const BEFORE_ROLLBACK: &str = "before-rollback-";
/// The first part of the tags of images that a pull has replaced.
pub(crate) const BEFORE_PULL: &str = "before-pull-";
/// The first part of the tags of snapshots for clones, which are not listed.
const FOR_CLONE: &str = ".clone-";

/// The name of a snapshot among those of its image.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub(crate) struct Tag(String);

impl FromStr for Tag {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let is_allowed = |letter: char| letter.is_ascii_alphanumeric() || "-_.+~".contains(letter);
        let is_file = text.ends_with(DESCRIPTION) || text.ends_with(CONFIG);
        if text.is_empty() || text.len() > 64 || text.starts_with(['.', '-']) || is_file {
            return Err(Error::usage(format!("'{text}' is not a tag"))
                .with_hint("use up to 64 characters, and neither '.' nor '-' as the first one"));
        }
        if !text.chars().all(is_allowed) {
            return Err(Error::usage(format!("'{text}' is not a tag"))
                .with_hint("use letters, digits, '-', '_', '.', '+' and '~'"));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Tag {
    /// Returns the tag of this moment, behind a word.
    pub(crate) fn now(before: &str) -> Self {
        let now = jiff::Timestamp::now().strftime("%Y%m%d-%H%M%S%.3f");
        Self(format!("{before}{now}"))
    }

    /// Returns the tag of a snapshot for a clone, which is removed with the clone or by the next verb.
    pub(crate) fn for_clone() -> Self {
        Self(format!("{FOR_CLONE}{}", std::process::id()))
    }

    /// Returns whether a rollback has created the snapshot.
    pub(crate) fn is_of_rollback(&self) -> bool {
        self.0.starts_with(BEFORE_ROLLBACK)
    }
}

/// The kind of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ImageKind {
    /// A directory or a subvolume.
    Directory,
    /// A stack.
    Stack,
}

impl ImageKind {
    fn of(image: &RootSource) -> Self {
        match image {
            RootSource::Directory(_) | RootSource::Image(_) => Self::Directory,
            RootSource::Stack(_) => Self::Stack,
        }
    }
}

/// The method that has saved or restored the files of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Method {
    /// Its layers are shared.
    Layers,
    /// By a snapshot of its subvolume.
    Subvolume,
    /// By a copy that shares all blocks.
    Reflink,
    /// By a copy.
    Copy,
}

impl Method {
    /// Returns the method of a copy.
    fn of(copied: Copied) -> Self {
        match copied.method {
            CopyMethod::Reflink => Self::Reflink,
            CopyMethod::Copy => Self::Copy,
        }
    }

    /// Returns the method with the number of copied bytes, for people.
    pub(crate) fn describe(self, bytes: u64) -> String {
        match self {
            Self::Layers => "shared layers".to_owned(),
            Self::Subvolume => "a snapshot of the subvolume".to_owned(),
            Self::Reflink => "a copy with shared blocks".to_owned(),
            Self::Copy => format!("copied {}", size::rounded(bytes)),
        }
    }
}

/// The description of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct SnapshotInfo {
    /// The kind of the image.
    pub(crate) kind: ImageKind,
    /// The time, microseconds since the epoch.
    pub(crate) created: u64,
    /// The method.
    pub(crate) method: Method,
}

/// A snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Snapshot {
    /// Its tag.
    pub(crate) tag: Tag,
    /// Its description.
    #[serde(flatten)]
    pub(crate) info: SnapshotInfo,
    /// Its directory.
    pub(crate) path: PathBuf,
}

impl Snapshot {
    /// Returns the saved files, as the source of a root.
    pub(crate) fn source(self) -> RootSource {
        match self.info.kind {
            ImageKind::Directory => RootSource::Directory(self.path),
            ImageKind::Stack => RootSource::Stack(self.path),
        }
    }
}

/// The snapshots of an image, locked for a change.
#[derive(Debug)]
pub(crate) struct Snapshots {
    store: Store,
    directory: PathBuf,
    // Dropped in this order.
    _lock: Held,
    _empty: EmptyDirectory,
}

/// A directory that is deleted at the end if it is empty.
#[derive(Debug)]
struct EmptyDirectory(PathBuf);

impl Drop for EmptyDirectory {
    fn drop(&mut self) {
        // Most directories are not empty.
        let _ = std::fs::remove_dir(&self.0);
    }
}

impl Snapshots {
    /// Locks the snapshots of an image. Descriptions of snapshots that were not finished are removed.
    ///
    /// # Errors
    /// Another process changes them; the message names it.
    pub(crate) fn lock(paths: &Paths, name: &Name) -> Result<Self> {
        let store = Store::of(paths);
        store.open(StorePart::Snapshots)?;
        let directory = directory(paths, name);
        match std::fs::DirBuilder::new().mode(0o700).create(&directory) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(error).context(|| format!("cannot create '{}'", directory.display()));
            }
            _ => {}
        }
        let file = directory.join(".lock");
        let taken = lock::take(&file)?.ok_or_else(|| {
            let holder = lock::holder(&file).map_or_else(String::new, |pid| format!(" by process {pid}"));
            Error::new(format!("the snapshots of '{name}' are being changed{holder}"))
                .with_hint("try again when that has ended")
        })?;
        draft::sweep_store(&store);
        locks::sweep(paths);
        let empty = EmptyDirectory(directory.clone());
        let snapshots = Self { store, directory, _lock: taken.with_deletion(), _empty: empty };
        snapshots.remove_those_for_clones();
        snapshots.remove_unfinished();
        Ok(snapshots)
    }

    fn path(&self, tag: &Tag) -> PathBuf {
        self.directory.join(&tag.0)
    }

    fn description(&self, tag: &Tag) -> PathBuf {
        self.directory.join(format!("{tag}{DESCRIPTION}"))
    }

    /// Returns the file with the configuration of an OCI image, beside a snapshot.
    fn config(&self, tag: &Tag) -> PathBuf {
        self.directory.join(format!("{tag}{CONFIG}"))
    }

    /// Removes snapshots for clones of killed processes. Living ones hold the lock.
    fn remove_those_for_clones(&self) {
        for entry in std::fs::read_dir(&self.directory).into_iter().flatten().flatten() {
            let name = entry.file_name().into_string().unwrap_or_default();
            if name.starts_with(FOR_CLONE) && !name.ends_with(DESCRIPTION) && !name.ends_with(CONFIG) {
                self.remove(&Tag(name)).unwrap_or_else(|error| log::warn!("{error}, ignoring"));
            }
        }
    }

    /// Removes a snapshot for a clone, which may have taken its files.
    pub(crate) fn discard(&self, tag: &Tag) {
        let removed =
            exists(&self.path(tag)).and_then(|is_left| if is_left { self.remove(tag) } else { Ok(()) });
        removed.unwrap_or_else(|error| log::warn!("{error}, ignoring"));
        self.remove_unfinished();
    }

    fn remove_unfinished(&self) {
        for entry in std::fs::read_dir(&self.directory).into_iter().flatten().flatten() {
            let path = entry.path();
            let name = entry.file_name();
            let name = name.to_str().unwrap_or_default();
            let tag = name.strip_suffix(DESCRIPTION).or_else(|| name.strip_suffix(CONFIG));
            // A failed look at a snapshot does not make it unfinished.
            if tag.is_some_and(|tag| exists(&self.directory.join(tag)).is_ok_and(|exists| !exists))
                && let Err(error) = std::fs::remove_file(&path)
            {
                log::warn!("cannot delete '{}': {error}, ignoring", path.display());
            }
        }
    }

    /// Refuses a tag that exists.
    fn refuse_existing(&self, tag: &Tag) -> Result<()> {
        if !exists(&self.path(tag))? {
            return Ok(());
        }
        Err(Error::new(format!("snapshot '{tag}' exists already"))
            .with_hint("choose another tag, or remove it with --remove"))
    }

    /// Writes the description of a snapshot to the disk, before it gets its name.
    fn describe(&self, tag: &Tag, info: &SnapshotInfo) -> Result<()> {
        Draft::publish_json(&self.store, &self.description(tag), info)
    }

    /// Removes a snapshot.
    ///
    /// # Errors
    /// A missing snapshot, or any error of rename(2).
    pub(crate) fn remove(&self, tag: &Tag) -> Result<()> {
        let path = self.path(tag);
        if !exists(&path)? {
            return Err(missing(tag));
        }
        // A read-only subvolume cannot be moved.
        let trash =
            if draft::destroy_subvolume(&path) { None } else { Some(Draft::of_trash(&self.store, &path)?) };
        for file in [self.description(tag), self.config(tag)] {
            std::fs::remove_file(&file)
                .or_else(
                    |error| if error.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(error) },
                )
                .context(|| format!("cannot delete '{}'", file.display()))?;
        }
        drop(trash);
        Ok(())
    }
}

/// Returns whether a file exists: without doubt, unlike [`Path::exists`].
fn exists(path: &Path) -> Result<bool> {
    match path.symlink_metadata() {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).context(|| format!("cannot look at '{}'", path.display())),
    }
}

fn missing(tag: &Tag) -> Error {
    Error::new(format!("snapshot '{tag}' does not exist"))
        .with_hint("list all with 'coracle snapshot --list'")
}

/// Returns the directory with the snapshots of an image. It may be missing.
pub(super) fn directory(paths: &Paths, name: &Name) -> PathBuf {
    Store::of(paths).path(StorePart::Snapshots).join(name.as_str())
}

/// Returns the tags of the snapshots of an image, sorted.
///
/// # Errors
/// A directory that cannot be read.
pub(super) fn tags(paths: &Paths, name: &Name) -> Result<Vec<Tag>> {
    let directory = directory(paths, name);
    let mut found = Vec::new();
    if !exists(&directory)? {
        return Ok(found);
    }
    let reading = || format!("cannot read '{}'", directory.display());
    for entry in std::fs::read_dir(&directory).context(reading)? {
        let file = entry.context(reading)?.file_name();
        let tag = file.to_str().and_then(|file| file.parse().ok());
        found.extend(tag.filter(|tag: &Tag| directory.join(&tag.0).is_dir()));
    }
    found.sort();
    Ok(found)
}

/// Returns the snapshots of an image, the oldest first. One without a readable description is left out with
/// a warning.
///
/// # Errors
/// A directory that cannot be read.
pub(crate) fn all(paths: &Paths, name: &Name) -> Result<Vec<Snapshot>> {
    let mut found = Vec::new();
    for tag in tags(paths, name)? {
        match read(paths, name, tag) {
            Ok(snapshot) => found.push(snapshot),
            Err(error) => log::warn!("{error}, ignoring the snapshot"),
        }
    }
    found.sort_by(|a, b| (a.info.created, &a.tag).cmp(&(b.info.created, &b.tag)));
    Ok(found)
}

/// Reads the description of an existing snapshot.
fn read(paths: &Paths, name: &Name, tag: Tag) -> Result<Snapshot> {
    let directory = directory(paths, name);
    let description = directory.join(format!("{tag}{DESCRIPTION}"));
    let reading = || format!("cannot read '{}'", description.display());
    let text = std::fs::read(&description).context(reading)?;
    let info =
        serde_json::from_slice(&text).map_err(|error| Error::new(error.to_string()).context(reading()))?;
    Ok(Snapshot { info, path: directory.join(&tag.0), tag })
}

/// Returns the path of a snapshot.
///
/// # Errors
/// A missing snapshot.
pub(crate) fn path(paths: &Paths, name: &Name, tag: &Tag) -> Result<PathBuf> {
    let path = directory(paths, name).join(&tag.0);
    if exists(&path)? { Ok(path) } else { Err(missing(tag)) }
}

/// Returns a snapshot: the newest one without a tag, of those that no rollback has created.
///
/// # Errors
/// A missing snapshot, or a description that cannot be read.
pub(crate) fn find(paths: &Paths, name: &Name, tag: Option<&Tag>) -> Result<Snapshot> {
    if let Some(tag) = tag {
        path(paths, name, tag)?;
        return read(paths, name, tag.clone());
    }
    let mut found = all(paths, name)?;
    found.retain(|snapshot| !snapshot.tag.is_of_rollback());
    found.pop().ok_or_else(|| {
        Error::new(format!("image '{name}' has no snapshot"))
            .with_hint(format!("create one with 'coracle snapshot {name}'"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_file_names() {
        for tag in ["a", "before-upgrade", "1.0~rc1+x_y", &"x".repeat(64)] {
            assert_eq!(tag.parse::<Tag>().unwrap().to_string(), tag);
        }
        for text in ["", ".a", "-a", "a/b", "a.json", "a.oci-config", "a b", "\u{e4}", &"x".repeat(65)] {
            assert!(text.parse::<Tag>().is_err(), "{text}");
        }
        assert!(Tag::now(BEFORE_ROLLBACK).is_of_rollback());
        Tag::now("").to_string().parse::<Tag>().unwrap();
    }

    #[test]
    fn unfinished_snapshots_are_not_listed() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::below(root.path());
        let name = Name::new("web").unwrap();
        assert_eq!(all(&paths, &name), Ok(Vec::new()));
        let snapshots = Snapshots::lock(&paths, &name).unwrap();
        assert!(Snapshots::lock(&paths, &name).unwrap_err().to_string().contains("are being changed"));
        let info = |created| SnapshotInfo { kind: ImageKind::Stack, created, method: Method::Layers };
        for (tag, created) in [("b", 1), ("a", 2), ("before-rollback-1", 3), ("c", 4)] {
            snapshots.describe(&tag.parse().unwrap(), &info(created)).unwrap();
            if tag != "c" {
                std::fs::create_dir(snapshots.path(&tag.parse().unwrap())).unwrap();
            }
        }
        let tags: Vec<String> = all(&paths, &name).unwrap().iter().map(|one| one.tag.to_string()).collect();
        assert_eq!(tags, ["b", "a", "before-rollback-1"]);
        assert_eq!(find(&paths, &name, None).unwrap().tag.to_string(), "a");
        assert!(find(&paths, &name, Some(&"c".parse().unwrap())).is_err());
        snapshots.remove(&"a".parse().unwrap()).unwrap();
        snapshots.remove(&"a".parse().unwrap()).unwrap_err();
        let unfinished = snapshots.description(&"c".parse().unwrap());
        assert!(unfinished.exists());
        drop(snapshots);
        Snapshots::lock(&paths, &name).unwrap();
        assert!(!unfinished.exists());
        assert_eq!(find(&paths, &name, None).unwrap().tag.to_string(), "b");
    }
}
