//! Owners of files on the disk: trees of other container managers, and the change of owners. Each result is
//! also run by the systemd-nspawn of the host.

use crate::support::Host;

const TREE: &str = "/var/lib/machines/web";
/// Ids of no other range: the first one of a machine, that of LXC, and the foreign ones of systemd.
const RANGES: [u32; 3] = [2_058_485_760, 100_000, 2_147_352_576];

/// Starts a host with a tree and a program that lists the owners of its files, less a number.
fn host() -> Host {
    let host = Host::builder().guest_as("busybox", "web").on_disk().start();
    host.write(
        "/usr/local/bin/owners",
        &format!(
            "#!/bin/sh\ncd {TREE} && find . -printf '%p %m %U %G\\n' | sort | \
             awk -v base=$1 '{{print $1, $2, $3 - base, $4 - base}}'\n"
        ),
    );
    host.sh_ok(&format!(
        "mkdir -m 700 /var/lib/machines/.storage; mkdir -p /var/lib/coracle
         ln -s /var/lib/machines/.storage /var/lib/coracle/storage; chmod 755 /usr/local/bin/owners; cd {TREE}; mkdir srv; touch srv/file srv/setuid
         chown 1000:7 srv/file srv/setuid; chmod 4751 srv/setuid; ln -s /etc/passwd srv/link; owners 0 >/tmp/before"
    ));
    host
}

/// Runs a script in the tree with options, by Coracle or by the systemd-nspawn of the host. Returns its output.
#[track_caller]
fn run(host: &Host, manager: &str, options: &str, script: &str) -> String {
    host.sh_ok(&format!("{manager} -q -D {TREE} {options} sh -c '{script}' </dev/null"))
}

const CORACLE: &str = "coracle run";
const NSPAWN: &str = "systemd-nspawn --register=no --keep-unit --pipe --timezone=off --link-journal=no";

#[test]
fn trees_with_owners_in_any_range_are_mapped() {
    let host = host();
    host.define("web", "");
    let mut before = 0;
    for base in RANGES {
        host.sh_ok(&format!(
            "cd {TREE}; find . -printf '%U %G %p\\n' >/tmp/owners; while read -r uid gid name; do \
             chown -h $((uid - {before} + {base})):$((gid - {before} + {base})) \"$name\"; done </tmp/owners; chmod 4751 srv/setuid
             owners {base} | diff /tmp/before -"
        ));
        // Another machine has the range, so that it cannot be adopted.
        host.sh_ok(&format!("mkdir -p /var/lib/coracle/ids; echo other >/var/lib/coracle/ids/{base}"));
        host.coracle(&["start", "web"]);
        let used = host.property("web", "id-base");
        assert_ne!(used, base.to_string());
        let script = "touch /new; stat -c %u:%g /srv/file /new /etc/hosts";
        assert_eq!(host.in_guest("web", &["sh", "-c", script]).stdout, "1000:7\n0:0\n0:0\n", "{base}");
        let leader = host.machine_leader("web");
        host.coracle(&["reboot", "web"]);
        host.wait_for_reboot("web", leader);
        assert_eq!(host.property("web", "id-base"), used);
        host.in_guest("web", &["touch", "/again"]).success("write after a reboot");
        host.coracle(&["stop", "web"]);
        host.sh_ok(&format!(
            "cd {TREE}; stat -c %u:%g new again | uniq | grep -x {base}:{base}; rm new again /var/lib/coracle/ids/{base}"
        ));
        before = base;
        let script = "stat -c %u:%g /srv/file; touch /run/new";
        assert_eq!(run(&host, CORACLE, "-x --private-users=pick", script), "1000:7\n");
    }
}

