//! Tests that need a host with its own kernel: limits, AppArmor, the reboot of the host. Run by
//! `make test-vm` and not by `cargo test`; every test has its own virtual machine. Tests that leave the host as it was
//! share one.

#[path = "vm/cases/power_cuts.rs"]
mod power_cuts;
#[path = "vm/cases/protected_images.rs"]
mod protected_images;
#[path = "vm/cases/quotas.rs"]
mod quotas;
mod support;

use std::time::Duration;

use support::{Snapshot, Vm};

pub const LONG: Duration = Duration::from_secs(90);
/// Allocates all but 128 MiB of the available memory as huge pages.
const FILL_MEMORY: &str = r#"available=$(awk '/^MemAvailable:/ { print $2 }' /proc/meminfo)
    sysctl -q vm.nr_hugepages=$(((available - 131072) / 2048))"#;

/// Returns the cgroup of machine `name`. Panics if the cgroup lacks this file: without the controller no
/// limit applies.
#[track_caller]
fn cgroup(vm: &Vm, name: &str, file: &str) -> String {
    let directory = format!("/sys/fs/cgroup/machine.slice/coracle@{name}.service");
    vm.sh(&format!("test -e '{directory}/{file}'")).success("the host has the controller");
    directory
}

fn number(text: &str) -> u64 {
    text.trim().parse().unwrap_or_else(|error| panic!("'{text}' is no number: {error}"))
}

/// Returns the value of a line `key value`, for example of `cpu.stat`.
fn counter(vm: &Vm, file: &str, key: &str) -> u64 {
    number(&vm.sh_ok(&format!("sed -n 's/^{key} //p' '{file}'")))
}

#[test]
fn machines_run_to_their_end() {
    let vm = Vm::start();
    life_cycle(&vm);
    a_systemd_guest_runs(&vm);
    vm.power_off();
}

fn life_cycle(vm: &Vm) {
    assert_eq!(vm.sh_ok("cat /proc/1/comm; systemctl is-system-running"), "systemd\nrunning\n");
    let controllers = vm.sh_ok("cat /sys/fs/cgroup/cgroup.controllers");
    for controller in ["cpu", "io", "memory", "pids"] {
        assert!(controllers.split_whitespace().any(|one| one == controller), "{controllers}");
    }
    vm.sh_ok("machinectl -q list");
    let before = Snapshot::take(vm);
    vm.define("one", "");
    vm.coracle(&["start", "one"]);
    let list = vm.sh_ok("machinectl list --no-legend");
    assert!(list.starts_with("one "), "{list}");
    let status = vm.coracle(&["status", "one"]);
    assert!(status.starts_with("one: running\n"), "{status}");
    assert_eq!(vm.coracle(&["exec", "one", "--", "/usr/bin/hostname"]), "one\n");
    // udev has processed the link, and the host can connect to the address.
    vm.wait_until(LONG, "networkctl --version >/dev/null; ping -c1 -W5 one");
    vm.coracle(&["stop", "one"]);
    assert_eq!(vm.sh_ok("machinectl list --no-legend"), "");
    before.assert_same(vm);
}

