//! Boot times: a unit to its PID 1, a busybox to its first line of output, a Debian to `running`. Called by
//! `main`, in the host.

use super::contenders;
use super::managers::{self, Manager};
use super::run;
use super::table::{self, median, min, number, ratio, spread};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const ROUNDS: usize = 15;
const DEBIAN_ROUNDS: usize = 5;
const BOUND: Duration = Duration::from_secs(60);

/// Measures one boot, in ms.
pub type Measure = Box<dyn Fn() -> Result<f64, String>>;

/// The measured times, or the error message.
type Values = Result<Vec<f64>, String>;

/// Each manager in the foreground: user namespace, network namespace, registered. lxc forwards no console.
const FOREGROUND: [(&str, &str); 2] = [
    (
        "coracle",
        "coracle run -q -b -M bb -D /var/lib/machines/bb --private-users=pick --private-users-ownership=map \
         --network-veth --console=pipe",
    ),
    (
        "systemd-nspawn",
        "systemd-nspawn -q -b -M bb -D /var/lib/machines/bb --private-users=pick --private-users-ownership=map \
         --network-veth --console=pipe",
    ),
];

/// Prints all three tables.
pub fn all() {
    contenders::prepare();
    managers::add("busybox", "bb");
    managers::add("trixie", "deb");
    let booting = || managers::ALL.iter().filter(|one| !one.name.starts_with("podman"));
    let mut to_pid_1: Vec<(&str, Measure)> =
        booting().map(|one| (one.name, Box::new(|| to_pid_1(one)) as Measure)).collect();
    to_pid_1.push(("(a unit of sleep)", Box::new(empty_unit)));
    compare(
        "Boot: a busybox machine with user namespace, veth and registration, from the command to PID 1",
        to_pid_1,
        ROUNDS,
    );
    compare(
        "Boot: the same in the foreground, to the first line of the console",
        FOREGROUND.iter().map(|&(name, command)| (name, move || to_first_line(command))).collect(),
        ROUNDS,
    );
    compare(
        "Boot: Debian 13, from the command to 'running'",
        booting().map(|one| (one.name, move || to_running(one))).collect(),
        DEBIAN_ROUNDS,
    );
}

/// Measures all contenders in turn and prints the results, with ratios to systemd-nspawn or nsenter.
pub fn compare<F: Fn() -> Result<f64, String>>(title: &str, all: Vec<(&'static str, F)>, rounds: usize) {
    let has_nspawn = all.iter().any(|(name, _)| *name == "systemd-nspawn");
    compare_to(title, all, rounds, if has_nspawn { "systemd-nspawn" } else { "nsenter" });
}

/// Measures all contenders in turn and prints the results, in ms, with ratios to `base`. A contender is left
/// out after its first failure.
pub fn compare_to<F: Fn() -> Result<f64, String>>(
    title: &str,
    all: Vec<(&'static str, F)>,
    rounds: usize,
    base: &str,
) {
    let mut results: Vec<(&str, F, Values)> =
        all.into_iter().map(|(name, measure)| (name, measure, Ok(Vec::new()))).collect();
    let count = results.len();
    for round in 0..=rounds {
        for place in 0..count {
            let (_, measure, values) = &mut results[(round + place) % count];
            let Ok(kept) = values else { continue };
            match measure() {
                // The first round only fills the caches.
                Ok(_) if round == 0 => {}
                Ok(value) => kept.push(value),
                Err(why) => *values = Err(why),
            }
        }
    }
    let of = |name: &str| {
        let found = results.iter().find(|(one, ..)| *one == name);
        found.and_then(|(.., values)| values.as_ref().ok()).map(|values| median(values))
    };
    let base_time = of(base);
    let rows: Vec<Vec<String>> = results
        .iter()
        .filter_map(|(name, _, values)| Some((name, values.as_ref().ok()?)))
        .map(|(name, values)| {
            vec![
                (*name).to_owned(),
                number(median(values)),
                number(min(values)),
                ratio(median(values), base_time),
                format!("{:.0}%", spread(values) * 100.0),
            ]
        })
        .collect();
    table::print(
        &format!("{title} ({rounds} rounds)"),
        &["name", "median ms", "min ms", &format!("/ {base}"), "spread"],
        &rows,
    );
    for (name, _, values) in &results {
        if let Err(why) = values {
            println!("  {name} cannot run here: {why}");
        }
    }
}

fn ms(began: Instant) -> f64 {
    began.elapsed().as_secs_f64() * 1e3
}

/// Measures a unit in the same slice, with its own cgroup subtree, in systemd itself: a lower bound for every
/// manager that creates a unit per machine.
fn empty_unit() -> Result<f64, String> {
    let name = "bench-empty.service";
    let text = "[Unit]\nStartLimitIntervalSec=0\n[Service]\nType=exec\nSlice=machine.slice\nDelegate=yes\nExecStart=/bin/sleep infinity\n";
    let place = format!("/run/systemd/system/{name}");
    if !std::path::Path::new(&place).exists() {
        std::fs::write(&place, text).map_err(|error| error.to_string())?;
        run::shell("systemctl daemon-reload")?;
    }
    let sample = run::once(&run::words(&format!("systemctl start {name}")))?;
    run::shell(&format!("systemctl stop {name}"))?;
    Ok(sample.wall)
}

fn to_pid_1(one: &Manager) -> Result<f64, String> {
    let sample = run::once(&one.command(one.up, "bb"));
    one.end("bb");
    sample.map(|sample| sample.wall)
}

fn to_first_line(command: &str) -> Result<f64, String> {
    let words = run::words(command);
    let began = Instant::now();
    let mut child = Command::new("setsid")
        .args(&words)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| error.to_string())?;
    let lines = BufReader::new(child.stdout.take().ok_or("no output")?).lines();
    let found = lines.map_while(Result::ok).any(|line| line.contains("busybox: up"));
    let took = ms(began);
    let said = BufReader::new(child.stderr.take().ok_or("no messages")?);
    // Terminate the machine in order: a killed nspawn leaves a mount that blocks its next start.
    let _ = run::shell("timeout 10 machinectl terminate bb; coracle cleanup bb || true");
    if !found {
        let _ = child.kill();
    }
    let _ = child.wait();
    for manager in managers::ALL.iter().take(2) {
        manager.end("bb");
    }
    if found {
        return Ok(took);
    }
    let said: Vec<String> = said.lines().map_while(Result::ok).collect();
    Err(format!("'{}' printed no 'busybox: up'; it said: {}", words[0], said.join("; ")))
}

fn to_running(one: &Manager) -> Result<f64, String> {
    let began = Instant::now();
    let started = run::once(&one.command(one.up, "deb"));
    let up = started.and_then(|_| {
        while began.elapsed() < BOUND {
            let state = one.ask(one.leader, "deb").and_then(|leader| {
                run::shell(&format!("nsenter -t {leader} -a systemctl is-system-running"))
            });
            if state.is_ok_and(|state| state == "running") {
                return Ok(ms(began));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let ask = "systemctl is-system-running; systemctl --failed --no-legend --plain; systemctl list-jobs --no-legend";
        let state = one.ask(one.leader, "deb").and_then(|leader| {
            run::shell(&format!("nsenter -t {leader} -a sh -c '{ask}' 2>&1 | tr '\n' ';'"))
        });
        Err(format!("not 'running' within a minute: {}", state.unwrap_or_else(|why| why)))
    });
    one.end("deb");
    up
}
