//! Machines on hosts with another firewall: firewalld, ufw, Docker's chains as created by dockerd, and a
//! manual ruleset that drops unknown packets. Traffic passes, and afterwards the foreign rules are identical,
//! byte for byte.

use crate::support::{Host, LONG, Snapshot, page};

/// The rules of dockerd 28 with iptables-nft on a host with one network, in the same order.
const DOCKER: &str = "
for i in iptables ip6tables; do
$i -P FORWARD DROP
for c in DOCKER DOCKER-FORWARD DOCKER-BRIDGE DOCKER-CT DOCKER-ISOLATION-STAGE-1 DOCKER-ISOLATION-STAGE-2; do $i -N $c; done
$i -I FORWARD -j DOCKER-FORWARD
$i -A DOCKER-FORWARD -j DOCKER-CT
$i -A DOCKER-FORWARD -j DOCKER-ISOLATION-STAGE-1
$i -A DOCKER-FORWARD -j DOCKER-BRIDGE
$i -A DOCKER-FORWARD -i docker0 -j ACCEPT
$i -A DOCKER-CT -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
$i -A DOCKER-BRIDGE -o docker0 -j DOCKER
$i -A DOCKER ! -i docker0 -o docker0 -j DROP
$i -A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2
$i -A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP
$i -N DOCKER-USER
$i -I FORWARD -j DOCKER-USER
$i -t nat -N DOCKER
$i -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
done
";

/// A typical manual firewall of a server.
const BY_HAND: &str = r#"
table inet filter {
	chain input {
		type filter hook input priority filter; policy drop;
		iif "lo" accept
		ct state { established, related } accept
		iifname "up0" meta l4proto { icmp, ipv6-icmp } accept
		iifname "up0" tcp dport { 22, 8080 } accept
		log prefix "dropped "
	}
	chain forward {
		type filter hook forward priority filter; policy drop;
		ct state established,related accept
		counter reject with icmpx admin-prohibited comment "no router"
	}
	chain output {
		type filter hook output priority filter; policy drop;
		oif "lo" accept
		ct state established,related accept
		oifname "up0" accept
	}
}
table ip6 mine {
	chain forward {
		type filter hook forward priority 10; policy drop;
	}
}
"#;

fn host() -> Host {
    let host =
        Host::builder().on("host-neighbours").guest_as("busybox", "a").guest_as("busybox", "b").start();
    host.add_outside_with_page();
    host.activate_machined();
    host.enable_forwarding();
    host.wait_for_address_detection();
    host.define("a", "[network]\nports = [\"8080:80\"]\n");
    host.define("b", "");
    host
}

fn ruleset(host: &Host) -> String {
    host.sh_ok("nft -s list ruleset")
}

/// Asserts that all paths used by machines work: outside, forwarded ports, and between machines.
#[track_caller]
fn assert_flows(host: &Host) {
    for server in ["192.0.2.2", "[2001:db8::2]"] {
        let url = format!("http://{server}/");
        for guest in ["a", "b"] {
            let out = host.in_guest(guest, &["busybox", "wget", "-T", "3", "-q", "-O", "-", &url]);
            assert_eq!(
                out.status,
                0,
                "{guest} to {server}: {out}\n{}",
                host.sh("journalctl -b -u 'coracle@*' -u firewalld -o short-monotonic --no-pager").stdout
            );
        }
    }
    for port in ["192.0.2.1:8080", "[2001:db8::1]:8080"] {
        host.wait_for_page_outside(port);
    }
    let b = host.address("b");
    host.in_guest("a", &["ping", "-c1", "-W2", &b]).success("a machine from a machine");
}

/// Asserts connectivity with running machines, and an unchanged ruleset after a stop and a kill.
#[track_caller]
fn assert_coexists(host: &Host) {
    let rules = ruleset(host);
    let before = Snapshot::take(host);
    host.coracle(&["start", "a", "b"]);
    assert_flows(host);
    host.coracle(&["stop", "b"]);
    host.kill_supervisor("a");
    host.sh_ok("systemctl reset-failed");
    host.wait_until(LONG, "! nft list table inet coracle");
    assert_eq!(ruleset(host), rules);
    before.assert_same(host);
}

