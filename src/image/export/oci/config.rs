//! The configuration of an exported image: that beside the image with the new layers, or one by the content of the
//! image. Called by `oci`.

use super::{ExportedLayer, OciExport, json};
use crate::error::{Context, Error, Result};
use crate::image::layer_files::{self, LayerFiles};
use crate::image::oci::platform::Platform;
use crate::machine::root::RootSource;
use serde_json::{Map, Value, json};
use std::path::Path;

/// The search path of programs in an image without a configuration.
const SEARCH_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// The signal that requests a clean shutdown from systemd(1).
const STOP_SIGNAL: &str = "SIGRTMIN+3";
/// The properties that are kept.
const KEPT: [&str; 6] = ["architecture", "os", "variant", "os.version", "author", "config"];

/// Returns the text of the configuration.
///
/// # Errors
/// A configuration beside the image that cannot be read.
pub(super) fn of(image: &RootSource, request: &OciExport<'_>, layers: &[ExportedLayer]) -> Result<Vec<u8>> {
    let mut config = match request.config {
        Some(path) => read(path).context(|| format!("cannot use '{}'", path.display()))?,
        None => created(image)?,
    };
    let created = timestamp(request.latest.unwrap_or(0));
    let history: Vec<Value> =
        layers.iter().map(|_| json!({ "created": created, "created_by": "coracle export" })).collect();
    let diff_ids: Vec<String> = layers.iter().map(|layer| layer.diff_id.to_string()).collect();
    config.insert("created".to_owned(), created.clone().into());
    config.insert("history".to_owned(), history.into());
    config.insert("rootfs".to_owned(), json!({ "type": "layers", "diff_ids": diff_ids }));
    json(&config)
}

/// Reads a configuration.
fn read(path: &Path) -> Result<Map<String, Value>> {
    let text = std::fs::read(path).context(|| "cannot read the file")?;
    let Ok(Value::Object(mut config)) = serde_json::from_slice(&text) else {
        return Err(Error::new("it is not the configuration of an image"));
    };
    config.retain(|name, _| KEPT.contains(&name.as_str()));
    Ok(config)
}

/// Creates a configuration: a machine with an init boots.
fn created(image: &RootSource) -> Result<Map<String, Value>> {
    let layers = match image {
        RootSource::Directory(path) | RootSource::Image(path) => {
            LayerFiles::open([path.as_path()].into_iter())
        }
        RootSource::Stack(path) => layer_files::of_stack(path),
    }?;
    let config = if layer_files::has_init(&layers) {
        json!({ "Env": [SEARCH_PATH], "Cmd": ["/sbin/init"], "StopSignal": STOP_SIGNAL })
    } else {
        json!({ "Env": [SEARCH_PATH], "Cmd": ["/bin/sh"] })
    };
    let Platform { os, architecture, variant } = Platform::of_host();
    let mut created = Map::new();
    created.insert("os".to_owned(), os.into());
    created.insert("architecture".to_owned(), architecture.into());
    created.extend(variant.map(|variant| ("variant".to_owned(), variant.into())));
    created.insert("config".to_owned(), config);
    Ok(created)
}

/// Returns a time as text (RFC 3339).
fn timestamp(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds)
        .map_or_else(|_| "1970-01-01T00:00:00Z".to_owned(), |time| time.to_string())
}
