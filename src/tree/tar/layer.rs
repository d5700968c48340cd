//! Extracts a layer of an OCI image (image-layer specification) into a sink, under the policy of archives: whiteouts
//! become devices 0:0, and opaque directories get an attribute, as overlays have them. Called by `image` in a
//! confined process.

use super::content::EntryContent;
use super::extract::place;
use super::policy::{self, LeftOut, Limits, Marks, Policy};
use super::reader::Reader;
use crate::error::Result;
use crate::tree::entry::{EntryKind, Meta, Monitor, Sink};
use rustix::fs::FileType;
use std::io::Read;
use std::path::Path;

/// The attribute of an opaque directory, and its value (`Documentation/filesystems/overlayfs.rst`, `userxattr`).
pub(crate) const OPAQUE: (&str, &[u8]) = ("user.overlay.opaque", b"y");

/// Passes the entries of a layer to a sink, in order; see [`super::extract::extract`]. Returns what was left out,
/// and the marks for the layers below.
///
/// # Errors
/// A layer that is refused, or any error of the sink. The message names the entry.
pub(crate) fn extract_layer(
    from: impl Read,
    limits: Limits,
    sink: &mut impl Sink,
    monitor: &mut dyn Monitor,
) -> Result<(LeftOut, Marks)> {
    let mut reader = Reader::of_layer(from);
    let mut policy = Policy::new(limits);
    sink.take(Path::new(""), &policy::default_meta(), EntryKind::Directory, monitor)?;
    while let Some(mut entry) = reader.next_entry()? {
        let shown = entry.shown();
        let mark = policy.admit_mark(&entry).map_err(|error| error.context(shown.as_str()))?;
        monitor.count_entry()?;
        if let Some(mark) = mark {
            for parent in &mark.parents {
                sink.take(parent, &policy::default_meta(), EntryKind::Directory, monitor)?;
            }
            if let Some(hidden) = &mark.whiteout {
                hide(hidden, sink, monitor).map_err(|error| error.context(shown))?;
            }
            continue;
        }
        let admitted = policy.admit(&entry).map_err(|error| error.context(shown.as_str()))?;
        let Some(admitted) = admitted else { continue };
        admitted.uncovered.iter().try_for_each(|path| sink.remove(path))?;
        let mut content = EntryContent::new(&mut reader, &mut entry);
        place(admitted, &mut content, sink, monitor).map_err(|error| error.context(shown))?;
    }
    for path in policy.marks().opaque.iter().filter(|path| !path.as_os_str().is_empty()) {
        sink.mark(path, OPAQUE)?;
    }
    Ok((policy.left_out(), policy.marks().clone()))
}

/// Writes a whiteout.
fn hide(path: &Path, sink: &mut impl Sink, monitor: &mut dyn Monitor) -> Result<()> {
    let meta = Meta { mode: 0, ..policy::default_meta() };
    sink.take(path, &meta, EntryKind::Node(FileType::CharacterDevice, 0), monitor)
}

#[cfg(test)]
mod tests;
