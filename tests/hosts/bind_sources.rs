//! Bind mounts of a definition and of options: the owners of their files inside, sources in the root, and temporary
//! directories. Each case of owners also runs with the systemd-nspawn of the host.

use crate::support::Host;

const TREE: &str = "/var/lib/machines/web";
const SOURCE: &str = "/var/lib/machines/.data";

fn host() -> Host {
    let host = Host::builder().guest_as("busybox", "web").on_disk().start();
    host.sh_ok(&format!(
        "mkdir -m 700 /var/lib/machines/.storage; mkdir -p /var/lib/coracle
         ln -s /var/lib/machines/.storage /var/lib/coracle/storage; mkdir -m 755 {SOURCE}; cd {SOURCE}; echo text >file; mkdir sub; chown -R 1000:1000 .; touch root
         mkdir {TREE}/target; chown 33:33 {TREE}/target; ln -s /usr/bin {TREE}/programs"
    ));
    host
}

#[test]
fn owners_of_bind_mounts_are_mapped_as_by_systemd_nspawn() {
    let host = host();
    let has_owneridmap =
        host.sh_ok("systemctl --version | head -1").split(' ').nth(1).unwrap().parse::<u32>().unwrap() > 255;
    let script =
        "stat -c %u /target /target/file /target/root; touch /target/new 2>/dev/null || echo refused";
    for users in ["--private-users=pick", "--private-users=no"] {
        for (option, inside, owner) in [
            ("rootidmap", "0 0 65534", "1000"),
            ("owneridmap", "33 33 65534", ""),
            ("idmap", "1000 1000 0", "0"),
        ] {
            let run = |manager: &str| {
                let options = format!("--bind={SOURCE}:/target:{option} {users}");
                let seen = host.sh_ok(&format!("{manager} -q -D {TREE} {options} sh -c '{script}'"));
                let created =
                    host.sh_ok(&format!("cd {SOURCE}; stat -c %u new 2>/dev/null || true; rm -f new"));
                (seen.split_whitespace().collect::<Vec<_>>().join(" "), created.trim().to_owned())
            };
            let (seen, created) = run("coracle run");
            assert!(seen.starts_with(inside), "{users} {option}: {seen}");
            assert_eq!(created, owner, "{users} {option}");
            // Before 256 its rootidmap fails, as its idmap does, without a user namespace.
            if users.ends_with("pick") && (has_owneridmap || option != "owneridmap") {
                let (of_nspawn, created) =
                    run("systemd-nspawn --register=no --keep-unit -P --timezone=off --link-journal=no");
                assert!(of_nspawn.starts_with(inside), "{users} {option}: {of_nspawn}");
                assert_eq!(created, owner, "{users} {option}");
            }
        }
    }
}

#[test]
fn sources_are_in_the_root_or_temporary() {
    let host = host();
    host.define(
        "web",
        "[[mount]]\nsource = \"+/programs\"\ntarget = \"/tools/all\"\nread-only = true\n\
         [[mount]]\nsource = \"temporary\"\ntarget = \"/scratch\"\n[[mount]]\nsource = \"temporary\"\ntarget = \"/var/www\"\n",
    );
    host.coracle(&["check"]);
    host.coracle(&["start", "web"]);
    let inside = |script: &str| host.in_guest("web", &["sh", "-euc", script]).success(script).stdout;
    inside("/tools/all/busybox true; ! touch /tools/all/x 2>/dev/null");
    inside(
        "echo kept >/scratch/file; mkdir /var/www/new; stat -c %u /scratch /scratch/file | uniq | grep -x 0",
    );
    inside("test -z \"$(ls -A /var/www | grep -v new)\"; ! grep ' /scratch tmpfs' /proc/mounts");
    let leader = host.machine_leader("web");
    host.coracle(&["reboot", "web"]);
    host.wait_for_reboot("web", leader);
    assert_eq!(inside("cat /scratch/file"), "kept\n");
    let left = "ls -A /var/lib/machines/.storage/throwaway 2>/dev/null | wc -l";
    assert_eq!(host.sh_ok(left).trim(), "1");
    host.coracle(&["stop", "web"]);
    assert_eq!(host.sh_ok(left).trim(), "0");
    host.sh_ok(&format!("test -z \"$(ls -A {TREE}/scratch)\"; ls {TREE}/var/www/index.html"));
    for options in [
        "--bind=+/usr:/data --bind-ro=:/empty",
        "-U --bind=+/usr:/data --bind=:/empty",
        "-x --bind=+/usr:/data --bind=:/empty",
    ] {
        let seen = host.sh_ok(&format!(
            "coracle run -q -D {TREE} {options} sh -c 'ls /data/bin/busybox; ls -A /empty; stat -c %u /empty'"
        ));
        assert_eq!(seen, "/data/bin/busybox\n0\n", "{options}");
    }
    let missing = host.sh(&format!("coracle run -q -D {TREE} --bind=+/missing:/data true"));
    assert!(
        missing.status != 0 && missing.stderr.contains("bind source '/missing' of the machine"),
        "{missing}"
    );
    // A killed one leaves nothing after the cleanup.
    host.sh_ok(&format!("(coracle run -q -M web -D {TREE} --bind=:/empty sleep 100 & echo $! >/tmp/pid); sleep 1; pid=$(cat /tmp/pid); kill -9 $pid; while kill -0 $pid 2>/dev/null; do sleep 0.1; done"));
    host.sh_ok("coracle cleanup web");
    assert_eq!(host.sh_ok(left).trim(), "0");
}

