//! Reads an archive of `docker save` from version 1.10 on: `manifest.json` names the configuration and the layers by
//! their paths. Called by `layout`.

use super::layout::Layout;
use super::{LayerSource, LayoutImage, check_config};
use crate::error::{Context, Error, Result};
use crate::image::oci::digest::Digest;
use crate::image::oci::document::{self, DockerManifest, LARGEST_CONFIG, LARGEST_MANIFEST};
use crate::machine::image_config::ImageConfig;
use crate::tree::entry::quoted;
use std::path::Path;

/// Returns the image of a name.
///
/// # Errors
/// An image that does not exist, several ones, or a document that is refused.
pub(super) fn image(layout: &Layout, name: Option<&str>) -> Result<LayoutImage> {
    let reading = || "cannot read 'manifest.json'";
    let text = layout.read(Path::new("manifest.json"), LARGEST_MANIFEST).context(reading)?;
    let images: Vec<DockerManifest> = document::parse(&text).context(reading)?;
    let manifest = choose(&images, name)?;
    let reading = || format!("cannot read the configuration {}", quoted(manifest.config.as_bytes()));
    let config_text = layout.read(Path::new(&manifest.config), LARGEST_CONFIG).context(reading)?;
    if let Some(digest) = digest_of_name(&manifest.config)
        && digest != Digest::of(&config_text)
    {
        return Err(Error::new("it does not have the digest that is its name").context(reading()));
    }
    let config = ImageConfig::parse(&config_text).context(reading)?;
    let paths = manifest.layers.as_deref().unwrap_or_default();
    document::check_layers(paths.len())?;
    let diff_ids = check_config(&config)?;
    if diff_ids.len() != paths.len() {
        let (one, other) = (paths.len(), diff_ids.len());
        return Err(Error::new(format!("the archive has {one} layers, the configuration has {other}")));
    }
    let source = |(path, diff_id): (&String, Digest)| LayerSource {
        path: path.into(),
        size: None,
        digest: None,
        diff_id,
    };
    let layers = paths.iter().zip(diff_ids).map(source).collect();
    Ok(LayoutImage { config_text, config, layers })
}

/// Returns the digest that the name of a configuration is.
fn digest_of_name(path: &str) -> Option<Digest> {
    let file = path.rsplit('/').next()?;
    Digest::parse(&format!("sha256:{}", file.strip_suffix(".json").unwrap_or(file))).ok()
}

fn choose<'a>(images: &'a [DockerManifest], name: Option<&str>) -> Result<&'a DockerManifest> {
    let names = |image: &'a DockerManifest| image.repo_tags.iter().flatten();
    let shown = || {
        let names: Vec<String> =
            images.iter().flat_map(names).take(20).map(|name| quoted(name.as_bytes())).collect();
        names.join(", ")
    };
    let Some(wanted) = name else {
        return match images {
            [] => Err(Error::new("it has no image")),
            [only] => Ok(only),
            _ => Err(Error::new("it has several images")
                .with_hint(format!("choose one by its name, 'docker-archive:FILE:NAME': {}", shown()))),
        };
    };
    let found = images.iter().find(|image| names(image).any(|name| full(name) == full(wanted)));
    found.ok_or_else(|| {
        Error::new(format!("there is no image with the name '{}'", wanted.escape_debug()))
            .with_hint(format!("its names are {}", shown()))
    })
}

/// Returns a name with the tag and without the registry that are the default of Docker.
fn full(name: &str) -> String {
    let short = ["docker.io/library/", "docker.io/", "localhost/"];
    let name = short.iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name);
    let has_tag = name.rsplit('/').next().is_some_and(|last| last.contains(':'));
    if has_tag { name.to_owned() } else { format!("{name}:latest") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_defaults() {
        for name in ["web", "web:latest", "docker.io/library/web", "localhost/web:latest"] {
            assert_eq!(full(name), "web:latest");
        }
        assert_eq!(full("localhost:5000/web"), "localhost:5000/web:latest");
        assert_eq!(full("docker.io/x/web:1"), "x/web:1");
    }
}
