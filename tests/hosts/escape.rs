//! Attacks by root of a hostile guest on processes of the host that enter the machine, modelled on known
//! classes of vulnerabilities in container managers.

use std::time::Duration;

use crate::support::{Host, Job};

/// Returns a host with two hostile busybox guests: `own` has a user namespace, `same` does not.
fn hostile() -> Host {
    hostile_of("busybox")
}

/// Returns a host with the hostile guests `own` and `same` of the given tree.
fn hostile_of(tree: &str) -> Host {
    let host = Host::builder().guest_as(tree, "own").guest_as(tree, "same").start();
    host.write("/etc/coracle/machines.d/same.toml", "[users]\nprivate = \"no\"\n");
    let attacker = build_attacker();
    for guest in ["own", "same"] {
        std::fs::copy(&attacker, host.machines().join(guest).join("usr/bin/attacker"))
            .expect("copy the attacker");
    }
    host.ok(&["coracle", "start", "own", "same"]);
    host
}

/// Builds the statically linked attacker program and returns its path.
fn build_attacker() -> std::path::PathBuf {
    crate::support::program::build("tests/escape/attacker.c", &[])
}

/// Starts the attacker in a guest. It attacks each process that enters the PID namespace of the guest.
fn attack(host: &Host, guest: &str, how: &[&str]) -> Job {
    let mut job = host.spawn(&[&["coracle", "exec", "-T", guest, "--", "attacker"], how].concat());
    job.wait_for_stdout("looking", Duration::from_secs(20));
    job
}

/// Returns the checksum, inode number and modification time of the host's program, to detect writes to it.
fn program(host: &Host) -> String {
    host.sh_ok("sha256sum $(command -v coracle); stat -c '%i %y' $(command -v coracle)")
}

#[test]
fn exec_is_not_ptraceable_from_the_guest() {
    let host = hostile();
    let before = program(&host);
    let mut job = attack(&host, "own", &[]);
    for _ in 0..60 {
        host.ok(&["coracle", "exec", "own", "--", "true"]);
    }
    let said = job.stdout();
    assert_eq!(job.poll(), None, "{}", job.stderr());
    job.kill();
    assert!(!said.contains("ESCAPED"), "{said}");
    assert!(said.lines().filter(|line| line.starts_with("saw")).count() > 5, "it saw no process: {said}");
    assert_eq!(before, program(&host));
    host.stop();
}

#[test]
fn exec_without_a_user_namespace_exposes_only_the_rights_of_the_guest() {
    let host = hostile();
    // Root of the guest may trace visible processes. They have the confinement of the guest and no reference
    // to the host.
    let mut job = attack(&host, "same", &["beyond"]);
    for _ in 0..60 {
        host.ok(&["env", "SECRET=host", "coracle", "exec", "same", "--", "true"]);
    }
    let said = job.stdout();
    assert_eq!(job.poll(), None, "{}", job.stderr());
    job.kill();
    assert!(!said.contains("ESCAPED"), "{said}");
    assert!(said.lines().filter(|line| line.starts_with("saw")).count() > 5, "it saw no process: {said}");
    let terminal = host
        .exec_on_tty(Duration::from_secs(20), "coracle exec -u nobody same -- sh -c 'tty; id -u; exit 5'");
    assert!(terminal.status == 5 && terminal.stdout.contains("65534"), "{terminal}");
    host.stop();
}

