//! Guests with systemd under the tools of systemd for machines: they are started, inspected, entered,
//! rebooted and stopped by machinectl, `systemctl -M` and their like, and receive copied files.

use std::time::Duration;

use crate::support::{Host, LONG, Output, Snapshot};

/// Starts a host with one guest and waits until the guest is ready.
fn ready(guest: &str) -> Host {
    let host = Host::start(&[guest]);
    host.define(guest, "");
    host.coracle(&["start", "--wait=ready", guest]);
    host
}

/// Runs a command line on a terminal.
#[track_caller]
fn on_tty(host: &Host, line: &str) -> Output {
    host.exec_on_tty(Duration::from_secs(30), line)
}

/// Asserts the output of the guest's tools, of machinectl and of the host's `-M` options.
fn looks(guest: &str, version: &str) {
    let host = ready(guest);
    let inside = host.in_guest(guest, &["systemctl", "is-system-running"]);
    assert_eq!(inside.stdout, "running\n", "{inside}");
    let failed = host.ok(&["systemctl", "-M", guest, "list-units", "--failed", "--no-legend"]);
    assert_eq!(failed, "");
    assert_eq!(host.ok(&["systemctl", "-M", guest, "is-system-running"]), "running\n");

    let list = host.ok(&["machinectl", "list", "--no-legend"]);
    let row: Vec<&str> = list.split_whitespace().collect();
    assert_eq!(&row[..5], &[guest, "container", "coracle", "debian", version], "{list}");
    let address = host.address(guest);
    assert!(row[5].starts_with(&address), "{list}");

    let status = host.ok(&["machinectl", "status", guest]);
    let unit = format!("Unit: coracle@{guest}.service");
    let iface = format!("Iface: ve-{guest}");
    // systemd 258 and later show only the guest's subgroup of the unit.
    let ours = if status.contains("Subgroup: payload") { "Subgroup: payload" } else { "supervisor" };
    for expected in [&address, &unit, &iface, "Service: coracle", "payload", ours, "init.scope"] {
        assert!(status.contains(expected), "no '{expected}' in\n{status}");
    }
    assert_eq!(host.ok(&["machinectl", "show", guest, "-p", "State", "--value"]), "running\n");
    names_and_logs(&host, guest);
    host.stop();
}

fn names_and_logs(host: &Host, guest: &str) {
    let hosts = host.ok(&["getent", "hosts", guest]);
    assert!(hosts.trim().ends_with(guest), "{hosts}");
    assert!(host.ok(&["getent", "ahosts", guest]).contains(&host.address(guest)));
    host.ok(&["ping", "-c1", "-W5", guest]);

    let journal = host.ok(&["journalctl", "-M", guest, "--no-pager", "-o", "cat"]);
    assert!(journal.contains("Reached target multi-user.target"), "{journal}");
    let out =
        host.exec(&["systemd-run", "-M", guest, "--wait", "--pipe", "-q", "sh", "-c", "hostname; exit 3"]);
    assert_eq!((out.status, out.stdout.trim()), (3, guest), "{out}");
    host.ok(&["loginctl", "-M", guest, "list-sessions", "--no-legend"]);
}

#[test]
fn trixie_looks_right_from_outside() {
    looks("trixie", "13");
}

#[test]
fn bookworm_looks_right_from_outside() {
    looks("bookworm", "12");
}

/// Opens a shell, logs in, and copies files in both directions.
fn enters(guest: &str) {
    let host = ready(guest);
    let shell =
        on_tty(&host, &format!("machinectl shell {guest} /bin/sh -c 'echo in-$(hostname); tty; id -u'"));
    for expected in [&format!("in-{guest}"), "/dev/pts/", "\n0\r\n"] {
        assert!(shell.stdout.contains(expected), "no '{expected}' in {shell}");
    }
    logs_in(&host, guest, guest);

    host.write("/root/here", "some data\n");
    host.ok(&["machinectl", "copy-to", guest, "/root/here", "/root/there"]);
    let owner = host.in_guest(guest, &["stat", "-c", "%u %s", "/root/there"]);
    assert_eq!(owner.stdout, "0 10\n", "{owner}");
    host.in_guest(guest, &["sh", "-c", "mkdir -p /srv/d/e; echo deep >/srv/d/e/f"]).success("make a tree");
    host.ok(&["machinectl", "copy-from", guest, "/srv/d", "/root/d"]);
    assert_eq!(host.read("/root/d/e/f"), "deep\n");
    assert_eq!(host.ok(&["stat", "-c", "%u", "/root/d/e/f"]), "0\n");
    host.stop();
}

