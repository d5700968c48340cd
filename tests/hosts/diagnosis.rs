//! Problems and their hints: `coracle doctor` for hosts and machines, and the record of a failed machine.

use crate::support::{Host, LONG, Snapshot};

/// Returns the output of `coracle doctor NAME`. Asserts an exit status of 1 and at most 24 lines.
#[track_caller]
fn diagnosis(host: &Host, name: &str) -> String {
    let out = host.exec(&["coracle", "doctor", name]);
    assert_eq!(out.status, 1, "{out}");
    assert!(out.stdout.lines().count() <= 24, "more than a screen: {out}");
    out.stdout
}

#[track_caller]
fn says(text: &str, expected: &[&str]) {
    for expected in expected {
        assert!(text.contains(expected), "no '{expected}' in\n{text}");
    }
}

#[test]
fn failed_starts_are_diagnosed_with_a_hint() {
    let host = Host::start(&["busybox"]);
    host.sh_ok(
        "machinectl -q list
         cd /var/lib/machines; for tree in noinit arm script dies; do cp -a busybox $tree; done
         rm noinit/usr/sbin/init
         printf '\\267\\000' | dd of=arm/usr/bin/busybox bs=1 seek=18 conv=notrunc status=none
         rm script/usr/sbin/init; printf '#!/bin/nothere\\n' >script/usr/sbin/init; chmod 755 script/usr/sbin/init
         rm dies/usr/sbin/init; printf '#!/bin/sh\\necho about to die; exit 3\\n' >dies/usr/sbin/init
         chmod 755 dies/usr/sbin/init",
    );
    let before = Snapshot::take(&host);
    for (name, expected) in [
        ("noinit", &["there is no init in", "hint: install an init system", "(set up)"][..]),
        ("arm", &["init is for aarch64", "hint: use a tree"]),
        (
            "script",
            &["cannot execute '/sbin/init'", "hint: the program or its interpreter is not in the tree"],
        ),
        ("dies", &["PID 1 exited with status 3", "hint: ", "last console output:\n    about to die"]),
    ] {
        host.exec(&["coracle", "start", name]);
        host.wait_for_unit(name, "failed");
        let text = diagnosis(&host, name);
        says(&text, expected);
    }
    let status = host.exec(&["coracle", "status", "dies"]).stdout;
    says(&status, &["failure: exit status 3: PID 1 exited with status 3", "hint: ", "uptime: 0."]);
    host.sh_ok("systemctl reset-failed");
    before.assert_same(&host);

    // The next successful start removes the failure record.
    assert_eq!(
        host.ok(&["ls", "/var/lib/coracle/failures"]),
        "arm.json\ndies.json\nnoinit.json\nscript.json\n"
    );
    host.sh_ok("ln -sf ../bin/busybox /var/lib/machines/dies/usr/sbin/init");
    host.coracle(&["start", "dies"]);
    assert_eq!(host.exec(&["test", "-e", "/var/lib/coracle/failures/dies.json"]).status, 1);
    let well = host.exec(&["coracle", "doctor", "dies"]).stdout;
    assert!(
        well.starts_with("dies: running\n  note: machines have no name server: the host has none\n"),
        "{well}"
    );
    assert_eq!(well.lines().count(), 3, "{well}");
    host.coracle(&["stop", "dies"]);
    host.stop();
}

#[test]
fn a_killed_guest_leaves_its_last_console_output() {
    let host = Host::start(&["busybox"]);
    host.start_machine("busybox");
    let leader = host.machine_leader("busybox");
    host.sh_ok(&format!("kill -KILL {leader}"));
    host.wait_for_unit("busybox", "failed");
    let text = diagnosis(&host, "busybox");
    says(
        &text,
        &[
            "killed by signal 9 (SIGKILL)",
            "hint: see its last messages below",
            "last console output:",
            "(running after",
        ],
    );
    let json = host.exec(&["coracle", "doctor", "busybox", "--json"]).stdout;
    says(&json, &["\"signal\": 9", "\"severity\": \"wrong\"", "\"out-of-memory\": false"]);
    host.stop();
}

#[test]
fn a_start_timeout_is_recorded_and_a_stop_is_not() {
    let host = Host::start(&["busybox"]);
    host.write(
        "/var/lib/machines/busybox/usr/sbin/late",
        "#!/bin/sh\ntrap 'echo is still waiting; exit 0' TERM\nsleep 1000 & wait\n",
    );
    host.sh_ok("chmod 755 /var/lib/machines/busybox/usr/sbin/late");
    host.define("busybox", "[root]\n[boot]\nwait = \"ready\"\ninit = \"/sbin/late\"\n");
    host.write("/run/systemd/system/coracle@busybox.service.d/late.conf", "[Service]\nTimeoutStartSec=3\n");
    host.sh_ok("systemctl daemon-reload");
    // A stop during the boot is not a failure.
    host.sh_ok("coracle start --wait=no busybox");
    host.wait_for_phase("busybox", "booting");
    host.coracle(&["stop", "busybox"]);
    assert_eq!(host.exec(&["test", "-e", "/var/lib/coracle/failures/busybox.json"]).status, 1);

    assert_eq!(host.exec(&["coracle", "start", "busybox"]).status, 1);
    host.wait_for_unit("busybox", "failed");
    let text = diagnosis(&host, "busybox");
    says(
        &text,
        &["(booting after ", "it was not up in time", "hint: see what it waited", "is still waiting"],
    );
    host.stop();
}

