//! Clones of images: by shared layers and by copies, with an identity of their own, started beside each
//! other, and seen by machinectl.

use crate::archives::has_no_drafts_beside;
use crate::support::Host;

/// Starts a host with the tree `golden` and a store on its disk: the host's own root is an overlay.
fn host() -> Host {
    let host = Host::builder().guest_as("busybox", "golden").on_disk().start();
    host.sh_ok(
        "mkdir -m 700 /var/lib/machines/.storage; mkdir -p /var/lib/coracle
         ln -s /var/lib/machines/.storage /var/lib/coracle/storage
         cd /var/lib/machines/golden; mkdir -p etc/ssh var/lib/systemd
         echo 0123456789abcdef0123456789abcdef >etc/machine-id; echo golden >etc/hostname
         echo seed >var/lib/systemd/random-seed",
    );
    host.activate_machined();
    host
}

/// Moves the tree `golden` below `/usr`: a host in a machine cannot set the immutable flag.
fn make_vendor(host: &Host) {
    host.sh_ok(
        "mv /var/lib/machines/golden /var/lib/machines/.golden; mkdir -p /usr/lib/machines/golden
         mount --bind /var/lib/machines/.golden /usr/lib/machines/golden",
    );
}

#[track_caller]
fn has_no_drafts(host: &Host) {
    host.sh_ok(
        "! ls -d /run/systemd/nspawn/locks/* /var/lib/machines/.#* /var/lib/coracle/storage/tmp/* \
         /var/lib/coracle/storage/trash/* 2>/dev/null | grep .",
    );
}

#[test]
fn a_clone_is_a_machine_of_its_own() {
    let host = host();
    // A writable directory is copied.
    let copied = host.coracle(&["clone", "golden", "copied"]);
    assert!(copied.starts_with("copied: copied "), "{copied}");
    // The store of the tests is on any file system.
    let shares_blocks = copied.contains(", sharing the blocks of 'golden'");
    assert!(shares_blocks != copied.contains("\nhint: 'coracle read-only"), "{copied}");
    make_vendor(&host);
    let cloned = host.coracle(&["clone", "golden", "web"]);
    assert!(cloned.starts_with("web: stack on 'golden' in "), "{cloned}");
    let exact = host.coracle(&["clone", "--exact", "golden", "exact"]);
    assert!(exact.starts_with("exact: stack on 'golden' in "), "{exact}");
    has_no_drafts(&host);
    for name in ["copied", "web", "exact"] {
        host.coracle(&["start", "--wait=running", name]);
    }
    for name in ["copied", "web"] {
        assert_eq!(host.coracle(&["exec", name, "--", "cat", "/etc/hostname"]).trim(), name);
        host.sh_ok(&format!("coracle exec {name} -- sh -c '! test -s /etc/machine-id && ! test -e /var/lib/systemd/random-seed'"));
    }
    assert_eq!(host.coracle(&["exec", "exact", "--", "cat", "/etc/hostname"]).trim(), "golden");
    host.sh_ok("coracle exec exact -- grep 0123456789abcdef /etc/machine-id");
    host.sh_ok("coracle exec web -- sh -c 'echo web >/which; rm /etc/hostname'");
    host.sh_ok("cd /var/lib/machines/.golden; test ! -e which; grep golden etc/hostname");
    clone_running(&host, "web", "stack on the layers of 'web' in ");
    clone_running(&host, "copied", "copied ");
    host.coracle(&["stop", "copied", "web", "exact"]);
    host.assert_clean_stop("web");
    // What the machine has written is shared too, and stays that of the source.
    let layers = host.coracle(&["clone", "web", "other"]);
    assert!(layers.starts_with("other: stack on the layers of 'web' in "), "{layers}");
    host.sh_ok("test $(ls /var/lib/coracle/storage/layers | wc -l) = 1; ! ls -A /var/lib/machines/web.mstack/rw/data | grep .");
    for name in ["web", "other"] {
        host.coracle(&["start", "--wait=running", name]);
        host.sh_ok(&format!("coracle exec {name} -- sh -c 'grep web /which && test ! -e /etc/hostname'"));
    }
    host.sh_ok("coracle exec other -- sh -c 'echo other >/which'; coracle exec web -- grep web /which");
    host.coracle(&["stop", "web", "other"]);
    let refused = host.exec(&["coracle", "clone", "golden", "web"]);
    assert!(refused.status != 0 && refused.stderr.contains("image 'web' exists already"), "{refused}");
    let refused = host.exec(&["coracle", "clone", "none", "new"]);
    assert!(refused.status != 0 && refused.stderr.contains("image 'none' does not exist"), "{refused}");
    has_no_drafts(&host);
    host.stop();
}

