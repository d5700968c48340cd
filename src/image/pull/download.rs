//! Fetches an image into a layout. Every document has the size and the digest that another document says. A layer that
//! the store has from the same server is not fetched again, but the repository has to have it: the configuration of an
//! image only claims that. Called by `pull`.

use super::helper::{FetchHead, Reply};
use super::server::{Failure, Server};
use super::{PullRequest, blobs};
use crate::error::{Context, Error, Result};
use crate::image::import::{self, Origin, choose_platform};
use crate::image::oci::digest::Digest;
use crate::image::oci::document::{
    Descriptor, INDEX, Index, LARGEST_CONFIG, LARGEST_MANIFEST, LayoutFile, Manifest, ManifestKind,
};
use crate::image::oci::platform::Platform;
use crate::image::store::Store;
use crate::image::store::draft::Draft;
use crate::image::store::layer::{LayerId, LayerInfo};
use crate::machine::image_config::ImageConfig;
use crate::tree::copy::CopyProgress;
use crate::tree::entry::quoted;
use crate::tree::tar::policy;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::time::{Duration, Instant};

/// The bytes that the archives of an image may have besides its files: names and attributes.
const HEADERS: u64 = 64 << 20;
/// The greatest depth of indexes.
const DEEPEST: usize = 4;

/// A layout that is being fetched from a server.
pub(super) struct PulledLayout {
    draft: Draft,
    directory: OwnedFd,
    store: Store,
    server: Server,
    /// The layers that are not fetched.
    held: Vec<Digest>,
}

impl PulledLayout {
    /// Creates an empty layout for the image of a server.
    ///
    /// # Errors
    /// A directory that cannot be created.
    pub(super) fn create(store: &Store, server: Server) -> Result<Self> {
        let draft = Draft::in_store(store)?;
        let directory = draft.create_directory(0o700)?;
        for name in ["blobs", "blobs/sha256"] {
            rustix::fs::mkdirat(&directory, name, Mode::RWXU).context(|| "cannot create the layout")?;
        }
        Ok(Self { draft, directory, store: store.clone(), server, held: Vec::new() })
    }

    /// Opens the layout for an import.
    ///
    /// # Errors
    /// Any error of fcntl(2).
    pub(super) fn open(&self) -> Result<OwnedFd> {
        rustix::io::fcntl_dupfd_cloexec(&self.directory, 3)
            .context(|| format!("cannot open '{}'", self.draft.path().display()))
    }

    /// Returns the bytes that were fetched.
    pub(super) fn fetched(&self) -> u64 {
        self.server.fetched
    }

    /// Returns whether a signal has interrupted the transfer, or this host has failed: another server does not help.
    pub(super) fn has_failed_locally(&self) -> bool {
        self.server.is_interrupted || self.server.has_local_failure
    }

    /// Returns the registry, and its layers that are not in the layout.
    pub(super) fn origin(&self) -> Origin {
        Origin { registry: self.server.host().to_owned(), held: self.held.clone() }
    }

    /// Fetches an image. Returns the digest of its manifest or index.
    ///
    /// # Errors
    /// An image that the server does not have, or one that is refused.
    pub(super) fn fetch_image(
        &mut self,
        request: &PullRequest<'_>,
        progress: &mut CopyProgress<'_>,
    ) -> Result<Digest> {
        let platform = request.platform.clone().unwrap_or_else(Platform::of_host);
        let tag = request.reference.digest.as_ref().unwrap_or(&request.reference.tag);
        let (text, media_type) = self.manifest(tag, progress)?;
        let top = Digest::of(&text);
        if let Some(expected) = &request.reference.digest
            && *expected != top.to_string()
        {
            return Err(Error::new(format!("its digest is {top} instead of {expected}")));
        }
        let mut descriptor = Descriptor::of(&media_type, &top, text.len() as u64);
        self.save(&top, &text)?;
        self.top(&descriptor)?;
        let mut text = text;
        for _ in 0..DEEPEST {
            match descriptor.manifest_kind() {
                Some(ManifestKind::Image) => {
                    return self.layers(&text, request.largest, progress).map(|()| top);
                }
                Some(ManifestKind::Index) => {
                    descriptor = choose_platform(&Index::parse(&text)?.manifests, &platform)?;
                    text = self.document(&descriptor, "manifests", LARGEST_MANIFEST, progress)?;
                }
                None => break,
            }
        }
        Err(Error::new(format!(
            "it is not an image: its type is {}",
            quoted(descriptor.media_type.as_bytes())
        )))
    }

