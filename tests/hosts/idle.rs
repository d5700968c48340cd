//! `unit.idle-stop`: a machine without traffic and work is stopped, and the next connection starts it.

use crate::support::{Host, LONG, fetch};

#[test]
fn an_idle_machine_stops_and_a_connection_starts_it() {
    let host = Host::builder().guest_as("busybox", "m").guest_as("busybox", "busy").start();
    host.define("m", "[unit]\nidle-stop = \"3s\"\n[network]\non-demand = [\"8080:80\"]\n");
    host.define("busy", "[unit]\nidle-stop = \"3s\"\n");
    host.coracle(&["start", "m", "busy"]);
    let leader = host.machine_leader("busy");
    // Traffic keeps a machine running while the other one stops.
    let mut traffic = host.spawn(&["ping", "-q", "-i", "0.2", &host.address("busy")]);
    for _ in 0..2 {
        host.wait_for_unit("m", "inactive");
        host.wait_until(LONG, &format!("timeout 20 {} | grep 'hello from busybox'", fetch("127.0.0.1:8080")));
    }
    assert_eq!(host.machine_leader("busy"), leader);
    host.ok(&["journalctl", "--sync"]);
    let log = host.ok(&["journalctl", "-q", "-o", "cat", "-u", "coracle-idle@m.service"]);
    assert!(log.contains("machine 'm' was idle for 3 s: stopping it"), "{log}");
    traffic.kill();
    host.wait_for_unit("busy", "inactive");
    host.sh_ok("! systemctl is-active coracle-idle@busy.timer");
    host.define("m", "[unit]\nidle-stop = \"100ms\"\n");
    let checked = host.exec(&["coracle", "check", "m"]);
    assert!(
        checked.status == 1 && checked.stdout.contains("unit.idle-stop is shorter than 1 s"),
        "{checked}"
    );
    host.stop();
}
