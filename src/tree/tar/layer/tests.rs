//! Layers: marks in any order, and those that are refused.

use super::*;
use crate::tree::tar::policy::tests::header;
use rustix::fd::BorrowedFd;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The entries that a layer leads to, by kind: `d`irectory, `f`ile, `w`hiteout; in upper case an opaque directory.
#[derive(Default)]
struct Kinds(BTreeMap<PathBuf, char>);

impl Sink for Kinds {
    fn remove(&mut self, path: &Path) -> Result<()> {
        assert!(self.0.remove(path).is_some());
        Ok(())
    }

    fn mark(&mut self, path: &Path, _: (&str, &[u8])) -> Result<()> {
        assert_eq!(self.0.insert(path.to_owned(), 'D'), Some('d'));
        Ok(())
    }

    fn take(&mut self, path: &Path, _: &Meta, kind: EntryKind<'_>, monitor: &mut dyn Monitor) -> Result<()> {
        let kind = match kind {
            EntryKind::Directory => 'd',
            EntryKind::Node(FileType::CharacterDevice, 0) => 'w',
            EntryKind::File(content) => {
                while content.next(&mut Vec::new(), 100, monitor)?.is_some() {}
                'f'
            }
            _ => '?',
        };
        assert!(self.0.insert(path.to_owned(), kind).is_none(), "{}", path.display());
        Ok(())
    }
}

struct NoMonitor;

impl Monitor for NoMonitor {
    fn count_entry(&mut self) -> Result<()> {
        Ok(())
    }

    fn advance(&mut self, _: u64) -> Result<()> {
        Ok(())
    }

    fn skip(&mut self, _: &Path, _: &str) {}

    fn interrupts(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// Extracts a layer with these entries; a directory ends with a slash.
fn extract(entries: &[&str]) -> Result<(String, Marks)> {
    let entry = |path: &&str| header(if path.ends_with('/') { b'5' } else { b'0' }, path, "", 0);
    let archive = [entries.iter().flat_map(entry).collect(), vec![0; 1024]].concat();
    let mut kinds = Kinds::default();
    let (_, marks) = extract_layer(&archive[..], Limits::of_bytes(1 << 20), &mut kinds, &mut NoMonitor)?;
    kinds.0.remove(Path::new(""));
    let shown = kinds.0.iter().map(|(path, kind)| format!("{kind}:{}", path.display()));
    Ok((shown.collect::<Vec<_>>().join(" "), marks))
}

#[test]
fn marks_never_hide_entries_of_their_own_layer() {
    for (entries, expected) in [
        (&["a/", "a/.wh.b"][..], "d:a w:a/b"),
        (&["a/.wh.b"], "d:a w:a/b"),
        // A directory, before and after its whiteout.
        (&["a/", ".wh.a"], "D:a"),
        (&[".wh.a", "a/"], "D:a"),
        (&[".wh.a", "a/b"], "D:a f:a/b"),
        (&["a/b", ".wh.a"], "D:a f:a/b"),
        // A file.
        (&["a", ".wh.a"], "f:a"),
        (&[".wh.a", "a"], "f:a"),
        (&[".wh.a", ".wh.a"], "w:a"),
        (&["a/b", "a/.wh..wh..opq"], "D:a f:a/b"),
        (&["a/.wh..wh..opq", "a/", "a/b"], "D:a f:a/b"),
        (&["a/.wh..wh..opq", "a/.wh.b"], "D:a w:a/b"),
        // A directory that gives way to a file has no mark.
        (&["a/", "a/.wh..wh..opq", "a"], "f:a"),
        // Files of AUFS.
        (&[".wh..wh.aufs", ".wh..wh.plnk/", ".wh..wh.plnk/1", "b"], "f:b"),
        (&[], ""),
        (&[".wh..wh..opq"], ""),
    ] {
        assert_eq!(extract(entries).unwrap().0, expected, "{entries:?}");
    }
}

#[test]
fn marks_are_known_afterwards() {
    let paths = |set: &std::collections::BTreeSet<PathBuf>| {
        set.iter().map(|path| path.to_str().unwrap().to_owned()).collect::<Vec<_>>().join(" ")
    };
    for (entries, whiteouts, opaque, implied, has_root) in [
        (&["./", "a/", "a/b"][..], "", "", "", true),
        (&["a/b/c", "a/"], "", "", "a/b", false),
        (&["a/.wh.b", ".wh.c"], "a/b c", "", "a", false),
        (&[".wh.a", "a/b", ".wh..wh..opq"], "", " a", "", false),
        (&["a/b", ".wh.a"], "", "a", "", false),
        (&[".wh.a", "a"], "", "", "", false),
    ] {
        let marks = extract(entries).unwrap().1;
        let found = (paths(&marks.whiteouts), paths(&marks.opaque), paths(&marks.implied), marks.has_root);
        assert_eq!(found, (whiteouts.into(), opaque.into(), implied.into(), has_root), "{entries:?}");
    }
}

#[test]
fn marks_with_tricks_are_refused() {
    for (entries, cause) in [
        (&[".wh."][..], "a whiteout of no name"),
        (&["a/.wh..."], "a whiteout of no name"),
        (&[".wh..wh..opq/b"], ""),
        (&[".wh.a/b"], "'.wh.a' above it is a whiteout"),
        (&["../.wh.a"], "leads out of the archive"),
        (&[".wh.a", "a/.wh.b"], "'a' above it is hidden by the same layer"),
        (&["a/.wh.b", ".wh.a"], "it hides other marks of its layer"),
        (&["a/.wh.b", "a/c", ".wh.a"], ""),
        (&["a", "a/.wh.b"], "'a' above it is not a directory"),
    ] {
        match extract(entries) {
            Err(error) => assert!(!cause.is_empty() && error.to_string().contains(cause), "{error}"),
            Ok(_) => assert_eq!(cause, "", "{entries:?}"),
        }
    }
    let link = [header(b'0', ".wh.a", "", 0), header(b'1', "b", "a", 0), vec![0; 1024]].concat();
    let extracted =
        extract_layer(&link[..], Limits::of_bytes(1), &mut Kinds::default(), &mut NoMonitor).unwrap_err();
    assert!(extracted.to_string().contains("a hard link to 'a', which is not there"), "{extracted}");
}
