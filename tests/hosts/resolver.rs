//! Name servers: machines follow those of the host while they run, whoever changes them and how, and nobody else wakes up.

use crate::support::{Host, LONG, Snapshot};

/// What a guest's file says, without the mark of who has written it.
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

/// How often a process has waited.
fn waits(host: &Host, pid: u32) -> String {
    host.sh_ok(&format!("grep ctxt_switches /proc/{pid}/status"))
}

/// How often each of these processes has waited, once none wakes up any more: for its first seconds a supervisor has
/// work of its own.
fn once_asleep(host: &Host, supervisors: &[u32]) -> Vec<String> {
    let counts = || supervisors.iter().map(|pid| waits(host, *pid)).collect::<Vec<_>>();
    let end = std::time::Instant::now() + LONG;
    let mut before = counts();
    loop {
        std::thread::sleep(std::time::Duration::from_millis(1500));
        let now = counts();
        if now == before {
            return now;
        }
        assert!(std::time::Instant::now() < end, "the supervisors do not come to rest: {now:?}");
        before = now;
    }
}

#[test]
fn machines_follow_the_name_servers_of_the_host() {
    const FOLLOWERS: [&str; 3] = ["plain", "linked", "fixed"];
    let all = ["plain", "linked", "fixed", "own", "pipe", "off"];
    let host = all.iter().fold(Host::builder(), |all, name| all.guest_as("busybox", name)).start();
    host.add_outside();
    host.activate_machined();
    assert!(host.read("/etc/resolv.conf").contains("nameserver 127.0.0.53"));
    host.sh_ok("resolvectl dns up0 192.0.2.2");
    host.wait_until(LONG, "grep -q 192.0.2.2 /run/systemd/resolve/resolv.conf");
    host.sh_ok("cd /var/lib/machines; rm -f linked/etc/resolv.conf; echo nameserver 203.0.113.1 >fixed/etc/resolv.conf");
    host.sh_ok("ln -s ../run/systemd/resolve/stub-resolv.conf /var/lib/machines/linked/etc/resolv.conf");
    host.define("fixed", "[root]\nread-only = true\n");
    host.define("off", "[network]\nresolv-conf = \"off\"\n");
    host.start_machine("plain");
    // That was once ours: it is not, with 'off'.
    host.sh_ok("cp /var/lib/machines/plain/etc/resolv.conf /var/lib/machines/off/etc/resolv.conf");
    host.coracle(&["stop", "plain"]);
    assert_eq!(host.sh("systemctl is-active coracle-resolver.path").stdout, "inactive\n");
    let before = Snapshot::take(&host);
    for name in all {
        if !["fixed", "off"].contains(&name) {
            host.define(name, "");
        }
        host.coracle(&["start", "--wait=running", name]);
    }
    assert_eq!(host.ok(&["systemctl", "is-active", "coracle-resolver.path"]), "active\n");
    assert_follow(&host, &FOLLOWERS, "nameserver 192.0.2.2");
    host.in_guest("own", &["sh", "-c", "echo nameserver 203.0.113.9 >/etc/resolv.conf"]).success("its own");
    host.in_guest("pipe", &["sh", "-c", "rm /etc/resolv.conf; mkfifo /etc/resolv.conf"]).success("a pipe");
    let supervisors: Vec<u32> = all.iter().map(|name| host.supervisor(name)).collect();
    let asleep = once_asleep(&host, &supervisors);

    host.sh_ok("resolvectl dns up0 192.0.2.9 2001:db8::9; resolvectl domain up0 example");
    assert_follow(&host, &FOLLOWERS, "nameserver 192.0.2.9 nameserver 2001:db8::9 search example");
    host.sh_ok("cp -P /etc/resolv.conf /etc/resolv.conf.was; echo nameserver 192.0.2.10 >/etc/.new; mv /etc/.new /etc/resolv.conf");
    assert_follow(&host, &FOLLOWERS, "nameserver 192.0.2.10");
    host.sh_ok("echo nameserver 192.0.2.11 >/etc/resolv.conf");
    assert_follow(&host, &FOLLOWERS, "nameserver 192.0.2.11");
    // What else is in the directory concerns nobody.
    let told = |host: &Host| host.sh_ok("stat -c %Y.%y /run/coracle/*/resolver");
    let last = told(&host);
    host.sh_ok("for i in $(seq 300); do echo $i >/etc/other; done; rm /etc/other");
    host.wait_until(LONG, "[ $(systemctl show -P ActiveState coracle-resolver.service) = inactive ]");
    assert_eq!(told(&host), last);
    // Over and over, and none is missed.
    host.sh_ok("for i in $(seq 12 60); do echo nameserver 192.0.2.$i >/etc/.new; mv /etc/.new /etc/resolv.conf; done");
    assert_follow(&host, &FOLLOWERS, "nameserver 192.0.2.60");
    host.sh_ok("mv /etc/resolv.conf.was /etc/resolv.conf");
    assert_follow(&host, &FOLLOWERS, "nameserver 192.0.2.9 nameserver 2001:db8::9 search example");

    assert_eq!(seen(&host, "own"), "nameserver 203.0.113.9");
    assert_eq!(seen(&host, "off"), "nameserver 192.0.2.2");
    host.in_guest("pipe", &["test", "-p", "/etc/resolv.conf"]).success("its pipe");
    let after: Vec<String> = supervisors.iter().map(|pid| waits(&host, *pid)).collect();
    assert_eq!(asleep, after, "a supervisor woke up");
    host.sh_ok("systemctl is-failed coracle-resolver.service && exit 1; true");
    let names: Vec<&str> = [&["stop"][..], &all].concat();
    host.coracle(&names);
    host.wait_until(LONG, "! systemctl is-active coracle-resolver.path");
    before.assert_same(&host);
    host.stop();
}

