//! Links of machines beside those of systemd-nspawn on the same host: names, link-layer addresses, plain
//! links.

use crate::support::{Host, Job, LONG, Snapshot};

/// The interfaces of the machine `m`, in both programs.
const INTERFACES: [&str; 5] = [
    "--network-veth-extra=xa:ia",
    "--network-veth-extra=xb",
    "--network-macvlan=up0",
    "--network-macvlan=up1:lan1",
    "--network-macvlan=uplink-of-lan1",
];

fn host() -> Host {
    let host = Host::builder().guest_as("busybox", "m").start();
    host.sh_ok(
        "for i in 0 1; do ip link add up$i type veth peer name out$i; ip link set up$i up; done
         ip link add uplink-of-lan1 type veth peer name out2",
    );
    host.write("/usr/local/bin/addresses", ADDRESSES);
    host.write("/usr/local/bin/states", STATES);
    host.sh_ok("chmod 755 /usr/local/bin/*");
    host.activate_machined();
    host.enable_forwarding();
    host
}

/// Runs a command in the machine `m` by one of the programs, and waits until `sleep` runs in it.
fn run(host: &Host, program: &str, options: &[&str]) -> Job {
    let words = format!(
        "exec {program} -q --register=no --keep-unit -D /var/lib/machines/m {} sleep 600",
        options.join(" ")
    );
    let job = host.spawn(&["sh", "-c", &words]);
    host.wait_until(LONG, "pgrep -x sleep");
    job
}

/// Returns the output of a script in the network namespace of the running command.
#[track_caller]
fn inside(host: &Host, script: &str) -> String {
    host.sh_ok(&format!("exec nsenter -n -t $(pgrep -x sleep) sh -euc '{script}'"))
}

/// Ends the command and waits until its links are gone.
fn end(host: &Host, job: Job) {
    host.sh_ok("pkill -KILL -x sleep");
    job.wait(LONG);
    host.wait_until(LONG, "! ip link | grep -e xa@ -e ve-m -e vb-m");
}

/// Shows the names and link-layer addresses of all links, and alternative names.
const ADDRESSES: &str = r"#!/bin/sh
ip -o link | sed -n 's/^[0-9]*: \([^:@]*\).*link.ether \([0-9a-f:]*\) .*/\1 \2/p' | sort
ip -o link | grep -o 'altname [^ \]*' | sort
";

/// Returns the names and link-layer addresses inside, and those of the hosts' ends.
fn addresses(host: &Host, program: &str, options: &[&str]) -> [String; 2] {
    let job = run(host, program, options);
    let both = [inside(host, "addresses"), host.sh_ok("addresses | grep -e ^x -e ^v -e ^altname")];
    end(host, job);
    both
}

#[test]
fn names_and_link_layer_addresses_are_those_of_systemd_nspawn() {
    let host = host();
    host.sh_ok("ip link add br0 type bridge; ip link set br0 up");
    let name = "--machine=exactly-13chr";
    for options in [&["-n"][..], &["--network-bridge=br0"], &["--network-zone=lan"], &["-n", name]] {
        let options = [options, &INTERFACES].concat();
        let theirs = addresses(&host, "systemd-nspawn", &options);
        let ours = addresses(&host, "coracle run", &options);
        assert!(theirs[0].contains("host0 ") && theirs[0].contains("lan1 "), "{theirs:?}");
        // The bridge of a zone has a random address in systemd-nspawn.
        let theirs =
            theirs.map(|lines| lines.lines().filter(|line| !line.starts_with("vz-")).collect::<String>());
        let ours =
            ours.map(|lines| lines.lines().filter(|line| !line.starts_with("vz-")).collect::<String>());
        assert_eq!(theirs, ours, "{options:?}");
    }
    host.stop();
}

