//! Extracts the layers of an image into the store, where images share them. A layer is named for the digest of its
//! plain archive (DiffID). One that refers to those below it, by whiteouts or by directories that it does not
//! describe, is named for the digest of the whole chain (ChainID) instead. Called by `oci`.

use super::layout::Layout;
use super::{LayerSource, below};
use crate::error::{Context, Error, Result};
use crate::image::import::extractor::StreamUse;
use crate::image::import::pipeline::{self, ExtractedStream};
use crate::image::import::{destination, free};
use crate::image::layer_files::LayerFiles;
use crate::image::oci::digest::Digest;
use crate::image::store::Store;
use crate::image::store::draft::DraftContent;
use crate::image::store::layer::{LayerDraft, LayerId, LayerInfo};
use crate::machine::name::Name;
use crate::paths::Paths;
use crate::tree::copy::CopyProgress;
use crate::tree::tar::policy::{self, LeftOut, Limits};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use std::path::PathBuf;

/// A layer in the store.
#[derive(Debug, Clone)]
pub(super) struct StoredLayer {
    /// Its files.
    pub(super) tree: PathBuf,
    /// Its description.
    pub(super) info: LayerInfo,
}

/// The layers of an image, from the lowest on.
pub(super) struct LayerImport<'a> {
    paths: &'a Paths,
    name: &'a Name,
    store: &'a Store,
    /// The limit of the bytes of all files.
    largest: Option<u64>,
    /// The digest of all layers so far.
    chain: Option<Digest>,
    /// The bytes of files read so far.
    read: u64,
    /// The layers so far, the lowest first.
    pub(super) layers: Vec<StoredLayer>,
    /// The bytes of all new files.
    pub(super) bytes: u64,
    /// The number of new entries.
    pub(super) entries: u64,
    /// The number of layers that were in the store.
    pub(super) shared: usize,
    /// Everything left out.
    pub(super) left_out: LeftOut,
}

impl<'a> LayerImport<'a> {
    pub(super) fn new(paths: &'a Paths, name: &'a Name, store: &'a Store, largest: Option<u64>) -> Self {
        Self {
            paths,
            name,
            store,
            largest,
            chain: None,
            read: 0,
            layers: Vec::new(),
            bytes: 0,
            entries: 0,
            shared: 0,
            left_out: LeftOut::default(),
        }
    }

    /// Adds the next layer, which is extracted unless it is in the store.
    ///
    /// # Errors
    /// A layer that is refused, or a file that cannot be created.
    pub(super) fn add(
        &mut self,
        layout: &Layout,
        source: &LayerSource,
        progress: &mut CopyProgress<'_>,
    ) -> Result<()> {
        let chain = match &self.chain {
            None => source.diff_id.clone(),
            Some(chain) => Digest::of(format!("{chain} {}", source.diff_id).as_bytes()),
        };
        let ids = [LayerId::of_diff(&source.diff_id), LayerId::of_chain(&chain)];
        let found = ids.iter().find_map(|id| {
            let info = LayerInfo::read(self.store, id)?;
            Some(StoredLayer { tree: id.tree(self.store), info })
        });
        let layer = match found {
            Some(layer) => {
                self.shared += 1;
                layer
            }
            None => self.extract(layout, source, ids, progress)?,
        };
        self.layers.push(layer);
        self.chain = Some(chain);
        Ok(())
    }

