//! The fault matrix: each system call of a start fails in turn, and each of its processes is killed at each
//! of its calls. After each fault no state is left, the next start works, and the failure is reported.
//! `cargo test` runs a sample of the faults, `make faults` all of them.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::support::{Host, Job, LONG, Snapshot, program};

/// The number of faults in a sample, per process and mode.
const SAMPLE: usize = 6;
/// The number of system calls of the dynamic loader before the program begins.
const LOADER: usize = 40;
/// The names of the roles of faulty.c, numbered in the order of creation.
const ROLES: [&str; 4] = ["supervisor", "PID 1", "id map", "builder"];
/// Runs the unit's program under the fault injector if `/run/fault` exists.
const DROP_IN: &str = "[Service]\nExecStart=\nExecStart=/bin/sh -c 'if [ -e /run/fault ]; then exec /usr/bin/faulty \
    $$(cat /run/fault) /run/faulty.out /usr/bin/coracle launch busybox; else exec /usr/bin/coracle launch busybox; fi'\n";

/// An init that exits at once on SIGTERM.
const QUICK: &str = "#!/bin/sh\ntrap 'kill $!; exit 0' TERM\nsleep 10000 &\nwait\n";

/// Starts a host that starts its machine, with these lines in its definition, under the fault injector. The
/// program executes itself so many times less one.
fn bench(lines: &str, executions: u32) -> Host {
    let host = Host::start(&["busybox"]);
    std::fs::copy(program::build("tests/faults/faulty.c", &[]), host.machines().join("faulty"))
        .expect("copy the tool");
    host.sh_ok("mv /var/lib/machines/faulty /usr/bin/faulty");
    let drop_in = format!("{DROP_IN}Environment=FAULTY_EXECUTIONS={executions}\n");
    host.write("/run/systemd/system/coracle@busybox.service.d/fault.conf", &drop_in);
    host.write(
        "/etc/coracle/machines.d/busybox.toml",
        &format!("{lines}\n[boot]\ninit = \"/etc/quick\"\nstop-signal = \"SIGTERM\"\n"),
    );
    std::fs::write(host.machines().join("busybox/etc/quick"), QUICK).expect("write an init");
    // The host's own root is an overlay, which cannot hold layers.
    host.sh_ok(
        "chmod 755 /var/lib/machines/busybox/etc/quick; systemctl daemon-reload
         mkdir -m 700 /var/lib/machines/.storage; mkdir -p /var/lib/coracle
         ln -s /var/lib/machines/.storage /var/lib/coracle/storage",
    );
    host.coracle(&["start", "busybox"]);
    host.coracle(&["stop", "busybox"]);
    host.activate_machined();
    host
}

/// Returns the number of calls of each role in a start, and the numbers of the supervisor's calls of setns(2)
/// and waitid(2).
fn count(host: &Host) -> ([usize; 4], Vec<usize>) {
    host.sh_ok("echo count 0 0 >/run/fault; coracle start busybox; coracle stop busybox; rm /run/fault");
    counted(host)
}

/// Reads the numbers that the fault injector has counted.
fn counted(host: &Host) -> ([usize; 4], Vec<usize>) {
    let (mut counts, mut delicate) = ([0; 4], Vec::new());
    for line in host.read("/run/faulty.out").lines() {
        let words: Vec<i64> = line.split(' ').filter_map(|word| word.parse().ok()).collect();
        let [role, number, call] = words[..] else { continue };
        let (role, number) =
            (usize::try_from(role).expect("a role"), usize::try_from(number).expect("a number"));
        if let Some(count) = counts.get_mut(role) {
            *count += 1;
        }
        if role == 0 && [libc::SYS_setns, libc::SYS_waitid].contains(&call) {
            delicate.push(number);
        }
    }
    (counts, delicate)
}

/// The result of one fault.
struct Result {
    mode: String,
    role: usize,
    number: usize,
    call: String,
    started: String,
    left: String,
    again: String,
    said: String,
}

impl Result {
    fn read(line: &str) -> Self {
        let words: Vec<&str> = line.split('\t').collect();
        let [fault, call, started, left, again, said] = words[..] else { panic!("strange: {line}") };
        let mut fault = fault.split(' ');
        Self {
            mode: fault.next().unwrap_or_default().to_owned(),
            role: fault.next().and_then(|role| role.parse().ok()).expect("a role"),
            number: fault.next().and_then(|number| number.parse().ok()).expect("a number"),
            call: call.to_owned(),
            started: started.to_owned(),
            left: left.trim().to_owned(),
            again: again.to_owned(),
            said: said.to_owned(),
        }
    }

