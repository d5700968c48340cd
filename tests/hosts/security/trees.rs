//! Hostile trees: links, files and swapped directories at the targets of the machine's API file systems and
//! mounts.

use std::time::Duration;

use super::machines::{Machines, install};
use crate::support::Host;

/// The number of rounds of a race.
const ROUNDS: u32 = 40;

/// Creates a tree with the probe for one test, and returns its path.
fn tree(host: &Host, name: &str) -> String {
    host.add_guest("busybox", name);
    install(host, name, "probe");
    format!("/var/lib/machines/{name}")
}

/// A script that prints the state of the mounts and files of the host that an escape would change. Other
/// tests mount network namespaces.
const WATCHED: &str = "cut -d' ' -f4- /proc/1/mountinfo | grep -v -e /run/netns -e /run/credentials | sort | sha256sum; \
    stat -c '%n %F %a %u %Y' /etc /srv /dev/null /etc/passwd /mnt; ls /mnt /srv; sha256sum /etc/passwd";

#[test]
fn links_as_mount_points_stay_in_the_tree() {
    let machines = Machines::shared();
    let host = machines.host();
    let tree = tree(host, "links");
    for name in ["dev", "proc", "sys", "run", "tmp"] {
        for to in
            ["/mnt/victim", "../../../../../../mnt/victim", "/proc/1/root/mnt/victim", "/proc/self/fd/3"]
        {
            host.sh_ok(&format!("cd {tree}; rm -rf {name}; ln -s {to} {name}"));
            let before = host.sh_ok(WATCHED);
            let out = host.exec(&[
                "coracle",
                "run",
                "-q",
                "--console=pipe",
                "--private-users=pick",
                "-D",
                &tree,
                "/bin/true",
            ]);
            assert_eq!(out.status, 125, "{name} -> {to}: {out}");
            assert!(out.stderr.contains(name), "the message names it: {out}");
            assert_eq!(before, host.sh_ok(WATCHED), "{name} -> {to}");
            host.sh_ok(&format!("cd {tree}; rm {name}; mkdir {name}"));
        }
    }
}

#[test]
fn files_of_the_tree_at_dev_and_proc_are_hidden() {
    let machines = Machines::shared();
    let host = machines.host();
    let tree = tree(host, "covered");
    // Links at the paths used for the console and the masks (CVE-2025-31133, CVE-2025-52565).
    host.sh_ok(&format!(
        "cd {tree}; rm -rf dev; mkdir -p dev/pts proc/sys/kernel run/host/inaccessible; \
         ln -s /proc/sys/kernel/core_pattern dev/null; ln -s /proc/sysrq-trigger dev/console; \
         ln -s /proc/sysrq-trigger dev/pts/0; echo fake >proc/uptime; ln -s /proc/kcore run/host/inaccessible/reg"
    ));
    let before = host.sh_ok(WATCHED);
    for users in ["pick", "no"] {
        let users = format!("--private-users={users}");
        let script = "stat -f -c %t /proc /dev /dev/pts /run /tmp; stat -c %F /dev/null; \
                      cat /proc/keys /proc/kcore /proc/timer_list | wc -c; head -c 4 /proc/uptime";
        let out = host.exec(&[
            "coracle",
            "run",
            "-q",
            "--console=pipe",
            "--private-network",
            &users,
            "-D",
            &tree,
            "/bin/sh",
            "-c",
            script,
        ]);
        let lines: Vec<&str> = out.stdout.lines().collect();
        let [proc, dev, pts, run, tmp, null, masked, uptime] = lines[..] else { panic!("{out}") };
        assert_eq!((proc, pts), ("9fa0", "1cd1"), "{out}");
        assert_eq!([dev, run, tmp], ["1021994"; 3], "{out}");
        assert_eq!((null, masked), ("character special file", "0"), "{out}");
        assert_ne!(uptime, "fake", "{out}");
    }
    assert_eq!(before, host.sh_ok(WATCHED));
}

#[test]
fn a_swapped_mount_target_stays_in_the_tree() {
    let machines = Machines::shared();
    let host = machines.host();
    let tree = tree(host, "swapped");
    host.sh_ok(&format!(
        "cd {tree}; mkdir -p srv/a; \
         ln -s ../../../../../../../mnt/victim srv/b"
    ));
    let before = host.sh_ok(WATCHED);
    let swap =
        [&*format!("{tree}/usr/bin/probe"), "swap", &format!("{tree}/srv/a"), &format!("{tree}/srv/b")]
            .map(str::to_owned);
    let mut job = host.spawn(&swap.iter().map(String::as_str).collect::<Vec<_>>());
    job.wait_for_stdout("swapping", Duration::from_secs(10));
    let script = format!(
        "bound=0 refused=0; for i in $(seq {ROUNDS}); do \
         coracle run -q --console=pipe --private-users=pick --bind=/mnt/source:/srv/a/deep/place --tmpfs=/srv/b/other \
         -D {tree} /bin/true 2>/tmp/why && bound=$((bound + 1)) || refused=$((refused + 1)); \
         [ -z \"$(ls /mnt/victim)\" ] || {{ echo ESCAPED; ls -R /mnt/victim; exit 1; }}; done; echo $bound $refused"
    );
    let out = host.exec_for(Duration::from_secs(60), &["sh", "-c", &script]).success("the race");
    job.kill();
    assert!(!out.stdout.contains("ESCAPED"), "{out}");
    assert_eq!(before, host.sh_ok(WATCHED), "{out}");
}
