//! Connectivity on an unconfigured host: masquerade, forwarding, name servers, antispoofing, and the removal
//! of the firewall table.

use crate::support::{Host, LONG, Snapshot};

/// A CGI script of the web server in the outside network, which returns the client's address.
const WHO: &str = "
mkdir /srv/www/cgi-bin
printf '#!/bin/sh\\necho; echo \"$REMOTE_ADDR\"\\n' >/srv/www/cgi-bin/who; chmod 755 /srv/www/cgi-bin/who
";

fn host_with_outside(guests: &[&str]) -> Host {
    let host = Host::start(guests);
    host.add_outside_with_page();
    host.sh_ok(WHO);
    host.activate_machined();
    host
}

/// Returns the source address of the guest's connections as seen by the server in the outside network.
#[track_caller]
fn source_address(host: &Host, guest: &str, server: &str) -> String {
    let url = format!("http://{server}/cgi-bin/who");
    let out = host.in_guest(guest, &["busybox", "wget", "-T", "2", "-q", "-O", "-", &url]);
    out.success("the page outside").stdout.trim().to_owned()
}

#[test]
fn a_machine_is_masqueraded_by_both_families() {
    let host = host_with_outside(&["busybox"]);
    // A new network namespace inherits the IPv4 sysctls of the test machine.
    host.sh_ok("sysctl -q net.ipv4.ip_forward=0");
    assert_eq!(host.read("/proc/sys/net/ipv6/conf/all/forwarding"), "0\n");
    host.start_machine("busybox");
    for (server, source) in [("192.0.2.2", "::ffff:192.0.2.1"), ("[2001:db8::2]", "2001:db8::1")] {
        let seen = source_address(&host, "busybox", server);
        assert!(seen.contains(source), "{server}: {seen}");
    }
    // The host still accepts router advertisements from its uplink, and ignores those from a machine.
    assert_eq!(host.read("/proc/sys/net/ipv6/conf/up0/accept_ra"), "2\n");
    assert_eq!(host.read("/proc/sys/net/ipv6/conf/ve-busybox/accept_ra"), "0\n");
    // The address of the machine is not reachable from outside.
    let address = host.address("busybox");
    host.sh_ok(&format!("ip -n outside route add {address} via 192.0.2.1"));
    let request = format!("ip netns exec outside timeout 2 {}", crate::support::fetch(&address));
    assert_ne!(host.sh(&request).status, 0);
    host.coracle(&["stop", "busybox"]);
    // Forwarding remains enabled, as do the anycast routes of a router.
    let before = Snapshot::take(&host);
    host.coracle(&["start", "busybox"]);
    source_address(&host, "busybox", "192.0.2.2");
    host.coracle(&["stop", "busybox"]);
    host.assert_clean_stop("busybox");
    before.assert_same(&host);
    host.stop();
}

/// Covers every kind of `/etc/resolv.conf`: missing, a regular file, dangling links into `/run`, and other
/// links.
#[test]
fn a_machine_uses_the_name_servers_of_its_host() {
    let host = host_with_outside(&["busybox"]);
    let seen = |setup: &str, definition: &str| {
        host.sh_ok(&format!("cd /var/lib/machines/busybox/etc && rm -f resolv.conf && {{ {setup}; }}"));
        host.define("busybox", definition);
        host.coracle(&["start", "busybox"]);
        let text = host.in_guest("busybox", &["cat", "/etc/resolv.conf"]).stdout;
        host.coracle(&["stop", "busybox"]);
        text.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join("|")
    };
    // The host's file lists only the stub of resolved, which machines cannot reach.
    assert!(host.read("/etc/resolv.conf").contains("nameserver 127.0.0.53"));
    host.sh_ok("resolvectl dns up0 192.0.2.2 2001:db8::2; resolvectl domain up0 example");
    let expected = "nameserver 192.0.2.2|nameserver 2001:db8::2|search example";
    for setup in [
        "true",
        "echo nameserver 203.0.113.1 >resolv.conf",
        "ln -s ../run/systemd/resolve/stub-resolv.conf resolv.conf",
        "ln -s /run/resolvconf/resolv.conf resolv.conf",
    ] {
        assert_eq!(seen(setup, ""), expected, "{setup}");
    }
    let own = "echo nameserver 203.0.113.1 >resolv.conf";
    assert_eq!(seen(own, "[root]\nread-only = true\n"), expected);
    assert_eq!(seen(own, "[network]\nresolv-conf = \"off\"\n"), "nameserver 203.0.113.1");
    assert_eq!(seen("ln -s mine resolv.conf; echo 1 >mine", ""), "1");
    // A link to a file of the host is resolved inside the tree.
    host.sh_ok("echo untouched >/run/bait");
    assert_eq!(seen("ln -s /run/bait resolv.conf", ""), expected);
    assert_eq!(host.read("/run/bait"), "untouched\n");
    host.stop();
}

