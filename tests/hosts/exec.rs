//! `coracle exec` and `coracle shell` on a systemd host: streams, exit statuses, users, rights, terminals,
//! and guests without running services.

use std::io::Write;
use std::time::Duration;

use crate::support::{Host, program};

/// The guests of most tests: trixie has a D-Bus daemon, busybox does not.
const GUESTS: [&str; 2] = ["trixie", "busybox"];

fn host() -> Host {
    let host = Host::start(&GUESTS);
    host.ok(&["coracle", "start", "trixie", "busybox"]);
    host
}

#[test]
fn streams_are_separate_and_the_status_is_exact() {
    let host = host();
    for guest in GUESTS {
        let command = format!("printf x | coracle exec {guest} -- sh -c 'cat; echo e >&2; exit 7'");
        let out = host.sh(&command);
        assert_eq!((out.status, out.stdout.as_str(), out.stderr.as_str()), (7, "x", "e\n"), "{guest}");
        assert_eq!(
            host.exec(&["coracle", "exec", guest, "--", "sh", "-c", "kill -9 $$"]).status,
            137,
            "{guest}"
        );
        let missing = host.exec(&["coracle", "exec", guest, "--", "/no/such"]);
        assert_eq!(missing.status, 127, "{guest}");
        assert!(missing.stderr.contains("no such command in machine"), "{}", missing.stderr);
    }
    let absent = host.exec(&["coracle", "exec", "no-such-name", "--", "true"]);
    assert_eq!(absent.status, 125);
    assert!(absent.stderr.contains("does not exist"), "{}", absent.stderr);
}

#[test]
fn exec_works_without_a_bus() {
    let host = host();
    host.ok(&["coracle", "stop", "trixie"]);
    host.ok(&["coracle", "start", "--wait=running", "trixie"]);
    assert_eq!(host.ok(&["coracle", "exec", "trixie", "--", "cat", "/proc/1/comm"]), "systemd\n");
    let up = host.ok(&["coracle", "exec", "--wait-ready", "trixie", "--", "systemctl", "is-system-running"]);
    assert_eq!(up, "running\n");
    host.sh("coracle exec trixie -- systemctl stop dbus.socket dbus.service");
    assert_eq!(host.ok(&["coracle", "exec", "trixie", "--", "echo", "here"]), "here\n");
}

#[test]
fn exec_has_the_rights_of_pid_1() {
    let host = host();
    for guest in GUESTS {
        let of = |pid: &str| {
            // The number of seccomp filters is not compared: it differs on a host that is a machine itself.
            let script = format!("grep -E '^(CapBnd|Seccomp:|NoNewPrivs)' /proc/{pid}/status");
            host.ok(&["coracle", "exec", guest, "--", "sh", "-c", &script])
        };
        assert_eq!(of("self"), of("1"), "{guest}");
        let inside = host.sh_ok(&format!(
            "SECRET=host coracle exec {guest} -- sh -c 'env; for n in net uts ipc mnt pid user cgroup; do \
             [ \"$(readlink /proc/self/ns/$n)\" = \"$(readlink /proc/1/ns/$n)\" ] || echo other $n; done'"
        ));
        assert!(!inside.contains("SECRET") && !inside.contains("other "), "{guest}: {inside}");
        let descriptors = host.sh_ok(&format!(
            "coracle exec {guest} -- sh -c 'ls /proc/self/fd | tr \"\\n\" \" \"' 9</etc/passwd"
        ));
        assert_eq!(descriptors.trim(), "0 1 2 3", "{guest}");
    }
}

