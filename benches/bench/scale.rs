//! Many machines on one host: the times of a start, a list and statistics with the last one compared with the first,
//! the processor time of all idle supervisors, and a start beside many idle processes. Called by `main`, in the host.
//! `BENCH_MACHINES` is the number of machines.

use super::contenders;
use super::crowd::{self, Crowd};
use super::managers::{self, Manager};
use super::run;
use super::table::{self, median, number, ratio};
use std::fs;
use std::time::{Duration, Instant};

const MACHINES: usize = 300;
/// The numbers of machines with a row.
const ROWS: [usize; 4] = [1, 10, 100, 300];
/// The number of starts whose median is compared.
const FEW: usize = 10;
/// The pause before idle supervisors are watched, and the time of watching.
const CALM: Duration = Duration::from_secs(3);
const WATCHED: Duration = Duration::from_secs(10);

/// Prints the tables of coracle and systemd-nspawn.
pub fn all() {
    contenders::prepare();
    let names = names();
    names.iter().for_each(|name| managers::add("busybox", name));
    let both = || managers::ALL.iter().take(2);
    let crowded: Vec<Vec<String>> = both().map(|one| crowded(one, &names[0])).collect();
    let title = format!("Scale: a start beside {} idle processes (medians of {FEW})", crowd::SIZE);
    table::print(&title, &["name", "ms", "beside them, ms", "/ without"], &crowded);
    for one in both() {
        grow(one, &names);
    }
}

/// Returns the names of many machines.
pub fn names() -> Vec<String> {
    let count = fs::read_to_string("/mnt/bench/machines").ok().and_then(|text| text.trim().parse().ok());
    (1..=count.unwrap_or(MACHINES)).map(|number| format!("s{number}")).collect()
}

/// Returns the row of a manager: a start without and with many idle processes.
fn crowded(one: &Manager, name: &str) -> Vec<String> {
    let starts = || {
        let start = |_| {
            let sample = run::once(&one.command(one.up, name)).map_or(f64::NAN, |sample| sample.wall);
            one.end(name);
            sample
        };
        // The first one loads the unit and the programs.
        let all: Vec<f64> = (0..=FEW).map(start).collect();
        median(&all[1..])
    };
    let alone = starts();
    let beside = Crowd::gather().map_or(f64::NAN, |_crowd| starts());
    vec![one.name.to_owned(), number(alone), number(beside), ratio(beside, Some(alone))]
}

/// Starts machines one by one, watches them idle, then terminates them all.
fn grow(one: &Manager, names: &[String]) {
    let (list, stats) = match one.name {
        "coracle" => ("coracle list", Some("coracle stats")),
        _ => ("machinectl list", None),
    };
    let before = free();
    let (mut took, mut rows, mut failure) = (Vec::new(), Vec::new(), None);
    let mut first = None;
    for (place, name) in names.iter().enumerate() {
        match run::once(&one.command(one.up, name)) {
            Ok(sample) => took.push(sample.wall),
            Err(why) => {
                failure = Some(format!("  the {}th did not start: {why}", place + 1));
                break;
            }
        }
        let up = place + 1;
        if ROWS.contains(&up) || up == names.len() {
            let seen = [time(list), stats.map_or(f64::NAN, time)];
            let base = *first.get_or_insert(seen);
            rows.push(row(&took, seen, base, (before - free()) / up as f64));
        }
    }
    let head = [
        "machines",
        "start ms (last ten)",
        "/ first ten",
        "list ms",
        "/ with one",
        "stats ms",
        "/ with one",
        "memory KiB each",
        "nft lines",
        "routes",
    ];
    table::print(&format!("Scale: busybox machines of {}", one.name), &head, &rows);
    failure.iter().for_each(|why| println!("{why}"));
    println!("{}", idle(one, &names[..took.len()]));
    // In reverse order, so that the first machines are terminated with few others running.
    let ends: Vec<f64> = names.iter().take(took.len()).rev().map(|name| end(one, name)).collect();
    let (many, few) =
        (ends.get(..FEW).unwrap_or(&ends), ends.get(ends.len().saturating_sub(FEW)..).unwrap_or(&ends));
    let ends = [number(median(many)), number(median(few)), ratio(median(many), Some(median(few)))];
    println!(
        "  end of one of the last ten {} ms, of one of the first ten {} ms, / {}",
        ends[0], ends[1], ends[2]
    );
    names.iter().for_each(|name| one.end(name));
}

/// Returns the duration of a termination, in milliseconds.
fn end(one: &Manager, name: &str) -> f64 {
    let begun = Instant::now();
    drop(one.ask(one.end, name));
    begun.elapsed().as_secs_f64() * 1e3
}

/// Returns the duration of a command that lists the machines: the median of five.
fn time(command: &str) -> f64 {
    let command = run::words(command);
    let samples = (0..5).filter_map(|_| run::once(&command).ok());
    median(&samples.map(|sample| sample.wall).collect::<Vec<f64>>())
}

/// Returns a line about the processor time of the idle supervisors.
fn idle(one: &Manager, names: &[String]) -> String {
    let kept = |name: &String| one.ask(one.kept, name).ok()?.trim().parse().ok();
    let supervisors: Vec<u32> = names.iter().filter_map(kept).collect();
    std::thread::sleep(CALM);
    let before = processor_time(&supervisors);
    std::thread::sleep(WATCHED);
    let used = processor_time(&supervisors) - before;
    format!(
        "  processor time of {} idle supervisors in {} s: {} ms",
        supervisors.len(),
        WATCHED.as_secs(),
        number(used)
    )
}

/// Returns the time that processes have run on a processor so far, ms (`scheduler/sched-stats.rst`).
fn processor_time(pids: &[u32]) -> f64 {
    let of = |pid: &u32| {
        let text = fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap_or_default();
        text.split_whitespace().next().and_then(|word| word.parse::<f64>().ok()).unwrap_or(f64::NAN) / 1e6
    };
    pids.iter().map(of).sum()
}

fn row(took: &[f64], [list, stats]: [f64; 2], [list_base, stats_base]: [f64; 2], each: f64) -> Vec<String> {
    let last = took.get(took.len().saturating_sub(FEW)..).unwrap_or_default();
    let first = took.get(..took.len().min(FEW)).unwrap_or_default();
    let lines = |script: &str| run::shell(script).unwrap_or_else(|_| "-".into());
    vec![
        took.len().to_string(),
        number(median(last)),
        ratio(median(last), Some(median(first))),
        number(list),
        ratio(list, Some(list_base)),
        number(stats),
        ratio(stats, Some(stats_base)),
        number(each),
        lines("nft list ruleset | wc -l"),
        lines("ip route show table all | wc -l"),
    ]
}

/// Returns the available memory of the host, KiB. It includes the effect of unrelated work.
fn free() -> f64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(f64::NAN)
}
