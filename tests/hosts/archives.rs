//! Images from archives, directories and disk images, and archives of images: what goes out and comes in again is
//! the same, what is hostile is refused, and nothing half-made has a name.

use crate::support::{Builder, Host, LONG};
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Starts a host with the tree `.base`, and with the store on its disk: the host's own root is an overlay.
pub(crate) fn host(tree: &str) -> Host {
    with_store(Host::builder().guest_as(tree, ".base"))
}

/// Starts a host with the store on its disk.
pub(crate) fn with_store(builder: Builder) -> Host {
    let host = builder.on_disk().start();
    host.sh_ok(
        "mkdir -m 700 /var/lib/machines/.storage; mkdir -p /var/lib/coracle
         ln -s /var/lib/machines/.storage /var/lib/coracle/storage",
    );
    host.activate_machined();
    host
}

/// Creates a tree with everything that an archive keeps, from outside of the host.
fn create_tree(host: &Host) {
    let top = host.machines().join("tree");
    let at = |name: &str| top.join(name);
    let deep: PathBuf = (100..140).map(|number| format!("long{number}")).collect();
    for directory in ["etc", "var", "srv"].map(PathBuf::from).iter().chain([&deep]) {
        std::fs::create_dir_all(top.join(directory)).unwrap();
    }
    for (name, content) in [("etc/file", "text"), ("etc/capable", ""), ("srv/old", "")] {
        std::fs::write(at(name), content).unwrap();
    }
    std::fs::write(top.join(deep).join("n".repeat(200)), "deep").unwrap();
    std::fs::write(top.join(OsStr::from_bytes(b"odd\xfe\nname")), "odd").unwrap();
    std::fs::write(at("srv/zeros"), vec![0; 300_000]).unwrap();
    let sparse = std::fs::File::create(at("srv/sparse")).unwrap();
    sparse.write_all_at(b"data", 1 << 20).unwrap();
    sparse.set_len(3 << 20).unwrap();
    std::fs::hard_link(at("etc/file"), at("etc/hard")).unwrap();
    symlink("/etc/passwd", at("etc/link")).unwrap();
    rustix::fs::mknodat(CWD, at("var/pipe"), FileType::Fifo, Mode::from_raw_mode(0o620), 0).unwrap();
    chown(at("etc/file"), Some(1000), Some(7)).unwrap();
    lchown(at("etc/link"), Some(5), Some(6)).unwrap();
    chown(at("srv"), Some(65535), Some(65534)).unwrap();
    for (name, mode) in [("etc/file", 0o6751), ("srv", 0o1777), ("var", 0o2750)] {
        std::fs::set_permissions(at(name), std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let set = |name: &str, attribute: &str, value: &[u8]| {
        rustix::fs::setxattr(at(name), attribute, value, XattrFlags::empty()).unwrap();
    };
    set("etc/file", "user.note", b"\0binary=\n");
    set("srv", "user.long", &[b'7'; 3000]);
    set("etc/capable", "security.capability", &[&[1, 0, 0, 2, 0, 0x20, 0, 0][..], &[0; 12]].concat());
    let entry = |tag: u16, rights: u16, id: u32| {
        [&tag.to_le_bytes()[..], &rights.to_le_bytes(), &id.to_le_bytes()].concat()
    };
    let none = u32::MAX;
    let list = [(1, 7, none), (2, 5, 1000), (4, 5, none), (8, 4, 7), (16, 5, none), (32, 0, none)];
    let list: Vec<u8> = list.into_iter().flat_map(|(tag, rights, id)| entry(tag, rights, id)).collect();
    let list = [&[2, 0, 0, 0][..], &list].concat();
    set("srv/zeros", "system.posix_acl_access", &list);
    set("var", "system.posix_acl_default", &list);
    for (name, seconds) in [("etc/hard", 1_000_000_000), ("srv/old", -5), ("etc/link", 7), ("srv", 1)] {
        let time = Timespec { tv_sec: seconds, tv_nsec: 123_456_789 };
        let times = Timestamps { last_access: time, last_modification: time };
        rustix::fs::utimensat(CWD, at(name), &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
    }
}

/// Returns everything of the entries of an image: a line each.
fn list(host: &Host, image: &str) -> String {
    list_of(&host.machines().join(image))
}

/// Returns everything of the entries of a tree: a line each.
pub(crate) fn list_of(top: &Path) -> String {
    let (mut lines, mut firsts, mut left) = (Vec::new(), HashMap::new(), vec![top.to_owned()]);
    while let Some(path) = left.pop() {
        let found = path.symlink_metadata().unwrap();
        let name = path.strip_prefix(top).unwrap().to_owned();
        let first = firsts.entry(found.ino()).or_insert_with(|| name.clone()).clone();
        let content = match found.file_type() {
            kind if kind.is_symlink() => path.read_link().unwrap().into_os_string().into_encoded_bytes(),
            kind if kind.is_file() => std::fs::read(&path).unwrap(),
            _ => Vec::new(),
        };
        if found.is_dir() {
            left.extend(path.read_dir().unwrap().map(|entry| entry.unwrap().path()));
            left.sort();
        }
        let size = if found.is_dir() { 0 } else { found.size() };
        let meta = (found.mode(), found.uid(), found.gid(), size, found.mtime(), found.mtime_nsec());
        let sum = content.iter().fold(7u64, |sum, byte| sum.wrapping_mul(31).wrapping_add((*byte).into()));
        lines.push(format!("{name:?} {meta:?} {first:?} {sum} {:?}", attributes(&path)));
    }
    lines.sort();
    lines.join("\n")
}

fn attributes(path: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut names = vec![0; 65536];
    let length = rustix::fs::llistxattr(path, &mut names).unwrap();
    let mut all: Vec<_> = names[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty() && *name != b"security.selinux")
        .map(|name| {
            let mut value = vec![0; 65536];
            let length = rustix::fs::lgetxattr(path, OsStr::from_bytes(name), &mut value).unwrap();
            (name.to_vec(), value[..length].to_vec())
        })
        .collect();
    all.sort();
    all
}

#[track_caller]
pub(crate) fn has_no_drafts(host: &Host) {
    host.sh_ok(
        "! ls -d /run/systemd/nspawn/locks/* /run/systemd/nspawn-uid/* /var/lib/machines/.#* /run/.#* \
         /var/lib/coracle/storage/tmp/* /var/lib/coracle/storage/trash/* 2>/dev/null | grep .",
    );
}

#[track_caller]
pub(crate) fn refused(host: &Host, command: &str, cause: &str) {
    let failed = host.sh(command);
    assert!(failed.status != 0 && failed.stderr.contains(cause), "{failed}");
    has_no_drafts(host);
}

#[test]
fn an_archive_of_debian_boots() {
    let host = host("trixie");
    host.sh_ok("tar --xattrs --acls -C /var/lib/machines/.base -czf /run/web.tar.gz .");
    let imported = host.coracle(&["import", "/run/web.tar.gz"]);
    assert!(imported.starts_with("web: ") && imported.contains(" entries, "), "{imported}");
    has_no_drafts(&host);
    host.coracle(&["start", "web"]);
    host.wait_until(LONG, "coracle exec web -- systemctl is-system-running | grep -x running");
    host.sh_ok("coracle exec web -- sh -c 'echo written >/root/state'");
    // A running machine is paused for a moment, and goes on.
    let exported = host.coracle(&["export", "web", "/run/running.tar"]);
    assert!(exported.contains("(paused "), "{exported}");
    host.sh_ok("coracle exec web -- true; tar -xOf /run/running.tar ./root/state | grep -x written");
    host.sh_ok("! ls /var/lib/coracle/storage/snapshots/web 2>/dev/null");
    has_no_drafts_beside(&host);
    host.coracle(&["stop", "web"]);
    host.assert_clean_stop("web");
    host.stop();
}

/// As [`has_no_drafts`], beside a running machine with its own locks.
#[track_caller]
pub(crate) fn has_no_drafts_beside(host: &Host) {
    host.sh_ok(
        "if find /var/lib/machines /run -maxdepth 1 -name '.#*' -not -name '*.lck' | grep .; then exit 1; fi
         ! ls -d /var/lib/coracle/storage/tmp/* /var/lib/coracle/storage/trash/* 2>/dev/null | grep .",
    );
}

#[test]
fn exported_trees_come_in_again_as_they_were() {
    let host = host("busybox");
    create_tree(&host);
    host.sh_ok("coracle export tree /run/one.tar; cp /run/one.tar /var/lib/machines/.one");
    let expected = list(&host, "tree");
    host.sh_ok("mkdir /var/lib/machines/.in");
    for (program, name) in [("cat", "a"), ("gzip", "b"), ("xz", "c"), ("zstd", "d")] {
        // From outside: the host has gzip only.
        let archive = std::fs::File::open(host.machines().join(".one")).unwrap();
        let compressed = std::fs::File::create(host.machines().join(".in").join(name)).unwrap();
        let status = Command::new(program).stdin(archive).stdout(compressed).status().expect(program);
        assert!(status.success());
        host.sh_ok(&format!("coracle import - {name} </var/lib/machines/.in/{name}"));
        assert_eq!(list(&host, name), expected, "{program}");
        host.sh_ok(&format!("coracle export {name} - | cmp - /run/one.tar; coracle remove {name}"));
    }
    host.sh_ok("echo BZh91AY >/run/two.tar.bz2");
    refused(&host, "coracle import /run/two.tar.bz2", "bzip2 is not installed");
    refused(&host, "coracle export tree /run/two.tar.zst", "zstd is not installed");
    // Another reader has the same tree.
    host.sh_ok("mkdir /var/lib/machines/gnu; tar --xattrs --xattrs-include='*' --acls -C /var/lib/machines/gnu -xpf /run/one.tar");
    assert_eq!(list(&host, "gnu"), expected);
    host.sh_ok("test $(stat -c %b /var/lib/machines/gnu/srv/sparse) -lt 1000; test $(stat -c %s /run/one.tar) -lt 1000000");
    // And an archive of another writer, without negative times, of which not all readers know.
    for format in ["pax", "gnu"] {
        host.sh_ok(&format!(
            "tar --sparse --exclude=./srv/old --format={format} -C /var/lib/machines/tree -cf - . | coracle import - of-{format}"
        ));
        host.sh_ok(&format!(
            "diff -r --no-dereference -x pipe -x old /var/lib/machines/tree /var/lib/machines/of-{format}"
        ));
    }
    host.sh_ok("coracle import /var/lib/machines/tree copied");
    assert_eq!(list(&host, "copied"), expected);
    host.sh_ok(
        "cd /run; coracle export tree t.tar.gz; coracle export tree u.tar.gz; cmp t.tar.gz u.tar.gz
         SOURCE_DATE_EPOCH=0 coracle export tree e.tar; test $(tar -tvf e.tar | grep -cv ' 19[67][0-9]-') = 0
         coracle import --read-only --json t.tar.gz fixed | grep -e digest -e gzip
         if touch /var/lib/machines/fixed/x; then exit 1; fi
         coracle read-only fixed no",
    );
    refused(&host, "coracle export tree /run/one.tar", "'/run/one.tar' exists already");
    refused(&host, "coracle export tree /run/tree", "does not end in a format");
    refused(&host, "coracle import /run/one.tar tree", "image 'tree' exists already");
    host.stop();
}

#[test]
fn stacks_and_snapshots_are_exported_as_one_tree() {
    let host = host("busybox");
    create_tree(&host);
    let expected = list(&host, "tree");
    host.sh_ok(
        "coracle export tree /run/one.tar; coracle snapshot tree first; echo new >/var/lib/machines/tree/new",
    );
    host.sh_ok("coracle export tree@first - | cmp - /run/one.tar; rm /var/lib/machines/tree/new");
    // The root of the stack is a new directory, with another time.
    host.sh_ok("rm /run/one.tar; SOURCE_DATE_EPOCH=0 coracle export tree /run/one.tar");
    host.coracle(&["convert", "tree", "stack"]);
    host.sh_ok("SOURCE_DATE_EPOCH=0 coracle export tree - | cmp - /run/one.tar");
    host.sh_ok(
        "cd /var/lib/machines/tree.mstack; rm -f rw/data/etc/hard; mkdir -p rw/data/etc bind@data
         echo volume >bind@data/file; mkdir -p rw/data/data
         mkdir rw/data/data/below; echo covered >rw/data/data/secret; echo covered >rw/data/data/below/secret
         coracle export tree /run/two.tar; coracle import /run/two.tar two; grep volume /var/lib/machines/two/data/file
         tar -tf /run/two.tar >/run/list; grep -cx ./data/ /run/list | grep -x 1 && ! grep -e secret -e below /run/list",
    );
    assert!(list(&host, "two").len() > expected.len());
    host.stop();
}

/// A header with a right checksum.
fn header(flag: u8, path: &str, link: &str, size: u64) -> Vec<u8> {
    let mut block = vec![0u8; 512];
    let size = format!("{size:011o}");
    for (at, text) in
        [(0, path), (100, "0000755"), (124, &size), (148, "        "), (157, link), (257, "ustar\x0000")]
    {
        block[at..at + text.len()].copy_from_slice(text.as_bytes());
    }
    block[156] = flag;
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

fn file(path: &str) -> Vec<u8> {
    let mut entry = [&header(b'0', path, "", 4)[..], b"evil"].concat();
    entry.resize(1024, 0);
    entry
}

#[test]
fn hostile_archives_are_refused_and_leave_nothing() {
    let host = host("busybox");
    host.sh_ok("mkdir /var/lib/machines/.in; ln -s /var/lib/machines/.in /run/in");
    let write = |name: &str, entries: &[Vec<u8>]| {
        let archive = [entries.concat(), vec![0; 1024]].concat();
        std::fs::write(host.machines().join(".in").join(name), archive).unwrap();
    };
    write("dots.tar", &[file("../../../run/evil")]);
    write("link.tar", &[header(b'2', "a", "/run", 0), file("a/evil")]);
    write("hard.tar", &[header(b'1', "a", "/etc/passwd", 0)]);
    write("root.tar", &[header(b'2', ".", "/run", 0)]);
    write("absolute.tar", &[file("/run/evil"), header(b'3', "null", "", 0)]);
    host.sh_ok("cd /run/in; head -c 2000 link.tar >short.tar; echo text >text.tar; : >empty.tar");
    host.sh_ok("cd /run/in; gzip -k absolute.tar; head -c 90 absolute.tar.gz >cut.tar.gz");
    for (file, cause) in [
        ("dots.tar", "entry 1 '../../../run/evil': its path leads out of the archive"),
        ("link.tar", "entry 2 'a/evil': 'a' above it is not a directory"),
        ("hard.tar", "a hard link to '/etc/passwd', which is not there"),
        ("root.tar", "the root of the archive is not a directory"),
        ("short.tar", "'a' above it is not a directory"),
        ("empty.tar", "the source is empty"),
        ("text.tar", "neither a tar archive nor a disk image"),
        ("cut.tar.gz", "the gzip stream is truncated"),
        ("none.tar", "no such file or directory"),
    ] {
        refused(&host, &format!("coracle import /run/in/{file} web"), cause);
    }
    refused(&host, "coracle import --max-size=3 /run/in/absolute.tar web", "--max-size");
    refused(&host, "coracle import - </run/in/absolute.tar", "standard input has no name");
    refused(&host, "coracle import /var/lib web", "contains the directory of images");
    host.sh_ok("mkdir /run/tree; echo text >/run/tree/a");
    refused(&host, "coracle import --max-size=3 /run/tree web", "the files are larger than 3 bytes");
    // A refusal does not wait for the end of the source.
    host.sh_ok("cd /run/in; mkfifo /run/silent; gzip -k link.tar");
    for file in ["link.tar", "link.tar.gz"] {
        refused(
            &host,
            &format!("exec 3<>/run/silent; cat /run/in/{file} >&3; coracle import - web <&3"),
            "'a' above it is not a directory",
        );
    }
    // Zeros take no space: the ratio of the stream ends it.
    host.sh_ok("head -c 2G /dev/zero | gzip -9 >/run/bomb.gz");
    refused(&host, "coracle import /run/bomb.gz web", "a thousand times larger");
    host.sh_ok(
        "test ! -e /run/evil; coracle import /run/in/absolute.tar web 2>&1 | grep 'left out: 1 device'",
    );
    host.sh_ok("test ! -e /run/evil; test $(cat /var/lib/machines/web/run/evil) = evil; ! ls /var/lib/machines/web/null");
    host.stop();
}

#[test]
fn disk_images_are_imported_and_exported_as_they_are() {
    let host = host("busybox");
    host.sh_ok("mke2fs -q -t ext4 -d /var/lib/machines/.base /run/disk.raw 256M; gzip -1k /run/disk.raw");
    // An image of which the end is missing.
    host.sh_ok("head -c 100M /run/disk.raw >/run/short.raw");
    for import in ["coracle import /run/short.raw short", "coracle import - short </run/short.raw"] {
        refused(&host, import, "its file system (ext4) has 268435456 bytes, and the disk only 104857600");
    }
    let imported = host.coracle(&["import", "/run/disk.raw.gz"]);
    assert!(imported.starts_with("disk: disk image with "), "{imported}");
    host.sh_ok("cmp /run/disk.raw /var/lib/machines/disk.raw; test $(stat -c %b /var/lib/machines/disk.raw) -lt 100000");
    host.sh_ok("coracle export disk /run/out.raw; cmp /run/out.raw /run/disk.raw; coracle export disk - --format=raw.gz | zcat | cmp - /run/disk.raw");
    refused(&host, "coracle export disk /run/out.tar", "a disk image is not exported as an archive");
    host.coracle(&["start", "--wait=running", "disk"]);
    host.coracle(&["stop", "disk"]);
    host.assert_clean_stop("disk");
    host.stop();
}

/// Returns a disk in the format qcow2, version 2, without clusters of zeros.
fn qcow2(disk: &[u8]) -> Vec<u8> {
    const CLUSTER: usize = 1 << 16;
    let mut file = vec![0; 3 * CLUSTER];
    let size = u64::try_from(disk.len()).unwrap();
    let numbers = [(4, 2), (20, 16), (36, 1)];
    let addresses = [(24, size), (40, CLUSTER as u64), (CLUSTER, (2 * CLUSTER as u64) | (1 << 63))];
    file[..4].copy_from_slice(b"QFI\xfb");
    for (at, number) in numbers {
        file[at..at + 4].copy_from_slice(&u32::to_be_bytes(number));
    }
    for (at, address) in addresses {
        file[at..at + 8].copy_from_slice(&u64::to_be_bytes(address));
    }
    for (at, cluster) in
        disk.chunks(CLUSTER).enumerate().filter(|(_, cluster)| cluster.iter().any(|byte| *byte != 0))
    {
        let entry = 2 * CLUSTER + at * 8;
        let address = (file.len() as u64) | (1 << 63);
        file[entry..entry + 8].copy_from_slice(&address.to_be_bytes());
        file.extend_from_slice(cluster);
    }
    file
}

#[test]
fn importd_converts_disk_images_of_another_format() {
    let host = host("busybox");
    host.sh_ok("mke2fs -q -t ext4 -d /var/lib/machines/.base /var/lib/machines/.disk 256M");
    let disk = std::fs::read(host.machines().join(".disk")).unwrap();
    std::fs::write(host.machines().join(".disk.qcow2"), qcow2(&disk)).unwrap();
    host.sh_ok("mv /var/lib/machines/.disk.qcow2 /run/disk.qcow2");
    let imported = host.coracle(&["import", "/run/disk.qcow2"]);
    assert!(
        imported.starts_with("disk: disk image with ") && imported.contains("systemd-importd"),
        "{imported}"
    );
    host.sh_ok("cmp /var/lib/machines/.disk /var/lib/machines/disk.raw");
    host.coracle(&["start", "--wait=running", "disk"]);
    host.coracle(&["stop", "disk"]);
    host.assert_clean_stop("disk");
    refused(&host, "coracle import /run/disk.qcow2", "exists already");
    refused(&host, "coracle import --max-size=1M /run/disk.qcow2 other", "larger than");
    // Not a disk that can be started, and one that importd refuses.
    host.sh_ok("head -c 100 /run/disk.qcow2 >/run/cut.qcow2");
    refused(&host, "coracle import /run/cut.qcow2", "systemd-importd has not converted it");
    host.sh_ok("if ls -d /var/lib/machines/cut* 2>/dev/null; then exit 1; fi; systemctl mask --runtime --now systemd-importd.service dbus-org.freedesktop.import1.service");
    refused(&host, "coracle import /run/disk.qcow2 other", "qemu-img convert -f qcow2");
    host.stop();
}

#[test]
fn the_root_may_be_in_a_directory_of_the_archive() {
    let host = host("busybox");
    host.sh_ok(
        "mkdir -p /run/incus/templates; echo 'architecture: x86_64' >/run/incus/metadata.yaml; cd /run
         mount --bind /var/lib/machines/.base $(mkdir incus/rootfs; echo incus/rootfs)
         tar -C incus -czf unified.tar.gz .; tar -C incus -cf beside.tar rootfs; umount incus/rootfs",
    );
    for file in ["unified.tar.gz", "beside.tar"] {
        let imported = host.coracle(&["import", &format!("/run/{file}")]);
        assert!(imported.contains(", from 'rootfs' in the archive"), "{imported}");
    }
    host.sh_ok(
        "cd /var/lib/machines; test $(stat -f -c %T .) != btrfs || stat -c %i unified beside | grep -cx 256 | grep -x 2",
    );
    has_no_drafts(&host);
    host.coracle(&["start", "--wait=running", "unified", "beside"]);
    host.coracle(&["stop", "unified", "beside"]);
    host.stop();
}

#[test]
fn one_of_two_imports_of_a_name_wins() {
    let host = host("busybox");
    host.sh_ok("cd /var/lib/machines; tar -C .base -cf /run/web.tar .");
    host.sh_ok(
        "for i in 1 2 3; do
             coracle import /run/web.tar web 2>/run/one & coracle import /run/web.tar web 2>/run/two & wait
             cat /run/one /run/two | grep -c -e 'exists already' -e 'is in use by' | grep -x 1
             coracle remove web
         done",
    );
    has_no_drafts(&host);
    host.stop();
}

#[test]
fn a_full_disk_leaves_no_part_of_an_import() {
    let host = Host::builder().start();
    host.sh_ok("head -c 3M /dev/urandom >/run/file; tar -C /run -cf /run/web.tar file");
    for options in ["size=1m", "size=16m,nr_inodes=2"] {
        host.sh_ok(&format!("mount -t tmpfs -o {options} tmpfs /var/lib/machines"));
        for arguments in ["import /run/web.tar web", "import --max-size=1G /run/web.tar web"] {
            let failed = host.sh(&format!("coracle {arguments}"));
            assert!(failed.status != 0 && failed.stderr.contains("cannot import"), "{failed}");
        }
        host.sh_ok("if ls -A /var/lib/machines | grep -v lck; then exit 1; fi; umount /var/lib/machines");
    }
    host.stop();
}
