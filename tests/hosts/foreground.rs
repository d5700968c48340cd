//! `coracle run`: exit statuses, streams, scopes, and the console on a terminal with its hotkeys.

use std::io::Write;
use std::process::ChildStdin;

use crate::support::{Host, Job, LONG, Output, Snapshot};

const TREE: &str = "/var/lib/machines/busybox";

fn bench() -> (Host, Snapshot) {
    let host = Host::start(&["busybox"]);
    host.activate_machined();
    let before = Snapshot::take(&host);
    (host, before)
}

/// Runs `coracle run` on the busybox tree.
fn run(host: &Host, words: &[&str]) -> Output {
    host.exec(&[&["coracle", "run", "-q", "-D", TREE], words].concat())
}

#[test]
fn exit_statuses_are_exact() {
    let (host, before) = bench();
    assert_eq!(run(&host, &["true"]).status, 0);
    assert_eq!(run(&host, &["--", "sh", "-c", "exit 7"]).status, 7);
    assert_eq!(run(&host, &["--as-pid2", "--", "sh", "-c", "exit 7"]).status, 7);
    assert_eq!(run(&host, &["-U", "--", "sh", "-c", "exit 200"]).status, 200);
    // A signal from inside does not terminate PID 1 of a namespace: the signalled process is PID 2 here.
    for (signal, status) in [("TERM", 128 + 15), ("KILL", 128 + 9), ("USR1", 128 + 10)] {
        let out = run(&host, &["--as-pid2", "--", "sh", "-c", &format!("kill -{signal} $$")]);
        assert_eq!(out.status, status, "{out}");
    }
    // Failures of Coracle before the payload exists.
    for words in [&["/bin/nothere"][..], &["--bind=/nothere:/mnt", "true"], &["--uid=no-such-name", "true"]] {
        let out = run(&host, words);
        assert!(out.status == 125 && out.stderr.contains("coracle: "), "{out}");
    }
    // A file cannot be watched as input of the console: it types nothing.
    let out = host
        .sh(&format!("coracle run -q -M one -D {TREE} --console=interactive sh -c 'exit 3' </etc/passwd"));
    assert_eq!(out.status, 3, "{out}");
    assert_ne!(host.sh("ls -d /run/coracle/one").status, 0);
    host.sh_ok(&format!("cp -a {TREE} /root/odd; rm -rf /root/odd/dev; touch /root/odd/dev"));
    let out = host.exec(&["coracle", "run", "-q", "-D", "/root/odd", "true"]);
    assert!(out.status == 125 && out.stderr.contains("'/dev' is not a directory"), "{out}");
    host.sh_ok("rm -r /root/odd");
    let usage = host.exec(&["coracle", "run", "--no-such-option"]);
    assert!(usage.status == 2 && usage.stderr.contains("--no-such-option"), "{usage}");
    before.assert_same(&host);
    host.stop();
}

#[test]
fn signals_for_the_payload_leave_the_supervisor_alone() {
    let (host, before) = bench();
    let job = host.spawn(&["coracle", "run", "-q", "-D", TREE, "-M", "web", "sleep", "600"]);
    host.wait_until(LONG, "coracle exec web -- true");
    for signal in ["USR2", "ALRM", "VTALRM", "PROF", "IO", "PWR", "RTMIN+4", "RTMIN+15", "RTMAX"] {
        host.sh_ok(&format!("machinectl kill web -s {signal}"));
    }
    host.sh_ok("coracle exec web -- true && coracle stop web");
    job.wait(LONG);
    before.assert_same(&host);
    host.stop();
}

#[test]
fn run_passes_streams() {
    let (host, before) = bench();
    let out = run(&host, &["--", "sh", "-c", "echo out; echo err >&2"]);
    assert_eq!((out.status, out.stdout.as_str(), out.stderr.as_str()), (0, "out\n", "err\n"));
    // Binary data passes unchanged.
    let bytes: Vec<u8> = (0..100_000u32).map(|number| (number % 251) as u8).collect();
    let out = host.exec_with_input(&bytes, &["sh", "-c", &format!("coracle run -q -D {TREE} cat | md5sum")]);
    let sum = host.exec_with_input(&bytes, &["md5sum"]).stdout;
    assert_eq!(out.stdout, sum, "{out}");
    before.assert_same(&host);
    host.stop();
}