/// Layers must be attached to be mounted by a kernel older than Linux 6.15.
#[test]
fn stacks_and_ephemeral_machines_run_on_an_older_kernel() {
    let vm = Vm::start();
    let release = vm.sh_ok("uname -r");
    let version: Vec<u32> =
        release.split(['.', '-']).take(2).map(|part| part.parse().unwrap_or(u32::MAX)).collect();
    assert!(version < vec![6, 15], "{release}: the fallback is not used");
    vm.sh_ok(
        "cd /var/lib/machines; mkdir -p stack.mstack/rw stack.mstack/layer@1/etc stack.mstack/bind@srv
         ln -s /var/lib/machines/busybox stack.mstack/layer@0; echo above >stack.mstack/layer@1/etc/above
         (cd busybox && find . | sort) >/run/before; machinectl -q list",
    );
    let before = Snapshot::take(&vm);
    for users in ["pick", "no"] {
        let stack = "[root]\nstack = \"/var/lib/machines/stack.mstack\"\n[users]";
        vm.define("stack", &format!("{stack}\nprivate = \"{users}\"\n"));
        vm.coracle(&["start", "stack"]);
        vm.sh_ok(
            "coracle exec stack -- sh -c 'set -e; grep above /etc/above; echo x >/new; echo y >/srv/y; rm -f /etc/hostname'",
        );
        vm.coracle(&["stop", "stack"]);
        vm.sh_ok(
            "cd /var/lib/machines/stack.mstack; stat -c %u rw/data/new bind@srv/y | sort -u | grep -x 0",
        );
        for kind in ["disk", "memory"] {
            vm.define(
                "brief",
                &format!(
                    "[root]\ndirectory = \"/var/lib/machines/busybox\"\nephemeral = \"{kind}\"\n[users]\nprivate = \"{users}\"\n"
                ),
            );
            vm.coracle(&["start", "brief"]);
            // A reboot of the guest keeps the changes, but not the files in /run.
            vm.sh_ok("coracle exec brief -- sh -c 'echo x >/new && touch /run/old'; coracle reboot brief");
            vm.wait_until(LONG, "coracle exec brief -- sh -c 'test -e /new && ! test -e /run/old'");
            vm.coracle(&["stop", "brief"]);
        }
    }
    before.assert_same(&vm);
    vm.sh_ok("(cd /var/lib/machines/busybox && find . | sort) | diff /run/before -; ! ls /var/lib/coracle/storage/throwaway/*");
    vm.power_off();
}

fn a_systemd_guest_runs(vm: &Vm) {
    vm.sh_ok("machinectl -q list");
    let before = Snapshot::take(vm);
    vm.define("trixie", "");
    vm.coracle(&["start", "--wait=ready", "trixie"]);
    vm.wait_until(LONG, "test \"$(systemctl -M trixie is-system-running)\" = running");
    let out = vm.sh("systemd-run -M trixie --wait --pipe -q sh -c 'hostname; exit 3'");
    assert_eq!((out.status, out.stdout.as_str()), (3, "trixie\n"), "{out}");
    vm.sh_ok("machinectl poweroff trixie");
    vm.wait_until(LONG, "! systemctl -q is-active coracle@trixie.service");
    assert_eq!(vm.sh_ok("systemctl show -P Result coracle@trixie.service"), "success\n");
    before.assert_same(vm);
}

#[test]
fn limits_apply() {
    let vm = Vm::start();
    memory_max_kills_and_is_reported(&vm);
    a_guest_out_of_memory_fails_as_such(&vm);
    tasks_max_is_enforced(&vm);
    cpu_quota_is_enforced(&vm);
    io_weight_is_set(&vm);
    freezes_and_thaws(&vm);
}

fn memory_max_kills_and_is_reported(vm: &Vm) {
    vm.define("small", "[resources]\nmemory-max = \"64M\"\nmemory-swap-max = 0\n");
    vm.coracle(&["start", "small"]);
    let cgroup = cgroup(vm, "small", "memory.max");
    assert_eq!(number(&vm.sh_ok(&format!("cat {cgroup}/memory.max"))), 64 << 20);
    let hog = ["exec", "small", "--", "/usr/bin/dd", "if=/dev/zero", "of=/dev/null", "bs=200M", "count=1"];
    let out = vm.exec(&[&["coracle"], &hog[..]].concat());
    assert_eq!(out.status, 128 + 9, "{out}");
    assert!(counter(vm, &format!("{cgroup}/memory.events"), "oom_kill") >= 1);
    // The guest is still running.
    vm.wait_until(LONG, "coracle status small | grep 'killed: 1 process, by the out-of-memory killer'");
    vm.coracle(&["stop", "small"]);
}

