//! The layers of overlays: paths of the host, or of the machine with a leading `+`.

use super::{MountEntry, TEMPORARY};
use crate::config::setting::Origin;
use crate::config::values::{RawValue, Value, quoted};
use crate::error::{Error, Result};
use crate::machine::mounts::{LayerPath, MountIds, MountKind, OverlayChanges};
use crate::machine::users::Users;
use crate::paths::Paths;
use std::path::{Path, PathBuf};

/// Read-only layers, the lowest first.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Layers(Vec<LayerPath>);

impl Layers {
    /// Returns a directory of the host as the only layer.
    pub(super) fn of_host(directory: PathBuf) -> Self {
        Self(vec![LayerPath::Host(directory)])
    }

    /// Parses a further layer, above the others.
    pub(super) fn push(&mut self, raw: &RawValue) -> Result<()> {
        self.0.push(layer(raw)?);
        Ok(())
    }

    /// Formats the layers as written in a definition.
    pub(super) fn show(&self) -> String {
        let shown: Vec<String> = self.0.iter().map(show).collect();
        format!("[{}]", shown.join(", "))
    }
}

/// The place of changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum UpperLayer {
    /// Memory.
    Temporary,
    /// A directory that vanishes at the end: for caches of build sessions.
    Discarded,
    /// A directory.
    Directory(LayerPath),
}

impl Value for UpperLayer {
    fn read(raw: &RawValue) -> Result<Self> {
        if *raw == RawValue::Text(TEMPORARY) {
            return Ok(Self::Temporary);
        }
        match layer(raw)? {
            LayerPath::Host(path) | LayerPath::Inside(path) if path == Path::new("/") => {
                Err(Error::new("the root directory cannot be the upper directory of an overlay")
                    .with_hint("name a directory below it, or write \"temporary\""))
            }
            path => Ok(Self::Directory(path)),
        }
    }

    fn show(&self) -> String {
        match self {
            Self::Temporary | Self::Discarded => quoted(TEMPORARY),
            Self::Directory(path) => show(path),
        }
    }
}

fn layer(raw: &RawValue) -> Result<LayerPath> {
    let RawValue::Text(text) = raw else { return Err(raw.expected("a path")) };
    match text.strip_prefix('+') {
        Some(inside) => PathBuf::read(&RawValue::Text(inside)).map(LayerPath::Inside),
        None => PathBuf::read(raw).map(LayerPath::Host),
    }
}

fn show(path: &LayerPath) -> String {
    match path {
        LayerPath::Host(path) => path.show(),
        LayerPath::Inside(path) => quoted(&format!("+{}", path.display())),
    }
}

/// Builds an overlay.
pub(super) fn build(paths: &Paths, entry: &MountEntry, origin: &Origin, users: Users) -> Result<MountKind> {
    let of_host = |path: &LayerPath| match path {
        LayerPath::Host(path) => LayerPath::Host(origin.host_path(paths, path.clone())),
        inside => inside.clone(),
    };
    let lower: Vec<LayerPath> = entry.lower.iter().flat_map(|layers| layers.0.iter().map(of_host)).collect();
    let upper = match (&entry.upper, entry.read_only.unwrap_or(false)) {
        (Some(_), true) => {
            return Err(Error::new("a read-only overlay has no 'upper'").with_hint("add the path to 'lower'"));
        }
        (None, false) => {
            return Err(Error::new("an overlay requires 'upper' or 'read-only'")
                .with_hint("write upper = \"temporary\" to discard changes"));
        }
        (None, true) => OverlayChanges::None,
        (Some(UpperLayer::Temporary), _) => OverlayChanges::Temporary,
        (Some(UpperLayer::Discarded), _) => OverlayChanges::Discarded,
        (Some(UpperLayer::Directory(path)), _) => OverlayChanges::Directory(of_host(path)),
    };
    if lower.is_empty() || upper == OverlayChanges::None && lower.len() < 2 {
        return Err(Error::new("an overlay requires two directories")
            .with_hint("bind a single directory with type = \"bind\""));
    }
    let map_ids = match entry.map_ids.as_ref().unwrap_or(&MountIds::Same) {
        MountIds::Host => false,
        MountIds::Same => users != Users::Host,
        MountIds::Root | MountIds::Owner | MountIds::User(..) | MountIds::BuildUser => {
            return Err(Error::new("'map-ids' of an overlay is true or false"));
        }
    };
    Ok(MountKind::Overlay { lower, upper, map_ids, setuid: entry.setuid.unwrap_or(false) })
}
