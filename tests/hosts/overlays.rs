//! Overlays as further mounts: as with systemd-nspawn, and with user ids of the machine.

use crate::support::{Host, LONG, Output};

const TREE: &str = "/var/lib/machines/busybox";
/// Creates the layers on the host.
const LAYERS: &str = "rm -rf /var/tmp/o; mkdir -p /var/tmp/o/low/sub /var/tmp/o/top; cd /var/tmp/o
    echo low >low/a; echo low >low/b; echo low >low/sub/c; echo top >top/a; echo colon >'low/x:y'
    chown 7:8 low/b; chmod 640 low/b";

fn run(host: &Host, program: &[&str], options: &[&str], script: &str) -> Output {
    host.exec_for(LONG, &[program, options, &["-D", TREE, "--", "sh", "-c", script]].concat())
}

#[track_caller]
fn coracle(host: &Host, options: &[&str], script: &str) -> String {
    run(host, &["coracle", "run", "-q", "--pipe"], options, script).success("coracle run").stdout
}

/// Returns the output of a script inside and the files of the host afterwards, under coracle. Both must be
/// the same under systemd-nspawn.
#[track_caller]
fn same_as_nspawn(host: &Host, options: &[&str], script: &str) -> String {
    let mut shown = Vec::new();
    for program in [
        &["coracle", "run", "-q", "--pipe"][..],
        &["systemd-nspawn", "-q", "--register=no", "--keep-unit", "--pipe"],
    ] {
        host.sh_ok(LAYERS);
        let inside = run(host, program, options, script);
        let files = "cd /var/tmp/o; find . -printf '%y %m %U:%G %P\\n' | sort; cat $(find . -type f | sort)";
        shown.push(format!("{}{}", inside.stdout, host.sh_ok(files)));
    }
    assert_eq!(shown[0], shown[1], "{options:?}");
    shown.remove(0)
}

#[test]
fn overlays_are_those_of_nspawn() {
    let host = Host::builder().guest("busybox").on_disk().start();
    let change =
        "cd /m && cat a b sub/c && echo new >new && rm b && echo changed >a && ls -ln | sed 's,..:..,,'";
    let low = "/var/tmp/o/low";
    let writable = format!("--overlay={low}:/var/tmp/o/top:/m");
    let shown = same_as_nspawn(&host, &[&writable], change);
    assert!(shown.starts_with("top\nlow\nlow\n"), "{shown}");
    for (options, script) in [
        (format!("--overlay={low}:/var/tmp/o/new:/m"), change),
        (format!("--overlay={low}::/m"), change),
        (format!("--overlay={low}:/var/tmp/o/top"), "cat /var/tmp/o/top/a; echo x >/var/tmp/o/top/x"),
        (
            format!("--overlay-ro={low}:/var/tmp/o/top:/m"),
            "cat /m/a /m/b; touch /m/x 2>&1; grep -c ' /m ro,' /proc/self/mountinfo",
        ),
        (format!("--overlay-ro=+/etc:{low}:/m"), "ls /m | sort"),
        ("--overlay=+/etc::/etc".to_owned(), "echo x >/etc/new; cat /etc/new; ls -A /etc | sort"),
        (format!("--overlay={low}/sub:/var/tmp/o/\\:odd:/m"), "echo x >/m/x"),
    ] {
        same_as_nspawn(&host, &[&options], script);
    }
    // On a read-only root.
    let shown =
        same_as_nspawn(&host, &["--read-only", "--overlay=+/etc::/etc"], "echo x >/etc/new; cat /etc/new");
    assert!(shown.starts_with("x\n"), "{shown}");
    assert_ne!(host.sh(&format!("ls {TREE}/etc/new")).status, 0);
    host.stop();
}

#[test]
fn layers_have_the_ids_of_the_machine() {
    let host = Host::builder().guest("busybox").on_disk().start();
    host.sh_ok(LAYERS);
    let options = ["-U", "--overlay=/var/tmp/o/low:/var/tmp/o/top:/m"];
    let shown = coracle(
        &host,
        &options,
        "cd /m; stat -c '%n %u:%g %a' a b; echo new >new; chown 9:9 new; chmod u+x b",
    );
    assert_eq!(shown, "a 0:0 644\nb 7:8 640\n");
    assert_eq!(host.sh_ok("cd /var/tmp/o/top; stat -c '%n %u:%g %a' new b"), "new 9:9 644\nb 7:8 740\n");
    let temporary =
        coracle(&host, &["-U", "--overlay=+/etc::/etc"], "echo x >/etc/x; stat -c '%u:%g' /etc /etc/x");
    assert_eq!(temporary, "0:0\n0:0\n");
    let inside =
        coracle(&host, &["-U", "--overlay=+/etc:+/var/changes:/m"], "echo x >/m/x; cat /var/changes/x");
    assert_eq!(inside, "x\n");
    // The machine in a unit, and what a killed one leaves.
    host.define(
        "busybox",
        "[[mount]]\ntype = 'overlay'\nlower = ['/var/tmp/o/low']\nupper = '/var/lib/machines/.changes'\ntarget = '/m'\n",
    );
    for kill in [false, true] {
        host.coracle(&["start", "busybox"]);
        host.coracle(&["exec", "busybox", "sh", "-c", "echo guest >/m/guest; cat /m/a"]);
        let setuid = host.coracle(&["exec", "busybox", "grep", " /m ", "/proc/self/mountinfo"]);
        assert!(setuid.contains("nosuid"), "{setuid}");
        host.sh_ok("test -d '/var/lib/machines/.#.changes.work'");
        if kill {
            host.kill_supervisor("busybox");
            host.wait_for_unit("busybox", "failed");
            host.sh_ok("systemctl reset-failed coracle@busybox.service");
        } else {
            host.coracle(&["stop", "busybox"]);
        }
        host.wait_until(LONG, "! test -e '/var/lib/machines/.#.changes.work'");
        assert_eq!(host.sh_ok("stat -c %u /var/lib/machines/.changes/guest"), "0\n");
    }
    // Root inside creates setuid programs of the host's root in a directory that users can reach.
    host.define(
        "busybox",
        "[[mount]]\ntype = 'overlay'\nlower = ['/var/tmp/o/low']\nupper = '/var/tmp/o/top'\ntarget = '/m'\n",
    );
    assert!(host.coracle(&["check"]).contains("/var/tmp/o/top"));
    assert_ne!(host.exec(&["coracle", "start", "busybox"]).status, 0);
    host.stop();
}

#[test]
fn impossible_overlays_are_refused() {
    let host = Host::builder().guest("busybox").on_disk().start();
    host.sh_ok(LAYERS);
    for (option, text) in [
        ("--overlay=/nothere:/var/tmp/o/top:/m", "cannot open bind source '/nothere'"),
        ("--overlay=/var/tmp/o/low:/nothere/top:/m", "'/nothere'"),
        ("--overlay=+/nothere::/m", "/nothere"),
        ("--overlay=/var/tmp/o/low/a::/m", "overlay"),
    ] {
        for users in [&[][..], &["-U"]] {
            let refused = run(&host, &["coracle", "run"], &[&[option], users].concat(), "true");
            assert!(refused.status == 125 && refused.stderr.contains(text), "{option}: {refused}");
        }
    }
    host.stop();
}