#[test]
fn a_run_is_a_scope_known_to_machined() {
    let (host, before) = bench();
    let mut job =
        host.spawn(&["coracle", "run", "-M", "shown", "-D", TREE, "--network-veth", "-U", "sleep", "99"]);
    host.wait_for_phase("shown", "running");
    let leader = host.machine_leader("shown");
    assert_eq!(host.property("shown", "unit"), "coracle-shown.scope");
    assert_eq!(host.ok(&["machinectl", "show", "shown", "-p", "Unit", "--value"]), "coracle-shown.scope\n");
    assert_eq!(host.ok(&["machinectl", "show", "shown", "-p", "Leader", "--value"]), format!("{leader}\n"));
    for (property, expected) in [("Slice", "machine.slice"), ("Delegate", "yes"), ("ActiveState", "active")] {
        let value = host.ok(&["systemctl", "show", "-P", property, "coracle-shown.scope"]);
        assert_eq!(value.trim(), expected);
    }
    let cgroup = "/sys/fs/cgroup/machine.slice/coracle-shown.scope";
    assert_eq!(host.read(&format!("{cgroup}/payload/cgroup.procs")), format!("{leader}\n"));
    let listed = host.coracle(&["list", "--no-legend"]);
    assert!(listed.contains("shown") && listed.contains("command"), "{listed}");
    host.ok(&["ping", "-c1", "-W5", &host.address("shown")]);
    host.ok(&["kill", "-KILL", &leader.to_string()]);
    let out = job.wait_for_exit(LONG);
    assert_eq!(out, 137);
    before.assert_same(&host);

    // Stopped from outside: by `coracle stop`, by machinectl, by systemd.
    for stop in ["coracle stop shown", "machinectl terminate shown", "systemctl stop coracle-shown.scope"] {
        let mut job = host.spawn(&["coracle", "run", "-M", "shown", "-bD", TREE]);
        host.wait_for_phase("shown", "running");
        job.wait_for_stdout("busybox: up", LONG);
        host.sh_ok(stop);
        assert_eq!(job.wait_for_exit(LONG), 0, "{stop}");
        // The shutdown is orderly, unless the scope itself is stopped.
        assert!(job.stdout().contains("busybox: down") || stop.contains("scope"), "{}", job.stdout());
        before.assert_same(&host);
    }
    host.stop();
}

#[test]
fn a_scope_name_is_reused_at_once() {
    let (host, before) = bench();
    // systemd removes an empty scope with a delay, and the next machine has the same name.
    let script =
        format!("for round in $(seq 1 30); do coracle run -q -D {TREE} sh -c 'exit 7' || [ $? = 7 ]; done");
    host.sh_ok(&script);
    // A start does not wait for a scope in use.
    host.sh_ok("systemd-run -q --scope --unit=coracle-taken.scope sleep 99 >/dev/null 2>&1 &");
    host.wait_until(LONG, "systemctl is-active coracle-taken.scope");
    let out = host.exec(&["coracle", "run", "-M", "taken", "-D", TREE, "true"]);
    assert!(out.status == 125 && out.stderr.contains("'coracle-taken.scope'"), "{out}");
    assert!(out.stderr.contains("hint: see 'systemctl status coracle-taken.scope'"), "{out}");
    host.sh_ok("systemctl stop coracle-taken.scope");
    before.assert_same(&host);
    host.stop();
}

