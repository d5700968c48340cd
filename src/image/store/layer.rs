//! Layers in the store: directories that any number of stacks stand on. A layer with its name is complete,
//! and is never changed. Called by the verbs on images.

use super::draft::{Draft, DraftContent};
use super::{Store, StorePart};
use crate::error::{Context, Error, Result};
use crate::host::probe;
use crate::image::oci::digest::Digest;
use crate::machine::name::Name;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

/// The name of the files in a layer.
pub(crate) const TREE: &str = "tree";
/// The name of its description.
const INFO: &str = "info.json";

/// The description of a layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct LayerInfo {
    /// The image whose files it has taken.
    pub(crate) image: Name,
    /// The time, seconds since the epoch.
    pub(crate) created: u64,
    /// Whether it hides all layers below.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(crate) is_opaque: bool,
    /// Whether it describes the root: without that, the root has the defaults of archives.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(crate) has_root: bool,
    /// The digests of files that are known to have the layer, compressed or not, each with the registries that have
    /// sent it. The file of an image is the proof that it has the layer: its configuration is only a claim.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) files: BTreeMap<String, BTreeSet<String>>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

impl LayerInfo {
    /// Reads the description of a layer. `None` if the store does not have it.
    pub(crate) fn read(store: &Store, id: &LayerId) -> Option<Self> {
        let text = std::fs::read(id.path(store).join(INFO)).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Describes a layer that is created now, from the files of an image.
    pub(crate) fn of(image: &Name) -> Self {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let created = since.map_or(0, |since| since.as_secs());
        Self { image: image.clone(), created, is_opaque: false, has_root: false, files: BTreeMap::new() }
    }

    /// Returns whether a file has the layer, by its digest.
    pub(crate) fn has_file(&self, digest: &Digest) -> bool {
        self.files.contains_key(&digest.to_string())
    }

    /// Returns whether a registry has sent a file with the layer, by its digest.
    pub(crate) fn is_from(&self, digest: &Digest, registry: &str) -> bool {
        self.files.get(&digest.to_string()).is_some_and(|registries| registries.contains(registry))
    }

    /// Adds the digest of a file with the layer, and the registry that has sent it. Returns whether it is new.
    pub(crate) fn add_file(&mut self, digest: &Digest, registry: Option<&str>) -> bool {
        let is_new = !self.has_file(digest);
        let registries = self.files.entry(digest.to_string()).or_default();
        registry.is_some_and(|registry| registries.insert(registry.to_owned())) || is_new
    }

    /// Replaces the description of a layer in the store. The lock of the store is held. Of two programs that do so at
    /// once, one loses what it has added.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub(crate) fn replace(&self, store: &Store, id: &LayerId) -> Result<()> {
        let path = id.path(store).join(INFO);
        let writing = || format!("cannot write '{}'", path.display());
        let text =
            serde_json::to_vec(self).map_err(|error| Error::new(error.to_string()).context(writing()))?;
        let draft = Draft::in_store(store)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = rustix::fs::openat(draft.directory(), draft.name(), flags, Mode::RUSR | Mode::WUSR);
        let mut file = File::from(file.context(writing)?);
        file.write_all(&text).and_then(|()| file.sync_all()).context(writing)?;
        draft.exchange(&path, DraftContent::Entries)
    }
}

/// The name of a layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct LayerId(String);

impl LayerId {
    /// Returns a new name.
    pub(crate) fn random() -> Self {
        Self(probe::random_id().to_string())
    }

    /// Returns the name of a layer of an OCI image, by the digest of its plain archive.
    pub(crate) fn of_diff(digest: &Digest) -> Self {
        Self(format!("sha256-{}", digest.digits()))
    }

    /// Returns the name of a layer of an OCI image that depends on those below it, by the digest of all of them.
    pub(crate) fn of_chain(digest: &Digest) -> Self {
        Self(format!("chain-{}", digest.digits()))
    }

    /// Returns the path of the layer.
    pub(crate) fn path(&self, store: &Store) -> PathBuf {
        store.path(StorePart::Layers).join(&self.0)
    }

    /// Returns the path of its files.
    pub(crate) fn tree(&self, store: &Store) -> PathBuf {
        self.path(store).join(TREE)
    }
}

/// A layer that is not published yet.
#[derive(Debug)]
pub(crate) struct LayerDraft {
    draft: Draft,
    directory: OwnedFd,
}

impl LayerDraft {
    /// Creates a layer without files. The lock of the store is held.
    ///
    /// # Errors
    /// A file that cannot be created.
    pub(crate) fn create(store: &Store, info: &LayerInfo) -> Result<Self> {
        let draft = Draft::in_store(store)?;
        let directory = draft.create_directory(0o700)?;
        let layer = Self { draft, directory };
        layer.describe(info)?;
        Ok(layer)
    }

    /// Writes the description again.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub(crate) fn describe(&self, info: &LayerInfo) -> Result<()> {
        let writing = || format!("cannot write '{}'", self.draft.path().join(INFO).display());
        let text =
            serde_json::to_vec(info).map_err(|error| Error::new(error.to_string()).context(writing()))?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.directory, INFO, flags, Mode::RUSR | Mode::WUSR);
        File::from(file.context(writing)?).write_all(&text).context(writing)
    }

    /// Returns the directory in which the files get the name [`Self::tree_name`].
    pub(crate) fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Returns the path of the layer until it is published.
    pub(crate) fn path(&self) -> PathBuf {
        self.draft.path()
    }

    /// Returns the name of the directory with the files.
    pub(crate) fn tree_name() -> &'static str {
        TREE
    }

    /// Publishes the layer and returns its name.
    ///
    /// # Errors
    /// Any error of syncfs(2) and rename(2).
    pub(crate) fn publish(self, store: &Store, content: DraftContent) -> Result<LayerId> {
        let id = LayerId::random();
        self.publish_as(store, &id, content)?;
        Ok(id)
    }

    /// Publishes the layer under a new name that was chosen before.
    ///
    /// # Errors
    /// Any error of syncfs(2) and rename(2).
    pub(crate) fn publish_as(self, store: &Store, id: &LayerId, content: DraftContent) -> Result<()> {
        store.open(StorePart::Layers)?;
        self.draft.publish(&id.path(store), content)
    }

    /// Publishes the layer under an id that another command may publish, too. Returns false if there is such a layer.
    ///
    /// # Errors
    /// As for [`Self::publish_as`].
    pub(crate) fn publish_shared(self, store: &Store, id: &LayerId, content: DraftContent) -> Result<bool> {
        store.open(StorePart::Layers)?;
        self.draft.publish_new(&id.path(store), content)
    }
}

/// Returns the layer that a path leads into. `None` outside of the layers. The path has no links, but its end
/// may be missing.
pub(crate) fn of_path(store: &Store, path: &Path) -> Option<PathBuf> {
    let layers = store.path(StorePart::Layers);
    let real = layers.canonicalize().ok()?;
    let below = path.strip_prefix(&real).or_else(|_| path.strip_prefix(&layers)).ok()?;
    Some(real.join(below.components().next()?))
}
