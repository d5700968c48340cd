//! `coracle copy-to` and `copy-from`: attributes of a tree copied across the id map, archives, attacks of a
//! hostile guest on a copy, and interrupted copies.

use std::time::Duration;

use crate::support::{Host, LONG, Snapshot};

fn host() -> Host {
    let host = Host::start(&["trixie"]);
    host.ok(&["coracle", "start", "trixie"]);
    host
}

/// A script that creates a tree with the file types and attributes that can be copied.
const TREE: &str = "mkdir -p /var/lib/machines/t/d/e && cd /var/lib/machines/t && echo text >f && chown 1000:1001 f && chmod 4750 f && \
    touch -d '2001-02-03 04:05:06.123456789' f && ln f d/hard && ln -s /etc/passwd d/link && mkfifo -m 622 d/pipe && touch -d '2003-03-03' d/pipe && \
    truncate -s 200M sparse && echo end >>sparse && chmod 1777 d && \
    chmod 500 d/e && touch 'with space' && chown -h 33:33 d/link && touch -d '2002-02-02' d";

/// The name of an extended attribute.
const NOTE: &str = "user.note";

/// Creates the tree and sets its extended attribute, for which the host has no tool.
fn make_tree(host: &Host) {
    host.sh_ok(TREE);
    let directory = host.machines().join("t/d");
    rustix::fs::setxattr(directory, NOTE, b"a b", rustix::fs::XattrFlags::empty()).expect("set an attribute");
}

/// Returns the extended attribute of a path below the host's `/var/lib/machines`.
fn note(host: &Host, path: &str) -> String {
    let mut value = [0u8; 64];
    let length =
        rustix::fs::getxattr(host.machines().join(path), NOTE, &mut value[..]).expect("an attribute");
    String::from_utf8_lossy(&value[..length]).into_owned()
}

/// A script that prints the attributes of each file of the tree, and `sparse` if the file is still sparse.
const LOOK: &str = "find . -printf '%p %y %m %U %G %n %s %l %Ts\\n' | sort; [ $(stat -c %b sparse) -lt 1000 ] && echo sparse";

#[test]
fn a_copied_tree_is_identical() {
    let host = host();
    make_tree(&host);
    let there = host.sh_ok(&format!("cd /var/lib/machines/t && {LOOK}"));
    // The targets are on the idmapped root and on file systems mounted by the guest.
    for target in ["/srv/there", "/tmp/there", "/run/there"] {
        host.ok(&["coracle", "copy-to", "trixie", "/var/lib/machines/t", target]);
        let inside = host.ok(&[
            "coracle",
            "exec",
            "trixie",
            "-w",
            target,
            "--",
            "sh",
            "-c",
            "find . -printf '%p %y %m %U %G %n %s %l %Ts\\n' | sort",
        ]);
        let expected: String =
            there.lines().filter(|line| line.starts_with('.')).map(|line| format!("{line}\n")).collect();
        // The size of a directory depends on its file system and is not compared.
        let plain = |text: &str| -> Vec<String> {
            text.lines()
                .map(|line| {
                    let mut words: Vec<&str> = line.split(' ').collect();
                    if line.contains(" d ") {
                        words.remove(words.len() - 3);
                    }
                    words.join(" ")
                })
                .collect()
        };
        assert_eq!(plain(&inside), plain(&expected), "{target}");
        let blocks =
            host.ok(&["coracle", "exec", "trixie", "--", "stat", "-c", "%b", &format!("{target}/sparse")]);
        assert!(blocks.trim().parse::<u64>().expect("a number") < 1000, "{blocks}");
        // A copy back to the host keeps all attributes except the set-user-ID bit.
        host.ok(&["coracle", "copy-from", "trixie", target, "/var/lib/machines/back"]);
        let back = host.sh_ok(&format!("cd /var/lib/machines/back && {LOOK}"));
        assert_eq!(plain(&back), plain(&there.replace(" 4750 ", " 750 ")), "{target}");
        assert_eq!(note(&host, "back/d"), "a b", "{target}");
        host.sh_ok(
            "rm -rf /var/lib/machines/back; ls -A /srv /run /tmp | grep coracle-copy && exit 1 || true",
        );
    }
    host.stop();
}