#[test]
fn exec_runs_as_a_user_of_the_guest() {
    let host = host();
    let status = "id -u; id -g; grep -E '^Cap(Prm|Eff|Amb)' /proc/self/status | cut -f2 | sort -u";
    let out = host.ok(&["coracle", "exec", "trixie", "-u", "nobody", "--", "sh", "-c", status]);
    assert_eq!(out, "65534\n65534\n0000000000000000\n");
    let out = host.ok(&[
        "coracle",
        "exec",
        "trixie",
        "-u",
        "root:adm",
        "-w",
        "/tmp",
        "--",
        "sh",
        "-c",
        "id -g; pwd",
    ]);
    assert_eq!(out, "4\n/tmp\n");
    // Numeric users and groups do not need an entry in passwd(5) or group(5).
    for (user, ids) in
        [("1234", "1234 0"), ("0:4000", "0 4000"), ("4321:4000", "4321 4000"), ("nobody:7", "65534 7")]
    {
        let out =
            host.ok(&["coracle", "exec", "trixie", "-u", user, "--", "sh", "-c", "echo $(id -u) $(id -g)"]);
        assert_eq!(out.trim(), ids, "{user}");
    }
    let unknown = host.exec(&["coracle", "exec", "trixie", "-u", "root:no-such-name", "--", "true"]);
    assert!(unknown.stderr.contains("group 'no-such-name' does not exist in machine 'trixie'"), "{unknown}");
    let unknown = host.exec(&["coracle", "exec", "trixie", "-u", "no-such-name", "--", "true"]);
    assert!(!unknown.stderr.contains("/proc/"), "{unknown}");
    assert_eq!(unknown.status, 125);
    assert!(unknown.stderr.contains("user 'no-such-name' does not exist"), "{}", unknown.stderr);
}

#[test]
fn exec_has_the_limits_and_clocks_of_pid_1() {
    let host = Host::start(&GUESTS);
    for guest in GUESTS {
        host.define(guest, "[boot]\ntime-namespace = true");
        host.write(
            &format!("/run/systemd/system/coracle@{guest}.service.d/limits.conf"),
            "[Service]\nLimitNOFILE=1000:2000\nLimitCORE=0\nLimitMSGQUEUE=100:200\n",
        );
    }
    host.ok(&["systemctl", "daemon-reload"]);
    for guest in GUESTS {
        host.ok(&["coracle", "start", guest]);
        let of = |pid: &str, options: &str| {
            let words = format!("coracle exec {guest} -- cat /proc/{pid}/limits");
            host.sh_ok(&format!("{options} {words}"))
        };
        // Only hard limits are compared, because systemd changes soft limits for its services.
        let hard = |limits: String| -> Vec<String> {
            let column = |line: &str| line.get(47..68).unwrap_or_default().trim().to_owned();
            limits.lines().map(column).collect()
        };
        // Only soft limits are lowered: raising a hard limit needs CAP_SYS_RESOURCE, which a host may lack.
        let lower = "ulimit -S -n 500; ulimit -S -s 4096;";
        assert_eq!(hard(of("self", "")), hard(of("1", "")), "{guest}");
        if guest == "busybox" {
            assert_eq!(of("self", ""), of("1", ""));
            assert_eq!(of("self", lower), of("1", ""));
        }
        let script = "[ $(cut -d. -f1 /proc/uptime) -lt 120 ] || exit 1; \
                      for pid in self 1; do readlink /proc/$pid/ns/time; done | uniq";
        let time = host.ok(&["coracle", "exec", guest, "--", "sh", "-c", script]);
        assert_eq!(time.lines().count(), 1, "{guest}: {time}");
        assert_ne!(time, host.ok(&["readlink", "/proc/self/ns/time"]), "{guest}");
    }
    host.stop();
}

#[test]
fn exec_allocates_a_terminal_of_the_guest() {
    let host = host();
    for guest in GUESTS {
        let line = format!("coracle exec {guest} -- sh -c 'tty; exit 5'");
        let out = host.exec_on_tty(Duration::from_secs(20), &line);
        assert_eq!(out.status, 5, "{guest}: {out:?}");
        assert!(out.stdout.contains("/dev/pts/"), "{guest}: {out:?}");
    }
    let mut job = host.spawn_on_tty("coracle shell trixie");
    let mut keys = job.input();
    keys.write_all(b"echo $0-$((40+2)); sleep 50\n").unwrap();
    job.wait_for_stdout("-bash-42", Duration::from_secs(20));
    host.wait_until(Duration::from_secs(20), "pgrep -fx 'sleep 50'");
    // ^C ends the sleep, not the shell.
    keys.write_all(b"\x03").unwrap();
    // Input typed before the terminal has processed the signal is discarded (termios(3), NOFLSH).
    job.wait_for_stdout("^C", Duration::from_secs(20));
    keys.write_all(b"echo again; exit 3\n").unwrap();
    assert_eq!(job.wait(Duration::from_secs(20)).status, 3);
}

#[test]
fn exec_forwards_signals() {
    let host = host();
    let script = "coracle exec busybox -- sh -c 'trap \"exit 9\" TERM; echo up; while :; do sleep .1; done' \
                  >/run/said & p=$!; until grep -q up /run/said; do sleep .05; done; kill -TERM $p; wait $p";
    assert_eq!(host.sh(script).status, 9);
}

