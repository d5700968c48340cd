//! Effects of a machine on other users of the host and on its tools: readable state, blocked commands,
//! remaining state.

use std::time::Duration;

use super::machines::Machines;
use crate::support::{self, LONG};

#[test]
fn id_ranges_are_disjoint() {
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
        // The guest has no supplementary groups to drop, and ids outside the range are refused.
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
fn only_configured_devices_can_be_opened() {
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
        // Without a user namespace, root can create the device node, but cannot open it.
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
fn setuid_of_bind_mounts_requires_an_option() {
    let machines = Machines::shared();
    let host = machines.host();
    host.add_guest("busybox", "binds");
    host.sh_ok(
        "mkdir -p /var/lib/machines/.tools && cp /var/lib/machines/own/usr/bin/probe /var/lib/machines/.tools/who && \
         chown 0:0 /var/lib/machines/.tools/who && chmod 6755 /var/lib/machines/.tools/who",
    );
    for (said, uid) in [("", "65534"), ("setuid = true\n", "0")] {
        let mount = format!(
            "[[mount]]\ntype = \"bind\"\nsource = \"/var/lib/machines/.tools\"\nmap-ids = true\n{said}"
        );
        host.write("/etc/coracle/machines.d/binds.toml", &mount);
        host.ok(&["coracle", "start", "binds"]);
        let out = host.exec(&[
            "coracle",
            "exec",
            "-u",
            "nobody",
            "binds",
            "--",
            "/var/lib/machines/.tools/who",
            "user",
        ]);
        assert_eq!(out.stdout.trim(), uid, "{said}: {out}");
        // A bind mount in a running machine.
        host.ok(&["coracle", "bind", "--mkdir", "binds", "/var/lib/machines/.tools", "/srv/live"]);
        let options = machines.sh("binds", "grep ' /srv/live ' /proc/self/mountinfo");
        assert!(options.stdout.contains("nosuid"), "{options}");
        host.ok(&["coracle", "stop", "binds"]);
    }
    host.sh_ok("rm -r /etc/coracle/machines.d/binds.toml /var/lib/machines/.tools");
}

#[test]
fn users_of_the_host_have_no_access_to_machines() {
    let machines = Machines::shared();
    let host = machines.host();
    let unprivileged = "setpriv --reuid=65534 --regid=65534 --clear-groups --";
    let supervisor = host.supervisor("own");
    // All users may read the properties of a machine; only root may read its definition and console.
    let state = host.sh_ok(&format!("{unprivileged} cat /run/coracle/own/state.json"));
    assert!(!state.contains("\"environment\""), "{state}");
    host.sh_ok("mkdir -p /var/lib/coracle/failures");
    for tried in [
        "cat /run/coracle/own/definition.json".to_owned(),
        "cat /var/lib/coracle/failures/own.json".to_owned(),
        "cat /run/coracle/own/lock".to_owned(),
        format!("cat /proc/{supervisor}/environ"),
        format!("ls /proc/{supervisor}/fd"),
        "coracle exec own -- true".to_owned(),
        "coracle terminate own".to_owned(),
        "coracle attach own".to_owned(),
        "ls /var/lib/machines/own".to_owned(),
    ] {
        let out = host.sh(&format!("{unprivileged} {tried}"));
        assert_ne!(out.status, 0, "{tried}: {out}");
        assert_eq!(out.stdout, "", "{tried}: {out}");
    }
    host.ok(&["coracle", "exec", "own", "--", "true"]);
}

#[test]
fn users_of_the_host_cannot_block_operations() {
    let machines = Machines::shared();
    let host = machines.host();
    let unprivileged = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"];
    // Machines of other tests come and go.
    let places = host.sh_ok("find /run/coracle /run/systemd/nspawn* /var/lib/coracle -ignore_readdir_race");
    let mut holders: Vec<_> = places
        .lines()
        .map(|place| {
            host.spawn(&[&unprivileged[..], &["sh", "-c", "flock \"$0\" sleep 300 || :", place]].concat())
        })
        .collect();
    host.wait_until(LONG, "pgrep -u 65534 -x sleep");
    host.add_guest("busybox", "held");
    host.write("/etc/coracle/machines.d/held.toml", "[network]\nzone = \"held\"\nports = [\"8099:80\"]\n");
    host.ok(&["coracle", "start", "held"]);
    host.ok(&["coracle", "bind", "--mkdir", "held", "/var/tmp", "/srv/held"]);
    host.ok(&["coracle", "set", "held", "network.ports=8098:80"]);
    host.ok(&["coracle", "stop", "held"]);
    assert!(holders.iter_mut().any(|holder| holder.poll().is_none()), "the locks were waited for");
    holders.iter_mut().for_each(support::Job::kill);
    host.sh_ok("rm -r /etc/coracle/machines.d/held.toml*");
}

#[test]
fn file_modes_ignore_the_umask() {
    let machines = Machines::shared();
    let host = machines.host();
    host.add_guest("busybox", "masked");
    for mask in ["000", "077"] {
        host.write("/etc/coracle/machines.d/masked.toml", "[root]\n");
        host.sh_ok(&format!(
            "umask {mask}; coracle set masked tasks-max=1000; coracle start masked; coracle set masked network.ports=8097:80; \
             coracle bind --mkdir masked /var/tmp /srv/held; coracle stop masked; \
             setsid coracle run -M passive -D /var/lib/machines/masked --console=passive >/dev/null 2>&1 & \
             until coracle show passive -p phase | grep running; do sleep 0.1; done"
        ));
        let found = "find /etc/coracle /run/coracle /var/lib/coracle -ignore_readdir_race \
                     ! -type l ! -type s -perm /022";
        assert_eq!(host.sh_ok(found), "", "umask {mask}");
        assert_eq!(
            host.ok(&["stat", "-c", "%a", "/run/coracle/passive/state.json"]),
            "644\n",
            "umask {mask}"
        );
        host.ok(&["coracle", "terminate", "passive"]);
        host.sh_ok("rm -r /etc/coracle/machines.d/masked.toml*");
    }
}

#[test]
fn a_bus_that_does_not_answer_does_not_block() {
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
fn a_frozen_machine_can_be_stopped_in_every_way() {
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
fn malicious_names_and_definitions_are_refused() {
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

/// The capabilities that a supervisor keeps: chown, dac_override, dac_read_search, fowner, kill, net_admin,
/// sys_ptrace.
const SUPERVISORS: u64 = 1 | 1 << 1 | 1 << 2 | 1 << 3 | 1 << 5 | 1 << 12 | 1 << 19;

#[test]
fn a_supervisor_has_few_capabilities_and_is_not_readable() {
    let machines = Machines::shared();
    let host = machines.host();
    for machine in ["own", "same"] {
        let supervisor = host.supervisor(machine);
        let status = host.read(&format!("/proc/{supervisor}/status"));
        let mask = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
            u64::from_str_radix(line.trim(), 16).unwrap()
        };
        assert_eq!((mask("CapEff:"), mask("CapPrm:"), mask("CapInh:")), (SUPERVISORS, SUPERVISORS, 0));
        // Even root cannot read these files without the capabilities sys_ptrace, perfmon and sys_admin.
        let without = "setpriv --bounding-set=-sys_ptrace,-perfmon,-sys_admin --inh-caps=-all --";
        for file in ["environ", "maps", "fd/3", "root/etc/hostname"] {
            let out = host.sh(&format!("{without} cat /proc/{supervisor}/{file}"));
            assert!(out.status != 0 && out.stdout.is_empty(), "{file}: {out}");
        }
        // Its descriptors include no file of the guest's tree, no mount, and no terminal of the guest except
        // both sides of the console.
        let held = host.sh_ok(&format!("ls -l /proc/{supervisor}/fd | sed -n 's/.* -> //p'"));
        let known = |line: &str| {
            [
                "/dev/null",
                "socket:",
                "anon_inode:",
                "net:[",
                "/memfd:coracle-",
                "/ptmx",
                "/0",
                "/dev/pts/",
                "/run/",
                "/proc-kmsg",
                // The lock beside its image.
                "/var/lib/machines/.#",
            ]
            .iter()
            .any(|start| line.starts_with(start))
        };
        assert!(held.lines().all(known), "{held}");
        // It is not visible in the machine. Commands of other tests have its name until they are executed.
        let names = format!("! coracle exec -T {machine} -- sh -c 'cat /proc/[0-9]*/comm' | grep coracle");
        host.wait_until(LONG, &names);
        let out = machines.sh(machine, "grep -h PPid /proc/1/status /proc/self/status");
        assert!(out.stdout.contains("PPid:\t0"), "{out}");
        let out = machines.sh(machine, &format!("kill -0 {supervisor}; ls /proc/{supervisor}/fd"));
        assert!(out.status != 0 && !out.stdout.contains("socket"), "{out}");
    }
    // At a reboot, execve(2) restores all capabilities required for a boot. This needs a separate machine:
    // the shared machines run processes of other tests.
    host.add_guest("busybox", "again");
    host.ok(&["coracle", "start", "again"]);
    let leader = host.machine_leader("again");
    host.ok(&["coracle", "reboot", "again"]);
    let is_another = "now=$(coracle show again -p leader) && [ $now != leader= ] && [ $now != leader=";
    host.wait_until(
        Duration::from_secs(60),
        &format!("{is_another}{leader} ] && coracle exec again -- true && coracle status again"),
    );
    host.ok(&["coracle", "stop", "again"]);
}

#[test]
fn a_cdi_device_is_complete() {
    let machines = Machines::shared();
    let host = machines.host();
    host.add_guest("busybox", "cdi");
    let edits = r#""containerEdits": {"env": ["ACME_VISIBLE=0"],
        "mounts": [{"hostPath": "/usr/lib/acme", "containerPath": "/opt/acme", "options": ["ro", "nosuid", "bind"]}]}"#;
    let device = r#"{"name": "0", "containerEdits": {"deviceNodes": [{"path": "/dev/fuse"}, {"path": "/dev/loop-control"}]}}"#;
    let hook = r#"{"name": "hook", "containerEdits": {"hooks": [{"hookName": "createContainer", "path": "/usr/bin/x"}]}}"#;
    host.sh_ok("mkdir -p /usr/lib/acme; echo driver >/usr/lib/acme/lib.so");
    host.write(
        "/etc/cdi/acme.json",
        &format!(
            r#"{{"cdiVersion": "0.6.0", "kind": "acme.com/gpu", {edits}, "devices": [{device}, {hook}]}}"#
        ),
    );
    let define = |name: &str| {
        host.write("/etc/coracle/machines.d/cdi.toml", &format!("[security]\ndevices = [\"{name}\"]\n"));
    };
    define("acme.com/gpu=0");
    host.ok(&["coracle", "start", "cdi"]);
    let script = "stat -c '%u %t:%T' /dev/fuse /dev/loop-control; exec 3<>/dev/loop-control && cat /opt/acme/lib.so; \
                  (echo x >/opt/acme/lib.so) 2>/dev/null; tr '\\0' '\\n' </proc/1/environ | grep ACME";
    let out = machines.sh("cdi", script);
    assert_eq!(out.stdout, "0 a:e5\n0 a:ed\ndriver\nACME_VISIBLE=0\n", "{out}");
    host.ok(&["coracle", "stop", "cdi"]);
    for (name, why) in [("acme.com/gpu=hook", "hooks"), ("acme.com/gpu=9", "no file in /etc/cdi")] {
        define(name);
        let out = host.exec(&["coracle", "start", "cdi"]);
        assert!(out.status != 0 && out.stderr.contains(why) && out.stderr.contains(name), "{out}");
    }
    host.sh_ok("rm -r /etc/cdi/acme.json /usr/lib/acme /etc/coracle/machines.d/cdi.toml; systemctl reset-failed coracle@cdi || true");
}

#[test]
fn labels_of_missing_security_modules_are_refused() {
    let machines = Machines::shared();
    let host = machines.host();
    // Neither module is active in the kernel of the nested hosts.
    host.add_guest("busybox", "label");
    let context = "system_u:system_r:container_t:s0";
    for option in [["-Z", context], ["-L", context]] {
        let command = [
            &["coracle", "run", "-q", "-M", "x"],
            &option[..],
            &["-D", "/var/lib/machines/label", "/bin/true"],
        ]
        .concat();
        let out = host.exec(&command);
        assert!(out.status == 125 && out.stderr.contains("SELinux is not active on this host"), "{out}");
    }
    host.write("/etc/coracle/machines.d/label.toml", "[security]\napparmor-profile = \"coracle-machine\"\n");
    let out = host.exec(&["coracle", "start", "label"]);
    assert!(out.status != 0 && out.stderr.contains("AppArmor is not active on this host"), "{out}");
    host.sh_ok("rm /etc/coracle/machines.d/label.toml; systemctl reset-failed coracle@label");
}
