//! Exhausted resources of a host: disk space, descriptors, cgroups, terminals, connections. A failed start
//! reports the resource and leaves no state, running machines are not affected and can be stopped, and the
//! next start succeeds. `tests/vm.rs` covers kernel-wide resources: memory, processes, watches, the clock.

use crate::support::{Host, LONG, Snapshot};

/// Fills `/run` completely.
const FILL: &str = "mount -o remount,size=$(( $(df -k --output=used /run | tail -n 1) + 64 ))k /run
    while dd if=/dev/zero of=/run/filler oflag=append conv=notrunc bs=1k count=1 2>/dev/null; do :; done";
const EMPTY: &str = "rm /run/filler; mount -o remount,size=64m /run";

fn bench() -> (Host, Snapshot) {
    let host = Host::builder().guest("busybox").guest_as("busybox", "other").start();
    host.activate_machined();
    let before = Snapshot::take(&host);
    host.define("busybox", "");
    host.define("other", "");
    (host, before)
}

/// Asserts that the start fails with one of these messages, which differ between C libraries.
#[track_caller]
fn refused(host: &Host, why: &[&str]) {
    let out = host.exec(&["coracle", "start", "busybox"]);
    assert_ne!(out.status, 0, "{out}");
    assert!(why.iter().any(|why| out.stderr.contains(why)), "{out}");
    host.sh_ok("systemctl reset-failed");
}

/// Asserts that the next start succeeds and that no state is left after the stop.
#[track_caller]
fn recovered(host: Host, before: &Snapshot) {
    host.coracle(&["start", "busybox"]);
    host.wait_for_page(&host.address("busybox"));
    host.coracle(&["stop", "busybox"]);
    host.assert_clean_stop("busybox");
    before.assert_same(&host);
    host.stop();
}

#[test]
fn a_full_run_directory_prevents_starts_but_not_stops() {
    let (host, before) = bench();
    host.coracle(&["start", "other"]);
    host.sh_ok(FILL);
    for _ in 0..3 {
        refused(&host, &["no space left on device"]);
    }
    host.wait_for_page(&host.address("other"));
    host.coracle(&["exec", "other", "--", "true"]);
    // The cause is printed once.
    for options in ["", "-U", "-nU"] {
        let out = host.sh(&format!("coracle run {options} -D /var/lib/machines/busybox -M new true"));
        assert!(out.status == 125 && out.stderr.matches("no space left on device").count() == 1, "{out}");
    }
    host.coracle(&["stop", "other"]);
    host.sh_ok(EMPTY);
    recovered(host, &before);
}

#[test]
fn a_tree_on_a_full_disk_runs() {
    let (host, before) = bench();
    host.sh_ok(
        "cd /var/lib/machines; cp -a busybox /run/copy; mount -t tmpfs -o size=32m tree busybox
         cp -a /run/copy/. busybox; rm -r /run/copy; dd if=/dev/zero of=busybox/filler bs=4k 2>/dev/null || true",
    );
    host.coracle(&["start", "busybox"]);
    host.wait_for_page(&host.address("busybox"));
    host.coracle(&["stop", "busybox"]);
    host.sh_ok("umount /var/lib/machines/busybox");
    recovered(host, &before);
}

#[test]
fn a_supervisor_without_descriptors_is_refused() {
    let (host, before) = bench();
    let directory = "/run/systemd/system/coracle@busybox.service.d";
    for most in 8..=20 {
        host.write(&format!("{directory}/limit.conf"), &format!("[Service]\nLimitNOFILE={most}\n"));
        host.sh_ok("systemctl daemon-reload");
        refused(&host, &["too many open files", "no file descriptors available"]);
    }
    host.sh_ok(&format!("rm -r {directory}; systemctl daemon-reload"));
    recovered(host, &before);
}

