//! Reads a directory in the OCI image layout (image specification, "Image Layout"): chooses an image, and checks its
//! documents. Called by `oci`. The directory is hostile: no path leads out of it, and a file has the size and the
//! digest that another document says, or it is refused.

use super::{LayerSource, LayoutImage, check_config, docker};
use crate::error::{Context, Error, Result};
use crate::image::oci::digest::Digest;
use crate::image::oci::document::{
    self, Descriptor, Index, LARGEST_CONFIG, LARGEST_MANIFEST, LayoutFile, Manifest, ManifestKind,
};
use crate::image::oci::platform::Platform;
use crate::machine::image_config::ImageConfig;
use crate::tree::entry::quoted;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The greatest depth of indexes.
const DEEPEST: usize = 4;
/// The names and platforms in the hint of an error.
const MOST_SHOWN: usize = 20;

/// The kind of a layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LayoutKind {
    /// That of OCI.
    Oci,
    /// That of `docker save`.
    Docker,
}

/// A directory with images.
#[derive(Debug)]
pub(in crate::image::import) struct Layout {
    directory: OwnedFd,
    kind: LayoutKind,
}

impl Layout {
    /// Recognises a layout by its files. `None` for any other directory, for example a root.
    ///
    /// # Errors
    /// A layout of a version that is not supported.
    pub(in crate::image::import) fn find(directory: BorrowedFd<'_>) -> Result<Option<Self>> {
        let is_file = |name: &str| {
            let found = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW);
            found.is_ok_and(|found| FileType::from_raw_mode(found.st_mode) == FileType::RegularFile)
        };
        let is_directory = |name: &str| {
            let found = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW);
            found.is_ok_and(|found| FileType::from_raw_mode(found.st_mode) == FileType::Directory)
        };
        if ["usr", "etc"].iter().any(|name| is_directory(name)) {
            return Ok(None);
        }
        let kind = if is_file("oci-layout") && is_file("index.json") {
            LayoutKind::Oci
        } else if is_file("manifest.json") {
            LayoutKind::Docker
        } else if is_file("repositories") {
            return Err(Error::new("it is an archive of Docker before version 1.10")
                .with_hint("load it into a newer Docker or podman, and save it again"));
        } else {
            return Ok(None);
        };
        let directory = directory.try_clone_to_owned().context(|| "cannot open the layout")?;
        Ok(Some(Self { directory, kind }))
    }

    /// Returns the image of a tag for a platform.
    ///
    /// # Errors
    /// An image that does not exist, several ones, or a document that is refused.
    pub(super) fn image(&self, tag: Option<&str>, platform: &Platform) -> Result<LayoutImage> {
        match self.kind {
            LayoutKind::Oci => self.oci_image(tag, platform),
            LayoutKind::Docker => docker::image(self, tag),
        }
    }

    fn oci_image(&self, tag: Option<&str>, platform: &Platform) -> Result<LayoutImage> {
        let version: LayoutFile = self
            .read(Path::new("oci-layout"), LARGEST_MANIFEST)
            .and_then(|text| document::parse(&text))
            .context(|| "cannot read 'oci-layout'")?;
        if version.image_layout_version.split('.').next() != Some("1") {
            let shown = quoted(version.image_layout_version.as_bytes());
            return Err(Error::new(format!("version {shown} of the layout is not supported")));
        }
        let index = self.read(Path::new("index.json"), LARGEST_MANIFEST).and_then(|text| Index::parse(&text));
        let mut chosen = choose(&tagged(&index.context(|| "cannot read 'index.json'")?, tag)?, platform)?;
        for _ in 0..DEEPEST {
            if chosen.manifest_kind() == Some(ManifestKind::Image) {
                return self.image_of(&chosen);
            }
            let reading = || format!("cannot read the index {}", quoted(chosen.digest.as_bytes()));
            let text = self.content(&chosen, LARGEST_MANIFEST).context(reading)?;
            let index = Index::parse(&text).context(reading)?;
            chosen = choose(&index.manifests, platform)?;
        }
        Err(Error::new(format!("more than {DEEPEST} indexes lead to the image")))
    }

    fn image_of(&self, descriptor: &Descriptor) -> Result<LayoutImage> {
        let reading = || format!("cannot read the manifest {}", quoted(descriptor.digest.as_bytes()));
        let text = self.content(descriptor, LARGEST_MANIFEST).context(reading)?;
        let manifest = Manifest::parse(&text).context(reading)?;
        let reading =
            || format!("cannot read the configuration {}", quoted(manifest.config.digest.as_bytes()));
        let config_text = self.content(&manifest.config, LARGEST_CONFIG).context(reading)?;
        let config = ImageConfig::parse(&config_text).context(reading)?;
        let diff_ids = check_config(&config)?;
        if diff_ids.len() != manifest.layers.len() {
            let (one, other) = (manifest.layers.len(), diff_ids.len());
            return Err(Error::new(format!("the manifest has {one} layers, the configuration has {other}")));
        }
        let source = |(layer, diff_id): (&Descriptor, Digest)| -> Result<LayerSource> {
            let digest = layer.checked_digest()?;
            Ok(LayerSource {
                path: digest.blob().into(),
                size: Some(layer.size),
                digest: Some(digest),
                diff_id,
            })
        };
        let layers = manifest.layers.iter().zip(diff_ids).map(source).collect::<Result<_>>()?;
        Ok(LayoutImage { config_text, config, layers })
    }

    /// Reads the content of a descriptor, and checks its size and its digest.
    fn content(&self, descriptor: &Descriptor, largest: u64) -> Result<Vec<u8>> {
        let digest = descriptor.checked_digest()?;
        if descriptor.size > largest {
            return Err(Error::new(format!("it is larger than {largest} bytes")));
        }
        let text = self.read(Path::new(&digest.blob()), largest)?;
        if text.len() as u64 != descriptor.size {
            return Err(Error::new(format!("it has {} bytes instead of {}", text.len(), descriptor.size)));
        }
        let found = Digest::of(&text);
        if found != digest {
            return Err(
                Error::new(format!("its digest is {found}")).with_hint("get the image again: it is damaged")
            );
        }
        Ok(text)
    }

    /// Reads a file.
    pub(super) fn read(&self, path: &Path, largest: u64) -> Result<Vec<u8>> {
        let (file, size) = self.open(path)?;
        if size > largest {
            return Err(Error::new(format!("it is larger than {largest} bytes")));
        }
        let mut text = Vec::new();
        file.take(largest + 1).read_to_end(&mut text).context(|| "cannot read the file")?;
        if text.len() as u64 > largest {
            return Err(Error::new(format!("it is larger than {largest} bytes")));
        }
        Ok(text)
    }

    /// Opens a file, whose path may have links that stay in the layout. Returns it with its size.
    pub(super) fn open(&self, path: &Path) -> Result<(File, u64)> {
        let opening = || format!("cannot open {}", quoted(path.as_os_str().as_encoded_bytes()));
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        let file = loop {
            match rustix::fs::openat2(self.directory.as_fd(), path, flags, Mode::empty(), resolve) {
                Err(rustix::io::Errno::AGAIN) => {}
                Err(rustix::io::Errno::XDEV) => {
                    return Err(Error::new("its path leads out of the image").context(opening()));
                }
                opened => break File::from(opened.context(opening)?),
            }
        };
        let found = file.metadata().context(opening)?;
        if !found.is_file() {
            return Err(Error::new("it is not a file").context(opening()));
        }
        Ok((file, found.len()))
    }
}

