//! Fetches the documents and layers of an image into a layout. Every file has the size and the digest that another
//! document says. An interrupted transfer goes on where it has ended. Called by `pull`.

use super::PullRequest;
use super::credentials;
use super::helper::{self, Fetch, FetchHead};
use crate::error::{Context, Error, Result};
use crate::image::import::choose_platform;
use crate::image::oci::digest::Digest;
use crate::image::oci::document::{
    Descriptor, INDEX, INDEXES, Index, LARGEST_CONFIG, LARGEST_MANIFEST, LayoutFile, MANIFESTS, Manifest,
    ManifestKind,
};
use crate::image::oci::platform::Platform;
use crate::image::store::Store;
use crate::image::store::draft::Draft;
use crate::image::store::layer::{LayerId, LayerInfo};
use crate::machine::image_config::ImageConfig;
use crate::machine::registry::Endpoint;
use crate::tree::copy::CopyProgress;
use crate::tree::entry::quoted;
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

/// The attempts for each file.
const ATTEMPTS: u32 = 3;
/// The pause between two attempts, if the registry requests none.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest pause that a registry can request.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// The greatest depth of indexes.
const DEEPEST: usize = 4;

/// A layout that is being fetched from a server.
pub(super) struct PulledLayout {
    draft: Draft,
    directory: OwnedFd,
    store: Store,
    endpoint: Endpoint,
    credentials: Option<(String, String)>,
    authorities: Vec<String>,
    token: Option<String>,
    fetched: u64,
    interrupted: bool,
}

/// An attempt that has failed.
enum Failure {
    /// Another attempt may succeed, after a pause.
    Transient(Error, Option<Duration>),
    /// No other attempt does.
    Final(Error),
}

impl PulledLayout {
    /// Creates an empty layout for the image of a server.
    ///
    /// # Errors
    /// A directory that cannot be created, or credentials that cannot be read.
    pub(super) fn create(store: &Store, request: &PullRequest<'_>, endpoint: &Endpoint) -> Result<Self> {
        let draft = Draft::in_store(store)?;
        let directory = draft.create_directory(0o700)?;
        for name in ["blobs", "blobs/sha256"] {
            rustix::fs::mkdirat(&directory, name, Mode::RWXU).context(|| "cannot create the layout")?;
        }
        Ok(Self {
            draft,
            directory,
            store: store.clone(),
            endpoint: endpoint.clone(),
            credentials: credentials::of(request.paths, endpoint)?,
            authorities: credentials::authorities(request.paths, &endpoint.host)?,
            token: None,
            fetched: 0,
            interrupted: false,
        })
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
        self.fetched
    }