#[test]
fn a_failed_start_leaves_the_link_of_systemd_nspawn() {
    let host = host();
    host.sh_ok("cp -a /var/lib/machines/m /var/lib/machines/other");
    let job = run(&host, "systemd-nspawn", &["-n", "--network-veth-extra=xa:ia"]);
    let before = Snapshot::take(&host);
    for definition in ["", "[network]\nmode = \"none\"\nveth-extra = [\"xa:ia\"]\n"] {
        // Once with the lock of the same tree, and once without.
        for root in ["m", "other"] {
            host.define("m", &format!("root.directory = \"/var/lib/machines/{root}\"\n{definition}"));
            assert_ne!(host.exec(&["coracle", "start", "m"]).status, 0);
            before.assert_same(&host);
        }
        let status = host.coracle(&["status", "m"]);
        assert!(status.contains("exists and does not belong to the machine"), "{status}");
    }
    end(&host, job);
    host.stop();
}

/// Shows the names and the states of all links.
const STATES: &str = r"#!/bin/sh
ip -o link | sed -e s/NO-CARRIER,// -e s/,LOWER_UP// | sed -n 's/^[0-9]*: \([^:@]*\).*<\([^>]*\)>.*/\1 \2/p' | sort
";

#[test]
fn plain_links_are_those_of_systemd_nspawn() {
    let host = host();
    host.sh_ok("ip link add br0 type bridge; ip link set br0 up; mkdir -p /etc/coracle/machines.d");
    let further = "macvlan = [\"up0\", \"up1:lan1\", \"uplink-of-lan1\"]\nveth-extra = [\"xa:ia\", \"xb\"]";
    for (option, mode) in [
        ("-n", "mode = \"veth\""),
        ("--network-bridge=br0", "bridge = \"br0\""),
        ("--network-zone=lan", "zone = \"lan\""),
    ] {
        let states = |job: Job| {
            let links = |text: String| -> String {
                let is_of_machine = |line: &&str| !line.starts_with("up") && !line.starts_with("out");
                text.lines().filter(is_of_machine).collect::<Vec<_>>().join("\n")
            };
            let firewall = host.sh_ok("nft list tables; nft list chains | grep coracle || true");
            let addresses = inside(&host, "ip -o addr show; ip route") + &host.sh_ok("ip -4 -o addr show");
            let both = [links(inside(&host, "states")), links(host.sh_ok("states")), firewall];
            let is_address = |line: &&str| !line.contains(" lo ") && line.contains("inet");
            let addresses: Vec<String> = addresses.lines().filter(is_address).map(str::to_owned).collect();
            end(&host, job);
            (both, addresses)
        };
        let theirs = states(run(&host, "systemd-nspawn", &[&[option][..], &INTERFACES].concat()));
        let text = format!(
            "[root]\ndirectory = \"/var/lib/machines/m\"\n[network]\naddresses = \"none\"\n{mode}\n{further}\n"
        );
        host.define("m", &text);
        let ours = states(run(&host, "coracle run -M m", &[]));
        host.sh_ok("rm /etc/coracle/machines.d/m.toml");
        assert_eq!(theirs, ours, "{option}");
        assert!(ours.1.is_empty(), "{ours:?}");
    }
    host.stop();
}

/// Returns the indices of links that machined has for the machine `m`.
#[track_caller]
fn registered_links(host: &Host) -> String {
    let machine = ["org.freedesktop.machine1", "/org/freedesktop/machine1/machine/m"];
    let property = ["org.freedesktop.machine1.Machine", "NetworkInterfaces"];
    host.ok(&[&["busctl", "get-property"][..], &machine, &property].concat()).trim().to_owned()
}

/// The start script of a guest that configures its link itself.
const SCRIPT: &str = "#!/bin/sh -e
ip link set host0 name eth0
ip addr add 192.168.77.2/24 dev eth0
ip link set eth0 up
ip route add default via 192.168.77.1
exec /sbin/init
";

