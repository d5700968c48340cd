//! The state of PID 1 at its execution: environment, descriptors, signals, privileges, namespaces.

use std::collections::BTreeMap;

use crate::lab::HOST_PROGRAMS;
use crate::lab::Lab;
use crate::support::install;
use crate::support::job::Job;

/// Parses `/proc/PID/status` into its keys and values.
fn status(text: &str) -> BTreeMap<String, String> {
    let pairs = text.lines().filter_map(|line| line.split_once(':'));
    pairs.map(|(key, value)| (key.to_owned(), value.trim().to_owned())).collect()
}

/// The capabilities of a system container, without CAP_NET_ADMIN.
const DEFAULT: u64 = 0xfdec_afff;
const NET_BIND_SERVICE: u64 = 1 << 10;
const NET_ADMIN: u64 = 1 << 12;

/// Returns the bounding set of this process.
fn bounding() -> u64 {
    let own = status(&std::fs::read_to_string("/proc/self/status").unwrap());
    u64::from_str_radix(&own["CapBnd"], 16).unwrap()
}

#[test]
#[ignore = "needs root"]
fn the_environment_is_as_documented() {
    let lab = Lab::new();
    let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let field = |name: &str| {
        let value = release.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        value.map(|value| value.trim_matches(['"', '\'']).to_owned())
    };
    let mut expected = BTreeMap::from(
        [
            ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
            ("container", "systemd-nspawn"),
            // Standard output is a pipe.
            ("TERM", "dumb"),
            ("HOME", "/root"),
            ("USER", "root"),
            ("LOGNAME", "root"),
            ("container_uuid", "6d1d3ac0-8d0f-4d2a-9a0c-5b1f3c7e9d21"),
            ("NOTIFY_SOCKET", "/run/host/notify"),
            ("LANG", "de_DE.UTF-8"),
            ("OURS", "from outside"),
            ("EMPTY", ""),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned())),
    );
    for (key, name) in [
        ("container_host_id", "ID"),
        ("container_host_version_id", "VERSION_ID"),
        ("container_host_build_id", "BUILD_ID"),
        ("container_host_variant_id", "VARIANT_ID"),
    ] {
        expected.extend(field(name).map(|value| (key.to_owned(), value)));
    }
    let binary = install::binary();
    let options = [
        "run",
        "-M",
        lab.name(),
        "--uuid=6d1d3ac08d0f4d2a9a0c5b1f3c7e9d21",
        "-E",
        "LANG=de_DE.UTF-8",
        "-E",
        "OURS",
        "-E",
        "EMPTY=",
        "--",
        "env",
    ];
    let mut command = lab.apart(&lab.coracle(binary.to_str().unwrap(), &options));
    command.env("OURS", "from outside").env("SECRET", "of the host").env("TERM", "vt220");
    let told = lab.wait(Job::start(&mut command, None)).success("env").stdout;
    let found: BTreeMap<String, String> =
        told.lines().map(|line| line.split_once('=').unwrap()).map(|(k, v)| (k.into(), v.into())).collect();
    assert_eq!(found, expected);
    assert!(lab.sh(&[], "env").contains("\nLANG=C.UTF-8\n"));
}

#[test]
#[ignore = "needs root"]
fn the_caller_is_not_inherited() {
    let lab = Lab::new();
    let binary = install::binary();
    let script =
        "grep -E '^(Sig(Blk|Ign|Cgt)|Umask|Groups)' /proc/self/status; ls /proc/self/fd; ls /proc/1/fd
        ulimit -n; ulimit -Hn; ulimit -c; ulimit -s; ulimit -m";
    let options = ["run", "-M", lab.name(), "--", "sh", "-c", script];
    let machine = lab.coracle(binary.to_str().unwrap(), &options);
    // Blocked and ignored signals, an unusual umask, open descriptors, other limits.
    let dirty = r#"umask 0777; ulimit -Sn 100; ulimit -Sc 5; ulimit -Ss 4096; exec 7</etc/passwd 9<>/dev/null
        exec env --block-signal=TERM,USR1,CHLD --ignore-signal=HUP,PIPE,QUIT "$@""#;
    let words = [&["bash", "-c", dirty, "bash"], machine.as_slice()].concat();
    let told = lab.wait(Job::start(&mut lab.apart(&words), None)).success("the script").stdout;
    let found = status(&told);
    assert_eq!((found["Umask"].as_str(), found["Groups"].as_str()), ("0022", ""));
    for key in ["SigBlk", "SigIgn", "SigCgt"] {
        assert_eq!(found[key], "0000000000000000", "{key}");
    }
    let rest: Vec<&str> = told.lines().filter(|line| !line.contains(':')).collect();
    // The fourth descriptor of ls is the directory that it lists.
    assert_eq!(rest[..7], ["0", "1", "2", "3", "0", "1", "2"]);
    let hard = if bounding() >> 24 & 1 == 1 { "524288".to_owned() } else { rest[8].to_owned() };
    assert_eq!(rest[7..], ["1024", &hard, "0", "8192", "unlimited"]);
}