    fn extract(
        &mut self,
        layout: &Layout,
        source: &LayerSource,
        [plain, chained]: [LayerId; 2],
        progress: &mut CopyProgress<'_>,
    ) -> Result<StoredLayer> {
        let (mut file, size) = layout.open(&source.path)?;
        if let Some(expected) = source.size.filter(|expected| *expected != size) {
            return Err(Error::new(format!("its file has {size} bytes instead of {expected}")));
        }
        let mut info = LayerInfo::of(self.name);
        let draft = LayerDraft::create(self.store, &info)?;
        let tree = create_tree(&draft)?;
        let limits = Limits::of_bytes(self.left(tree.as_fd())?);
        let to = destination(self.paths, self.name, tree.as_fd(), limits, self.largest.is_none())?;
        let to = to.with_use(StreamUse::Layer);
        let before = self.read;
        let mut advance = |bytes| progress(before + bytes);
        let stream = pipeline::extract(&mut file, to.destination, &mut advance)?;
        drop(to.ids);
        check_digests(source, &stream)?;
        self.read += size;
        let marks = &stream.extracted.marks;
        info.is_opaque = marks.is_opaque;
        info.has_root = marks.has_root;
        draft.describe(&info)?;
        let id = if marks.has_references() {
            let from = self.layers.iter().rposition(|layer| layer.info.is_opaque).unwrap_or(0);
            let from = if marks.is_opaque { self.layers.len() } else { from };
            let below = self.layers.get(from..).unwrap_or_default();
            let files = LayerFiles::open(below.iter().rev().map(|layer| layer.tree.as_path()))?;
            let mut go_on = || progress(before + size);
            below::complete(tree.as_fd(), marks, (&files, below.len()), &mut go_on)?;
            chained
        } else {
            plain
        };
        publish(draft, self.store, &id)?;
        self.bytes += stream.extracted.bytes;
        self.entries += stream.extracted.entries;
        self.left_out.add(stream.extracted.left_out);
        Ok(StoredLayer { tree: id.tree(self.store), info })
    }

    /// Returns the bytes that further files in a directory may have.
    ///
    /// # Errors
    /// None are left.
    pub(super) fn left(&self, directory: BorrowedFd<'_>) -> Result<u64> {
        match self.largest {
            None => free(directory),
            Some(largest) => largest.checked_sub(self.bytes).ok_or_else(|| policy::larger_than(largest)),
        }
    }
}

/// Creates the directory of the files of a layer.
fn create_tree(draft: &LayerDraft) -> Result<OwnedFd> {
    let creating = || "cannot create the files of the layer";
    let name = LayerDraft::tree_name();
    rustix::fs::mkdirat(draft.directory(), name, Mode::RWXU).context(creating)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(draft.directory(), name, flags, Mode::empty()).context(creating)
}

/// Checks the digests of a layer, which were taken before it was parsed.
fn check_digests(source: &LayerSource, stream: &ExtractedStream) -> Result<()> {
    let again = "get the image again: it is damaged, or it was changed";
    let wrong = |what: &str, found: &str, expected: &Digest| {
        Error::new(format!("the digest of {what} is sha256:{found} instead of {expected}")).with_hint(again)
    };
    if let Some(expected) = source.digest.as_ref().filter(|digest| digest.digits() != stream.digest) {
        return Err(wrong("its file", &stream.digest, expected));
    }
    match &stream.decoded_digest {
        Some(found) if found == source.diff_id.digits() => Ok(()),
        found => Err(wrong("the plain layer", found.as_deref().unwrap_or_default(), &source.diff_id)),
    }
}

/// Publishes a layer, unless another import has published it in the meantime. An error of the disk is not that.
fn publish(draft: LayerDraft, store: &Store, id: &LayerId) -> Result<()> {
    if draft.publish_shared(store, id, DraftContent::Data)? || LayerInfo::read(store, id).is_some() {
        return Ok(());
    }
    Err(Error::new(format!("'{}' exists and is no layer", id.path(store).display())).with_hint("remove it"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_layer_is_that_of_another_import() {
        let root = tempfile::tempdir().unwrap();
        let (store, id) = (Store::of(&Paths::below(root.path())), LayerId::random());
        let again = || {
            let draft = LayerDraft::create(&store, &LayerInfo::of(&Name::new("web").unwrap())).unwrap();
            publish(draft, &store, &id)
        };
        again().unwrap();
        again().unwrap();
        std::fs::remove_file(id.path(&store).join("info.json")).unwrap();
        assert!(again().unwrap_err().to_string().contains("is no layer"));
    }
}
