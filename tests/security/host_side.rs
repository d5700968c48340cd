//! What others on the host, and its tools, can be brought to by a machine: who may read of it, what waits for it, what
//! stays of it.

use std::time::Duration;

use crate::machines::Machines;
use crate::support::LONG;

#[test]
fn ranges_of_ids_are_apart_and_hold_no_id_of_the_host() {
    let machines = Machines::shared();
    let host = machines.host();
    host.add_guest("busybox", "other");
    host.ok(&["coracle", "start", "other"]);
    let mut ranges = Vec::new();
    for machine in ["own", "other"] {
        let leader = host.machine_leader(machine);
        for map in ["uid_map", "gid_map"] {
            let text = host.read(&format!("/proc/{leader}/{map}"));
            let words: Vec<u64> = text.split_whitespace().map(|word| word.parse().unwrap()).collect();
            let [0, base, 65536] = words[..] else { panic!("{machine} {map}: {text}") };
            assert!(base >= 65536 && base % 65536 == 0, "{text}");
            ranges.push(base);
        }
        // A group beyond the range cannot be taken on, and none can be shed that was never there.
        let out = machines.inside(machine, &["sh", "-c", "id -G; cat /proc/self/setgroups"]);
        assert_eq!(out.stdout, "0\nallow\n", "{out}");
        let out = host.exec(&["coracle", "exec", "-u", "70000", machine, "--", "true"]);
        assert_eq!(out.status, 125, "{out}");
    }
    assert_eq!((ranges[0], ranges[2]), (ranges[1], ranges[3]));
    assert_ne!(ranges[0], ranges[2]);
    host.ok(&["coracle", "stop", "other"]);
}

#[test]
fn a_device_that_is_named_can_be_opened_and_no_other() {
    let machines = Machines::shared();
    let host = machines.host();
    host.add_guest("busybox", "device");
    let define = |list: &str| {
        host.write("/etc/coracle/machines.d/device.toml", &format!("[security]\ndevices = [{list}]\n"));
    };
    let open = "stat -c '%u %g %t:%T' /dev/loop-control; exec 3<>/dev/loop-control && echo opened";
    for (list, opens) in [("", false), ("\"/dev/loop-control\", \"/dev/null\", \"/dev/fuse\"", true)] {
        define(list);
        host.ok(&["coracle", "start", "device"]);
        let out = machines.sh("device", open);
        assert_eq!(out.stdout == "0 0 a:ed\nopened\n", opens, "{list}: {out}");
        // The machine whose root is the host's can make the node, and not open it.
        let script = "mknod /l c 10 237; (exec 3</l) && echo opened; rm -f /l";
        assert!(!machines.sh("same", script).stdout.contains("opened"));
        host.ok(&["coracle", "stop", "device"]);
    }
    for bad in
        ["\"/dev/nowhere\"", "\"/dev/pts\"", "\"/dev/../etc/passwd\"", "\"/etc/passwd\"", "\"/dev/a b\""]
    {
        define(bad);
        assert_ne!(host.exec(&["coracle", "start", "device"]).status, 0, "{bad}");
    }
    host.sh_ok("rm /etc/coracle/machines.d/device.toml; systemctl reset-failed coracle@device");
}

#[test]
fn setuid_programs_of_bind_mounts_count_only_where_it_is_said() {
    let machines = Machines::shared();
    let host = machines.host();
    host.add_guest("busybox", "binds");
    host.sh_ok(
        "mkdir -p /var/tmp/tools && cp /var/lib/machines/own/usr/bin/probe /var/tmp/tools/who && \
         chown 0:0 /var/tmp/tools/who && chmod 6755 /var/tmp/tools/who",
    );
    for (said, uid) in [("", "65534"), ("setuid = true\n", "0")] {
        let mount =
            format!("[[mount]]\ntype = \"bind\"\nsource = \"/var/tmp/tools\"\nmap-ids = true\n{said}");
        host.write("/etc/coracle/machines.d/binds.toml", &mount);
        host.ok(&["coracle", "start", "binds"]);
        let out =
            host.exec(&["coracle", "exec", "-u", "nobody", "binds", "--", "/var/tmp/tools/who", "user"]);
        assert_eq!(out.stdout.trim(), uid, "{said}: {out}");
        // One that is made live.
        host.ok(&["coracle", "bind", "--mkdir", "binds", "/var/tmp/tools", "/srv/live"]);
        let options = machines.sh("binds", "grep ' /srv/live ' /proc/self/mountinfo");
        assert!(options.stdout.contains("nosuid"), "{options}");
        host.ok(&["coracle", "stop", "binds"]);
    }
    host.sh_ok("rm /etc/coracle/machines.d/binds.toml");
}

