//! From a root directory to the end of `/bin/true`, with the same namespaces for all. Called by `main`, in
//! the host.

use super::contenders::{self, Contender, Users};
use super::run::{self, Sample};
use super::table::{self, median, min, number, ratio, spread};

const ROUNDS: usize = 50;
const WARM_UP: usize = 3;

/// Prints both tables: without and with a user namespace.
pub fn all() {
    contenders::prepare();
    stand_aside();
    let rows: Vec<Vec<String>> =
        contenders::ALL.iter().map(|one| vec![one.name.to_owned(), one.version()]).collect();
    table::print("Contenders", &["name", "version"], &rows);
    compare("Start: mount, pid, uts, ipc, net and cgroup namespaces", Users::Host);
    compare("Start: the same and a user namespace", Users::Private);
}

/// Moves this process to a sub-cgroup, like `DelegateSubgroup=`, so that the unit's cgroup is free for
/// containers.
fn stand_aside() {
    let script = "unit=/sys/fs/cgroup$(sed -n s/^0:://p /proc/$PPID/cgroup)
        mkdir \"$unit/supervisor\" && echo $PPID >\"$unit/supervisor/cgroup.procs\"";
    let moved = std::process::Command::new("bash").args(["-euc", script]).status();
    assert!(moved.is_ok_and(|status| status.success()), "cannot leave the unit's cgroup");
}

fn compare(title: &str, users: Users) {
    let mut runs: Vec<(&Contender, Result<Vec<Sample>, String>)> =
        contenders::ALL.iter().map(|one| (one, Ok(Vec::new()))).collect();
    let count = runs.len();
    for round in 0..WARM_UP + ROUNDS {
        // Each round begins with a different contender, so that the order varies.
        for place in 0..count {
            let (one, samples) = &mut runs[(round + place) % count];
            let Ok(kept) = samples else { continue };
            match run::once(&(one.start)(users)) {
                Ok(sample) if round >= WARM_UP => kept.push(sample),
                Ok(_) => {}
                Err(why) => *samples = Err(why),
            }
        }
    }
    let wall = |name: &str| {
        let of = runs.iter().find(|(one, _)| one.name == name);
        of.and_then(|(_, samples)| samples.as_ref().ok()).map(|samples| median(&column(samples, |s| s.wall)))
    };
    let (floor, crun) = (wall("floor"), wall("crun"));
    let rows: Vec<Vec<String>> = runs
        .iter()
        .filter_map(|(one, samples)| Some(row(one.name, samples.as_ref().ok()?, floor, crun)))
        .collect();
    let head =
        ["name", "wall ms", "min ms", "/ floor", "/ crun", "spread", "own cpu ms", "host cpu ms", "peak MiB"];
    table::print(&format!("{title} ({ROUNDS} rounds, medians)"), &head, &rows);
    for (one, samples) in &runs {
        if let Err(why) = samples {
            println!("  {} cannot run here: {why}", one.name);
        }
    }
}

fn column(samples: &[Sample], of: fn(&Sample) -> f64) -> Vec<f64> {
    samples.iter().map(of).collect()
}

fn row(name: &str, samples: &[Sample], floor: Option<f64>, crun: Option<f64>) -> Vec<String> {
    let wall = column(samples, |sample| sample.wall);
    let of = |of: fn(&Sample) -> f64| number(median(&column(samples, of)));
    vec![
        name.to_owned(),
        number(median(&wall)),
        number(min(&wall)),
        ratio(median(&wall), floor),
        ratio(median(&wall), crun),
        format!("{:.0}%", spread(&wall) * 100.0),
        of(|sample| sample.own),
        of(|sample| sample.host),
        of(|sample| sample.peak),
    ]
}