fn a_guest_out_of_memory_fails_as_such(vm: &Vm) {
    vm.define("hungry", "[resources]\nmemory-max = \"48M\"\nmemory-swap-max = 0\n[boot]\ninit = \"/hog\"\n");
    vm.sh_ok(
        "printf '#!/bin/sh\\necho hog: up\\nsleep 3\\nexec dd if=/dev/zero of=/dev/null bs=200M count=1\\n' \
         >/var/lib/machines/hungry/hog; chmod 755 /var/lib/machines/hungry/hog",
    );
    vm.coracle(&["start", "--wait=running", "hungry"]);
    cgroup(vm, "hungry", "memory.max");
    vm.wait_until(LONG, "test \"$(systemctl show -P ActiveState coracle@hungry.service)\" = failed");
    let status = vm.sh("coracle status hungry");
    assert!(status.stdout.contains("PID 1 was killed by the out-of-memory killer"), "{status}");
}

fn tasks_max_is_enforced(vm: &Vm) {
    vm.define("few", "[resources]\ntasks-max = 40\n");
    vm.coracle(&["start", "few"]);
    let cgroup = cgroup(vm, "few", "pids.max");
    assert_eq!(vm.sh_ok(&format!("cat {cgroup}/pids.max")), "40\n");
    let fork = "i=0; while [ $i -lt 80 ]; do sleep 5 & i=$((i+1)); done; wait";
    let out = vm.exec(&["coracle", "exec", "few", "--", "/bin/sh", "-c", fork]);
    assert!(out.stderr.contains("can't fork"), "{out}");
    assert!(counter(vm, &format!("{cgroup}/pids.events"), "max") >= 1);
    assert!(vm.coracle(&["status", "few"]).starts_with("few: running\n"));
    vm.coracle(&["stop", "few"]);
}

fn cpu_quota_is_enforced(vm: &Vm) {
    vm.define("slow", "[resources]\ncpu-quota = \"20%\"\n");
    vm.coracle(&["start", "slow"]);
    let cgroup = cgroup(vm, "slow", "cpu.max");
    assert_eq!(vm.sh_ok(&format!("cat {cgroup}/cpu.max")), "20000 100000\n");
    let stat = format!("{cgroup}/cpu.stat");
    let (throttled, used) = (counter(vm, &stat, "nr_throttled"), counter(vm, &stat, "usage_usec"));
    let busy =
        ["coracle", "exec", "slow", "--", "/usr/bin/timeout", "10", "/bin/sh", "-c", "while :; do :; done"];
    vm.exec(&busy);
    assert!(counter(vm, &stat, "nr_throttled") > throttled + 10);
    let used = counter(vm, &stat, "usage_usec") - used;
    // A fifth of ten seconds is 2 s; emulated clocks are inexact, so up to 5 s are accepted.
    assert!(used < 5_000_000, "{used} µs in 10 s");
    vm.coracle(&["stop", "slow"]);
}

fn io_weight_is_set(vm: &Vm) {
    vm.define("io", "[resources]\nio-weight = 50\n");
    vm.coracle(&["start", "io"]);
    let cgroup = cgroup(vm, "io", "io.max");
    assert_eq!(vm.sh_ok("systemctl show -P IOWeight coracle@io.service"), "50\n");
    // The kernel has io.weight with the controller iocost, and io.bfq.weight with the BFQ scheduler; one of
    // them exists.
    let weights = vm.sh_ok(&format!("cat {cgroup}/io.weight {cgroup}/io.bfq.weight 2>/dev/null || true"));
    assert!(weights.contains("50"), "no weight in '{weights}'");
    vm.sh_ok("systemctl set-property --runtime coracle@io.service 'IOReadBandwidthMax=/dev/vda 1M'");
    let limits = vm.sh_ok(&format!("cat {cgroup}/io.max"));
    assert!(limits.contains("rbps=1000000"), "{limits}");
    vm.coracle(&["stop", "io"]);
}

