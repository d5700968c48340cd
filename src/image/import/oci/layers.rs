//! Extracts the layers of an image into the store, where images share them. A layer is named for the digest of its
//! plain archive (DiffID). One that refers to those below it, by whiteouts or by directories that it does not
//! describe, is named for the digest of the whole chain (ChainID) instead. Called by `oci`.
//!
//! The configuration of an image only claims that it has a layer: with the DiffID of a layer of a private image,
//! another image would get its files. A layer of the store is shared with an image that has its file.

use super::layout::Layout;
use super::{LayerSource, Origin, below};
use crate::error::{Context, Error, Result};
use crate::image::import::digester;
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
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

/// The bytes per read of a file.
const PART: usize = 256 << 10;

/// The hint for a wrong file.
const AGAIN: &str = "get the image again: it is damaged, or it was changed";

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
    /// The registry that the layers come from.
    origin: Option<&'a Origin>,
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
    pub(super) fn new(
        paths: &'a Paths,
        name: &'a Name,
        store: &'a Store,
        (origin, largest): (Option<&'a Origin>, Option<u64>),
    ) -> Self {
        Self {
            paths,
            name,
            store,
            origin,
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

    /// Adds the next layer, which is extracted unless it is in the store and the image has its file.
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
        let found = ids.iter().find_map(|id| Some((id, LayerInfo::read(self.store, id)?)));
        let layer = match found {
            Some((id, info)) => self.share(layout, source, id, info, progress)?,
            None => None,
        };
        let layer = match layer {
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

    /// Returns a layer of the store if the image has its file. `None` for a file that is not known to have it, which
    /// is compressed in another way.
    fn share(
        &mut self,
        layout: &Layout,
        source: &LayerSource,
        id: &LayerId,
        mut info: LayerInfo,
        progress: &mut CopyProgress<'_>,
    ) -> Result<Option<StoredLayer>> {
        // The same file cannot have two layers.
        let is_held = |digest: &Digest| {
            let held = self.origin.filter(|origin| origin.held.contains(digest));
            held.is_some_and(|origin| info.is_from(digest, &origin.registry))
        };
        if !source.digest.as_ref().is_some_and(is_held) {
            let (file, size) = open(layout, source)?;
            let before = self.read;
            let digest = digest_of(file, &mut |bytes| progress(before + bytes))?;
            check_file(source, &digest)?;
            if digest != source.diff_id && !info.has_file(&digest) {
                return Ok(None);
            }
            self.read += size;
            if info.add_file(&digest, self.registry()) {
                info.replace(self.store, id)?;
            }
        }
        Ok(Some(StoredLayer { tree: id.tree(self.store), info }))
    }

    fn registry(&self) -> Option<&'a str> {
        self.origin.map(|origin| origin.registry.as_str())
    }

    fn extract(
        &mut self,
        layout: &Layout,
        source: &LayerSource,
        [plain, chained]: [LayerId; 2],
        progress: &mut CopyProgress<'_>,
    ) -> Result<StoredLayer> {
        let (mut file, size) = open(layout, source)?;
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
        let file = Digest::of_digits(&stream.digest);
        info.add_file(&file, self.registry());
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
        if publish(draft, self.store, &id)? {
            self.bytes += stream.extracted.bytes;
            self.entries += stream.extracted.entries;
        } else {
            self.shared += 1;
            self.add_file(&id, &file)?;
        }
        self.left_out.add(stream.extracted.left_out);
        Ok(StoredLayer { tree: id.tree(self.store), info })
    }

    /// Adds a file to those that are known to have an existing layer.
    fn add_file(&self, id: &LayerId, file: &Digest) -> Result<()> {
        let Some(mut info) = LayerInfo::read(self.store, id) else { return Ok(()) };
        if info.add_file(file, self.registry()) { info.replace(self.store, id) } else { Ok(()) }
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

/// Opens the file of a layer. Returns it with its size.
fn open(layout: &Layout, source: &LayerSource) -> Result<(File, u64)> {
    let (file, size) = layout.open(&source.path)?;
    match source.size.filter(|expected| *expected != size) {
        Some(expected) => {
            Err(Error::new(format!("its file has {size} bytes instead of {expected}")).with_hint(AGAIN))
        }
        None => Ok((file, size)),
    }
}

/// Computes the digest of a file. `progress` is called with the bytes read.
fn digest_of(mut file: File, progress: &mut CopyProgress<'_>) -> Result<Digest> {
    let (mut hash, mut part, mut bytes) = (Sha256::new(), vec![0; PART], 0);
    loop {
        match file.read(&mut part) {
            Ok(0) => return Ok(Digest::of_digits(&digester::hex(&hash.finalize()))),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            read => {
                let length = read.context(|| "cannot read its file")?;
                hash.update(part.get(..length).unwrap_or_default());
                bytes += length as u64;
                progress(bytes)?;
            }
        }
    }
}

/// Checks the digest of the file of a layer.
fn check_file(source: &LayerSource, found: &Digest) -> Result<()> {
    match source.digest.as_ref().filter(|expected| *expected != found) {
        Some(expected) => Err(wrong("its file", &found.to_string(), expected)),
        None => Ok(()),
    }
}

fn wrong(what: &str, found: &str, expected: &Digest) -> Error {
    Error::new(format!("the digest of {what} is {found} instead of {expected}")).with_hint(AGAIN)
}

/// Checks the digests of a layer, which were taken before it was parsed.
fn check_digests(source: &LayerSource, stream: &ExtractedStream) -> Result<()> {
    check_file(source, &Digest::of_digits(&stream.digest))?;
    match &stream.decoded_digest {
        Some(found) if found == source.diff_id.digits() => Ok(()),
        found => {
            let found = found.as_deref().unwrap_or_default();
            Err(wrong("the plain layer", &format!("sha256:{found}"), &source.diff_id))
        }
    }
}

/// Publishes a layer. Returns false if the store has it already, also from another import in the meantime. An error of
/// the disk is not that.
fn publish(draft: LayerDraft, store: &Store, id: &LayerId) -> Result<bool> {
    if draft.publish_shared(store, id, DraftContent::Data)? {
        return Ok(true);
    }
    if LayerInfo::read(store, id).is_some() {
        return Ok(false);
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
        assert!(again().unwrap());
        assert!(!again().unwrap());
        std::fs::remove_file(id.path(&store).join("info.json")).unwrap();
        assert!(again().unwrap_err().to_string().contains("is no layer"));
    }

    #[test]
    fn a_layer_knows_its_files() {
        let root = tempfile::tempdir().unwrap();
        let (store, id) = (Store::of(&Paths::below(root.path())), LayerId::random());
        let mut info = LayerInfo::of(&Name::new("web").unwrap());
        let (one, other) = (Digest::of(b"one"), Digest::of(b"other"));
        assert!(info.add_file(&one, None) && !info.add_file(&one, None));
        let draft = LayerDraft::create(&store, &info).unwrap();
        assert!(publish(draft, &store, &id).unwrap());
        assert!(info.add_file(&one, Some("x.org")) && !info.add_file(&one, Some("x.org")));
        info.replace(&store, &id).unwrap();
        let found = LayerInfo::read(&store, &id).unwrap();
        assert!(found.has_file(&one) && !found.has_file(&other));
        assert!(found.is_from(&one, "x.org") && !found.is_from(&one, "y.org"));
        // Neither a draft nor the former description is left.
        assert_eq!(id.path(&store).read_dir().unwrap().count(), 1);
        assert_eq!(root.path().join("var/lib/coracle/storage/tmp").read_dir().unwrap().count(), 0);
    }
}
