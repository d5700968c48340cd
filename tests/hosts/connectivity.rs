//! The delay from the start of PID 1 to the first reply from outside the host, by IPv4, by IPv6 and by name,
//! measured by a program in the machine, for each init.

use crate::support::{Host, LONG};

/// The program, started as early as possible by each init. Times are seconds since the start of PID 1.
const FIRST: &str = r#"#!/bin/sh
since() { busybox awk -v up="$(busybox cut -d ' ' -f 1 /proc/uptime)" '{ sub(/.*\) /, ""); print up - $20 / 100 }' /proc/1/stat; }
ask() {
	said=$(busybox wget -T 20 -q -O - "http://$2/" 2>&1)
	echo "first: $1 $(since) $said" >/dev/console
}
echo "first: begun $(since)" >/dev/console
ask IPv4 192.0.2.2 & ask IPv6 '[2001:db8::2]' & ask name server.example & wait
"#;

const UNIT: &str = "[Unit]\nDefaultDependencies=no\n[Service]\nType=oneshot\nExecStart=/first.sh\n";

/// Starts a name server outside the host that resolves every name to one address, and configures it on the
/// host.
const SERVERS: &str = r#"
ip netns exec outside sh -c 'perl /run/names.pl >/dev/null 2>&1 & echo $! >/run/names.pid'
resolvectl dns up0 192.0.2.2; resolvectl domain up0 example
machinectl -q list
"#;

const NAMES: &str = r#"
use Socket;
socket(S, AF_INET, SOCK_DGRAM, 0) or die;
bind(S, pack_sockaddr_in(53, inet_aton("192.0.2.2"))) or die;
while ($from = recv(S, $ask, 512, 0)) {
    ($id, $rest) = unpack "n x10 a*", $ask;
    $name = substr $rest, 0, index($rest, "\0") + 1;
    $kind = unpack "n", substr $rest, length $name, 2;
    $answer = $kind == 1 ? pack("n n n N n a4", 0xc00c, 1, 1, 60, 4, inet_aton("192.0.2.2")) : "";
    send S, pack("n n n n n n", $id, 0x8180, 1, $kind == 1, 0, 0) . $name . pack("n n", $kind, 1) . $answer, 0, $from;
}
"#;

/// The tree and the name of each guest, and a shell script that prepares the tree on the host.
const GUESTS: [(&str, &str, &str); 4] = [
    ("busybox", "busybox", "sed -i '1a/first.sh &' etc/rcS"),
    ("sysvinit", "sysvinit", "sed -i '/^si::/i fi::sysinit:/first.sh </dev/null &' etc/inittab"),
    ("trixie", "plain", ""),
    ("trixie", "networkd", "chroot . systemctl -q enable systemd-networkd"),
];

#[test]
fn the_network_is_up_before_the_first_program() {
    let host = GUESTS.iter().fold(Host::builder(), |all, (tree, name, _)| all.guest_as(tree, name)).start();
    host.add_outside_with_page();
    host.write("/run/names.pl", NAMES);
    host.sh_ok(SERVERS);
    // Duplicate address detection has ended on the host and outside.
    host.wait_until(
        LONG,
        "! ip -6 addr show tentative | grep . && ! ip -n outside -6 addr show tentative | grep .",
    );
    for (tree, name, setup) in GUESTS {
        let root = format!("/var/lib/machines/{name}");
        host.write(&format!("{root}/first.sh"), FIRST);
        host.sh_ok(&format!("cd {root}; chmod 755 first.sh; {setup}"));
        if tree == "trixie" {
            host.write(&format!("{root}/etc/systemd/system/first.service"), UNIT);
            host.sh_ok(&format!(
                "cd {root}/etc/systemd/system; mkdir -p sysinit.target.wants; \
                 ln -s ../first.service sysinit.target.wants/"
            ));
        }
        host.define(name, "");
        host.coracle(&["start", "--wait=running", name]);
        let mut begun = None;
        for what in ["begun", "IPv4", "IPv6", "name"] {
            host.wait_for_console(name, &format!("first: {what} "));
            let said = host.console(name);
            let found = said.lines().find_map(|line| line.split_once(&format!("first: {what} ")));
            let words = found.map_or("", |(_, words)| words.trim());
            let (time, said) = words.split_once(' ').unwrap_or((words, ""));
            let time: f64 = time.parse().unwrap_or_else(|error| panic!("{words}: {error}"));
            let waited = time - *begun.get_or_insert(time);
            assert!(waited < 5.0, "{name}: {what} after {waited} s");
            // The network is configured before PID 1 starts: the first request is answered.
            assert_eq!(said, if what == "begun" { "" } else { "hello from outside" }, "{name}: {what}");
        }
        host.coracle(&["stop", name]);
        host.assert_clean_stop(name);
    }
    host.sh_ok("kill $(cat /run/names.pid)");
    host.stop();
}