fn freezes_and_thaws(vm: &Vm) {
    vm.define("cold", "");
    vm.coracle(&["start", "cold"]);
    let cgroup = cgroup(vm, "cold", "cgroup.freeze");
    vm.sh_ok("systemctl freeze coracle@cold.service");
    assert_eq!(counter(vm, &format!("{cgroup}/cgroup.events"), "frozen"), 1);
    assert!(vm.sh_ok("machinectl list --no-legend").starts_with("cold "));
    let status = vm.exec_for(Duration::from_secs(20), &["coracle", "status", "cold"]);
    assert_eq!(status.status, 0, "{status}");
    vm.sh_ok("systemctl thaw coracle@cold.service");
    assert_eq!(vm.coracle(&["exec", "cold", "--", "/bin/echo", "warm"]), "warm\n");
    vm.coracle(&["stop", "cold"]);
}

#[test]
fn apparmor_confines() {
    let vm = Vm::start();
    runs_with_apparmor_active(&vm);
    machines_have_a_profile_of_apparmor(&vm);
}

fn runs_with_apparmor_active(vm: &Vm) {
    assert_eq!(vm.sh_ok("cat /sys/module/apparmor/parameters/enabled"), "Y\n");
    // AppArmor is active: a profile confines a program of the host.
    vm.sh_ok("cp /usr/bin/cat /usr/local/bin/confined");
    vm.sh_ok("printf '/usr/local/bin/confined {\\n/** mr,\\ndeny /etc/hostname r,\\n}\\n' >/run/p; apparmor_parser -r /run/p");
    assert_ne!(vm.sh("confined /etc/hostname").status, 0);
    vm.sh_ok("confined /etc/os-release");
}

fn machines_have_a_profile_of_apparmor(vm: &Vm) {
    vm.define("trixie", "");
    vm.coracle(&["start", "--wait=ready", "trixie"]);
    // A complete systemd with all its units runs under the profile, which also applies to entering processes.
    vm.wait_until(LONG, "test \"$(systemctl -M trixie is-system-running)\" = running");
    let labels =
        "cat /proc/1/attr/current /proc/self/attr/current; cat /proc/$(pidof systemd-journald)/attr/current";
    let out = vm.exec(&["coracle", "exec", "trixie", "--", "sh", "-c", labels]);
    assert_eq!(out.stdout, "coracle-machine (enforce)\n".repeat(3), "{out}");
    let said = vm.coracle(&["inspect", "--security", "trixie"]);
    assert!(said.contains("it is confined as 'coracle-machine (enforce)'"), "{said}");
    assert!(!vm.sh("coracle doctor").stdout.contains("AppArmor"));
    let log = vm.sh_ok("journalctl -k -q --no-pager -o cat | grep 'apparmor=\"DENIED\"' || true");
    assert_eq!(log, "", "no operation of the system is denied");
    vm.coracle(&["stop", "trixie"]);
    // The rules do not cover a procfs at another path: neither a new mount nor a bind mount is allowed.
    let elsewhere = "mkdir -p /m; mount -t proc p /m 2>/dev/null && echo procfs; \
                     mount -t sysfs s /m 2>/dev/null && echo sysfs; \
                     mount -o bind /proc /m 2>/dev/null && echo bind; \
                     mount -o rbind /sys /m 2>/dev/null && echo sys; \
                     mount -o bind /proc/sys /m 2>/dev/null && echo part; \
                     mount -o bind /usr /m && umount /m && mount -t tmpfs t /m && umount /m && echo tried";
    // If root in the machine is root of the host and unmounts the masks, the profile is the remaining
    // protection.
    let tries = "umount -l /proc/kcore /proc/sysrq-trigger 2>/dev/null; mkdir -p /m; \
                 head -c1 /proc/kcore >/dev/null 2>&1 && echo kcore; mount -t debugfs d /m 2>/dev/null && echo debugfs; \
                 mount -o remount,rw,bind /proc/sys 2>/dev/null; \
                 (echo core >/proc/sys/kernel/core_pattern) 2>/dev/null && echo core_pattern; echo tried";
    for (profile, open) in [("", false), ("apparmor-profile = \"unconfined\"\n", true)] {
        vm.define("same", &format!("[users]\nprivate = \"no\"\n[security]\n{profile}"));
        vm.coracle(&["start", "same"]);
        let out = vm.exec(&["coracle", "exec", "same", "--", "/bin/sh", "-c", tries]);
        assert_eq!(out.stdout != "tried\n", open, "{profile}: {out}");
        let out = vm.exec(&["coracle", "exec", "same", "--", "/bin/sh", "-c", elsewhere]);
        assert_eq!(out.stdout != "tried\n", open, "{profile}: {out}");
        vm.coracle(&["stop", "same"]);
    }
    vm.define("same", "[security]\nnesting = true\n");
    vm.coracle(&["start", "same"]);
    let nested = "cat /proc/self/attr/current; mkdir -p /m; mount -t proc p /m && echo procfs";
    let out = vm.exec(&["coracle", "exec", "same", "--", "/bin/sh", "-c", nested]);
    assert_eq!(out.stdout, "coracle-machine-nesting (enforce)\nprocfs\n", "{out}");
    vm.coracle(&["stop", "same"]);
    vm.define("same", "[security]\napparmor-profile = \"nowhere\"\n");
    let out = vm.exec(&["coracle", "start", "same"]);
    assert!(
        out.status != 0 && out.stderr.contains("cannot use the AppArmor profile 'nowhere': it is not loaded"),
        "{out}"
    );
}

