//! Coracle under the name of systemd-nspawn(1). Each case runs with the systemd-nspawn of the host too, and both
//! have the same output and exit status.

use crate::support::{Host, LONG, Snapshot};
use std::process::Command;

const TREE: &str = "/var/lib/machines/busybox";

/// Starts a host on which Coracle is also called as `systemd-nspawn`.
fn host() -> (Host, Snapshot) {
    let host = Host::builder().guest_as("busybox", "busybox").on_disk().start();
    host.activate_machined();
    // The store is beside the tree: the host's own root is an overlay.
    host.sh_ok(
        "mkdir -p /var/lib/coracle; mkdir -m 700 /var/lib/machines/.storage; ln -s /var/lib/machines/.storage /var/lib/coracle/storage
         /usr/lib/coracle/systemd-nspawn -q -x -M busybox true",
    );
    let before = Snapshot::take(&host);
    (host, before)
}

/// Arguments with the root of the tests, and what the machine prints and returns.
const COMMANDS: &[(&str, &str, i32)] = &[
    ("-q -P -D @ true", "", 0),
    ("-qPD@ sh -c 'exit 7'", "", 7),
    ("-q --pipe --directory @ sh -c 'pwd; exit 3' --boot", "/\n", 3),
    ("-q -P -D @ --chdir /etc pwd", "/etc\n", 0),
    ("-q -P -D @ -E PATH=/nothere:/bin -E A='b c' sh -c 'echo \"$PATH $A\"'", "/nothere:/bin b c\n", 0),
    ("-aqP -D @ --regis=no sh -c 'echo $$'", "2\n", 0),
    ("-q -P -D @ -u root --hostname=x hostname", "x\n", 0),
    ("-q -P -D @ --user root -- id -u", "0\n", 0),
    ("-q -P -D @ --volatile=yes -- touch /new", "", 0),
    ("-q -P -D @ nothere", "", 1),
    ("-q -P -D @ --bogus true", "", 1),
    ("-q -P -D /nothere true", "", 1),
    ("-q -P -M nothere true", "", 1),
    ("-q -P -D @ -M busybox -- hostname", "busybox\n", 0),
    ("-q -P -M busybox -- hostname", "busybox\n", 0),
    ("-q -P -D @ -x -- sh -c 'hostname | wc -c'", "25\n", 0),
    ("-q -D @ --console=pipe --as-pid2 -b", "", 1),
    ("-q -P -D / true", "", 1),
    ("-q -P -D / --volatile=yes -- sh -c 'touch /new && ls -d /var/lib/machines'", "", 2),
    ("-q -P -D / --volatile=state -- touch /new", "", 1),
    ("--console=help", "autopipe\ninteractive\nread-only\npassive\npipe\n", 0),
];

