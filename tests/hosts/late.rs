//! Guests that do not finish their boot: a start times out, a first boot does not prompt without a terminal,
//! and a reboot loop is delayed.

use crate::support::{Host, LONG, Snapshot};

/// Returns the state of a machine in `list`.
fn state(host: &Host, name: &str) -> String {
    let list = host.coracle(&["list", "--json"]);
    let at = list.find(&format!("\"{name}\"")).unwrap_or_else(|| panic!("no {name}: {list}"));
    let rest = &list[at..];
    let rest = &rest[rest.find("\"state\"").unwrap() + 7..];
    rest.split('"').nth(1).unwrap().to_owned()
}

#[test]
fn a_guest_that_prints_forever_times_out() {
    let host = Host::start(&["busybox"]);
    let mutters = "#!/bin/sh\nword=a\nwhile :; do echo \"news of $word\"; word=${word}a; sleep 0.5; done\n";
    host.write("/var/lib/machines/busybox/etc/mutters", mutters);
    host.sh_ok("chmod 755 /var/lib/machines/busybox/etc/mutters");
    let definition =
        "[boot]\ninit = \"/etc/mutters\"\nwait = \"ready\"\nstart-timeout = \"4s\"\nstop-timeout = \"1s\"\n";
    host.define("busybox", definition);
    let before = Snapshot::take(&host);
    let out = host.exec_for(LONG, &["coracle", "start", "busybox"]).success("start");
    assert!(out.stderr.contains("machine 'busybox' is not ready after boot.start-timeout"), "{out}");
    assert_eq!(host.unit("busybox", "ActiveState"), "active");
    assert_eq!(state(&host, "busybox"), "starting");
    let doctor = host.exec(&["coracle", "doctor", "busybox"]);
    assert!(doctor.stdout.contains("it was not ready in time"), "{doctor}");
    let waited = host.exec_for(LONG, &["coracle", "restart", "--wait=ready", "busybox"]);
    assert!(waited.status == 1 && waited.stderr.contains("is not ready after"), "{waited}");
    host.exec_for(LONG, &["coracle", "stop", "busybox"]);
    host.sh("systemctl reset-failed");
    before.assert_same(&host);
    host.stop();
}

#[test]
fn a_first_boot_does_not_prompt() {
    let host = Host::start(&["trixie"]);
    let tree = "/var/lib/machines/trixie/etc";
    host.sh_ok(&format!(
        "cd {tree}; echo uninitialized >machine-id; rm -f localtime locale.conf; \
         mkdir -p systemd/system/sysinit.target.wants systemd/system/multi-user.target.wants; \
         rm -f systemd/system/systemd-firstboot.service; \
         ln -sf /usr/lib/systemd/system/systemd-firstboot.service systemd/system/sysinit.target.wants/"
    ));
    host.define("trixie", "");
    host.coracle(&["start", "trixie"]);
    host.coracle(&["exec", "trixie", "--", "systemctl", "is-active", "multi-user.target"]);
    host.coracle(&["stop", "trixie"]);
    host.stop();
}

#[test]
fn a_reboot_loop_is_delayed_and_can_be_stopped() {
    let host = Host::start(&["busybox"]);
    host.write("/var/lib/machines/busybox/etc/again", "#!/bin/sh\necho again\nexec reboot -f\n");
    host.sh_ok("chmod 755 /var/lib/machines/busybox/etc/again");
    host.define("busybox", "[boot]\ninit = \"/etc/again\"\n");
    host.activate_machined();
    let before = Snapshot::take(&host);
    host.coracle(&["start", "--wait=running", "busybox"]);
    let pauses = "journalctl -q -o cat -u coracle@busybox | grep 'waiting 4s'";
    host.wait_until(LONG, pauses);
    let boots = host.console("busybox").lines().filter(|line| *line == "again").count();
    assert!(boots <= 6, "{boots}");
    host.coracle(&["stop", "busybox"]);
    host.assert_clean_stop("busybox");
    before.assert_same(&host);
    host.stop();
}
