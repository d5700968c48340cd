//! Failures around machines: killed supervisors, leaders and machined, re-executed systemd. The guest keeps
//! running or its unit fails as designed; in both cases no state remains.

use std::time::Duration;

use crate::support::{Host, LONG, Snapshot};

/// Returns a host with this guest, and its state before the test.
fn bench(guest: &str) -> (Host, Snapshot) {
    let host = Host::start(&[guest]);
    host.define(guest, "");
    host.activate_machined();
    let before = Snapshot::take(&host);
    (host, before)
}

fn kill(host: &Host, pid: u32) {
    host.ok(&["kill", "-KILL", &pid.to_string()]);
}

/// Asserts that the unit of a killed machine has failed for this reason, that no state remains, and that the
/// machine starts again.
#[track_caller]
fn failed_and_clean(host: &Host, before: &Snapshot, name: &str, result: &str, reasons: &[&str]) {
    host.wait_for_unit(name, "failed");
    assert_eq!(host.unit(name, "Result"), result);
    let status = host.coracle(&["status", name]);
    for reason in reasons {
        assert!(status.contains(reason), "not said: {reason}\n{status}");
    }
    let list = host.coracle(&["list", "--no-legend"]);
    assert_eq!(list.trim(), "");
    host.ok(&["systemctl", "reset-failed", &format!("coracle@{name}")]);
    before.assert_same(host);
    host.coracle(&["start", name]);
    host.assert_registered(name, true);
}

#[test]
fn a_killed_supervisor_ends_the_machine() {
    let (host, before) = bench("busybox");
    host.coracle(&["start", "busybox"]);
    let leader = host.machine_leader("busybox");
    // As `coracle bind` leaves it when it is killed.
    host.sh_ok("touch /run/coracle/.locks/binds-busybox");
    kill(&host, host.supervisor("busybox"));
    failed_and_clean(&host, &before, "busybox", "signal", &["busybox: failed", "killed by signal 9"]);
    assert_eq!(host.exec(&["test", "-e", &format!("/proc/{leader}/exe")]).status, 1);
    host.coracle(&["stop", "busybox"]);
    before.assert_same(&host);
    host.stop();
}

#[test]
fn a_killed_pid_1_ends_the_machine() {
    let (host, before) = bench("busybox");
    host.coracle(&["start", "busybox"]);
    kill(&host, host.machine_leader("busybox"));
    let why = "PID 1 was killed by signal 9 (SIGKILL)";
    failed_and_clean(&host, &before, "busybox", "exit-code", &[why]);
    assert!(host.unit_journal("busybox").contains(why));
    host.coracle(&["stop", "busybox"]);
    before.assert_same(&host);
    host.stop();
}

#[test]
fn a_kill_during_boot_or_stop_is_cleaned_up() {
    let (host, before) = bench("trixie");
    for (script, delay) in [("start", "0.15"), ("start", "0.4"), ("start", "0.7"), ("stop", "0.1")] {
        if script == "stop" {
            host.coracle(&["start", "--wait=ready", "trixie"]);
        }
        host.sh_ok(&format!(
            "systemctl --no-block {script} coracle@trixie; sleep {delay}
             systemctl kill --kill-whom=main -s KILL coracle@trixie || true"
        ));
        host.wait_until(LONG, "systemctl is-failed coracle@trixie || ! systemctl is-active coracle@trixie");
        host.exec(&["systemctl", "reset-failed", "coracle@trixie"]);
        before.assert_same(&host);
    }
    host.coracle(&["start", "--wait=ready", "trixie"]);
    host.coracle(&["stop", "trixie"]);
    host.assert_clean_stop("trixie");
    before.assert_same(&host);
    host.stop();
}

/// Kills the supervisor at different moments after the start of its unit. Each round checks for leftovers at
/// once, because the next start would remove them.
const MOMENTS: &str = r#"
    hits=0
    for moment in $(seq 1 60); do
        systemctl --no-block start coracle@busybox
        sleep 0.$(printf %03d $moment)
        [ "$(systemctl show -P ActiveState coracle@busybox)" = active ] || hits=$((hits + 1))
        systemctl kill --kill-whom=main -s KILL coracle@busybox 2>/dev/null || true
        while state=$(systemctl show -P ActiveState coracle@busybox) && [ "$state" != failed ]; do
            # Too early: there was no process yet.
            [ "$state" != active ] || systemctl kill --kill-whom=main -s KILL coracle@busybox 2>/dev/null || true
            sleep 0.01
        done
        systemctl reset-failed coracle@busybox
        left=$(ip -o link show type veth; ls /run/coracle /run/coracle/.locks /run/systemd/nspawn-uid /run/systemd/nspawn/locks
            find /sys/fs/cgroup/machine.slice -mindepth 1 -type d -name '*coracle*'
            pgrep -x coracle; machinectl --no-legend list) 2>/dev/null || true
        case $(echo "$left" | grep -v -e '^$' -e '^/run/.*:$') in
            '') ;;
            *) echo "left after moment $moment: $left"; exit 1 ;;
        esac
    done
    echo hits: $hits