#[test]
fn a_guest_renames_and_configures_its_plain_link() {
    let host = host();
    let before = Snapshot::take(&host);
    host.write("/var/lib/machines/m/start", SCRIPT);
    host.sh_ok("chmod 755 /var/lib/machines/m/start");
    host.define("m", "[boot]\ninit = \"/start\"\n[network]\naddresses = \"none\"\n");
    host.coracle(&["start", "m"]);
    for boot in 0..2 {
        host.sh_ok("ip addr add 192.168.77.1/24 dev ve-m; ip link set ve-m up");
        host.wait_for_page("192.168.77.2");
        // Its source address is its own matter, and the host's firewall has no rule for it.
        host.in_guest(
            "m",
            &[
                "sh",
                "-euc",
                "ip addr add 192.168.77.9/24 dev eth0; ping -c1 -W5 -I 192.168.77.9 192.168.77.1",
            ],
        )
        .success("send with another address");
        host.sh_ok("! nft list tables | grep coracle");
        let ifindex = host.ok(&["cat", "/sys/class/net/ve-m/ifindex"]);
        assert_eq!(registered_links(&host), format!("ai 1 {}", ifindex.trim()));
        let found = host.exec(&["coracle", "doctor", "m"]);
        assert!(!format!("{found}").contains("network"), "{found}");
        if boot == 0 {
            let leader = host.machine_leader("m");
            host.ask_in_guest("m", &["reboot"]);
            host.wait_for_reboot("m", leader);
        }
    }
    host.coracle(&["stop", "m"]);
    before.assert_same(&host);
    // After a kill of the supervisor nothing is left either.
    host.coracle(&["start", "m"]);
    host.kill_supervisor("m");
    before.assert_same(&host);
    host.stop();
}

#[test]
fn a_zone_has_plain_machines_or_others() {
    let host = host();
    host.add_guest("busybox", "n");
    let before = Snapshot::take(&host);
    host.define("m", "[network]\nzone = \"lan\"\naddresses = \"none\"\n");
    host.coracle(&["start", "m"]);
    let bridge = host.ok(&["cat", "/sys/class/net/vz-lan/ifindex"]);
    assert_eq!(registered_links(&host), format!("ai 1 {}", bridge.trim()));
    host.define("n", "[network]\nzone = \"lan\"\n");
    assert_ne!(host.exec(&["coracle", "start", "n"]).status, 0);
    let status = host.coracle(&["status", "n"]);
    assert!(status.contains("machine 'm' of zone 'lan' has another value of network.addresses"), "{status}");
    host.define("n", "[network]\nzone = \"lan\"\naddresses = \"none\"\n");
    host.coracle(&["start", "n"]);
    host.coracle(&["stop", "m"]);
    host.sh_ok("ip link show vb-n | grep 'master vz-lan'");
    host.coracle(&["stop", "n"]);
    before.assert_same(&host);
    host.stop();
}

/// An outside network at the peer of `up0`, from which the host is 198.51.100.9.
const OUTSIDE: &str = "
ip netns add outside
ip link set out0 netns outside
ip addr add 198.51.100.9/24 dev up0
ip -n outside addr add 198.51.100.1/24 dev out0; ip -n outside link set out0 up
";

