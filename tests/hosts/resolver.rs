//! Name servers: running machines follow the name servers of the host, without wakeups of their supervisors.

use crate::support::{Host, LONG, Snapshot};

/// Returns the guest's `/etc/resolv.conf` without comments, on one line.
fn seen(host: &Host, guest: &str) -> String {
    let text = host.in_guest(guest, &["cat", "/etc/resolv.conf"]).stdout;
    text.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join("; ")
}

#[track_caller]
fn assert_follow(host: &Host, guests: &[&str], expected: &str) {
    for guest in guests {
        let leader = host.machine_leader(guest);
        let file = format!("nsenter -t {leader} -m -r cat /etc/resolv.conf | grep -v '^#' | paste -sd' '");
        host.wait_until(LONG, &format!("[ \"$({file})\" = '{expected}' ]"));
    }
}

/// Returns the context switches of a process, as text.
fn switches(host: &Host, pid: u32) -> String {
    host.sh_ok(&format!("grep ctxt_switches /proc/{pid}/status"))
}

/// Waits until the given supervisors are idle, some seconds after their start, and returns their context
/// switches.
fn switches_when_idle(host: &Host, supervisors: &[u32]) -> Vec<String> {
    let counts = || supervisors.iter().map(|pid| switches(host, *pid)).collect::<Vec<_>>();
    let end = std::time::Instant::now() + LONG;
    let mut before = counts();
    loop {
        std::thread::sleep(std::time::Duration::from_millis(1500));
        let now = counts();
        if now == before {
            return now;
        }
        assert!(std::time::Instant::now() < end, "the supervisors are not idle: {now:?}");
        before = now;
    }
}

/// Asserts that the service that updates the machines has not failed.
#[track_caller]
fn assert_updates_succeeded(host: &Host) {
    host.wait_until(LONG, "systemctl show -P ActiveState coracle-resolver.service | grep -vx activating");
    assert_ne!(host.unit_state("coracle-resolver.service"), "failed");
}

/// Returns a host with the name server 192.0.2.2 and stopped machines of the given names.
fn host_with_name_server(names: &[&str]) -> Host {
    let host = names.iter().fold(Host::builder(), |all, name| all.guest_as("busybox", name)).start();
    host.add_outside();
    host.activate_machined();
    assert!(host.read("/etc/resolv.conf").contains("nameserver 127.0.0.53"));
    host.sh_ok("resolvectl dns up0 192.0.2.2");
    host.wait_until(LONG, "grep -q 192.0.2.2 /run/systemd/resolve/resolv.conf");
    host
}

fn start(host: &Host, names: &[&str]) {
    for name in names {
        host.coracle(&["start", "--wait=running", name]);
    }
}

#[test]
fn machines_follow_the_name_servers_of_the_host() {
    const ALL: [&str; 3] = ["plain", "linked", "fixed"];
    let host = host_with_name_server(&ALL);
    host.sh_ok(
        "cd /var/lib/machines; rm -f linked/etc/resolv.conf; echo nameserver 203.0.113.1 >fixed/etc/resolv.conf
         ln -s ../run/systemd/resolve/stub-resolv.conf linked/etc/resolv.conf",
    );
    host.define("fixed", "[root]\nread-only = true\n");
    // The first start enables forwarding, which adds anycast routes that remain.
    start(&host, &["plain"]);
    host.coracle(&["stop", "plain"]);
    let before = Snapshot::take(&host);
    start(&host, &ALL);
    assert_eq!(host.unit_state("coracle-resolver.path"), "active");
    assert_follow(&host, &ALL, "nameserver 192.0.2.2");
    host.sh_ok("resolvectl dns up0 192.0.2.9 2001:db8::9; resolvectl domain up0 example");
    assert_follow(&host, &ALL, "nameserver 192.0.2.9 nameserver 2001:db8::9 search example");
    // A file replaced by rename, and a file written in place.
    host.sh_ok("cp -P /etc/resolv.conf /etc/resolv.conf.was; echo nameserver 192.0.2.10 >/etc/.new; mv /etc/.new /etc/resolv.conf");
    assert_follow(&host, &ALL, "nameserver 192.0.2.10");
    host.sh_ok("echo nameserver 192.0.2.11 >/etc/resolv.conf");
    assert_follow(&host, &ALL, "nameserver 192.0.2.11");
    host.sh_ok("for i in $(seq 12 60); do echo nameserver 192.0.2.$i >/etc/.new; mv /etc/.new /etc/resolv.conf; done");
    assert_follow(&host, &ALL, "nameserver 192.0.2.60");
    host.sh_ok("mv /etc/resolv.conf.was /etc/resolv.conf");
    assert_follow(&host, &ALL, "nameserver 192.0.2.9 nameserver 2001:db8::9 search example");
    assert_updates_succeeded(&host);
    host.coracle(&[&["stop"][..], &ALL].concat());
    before.assert_same(&host);
    // Without a machine, the watch stays and the service is not executed.
    assert_eq!(host.unit_state("coracle-resolver.path"), "active");
    host.sh_ok("touch /etc/.changed; rm /etc/.changed");
    host.wait_until(LONG, "[ \"$(systemctl show -P ConditionResult coracle-resolver.service)\" = no ]");
    host.stop();
}