"#;

#[test]
fn a_kill_at_any_moment_of_a_start_is_cleaned_up() {
    let (host, before) = bench("busybox");
    let out = host.exec_for(Duration::from_secs(180), &["sh", "-euc", MOMENTS]).success("kill");
    // Some of the kills must have been early enough to interrupt the start.
    let hits: u32 =
        out.stdout.trim().rsplit(' ').next().and_then(|hits| hits.parse().ok()).expect("a number");
    assert!(hits >= 5, "{out}");
    before.assert_same(&host);
    host.coracle(&["start", "busybox"]);
    host.coracle(&["stop", "busybox"]);
    host.assert_clean_stop("busybox");
    before.assert_same(&host);
    host.stop();
}

/// Asserts that the machine keeps running: same leader, replying, registered with machined.
#[track_caller]
fn goes_on(host: &Host, leader: u32) {
    assert_eq!(host.machine_leader("busybox"), leader);
    assert_eq!(host.unit("busybox", "ActiveState"), "active");
    let address = host.address("busybox");
    host.wait_for_page(&address);
    host.wait_until(
        Duration::from_secs(20),
        &format!("[ $(machinectl show busybox -p Leader --value) = {leader} ]"),
    );
}

/// Kills systemd-machined and waits for its exit.
const KILL_MACHINED: &str = "
    pid=$(systemctl show -P MainPID systemd-machined); systemctl kill -s KILL systemd-machined
    while kill -0 $pid 2>/dev/null; do sleep 0.01; done
";

#[test]
fn machines_survive_a_killed_or_restarted_machined() {
    let (host, before) = bench("busybox");
    host.coracle(&["start", "busybox"]);
    let leader = host.machine_leader("busybox");
    host.ok(&["systemctl", "restart", "systemd-machined"]);
    goes_on(&host, leader);
    host.sh_ok(KILL_MACHINED);
    goes_on(&host, leader);
    // machined starts with an empty state directory.
    host.sh_ok(
        "systemctl stop systemd-machined; rm -f /run/systemd/machines/*; systemctl start systemd-machined",
    );
    goes_on(&host, leader);
    // machined unregisters the running machine.
    host.sh_ok(
        "busctl call org.freedesktop.machine1 /org/freedesktop/machine1 org.freedesktop.machine1.Manager \
         UnregisterMachine s busybox",
    );
    goes_on(&host, leader);
    host.coracle(&["stop", "busybox"]);
    host.assert_clean_stop("busybox");
    before.assert_same(&host);
    host.stop();
}

#[test]
fn machines_register_when_machined_appears() {
    let (host, before) = bench("busybox");
    host.sh_ok("systemctl -q mask --runtime --now systemd-machined");
    host.coracle(&["start", "busybox"]);
    let leader = host.machine_leader("busybox");
    assert_eq!(host.property("busybox", "registered"), "false");
    host.sh_ok("systemctl -q unmask --runtime systemd-machined; systemctl start systemd-machined");
    goes_on(&host, leader);
    assert_eq!(host.property("busybox", "registered"), "true");
    // A stop without machined succeeds.
    host.sh_ok("systemctl -q mask --runtime --now systemd-machined");
    host.coracle(&["stop", "busybox"]);
    host.assert_clean_stop("busybox");
    host.sh_ok("systemctl -q unmask --runtime systemd-machined; systemctl start systemd-machined");
    before.assert_same(&host);
    host.stop();
}

#[test]
fn a_machine_is_not_stopped_for_its_former_run() {
    const KILL_SUPERVISOR: &str = "kill -9 $(systemctl show -P MainPID coracle@busybox)";
    const SUSPEND: &str = "kill -STOP $(systemctl show -P MainPID systemd-machined)";
    let masked = format!("systemctl -q mask --runtime systemd-machined; {KILL_MACHINED}");
    let (host, before) = bench("busybox");
    for (absent, end) in [
        (masked.as_str(), "coracle stop busybox"),
        (&masked, KILL_SUPERVISOR),
        (&masked, "kill -9 $(coracle show busybox -p leader | cut -d= -f2)"),
        (SUSPEND, KILL_SUPERVISOR),
    ] {
        host.coracle(&["start", "busybox"]);
        // machined does not notice the end of the first run, and finds it in its state files later.
        host.sh_ok(absent);
        host.sh_ok(end);
        host.wait_until(LONG, "! systemctl -q is-active coracle@busybox && ! [ -e /run/coracle/busybox ]");
        host.sh_ok("systemctl reset-failed coracle@busybox 2>/dev/null || :");
        host.coracle(&["start", "busybox"]);
        let leader = host.machine_leader("busybox");
        host.sh_ok(
            "systemctl -q unmask --runtime systemd-machined
             systemctl kill -s KILL systemd-machined 2>/dev/null || :
             systemctl reset-failed systemd-machined 2>/dev/null || :; systemctl restart systemd-machined",
        );
        goes_on(&host, leader);
        host.coracle(&["stop", "busybox"]);
    }
    host.coracle(&["start", "busybox"]);
    host.sh_ok("systemctl -q stop systemd-machined");
    host.coracle(&["stop", "busybox"]);
    let started = host.ok(&["systemctl", "show", "--property=ActiveState,Job", "systemd-machined"]);
    assert_eq!(started.trim(), "ActiveState=inactive\nJob=", "the end has started machined");
    host.assert_clean_stop("busybox");
    before.assert_same(&host);
    host.stop();
}