#[test]
fn names_are_resolved_inside_and_kept() {
    let host = host();
    host.sh_ok("echo one >/tmp/one; echo two >/tmp/two");
    // In an existing directory, the copy has the name of the source; the default target is the source path.
    host.ok(&["coracle", "copy-to", "trixie", "/tmp/one", "/srv"]);
    host.ok(&["coracle", "copy-to", "trixie", "/tmp/one"]);
    assert_eq!(host.ok(&["coracle", "exec", "trixie", "--", "cat", "/srv/one", "/tmp/one"]), "one\none\n");
    let taken = host.exec(&["coracle", "copy-to", "trixie", "/tmp/two", "/srv/one"]);
    assert!(
        taken.status == 1 && taken.stderr.contains("already") && taken.stderr.contains("--force"),
        "{taken}"
    );
    host.ok(&["coracle", "copy-to", "--force", "trixie", "/tmp/two", "/srv/one"]);
    assert_eq!(host.ok(&["coracle", "exec", "trixie", "--", "cat", "/srv/one"]), "two\n");
    for words in [["/no/such", "/srv/x"], ["/tmp/one", "/no/such/x"]] {
        let out = host.exec(&[&["coracle", "copy-to", "trixie"], &words[..]].concat());
        assert!(out.status == 1 && out.stderr.contains("/no/such"), "{out}");
    }
    // Symbolic links of the guest are resolved inside the guest.
    host.ok(&[
        "coracle",
        "exec",
        "trixie",
        "--",
        "sh",
        "-c",
        "ln -s /etc /srv/out; ln -s ../../../../../etc/machine-id /srv/up",
    ]);
    host.ok(&["coracle", "copy-to", "trixie", "/tmp/one", "/srv/out/canary"]);
    assert_eq!(host.ok(&["coracle", "exec", "trixie", "--", "cat", "/etc/canary"]), "one\n");
    host.sh_ok("[ ! -e /etc/canary ]");
    host.ok(&["coracle", "copy-from", "trixie", "/srv/up", "/tmp/followed"]);
    assert_eq!(
        host.read("/tmp/followed"),
        host.ok(&["coracle", "exec", "trixie", "--", "cat", "/etc/machine-id"])
    );
    host.ok(&["coracle", "copy-from", "-P", "trixie", "/srv/up", "/tmp/up"]);
    assert_eq!(host.ok(&["readlink", "/tmp/up"]), "../../../../../etc/machine-id\n");
    host.stop();
}

#[test]
fn a_tree_that_changes_during_a_copy_does_not_escape() {
    let host = host();
    host.sh_ok(
        "mkdir -p /srv/t/a/b/c; for n in $(seq 300); do echo canary >/srv/t/a/b/c/canary$n; done; \
                echo secret >/root/secret; chmod 600 /root/secret",
    );
    // The guest replaces copied directories with links to paths of the host in a tight loop.
    let script = "mkdir -p /srv/x /srv/src/d; echo mine >/srv/src/d/secret; cd /srv; while :; do \
        for t in /srv/x/.coracle-copy-*; do mv $t/a $t/z 2>/dev/null && ln -s /etc $t/a; done; \
        mv src/d src/z; ln -s /root src/d; rm src/d; mv src/z src/d; done";
    let mut job = host.spawn(&["coracle", "exec", "trixie", "--", "sh", "-c", script]);
    host.wait_until(Duration::from_secs(10), "coracle exec trixie -- ls /srv/src/d/secret");
    for round in 0..15 {
        host.exec(&["coracle", "copy-to", "trixie", "/srv/t", &format!("/srv/x/r{round}")]);
        host.sh("rm -rf /srv/got; coracle copy-from trixie /srv/src /srv/got");
        let out = host.sh("find /srv/got -type f -exec cat {} +");
        assert!(!out.stdout.contains("secret"), "{out}");
    }
    job.kill();
    host.sh_ok("! ls /etc | grep canary");
    host.stop();
}