#[test]
fn the_binary_of_the_host_is_not_writable_from_the_guest() {
    // A dynamically linked program of the host needs the libraries of a complete system to run in the guest.
    let host = hostile_of("trixie");
    let before = program(&host);
    for guest in ["own", "same"] {
        // The guest executes the host's program by a link and as the interpreter of a script.
        host.sh_ok(&format!(
            "cd /var/lib/machines/{guest}/usr/bin; ln -s /proc/self/exe itself; \
             (echo '#!/proc/self/exe check'; yes '# long' | head -c 250000) >script; chmod 755 script"
        ));
        let out = host.exec(&["coracle", "exec", guest, "--", "itself"]);
        assert_eq!(out.status, 126, "{out}");
        assert!(out.stderr.contains("is the host's own program"), "{out}");
        // The script runs the host's program with the rights of the guest; the file stays unchanged.
        let mut job = attack(&host, guest, &["overwrite"]);
        for _ in 0..20 {
            if job.poll().is_some() {
                break;
            }
            host.exec(&["coracle", "exec", guest, "--", "script"]);
        }
        let out = job.wait(Duration::from_secs(10));
        assert!(!out.stdout.contains("ESCAPED"), "{guest}: {out}");
        assert!(out.stdout.contains("refused"), "{guest}: {out}");
    }
    assert_eq!(before, program(&host));
    host.ok(&["coracle", "--version"]);
    host.stop();
}

#[test]
fn a_run_without_a_user_namespace_is_not_ptraceable() {
    let host = hostile();
    let tree = "/var/lib/machines/third";
    host.sh_ok(&format!("cp -a /var/lib/machines/same {tree}"));
    let words = ["coracle", "run", "-q", "--private-users=no", "--as-pid2", "-D", tree, "--console=pipe"];
    // In a machine without a user namespace, the host's program is executed from a read-only mount before the command.
    let mut job = host.spawn(&[&words[..], &["sh", "-c", "echo running; sleep 20"]].concat());
    job.wait_for_stdout("running", Duration::from_secs(20));
    let script = "for p in $(pgrep -x coracle); do \
        grep -q private-users /proc/$p/cmdline || continue; chmod 755 /proc/$p/exe && echo WRITABLE; done";
    let out = host.sh(script);
    assert!(out.stderr.contains("Read-only file system") && !out.stdout.contains("WRITABLE"), "{out}");
    job.kill();
    host.stop();
}

#[test]
fn exec_passes_no_descriptors_of_the_host() {
    let host = hostile();
    for guest in ["own", "same"] {
        let list = format!(
            "coracle exec {guest} -- sh -c 'ls /proc/self/fd | tr \"\\n\" \" \"' 5</etc 9</etc/passwd"
        );
        assert_eq!(host.sh_ok(&list).trim(), "0 1 2 3", "{guest}");
        let out = host.sh(&format!("coracle exec {guest} -- ls /proc/self/fd/0/.. </etc"));
        assert_eq!(out.status, 125, "{out}");
        assert!(out.stderr.contains("standard input is a directory of the host"), "{out}");
        // The working directory is outside the machine.
        let out = host.exec(&["coracle", "exec", guest, "-w", "/proc/self/fd/3", "--", "ls"]);
        assert_eq!(out.status, 125, "{out}");
    }
    host.stop();
}

#[test]
fn the_terminal_of_the_caller_is_unreachable() {
    let host = hostile();
    for guest in ["own", "same"] {
        // With -T, the standard streams are not the terminal, and the output is relayed to the terminal.
        let script =
            "for n in 0 1 2; do [ ! -t $n ] || echo ESCAPED $n; done; read x; echo heard $x >&2; exit 3";
        let mut job = host.spawn_on_tty(&format!("coracle exec -T {guest} -- sh -c '{script}'"));
        std::io::Write::write_all(&mut job.input(), b"hello\n").expect("type");
        let out = job.wait(Duration::from_secs(20));
        assert!(
            out.status == 3 && out.stdout.contains("heard hello") && !out.stdout.contains("ESCAPED"),
            "{out}"
        );
        // The command has a separate terminal, and the guest cannot insert input into it with TIOCSTI.
        let line = format!("coracle exec {guest} -- attacker tiocsti");
        let out = host.exec_on_tty(Duration::from_secs(20), &line);
        assert!(out.stdout.contains("refused") && !out.stdout.contains("ESCAPED"), "{out}");
    }
    // The guest mounts another file system on /dev/pts.
    host.ok(&[
        "coracle",
        "exec",
        "own",
        "--",
        "sh",
        "-c",
        "mount -t tmpfs none /dev/pts && mkfifo /dev/pts/ptmx",
    ]);
    let out = host.exec_on_tty(Duration::from_secs(20), "coracle exec -t own -- true");
    assert!(out.status == 125 && out.stdout.contains("is not a devpts"), "{out}");
    host.ok(&["coracle", "exec", "own", "--", "true"]);
    host.stop();
}