/// Limits of the use of shared kernel resources (cgroups, pseudo-terminals) by one machine.
#[test]
fn a_machine_cannot_exhaust_the_host() {
    let (host, before) = bench();
    host.define("other", "");
    host.coracle(&["start", "other"]);
    let limits = |machine: &str| {
        let payload = format!("/sys/fs/cgroup/machine.slice/coracle@{machine}.service/payload");
        host.sh_ok(&format!("cd {payload} && cat cgroup.max.descendants cgroup.max.depth"))
    };
    assert_eq!(limits("other"), "8192\n32\n");
    let max = host.coracle(&["exec", "other", "--", "sh", "-c", "grep ' /dev/pts ' /proc/self/mountinfo"]);
    assert!(max.contains("max=1024"), "{max}");
    host.coracle(&["stop", "other"]);

    host.define("other", "[resources]\ncgroups-max = 100\ncgroup-depth-max = 3\nptys-max = 10\n");
    host.coracle(&["start", "other"]);
    assert_eq!(limits("other"), "100\n3\n");
    let fill = "cd /sys/fs/cgroup; i=0; while [ $i -lt 200 ] && mkdir c$i; do i=$((i+1)); done; echo $i cgroups; \
                rmdir c*; mkdir -p a/b/c && echo three; mkdir a/b/c/d || echo no more; \
                echo 100000 >cgroup.max.depth || echo kept; \
                i=0; while [ $i -lt 20 ]; do sleep 300 <>/dev/ptmx & i=$((i+1)); done; sleep 1; \
                ls /dev/pts | grep -c '^[0-9]'; wait";
    let mut filler = host.spawn(&["coracle", "exec", "-T", "other", "--", "sh", "-c", fill]);
    filler.wait_for_stdout("100 cgroups\nthree\nno more\nkept\n10\n", LONG);
    host.coracle(&["start", "busybox"]);
    host.wait_for_page(&host.address("busybox"));
    host.coracle(&["stop", "busybox", "other"]);
    recovered(host, &before);
}

/// A program that sends a datagram from each of `count` ports to each of 4000 ports of an address.
const FLOOD: &str = r#"
use Socket;
my ($to, $from, $count) = @ARGV;
for my $port ($from .. $from + $count - 1) {
  socket(my $s, AF_INET, SOCK_DGRAM, 0) or die "socket: $!";
  bind($s, sockaddr_in($port, INADDR_ANY)) or die "bind: $!";
  send($s, "x", 0, sockaddr_in($_, inet_aton($to))) for 20000 .. 23999;
}
"#;

/// Floods an address from a machine. Returns the number of added conntrack entries of the host.
fn flood(host: &Host, machine: &str, to: &str, from: u16, count: u16) -> i64 {
    let connections = || -> i64 {
        let count = host.read("/proc/sys/net/netfilter/nf_conntrack_count");
        count.trim().parse().expect("a number")
    };
    let before = connections();
    let leader = host.machine_leader(machine);
    host.sh_ok(&format!("nsenter -t {leader} -n perl /run/flood.pl {to} {from} {count}"));
    connections() - before
}

#[test]
fn connections_of_a_machine_are_limited() {
    let (host, before) = bench();
    host.write("/run/flood.pl", FLOOD);
    host.define("busybox", "[network]\nconnections-max = 1024\nveth-extra = [\"wx0:lan1\"]\n");
    host.define("other", "[network]\nmode = \"zone\"\nzone = \"lan\"\nconnections-max = 1024\n");
    host.coracle(&["start", "busybox", "other"]);
    host.wait_for_page(&host.address("busybox"));
    let gateway =
        |name: &str| host.property(name, "host-addresses").split(' ').next().expect("one").to_owned();
    for name in ["busybox", "other"] {
        let new = flood(&host, name, &gateway(name), 30000, 2);
        assert!((700..=1100).contains(&new), "{name}: {new} new connections");
    }
    // The limit includes the additional veth pair of the machine, and is already reached.
    let leader = host.machine_leader("busybox");
    host.sh_ok(&format!(
        "ip addr add 10.9.0.1/24 dev wx0; nsenter -t {leader} -n sh -c 'ip addr add 10.9.0.2/24 dev lan1; ip link set lan1 up'"
    ));
    let new = flood(&host, "busybox", "10.9.0.1", 40000, 1);
    assert!(new <= 300, "a further pair: {new} new connections");
    // The host can still connect to the machine.
    host.wait_for_page(&host.address("busybox"));
    host.coracle(&["set", "busybox", "network.connections-max=infinity"]);
    host.coracle(&["apply", "busybox"]);
    let new = flood(&host, "busybox", &gateway("busybox"), 50000, 1);
    assert!(new >= 3990, "without a bound: {new} new connections");
    host.coracle(&["stop", "busybox", "other"]);
    host.define("busybox", "");
    host.define("other", "");
    recovered(host, &before);
}
