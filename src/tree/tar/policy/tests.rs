//! A hostile archive for each class of the policy, and archives that are confined.

use crate::error::Result;
use crate::tree::entry::{Content, EntryKind, Meta, Monitor, Sink};
use crate::tree::tar::extract::extract;
use crate::tree::tar::pax;
use crate::tree::tar::policy::{LeftOut, Limits};
use rustix::fd::BorrowedFd;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A header with a right checksum.
pub(in crate::tree::tar) fn header(flag: u8, path: &str, link: &str, size: u64) -> Vec<u8> {
    let mut block = vec![0u8; 512];
    let mut put = |at: usize, text: &str| block[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, path);
    put(100, "0000755\0");
    put(108, "0000007\0");
    put(116, "0000010\0");
    put(124, &format!("{size:011o}\0"));
    put(136, "00000000144\0");
    put(157, link);
    put(257, "ustar\x0000");
    block[156] = flag;
    sum(&mut block);
    block
}

/// Sets the checksum.
pub(in crate::tree::tar) fn sum(block: &mut [u8]) {
    let block = &mut block[..512];
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

fn data(flag: u8, path: &str, data: &[u8]) -> Vec<u8> {
    let mut entry = header(flag, path, "", data.len() as u64);
    entry.extend_from_slice(data);
    entry.resize(entry.len().next_multiple_of(512), 0);
    entry
}

fn file(path: &str) -> Vec<u8> {
    data(b'0', path, b"text")
}

pub(in crate::tree::tar) fn extension(records: &[(&str, &str)]) -> Vec<u8> {
    let text: Vec<u8> =
        records.iter().flat_map(|(key, value)| pax::record(key.as_bytes(), value.as_bytes())).collect();
    data(b'x', "PaxHeaders/x", &text)
}

fn archive(entries: &[Vec<u8>]) -> Vec<u8> {
    [entries.concat(), vec![0; 1024]].concat()
}

/// The tree of an archive: kind, metadata and content or target of each entry.
#[derive(Default)]
struct Tree(BTreeMap<PathBuf, (char, Meta, Vec<u8>)>);

impl Sink for Tree {
    fn update(&mut self, path: &Path, meta: &Meta) -> Result<()> {
        self.0.get_mut(path).unwrap().1 = meta.clone();
        Ok(())
    }

    fn remove(&mut self, path: &Path) -> Result<()> {
        self.0.remove(path).map(|_| ()).ok_or_else(|| crate::error::Error::new("missing"))
    }

    fn take(
        &mut self,
        path: &Path,
        meta: &Meta,
        kind: EntryKind<'_>,
        monitor: &mut dyn Monitor,
    ) -> Result<()> {
        let bytes = |path: PathBuf| path.into_os_string().into_encoded_bytes();
        let (kind, content) = match kind {
            EntryKind::Directory => ('d', Vec::new()),
            EntryKind::File(content) => ('f', flat(content, monitor)?),
            EntryKind::Link(target) => ('l', bytes(target)),
            EntryKind::Hard(first) => ('h', bytes(first)),
            EntryKind::Fifo => ('p', Vec::new()),
            EntryKind::Node(..) => panic!("a device"),
        };
        assert!(path.parent().is_none_or(|above| self.0.contains_key(above)), "{path:?} has no parent");
        assert!(self.0.insert(path.to_owned(), (kind, meta.clone(), content)).is_none(), "{path:?} twice");
        Ok(())
    }
}

fn flat(content: &mut dyn Content, monitor: &mut dyn Monitor) -> Result<Vec<u8>> {
    let (mut all, mut part) = (Vec::new(), Vec::new());
    while let Some(at) = content.next(&mut part, 100, monitor)? {
        all.resize(usize::try_from(at).unwrap(), 0);
        all.extend_from_slice(&part);
    }
    all.resize(usize::try_from(content.length()).unwrap(), 0);
    Ok(all)
}

pub(in crate::tree::tar) struct NoMonitor;

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

fn read_under(archive: &[u8], limits: Limits) -> Result<(Tree, LeftOut)> {
    let mut tree = Tree::default();
    let left_out = extract(archive, limits, &mut tree, &mut NoMonitor)?;
    Ok((tree, left_out))
}

fn read(entries: &[Vec<u8>]) -> Result<(Tree, LeftOut)> {
    read_under(&archive(entries), Limits::of_bytes(1 << 20))
}

#[track_caller]
fn refused(entries: &[Vec<u8>], cause: &str) {
    refused_bytes(&archive(entries), cause);
}

#[track_caller]
fn refused_bytes(archive: &[u8], cause: &str) {
    let error = read_under(archive, Limits::of_bytes(1 << 20)).err().expect("accepted").to_string();
    assert!(error.contains(cause), "{error}");
}

#[test]
fn paths_that_lead_out_are_refused() {
    for path in ["../a", "a/../b", "..", "a/.."] {
        refused(&[file(path)], "leads out of the archive");
    }
    refused(&[extension(&[("path", "a/../../b")]), file("a")], "leads out of the archive");
    refused(&[file("a"), header(b'1', "b", "../a", 0)], "leads out of the archive");
}

#[test]
fn names_that_are_no_names_are_refused() {
    refused(&[file("")], "its path is empty");
    refused(&[extension(&[("path", "")]), file("a")], "a name in its extension header is invalid");
    refused(&[extension(&[("path", "a\0b")]), file("a")], "a name in its extension header is invalid");
    refused(&[extension(&[("path", &"n".repeat(256))]), file("a")], "longer than 255 bytes");
    refused(
        &[extension(&[("path", &format!("{}n", "n/".repeat(512)))]), file("a")],
        "more than 512 directories deep",
    );
    refused(&[header(b'2', "a", "", 0)], "the target of the symbolic link is empty");
    refused(
        &[extension(&[("linkpath", &"n/".repeat(3000))]), header(b'2', "a", "b", 0)],
        "longer than 4095 bytes",
    );
}

#[test]
fn the_root_is_a_directory() {
    for root in [".", "./.", "/."] {
        refused(&[header(b'2', root, "/etc", 0)], "the root of the archive is not a directory");
    }
    refused(&[header(b'2', "./", "/etc", 0)], "ends with a slash, but it is not a directory");
    let (tree, _) = read(&[header(b'5', "./", "", 0)]).unwrap();
    assert_eq!((tree.0[Path::new("")].1.uid, tree.0.len()), (7, 1));
}

#[test]
fn parents_are_directories() {
    let below = file("a/b");
    for (above, flag) in [("/etc", b'2'), ("", b'0'), ("", b'6')] {
        refused(&[header(flag, "a", above, 0), below.clone()], "'a' above it is not a directory");
    }
    refused(&[file("x"), header(b'1', "a", "x", 0), below], "'a' above it is not a directory");
}

#[test]
fn hard_links_lead_to_earlier_files_only() {
    refused(&[header(b'1', "a", "missing", 0)], "which is not there");
    refused(&[header(b'1', "a", "/etc/passwd", 0)], "which is not there");
    refused(&[header(b'1', "a", "b", 0), file("b")], "which is not there");
    refused(&[header(b'5', "d", "", 0), header(b'1', "a", "d", 0)], "a hard link to the directory 'd'");
    refused(&[file("a"), header(b'1', "a", "./a", 0)], "a hard link to itself");
    let (tree, _) = read(&[file("/a"), header(b'1', "b/c", "/a", 0)]).unwrap();
    assert_eq!(tree.0[Path::new("b/c")].2, b"a");
}

#[test]
fn directories_with_entries_are_not_replaced() {
    for other in [file("d"), header(b'2', "d", "/etc", 0)] {
        refused(
            &[header(b'5', "d", "", 0), file("d/a"), other.clone()],
            "replaces a directory that is not empty",
        );
        let (tree, _) = read(&[header(b'5', "d", "", 0), other]).unwrap();
        assert_ne!(tree.0[Path::new("d")].0, 'd');
    }
}

#[test]
fn the_last_entry_of_a_name_wins() {
    let (tree, _) = read(&[file("a"), header(b'2', "a", "b", 0), data(b'0', "./a", b"last")]).unwrap();
    assert_eq!((tree.0[Path::new("a")].0, &tree.0[Path::new("a")].2[..]), ('f', &b"last"[..]));
    let mut second = header(b'5', "d/", "", 0);
    second[100..108].copy_from_slice(b"0000700\0");
    sum(&mut second);
    let (tree, _) = read(&[header(b'5', "d", "", 0), file("d/a"), second]).unwrap();
    assert_eq!((tree.0[Path::new("d")].1.mode, tree.0.len()), (0o700, 3));
}

#[test]
fn headers_with_two_meanings_are_refused() {
    refused(&[extension(&[("size", "5")]), file("a")], "two sizes, 4 and 5");
    refused(&[header(b'5', "d", "", 512), vec![0; 512]], "it has data, but it is not a file");
    refused(&[header(b'2', "l", "t", 4), vec![0; 512]], "it has data, but it is not a file");
    refused(
        &[extension(&[("mtime", "1")]), extension(&[("mtime", "2")]), file("a")],
        "an extension header is there twice",
    );
    refused(
        &[data(b'L', "", b"one\0"), data(b'L', "", b"two\0"), file("a")],
        "an extension header is there twice",
    );
    refused(
        &[data(b'L', "", b"one\0"), extension(&[("path", "two")]), file("a")],
        "two extension headers have a name",
    );
    refused(&[extension(&[("path", "b"), ("path", "c")]), file("a")], "has a key twice");
    refused(&[file("a"), extension(&[("path", "b")])], "an extension header has no entry");
    refused(&[data(b'g', "g", &pax::record(b"path", b"b")), file("a")], "a global header changes 'path'");
    refused(&[extension(&[("path", "b")]), data(b'g', "g", b""), file("a")], "follows an extension header");
    refused(&[extension(&[("SCHILY.realsize", "9")]), file("a")], "has the unknown key");
    refused(&[header(b'0', "a/", "", 0)], "ends with a slash, but it is not a directory");
    refused(&[header(b'S', "a", "", 0)], "a sparse file of GNU tar in another format");
    assert_eq!(read(&[header(0, "a/", "", 0)]).unwrap().0.0[Path::new("a")].0, 'd');
    for flag in [b'M', b'7', b'V'] {
        refused(&[header(flag, "a", "", 0)], "is unknown");
    }
    refused(&[data(b'x', "x", b"99 path=b\n"), file("a")], "its extension header is invalid");
    refused(&[file("a"), vec![0; 512], file("b")], "data follows the end of the archive");
    refused_bytes(
        &[archive(&[file("a")]), archive(&[file("b")])].concat(),
        "data follows the end of the archive",
    );
    let (tree, _) = read(&[data(b'g', "g", &pax::record(b"comment", b"0123")), file("a")]).unwrap();
    assert!(tree.0.contains_key(Path::new("a")));
}

#[test]
fn damaged_headers_are_refused() {
    let mut wrong = file("a");
    wrong[0] = b'b';
    refused(&[wrong], "wrong checksum");
    for (at, bytes, cause) in [
        (124, &[0xff; 12][..], "negative"),
        (124, &[0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], "the files are larger than"),
        (108, b"0000009\0", "a number in its header is invalid"),
        (257, b"other\x0000", "unknown format"),
        (508, b"tar\0", "the format of star"),
    ] {
        let mut damaged = header(b'0', "a", "", 0);
        damaged[at..at + bytes.len()].copy_from_slice(bytes);
        sum(&mut damaged);
        refused(&[damaged], cause);
    }
}

#[test]
fn truncated_and_empty_archives_are_refused() {
    let whole = archive(&[extension(&[("mtime", "1.5")]), data(b'0', "a", &[1; 700])]);
    for length in 0..whole.len() {
        let error = read_under(&whole[..length], Limits::of_bytes(1 << 20)).err().expect("accepted");
        assert!(error.to_string().contains("truncated"), "{length}: {error}");
    }
    refused(&[], "the archive is empty");
}

#[test]
fn devices_attributes_and_foreign_owners_are_left_out() {
    let attributes = extension(&[
        ("uid", "70000"),
        ("SCHILY.xattr.user.kept", "1"),
        ("SCHILY.xattr.user.overlay.opaque", "y"),
        ("SCHILY.xattr.trusted.overlay.opaque", "y"),
        ("SCHILY.xattr.security.selinux", "label"),
        ("SCHILY.xattr.security.capability", "\x01"),
        ("SCHILY.acl.access", "user::rwx,user:5:r--,group::r--,mask::r--,other::---"),
        ("SCHILY.acl.default", "user:lisa:rwx"),
    ]);
    let (tree, left_out) = read(&[header(b'3', "null", "", 0), attributes, file("a")]).unwrap();
    let meta = &tree.0[Path::new("a")].1;
    let names: Vec<_> = meta.attributes.iter().map(|(name, _)| String::from_utf8_lossy(name)).collect();
    assert_eq!(names, ["user.kept", "security.capability", "system.posix_acl_access"]);
    assert_eq!((meta.uid, meta.gid, meta.mode, tree.0.len()), (65534, 8, 0o755, 2));
    assert_eq!(
        left_out.summary().unwrap(),
        "left out: 1 device, 3 extended attributes, 1 access list with names; 1 file belongs to nobody, with an \
         id above 65535 before"
    );
}

#[test]
fn limits_end_the_extraction() {
    let limit = |limits, cause: &str| {
        let error = read_under(&archive(&[file("a"), file("b")]), limits).err().expect("accepted");
        assert!(error.to_string().contains(cause), "{error}");
    };
    limit(Limits { entries: 1, ..Limits::of_bytes(100) }, "more than 1 entries");
    limit(Limits::of_bytes(7), "entry 2 'b': the files are larger than 7 bytes");
    limit(
        Limits { memory: 1, ..Limits::of_bytes(100) },
        "entry 2 'b': the names and attributes of the archive",
    );
    // Directories that the archive does not have count, too.
    let deep = archive(&[extension(&[("path", &format!("{}n", "n/".repeat(99)))]), file("a")]);
    for limits in
        [Limits { entries: 99, ..Limits::of_bytes(100) }, Limits { memory: 9999, ..Limits::of_bytes(100) }]
    {
        read_under(&deep, limits).err().expect("accepted");
    }
    read_under(&deep, Limits { entries: 100, memory: 10_000, ..Limits::of_bytes(100) }).unwrap();
    let attributes =
        [extension(&[("SCHILY.xattr.user.a", &"v".repeat(999))]), header(b'5', "d", "", 0)].concat();
    let attributes = read_under(&archive(&[attributes]), Limits { memory: 999, ..Limits::of_bytes(100) });
    attributes.err().expect("accepted");
    let long = "v".repeat((64 << 10) + 1);
    refused(&[extension(&[("SCHILY.xattr.user.a", &long)]), file("a")], "larger than 64 KiB");
    refused(&[header(b'x', "x", "", (1 << 20) + 1)], "larger than 1 MiB");
}

#[test]
fn odd_names_are_kept_and_escaped_in_messages() {
    let mut odd = file("a?b");
    odd[1] = 0xfe;
    sum(&mut odd);
    let (tree, _) = read(&[odd.clone()]).unwrap();
    assert!(tree.0.keys().any(|path| path.as_os_str().as_encoded_bytes() == b"a\xfeb"));
    refused(&[odd, header(b'1', "c\x1b[2J", "d", 0)], "entry 2 'c\\u{1b}[2J': it is a hard link");
}

#[test]
fn sparse_files_of_all_formats_have_holes() {
    let (sparse_1, map) = ([("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0")], "2\n0\n2\n600\n2\n");
    let sparse_1 = [&sparse_1[..], &[("GNU.sparse.name", "s"), ("GNU.sparse.realsize", "700")]].concat();
    let mut with_map = map.as_bytes().to_vec();
    with_map.resize(512, 0);
    with_map.extend_from_slice(b"abcd");
    let list = [("GNU.sparse.size", "700"), ("GNU.sparse.numblocks", "2"), ("GNU.sparse.map", "0,2,600,2")];
    let pairs = [("GNU.sparse.offset", "0"), ("GNU.sparse.numbytes", "2"), ("GNU.sparse.offset", "600")];
    let pairs = [&list[..2], &pairs, &[("GNU.sparse.numbytes", "2")]].concat();
    let mut old = data(b'S', "s", b"abcd");
    for (at, number) in [(386, 0), (398, 2), (410, 600), (422, 2), (483, 700)] {
        old[at..at + 12].copy_from_slice(format!("{number:011o}\0").as_bytes());
    }
    old[257..265].copy_from_slice(b"ustar  \0");
    sum(&mut old);
    for entries in [
        vec![extension(&sparse_1), data(b'0', "GNUSparseFile.0/s", &with_map)],
        vec![extension(&list), data(b'0', "s", b"abcd")],
        vec![extension(&pairs), data(b'0', "s", b"abcd")],
        vec![old],
    ] {
        let (tree, _) = read(&[entries, vec![file("after")]].concat()).unwrap();
        let content = &tree.0[Path::new("s")].2;
        assert_eq!((content.len(), &content[..2], &content[600..602]), (700, &b"ab"[..], &b"cd"[..]));
        assert_eq!((content[599], tree.0[Path::new("after")].0), (0, 'f'));
    }
    refused(&[extension(&list), header(b'5', "s", "", 0)], "do not agree on a sparse file");
    refused(&[extension(&list), data(b'0', "s", b"abc")], "the map of the sparse file is invalid");
}
