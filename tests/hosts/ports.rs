//! Published ports: reached from outside, from the host at its own and its loopback addresses, and from
//! machines; UDP ports, ranges, live changes, and the error for a port in use.

use crate::support::{Host, LONG, Snapshot, page};

const PORTS: &str = r#"[network]
ports = ["8080:80", "127.0.0.1:8081:80", "[::1]:8082:80", "5353:53/udp", "8000-8003:9000-9003"]
"#;

const UDP_SERVER: &str = r#"
use Socket qw(:DEFAULT inet_pton pack_sockaddr_in6);
socket(S, AF_INET6, SOCK_DGRAM, 0) or die;
bind(S, pack_sockaddr_in6(53, inet_pton(AF_INET6, "::"))) or die;
while ($from = recv(S, $text, 99, 0)) { send(S, "heard $text", 0, $from) }
"#;

#[test]
fn a_port_is_reached_from_everywhere() {
    let host = Host::builder().guest_as("busybox", "a").guest_as("busybox", "b").start();
    host.add_outside();
    host.activate_machined();
    // A machine without ports is started before the snapshot: forwarding adds anycast routes that remain.
    host.start_machine("b");
    host.wait_for_address_detection();
    let before = Snapshot::take(&host);
    host.define("a", PORTS);
    host.coracle(&["start", "a"]);
    let address = host.address("a");
    host.wait_for_page(&address);
    for url in ["192.0.2.1:8080", "[2001:db8::1]:8080"] {
        host.wait_for_page_outside(url);
    }
    for url in [
        "192.0.2.1:8080",
        "[2001:db8::1]:8080",
        "127.0.0.1:8080",
        "[::1]:8080",
        "127.0.0.1:8081",
        "[::1]:8082",
    ] {
        let answers = host.sh(&page(url)).status == 0;
        assert!(answers, "{url}\n{}", host.ok(&["nft", "list", "table", "inet", "coracle"]));
    }
    // A port published at one address is not reachable at another.
    for url in ["192.0.2.1:8081", "[2001:db8::1]:8082", "127.0.0.1:8083"] {
        assert_ne!(host.sh(&page(url)).status, 0, "{url}");
    }
    for guest in ["a", "b"] {
        for url in ["192.0.2.1:8080", "[2001:db8::1]:8080"] {
            let wget = format!("busybox wget -T 2 -q -O - http://{url}/ | grep -q 'hello from busybox'");
            host.in_guest(guest, &["sh", "-c", &wget]).success("the page by a port, from a machine");
        }
    }
    assert!(host.coracle(&["status", "a"]).contains("ports: 8080:80, 127.0.0.1:8081:80, [::1]:8082:80"));
    assert!(host.property("a", "ports").ends_with("5353:53/udp 8000-8003:9000-9003"));
    host.coracle(&["stop", "a"]);
    before.assert_same(&host);
    host.stop();
}

#[test]
fn the_loopback_of_the_host_is_unreachable_from_machines_with_ports() {
    let host = Host::builder().guest_as("busybox", "a").guest_as("busybox", "b").start();
    host.define("a", PORTS);
    host.coracle(&["start", "a", "b"]);
    let server = host.serve_http("127.0.0.1:7000");
    let script = "ip route del local 127.0.0.0/8 dev lo table local; ip route add 127.0.0.1 dev host0; \
                  echo | timeout 2 busybox nc 127.0.0.1 7000";
    for guest in ["a", "b"] {
        assert_ne!(host.in_guest(guest, &["sh", "-c", script]).status, 0, "{guest}");
    }
    drop(server);
    host.coracle(&["stop", "a", "b"]);
    host.stop();
}

#[test]
fn udp_ports_and_ranges_are_forwarded() {
    let host = Host::start(&["busybox"]);
    host.add_outside();
    host.activate_machined();
    host.define("busybox", PORTS);
    host.coracle(&["start", "busybox"]);
    // The guest has no UDP server: a program of the host serves in the network namespace of the machine.
    host.write("/run/udp.pl", UDP_SERVER);
    let leader = host.machine_leader("busybox");
    host.sh_ok(&format!("(timeout 60 nsenter -t {leader} -n perl /run/udp.pl >/dev/null 2>&1 &)"));
    let serve =
        "for p in 9000 9001 9003; do (while :; do echo port $p | nc -l -p $p; done) >/dev/null 2>&1 & done";
    host.in_guest("busybox", &["sh", "-c", serve]).success("serve");
    for (port, guest) in [(8000, 9000), (8001, 9001), (8003, 9003)] {
        for (from, address) in [("ip netns exec outside", "192.0.2.1"), ("", "127.0.0.1"), ("", "::1")] {
            let ask =
                format!("{from} timeout 3 busybox nc {address} {port} </dev/null | grep 'port {guest}'");
            host.wait_until(LONG, &ask);
        }
    }
    for (from, address) in [("ip netns exec outside", "192.0.2.1"), ("", "127.0.0.1"), ("", "::1")] {
        let ask = format!("exec 3<>/dev/udp/{address}/5353; echo x >&3; timeout 2 head -n1 <&3");
        host.wait_until(LONG, &format!("{from} bash -c '{ask}' | grep 'heard x'"));
    }
    host.coracle(&["stop", "busybox"]);
    host.stop();
}

