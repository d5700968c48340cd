//! Users of images and layers: the verbs that remove or change them refuse while there is a user,
//! wherever it is, and whatever its machine has done so far.

use crate::image_verbs::has_immutable_flag;
use crate::support::Host;

/// Starts a host with a small tree `base`, and the store on the file system of the images.
fn host() -> Host {
    let host = Host::builder().guest_as("busybox", "base").on_disk().start();
    host.sh_ok(
        "mkdir -m 700 /var/lib/machines/.storage; mkdir -p /var/lib/coracle
         ln -s /var/lib/machines/.storage /var/lib/coracle/storage",
    );
    host
}

/// Asserts that a verb fails with these messages.
#[track_caller]
fn refused(host: &Host, words: &[&str], expected: &[&str]) {
    let out = host.exec(&[&["coracle"], words].concat());
    assert_ne!(out.status, 0, "{words:?}");
    for text in expected {
        assert!(out.stderr.contains(text), "{words:?}: {text}: {out}");
    }
}

#[test]
fn layers_of_stacks_anywhere_are_kept() {
    let host = host();
    host.activate_machined();
    for (name, place) in
        [("a", "/var/lib/machines/pool"), ("b", "/var/lib/machines/.hidden"), ("c", "/srv/t")]
    {
        // The host's own root is an overlay, which cannot hold a writable layer.
        let entry = if place.starts_with("/srv") { "rm -r" } else { "true" };
        host.sh_ok(&format!(
            "cd /var/lib/machines; cp -a base {name}; coracle convert {name} stack
             mkdir -p {place}; mv {name}.mstack {place}/; {entry} {place}/{name}.mstack/rw"
        ));
        host.define(name, &format!("[root]\nstack = \"{place}/{name}.mstack\"\n"));
        // Before the first start only the definition knows it.
        assert_eq!(host.coracle(&["prune"]), "", "{place}");
    }
    for name in ["a", "b"] {
        host.coracle(&["start", "--wait=running", name]);
        assert_eq!(host.coracle(&["prune"]), "");
        host.coracle(&["exec", name, "--", "/bin/ls", "/"]);
    }
    // Without a definition, a running machine holds a lock.
    host.sh_ok(
        "cd /var/lib/machines; cp -a base d; coracle convert d stack; mv d.mstack .hidden/
         coracle run -q --mstack=/var/lib/machines/.hidden/d.mstack -M d sh -c '[ -e /bin/sh ]'",
    );
    assert_eq!(host.coracle(&["prune"]), "");
    host.coracle(&["stop", "a", "b"]);
    // A stack that is gone keeps nothing.
    host.sh_ok("rm -r /var/lib/machines/.hidden/d.mstack");
    refused(&host, &["prune"], &["d.mstack", "mount its disk, or delete"]);
    host.sh_ok("rm $(find /var/lib/coracle/storage/roots/ -xtype l)");
    assert!(host.coracle(&["prune"]).contains(" removed ("));
    host.stop();
}

#[test]
fn images_below_stacks_and_snapshots_are_kept() {
    let host = host();
    host.sh_ok("mkdir -p /var/lib/machines/pool/s.mstack/rw; ln -s ../../base /var/lib/machines/pool/s.mstack/layer@0");
    host.define("s", "[root]\nstack = \"/var/lib/machines/pool/s.mstack\"\n");
    for verb in [&["remove", "base"][..], &["rename", "base", "other"], &["convert", "base", "stack"]] {
        refused(&host, verb, &["pool/s.mstack' stands on image"]);
    }
    host.coracle(&["read-only", "base", "yes"]);
    refused(&host, &["read-only", "base", "no"], &["pool/s.mstack' stands on"]);
    host.sh_ok(
        "rm -r /etc/coracle/machines.d/s.toml /var/lib/machines/pool; rm -f /var/lib/coracle/storage/roots/*",
    );
    host.coracle(&["read-only", "base", "no"]);
    // A link to an image, with a snapshot that a clone stands on.
    host.sh_ok(
        "mkdir /var/lib/machines/.real; mv /var/lib/machines/base /var/lib/machines/.real/r
         ln -s /var/lib/machines/.real/r /var/lib/machines/link",
    );
    host.coracle(&["snapshot", "link", "s"]);
    host.coracle(&["clone", "link@s", "clone"]);
    for verb in [&["remove", "link"][..], &["rename", "link", "other"]] {
        refused(&host, verb, &["clone.mstack' stands on image"]);
    }
    host.coracle(&["remove", "clone"]);
    host.coracle(&["remove", "link"]);
    host.stop();
}

