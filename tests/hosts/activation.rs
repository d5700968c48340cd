//! Activation of a machine by its ports: Coracle has no running process beforehand, the first connection is
//! relayed, later connections are forwarded by the firewall, and a connection to a machine that fails to
//! start is closed.

use std::io::Write;

use crate::support::{Host, LONG, Snapshot};

const PORTS: &str = r#"[network]
on-demand = ["8080:80", "127.0.0.1:8081:80", "[::1]:8082-8083:80-81"]
"#;

/// Returns a script that requests the page. The first request waits for the start of the machine.
fn request(place: &str) -> String {
    format!("{} | grep 'hello from busybox'", crate::support::fetch(place))
}

/// Returns the number of running Coracle processes, as text.
fn processes(host: &Host) -> String {
    host.sh_ok("pgrep -c coracle || true")
}

/// Waits until the socket unit of `m` is in the given substate.
#[track_caller]
fn wait_for_socket(host: &Host, state: &str) {
    host.wait_until(
        LONG,
        &format!("systemctl show -P SubState coracle-on-demand@m.socket | grep -x {state}"),
    );
}

/// Waits until the relay has ended: the firewall forwards new connections.
#[track_caller]
fn wait_for_end_of_relay(host: &Host) {
    host.wait_until(LONG, "! systemctl is-active coracle-on-demand@m.service");
}

/// Returns a host with an outside network and the stopped machine `m`. systemd listens on the ports of the
/// machine, as after boot.
fn listening_host() -> Host {
    let host = Host::builder().guest_as("busybox", "m").start();
    host.add_outside();
    host.activate_machined();
    host.define("m", PORTS);
    host.sh_ok("systemctl daemon-reload; systemctl start sockets.target coracle-on-demand@m.socket");
    wait_for_socket(&host, "listening");
    host
}

/// Asserts that a connection to `place` starts the machine and that the next connection is not relayed, and
/// stops the machine.
#[track_caller]
fn assert_starts_by(host: &Host, place: &str) {
    assert_eq!(processes(host), "0\n");
    assert_eq!(host.unit("m", "ActiveState"), "inactive");
    let from = if place.starts_with("192") { "ip netns exec outside " } else { "" };
    let request = format!("{from}{}", request(place));
    host.sh(&request).success(place);
    assert_eq!(host.unit("m", "ActiveState"), "active");
    wait_for_end_of_relay(host);
    let relayed =
        "journalctl -q -o cat -u coracle-on-demand@m.service | grep -c 'for an incoming connection'";
    let before = host.sh_ok(relayed);
    host.sh_ok(&request);
    assert_eq!(host.sh_ok(relayed), before);
    host.coracle(&["stop", "m"]);
    host.assert_clean_stop("m");
    wait_for_socket(host, "listening");
}

#[test]
fn a_connection_to_any_address_starts_the_machine() {
    let host = listening_host();
    host.sh_ok("test -L /run/systemd/generator/sockets.target.wants/coracle-on-demand@m.socket");
    for place in ["127.0.0.1:8080", "[::1]:8080", "127.0.0.1:8081", "[::1]:8082", "192.0.2.1:8080"] {
        assert_starts_by(&host, place);
    }
    host.stop();
}

#[test]
fn status_shows_the_ports_that_start_the_machine() {
    let host = listening_host();
    let status = host.coracle(&["status", "m"]);
    assert!(status.contains("starts by: 8080:80, 127.0.0.1:8081:80, [::1]:8082-8083:80-81\n"), "{status}");
    host.sh_ok("systemctl stop coracle-on-demand@m.socket");
    assert!(!host.coracle(&["status", "m"]).contains("starts by"));
    host.stop();
}

#[test]
fn simultaneous_connections_are_all_answered() {
    let host = listening_host();
    host.sh_ok(&format!(
        "pids=; for i in 1 2 3 4 5; do {{ {}; }} & pids=\"$pids $!\"; done; for p in $pids; do wait $p; done",
        request("127.0.0.1:8080")
    ));
    host.coracle(&["stop", "m"]);
    host.stop();
}

