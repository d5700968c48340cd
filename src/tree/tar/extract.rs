//! Extracts an archive that is not trusted into a sink, under the policy. Called by `image` in a confined process
//! and by `copy-to`.

use super::content::EntryContent;
use super::policy::{self, Admitted, AdmittedKind, Former, LeftOut, Limits, Policy};
use super::reader::Reader;
use crate::error::Result;
use crate::tree::entry::{EntryKind, Monitor, Sink};
use std::io::Read;
use std::path::Path;

/// Passes the entries of an archive to a sink, in order. Missing directories are created with owner root and
/// mode 0755, the root first. Returns what was left out.
///
/// # Errors
/// An archive that is refused, or any error of the sink. The message names the entry.
pub(crate) fn extract(
    from: impl Read,
    limits: Limits,
    sink: &mut impl Sink,
    monitor: &mut dyn Monitor,
) -> Result<LeftOut> {
    let mut reader = Reader::new(from);
    let mut policy = Policy::new(limits);
    sink.take(Path::new(""), &policy::default_meta(), EntryKind::Directory, monitor)?;
    while let Some(mut entry) = reader.next_entry()? {
        let shown = entry.shown();
        let admitted = policy.admit(&entry).map_err(|error| error.context(shown.as_str()))?;
        monitor.count_entry()?;
        let Some(admitted) = admitted else { continue };
        let mut content = EntryContent::new(&mut reader, &mut entry);
        place(admitted, &mut content, sink, monitor).map_err(|error| error.context(shown))?;
    }
    Ok(policy.left_out())
}

/// Passes an admitted entry to a sink.
pub(super) fn place<R: Read>(
    admitted: Admitted,
    content: &mut EntryContent<'_, R>,
    sink: &mut impl Sink,
    monitor: &mut dyn Monitor,
) -> Result<()> {
    let Admitted { path, kind, former, parents, meta, .. } = admitted;
    for parent in &parents {
        sink.take(parent, &policy::default_meta(), EntryKind::Directory, monitor)?;
    }
    match former {
        Former::None => {}
        Former::Updated => return sink.update(&path, &meta),
        Former::Replaced => sink.remove(&path)?,
    }
    let kind = match kind {
        AdmittedKind::Directory => EntryKind::Directory,
        AdmittedKind::File => EntryKind::File(content),
        AdmittedKind::Symlink(target) => EntryKind::Link(target),
        AdmittedKind::Hard(first) => EntryKind::Hard(first),
        AdmittedKind::Fifo => EntryKind::Fifo,
    };
    sink.take(&path, &meta, kind, monitor)
}