#[test]
fn ports_follow_the_addresses_of_a_plain_link() {
    let host = host();
    host.add_guest("busybox", "n");
    host.sh_ok(OUTSIDE);
    host.wait_for_address_detection();
    let before = Snapshot::take(&host);
    let text = "[network]\naddresses = \"none\"\nports = [\"8080:80\", \"198.51.100.9:8081:80\"]\n";
    host.define("m", text);
    host.coracle(&["start", "m"]);
    host.sh_ok("if nft list tables | grep coracle; then exit 1; fi; ip addr add 192.168.77.1/24 dev ve-m; ip link set ve-m up");
    let configure = |script: &str| host.in_guest("m", &["sh", "-euc", script]).success("configure the link");
    let maps = || host.sh("nft -n list map inet coracle dnat4; nft -n list map inet coracle dnat6").stdout;
    configure(
        "ip link set host0 name eth0; ip link set eth0 up; ip addr add 192.168.77.2/24 dev eth0; ip route add default via 192.168.77.1",
    );
    for page in ["198.51.100.9:8080", "198.51.100.9:8081", "192.168.77.1:8080"] {
        host.wait_for_page(page);
    }
    host.wait_for_page_outside("198.51.100.9:8080");
    assert!(maps().contains("6 . 8080 : 192.168.77.2 . 80") && !maps().contains("8080 : 2001"), "{}", maps());
    assert!(host.coracle(&["show", "m", "-p", "ports"]).contains("8080:80"));
    // Another address, one of IPv6, and one that belongs to other machines.
    configure(
        "ip addr flush dev eth0; ip addr add 192.168.77.3/24 dev eth0; ip route add default via 192.168.77.1; ip addr add 2001:db8:7::2/64 dev eth0",
    );
    host.wait_until(LONG, "nft list map inet coracle dnat4 | grep 192.168.77.3");
    host.wait_until(LONG, "nft list map inet coracle dnat6 | grep 2001:db8:7::2");
    host.wait_for_page_outside("198.51.100.9:8080");
    configure(
        "ip addr flush dev eth0; ip addr add 10.177.0.2/30 dev eth0; ip addr add 169.254.3.4/16 dev eth0; ip addr add 198.51.100.9/32 dev eth0",
    );
    host.wait_until(LONG, "! nft list tables | grep coracle");
    configure("ip addr add 192.168.77.4/24 dev eth0");
    host.wait_until(LONG, "nft list map inet coracle dnat4 | grep 192.168.77.4");
    // A guest that does not stop changing them.
    configure(
        "for i in $(seq 300); do ip addr add 192.168.78.$((i % 200 + 1))/32 dev eth0; \
         ip addr del 192.168.78.$((i % 200 + 1))/32 dev eth0; done; ip addr add 2001:db8:8::2/64 dev eth0",
    );
    host.wait_until(LONG, "nft list map inet coracle dnat6 | grep 2001:db8:8::2");
    host.wait_until(LONG, "nft list map inet coracle dnat4 | grep 192.168.77.4");
    // The ports are the machine's, and the tables come back after a flush.
    host.define("n", "[network]\nports = [\"8080:80\"]\n");
    let refused = host.exec(&["coracle", "start", "n"]);
    let status = host.coracle(&["status", "n"]);
    assert!(refused.status != 0 && status.contains("machine 'm' has '8080:80'"), "{refused}{status}");
    host.sh_ok("nft delete table inet coracle");
    host.wait_until(LONG, "nft list map inet coracle dnat4 | grep 192.168.77.4");
    let leader = host.machine_leader("m");
    host.ask_in_guest("m", &["reboot"]);
    host.wait_for_reboot("m", leader);
    host.wait_until(LONG, "! nft list tables | grep coracle");
    configure("ip link set host0 up; ip addr add 192.168.77.5/24 dev host0");
    host.wait_until(LONG, "nft list map inet coracle dnat4 | grep 192.168.77.5");
    host.coracle(&["stop", "m"]);
    before.assert_same(&host);
    host.coracle(&["start", "m"]);
    configure("ip link set host0 up; ip addr add 192.168.77.6/24 dev host0");
    host.wait_until(LONG, "nft list map inet coracle dnat4 | grep 192.168.77.6");
    host.kill_supervisor("m");
    before.assert_same(&host);
    host.stop();
}

#[test]
fn the_same_combinations_are_refused_as_by_systemd_nspawn() {
    let host = host();
    host.sh_ok(
        "ip link add br0 type bridge; ip link set br0 up; ip netns add other; ip link add up2 type veth peer name out3",
    );
    let namespace = "--network-namespace-path=/run/netns/other";
    let refused: [&[&str]; 10] = [
        &["--network-bridge=br0", "--network-zone=lan"],
        &[namespace, "-n"],
        &[namespace, "--network-bridge=br0"],
        &[namespace, "--network-zone=lan"],
        &[namespace, "--network-macvlan=up0"],
        &[namespace, "--network-interface=up2"],
        &[namespace, "--network-veth-extra=xa:ia"],
        &["-p", "8080:80"],
        &["--network-interface=missing"],
        &["--network-bridge=missing"],
    ];
    let accepted: [&[&str]; 6] = [
        &[namespace],
        &[namespace, "--private-network"],
        &["--network-veth", "--private-network", "--network-bridge=br0"],
        &["-n", "--network-zone=lan", "--network-macvlan=up0", "--network-interface=up2:lan0"],
        &["--private-network", "--network-veth-extra=xa"],
        &["-n", "-p", "8080:80", "-p", "udp:54"],
    ];
    let run = |program: &[&str], options: &[&str]| {
        let base = ["-q", "--register=no", "--keep-unit", "-D", "/var/lib/machines/m", "--console=pipe"];
        host.exec_for(LONG, &[program, &base, options, &["true"]].concat())
    };
    for (is_accepted, cases) in [(false, &refused[..]), (true, &accepted[..])] {
        for options in cases {
            for program in [&["systemd-nspawn"][..], &["coracle", "run"]] {
                let ended = run(program, options);
                assert_eq!(ended.status == 0, is_accepted, "{ended}");
            }
        }
    }
    host.stop();
}