#[test]
#[ignore = "needs root"]
fn rights_are_those_of_a_system_container() {
    let lab = Lab::new();
    let read = "cat /proc/self/status";
    for (text, options, expected) in [
        ("[root]", [].as_slice(), DEFAULT | NET_ADMIN),
        ("[network]\nmode = 'host'", &[], DEFAULT & !NET_BIND_SERVICE),
        ("[root]", &["--drop-capability=CAP_NET_ADMIN,CAP_MKNOD"], DEFAULT & !(1 << 27)),
        ("[root]", &["--capability=CAP_SYS_TIME"], DEFAULT | NET_ADMIN | 1 << 25),
        ("[root]", &["--drop-capability=all"], 0),
    ] {
        lab.define(text);
        let found = status(&lab.sh(options, read));
        let set = |key: &str| u64::from_str_radix(&found[key], 16).unwrap();
        for key in ["CapBnd", "CapPrm", "CapEff"] {
            assert_eq!(set(key), expected & bounding(), "{key} of {text} {options:?}");
        }
        assert_eq!((set("CapInh"), set("CapAmb")), (0, 0), "{text} {options:?}");
        assert_eq!((found["Seccomp"].as_str(), found["NoNewPrivs"].as_str()), ("2", "0"));
    }
    lab.define("[root]");
    let found = status(&lab.sh(&["--no-new-privileges=yes"], read));
    assert_eq!(found["NoNewPrivs"], "1");
    let found = status(&lab.sh_plain(&[], read));
    assert_eq!(u64::from_str_radix(&found["CapEff"], 16).unwrap(), DEFAULT & bounding());
}

#[test]
#[ignore = "needs root"]
fn a_user_has_its_groups_and_no_capabilities() {
    let lab = Lab::new();
    let script = "id; pwd; echo $HOME $USER $LOGNAME; cat /proc/self/status";
    let told = lab.sh(&["-u", "joe"], script);
    assert!(told.starts_with("uid=1000(joe) gid=1000(joe) groups=50(staff)\n/\n/ joe joe\n"), "{told}");
    let found = status(&told);
    for key in ["CapPrm", "CapEff", "CapInh", "CapAmb"] {
        assert_eq!(found[key], "0000000000000000", "{key}");
    }
    std::fs::create_dir_all(lab.tree().join("home/joe")).unwrap();
    assert_eq!(lab.sh(&["--uid=1000"], "pwd; echo $HOME"), "/home/joe\n/home/joe\n");
    assert_eq!(lab.sh(&["--uid=joe", "--chdir=/etc"], "pwd"), "/etc\n");
}