    /// Fetches the configuration, and all layers that the store does not have from this server.
    fn layers(
        &mut self,
        manifest: &[u8],
        largest: Option<u64>,
        progress: &mut CopyProgress<'_>,
    ) -> Result<()> {
        let manifest = Manifest::parse(manifest)?;
        let config = self.document(&manifest.config, "blobs", LARGEST_CONFIG, progress)?;
        let config = ImageConfig::parse(&config).context(|| "cannot read the configuration")?;
        let diff_ids = config.rootfs.map(|rootfs| rootfs.diff_ids).unwrap_or_default();
        let (mut chain, mut missing) = (None::<Digest>, Vec::new());
        for (layer, diff_id) in manifest.layers.iter().zip(diff_ids) {
            let diff_id = Digest::parse(&diff_id)?;
            let next = match &chain {
                None => diff_id.clone(),
                Some(chain) => Digest::of(format!("{chain} {diff_id}").as_bytes()),
            };
            let ids = [LayerId::of_diff(&diff_id), LayerId::of_chain(&next)];
            chain = Some(next);
            let digest = layer.checked_digest()?;
            let is_known = |info: LayerInfo| info.is_from(&digest, self.server.host());
            if !ids.iter().any(|id| LayerInfo::read(&self.store, id).is_some_and(is_known)) {
                missing.push(layer);
            } else if !self.held.contains(&digest) {
                self.check_layer(layer, &digest, progress)?;
                self.held.push(digest);
            }
        }
        missing.retain(|layer| !self.held.iter().any(|held| held.to_string() == layer.digest));
        self.check_space(&missing, largest)?;
        blobs::fetch(&mut self.server, self.directory.as_fd(), &missing, progress)
    }

    /// Refuses layers that are larger than the image may be, or than the free space of the store.
    fn check_space(&mut self, layers: &[&Descriptor], largest: Option<u64>) -> Result<()> {
        let free = import::free(self.directory.as_fd())?;
        let checked = check_size(layers, largest, free);
        self.server.has_local_failure |= checked.is_err();
        checked
    }

    /// Requests the end of a layer, which the repository has to have.
    fn check_layer(
        &mut self,
        layer: &Descriptor,
        digest: &Digest,
        progress: &mut CopyProgress<'_>,
    ) -> Result<()> {
        let path = format!("blobs/{digest}");
        self.attempt(&path, progress, &mut |layout, progress| {
            layout.head(&path, layer.size.saturating_sub(1), progress).map(drop)
        })
    }

    /// Fetches the manifest or index of a tag. Returns it with its media type.
    fn manifest(&mut self, tag: &str, progress: &mut CopyProgress<'_>) -> Result<(Vec<u8>, String)> {
        let path = format!("manifests/{tag}");
        let mut found = (Vec::new(), String::new());
        self.attempt(&path, progress, &mut |layout, progress| {
            let (text, head) = layout.transfer(&path, LARGEST_MANIFEST, progress)?;
            let media_type = head.media_type.unwrap_or_default();
            let media_type = media_type.split(';').next().unwrap_or_default().trim().to_owned();
            found = (text, media_type);
            Ok(())
        })?;
        Ok(found)
    }

    /// Fetches a document, and checks it.
    fn document(
        &mut self,
        descriptor: &Descriptor,
        kind: &str,
        largest: u64,
        progress: &mut CopyProgress<'_>,
    ) -> Result<Vec<u8>> {
        let digest = descriptor.checked_digest()?;
        if descriptor.size > largest {
            return Err(Error::new(format!("the document {digest} is larger than {largest} bytes")));
        }
        let path = format!("{kind}/{digest}");
        let mut found = Vec::new();
        self.attempt(&path, progress, &mut |layout, progress| {
            let (text, _) = layout.transfer(&path, descriptor.size, progress)?;
            if text.len() as u64 != descriptor.size || Digest::of(&text) != digest {
                return Err(Failure::Transient(
                    Error::new(format!("the document {digest} has another content")),
                    None,
                ));
            }
            found = text;
            Ok(())
        })?;
        self.save(&digest, &found)?;
        Ok(found)
    }

