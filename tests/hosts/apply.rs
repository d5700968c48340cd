//! `coracle set` and `apply`: limits and mounts of a machine that runs, and what is said of the rest. That limits are
//! enforced is shown in `tests/vm.rs`: a nested host has no controllers for them.

use crate::support::{Host, LONG, Snapshot};

/// What systemd holds of a property of the machine's unit.
fn property(host: &Host, property: &str) -> String {
    host.ok(&["systemctl", "show", "-P", property, "coracle@busybox.service"]).trim().to_owned()
}

#[test]
fn limits_are_set_live_and_persist() {
    let host = Host::start(&["busybox"]);
    host.activate_machined();
    let before = Snapshot::take(&host);
    let dead = host.ok(&["coracle", "set", "busybox", "tasks-max=100"]);
    assert_eq!(dead, "stored in '/etc/coracle/machines.d/busybox.toml.d/90-set.toml'\n");
    host.ok(&["coracle", "start", "busybox"]);
    assert_eq!(property(&host, "TasksMax"), "100");
    let said = host.ok(&["coracle", "set", "busybox", "memory-max=512M", "cpu-quota=150%"]);
    assert_eq!(
        said,
        "HOW   SETTING               NOW   DEFINED\ndone  resources.memory-max  none  512M\n\
         done  resources.cpu-quota   none  150%\n"
    );
    let hold = |host: &Host| {
        assert_eq!(property(host, "MemoryMax"), (512u64 << 20).to_string());
        assert_eq!(property(host, "CPUQuotaPerSecUSec"), "1.500000s");
        assert_eq!(property(host, "TasksMax"), "100");
    };
    hold(&host);
    assert_eq!(host.ok(&["coracle", "apply", "busybox"]), "machine 'busybox' matches its definition\n");
    // Stored in the definition only.
    assert_eq!(host.sh("ls -A /run/systemd/system.control/coracle@busybox.service.d").stdout, "");
    host.sh_ok("systemctl daemon-reload");
    hold(&host);
    host.ok(&["coracle", "restart", "busybox"]);
    hold(&host);
    // For the run-time it lies above; set for good, it is covered no longer; without a value, forgotten.
    host.ok(&["coracle", "set", "--runtime", "busybox", "memory-max=1G"]);
    assert_eq!(property(&host, "MemoryMax"), (1u64 << 30).to_string());
    host.sh_ok("grep -q 1G /run/coracle/machines.d/busybox.toml.d/95-set.toml");
    host.ok(&["coracle", "set", "busybox", "memory-max="]);
    assert_eq!(property(&host, "MemoryMax"), "infinity");
    host.ok(&["coracle", "set", "busybox", "tasks-max=", "cpu-quota="]);
    // What the unit has of itself.
    assert_eq!(property(&host, "TasksMax"), "16384");
    host.sh_ok("grep -qx TasksMax=16384 $(systemctl show -P FragmentPath coracle@busybox.service)");
    host.sh_ok(
        "[ ! -e /etc/coracle/machines.d/busybox.toml.d ] && [ ! -e /run/coracle/machines.d/busybox.toml.d ]",
    );
    for (bad, why) in [
        ("memroy-max=1", "memory-max"),
        ("memory-max=lots", "memory-max"),
        ("mount=/x:/", "the root of the machine"),
    ] {
        let out = host.exec(&["coracle", "set", "busybox", bad]);
        assert!(out.status != 0 && out.stderr.contains(why), "{out}");
    }
    host.ok(&["coracle", "stop", "busybox"]);
    before.assert_same(&host);
    host.stop();
}