#[test]
fn name_servers_set_by_the_guest_are_kept() {
    const ALL: [&str; 4] = ["plain", "own", "pipe", "off"];
    let host = host_with_name_server(&ALL);
    host.define("off", "[network]\nresolv-conf = \"off\"\n");
    start(&host, &["plain"]);
    assert_follow(&host, &["plain"], "nameserver 192.0.2.2");
    // A file written by Coracle, which the mode `off` does not update.
    host.sh_ok("cp /var/lib/machines/plain/etc/resolv.conf /var/lib/machines/off/etc/resolv.conf");
    start(&host, &["own", "pipe", "off"]);
    host.in_guest("own", &["sh", "-c", "echo nameserver 203.0.113.9 >/etc/resolv.conf"]).success("its own");
    host.in_guest("pipe", &["sh", "-c", "rm /etc/resolv.conf; mkfifo /etc/resolv.conf"]).success("a pipe");
    host.sh_ok("resolvectl dns up0 192.0.2.9");
    assert_follow(&host, &["plain"], "nameserver 192.0.2.9");
    assert_updates_succeeded(&host);
    assert_eq!(seen(&host, "own"), "nameserver 203.0.113.9");
    assert_eq!(seen(&host, "off"), "nameserver 192.0.2.2");
    host.in_guest("pipe", &["test", "-p", "/etc/resolv.conf"]).success("its pipe");
    host.coracle(&[&["stop"][..], &ALL].concat());
    host.stop();
}

#[test]
fn an_update_does_not_wake_supervisors() {
    let host = host_with_name_server(&["m"]);
    start(&host, &["m"]);
    let supervisors = [host.supervisor("m")];
    let idle = switches_when_idle(&host, &supervisors);
    host.sh_ok("resolvectl dns up0 192.0.2.9");
    assert_follow(&host, &["m"], "nameserver 192.0.2.9");
    assert_updates_succeeded(&host);
    assert_eq!(switches(&host, supervisors[0]), idle[0]);
    host.coracle(&["stop", "m"]);
    host.stop();
}

#[test]
fn other_files_in_etc_cause_no_update() {
    let host = host_with_name_server(&["m"]);
    start(&host, &["m"]);
    // Waits for the update caused by the start of the machine.
    host.sh_ok("resolvectl dns up0 192.0.2.9");
    assert_follow(&host, &["m"], "nameserver 192.0.2.9");
    assert_updates_succeeded(&host);
    let updated = || host.sh_ok("stat -c %Y.%y /run/coracle/*/resolver");
    let last = updated();
    host.sh_ok("for i in $(seq 300); do echo $i >/etc/other; done; rm /etc/other");
    assert_updates_succeeded(&host);
    assert_eq!(updated(), last);
    host.coracle(&["stop", "m"]);
    host.stop();
}

/// Like at boot of the host, machines start before its network is configured.
#[test]
fn machines_started_before_the_host_has_name_servers_are_updated() {
    const ALL: [&str; 6] = ["none", "stale", "linked", "own", "elsewhere", "fixed"];
    let host = ALL.iter().fold(Host::builder(), |all, name| all.guest_as("busybox", name)).start();
    host.add_outside();
    host.activate_machined();
    host.sh_ok("! grep ^nameserver /run/systemd/resolve/resolv.conf");
    host.sh_ok(
        "cd /var/lib/machines; rm -f */etc/resolv.conf
         for name in stale own elsewhere fixed; do echo nameserver 203.0.113.1 >$name/etc/resolv.conf; done
         ln -s ../run/systemd/resolve/stub-resolv.conf linked/etc/resolv.conf
         mv elsewhere/etc/resolv.conf elsewhere/etc/passed; ln -s passed elsewhere/etc/resolv.conf",
    );
    host.define("fixed", "[root]\nread-only = true\n");
    for name in ALL {
        if name != "fixed" {
            host.define(name, "");
        }
        host.coracle(&["start", "--wait=running", name]);
    }
    for (name, expected) in [("none", ""), ("linked", ""), ("stale", "nameserver 203.0.113.1")] {
        assert_eq!(seen(&host, name), expected, "{name}");
    }
    host.in_guest("own", &["sh", "-c", "echo nameserver 203.0.113.9 >/etc/resolv.conf"]).success("its own");
    host.sh_ok("resolvectl dns up0 192.0.2.2");
    assert_follow(&host, &["none", "stale", "linked"], "nameserver 192.0.2.2");
    host.sh_ok("resolvectl dns up0 192.0.2.3");
    assert_follow(&host, &["none", "stale", "linked"], "nameserver 192.0.2.3");
    for (name, expected) in [("own", ".9"), ("elsewhere", ".1"), ("fixed", ".1")] {
        assert_eq!(seen(&host, name), format!("nameserver 203.0.113{expected}"), "{name}");
    }
    assert_updates_succeeded(&host);
    host.coracle(&[&["stop"][..], &ALL].concat());
    host.stop();
}