#[test]
fn boots_reboots_and_powers_off_in_the_foreground() {
    let (host, before) = bench();
    let mut job = host.spawn(&["coracle", "run", "-M", "fg", "-bD", TREE, "-n", "-U"]);
    job.wait_for_stdout("busybox: up", LONG);
    let (leader, supervisor) = (host.machine_leader("fg"), host.supervisor("fg"));
    let address = host.address("fg");
    host.wait_for_page(&address);
    // A new program is not executed without a unit: the running supervisor reboots the machine in place.
    host.sh_ok("cp /usr/bin/coracle /usr/bin/.coracle.new && mv /usr/bin/.coracle.new /usr/bin/coracle");
    host.ask_in_guest("fg", &["reboot"]);
    host.wait_for_reboot("fg", leader);
    assert_eq!(host.supervisor("fg"), supervisor);
    host.wait_for_page(&address);
    assert_eq!(job.poll(), None);
    host.ask_in_guest("fg", &["poweroff"]);
    assert_eq!(job.wait_for_exit(LONG), 0);
    assert_eq!(job.stdout().matches("busybox: up").count(), 2, "{}", job.stdout());
    before.assert_same(&host);

    // The first SIGTERM requests a shutdown, the second kills.
    let mut job = host.spawn(&["coracle", "run", "-M", "fg", "-bD", TREE]);
    host.wait_for_phase("fg", "running");
    let terminate = format!("kill -TERM {}", host.supervisor("fg"));
    host.sh_ok(&terminate);
    host.wait_for_phase("fg", "stopping");
    host.sh_ok(&terminate);
    assert_ne!(job.wait_for_exit(LONG), 0);
    before.assert_same(&host);
    host.stop();
}

/// Starts a shell of a machine on a terminal.
fn shell(host: &Host, name: &str) -> (Job, ChildStdin) {
    let line =
        format!("stty rows 33 cols 111; coracle run -q -M {name} -D {TREE} sh; echo \"status $?\"; stty -a");
    let mut job = host.spawn_on_tty(&line);
    let typed = job.input();
    job.wait_for_stdout("# ", LONG);
    (job, typed)
}

fn say(typed: &mut ChildStdin, text: &str) {
    typed.write_all(text.as_bytes()).expect("type");
}

#[test]
fn the_console_is_a_terminal() {
    let (host, before) = bench();
    let (mut job, mut typed) = shell(&host, "tty");
    say(&mut typed, "tty; stty size; echo 6 times 7 is $((6*7))\n");
    job.wait_for_stdout("6 times 7 is 42", LONG);
    assert!(job.stdout().contains("/dev/") && job.stdout().contains("33 111"), "{}", job.stdout());
    // The terminal follows the size of the window, and control characters are processed in the guest.
    let sizes = "tty=$(readlink /proc/$(coracle show tty -p supervisor | cut -d= -f2)/fd/0); stty -F $tty rows 22 cols 99";
    host.sh_ok(sizes);
    say(&mut typed, "stty size; echo resized\n");
    job.wait_for_stdout("22 99", LONG);
    say(&mut typed, "sleep 77\n");
    host.wait_until(LONG, "pgrep -x sleep");
    say(&mut typed, "\x03");
    host.wait_until(LONG, "! pgrep -x sleep");
    say(&mut typed, "exit 5\n");
    job.wait_for_stdout("status 5", LONG);
    job.wait_for_exit(LONG);
    // The terminal is restored to canonical mode.
    let settings = job.stdout();
    let settings = &settings[settings.find("status 5").expect("it was said")..];
    assert!(settings.contains(" icanon") && settings.contains(" echo "), "{settings}");
    before.assert_same(&host);
    host.stop();
}

#[test]
fn escape_keys_kill_reboot_and_power_off() {
    let (host, before) = bench();
    let (mut job, mut typed) = shell(&host, "keys");
    say(&mut typed, "\x1d\x1d\x1d");
    job.wait_for_stdout("status ", LONG);
    job.wait_for_exit(LONG);
    before.assert_same(&host);

    let line = format!("coracle run -M keys -bD {TREE}; echo \"status $?\"");
    let mut job = host.spawn_on_tty(&line);
    let mut typed = job.input();
    job.wait_for_stdout("busybox: up", LONG);
    let leader = host.machine_leader("keys");
    say(&mut typed, "\x1d\x1dr");
    host.wait_for_reboot("keys", leader);
    host.wait_for_phase("keys", "running");
    say(&mut typed, "\x1d\x1dp");
    job.wait_for_stdout("status 0", LONG);
    job.wait_for_exit(LONG);
    let said = job.stdout();
    assert_eq!(said.matches("busybox: up").count(), 2, "{said}");
    assert_eq!(said.matches("busybox: down").count(), 2, "{said}");
    before.assert_same(&host);
    host.stop();
}

