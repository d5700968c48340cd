//! Exports an image as an OCI image: a directory in the OCI layout, an archive of one, or an archive for
//! `docker load`. The layers of a stack stay layers. Equal trees have equal images: no names, no times of the export.
//! Called by `export`. All files have hidden names until the image is complete.

mod blob;
mod config;

use super::{Count, Exported, RootSource, walk, write_stack};
use crate::error::{Context, Error, Result};
use crate::image::layers::Layers;
use crate::image::oci::digest::Digest;
use crate::image::oci::document::{
    CONFIG, Descriptor, DockerManifest, INDEX, Index, LAYER_GZIP, LayoutFile, MANIFEST, Manifest, REF_NAME,
    check_layers,
};
use crate::image::oci::names::{Transport, TransportName};
use crate::image::stack::{Stack, StackPart};
use crate::image::store::draft::{self, Draft, DraftContent};
use crate::machine::name::Name;
use crate::sys::mount;
use crate::sys::overlay::DATA;
use crate::tree::copy::CopyProgress;
use crate::tree::id_mapping::IdMapping;
use crate::tree::tar::writer::Writer;
use crate::tree::walk::Walk;
use blob::{Blob, BlobCompression};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// A request for an export as an OCI image.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OciExport<'a> {
    /// The destination.
    pub(crate) to: &'a TransportName,
    /// The name of the image.
    pub(crate) name: &'a Name,
    /// The configuration beside the image, if it has one.
    pub(crate) config: Option<&'a Path>,
    /// Whether all layers are merged.
    pub(crate) squash: bool,
    /// The latest time of files, seconds.
    pub(crate) latest: Option<i64>,
}

/// A layer of the exported image.
#[derive(Debug)]
struct ExportedLayer {
    diff_id: Digest,
    blob: Blob,
}

/// A file of the image, for an archive.
type NamedFile = (PathBuf, OwnedFd);

/// Exports an image, whose locks are held.
///
/// # Errors
/// An existing file, or a file that cannot be read or written. No file is left then.
pub(super) fn export(
    image: &RootSource,
    request: OciExport<'_>,
    progress: &mut CopyProgress<'_>,
) -> Result<Exported> {
    let path = &request.to.path;
    if let Some(directory) = path.parent() {
        draft::sweep_images(directory);
    }
    let mut count = Count { entries: 0, bytes: 0, progress };
    let layout = LayoutDraft::create(path, request)?;
    let layers = layout.layers(image, &mut count)?;
    check_layers(layers.len())?;
    let (entries, bytes) = (count.entries, count.bytes);
    let config = config::of(image, &request, &layers)?;
    let files = match request.to.transport {
        Transport::DockerArchive => layout.docker(&config, &layers)?,
        Transport::OciDirectory | Transport::OciArchive => layout.oci(&config, &layers)?,
    };
    if request.to.transport == Transport::OciDirectory {
        layout.draft.publish(path, DraftContent::Data)?;
    } else {
        archive(path, files, request.latest)?;
    }
    Ok(Exported { entries: Some(entries), bytes, layers: Some(layers.len()) })
}

/// A layout in work.
struct LayoutDraft<'a> {
    draft: Draft,
    directory: OwnedFd,
    blobs: OwnedFd,
    request: OciExport<'a>,
}

impl<'a> LayoutDraft<'a> {
    fn create(path: &Path, request: OciExport<'a>) -> Result<Self> {
        let creating = || format!("cannot create '{}'", path.display());
        let draft = Draft::of_image(path)?;
        // It contains the secrets of the image.
        let directory = draft.create_directory(0o700)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        for name in ["blobs", "blobs/sha256"] {
            rustix::fs::mkdirat(&directory, name, Mode::from_raw_mode(0o755)).context(creating)?;
        }
        let blobs = rustix::fs::openat(&directory, "blobs/sha256", flags, Mode::empty()).context(creating)?;
        Ok(Self { draft, directory, blobs, request })
    }

