//! The traffic policy of a machine in a zone: `network.egress` and the rates, without effects on other
//! machines.

use crate::support::{Host, LONG, Snapshot, bracketed};

fn zoned(rest: &str) -> String {
    format!("[network]\nmode = \"zone\"\nzone = \"lan\"\n{rest}")
}

/// Returns a host with an outside network and three machines of one zone: `a` is stopped, `b` and `c` are
/// running, and `c` has a port.
fn host() -> Host {
    let host =
        ["a", "b", "c"].iter().fold(Host::builder(), |all, name| all.guest_as("busybox", name)).start();
    host.add_outside_with_page();
    host.activate_machined();
    // The first machine with ports adds a route for ports at ::1 to the bridge, which remains.
    for (name, rest) in [("b", ""), ("c", "ports = [\"8081:80\"]\n")] {
        host.define(name, &zoned(rest));
        host.coracle(&["start", name]);
        host.wait_for_page(name);
    }
    host.wait_for_address_detection();
    host
}

fn reaches(host: &Host, guest: &str, server: &str) -> bool {
    let url =
        format!("http://{}/", if server.ends_with(":7000") { server.into() } else { bracketed(server) });
    host.in_guest(guest, &["busybox", "wget", "-T", "1", "-q", "-O", "-", &url]).status == 0
}

/// Returns for each command whether it succeeds in a guest. The commands run concurrently, because each
/// blocked connection waits for its timeout.
fn succeed<const N: usize>(host: &Host, guest: &str, commands: [String; N]) -> [bool; N] {
    let all: String = commands
        .iter()
        .enumerate()
        .map(|(number, command)| format!("{{ {command} >/dev/null 2>&1 && echo {number}; }} &\n"))
        .collect();
    let out = host.in_guest(guest, &["sh", "-c", &format!("{all}wait")]).success("in the guest").stdout;
    std::array::from_fn(|number| out.lines().any(|line| line == number.to_string()))
}

/// Returns the IPv4 and IPv6 addresses in a property of a machine.
fn addresses(host: &Host, name: &str, property: &str) -> Vec<String> {
    host.property(name, property).split(' ').map(str::to_owned).collect()
}

/// Returns the link-local address of a machine on its link.
fn link_local(host: &Host, name: &str) -> String {
    let shown = host.in_guest(name, &["ip", "-6", "addr", "show", "dev", "host0", "scope", "link"]).stdout;
    let address =
        shown.split_whitespace().find(|word| word.starts_with("fe80")).expect("a link-local address");
    address.trim_end_matches("/64").to_owned()
}

/// Returns whether `a` with the given settings reaches its zone by IPv4, IPv6 and a link-local address, its
/// host, and the outside network by both families.
fn outcome(host: &Host, said: &str) -> [bool; 6] {
    host.define("a", &zoned(&format!("ports = [\"8080:80\"]\n{said}")));
    host.coracle(&["start", "a"]);
    host.wait_for_page("a");
    let [b4, b6] = <[String; 2]>::try_from(addresses(host, "b", "addresses")).expect("two");
    let here = addresses(host, "a", "host-addresses").swap_remove(0);
    let server = host.serve_http("7000");
    // A link-local address is usable only after duplicate address detection.
    let leader = host.machine_leader("a");
    host.wait_until(LONG, &format!("! nsenter -t {leader} -n ip -6 addr show tentative | grep ."));
    let fetch = |place: &str| format!("busybox wget -T 1 -q -O - http://{place}/");
    let found = succeed(
        host,
        "a",
        [
            fetch(&b4),
            fetch(&bracketed(&b6)),
            format!("ping -6 -c1 -W1 {}%host0", link_local(host, "b")),
            fetch(&format!("{here}:7000")),
            fetch("192.0.2.2"),
            fetch("[2001:db8::2]"),
        ],
    );
    drop(server);
    // Incoming connections work: from its zone, from its host, and through a port from outside.
    for address in addresses(host, "a", "addresses") {
        assert!(reaches(host, "b", &address), "{said}: no answer from {address}");
    }
    assert!(reaches(host, "c", "a.lan"), "{said}");
    host.wait_for_page("127.0.0.1:8080");
    host.wait_for_page_outside("192.0.2.1:8080");
    // Connections between other machines are not affected.
    assert!(reaches(host, "b", "c") && reaches(host, "b", "192.0.2.2"), "{said}");
    found
}

