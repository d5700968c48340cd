//! The firewall on a host: the verdict on each packet, and protection of the host against packets of machines
//! and neighbours.

mod packets;
mod verdicts;

use crate::support::{Host, LONG};
use packets::Verdict::Nowhere;
use packets::{
    Attachment, Link, address, attachments, checksum, data, ether, host, octets, packet, send, send_in,
    verdict,
};

/// Returns a router advertisement: a default route of high preference, and a prefix.
fn advertisement(number: u16) -> Vec<u8> {
    let (from, to) = (address("fe80::bad"), address("ff02::1"));
    let mut data = vec![134, 0, 0, 0, 64, 0x08, 7, 8];
    data.extend([0; 8]);
    data.extend([3, 4, 64, 0xc0, 0, 1, 0x51, 0x80, 0, 0, 0x38, 0x40, 0, 0, 0, 0]);
    data.extend(octets(address("2001:db8:bad::")));
    let length = u32::try_from(data.len()).expect("a short packet").to_be_bytes();
    let sum = checksum(&[&octets(from), &octets(to), &length, &[0, 0, 0, 58], &data]);
    data[2..4].copy_from_slice(&sum);
    packet(number, 58, from, to, &data)
}

/// Asserts that no advertisement of a machine or of the peer of a later link adds a route or an address to
/// the host.
fn assert_no_router(host: &Host, attachments: &[Attachment], accept_ra: &str) {
    for attachment in attachments {
        send(host, attachment, &[advertisement(60000)]);
    }
    let read = "cat /proc/sys/net/ipv6/conf/default/accept_ra";
    assert_eq!(host.sh_ok(read), accept_ra, "the setting for future interfaces");
    host.sh_ok("ip link add pv0 type veth peer name pv1 netns outside; ip link set pv0 up");
    host.sh_ok("ip -n outside link set pv1 up");
    send_in(host, "ip netns exec outside", "pv1", &ether(host, "pv0", "pv1"), &[advertisement(60001)]);
    let routes = host.sh_ok("ip -6 route show; ip -6 addr show");
    assert!(!routes.contains("proto ra") && !routes.contains("2001:db8:bad"), "{routes}");
    host.sh_ok("ip link del pv0");
}

/// Asserts that neighbour solicitations to other networks are dropped. Neighbour discovery has no connection
/// state; the verdict depends on the destination.
fn assert_discovery_stays(host: &Host, attachments: &[Attachment]) {
    for attachment in attachments.iter().filter(|attachment| attachment.is_bound) {
        let to = address("2001:db8::2");
        let mut data = [&[135, 0, 0, 0, 0, 0, 0, 0][..], &octets(to)].concat();
        let length = u32::try_from(data.len()).expect("a short packet").to_be_bytes();
        let sum = checksum(&[&octets(attachment.own[1]), &octets(to), &length, &[0, 0, 0, 58], &data]);
        data[2..4].copy_from_slice(&sum);
        send(host, attachment, &[packet(60004, 58, attachment.own[1], to, &data)]);
        assert_eq!(verdict(host)(false, 60004), Nowhere, "{}", attachment.machine);
    }
}

/// Asserts that loopback addresses of the host are unreachable from an attachment, and that the host reaches
/// ports published on them.
fn assert_loopback_is_own(host: &Host) {
    let tcp = |number, from, to| {
        let (from, to) = (address(from), address(to));
        let mut data = data(6, from, to);
        data[2..4].copy_from_slice(&8080_u16.to_be_bytes());
        packet(number, 6, from, to, &data)
    };
    let packets = [tcp(60002, "192.0.2.2", "127.0.0.1"), tcp(60003, "127.0.0.1", "192.0.2.1")];
    send_in(host, "ip netns exec outside", "out0", &ether(host, "up0", "out0"), &packets);
    let found = verdict(host);
    assert_eq!([found(true, 60002), found(true, 60003)], [Nowhere, Nowhere]);
    let rules = host.ok(&["nft", "list", "chain", "inet", "coracle", "antispoof"]);
    let rule = rules.lines().find(|line| line.contains("ip daddr 127.0.0.0/8") && line.ends_with("drop"));
    assert!(rule.is_some_and(|rule| !rule.contains("packets 0 ")), "{rules}");
    host.wait_until(LONG, &format!("{} | grep hello", crate::support::fetch("127.0.0.1:8080")));
}

/// Asserts that a link of another program with a name like those of Coracle stays as restricted as configured
/// by its owner.
fn assert_foreign_links_stay_closed(host: &Host) {
    host.sh_ok(
        "nft 'table inet hand { chain forward { type filter hook forward priority 0; policy drop; }; }'
         ip netns add db; ip link add ve-db type veth peer name db0 netns db
         ip addr add 10.5.0.1/24 dev ve-db; ip link set ve-db up
         ip -n db addr add 10.5.0.2/24 dev db0; ip -n db link set db0 up; ip -n db route add default via 10.5.0.1
         ip -n outside route add 10.5.0.0/24 via 192.0.2.1",
    );
    let reached = || host.sh("ip netns exec outside ping -c1 -W1 10.5.0.2").status == 0;
    assert!(!reached());
    for name in ["free", "zfree"] {
        host.coracle(&["restart", name]);
        host.wait_until(LONG, &format!("nft list table inet hand | grep -c 'machines of coracle' | grep -qv '^0$'; coracle show {name}"));
        let out = host.in_guest(name, &["busybox", "wget", "-T", "5", "-q", "-O", "-", "http://192.0.2.2/"]);
        assert_eq!(out.status, 0, "{name}: {out}\n{}", host.sh_ok("nft list table inet hand"));
    }
    assert!(!reached(), "{}", host.sh_ok("nft list table inet hand"));
    let rules = || host.sh_ok("nft list table inet hand");
    assert!(
        rules().contains("machines of coracle: ve-free") && rules().contains("machines of coracle: vz-lan")
    );
    host.coracle(&["stop", "free", "zfree"]);
    assert!(!rules().contains("ve-free") && rules().contains("vz-lan"), "{}", rules());
}