#[test]
fn apply_changes_what_a_running_machine_can_change() {
    let host = Host::start(&["busybox"]);
    host.ok(&["coracle", "start", "busybox"]);
    host.sh_ok("mkdir /var/lib/machines/data && echo hello >/var/lib/machines/data/f");
    host.write(
        "/etc/coracle/machines.d/busybox.toml",
        "[boot]\nstop-timeout = \"20s\"\n[resources]\ntasks-max = 77\n[[mount]]\ntype = \"bind\"\n\
         source = \"/var/lib/machines/data\"\ntarget = \"/data\"\nread-only = true\n",
    );
    let told = host.ok(&["coracle", "apply", "--dry-run", "busybox"]);
    assert!(told.contains("live     resources.tasks-max"), "{told}");
    assert!(told.contains("restart  boot.stop-timeout"), "{told}");
    assert!(told.lines().any(|line| line.starts_with("live     mount")), "{told}");
    assert_ne!(property(&host, "TasksMax"), "77");
    let done = host.ok(&["coracle", "apply", "busybox"]);
    assert_eq!(done, told.replace("live   ", "done   "));
    assert!(
        done.ends_with("restart the machine to apply the other changes: coracle restart busybox\n"),
        "{done}"
    );
    assert_eq!(property(&host, "TasksMax"), "77");
    assert_eq!(host.ok(&["coracle", "exec", "busybox", "--", "cat", "/data/f"]), "hello\n");
    let rest = host.ok(&["coracle", "apply", "busybox"]);
    assert!(
        !rest.contains("tasks-max") && !rest.contains("mount") && rest.contains("stop-timeout"),
        "{rest}"
    );
    // What was bound live is changed and taken off live.
    let definition = host.read("/etc/coracle/machines.d/busybox.toml");
    host.write(
        "/etc/coracle/machines.d/busybox.toml",
        &definition.replace("read-only = true", "read-only = false"),
    );
    let access = || {
        host.ok(&[
            "coracle",
            "exec",
            "busybox",
            "--",
            "sh",
            "-c",
            "grep ' /data ' /proc/mounts | cut -d' ' -f4 | cut -c1-2",
        ])
    };
    assert_eq!(access(), "ro\n");
    let changed = host.ok(&["coracle", "apply", "busybox"]);
    assert_eq!(changed.lines().filter(|line| line.starts_with("done     mount")).count(), 2, "{changed}");
    assert_eq!(access(), "rw\n");
    host.write(
        "/etc/coracle/machines.d/busybox.toml",
        definition.split("[[mount]]").next().unwrap_or_default(),
    );
    let off = host.ok(&["coracle", "apply", "busybox"]);
    assert_eq!(off.lines().filter(|line| line.starts_with("done     mount")).count(), 1, "{off}");
    assert_eq!(host.ok(&["coracle", "exec", "busybox", "--", "ls", "-A", "/data"]), "");
    host.write("/etc/coracle/machines.d/busybox.toml", &definition);
    assert!(host.ok(&["coracle", "apply", "busybox"]).contains("done     mount"));
    // A reboot from inside begins with the definition.
    host.ok(&["coracle", "reboot", "busybox"]);
    host.wait_until(LONG, "coracle apply busybox | grep -q 'matches its definition'");
    assert_eq!(host.ok(&["coracle", "exec", "busybox", "--", "cat", "/data/f"]), "hello\n");
    host.stop();
}

#[test]
fn mounts_are_set_live() {
    let host = Host::start(&["busybox"]);
    let definition = "[root]\n[[mount]]\ntype = \"tmpfs\"\ntarget = \"/empty\"\n";
    host.write("/etc/coracle/machines.d/busybox.toml", definition);
    host.ok(&["coracle", "start", "busybox"]);
    host.sh_ok("mkdir -p /var/lib/machines/more && echo of the host >/var/lib/machines/more/file");
    let set = host.ok(&[
        "coracle",
        "set",
        "busybox",
        "mount=/var/lib/machines/more:/more:ro",
        "mount=/var/lib/machines/more:/also:idmap",
    ]);
    assert_eq!(set.lines().filter(|line| line.starts_with("done  mount")).count(), 2, "{set}");
    assert_eq!(host.in_guest("busybox", &["cat", "/more/file"]).success("read").stdout, "of the host\n");
    host.in_guest("busybox", &["touch", "/also/new"]).success("write");
    assert_ne!(host.in_guest("busybox", &["touch", "/more/new"]).status, 0);
    let off = host.ok(&["coracle", "set", "busybox", "mount="]);
    assert_eq!(off.lines().filter(|line| line.starts_with("done  mount")).count(), 2, "{off}");
    assert_ne!(host.in_guest("busybox", &["cat", "/more/file"]).status, 0);
    host.stop();
}
