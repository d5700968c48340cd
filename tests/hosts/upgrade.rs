//! An update of the program with running machines: the next reboot of a guest restarts its unit with the new
//! program, and `status`, `list` and `doctor` report machines with an older one.

use crate::support::{Host, LONG, Snapshot};

/// Replaces the program by rename, like an installation.
fn update(host: &Host) {
    host.sh_ok("cp /usr/bin/coracle /usr/bin/.coracle.new && mv /usr/bin/.coracle.new /usr/bin/coracle");
}

/// Returns the reports of a machine with an older program: by `list`, `status`, `doctor` of the machine and
/// `doctor` of the host.
fn is_outdated(host: &Host, name: &str) -> [bool; 4] {
    let said = |words: &[&str], text: &str| host.exec(&[&["coracle"], words].concat()).stdout.contains(text);
    let list: serde_json::Value = serde_json::from_str(&host.coracle(&["list", "--json"])).unwrap();
    let row = list.as_array().unwrap().iter().find(|row| row["name"] == name).unwrap();
    [
        row["outdated"] == true,
        said(&["status", name], "older than '/usr/bin/coracle'"),
        said(&["doctor", name], "its supervisor is older than the installed '/usr/bin/coracle'"),
        said(&["doctor"], "supervisors of running machines are older than the installed program: "),
    ]
}

fn wait_for_another_supervisor(host: &Host, name: &str, supervisor: u32) {
    let script = format!(
        "shown=$(coracle show {name} -p supervisor -p phase) && echo \"$shown\" | grep -x phase=running &&
         ! echo \"$shown\" | grep -x -e supervisor=0 -e supervisor={supervisor}"
    );
    host.wait_until(LONG, &script);
    host.wait_for_unit(name, "active");
}

#[test]
fn a_reboot_after_an_update_restarts_the_unit() {
    let host = Host::start(&["busybox"]);
    host.activate_machined();
    let before = Snapshot::take(&host);
    host.start_machine("busybox");
    let (first, address) = (host.supervisor("busybox"), host.address("busybox"));
    assert_eq!(is_outdated(&host, "busybox"), [false; 4]);

    update(&host);
    assert_eq!(is_outdated(&host, "busybox"), [true; 4]);
    host.define("busybox", "[identity]\nhostname = \"newer\"\n");
    host.ask_in_guest("busybox", &["reboot"]);
    wait_for_another_supervisor(&host, "busybox", first);
    let second = host.supervisor("busybox");
    assert_eq!(host.in_guest("busybox", &["hostname"]).stdout.trim(), "newer");
    assert_eq!(host.unit("busybox", "Result"), "success");
    assert_eq!(host.address("busybox"), address);
    host.assert_registered("busybox", true);
    host.wait_for_page(&address);
    assert_eq!(is_outdated(&host, "busybox"), [false; 4]);

    update(&host);
    host.coracle(&["reboot", "busybox"]);
    wait_for_another_supervisor(&host, "busybox", second);
    assert_eq!(host.unit("busybox", "NRestarts"), "2");
    let journal = host.unit_journal("busybox");
    assert!(journal.contains("its unit restarts with the newer '/usr/bin/coracle'"), "{journal}");
    assert!(!journal.contains("Failed with result"), "{journal}");
    host.coracle(&["stop", "busybox"]);
    host.assert_clean_stop("busybox");
    before.assert_same(&host);
    a_guest_does_not_restart_its_unit(&host);
    host.stop();
}

/// Asserts that PID 1 of a guest cannot restart the unit by the exit status reserved for it.
fn a_guest_does_not_restart_its_unit(host: &Host) {
    host.sh_ok(
        "cd /var/lib/machines/busybox/usr/sbin; rm init; printf '#!/bin/sh\\nexit 133\\n' >init
         chmod 755 init",
    );
    host.exec(&["coracle", "start", "busybox"]);
    host.wait_for_unit("busybox", "failed");
    assert_eq!(host.unit("busybox", "ExecMainStatus"), "1");
    let status = host.exec(&["coracle", "status", "busybox"]).stdout;
    assert!(status.contains("PID 1 exited with status 133"), "{status}");
}
