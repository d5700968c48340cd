//! Settings of the payload's process, as seen inside, and compared with systemd-nspawn on the same host.

use crate::support::{Host, LONG};

const TREE: &str = "/var/lib/machines/busybox";

/// Returns the output of a shell script in the busybox tree, run by coracle with these options. It must be
/// the same under systemd-nspawn.
#[track_caller]
fn same_as_nspawn(host: &Host, options: &[&str], script: &str) -> String {
    let own = ours(host, options, script);
    let command = ["systemd-nspawn", "-q", "--register=no", "--keep-unit", "--pipe", "-D", TREE];
    let theirs = host.exec_for(LONG, &[&command, options, &["--", "sh", "-c", script]].concat());
    assert_eq!(theirs.success("systemd-nspawn").stdout, own, "{options:?}");
    own
}

/// Returns the output of a shell script in the busybox tree, run by coracle with these options.
#[track_caller]
fn ours(host: &Host, options: &[&str], script: &str) -> String {
    let command = ["coracle", "run", "-q", "--pipe", "-D", TREE];
    let output = host.exec_for(LONG, &[&command, options, &["--", "sh", "-c", script]].concat());
    output.success("coracle run").stdout
}

#[test]
fn rlimits_are_those_of_the_definition() {
    let host = Host::start(&["busybox"]);
    let limits = "grep -e files -e 'core file' -e nice -e address /proc/self/limits";
    let options =
        ["--rlimit=NOFILE=256:512", "--rlimit=RLIMIT_CORE=64K:infinity", "--rlimit=nice=0", "--rlimit=AS=1G"];
    let shown = same_as_nspawn(&host, &options[..2], limits);
    assert!(shown.contains("256                  512                  files"), "{shown}");
    assert!(shown.contains("65536                unlimited            bytes"), "{shown}");
    for users in [&[][..], &["-U"]] {
        let shown = ours(&host, &[&options[..], users].concat(), limits);
        assert!(shown.contains("256                  512                  files"), "{shown}");
        assert!(shown.contains("1073741824           1073741824           bytes"), "{shown}");
    }
    // In a unit, also for a command.
    host.define("busybox", "[resources.rlimits]\nnofile = '200:300'\n");
    host.coracle(&["start", "busybox"]);
    for pid in ["1", "self"] {
        let shown = host.coracle(&["exec", "busybox", "grep", "files", &format!("/proc/{pid}/limits")]);
        assert!(shown.contains("200                  300                  files"), "{shown}");
    }
    host.define("busybox", "[resources]\nptys-max = 7\nrlimits = { nofile = 100 }\n");
    let said = host.coracle(&["apply", "busybox"]);
    for key in ["resources.rlimits", "resources.ptys-max"] {
        let line = said.lines().find(|line| line.contains(key)).unwrap_or_default();
        assert!(line.starts_with("restart"), "{said}");
    }
    host.stop();
}

#[test]
fn the_out_of_memory_score_is_adjusted() {
    let host = Host::start(&["busybox"]);
    let script = "cat /proc/self/oom_score_adj";
    assert_eq!(same_as_nspawn(&host, &["--oom-score-adjust=321"], script), "321\n");
    let own = host.ok(&["cat", "/proc/self/oom_score_adj"]);
    for (options, expected) in [(&[][..], own.as_str()), (&["--oom-score-adjust=1000", "-U", "-n"], "1000\n")]
    {
        assert_eq!(ours(&host, options, script), expected);
    }
    // The supervisor keeps its own.
    host.define("busybox", "[resources]\noom-score-adjust = 700\n");
    host.coracle(&["start", "busybox"]);
    let score = |pid: u32| host.ok(&["cat", &format!("/proc/{pid}/oom_score_adj")]);
    assert_eq!(score(host.machine_leader("busybox")), "700\n");
    assert_eq!(score(host.supervisor("busybox")), own);
    host.stop();
}

#[test]
fn processes_run_on_the_processors_of_the_definition() {
    let host = Host::start(&["busybox"]);
    let allowed = host.sh_ok("grep Cpus_allowed_list /proc/self/status | tr -dc '0-9,-'");
    let first = allowed.split([',', '-']).next().unwrap();
    let shown = format!("Cpus_allowed_list:\t{first}\n");
    let script = "grep Cpus_allowed_list /proc/self/status";
    let option = format!("--cpu-affinity={first},1000-1023");
    assert_eq!(same_as_nspawn(&host, &[&option], script), shown);
    assert_eq!(ours(&host, &["-U", &option], script), shown);
    let command = ["coracle", "run", "-D", TREE, "--cpu-affinity=1000", "true"];
    let refused = host.exec(&command);
    assert!(
        refused.status == 125 && refused.stderr.contains("hint: name processors of this host"),
        "{refused}"
    );
    host.define("busybox", &format!("[resources]\ncpu-affinity = [{first}]\n"));
    host.coracle(&["start", "busybox"]);
    for pid in ["1", "self"] {
        let status = format!("/proc/{pid}/status");
        assert_eq!(host.coracle(&["exec", "busybox", "grep", "Cpus_allowed_list", &status]), shown);
    }
    host.stop();
}