/// Runs the commands of a test with the memory of the caller, and with a copy for a terminal.
const WAYS: [&str; 2] = ["-T", "-t"];

#[test]
fn exec_ends_where_a_file_system_of_the_guest_does_not_answer() {
    let host = Host::start(&["busybox"]);
    std::fs::copy(program::build("tests/hosts/silent.c", &[]), host.machines().join("silent")).unwrap();
    host.coracle(&["start", "busybox"]);
    // Without these files the guest has no users: the command is not reached. In this home it is stuck.
    for directory in ["/etc", "/root"] {
        let mount = format!(
            "exec /var/lib/machines/silent $(coracle show busybox -p leader | cut -d= -f2) {directory}"
        );
        let mut silent = host.spawn(&["sh", "-c", &mount]);
        silent.wait_for_stdout("mounted", Duration::from_secs(20));
        for way in WAYS {
            let exec = format!("coracle exec {way} busybox -- true");
            if directory == "/etc" {
                let out = host.sh(&format!("timeout -s KILL 30 {exec} </dev/null"));
                assert_eq!(out.status, 125, "{way}: {out}");
                assert!(out.stderr.contains("coracle: a file system of the machine does not"), "{out}");
                continue;
            }
            for signal in ["INT", "TERM"] {
                let out = host.sh(&format!("timeout -k 20 -s {signal} 2 {exec} </dev/null"));
                assert!(out.stderr.contains("coracle: interrupted while entering"), "{way} {signal}: {out}");
            }
            // The command ends with its caller.
            host.sh(&format!("timeout -s KILL 2 {exec} </dev/null"));
            host.wait_until(Duration::from_secs(20), "! pgrep -f '[c]oracle exec'");
        }
        silent.kill();
        host.sh_ok(&format!(
            "nsenter -m -t $(coracle show busybox -p leader | cut -d= -f2) umount -l {directory}"
        ));
    }
    host.coracle(&["exec", "busybox", "--", "true"]);
    host.stop();
}

#[test]
fn exec_ends_in_order_where_the_guest_kills_it() {
    let host = Host::start(&["busybox"]);
    host.coracle(&["start", "busybox"]);
    let kill = "echo up; while :; do for p in /proc/[0-9]*; do read -r name <$p/comm; \
                [ \"$name\" = coracle ] && kill -9 ${p#/proc/}; done 2>/dev/null; done";
    let mut killer = host.spawn(&["coracle", "exec", "-T", "busybox", "--", "sh", "-c", kill]);
    killer.wait_for_stdout("up", Duration::from_secs(20));
    for way in WAYS {
        let script = format!(
            "for n in $(seq 200); do timeout -s KILL 30 coracle exec {way} busybox -- true </dev/null; \
             echo $?; done 2>&1 | sort | uniq -c"
        );
        let out = host.exec_for(Duration::from_secs(120), &["sh", "-c", &script]).stdout;
        let expected = |line: &str| {
            line.contains("the machine ended while it was being entered")
                || ["0", "125", "137"].contains(&line.split_whitespace().nth(1).unwrap_or_default())
        };
        assert!(!out.is_empty() && out.lines().all(expected), "{way}: {out}");
    }
    killer.kill();
    host.coracle(&["exec", "busybox", "--", "true"]);
    host.stop();
}

#[test]
fn exec_works_50_ms_after_a_start() {
    const CATALOGUE: [&str; 6] = ["trixie", "bookworm", "busybox", "sysvinit", "openrc", "runit"];
    let host = Host::start(&CATALOGUE);
    for guest in CATALOGUE {
        host.ok(&["coracle", "start", "--wait=running", guest]);
        std::thread::sleep(Duration::from_millis(50));
        let stop_bus = "systemctl stop dbus.socket dbus.service || service dbus stop || true";
        let streams = format!("printf x | coracle exec {guest} -- sh -c 'cat; echo e >&2; exit 7'");
        let out = host.sh(&streams);
        assert_eq!((out.status, out.stdout.as_str(), out.stderr.as_str()), (7, "x", "e\n"), "{guest}");
        // The same command succeeds after the boot, with the D-Bus daemon stopped.
        host.sh(&format!("coracle exec --wait-ready {guest} -- sh -c '{stop_bus}'"));
        let out = host.sh(&streams);
        assert_eq!((out.status, out.stdout.as_str(), out.stderr.as_str()), (7, "x", "e\n"), "{guest}");
        host.ok(&["coracle", "terminate", guest]);
    }
    host.stop();
}