    /// Writes the layers of an image, the lowest first.
    fn layers(&self, image: &RootSource, count: &mut Count<'_>) -> Result<Vec<ExportedLayer>> {
        match image {
            RootSource::Image(_) => Err(Error::new("a disk image is not exported as an OCI image")
                .with_hint("export it with the ending 'raw', 'raw.zst', 'raw.xz' or 'raw.gz'")),
            RootSource::Directory(path) => {
                let root = mount::open_directory(path)?;
                Ok(vec![self.layer(false, &mut |writer| walk(&root, writer, count))?])
            }
            RootSource::Stack(path) => {
                let stack = Stack::read(path)?;
                match directories(&stack).filter(|_| !self.request.squash) {
                    None => Ok(vec![self.layer(false, &mut |writer| write_stack(&stack, writer, count))?]),
                    Some(directories) => {
                        let of = |directory: &PathBuf| {
                            let layer = Layers::of_host().copy(directory, true)?;
                            self.layer(true, &mut |writer| walk(&layer, writer, count))
                        };
                        directories.iter().map(of).collect()
                    }
                }
            }
        }
    }

    /// Writes a layer.
    fn layer(
        &self,
        has_marks: bool,
        write: &mut dyn FnMut(&mut Writer<blob::BlobWriter>) -> Result<()>,
    ) -> Result<ExportedLayer> {
        let is_docker = self.request.to.transport == Transport::DockerArchive;
        let compression = if is_docker { BlobCompression::None } else { BlobCompression::Gzip };
        let blob = blob::BlobWriter::create(self.blobs.as_fd(), compression)?;
        let (name, latest) = (Path::new("."), self.request.latest);
        let mut writer =
            if has_marks { Writer::of_layer(blob, name, latest) } else { Writer::new(blob, name, latest) };
        write(&mut writer)?;
        let (diff_id, blob) = writer.finish()?.finish(self.blobs.as_fd())?;
        Ok(ExportedLayer { diff_id, blob })
    }

    /// Writes a document as a blob.
    fn document(&self, text: &[u8]) -> Result<Blob> {
        let mut writer = blob::BlobWriter::create(self.blobs.as_fd(), BlobCompression::None)?;
        writer.write_all(text).context(|| "cannot write a document of the image")?;
        writer.finish(self.blobs.as_fd()).map(|(_, blob)| blob)
    }

    /// Writes a file at the top.
    fn file(&self, name: &str, content: &impl Serialize) -> Result<()> {
        let writing = || format!("cannot write '{name}'");
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(0o644);
        let file = rustix::fs::openat(&self.directory, name, flags, mode).context(writing)?;
        File::from(file).write_all(&json(content)?).context(writing)
    }