/// Returns the findings of `coracle doctor` for the host. Asserts the exit status.
#[track_caller]
fn findings(host: &Host, status: i32) -> String {
    let out = host.exec(&["coracle", "doctor"]);
    assert_eq!(out.status, status, "{out}");
    out.stdout
}

/// A nested host has no memory controller.
#[test]
fn a_missing_controller_is_a_risk_and_not_an_error() {
    let host = Host::start(&[]);
    let text = findings(&host, 0);
    says(&text, &["risk: the unified cgroup hierarchy lacks", "memory", "hint: "]);
    assert!(!text.contains("wrong:"), "{text}");
    let json = host.exec(&["coracle", "doctor", "--json"]).stdout;
    says(&json, &["\"findings\": [", "\"severity\": \"risk\""]);
    host.stop();
}

#[test]
fn doctor_reports_bad_roots_and_id_ranges() {
    let host = Host::start(&["busybox"]);
    host.define("gone", "[root]\ndirectory = \"/srv/gone\"\n");
    host.sh_ok("cp -a /var/lib/machines/busybox /srv/overlay");
    host.define("overlay", "[root]\ndirectory = \"/srv/overlay\"\n");
    host.start_machine("busybox");
    host.sh_ok("base=$(ls /var/lib/coracle/ids); echo you:$base:65536 >>/etc/subuid");
    says(
        &findings(&host, 1),
        &[
            "wrong: machine 'gone' has no root: '/srv/gone' is missing",
            "'/srv/overlay', for machine 'overlay', is on overlay, which has no idmapped mounts",
            "are also delegated to a user",
        ],
    );
    host.stop();
}

#[test]
fn doctor_reports_a_masked_machined() {
    let host = Host::start(&[]);
    host.sh_ok("systemctl -q mask systemd-machined; systemctl daemon-reload");
    says(
        &findings(&host, 0),
        &["systemd-machined.service is masked\n  hint: systemctl unmask systemd-machined.service"],
    );
    host.stop();
}

#[test]
fn doctor_reports_leftovers_of_machines() {
    let host = Host::start(&["busybox"]);
    host.start_machine("busybox");
    // The state is changed to that of a machine with a killed supervisor.
    host.sh_ok("mkdir -p /run/coracle/lost; cp /run/coracle/busybox/state.json /run/coracle/lost/");
    host.sh_ok("sed -i 's/\"busybox\"/\"lost\"/; s/\"supervisor\": .*/\"supervisor\": 1,/; s/\"files\"/\"unused\"/; s/\"cgroup\":.*/\"cgroup\": null,/; s/\"host-interface\":.*/\"host-interface\": null,/; s/\"registered\":.*/\"registered\": false,/' /run/coracle/lost/state.json");
    says(&findings(&host, 1), &["machine 'lost' is not cleaned up", "hint: coracle cleanup lost"]);
    host.ok(&["coracle", "cleanup", "lost"]);
    host.sh_ok("ip link add ve-lost type veth peer name x-lost");
    says(&findings(&host, 0), &["interface 've-lost' belongs to no machine\n  hint: ip link delete ve-lost"]);
    host.coracle(&["stop", "busybox"]);
    host.stop();
}

/// The shell command of a job that blocks the stop of a guest until its root contains `/release`.
const BLOCK: &str = "while [ ! -e /release ]; do sleep 0.1; done";

/// Asserts that a slow `coracle stop` on a terminal and `coracle status` report the pending job. The job is
/// `BLOCK`.
#[track_caller]
fn assert_stop_reports(host: &Host, name: &str, on_terminal: &str, what: &str) {
    let mut stop = host.spawn_on_tty(&format!("stty cols 120; coracle stop {name}; echo ended $?"));
    stop.wait_for_stdout(on_terminal, LONG);
    let status = host.coracle(&["status", name]);
    says(&status, &[&format!("stopping: waiting for {what}")]);
    host.sh_ok(&format!("touch /var/lib/machines/{name}/release"));
    stop.wait_for_stdout("ended 0", LONG);
    host.assert_clean_stop(name);
}

#[test]
fn a_slow_stop_reports_its_jobs() {
    let host = Host::start(&["trixie", "busybox"]);
    host.define("trixie", "");
    host.sh_ok("mkdir -p /var/lib/machines/trixie/var/log/journal");
    host.coracle(&["start", "--wait=ready", "trixie"]);
    // The unit is ready after its trap is set: an earlier stop would not be slow.
    let slow = format!("trap '{BLOCK}; exit' TERM; systemd-notify --ready; while :; do sleep 0.1; done");
    let unit = ["systemd-run", "-q", "-u", "slow", "-p", "Type=notify", "-p", "NotifyAccess=all"];
    host.in_guest("trixie", &[&unit[..], &["sh", "-c", &slow]].concat()).success("a slow unit");
    // The message is the status text of the guest's systemd.
    assert_stop_reports(
        &host,
        "trixie",
        "trixie: stopping: User job slow.service/stop running",
        "slow.service",
    );
    // The guest received one request only: a second request would restart its shutdown.
    let journal = "journalctl -D /var/lib/machines/trixie/var/log/journal -q -o cat -t systemd";
    assert_eq!(host.sh_ok(&format!("{journal} | grep -c 'Received SIGRTMIN+4'")), "1\n");
    host.sh_ok(&format!(
        "cd /var/lib/machines/busybox; echo '{BLOCK}' >block; echo '::shutdown:/bin/sh /block' >>etc/inittab"
    ));
    host.start_machine("busybox");
    // The pending job is the server run by init or its shutdown action, depending on the time of the report.
    assert_stop_reports(&host, "busybox", "busybox: stopping: waiting for ", "");
    host.stop();
}