/// A host that boots starts its machines before it has heard of a name server.
#[test]
fn who_was_there_before_the_first_name_server_hears_of_it() {
    const ALL: [&str; 6] = ["none", "stale", "linked", "own", "elsewhere", "fixed"];
    let host = ALL.iter().fold(Host::builder(), |all, name| all.guest_as("busybox", name)).start();
    host.add_outside();
    host.activate_machined();
    host.sh_ok("! grep ^nameserver /run/systemd/resolve/resolv.conf");
    host.sh_ok(
        "cd /var/lib/machines; rm -f */etc/resolv.conf
         for name in stale own elsewhere fixed; do echo nameserver 203.0.113.1 >$name/etc/resolv.conf; done
         ln -s ../run/systemd/resolve/stub-resolv.conf linked/etc/resolv.conf
         mv elsewhere/etc/resolv.conf elsewhere/etc/passed; ln -s passed elsewhere/etc/resolv.conf; sleep 2",
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
    host.sh_ok("systemctl is-failed coracle-resolver.service && exit 1; true");
    host.coracle(&[&["stop"][..], &ALL].concat());
    host.stop();
}

/// Only what a machine cannot live without keeps it from starting: name servers are a help.
#[test]
fn a_file_that_cannot_be_written_is_a_warning() {
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
        // Nor are later changes an error of the service.
        host.sh_ok("echo nameserver 192.0.2.54 >/etc/resolv.conf");
        host.wait_until(LONG, "[ $(systemctl show -P ActiveState coracle-resolver.service) = inactive ]");
        host.sh_ok("systemctl is-failed coracle-resolver.service && exit 1; true");
        host.coracle(&["stop", "m"]);
        host.sh_ok(&format!("cd {etc} && {undo}"));
        host.sh_ok("journalctl --rotate -q; journalctl --vacuum-time=1ms -q");
    }
    host.stop();
}

/// Whatever its network is: sudo, Java and mail servers look their own name up.
#[test]
fn a_machine_resolves_its_own_names_and_its_users_ping() {
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
            // In the host's network namespace nobody of the machine may open the socket.
            assert!(ping.status == 0 || ping.stdout.contains("permission denied"), "{name}: {own}: {ping}");
        }
        if name != "open" {
            let range = host.in_guest(name, &["cat", "/proc/sys/net/ipv4/ping_group_range"]).stdout;
            assert_eq!(range, "0\t65535\n", "{name}");
        }
    }
    // Without CAP_NET_RAW: as a user.
    let leader = host.machine_leader("bare");
    let ping = "ping -c1 -W2 127.0.0.1";
    host.sh_ok(&format!("nsenter -t {leader} -U -n -S 65534 -G 65534 {ping}"));
    host.coracle(&[&["stop"][..], &names].concat());
    host.sh_ok("! grep -q coracle /var/lib/machines/*/etc/hosts");
    before.assert_same(&host);
    host.stop();
}

/// Starts a DNS server at 127.0.0.1 of the host as its only name server.
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

/// Makes the guest's resolv.conf(5) the link of systemd-resolved, and leaves resolved without a source of servers.
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

/// Asserts the findings of host and machine for a server that no machine can reach, and for no server.
fn assert_doctor_names_a_missing_server(host: &Host) {
    host.sh_ok("systemctl stop systemd-resolved; rm -f /run/systemd/resolve/resolv.conf");
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
}

/// The host's only name server listens at 127.0.0.1: machines reach it at their gateway's address, from their own link
/// only, and no other port of the host's loopback interface.
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

    let gateway =
        |name| host.in_guest(name, &["sh", "-c", "ip route | sed -n 's/^default via \\([^ ]*\\).*/\\1/p'"]);
    let [own, zoned] = ["own", "zoned"].map(|name| gateway(name).stdout.trim().to_owned());
    host.in_guest("own", &["nc", "-w2", &own, "53", "-e", "true"]).success("DNS by TCP");
    host.sh_ok("systemd-run -q --unit=page busybox httpd -f -p 127.0.0.1:8053 -h /etc");
    host.wait_until(LONG, "ss -ltn | grep -q 127.0.0.1:8053");
    for (guest, place) in
        [("own", format!("{own} 8053")), ("own", format!("{zoned} 53")), ("zoned", format!("{own} 53"))]
    {
        let connect = format!("nc -w2 {place} -e true");
        assert_ne!(host.in_guest(guest, &["sh", "-c", &connect]).status, 0, "{guest}: {place}");
    }

    // The servers of the host change, and change back.
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

    assert_doctor_names_a_missing_server(&host);
    host.sh_ok("systemctl is-failed coracle-resolver.service && exit 1; systemctl stop page");
    host.coracle(&[&["stop"][..], &ALL].concat());
    before.assert_same(&host);
    host.stop();
}

