//! The journal directories of machines that are linked with the host (`journal.link`).

use crate::support::{Host, LONG, Snapshot};

/// Starts a host with a persistent journal on a file system with mapped ids, which the overlay of its root is
/// not, and two guests.
fn host() -> Host {
    let host = Host::builder().guest_as("trixie", "m").guest_as("busybox", "b").on_disk().start();
    host.sh_ok(
        "mkdir -m 700 /var/lib/machines/.host; cp -a /var/log/journal /var/lib/machines/.host/journal
         mount --bind /var/lib/machines/.host/journal /var/log/journal; systemctl restart systemd-journald
         rm -f /var/lib/machines/b/etc/machine-id; systemd-id128 new >/var/lib/machines/b/etc/machine-id
         systemd-id128 new >/var/lib/machines/m/etc/machine-id",
    );
    host.activate_machined();
    host
}

#[track_caller]
fn id(host: &Host, tree: &str) -> String {
    host.read(&format!("/var/lib/machines/{tree}/etc/machine-id")).trim().to_owned()
}

#[test]
fn the_host_shows_the_journal_of_a_machine() {
    let host = host();
    let directory = format!("/var/log/journal/{}", id(&host, "m"));
    let shows = |text: &str| format!("journalctl -q --no-pager -m -o cat | grep -x {text}");
    for (link, at) in [("host", &directory), ("guest", &format!("/var/lib/machines/m{directory}"))] {
        host.sh_ok(&format!("rm -rf {directory} /var/lib/machines/m/var/log/journal"));
        host.define("m", &format!("[journal]\nlink = \"{link}\"\n"));
        host.coracle(&["start", "m"]);
        host.wait_until_in_guest("m", "systemctl is-system-running | grep -x running");
        host.in_guest("m", &["logger", "-t", "test", &format!("by-{link}")]).success("log");
        host.in_guest("m", &["journalctl", "--sync"]).success("write the journal");
        host.wait_until(LONG, &shows(&format!("by-{link}")));
        let inside = host.in_guest("m", &["stat", "-c", "%U:%G", &directory]).stdout;
        assert_eq!(inside.trim(), "root:systemd-journal", "{link}");
        let readers = host.in_guest(
            "m",
            &[
                "sh",
                "-euc",
                "setpriv --reuid=nobody --regid=nogroup --groups=systemd-journal journalctl -n 1",
            ],
        );
        readers.success("its group reads the journal");
        assert_eq!(host.sh_ok(&format!("readlink -f {directory}")).trim(), at);
        host.coracle(&["stop", "m"]);
        // It stays when the machine has stopped.
        host.sh_ok(&shows(&format!("by-{link}")));
        host.sh_ok(&format!("coracle logs m --grep by-{link} | grep -c by-{link} | grep -x 1"));
        // A second start continues it.
        host.coracle(&["start", "m"]);
        host.in_guest("m", &["logger", "-t", "test", &format!("again-{link}")]).success("log");
        host.in_guest("m", &["journalctl", "--sync"]).success("write the journal");
        host.wait_until(LONG, &shows(&format!("again-{link}")));
        host.coracle(&["stop", "m"]);
        if link == "host" {
            let owners =
                host.sh_ok(&format!("stat -c '%u %G' {directory} {directory}/system.journal | sort -u"));
            let owners: Vec<&str> = owners.lines().collect();
            assert!(owners.len() == 1 && owners[0].ends_with(" systemd-journal"), "{owners:?}");
            assert!(!owners[0].starts_with("0 "), "no file of the host's root: {owners:?}");
        }
    }
    host.stop();
}

#[test]
fn an_impossible_link_ends_the_start_only_if_it_is_required() {
    let host = host();
    let own = id(&host, "b");
    let refused = |link: &str, why: &str| {
        let before = Snapshot::take(&host);
        host.define("b", &format!("[journal]\nlink = \"{link}\"\n"));
        let started = host.exec_for(LONG, &["coracle", "start", "b"]);
        let status = host.exec(&["coracle", "status", "b"]);
        assert!(
            started.status != 0 && format!("{started}{status}").contains(why),
            "{link}: {started}{status}"
        );
        host.define("b", &format!("[journal]\nlink = \"try-{link}\"\n"));
        host.coracle(&["start", "b"]);
        host.in_guest("b", &["sh", "-c", "! grep /var/log/journal /proc/self/mounts"]).success("no mount");
        host.coracle(&["stop", "b"]);
        before.assert_same(&host);
    };
    host.sh_ok("cp /etc/machine-id /var/lib/machines/b/etc/machine-id");
    refused("host", "the machine id of its host");
    refused("guest", "the machine id of its host");
    host.write("/var/lib/machines/b/etc/machine-id", &format!("{own}\n"));
    host.sh_ok(&format!("mkdir /var/log/journal/{own}; touch /var/log/journal/{own}/system.journal"));
    refused("guest", "cannot replace it by a link");
    host.sh_ok(&format!("mount --bind /var/log/journal/{own} /var/log/journal/{own}"));
    refused("host", "is a mount point");
    host.sh_ok(&format!("umount /var/log/journal/{own}; rm -r /var/log/journal/{own}"));
    let run = |options: &[&str]| {
        host.exec_for(
            LONG,
            &[&["coracle", "run", "-q", "-D", "/var/lib/machines/b"], options, &["true"]].concat(),
        )
    };
    let ended = run(&["-x", "--link-journal=host"]);
    assert!(ended.status != 0 && ended.stderr.contains("the journal of an ephemeral machine"), "{ended}");
    host.stop();
}

#[test]
fn links_are_those_of_systemd_nspawn() {
    let host = host();
    let directory = format!("/var/log/journal/{}", id(&host, "b"));
    let script = format!("echo found >{directory}/probe && grep -c {directory} /proc/self/mounts");
    // systemd-nspawn makes a directory that the guest cannot write to if it has the group of journals.
    host.sh_ok("chmod g-s /var/log/journal; setfacl -b -k /var/log/journal || true");
    for (options, exists, is_shared) in [
        (&["--link-journal=host"][..], false, true),
        (&["--link-journal=try-host"], true, true),
        (&["--link-journal=auto"], true, true),
        (&["--link-journal=auto"], false, false),
        (&["--link-journal=no"], true, false),
        (&[], false, false),
        (&["-j", "--link-journal=host"], false, true),
    ] {
        for program in [&["systemd-nspawn"][..], &["coracle", "run"]] {
            host.sh_ok(&format!("rm -rf {directory} /var/lib/machines/b/var/log/journal"));
            host.sh_ok(&format!("! {exists} || mkdir {directory}"));
            let base = ["-q", "--register=no", "--keep-unit", "--console=pipe", "-D", "/var/lib/machines/b"];
            let ended = host.exec_for(LONG, &[program, &base, options, &["sh", "-c", &script]].concat());
            assert_eq!(ended.status == 0, is_shared, "{exists}: {ended}");
            let found = host.sh(&format!("cat {directory}/probe")).stdout;
            assert_eq!(found == "found\n", is_shared, "{exists}: {ended}");
        }
    }
    host.stop();
}
