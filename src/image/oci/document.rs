//! Index, manifest and layout of an OCI image, the manifest list of a registry, and `manifest.json` of a Docker
//! archive. Called by `import`, `export` and the fuzz target. A document is parsed as a whole or refused.

use super::digest::Digest;
use crate::error::{Error, Result};
use crate::tree::entry::quoted;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The largest index or manifest, bytes.
pub const LARGEST_MANIFEST: u64 = 4 << 20;
/// The largest configuration, bytes.
pub const LARGEST_CONFIG: u64 = 8 << 20;
/// The maximum number of layers: an overlay has 500 with the writable one (`OVL_MAX_STACK`).
pub const MOST_LAYERS: usize = 498;

/// The media types of indexes.
pub(crate) const INDEXES: [&str; 2] = [INDEX, "application/vnd.docker.distribution.manifest.list.v2+json"];
/// The media types of manifests.
pub(crate) const MANIFESTS: [&str; 2] = [MANIFEST, "application/vnd.docker.distribution.manifest.v2+json"];
/// The media types of configurations.
const CONFIGS: [&str; 2] = [CONFIG, "application/vnd.docker.container.image.v1+json"];
/// The media types of layers, without their compression.
const LAYERS: [&str; 5] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.foreign.diff.tar",
    "application/vnd.docker.container.image.rootfs.diff",
];
/// The endings of their media types.
const COMPRESSIONS: [&str; 7] = ["", "+gzip", "+zstd", ".gzip", ".zstd", "+x-gzip", ".x-gzip"];

/// The media type of an index.
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// The media type of a manifest.
pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// The media type of a configuration.
pub(crate) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// The media type of a layer, compressed by gzip.
pub(crate) const LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// The annotation with the tag of an image in a layout.
pub(crate) const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// A reference to content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// The media type.
    #[serde(default)]
    pub(crate) media_type: String,
    /// The digest, as it is written.
    pub(crate) digest: String,
    /// The size, bytes.
    pub(crate) size: u64,
    /// The platform, in an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) platform: Option<DocumentPlatform>,
    /// The annotations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) annotations: Option<BTreeMap<String, String>>,
}

/// The platform of an image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DocumentPlatform {
    /// The processor, in words of Go.
    pub(crate) architecture: String,
    /// The system.
    pub(crate) os: String,
    /// The variant of the processor.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) variant: Option<String>,
}

/// An index of images.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// 2.
    pub(crate) schema_version: u32,
    /// The media type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) media_type: Option<String>,
    /// The images.
    pub(crate) manifests: Vec<Descriptor>,
}

/// The manifest of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// 2.
    pub(crate) schema_version: u32,
    /// The media type.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) media_type: Option<String>,
    /// The configuration.
    pub(crate) config: Descriptor,
    /// The layers, the lowest first.
    pub(crate) layers: Vec<Descriptor>,
}

/// An entry of `manifest.json` of a Docker archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DockerManifest {
    /// The path of the configuration.
    pub(crate) config: String,
    /// The names of the image.
    #[serde(default)]
    pub(crate) repo_tags: Option<Vec<String>>,
    /// The paths of the layers, the lowest first.
    #[serde(default)]
    pub(crate) layers: Option<Vec<String>>,
}

/// The file `oci-layout`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LayoutFile {
    /// The version of the layout.
    pub(crate) image_layout_version: String,
}

/// The content that a descriptor refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ManifestKind {
    /// An index.
    Index,
    /// The manifest of an image.
    Image,
}

/// Parses a document.
///
/// # Errors
/// The first error with its place.
pub fn parse<T: DeserializeOwned>(text: &[u8]) -> Result<T> {
    let mut json = serde_json::Deserializer::from_slice(text);
    let parsed = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let place = error.path().to_string();
        let cause = Error::new(quoted_cause(&error.inner().to_string()));
        if error.inner().is_data() && place != "." { cause.context(quoted_cause(&place)) } else { cause }
    })?;
    json.end().map_err(|error| Error::new(error.to_string()))?;
    Ok(parsed)
}

/// Escapes the text of an error: it contains text of the document.
fn quoted_cause(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}

impl Descriptor {
    /// Returns a descriptor of this program's making.
    pub(crate) fn of(media_type: &str, digest: &Digest, size: u64) -> Self {
        let (media_type, digest) = (media_type.to_owned(), digest.to_string());
        Self { media_type, digest, size, platform: None, annotations: None }
    }

    /// Returns the digest.
    ///
    /// # Errors
    /// An invalid one.
    pub fn checked_digest(&self) -> Result<Digest> {
        Digest::parse(&self.digest)
    }

    /// Returns the tag in a layout.
    pub(crate) fn tag(&self) -> Option<&str> {
        self.annotations.as_ref()?.get(REF_NAME).map(String::as_str)
    }

    /// Returns the kind of the content in an index. `None` for content of another type.
    pub(crate) fn manifest_kind(&self) -> Option<ManifestKind> {
        let media_type = self.media_type.as_str();
        if INDEXES.contains(&media_type) {
            return Some(ManifestKind::Index);
        }
        MANIFESTS.contains(&media_type).then_some(ManifestKind::Image)
    }

