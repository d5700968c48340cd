//! Signals to `coracle run` at any moment, also before its event loop handles them: no state is left.
//! `cargo test` sends them at a sample of the system calls, `make faults` at all of them.

use std::time::Duration;

use crate::support::{Host, LONG, Snapshot, program};

/// The number of moments in a sample, per signal.
const SAMPLE: usize = 16;
const SCRIPT: &str = include_str!("../faults/signals.sh");

fn bench() -> Host {
    let host = Host::start(&["busybox"]);
    std::fs::copy(program::build("tests/faults/faulty.c", &[]), host.machines().join("faulty"))
        .expect("copy the tool");
    host.sh_ok("mv /var/lib/machines/faulty /usr/bin/faulty");
    host.activate_machined();
    host
}

/// Sends signals as listed. Returns a line for each.
fn try_all(host: &Host, faults: &str, bound: Duration) -> Vec<String> {
    host.write("/run/faults", faults);
    let script = format!("exec </run/faults; {SCRIPT}");
    let out = host.spawn(&["bash", "-c", &script]).wait(bound).success("the signals");
    out.stdout.lines().map(str::to_owned).collect()
}

#[test]
fn a_signal_at_any_moment_of_a_run_leaves_nothing() {
    let host = bench();
    let before = Snapshot::take(&host);
    try_all(&host, "count 0 0\n", LONG);
    let calls = host.read("/run/faulty.out").lines().filter(|line| line.starts_with("0 ")).count();
    assert!(calls > 400, "{calls}");
    let asked = std::env::var("CORACLE_FAULTS").unwrap_or_default();
    let stride = if asked.is_empty() { calls / SAMPLE } else { asked.parse().unwrap_or(1) };
    let mut faults = String::new();
    for (first, mode) in [(1, "term"), (1 + stride / 2, "kill")] {
        for call in (first..=calls).step_by(stride) {
            faults.push_str(&format!("{mode} 0 {call}\n"));
        }
    }
    let lines = try_all(&host, &faults, Duration::from_secs(if asked.is_empty() { 240 } else { 7200 }));
    assert_eq!(lines.len(), faults.lines().count(), "{lines:?}");
    let is_bad = |line: &&String| {
        let fields: Vec<&str> = line.split('\t').collect();
        let [_, call, status, left, again] = fields[..] else { return true };
        // A command is killed by the first signal, and may have ended before it.
        let is_usual = ["0", "137", "143"].contains(&status) || call == "none";
        !is_usual || !left.is_empty() || again != "works"
    };
    let bad: Vec<&String> = lines.iter().filter(is_bad).collect();
    assert!(bad.is_empty(), "{} of {}: {bad:#?}", bad.len(), lines.len());
    let terminated = lines.iter().filter(|line| line.contains("\t143\t")).count();
    assert!(terminated > lines.len() / 8, "{lines:#?}");
    before.assert_same(&host);
    host.stop();
}

/// A shell that is not interactive lets its background jobs ignore SIGINT.
#[test]
fn an_interrupted_start_ends_by_the_signal() {
    let host = bench();
    let before = Snapshot::take(&host);
    // The start waits for the lock of claims.
    host.sh_ok("mkdir -p -m 700 /run/coracle/.locks");
    let hold = r#"open(F, ">", "/run/coracle/.locks/claims"); my $l = pack("ssx4qqlx4", 1, 0, 0, 0, 0);
        fcntl(F, 6, $l) or die $!;
        $| = 1; print "held"; sleep 999"#;
    let mut holder = host.spawn(&["perl", "-e", hold]);
    holder.wait_for_stdout("held", LONG);
    for (signal, status) in [("INT", 130), ("TERM", 143), ("HUP", 129)] {
        let run = "coracle run -q -M one -D /var/lib/machines/busybox true";
        let waits = "grep -q '^SigBlk:.*1004203' /proc/$!/status && [ -e /run/coracle/one ]";
        let script = format!("{run} & until {waits}; do kill -0 $!; done; kill -{signal} $!; wait $!");
        let out = host.sh(&script);
        assert_eq!(out.status, status, "{signal}: {out}");
        assert_ne!(host.sh("ls -d /run/coracle/one").status, 0);
    }
    holder.kill();
    host.sh_ok("rm -f /run/coracle/.locks/claims");
    before.assert_same(&host);
    host.stop();
}