#[test]
fn archives_are_copied_both_ways() {
    let host = host();
    make_tree(&host);
    host.sh_ok("tar --xattrs -C /var/lib/machines/t -c . | coracle copy-to trixie - /srv");
    let inside = host.ok(&[
        "coracle",
        "exec",
        "trixie",
        "-w",
        "/srv",
        "--",
        "stat",
        "-c",
        "%n %a %u %g %h",
        "f",
        "d",
        "d/e",
    ]);
    assert_eq!(inside, "f 4750 1000 1001 2\nd 1777 0 0 3\nd/e 500 0 0 2\n");
    let again = host.sh("tar -C /var/lib/machines/t -c . | coracle copy-to trixie - /srv");
    assert!(again.status == 1 && again.stderr.contains("already"), "{again}");
    host.sh_ok("mkdir /var/lib/machines/u && coracle copy-from trixie /srv - | tar --xattrs -x -C /var/lib/machines/u");
    host.sh_ok(
        "cmp /var/lib/machines/t/sparse /var/lib/machines/u/srv/sparse; [ /var/lib/machines/u/srv/f -ef /var/lib/machines/u/srv/d/hard ]");
    assert_eq!((note(&host, "trixie/srv/d"), note(&host, "u/srv/d")), ("a b".into(), "a b".into()));
    // Compressed archives, and damaged ones, which leave nothing.
    host.sh_ok(
        "tar --xattrs -C /var/lib/machines/t -c . | gzip | coracle copy-to trixie - /opt
         coracle exec trixie -- sh -ec 'cmp /srv/sparse /opt/sparse; test /opt/f -ef /opt/d/hard'",
    );
    let damaged =
        host.sh("tar -C /var/lib/machines/t -c . | gzip | head -c 150 | coracle copy-to trixie - /mnt");
    assert!(damaged.status == 1 && damaged.stderr.contains("the gzip stream is truncated"), "{damaged}");
    assert_eq!(host.ok(&["coracle", "exec", "trixie", "--", "ls", "-A", "/mnt"]), "");
    // Archives with paths outside the target, or with writes through their own links, are refused.
    host.sh_ok(
        "mkdir -p /srv/v/in && cd /srv/v/in && echo bad >../canary && tar -P -cf ../up.tar ../canary && ln -s /etc way && \
         tar -cf ../way.tar way && rm way && mkdir way && echo bad >way/canary && tar -rf ../way.tar way/canary",
    );
    for archive in ["up", "way"] {
        let make = "coracle exec trixie -- mkdir -p /srv/w";
        let out = host.sh(&format!("{make}; coracle copy-to trixie - /srv/w </srv/v/{archive}.tar"));
        assert_eq!(out.status, 1, "{out}");
        assert_eq!(host.ok(&["coracle", "exec", "trixie", "--", "ls", "-A", "/srv/w"]), "", "{out}");
    }
    host.sh_ok("[ ! -e /etc/canary ]; coracle exec trixie -- sh -c '[ ! -e /etc/canary ]'");
    host.stop();
}

#[test]
fn an_interrupted_copy_is_removed() {
    let host = Host::start(&["trixie"]);
    host.activate_machined();
    let before = Snapshot::take(&host);
    host.ok(&["coracle", "start", "trixie"]);
    host.sh_ok("mkdir /srv/big; dd if=/dev/zero of=/srv/big/one bs=1M count=400 2>/dev/null");
    let left = "coracle exec trixie -- ls -A /tmp | grep -c coracle-copy";
    let begin =
        format!("coracle copy-to trixie /srv/big /tmp/big & p=$!; until {left} >/dev/null; do :; done");
    for signal in ["INT", "TERM"] {
        let out = host.sh(&format!("{begin}; kill -{signal} $p; wait $p"));
        assert!(out.status == 1 && out.stderr.contains("interrupted"), "{out}");
        assert!(!host.ok(&["coracle", "exec", "trixie", "--", "ls", "-A", "/tmp"]).contains("big"));
        assert!(!host.ok(&["coracle", "exec", "trixie", "--", "ls", "-A", "/tmp"]).contains("coracle"));
    }
    // If a copy is killed, its child in the guest removes the partial copy. If the child is killed too, the
    // next copy removes it.
    let begin = format!("{begin}; kill -STOP $p");
    host.sh(&format!("{begin}; kill -KILL $p; wait $p"));
    host.wait_until(Duration::from_secs(10), &format!("! {left}"));
    host.sh(&format!("{begin}; kill -KILL $(pgrep -P $p) $p; wait $p"));
    assert_eq!(host.sh(left).stdout, "1\n");
    let out = host.exec(&["coracle", "copy-to", "trixie", "/etc/passwd", "/tmp/name"]);
    assert!(out.status == 0 && out.stderr.contains("of a killed copy"), "{out}");
    assert_eq!(host.sh(left).stdout, "0\n");
    host.ok(&["coracle", "exec", "trixie", "--", "rm", "/tmp/name"]);
    // The progress is shown on a terminal.
    let seen = host.exec_on_tty(Duration::from_secs(60), "coracle copy-to trixie /srv/big /srv/big");
    assert!(seen.status == 0 && seen.stdout.contains("M copi"), "{seen}");
    host.sh_ok("rm -r /srv/big; coracle stop trixie");
    before.assert_same(&host);
    host.stop();
}

