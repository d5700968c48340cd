//! Activation of a machine by its ports: no process of Coracle runs before, the first connection is relayed, later
//! connections are forwarded by the firewall, and a connection to a machine that fails to start is closed.

use crate::support::{Host, LONG, Snapshot};

const PORTS: &str = r#"[network]
on-demand = ["8080:80", "127.0.0.1:8081:80", "[::1]:8082-8083:80-81"]
"#;

fn page(place: &str) -> String {
    format!("{} | grep 'hello from busybox'", crate::support::fetch(place))
}

/// Returns the number of processes of Coracle.
fn ours(host: &Host) -> String {
    host.sh_ok("pgrep -c coracle || true")
}

fn listens(host: &Host, state: &str) {
    host.wait_until(
        LONG,
        &format!("systemctl show -P SubState coracle-on-demand@m.socket | grep -x {state}"),
    );
}

/// Starts the machine by a connection to `place` and ends it. The next connection is not relayed.
#[track_caller]
fn answers_at(host: &Host, place: &str) {
    assert_eq!(ours(host), "0\n");
    assert_eq!(host.unit("m", "ActiveState"), "inactive");
    let from = if place.starts_with("192") { "ip netns exec outside " } else { "" };
    host.sh(&format!("{from}{}", page(place))).success(place);
    assert_eq!(host.unit("m", "ActiveState"), "active");
    // The firewall forwards the next connection: the relay has ended, and systemd listens for the time after
    // the machine.
    host.wait_until(LONG, "! systemctl is-active coracle-on-demand@m.service");
    let passed = "journalctl -q -o cat -u coracle-on-demand@m.service | grep -c 'for an incoming connection'";
    let before = host.sh_ok(passed);
    host.ok(&["sh", "-c", &format!("{from}{}", page(place))]);
    assert_eq!(host.sh_ok(passed), before);
    host.coracle(&["stop", "m"]);
    host.assert_clean_stop("m");
    listens(host, "listening");
}

#[test]
fn a_connection_starts_a_machine_and_is_relayed() {
    let host = Host::builder().guest_as("busybox", "m").start();
    host.add_outside();
    host.activate_machined();
    host.define("m", PORTS);
    // As at boot of the host.
    host.sh_ok("systemctl daemon-reload; systemctl start sockets.target coracle-on-demand@m.socket");
    host.sh_ok("test -L /run/systemd/generator/sockets.target.wants/coracle-on-demand@m.socket");
    listens(&host, "listening");
    let status = host.coracle(&["status", "m"]);
    assert!(status.contains("starts by: 8080:80, 127.0.0.1:8081:80, [::1]:8082-8083:80-81\n"), "{status}");
    // Forwarding, and the anycast routes of a router, stay after the first start.
    for place in ["127.0.0.1:8080", "[::1]:8080", "127.0.0.1:8081", "[::1]:8082", "192.0.2.1:8080"] {
        answers_at(&host, place);
    }
    let before = Snapshot::take(&host);
    // Several connections at once. A long connection ends with the machine, and the next one starts it again.
    host.sh_ok(&format!(
        "pids=; for i in 1 2 3 4 5; do {{ {}; }} & pids=\"$pids $!\"; done; for p in $pids; do wait $p; done",
        page("127.0.0.1:8080")
    ));
    host.wait_until(LONG, "! systemctl is-active coracle-on-demand@m.service");
    host.coracle(&["stop", "m"]);
    let mut long = host.spawn(&["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/8080; cat <&3"]);
    host.wait_until(
        LONG,
        "systemctl is-active coracle@m.service && systemctl is-active coracle-on-demand@m.service",
    );
    std::thread::sleep(std::time::Duration::from_secs(2));
    assert_eq!(long.poll(), None, "it lasts");
    host.coracle(&["stop", "m"]);
    listens(&host, "listening");
    host.sh(&page("127.0.0.1:8080")).success("again");
    host.coracle(&["stop", "m"]);
    drop(long);
    // `start` works while systemd listens, and after a killed machine systemd listens again.
    host.coracle(&["start", "m"]);
    host.sh_ok(&page("127.0.0.1:8080"));
    host.kill_supervisor("m");
    host.sh(&page("127.0.0.1:8080")).success("after a kill");
    host.wait_until(LONG, "! systemctl is-active coracle-on-demand@m.service");
    host.coracle(&["stop", "m"]);
    host.sh_ok("systemctl reset-failed");
    listens(&host, "listening");
    before.assert_same(&host);
    host.sh_ok("systemctl stop coracle-on-demand@m.socket");
    assert!(!host.coracle(&["status", "m"]).contains("starts by"));
    host.stop();
}

#[test]
fn the_connection_is_closed_if_the_machine_fails_to_start() {
    let host = Host::builder().guest_as("busybox", "m").start();
    host.define("m", PORTS);
    host.sh_ok(
        "machinectl -q list; rm /var/lib/machines/m/usr/sbin/init /var/lib/machines/m/usr/bin/init; \
                systemctl daemon-reload; systemctl start coracle-on-demand@m.socket",
    );
    let out = host.sh(&crate::support::fetch("127.0.0.1:8080"));
    assert!(out.stdout.is_empty(), "{out}");
    // One start only: the waiting connection is closed.
    std::thread::sleep(std::time::Duration::from_secs(2));
    listens(&host, "listening");
    let said = host.ok(&["journalctl", "-q", "-o", "cat", "-u", "coracle-on-demand@m.service"]);
    assert_eq!(said.matches("for an incoming connection").count(), 1, "{said}");
    assert!(said.contains("coracle: "), "{said}");
    host.sh_ok("systemctl stop coracle-on-demand@m.socket; systemctl reset-failed");
    // The port of another program is not taken over, and the message names the program.
    host.add_guest("busybox", "n");
    host.define("n", "[network]\non-demand = [\"8090:80\"]\n");
    let server = host.serve_http("8090");
    assert_ne!(host.exec(&["coracle", "start", "n"]).status, 0);
    let status = host.coracle(&["status", "n"]);
    assert!(status.contains("(busybox) listens on port 8090/tcp"), "{status}");
    drop(server);
    host.sh_ok("systemctl reset-failed");
    // UDP ports are refused.
    host.define("n", "[network]\non-demand = [\"8090:80/udp\"]\n");
    let refused = host.exec(&["coracle", "check"]);
    assert!(
        refused.stderr.contains("UDP ports cannot start a machine")
            || refused.stdout.contains("UDP ports cannot start a machine"),
        "{refused}"
    );
    host.stop();
}