#[test]
fn a_frozen_machine_is_resumed() {
    let host = host();
    for guest in GUESTS {
        host.ok(&["coracle", "freeze", guest]);
        let refused = host.exec(&["coracle", "exec", guest, "--", "true"]);
        assert_eq!(refused.status, 125, "{refused}");
        assert!(refused.stderr.contains("is frozen") && refused.stderr.contains("coracle thaw"), "{refused}");
        assert!(host.ok(&["coracle", "list"]).lines().any(|l| l.starts_with(guest) && l.contains("frozen")));
        host.ok(&["coracle", "thaw", guest]);
        host.ok(&["coracle", "exec", guest, "--", "true"]);
        // A machine frozen by systemd can be thawed, and a frozen machine can be stopped.
        host.sh_ok(&format!("systemctl freeze coracle@{guest}.service && coracle thaw {guest}"));
        host.ok(&["coracle", "freeze", guest]);
        host.ok(&["coracle", "stop", guest]);
    }
    host.stop();
}

#[test]
fn a_terminal_passes_large_data_both_ways() {
    let host = host();
    let bytes: String = (0..20_000).map(|number| format!("line {number}\n")).collect();
    host.write("/tmp/in", &bytes);
    // The input is larger than the buffer of a terminal.
    let out = host.exec_for(
        Duration::from_secs(30),
        &["sh", "-c", "coracle exec -t busybox -- sh -c 'stty -echo; cat | tail -n 1' </tmp/in"],
    );
    assert!(out.status == 0 && out.stdout.contains("line 19999"), "{out}");
    let size = "coracle exec -t busybox -- stty size </dev/null";
    assert!(host.sh_ok(size).contains("24 80"));
}

#[test]
fn a_redirected_file_is_relayed() {
    let host = Host::start(&["busybox"]);
    host.define("busybox", "[users]\nprivate = \"no\"\n");
    host.coracle(&["start", "busybox"]);
    host.sh_ok("echo secret >/etc/hostsecret; chmod 600 /etc/hostsecret; : >/etc/hostlog");
    let exec = "coracle exec busybox -- sh -c";
    let kept = "[ \"$(cat /etc/hostsecret)\" = secret ]";
    // The guest reopens read-only input for writing, then appended output for reading and truncation.
    host.sh(&format!("{exec} 'cat; echo x >/proc/self/fd/0; echo x >/dev/stdin' </etc/hostsecret"));
    host.sh_ok(kept);
    host.sh(&format!("{exec} 'exec 3<>/proc/self/fd/1 && truncate -s 0 /proc/self/fd/1' >>/etc/hostsecret"));
    host.sh_ok(kept);
    host.sh(&format!("{exec} ': >/proc/self/fd/2' 2>>/etc/hostsecret"));
    host.sh_ok(kept);
    let line = "coracle exec busybox -- sh -c 'for n in 0 1 2; do readlink /proc/self/fd/$n; done' \
                </etc/hostsecret 2>/etc/hostlog >/etc/hostlog2; cat /etc/hostlog2";
    let out = host.sh_ok(line);
    assert!(out.lines().count() == 3 && out.lines().all(|place| place.starts_with("pipe:")), "{out}");
    // A full file system ends the command.
    host.sh_ok("mkdir /run/small; mount -t tmpfs -o size=64k tmpfs /run/small");
    let out = host.sh("timeout 20 coracle exec busybox -- cat /dev/zero >/run/small/file");
    assert!(out.status == 128 + 13 && out.stderr.contains("no space left on device"), "{out}");
    host.sh_ok("umount /run/small");
    // All bytes are relayed, in both directions at the same time.
    host.sh_ok(
        "dd if=/dev/urandom of=/var/tmp/big bs=1M count=64 2>/dev/null; \
         coracle exec busybox -- cat </var/tmp/big >/var/tmp/back; cmp /var/tmp/big /var/tmp/back; \
         coracle exec busybox -- cat </var/tmp/big >>/var/tmp/back; \
         cat /var/tmp/big /var/tmp/big | cmp - /var/tmp/back; \
         coracle exec busybox -- cat </proc/version | cmp - /proc/version; \
         coracle exec busybox -- cat </dev/null;\
         coracle exec busybox -- head -c 5 </dev/zero | wc -c | grep -qx 5",
    );
    host.stop();
}
