//! `convert`: the kind of an image. Called by `cli`.

use super::defined_stacks;
use super::progress::Progress;
use crate::error::Result;
use crate::image::convert::{self, ConvertMethod, ImageKind};
use crate::image::{find, prune, recovery};
use crate::machine::name::Name;
use crate::machine::size;
use crate::paths::Paths;
use crate::tree::copy::CopyMethod;
use crate::tree::usage;
use serde::Serialize;

/// A conversion.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct ConvertReport {
    name: Name,
    /// `stack` or `directory`.
    r#type: &'static str,
    /// `unchanged`, `moved`, `reflink` or `copy`.
    method: &'static str,
    /// The copied bytes, or those of shared blocks.
    bytes: u64,
}

impl ConvertReport {
    /// Returns the line for a person.
    pub(crate) fn text(&self) -> String {
        let size = size::rounded(self.bytes);
        let method = match self.method {
            "unchanged" => "unchanged".to_owned(),
            "moved" => "its directory was moved".to_owned(),
            "reflink" => format!("copied, sharing blocks ({size})"),
            _ => format!("copied {size}"),
        };
        format!("{}: {}, {method}", self.name, self.r#type)
    }
}

/// Converts an image to a stack, or to a directory.
///
/// # Errors
/// A missing image, one in use, or one that others stand on; a file that cannot be created.
pub(crate) fn convert(
    paths: &Paths,
    name: &Name,
    to_stack: bool,
    progress: &mut Progress<'_>,
) -> Result<ConvertReport> {
    recovery::recover(paths);
    let kind = if to_stack { ImageKind::Stack } else { ImageKind::Directory };
    let total = || usage::of(find::by_name(paths, name)?.path()).ok();
    let mut bar = progress.bar(name.as_str(), &total)?;
    defined_stacks::record(paths)?;
    let image = find::by_name(paths, name);
    let others =
        image.map_or_else(|| Ok(Vec::new()), |image| super::remove::on(paths, name, image.path()))?;
    let method = convert::convert(paths, name, kind, &others, &mut |bytes| bar.advance(bytes))?;
    if !to_stack && method != ConvertMethod::Unchanged {
        prune::after_removal(paths);
    }
    let (method, bytes) = match method {
        ConvertMethod::Unchanged => ("unchanged", 0),
        ConvertMethod::Moved => ("moved", 0),
        ConvertMethod::Copied(copied) if copied.method == CopyMethod::Reflink => ("reflink", copied.bytes),
        ConvertMethod::Copied(copied) => ("copy", copied.bytes),
    };
    let r#type = if to_stack { "stack" } else { "directory" };
    Ok(ConvertReport { name: name.clone(), r#type, method, bytes })
}
