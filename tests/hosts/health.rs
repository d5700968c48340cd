//! `[health]` and `coracle events`: a database and the machine that needs it, failed services, recovery in the
//! order of the definitions, and hooks of systemd.

use crate::support::{Host, LONG};

/// A service that answers like a database, enabled in the tree of a machine.
const DATABASE: &str =
    "[Service]\nExecStart=busybox nc -ll -p 5432 -e cat\n[Install]\nWantedBy=multi-user.target\n";
/// Succeeds if it answers.
const COMMAND: &str = "command = \"echo ping | busybox nc -w 1 127.0.0.1 5432 | grep -q ping\"\ninterval = \"1s\"\nretries = 2\n";

fn host_with_database() -> Host {
    let host = Host::builder().guest_as("trixie", "db").guest_as("busybox", "app").start();
    let units = "/var/lib/machines/db/etc/systemd/system";
    host.write(&format!("{units}/database.service"), DATABASE);
    host.sh_ok(&format!(
        "mkdir -p {units}/multi-user.target.wants; ln -s ../database.service {units}/multi-user.target.wants/"
    ));
    host
}

/// Waits until the health of the database is this text.
fn wait_for_health(host: &Host, text: &str) {
    host.wait_until(LONG, &format!("coracle status db | grep -E '^ +health: {text}'"));
}

/// Returns the times of a unit's last changes, microseconds.
fn time(host: &Host, name: &str, property: &str) -> u64 {
    let property = format!("{property}TimestampMonotonic");
    host.unit(name, &property).parse().expect("a time")
}

/// Asserts that these events of a machine exist, in this order.
#[track_caller]
fn in_order(events: &str, expected: &[(&str, &str)]) {
    let mut lines = events.lines();
    for (machine, event) in expected {
        let text = format!("\"machine\":\"{machine}\",\"event\":\"{event}\"");
        assert!(lines.any(|line| line.contains(&text)), "no {machine} {event} in order in {events}");
    }
}

#[test]
fn an_unhealthy_database_is_restarted_with_the_machine_that_needs_it() {
    let host = host_with_database();
    host.define("db", &format!("[health]\n{COMMAND}action = \"restart\"\n"));
    host.define("app", "[unit]\nrequires = \"db\"\nafter = \"db\"\nrestart = \"on-failure\"\n");
    let mut follower = host.spawn(&["coracle", "events", "--follow", "db"]);
    host.coracle(&["start", "app"]);
    wait_for_health(&host, "healthy");
    follower.wait_for_stdout(" db healthy: ", LONG);
    let leaders = ["db", "app"].map(|name| host.machine_leader(name));
    let diagnosis = host.ok(&["coracle", "doctor", "db"]);
    assert!(!diagnosis.contains("healthy"), "{diagnosis}");
    host.coracle(&["exec", "db", "--", "systemctl", "stop", "database"]);
    follower.wait_for_stdout(" db unhealthy: ", LONG);
    for (name, leader) in ["db", "app"].into_iter().zip(leaders) {
        host.wait_for_reboot(name, leader);
    }
    wait_for_health(&host, "healthy");
    assert!(time(&host, "app", "InactiveEnter") <= time(&host, "db", "ActiveExit"), "app stops first");
    assert!(time(&host, "db", "ActiveEnter") <= time(&host, "app", "InactiveExit"), "db starts first");
    host.ok(&["journalctl", "--sync"]);
    let events = host.coracle(&["events", "--json"]);
    let begin = [("db", "start"), ("db", "ready"), ("app", "start"), ("app", "ready"), ("db", "healthy")];
    let end = [("app", "stop"), ("db", "stop"), ("db", "start"), ("db", "ready"), ("app", "start")];
    in_order(&events, &[&begin[..], &[("db", "unhealthy")], &end, &[("db", "healthy")]].concat());
    let all_of_app = host.coracle(&["events", "app", "--since=-1h"]);
    assert!(all_of_app.lines().all(|line| line.contains(" app ")), "{all_of_app}");
    assert_eq!(host.coracle(&["events", "app", "--since=+1h"]), "");
    let missing = host.exec(&["coracle", "events", "nosuch"]);
    assert!(missing.status == 1 && missing.stderr.contains("machine 'nosuch' does not exist"), "{missing}");
    follower.kill();
    host.coracle(&["stop", "app", "db"]);
    host.sh_ok("! systemctl is-active coracle-health@db.timer && ! ls /run/coracle/db");
    host.stop();
}

