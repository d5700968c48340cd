//! The probe in a machine: compares the access of root, point by point, with the documented access.

use super::machines::{Machines, install};

/// Returns the open points in the output of the probe, by weight: high, medium, low.
pub fn open(said: &str) -> [Vec<String>; 3] {
    assert!(said.lines().any(|line| line.starts_with("total\t")), "it did not come to its end: {said}");
    ["high", "medium", "low"].map(|weight| {
        let points = said.lines().map(|line| line.split('\t').collect::<Vec<_>>());
        let open = points.filter(|words| words[0] == "open" && words[1] == weight);
        open.map(|words| words[2].to_owned()).collect()
    })
}

/// Asserts that the probe has checked the given points, and found them closed.
#[track_caller]
pub fn assert_closed(said: &str, points: &[&str]) {
    for point in points {
        let line = said.lines().find(|line| line.split('\t').nth(2) == Some(point));
        assert!(line.is_some_and(|line| line.starts_with("closed\t")), "{point}: {line:?}");
    }
}

/// The points that may be open: mountinfo shows the path of the tree on the file system of the host, and
/// binfmt_misc, if the kernel mounts it in a user namespace, belongs to the machine (Linux 6.7).
const MEDIUM: [&str; 2] = ["paths of the host in mountinfo", "mounts binfmt_misc"];
const LOW: [&str; 0] = [];

#[test]
fn open_points_are_the_expected_ones() {
    let machines = Machines::shared();
    let out = machines.inside("own", &["probe"]).success("the probe");
    let [high, medium, low] = open(&out.stdout);
    assert_eq!(high, [""; 0]);
    assert!(medium.iter().all(|point| MEDIUM.contains(&point.as_str())), "{medium:?}");
    assert!(low.iter().all(|point| LOW.contains(&point.as_str())), "{low:?}");
}

#[test]
fn root_inside_cannot_unmount_masks() {
    let machines = Machines::shared();
    let out = machines.inside("own", &["probe"]).success("the probe");
    let points = [
        "masks come off",
        "what is read-only becomes writable",
        "fresh procfs without masks",
        "reads /proc/keys",
        "reads timer_list",
        "reads interrupts",
        "reads kcore",
    ];
    assert_closed(&out.stdout, &points);
    let script = "for f in /proc/keys /proc/timer_list /proc/interrupts /proc/scsi; do \
                  umount -l $f 2>&1 | head -1; cat $f 2>/dev/null | head -c 20; done";
    let out = machines.sh("own", script);
    assert!(!out.stdout.contains(':') || out.stdout.contains("umount:"), "{out}");
    // Without a user namespace the mounts are not locked: the masks can be unmounted, and the probe reports
    // it.
    let out = machines.inside("same", &["probe"]).success("the probe");
    let line = out.stdout.lines().find(|line| line.split('\t').nth(2) == Some("masks come off"));
    assert!(line.is_some_and(|line| line.starts_with("open\t")), "{line:?}");
}

#[test]
fn without_a_user_namespace_root_has_no_further_access() {
    let machines = Machines::shared();
    let out = machines.inside("same", &["probe"]).success("the probe");
    let [high, ..] = open(&out.stdout);
    assert_eq!(high, ["root is the host's root"]);
}

#[test]
fn cgroup_v1_cannot_be_mounted() {
    let machines = Machines::shared();
    for machine in ["own", "same"] {
        let out = machines.inside(machine, &["probe"]).success("the probe");
        assert_closed(&out.stdout, &["release_agent (cgroup v1)"]);
        let script = "mkdir -p /tmp/c && for with in memory none,name=x rdma; do mount -t cgroup -o $with c /tmp/c && \
                      ls -l /tmp/c/release_agent; done; echo tried; cat /proc/self/cgroup";
        let out = machines.sh(machine, script);
        assert!(out.stdout.contains("tried") && !out.stdout.contains("release_agent"), "{out}");
        let own = out.stdout.lines().find(|line| line.starts_with("0::")).unwrap_or_default();
        assert!(!own.contains("..") && !own.contains("machine"), "{out}");
    }
}

#[test]
fn socketcall_exists_only_for_32_bit_programs() {
    let machines = Machines::shared();
    for machine in ["own", "same"] {
        let out = machines.inside(machine, &["probe"]).success("the probe");
        let points = ["AF_VSOCK by socketcall", "AF_ALG by socketcall", "audit by socketcall"];
        assert_closed(&out.stdout, &points);
        let shown = machines.host().coracle(&["inspect", machine]);
        assert!(shown.contains("socketcall(2): no"), "{shown}");
    }
    install(machines.host(), "own", "narrow");
    let narrow = |words: &[&str]| machines.host().exec(&[words, &["/usr/bin/narrow"]].concat()).status;
    // The call fails with ENOSYS in a machine with a 64-bit init.
    assert_eq!(narrow(&["coracle", "exec", "-T", "own", "--"]), 38);
    machines.host().sh_ok("cp -a /var/lib/machines/own /var/lib/machines/narrow");
    let run = ["coracle", "run", "-q", "-D", "/var/lib/machines/narrow"];
    assert_eq!(narrow(&run), 0);
    assert_eq!(narrow(&[&run[..], &["--system-call-filter=~socketcall"]].concat()), 1);
    let in_shell = |more: &[&str]| {
        let words = [&run[..], more, &["sh", "-c", "exec /usr/bin/narrow"]].concat();
        machines.host().exec(&words).status
    };
    assert_eq!(in_shell(&[]), 38);
    assert_eq!(in_shell(&["--system-call-filter=socketcall"]), 0);
    machines.host().sh_ok("rm -r /var/lib/machines/narrow");
}

#[test]
fn terminal_injection_is_refused_by_all_interfaces() {
    let machines = Machines::shared();
    for machine in ["own", "same"] {
        let out = machines.inside(machine, &["probe"]).success("the probe");
        let points = [
            "types into terminals",
            "types into terminals, high bits",
            "pastes on consoles",
            "pastes on consoles, high bits",
            "i386 calls beside the filter",
            "x32 calls beside the filter",
        ];
        assert_closed(&out.stdout, &points);
    }
}