/// Stops `a`. Returns the lines about dropped packets from its status.
fn stop(host: &Host) -> String {
    let status = host.coracle(&["status", "a"]);
    let dropped: String = status.lines().filter(|line| line.contains("dropped:")).collect();
    host.coracle(&["stop", "a"]);
    host.assert_clean_stop("a");
    dropped
}

#[test]
fn egress_restricts_a_machine_of_a_zone() {
    let host = host();
    let b4 = host.address("b");
    let before = Snapshot::take(&host);
    let only_b = format!("egress = \"{b4}\"\n");
    let and_zone = "egress = [\"zone\", \"192.0.2.0/24\", \"10.0.0.0/8\"]\n";
    for bridged in [0, 1] {
        host.sh_ok(&format!(
            "for f in /proc/sys/net/bridge/bridge-nf-call-ip*tables; do echo {bridged} >$f; done"
        ));
        for (said, expected) in [
            ("", [true; 6]),
            ("egress = \"zone\"\n", [true, true, true, false, false, false]),
            ("egress = \"none\"\n", [false; 6]),
            ("egress = [\"192.0.2.0/24\", \"2001:db8::/32\"]\n", [false, false, false, false, true, true]),
            (&only_b, [true, false, false, false, false, false]),
            (and_zone, [true, true, true, true, true, false]),
        ] {
            // With netfilter on bridges, only policies with addresses are checked: the matches on addresses
            // differ.
            if bridged == 1 && !said.contains('.') {
                continue;
            }
            let found = outcome(&host, said);
            let dropped = stop(&host);
            let refused = dropped.contains("outside of network.egress");
            assert_eq!((found, refused), (expected, !said.is_empty()), "{said}");
        }
    }
    before.assert_same(&host);
    host.coracle(&["stop", "b", "c"]);
    host.stop();
}

#[test]
fn egress_of_a_machine_of_a_zone_is_set_live() {
    let host = host();
    let b4 = host.address("b");
    // Packets refused by the policy reach no machine, including multicast and broadcast packets.
    let found = outcome(&host, "egress = \"none\"\n");
    assert_eq!(found, [false; 6]);
    let heard = |host: &Host| {
        let leader = host.machine_leader("b");
        let count = format!("nsenter -t {leader} -n nft list chain inet heard c | grep -c 'packets 0'");
        host.sh(&count).stdout.trim() == "0"
    };
    let leader = host.machine_leader("b");
    host.sh_ok(&format!(
        "nsenter -t {leader} -n sh -c \"nft add table inet heard; nft add chain inet heard c '{{ type filter hook \
         prerouting priority 0; }}'; nft add rule inet heard c udp dport 5355 counter\""
    ));
    let say = |host: &Host| {
        let leader = host.machine_leader("a");
        let own = host.address("a");
        let script = "use Socket; socket(my $s, PF_INET, SOCK_DGRAM, 0) or die; setsockopt($s, SOL_SOCKET, SO_BROADCAST, 1); \
                      bind($s, sockaddr_in(0, inet_aton($ARGV[0]))) or die; \
                      for my $to (qw(224.0.0.252 255.255.255.255)) { send($s, 'x', 0, sockaddr_in(5355, inet_aton($to))) or die $! }";
        host.write("/run/say.pl", script);
        host.sh_ok(&format!("nsenter -t {leader} -n perl /run/say.pl {own}"));
    };
    say(&host);
    assert!(!heard(&host), "a packet was received despite the egress policy");
    host.coracle(&["set", "--runtime", "a", "network.egress=zone"]);
    assert!(reaches(&host, "a", &b4) && !reaches(&host, "a", "192.0.2.2"));
    say(&host);
    host.wait_until(
        LONG,
        &format!("! nsenter -t {leader} -n nft list chain inet heard c | grep 'packets 0'"),
    );
    host.coracle(&["set", "--runtime", "a", "network.egress=any"]);
    assert!(reaches(&host, "a", &b4) && reaches(&host, "a", "192.0.2.2"));
    host.coracle(&["set", "--runtime", "a", "network.egress=192.0.2.0/24"]);
    assert!(!reaches(&host, "a", &b4) && reaches(&host, "a", "192.0.2.2"));
    // nft(8) can parse its own listing of the tables.
    host.sh_ok("nft list ruleset >/run/rules; ip netns exec outside nft -f /run/rules");
    host.coracle(&["stop", "a", "b", "c"]);
    host.sh_ok("! nft list table bridge coracle && ! nft list table inet coracle");
    host.stop();
}

