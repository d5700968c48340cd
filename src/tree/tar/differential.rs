//! Compares the reader with other programs on generated archives: each difference must be a refusal.
//! `CORACLE_ARCHIVES` is the number of archives; one with a difference is written to `/var/tmp`. Programs create the
//! owners of an archive, so root runs it.

use super::extract::extract;
use super::policy::Limits;
use super::policy::tests::{NoMonitor, extension, header, sum};
use crate::tree::tree_writer::TreeWriter;
use rustix::fs::{Mode, OFlags};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A generator of numbers (xorshift64*).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        usize::try_from(self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33).unwrap() % limit
    }

    fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }
}

const NAMES: [&str; 12] = ["a", "b", "c", "./a", "a/b", "a/c/d", "b/a", "c/", "a//b", "d/./e", "/f", "./"];
const TARGETS: [&str; 7] = ["a", "b", "a/b", "./c", "missing", "a/c/d", "."];

/// Generates the headers and the data of one entry.
fn entry(numbers: &mut Numbers) -> Vec<u8> {
    let flag = numbers.one_of(b"0000005552211166\0");
    let (name, target) = (numbers.one_of(&NAMES), numbers.one_of(&TARGETS));
    let is_file = matches!(flag, b'0' | 0);
    let data = vec![
        b'a' + u8::try_from(numbers.below(26)).unwrap();
        if is_file { numbers.one_of(&[0, 4, 511, 512, 700]) } else { 0 }
    ];
    let mut entry = Vec::new();
    for _ in 0..numbers.one_of(&[0, 0, 0, 0, 1, 1, 2]) {
        let size = data.len().to_string();
        let records = [
            ("path", name),
            ("linkpath", target),
            ("mtime", "12.5"),
            ("uid", "77"),
            ("size", &size),
            ("size", "5"),
            ("comment", "x"),
        ];
        let chosen: Vec<_> = (0..numbers.one_of(&[1, 2, 3])).map(|_| numbers.one_of(&records)).collect();
        match numbers.below(5) {
            0 => entry.extend(long(b'L', numbers.one_of(&NAMES))),
            1 => entry.extend(long(b'K', numbers.one_of(&TARGETS))),
            _ => entry.extend(extension(&chosen)),
        }
    }
    let link = if matches!(flag, b'1' | b'2') { target } else { "" };
    let mut block = header(flag, name, link, data.len() as u64);
    mutate(&mut block, numbers);
    entry.extend(block);
    entry.extend(&data);
    entry.resize(entry.len().next_multiple_of(512), 0);
    entry
}

fn long(flag: u8, name: &str) -> Vec<u8> {
    let mut long = header(flag, "././@LongLink", "", name.len() as u64 + 1);
    long.extend(name.as_bytes());
    long.resize(1024, 0);
    long
}

/// Changes a field of a header.
fn mutate(block: &mut [u8], numbers: &mut Numbers) {
    let fields: [(usize, &[u8]); 13] = [
        (124, b"00000000003\0"),
        (124, b"        700 "),
        (124, &[0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4]),
        (124, &[0xff; 12]),
        (124, b"\0"),
        (108, b"0000009\0"),
        (108, &[0x80, 0, 0, 0, 0, 0, 1, 0]),
        (136, b"77777777777\0"),
        (257, b"ustar  \0"),
        (257, &[0; 8]),
        (257, b"ustar\x0001"),
        (345, b"c"),
        (156, b"S"),
    ];
    if numbers.below(6) == 0 {
        let (at, bytes) = numbers.one_of(&fields);
        block[at..at + bytes.len()].copy_from_slice(bytes);
        sum(block);
    }
}

fn archive(numbers: &mut Numbers) -> Vec<u8> {
    let entries = 1 + numbers.below(6);
    let mut archive: Vec<u8> = (0..entries).flat_map(|_| entry(numbers)).collect();
    let zeros = numbers.one_of(&[1024, 1024, 1024, 1024, 1024, 1024, 9728, 512, 0]);
    archive.resize(archive.len() + zeros, 0);
    if numbers.below(40) == 0 {
        archive.extend(entry(numbers));
    }
    if numbers.below(40) == 0 {
        archive.truncate(archive.len() - 1 - numbers.below(600).min(archive.len() - 1));
    }
    archive
}

/// All that programs agree on: kind, mode, owner, group, content, and the first name of the same file. Times of
/// directories are left out: those of missing ones are not in the archive.
type Tree = BTreeMap<PathBuf, (u32, u32, u32, i64, Vec<u8>, PathBuf)>;

fn tree(top: &Path) -> Tree {
    let (mut found, mut firsts, mut left) = (Tree::new(), HashMap::new(), vec![top.to_owned()]);
    while let Some(path) = left.pop() {
        let data = path.symlink_metadata().unwrap();
        let name = path.strip_prefix(top).unwrap().to_owned();
        let content = match data.file_type() {
            kind if kind.is_symlink() => path.read_link().unwrap().into_os_string().into_encoded_bytes(),
            kind if kind.is_file() => std::fs::read(&path).unwrap(),
            _ => Vec::new(),
        };
        if data.is_dir() {
            left.extend(path.read_dir().unwrap().map(|entry| entry.unwrap().path()));
        }
        let time = if data.is_dir() { 0 } else { data.mtime() };
        firsts
            .entry(data.ino())
            .and_modify(|first: &mut PathBuf| {
                if name < *first {
                    first.clone_from(&name);
                }
            })
            .or_insert_with(|| name.clone());
        let inode = PathBuf::from(data.ino().to_string());
        found.insert(name, (data.mode(), data.uid(), data.gid(), time, content, inode));
    }
    for (.., first) in found.values_mut() {
        let inode: u64 = first.to_str().unwrap().parse().unwrap();
        first.clone_from(&firsts[&inode]);
    }
    found
}

