//! `[unit]`: machines that need each other, their order at start and stop, and restarts.

use crate::support::{Host, LONG};

/// Returns the times of a unit's last changes, microseconds.
fn time(host: &Host, name: &str, property: &str) -> u64 {
    let property = format!("{property}TimestampMonotonic");
    host.ok(&["systemctl", "show", "-P", &property, &format!("coracle@{name}")])
        .trim()
        .parse()
        .expect("a time")
}

#[test]
fn machines_start_and_stop_in_their_order() {
    let host = Host::builder()
        .guest_as("busybox", "db")
        .guest_as("busybox", "web")
        .guest_as("busybox", "proxy")
        .start();
    host.define("web", "[unit]\nrequires = \"db\"\nafter = [\"db\"]\nbefore = [\"proxy\"]\n");
    host.define("db", "[unit]\nstart-delay = \"1s\"\n");
    host.define("proxy", "[unit]\nwants = [\"web\"]\n");
    host.coracle(&["enable", "web", "db", "proxy"]);
    let listed = host.ok(&["coracle", "list", "-a"]);
    assert!(listed.contains("BOOT") && listed.contains("proxy  stopped  enabled"), "{listed}");
    host.coracle(&["start", "--all"]);
    for name in ["web", "db", "proxy"] {
        assert_eq!(host.unit(name, "ActiveState"), "active");
    }
    let entered = |name| time(&host, name, "ActiveEnter");
    let left = |name| time(&host, name, "InactiveExit");
    assert!(entered("db") <= left("web") && entered("web") <= left("proxy"));
    assert!(entered("db") - left("db") >= 1_000_000, "the start is delayed");
    // The reverse order at the shutdown of the host.
    host.sh_ok("systemctl stop coracle.target");
    let stopped = |name| time(&host, name, "InactiveEnter");
    let stops = |name| time(&host, name, "ActiveExit");
    assert!(stopped("proxy") <= stops("web") && stopped("web") <= stops("db"));
    // A required machine is started with it, and stops it.
    host.coracle(&["start", "web"]);
    assert_eq!(host.unit("db", "ActiveState"), "active");
    host.coracle(&["stop", "db"]);
    assert_eq!(host.unit("web", "ActiveState"), "inactive");
    // A required machine that fails keeps it from starting.
    host.define("db", "[[mount]]\nsource = \"/srv/missing\"\n");
    let failed = host.exec(&["coracle", "start", "web"]);
    assert!(failed.status == 1 && failed.stderr.contains("coracle@web.service"), "{failed}");
    host.sh_ok("systemctl reset-failed");
    host.stop();
}

#[test]
fn a_failed_machine_is_started_again() {
    let host = Host::builder().guest_as("busybox", "db").start();
    host.define("db", "[unit]\nrestart = \"on-failure\"\nrestart-delay = \"100ms\"\n");
    host.coracle(&["start", "db"]);
    let leader = host.machine_leader("db");
    host.sh_ok(&format!("kill -KILL {leader}"));
    host.wait_until(
        LONG,
        &format!("l=$(coracle show db -p leader) && [ -n \"${{l#leader=}}\" ] && [ $l != leader={leader} ]"),
    );
    host.wait_for_unit("db", "active");
    // A stop, and what the administrator kills, stay stopped.
    for stop in ["stop", "terminate"] {
        host.coracle(&[stop, "db"]);
        host.wait_for_unit("db", "inactive");
        host.coracle(&["start", "db"]);
    }
    // A guest that powers off is started again by 'always' only.
    host.ask_in_guest("db", &["poweroff"]);
    host.wait_for_unit("db", "inactive");
    host.define("db", "[unit]\nrestart = \"always\"\nrestart-delay = \"100ms\"\n");
    host.coracle(&["start", "db"]);
    for end in ["poweroff", "terminate"] {
        let leader = host.machine_leader("db");
        host.coracle(&[end, "db"]);
        host.wait_until(
            LONG,
            &format!(
                "l=$(coracle show db -p leader) && [ -n \"${{l#leader=}}\" ] && [ $l != leader={leader} ]"
            ),
        );
        host.wait_for_unit("db", "active");
    }
    host.coracle(&["stop", "db"]);
    assert_eq!(host.unit("db", "ActiveState"), "inactive");
    host.stop();
}

#[test]
fn wrong_dependencies_are_errors() {
    let host = Host::builder().guest_as("busybox", "db").start();
    for (text, message) in [
        ("after = [\"a b\"]", "\"a b\" is neither the name of a machine nor that of a unit"),
        ("start-delay = \"2min\"", "unit.start-delay exceeds 90 s"),
        ("restart = \"sometimes\"", "sometimes"),
    ] {
        host.define("db", &format!("[unit]\n{text}\n"));
        let checked = host.exec(&["coracle", "check", "db"]);
        let all = format!("{}{}", checked.stdout, checked.stderr);
        assert!(checked.status == 1 && all.contains(message), "{checked}");
    }
    host.stop();
}
