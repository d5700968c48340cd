//! The part outside the host: compiles the C programs, boots the host, runs the parts in it and prints their
//! output. Called by `main`.

use super::support::{Host, state, trees};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// The path of this program and of the C programs in the host.
pub const TOOLS: &str = "/mnt/bench";
const PART_BOUND: Duration = Duration::from_secs(1800);

/// Boots a host for the parts of each tree and runs them in it. Exits with an error if a part fails.
pub fn measure(parts: &[&str]) {
    let began = Instant::now();
    println!("{}", about());
    let mut failed = Vec::new();
    for tree in ["host-bench", "host-callers"] {
        let own: Vec<&str> = parts.iter().copied().filter(|part| tree_of(part) == tree).collect();
        if !own.is_empty() {
            failed.extend(measure_on(tree, &own));
        }
    }
    println!("\nAll in {} s.", began.elapsed().as_secs());
    if !failed.is_empty() {
        println!("Failed: {}", failed.join(", "));
        std::process::exit(1);
    }
}

/// Returns the tree of the host that a part needs: one has all contenders, the other what builds packages, with an archive
/// of them.
fn tree_of(part: &str) -> &'static str {
    if ["build", "packages"].contains(&part) { "host-callers" } else { "host-bench" }
}

/// Boots a host and runs the parts in it. Returns those that failed.
fn measure_on<'a>(tree: &str, parts: &[&'a str]) -> Vec<&'a str> {
    let tools = tools(tree);
    let host = Host::builder()
        .on(tree)
        .guest("busybox")
        .guest("trixie")
        .guest("trixie-untrimmed")
        // Pages of programs in a tmpfs are dirty and mapped one by one: installed programs lie on a disk.
        .bind(&tools.display().to_string(), TOOLS)
        .on_disk()
        .start();
    leave_top(host.leader());
    let mut failed = Vec::new();
    for part in parts {
        // A separate unit with a delegated cgroup contains all programs started by hand.
        let unit = format!("--unit=bench-{part}");
        let command = ["systemd-run", "--quiet", "--scope", "--slice=machine.slice", "-p", "Delegate=yes"];
        let program = format!("{TOOLS}/bench");
        let mut job = host.spawn(&[&command[..], &[&unit, &program, "inside", part]].concat());
        let (end, mut shown) = (Instant::now() + PART_BOUND, 0);
        let status = loop {
            let status = job.poll();
            let text = job.stdout();
            print!("{}", text.get(shown..).unwrap_or_default());
            shown = text.len();
            match status {
                Some(status) => break status,
                None if Instant::now() > end => panic!("'{part}' did not end in {PART_BOUND:?}"),
                None => std::thread::sleep(Duration::from_millis(200)),
            }
        };
        if status != 0 {
            println!("'{part}' ended with {status}:\n{}", job.stderr());
            failed.push(*part);
        }
    }
    failed
}

/// Creates a directory with this program, the floor, the meter and the probe.
fn tools(tree: &str) -> PathBuf {
    let dir = state::shared("bench");
    let own = std::env::current_exe().expect("our own path");
    std::fs::copy(own, dir.join("bench")).expect("copy ourselves");
    for source in ["benches/floor.c", "benches/meter.c", "tests/hosts/security/probe.c"] {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(source);
        let name = source.file_stem().expect("a name");
        let mut gcc = Command::new("gcc");
        gcc.args(["-O2", "-static", "-o"]).arg(dir.join(name)).arg(&source);
        assert!(gcc.status().expect("run gcc").success(), "gcc failed on {}", source.display());
    }
    // Debian has no package of youki.
    if let Some(youki) = std::env::var_os("BENCH_YOUKI") {
        std::fs::copy(youki, dir.join("youki")).expect("copy youki");
    }
    if let Ok(machines) = std::env::var("BENCH_MACHINES") {
        std::fs::write(dir.join("machines"), machines).expect("pass the number of machines on");
    }
    // Build it now: build time is not part of a measurement.
    trees::tree(tree);
    dir
}

/// Moves the process that created the host's namespaces out of the host's cgroup. While the top cgroup
/// contains a process, no controller can be enabled there (`admin-guide/cgroup-v2.rst`), and crun retries for
/// a second.
fn leave_top(leader: u32) {
    let stat = std::fs::read_to_string(format!("/proc/{leader}/stat")).expect("the host's PID 1");
    let parent = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)).expect("its parent");
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("read our mounts");
    let unified = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let unified =
        unified.into_iter().find(|words| words.get(2) == Some(&"cgroup2")).expect("a cgroup2 mount");
    std::fs::write(format!("{}/cgroup.procs", unified[1]), parent)
        .expect("move it to the machine's own cgroup");
}

/// Returns one line about this computer and its current load.
fn about() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let processors = std::thread::available_parallelism().map_or(0, usize::from);
    let load = read("/proc/loadavg");
    let load: Vec<&str> = load.split(' ').take(3).collect();
    format!(
        "Linux {}, {processors} processors, load before the run {}",
        read("/proc/sys/kernel/osrelease"),
        load.join(" ")
    )
}