    /// Tries a transfer several times.
    fn attempt(
        &mut self,
        path: &str,
        progress: &mut CopyProgress<'_>,
        transfer: &mut dyn FnMut(&mut Self, &mut CopyProgress<'_>) -> std::result::Result<(), Failure>,
    ) -> Result<()> {
        let mut number = 1;
        loop {
            match transfer(self, progress) {
                Ok(()) => return Ok(()),
                Err(failure) => {
                    // An interruption is not to be tried again.
                    let number_of = if self.server.is_interrupted { u32::MAX } else { number };
                    let pause = failure.pause(number_of, path)?;
                    self.pause(pause, progress)?;
                    number += 1;
                }
            }
        }
    }

    /// Waits, unless it is interrupted.
    fn pause(&mut self, pause: Duration, progress: &mut CopyProgress<'_>) -> Result<()> {
        let until = Instant::now() + pause;
        while Instant::now() < until {
            self.server.advance(progress, 0)?;
            std::thread::sleep(Duration::from_millis(50).min(pause));
        }
        Ok(())
    }

    /// Requests a file from a position on. Returns the head of the reply, and the reply.
    fn head(
        &mut self,
        path: &str,
        from: u64,
        progress: &mut CopyProgress<'_>,
    ) -> std::result::Result<(FetchHead, Reply), Failure> {
        let mut reply = self.server.request(path, from).map_err(Failure::Final)?;
        let mut wait = || self.server.advance(progress, 0);
        let head = reply.head(&mut wait).map_err(|error| Failure::Transient(error, None))?;
        self.server.accept(&head, path)?;
        Ok((head, reply))
    }

    /// Transfers a document of at most `largest` bytes.
    fn transfer(
        &mut self,
        path: &str,
        largest: u64,
        progress: &mut CopyProgress<'_>,
    ) -> std::result::Result<(Vec<u8>, FetchHead), Failure> {
        let (head, mut reply) = self.head(path, 0, progress)?;
        let (mut text, mut part) = (Vec::new(), vec![0; 64 << 10]);
        loop {
            let length = reply.read(&mut part, &mut || self.server.advance(progress, 0));
            let length = length.map_err(|error| Failure::Transient(error, None))?;
            let Some(part) = part.get(..length).filter(|part| !part.is_empty()) else { break };
            text.extend_from_slice(part);
            if text.len() as u64 > largest {
                return Err(Failure::Final(Error::new(format!("'{path}' is larger than {largest} bytes"))));
            }
            self.server.advance(progress, length as u64).map_err(Failure::Final)?;
        }
        Ok((text, head))
    }

    /// Saves a checked document.
    fn save(&mut self, digest: &Digest, text: &[u8]) -> Result<()> {
        self.write(&digest.blob(), text)
    }

    /// Writes the files at the top of the layout.
    fn top(&mut self, descriptor: &Descriptor) -> Result<()> {
        let index = Index {
            schema_version: 2,
            media_type: Some(INDEX.to_owned()),
            manifests: vec![descriptor.clone()],
        };
        self.write("index.json", &json(&index)?)?;
        self.write("oci-layout", &json(&LayoutFile { image_layout_version: "1.0.0".to_owned() })?)
    }

    fn write(&mut self, path: &str, text: &[u8]) -> Result<()> {
        let writing = || format!("cannot write '{path}'");
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.directory, path, flags, Mode::RUSR | Mode::WUSR).context(writing);
        let written = file.and_then(|file| File::from(file).write_all(text).context(writing));
        self.server.has_local_failure |= written.is_err();
        written
    }
}

/// Checks the size of layers, before they are fetched: `largest` is the limit of their files, and `free` the free bytes.
fn check_size(layers: &[&Descriptor], largest: Option<u64>, free: u64) -> Result<()> {
    // A layer that the image has twice is fetched once.
    let sizes: BTreeMap<&str, u64> = layers.iter().map(|layer| (layer.digest.as_str(), layer.size)).collect();
    let size = sizes.values().fold(0u64, |sum, size| sum.saturating_add(*size));
    if let Some(largest) = largest.filter(|largest| size > largest.saturating_add(HEADERS)) {
        return Err(policy::larger_than(largest));
    }
    if size > free {
        return Err(Error::new(format!(
            "its layers have {size} bytes, and {free} bytes are free in the storage of Coracle"
        )));
    }
    Ok(())
}

fn json(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|error| Error::new(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_as_large_as_the_free_space() {
        let layer = |digest: &str, size| Descriptor {
            digest: digest.into(),
            ..Descriptor::of("", &Digest::of(b""), size)
        };
        let (one, other) = (layer("one", 600), layer("other", 500));
        check_size(&[&one, &one], None, 1000).unwrap();
        let error = check_size(&[&one, &other], None, 1000).unwrap_err().to_string();
        assert!(error.contains("have 1100 bytes, and 1000 bytes are free"), "{error}");
        check_size(&[&one, &other], Some(1), 2000).unwrap();
        let huge = layer("huge", u64::MAX - 1);
        let error = check_size(&[&one, &huge], Some(1000), u64::MAX).unwrap_err().to_string();
        assert!(error.contains("larger than 1000 bytes"), "{error}");
    }
}