#[test]
fn the_owner_of_the_root_gives_the_range() {
    let host = host();
    let shift = |base: u32| {
        run(
            &host,
            CORACLE,
            &format!("--private-users={base} --private-users-ownership=chown"),
            "stat -c %u:%g /srv/file; touch /srv/file",
        )
    };
    let range =
        "cut -d: -f1 /etc/passwd | head -1; cat /proc/self/uid_map; stat -c %u:%g /srv/file; touch /srv/file";
    for base in [655_360_000, 65536 * 31_000] {
        assert_eq!(shift(base), "1000:7\n");
        host.sh_ok(&format!("owners {base} | diff /tmp/before -"));
        for manager in [CORACLE, NSPAWN] {
            for option in ["--private-users", "--private-users=yes"] {
                let seen = run(&host, manager, option, range);
                let words: Vec<&str> = seen.split_whitespace().collect();
                assert_eq!(words[1..], ["0", &base.to_string(), "65536", "1000:7"], "{manager} {option}");
            }
        }
    }
    host.sh_ok(&format!("chgrp 65536 {TREE}"));
    let refused = host.sh(&format!("coracle run -q -D {TREE} --private-users true"));
    assert!(refused.status != 0 && refused.stderr.contains("not in one range"), "{refused}");
    host.sh_ok(&format!("chown 0:0 {TREE}"));
    let seen = run(&host, CORACLE, "--private-users", "cat /proc/self/uid_map");
    assert_eq!(seen.split_whitespace().collect::<Vec<_>>(), ["0", "0", "65536"]);
}

#[test]
fn owners_are_changed_when_asked_for() {
    let host = host();
    host.define("web", "[users]\nownership = \"chown\"\n");
    host.coracle(&["check"]);
    host.coracle(&["start", "web"]);
    let base = host.property("web", "id-base");
    assert!(host.unit_journal("web").contains("changing the owners of the files"));
    let script = "stat -c %u:%g:%a /srv/setuid; touch /new";
    assert_eq!(host.in_guest("web", &["sh", "-c", script]).stdout, "1000:7:4751\n");
    host.coracle(&["stop", "web"]);
    host.sh_ok(&format!(
        "cd {TREE}; rm new; owners {base} | grep -v '^./etc/hosts ' >/tmp/after
        grep -v '^./etc/hosts ' /tmp/before | diff - /tmp/after"
    ));
    // The host's systemd-nspawn finds nothing to change, and gives the files back.
    let options = format!("--private-users={base} --private-users-ownership=chown");
    assert_eq!(run(&host, NSPAWN, &options, "stat -c %u:%g:%a /srv/setuid"), "1000:7:4751\n");
    for (options, key) in [
        ("--read-only", "root.read-only"),
        ("--volatile=state", "root.volatile"),
        ("--private-users=65536:70000", "65536 user ids"),
    ] {
        let command = format!(
            "coracle run -q -D {TREE} --private-users=pick {options} --private-users-ownership=chown true"
        );
        let refused = host.sh(&command);
        assert!(refused.status != 0 && refused.stderr.contains(key), "{options}: {refused}");
    }
    // A root that is not written to stays as it is.
    host.sh_ok(&format!("owners 0 >/tmp/now; coracle run -q -x -D {TREE} --private-users=1966080000 --private-users-ownership=chown \
        sh -c 'stat -c %u:%g /srv/file' | grep -x 1000:7; owners 0 | diff /tmp/now -"));
}

#[test]
fn an_interrupted_change_of_owners_continues() {
    let host = host();
    host.sh_ok(&format!("cd {TREE}; mkdir many; cd many; seq 20000 | xargs touch; owners 0 >/tmp/before"));
    let command =
        format!("coracle run -q -D {TREE} --private-users=655360000 --private-users-ownership=chown true");
    for _ in 0..20 {
        host.sh_ok(&format!(
            "{command} & pid=$!; sleep 0.0$(shuf -i 1-9 -n 1); kill -9 $pid 2>/dev/null || true; wait $pid 2>/dev/null || true"
        ));
    }
    host.sh_ok(&format!("{command}; owners 655360000 >/tmp/after; diff /tmp/before /tmp/after"));
}