/// Returns the number of packets dropped by a chain of the bridge table.
fn dropped(host: &Host, chain: &str) -> u32 {
    let chain = host.ok(&["nft", "list", "chain", "bridge", "coracle", chain]);
    let rule = chain.lines().find(|line| line.contains("limit name")).unwrap_or_else(|| panic!("{chain}"));
    let count = rule.split("packets ").nth(1).and_then(|rest| rest.split(' ').next());
    count.and_then(|count| count.parse().ok()).unwrap_or_else(|| panic!("{chain}"))
}

#[test]
fn rates_limit_a_machine_of_a_zone() {
    const MANY: u32 = 600;
    let host = host();
    let before = Snapshot::take(&host);
    host.define("a", &zoned("rate-in = \"100k\"\nrate-out = \"100k\"\n"));
    host.coracle(&["start", "a"]);
    host.wait_for_page("a");
    let (a, b) = (host.address("a"), host.address("b"));
    let listed = host.ok(&["nft", "list", "table", "bridge", "coracle"]);
    for limit in ["vb-a-in", "vb-a-out"] {
        assert!(listed.contains(&format!("limit {limit}")), "{listed}");
    }
    assert!(listed.contains("rate over 12500 bytes/second burst 256 kbytes"), "{listed}");
    host.write(
        "/run/many.pl",
        &format!(
            "use Socket; socket(my $s, PF_INET, SOCK_DGRAM, 0) or die; my $to = sockaddr_in(9, inet_aton($ARGV[0])); \
             my $sent = 0; while ($sent < {MANY}) {{ $sent++ if defined send($s, 'x' x 1400, 0, $to) || $! != 111 }}"
        ),
    );
    // The limits are a burst of 256 KiB and 12500 bytes per second: about as many packets arrive, and the
    // rest is dropped.
    let few = 256 * 1024 / 1442;
    for (chain, who, to) in [("rate-out", "a", &b), ("rate-in", "b", &a)] {
        let (leader, so_far) = (host.machine_leader(who), dropped(&host, chain));
        host.sh_ok(&format!("nsenter -t {leader} -n perl /run/many.pl {to}"));
        let lost = dropped(&host, chain) - so_far;
        assert!((few / 2..few * 2).contains(&(MANY - lost)), "{chain}: {lost}");
    }
    host.coracle(&["set", "--runtime", "a", "network.rate-in=infinity", "rate-out=infinity"]);
    let listed = host.ok(&["nft", "list", "table", "bridge", "coracle"]);
    assert!(!listed.contains("limit vb-a"), "{listed}");
    let so_far = dropped(&host, "rate-out");
    host.sh_ok(&format!("nsenter -t {} -n perl /run/many.pl {b}", host.machine_leader("a")));
    assert_eq!(dropped(&host, "rate-out"), so_far);
    host.coracle(&["set", "--runtime", "a", "network.rate-out=100k"]);
    // A start after a kill.
    host.kill_supervisor("a");
    host.coracle(&["start", "a"]);
    host.wait_for_page("a");
    host.coracle(&["stop", "a"]);
    host.sh_ok("rm -r /run/coracle/machines.d");
    before.assert_same(&host);
    host.coracle(&["stop", "b", "c"]);
    host.stop();
}