/// Logs in with `machinectl login`; the guest's root has no password.
pub(crate) fn logs_in(host: &Host, guest: &str, hostname: &str) {
    let mut login = host.spawn_on_tty(&format!("machinectl login {guest}"));
    let mut typed = login.input();
    let mut say = |text: &str| std::io::Write::write_all(&mut typed, text.as_bytes()).expect("type");
    login.wait_for_stdout("login: ", Duration::from_secs(30));
    say("root\n");
    login.wait_for_stdout(&format!("root@{hostname}"), Duration::from_secs(30));
    host.wait_until(
        Duration::from_secs(20),
        &format!("loginctl -M {guest} list-sessions --no-legend | grep -w root"),
    );
    say("echo this-$((6*7))-works; logout\n");
    login.wait_for_stdout("this-42-works", Duration::from_secs(30));
    // Ctrl+] three times within a second disconnects machinectl; after the logout, the getty prompts again.
    say("\x1d\x1d\x1d");
    let out = login.wait(Duration::from_secs(20));
    assert_eq!(out.status, 0, "{out}");
}

#[test]
fn trixie_can_be_entered() {
    enters("trixie");
}

#[test]
fn bookworm_can_be_entered() {
    enters("bookworm");
}

/// Ends or reboots a machine with each verb of machinectl for it.
fn ends(guest: &str) {
    let host = Host::start(&[guest]);
    host.define(guest, "");
    host.activate_machined();
    let before = Snapshot::take(&host);
    let start = || host.coracle(&["start", "--wait=ready", guest]);

    start();
    reboots(&host, guest);
    host.ok(&["machinectl", "poweroff", guest]);
    host.wait_for_unit(guest, "inactive");
    host.assert_clean_stop(guest);
    before.assert_same(&host);

    start();
    host.ok(&["machinectl", "terminate", guest]);
    host.wait_for_unit(guest, "inactive");
    host.assert_clean_stop(guest);
    before.assert_same(&host);

    start();
    // All processes of the guest at once, including PID 1. The signal is SIGKILL because systemd re-executes
    // on SIGTERM.
    host.ok(&["machinectl", "kill", "--kill-whom=all", "--signal=KILL", guest]);
    host.wait_until(LONG, &format!("systemctl is-failed coracle@{guest}"));
    before.assert_same(&host);
    start();
    assert_eq!(host.in_guest(guest, &["systemctl", "is-system-running"]).stdout, "running\n");
    host.coracle(&["stop", guest]);
    host.assert_clean_stop(guest);
    before.assert_same(&host);
    host.stop();
}

fn reboots(host: &Host, guest: &str) {
    let (invocation, leader) = (host.unit(guest, "InvocationID"), host.machine_leader(guest));
    host.ok(&["machinectl", "reboot", guest]);
    host.wait_until(
        LONG,
        &format!(
            "leader=$(machinectl show {guest} -p Leader --value); [ $leader != {leader} ]; \
             nsenter -t $leader -a systemctl is-system-running"
        ),
    );
    assert_eq!(host.unit(guest, "InvocationID"), invocation);
    // A harmless signal, only to the leader: the machine keeps running.
    host.ok(&["machinectl", "kill", "--kill-whom=leader", "--signal=SIGRTMIN+22", guest]);
    assert_eq!(host.unit(guest, "ActiveState"), "active");
}

#[test]
fn trixie_ends_and_reboots_by_machinectl() {
    ends("trixie");
}

#[test]
fn bookworm_ends_and_reboots_by_machinectl() {
    ends("bookworm");
}

#[test]
fn verbs_match_machinectl() {
    let host = ready("trixie");
    let guest = "trixie";
    let leader = host.machine_leader(guest);
    host.coracle(&["reboot", guest]);
    host.wait_for_reboot(guest, leader);
    host.wait_for_phase(guest, "running");
    host.coracle(&["kill", "--kill-whom=leader", "-s", "RTMIN+22", guest]);
    host.coracle(&["poweroff", guest]);
    host.wait_for_unit(guest, "inactive");
    host.assert_clean_stop(guest);

    host.coracle(&["enable", "--now", guest]);
    assert_eq!(
        host.ok(&["systemctl", "is-enabled", "coracle@trixie", "coracle.target"]),
        "enabled\nenabled\n"
    );
    let json = host.coracle(&["list", "--json"]);
    for expected in [r#""name": "trixie""#, r#""state": "running""#, r#""init": "systemd""#] {
        assert!(json.contains(expected), "no '{expected}' in {json}");
    }
    let status = host.coracle(&["status", guest]);
    for expected in ["trixie: running", "10.177.", "coracle@trixie.service (active, running; enabled)"] {
        assert!(status.contains(expected), "no '{expected}' in {status}");
    }
    // `terminate` sends no request to PID 1 of the guest.
    host.coracle(&["terminate", guest]);
    host.wait_until(LONG, "! systemctl is-active coracle@trixie");
    host.coracle(&["disable", guest]);
    assert_eq!(host.exec(&["systemctl", "is-enabled", "coracle@trixie"]).stdout, "disabled\n");
    assert_eq!(host.exec(&["coracle", "stop", guest]).status, 0);
    let again = host.exec(&["coracle", "poweroff", guest]);
    assert!(again.status == 1 && again.stderr.contains("is not running"), "{again}");
    host.stop();
}