/// Reboots a machine three times with a command that receives the pid of its PID 1, and asserts that the
/// machine keeps running.
#[track_caller]
fn goes_on_by_reboots(reboot: impl Fn(&Host, u32)) {
    let (host, before) = bench("busybox");
    host.coracle(&["start", "busybox"]);
    for _ in 0..3 {
        let leader = host.machine_leader("busybox");
        reboot(&host, leader);
        host.wait_for_reboot("busybox", leader);
        host.sh_ok("systemctl reset-failed systemd-machined");
        goes_on(&host, host.machine_leader("busybox"));
    }
    host.coracle(&["stop", "busybox"]);
    host.assert_clean_stop("busybox");
    before.assert_same(&host);
    host.stop();
}

#[test]
fn a_reboot_without_machined_succeeds() {
    goes_on_by_reboots(|host, _| {
        // The reboot is requested while machined is not running.
        host.sh_ok(KILL_MACHINED);
        host.sh_ok("systemctl reset-failed systemd-machined");
        host.coracle(&["reboot", "busybox"]);
    });
}

#[test]
fn a_machined_restart_during_a_reboot_is_survived() {
    goes_on_by_reboots(|host, leader| {
        // machined is suspended until PID 1 has exited, and the next machined reads its outdated state.
        host.sh_ok(&format!(
            "machined=$(systemctl show systemd-machined -P MainPID); kill -STOP $machined; coracle reboot busybox
             until ! kill -0 {leader} 2>/dev/null; do sleep 0.01; done; sleep 0.2; kill -KILL $machined",
        ));
    });
}

#[test]
fn machines_survive_daemon_reload_and_reexec() {
    let (host, before) = bench("busybox");
    host.coracle(&["start", "busybox"]);
    let leader = host.machine_leader("busybox");
    let (invocation, supervisor) = (host.unit("busybox", "InvocationID"), host.supervisor("busybox"));
    for how in ["daemon-reload", "daemon-reexec", "daemon-reexec", "daemon-reload"] {
        host.ok(&["systemctl", how]);
        goes_on(&host, leader);
        assert_eq!(host.unit("busybox", "InvocationID"), invocation);
        assert_eq!(host.supervisor("busybox"), supervisor);
    }
    // The connection to systemd still works: systemd is notified of the stop and of the next start.
    host.coracle(&["reboot", "busybox"]);
    host.wait_for_reboot("busybox", leader);
    host.coracle(&["restart", "busybox"]);
    host.coracle(&["stop", "busybox"]);
    host.assert_clean_stop("busybox");
    before.assert_same(&host);
    host.stop();
}

#[test]
fn a_booting_guest_survives_daemon_reexec() {
    let (host, before) = bench("trixie");
    host.sh_ok("systemctl --no-block start coracle@trixie");
    host.wait_for_phase("trixie", "booting");
    host.sh_ok("systemctl daemon-reexec");
    host.wait_until(LONG, "systemctl is-active coracle@trixie");
    host.wait_for_phase("trixie", "running");
    assert_eq!(host.in_guest("trixie", &["systemctl", "is-system-running"]).stdout, "running\n");
    host.coracle(&["stop", "trixie"]);
    host.assert_clean_stop("trixie");
    before.assert_same(&host);
    host.stop();
}

#[test]
fn a_failed_cleanup_is_done_by_the_next_start() {
    let (host, before) = bench("busybox");
    host.coracle(&["start", "busybox"]);
    // The cleanup of the unit after the killed supervisor fails.
    host.write(
        "/run/systemd/system/coracle@busybox.service.d/no-cleanup.conf",
        "[Service]\nExecStopPost=\nExecStopPost=/bin/false\n",
    );
    host.ok(&["systemctl", "daemon-reload"]);
    kill(&host, host.supervisor("busybox"));
    host.wait_for_unit("busybox", "failed");
    host.sh_ok("rm -r /run/systemd/system/coracle@busybox.service.d; systemctl daemon-reload; systemctl reset-failed");
    let list = host.coracle(&["list", "--no-legend"]);
    assert!(list.contains("dead"), "{list}");
    host.coracle(&["start", "busybox"]);
    goes_on(&host, host.machine_leader("busybox"));
    host.coracle(&["stop", "busybox"]);
    host.assert_clean_stop("busybox");
    before.assert_same(&host);
    host.stop();
}
