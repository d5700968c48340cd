//! `clone`: a new image from another one. Called by `cli`.

use super::progress::Progress;
use crate::error::Result;
use crate::image::clone::{self, CloneAccess, CloneIdentity, CloneMethod, CloneRequest, Cloned};
use crate::image::find;
use crate::image::recovery;
use crate::image::snapshot::Tag;
use crate::machine::name::Name;
use crate::machine::size;
use crate::paths::Paths;
use crate::tree::copy::CopyMethod;
use crate::tree::usage;
use serde::Serialize;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The options of a clone.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CloneOptions {
    /// Whether the identity of the source is kept.
    pub(crate) is_exact: bool,
    /// Whether no machine can change the clone.
    pub(crate) is_read_only: bool,
}

/// A finished clone.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct CloneReport {
    name: Name,
    source: String,
    path: PathBuf,
    /// `snapshot`, `layers`, `base`, `reflink` or `copy`.
    method: &'static str,
    /// The copied bytes, or those of shared blocks.
    bytes: u64,
    duration_ms: u64,
    /// The message about files of its identity that are still those of the source.
    kept_identity: Option<String>,
    hint: Option<String>,
}

/// The source of a clone: an image, or one of its snapshots.
#[derive(Debug, Clone)]
pub(crate) struct CloneSource {
    name: Name,
    tag: Option<Tag>,
}

impl CloneSource {
    /// Parses `NAME` or `NAME@TAG`.
    ///
    /// # Errors
    /// An invalid name or tag.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        match text.split_once('@') {
            None => Ok(Self { name: Name::new(text)?, tag: None }),
            Some((name, tag)) => Ok(Self { name: Name::new(name)?, tag: Some(tag.parse()?) }),
        }
    }
}

impl std::fmt::Display for CloneSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.tag {
            None => self.name.fmt(f),
            Some(tag) => write!(f, "{}@{tag}", self.name),
        }
    }
}

/// Creates an image as a clone of another one.
///
/// # Errors
/// A missing or running source, an existing image with the name, or a file that cannot be created.
pub(crate) fn clone(
    paths: &Paths,
    source: &CloneSource,
    name: &Name,
    options: CloneOptions,
    progress: &mut Progress<'_>,
) -> Result<CloneReport> {
    recovery::recover(paths);
    let identity = if options.is_exact { CloneIdentity::Exact } else { CloneIdentity::New };
    let access = if options.is_read_only { CloneAccess::ReadOnly } else { CloneAccess::Writable };
    let tag = source.tag.as_ref();
    let request = CloneRequest { paths, source: &source.name, tag, name, identity, access };
    let since = Instant::now();
    let total = || usage::of(find::by_name(paths, &source.name)?.path()).ok();
    let cloned = {
        let mut bar = progress.bar(name.as_str(), &total)?;
        clone::clone(request, &mut |bytes| bar.advance(bytes))?
    };
    Ok(report(source, name, cloned, since.elapsed()))
}

fn report(source: &CloneSource, name: &Name, cloned: Cloned, duration: Duration) -> CloneReport {
    let is_stack = cloned.path.extension().is_some_and(|suffix| suffix == "mstack");
    let (method, bytes, hint) = match cloned.method {
        CloneMethod::Snapshot => ("snapshot", 0, None),
        CloneMethod::Layers => ("layers", 0, None),
        CloneMethod::Base => ("base", 0, None),
        CloneMethod::Copy(copied) if copied.method == CopyMethod::Reflink => ("reflink", copied.bytes, None),
        CloneMethod::Copy(copied) => {
            let hint = format!("'coracle read-only {source} yes' makes clones of it instant");
            ("copy", copied.bytes, Some(hint).filter(|_| !is_stack))
        }
    };
    CloneReport {
        name: name.clone(),
        source: source.to_string(),
        path: cloned.path,
        method,
        bytes,
        duration_ms: u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
        kept_identity: cloned.kept_identity,
        hint,
    }
}

impl CloneReport {
    /// Returns the lines for a person.
    pub(crate) fn text(&self) -> String {
        let Self { name, source, duration_ms, .. } = self;
        let size = size::rounded(self.bytes);
        let time = match duration_ms {
            0..1000 => format!("{duration_ms} ms"),
            _ => format!("{} s", duration_ms.div_euclid(1000)),
        };
        let mut text = match self.method {
            "snapshot" => format!("{name}: snapshot of '{source}' in {time}"),
            "layers" => format!("{name}: stack on the layers of '{source}' in {time}"),
            "base" => format!("{name}: stack on '{source}' in {time}"),
            "reflink" => format!("{name}: copied in {time}, sharing the blocks of '{source}' ({size})"),
            _ => format!("{name}: copied {size} in {time}: the file system cannot share blocks"),
        };
        for (label, line) in [("warning", &self.kept_identity), ("hint", &self.hint)] {
            if let Some(line) = line {
                text.push_str(&format!("\n{label}: {line}"));
            }
        }
        text.push('\n');
        text
    }
}