/// From systemd 259 on machined tells resolved of machines, by a hook: there names of machines are those of any program
/// of the host that asks resolved. Older ones have nss-mymachines alone, which `zones` and `network` look at.
#[test]
fn resolved_of_the_host_knows_machines_by_name() {
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

/// The modes of systemd-nspawn: what becomes of a file, of none, of links that lead nowhere and elsewhere, and in a tree
/// that nobody writes.
#[test]
fn a_file_of_the_host_comes_by_every_way() {
    let host = Host::builder().guest_as("busybox", "m").start();
    host.activate_machined();
    host.sh_ok("test -f /usr/lib/systemd/resolv.conf");
    let before = Snapshot::take(&host);
    let etc = "/var/lib/machines/m/etc";
    let outcome = |setup: &str, mode: &str, rest: &str| {
        host.sh_ok(&format!("cd {etc} && rm -rf resolv.conf && {{ {setup}; }}"));
        host.define("m", &format!("{rest}[network]\nmode = \"none\"\nresolv-conf = \"{mode}\"\n"));
        host.coracle(&["start", "--wait=running", "m"]);
        let text = host.in_guest("m", &["cat", "/etc/resolv.conf"]).stdout;
        let is_mounted =
            host.in_guest("m", &["grep", "-q", " /etc/resolv.conf ", "/proc/self/mountinfo"]).status == 0;
        let writes = host.in_guest("m", &["sh", "-c", "echo x >>/etc/resolv.conf"]).status == 0;
        host.coracle(&["stop", "m"]);
        before.assert_same(&host);
        (text, is_mounted, writes)
    };
    let (none, own, dangling, elsewhere) = (
        "true",
        "echo own >resolv.conf",
        "ln -s ../run/nowhere resolv.conf",
        "cp /etc/passwd elsewhere; ln -s elsewhere resolv.conf",
    );
    for (word, file) in [
        ("host", "/etc/resolv.conf"),
        ("static", "/usr/lib/systemd/resolv.conf"),
        ("uplink", "/run/systemd/resolve/resolv.conf"),
        ("stub", "/run/systemd/resolve/stub-resolv.conf"),
    ] {
        let text = host.read(file);
        let (one, other) = if word == "host" { (none, own) } else { (own, none) };
        assert_eq!(outcome(one, &format!("copy-{word}"), ""), (text.clone(), false, true), "{one}");
        assert_eq!(outcome(other, &format!("bind-{word}"), ""), (text.clone(), true, false), "{other}");
        assert_eq!(outcome(dangling, &format!("replace-{word}"), ""), (text.clone(), false, true));
    }
    let passwd = host.read("/etc/passwd");
    for mode in ["copy-host", "bind-host"] {
        assert_eq!(outcome(dangling, mode, "").0, "", "{mode}");
        assert_eq!(outcome(elsewhere, mode, "").0, passwd, "{mode}");
    }
    // A link out of the tree leads into the tree, and nothing is written through it.
    host.sh_ok("echo victim >/run/victim");
    for mode in ["copy-host", "replace-host", "bind-host", "delete"] {
        outcome("ln -s ../../../../../run/victim resolv.conf", mode, "");
        assert_eq!(host.read("/run/victim"), "victim\n", "{mode}");
    }
    let text = host.read("/etc/resolv.conf");
    let fixed = "[root]\nread-only = true\n";
    for mode in ["copy-host", "replace-host", "bind-host"] {
        assert_eq!(outcome(own, mode, fixed), (text.clone(), true, false), "{mode}");
        assert_eq!(host.read(&format!("{etc}/resolv.conf")), "own\n", "{mode}");
    }
    for setup in [none, own, dangling] {
        assert_eq!(outcome(setup, "delete", "").0, "", "{setup}");
        host.sh_ok(&format!("! test -L {etc}/resolv.conf"));
    }
    host.stop();
}

#[test]
fn run_has_the_option_of_nspawn() {
    let host = Host::builder().guest_as("busybox", "m").start();
    let text = host.read("/etc/resolv.conf");
    // The option of run, and a file that the host has not.
    host.sh_ok("rm -f /var/lib/machines/m/etc/resolv.conf; mv /usr/lib/systemd/resolv.conf /run/static");
    let run = |mode: &str| {
        let option = format!("--resolv-conf={mode}");
        host.exec(&["coracle", "run", "-q", "-D", "/var/lib/machines/m", &option, "cat", "/etc/resolv.conf"])
    };
    assert_eq!(run("copy-host").success("run").stdout, text);
    assert_eq!(run("delete").stdout, "");
    let missing = run("copy-static");
    assert!(missing.stderr.contains("cannot read '/usr/lib/systemd/resolv.conf'"), "{missing}");
    host.stop();
}
