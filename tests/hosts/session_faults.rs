//! Build sessions whose processes are killed while they begin or end, at each of their system calls: the session is
//! recovered or ended, and nothing is left. `cargo test` tries a sample of the faults, `make faults` all of them.

use std::time::Duration;

use crate::support::{Host, LONG, Snapshot, program};

/// The number of faults in a sample, per process.
const SAMPLE: usize = 5;
/// The most processes of a begin: the client, the supervisor, PID 1, the one of the id map, the builder, and those that
/// they start.
const ROLES: usize = 8;

fn host() -> Host {
    let host = Host::builder().guest_as("busybox", "base").on_disk().start();
    std::fs::copy(program::build("tests/faults/faulty.c", &[]), host.machines().join("faulty"))
        .expect("copy the tool");
    host.sh_ok(
        "mv /var/lib/machines/faulty /usr/bin/faulty; chmod 755 /usr/bin/faulty
         mkdir -m 700 /var/lib/machines/.storage; mkdir -p /var/lib/coracle /var/tmp/out
         ln -s /var/lib/machines/.storage /var/lib/coracle/storage",
    );
    host.activate_machined();
    // The first session creates the directories that stay.
    host.coracle(&["build", "begin", "base", "--name=k"]);
    host.coracle(&["build", "end", "k"]);
    host
}

/// Injects faults. Returns a line for each.
fn inject(host: &Host, faults: &str, bound: Duration) -> Vec<String> {
    host.write("/run/faults", faults);
    let script = format!("exec </run/faults; {}", include_str!("../faults/sessions.sh"));
    let output = host.exec_for(bound, &["bash", "-c", &script]).success("the faults");
    output.stdout.lines().map(str::to_owned).collect()
}

/// Returns the number of calls of each process in a part.
fn count(host: &Host, part: &str) -> [usize; ROLES] {
    let lines = inject(host, &format!("{part} count 0 0\n"), LONG);
    assert!(lines.len() == 1 && lines[0].ends_with("\t\t"), "{lines:?}");
    let mut counts = [0; ROLES];
    for line in host.read("/run/faulty.out").lines() {
        let role = line.split(' ').next().and_then(|role| role.parse::<usize>().ok()).expect("a role");
        counts[role] += 1;
    }
    counts
}

#[test]
fn a_killed_process_of_a_session_leaves_nothing() {
    let host = host();
    let begin = count(&host, "begin");
    let (end, client) = (count(&host, "end"), count(&host, "client"));
    assert!(begin[0] > 50 && begin[1] > 300 && begin.iter().sum::<usize>() > 700, "{begin:?}");
    // The same supervisor after it has begun.
    assert!(end[1] > begin[1] + 50 && client[0] > 30, "{end:?} {client:?}");
    let is_complete = std::env::var_os("CORACLE_FAULTS").is_some();
    let mut faults = String::new();
    let mut add = |part: &str, role: usize, calls: std::ops::RangeInclusive<usize>| {
        let count = calls.end() + 1 - calls.start();
        let step = if is_complete { 1 } else { (count / SAMPLE).max(1) };
        calls.step_by(step).for_each(|call| faults.push_str(&format!("{part} kill {role} {call}\n")));
    };
    for (role, count) in begin.iter().enumerate().filter(|(_, count)| **count > 0) {
        add("begin", role, 1..=*count);
    }
    add("end", 1, begin[1] + 1..=end[1]);
    add("client", 0, 1..=client[0]);
    let before = Snapshot::take(&host);
    let lines = inject(&host, &faults, Duration::from_secs(if is_complete { 7200 } else { 300 }));
    assert_eq!(lines.len(), faults.lines().count());
    let is_bad = |line: &&String| {
        let fields: Vec<&str> = line.split('\t').collect();
        let [_, _, became, left, again] = fields[..] else { return true };
        became.contains("hangs") || became.contains("forever") || !left.is_empty() || !again.is_empty()
    };
    let bad: Vec<&String> = lines.iter().filter(is_bad).collect();
    assert!(bad.is_empty(), "{} of {}: {bad:#?}", bad.len(), lines.len());
    // Faults of both kinds have happened.
    for became in ["dead", "running"] {
        assert!(lines.iter().any(|line| line.contains(became)), "{lines:#?}");
    }
    before.assert_same(&host);
    host.stop();
}

/// PID 1 has no call between the begin and the end of its session.
#[test]
fn a_session_whose_pid_1_is_killed_is_ended() {
    let host = host();
    let before = Snapshot::take(&host);
    host.coracle(&["build", "begin", "base", "--name=k"]);
    let job = host.spawn(&["coracle", "build", "run", "k", "--", "sleep", "700"]);
    host.wait_until(LONG, "pgrep -fx 'sleep 700'");
    host.sh_ok("kill -9 $(sed -n 's/.*\"leader\": *\\([0-9]*\\).*/\\1/p' /run/coracle/k/state.json)");
    assert_eq!(job.wait(LONG).status, 137);
    host.wait_until(LONG, "! coracle build show k 2>/dev/null");
    before.assert_same(&host);
    host.stop();
}