#[test]
fn a_port_in_use_is_refused_before_the_start() {
    let host = Host::builder().guest_as("busybox", "a").guest_as("busybox", "b").start();
    host.activate_machined();
    host.define("a", "[network]\nports = [\"8000-8010:9000-9010\"]\n");
    host.define("b", "[network]\nports = [\"8005:80\"]\n");
    host.coracle(&["start", "a"]);
    let before = Snapshot::take(&host);
    let refused = host.exec(&["coracle", "start", "b"]);
    assert_ne!(refused.status, 0);
    assert!(
        host.coracle(&["status", "b"])
            .contains("cannot forward '8005:80': machine 'a' has '8000-8010:9000-9010'")
    );
    before.assert_same(&host);
    // The forwarding of the running machine is unchanged.
    assert_eq!(host.sh_ok("nft -n list map inet coracle dnat4 | grep -c '6 . 8005'"), "1\n");
    let server = host.serve_http("8005");
    host.coracle(&["stop", "a"]);
    assert_ne!(host.exec(&["coracle", "start", "b"]).status, 0);
    let status = host.coracle(&["status", "b"]);
    assert!(status.contains("(busybox) listens on port 8005/tcp of ::"), "{status}");
    // The ports of a killed machine are available again.
    drop(server);
    host.coracle(&["start", "a"]);
    host.kill_supervisor("a");
    host.coracle(&["start", "b"]);
    host.wait_for_page("127.0.0.1:8005");
    host.coracle(&["stop", "b"]);
    host.stop();
}

#[test]
fn ports_are_set_live() {
    let host = Host::builder().guest_as("busybox", "a").guest_as("busybox", "b").start();
    host.add_outside();
    host.activate_machined();
    host.define("a", "");
    host.define("b", "[network]\nports = [\"8005:80\"]\n");
    host.coracle(&["start", "a", "b"]);
    host.wait_for_address_detection();
    let leader = host.machine_leader("a");
    host.write("/run/udp.pl", UDP_SERVER);
    host.sh_ok(&format!("(timeout 60 nsenter -t {leader} -n perl /run/udp.pl >/dev/null 2>&1 &)"));
    let idle = memory(&host);
    host.coracle(&["set", "a", "network.ports=8080:80,5353:53/udp,8090-8092:78-80"]);
    for url in ["127.0.0.1:8080", "[::1]:8080", "192.0.2.1:8092"] {
        host.wait_for_page(url);
    }
    host.wait_for_page_outside("[2001:db8::1]:8092");
    let ask = "exec 3<>/dev/udp/127.0.0.1/5353; echo x >&3; timeout 2 head -n1 <&3";
    host.wait_until(LONG, &format!("bash -c '{ask}' | grep 'heard x'"));
    assert_eq!(host.property("a", "ports"), "8080:80 5353:53/udp 8090-8092:78-80");
    // The supervisor is the same process, and its memory use has not grown.
    assert_eq!(memory(&host).0, idle.0);
    let begun = std::time::Instant::now();
    while memory(&host).1 > idle.1 + 40 {
        assert!(begun.elapsed() < LONG, "idle: {idle:?}, after: {:?}", memory(&host));
    }
    assert_eq!(host.machine_leader("a"), leader);
    refuses_taken_ports(&host);
    host.wait_for_page("127.0.0.1:8080");
    // A port removed from the definition.
    host.sh_ok("rm -r /etc/coracle/machines.d/a.toml.d");
    host.define("a", "[network]\nports = [\"8080:80\"]\n");
    host.coracle(&["apply", "a"]);
    host.wait_for_page("127.0.0.1:8080");
    assert_ne!(host.sh(&page("127.0.0.1:8092")).status, 0);
    host.coracle(&["reboot", "a"]);
    host.wait_until(
        LONG,
        &format!("[ $(coracle show a -p leader | cut -d= -f2) != {leader} ] && {}", page("127.0.0.1:8080")),
    );
    host.define("a", "");
    host.coracle(&["apply", "a"]);
    assert_ne!(host.sh(&page("127.0.0.1:8080")).status, 0);
    let left = host.sh_ok("nft -n list map inet coracle dnat4; nft -n list map inet coracle dnat6");
    assert!(left.contains("6 . 8005 :") && !left.contains(". 8080 :"), "{left}");
    host.coracle(&["stop", "a", "b"]);
    host.stop();
}

/// Returns the PID of the supervisor of `a`, and its anonymous memory in KiB.
fn memory(host: &Host) -> (u32, u64) {
    let supervisor = host.supervisor("a");
    // Pages of the program are private, too, if no other process has touched them.
    let sum = format!("awk '/^Anonymous/ {{ print $2 }}' /proc/{supervisor}/smaps_rollup");
    (supervisor, host.sh_ok(&sum).trim().parse().expect("a number"))
}

/// Asserts that `coracle set` refuses ports in use, and leaves the definition and the table unchanged.
#[track_caller]
fn refuses_taken_ports(host: &Host) {
    let table = || host.sh_ok("nft -s list table inet coracle");
    let (rules, kept) = (table(), host.sh_ok("cat /etc/coracle/machines.d/a.toml.d/*"));
    let server = host.serve_http("8100");
    for (ports, owner) in [
        ("8080:80,8005:80", "cannot forward '8005:80': machine 'b' has '8005:80'"),
        ("8080:80,8100:80", "(busybox) listens on port 8100/tcp"),
        ("8080:80,8079-8081:1-3", "overlap"),
    ] {
        let refused = host.exec(&["coracle", "set", "a", &format!("network.ports={ports}")]);
        assert_ne!(refused.status, 0);
        assert!(refused.stderr.contains(owner), "{refused}");
        assert_eq!(host.sh_ok("cat /etc/coracle/machines.d/a.toml.d/*"), kept);
        assert_eq!(table(), rules);
    }
    drop(server);
}