/// With systemd-networkd on both sides, as with systemd-nspawn: each end has its own configuration.
#[test]
fn networkd_configures_both_ends_of_a_plain_link() {
    let host = Host::builder().networkd().guest_as("trixie", "m").start();
    host.activate_machined();
    host.enable_networkd("m");
    host.define("m", "[network]\naddresses = \"none\"\nports = [\"2222:22\"]\n");
    host.coracle(&["start", "m"]);
    host.wait_until(LONG, "networkctl status ve-m | grep -i 'State: routable.*configured'");
    host.wait_until_in_guest("m", "ip -4 -o addr show dev host0 scope global | grep dynamic");
    let shown = host.ok(&["machinectl", "show", "m", "-P", "Addresses"]);
    let inside = host.in_guest("m", &["sh", "-c", "ip -4 -o addr show dev host0 scope global"]).stdout;
    let address = inside.split_whitespace().nth(3).unwrap().split('/').next().unwrap();
    assert!(shown.is_empty() || shown.contains(address), "{shown} {inside}");
    host.ok(&["ping", "-c1", "-W5", address]);
    host.wait_until(LONG, &format!("nft list map inet coracle dnat4 | grep 2222.*{address}"));
    host.sh_ok("! ls /run/systemd/network/*coracle*");
    host.coracle(&["stop", "m"]);
    // networkd keeps a table of its own.
    host.sh_ok("! nft list tables | grep coracle && ! ip link show ve-m");
    host.stop();
}

/// A machine without a link, into which an administrator moves an interface, and one in another namespace.
#[test]
fn ports_follow_addresses_without_a_link() {
    let host = host();
    host.sh_ok(
        "ip netns add other; ip link set out1 netns other; ip addr add 192.168.88.1/24 dev up1
         sysctl -q net.ipv6.conf.up1.disable_ipv6=1
         ip netns exec other sysctl -q net.ipv4.ip_unprivileged_port_start=0",
    );
    let before = Snapshot::take(&host);
    for (network, namespace) in [
        ("mode = \"none\"", "/proc/LEADER/ns/net"),
        ("namespace-path = \"/run/netns/other\"", "/run/netns/other"),
    ] {
        host.define("m", &format!("[network]\n{network}\naddresses = \"none\"\nports = [\"8080:80\"]\n"));
        host.coracle(&["start", "m"]);
        let namespace = namespace.replace("LEADER", &host.machine_leader("m").to_string());
        host.sh_ok(&format!(
            "ip netns exec other true; [ {namespace} = /run/netns/other ] || \
             ip netns exec other ip link set out1 netns {leader}
             nsenter --net={namespace} ip link set out1 up
             nsenter --net={namespace} ip addr replace 192.168.88.2/24 dev out1",
            leader = host.machine_leader("m")
        ));
        host.wait_until(LONG, "nft list map inet coracle dnat4 | grep 192.168.88.2");
        host.wait_for_page("192.168.88.1:8080");
        host.sh_ok(&format!(
            "[ {namespace} = /run/netns/other ] || nsenter --net={namespace} ip link set out1 netns /run/netns/other"
        ));
        host.coracle(&["stop", "m"]);
        host.sh_ok("ip -n other addr flush dev out1; ip -n other link set out1 down");
        before.assert_same(&host);
    }
    host.stop();
}
