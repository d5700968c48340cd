//! `snapshot` and `rollback` on ext4, XFS and Btrfs, and on a full disk.

use crate::snapshots::{has_no_drafts, tags};
use crate::support::{Host, LONG, program};

/// The file systems of the tests below, with the method of a snapshot of a directory on them.
const FILE_SYSTEMS: [(&str, &str); 3] =
    [("ext4", "copied "), ("xfs", "a copy with shared blocks"), ("btrfs", "a snapshot of the subvolume")];

/// Starts a host whose images and store are on a file system of this kind: a directory `base`, on Btrfs a
/// subvolume, and a stack `web` on a copy of it.
fn host_on(kind: &str) -> Host {
    let host = Host::builder().guest_as("busybox", "base").on_disk().start();
    host.add_disk(kind, "/mnt");
    host.sh_ok(
        "if [ $(stat -f -c %T /mnt) = btrfs ]; then
             echo v /mnt/base 0755 root root - | SYSTEMD_TMPFILES_FORCE_SUBVOL=1 systemd-tmpfiles --create -
         fi
         cp -a /var/lib/machines/base /mnt; mkdir -m 700 /mnt/.storage
         cp -a /mnt/base /mnt/.lower; mkdir -p /mnt/web.mstack/rw; ln -s ../.lower /mnt/web.mstack/layer@0
         umount /mnt; mount /var/tmp/disk /var/lib/machines; chmod 700 /var/lib/machines
         mkdir -p /var/lib/coracle; ln -s /var/lib/machines/.storage /var/lib/coracle/storage",
    );
    host.activate_machined();
    host
}

/// A line for each file of a tree: name, kind, mode, owner, size, time and content.
const LIST: &str = "list() { (cd \"$1\" && find . -printf '%P %y %m %U:%G %s %l %T@\\n' | sort && \
                    find . -type f -exec md5sum {} + | sort); }";

#[test]
fn directories_are_saved_on_every_file_system() {
    for (kind, method) in FILE_SYSTEMS {
        let host = host_on(kind);
        let base = "/var/lib/machines/base";
        host.sh_ok(&format!(
            "{LIST}; cd {base}; mkdir odd; mkfifo odd/fifo; mknod odd/device c 0 0; truncate -s 64M odd/hole
             dd if=/dev/urandom of=odd/data bs=1M count=8 2>/dev/null; chown 1000:7 odd; touch -d @1.5 odd
             list {base} >/tmp/one"
        ));
        let said = host.coracle(&["snapshot", "base", "one"]);
        assert!(said.starts_with(&format!("base: snapshot 'one': {method}")), "{kind}: {said}");
        host.sh_ok(&format!("rm -r {base}/odd; echo two >{base}/state"));
        // Running, with changes while it is copied.
        host.coracle(&["start", "base"]);
        host.sh_ok("coracle exec base -- sh -c 'echo three >/state; (while :; do date >/new; mv /new /clock; done) >/dev/null 2>&1 &'");
        host.wait_until(LONG, "coracle exec base -- test -s /clock");
        let said = host.coracle(&["snapshot", "base", "live"]);
        assert!(said.contains(method) && said.contains(" (paused "), "{kind}: {said}");
        host.coracle(&["stop", "base"]);
        host.assert_clean_stop("base");
        let said = host.coracle(&["rollback", "base", "one"]);
        assert!(said.contains(method) && said.contains("before-rollback-"), "{kind}: {said}");
        host.sh_ok(&format!("{LIST}; list {base} | diff /tmp/one -"));
        host.coracle(&["rollback", "--discard", "base", "live"]);
        host.sh_ok(&format!("grep three {base}/state; test -s {base}/clock; test ! -e {base}/odd"));
        host.coracle(&["start", "base"]);
        host.coracle(&["stop", "base"]);
        for tag in tags(&host, "base") {
            host.coracle(&["snapshot", "--remove", "base", &tag]);
        }
        host.sh_ok("test ! -e /var/lib/machines/.storage/snapshots/base");
        has_no_drafts(&host);
        host.stop();
    }
}

/// Asserts that files of `mapped.c` are from one moment.
#[track_caller]
fn are_of_one_moment(host: &Host, directory: &str) {
    let values = host.sh_ok(&format!("cd {directory}; for file in ??; do od -An -N8 -tu8 $file; done"));
    let values: Vec<u64> = values.lines().map(|line| line.trim().parse().expect(line)).collect();
    let (first, last) = (values[0], values[values.len() - 1]);
    assert!(values.len() == 20 && values.is_sorted_by(|a, b| a >= b) && first - last <= 1, "{values:?}");
}