#[test]
fn a_resolv_conf_that_cannot_be_written_is_a_warning() {
    let host = Host::builder().guest_as("busybox", "m").start();
    host.add_outside();
    let etc = "/var/lib/machines/m/etc";
    for (what, setup, undo, mode) in [
        (
            "immutable",
            "echo nameserver 192.0.2.1 >resolv.conf; chattr +i resolv.conf",
            "chattr -i resolv.conf",
            "auto",
        ),
        ("fifo", "mkfifo resolv.conf", "test -p resolv.conf", "auto"),
        ("directory", "mkdir resolv.conf", "test -d resolv.conf", "auto"),
        ("device", "mknod resolv.conf c 1 3", "test -c resolv.conf", "auto"),
        ("below a file", "ln -s ../run/a/b resolv.conf", "test -L resolv.conf", "auto"),
        ("copy", "mkfifo resolv.conf", "test -p resolv.conf", "copy-host"),
        ("replace", "mkdir resolv.conf", "test -d resolv.conf", "replace-host"),
        ("bind", "mkdir resolv.conf", "test -d resolv.conf", "bind-host"),
        ("delete", "mkdir resolv.conf", "test -d resolv.conf", "delete"),
    ] {
        host.sh_ok(&format!("cd {etc} && rm -rf resolv.conf && {{ {setup}; }}"));
        host.sh_ok("rm -rf /etc/resolv.conf; echo nameserver 192.0.2.53 >/etc/resolv.conf");
        let below =
            if what == "below a file" { "[[mount]]\ntype=\"tmpfs\"\ntarget=\"/run/b\"\n" } else { "" };
        host.define("m", &format!("[network]\nresolv-conf = \"{mode}\"\n{below}"));
        host.coracle(&["start", "--wait=running", "m"]);
        if what != "below a file" {
            let journal = host.unit_journal("m");
            assert!(
                journal.contains("/etc/resolv.conf'") && journal.contains(", ignoring"),
                "{what}: {journal}"
            );
        }
        // Later changes on the host do not fail the service either.
        host.sh_ok("echo nameserver 192.0.2.54 >/etc/resolv.conf");
        assert_updates_succeeded(&host);
        host.coracle(&["stop", "m"]);
        host.sh_ok(&format!("cd {etc} && {undo}"));
        host.sh_ok("journalctl --rotate -q; journalctl --vacuum-time=1ms -q");
    }
    host.stop();
}

/// In each network mode: sudo, Java and mail servers resolve their own host name.
#[test]
fn a_machine_resolves_its_own_names() {
    let machines = [
        ("veth", "veth"),
        ("bare", "none"),
        ("open", "host"),
        ("zoned", "zone\"\nzone = \"lan"),
        ("fixed", "veth"),
    ];
    let names: Vec<&str> = machines.iter().map(|(name, _)| *name).collect();
    let host = names.iter().fold(Host::builder(), |all, name| all.guest_as("busybox", name)).start();
    host.activate_machined();
    let before = Snapshot::take(&host);
    for (name, mode) in machines {
        let etc = format!("/var/lib/machines/{name}/etc");
        host.sh_ok(&format!("cd {etc}; echo {name}-tree >hostname; echo 127.0.0.1 localhost >hosts"));
        let root = if name == "fixed" { "[root]\nread-only = true\n" } else { "" };
        let identity = format!("[identity]\nhostname = \"{name}.example.org\"\n");
        host.define(name, &format!("{root}{identity}[network]\nmode = \"{mode}\"\n"));
        host.coracle(&["start", "--wait=running", name]);
        for own in [name.to_owned(), format!("{name}-tree"), "$(hostname)".into()] {
            let ping = host.in_guest(name, &["sh", "-c", &format!("ping -c1 -W1 {own} 2>&1")]);
            // In the network namespace of the host, the machine may lack permission to open the socket.
            assert!(ping.status == 0 || ping.stdout.contains("permission denied"), "{name}: {own}: {ping}");
        }
    }
    host.coracle(&[&["stop"][..], &names].concat());
    host.sh_ok("! grep -q coracle /var/lib/machines/*/etc/hosts");
    before.assert_same(&host);
    host.stop();
}