    /// Returns whether a signal has interrupted the transfer.
    pub(super) fn is_interrupted(&self) -> bool {
        self.interrupted
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
                Some(ManifestKind::Image) => return self.layers(&text, progress).map(|()| top),
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

    /// Fetches the configuration and all layers that the store does not have.
    fn layers(&mut self, manifest: &[u8], progress: &mut CopyProgress<'_>) -> Result<()> {
        let manifest = Manifest::parse(manifest)?;
        let config = self.document(&manifest.config, "blobs", LARGEST_CONFIG, progress)?;
        let config = ImageConfig::parse(&config).context(|| "cannot read the configuration")?;
        let diff_ids = config.rootfs.map(|rootfs| rootfs.diff_ids).unwrap_or_default();
        let mut chain: Option<Digest> = None;
        for (layer, diff_id) in manifest.layers.iter().zip(diff_ids) {
            let diff_id = Digest::parse(&diff_id)?;
            let next = match &chain {
                None => diff_id.clone(),
                Some(chain) => Digest::of(format!("{chain} {diff_id}").as_bytes()),
            };
            let ids = [LayerId::of_diff(&diff_id), LayerId::of_chain(&next)];
            chain = Some(next);
            if !ids.iter().any(|id| LayerInfo::read(&self.store, id).is_some()) {
                self.blob(layer, progress)?;
            }
        }
        Ok(())
    }

    /// Fetches the manifest or index of a tag. Returns it with its media type.
    fn manifest(&mut self, tag: &str, progress: &mut CopyProgress<'_>) -> Result<(Vec<u8>, String)> {
        let path = format!("manifests/{tag}");
        let mut found = (Vec::new(), String::new());
        self.attempt(&path, progress, &mut |layout, progress| {
            let mut text = Vec::new();
            let head = layout.transfer(&path, 0, LARGEST_MANIFEST, progress, &mut |part, _| {
                text.extend_from_slice(part);
                Ok(())
            })?;
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
            let mut text = Vec::new();
            layout.transfer(&path, 0, descriptor.size, progress, &mut |part, _| {
                text.extend_from_slice(part);
                Ok(())
            })?;
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

    /// Fetches a layer, in as many parts as it needs.
    fn blob(&mut self, descriptor: &Descriptor, progress: &mut CopyProgress<'_>) -> Result<()> {
        let digest = descriptor.checked_digest()?;
        let creating = || "cannot write a layer";
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.directory, digest.blob(), flags, Mode::RUSR | Mode::WUSR);
        let file = File::from(file.context(creating)?);
        let path = format!("blobs/{digest}");
        let size = descriptor.size;
        self.attempt(&path, progress, &mut |layout, progress| {
            let has = file.metadata().map(|found| found.len()).unwrap_or_default();
            let mut end = has;
            if has < size {
                layout.transfer(&path, has, size, progress, &mut |part, at| {
                    // A server need not send the part that was requested.
                    if at > end {
                        return Err(Error::new("the server sent another part of the layer"));
                    }
                    end = at + part.len() as u64;
                    file.write_all_at(part, at).context(creating)
                })?;
            }
            if end < size {
                return Err(Failure::Transient(
                    Error::new(format!("the transfer of {digest} ended early")),
                    None,
                ));
            }
            match digest_of(&file) {
                Ok(found) if found == digest => Ok(()),
                Ok(found) => {
                    // Nothing of it is used again.
                    let _ = file.set_len(0);
                    let text = format!("the digest of a layer is {found} instead of {digest}");
                    Err(Failure::Transient(Error::new(text), None))
                }
                Err(error) => Err(Failure::Final(error)),
            }
        })
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
                Err(Failure::Transient(error, pause)) if number < ATTEMPTS && !self.interrupted => {
                    log::warn!("{error}, trying '{path}' again");
                    self.pause(pause.unwrap_or(PAUSE).min(LONGEST_PAUSE), progress)?;
                    number += 1;
                }
                Err(Failure::Transient(error, _) | Failure::Final(error)) => return Err(error),
            }
        }
    }

    /// Waits, unless it is interrupted.
    fn pause(&mut self, pause: Duration, progress: &mut CopyProgress<'_>) -> Result<()> {
        let until = Instant::now() + pause;
        while Instant::now() < until {
            self.advance(progress, 0)?;
            std::thread::sleep(Duration::from_millis(50).min(pause));
        }
        Ok(())
    }

    fn advance(&mut self, progress: &mut CopyProgress<'_>, bytes: u64) -> Result<()> {
        self.fetched += bytes;
        let advanced = progress(self.fetched);
        self.interrupted |= advanced.is_err();
        advanced
    }

    /// Transfers a file from a position on, of at most `largest` bytes in all.
    fn transfer(
        &mut self,
        path: &str,
        from: u64,
        largest: u64,
        progress: &mut CopyProgress<'_>,
        take: &mut dyn FnMut(&[u8], u64) -> Result<()>,
    ) -> std::result::Result<FetchHead, Failure> {
        let Endpoint { host, repository, insecure } = self.endpoint.clone();
        let fetch = Fetch {
            url: format!("https://{host}/v2/{repository}/{path}"),
            accept: if path.starts_with("manifests/") { [INDEXES, MANIFESTS].concat() } else { Vec::new() },
            from,
            credentials: self.credentials.clone(),
            token: self.token.clone(),
            authorities: self.authorities.clone(),
            insecure,
            proxy: helper::proxy(&host),
            timeout: helper::TIMEOUT,
        };
        let mut reply = helper::start(&fetch).map_err(Failure::Final)?;
        let mut wait = |layout: &mut Self| layout.advance(progress, 0);
        let head = reply.head(&mut || wait(self)).map_err(|error| Failure::Transient(error, None))?;
        match head.failure() {
            None => {}
            Some((error, true)) => return Err(Failure::Transient(error, None)),
            Some((error, false)) => return Err(Failure::Final(error)),
        }
        self.token.clone_from(&head.token);
        check_status(&head, path)?;
        let (mut at, mut part) = (head.from, vec![0; 256 << 10]);
        loop {
            let length = reply.read(&mut part, &mut || self.advance(progress, 0));
            let length = length.map_err(|error| Failure::Transient(error, None))?;
            let Some(part) = part.get(..length).filter(|part| !part.is_empty()) else { break };
            if at + length as u64 > largest {
                return Err(Failure::Final(Error::new(format!("'{path}' is larger than {largest} bytes"))));
            }
            take(part, at).map_err(Failure::Final)?;
            at += length as u64;
            self.advance(progress, length as u64).map_err(Failure::Final)?;
        }
        Ok(head)
    }

    /// Saves a checked document.
    fn save(&self, digest: &Digest, text: &[u8]) -> Result<()> {
        self.write(&digest.blob(), text)
    }

    /// Writes the files at the top of the layout.
    fn top(&self, descriptor: &Descriptor) -> Result<()> {
        let index = Index {
            schema_version: 2,
            media_type: Some(INDEX.to_owned()),
            manifests: vec![descriptor.clone()],
        };
        self.write("index.json", &json(&index)?)?;
        self.write("oci-layout", &json(&LayoutFile { image_layout_version: "1.0.0".to_owned() })?)
    }

    fn write(&self, path: &str, text: &[u8]) -> Result<()> {
        let writing = || format!("cannot write '{path}'");
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
        let file =
            rustix::fs::openat(&self.directory, path, flags, Mode::RUSR | Mode::WUSR).context(writing)?;
        File::from(file).write_all(text).context(writing)
    }
}

fn json(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|error| Error::new(error.to_string()))
}