/// Replaces getent of the tree by a script for both databases, and its words for others.
fn getent(lab: &Lab, script: &str) {
    use std::os::unix::fs::PermissionsExt;
    let file = lab.tree().join("usr/bin/getent");
    let _ = std::fs::remove_file(&file);
    std::fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// The entries of a user that is not in passwd(5) of the tree.
const ENTRIES: &str =
    "if [ $1 = passwd ]; then echo ann:x:3000:3001:Ann:/srv:/bin/sh; else echo ann 3002; fi";

#[test]
#[ignore = "needs root"]
fn a_user_that_only_getent_knows_is_found() {
    let lab = Lab::new();
    getent(&lab, ENTRIES);
    let script = "id -u; id -G; pwd; echo $HOME $USER";
    assert_eq!(lab.sh(&["-u", "ann"], script), "3000\n3001 3002\n/\n/ ann\n");
    std::fs::create_dir(lab.tree().join("srv")).unwrap();
    assert_eq!(lab.sh(&["-u", "ann"], script), "3000\n3001 3002\n/srv\n/srv ann\n");
    assert_eq!(lab.sh(&["-u", "ann", "-E", "HOME=/x"], script), "3000\n3001 3002\n/srv\n/x ann\n");
    let shell = lab.run(&["-u", "ann"], &[]).success("the login shell");
    assert_eq!(shell.stdout, "");
}

#[test]
#[ignore = "needs root"]
fn getent_has_the_rights_of_the_payload_and_leaves_no_process() {
    let lab = Lab::new();
    std::fs::create_dir(lab.tree().join("srv")).unwrap();
    let traces = "{ cat /proc/self/status; ls /proc/self/fd | wc -l; cat /proc/1/environ /proc/1/cmdline; readlink /proc/1/exe; } >/srv/own";
    getent(&lab, &format!("{traces}; sleep 1000 & {ENTRIES}"));
    for options in [&["-u", "ann"][..], &["-u", "ann", "--no-new-privileges=yes"]] {
        for run in [Lab::sh, Lab::sh_plain] {
            assert_eq!(run(&lab, options, "ps | grep -c '[s]leep' || :"), "0\n");
            let own = std::fs::read_to_string(lab.tree().join("srv/own")).unwrap();
            let found = status(&own);
            let kept = u64::from_str_radix(&found["CapEff"], 16).unwrap();
            assert_eq!(kept & !(DEFAULT | NET_ADMIN) | kept & 1 << 19, 0, "{own}");
            let is_confined = options.len() > 2;
            assert_eq!(found["NoNewPrivs"], if is_confined { "1" } else { "0" }, "{own}");
            assert_eq!((found["Seccomp"].as_str(), found["Uid"].as_str()), ("2", "0\t0\t0\t0"), "{own}");
            // The fourth descriptor of ls is the directory that it lists. Arguments and environment are gone.
            let shown: String = own.chars().filter(|letter| *letter != '\0').collect();
            assert!(shown.ends_with("\n4\n") || shown.ends_with("\n4\n(coracle)"), "{own}");
        }
    }
}

#[test]
#[ignore = "needs root"]
fn a_hostile_getent_is_an_error() {
    let lab = Lab::new();
    for (script, expected) in [
        ("exit 2", "user 'ann' does not exist in the machine"),
        ("exit 1", "'getent passwd' of the machine failed: exit status 1"),
        ("kill -9 $$", "'getent passwd' of the machine failed: killed by signal 9"),
        ("yes", "'getent passwd' of the machine failed: its output is longer than 65536 bytes"),
        ("echo ann:x:0x1:1", "'getent passwd' of the machine returned an invalid entry"),
        (":", "user 'ann' does not exist in the machine"),
        (
            "[ $1 = passwd ] && echo ann:x:7:8 || echo ann x",
            "'getent initgroups' of the machine returned an invalid entry",
        ),
    ] {
        getent(&lab, script);
        let output = lab.run(&["-u", "ann"], &["true"]);
        assert_eq!(output.status, 125, "{output}");
        assert!(output.stderr.contains(expected), "{script}: {output}");
    }
    // The program of the host must not be executed (CVE-2019-5736).
    let file = lab.tree().join("usr/bin/getent");
    std::fs::remove_file(&file).unwrap();
    std::os::unix::fs::symlink("/proc/self/exe", &file).unwrap();
    std::fs::create_dir_all(lab.tree().join("proc/self")).unwrap();
    std::fs::write(lab.tree().join("proc/self/exe"), "").unwrap();
    let output = lab.run(&["-u", "joe"], &["true"]);
    assert!(output.stderr.contains("'/usr/bin/getent' is the host's own program"), "{output}");
    // Numbers and root are not looked up.
    assert_eq!(lab.sh(&["-u", "1000"], "id -u"), "1000\n");
    assert_eq!(lab.sh(&["-u", "root"], "id -u"), "0\n");
}

#[test]
#[ignore = "needs root"]
fn pid_1_is_the_command_or_a_stub() {
    let lab = Lab::new();
    assert_eq!(lab.sh(&[], "echo $$; cat /proc/1/comm; :"), "1\nsh\n");
    assert_eq!(lab.sh(&["-a"], "echo $$; cat /proc/1/comm; :"), "2\n(sd-stubinit)\n");
    // The streams and the pidfd of the payload.
    assert_eq!(lab.sh_plain(&["-a"], "ls /proc/1/fd | wc -l"), "4\n");
    // The name of a login shell begins with a dash.
    let shell = lab.run(&["-u", "root"], &[]).success("a shell");
    assert_eq!(shell.stdout, "");
}

#[test]
#[ignore = "needs root"]
fn namespaces_are_the_machines_own() {
    let lab = Lab::new();
    let kinds = ["user", "mnt", "pid", "ipc", "uts", "net", "cgroup", "time"];
    let script =
        "cd /proc/self/ns; for kind in user mnt pid ipc uts net cgroup time; do readlink $kind; done";
    let own = |kind: &str| {
        std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap().to_str().unwrap().to_owned()
    };
    let shared = |told: &str| -> Vec<&str> {
        kinds.iter().zip(told.lines()).filter(|(kind, id)| own(kind) == *id).map(|(kind, _)| *kind).collect()
    };
    assert_eq!(shared(&lab.sh(&[], script)), ["time"]);
    assert_eq!(shared(&lab.sh_plain(&["--private-network"], script)), ["user", "time"]);
    lab.define("[boot]\ntime-namespace = true");
    let told = lab.sh(&[], &format!("{script}; cat /proc/uptime"));
    assert!(shared(&told).is_empty());
    let uptime: f64 = told.lines().last().unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!(uptime < 30.0, "{uptime}");
}

#[test]
#[ignore = "needs root"]
fn the_host_name_is_the_machines() {
    let lab = Lab::new();
    assert_eq!(lab.sh(&[], "hostname"), format!("{}\n", lab.name()));
    assert_eq!(lab.sh(&["--hostname=www.example.org"], "hostname"), "www.example.org\n");
}

#[test]
#[ignore = "needs root"]
fn networks_are_private_as_configured() {
    let lab = Lab::new();
    let links = "sed -n 's/ *\\(.*\\):.*/\\1/p' /proc/net/dev | sort | xargs";
    assert_eq!(lab.sh(&[], links), "host0 lo\n");
    let address = "ip -o -4 address show host0 | wc -l; ip route | grep -c '^default via'; ip link show lo | grep -c UP";
    assert_eq!(lab.sh(&[], address), "1\n1\n1\n");
    assert_eq!(lab.sh_plain(&["--private-network"], links), "lo\n");
    // The namespace of the run has only a loopback interface as well, but it is a different namespace.
    assert_eq!(lab.sh_plain(&[], links), "lo\n");
}

#[test]
#[ignore = "needs root"]
fn a_caller_may_ignore_the_end_of_children() {
    let lab = Lab::new();
    let binary = install::binary();
    for users in [&[][..], &["-U"]] {
        let run = [&["run", "-M", lab.name()], users, &["--", "sh", "-c", "exit 7"]].concat();
        let ignoring = ["perl", "-e", "$SIG{CHLD} = 'IGNORE'; exec @ARGV"];
        let words = [&ignoring[..], &lab.coracle(binary.to_str().unwrap(), &run)].concat();
        let ended = lab.wait(Job::start(&mut lab.apart(&words), None));
        assert_eq!(ended.status, 7, "{ended}");
    }
}

#[test]
#[ignore = "needs root"]
fn the_cgroup_is_the_root_of_what_it_sees() {
    let lab = Lab::new();
    let script = "grep '^0::' /proc/self/cgroup; cd /sys/fs/cgroup; cat cgroup.procs | head -n 1
        mkdir sub sub/sub; echo $$ >sub/cgroup.procs; grep '^0::' /proc/self/cgroup
        mkdir ../../new 2>/dev/null || echo refused; stat -c %u . cgroup.procs";
    assert_eq!(lab.sh(&[], script), "0::/\n1\n0::/sub\nrefused\n0\n0\n");
}

#[test]
#[ignore = "needs root"]
fn system_calls_are_filtered() {
    let lab = Lab::new();
    let options = HOST_PROGRAMS;
    // Numbers of x86_64: keyctl, bpf, io_uring_setup, kexec_load, unshare and a nonexistent call.
    let script = "for my $call (250, 321, 425, 246, 272, 9999) { \
        my $r = syscall($call, 0, 0, 0, 0, 0); print $r, ' ', ($r < 0 ? $!{ENOSYS} ? 'ENOSYS' : $!{EPERM} ? \
        'EPERM' : $! : ''), qq(\\n) }";
    let told = lab.run(options, &["perl", "-MErrno", "-e", script]).success("perl").stdout;
    let expected = ["-1 EPERM", "-1 EPERM", "-1 ENOSYS", "-1 EPERM", "0 ", "-1 ENOSYS"];
    assert_eq!(told.lines().collect::<Vec<_>>()[1..2], expected[1..2]);
    assert_eq!(told.lines().collect::<Vec<_>>(), expected);
}

#[test]
#[ignore = "needs root"]
fn the_keyring_is_the_machines_own() {
    let lab = Lab::new();
    let options = HOST_PROGRAMS;
    let options = [options, &["--system-call-filter=@keyring"]].concat();
    // KEYCTL_GET_KEYRING_ID of the session; KEYCTL_DESCRIBE of the session keyring outside the machine.
    let session = "print syscall(250, 0, -3, 0), ' '";
    let own = std::process::Command::new("perl").args(["-e", session]).output().unwrap();
    let own: i64 = String::from_utf8(own.stdout).unwrap().trim().parse().unwrap();
    let script = format!("{session}; print syscall(250, 6, {own}, 0, 0)");
    let told = lab.run(&options, &["perl", "-e", &script]).success("perl").stdout;
    let ids: Vec<i64> = told.split(' ').map(|id| id.parse().unwrap()).collect();
    assert!(ids[0] > 0 && ids[0] != own, "{told}");
    assert_eq!(ids[1], -1, "{told}");
}
