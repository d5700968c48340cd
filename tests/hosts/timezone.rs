//! The time zone of a guest, in all modes of systemd-nspawn(1) and compared with it.

use crate::support::{Host, LONG, Output};

/// The tree, on which each run changes a copy.
const TREE: &str = "/root/tree";
/// Shows the file inside: its link, whether it is a mount, its owner, and its content.
const SHOW: &str = "readlink /etc/localtime; grep -o '/etc/localtime ro\\|/usr/share/zoneinfo/.* ro' \
                    /proc/self/mountinfo; stat -c '%u %g' /etc/localtime; md5sum </etc/localtime";

fn run(host: &Host, program: &[&str], options: &[&str]) -> Output {
    let tree = ["-D", TREE, "--", "sh", "-c", SHOW];
    host.exec_for(LONG, &[program, options, &tree].concat())
}

/// Returns the output in the tree prepared by a script, run by coracle with these options. It must be the
/// same under systemd-nspawn.
#[track_caller]
fn same_as_nspawn(host: &Host, prepare: &str, options: &[&str]) -> String {
    let mut shown = Vec::new();
    for program in [
        &["coracle", "run", "-q", "--pipe"][..],
        &["systemd-nspawn", "-q", "--register=no", "--keep-unit", "--pipe"],
    ] {
        host.sh_ok(&format!("rm -rf {TREE}; cp -a /var/lib/machines/busybox {TREE}; cd {TREE}; {prepare}"));
        shown.push(run(host, program, options).stdout);
    }
    assert_eq!(shown[0], shown[1], "{prepare}: {options:?}");
    shown.remove(0)
}

#[test]
fn modes_are_those_of_nspawn() {
    let host = Host::start(&["busybox"]);
    host.sh_ok(
        "mkdir -p /usr/share/zoneinfo/Test; echo one >/usr/share/zoneinfo/Test/One
         ln -sf ../usr/share/zoneinfo/Test/One /etc/localtime",
    );
    let zone = "mkdir -p usr/share/zoneinfo/Test; echo own >usr/share/zoneinfo/Test/One";
    let other = "echo other >etc/localtime";
    let linked = same_as_nspawn(&host, &format!("{zone}; {other}"), &["--timezone=auto"]);
    assert!(linked.starts_with("../usr/share/zoneinfo/Test/One\n"), "{linked}");
    // Without the zone, the file is a mount.
    let bound = same_as_nspawn(&host, other, &["--timezone=symlink"]);
    assert!(bound.contains("/etc/localtime ro\n"), "{bound}");
    for (prepare, options) in [
        (zone, &["--timezone=auto", "--read-only"][..]),
        (other, &["--timezone=auto", "--read-only"]),
        (other, &["--timezone=bind"]),
        (
            "ln -s ../usr/share/zoneinfo/Test/One etc/localtime; mkdir -p usr/share/zoneinfo/Test; echo own >usr/share/zoneinfo/Test/One",
            &["--timezone=bind"],
        ),
        ("true", &["--timezone=bind"]),
        (other, &["--timezone=copy"]),
        ("ln -s /nowhere etc/localtime", &["--timezone=copy"]),
        (other, &["--timezone=delete"]),
        ("true", &["--timezone=delete"]),
        (other, &["--timezone=off"]),
    ] {
        same_as_nspawn(&host, prepare, options);
    }
    // A file of the host, then none.
    host.sh_ok("rm /etc/localtime; echo file >/etc/localtime");
    for options in [["--timezone=auto"], ["--timezone=symlink"]] {
        same_as_nspawn(&host, other, &options);
    }
    host.sh_ok("rm /etc/localtime");
    for options in [["--timezone=auto"], ["--timezone=bind"], ["--timezone=copy"]] {
        same_as_nspawn(&host, other, &options);
    }
    host.stop();
}

#[test]
fn the_time_zone_is_set_in_machines_with_users() {
    let host = Host::builder().guest("trixie").on_disk().start();
    host.sh_ok(
        "for root in '' /var/lib/machines/trixie; do
           mkdir -p $root/usr/share/zoneinfo/Test; printf TZif2 >$root/usr/share/zoneinfo/Test/One
         done
         ln -sf ../usr/share/zoneinfo/Test/One /etc/localtime",
    );
    host.define("trixie", "[identity]\ntimezone = 'auto'\n");
    host.coracle(&["start", "--wait=ready", "trixie"]);
    let read = |file: &str| host.coracle(&["exec", "trixie", "readlink", file]);
    assert_eq!(read("/etc/localtime"), "../usr/share/zoneinfo/Test/One\n");
    assert_eq!(host.coracle(&["exec", "trixie", "stat", "-c", "%u", "/etc/localtime"]), "0\n");
    assert_eq!(
        host.coracle(&["exec", "trixie", "timedatectl", "show", "-p", "Timezone"]),
        "Timezone=Test/One\n"
    );
    host.stop();
}
