//! Verbs on images that are killed, or fail, at their system calls: the state is that before or after, never
//! between. `cargo test` tries a sample of the calls, and all of them with CORACLE_FAULTS=all.

use std::time::Duration;

use crate::support::{Host, LONG, program};

/// The number of faults in a sample, per mode.
const SAMPLE: usize = 15;

/// Starts a host with the fault injector, and with an image `web`.
fn bench() -> Host {
    let host = Host::builder().guest_as("busybox", "web").on_disk().start();
    std::fs::copy(program::build("tests/faults/faulty.c", &[]), host.machines().join("faulty"))
        .expect("copy the tool");
    host.sh_ok("mv /var/lib/machines/faulty /usr/bin/faulty");
    host
}

/// Tries faults in a verb, whose image is read-only for `read_only`.
#[track_caller]
fn try_verb(host: &Host, verb: &str, read_only: bool) {
    let script = include_str!("../faults/verbs.sh");
    host.write("/run/verbs.sh", script);
    let run = |faults: &str| {
        host.write("/run/faults", faults);
        let read_only = if read_only { "READ_ONLY=1" } else { "READ_ONLY=" };
        let words = format!("{read_only} exec unshare -m bash /run/verbs.sh {verb} </run/faults");
        host.exec_for(Duration::from_secs(1800), &["sh", "-c", &words]).success(verb).stdout
    };
    // The calls of a complete verb.
    run("count 0\n");
    let calls = host.read("/run/faulty.out").lines().filter(|line| line.starts_with("0 ")).count();
    assert!(calls > 60, "{verb}: {calls} calls");
    let all = std::env::var_os("CORACLE_FAULTS").is_some();
    let stride = if all { 1 } else { calls / SAMPLE };
    let mut faults = String::new();
    for (number, mode) in ["kill", "error"].into_iter().enumerate() {
        // Each mode begins at a different call, to cover more calls in a sample. The loader is not of interest.
        for call in (30..=calls).skip(number * stride / 2).step_by(stride) {
            faults.push_str(&format!("{mode} {call}\n"));
        }
    }
    let output = run(&faults);
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(lines.len(), 1, "{verb}: {calls} calls\n{output}");
    eprintln!("{verb}: {calls} calls, {} faults, {}", faults.lines().count(), lines[0]);
}

#[test]
fn a_killed_or_failed_removal_is_done_or_not_begun() {
    let host = bench();
    try_verb(&host, "remove web", false);
    try_verb(&host, "remove --purge web", false);
    host.stop();
}

#[test]
fn a_killed_or_failed_rename_is_done_or_not_begun() {
    let host = bench();
    try_verb(&host, "rename web shop", false);
    if host.sh("cd /var/lib/machines; mkdir x; chattr +i x && chattr -i x").status == 0 {
        try_verb(&host, "rename web shop", true);
        try_verb(&host, "read-only web yes", false);
    }
    host.stop();
}

#[test]
fn a_start_completes_a_killed_rename() {
    let host = bench();
    host.activate_machined();
    host.define("web", "[resources]\nmemory-max = \"256M\"\n");
    host.sh_ok(
        "for call in $(seq 100 400); do
             faulty kill 0 $call /run/faulty.out /usr/bin/coracle rename web shop >/dev/null 2>&1 || true
             ! test -e /var/lib/machines/shop || break
             # The next attempt would complete it.
             rm -rf /var/lib/coracle/changes
         done
         ls /var/lib/coracle/changes/* /etc/coracle/machines.d/web.toml",
    );
    host.coracle(&["start", "--wait=running", "shop"]);
    assert_eq!(host.sh_ok("systemctl show -P MemoryMax coracle@shop.service").trim(), "268435456");
    host.sh_ok("! ls /var/lib/coracle/changes/* /etc/coracle/machines.d/web.toml 2>/dev/null | grep .");
    host.coracle(&["stop", "shop"]);
    host.assert_clean_stop("shop");
    host.stop();
}

#[test]
fn of_two_verbs_at_once_one_is_refused() {
    let host = bench();
    host.sh_ok(
        "mkdir -p /var/lib/machines/web/usr/d; cd /var/lib/machines/web/usr/d; seq 1 50000 | xargs touch",
    );
    // In the background: nsenter(1) stops with its child.
    let job = host.spawn(&["sh", "-c", "coracle remove web & wait $!"]);
    host.wait_until(LONG, "ls -d /var/lib/machines/.#web.removed-* && kill -STOP $(pgrep -x coracle)");
    host.sh_ok("mkdir -p /var/lib/machines/web/usr");
    for verb in ["rename web shop", "remove web"] {
        let refused = host.sh(&format!("coracle {verb}"));
        assert!(refused.status == 1 && refused.stderr.contains("(coracle remove)"), "{verb} {refused}");
        assert!(refused.stderr.contains("hint: wait until it has ended"), "{refused}");
    }
    host.sh_ok("kill -CONT $(pgrep -x coracle)");
    job.wait(LONG).success("remove");
    host.coracle(&["rename", "web", "shop"]);
    host.coracle(&["remove", "shop"]);
    host.sh_ok(
        "! ls -d /var/lib/machines/* /var/lib/machines/.#* /run/systemd/nspawn/locks/* 2>/dev/null | grep .",
    );
    host.stop();
}