#[test]
fn machines_stop_and_start_with_the_host() {
    let vm = Vm::start();
    for name in ["enabled", "disabled"] {
        vm.define(name, "");
        let files = format!("/var/lib/machines/{name}");
        vm.sh_ok(&format!("printf '#!/bin/sh\\necho down >/var/log/down\\nsync\\n' >{files}/etc/rcK"));
        vm.coracle(&["start", name]);
    }
    vm.coracle(&["enable", "enabled"]);
    vm.sh_ok("systemctl enable coracle.target");
    vm.reboot();
    // Both machines were stopped cleanly, each by its own init.
    for name in ["enabled", "disabled"] {
        vm.sh(&format!("test -s /var/lib/machines/{name}/var/log/down"))
            .success("the guest's own shutdown ran");
        let log = vm.sh_ok(&format!("journalctl -b -1 -q --no-pager -o cat -u coracle@{name}.service"));
        // Busybox prints a SIGKILL of its own; these are the messages of systemd and the supervisor.
        for forced in ["timed out", "with signal SIGKILL", "killing the guest", "did not stop in time"] {
            assert!(!log.contains(forced), "{log}");
        }
    }
    assert_eq!(vm.sh_ok("systemctl is-active coracle.target"), "active\n");
    vm.wait_until(LONG, "test \"$(systemctl is-active coracle@enabled.service)\" = active");
    assert_eq!(vm.sh("systemctl is-active coracle@disabled.service").stdout, "inactive\n");
    assert!(vm.coracle(&["status", "enabled"]).starts_with("enabled: running\n"));
    assert_eq!(vm.coracle(&["exec", "enabled", "--", "/bin/echo", "again"]), "again\n");
    vm.power_off();
}

#[test]
fn a_synced_session_outlasts_a_reboot_of_the_host() {
    let vm = Vm::start();
    vm.define("base", "");
    for (name, option) in [("kept", "--sync"), ("lost", "--tasks-max=99")] {
        vm.coracle(&["build", "begin", "base", &format!("--name={name}"), option]);
        vm.coracle(&["build", "run", name, "--", "sh", "-c", "echo here >/kept; sync"]);
    }
    vm.reboot();
    vm.sh_ok(
        "coracle build list --no-legend | grep -E '^kept .* dead '; if coracle build show lost; then exit 1; fi
         if ls -A /var/lib/coracle/storage/throwaway 2>/dev/null | grep .; then exit 1; fi
         coracle build recover kept; coracle build run kept -- cat /kept | grep -x here; coracle build end kept
         ! ls -A /var/lib/coracle/storage/synced /var/lib/coracle/sessions | grep -v : | grep .",
    );
    vm.power_off();
}