#[test]
fn mount_points_may_be_links_and_hidden_paths_exist() {
    let host = host();
    host.sh_ok(&format!(
        "cd {TREE}; ln -sf ../run/resolver/file etc/resolv.conf; ln -s /srv/new/below link; ln -s ../../../../etc/escaped up"
    ));
    let out = host.sh_ok(&format!(
        "coracle run -q -U -D {TREE} --resolv-conf=off --bind-ro={SOURCE}/file:/etc/resolv.conf --bind={SOURCE}:/link --tmpfs=/up \
         sh -c 'cat /run/resolver/file /etc/resolv.conf; ls /srv/new/below/file; grep -c \" /etc/escaped tmpfs\" /proc/mounts'"
    ));
    assert_eq!(out, "text\ntext\n/srv/new/below/file\n1\n");
    host.sh_ok(&format!("test ! -e /etc/escaped; test -d {TREE}/etc/escaped"));
    let missing = host.sh(&format!("coracle run -q -D {TREE} --inaccessible=/missing true"));
    assert!(missing.status != 0 && missing.stderr.contains("'/missing'"), "{missing}");
}

#[test]
fn two_machines_share_a_unit() {
    let host = host();
    host.add_guest("busybox", "other");
    let script = "trap 'kill -9 $first 2>/dev/null || true' EXIT
        run() { coracle run -q --keep-unit --register=no -D /var/lib/machines/$1 sh -c \"$2\"; }
        run web 'echo up; while ! [ -e /end ]; do sleep 0.1; done; echo ended' >/tmp/first & first=$!
        while ! grep -q up /tmp/first; do sleep 0.1; done
        run other 'cat /proc/self/cgroup; test -d /sys/fs/cgroup' | grep -x 0::/; grep -v ended /tmp/first
        touch /var/lib/machines/web/end; wait $first; grep ended /tmp/first
        find /sys/fs/cgroup/system.slice/two.service -mindepth 1 -type d";
    host.write("/usr/local/bin/two", &format!("#!/bin/sh\nset -eu\n{script}\n"));
    let out =
        host.sh_ok("chmod 755 /usr/local/bin/two; systemd-run --wait -q -P --unit=two -p Delegate=yes two");
    assert_eq!(out, "0::/\nup\nended\n/sys/fs/cgroup/system.slice/two.service/supervisor\n");
}

#[test]
fn a_directory_inside_becomes_the_root() {
    let host = host();
    host.sh_ok(&format!(
        "cd {TREE}; mkdir -p deploy/1/sysroot deploy/1/old; ln -s /deploy/1 current
         cp -a bin sbin lib* usr etc deploy/1/ 2>/dev/null || true; echo new >deploy/1/marker; echo old >marker"
    ));
    for (users, manager) in [
        ("", "systemd-nspawn --register=no --keep-unit -P --link-journal=no --timezone=off"),
        ("", "coracle run"),
        ("-U", "coracle run"),
    ] {
        let run = |pivot: &str, script: &str| {
            host.sh_ok(&format!(
                "{manager} -q -D {TREE} {users} --pivot-root={pivot} sh -c '{script}' </dev/null"
            ))
        };
        assert_eq!(
            run("/deploy/1:/sysroot", "cat /marker /sysroot/marker; touch /new /sysroot/new"),
            "new\nold\n"
        );
        host.sh_ok(&format!("cd {TREE}; rm new deploy/1/new"));
        assert_eq!(run("/deploy/1", "cat /marker; ls -A /sysroot /old"), "new\n/old:\n\n/sysroot:\n");
    }
    host.define("web", "[root]\npivot = \"/current:/sysroot\"\nread-only = true\n");
    host.coracle(&["start", "web"]);
    let script =
        "cat /marker /sysroot/marker; touch /x 2>/dev/null || touch /sysroot/x 2>/dev/null || echo read-only";
    assert_eq!(host.in_guest("web", &["sh", "-c", script]).stdout, "new\nold\nread-only\n");
    host.coracle(&["stop", "web"]);
    for (option, expected) in [
        ("--pivot-root=/missing", "cannot find the root '/missing'"),
        ("--pivot-root=/", "is the root already"),
        ("-x --pivot-root=/deploy/1", "exclude each other"),
    ] {
        let refused = host.sh(&format!("coracle run -q -D {TREE} {option} true"));
        assert!(refused.status != 0 && refused.stderr.contains(expected), "{refused}");
    }
}
