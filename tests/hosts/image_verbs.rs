//! The verbs that change images, beside those of machinectl on the same images.

use crate::support::{Host, Snapshot};

/// Returns whether the host can set the immutable flag of a file: one in a machine lacks CAP_LINUX_IMMUTABLE.
fn has_immutable_flag(host: &Host) -> bool {
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
    assert_eq!(set, "golden: writable, by the immutable flag of its directory\n");
    is("no");
    is_refused(&host, &["read-only", "none"], &["image 'none' does not exist", "hint: 'coracle images'"]);
    is_refused(&host, &["read-only", "golden", "maybe"], &["invalid value 'maybe'"]);
    is_refused(&host, &["read-only", "../golden"], &["invalid"]);
    host.sh_ok("! ls -d /run/systemd/nspawn/locks/* /var/lib/machines/.#* 2>/dev/null");
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