#[test]
fn what_cannot_be_kept_is_refused() {
    let host = host();
    for name in ["new.v", "new.mstack", "new.raw"] {
        refused(&host, &["clone", "base", name], &["it ends in '."]);
        refused(&host, &["rename", "base", name], &["it ends in '."]);
    }
    // Layers of containers inside: their whiteouts would be those of the stack.
    host.sh_ok("mkdir -p /var/lib/machines/base/var/lib/containers; mknod /var/lib/machines/base/var/lib/containers/gone c 0 0");
    refused(
        &host,
        &["convert", "base", "stack"],
        &["'var/lib/containers/gone' belongs to an overlay", "podman system reset"],
    );
    host.sh_ok("test -d /var/lib/machines/base; rm /var/lib/machines/base/var/lib/containers/gone");
    if has_immutable_flag(&host) {
        immutable_files(&host);
    }
    host.stop();
}

fn immutable_files(host: &Host) {
    // A read-only clone of a directory that can be changed.
    host.coracle(&["clone", "--read-only", "base", "golden"]);
    host.sh_ok(
        "lsattr -d /var/lib/machines/golden | grep -- '^[^ ]*i'; ! touch /var/lib/machines/golden/new",
    );
    host.sh_ok("chattr -i /var/lib/machines/golden");
    // A file that cannot be deleted: the image is gone, and the next verb goes on.
    host.sh_ok("cd /var/lib/machines; cp -a base spent; touch spent/etc/kept; chattr +i spent/etc/kept");
    refused(host, &["remove", "spent"], &["chattr -ia", "the next verb on an image repeats it"]);
    assert!(!host.coracle(&["images", "--no-legend"]).contains("spent"));
    host.sh_ok("chattr -i /var/lib/machines/.#spent*/etc/kept; coracle prune; ! ls -d /var/lib/machines/.#spent* 2>/dev/null");
}

#[test]
fn images_that_cannot_be_replaced_are_refused() {
    let host = host();
    host.sh_ok(
        "cd /var/lib/machines; mkdir app.v; cp -a base app.v/app_1; touch db.raw
         cp -a base web; coracle convert web stack
         mkdir web.mstack/inner; ln -s ../web.mstack/inner web.mstack/layer@9; coracle snapshot base s",
    );
    refused(&host, &["read-only", "app", "yes"], &["app_1' is one of several versions"]);
    refused(&host, &["convert", "app", "stack"], &["app_1' is one of several versions"]);
    host.coracle(&["snapshot", "app", "s"]);
    refused(&host, &["rollback", "app", "s"], &["app_1' is one of several versions"]);
    for verb in [&["rename", "base", "db"][..], &["clone", "base", "db"]] {
        refused(&host, verb, &["image 'db' exists already: '/var/lib/machines/db.raw'"]);
    }
    refused(&host, &["snapshot", "base", "a b"], &["'a b' is not a tag", "hint: use letters, digits"]);
    refused(&host, &["snapshot", "base", "--no-legend"], &["--list"]);
    refused(&host, &["rename", "web", "other"], &["layer@9' leads through the name of the image"]);
    // A mount inside would stay behind, or be copied.
    host.sh_ok("mkdir /var/lib/machines/base/mnt; mount -t tmpfs tmpfs /var/lib/machines/base/mnt");
    for verb in [&["rollback", "base", "s"][..], &["convert", "base", "stack"], &["remove", "base"]] {
        refused(&host, verb, &["base/mnt' is a mount point", "umount '/var/lib/machines/base/mnt'"]);
    }
    host.sh_ok("umount /var/lib/machines/base/mnt");
    host.coracle(&["rollback", "base", "s"]);
    // Only root can read the directory.
    let user = host.exec(&["setpriv", "--reuid=65534", "--clear-groups", "coracle", "images"]);
    assert!(user.status != 0 && user.stderr.contains("run it with sudo(8)"), "{user}");
    host.stop();
}

#[test]
fn snapshots_of_an_image_deleted_by_hand_are_not_those_of_the_next_one() {
    let host = host();
    host.sh_ok("cd /var/lib/machines; cp -a base web; coracle snapshot web s; rm -r web");
    for verb in [&["clone", "base", "web"][..], &["rename", "base", "web"]] {
        refused(&host, verb, &["snapshot 's' of a former image 'web' exists", "coracle remove web"]);
    }
    let removed = host.coracle(&["remove", "web"]);
    assert!(removed.starts_with("web: removed its files and its snapshot; it had no image\n"), "{removed}");
    host.coracle(&["clone", "base", "web"]);
    // A damaged description hides no other snapshot.
    for tag in ["one", "two"] {
        host.coracle(&["snapshot", "web", tag]);
    }
    host.sh_ok("echo '{' >/var/lib/coracle/storage/snapshots/web/two.json");
    let listed = host.coracle(&["snapshot", "--list", "--no-legend", "web"]);
    assert!(listed.starts_with("one ") && !listed.contains("two"), "{listed}");
    refused(&host, &["rollback", "web", "two"], &["two.json'"]);
    host.coracle(&["rollback", "--discard", "web"]);
    host.coracle(&["snapshot", "--remove", "web", "two"]);
    // Without snapshots the name is free.
    host.coracle(&["snapshot", "--remove", "web", "one"]);
    host.coracle(&["rename", "web", "db"]);
    host.coracle(&["rename", "base", "web"]);
    host.stop();
}

