//! Tar archives: read or refused without a panic. What the policy admits lies in the tree, below directories that
//! it has, and hard links lead to earlier files.
#![no_main]

use coracle::tree::tar::policy::{AdmittedKind, Former, Limits, Policy};
use coracle::tree::tar::reader::Reader;
use libfuzzer_sys::fuzz_target;
use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};

fuzz_target!(|archive: &[u8]| {
    let archive = with_checksums(archive);
    let mut reader = Reader::new(&archive[..]);
    let mut policy = Policy::new(Limits::of_bytes(1 << 20));
    let mut tree = HashMap::from([(PathBuf::new(), true)]);
    let mut part = [0; 300];
    while let Ok(Some(entry)) = reader.next_entry() {
        let Ok(admitted) = policy.admit(&entry) else { return };
        if let Some(admitted) = admitted {
            for parent in &admitted.parents {
                assert!(tree.insert(parent.clone(), true).is_none());
            }
            let path = admitted.path;
            assert!(path.components().all(|part| matches!(part, Component::Normal(_))));
            assert!(path.parent().is_none_or(|above| tree[above]));
            let is_directory = admitted.kind == AdmittedKind::Directory;
            if let AdmittedKind::Hard(first) = &admitted.kind {
                assert!(!tree[first] && *first != path);
            }
            if admitted.former == Former::Replaced {
                let below = |other: &PathBuf| other.parent() == Some(Path::new(&path)) && *other != path;
                assert!(!tree[&path] || !tree.keys().any(below));
            }
            assert_eq!(tree.insert(path, is_directory).is_some(), admitted.former != Former::None);
        }
        while reader.read(&mut part).is_ok_and(|length| length > 0) {}
    }
});

/// Gives every block that looks like a header a right checksum: few others get past it.
fn with_checksums(archive: &[u8]) -> Vec<u8> {
    let mut archive = archive.to_vec();
    for block in archive.chunks_exact_mut(512) {
        if block[257..262] == *b"ustar" {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
    archive
}
