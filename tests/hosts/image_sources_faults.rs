//! `pull`, `import` and `create` that are killed or fail at their system calls, or whose disk is full: the image exists
//! afterwards, or nothing of it. `cargo test` tries a sample of the calls, and all of them with CORACLE_FAULTS=all.

use crate::archives::has_no_drafts;
use crate::oci::with_images;
use crate::pull::{Servers, log_in};
use crate::support::{Host, program};

/// The number of faults in a sample, per mode.
const SAMPLE: usize = 7;
/// The first calls are those of the loader.
const FIRST: usize = 40;
/// A recipe that copies a small tree.
const RECIPE: &str = "suite = 'one'
packages = ['init']
keyring = ['/usr/lib/os-release']
keyring-package = 'none'

[architectures]
x86_64 = 'amd64'
aarch64 = 'arm64'

[[step]]
program = 'cp'
package = 'coreutils'
arguments = ['-aT', '/run/source', '{tree}']
";

/// What a command may leave that was killed: nothing, after the next verb.
const EMPTY: &str = "cd /var/lib/coracle/storage; \
     ! ls -d /var/lib/machines/web* /var/lib/machines/.#web* layers/* redo/* tmp/* trash/* bases/* snapshots/* 2>/dev/null | grep .";

/// Tries faults in a command that creates the image `web`.
fn try_faults(host: &Host, command: &str) {
    let tool = host.machines().join("faulty");
    std::fs::copy(program::build("tests/faults/faulty.c", &[]), tool).expect("copy the tool");
    let run = |mode: &str, call: usize| {
        host.sh(&format!(
            "/var/lib/machines/faulty {mode} 0 {call} /run/faulty.out /usr/bin/coracle {command}"
        ))
    };
    // An image, and the base that stays for further ones.
    let discard = "coracle remove web; rm -rf /var/lib/coracle/storage/bases/*; coracle prune >/dev/null";
    run("count", 0);
    let calls = host.read("/run/faulty.out").lines().filter(|line| line.starts_with("0 ")).count();
    assert!(calls > 200, "{command}: {calls} calls");
    host.sh_ok(discard);
    host.sh_ok(EMPTY);
    let all = std::env::var_os("CORACLE_FAULTS").is_some();
    let stride = if all { 1 } else { (calls - FIRST) / SAMPLE };
    for (mode, offset) in [("kill", 0), ("error", stride / 2)] {
        for call in (FIRST + offset..calls).step_by(stride) {
            host.sh_ok("rm -f /run/faulty.out");
            run(mode, call);
            host.sh_ok("coracle prune >/dev/null");
            if host.sh("ls -d /var/lib/machines/web*").status == 0 {
                // It is complete.
                host.sh_ok("coracle verify web; coracle run -q -x -M web -- /bin/busybox true");
                host.sh_ok(discard);
            }
            host.sh_ok("rm -rf /var/lib/coracle/storage/bases/*; coracle prune >/dev/null");
            host.sh_ok(EMPTY);
        }
    }
}

#[test]
fn a_killed_or_failed_pull_leaves_nothing() {
    let (host, images) = with_images();
    let servers = Servers::start(&host, &images);
    log_in(&host);
    servers.set_mode("plain");
    try_faults(&host, "pull localhost:5001/team/three:1 web");
    drop(servers);
    host.stop();
}

#[test]
fn a_killed_or_failed_replacement_keeps_one_of_both_images() {
    let (host, images) = with_images();
    let servers = Servers::start(&host, &images);
    log_in(&host);
    host.sh_ok("coracle pull localhost:5000/team/run:1 web; coracle clone --exact web golden");
    std::fs::copy(program::build("tests/faults/faulty.c", &[]), host.machines().join("faulty"))
        .expect("copy the tool");
    let run = |mode: &str, call: usize| {
        host.sh(&format!(
            "/var/lib/machines/faulty {mode} 0 {call} /run/faulty.out /usr/bin/coracle pull --force localhost:5000/team/one web"
        ))
    };
    run("count", 0);
    let calls = host.read("/run/faulty.out").lines().filter(|line| line.starts_with("0 ")).count();
    let restore = "coracle remove web; coracle clone --exact golden web";
    host.sh_ok(restore);
    // Most calls are those of the transfer: the replacement is at the end.
    let stride = if std::env::var_os("CORACLE_FAULTS").is_some() { 1 } else { 20 };
    for call in (calls - 120..calls).step_by(stride) {
        for mode in ["kill", "error"] {
            host.sh_ok("rm -f /run/faulty.out");
            run(mode, call);
            host.sh_ok("coracle prune >/dev/null");
            // The configuration is that of the stack.
            host.sh_ok(
                "cd /var/lib/machines; test -d web.mstack; ls web.mstack | grep -q bind@ && has=yes || has=no
                 grep -q '\"sleep\"' web.oci-config && runs=yes || runs=no; test $has = $runs
                 cd /var/lib/coracle/storage
                 ! ls -d /var/lib/machines/.#web* redo/* tmp/* trash/* 2>/dev/null | grep -v '\\.lck$'",
            );
            host.sh_ok(restore);
        }
    }
    drop(servers);
    host.stop();
}

#[test]
fn a_killed_or_failed_creation_leaves_nothing() {
    let (host, _) = with_images();
    host.write("/etc/coracle/distributions.d/own.toml", RECIPE);
    host.sh_ok("mkdir -p /run/source/bin /run/source/etc /run/source/usr; cp /var/lib/machines/.base/bin/busybox /run/source/bin");
    try_faults(&host, "create web --from=own");
    host.stop();
}

#[test]
fn a_full_disk_leaves_nothing() {
    let (host, images) = with_images();
    let servers = Servers::start(&host, &images);
    log_in(&host);
    host.write("/etc/coracle/distributions.d/own.toml", RECIPE);
    host.sh_ok("mkdir -p /run/source/bin /run/source/etc /run/source/usr; cp /var/lib/machines/.base/bin/busybox /run/source/bin");
    for command in
        ["pull localhost:5000/team/three:1 web", "import oci:/run/in/L:three web", "create web --from=own"]
    {
        let mut failed = 0;
        for size in [16, 100, 700, 1200, 1800, 8000] {
            host.sh_ok(&format!("mount -t tmpfs -o size={size}k,mode=700 tmpfs /var/lib/machines/.storage"));
            let done = host.sh(&format!("coracle {command}"));
            has_no_drafts(&host);
            if done.status == 0 {
                host.coracle(&["remove", "web"]);
            } else {
                let error = done.stderr.to_lowercase();
                // A pull compares sizes before it fetches.
                let reasons = ["no space left", "larger than", "bytes are free in the storage"];
                assert!(reasons.iter().any(|reason| error.contains(reason)), "{command} {size}: {done}");
                failed += 1;
            }
            host.sh_ok("if ls -d /var/lib/machines/web* 2>/dev/null; then exit 1; fi; umount /var/lib/machines/.storage");
        }
        assert!((2..6).contains(&failed), "{command}: {failed} failed");
    }
    drop(servers);
    host.stop();
}