#[test]
fn commands_have_the_output_and_the_status_of_systemd_nspawn() {
    let (host, before) = host();
    let mut different = Vec::new();
    for program in ["/usr/lib/coracle/systemd-nspawn", "/usr/bin/systemd-nspawn"] {
        for (words, expected, status) in COMMANDS {
            let words = words.replace('@', TREE);
            let output = host.sh(&format!("{program} {words} </dev/null"));
            let mut found: Vec<&str> = output.stdout.lines().collect();
            let mut lines: Vec<&str> = expected.lines().collect();
            if words.contains("=help") {
                // Older versions have fewer words.
                found.sort_unstable();
                lines.sort_unstable();
            }
            if (&found, output.status) != (&lines, *status) {
                different.push(format!("expected {lines:?} and {status}: {output}"));
            }
        }
        if program.contains("coracle") {
            before.assert_same(&host);
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
    // A throw-away root is in memory here, where systemd-nspawn copies the whole host.
    let output = host.sh("/usr/lib/coracle/systemd-nspawn -q -P -x -D / sh -c 'touch /new; hostname'");
    let name = format!("{}-", host.sh_ok("hostname").trim());
    assert!(output.stdout.starts_with(&name) && host.sh("ls /new").status != 0, "{output}");
    host.stop();
}

/// Waits until a script in a machine without a name for `coracle exec` has printed a line.
const UP: &str = "echo up; exec sleep 1000";

#[test]
fn statuses_of_ends_are_those_of_systemd_nspawn() {
    let (host, before) = host();
    for program in ["/usr/lib/coracle/systemd-nspawn", "/usr/bin/systemd-nspawn"] {
        for (words, status) in [
            // PID 1 of a namespace can be killed from outside only.
            ("-- sh -c 'exit 133'", 1),
            ("-a -- sh -c 'kill -KILL $$'", 255),
            ("-a -- sh -c 'kill -TERM $$'", 255),
            ("-a -- sh -c 'kill -38 1; sleep 100'", 0),
            ("-a -- sh -c 'trap \"exit 5\" TERM; kill -38 1; sleep 100 & wait'", 0),
            ("-a -- sh -c 'kill -TERM 1; kill -HUP 1; kill -USR1 1; sleep 0.1; exit 6'", 6),
            ("-- poweroff -f", 0),
            ("-a -- poweroff -f", 0),
            ("--keep-unit -- reboot -f", 133),
            ("--keep-unit -a -- sh -c 'kill -INT 1; sleep 100'", 133),
            ("--keep-unit -- sh -c 'exit 133'", 1),
        ] {
            let unit =
                "systemd-run -q --collect --wait --pipe -p Delegate=yes -p DelegateSubgroup=supervisor";
            let unit = if words.contains("--keep-unit") { unit } else { "" };
            let output =
                host.sh(&format!("{unit} {program} -q -P --register=no -D {TREE} {words} </dev/null"));
            assert_eq!(output.status, status, "{program} {words}: {output}");
        }
        // Killed from outside, and stopped without a signal for a stop.
        for (signal, status) in [("KILL $(pgrep -x sleep)", 1), ("TERM $pid", 1), ("INT $pid", 1)] {
            let output = host.sh(&format!(
                "{program} -q -P -D {TREE} sh -c '{UP}' >/tmp/out & pid=$!
                 until grep -q up /tmp/out; do sleep 0.05; done; rm /tmp/out
                 until pgrep -x sleep; do sleep 0.05; done; kill -{signal}; wait $pid"
            ));
            assert_eq!(output.status, status, "{program} {signal}: {output}");
        }
        if program.contains("coracle") {
            before.assert_same(&host);
        }
    }
    host.stop();
}

#[test]
fn a_reboot_of_a_command_starts_it_again() {
    let (host, before) = host();
    for program in ["/usr/lib/coracle/systemd-nspawn", "/usr/bin/coracle run"] {
        for words in ["", "-a"] {
            host.sh_ok(&format!("rm -f {TREE}/root/first"));
            let script = "echo $$; [ -e /root/first ] && exit 4; touch /root/first; exec reboot -f";
            let output = host.sh(&format!("{program} -q -P {words} -D {TREE} sh -c '{script}' </dev/null"));
            let pid = if words.is_empty() { "1\n1\n" } else { "2\n2\n" };
            assert_eq!((output.stdout.as_str(), output.status), (pid, 4), "{program} {words}: {output}");
        }
    }
    host.sh_ok(&format!("rm {TREE}/root/first"));
    before.assert_same(&host);
    host.stop();
}

#[test]
fn a_stub_init_shows_nothing_of_the_host() {
    let (host, before) = host();
    let script = "cat /proc/1/comm; tr '\\0' '\\n' </proc/1/cmdline | grep .; tr '\\0' '\\n' </proc/1/environ | sed 's/uuid=.*/uuid/' | grep .";
    // The stub of systemd-nspawn 257 has the environment of its caller.
    for program in ["/usr/lib/coracle/systemd-nspawn", "/usr/bin/coracle run"] {
        let output = host
            .sh(&format!("SECRET=x {program} -q -a -P -D {TREE} -E A=secret sh -c \"{script}\" </dev/null"));
        let expected = "(sd-stubinit)\n(sd-stubinit)\ncontainer=systemd-nspawn\ncontainer_uuid\n";
        assert_eq!((output.stdout.as_str(), output.status), (expected, 0), "{program}: {output}");
    }
    // A shell of a stub init controls the console.
    let output = host.exec_on_tty(
        LONG,
        &format!("/usr/lib/coracle/systemd-nspawn -q -a -D {TREE} sh -c 'echo $$; tty; sh -ic true 2>&1; (exec </dev/tty) && echo controlled'"),
    );
    assert!(output.stdout.contains("controlled") && !output.stdout.contains("job control"), "{output}");
    before.assert_same(&host);
    host.stop();
}

/// A service may be a program that calls systemd-nspawn: its end is that of the machine.
#[test]
fn a_machine_stops_with_the_service_of_its_caller() {
    let (host, before) = host();
    for program in ["/usr/lib/coracle/systemd-nspawn", "/usr/bin/systemd-nspawn"] {
        for end in ["stop", "kill --kill-whom=main --signal=KILL"] {
            for kind in ["exec", "oneshot"] {
                host.sh_ok(&format!(
                    "systemd-run -q --no-block --collect --unit=build -p Type={kind} \
                         sh -c '{program} -q -D {TREE} sleep 1000; true'"
                ));
                host.wait_until(LONG, "pgrep -x sleep && machinectl status busybox");
                host.sh_ok(&format!("systemctl {end} build"));
                host.wait_until(LONG, "! pgrep -x sleep && ! machinectl status busybox");
                host.wait_until(LONG, "! systemctl is-active machine-busybox.scope");
                host.wait_until(LONG, "! systemctl list-units --all --no-legend build.service | grep .");
            }
        }
        if program.contains("coracle") {
            before.assert_same(&host);
        }
    }
    host.stop();
}

#[test]
fn a_stop_request_of_a_booted_system_halts_it() {
    let (host, before) = host();
    let start = || {
        let mut job = host.spawn(&["/usr/lib/coracle/systemd-nspawn", "-M", "fg", "-bD", TREE]);
        job.wait_for_stdout("busybox: up", LONG);
        job
    };
    let mut job = start();
    host.sh_ok(&format!("kill -TERM {}", host.supervisor("fg")));
    assert_eq!((job.wait_for_exit(LONG), job.stdout().contains("busybox: down")), (0, true));
    // The signal of the option, and a second request.
    let mut job = host.spawn(&[
        "/usr/lib/coracle/systemd-nspawn",
        "-M",
        "fg",
        "-D",
        TREE,
        "--kill-signal=TERM",
        "sh",
        "-c",
        "trap : TERM; echo up; while :; do sleep 0.1; done",
    ]);
    job.wait_for_stdout("up", LONG);
    let terminate = format!("kill -TERM {}", host.supervisor("fg"));
    host.sh_ok(&terminate);
    host.wait_for_phase("fg", "stopping");
    host.sh_ok(&terminate);
    assert_eq!(job.wait_for_exit(LONG), 1);
    before.assert_same(&host);
    host.stop();
}

/// Variables and arguments, the script inside, and what it prints and returns.
const VARIABLES: &[(&str, &str, &str, &str, i32)] = &[
    ("", "-P", "grep -c \" /tmp tmpfs \" /proc/mounts", "1\n", 0),
    ("SYSTEMD_NSPAWN_TMPFS_TMP=0", "-P", "grep -c \" /tmp tmpfs \" /proc/mounts", "0\n", 1),
    ("SYSTEMD_NSPAWN_TMPFS_TMP=x", "-P", "true", "", 1),
    ("SYSTEMD_NSPAWN_USE_CGNS=junk", "-P", "true", "", 1),
    (
        "SYSTEMD_NSPAWN_CONTAINER_SERVICE=mkosi",
        "-P",
        "echo $container; cat /run/host/container-manager",
        "mkosi\nmkosi\n",
        0,
    ),
    ("SYSTEMD_SECCOMP=0", "-P", "grep Seccomp: /proc/self/status", "Seccomp:\t0\n", 0),
    ("SYSTEMD_SUPPRESS_SYNC=1", "-P", "sync && echo synced", "synced\n", 0),
    ("SYSTEMD_LOG_LEVEL=err", "-P", "echo quiet", "quiet\n", 0),
    ("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=yes", "-P", "true", "", 0),
    ("COLORTERM=x NO_COLOR=1", "-P", "env | grep COLOR", "", 1),
];

#[test]
fn variables_have_the_effect_of_systemd_nspawn() {
    let (host, before) = host();
    let mut different = Vec::new();
    for program in ["/usr/lib/coracle/systemd-nspawn", "/usr/bin/systemd-nspawn"] {
        for (variables, options, script, expected, status) in VARIABLES {
            let line = format!("{variables} {program} -q {options} -D {TREE} sh -c '{script}' </dev/null");
            let output = host.sh(&line);
            if (output.stdout.as_str(), output.status) != (*expected, *status) {
                different.push(format!("expected {expected:?} and {status}: {output}"));
            }
        }
        // Two machines run from an unlocked root.
        let lock = |value: &str| {
            host.sh(&format!(
                "SYSTEMD_NSPAWN_LOCK={value} {program} -q -P -M one -D {TREE} sh -c '{UP}' >/tmp/out & pid=$!
                 until grep -q up /tmp/out; do sleep 0.05; done; rm /tmp/out
                 status=0; SYSTEMD_NSPAWN_LOCK={value} {program} -q -P -M two -D {TREE} true </dev/null || status=$?
                 kill $pid; wait $pid || exit $status"
            ))
        };
        let locked = [lock("1").status, lock("0").status];
        if locked != [1, 0] {
            different.push(format!("{program}: {locked:?}"));
        }
        if program.contains("coracle") {
            before.assert_same(&host);
        }
    }
    // Namespaces are never shared.
    for variable in
        ["SYSTEMD_NSPAWN_USE_CGNS=0", "SYSTEMD_NSPAWN_SHARE_SYSTEM=1", "SYSTEMD_NSPAWN_SHARE_NS_PID=1"]
    {
        let output = host.sh(&format!("{variable} /usr/lib/coracle/systemd-nspawn -D {TREE} true"));
        assert!(output.status == 1 && output.stderr.contains(variable), "{output}");
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
    host.stop();
}

#[test]
fn units_and_processes_have_the_names_of_systemd_nspawn() {
    let (host, before) = host();
    for program in ["/usr/lib/coracle/systemd-nspawn", "/usr/bin/systemd-nspawn"] {
        for (register, unit) in [("yes", "machine-my\\x2dweb.scope"), ("no", "my-web.scope")] {
            let found = host.sh_ok(&format!(
                "{program} -q -P -M my-web --register={register} -D {TREE} sh -c '{UP}' >/tmp/out & pid=$!
                 until grep -q up /tmp/out; do sleep 0.05; done; rm /tmp/out
                 systemctl is-active '{unit}'; cat /proc/$pid/comm; tr '\\0' ' ' </proc/$pid/cmdline | cut -d' ' -f2
                 pgrep -cx systemd-nspawn; machinectl show my-web -P Service || :
                 systemctl show -P Description '{unit}'; kill $pid; wait $pid || :"
            ));
            let mut lines: Vec<&str> = found.lines().collect();
            // A separate machine of the real program has further processes of this name.
            lines.remove(3);
            let service = if register == "yes" { &["systemd-nspawn"][..] } else { &[] };
            let expected = [&["active", "systemd-nspawn", "-q"][..], service, &["Container my-web"]].concat();
            assert_eq!(lines, expected, "{program}");
        }
        if program.contains("coracle") {
            before.assert_same(&host);
        }
    }
    // A killed run leaves a scope, which the next one stops.
    host.sh_ok(&format!(
        "/usr/lib/coracle/systemd-nspawn -q -P -M web -D {TREE} sh -c '{UP}' >/tmp/out & pid=$!
         until grep -q up /tmp/out; do sleep 0.05; done; rm /tmp/out; kill -KILL $pid; wait $pid || :
         /usr/lib/coracle/systemd-nspawn -q -P -M web -D {TREE} true </dev/null"
    ));
    host.stop();
}

#[test]
fn sockets_of_the_service_manager_are_passed_on() {
    let (host, before) = host();
    let script =
        "echo $LISTEN_FDS $LISTEN_PID; readlink /proc/self/fd/3 | cut -d: -f1; ls /proc/self/fd | wc -l";
    for (program, options, expected) in [
        ("/usr/lib/coracle/systemd-nspawn", "", "1 1\nsocket\n"),
        ("/usr/lib/coracle/systemd-nspawn", "-U", "1 1\nsocket\n"),
        ("/usr/lib/coracle/systemd-nspawn", "-a", "1 2\nsocket\n"),
        ("/usr/bin/coracle run", "", "1 1\nsocket\n"),
        ("/usr/bin/systemd-nspawn", "", "1 1\nsocket\n"),
    ] {
        // The script is the program of a connection.
        let output = host.sh_ok(&format!(
            "systemd-socket-activate -l 127.0.0.1:5555 {program} -q -P {options} -D {TREE} \
             sh -c '{script}' </dev/null >/tmp/out 2>/dev/null & pid=$!
             until bash -c ': </dev/tcp/127.0.0.1/5555' 2>/dev/null; do sleep 0.05; done
             wait $pid; cat /tmp/out; rm /tmp/out"
        ));
        // The streams, the socket and the directory itself.
        assert_eq!(output, format!("{expected}5\n"), "{program} {options}");
    }
    // A reboot in place passes them again.
    let reboot = "echo $LISTEN_FDS; readlink /proc/self/fd/3 | cut -d: -f1; [ -e /root/first ] && exit 0; \
                  touch /root/first; exec reboot -f";
    let output = host.sh_ok(&format!(
        "systemd-socket-activate -l 127.0.0.1:5555 /usr/lib/coracle/systemd-nspawn -q -P -D {TREE} \
         sh -c '{reboot}' </dev/null >/tmp/out 2>/dev/null & pid=$!
         until bash -c ': </dev/tcp/127.0.0.1/5555' 2>/dev/null; do sleep 0.05; done
         wait $pid; cat /tmp/out; rm {TREE}/root/first /tmp/out"
    ));
    assert_eq!(output, "1\nsocket\n1\nsocket\n");
    // A directory would lead out of the machine.
    let output = host.sh(&format!(
        "exec 3</etc; LISTEN_FDS=1 exec sh -c 'LISTEN_PID=$$ exec /usr/lib/coracle/systemd-nspawn -P -D {TREE} true'"
    ));
    assert!(
        output.status == 1 && output.stderr.contains("descriptor 3 of LISTEN_FDS is a directory"),
        "{output}"
    );
    // systemd-nspawn keeps its directories.
    host.sh_ok("rmdir /run/systemd/nspawn/propagate /run/systemd/nspawn/unix-export");
    before.assert_same(&host);
    host.stop();
}

/// Returns the commands of a target of the Makefile.
fn recipe(target: &str) -> String {
    let mut make = Command::new("make");
    make.args(["--no-print-directory", "--just-print", "-C", env!("CARGO_MANIFEST_DIR"), target]);
    // A parent make would pass on its job server and its flags.
    make.env_remove("MAKEFLAGS").env_remove("MAKELEVEL").env_remove("MFLAGS");
    String::from_utf8(make.output().unwrap().stdout).unwrap()
}

#[test]
fn a_diversion_replaces_systemd_nspawn_until_it_is_removed() {
    let (host, _) = host();
    let versions =
        "systemd-nspawn --version | head -n1; dpkg -S /usr/bin/systemd-nspawn >/dev/null && echo owned";
    let before = host.sh_ok(versions);
    assert!(before.starts_with("systemd 2") && !before.contains("coracle"), "{before}");
    host.sh_ok(&recipe("divert"));
    // Twice, as after an update.
    host.sh_ok(&recipe("divert"));
    assert!(host.sh_ok(versions).contains("-coracle-"), "{}", host.sh_ok(versions));
    assert_eq!(host.sh_ok("systemd-nspawn.systemd --version | head -n1") + "owned\n", before);
    assert_eq!(host.sh(&format!("systemd-nspawn -q -P -D {TREE} sh -c 'exit 9'")).status, 9);
    host.sh_ok(&recipe("undivert"));
    assert_eq!(host.sh_ok(versions), before);
    host.stop();
}

#[test]
fn messages_of_a_start_are_printed_once() {
    let (host, before) = host();
    // Without private users the program executes itself again, read-only.
    let out = host.sh(&format!(
        "export SYSTEMD_NSPAWN_API_VFS_WRITABLE=yes
         /usr/lib/coracle/systemd-nspawn -P --private-users=no -D {TREE} true </dev/null"
    ));
    assert_eq!(out.status, 0, "{out}");
    assert_eq!(out.stderr.matches("can change settings of the host's kernel").count(), 1, "{out}");
    before.assert_same(&host);
    host.stop();
}