#[test]
fn a_relayed_connection_lasts_as_long_as_the_machine() {
    let host = listening_host();
    // The request is sent after the firewall has begun to forward the port.
    let late = "exec 3<>/dev/tcp/127.0.0.1/8080; read line; printf '%s\\r\\n\\r\\n' \"$line\" >&3; cat <&3";
    let mut late = host.spawn_with_pipe(&["bash", "-c", late]);
    host.wait_until(LONG, "systemctl is-active coracle@m && systemctl is-active coracle-on-demand@m");
    host.coracle(&["start", "--wait=ready", "m"]);
    let mut idle = host.spawn(&["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/8080; cat <&3"]);
    late.input().write_all(b"GET / HTTP/1.0\n").expect("write the request");
    late.wait_for_stdout("hello from busybox", LONG);
    assert_eq!(idle.poll(), None);
    host.coracle(&["stop", "m"]);
    wait_for_socket(&host, "listening");
    host.sh(&request("127.0.0.1:8080")).success("the next connection");
    host.coracle(&["stop", "m"]);
    host.stop();
}

#[test]
fn systemd_listens_again_after_a_killed_machine() {
    let host = listening_host();
    // IP forwarding, and the anycast routes of a router, remain after the first start.
    host.coracle(&["start", "m"]);
    host.coracle(&["stop", "m"]);
    wait_for_socket(&host, "listening");
    let before = Snapshot::take(&host);
    host.coracle(&["start", "m"]);
    host.wait_for_page("127.0.0.1:8080");
    host.kill_supervisor("m");
    host.sh(&request("127.0.0.1:8080")).success("after a kill");
    wait_for_end_of_relay(&host);
    host.coracle(&["stop", "m"]);
    host.sh_ok("systemctl reset-failed");
    wait_for_socket(&host, "listening");
    before.assert_same(&host);
    host.stop();
}

#[test]
fn the_connection_is_closed_if_the_machine_fails_to_start() {
    let host = Host::builder().guest_as("busybox", "m").start();
    host.define("m", PORTS);
    host.activate_machined();
    host.sh_ok(
        "rm /var/lib/machines/m/usr/sbin/init /var/lib/machines/m/usr/bin/init
         systemctl daemon-reload; systemctl start coracle-on-demand@m.socket",
    );
    let out = host.sh(&crate::support::fetch("127.0.0.1:8080"));
    assert!(out.stdout.is_empty(), "{out}");
    // The start is not repeated: the waiting connection is closed.
    host.wait_until(LONG, "! systemctl list-jobs | grep coracle");
    wait_for_end_of_relay(&host);
    wait_for_socket(&host, "listening");
    let said = host.ok(&["journalctl", "-q", "-o", "cat", "-u", "coracle-on-demand@m.service"]);
    assert_eq!(said.matches("for an incoming connection").count(), 1, "{said}");
    assert!(said.contains("coracle: "), "{said}");
    host.sh_ok("systemctl stop coracle-on-demand@m.socket; systemctl reset-failed");
    host.stop();
}

#[test]
fn sockets_follow_renamed_and_removed_machines() {
    let host = listening_host();
    host.coracle(&["rename", "m", "n"]);
    host.sh_ok(
        "systemctl show -P SubState coracle-on-demand@n.socket | grep -x listening
         ! systemctl is-active -q coracle-on-demand@m.socket",
    );
    host.sh(&request("127.0.0.1:8080")).success("the first connection");
    host.wait_until(LONG, "! systemctl is-active coracle-on-demand@n.service");
    host.coracle(&["stop", "n"]);
    host.coracle(&["remove", "--purge", "n"]);
    host.sh_ok("! systemctl list-units --all --plain --no-legend 'coracle-on-demand@*' | grep .");
    host.stop();
}

#[test]
fn a_port_of_another_program_is_refused_and_the_program_named() {
    let host = Host::builder().guest_as("busybox", "n").start();
    host.define("n", "[network]\non-demand = [\"8090:80\"]\n");
    let server = host.serve_http("8090");
    assert_ne!(host.exec(&["coracle", "start", "n"]).status, 0);
    let status = host.coracle(&["status", "n"]);
    assert!(status.contains("(busybox) listens on port 8090/tcp"), "{status}");
    drop(server);
    host.stop();
}
