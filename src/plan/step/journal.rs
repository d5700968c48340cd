//! The step for the journal directory of a machine.

use std::path::PathBuf;

/// A journal directory of the host to mount in the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalDirectory {
    /// The directory of the host.
    pub source: PathBuf,
    /// The directory of the tree.
    pub target: PathBuf,
    /// The group of journals, on the host and in the tree. `None` if its files keep their group.
    pub groups: Option<(u32, u32)>,
    /// Whether the machine does not start without it.
    pub is_required: bool,
    /// The number of the mapping of its ids.
    pub ids: Option<usize>,
}

impl JournalDirectory {
    /// Describes the step.
    pub(super) fn describe(&self) -> String {
        let Self { source, target, is_required, ids, .. } = self;
        let ids = ids.map_or_else(String::new, |ids| format!(", idmapped by {ids}"));
        let missing = if *is_required { "" } else { ", if possible" };
        format!("mount the journal '{}' on '{}'{ids}{missing}", source.display(), target.display())
    }
}
