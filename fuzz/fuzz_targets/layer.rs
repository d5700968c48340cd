//! Layers of OCI images: read or refused without a panic. Marks lie in the tree, below directories that it has, and
//! never hide an entry of the layer itself.
#![no_main]

use coracle::tree::tar::policy::{AdmittedKind, Former, Limits, Policy};
use coracle::tree::tar::reader::Reader;
use libfuzzer_sys::fuzz_target;
use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};

/// The kind of an entry of the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Directory,
    Other,
    Whiteout,
}

fuzz_target!(|archive: &[u8]| {
    let archive = with_checksums(archive);
    let mut reader = Reader::of_layer(&archive[..]);
    let mut policy = Policy::new(Limits::of_bytes(1 << 20));
    let mut tree = HashMap::from([(PathBuf::new(), Kind::Directory)]);
    let mut part = [0; 300];
    while let Ok(Some(entry)) = reader.next_entry() {
        match policy.admit_mark(&entry) {
            Err(_) => return,
            Ok(Some(mark)) => {
                uncover(&mut tree, &[], &mark.parents);
                if let Some(path) = mark.whiteout {
                    assert!(is_plain(&path) && tree[path.parent().unwrap()] == Kind::Directory);
                    assert!(tree.insert(path, Kind::Whiteout).is_none());
                }
            }
            Ok(None) => {
                let Ok(admitted) = policy.admit(&entry) else { return };
                if let Some(admitted) = admitted {
                    uncover(&mut tree, &admitted.uncovered, &admitted.parents);
                    let path = admitted.path;
                    assert!(is_plain(&path));
                    assert!(path.parent().is_none_or(|above| tree[above] == Kind::Directory));
                    if let AdmittedKind::Hard(first) = &admitted.kind {
                        assert!(tree[first] == Kind::Other);
                    }
                    let is_directory = admitted.kind == AdmittedKind::Directory;
                    let kind = if is_directory { Kind::Directory } else { Kind::Other };
                    let former = tree.insert(path, kind);
                    assert_eq!(former.is_some(), admitted.former != Former::None);
                }
            }
        }
        while reader.read(&mut part).is_ok_and(|length| length > 0) {}
    }
    let marks = policy.marks();
    assert!(marks.whiteouts.iter().all(|path| tree[path] == Kind::Whiteout));
    assert!(marks.opaque.iter().chain(&marks.implied).all(|path| tree[path] == Kind::Directory));
    let whiteouts = tree.values().filter(|kind| **kind == Kind::Whiteout).count();
    assert_eq!(whiteouts, marks.whiteouts.len());
});

fn uncover(tree: &mut HashMap<PathBuf, Kind>, uncovered: &[PathBuf], parents: &[PathBuf]) {
    for path in uncovered {
        assert_eq!(tree.remove(path), Some(Kind::Whiteout));
    }
    for parent in parents {
        assert!(tree.insert(parent.clone(), Kind::Directory).is_none());
    }
}

fn is_plain(path: &Path) -> bool {
    path.components().all(|part| matches!(part, Component::Normal(_)))
}

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