#[test]
fn other_users_of_the_host_read_nothing_of_a_machine_and_do_nothing_to_it() {
    let machines = Machines::shared();
    let host = machines.host();
    let nobody = "setpriv --reuid=65534 --regid=65534 --clear-groups --";
    let supervisor = host.supervisor("own");
    // What a machine is, everybody may know; how it was defined and what its console said, root.
    let state = host.sh_ok(&format!("{nobody} cat /run/coracle/own/state.json"));
    assert!(!state.contains("environment"), "{state}");
    host.sh_ok("mkdir -p /var/lib/coracle/records");
    for tried in [
        "cat /run/coracle/own/definition.json".to_owned(),
        "cat /var/lib/coracle/records/own.json".to_owned(),
        "cat /run/coracle/own/lock".to_owned(),
        format!("cat /proc/{supervisor}/environ"),
        format!("ls /proc/{supervisor}/fd"),
        "coracle exec own -- true".to_owned(),
        "coracle terminate own".to_owned(),
        "coracle attach own".to_owned(),
        "ls /var/lib/machines/own".to_owned(),
    ] {
        let out = host.sh(&format!("{nobody} {tried}"));
        assert_ne!(out.status, 0, "{tried}: {out}");
        assert_eq!(out.stdout, "", "{tried}: {out}");
    }
    host.ok(&["coracle", "exec", "own", "--", "true"]);
}

#[test]
fn a_bus_inside_that_never_answers_keeps_nobody_waiting() {
    let machines = Machines::shared();
    let host = machines.host();
    machines.sh("own", "mkdir -p /run/dbus /run/systemd").success("directories");
    let mut jobs = Vec::new();
    for place in ["/run/dbus/system_bus_socket", "/run/systemd/private", "/run/systemd/notify"] {
        let mut job = host.spawn(&["coracle", "exec", "-T", "own", "--", "probe", "listen", place]);
        job.wait_for_stdout("listening", Duration::from_secs(10));
        jobs.push(job);
    }
    for words in [
        &["list"][..],
        &["status", "own"],
        &["show", "own"],
        &["stats", "own"],
        &["inspect", "own", "--security"],
        &["doctor", "own"],
        &["exec", "own", "--", "true"],
    ] {
        let out = host.exec_for(LONG, &[&["coracle"], words].concat());
        assert_eq!(out.status, 0, "{words:?}: {out}");
    }
    jobs.iter_mut().for_each(|job| job.kill());
}

#[test]
fn a_frozen_machine_can_be_ended_in_every_way_and_leaves_nothing() {
    let machines = Machines::shared();
    let host = machines.host();
    host.add_guest("busybox", "frozen");
    for end in [
        "coracle stop frozen",
        "coracle terminate frozen",
        "systemctl kill --kill-whom=main -s KILL coracle@frozen",
        "kill -KILL $(coracle show frozen -p leader | cut -d= -f2)",
    ] {
        host.ok(&["coracle", "start", "frozen"]);
        host.ok(&["coracle", "freeze", "frozen"]);
        let out = host.exec_for(Duration::from_secs(30), &["sh", "-euc", end]);
        assert_eq!(out.status, 0, "{end}: {out}");
        host.wait_until(
            Duration::from_secs(20),
            "case $(systemctl show -P ActiveState coracle@frozen) in inactive|failed) ;; *) false ;; esac",
        );
        let left = host.sh(
            "ls -d /run/coracle/frozen /sys/fs/cgroup/machine.slice/*frozen* /sys/class/net/ve-frozen 2>/dev/null; \
             machinectl --no-legend list | grep frozen",
        );
        assert_eq!(left.stdout, "", "{end}");
        host.exec(&["systemctl", "reset-failed", "coracle@frozen"]);
    }
}

#[test]
fn names_and_definitions_that_mean_harm_are_refused_before_anything_is_touched() {
    let machines = Machines::shared();
    let host = machines.host();
    for name in
        ["../own", "a/b", ".", "..", "a\nb", "\u{1b}[2J", "-x", "", "a b", "ä", "%s", &"x".repeat(300)]
    {
        for verb in ["start", "status", "terminate", "exec"] {
            let out = host.exec(&["coracle", verb, "--", name]);
            assert!(out.status != 0, "{verb} {name:?}: {out}");
            assert!(!out.stderr.contains('\u{1b}'), "{verb} {name:?}: {:?}", out.stderr);
        }
    }
    host.add_guest("busybox", "harm");
    for text in [
        "[root]\ndirectory = \"/var/lib/machines/harm/../../../..\"\n",
        "[root]\ndirectory = \"relative\"\n",
        "[root]\ndirectory = \"/a\\u0000b\"\n",
        "[[mount]]\ntype = \"bind\"\nsource = \"/mnt\"\ntarget = \"/../../mnt\"\n",
        "[[mount]]\ntype = \"bind\"\nsource = \"/mnt\"\ntarget = \"/proc/../..\"\n",
        "[environment]\n\"A=B\" = \"c\"\n",
        "[environment]\nA = \"b\\u0000c\"\n",
        "[resources]\nmemory-max = \"99999999999999999999999T\"\n",
        "[users]\nprivate = \"4294967290:65536\"\n",
        "[identity]\nhostname = \"a\\nb\"\n",
    ] {
        host.write("/etc/coracle/machines.d/harm.toml", text);
        let out = host.exec(&["coracle", "check", "/etc/coracle/machines.d/harm.toml"]);
        assert_ne!(out.status, 0, "{text}: {out}");
        assert_ne!(host.exec(&["coracle", "start", "harm"]).status, 0, "{text}");
    }
    host.sh_ok("rm /etc/coracle/machines.d/harm.toml; systemctl reset-failed 'coracle@harm.service' || true");
    let left = "find /run/coracle /var/lib/coracle /sys/fs/cgroup /run/systemd/nspawn* /sys/class/net -name '*harm*'";
    assert_eq!(host.sh(left).stdout, "");
}
