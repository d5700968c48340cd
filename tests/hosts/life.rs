//! The life cycle of one machine: readiness, reboots in place, console lines and logs, and reasons of
//! failures.

use std::time::Duration;

use crate::support::{Host, LONG, Snapshot};

/// Returns the properties that a reboot must not change.
#[track_caller]
fn identity(host: &Host, name: &str) -> Vec<String> {
    let unit = ["InvocationID", "MainPID", "ActiveEnterTimestampMonotonic", "NRestarts"];
    let mut all: Vec<String> = unit.iter().map(|property| host.unit(name, property)).collect();
    let own = [
        "supervisor",
        "host-ifindex",
        "addresses",
        "host-addresses",
        "host-interface",
        "machine-id",
        "id-base",
    ];
    all.extend(own.iter().map(|property| host.property(name, property)));
    let link = host.property(name, "host-interface");
    all.push(host.ok(&["cat", &format!("/sys/class/net/{link}/address")]));
    let leader = host.machine_leader(name).to_string();
    let inside = ["nsenter", "-t", &leader, "-n", "ip", "-o", "link", "show", "host0"];
    let mac = host.ok(&inside);
    all.push(mac.split("link/ether ").nth(1).map(|rest| rest[..17].to_owned()).expect("a MAC address"));
    all.push(host.ok(&["machinectl", "show", name, "-p", "Id,Unit,NetworkInterfaces,RootDirectory"]));
    all
}

#[test]
fn a_reboot_from_inside_is_in_place() {
    let host = Host::start(&["busybox", "trixie"]);
    host.activate_machined();
    let before = Snapshot::take(&host);
    for (guest, command) in [("busybox", "reboot"), ("trixie", "systemctl reboot"), ("busybox", "reboot -f")]
    {
        host.define(guest, "");
        host.coracle(&["start", "--wait=ready", guest]);
        let (was, leader) = (identity(&host, guest), host.machine_leader(guest));
        // Without waiting: systemd sends SIGSTOP to all processes before it kills them, and nsenter(1) would
        // then stop itself forever.
        host.in_guest(guest, &["sh", "-c", command]);
        host.wait_for_reboot(guest, leader);
        host.wait_for_phase(guest, "running");
        assert_eq!(identity(&host, guest), was, "{guest}");
        assert_eq!(host.unit(guest, "ActiveState"), "active");
        host.ok(&["ping", "-c1", "-W5", &host.address(guest)]);
        host.assert_registered(guest, true);
        host.coracle(&["stop", guest]);
        host.assert_clean_stop(guest);
    }
    before.assert_same(&host);
    host.stop();
}

#[test]
fn readiness_follows_the_guest() {
    let host = Host::start(&["trixie"]);
    // The start of a unit ends when the root of the guest contains `/release`.
    let late = "[Unit]\nBefore=multi-user.target\n[Service]\nType=oneshot\n\
                ExecStart=sh -c 'while [ ! -e /release ]; do sleep 0.1; done'\n\
                [Install]\nWantedBy=multi-user.target\n";
    host.write("/var/lib/machines/trixie/etc/systemd/system/late.service", late);
    host.sh_ok("chroot /var/lib/machines/trixie systemctl -q enable late.service");
    host.define("trixie", "[root]\n[boot]\nwait = \"running\"\n");
    host.coracle(&["start", "trixie"]);
    assert_eq!(host.property("trixie", "phase"), "booting");
    // The unit is active; `--wait=ready` waits for the end of the boot.
    let ready = host.spawn(&["coracle", "start", "--wait=ready", "trixie"]);
    host.sh_ok("touch /var/lib/machines/trixie/release");
    ready.wait(LONG).success("wait for the end of the boot");
    assert_eq!(host.property("trixie", "phase"), "running");
    host.coracle(&["stop", "trixie"]);

    host.define("trixie", "[root]\n[boot]\nwait = \"ready\"\n");
    host.sh_ok("rm /var/lib/machines/trixie/release");
    host.sh_ok("coracle start --wait=no trixie");
    host.wait_until(LONG, "[ $(systemctl show -P StatusText coracle@trixie | cut -d: -f1) = booting ]");
    assert_eq!(host.unit("trixie", "ActiveState"), "activating");
    host.coracle(&["start", "--wait=running", "trixie"]);
    host.sh_ok("touch /var/lib/machines/trixie/release");
    host.coracle(&["start", "trixie"]);
    assert_eq!(host.unit("trixie", "ActiveState"), "active");
    assert_eq!(host.in_guest("trixie", &["systemctl", "is-active", "late.service"]).status, 3);
    assert_eq!(host.in_guest("trixie", &["systemctl", "is-system-running"]).stdout, "running\n");
    host.coracle(&["stop", "trixie"]);
    host.assert_clean_stop("trixie");
    host.stop();
}

