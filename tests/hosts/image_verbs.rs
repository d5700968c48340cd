//! The verbs that change images, beside those of machinectl on the same images.

use crate::support::{Host, LONG, Snapshot};

/// Returns whether the host can set the immutable flag of a file: one in a machine lacks CAP_LINUX_IMMUTABLE.
pub fn has_immutable_flag(host: &Host) -> bool {
    host.exec(&["sh", "-c", "cd /var/lib/machines; chattr +i golden && chattr -i golden"]).status == 0
}

/// Asserts that a command fails with these texts in its message.
#[track_caller]
fn is_refused(host: &Host, words: &[&str], expected: &[&str]) {
    let refused = host.exec(&[&["coracle"], words].concat());
    assert!(refused.status != 0, "{words:?} {refused}");
    for text in expected {
        assert!(refused.stderr.contains(text), "{words:?} {text} {refused}");
    }
}

#[test]
fn read_only_images_are_those_of_machinectl() {
    let host = Host::builder().guest_as("busybox", "golden").on_disk().start();
    host.activate_machined();
    if !has_immutable_flag(&host) {
        is_refused(&host, &["read-only", "golden", "yes"], &["CAP_LINUX_IMMUTABLE"]);
        return host.stop();
    }
    let is = |state: &str| {
        let shown = host.sh_ok("machinectl show-image golden -p ReadOnly --value");
        assert_eq!(shown.trim(), state, "machinectl");
        let ours = host.coracle(&["images", "--json", "golden"]);
        assert!(ours.contains(&format!("\"read-only\": {}", state == "yes")), "{ours}");
    };
    is("no");
    let set = host.coracle(&["read-only", "golden"]);
    assert_eq!(set, "golden: read-only, by the immutable flag of its directory\n");
    is("yes");
    assert_eq!(host.coracle(&["read-only", "golden", "yes"]), "golden: read-only, unchanged\n");
    host.sh_ok("machinectl read-only golden no");
    is("no");
    host.sh_ok("machinectl read-only golden yes");
    let set = host.coracle(&["read-only", "golden", "no"]);
    assert_eq!(set, "golden: writable, without the immutable flag of its directory\n");
    is("no");
    is_refused(&host, &["read-only", "none"], &["image 'none' does not exist", "hint: 'coracle images'"]);
    is_refused(&host, &["read-only", "golden", "maybe"], &["invalid value 'maybe'"]);
    is_refused(&host, &["read-only", "../golden"], &["invalid"]);
    host.sh_ok("! ls -d /run/systemd/nspawn/locks/* /var/lib/machines/.#* 2>/dev/null | grep .");
    host.stop();
}

#[test]
fn machines_cannot_change_a_read_only_image() {
    let host = Host::builder().guest_as("busybox", "golden").on_disk().start();
    host.activate_machined();
    if !has_immutable_flag(&host) {
        return host.stop();
    }
    host.coracle(&["read-only", "golden", "yes"]);
    host.sh_ok(
        "mkdir -p /var/lib/machines/web.mstack/rw; ln -s ../golden /var/lib/machines/web.mstack/layer@0",
    );
    let before = Snapshot::take(&host);
    host.define("other", "[root]\ndirectory = \"/var/lib/machines/golden\"\n");
    for name in ["golden", "other", "web"] {
        host.coracle(&["start", "--wait=running", name]);
    }
    for name in ["golden", "other"] {
        assert_ne!(host.exec(&["coracle", "exec", name, "--", "sh", "-c", "echo x >/etc/new"]).status, 0);
        assert!(host.unit_journal(name).contains("'/var/lib/machines/golden' is read-only"));
    }
    host.sh_ok("coracle exec web -- sh -c 'echo x >/new'");
    let set = &["read-only", "golden", "no"];
    is_refused(&host, set, &["is in use by machine 'golden'", "hint: stop it: coracle stop golden"]);
    host.coracle(&["stop", "golden", "other", "web"]);
    is_refused(&host, set, &["web.mstack' stands on image", "hint: remove them first"]);
    before.assert_same(&host);
    host.sh_ok("rm -r /var/lib/machines/web.mstack");
    host.coracle(set);
    host.coracle(&["start", "golden"]);
    host.sh_ok("coracle exec golden -- sh -c 'echo x >/etc/new'");
    host.coracle(&["stop", "golden"]);
    host.stop();
}

