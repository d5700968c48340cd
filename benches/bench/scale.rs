//! Many machines on one host: the start time of the last one compared with the first. Called by `main`, in
//! the host. `BENCH_MACHINES` is the number of machines.

use super::contenders;
use super::managers::{self, Manager};
use super::run;
use super::table::{self, median, number, ratio};
use std::fs;
use std::time::Instant;

const MACHINES: usize = 100;

/// Prints one table each for coracle and systemd-nspawn.
pub fn all() {
    contenders::prepare();
    let count = fs::read_to_string("/mnt/bench/machines").ok().and_then(|text| text.trim().parse().ok());
    let count: usize = count.unwrap_or(MACHINES);
    let names: Vec<String> = (1..=count).map(|number| format!("s{number}")).collect();
    names.iter().for_each(|name| managers::add("busybox", name));
    for one in managers::ALL.iter().take(2) {
        grow(one, &names);
    }
}

/// Starts machines one by one, then terminates them all.
fn grow(one: &Manager, names: &[String]) {
    let list: fn() -> Vec<String> = match one.name {
        "coracle" => || run::words("coracle list"),
        _ => || run::words("machinectl list"),
    };
    let before = free();
    let mut took = Vec::new();
    let mut rows = Vec::new();
    let mut failure = None;
    for (place, name) in names.iter().enumerate() {
        match run::once(&one.command(one.up, name)) {
            Ok(sample) => took.push(sample.wall),
            Err(why) => {
                failure = Some(format!("  the {}th did not start: {why}", place + 1));
                break;
            }
        }
        let up = place + 1;
        if [1, 3, 10, 30, 100, 200, 300].contains(&up) || up == names.len() {
            rows.push(row(&took, &list(), (before - free()) / up as f64));
        }
    }
    let head = [
        "machines",
        "start ms (last ten)",
        "/ first ten",
        "list ms",
        "memory KiB each",
        "nft lines",
        "routes",
    ];
    table::print(&format!("Scale: busybox machines of {}", one.name), &head, &rows);
    failure.iter().for_each(|why| println!("{why}"));
    // In reverse order, so that the first machines are terminated with few others running.
    let ends: Vec<f64> = names.iter().take(took.len()).rev().map(|name| end(one, name)).collect();
    let (many, few) =
        (ends.get(..10).unwrap_or(&ends), ends.get(ends.len().saturating_sub(10)..).unwrap_or(&ends));
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

fn row(took: &[f64], list: &[String], each: f64) -> Vec<String> {
    let last = took.get(took.len().saturating_sub(10)..).unwrap_or_default();
    let first = took.get(..took.len().min(10)).unwrap_or_default();
    let lists: Vec<f64> = (0..5).filter_map(|_| run::once(list).ok()).map(|sample| sample.wall).collect();
    let lines = |script: &str| run::shell(script).unwrap_or_else(|_| "-".into());
    vec![
        took.len().to_string(),
        number(median(last)),
        ratio(median(last), Some(median(first))),
        number(median(&lists)),
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