#[test]
fn console_lines_are_journal_entries() {
    let host = Host::start(&["busybox"]);
    host.define("busybox", "");
    host.coracle(&["start", "busybox"]);
    host.wait_for_console("busybox", "busybox: up");
    let leader = host.machine_leader("busybox");
    let entry =
        host.ok(&["journalctl", "-q", "-o", "json", "CORACLE_MACHINE=busybox", "MESSAGE=busybox: up"]);
    for expected in [
        format!(r#""CORACLE_LEADER":"{leader}""#),
        r#""PRIORITY":"6""#.into(),
        r#""_SYSTEMD_UNIT":"coracle@busybox.service""#.into(),
        r#""_COMM":"coracle""#.into(),
    ] {
        assert!(entry.contains(&expected), "no '{expected}' in {entry}");
    }
    // Long, unusual or incomplete output of a guest cannot forge a journal entry.
    let strange = r#"printf 'one\nFORGED=1\n\n\033[31mred\033[0m\ttab\r\n' >/dev/console
        head -c 9000 /dev/zero | tr '\0' x >/dev/console; echo >/dev/console; printf 'the end' >/dev/console"#;
    host.in_guest("busybox", &["sh", "-c", strange]).success("talk");
    host.wait_for_console("busybox", "red tab");
    host.coracle(&["stop", "busybox"]);
    let console = host.console("busybox");
    assert!(console.contains("the end"), "the last line, unfinished, is missing:\n{console}");
    assert_eq!(console.matches('x').count(), 9000 + console.matches("box").count(), "{console}");
    assert_eq!(host.exec(&["journalctl", "-q", "-o", "cat", "FORGED=1"]).stdout, "");
    host.stop();
}

#[test]
fn a_console_flood_is_rate_limited_in_the_journal_only() {
    let host = Host::start(&["busybox"]);
    host.define("busybox", "");
    host.coracle(&["start", "busybox"]);
    host.wait_for_console("busybox", "busybox: up");
    host.sh_ok("(sleep 600 | coracle attach busybox >/run/seen 2>&1 &)");
    host.wait_until(LONG, "grep -q 'busybox: up' /run/seen");
    host.in_guest("busybox", &["sh", "-c", "seq 20000 | sed s,^,flood-, >/dev/console"]).success("flood");
    host.wait_until(Duration::from_secs(30), "grep -q flood-20000 /run/seen");
    assert_eq!(host.sh_ok("grep -c flood- /run/seen").trim(), "20000");
    // Reported without further output of the guest.
    let left_out = "journalctl -q --no-pager -o cat -u coracle@busybox -p 4 -g 'suppressed .* lines'";
    host.wait_until(Duration::from_secs(30), left_out);
    let reports = host.sh_ok(left_out);
    let console = host.console("busybox");
    let count = console.matches("flood-").count();
    assert!((1000..=3000).contains(&count), "{count}");
    assert_eq!(reports.lines().count(), 1, "{reports}");
    assert!(reports.starts_with(&format!("suppressed {} lines", 20_000 - count)), "{count}: {reports}");
    host.in_guest("busybox", &["sh", "-c", "echo afterwards >/dev/console"]).success("go on");
    host.wait_for_console("busybox", "afterwards");
    host.coracle(&["stop", "busybox"]);
    host.stop();
}

#[test]
fn console_output_waits_for_the_journal() {
    let host = Host::start(&["busybox"]);
    host.define("busybox", "");
    host.coracle(&["start", "busybox"]);
    host.in_guest("busybox", &["sh", "-c", "seq 1400 | sed s,^,line-, >/dev/console"]).success("talk");
    host.wait_for_console("busybox", "line-1400");
    assert_eq!(host.console("busybox").matches("line-").count(), 1400);
    // A suspended journald does not block the machine.
    host.ok(&["systemctl", "kill", "-s", "STOP", "systemd-journald"]);
    host.in_guest("busybox", &["sh", "-c", "seq 1400 | sed s,^,more-, >/dev/console"]).success("talk on");
    let leader = host.machine_leader("busybox");
    host.coracle(&["reboot", "busybox"]);
    host.wait_for_reboot("busybox", leader);
    host.ok(&["systemctl", "kill", "-s", "CONT", "systemd-journald"]);
    host.wait_for_console("busybox", "busybox: up");
    host.coracle(&["stop", "busybox"]);
    host.assert_clean_stop("busybox");
    host.stop();
}

/// Asserts that entries are selected and printed as by journalctl.
fn filters(host: &Host) {
    let logs = |words: &[&str]| host.coracle(&[&["logs", "trixie"], words].concat());
    let all = logs(&[]);
    let targets = logs(&["-g", "^Reached target", "-o", "cat"]);
    assert!(targets.contains("Reached target multi-user.target"), "{targets}");
    assert!(targets.lines().all(|line| line.starts_with("Reached target")), "{targets}");
    assert!(logs(&["-p", "warning"]).lines().count() < all.lines().count(), "{all}");
    assert_eq!(logs(&["--until", "2001-01-01"]), "");
    assert_eq!(logs(&["--since", "2001-01-01"]), all);
    let json = logs(&["-n", "2", "-o", "json"]);
    assert!(json.lines().count() == 2 && json.lines().all(|line| line.contains("\"_HOSTNAME\":")), "{json}");
    assert!(logs(&["-n", "1", "-o", "short-unix"]).starts_with("1"), "{all}");
}

/// Asserts that links and special files in a guest's journal are skipped and do not block the remaining
/// files, and that output of an unprivileged program of the guest cannot start a new line.
fn only_own_files_are_read(host: &Host) {
    host.sh_ok("echo canary >/root/canary; touch -a -d '2001-01-01' /root/canary");
    let script = "cd /var/log/journal/* 2>/dev/null || cd /run/log/journal/*; ln -s /root/canary user-1000.journal; \
                  ln -s /proc/kmsg user-1001.journal; mkfifo user-1002.journal; mkdir user-1003.journal; \
                  printf 'SYSLOG_IDENTIFIER=x\\nMESSAGE=forged\\u202e\\n' | logger --journald; \
                  journalctl --sync; ls";
    let listed = host.in_guest("trixie", &["sh", "-c", script]);
    assert!(listed.stdout.contains("user-1002.journal"), "{listed}");
    let forge = r#"use Socket; my $i = "x[1]: y\nDec 01 10:00:00 host coracle[1]: ROOT LOGIN OK";
        socket(my $s, AF_UNIX, SOCK_DGRAM, 0) or die;
        send($s, "SYSLOG_IDENTIFIER\n" . pack("Q<", length $i) . "$i\nMESSAGE=forged-by-a-user\n", 0,
             sockaddr_un("/run/systemd/journal/socket")) or die"#;
    host.coracle(&["exec", "-u", "nobody", "trixie", "--", "perl", "-e", forge]);
    host.wait_until(
        LONG,
        "coracle exec trixie -- journalctl --sync; coracle logs trixie | grep forged-by-a-user",
    );
    let log = host.coracle(&["logs", "trixie"]);
    assert!(log.contains("said-in-guest") && !log.contains('\u{202e}'), "{log}");
    assert!(!log.lines().any(|line| line.starts_with("Dec 01 10:00:00 host")), "{log}");
    assert_eq!(host.sh_ok("stat -c %x /root/canary | cut -c1-4"), "2001\n");
    host.in_guest(
        "trixie",
        &["sh", "-c", "rm -r /var/log/journal/*/user-100* /run/log/journal/*/user-100*; true"],
    );
}

#[test]
fn logs_of_unknown_machines_and_invalid_queries_are_errors() {
    let host = Host::start(&["busybox"]);
    host.start_machine("busybox");
    for words in
        [&["nosuch"][..], &["nosuch", "-n5"], &["busybox", "--since=foo"], &["busybox", "--until=foo", "-n5"]]
            .into_iter()
            .chain([&["busybox", "-p", "foo"][..], &["busybox", "-p9"], &["busybox", "-g("]])
    {
        let out = host.exec(&[&["coracle", "logs"], words].concat());
        assert!(out.status == 1 && out.stdout.is_empty() && out.stderr.contains("hint: "), "{out}");
    }
    // A machine without entries, and a pattern without matches.
    host.sh_ok("cp -a /var/lib/machines/busybox /var/lib/machines/other");
    for words in [&["other"][..], &["other", "-n5"], &["busybox", "-gnothing-of-this"]] {
        assert_eq!(host.coracle(&[&["logs"], words].concat()), "");
    }
    host.stop();
}

#[test]
fn followed_logs_show_how_a_guest_has_crashed() {
    let host = Host::start(&["trixie"]);
    host.define("trixie", "");
    host.coracle(&["start", "--wait=ready", "trixie"]);
    let mut follower = host.spawn(&["coracle", "logs", "-f", "trixie"]);
    host.in_guest("trixie", &["sh", "-c", "echo said-in-guest | systemd-cat -t tagged"]).success("log");
    follower.wait_for_stdout("said-in-guest", LONG);
    // A line of the console waits for an entry of the guest, which does not come.
    host.in_guest("trixie", &["sh", "-c", "echo on-the-console >/dev/console"]).success("say");
    host.wait_until(LONG, "coracle logs --console trixie | grep -q on-the-console");
    host.sh_ok(&format!("kill -KILL {}", host.machine_leader("trixie")));
    follower.wait_for_stdout("Failed with result", LONG);
    drop(follower);
    host.stop();
}

#[test]
fn logs_show_running_and_stopped_machines() {
    let host = Host::start(&["trixie"]);
    host.define("trixie", "");
    host.coracle(&["start", "--wait=ready", "trixie"]);
    let mut follower = host.spawn(&["coracle", "logs", "-f", "--console", "trixie"]);
    host.in_guest("trixie", &["sh", "-c", "echo said-in-guest | systemd-cat -t tagged"]).success("log");
    follower.wait_for_stdout("said-in-guest", LONG);
    host.in_guest("trixie", &["sh", "-c", "echo on-the-console >/dev/console"]).success("say");
    follower.wait_for_stdout("on-the-console", LONG);
    only_own_files_are_read(&host);
    drop(follower);
    host.in_guest("trixie", &["sh", "-c", "journalctl --sync"]).success("sync");
    let alive = host.coracle(&["logs", "--console", "trixie"]);
    // Each start of a unit is on the console and in the journal.
    let quiet = host.coracle(&["logs", "trixie"]);
    assert!(!quiet.contains("on-the-console") && quiet.contains("said-in-guest"), "{quiet}");
    assert_eq!(quiet.matches("Reached target multi-user.target").count(), 1, "{quiet}");
    assert!(quiet.contains(" host systemd[1]: "), "{quiet}");
    host.coracle(&["stop", "trixie"]);
    let quiet = host.coracle(&["logs", "trixie"]);
    assert!(quiet.contains("Powering off."), "the guest has no journal at its end: {quiet}");
    let dead = host.coracle(&["logs", "--console", "trixie"]);
    for log in [&alive, &dead] {
        for said in ["tagged", "said-in-guest", "on-the-console", "Reached target multi-user.target"] {
            assert!(log.contains(said), "no '{said}' in\n{log}");
        }
        let times: Vec<&str> = log
            .lines()
            .map(|line| line.split(' ').next().unwrap_or(""))
            .filter(|time| time.starts_with("20"))
            .collect();
        assert!(times.is_sorted(), "not in the order of time\n{log}");
    }
    assert!(dead.contains("Powering off."), "{dead}");
    assert_eq!(host.coracle(&["logs", "-n", "3", "trixie"]).lines().count(), 3);

    filters(&host);

    // `-b` selects one boot.
    host.coracle(&["start", "--wait=ready", "trixie"]);
    host.in_guest("trixie", &["sh", "-c", "echo second-boot | systemd-cat; journalctl --sync"])
        .success("log");
    let (first, last) =
        (host.coracle(&["logs", "-b", "-1", "trixie"]), host.coracle(&["logs", "-b", "0", "trixie"]));
    assert!(first.contains("said-in-guest") && !first.contains("second-boot"), "{first}");
    let console = host.coracle(&["logs", "--console", "-b", "-1", "trixie"]);
    assert!(console.contains("on-the-console"), "{console}");
    assert!(last.contains("second-boot") && !last.contains("said-in-guest"), "{last}");
    let missing = host.exec(&["coracle", "logs", "-b", "7", "trixie"]);
    assert!(missing.status == 1 && missing.stderr.contains("is not in the journal"), "{missing}");
    host.coracle(&["stop", "trixie"]);
    host.stop();
}

/// Defines a machine with this script as PID 1.
fn dies_by(host: &Host, script: &str) {
    host.write("/var/lib/machines/busybox/etc/dies", &format!("#!/bin/sh\necho last words\n{script}\n"));
    host.sh_ok("chmod 755 /var/lib/machines/busybox/etc/dies");
    host.define("busybox", "[root]\n[boot]\ninit = \"/etc/dies\"\n");
}

#[test]
fn a_crash_of_pid_1_is_reported_with_its_reason() {
    let host = Host::start(&["busybox"]);
    host.activate_machined();
    let before = Snapshot::take(&host);
    for (script, reason) in [
        ("sleep 0.3; exit 3", "PID 1 exited with status 3"),
        ("sleep 0.3; exit 0", ""),
        // A stack overflow: the kernel kills the process, even if it is PID 1.
        (
            "exec awk 'function f(x) { return f(x + 1) } BEGIN { f(1) }'",
            "PID 1 was killed by signal 11 (SIGSEGV)",
        ),
    ] {
        dies_by(&host, script);
        host.exec(&["coracle", "start", "busybox"]);
        host.wait_until(LONG, "! systemctl is-active coracle@busybox && ! systemctl show -P ActiveState coracle@busybox | grep activating");
        let (status, journal) = (host.coracle(&["status", "busybox"]), host.unit_journal("busybox"));
        if reason.is_empty() {
            assert!(status.contains("busybox: stopped"), "{status}");
            host.assert_clean_stop("busybox");
        } else {
            assert_eq!(host.unit("busybox", "ActiveState"), "failed", "{journal}");
            assert!(status.contains("busybox: failed") && status.contains(reason), "{status}");
            assert!(journal.contains(&format!("machine 'busybox' failed: {reason}")), "{journal}");
            assert!(
                journal.contains("last lines of its console:") && journal.contains("last words"),
                "{journal}"
            );
            assert!(host.coracle(&["list", "--all"]).contains("failed"));
        }
        host.exec(&["systemctl", "reset-failed", "coracle@busybox"]);
        before.assert_same(&host);
    }
    host.stop();
}

#[test]
fn a_guest_that_does_not_stop_is_killed() {
    let host = Host::start(&["busybox"]);
    host.activate_machined();
    let before = Snapshot::take(&host);
    host.write(
        "/var/lib/machines/busybox/etc/deaf",
        "#!/bin/sh\ntrap '' TERM INT USR1 USR2 HUP\nwhile :; do sleep 1; done\n",
    );
    host.sh_ok("chmod 755 /var/lib/machines/busybox/etc/deaf");
    host.define("busybox", "[root]\n[boot]\ninit = \"/etc/deaf\"\nstop-timeout = \"1s\"\n");
    host.coracle(&["start", "busybox"]);
    let out = host.exec_for(Duration::from_secs(60), &["coracle", "stop", "busybox"]);
    assert_ne!(out.status, 124, "{out}");
    let journal = host.unit_journal("busybox");
    assert!(journal.contains("did not stop in time") && journal.contains("killing the guest"), "{journal}");
    host.exec(&["systemctl", "reset-failed", "coracle@busybox"]);
    before.assert_same(&host);
    host.stop();
}

/// `/dev/log` of a guest without a journal is the supervisor's socket, and a daemon of the guest may replace
/// it.
#[test]
fn syslog_of_a_guest_goes_to_the_journal_of_the_host() {
    let host = Host::start(&["busybox"]);
    host.activate_machined();
    let before = Snapshot::take(&host);
    host.start_machine("busybox");
    let inside = |script: &str| host.in_guest("busybox", &["sh", "-c", script]).success("log").stdout;
    inside("logger -t tagged -p daemon.warning 'said to syslog'");
    let entry = |words: &str| format!("journalctl -q --no-pager CORACLE_MACHINE=busybox {words}");
    host.wait_until(
        LONG,
        &entry("SYSLOG_IDENTIFIER=tagged PRIORITY=4 SYSLOG_FACILITY=3 | grep 'said to syslog'"),
    );
    let logs = host.coracle(&["logs", "busybox"]);
    assert!(logs.contains(" tagged: said to syslog\n"), "{logs}");
    assert!(host.coracle(&["logs", "busybox", "-p", "warning", "-o", "cat"]).contains("said to syslog"));

    // A flood is rate-limited, and the machine keeps running.
    inside("i=0; while [ $i -lt 5000 ]; do echo $i; i=$((i+1)); done | logger -t flood");
    host.ok(&["journalctl", "--sync"]);
    let count: usize =
        host.sh(&entry("SYSLOG_IDENTIFIER=flood -o cat | wc -l")).stdout.trim().parse().expect("a number");
    assert!((1..=3000).contains(&count), "{count}");
    // The limit ends after an interval.
    let after = entry("SYSLOG_IDENTIFIER=after | grep 'still there'");
    let log = "coracle exec busybox -- logger -t after 'still there'; journalctl --sync";
    host.wait_until(LONG, &format!("{log}; {after}"));
    host.wait_until(LONG, &entry("-o cat | grep 'suppressed .* messages'"));

    // The socket works after a reboot in place.
    let leader = host.machine_leader("busybox");
    host.in_guest("busybox", &["sh", "-c", "reboot; sleep 9"]);
    host.wait_for_reboot("busybox", leader);
    host.wait_for_phase("busybox", "running");
    inside("logger -t second 'after the reboot'");
    host.wait_until(LONG, &entry("SYSLOG_IDENTIFIER=second | grep 'after the reboot'"));

    inside("syslogd -O /tmp/own");
    host.wait_until_in_guest("busybox", "logger -t own to my own; grep \"own: to my own\" /tmp/own");
    host.coracle(&["stop", "busybox"]);
    host.assert_clean_stop("busybox");
    before.assert_same(&host);

    // Without a user namespace PID 1 binds the socket itself.
    host.define("busybox", "[users]\nprivate = \"no\"\n");
    host.start_machine("busybox");
    inside("logger -t third 'without users'");
    host.wait_until(LONG, &entry("SYSLOG_IDENTIFIER=third | grep 'without users'"));
    host.coracle(&["stop", "busybox"]);
    host.stop();
}

#[test]
fn an_early_stop_is_repeated_until_the_init_reacts() {
    /// Sets a trap for its stop signal late; until then the kernel drops the signal.
    const LATE: &str = "#!/bin/sh\nsleep 2\ntrap 'exit 0' TERM\nwhile :; do sleep 0.1; done\n";
    let host = Host::start(&["busybox"]);
    host.write("/var/lib/machines/busybox/etc/late", LATE);
    host.sh_ok("chmod 755 /var/lib/machines/busybox/etc/late");
    host.define("busybox", "[boot]\ninit = \"/etc/late\"\nstop-signal = \"SIGTERM\"\n");
    host.coracle(&["start", "--wait=running", "busybox"]);
    host.coracle(&["stop", "busybox"]);
    host.assert_clean_stop("busybox");
    assert!(!host.sh_ok("journalctl -q -o cat -u coracle@busybox").contains("did not stop in time"));
    host.stop();
}
