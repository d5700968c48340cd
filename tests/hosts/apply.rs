//! `coracle set` and `apply`: changes of limits and mounts of a running machine, and the report of settings
//! that need a restart. Enforcement of limits is tested in `tests/vm.rs`: a nested host has no controllers.

use crate::support::{Host, LONG, Snapshot};

/// Returns a property of the machine's unit as reported by systemd.
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
        "HOW           SETTING               NOW   DEFINED\nnot enforced  resources.memory-max  none  512M\n\
         not enforced  resources.cpu-quota   none  150%\n"
    );
    let hold = |host: &Host| {
        assert_eq!(property(host, "MemoryMax"), (512u64 << 20).to_string());
        assert_eq!(property(host, "CPUQuotaPerSecUSec"), "1.500000s");
        assert_eq!(property(host, "TasksMax"), "100");
    };
    hold(&host);
    assert_eq!(host.ok(&["coracle", "apply", "busybox"]), "machine 'busybox' matches its definition\n");
    // The limits are stored only in the definition.
    assert_eq!(host.sh("ls -A /run/systemd/system.control/coracle@busybox.service.d").stdout, "");
    host.sh_ok("systemctl daemon-reload");
    hold(&host);
    host.ok(&["coracle", "restart", "busybox"]);
    hold(&host);
    host.ok(&["coracle", "stop", "busybox"]);
    host.sh_ok("rm -r /etc/coracle/machines.d/busybox.toml.d");
    before.assert_same(&host);
    host.stop();
}

#[test]
fn a_runtime_limit_is_overridden_and_unset() {
    let host = Host::start(&["busybox"]);
    host.ok(&["coracle", "start", "busybox"]);
    host.ok(&["coracle", "set", "busybox", "tasks-max=100", "cpu-quota=150%"]);
    // A persistent setting removes the runtime setting; an empty value removes both.
    host.ok(&["coracle", "set", "--runtime", "busybox", "memory-max=1G"]);
    assert_eq!(property(&host, "MemoryMax"), (1u64 << 30).to_string());
    host.sh_ok("grep -q 1G /run/coracle/machines.d/busybox.toml.d/95-set.toml");
    host.ok(&["coracle", "set", "busybox", "memory-max="]);
    assert_eq!(property(&host, "MemoryMax"), "infinity");
    host.ok(&["coracle", "set", "busybox", "tasks-max=", "cpu-quota="]);
    // The default of the unit.
    assert_eq!(property(&host, "TasksMax"), "16384");
    host.sh_ok("grep -qx TasksMax=16384 $(systemctl show -P FragmentPath coracle@busybox.service)");
    host.sh_ok(
        "[ ! -e /etc/coracle/machines.d/busybox.toml.d ] && [ ! -e /run/coracle/machines.d/busybox.toml.d ]",
    );
    host.stop();
}

#[test]
fn invalid_settings_are_refused() {
    let host = Host::start(&["busybox"]);
    for (bad, why) in [
        ("memroy-max=1", "memory-max"),
        ("memory-max=lots", "memory-max"),
        ("mount=/x:/", "the root of the machine"),
    ] {
        let out = host.exec(&["coracle", "set", "busybox", bad]);
        assert!(out.status != 0 && out.stderr.contains(why), "{out}");
    }
    host.stop();
}

const DEFINITION: &str = "/etc/coracle/machines.d/busybox.toml";
const BIND: &str = "[[mount]]\ntype = \"bind\"\nsource = \"/var/lib/machines/data\"\ntarget = \"/data\"\n";

/// Returns a host with a directory to bind and a running machine that has no definition.
fn running() -> Host {
    let host = Host::start(&["busybox"]);
    host.ok(&["coracle", "start", "busybox"]);
    host.sh_ok("mkdir /var/lib/machines/data && echo hello >/var/lib/machines/data/f");
    host
}

/// Writes the definition and applies it. Returns the number of changed mounts.
#[track_caller]
fn apply_mounts(host: &Host, definition: &str) -> usize {
    host.write(DEFINITION, definition);
    let applied = host.ok(&["coracle", "apply", "busybox"]);
    let is_changed_mount = |line: &&str| line.starts_with("done ") && line.contains("  mount");
    applied.lines().filter(is_changed_mount).count()
}

#[test]
fn apply_changes_what_a_running_machine_can_change() {
    let host = running();
    let settings = "[boot]\nstop-timeout = \"20s\"\n[resources]\ntasks-max = 77\n";
    host.write(DEFINITION, &format!("{settings}{BIND}"));
    let planned = host.ok(&["coracle", "apply", "--dry-run", "busybox"]);
    for line in
        ["not enforced  resources.tasks-max", "restart       boot.stop-timeout", "live          mount"]
    {
        assert!(planned.lines().any(|planned| planned.starts_with(line)), "{line}: {planned}");
    }
    assert_ne!(property(&host, "TasksMax"), "77");
    let done = host.ok(&["coracle", "apply", "busybox"]);
    assert_eq!(done, planned.replace("live ", "done "));
    assert!(
        done.ends_with("restart the machine to apply the other changes: coracle restart busybox\n"),
        "{done}"
    );
    assert_eq!(property(&host, "TasksMax"), "77");
    let rest = host.ok(&["coracle", "apply", "busybox"]);
    assert!(
        !rest.contains("tasks-max") && !rest.contains("mount") && rest.contains("stop-timeout"),
        "{rest}"
    );
    host.stop();
}

#[test]
fn apply_changes_and_removes_bind_mounts() {
    let host = running();
    let inside = |command: &str| host.ok(&["coracle", "exec", "busybox", "--", "sh", "-c", command]);
    let access = "grep ' /data ' /proc/mounts | cut -d' ' -f4 | cut -c1-2";
    assert_eq!(apply_mounts(&host, &format!("{BIND}read-only = true\n")), 1);
    assert_eq!(inside(&format!("cat /data/f; {access}")), "hello\nro\n");
    assert_eq!(apply_mounts(&host, BIND), 2, "removed and added");
    assert_eq!(inside(access), "rw\n");
    assert_eq!(apply_mounts(&host, "[root]\n"), 1);
    assert_eq!(inside("ls -A /data"), "");
    host.stop();
}

#[test]
fn a_reboot_starts_with_the_definition() {
    let host = running();
    host.write(DEFINITION, &format!("[boot]\nstop-timeout = \"20s\"\n{BIND}"));
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