/// Asserts that the host sends no name queries to machines and accepts no replies.
fn assert_no_names_of_machines(host: &Host, attachments: &[Attachment]) {
    host.sh_ok("systemctl start systemd-resolved");
    host.coracle(&["restart", "free", "zfree"]);
    for link in ["ve-free", "vz-lan", "wx0"] {
        for kind in ["llmnr", "mdns"] {
            let said = host.sh_ok(&format!("resolvectl {kind} {link}"));
            assert!(said.trim().ends_with(": no"), "{said}");
        }
    }
    host.sh_ok("ip addr add 10.9.0.1/24 dev wx0; ip addr add 2001:db8:90::1/64 dev wx0 nodad");
    let mut number = 60100;
    for attachment in attachments
        .iter()
        .filter(|attachment| matches!(attachment.link, Link::Host0 | Link::Zone | Link::Extra))
    {
        for (port, at) in [(137, 0), (5353, 0), (5353, 2), (5355, 0), (5355, 2)] {
            number += 1;
            let mut data = data(17, attachment.own[0], attachment.host[0]);
            data[at..at + 2].copy_from_slice(&u16::to_be_bytes(port));
            data[6..8].copy_from_slice(&[0, 0]);
            send(host, attachment, &[packet(number, 17, attachment.own[0], attachment.host[0], &data)]);
            assert_eq!(verdict(host)(true, number), Nowhere, "{:?} port {port} at {at}", attachment.link);
        }
    }
}

/// Asserts that the host's loopback is unreachable even without the table, and that supervisors create the
/// table again.
fn assert_table_comes_back(host: &Host, attachments: &[Attachment]) {
    let loopback = |attachment: &Attachment, number| {
        let to = address("127.0.0.1");
        let tagged = |tags: &str| {
            let ether = format!("{}{tags}", attachment.ether);
            let packet = packet(number, 17, attachment.own[0], to, &data(17, attachment.own[0], to));
            let leader = host.machine_leader(attachment.machine);
            send_in(host, &format!("nsenter -t {leader} -n"), attachment.inside, &ether, &[packet]);
        };
        for tags in ["", "81000000", "8100000081000000"] {
            tagged(tags);
        }
    };
    // The stopped supervisors cannot create the table again meanwhile.
    let all = ["free", "bound", "zfree", "zbound", "bridged"];
    let pids = all.map(|name| host.supervisor(name).to_string()).join(" ");
    host.sh_ok(&format!("kill -STOP {pids}; nft delete table inet coracle; nft delete table bridge coracle"));
    assert_eq!(host.sh_ok("cat /proc/sys/net/ipv4/conf/ve-free/route_localnet"), "1\n");
    for (number, attachment) in
        (60200..).zip(attachments.iter().filter(|attachment| attachment.link != Link::Bridge))
    {
        loopback(attachment, number);
        assert_eq!(verdict(host)(true, number), Nowhere, "{} {}", attachment.machine, attachment.inside);
    }
    let doctor = host.exec(&["coracle", "doctor", "bound"]).stdout;
    assert!(doctor.contains("'inet coracle' or rules of it are missing"), "{doctor}");
    host.sh_ok(&format!("kill -CONT {pids}"));
    let whole =
        "nft list table inet coracle | grep -q ve-bound; nft list table bridge coracle | grep -q vb-zfree";
    host.wait_until(LONG, whole);
    for lost in [
        "nft flush ruleset",
        "nft flush table inet coracle",
        "nft delete chain inet coracle forward",
        // Changes of set elements do not wake the supervisors: each machine adds and removes elements.
        "nft flush set inet coracle machine-macs; nft delete table bridge coracle",
    ] {
        host.sh_ok(lost);
        host.wait_until(
            LONG,
            &format!(
                "{whole}; test $(nft list chain inet coracle forward | grep -c drop) -gt 2; \
                 nft list set inet coracle machine-macs | grep -q ve-bound; ! coracle doctor bound | grep 'are missing'"
            ),
        );
    }
    let journal = all.map(|name| host.unit_journal(name)).concat();
    let mended = journal.lines().filter(|line| line.contains("created it again")).count();
    assert!((1..=12).contains(&mended), "{mended} repairs\n{journal}");
}

/// Asserts that machines, in a zone or not, reach a port published by a machine of the zone, like all other
/// clients.
fn assert_own_port_answers(host: &Host) {
    for place in ["192.0.2.1", "[2001:db8::1]"] {
        let url = format!("http://{place}:8090/");
        for name in ["zfree", "free"] {
            let page = host.in_guest(name, &["busybox", "wget", "-T", "5", "-q", "-O", "-", &url]);
            assert!(page.stdout.contains("hello from busybox"), "{name} by {place}: {page}");
        }
    }
}

#[test]
fn routers_of_machines_are_ignored_by_the_host() {
    let host = host();
    let before = host.sh_ok("cat /proc/sys/net/ipv6/conf/default/accept_ra");
    assert_eq!(before, "1\n", "no machine has changed it");
    assert_no_router(&host, &attachments(&host), &before);
    assert_discovery_stays(&host, &attachments(&host));
    assert_loopback_is_own(&host);
    assert_own_port_answers(&host);
    assert_no_names_of_machines(&host, &attachments(&host));
    assert_table_comes_back(&host, &attachments(&host));
    assert_foreign_links_stay_closed(&host);
    host.stop();
}