/// Starts a host with an image `web`, a stack `db` on it, and all kinds of files of the name `web`.
fn furnished() -> Host {
    let host = Host::builder().guest_as("busybox", "web").on_disk().start();
    host.activate_machined();
    host.define("web", "[resources]\nmemory-max = \"256M\"\n");
    host.coracle(&["start", "--wait=running", "web"]);
    host.coracle(&["enable", "web"]);
    host.coracle(&["stop", "web"]);
    host.sh_ok(
        "mkdir -p /etc/coracle/machines.d/web.toml.d /etc/systemd/nspawn /var/lib/coracle/failures
         echo '[boot]' >/etc/coracle/machines.d/web.toml.d/10-boot.toml
         echo '[Exec]' >/etc/systemd/nspawn/web.nspawn; echo '[Exec]' >/var/lib/machines/web.nspawn
         echo '{}' >/var/lib/machines/web.oci-config
         mkdir -p /var/lib/coracle/storage/snapshots/web/first/rw; grep -rlx web /var/lib/coracle/ids",
    );
    host
}

/// Leaves the record of a failure, which the next start deletes.
const FAILURE: &str = "echo '{\"cause\": \"x\"}' >/var/lib/coracle/failures/web.json";

/// The files of a name. Ranges of ids are shown without their numbers.
const FILES: &str =
    "files() { (cd /; ls -d var/lib/machines/* etc/coracle/machines.d/* etc/systemd/nspawn/* \
                     etc/systemd/system/*.wants/coracle@* var/lib/coracle/failures/* \
                     var/lib/coracle/storage/snapshots/* run/coracle/[!.]* 2>/dev/null || true
                     cat var/lib/coracle/ids/* 2>/dev/null | sort | uniq -c); }";

/// Asserts that an image is not removed for each reason.
#[track_caller]
fn refuses_removals(host: &Host) {
    host.coracle(&["start", "--wait=running", "web"]);
    is_refused(host, &["remove", "web"], &["is in use by machine 'web'", "hint: stop it: coracle stop web"]);
    host.coracle(&["stop", "web"]);
    let job = host.spawn(&[
        "systemd-nspawn",
        "-q",
        "--register=no",
        "--keep-unit",
        "-D",
        "/var/lib/machines/web",
        "sleep",
        "600",
    ]);
    host.wait_until(LONG, "pgrep -x sleep");
    is_refused(host, &["remove", "web"], &["is in use by process", "(systemd-nspawn)"]);
    host.sh_ok("pkill -KILL -x sleep");
    job.wait(LONG);
    host.sh_ok("mkdir -p /etc/machines /usr/lib/machines/vendor/usr; ln -s ../../var/lib/machines/web /etc/machines/other");
    is_refused(
        host,
        &["remove", "web"],
        &["'/etc/machines/other' stands on image", "hint: remove them first"],
    );
    host.sh_ok("rm /etc/machines/other");
    host.define("third", "[root]\ndirectory = \"/var/lib/machines/web\"\nread-only = true\n");
    is_refused(host, &["remove", "web"], &["is the root in the definition of 'third'"]);
    host.sh_ok("rm /etc/coracle/machines.d/third.toml; mount --bind /tmp /var/lib/machines/web/tmp");
    is_refused(
        host,
        &["remove", "web"],
        &["'/var/lib/machines/web/tmp' is a mount point", "hint: unmount it"],
    );
    host.sh_ok("umount /var/lib/machines/web/tmp");
    is_refused(host, &["remove", "none"], &["image 'none' does not exist"]);
    is_refused(host, &["remove", "vendor"], &["belongs to a package"]);
    if host.sh("coracle read-only web yes").status == 0 {
        is_refused(host, &["remove", "web"], &["is read-only", "hint: make it writable"]);
        host.coracle(&["read-only", "web", "no"]);
    }
}

#[test]
fn a_removed_image_leaves_only_files_of_the_administrator() {
    let host = furnished();
    let files = || host.sh_ok(&format!("{FILES}; files"));
    let before = files();
    refuses_removals(&host);
    assert_eq!(files(), before);

    // A stack on it goes first, whatever the order.
    host.sh_ok(FAILURE);
    host.sh_ok("mkdir -p /var/lib/machines/db.mstack/rw; ln -s ../web /var/lib/machines/db.mstack/layer@0");
    is_refused(&host, &["remove", "web"], &["db.mstack' stands on image"]);
    let removed = host.coracle(&["remove", "web", "db"]);
    let removed: Vec<&str> = removed.lines().collect();
    assert_eq!(
        removed[..2],
        [
            "db: removed '/var/lib/machines/db.mstack'",
            "web: removed '/var/lib/machines/web' and its snapshot"
        ]
    );
    assert!(
        removed[2].contains("web: kept '/etc/systemd/nspawn/web.nspawn', '/etc/coracle/machines.d/web.toml'")
    );
    assert_eq!(
        files(),
        "etc/coracle/machines.d/web.toml\netc/coracle/machines.d/web.toml.d\netc/systemd/nspawn/web.nspawn\n\
         etc/systemd/system/coracle.target.wants/coracle@web.service\n"
    );
    let removed = host.coracle(&["remove", "--purge", "web"]);
    assert!(removed.starts_with("web: removed its files; it had no image\nweb: removed '/etc/"), "{removed}");
    assert_eq!(files(), "");
    host.sh_ok(
        "! ls -d /run/systemd/nspawn/locks/* /var/lib/machines/.#* /var/lib/coracle/changes/* 2>/dev/null | grep .",
    );
    host.stop();
}

#[test]
fn a_renamed_machine_keeps_all_it_has() {
    let host = furnished();
    let files = || host.sh_ok(&format!("{FILES}; files"));
    let before = files();
    host.coracle(&["start", "--wait=running", "web"]);
    let ids = host.sh_ok("cat /proc/$(machinectl show web -p Leader --value)/uid_map");
    is_refused(&host, &["rename", "web", "shop"], &["is in use by machine 'web'"]);
    host.coracle(&["stop", "web"]);
    host.sh_ok("mkdir -p /var/lib/machines/db.mstack/rw; ln -s ../web /var/lib/machines/db.mstack/layer@0");
    is_refused(&host, &["rename", "web", "shop"], &["db.mstack' stands on image", "hint: remove them first"]);
    host.sh_ok("rm -r /var/lib/machines/db.mstack; mkdir -p /usr/lib/machines/shop/usr");
    is_refused(&host, &["rename", "web", "shop"], &["image 'shop' exists already: '/usr/lib/machines/shop'"]);
    host.sh_ok("rm -r /usr/lib/machines/shop");
    host.define("shop", "");
    is_refused(&host, &["rename", "web", "shop"], &["machines.d/shop.toml' exists already"]);
    host.sh_ok("rm /etc/coracle/machines.d/shop.toml");
    is_refused(&host, &["rename", "web", "web"], &["has this name already"]);
    is_refused(&host, &["rename", "none", "shop"], &["image 'none' does not exist"]);
    is_refused(&host, &["rename", "web", "a/b"], &["invalid value 'a/b'"]);
    host.define("web", "[root]\ndirectory = \"/var/lib/machines/web\"\n");
    is_refused(
        &host,
        &["rename", "web", "shop"],
        &["its definition has the path", "hint: remove root.directory"],
    );
    host.define("web", "[resources]\nmemory-max = \"256M\"\n");
    host.sh_ok("mkdir -p /usr/lib/coracle/machines.d; echo >/usr/lib/coracle/machines.d/web.toml");
    is_refused(&host, &["rename", "web", "shop"], &["machines.d/web.toml' belongs to a package"]);
    host.sh_ok("rm /usr/lib/coracle/machines.d/web.toml");
    assert_eq!(files(), before);

    host.sh_ok(FAILURE);
    let before = files();
    let immutable = host.sh("coracle read-only web yes").status == 0;
    let renamed = host.coracle(&["rename", "web", "shop"]);
    assert!(renamed.starts_with("web: renamed to 'shop', image '/var/lib/machines/shop', "), "{renamed}");
    assert_eq!(files(), before.replace("web", "shop"));
    assert_eq!(
        host.sh(
            "coracle read-only shop no | grep -x 'shop: writable, without the immutable flag of its directory'"
        )
        .status
            == 0,
        immutable
    );
    host.coracle(&["start", "--wait=running", "shop"]);
    assert_eq!(host.sh_ok("cat /proc/$(machinectl show shop -p Leader --value)/uid_map"), ids);
    assert_eq!(host.sh_ok("systemctl is-enabled coracle@shop.service").trim(), "enabled");
    host.sh_ok("! systemctl -q is-enabled coracle@web.service");
    assert_eq!(host.sh_ok("systemctl show -P MemoryMax coracle@shop.service").trim(), "268435456");
    host.coracle(&["stop", "shop"]);
    // machinectl sees the same image.
    host.sh_ok("machinectl image-status shop; if machinectl image-status web; then exit 1; fi; machinectl rename shop web");
    host.sh_ok(
        "! ls -d /run/systemd/nspawn/locks/* /var/lib/machines/.#* /var/lib/coracle/changes/* 2>/dev/null | grep .",
    );
    host.stop();
}

/// Uses the verbs of machinectl and of Coracle in turn on the same images.
fn verbs_in_turn(suite: &str) {
    let host = Host::builder().suite(suite).guest_as("busybox", "golden").on_disk().start();
    host.activate_machined();
    let names = || {
        let listed = host.sh_ok("machinectl --no-legend list-images | cut -d' ' -f1 | grep -v '^.host'");
        let ours = host.sh_ok("coracle images --no-legend | cut -d' ' -f1");
        assert_eq!(listed, ours);
        listed.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    host.sh_ok(
        "echo '[Exec]' >/var/lib/machines/golden.nspawn; machinectl clone golden a; coracle clone golden b",
    );
    host.sh_ok("rm -f /etc/systemd/nspawn/a.nspawn");
    assert_eq!(names(), "a b golden");
    host.sh_ok("coracle rename a c; machinectl rename b d; machinectl image-status c d");
    assert_eq!(names(), "c d golden");
    host.sh_ok("coracle rename golden old; machinectl rename old golden");
    host.sh_ok("test -e /var/lib/machines/golden.nspawn || test -e /var/lib/machines/old.nspawn");
    assert_eq!(names(), "c d golden");
    host.sh_ok("machinectl remove c; coracle remove d");
    assert_eq!(names(), "golden");
    // Hidden images of machinectl; names that begin with '.#' are not images.
    host.sh_ok("mkdir -p /var/lib/machines/.old/usr; machinectl clean; test ! -e /var/lib/machines/.old");
    if has_immutable_flag(&host) {
        host.sh_ok(
            "machinectl read-only golden yes; coracle clone golden e; coracle clone --read-only golden f",
        );
        is_refused(&host, &["remove", "golden"], &["is read-only"]);
        host.coracle(&["remove", "e"]);
        host.sh_ok("coracle remove f || { coracle read-only f no && coracle remove f; }");
        host.sh_ok("coracle rename golden g; [ $(machinectl show-image g -p ReadOnly --value) = yes ]");
        host.sh_ok("machinectl rename g golden; coracle read-only golden no");
    }
    assert_eq!(names(), "golden");
    host.sh_ok("! ls -d /run/systemd/nspawn/locks/* /var/lib/coracle/changes/* 2>/dev/null | grep .");
    host.stop();
}

#[test]
fn verbs_of_machinectl_and_coracle_in_turn() {
    verbs_in_turn("trixie");
}

#[test]
fn verbs_of_machinectl_and_coracle_in_turn_on_bookworm() {
    verbs_in_turn("bookworm");
}

#[test]
fn verbs_of_machinectl_and_coracle_in_turn_on_sid() {
    verbs_in_turn("sid");
}
