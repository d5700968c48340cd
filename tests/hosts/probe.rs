//! `coracle doctor NAME` sends a packet from a machine and reports the rule that drops it, also on the return
//! path. Without such a rule it reports no problem.

use crate::support::{Host, Snapshot};

const SERVER: &str = "
ip route add default via 192.0.2.2; ip -6 route add default via 2001:db8::2
ip netns exec outside busybox httpd -p '[::]:80' -h /tmp
ip netns exec outside busybox udpsvd -E 192.0.2.2 53 cat >/dev/null 2>&1 &
";

fn host() -> Host {
    let host = Host::start(&["busybox"]);
    host.add_outside();
    host.sh_ok(SERVER);
    host.activate_machined();
    host.sh_ok("resolvectl dns up0 192.0.2.2");
    host.wait_for_address_detection();
    host
}

fn doctor(host: &Host) -> String {
    let out = host.exec(&["coracle", "doctor", "busybox"]);
    format!("{}exit status {}", out.stdout, out.status)
}

#[test]
fn doctor_names_the_rule_that_drops() {
    let host = host();
    host.start_machine("busybox");
    let before = Snapshot::take(&host);
    let well = doctor(&host);
    assert!(well.contains("no problems found") && well.ends_with("status 0"), "{well}");
    // The rules are added after the start of the machine. They drop packets by a chain policy or by a rule.
    for (rules, expected) in [
        (
            "add table inet games; add chain inet games lan { type filter hook forward priority 5; }; \
             add rule inet games lan ct state established accept; \
             add rule inet games lan meta l4proto udp udp dport 53 counter drop comment \"no names here\"",
            vec![
                "packets to name server 192.0.2.2 are dropped by table 'inet games', chain 'lan', rule 2, handle 3, \
                  comment \"no names here\"",
            ],
        ),
        (
            "add table ip strict; add chain ip strict onward { type filter hook forward priority 0; policy drop; }",
            vec![
                "packets to name server 192.0.2.2 are dropped by table 'ip strict', chain 'onward', its policy",
                "packets to gateway 192.0.2.2 are dropped by table 'ip strict', chain 'onward', its policy",
            ],
        ),
        (
            "add table ip6 back; add chain ip6 back pre { type filter hook prerouting priority -150; }; \
             add rule ip6 back pre iifname up0 tcp sport 80 reject with tcp reset",
            vec!["packets to gateway 2001:db8::2 are dropped by table 'ip6 back', chain 'pre', rule 1"],
        ),
    ] {
        host.write("/run/rules", &rules.replace("; add", "\nadd"));
        host.sh_ok("nft -f /run/rules");
        let ill = doctor(&host);
        assert!(ill.ends_with("status 1"), "{ill}");
        assert!(expected.iter().all(|line| ill.contains(line)), "{ill}");
        assert_eq!(ill.matches("are dropped").count(), expected.len(), "{ill}");
        let [_, _, family, table, ..] = rules.split([' ', ';']).collect::<Vec<_>>()[..] else {
            panic!("{rules}")
        };
        host.sh_ok(&format!("nft delete table {family} {table}"));
    }
    before.assert_same(&host);
    host.coracle(&["stop", "busybox"]);
    host.stop();
}

#[test]
fn doctor_reports_forwarding_routes_and_egress() {
    let host = host();
    host.start_machine("busybox");
    let before = Snapshot::take(&host);
    host.sh_ok("sysctl -q net.ipv4.ip_forward=0");
    let ill = doctor(&host);
    assert!(ill.contains("net.ipv4.ip_forward is 0"), "{ill}");
    host.sh_ok("sysctl -q net.ipv4.ip_forward=1");
    host.in_guest("busybox", &["ip", "route", "del", "default"]).success("take the route");
    assert!(doctor(&host).contains("it has no route to gateway 192.0.2.2"));
    before.assert_same(&host);
    host.coracle(&["set", "busybox", "network.egress=2001:db8::/32"]);
    host.coracle(&["restart", "busybox"]);
    let bound = doctor(&host);
    assert!(
        bound.contains("note: its network.egress does not allow packets to name server 192.0.2.2"),
        "{bound}"
    );
    host.coracle(&["stop", "busybox"]);
    host.stop();
}