    /// Refuses a descriptor that is not one of a configuration.
    fn check_config(&self) -> Result<()> {
        if CONFIGS.contains(&self.media_type.as_str()) {
            return Ok(());
        }
        Err(Error::new(format!(
            "it is not the image of a root: its type is {}",
            quoted(self.media_type.as_bytes())
        ))
        .with_hint("it is an artifact of another program"))
    }

    /// Refuses a descriptor that is not one of a layer.
    fn check_layer(&self) -> Result<()> {
        let is_layer = LAYERS
            .iter()
            .any(|layer| self.media_type.strip_prefix(layer).is_some_and(|end| COMPRESSIONS.contains(&end)));
        if is_layer {
            return Ok(());
        }
        Err(Error::new(format!("unknown type of a layer: {}", quoted(self.media_type.as_bytes())))
            .with_hint("encrypted layers are decrypted by 'skopeo copy --decryption-key'"))
    }
}

impl Index {
    /// Parses an index.
    ///
    /// # Errors
    /// An invalid one, or one of another version.
    pub fn parse(text: &[u8]) -> Result<Self> {
        let index: Self = parse(text)?;
        check_version(index.schema_version)?;
        match &index.media_type {
            Some(media_type) if !INDEXES.contains(&media_type.as_str()) => {
                Err(Error::new(format!("it is not an index: its type is {}", quoted(media_type.as_bytes()))))
            }
            _ => Ok(index),
        }
    }
}

impl Manifest {
    /// Parses the manifest of an image.
    ///
    /// # Errors
    /// An invalid one, one of another version, or one with content that is not that of an image.
    pub fn parse(text: &[u8]) -> Result<Self> {
        let manifest: Self = parse(text)?;
        check_version(manifest.schema_version)?;
        if let Some(media_type) = manifest.media_type.as_ref().filter(|is| !MANIFESTS.contains(&is.as_str()))
        {
            let shown = quoted(media_type.as_bytes());
            return Err(Error::new(format!("it is not the manifest of an image: its type is {shown}")));
        }
        manifest.config.check_config()?;
        check_layers(manifest.layers.len())?;
        manifest.layers.iter().try_for_each(Descriptor::check_layer)?;
        Ok(manifest)
    }

    /// Returns the layers, the lowest first.
    pub fn layers(&self) -> &[Descriptor] {
        &self.layers
    }
}

fn check_version(version: u32) -> Result<()> {
    if version == 2 {
        return Ok(());
    }
    Err(Error::new(format!("version {version} of the document is not supported"))
        .with_hint("convert the image by 'skopeo copy'"))
}

/// Refuses a number of layers that no overlay has.
///
/// # Errors
/// Such a number.
pub(crate) fn check_layers(number: usize) -> Result<()> {
    match number {
        0 => Err(Error::new("the image has no layers")),
        1..=MOST_LAYERS => Ok(()),
        _ => Err(Error::new(format!("the image has {number} layers, an overlay at most {MOST_LAYERS}"))
            .with_hint("squash it: 'buildah commit --squash', or 'podman build --squash-all'")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(config: &str, layer: &str, layers: usize) -> String {
        let digest = Digest::of(b"");
        let layer = format!(r#"{{"mediaType":"{layer}","digest":"{digest}","size":1}}"#);
        let layers = vec![layer; layers].join(",");
        format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"{config}","digest":"{digest}","size":2}},"layers":[{layers}]}}"#
        )
    }

    #[test]
    fn only_images_with_known_layers_are_read() {
        let docker = "application/vnd.docker.image.rootfs.diff.tar.gzip";
        for layer in [LAYER_GZIP, LAYERS[0], docker, "application/vnd.oci.image.layer.v1.tar+zstd"] {
            assert!(Manifest::parse(manifest(CONFIG, layer, 2).as_bytes()).is_ok(), "{layer}");
        }
        for (config, layer, layers, cause) in [
            ("application/vnd.unknown.config", LAYER_GZIP, 1, "it is not the image of a root"),
            (CONFIG, "application/vnd.oci.image.layer.v1.tar+encrypted", 1, "unknown type of a layer"),
            (CONFIG, "text/\\u001b[2J", 1, "\\u{1b}"),
            (CONFIG, LAYER_GZIP, 0, "has no layers"),
            (CONFIG, LAYER_GZIP, MOST_LAYERS + 1, "has 499 layers"),
        ] {
            let error = Manifest::parse(manifest(config, layer, layers).as_bytes()).unwrap_err().to_string();
            assert!(error.contains(cause), "{error}");
        }
    }

    #[test]
    fn documents_with_two_meanings_are_refused() {
        let text = manifest(CONFIG, LAYER_GZIP, 1);
        for (text, cause) in [
            (text.replace(r#""layers""#, r#""layers":[],"layers""#), "duplicate field"),
            (format!("{text} x"), "trailing characters"),
            (text.replace("\"size\":1", "\"size\":-1"), "layers[0].size"),
            (text.replace("\"size\":1", "\"size\":1e3"), "layers[0].size"),
            (text.replace(":2,", ":1,"), "version 1"),
            (r#"{"schemaVersion":2,"manifests":[]}"#.to_owned(), "missing field"),
        ] {
            let error = Manifest::parse(text.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(cause), "{cause}: {error}");
        }
        assert!(Index::parse(br#"{"schemaVersion":2,"mediaType":"x","manifests":[]}"#).is_err());
        assert!(Index::parse(br#"{"schemaVersion":2,"manifests":[]}"#).is_ok());
    }
}