#[test]
fn a_copy_removes_only_files_of_the_guest() {
    let host = Host::start(&["trixie"]);
    host.sh_ok("mkdir -p /srv/share/data && echo rows >/srv/share/data/db && echo hello >/tmp/hello");
    host.define("trixie", "[[mount]]\nsource = \"/srv/share\"\ntarget = \"/srv/share\"\n");
    host.coracle(&["start", "trixie"]);
    let kept = "[ \"$(cat /srv/share/data/db)\" = rows ]";
    assert_ne!(host.in_guest("trixie", &["rm", "/srv/share/data/db"]).status, 0);
    // The bind mount of the host's directory is named like the remainder of a killed copy.
    let namespace = host.sh_ok("printf %x $(stat -Lc %i /proc/self/ns/pid)");
    let trap = format!(
        "t=/root/.coracle-copy-{}-7ffffff0-1-0; mkdir $t && mount --bind /srv/share $t",
        namespace.trim()
    );
    host.in_guest("trixie", &["sh", "-c", &trap]).success("set the trap");
    host.ok(&["coracle", "copy-to", "trixie", "/tmp/hello", "/root/hello"]);
    host.sh_ok(kept);
    // The bind mount is inside a directory that is replaced.
    let trap =
        "rm /root/hello; mkdir -p /root/hello/in /root/hello/zz; mount --bind /srv/share /root/hello/in";
    host.in_guest("trixie", &["sh", "-c", trap]).success("set the trap");
    let out = host.exec(&["coracle", "copy-to", "--force", "trixie", "/tmp/hello", "/root"]);
    assert!(
        out.status == 0 && out.stderr.contains("cannot remove") && out.stderr.contains("another mount"),
        "{out}"
    );
    host.sh_ok(kept);
    assert_eq!(host.in_guest("trixie", &["cat", "/root/hello"]).stdout, "hello\n");
    // A copy cannot write to files that the guest's root cannot write.
    let out = host.exec(&["coracle", "copy-to", "trixie", "/tmp/hello", "/srv/share/data/new"]);
    assert_eq!(out.status, 1, "{out}");
    let out = host.exec(&["coracle", "copy-to", "--force", "trixie", "/tmp/hello", "/srv/share/data/db"]);
    assert_eq!(out.status, 1, "{out}");
    // A copy cannot read files that the guest's root cannot read.
    host.sh_ok("chmod 600 /srv/share/data/db");
    let out = host.exec(&["coracle", "copy-from", "trixie", "/srv/share/data/db", "/tmp/db"]);
    assert_eq!(out.status, 1, "{out}");
    host.sh_ok(&format!("{kept}; [ ! -e /tmp/db ]; [ ! -e /srv/share/data/new ]"));
    host.stop();
}