#[test]
fn files_that_a_stack_would_lose_are_copied() {
    let host = host();
    host.sh_ok("cd /var/lib/machines/golden; mkdir -p srv/layer; mknod srv/layer/gone c 0 0");
    make_vendor(&host);
    let copied = host.coracle(&["clone", "golden", "web"]);
    assert!(copied.starts_with("web: copied "), "{copied}");
    assert!(
        copied.contains(": a stack would lose 'srv/layer/gone'\nhint: clones are instant without"),
        "{copied}"
    );
    host.sh_ok("test -c /var/lib/machines/web/srv/layer/gone");
    // The same for the files of a snapshot.
    host.coracle(&["snapshot", "web", "s"]);
    let copied = host.coracle(&["clone", "web@s", "db"]);
    assert!(copied.contains(": a stack would lose 'srv/layer/gone'\n"), "{copied}");
    host.sh_ok("test -c /var/lib/machines/db/srv/layer/gone; rm /var/lib/machines/.golden/srv/layer/gone");
    let cloned = host.coracle(&["clone", "golden", "shared"]);
    assert!(cloned.starts_with("shared: stack on 'golden' in "), "{cloned}");
    host.sh_ok("coracle prune; ls /var/lib/coracle/storage/checked | grep .");
    has_no_drafts(&host);
    host.stop();
}

/// Clones a running machine, starts the clone and removes it.
fn clone_running(host: &Host, source: &str, method: &str) {
    host.sh_ok(&format!("coracle exec {source} -- sh -c 'echo before >/state'"));
    let cloned = host.coracle(&["clone", source, "live"]);
    assert!(cloned.starts_with(&format!("live: {method}")), "{cloned}");
    assert!(cloned.contains(&format!(" ('{source}' was paused ")), "{cloned}");
    host.sh_ok(&format!("coracle exec {source} -- sh -c 'echo after >/state'"));
    has_no_drafts_beside(host);
    host.sh_ok(&format!("! ls -A /var/lib/coracle/storage/snapshots/{source} | grep ."));
    host.coracle(&["start", "--wait=running", "live"]);
    host.sh_ok("coracle exec live -- sh -c 'grep before /state && ! test -s /etc/machine-id'");
    host.coracle(&["stop", "live"]);
    host.coracle(&["remove", "live"]);
}

#[test]
fn a_hundred_clones_take_no_space() {
    let host = host();
    make_vendor(&host);
    // A golden tree has no identity that a clone must renew.
    host.sh_ok("cd /var/lib/machines/.golden; rm var/lib/systemd/random-seed; : >etc/machine-id");
    host.sh_ok("for i in $(seq 100); do coracle clone golden c$i || exit 1; done");
    let used = host.sh_ok("du -sck /var/lib/machines/c*.mstack | tail -n1 | cut -f1");
    let used: u32 = used.trim().parse().expect("kilobytes");
    assert!(used <= 100 * 32, "{used}");
    let listed = host.coracle(&["images", "--json"]);
    assert_eq!(listed.matches("\"type\": \"stack\"").count(), 100, "{listed}");
    // At once, on one source.
    host.sh_ok(
        "pids=; for i in $(seq 20); do coracle clone golden p$i & pids=\"$pids $!\"; done
         for pid in $pids; do wait $pid || exit 1; done",
    );
    for name in ["c1", "c100", "p7"] {
        host.coracle(&["start", "--wait=running", name]);
    }
    host.coracle(&["stop", "c1", "c100", "p7"]);
    has_no_drafts(&host);
    host.stop();
}

#[test]
fn a_read_only_clone_has_no_writable_layer() {
    let host = host();
    make_vendor(&host);
    let cloned = host.coracle(&["clone", "--read-only", "golden", "base"]);
    assert!(cloned.starts_with("base: stack on 'golden' in "), "{cloned}");
    host.sh_ok("cd /var/lib/machines/base.mstack; ls; test ! -e rw; grep base layer@1/etc/hostname");
    assert!(host.coracle(&["images", "--json", "base"]).contains("\"read-only\": true"));
    // Any number of clones on it.
    for name in ["one", "two"] {
        host.coracle(&["clone", "base", name]);
        host.coracle(&["start", "--wait=running", name]);
        assert_eq!(host.coracle(&["exec", name, "--", "cat", "/etc/hostname"]).trim(), name);
    }
    host.coracle(&["stop", "one", "two"]);
    has_no_drafts(&host);
    host.stop();
}