#[test]
fn packets_with_a_forged_address_are_dropped() {
    let host = host_with_outside(&["busybox"]);
    host.start_machine("busybox");
    source_address(&host, "busybox", "192.0.2.2");
    // Waits until the counter is stable: multicast of the host, received on its own link, is also dropped.
    let count = "nft list chain inet coracle antispoof | sed -n 's/^.*packets \\([0-9]*\\) .* drop$/\\1/p' | tail -n1";
    let dropped = || host.sh_ok(count);
    host.wait_for_address_detection();
    host.wait_until(
        LONG,
        &format!("count() {{ {count}; }}; was=$(count); sleep 1; [ \"$(count)\" = \"$was\" ]"),
    );
    let before = dropped();
    // A forged source address. A route back exists, so only the chain antispoof can drop it.
    host.in_guest("busybox", &["ip", "addr", "add", "198.51.100.7/32", "dev", "host0"]).success("add");
    host.sh_ok("ip route add 198.51.100.7 dev ve-busybox");
    let forged = ["ping", "-c1", "-W1", "-I", "198.51.100.7", "192.0.2.2"];
    assert_ne!(host.in_guest("busybox", &forged).status, 0);
    assert_ne!(dropped(), before);
    // The host's loopback addresses are not reachable from the machine, although forwarded ports enable
    // route_localnet on these links: the filter at the ingress of the link drops such packets before any
    // rule.
    host.sh_ok(
        "in_guest() { nsenter -t $(machinectl show busybox -p Leader --value) -n \"$@\"; }
         in_guest sysctl -q net.ipv4.conf.host0.route_localnet=1 net.ipv4.conf.all.route_localnet=1
         in_guest ip route del local 127.0.0.0/8 dev lo table local; in_guest ip route add 127.0.0.9 dev host0
         in_guest ip neigh add 127.0.0.9 lladdr $(cat /sys/class/net/ve-busybox/address) dev host0
         ! in_guest ping -c1 -W1 127.0.0.9",
    );
    // Another link-layer address with the right source address.
    let mac = "ip link set host0 down; ip link set host0 address 02:00:00:00:00:01; ip link set host0 up";
    host.in_guest("busybox", &["sh", "-c", mac]).success("change the link-layer address");
    let host_address = host.property("busybox", "host-addresses");
    let host_address = host_address.split(' ').next().expect("an address");
    assert_ne!(host.in_guest("busybox", &["ping", "-c1", "-W1", host_address]).status, 0);
    // nft(8) can parse its own listing of the table: rulesets are saved in this form.
    host.define(
        "busybox",
        "[network]\nrate-in = \"1G\"\nrate-out = \"1G\"\negress = [\"192.0.2.0/24\", \"2001:db8::/32\"]\n",
    );
    host.coracle(&["restart", "busybox"]);
    host.sh_ok(
        "nft list chain inet coracle rate-out; nft list ruleset >/run/saved; nft --check --file /run/saved",
    );
    host.coracle(&["stop", "busybox"]);
    host.stop();
}