    /// Opens files for an archive, as references: their names in the archive, and in the layout.
    fn files(&self, names: Vec<(String, String)>) -> Result<Vec<NamedFile>> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = |(name, path): (String, String)| {
            let opened = rustix::fs::openat(&self.directory, path.as_str(), flags, Mode::empty());
            Ok((PathBuf::from(name), opened.context(|| format!("cannot open '{path}'"))?))
        };
        names.into_iter().map(open).collect()
    }

    /// Completes the layout of OCI.
    fn oci(&self, config: &[u8], layers: &[ExportedLayer]) -> Result<Vec<NamedFile>> {
        let config = self.document(config)?;
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(MANIFEST.to_owned()),
            config: Descriptor::of(CONFIG, &config.digest, config.size),
            layers: layers
                .iter()
                .map(|layer| Descriptor::of(LAYER_GZIP, &layer.blob.digest, layer.blob.size))
                .collect(),
        };
        let manifest = self.document(&json(&manifest)?)?;
        let tag = self.request.to.tag.as_deref().unwrap_or("latest");
        let annotations = BTreeMap::from([(REF_NAME.to_owned(), tag.to_owned())]);
        let descriptor = Descriptor::of(MANIFEST, &manifest.digest, manifest.size);
        let manifests = vec![Descriptor { annotations: Some(annotations), ..descriptor }];
        let media_type = Some(INDEX.to_owned());
        self.file("index.json", &Index { schema_version: 2, media_type, manifests })?;
        self.file("oci-layout", &LayoutFile { image_layout_version: "1.0.0".to_owned() })?;
        let blobs = layers.iter().map(|layer| &layer.blob).chain([&config, &manifest]);
        let mut paths: Vec<String> = blobs.map(|blob| blob.digest.blob()).collect();
        paths.sort();
        paths.dedup();
        paths.splice(0..0, ["oci-layout".to_owned(), "index.json".to_owned()]);
        self.files(paths.into_iter().map(|path| (path.clone(), path)).collect())
    }

    /// Completes the files of an archive for Docker.
    fn docker(&self, config: &[u8], layers: &[ExportedLayer]) -> Result<Vec<NamedFile>> {
        let config = self.document(config)?;
        let layer_name = |layer: &ExportedLayer| format!("{}.tar", layer.blob.digest.digits());
        let config_name = format!("{}.json", config.digest.digits());
        let name = self.request.name.as_str().to_lowercase();
        let name = self.request.to.tag.clone().unwrap_or_else(|| format!("{name}:latest"));
        let has_tag = name.rsplit('/').next().is_some_and(|last| last.contains(':'));
        let name = if has_tag { name } else { format!("{name}:latest") };
        let manifest = DockerManifest {
            config: config_name.clone(),
            repo_tags: Some(vec![name]),
            layers: Some(layers.iter().map(layer_name).collect()),
        };
        self.file("manifest.json", &[manifest])?;
        let mut names: Vec<(String, String)> =
            layers.iter().map(|layer| (layer_name(layer), layer.blob.digest.blob())).collect();
        names.sort();
        names.dedup();
        names.splice(
            0..0,
            [("manifest.json".to_owned(), "manifest.json".to_owned()), (config_name, config.digest.blob())],
        );
        self.files(names)
    }
}

/// Returns the directories of the layers of a stack, the lowest first. `None` if it has other parts, which only a
/// merged tree has.
fn directories(stack: &Stack) -> Option<Vec<PathBuf>> {
    if stack.usr.is_some() || !stack.binds.is_empty() {
        return None;
    }
    match &stack.root {
        StackPart::Overlay { layers, writable } => {
            let written = writable.as_ref().map(|writable| writable.join(DATA));
            let written =
                written.filter(|data| std::fs::read_dir(data).is_ok_and(|mut all| all.next().is_some()));
            Some(layers.iter().rev().cloned().chain(written).collect())
        }
        StackPart::Directory(bind) => Some(vec![bind.source.clone()]),
        StackPart::Partition(_) | StackPart::Tmpfs => None,
    }
}

/// Writes an archive of files. They are as old as the archive says.
fn archive(path: &Path, files: Vec<NamedFile>, latest: Option<i64>) -> Result<()> {
    let draft = Draft::of_image(path)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = rustix::fs::openat(draft.directory(), draft.name(), flags, Mode::RUSR | Mode::WUSR);
    let file = File::from(file.context(|| format!("cannot create '{}'", path.display()))?);
    let to = BufWriter::with_capacity(256 << 10, file);
    let mut writer = Writer::new(to, Path::new(""), Some(latest.unwrap_or(0)));
    let mut quiet = |_| Ok(());
    let mut count = Count { entries: 0, bytes: 0, progress: &mut quiet };
    for (name, file) in &files {
        writer.set_name(name);
        Walk::run_exactly_as(file, IdMapping::HOST, &mut writer, &mut count)?;
    }
    writer.finish()?;
    draft.publish(path, DraftContent::Data)
}

fn json(content: &(impl Serialize + ?Sized)) -> Result<Vec<u8>> {
    serde_json::to_vec(content).map_err(|error| Error::new(error.to_string()))
}
