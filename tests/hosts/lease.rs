//! Guests that request their addresses: busybox's DHCP client, the kernel, networkd. They receive their
//! configured addresses, and other clients receive no reply.

use crate::support::{Host, LONG, Snapshot};

/// Configures name servers that machines can reach.
const NAMES: &str = "
ip link add up0 type veth peer name up1; ip link set up1 up; ip addr add 192.0.2.1/24 dev up0; ip addr add 2001:db8::1/64 dev up0 nodad
ip link set up0 up; resolvectl dns up0 192.0.2.2 2001:db8::2; resolvectl domain up0 example.org
machinectl -q list
";

/// Returns the addresses and default routes of a guest's link.
fn inside(host: &Host, guest: &str) -> [Vec<String>; 2] {
    let sorted = |command: &[&str], field: usize| {
        let out = host.in_guest(guest, command).success("list").stdout;
        let mut words: Vec<String> =
            out.lines().filter_map(|line| line.split_whitespace().nth(field).map(str::to_owned)).collect();
        words.sort();
        words.dedup();
        words
    };
    let addresses = sorted(&["sh", "-c", "ip -o addr show dev host0 | grep -v 'inet6 fe80'"], 3);
    let routes = sorted(&["sh", "-c", "ip route show default; ip -6 route show default"], 2);
    [addresses, routes]
}

/// Returns the number of packet sockets of a machine's supervisor.
fn frame_sockets(host: &Host, guest: &str) -> String {
    let pid = host.supervisor(guest);
    let inodes = format!("ls -l /proc/{pid}/fd | sed -n 's/.*socket:.\\([0-9]*\\).$/\\1/p'");
    host.sh_ok(&format!("for i in $({inodes}); do grep -w $i /proc/net/packet || true; done | wc -l"))
}

