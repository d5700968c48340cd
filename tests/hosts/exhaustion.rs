//! What a host may run out of while machines come and go: room on its disks, descriptors. What cannot be had is refused
//! by name, nothing is left of it, machines that run go on and can be stopped, and the next start works.
//! `tests/vm.rs` has what belongs to the whole kernel: memory, processes, watches, the clock.

use crate::support::{Host, LONG, Snapshot};

/// Leaves no room in `/run`.
const FILL: &str = "mount -o remount,size=$(( $(df -k --output=used /run | tail -n 1) + 64 ))k /run
    while dd if=/dev/zero of=/run/filler oflag=append conv=notrunc bs=1k count=1 2>/dev/null; do :; done";
const EMPTY: &str = "rm /run/filler; mount -o remount,size=64m /run";

fn bench() -> (Host, Snapshot) {
    let host = Host::builder().guest("busybox").guest_as("busybox", "other").start();
    host.sh_ok("machinectl -q list");
    let before = Snapshot::take(&host);
    host.define("busybox", "");
    host.define("other", "");
    (host, before)
}

/// The start fails, and what is said holds one of these: C libraries have words of their own.
#[track_caller]
fn refused(host: &Host, why: &[&str]) {
    let out = host.exec(&["coracle", "start", "busybox"]);
    assert_ne!(out.status, 0, "{out}");
    assert!(why.iter().any(|why| out.stderr.contains(why)), "{out}");
    host.sh_ok("systemctl reset-failed");
}

/// All is as before, and the next start works.
#[track_caller]
fn recovered(host: Host, before: &Snapshot) {
    host.coracle(&["start", "busybox"]);
    host.wait_for_page(&host.address("busybox"));
    host.coracle(&["stop", "busybox"]);
    host.assert_clean_stop("busybox");
    before.assert_same(&host);
    host.stop();
}

#[test]
fn a_full_run_refuses_a_start_and_no_stop() {
    let (host, before) = bench();
    host.coracle(&["start", "other"]);
    host.sh_ok(FILL);
    for _ in 0..3 {
        refused(&host, &["no space left on device"]);
    }
    host.wait_for_page(&host.address("other"));
    host.coracle(&["exec", "other", "--", "true"]);
    host.coracle(&["stop", "other"]);
    host.sh_ok(EMPTY);
    recovered(host, &before);
}

#[test]
fn a_tree_on_a_full_disk_runs() {
    let (host, before) = bench();
    host.sh_ok(
        "cd /var/lib/machines; cp -a busybox /run/copy; mount -t tmpfs -o size=32m tree busybox
         cp -a /run/copy/. busybox; rm -r /run/copy; dd if=/dev/zero of=busybox/filler bs=4k 2>/dev/null || true",
    );
    host.coracle(&["start", "busybox"]);
    host.wait_for_page(&host.address("busybox"));
    host.coracle(&["stop", "busybox"]);
    host.sh_ok("umount /var/lib/machines/busybox");
    recovered(host, &before);
}

#[test]
fn a_supervisor_without_descriptors_is_refused() {
    let (host, before) = bench();
    let directory = "/run/systemd/system/coracle@busybox.service.d";
    for most in [8, 12, 16, 20] {
        host.write(&format!("{directory}/limit.conf"), &format!("[Service]\nLimitNOFILE={most}\n"));
        host.sh_ok("systemctl daemon-reload");
        refused(&host, &["too many open files", "no file descriptors available"]);
    }
    host.sh_ok(&format!("rm -r {directory}; systemctl daemon-reload"));
    recovered(host, &before);
}

/// What machines take from pools of the kernel that all of them share is bounded for each.
#[test]
fn a_machine_that_takes_what_it_can_get_leaves_enough_for_others() {
    let (host, before) = bench();
    host.define("other", "");
    host.coracle(&["start", "other"]);
    let limits = |machine: &str| {
        let payload = format!("/sys/fs/cgroup/machine.slice/coracle@{machine}.service/payload");
        host.sh_ok(&format!("cd {payload} && cat cgroup.max.descendants cgroup.max.depth"))
    };
    assert_eq!(limits("other"), "8192\n32\n");
    let max = host.coracle(&["exec", "other", "--", "sh", "-c", "grep ' /dev/pts ' /proc/self/mountinfo"]);
    assert!(max.contains("max=1024"), "{max}");
    host.coracle(&["stop", "other"]);

    host.define("other", "[resources]\ncgroups-max = 100\ncgroup-depth-max = 3\nptys-max = 10\n");
    host.coracle(&["start", "other"]);
    assert_eq!(limits("other"), "100\n3\n");
    let fill = "cd /sys/fs/cgroup; i=0; while [ $i -lt 200 ] && mkdir c$i; do i=$((i+1)); done; echo $i cgroups; \
                rmdir c*; mkdir -p a/b/c && echo three; mkdir a/b/c/d || echo no more; \
                echo 100000 >cgroup.max.depth || echo kept; \
                i=0; while [ $i -lt 20 ]; do sleep 300 <>/dev/ptmx & i=$((i+1)); done; sleep 1; \
                ls /dev/pts | grep -c '^[0-9]'; wait";
    let mut filler = host.spawn(&["coracle", "exec", "-T", "other", "--", "sh", "-c", fill]);
    filler.wait_for_stdout("100 cgroups\nthree\nno more\nkept\n10\n", LONG);
    host.coracle(&["start", "busybox"]);
    host.wait_for_page(&host.address("busybox"));
    host.coracle(&["stop", "busybox", "other"]);
    recovered(host, &before);
}