/// Returns the images of a tag, or all of them if they have one tag.
fn tagged(index: &Index, tag: Option<&str>) -> Result<Vec<Descriptor>> {
    let tags: BTreeSet<&str> = index.manifests.iter().filter_map(Descriptor::tag).collect();
    let shown = || list(tags.iter().map(|tag| quoted(tag.as_bytes())));
    let is_of_tag = |descriptor: &&Descriptor| tag.is_none_or(|tag| descriptor.tag() == Some(tag));
    let found: Vec<Descriptor> = index.manifests.iter().filter(is_of_tag).cloned().collect();
    match tag {
        Some(tag) if found.is_empty() => {
            let error = Error::new(format!("there is no image with the tag '{}'", tag.escape_debug()));
            Err(if tags.is_empty() { error } else { error.with_hint(format!("its tags are {}", shown())) })
        }
        None if tags.len() > 1 => Err(Error::new("it has several images").with_hint(format!(
            "choose one by its tag, 'oci:DIR:TAG' or 'oci-archive:FILE:TAG': {}",
            shown()
        ))),
        _ => Ok(found),
    }
}

fn list(words: impl Iterator<Item = String>) -> String {
    words.take(MOST_SHOWN).collect::<Vec<_>>().join(", ")
}

/// Returns the image that fits a platform best.
///
/// # Errors
/// No image fits, or several ones do equally.
pub(in crate::image) fn choose(images: &[Descriptor], platform: &Platform) -> Result<Descriptor> {
    let images = images.iter().filter(|image| image.manifest_kind().is_some());
    let distance = |image: &Descriptor| match &image.platform {
        None => Some(0),
        Some(other) if other.architecture.is_empty() => Some(0),
        Some(other) => platform.distance(other),
    };
    let mut fitting: Vec<(u8, &Descriptor)> =
        images.clone().filter_map(|image| Some((distance(image)?, image))).collect();
    fitting.sort_by_key(|(distance, _)| *distance);
    fitting.dedup_by(|(_, one), (_, other)| one.digest == other.digest);
    match fitting.as_slice() {
        [] if images.clone().next().is_none() => Err(Error::new("it has no image")),
        [] => {
            let platforms = images.filter_map(|image| image.platform.as_ref());
            let platforms = platforms.filter(|other| other.os != "unknown");
            let platforms: BTreeSet<String> = platforms
                .map(|other| quoted(format!("{}/{}", other.os, other.architecture).as_bytes()))
                .collect();
            Err(Error::new(format!("it has no image for {platform}")).with_hint(format!(
                "choose one of its platforms with --platform: {}",
                list(platforms.into_iter())
            )))
        }
        [(best, _), (next, _), ..] if best == next => {
            Err(Error::new(format!("it has several images for {platform}"))
                .with_hint("copy one of them to a layout of its own: 'skopeo copy'"))
        }
        [(_, image), ..] => Ok((*image).clone()),
    }
}

#[cfg(test)]
mod tests;