#[test]
fn exhausted_host_resources_are_reported_and_leave_no_state() {
    let vm = Vm::start();
    vm.sh_ok("machinectl -q list");
    let before = Snapshot::take(&vm);
    ["one", "few"].iter().for_each(|name| vm.define(name, ""));
    vm.coracle(&["start", "one"]);
    // Tasks: each limit lets systemd, the supervisor or the guest proceed a little further.
    for most in [3, 4, 8] {
        vm.sh_ok(&format!("systemctl set-property --runtime machine.slice TasksMax={most}"));
        let out = vm.exec(&["coracle", "start", "few"]);
        println!("{most} tasks: {}", out.stderr);
        let said = ["resource temporarily unavailable", "systemd lacked memory, tasks or descriptors"];
        assert!(out.status == 0 || said.iter().any(|said| out.stderr.contains(said)), "{most} tasks: {out}");
        vm.sh_ok("systemctl revert machine.slice; systemctl stop coracle@few; systemctl reset-failed");
        assert_eq!(vm.sh_ok("ls /run/coracle"), "one\n");
    }
    // Watches: a machine does not require them.
    vm.sh_ok("sysctl -q fs.inotify.max_user_instances=1");
    vm.coracle(&["start", "few"]);
    vm.coracle(&["stop", "few"]);
    // A guest of systemd with the ids of root does, and the installed limit is enough.
    vm.define("trixie", "[users]\nprivate = \"no\"\n");
    let out = vm.exec(&["coracle", "start", "trixie"]);
    assert!(out.status == 1 && out.stderr.contains("inotify instances exhausted"), "{out}");
    let diagnosis = vm.exec(&["coracle", "doctor", "trixie"]);
    let cure = "hint: sysctl -w fs.inotify.max_user_instances=8192";
    assert!(
        diagnosis.stdout.contains("inotify instances exhausted") && diagnosis.stdout.contains(cure),
        "{diagnosis}"
    );
    vm.sh_ok("systemctl restart systemd-sysctl; grep -x 8192 /proc/sys/fs/inotify/max_user_instances");
    vm.coracle(&["start", "--wait=ready", "trixie"]);
    assert!(!vm.exec(&["coracle", "doctor"]).stdout.contains("inotify"));
    vm.coracle(&["stop", "trixie"]);
    vm.sh_ok("rm /etc/coracle/machines.d/trixie.toml; sysctl -q fs.inotify.max_user_instances=128");
    // Memory: the out-of-memory killer kills the process that fills the memory, not a supervisor. Huge pages
    // take most of the memory first, because filling it is slow under emulation.
    vm.sh_ok(FILL_MEMORY);
    let out = vm.sh("systemd-run --quiet --collect --wait -p OOMPolicy=continue tail /dev/zero");
    vm.sh_ok("sysctl -q vm.nr_hugepages=0");
    assert!(out.status != 0 && out.status != 124, "{out}");
    let kernel = vm.sh_ok("journalctl -k -q --no-pager -o cat");
    assert!(kernel.contains("Out of memory"), "{out}\n{kernel}");
    assert_eq!(vm.coracle(&["exec", "one", "--", "/bin/echo", "there"]), "there\n");
    // The clock: no timeout of Coracle depends on it.
    for jump in ["+400 days", "-800 days"] {
        vm.sh_ok(&format!("date -s '{jump}'"));
        assert!(vm.coracle(&["status", "one"]).starts_with("one: running\n"));
        vm.coracle(&["start", "few"]);
        vm.coracle(&["stop", "few"]);
    }
    assert_eq!(vm.coracle(&["exec", "one", "--", "/bin/echo", "there"]), "there\n");
    vm.coracle(&["stop", "one"]);
    before.assert_same(&vm);
}