#[test]
fn machines_coexist_with_firewalld() {
    let host = host();
    host.sh_ok("systemctl start firewalld; firewall-cmd -q --permanent --zone=public --add-interface=up0");
    // A link of another machine manager is never in the zone coracle, with or without running machines.
    host.sh_ok("ip link add ve-db type veth peer name db0; ip link set ve-db up");
    let foreign = |expected: &str| {
        let interfaces = host.sh_ok("firewall-cmd --zone=coracle --list-interfaces");
        let mut interfaces: Vec<&str> = interfaces.split_whitespace().collect();
        interfaces.sort_unstable();
        assert_eq!(interfaces.join(" "), expected);
        let zone = host.sh("firewall-cmd --get-zone-of-interface=ve-db");
        assert!(format!("{zone}").contains("no zone"), "{zone}");
    };
    // firewalld keeps the chains of a zone that has had an interface, so they exist before the snapshot.
    for change in ["add", "remove"] {
        host.sh_ok(&format!("firewall-cmd -q --zone=coracle --{change}-interface=gone0"));
    }
    foreign("");
    assert_coexists(&host);
    foreign("");
    host.coracle(&["start", "a", "b"]);
    foreign("ve-a ve-b");
    // A reload takes seconds: its table is missing meanwhile.
    host.sh_ok(
        "firewall-cmd -q --permanent --new-ipset=many --type=hash:net
         for i in $(seq 0 127); do for j in $(seq 0 199); do echo 10.$i.$j.0/24; done; done >/run/many
         firewall-cmd -q --permanent --ipset=many --add-entries-from-file=/run/many",
    );
    for what in ["firewall-cmd -q --reload", "systemctl restart firewalld"] {
        host.sh_ok(what);
        for name in ["ve-a", "ve-b"] {
            host.wait_until(LONG, &format!("firewall-cmd -q --zone=coracle --query-interface={name}"));
        }
        assert_flows(&host);
        foreign("ve-a ve-b");
    }
    // Services of the host remain unreachable from machines.
    let server = host.serve_http("7000");
    let gateway = host.property("a", "host-addresses").split(' ').next().expect("one").to_owned();
    host.in_guest("a", &["ping", "-c1", "-W2", &gateway]).success("the host answers ICMP");
    let url = format!("http://{gateway}:7000/");
    assert_ne!(host.in_guest("a", &["busybox", "wget", "-T", "2", "-q", "-O", "-", &url]).status, 0);
    drop(server);
    host.coracle(&["stop", "a", "b"]);
    host.stop();
}

#[test]
fn machines_coexist_with_docker() {
    let host = host();
    host.sh_ok(DOCKER);
    let user = host.sh_ok("iptables -A DOCKER-USER -i ve-a -d 203.0.113.0/24 -j DROP; iptables -S");
    assert_coexists(&host);
    host.coracle(&["start", "a"]);
    // iptables, the tool used by Docker, can parse the rules of Coracle.
    let with = host.sh_ok("iptables -S; ip6tables -S DOCKER-USER");
    assert!(
        with.contains("-A DOCKER-USER -i ve-a -m comment --comment \"machines of coracle: ve-a\" -j ACCEPT"),
        "{with}"
    );
    host.coracle(&["stop", "a"]);
    assert_eq!(host.sh_ok("iptables -S"), user);
    host.stop();
}

#[test]
fn rules_are_restored_after_docker_and_nftables() {
    let host = host();
    // A table with different content, for example of another version, is recreated.
    host.sh_ok("nft add table inet coracle");
    host.coracle(&["start", "a", "b"]);
    assert_flows(&host);
    // A unit that creates rules, like the unit of dockerd.
    host.write("/run/docker.sh", DOCKER);
    host.write(
        "/etc/systemd/system/docker.service",
        "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=sh -e /run/docker.sh\n",
    );
    host.sh_ok("systemctl daemon-reload; systemctl start docker");
    host.wait_until(LONG, "systemctl is-active coracle-network-reload@docker");
    assert_flows(&host);
    // A flush of the whole ruleset, including the table of Coracle.
    host.write("/etc/nftables.conf", "flush ruleset\n");
    host.sh_ok("systemctl start nftables");
    host.wait_until(LONG, "systemctl is-active coracle-network-reload@nftables");
    assert_flows(&host);
    host.write("/etc/nftables.conf", &format!("flush ruleset\n{BY_HAND}"));
    host.sh_ok("systemctl reload nftables");
    host.wait_until(LONG, "nft list chain inet filter forward | grep coracle");
    assert_flows(&host);
    host.coracle(&["stop", "a", "b"]);
    host.stop();
}

#[test]
fn machines_coexist_with_a_custom_ruleset() {
    let host = host();
    host.write("/run/rules.nft", BY_HAND);
    host.sh_ok("nft -f /run/rules.nft");
    assert_coexists(&host);
    host.stop();
}

#[test]
fn machines_coexist_with_ufw() {
    let host = host();
    host.sh_ok("ufw allow 8080/tcp; ufw --force enable");
    host.sh_ok("iptables -S FORWARD | grep -q 'P FORWARD DROP'");
    assert_coexists(&host);
    host.stop();
}

/// Docker enables netfilter on bridges (bridge-nf-call-iptables): its rules then also apply between the
/// machines of a zone.
#[test]
fn a_zone_coexists_with_docker() {
    let host = host();
    host.sh_ok(DOCKER);
    let zoned = "[network]\nmode = \"zone\"\nzone = \"lan\"\n";
    host.define("a", &format!("{zoned}ports = [\"8080:80\"]\n"));
    host.define("b", zoned);
    for filtered in [0, 1] {
        host.sh_ok(&format!(
            "for f in /proc/sys/net/bridge/bridge-nf-call-ip*tables; do echo {filtered} >$f; done"
        ));
        assert_coexists(&host);
        // The forwarded port on the host itself, at its loopback addresses: not at ::1 with netfilter on
        // bridges.
        let before = Snapshot::take(&host);
        host.coracle(&["start", "a", "b"]);
        host.wait_for_page("127.0.0.1:8080");
        assert_eq!(host.sh(&page("[::1]:8080")).status == 0, filtered == 0, "filtered: {filtered}");
        assert_eq!(host.unit_journal("a").contains("ports are not published at ::1"), filtered == 1);
        for address in host.property("b", "addresses").split(' ') {
            let url = format!("http://{}/", crate::support::bracketed(address));
            host.in_guest("a", &["busybox", "wget", "-T", "3", "-q", "-O", "-", &url]).success("its zone");
        }
        host.coracle(&["stop", "a", "b"]);
        before.assert_same(&host);
    }
    host.stop();
}