#[test]
fn special_files_of_the_guest_do_not_block_copies() {
    let host = hostile();
    let tree = "/var/lib/machines/own";
    for passwd in [
        "mkfifo $f",
        "truncate -s 1T $f",
        "ln -s /proc/self/exe $f",
        "ln -s /dev/zero $f",
        "ln -s $(printf '../%.0s' $(seq 40))etc/passwd $f",
        "mkdir $f",
    ] {
        host.sh_ok(&format!("f={tree}/etc/passwd; rm -rf $f; {passwd}"));
        let out = host.exec_for(Duration::from_secs(15), &["coracle", "exec", "own", "--", "echo", "in"]);
        assert_eq!((out.status, out.stdout.as_str()), (0, "in\n"), "{passwd}: {out}");
        let out =
            host.exec_for(Duration::from_secs(15), &["coracle", "exec", "own", "-u", "daemon", "--", "true"]);
        assert!(out.status == 125 && out.stderr.contains("user 'daemon' does not exist"), "{passwd}: {out}");
    }
    // The guest's loader and search path select files of the guest, executed only with the guest's rights.
    host.sh_ok(&format!(
        "cd {tree}; rm -rf etc/passwd; mkdir -p lib64 usr/local/bin; printf '#!/bin/sh\\necho loader $(id -u)\\n' \
         >lib64/ld-linux-x86-64.so.2; chmod 755 lib64/ld-linux-x86-64.so.2; \
         printf '#!/bin/sh\\nexec /usr/bin/busybox cat /proc/self/uid_map\\n' >usr/local/bin/sh; \
         chmod 755 usr/local/bin/sh; ln -s /proc/1/root/../../../etc etc/out"
    ));
    let map = host.ok(&["coracle", "exec", "own", "--", "sh"]);
    assert!(map.split_whitespace().nth(1).is_some_and(|base| base != "0"), "{map}");
    let out = host.exec(&["coracle", "exec", "own", "-w", "/etc/out", "--", "/usr/bin/busybox", "ls"]);
    assert!(!out.stdout.contains("machine-id") || out.status == 125, "{out}");
    host.stop();
}

#[test]
fn copied_names_are_escaped_and_special_files_skipped() {
    let host = hostile();
    for guest in ["own", "same"] {
        // The tree has names with terminal control sequences, endless files, and set-user-ID bits.
        let script = "mkdir -p /srv/t; cd /srv/t; d=$(printf '\\033]0;ESCAPED\\007\\033[2Jx'); mkdir \"$d\"; \
            mkfifo pipe; ln -s /proc/1/mem mem; ln -s /dev/zero zero; cp /usr/bin/busybox suid; chmod 6755 suid; \
            mount --bind /dev \"$d\" || mount -t tmpfs none \"$d\"; (while :; do echo more >>grows; done) & \
            until [ -s grows ]; do :; done; echo ready; wait";
        let mut job = host.spawn(&["coracle", "exec", "-T", guest, "--", "sh", "-c", script]);
        job.wait_for_stdout("ready", Duration::from_secs(20));
        let out =
            host.exec_for(Duration::from_secs(30), &["coracle", "copy-from", guest, "/srv/t", "/srv/got"]);
        assert_eq!(out.status, 0, "{guest}: {out}");
        assert!(out.stderr.contains("skipping") && out.stderr.contains("another file system"), "{out}");
        assert!(!out.stderr.contains('\x1b') && !out.stderr.contains('\x07'), "{:?}", out.stderr);
        assert_eq!(host.sh_ok("find /srv/got -perm /6000; find /srv/got -type b -o -type c"), "", "{guest}");
        assert_eq!(host.sh_ok("readlink /srv/got/mem /srv/got/zero"), "/proc/1/mem\n/dev/zero\n");
        job.kill();
        // A special file is the source itself.
        for name in ["/dev/null", "/dev/zero", "/dev/console", "/proc/self/exe", "/proc/1/root", "/dev/log"] {
            let out =
                host.exec_for(Duration::from_secs(20), &["coracle", "copy-from", guest, name, "/srv/one"]);
            let made =
                host.sh("find /srv/one -type b -o -type c -o -type d -o -type s -o -perm /6000").stdout;
            assert_eq!(made, "", "{guest} {name}: {out}");
            host.sh_ok("rm -rf /srv/one");
        }
        let missing = host.exec(&["coracle", "copy-from", guest, "/srv/\x1b]0;ESCAPED\x07", "/srv/one"]);
        assert!(missing.status == 1 && !missing.stderr.contains('\x1b'), "{:?}", missing.stderr);
        host.sh_ok("rm -rf /srv/got");
    }
    host.stop();
}