#[test]
fn the_table_is_consistent_after_kills_and_concurrent_starts() {
    let names = ["a", "b", "c"];
    let host = names.iter().fold(Host::builder(), |all, name| all.guest_as("busybox", name)).start();
    host.activate_machined();
    let before = Snapshot::take(&host);
    for name in names {
        host.define(name, "");
    }
    let elements = || {
        host.sh("nft list set inet coracle machine-links | grep -o 've-[a-c]' | sort -u | tr -d '\\n'").stdout
    };
    for _ in 0..3 {
        host.sh_ok("for m in a b c; do coracle start $m & done; wait");
        assert_eq!(elements(), "ve-ave-bve-c");
        host.kill_supervisor("a");
        host.wait_until(LONG, "test \"$(nft list set inet coracle machine-links | grep -o 've-[a-c]' | sort -u | tr -d '\\n')\" = ve-bve-c");
        host.sh_ok("for m in a b c; do coracle stop $m & done; wait; systemctl reset-failed");
        assert_ne!(host.sh("nft list table inet coracle").status, 0, "the table goes with the last");
    }
    before.assert_same(&host);
    host.stop();
}

/// A Perl program that runs a command with a seccomp filter, which refuses netfilter sockets like a kernel
/// without nftables.
const WITHOUT_NFTABLES: &str = r#"
$filter = join "", map { pack "SCCL", @$_ }
    [0x20, 0, 0, 0], [0x15, 0, 5, 41],      # the call is socket
    [0x20, 0, 0, 16], [0x15, 0, 3, 16],     # of netlink
    [0x20, 0, 0, 32], [0x15, 0, 1, 12],     # for netfilter
    [0x06, 0, 0, 0x0005005d], [0x06, 0, 0, 0x7fff0000];
$program = pack "Sx6P", 8, $filter;
syscall(157, 22, 2, $program, 0, 0) == 0 or die "seccomp: $!";
exec @ARGV;
"#;

#[test]
fn without_nftables_a_machine_reaches_its_host_only() {
    let host = Host::start(&["busybox"]);
    host.write("/run/without.pl", WITHOUT_NFTABLES);
    host.sh_ok(
        "mkdir -p /run/systemd/system/coracle@.service.d; \
         exec=$(systemctl cat coracle@.service | sed -n 's/^ExecStart=//p'); \
         printf '[Service]\\nExecStart=\\nExecStart=perl /run/without.pl %s\\n' \"$exec\" \
         >/run/systemd/system/coracle@.service.d/a.conf; systemctl daemon-reload; machinectl -q list",
    );
    let before = Snapshot::take(&host);
    host.start_machine("busybox");
    host.wait_for_page(&host.address("busybox"));
    let host_address = host.property("busybox", "host-addresses");
    let host_address = host_address.split(' ').next().expect("an address");
    host.in_guest("busybox", &["ping", "-c1", "-W5", host_address]).success("reach the host");
    let log = host.unit_journal("busybox");
    let said: Vec<&str> =
        log.lines().filter(|line| line.contains("no connectivity beyond this host")).collect();
    assert_eq!(said.len(), 1, "{log}");
    assert_ne!(host.sh("nft list table inet coracle").status, 0);
    host.coracle(&["stop", "busybox"]);
    host.assert_clean_stop("busybox");
    before.assert_same(&host);
    host.define("busybox", "[network]\nports = [\"8080:80\"]\n");
    assert_ne!(host.exec(&["coracle", "start", "busybox"]).status, 0);
    let status = host.coracle(&["status", "busybox"]);
    assert!(status.contains("cannot forward ports: cannot set up the firewall"), "{status}");
    host.sh_ok("systemctl reset-failed");
    before.assert_same(&host);
    host.stop();
}