    /// Returns the failed step according to the messages.
    fn step(&self) -> String {
        let said = self.said.trim_start_matches("coracle: ");
        // Step numbers differ by kind of machine: the text identifies the step.
        let step = said.split(": ").find(|part| !part.starts_with("step ")).unwrap_or_default();
        match (self.started.as_str(), step) {
            ("started", _) => "(goes on)".into(),
            (_, "") => "(killed)".into(),
            (_, step) => step.chars().take(60).collect(),
        }
    }
}

/// Returns the faults to try: a sample by default, all of them for `all`, each Nth for a number, or the
/// listed ones ("kill 3 461,error 0 289") to repeat them.
fn faults(asked: &str, counts: &[usize; 4], delicate: &[usize]) -> String {
    if asked.contains(' ') {
        return asked.replace(',', "\n") + "\n";
    }
    let every = (!asked.is_empty()).then(|| asked.parse().unwrap_or(1));
    // All of these calls fail in turn: a start once hung after the failure of one.
    let mut faults: String = delicate.iter().map(|number| format!("error 0 {number}\n")).collect();
    for (number, mode) in ["error", "kill"].into_iter().enumerate() {
        for (role, count) in counts.iter().enumerate() {
            let stride = every.unwrap_or(count / SAMPLE).max(1);
            // Each mode begins at a different call, to cover more calls in a sample.
            for call in (1..=*count).skip(number * stride / 2).step_by(stride) {
                faults.push_str(&format!("{mode} {role} {call}\n"));
            }
        }
    }
    faults
}

/// Distributes the faults among the hosts, which run in parallel. Returns the result lines.
fn try_all(hosts: &[Host], script: &str, faults: &str, bound: Duration) -> Vec<String> {
    let script = &format!("exec </run/faults; {script}");
    let jobs: Vec<Job> = hosts
        .iter()
        .enumerate()
        .map(|(first, host)| {
            let lines = faults.lines().skip(first).step_by(hosts.len());
            host.write("/run/faults", &lines.map(|line| format!("{line}\n")).collect::<String>());
            host.spawn(&["bash", "-c", script])
        })
        .collect();
    let outputs = jobs.into_iter().map(|job| job.wait(bound).success("the matrix"));
    outputs.flat_map(|out| out.stdout.lines().map(str::to_owned).collect::<Vec<_>>()).collect()
}

#[test]
fn failing_calls_and_kills_are_cleaned_up() {
    let counts = try_definition("", 2);
    assert!(counts[0] > 300 && counts[1] > 30 && counts[3] > 100, "{counts:?}");
}

/// Without a user namespace PID 1 builds the tree, and there is no other child.
#[test]
fn failing_calls_and_kills_of_a_single_child_are_cleaned_up() {
    // As root inside is root outside, the program is first executed from a read-only mount.
    let counts = try_definition("[users]\nprivate = false\n", 3);
    assert!(counts[0] > 300 && counts[1] > 200 && counts[2] == 0 && counts[3] == 0, "{counts:?}");
}

/// The mounts of the root exist before PID 1, and changes are in a directory that is removed.
#[test]
fn failing_calls_and_kills_of_an_ephemeral_machine_are_cleaned_up() {
    let counts = try_definition("[root]\nephemeral = true\n", 2);
    // The process of the id map is the first one here.
    assert!(counts[0] > 300 && counts[2] > 30 && counts[3] > 100, "{counts:?}");
}

/// Without a link and a registration PID 1 also borrows the memory of the supervisor.
#[test]
fn failing_calls_and_kills_of_a_run_are_cleaned_up_by_the_next_run() {
    let host = bench("", 2);
    let before = Snapshot::take(&host);
    let script = include_str!("../faults/runs.sh");
    host.sh_ok("echo count 0 0 >/run/faults");
    host.spawn(&["bash", "-c", &format!("exec </run/faults; {script}")]).wait(LONG).success("a run");
    let (counts, _) = counted(&host);
    assert!(counts[0] > 150 && counts[1] > 200 && counts[2] == 0, "{counts:?}");
    let asked = std::env::var("CORACLE_FAULTS").unwrap_or_default();
    let results = try_all(std::slice::from_ref(&host), script, &faults(&asked, &counts, &[]), bound(&asked));
    judge(&counts, &results);
    // The runs were in the cgroups of the commands.
    host.sh_ok("rmdir /sys/fs/cgroup/exec.*/supervisor; rmdir /sys/fs/cgroup/exec.* 2>/dev/null || true");
    before.assert_same(&host);
    host.stop();
}

