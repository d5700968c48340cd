//! The cost of an idle machine: the processes that its manager keeps running for it. Called by `main`, in the
//! host.

use super::contenders;
use super::managers::{self, Manager};
use super::run;
use super::table::{self, number};
use std::fs;
use std::time::Duration;

/// The time in which wake-ups are counted.
const WATCHED: Duration = Duration::from_secs(20);

/// Prints one table: a busybox machine of each manager in turn.
pub fn all() {
    contenders::prepare();
    managers::add("busybox", "bb");
    let mut rows = Vec::new();
    let mut notes = Vec::new();
    for one in managers::ALL {
        match measure(one) {
            Ok(row) => rows.push(row),
            Err(why) => notes.push(format!("  {} cannot run here: {why}", one.name)),
        }
        one.end("bb");
    }
    let head =
        ["name", "processes", "private dirty KiB", "private KiB", "proportional KiB", "wake-ups / min"];
    table::print("Rest: what the manager keeps for one idle busybox machine", &head, &rows);
    notes.iter().for_each(|note| println!("{note}"));
}

fn measure(one: &Manager) -> Result<Vec<String>, String> {
    run::once(&one.command(one.up, "bb"))?;
    std::thread::sleep(Duration::from_secs(2));
    let kept = one.ask(one.kept, "bb")?;
    let pids: Vec<&str> = kept.split_whitespace().collect();
    let before = wake_ups(&pids);
    std::thread::sleep(WATCHED);
    let woken = (wake_ups(&pids) - before) * 60.0 / WATCHED.as_secs_f64();
    let names: Vec<String> = pids
        .iter()
        .map(|pid| fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned())
        .collect();
    let sum = |keys: &[&str]| pids.iter().map(|pid| memory(pid, keys)).sum::<f64>();
    Ok(vec![
        one.name.to_owned(),
        names.join(" "),
        number(sum(&["Private_Dirty:"])),
        number(sum(&["Private_Dirty:", "Private_Clean:"])),
        number(sum(&["Pss:"])),
        number(woken),
    ])
}

/// Returns the sum of the given lines of a process's `smaps_rollup`, KiB.
pub fn memory(pid: &str, keys: &[&str]) -> f64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let of = |line: &str| keys.iter().any(|key| line.starts_with(key)).then(|| word(line, 1));
    text.lines().filter_map(of).sum()
}

/// Returns the number of voluntary context switches of these processes so far.
fn wake_ups(pids: &[&str]) -> f64 {
    let of = |pid: &&str| {
        let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        text.lines().find(|line| line.starts_with("voluntary_ctxt")).map_or(0.0, |line| word(line, 1))
    };
    pids.iter().map(of).sum()
}

fn word(line: &str, place: usize) -> f64 {
    line.split_whitespace().nth(place).and_then(|word| word.parse().ok()).unwrap_or(0.0)
}