#[test]
fn mapped_files_are_saved_as_of_one_moment() {
    for (kind, _) in FILE_SYSTEMS {
        let host = host_on(kind);
        std::fs::copy(program::build("tests/hosts/mapped.c", &[]), host.machines().join("mapped"))
            .expect("copy the program");
        host.sh_ok(
            "umount /var/lib/machines; mv /var/lib/machines/mapped /run; mount /var/tmp/disk /var/lib/machines
             mkdir -p /var/lib/machines/web.mstack/rw/data
             for top in base web.mstack/rw/data; do cd /var/lib/machines/$top; cp /run/mapped .; mkdir m
             dd if=/dev/urandom of=data bs=1M count=16 2>/dev/null; done",
        );
        for name in ["base", "web"] {
            host.coracle(&["start", name]);
            host.sh_ok(&format!("coracle exec {name} -- sh -c '/mapped /m >/dev/null 2>&1 &'"));
            host.wait_until(LONG, &format!("coracle exec {name} -- test -e /m/ready"));
            for tag in ["one", "two", "three"] {
                host.coracle(&["snapshot", name, tag]);
            }
            host.coracle(&["stop", name]);
            for tag in ["one", "two", "three"] {
                host.coracle(&["rollback", "--discard", name, tag]);
                let run = format!("-q -x -D /var/lib/machines/{name}");
                let run = if name == "web" { "-q --mstack=/var/lib/machines/web.mstack" } else { &run };
                host.sh_ok(&format!(
                    "mkdir -p /run/m; coracle run {run} --bind=/run/m:/out sh -c 'cp /m/?? /out'"
                ));
                are_of_one_moment(&host, "/run/m");
            }
        }
        host.stop();
    }
}

#[test]
fn stacks_are_saved_on_every_file_system() {
    for (kind, _) in FILE_SYSTEMS {
        let host = host_on(kind);
        let run = |command: &str| {
            host.sh_ok(&format!(
                "coracle run -q --mstack=/var/lib/machines/web.mstack -M web sh -c '{command}'"
            ))
        };
        run(
            "echo one >/state; rm -r /etc; mkdir /etc; mv /bin/busybox /bin/busybox.old; cp /bin/busybox.old /bin/busybox",
        );
        assert_eq!(
            host.coracle(&["snapshot", "web", "one"]),
            "web: snapshot 'one': shared layers\n",
            "{kind}"
        );
        run("echo two >/state; touch /etc/new");
        host.coracle(&["rollback", "--discard", "web"]);
        assert_eq!(run("cat /state; ls -A /etc; test -x /bin/busybox.old"), "one\n", "{kind}");
        has_no_drafts(&host);
        host.stop();
    }
}

#[test]
fn a_full_disk_leaves_the_image_and_no_draft() {
    let host = host_on("ext4");
    let base = "/var/lib/machines/base";
    host.sh_ok(&format!(
        "dd if=/dev/urandom of={base}/data bs=1M count=64 2>/dev/null; coracle snapshot base one
         echo two >{base}/state; mkdir -p /var/lib/machines/web.mstack/rw/data; echo two >/var/lib/machines/web.mstack/rw/data/state"
    ));
    // First no blocks, then no inodes.
    for fill in [
        "mkdir fill; fallocate -l $(df --output=avail -B1 . | tail -n1) fill/0
         n=1; while fallocate -l 4M fill/$n 2>/dev/null; do n=$((n + 1)); done; rm fill/1",
        "rm -r fill; mkdir fill; cd fill; seq $(df --output=iavail . | tail -n1) | xargs touch 2>/dev/null || true",
    ] {
        host.exec_for(LONG, &["sh", "-euc", &format!("cd /var/lib/machines; {fill}")])
            .success("filling the disk");
        host.sh_ok(&format!("{LIST}; list {base} >/tmp/before"));
        for verb in ["snapshot base two", "rollback base one", "rollback --discard base one"] {
            let failed = host.sh(&format!("coracle {verb}"));
            assert!(
                failed.status != 0 && failed.stderr.contains("no space left on device"),
                "{verb}: {failed}"
            );
            host.sh_ok(&format!("{LIST}; list {base} | diff /tmp/before -"));
            has_no_drafts(&host);
        }
        assert_eq!(tags(&host, "base"), ["one"]);
    }
    host.sh_ok("rm -r /var/lib/machines/fill");
    host.coracle(&["rollback", "base", "one"]);
    host.sh_ok(&format!("test ! -e {base}/state"));
    host.stop();
}