#[test]
fn a_personality_changes_the_reported_architecture() {
    let host = Host::start(&["busybox"]);
    for (option, expected) in [("--personality=x86", "i686\n"), ("--personality=x86-64", "x86_64\n")] {
        assert_eq!(same_as_nspawn(&host, &[option], "uname -m"), expected);
        assert_eq!(ours(&host, &[option, "-U"], "uname -m"), expected);
    }
    host.define("busybox", "[boot]\npersonality = 'x86'\n");
    host.coracle(&["start", "busybox"]);
    assert_eq!(host.coracle(&["exec", "busybox", "uname", "-m"]), "i686\n");
    host.stop();
}

#[test]
fn a_command_of_any_user_keeps_ambient_capabilities() {
    let host = Host::start(&["busybox"]);
    let script = "grep -E '^Cap(Prm|Eff|Bnd|Amb)' /proc/self/status";
    let ambient = "--ambient-capability=CAP_NET_BIND_SERVICE,CAP_CHOWN";
    let shown = same_as_nspawn(&host, &[ambient], script);
    assert!(shown.contains("CapAmb:\t0000000000000401\n"), "{shown}");
    let shown = ours(&host, &["-U", "-n", "-a", "-u", "nobody", ambient], script);
    for set in ["CapPrm", "CapEff", "CapAmb"] {
        assert!(shown.contains(&format!("{set}:\t0000000000000401\n")), "{shown}");
    }
    let refused = host.exec(&["coracle", "run", "-D", TREE, "--ambient-capability=CAP_SYS_TIME", "true"]);
    assert!(refused.status == 125 && refused.stderr.contains("hint: add it with"), "{refused}");
    host.define("busybox", "[security]\ncapabilities.ambient = ['CAP_CHOWN']\n");
    for user in ["root", "nobody"] {
        let shown = host.coracle(&["run", "-q", "-M", "busybox", "-u", user, "--", "sh", "-c", script]);
        assert!(shown.contains("CapAmb:\t0000000000000001\n"), "{shown}");
    }
    // An init has all capabilities of the machine anyway.
    host.coracle(&["start", "busybox"]);
    let shown = host.coracle(&["exec", "busybox", "grep", "CapAmb", "/proc/1/status"]);
    assert_eq!(shown, "CapAmb:\t0000000000000000\n");
    let refused =
        host.exec(&["coracle", "run", "-M", "other", "-bD", TREE, "--ambient-capability=CAP_CHOWN"]);
    assert_eq!(refused.status, 2, "{refused}");
    host.stop();
}

#[test]
fn syncs_are_suppressed() {
    let host = Host::start(&["trixie"]);
    let tree = "/var/lib/machines/trixie";
    // A call that fails if it is executed: a pipe cannot be synced.
    let perl = "perl -MIO::Handle -e 'pipe(R, W); for (R, STDIN) { print IO::Handle::sync($_) ? 0 : $!+0, \"\\n\" }' </dev/null";
    let run = |program: &[&str], options: &[&str]| {
        let words = [program, options, &["-D", tree, "--", "sh", "-c", perl]].concat();
        host.exec_for(LONG, &words).success("run").stdout
    };
    let ours = ["coracle", "run", "-q", "--pipe"];
    let theirs = ["systemd-nspawn", "-q", "--register=no", "--keep-unit", "--pipe"];
    assert_eq!(run(&ours, &[]), "22\n22\n");
    for program in [&ours[..], &theirs] {
        assert_eq!(run(program, &["--suppress-sync=yes"]), "0\n0\n");
    }
    host.define("trixie", "[boot]\nsuppress-sync = true\n");
    host.coracle(&["start", "--wait=ready", "trixie"]);
    assert_eq!(host.coracle(&["exec", "trixie", "sh", "-c", perl]), "0\n0\n");
    host.stop();
}

#[test]
fn properties_of_the_scope_are_set_before_the_payload_runs() {
    let host = Host::start(&["busybox"]);
    let show = |property: &str| host.ok(&["systemctl", "show", "-P", property, "coracle-busybox.scope"]);
    let mut job = host.spawn(&[
        "coracle",
        "run",
        "-q",
        "-D",
        TREE,
        "--property=TasksMax=77",
        "--property=IPAddressDeny=any",
        "--",
        "sh",
        "-c",
        "echo up; sleep 99",
    ]);
    job.wait_for_stdout("up", LONG);
    assert_eq!(show("TasksMax"), "77\n");
    assert!(show("IPAddressDeny").contains("0.0.0.0/0"));
    host.coracle(&["stop", "busybox"]);
    job.wait_for_exit(LONG);
    host.wait_until(
        LONG,
        "! ls -d /run/systemd/transient/coracle-busybox.scope* /run/systemd/system.control/coracle-busybox* 2>/dev/null | grep .",
    );
    for (options, status, text) in [
        (&["--property=Nonsense=1"][..], 125, "systemctl: "),
        (&["--property=TasksMax"], 2, "hint: write NAME=VALUE"),
        (&["--property=TasksMax=7", "--keep-unit"], 0, "--property= has no effect"),
    ] {
        let out = host.exec(&[&["coracle", "run", "-D", TREE], options, &["true"]].concat());
        assert!(out.status == status && out.stderr.contains(text), "{out}");
    }
    host.wait_until(LONG, "! systemctl is-active -q coracle-busybox.scope");
    host.stop();
}