#[test]
fn a_killed_run_is_cleaned_up_by_the_next() {
    let (host, before) = bench();
    let mut job = host.spawn(&["coracle", "run", "-M", "gone", "-bD", TREE, "-n", "-U"]);
    job.wait_for_stdout("busybox: up", LONG);
    host.ok(&["kill", "-KILL", &host.supervisor("gone").to_string()]);
    assert_eq!(job.wait_for_exit(LONG), 137);
    // systemd does not clean up a scope; the next start of the machine does.
    let out = host.exec(&["coracle", "run", "-q", "-M", "gone", "-D", TREE, "true"]);
    assert_eq!(out.status, 0, "{out}");
    before.assert_same(&host);
    host.stop();
}

#[test]
fn an_ignored_hangup_stops_neither_a_machine_nor_a_command() {
    let (host, before) = bench();
    let run = ["nohup", "coracle", "run", "-q", "-M", "kept", "-bD", TREE];
    let mut job = host.spawn(&run);
    host.wait_for_phase("kept", "running");
    host.sh_ok(&format!("kill -HUP {}", host.supervisor("kept")));
    // Neither the machine nor a command in it is stopped: both continue after the signal.
    let mut command =
        host.spawn_with_pipe(&["nohup", "coracle", "exec", "kept", "--", "sh", "-c", "echo up; cat"]);
    command.wait_for_stdout("up", LONG);
    host.sh_ok("pkill -HUP -f '^coracle exec kept'");
    command.input().write_all(b"after\n").unwrap();
    let out = command.wait(LONG);
    assert!(out.status == 0 && out.stdout.contains("after"), "{out}");
    assert_eq!((host.property("kept", "phase"), job.poll()), ("running".to_owned(), None));
    host.coracle(&["stop", "kept"]);
    assert_eq!(job.wait_for_exit(LONG), 0);
    before.assert_same(&host);
    host.stop();
}

#[test]
fn an_odd_caller_is_refused_and_leaves_nothing() {
    let (host, before) = bench();
    for options in ["", "-U", "--console=pipe", "--console=pipe -b"] {
        let out = host.sh(&format!("timeout 20 coracle run {options} -M odd -D {TREE} cat </etc"));
        assert!(out.status == 125 && out.stderr.contains("standard input is a directory"), "{out}");
    }
    let out = host.sh("mkdir /run/gone; cd /run/gone; rmdir /run/gone; coracle run true");
    assert!(out.status == 125 && out.stderr.contains("current directory"), "{out}");
    // A write beyond the limit of file sizes ends most programs by SIGXFSZ.
    for blocks in [0, 1] {
        let line = format!("ulimit -f {blocks}; coracle run -q -M odd -D {TREE} true");
        let out = host.exec(&["bash", "-c", &line]);
        assert!([125, 128 + libc::SIGXFSZ].contains(&out.status), "{blocks}: {out}");
        assert_ne!(host.sh("ls -d /run/coracle/odd").status, 0);
    }
    let mut job = host.spawn(&["coracle", "run", "-q", "-M", "odd", "-D", TREE, "sleep", "99"]);
    host.wait_for_phase("odd", "running");
    let out = host.exec(&["coracle", "reboot", "odd"]);
    assert!(out.status == 1 && out.stderr.contains("runs a command"), "{out}");
    host.coracle(&["terminate", "odd"]);
    job.wait_for_exit(LONG);
    before.assert_same(&host);
    host.stop();
}