/// Extracts an archive by a program. `None` if it fails.
fn by_program(program: &str, options: &[&str], archive: &[u8]) -> Option<Tree> {
    let directory = tempfile::Builder::new().tempdir_in("/var/tmp").unwrap();
    let mut command = Command::new(program);
    command.args(options).arg("-C").arg(directory.path());
    let mut child =
        command.stdin(Stdio::piped()).stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    // The program may end earlier.
    let _ = child.stdin.take().unwrap().write_all(archive);
    child.wait().unwrap().success().then(|| tree(directory.path()))
}

/// Extracts an archive as the only layer of an image by umoci. `None` if it fails.
fn by_umoci(archive: &[u8]) -> Option<Tree> {
    let directory = tempfile::Builder::new().tempdir_in("/var/tmp").unwrap();
    let (layout, root) = (directory.path().join("layout"), directory.path().join("root"));
    let blobs = layout.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    let blob = |bytes: &[u8], kind: &str| {
        let digest: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        std::fs::write(blobs.join(&digest), bytes).unwrap();
        let (kind, size) = (format!("application/vnd.oci.image.{kind}"), bytes.len());
        (format!(r#"{{"mediaType":"{kind}","digest":"sha256:{digest}","size":{size}"#), digest)
    };
    let (layer, digest) = blob(archive, "layer.v1.tar");
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{}},"rootfs":{{"type":"layers","diff_ids":["sha256:{digest}"]}}}}"#
    );
    let (config, _) = blob(config.as_bytes(), "config.v1+json");
    let manifest = format!(r#"{{"schemaVersion":2,"config":{config}}},"layers":[{layer}}}]}}"#);
    let (manifest, _) = blob(manifest.as_bytes(), "manifest.v1+json");
    let name = r#","annotations":{"org.opencontainers.image.ref.name":"one"}}"#;
    let index = format!(r#"{{"schemaVersion":2,"manifests":[{manifest}{name}]}}"#);
    std::fs::write(layout.join("index.json"), index).unwrap();
    std::fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    let mut command = Command::new("umoci");
    command.args(["raw", "unpack", "--image"]).arg(format!("{}:one", layout.display())).arg(&root);
    let ended = command.stderr(Stdio::null()).stdout(Stdio::null()).status().unwrap();
    ended.success().then(|| tree(&root))
}

fn by_us(archive: &[u8]) -> crate::error::Result<Tree> {
    let directory = tempfile::Builder::new().tempdir_in("/var/tmp").unwrap();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(directory.path(), flags, Mode::empty()).unwrap();
    let mut writer = TreeWriter::into_existing(opened);
    extract(archive, Limits::of_bytes(1 << 20), &mut writer, &mut NoMonitor)?;
    writer.finish_in_place()?;
    Ok(tree(directory.path()))
}

/// A program: its name, and an extraction by it.
type Program<'a> = (&'static str, &'a dyn Fn(&[u8]) -> Option<Tree>);

#[test]
fn every_difference_from_other_programs_is_a_refusal() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let count = std::env::var("CORACLE_ARCHIVES").map_or(200, |count| count.parse().unwrap());
    let gnu = |archive: &[u8]| by_program("tar", &["--numeric-owner", "-xpf", "-"], archive);
    let bsd = |archive: &[u8]| by_program("bsdtar", &["--numeric-owner", "-xpf", "-"], archive);
    let exists =
        |program: &str| Command::new(program).arg("--version").stdout(Stdio::null()).status().is_ok();
    let programs: [Program<'_>; 3] = [("tar", &gnu), ("bsdtar", &bsd), ("umoci", &by_umoci)];
    let programs = programs.map(|(name, extract)| (name, extract, exists(name)));
    let (mut accepted, mut different) = (0, Vec::new());
    for seed in 1..=count {
        let archive = archive(&mut Numbers(0x9e37_79b9_7f4a_7c15 ^ (seed * 7919)));
        let Ok(ours) = by_us(&archive) else { continue };
        accepted += 1;
        for (program, extract, _) in programs.iter().filter(|(.., exists)| *exists) {
            let mut theirs = extract(&archive);
            // The root itself belongs to the program's caller, unless the archive has it.
            let mut ours = ours.clone();
            ours.remove(Path::new(""));
            if let Some(theirs) = &mut theirs {
                theirs.remove(Path::new(""));
            }
            if theirs.as_ref() != Some(&ours) {
                std::fs::write(format!("/var/tmp/difference-{seed}.tar"), &archive).unwrap();
                different.push(format!("{seed} {program}: {theirs:?}\n instead of {ours:?}"));
            }
        }
    }
    assert!(different.is_empty(), "{}\n{}", different.len(), different.join("\n"));
    assert!(accepted > count / 10, "{accepted}");
}
