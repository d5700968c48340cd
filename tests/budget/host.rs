//! The measured subjects, on a nested host. Called by the test.

use crate::calls;
use crate::limits::Measures;
use crate::support::{Host, LONG, Output, program};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const CORACLE: &str = "/usr/bin/coracle";
const TREE: &str = "/var/lib/machines/busybox";
/// The report of the tracer, in the host.
const REPORT: &str = "/run/report";
/// The report of the traced unit.
const UNIT_REPORT: &str = "/run/unit-report";
/// The line of the supervisor's wait.
const IDLE: &str = "\nidle 0\n";
/// The name of the unit's machine.
const MACHINE: &str = "busybox";

/// Runs of a command without and with the tracer, and of a unit. The least counts: page faults depend on the
/// placement of memory, switches and calls on scheduling.
const RUNS: usize = 10;
const TRACED: usize = 10;
const STARTED: usize = 6;
/// Longer than the pause after which a supervisor inspects a changed firewall.
const CALM: Duration = Duration::from_millis(800);

/// An init that exits at once on SIGTERM.
const INIT: &str = "#!/bin/sh\ntrap 'kill $!; exit 0' TERM\nsleep 10000 &\necho up\nwait\n";
const DEFINITION: &str = "[boot]\ninit = \"/etc/quick\"\nstop-signal = \"SIGTERM\"\n";
/// Runs the unit's program under the tracer if its report exists.
const DROP_IN: &str = "[Service]\nExecStart=\nExecStart=/bin/sh -c 'if [ -e /run/unit-report ]; then \
    exec /usr/bin/tracer /run/unit-report /usr/bin/coracle launch busybox; else exec /usr/bin/coracle launch busybox; fi'\n";

/// A command of the payload without services of the host, as `benches/` runs it.
const ALONE: &[&str] =
    &["-q", "-D", TREE, "--keep-unit", "--register=no", "--private-network", "--console=pipe"];