/// Refuses the status of a reply that is not a success.
fn check_status(head: &FetchHead, path: &str) -> std::result::Result<(), Failure> {
    let status = head.status;
    let error = |text: String| Error::new(text);
    match status {
        200 | 206 => Ok(()),
        401 | 403 => Err(Failure::Final(
            error(format!("access to '{path}' is denied, status {status}"))
                .with_hint("log in: 'podman login REGISTRY' or 'skopeo login REGISTRY' as root"),
        )),
        404 => Err(Failure::Final(error(format!("'{path}' does not exist")))),
        408 | 429 | 500..=599 => {
            let pause = head.retry_after.map(Duration::from_secs);
            Err(Failure::Transient(
                error(format!("the server replied to '{path}' with status {status}")),
                pause,
            ))
        }
        _ => Err(Failure::Final(error(format!("the server replied to '{path}' with status {status}")))),
    }
}

fn digest_of(file: &File) -> Result<Digest> {
    let (mut hash, mut part, mut at) = (Sha256::new(), vec![0; 256 << 10], 0);
    loop {
        let length = file.read_at(&mut part, at).context(|| "cannot read a layer")?;
        if length == 0 {
            let digits: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
            return Ok(Digest::of_digits(&digits));
        }
        hash.update(part.get(..length).unwrap_or_default());
        at += length as u64;
    }
}