#[test]
fn a_killed_machine_fails_and_starts_hooks() {
    let host = host_with_database();
    host.define("db", &format!("[health]\n{COMMAND}action = \"kill\"\n"));
    // As in coracle@.service(8).
    host.write(
        "/etc/systemd/system/coracle@.service.d/hooks.conf",
        "[Unit]\nOnSuccess=hook@success-%i.service\nOnFailure=hook@failure-%i.service\n",
    );
    host.write(
        "/etc/systemd/system/hook@.service",
        "[Service]\nType=oneshot\nExecStart=touch /run/hook-%i\n",
    );
    host.sh_ok("systemctl daemon-reload");
    host.coracle(&["start", "db"]);
    wait_for_health(&host, "healthy");
    host.coracle(&["stop", "db"]);
    host.wait_until(LONG, "rm /run/hook-success-db");
    host.coracle(&["start", "db"]);
    wait_for_health(&host, "healthy");
    host.coracle(&["exec", "db", "--", "systemctl", "stop", "database"]);
    host.wait_for_unit("db", "failed");
    host.wait_until(LONG, "rm /run/hook-failure-db");
    // With restarts, the unit does not count as failed in between.
    host.define("db", &format!("[health]\n{COMMAND}action = \"kill\"\n[unit]\nrestart = \"on-failure\"\n"));
    host.coracle(&["start", "db"]);
    wait_for_health(&host, "healthy");
    let leader = host.machine_leader("db");
    host.coracle(&["exec", "db", "--", "systemctl", "stop", "database"]);
    host.wait_for_reboot("db", leader);
    wait_for_health(&host, "healthy");
    host.ok(&["journalctl", "--sync"]);
    let events = host.coracle(&["events", "--json", "db"]);
    let expected = ["healthy", "stop", "healthy", "unhealthy", "failure", "unhealthy", "restart", "healthy"];
    in_order(&events, &expected.map(|event| ("db", event)));
    host.coracle(&["stop", "db"]);
    host.stop();
}

#[test]
fn hanging_checks_fail_and_machines_without_checks_have_no_timer() {
    let host = Host::builder().guest_as("busybox", "db").guest_as("busybox", "app").start();
    host.define("db", "[health]\ncommand = \"exec sleep 1000\"\ninterval = \"1s\"\nretries = 1\n");
    host.coracle(&["start", "db", "app"]);
    wait_for_health(&host, "unhealthy, [0-9]+ failed checks?: the command did not end within 1 s");
    let diagnosis = host.ok(&["coracle", "doctor", "db"]);
    assert!(diagnosis.contains("risk: it is unhealthy, "), "{diagnosis}");
    let shown = host.coracle(&["status", "db", "--json"]);
    assert!(shown.contains("\"healthy\": false"), "{shown}");
    host.sh_ok("! systemctl list-units --all --plain --no-legend 'coracle-health@app*' | grep .");
    // A frozen machine is left alone.
    host.coracle(&["freeze", "db"]);
    host.ok(&["coracle", "health", "db"]);
    host.coracle(&["thaw", "db"]);
    // A definition without checks stops the timer with the next start.
    host.define("db", "");
    host.coracle(&["restart", "db"]);
    host.sh_ok("! systemctl is-active coracle-health@db.timer");
    // Fields written by users of the host are no events.
    host.sh_ok("useradd joe");
    host.sh_ok("printf 'CORACLE_EVENT=healthy\\nCORACLE_MACHINE=app\\nMESSAGE=forged\\n' | runuser -u joe -- logger --journald");
    host.sh_ok(
        "journalctl --sync; journalctl -q MESSAGE=forged | grep forged; ! coracle events | grep forged",
    );
    for (text, message) in [
        ("action = \"restart\"", "health.action and health.retries require health.command"),
        ("interval = \"0.1s\"", "health.interval is shorter than 1 s"),
        ("command = \"\"", "the text is empty"),
    ] {
        host.define("db", &format!("[health]\n{text}\n"));
        let checked = host.exec(&["coracle", "check", "db"]);
        assert!(checked.status == 1 && checked.stdout.contains(message), "{checked}");
    }
    host.stop();
}
