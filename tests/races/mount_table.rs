//! The mounts of a root, in a form that is comparable between builds. Called by `races`.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The names of the attackers' own mounts.
pub const DECOY: &str = "decoy";

/// A line of mountinfo (proc_pid_mountinfo(5)).
#[derive(Debug)]
pub struct Mount {
    pub id: u32,
    pub parent: u32,
    /// The mounted part of its file system.
    pub root: String,
    pub at: PathBuf,
    pub options: String,
    pub kind: String,
    /// Its source in mountinfo.
    pub source: String,
}

/// Returns all mounts of this process's mount namespace.
pub fn mounts() -> Vec<Mount> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mount = |line: &str| {
        let (first, second) = line.split_once(" - ").unwrap();
        let words: Vec<&str> = first.split(' ').collect();
        Mount {
            id: words[0].parse().unwrap(),
            parent: words[1].parse().unwrap(),
            root: words[3].into(),
            at: words[4].into(),
            options: words[5].into(),
            kind: second.split(' ').next().unwrap().into(),
            source: second.split(' ').nth(1).unwrap().into(),
        }
    };
    text.lines().map(mount).collect()
}

/// The mounts of a root and how often each occurs. A mount is identified by its position in the parent file
/// system, regardless of the current name of the parent's mount point.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountTable(BTreeMap<String, u32>);

impl MountTable {
    /// Returns the mounts of the root below a path. An inconsistent read during a rename is repeated.
    pub fn at(at: &Path) -> Self {
        (0..1000).find_map(|_| Self::of(&mounts(), at)).expect("mounts that fit together")
    }

    fn of(mounts: &[Mount], at: &Path) -> Option<Self> {
        let mut table = BTreeMap::new();
        for mount in mounts.iter().filter(|mount| mount.at.starts_with(at) && mount.at != at) {
            let under = mounts.iter().find(|other| other.id == mount.parent)?;
            // The position is ignored if the parent is the tree itself or a mount of the attackers, whose
            // directories are renamed. It is also ignored for the mounts of a definition: their path may
            // cross a directory on which one of the API file systems is mounted.
            let defined = mount.at.ends_with("other") || mount.at.ends_with("place") || mount.at == under.at;
            let (place, part) = if under.at == at || under.source == DECOY || defined {
                (Path::new("*"), "*")
            } else {
                let part = if mount.kind == under.kind || mount.kind == "tmpfs" { &*mount.root } else { "/" };
                (mount.at.strip_prefix(&under.at).ok()?, part)
            };
            let kind = if place == Path::new("*") { "the tree" } else { &*under.kind };
            let entry =
                format!("{} on {} of {}: {part} {}", mount.kind, place.display(), kind, mount.options);
            *table.entry(entry).or_default() += 1;
        }
        Some(Self(table))
    }

    /// Asserts that both tables have the same mounts.
    #[track_caller]
    pub fn assert_same(&self, other: &Self) {
        let missing: Vec<_> =
            self.0.iter().filter(|(entry, count)| other.0.get(*entry) != Some(count)).collect();
        let more: Vec<_> =
            other.0.iter().filter(|(entry, count)| self.0.get(*entry) != Some(count)).collect();
        assert!(
            missing.is_empty() && more.is_empty(),
            "MOUNTS: not as without attackers: {missing:#?}\nbut {more:#?}"
        );
    }
}
