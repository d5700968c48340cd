//! `resources.visible`: files of lxcfs in a machine, from Debian's package. Most nested hosts have no controllers
//! of cgroups, so that lxcfs shows the memory of the host; the uptime is that of the machine everywhere.

use crate::support::{Host, LONG, Snapshot, trees};

/// The mount point of the package's files.
const PACKAGE: &str = "/opt/lxcfs";

fn uptime(host: &Host, command: &[&str]) -> f64 {
    let text = host.ok(&[command, &["cat", "/proc/uptime"]].concat());
    text.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or_else(|| panic!("{text}"))
}

#[test]
fn a_guest_sees_its_own_limits() {
    let tree = trees::tree("lxcfs");
    let host =
        Host::builder().guest("busybox").guest("trixie").bind(&tree.display().to_string(), PACKAGE).start();
    host.define("busybox", "[resources]\nvisible = true\n");
    // Without lxcfs nothing is changed, and a running machine goes on.
    let message = "resources.visible requires lxcfs: '/var/lib/lxcfs/proc/meminfo' does not exist";
    let refused = host.exec(&["coracle", "start", "busybox"]);
    assert!(refused.status == 1 && refused.stderr.contains(message), "{refused}");
    assert!(refused.stderr.contains("install lxcfs"), "{refused}");
    let checked = host.exec(&["coracle", "check", "busybox"]);
    assert!(checked.status == 0 && checked.stdout.contains(message), "{checked}");
    host.define("busybox", "");
    host.coracle(&["start", "busybox"]);
    let leader = host.machine_leader("busybox");
    host.define("busybox", "[resources]\nvisible = true\n");
    let left = host.exec(&["coracle", "restart", "busybox"]);
    assert!(
        left.status == 1 && left.stderr.contains("was left running") && left.stderr.contains(message),
        "{left}"
    );
    assert_eq!(host.machine_leader("busybox"), leader);
    host.coracle(&["stop", "busybox"]);

    let libraries = format!("{PACKAGE}/usr/lib/x86_64-linux-gnu");
    host.sh_ok(&format!(
        "mkdir -p /var/lib/lxcfs; systemd-run -q --unit lxcfs -p Environment=LD_LIBRARY_PATH={libraries}:{libraries}/lxcfs \
         {PACKAGE}/usr/bin/lxcfs /var/lib/lxcfs"
    ));
    host.wait_until(LONG, "test -e /var/lib/lxcfs/proc/meminfo");
    host.activate_machined();
    host.define("trixie", "[resources]\nvisible = true\nmemory-max = \"256M\"\n");
    let before = Snapshot::take(&host);
    for name in ["busybox", "trixie"] {
        host.coracle(&["start", "--wait=ready", name]);
        let mounts = host.ok(&["coracle", "exec", name, "--", "cat", "/proc/mounts"]);
        for file in ["/proc/meminfo", "/proc/uptime", "/proc/stat", "/proc/cpuinfo"] {
            assert!(
                mounts.lines().any(|line| line.starts_with(&format!("lxcfs {file} fuse.lxcfs ro"))),
                "{mounts}"
            );
            host.ok(&["coracle", "exec", name, "--", "cat", file]);
        }
        assert!(uptime(&host, &["coracle", "exec", name, "--"]) + 0.5 < uptime(&host, &[]), "{name}");
        // Root inside sees no other file there.
        let removed = host.exec(&["coracle", "exec", name, "--", "umount", "/proc/meminfo"]);
        assert_ne!(removed.status, 0, "{removed}");
    }
    let free = host.ok(&["coracle", "exec", "busybox", "--", "free", "-m"]);
    assert!(free.contains("Mem:"), "{free}");
    // Where the host has the controller.
    if host.exec(&["grep", "-q", "memory", "/sys/fs/cgroup/cgroup.controllers"]).status == 0 {
        let total = host.ok(&["coracle", "exec", "trixie", "--", "grep", "MemTotal", "/proc/meminfo"]);
        assert!(total.contains("262144 kB"), "{total}");
    }
    host.coracle(&["stop", "busybox", "trixie"]);
    before.assert_same(&host);
    host.sh_ok("systemctl stop lxcfs");
    host.stop();
}