#[test]
fn users_of_a_machine_may_ping_without_capabilities() {
    let host = Host::builder().guest_as("busybox", "veth").guest_as("busybox", "bare").start();
    host.define("veth", "");
    host.define("bare", "[network]\nmode = \"none\"\n");
    for name in ["veth", "bare"] {
        host.coracle(&["start", name]);
        let range = host.in_guest(name, &["cat", "/proc/sys/net/ipv4/ping_group_range"]).stdout;
        assert_eq!(range, "0\t65535\n", "{name}");
        let leader = host.machine_leader(name);
        host.sh_ok(&format!("nsenter -t {leader} -U -n -S 65534 -G 65534 ping -c1 -W2 127.0.0.1"));
    }
    host.coracle(&["stop", "veth", "bare"]);
    host.stop();
}

/// Starts a DNS server at 127.0.0.1 of the host, which is the only name server of the host.
fn listen_at_loopback(host: &Host, name: &str, address: &str) {
    host.sh_ok(&format!(
        "systemctl -q stop systemd-resolved; rm -f /run/systemd/resolve/resolv.conf /etc/resolv.conf
         echo nameserver 127.0.0.1 >/etc/resolv.conf; echo '{address} {name}' >>/etc/hosts
         mkdir -p /run/systemd/resolved.conf.d
         printf '[Resolve]\nDNSStubListenerExtra=127.0.0.1\n' >/run/systemd/resolved.conf.d/own.conf
         systemctl start systemd-resolved"
    ));
    host.wait_until(LONG, "ss -lun | grep -q '127.0.0.1:53 '");
}

/// Links the guest's `/etc/resolv.conf` to the stub of systemd-resolved, and masks the services that could
/// provide name servers to resolved.
fn mask_networkd(host: &Host, guest: &str) {
    host.sh_ok(&format!(
        "cd /var/lib/machines/{guest}/etc; ln -sf ../run/systemd/resolve/stub-resolv.conf resolv.conf
         for unit in systemd-networkd.service systemd-networkd.socket NetworkManager.service
         do ln -sf /dev/null systemd/system/$unit; done"
    ));
}

#[track_caller]
fn assert_resolves(host: &Host, guests: &[&str], name: &str, address: &str) {
    for guest in guests {
        let script = format!(
            "if [ -x /usr/bin/getent ]; then getent ahostsv4 {name}; else nslookup -type=a {name}; fi"
        );
        let found = host.in_guest(guest, &["sh", "-c", &script]);
        assert!(found.stdout.contains(address), "{guest}: {found}\n{}", host.sh("nft list ruleset").stdout);
    }
}

#[test]
fn doctor_reports_a_missing_name_server() {
    let host = Host::builder().guest_as("busybox", "own").start();
    host.start_machine("own");
    host.sh_ok("systemctl stop systemd-resolved; rm -f /run/systemd/resolve/resolv.conf /etc/resolv.conf");
    for (server, finding) in [
        ("nameserver ::1", "risk: machines have no name server: they cannot reach the host's, '::1'"),
        ("", "note: machines have no name server: the host has none"),
    ] {
        host.sh_ok(&format!("echo {server} >/etc/resolv.conf"));
        for words in [&["doctor"][..], &["doctor", "own"]] {
            let text = host.exec(&[&["coracle"][..], words].concat()).stdout;
            assert!(text.contains(finding), "{text}");
        }
    }
    host.coracle(&["stop", "own"]);
    host.stop();
}

/// Returns the IPv4 gateway of a machine.
#[track_caller]
fn gateway(host: &Host, name: &str) -> String {
    let script = "ip route | sed -n 's/^default via \\([^ ]*\\).*/\\1/p'";
    host.in_guest(name, &["sh", "-c", script]).success("its routes").stdout.trim().to_owned()
}

