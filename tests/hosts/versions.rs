//! Versions of an image: an update whose boot fails is followed by the previous version, in the same unit; one that
//! boots becomes permanent.

use crate::support::{Host, LONG};

/// Starts a host with the image `web` and a copy of its tree outside of the images.
fn host() -> Host {
    let host = Host::builder().guest_as("trixie", "web").on_disk().start();
    host.sh_ok("cp -a /var/lib/machines/web /var/tmp/new; echo new >/var/tmp/new/etc/which; echo old >/var/lib/machines/web/etc/which");
    host.activate_machined();
    host
}

#[track_caller]
fn versions(host: &Host) -> String {
    host.sh_ok("ls -A /var/lib/machines/web.v | grep -v lck | tr '\\n' ' '").trim().to_owned()
}

/// Starts the machine and returns which version runs, and the line about the one that did not.
#[track_caller]
fn start(host: &Host) -> (String, String) {
    host.coracle(&["start", "web"]);
    host.wait_until(LONG, "coracle exec web -- systemctl is-system-running | grep -x running");
    assert_eq!(host.sh_ok("systemctl show -P NRestarts coracle@web").trim(), "0");
    let which = host.coracle(&["exec", "web", "--", "cat", "/etc/which"]).trim().to_owned();
    let fallback = host.sh("coracle status web | grep 'fallback: '").stdout.trim().to_owned();
    (which, fallback)
}

#[track_caller]
fn stop(host: &Host) {
    host.coracle(&["stop", "web"]);
    host.assert_clean_stop("web");
}

#[test]
fn a_version_that_does_not_boot_is_followed_by_the_previous_one() {
    let host = host();
    host.sh_ok(
        "cd /var/tmp/new; mkdir /var/tmp/kept; mv usr/lib/systemd/systemd usr/sbin/init /var/tmp/kept
         printf '#!/bin/sh\\necho it is broken\\nexit 7\\n' >usr/lib/systemd/systemd; chmod +x usr/lib/systemd/systemd
         ln -s ../lib/systemd/systemd usr/sbin/init",
    );
    // In use, an image without versions stays as it is.
    start(&host);
    let failed = host.sh("coracle update web /var/tmp/new --version=1");
    assert!(failed.status != 0 && failed.stderr.contains("is in use by machine 'web'"), "{failed}");
    stop(&host);
    let updated = host.coracle(&["update", "web", "/var/tmp/new", "--version=1"]);
    assert!(updated.starts_with("web: version 1 with ") && updated.contains("3 attempts"), "{updated}");
    assert_eq!(versions(&host), "web_0 web_1+3");
    for left in ["web_1+2-1", "web_1+1-2", "web_1+0-3"] {
        let (which, fallback) = start(&host);
        assert_eq!(which, "old");
        assert_eq!(fallback, "fallback: version 'web_1' did not boot: PID 1 exited with status 7");
        assert_eq!(versions(&host), format!("web_0 {left}"));
        let journal = host.sh_ok("coracle logs web");
        assert!(journal.contains("it is broken"), "{journal}");
        stop(&host);
    }
    assert_eq!(start(&host), ("old".to_owned(), String::new()), "no attempt is left");

    // A running machine is updated; its reboot tries the version, which has no init at all.
    host.sh_ok("rm /var/tmp/new/usr/lib/systemd/systemd /var/tmp/new/usr/sbin/init");
    host.coracle(&["update", "web", "/var/tmp/new", "--version=2", "--tries=1"]);
    assert_eq!(versions(&host), "web_0 web_1+0-3 web_2+1");
    stop(&host);
    let (which, fallback) = start(&host);
    assert!(which == "old" && fallback.starts_with("fallback: version 'web_2' did not boot: "), "{fallback}");
    assert_eq!(versions(&host), "web_0 web_1+0-3 web_2+0-1");

    // One that boots is permanent, also by a reboot.
    host.sh_ok("mv /var/tmp/kept/systemd /var/tmp/new/usr/lib/systemd/; mv /var/tmp/kept/init /var/tmp/new/usr/sbin/");
    host.coracle(&["update", "web", "/var/tmp/new", "--version=3"]);
    host.coracle(&["reboot", "web"]);
    host.wait_until(LONG, "test -d /var/lib/machines/web.v/web_3");
    assert_eq!(start(&host), ("new".to_owned(), String::new()));
    assert_eq!(versions(&host), "web_0 web_1+0-3 web_2+0-1 web_3");
    stop(&host);
    host.stop();
}

#[test]
fn a_guest_that_reports_nothing_makes_its_version_permanent_by_running() {
    let host = Host::builder().guest_as("busybox", "web").on_disk().start();
    host.sh_ok("cp -a /var/lib/machines/web /var/tmp/new");
    host.activate_machined();
    host.coracle(&["update", "web", "/var/tmp/new", "--version=1"]);
    host.coracle(&["start", "--wait=running", "web"]);
    assert_eq!(versions(&host), "web_0 web_1+2-1");
    host.wait_until(LONG, "test -d /var/lib/machines/web.v/web_1");
    assert_eq!(versions(&host), "web_0 web_1");
    stop(&host);
    host.stop();
}