#[test]
fn a_stack_with_a_writable_link_is_not_copied() {
    let host = host();
    host.sh_ok(
        "cd /var/lib/machines; cp -a base live; mkdir web.mstack db.mstack; ln -s ../base web.mstack/layer@0
         ln -s ../live web.mstack/root; mkdir -p ext/data; ln -s ../base db.mstack/layer@0; ln -s ../ext db.mstack/rw
         find live ext -printf '%P %T@\\n' | sort >/tmp/before",
    );
    for (stack, entry) in [("web", "web.mstack/root"), ("db", "db.mstack/rw")] {
        for verb in
            [&["clone", stack, "new"][..], &["snapshot", stack, "s"], &["convert", stack, "directory"]]
        {
            refused(&host, verb, &[&format!("{entry}' is a link"), "hint: put the directory"]);
        }
    }
    host.sh_ok("cd /var/lib/machines; find live ext -printf '%P %T@\\n' | sort | diff /tmp/before -; ! ls -d new* 2>/dev/null");
    let found = host.exec(&["coracle", "doctor"]);
    assert!(found.stdout.contains("is in a directory of images: 'machinectl clean' deletes it"), "{found}");
    // A looping link keeps no other image from changes.
    host.sh_ok("ln -s loop.mstack /var/lib/machines/loop.mstack; cp -a /var/lib/machines/base /var/lib/machines/spare");
    host.coracle(&["rename", "spare", "other"]);
    host.coracle(&["remove", "other"]);
    host.coracle(&["prune"]);
    host.stop();
}

#[test]
fn a_hidden_image_keeps_its_snapshots() {
    let host = host();
    host.sh_ok(
        "cd /var/lib/machines; cp -a base web; coracle convert web stack; coracle snapshot web s; cp -a base web",
    );
    assert_eq!(
        host.coracle(&["remove", "web"]),
        "web: removed '/var/lib/machines/web'\nweb: the image of this name is now '/var/lib/machines/web.mstack'\n"
    );
    host.coracle(&["rollback", "web", "s"]);
    let removed = host.coracle(&["remove", "web"]);
    assert_eq!(removed, "web: removed '/var/lib/machines/web.mstack' and its 2 snapshots\n");
    host.sh_ok(
        "! ls -d /var/lib/coracle/storage/snapshots/web /var/lib/coracle/storage/layers/* 2>/dev/null | grep .",
    );
    host.stop();
}

#[test]
fn an_interrupted_copy_is_removed_at_once() {
    let host = host();
    // Blocks may be shared at once, files are created one by one.
    host.sh_ok(
        "cd /var/lib/machines; head -c 400M /dev/zero >base/large
         mkdir base/many; cd base/many; seq 20000 | xargs touch; coracle snapshot base s",
    );
    for (signal, verb) in
        [("INT", "clone base web"), ("TERM", "rollback base s"), ("HUP", "snapshot base other")]
    {
        // Until the copy has begun.
        host.sh_ok(&format!(
            "coracle {verb} 2>/tmp/out & pid=$!
             until [ -n \"$(ls -d /var/lib/machines/.#*.coracle-* /var/lib/coracle/storage/tmp/* 2>/dev/null)\" ]
             do [ -d /proc/$pid ] || exit 9; sleep 0.002; done
             kill -{signal} $pid; if wait $pid; then exit 8; fi; grep 'interrupted$' /tmp/out
             [ -z \"$(ls -d /var/lib/machines/.#* /var/lib/machines/web* /run/systemd/nspawn/locks/* \
               /var/lib/coracle/storage/tmp/* 2>/dev/null)\" ]
             cmp -n 1000 /var/lib/machines/base/large /dev/zero"
        ));
    }
    let listed = host.coracle(&["snapshot", "--list", "--no-legend", "base"]);
    assert!(listed.starts_with("s ") && listed.lines().count() == 1, "{listed}");
    host.stop();
}

#[test]
fn a_full_disk_can_be_freed() {
    let host = host();
    host.sh_ok(
        "rm /var/lib/coracle/storage; mount -t tmpfs -o size=256k tmpfs /var/lib/coracle
         cd /var/lib/machines; cp -a base web; head -c 1M /dev/zero >/var/lib/coracle/full 2>/dev/null || :",
    );
    refused(&host, &["rename", "web", "db"], &["no space left on device"]);
    assert!(host.coracle(&["remove", "web"]).starts_with("web: removed '"));
    host.sh_ok(
        "! ls -d /var/lib/machines/.#* /var/lib/machines/web /run/coracle/.changes/* 2>/dev/null | grep .",
    );
    host.stop();
}
