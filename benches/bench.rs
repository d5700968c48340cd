//! The benchmarks: all contenders in turn, on one host, in one run. Called by `make bench`.
//!
//! Outside a host, the program boots a nested host (`tests/support`) of the newest Debian with coracle and
//! all contenders installed, and runs itself in it, once per part. Inside, it measures and prints tables. A
//! part fails if its measurement is not valid, for example on a busy computer; no ratio is a failure.
//! `BENCH_YOUKI` is the path of a youki that is compared as well, because Debian has no package of it.
#![allow(clippy::print_stdout, reason = "printing tables is what it is for")]

#[path = "bench/archives.rs"]
mod archives;
#[path = "bench/boot.rs"]
mod boot;
#[path = "bench/build.rs"]
mod build;
#[path = "bench/contenders.rs"]
mod contenders;
#[path = "bench/crowd.rs"]
mod crowd;
#[path = "bench/filter.rs"]
mod filter;
#[path = "bench/host.rs"]
mod host;
#[path = "bench/life.rs"]
mod life;
#[path = "bench/managers.rs"]
mod managers;
#[path = "bench/network.rs"]
mod network;
#[path = "bench/nspawn.rs"]
mod nspawn;
#[path = "bench/packages.rs"]
mod packages;
#[path = "bench/probe.rs"]
mod probe;
#[path = "bench/rest.rs"]
mod rest;
#[path = "bench/run.rs"]
mod run;
#[path = "bench/scale.rs"]
mod scale;
#[path = "bench/service.rs"]
mod service;
#[path = "bench/start.rs"]
mod start;
#[path = "bench/storage.rs"]
mod storage;
#[path = "../tests/support/mod.rs"]
mod support;
#[path = "bench/table.rs"]
mod table;
#[path = "bench/wire.rs"]
mod wire;

/// The parts in order: name, description, function.
const PARTS: &[(&str, &str, fn())] = &[
    ("start", "root directory to /bin/true to exit", start::all),
    ("boot", "to PID 1, to the first line, to running", boot::all),
    ("rest", "what an idle machine costs", rest::all),
    ("enter", "a command in a machine, and its session", life::enter),
    ("life", "stop, restart, reboot", life::all),
    ("network", "to a network beyond the host and back", network::all),
    ("scale", "many machines, and many processes", scale::all),
    ("storage", "clones, throw-away roots, layers, snapshots", storage::all),
    ("archives", "imports of archives", archives::all),
    ("build", "build sessions: begin, run, end", build::all),
    ("packages", "sbuild and autopkgtest with build sessions", packages::all),
    ("service", "a user's commands and starts through the service on the bus", service::all),
    ("nspawn", "called as systemd-nspawn", nspawn::all),
    ("filter", "what the system-call filter costs", filter::all),
    ("probe", "what root inside can do", probe::all),
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    match arguments.split_first() {
        Some((word, [part])) if word == "inside" => match PARTS.iter().find(|(name, ..)| name == part) {
            Some((.., measure)) => measure(),
            None => panic!("there is no part '{part}'"),
        },
        Some((word, words)) if word == "wire" => wire::run(words),
        _ => {
            let wanted = |name: &&str| arguments.is_empty() || arguments.iter().any(|word| word == name);
            let parts: Vec<&str> = PARTS.iter().map(|(name, ..)| *name).filter(wanted).collect();
            if parts.is_empty() {
                let names: Vec<&str> = PARTS.iter().map(|(name, ..)| *name).collect();
                panic!("no such part; there are: {}", names.join(", "));
            }
            host::measure(&parts);
        }
    }
}