#[test]
fn files_are_copied_beyond_their_reported_size() {
    let host = host();
    host.sh_ok("coracle copy-from trixie /proc/version /tmp/version && cmp /tmp/version /proc/version");
    host.sh_ok("coracle copy-from trixie /proc/version - | tar -xOf - version | cmp - /proc/version");
    // The file is larger than one read, and its size is unknown.
    host.sh_ok(
        "coracle copy-from trixie /proc/filesystems - | tar -xOf - filesystems | cmp - /proc/filesystems",
    );
    host.sh_ok("coracle copy-to trixie /proc/sys/kernel/ostype /root/ostype");
    assert_eq!(host.ok(&["coracle", "exec", "trixie", "--", "cat", "/root/ostype"]), "Linux\n");
    host.sh_ok("coracle copy-to trixie /proc/filesystems /root/f; coracle exec trixie -- cat /root/f | cmp - /proc/filesystems");
    let order = "/sys/kernel/cpu_byteorder";
    host.sh_ok(&format!("coracle copy-from trixie {order} /tmp/order && cmp /tmp/order {order}"));
    host.sh_ok(&format!("coracle copy-from trixie {order} - | tar -xOf - cpu_byteorder | cmp - {order}"));
    host.stop();
}

#[test]
fn mounts_on_an_overlay_are_other_file_systems() {
    let host = host();
    // Files and directories of an overlay with layers on different file systems have different devices.
    host.sh_ok(
        "mkdir /run/low /run/up /srv/both; mount -t tmpfs low /run/low; mount -t tmpfs up /run/up
         mkdir -p /run/low/d /run/up/d /run/up/work; echo low >/run/low/d/low; echo up >/run/up/new
         mkdir /run/up/layer; mv /run/up/new /run/up/layer
         mount -t overlay both -o lowerdir=/run/low,upperdir=/run/up/layer,workdir=/run/up/work /srv/both
         mkdir /srv/both/other; mount -t tmpfs other /srv/both/other; touch /srv/both/other/file",
    );
    let out = host.exec(&["coracle", "copy-to", "trixie", "/srv/both", "/srv/both"]).success("copy");
    assert!(out.stderr.contains("'other': it is on another file system"), "{out}");
    let list = "cd /srv/both; find . -type f | sort";
    assert_eq!(host.ok(&["coracle", "exec", "trixie", "--", "sh", "-c", list]), "./d/low\n./new\n");
    host.sh_ok("umount /srv/both/other /srv/both /run/low /run/up");
    host.stop();
}

#[test]
fn the_cause_of_a_failed_copy_is_reported() {
    let host = host();
    for (line, causes) in [
        // Opened, and not readable from its begin; without a security module.
        ("copy-from trixie /proc/1/attr/current /tmp/mem", ["cannot copy the source", "invalid argument"]),
        ("copy-to trixie /proc/1/mem /tmp/mem", ["cannot copy the source", "input/output error"]),
        ("copy-from trixie /proc/1 /tmp/mem", ["cannot copy '", "invalid argument"]),
        ("copy-to trixie /dev/null /tmp/null", ["devices and sockets", "are not copied"]),
        ("copy-from trixie /dev/null /tmp/null", ["devices and sockets", "are not copied"]),
        ("copy-to trixie /etc/passwd /proc/file", ["cannot create the destination", "no such file"]),
    ] {
        let out = host.sh(&format!("coracle {line}"));
        assert!(out.status == 1 && causes.iter().all(|cause| out.stderr.contains(cause)), "{out}");
        assert_eq!(host.sh("ls -A /tmp | grep -e mem -e null -e coracle").stdout, "", "{line}");
    }
    host.stop();
}

#[test]
fn an_ignored_hangup_does_not_interrupt_a_copy() {
    let host = host();
    host.sh_ok("mkfifo /run/archive; tar c -C /etc passwd >/run/whole.tar");
    let mut job = host.spawn(&["nohup", "sh", "-c", "exec coracle copy-to trixie - /tmp </run/archive"]);
    // The signal comes in the middle of the archive.
    host.sh_ok(
        "{ dd bs=512 count=1 2>/dev/null; until pkill -HUP -f '^coracle copy-to'; do :; done; cat; } \
             </run/whole.tar >/run/archive",
    );
    assert_eq!(job.wait_for_exit(LONG), 0, "{}", job.stderr());
    host.sh_ok("coracle exec trixie -- cat /tmp/passwd | cmp - /etc/passwd");
    host.stop();
}