/// Measures all subjects. The host is the same in every lane of the suite, because a limit holds for one
/// host.
pub fn measure() -> Measures {
    // A host's files in a tmpfs are mapped page by page, those on a disk by several at once.
    let host = Host::builder().on("host").script().guest("busybox").on_disk().start();
    prepare(&host);
    let mut all = Measures::new();
    let run = |options: &[&'static str]| [&[CORACLE, "run"], options, &["/bin/true"]].concat();
    for (subject, options) in [
        ("run", ALONE.to_vec()),
        ("run-U", [ALONE, &["-U"]].concat()),
        ("run-registered", vec!["-q", "-D", TREE]),
    ] {
        add(&mut all, subject, command(&host, &run(&options)));
    }
    unit(&host, &mut all);
    add(&mut all, "end", end(&host));
    host.stop();
    all
}

/// Adds the rows of a subject. A row that exists keeps its value if that is less.
fn add(all: &mut Measures, subject: &str, values: BTreeMap<String, u64>) {
    for (measure, value) in values {
        let row = all.entry(format!("{subject}/{measure}")).or_insert(value);
        *row = value.min(*row);
    }
}

/// Installs the tools and the machine, and starts the services that are activated at their first use.
fn prepare(host: &Host) {
    for tool in ["tracer", "cost"] {
        let built = program::build(&format!("tests/budget/{tool}.c"), &[]);
        std::fs::copy(built, host.machines().join(tool)).expect("copy a tool");
        host.sh_ok(&format!("mv /var/lib/machines/{tool} /usr/bin/{tool}"));
    }
    host.write("/run/systemd/system/coracle@busybox.service.d/trace.conf", DROP_IN);
    host.sh_ok("systemctl daemon-reload");
    host.define(MACHINE, DEFINITION);
    std::fs::write(host.machines().join("busybox/etc/quick"), INIT).expect("write an init");
    host.sh_ok(&format!("chmod 755 {TREE}/etc/quick"));
    host.activate_machined();
    host.coracle(&["start", MACHINE]);
    host.coracle(&["stop", MACHINE]);
}

/// Measures a command without and with the tracer.
fn command(host: &Host, words: &[&str]) -> BTreeMap<String, u64> {
    let mut least = Measures::new();
    for _ in 0..RUNS {
        let out = host.exec_for(LONG, &[&["cost"], words].concat());
        add(&mut least, "", cost(out));
    }
    for _ in 0..TRACED {
        add(&mut least, "", traced(host, words));
    }
    least.into_iter().map(|(row, value)| (row.trim_start_matches('/').to_owned(), value)).collect()
}

/// Returns the measures of the tool `cost`.
fn cost(out: Output) -> BTreeMap<String, u64> {
    let text = out.success("a measured command").stdout;
    let numbers: Vec<u64> = text.split_whitespace().map(|word| word.parse().unwrap()).collect();
    let [faults, switches] = numbers[..] else { panic!("strange: {text}") };
    [("faults".into(), faults), ("switches".into(), switches)].into()
}

/// Returns the counts of a command under the tracer.
fn traced(host: &Host, words: &[&str]) -> BTreeMap<String, u64> {
    host.exec_for(LONG, &[&["tracer", REPORT], words].concat()).success("a traced command");
    calls::count(&host.read(REPORT))
}

/// Measures the machine of a unit: its client and its supervisor at a start and at a stop, and a command in
/// it.
fn unit(host: &Host, all: &mut Measures) {
    for _ in 0..STARTED {
        host.sh_ok(&format!(": >{UNIT_REPORT}"));
        let start = traced(host, &[CORACLE, "start", MACHINE]);
        add(all, "start", start);
        let begun = settled(host);
        add(all, "launch", calls::count(&launch(&begun)));
        add(all, "stop", traced(host, &[CORACLE, "stop", MACHINE]));
        let whole = host.read(UNIT_REPORT);
        add(all, "end", calls::count(whole.strip_prefix(&begun).expect("the report grows")));
        host.sh_ok(&format!("rm {UNIT_REPORT}"));
    }
    host.coracle(&["start", MACHINE]);
    add(all, "exec", command(host, &[CORACLE, "exec", MACHINE, "--", "/bin/true"]));
    host.coracle(&["stop", MACHINE]);
}

/// Returns the report of the unit when the supervisor is idle: it waits for events, and the report has not
/// grown for a while.
fn settled(host: &Host) -> String {
    let mut before = String::new();
    for _ in 0..100 {
        let report = host.read(UNIT_REPORT);
        if report == before && report.ends_with(IDLE) {
            return report;
        }
        before = report;
        std::thread::sleep(CALM);
    }
    panic!("the supervisor is never idle:\n{before}");
}

/// Returns the part of a report to the first wait of the event loop. Later calls and processes handle events,
/// for example those of the machine's link: their number depends on scheduling. Of a process created before,
/// all lines count, because the tracer may handle them later.
fn launch(report: &str) -> String {
    let place = report.find(IDLE).expect("the supervisor was idle");
    let (before, after) = report.split_at(place + 1);
    let role = |line: &str| line.split_whitespace().nth(1).unwrap_or_default().to_owned();
    let roles: BTreeSet<String> = before.lines().map(role).filter(|role| role != "0").collect();
    let late = after.split_inclusive('\n').filter(|line| roles.contains(&role(line)));
    before.to_owned() + &late.collect::<String>()
}

/// Measures the end of a machine in the foreground: from the signal to the exit of its supervisor.
fn end(host: &Host) -> BTreeMap<String, u64> {
    let mut least = Measures::new();
    for _ in 0..RUNS {
        let words = ["cost", "-e", CORACLE, "run", "-q", "-M", MACHINE, "-b", "--console=pipe"];
        let mut job = host.spawn_with_pipe(&words);
        let input = job.input();
        host.wait_for_phase(MACHINE, "running");
        std::thread::sleep(CALM);
        drop(input);
        add(&mut least, "", cost(job.wait(LONG)));
    }
    least.into_iter().map(|(row, value)| (row.trim_start_matches('/').to_owned(), value)).collect()
}