const SCRIPT: &str = "#!/bin/sh
[ \"$1\" = bound ] || exit 0
ip addr add $ip/$mask dev $interface; ip route add default via $router
echo \"bound: $ip/$mask router $router dns $dns search $search lease $lease from $serverid\"
";

#[test]
fn dhcp_offers_the_configured_addresses() {
    let host = Host::start(&["busybox"]);
    host.sh_ok(NAMES);
    // A host that drops incoming packets.
    host.sh_ok(
        "nft 'table inet strict { chain input { type filter hook input priority 0; policy drop; \
                ct state established accept; iif lo accept; icmpv6 type { 135, 136 } accept; }; }'",
    );
    // The first start leaves state on the host: forwarding and the anycast routes of a router. The remaining
    // addresses must have passed duplicate address detection.
    host.start_machine("busybox");
    host.coracle(&["stop", "busybox"]);
    host.wait_for_address_detection();
    let before = Snapshot::take(&host);
    host.start_machine("busybox");
    let had = inside(&host, "busybox");
    assert_eq!(frame_sockets(&host, "busybox"), "1\n");
    host.write("/var/lib/machines/busybox/script", SCRIPT);
    let ask = "chmod 755 /script; ip -4 addr flush dev host0; \
               udhcpc -i host0 -f -q -n -t 3 -T 1 -O search -s /script 2>&1";
    let out = host.in_guest("busybox", &["sh", "-c", ask]).success("udhcpc").stdout;
    assert!(out.contains("dns 192.0.2.2 search example.org"), "{out}");
    assert_eq!(inside(&host, "busybox"), had);
    host.ok(&["ping", "-c1", "-W5", &host.address("busybox")]);
    // The kernel sends router solicitations if configured so.
    let ask = "ip -6 addr flush dev host0 scope global; ip -6 route del default; ip link set host0 down; \
               echo 1 >/proc/sys/net/ipv6/conf/host0/accept_ra; ip link set host0 up";
    host.in_guest("busybox", &["sh", "-c", ask]);
    host.wait_until(LONG, "nsenter -t $(machinectl show busybox -p Leader --value) -n ip -6 route show default | grep 'proto ra'");
    assert_eq!(inside(&host, "busybox")[0], had[0]);
    let ipv6 = host.property("busybox", "addresses");
    let ipv6 = ipv6.split(' ').find(|address| address.contains(':')).expect("IPv6");
    host.ok(&["ping", "-c1", "-W5", ipv6]);
    // A client with another link-layer address receives no reply.
    let ask = "ip link set host0 down; ip link set host0 address 02:00:00:00:00:01; ip link set host0 up; \
               udhcpc -i host0 -f -q -n -t 2 -T 1 -s /script";
    assert_ne!(host.in_guest("busybox", &["sh", "-c", ask]).status, 0);
    host.coracle(&["stop", "busybox"]);
    host.sh_ok("rm /var/lib/machines/busybox/script");
    host.assert_clean_stop("busybox");
    before.assert_same(&host);
    host.stop();
}

const OWN: &str = "[Match]\nName=host0\n[Network]\nDHCP=yes\nIPv6AcceptRA=yes\n";

#[test]
fn networkd_of_the_guest_gets_the_configured_addresses() {
    for networkd in [false, true] {
        let builder = Host::builder().guest("trixie");
        let host = if networkd { builder.networkd() } else { builder }.start();
        host.activate_machined();
        host.enable_networkd("trixie");
        host.write("/var/lib/machines/trixie/etc/systemd/network/10-own.network", OWN);
        host.define("trixie", "");
        host.coracle(&["start", "--wait=ready", "trixie"]);
        // If networkd runs on the host, networkd replies.
        assert_eq!(frame_sockets(&host, "trixie"), if networkd { "0\n" } else { "1\n" });
        host.wait_until_in_guest("trixie", "networkctl list host0 --no-legend | grep configured");
        let own = host.in_guest("trixie", &["networkctl", "status", "host0", "--no-pager"]).stdout;
        assert!(own.contains("10-own.network") && own.contains("(DHCPv4"), "{own}");
        let addresses = host.property("trixie", "addresses");
        for address in addresses.split(' ') {
            host.wait_until(LONG, &format!("ping -c1 -W1 {address}"));
        }
        let [inside, routes] = inside(&host, "trixie");
        assert_eq!((inside.len(), routes.len()), (2, 2), "{inside:?} {routes:?}");
        // The guest sends a new request after a reboot.
        let leader = host.machine_leader("trixie");
        host.coracle(&["reboot", "trixie"]);
        host.wait_for_reboot("trixie", leader);
        for address in addresses.split(' ') {
            host.wait_until(LONG, &format!("ping -c1 -W1 {address}"));
        }
        host.wait_until_in_guest("trixie", "networkctl status host0 | grep DHCPv4");
        host.coracle(&["stop", "trixie"]);
        host.assert_clean_stop("trixie");
        host.stop();
    }
}

/// The clients of Debian, each with its command for one request; dhcpcd requests a router as well.
const CLIENTS: [(&str, &str); 3] = [
    ("udhcpc", "busybox udhcpc -i host0 -f -q -n -t 5 -T 1 -O search -s /script"),
    ("dhclient", "dhclient -v -1 -lf /run/dhclient.leases -pf /run/dhclient.pid host0"),
    ("dhcpcd", "dhcpcd -f /dev/null -4 -1 host0 && dhcpcd -f /dev/null -6 -1 host0"),
];

#[test]
fn dhcp_answers_all_clients_of_debian() {
    let host = Host::builder().guest_as("sysvinit-clients", "m").start();
    host.sh_ok(NAMES);
    host.define("m", "");
    host.coracle(&["start", "m"]);
    host.wait_for_console("m", "INIT: Entering runlevel: 2");
    host.write("/var/lib/machines/m/script", SCRIPT);
    let had = inside(&host, "m");
    let (ipv4, router) = (host.address("m"), host.property("m", "host-addresses"));
    let router = router.split(' ').next().expect("the host's address");
    for (client, ask) in CLIENTS {
        // Removes the IPv4 addresses and records all packets.
        let last = if client == "dhcpcd" { "router advertisement" } else { "length 1: ACK" };
        let script = format!(
            "chmod 755 /script; ip -4 addr flush dev host0; ip -4 route flush dev host0; rm -f /run/capture; \
             tcpdump -Z root -i host0 -n -v -l 'udp port 67 or icmp6' >/run/capture 2>/run/noise & capture=$!; \
             while ! grep -q listening /run/noise; do sleep 0.1; done; {ask} 2>&1; status=$?; \
             until grep -q '{last}' /run/capture; do sleep 0.1; done; kill $capture; wait $capture; exit $status"
        );
        let out = host.in_guest("m", &["sh", "-c", &script]);
        let capture = host.in_guest("m", &["cat", "/run/capture"]).success("what passed").stdout;
        assert_eq!(out.status, 0, "{out}");
        for what in
            ["DHCP-Message (53), length 1: ACK", "Domain-Name-Server (6), length 4: 192.0.2.2", "Lease-Time"]
        {
            assert!(capture.contains(what), "{client}: {what}");
        }
        assert!(capture.contains(&format!("Your-IP {ipv4}")), "{client}");
        assert!(capture.contains(&format!("Default-Gateway (3), length 4: {router}")), "{client}");
        if client == "dhcpcd" {
            assert!(capture.contains("ICMP6, router advertisement"), "it asks for one");
        }
        // A client that has received a router uses it as its gateway.
        let [addresses, routes] = inside(&host, "m");
        assert_eq!((&addresses, routes.len()), (&had[0], 2), "{client}: {routes:?}");
        assert_eq!(routes[0], had[1][0], "{client}");
        for address in host.property("m", "addresses").split(' ') {
            host.ok(&["ping", "-c1", "-W5", address]);
        }
        host.in_guest("m", &["sh", "-c", "kill $(cat /run/dhclient.pid)"]);
    }
    host.coracle(&["stop", "m"]);
    host.assert_clean_stop("m");
    host.stop();
}
