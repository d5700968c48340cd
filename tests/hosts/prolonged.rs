//! Attempts of a guest to block the host processes that serve it: descriptors that block at close, file
//! systems that never reply, processes that cannot be frozen, deep cgroups. The supervisor keeps working.

use crate::support::{Host, LONG, Snapshot, program};
use std::time::{Duration, Instant};

/// The limit for a reply during an attack. Each attack lasts five minutes.
const SOON: Duration = Duration::from_secs(15);

/// Builds the attacker statically, and installs it into the tree of a machine.
fn install(host: &Host, machine: &str) {
    let to = host.machines().join(machine).join("usr/bin/attacker");
    std::fs::copy(program::build("tests/prolonged/attacker.c", &[]), to).expect("copy the attacker");
}

/// Asserts that the supervisor of a machine replies during an attack, and that the machine stops cleanly.
#[track_caller]
fn assert_serves_and_stops(host: &Host, machine: &str) {
    let begun = Instant::now();
    let attached = host.exec_on_tty(SOON, &format!("printf '\\035\\035\\035' | coracle attach {machine}"));
    assert_ne!(attached.status, 124, "{attached}");
    let port = "network.ports=9922:22";
    host.exec_for(SOON, &["coracle", "set", machine, port]).success("set");
    let stopped = host.exec_for(LONG, &["coracle", "stop", machine]);
    assert_eq!(stopped.status, 0, "{stopped}");
    assert!(begun.elapsed() < SOON * 2, "{:?}", begun.elapsed());
    host.assert_clean_stop(machine);
    host.sh_ok(&format!("rm -rf /etc/coracle/machines.d/{machine}.toml.d"));
}

/// Disables SO_PASSRIGHTS in the unit, as on a kernel before 6.16.
fn accept_descriptors(host: &Host) {
    let text = "[Service]\nEnvironment=CORACLE_DEBUG_ACCEPT_DESCRIPTORS=1\n";
    host.write("/run/systemd/system/coracle@.service.d/accept.conf", text);
    host.ok(&["systemctl", "daemon-reload"]);
}

#[test]
fn descriptors_that_block_at_close_do_not_block_a_stop() {
    let host = Host::start(&["trixie", "busybox"]);
    host.activate_machined();
    let before = Snapshot::take(&host);
    for name in ["trixie", "busybox"] {
        install(&host, name);
        host.define(name, "");
    }
    for refused in [true, false] {
        if !refused {
            accept_descriptors(&host);
        }
        for (name, user, socket) in
            [("trixie", "root", "/run/host/notify"), ("busybox", "nobody", "/dev/log")]
        {
            host.coracle(&["start", "--wait=ready", name]);
            let words = ["coracle", "exec", "-T", "-u", user, name, "--", "attacker", "linger", socket];
            let mut attack = host.spawn(&words);
            let expected = if refused { "Operation not permitted\n" } else { "sent\n" };
            attack.wait_for_stdout(&expected.repeat(12), LONG);
            assert_serves_and_stops(&host, name);
        }
    }
    host.sh_ok("rm -r /run/systemd/system/coracle@.service.d && systemctl daemon-reload");
    before.assert_same(&host);
    host.stop();
}

/// Returns a command that calls a method of the control socket of a machine.
fn call(machine: &str, method: &str) -> String {
    format!("varlinkctl call /run/coracle/{machine}/control io.systemd.MachineInstance.{method} '{{}}'")
}

#[test]
fn file_systems_of_the_guest_do_not_block_the_host() {
    let host = Host::start(&["sysvinit"]);
    install(&host, "sysvinit");
    host.define("sysvinit", "[boot]\nstop-timeout = \"3s\"\n[security]\ndevices = [\"/dev/fuse\"]\n");
    host.coracle(&["start", "--wait=ready", "sysvinit"]);
    let attack = |directory: &str| {
        let script = format!("mkdir -p {directory}; exec attacker server {directory}");
        let mut server = host.spawn(&["coracle", "exec", "-T", "sysvinit", "--", "sh", "-c", &script]);
        server.wait_for_stdout("serving", LONG);
        server
    };
    // A process of the guest that cannot be frozen.
    let _server = attack("/mnt");
    let waiting = ["coracle", "exec", "-T", "sysvinit", "--", "sh", "-c", "ls /mnt/a & echo begun; wait"];
    let mut waiter = host.spawn(&waiting);
    waiter.wait_for_stdout("begun", LONG);
    let mut pause = host.spawn(&["sh", "-c", &call("sysvinit", "Pause")]);
    host.wait_until(
        LONG,
        "grep -qx 1 /sys/fs/cgroup/machine.slice/coracle@sysvinit.service/payload/cgroup.freeze",
    );
    host.sh_ok(&call("sysvinit", "QueryStatus"));
    assert_eq!(pause.poll(), None, "the call is answered when the guest stands still");
    host.sh_ok(&call("sysvinit", "Resume"));

    // The directory of the control FIFO of sysvinit, used for a stop.
    let _other = attack("/run");
    let mut stop = host.spawn(&["coracle", "stop", "sysvinit"]);
    host.wait_for_phase("sysvinit", "stopping");
    host.sh_ok(&call("sysvinit", "QueryStatus"));
    assert_eq!(stop.poll(), None, "it has three seconds");
    stop.wait(LONG);
    let journal = host.unit_journal("sysvinit");
    assert!(journal.contains("killing the guest"), "{journal}");
    host.wait_for_unit("sysvinit", "failed");
    host.stop();
}

/// Asserts that a process that enters a machine is in the cgroup of PID 1, although its path is too long to
/// open, and counts as a process of the machine.
fn enters_the_deepest_cgroup(host: &Host) {
    let entered = host.spawn(&["coracle", "exec", "-T", "busybox", "--", "sleep", "4321"]);
    host.wait_until(LONG, "pgrep -f '^sleep 4321'");
    let leader = host.machine_leader("busybox");
    // The kernel truncates the path at 4095 bytes.
    let cgroup = |pid: &str| host.sh_ok(&format!("grep ^0:: /proc/{pid}/cgroup"));
    assert!(cgroup(&leader.to_string()).trim().len() > 4095);
    assert_eq!(cgroup("$(pgrep -f '^sleep 4321')"), cgroup(&leader.to_string()));
    let shown = host.coracle(&["inspect", "busybox"]);
    assert!(!shown.contains("shared with process"), "{shown}");
    host.sh_ok("pkill -f '^sleep 4321'");
    entered.wait(LONG);
}

#[test]
fn cgroups_deeper_than_a_path_are_found_and_removed() {
    let host = Host::start(&["busybox"]);
    install(&host, "busybox");
    host.start_machine("busybox");
    let mut nested = host.spawn(&["coracle", "exec", "-T", "busybox", "--", "attacker", "nest", "30"]);
    nested.wait_for_stdout("nested", LONG);
    enters_the_deepest_cgroup(&host);
    let tasks = || host.coracle(&["stats", "busybox"]);
    let before = tasks();
    host.coracle(&["kill", "--signal=USR1", "busybox"]);
    host.wait_until(LONG, "! pgrep -f '^attacker nest'");
    assert_ne!(before, tasks());
    host.coracle(&["stop", "busybox"]);
    host.assert_clean_stop("busybox");
    let journal = host.unit_journal("busybox");
    assert!(!journal.contains("cannot remove cgroup"), "{journal}");
    host.sh_ok("! ls -d /sys/fs/cgroup/machine.slice/coracle@busybox.service");
    host.stop();
}