/// A resolver at 127.0.0.1 of the host is reachable at the gateway of a machine: only through its own link,
/// and only on port 53.
#[test]
fn machines_reach_only_the_resolver_of_the_hosts_loopback() {
    let host = Host::builder().guest_as("busybox", "own").guest_as("busybox", "zoned").start();
    listen_at_loopback(&host, "www.example.org", "203.0.113.7");
    host.define("zoned", "[network]\nmode = \"zone\"\nzone = \"lan\"\n");
    start(&host, &["own", "zoned"]);
    let [own, zoned] = ["own", "zoned"].map(|name| gateway(&host, name));
    host.in_guest("own", &["nc", "-w2", &own, "53", "-e", "true"]).success("DNS by TCP");
    let server = host.serve_http("127.0.0.1:8053");
    for (guest, place) in
        [("own", format!("{own} 8053")), ("own", format!("{zoned} 53")), ("zoned", format!("{own} 53"))]
    {
        let connect = format!("nc -w2 {place} -e true");
        assert_ne!(host.in_guest(guest, &["sh", "-c", &connect]).status, 0, "{guest}: {place}");
    }
    drop(server);
    host.coracle(&["stop", "own", "zoned"]);
    host.stop();
}

/// The name servers of the host change to 192.0.2.9, and back to the resolver at 127.0.0.1.
#[test]
fn a_resolver_at_the_hosts_loopback_answers_machines() {
    const ALL: [&str; 4] = ["own", "zoned", "deb", "old"];
    const NAME: &str = "www.example.org";
    let host = Host::builder()
        .guest_as("busybox", "own")
        .guest_as("busybox", "zoned")
        .guest_as("host", "deb")
        .guest_as("host-bookworm", "old")
        .start();
    host.activate_machined();
    listen_at_loopback(&host, NAME, "203.0.113.7");
    let before = Snapshot::take(&host);
    host.define("zoned", "[network]\nmode = \"zone\"\nzone = \"lan\"\n");
    mask_networkd(&host, "deb");
    mask_networkd(&host, "old");
    host.coracle(&[&["start"][..], &ALL].concat());
    assert_resolves(&host, &ALL, NAME, "203.0.113.7");

    let [own, zoned] = ["own", "zoned"].map(|name| gateway(&host, name));
    host.sh_ok("echo nameserver 192.0.2.9 >/etc/resolv.conf");
    assert_follow(&host, &["own", "zoned"], "nameserver 192.0.2.9");
    host.wait_until(LONG, "! nft list map inet coracle dns-redirect | grep 127.0.0.1");
    for guest in ["deb", "old"] {
        let servers =
            format!("nsenter -t {} -m -r cat /run/systemd/resolve/resolv.conf", host.machine_leader(guest));
        host.wait_until(LONG, &format!("{servers} | grep -q 'nameserver 192.0.2.9'"));
    }
    host.sh_ok("echo nameserver 127.0.0.1 >/etc/resolv.conf");
    assert_follow(&host, &["own"], &format!("nameserver {own}"));
    assert_follow(&host, &["zoned"], &format!("nameserver {zoned}"));
    for guest in ["deb", "old"] {
        let servers =
            format!("nsenter -t {} -m -r cat /run/systemd/resolve/resolv.conf", host.machine_leader(guest));
        host.wait_until(LONG, &format!("! {servers} | grep -q 'nameserver 192.0.2.9'"));
    }
    assert_resolves(&host, &ALL, NAME, "203.0.113.7");
    let well = host.exec(&["coracle", "doctor", "own"]).stdout;
    assert!(well.contains("no problems found"), "{well}");

    assert_updates_succeeded(&host);
    host.coracle(&[&["stop"][..], &ALL].concat());
    before.assert_same(&host);
    host.stop();
}

/// Since systemd 259, machined provides the names of machines to resolved by a hook: all programs of the host
/// that query resolved can resolve them. Earlier versions have only nss-mymachines, covered by `zones` and
/// `network`.
#[test]
fn resolved_of_the_host_resolves_machines() {
    let host = Host::builder().suite("sid").guest_as("busybox", "web").guest_as("busybox", "db").start();
    host.activate_machined();
    let before = Snapshot::take(&host);
    host.start_machine("web");
    host.define("db", "[network]\nmode = \"zone\"\nzone = \"lan\"\n");
    host.coracle(&["start", "db"]);
    for name in ["web", "db"] {
        let answer = host.ok(&["resolvectl", "query", name]);
        for address in host.property(name, "addresses").split(' ') {
            assert!(answer.contains(address), "{address}: {answer}");
        }
        for (family, is_of) in [("-4", '.'), ("-6", ':')] {
            let answer = host.ok(&["resolvectl", "query", family, "--legend=no", name]);
            assert!(answer.contains(is_of), "{answer}");
        }
    }
    host.coracle(&["stop", "web", "db"]);
    assert_ne!(host.sh("resolvectl query web").status, 0);
    before.assert_same(&host);
    host.stop();
}