#[test]
fn a_converted_machine_boots() {
    let host = host();
    let list = "list() { (cd \"$1\" && find . -printf '%P %y %m %U:%G %s %l\\n' | sort && find . -type f -exec md5sum {} + | sort); }";
    host.sh_ok(&format!("{list}; list /var/lib/machines/golden >/tmp/before"));
    assert_eq!(host.coracle(&["convert", "golden", "stack"]), "golden: stack, its directory was moved\n");
    assert_eq!(host.coracle(&["verify", "golden"]), "golden: no problems found\n");
    let cloned = host.coracle(&["clone", "golden", "web"]);
    assert!(cloned.starts_with("web: stack on the layers of 'golden' in "), "{cloned}");
    for name in ["golden", "web"] {
        host.coracle(&["start", "--wait=running", name]);
    }
    let refused = host.exec(&["coracle", "convert", "golden", "directory"]);
    assert!(refused.status != 0 && refused.stderr.contains("in use by machine 'golden'"), "{refused}");
    host.sh_ok("coracle exec web -- sh -c 'echo new >/new; rm -r /etc/ssh'");
    host.coracle(&["stop", "golden", "web"]);
    host.sh_ok("rm -rf /var/lib/machines/golden.mstack/rw");
    let converted = host.coracle(&["convert", "golden", "directory"]);
    assert!(converted.starts_with("golden: directory, copied"), "{converted}");
    host.sh_ok(&format!("{list}; list /var/lib/machines/golden | diff /tmp/before -"));
    assert!(host.coracle(&["convert", "web", "directory"]).starts_with("web: directory, copied"));
    host.sh_ok("cd /var/lib/machines/web; grep new new; test ! -e etc/ssh; ! ls -d ../*.mstack");
    // The layers without users are removed with the last stack.
    host.sh_ok("! ls -A /var/lib/coracle/storage/layers | grep .");
    host.sh_ok("mkdir -p /var/lib/coracle/storage/layers/1/tree");
    // The space of empty directories depends on the file system.
    assert!(host.coracle(&["prune", "--dry-run"]).starts_with("layer 1 is not used ("));
    assert!(host.coracle(&["prune"]).starts_with("layer 1 removed ("));
    assert_eq!(host.coracle(&["prune"]), "");
    for name in ["golden", "web"] {
        host.coracle(&["start", "--wait=running", name]);
    }
    host.coracle(&["stop", "golden", "web"]);
    has_no_drafts(&host);
    host.stop();
}

#[test]
fn a_snapshot_can_be_cloned() {
    let host = host();
    host.coracle(&["snapshot", "golden", "one"]);
    host.sh_ok("echo late >/var/lib/machines/golden/late");
    let cloned = host.coracle(&["clone", "golden@one", "web"]);
    assert!(cloned.starts_with("web: stack on 'golden@one' in "), "{cloned}");
    for verb in
        [&["snapshot", "--remove", "golden", "one"][..], &["remove", "golden"], &["rename", "golden", "new"]]
    {
        let refused = host.exec(&[&["coracle"], verb].concat());
        assert!(
            refused.status != 0 && refused.stderr.contains("web.mstack' stands on"),
            "{verb:?} {refused}"
        );
    }
    host.coracle(&["start", "--wait=running", "web"]);
    host.sh_ok("coracle exec web -- sh -c '! test -e /late && grep web /etc/hostname'");
    host.coracle(&["stop", "web"]);
    // A clone of a snapshot of a stack stands on its layers.
    host.coracle(&["snapshot", "web", "two"]);
    let cloned = host.coracle(&["clone", "web@two", "copy"]);
    assert!(cloned.starts_with("copy: stack on the layers of 'web@two' in "), "{cloned}");
    host.coracle(&["snapshot", "--remove", "web", "two"]);
    host.coracle(&["remove", "web"]);
    host.coracle(&["start", "--wait=running", "copy"]);
    host.coracle(&["stop", "copy"]);
    host.coracle(&["remove", "copy"]);
    host.sh_ok("! ls -A /var/lib/coracle/storage/layers | grep .");
    host.coracle(&["remove", "golden"]);
    let refused = host.exec(&["coracle", "clone", "golden@one", "web"]);
    assert!(refused.status != 0 && refused.stderr.contains("snapshot 'one' does not exist"), "{refused}");
    has_no_drafts(&host);
    host.stop();
}