#[test]
fn the_log_and_the_sockets_of_the_host_are_protected() {
    let host = hostile();
    let supervisor = |guest: &str| host.property(guest, "supervisor");
    let descriptors = |guest: &str| host.sh_ok(&format!("ls /proc/{}/fd | wc -l", supervisor(guest)));
    for guest in ["own", "same"] {
        let before = descriptors(guest);
        let out = host.in_guest(guest, &["attacker", "forge"]);
        assert!(out.stdout.contains("sent"), "{out}");
        host.wait_until(
            Duration::from_secs(20),
            &format!("journalctl --sync; journalctl -q CORACLE_MACHINE={guest} -o cat | grep five"),
        );
        assert_eq!(host.sh("journalctl -q CORACLE_MACHINE=other").stdout, "", "an entry of another machine");
        assert_eq!(before, descriptors(guest), "descriptors that were sent are held");
        // The control sockets and other files of the host have no name in the guest.
        let out = host.in_guest(
            guest,
            &[
                "sh",
                "-c",
                "ls -d /run/coracle /var/lib/coracle /run/systemd/journal/socket /run/dbus 2>/dev/null; \
                cut -c54- /proc/net/unix | grep -v '^ *Path' | sort -u",
            ],
        );
        assert!(!out.stdout.contains("coracle") && !out.stdout.contains("journal"), "{out}");
        assert!(!out.stdout.contains("dbus"), "{out}");
    }
    // Reports with console output contain no control characters.
    let said = "printf 'one \\033]0;ESCAPED\\007two\\n' >/dev/console";
    host.in_guest("own", &["sh", "-c", said]).success("it is written");
    host.wait_until(Duration::from_secs(20), "journalctl --sync; coracle logs own | grep two");
    for verb in ["logs", "status", "doctor"] {
        let out = host.exec(&["coracle", verb, "own"]);
        assert!(!out.stdout.contains('\x1b') && !out.stdout.contains('\x07'), "{verb}: {:?}", out.stdout);
    }
    // The settings of the viewer's terminal are restored after a flood of console output.
    let mut viewer =
        host.spawn_on_tty("stty -a >/tmp/before; coracle attach own; stty -a >/tmp/after; echo left $?");
    viewer.wait_for_stdout("busybox: up", Duration::from_secs(20));
    let mut keys = viewer.input();
    host.in_guest("own", &["sh", "-c", "yes ESCAPED | head -c 100000 >/dev/console"]).success("a flood");
    std::io::Write::write_all(&mut keys, b"\x1d\x1d\x1d").expect("type");
    viewer.wait_for_stdout("left 0", Duration::from_secs(20));
    host.sh_ok("cmp /tmp/before /tmp/after");
    host.stop();
}
