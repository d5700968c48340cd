//! `clone`: a new image from another one. Called by `cli`.

use super::progress::Progress;
use super::snapshots::Hold;
use crate::error::Result;
use crate::image::clone::{self, CloneAccess, CloneIdentity, CloneMethod, CloneRequest, Cloned};
use crate::image::find;
use crate::image::recovery;
use crate::image::snapshot::{self, Quiet, Snapshots, Tag, Taken};
use crate::machine::name::Name;
use crate::machine::root::RootSource;
use crate::machine::size;
use crate::paths::Paths;
use crate::tree::copy::{CopyMethod, CopyProgress};
use crate::tree::usage;
use serde::Serialize;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The hint about files that a stack would lose.
const WITHOUT_MARKS: &str =
    "clones are instant without files of an overlay inside the image, like nested containers";

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
    /// The time for which a running source was paused. `None` for another one.
    paused_ms: Option<u64>,
    /// The message about files of its identity that are still those of the source.
    kept_identity: Option<String>,
    hint: Option<String>,
    /// The file for which the source was copied: a stack on it would lose it.
    lost_in_stack: Option<PathBuf>,
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

    /// Returns the image.
    pub(crate) fn name(&self) -> &Name {
        &self.name
    }

    /// Returns the snapshot. `None` for the image itself.
    pub(super) fn tag(&self) -> Option<&Tag> {
        self.tag.as_ref()
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

/// Creates an image as a clone of another one. A running source is paused for a moment.
///
/// # Errors
/// A missing source, one that is used by another program, an existing image with the name, or a file that
/// cannot be created.
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
    let taken_for_it = None;
    let request = CloneRequest { paths, source: &source.name, tag, taken_for_it, name, identity, access };
    let since = Instant::now();
    let total = || usage::of(find::by_name(paths, &source.name)?.path()).ok();
    let (cloned, taken) = {
        let mut bar = progress.bar(name.as_str(), &total)?;
        let mut advance = |bytes| bar.advance(bytes);
        let image = if tag.is_none() { find::by_name(paths, &source.name) } else { None };
        let hold = image.as_ref().map(|image| Hold::that_changes(paths, image)).transpose()?.flatten();
        match (image, hold) {
            (Some(image), Some(hold)) => {
                let (cloned, taken) = of_running(request, &image, hold, &mut advance)?;
                (cloned, Some(taken))
            }
            _ => (clone::clone(request, &mut advance)?, None),
        }
    };
    Ok(report(source, name, (cloned, taken), since.elapsed()))
}

/// Creates a clone of a running machine, from a snapshot that is removed. Returns also the snapshot, and the
/// time of the pause.
fn of_running(
    request: CloneRequest<'_>,
    image: &RootSource,
    mut hold: Hold<'_>,
    progress: &mut CopyProgress<'_>,
) -> Result<(Cloned, (Taken, Duration))> {
    let CloneRequest { paths, source, name, .. } = request;
    clone::refuse_existing(paths, name)?;
    let snapshots = Snapshots::lock(paths, source)?;
    let tag = Tag::for_clone();
    let quiet = Quiet::Paused(&mut hold);
    let taken = snapshot::take(&snapshots, (source, image), &tag, quiet, progress)
        .map_err(|error| error.context(format!("cannot save the state of machine '{source}'")))?;
    let request = CloneRequest { tag: Some(&tag), taken_for_it: Some(&snapshots), ..request };
    let cloned = clone::clone(request, progress);
    snapshots.discard(&tag);
    Ok((cloned?, (taken, hold.paused)))
}

fn report(
    source: &CloneSource,
    name: &Name,
    (cloned, taken): (Cloned, Option<(Taken, Duration)>),
    duration: Duration,
) -> CloneReport {
    let is_directory = cloned.path.extension().is_none_or(|suffix| suffix != "mstack" && suffix != "raw");
    let copied = taken.map_or(0, |(taken, _)| taken.bytes);
    let (method, bytes, hint) = match cloned.method {
        CloneMethod::Snapshot => ("snapshot", 0, None),
        CloneMethod::Layers => ("layers", copied, None),
        CloneMethod::Base => ("base", 0, None),
        CloneMethod::Copy(copied) if copied.method == CopyMethod::Reflink => ("reflink", copied.bytes, None),
        CloneMethod::Taken if taken.is_some_and(|(taken, _)| taken.method == snapshot::Method::Reflink) => {
            ("reflink", copied, None)
        }
        CloneMethod::Taken => ("copy", copied, None),
        CloneMethod::Copy(copied) => {
            let hint = format!(
                "'coracle read-only {source} yes' makes clones of it instant, while it cannot be changed"
            );
            ("copy", copied.bytes, Some(hint).filter(|_| is_directory))
        }
    };
    CloneReport {
        name: name.clone(),
        source: source.to_string(),
        path: cloned.path,
        method,
        bytes,
        duration_ms: super::milliseconds(duration),
        paused_ms: taken.map(|(_, paused)| super::milliseconds(paused)),
        kept_identity: cloned.kept_identity,
        hint: if cloned.marked.is_some() { Some(WITHOUT_MARKS.to_owned()) } else { hint },
        lost_in_stack: cloned.marked,
    }
}

/// Returns a duration for a person.
pub(super) fn duration_text(milliseconds: u64) -> String {
    match milliseconds {
        0..1000 => format!("{milliseconds} ms"),
        _ => format!("{} s", milliseconds.div_euclid(1000)),
    }
}

impl CloneReport {
    /// Returns the lines for a person.
    pub(crate) fn text(&self) -> String {
        let Self { name, source, duration_ms, .. } = self;
        let size = size::rounded(self.bytes);
        let time = duration_text(*duration_ms);
        let mut text = match self.method {
            "snapshot" => format!("{name}: snapshot of '{source}' in {time}"),
            "layers" => format!("{name}: stack on the layers of '{source}' in {time}"),
            "base" => format!("{name}: stack on '{source}' in {time}"),
            "reflink" => format!("{name}: copied in {time}, sharing the blocks of '{source}'"),
            _ if self.bytes == 0 => format!("{name}: copied in {time}"),
            _ if self.lost_in_stack.is_some() => format!("{name}: copied {size} in {time}"),
            _ => format!("{name}: copied {size} in {time}: the file system cannot share blocks"),
        };
        if let Some(file) = &self.lost_in_stack {
            text.push_str(&format!(": a stack would lose '{}'", file.display()));
        }
        if let Some(paused) = self.paused_ms {
            text.push_str(&format!(" ('{source}' was paused {paused} ms)"));
        }
        for (label, line) in [("warning", &self.kept_identity), ("hint", &self.hint)] {
            if let Some(line) = line {
                text.push_str(&format!("\n{label}: {line}"));
            }
        }
        text
    }
}