/// The first run after a boot creates the empty mount namespace.
#[test]
fn failing_calls_and_kills_of_the_first_run_are_cleaned_up() {
    let host = bench("", 2);
    let before = Snapshot::take(&host);
    let script = format!("export FIRST=1; {}", include_str!("../faults/runs.sh"));
    host.sh_ok("echo count 0 0 >/run/faults");
    host.spawn(&["bash", "-c", &format!("exec </run/faults; {script}")]).wait(LONG).success("a run");
    let (counts, _) = counted(&host);
    let calls = host.read("/run/faulty.out");
    let number = |call: libc::c_long| {
        let line = calls.lines().find(|line| line.starts_with("0 ") && line.ends_with(&format!(" {call}")));
        line.and_then(|line| line.split(' ').nth(1)?.parse::<usize>().ok()).expect("the call")
    };
    // From the lock of the directory to the note in the file below.
    let created = number(libc::SYS_flock)..=number(libc::SYS_mount) + 4;
    let step = if std::env::var_os("CORACLE_FAULTS").is_some() { 1 } else { 2 };
    let faults: String = ["error", "kill"]
        .iter()
        .flat_map(|mode| created.clone().step_by(step).map(move |call| format!("{mode} 0 {call}\n")))
        .collect();
    let results = try_all(std::slice::from_ref(&host), &script, &faults, bound("all"));
    judge(&counts, &results);
    host.sh_ok("rmdir /sys/fs/cgroup/exec.*/supervisor; rmdir /sys/fs/cgroup/exec.* 2>/dev/null || true");
    before.assert_same(&host);
    host.stop();
}

/// Tries the faults in starts of a machine with these lines in its definition. Returns the number of calls.
fn try_definition(lines: &str, executions: u32) -> [usize; 4] {
    let asked = std::env::var("CORACLE_FAULTS").unwrap_or_default();
    // Four hosts for a long run: half of the time of a fault is spent waiting.
    let hosts: Vec<Host> =
        (0..if asked.is_empty() { 1 } else { 4 }).map(|_| bench(lines, executions)).collect();
    let (counts, delicate) = count(&hosts[0]);
    let faults = faults(&asked, &counts, &delicate);
    let before: Vec<Snapshot> = hosts.iter().map(Snapshot::take).collect();
    let lines = try_all(&hosts, include_str!("../faults/matrix.sh"), &faults, bound(&asked));
    assert_eq!(lines.len(), faults.lines().count(), "{lines:?}");
    judge(&counts, &lines);
    for (host, before) in hosts.into_iter().zip(before) {
        before.assert_same(&host);
        host.stop();
    }
    counts
}

/// Returns the time limit of a sample, or of all faults.
fn bound(asked: &str) -> Duration {
    Duration::from_secs(if asked.is_empty() { 240 } else { 7200 })
}

/// Prints the table of results, and fails if one is bad.
fn judge(counts: &[usize; 4], lines: &[String]) {
    let results: Vec<Result> = lines.iter().map(|line| Result::read(line)).collect();
    print(counts, &results);
    let bad: Vec<&str> = lines
        .iter()
        .map(String::as_str)
        .zip(&results)
        .filter(|(_, one)| {
            // The dynamic loader can fail before the first call of the program. The standard library polls
            // the standard streams of each program, and aborts it if that fails.
            let polls = one.call == libc::SYS_poll.to_string();
            let own = one.role != 0 || one.number > LOADER && !polls;
            let silent = own && one.started == "failed" && one.mode == "error" && one.said.is_empty();
            let panicked = one.said.contains("panicked");
            !one.left.is_empty() || panicked || one.again != "works" || one.started == "hangs" || silent
        })
        .map(|(line, _)| line)
        .collect();
    assert!(bad.is_empty(), "{} of {}:\n{}", bad.len(), results.len(), bad.join("\n"));
}

/// Prints the table: steps by process, with the number of faults that ended well.
fn print(counts: &[usize], results: &[Result]) {
    ROLES.iter().zip(counts).for_each(|(who, count)| eprintln!("{who}: {count} calls"));
    let mut rows: BTreeMap<(usize, String), [[usize; 2]; 2]> = BTreeMap::new();
    for one in results.iter().filter(|one| one.call != "none") {
        let cells = rows.entry((one.role, one.step())).or_default();
        let good = one.left.is_empty() && one.again == "works" && one.started != "hangs";
        cells[usize::from(one.mode == "kill")][usize::from(good)] += 1;
    }
    eprintln!("{:<12}{:<62}{:>12}{:>12}", "who", "what is said", "error", "kill");
    for ((role, step), cells) in rows {
        let cell = |[bad, good]: [usize; 2]| match bad + good {
            0 => "-".to_owned(),
            all => format!("{good} of {all}"),
        };
        eprintln!(
            "{:<12}{step:<62}{:>12}{:>12}",
            ROLES.get(role).unwrap_or(&"other"),
            cell(cells[0]),
            cell(cells[1])
        );
    }
}
