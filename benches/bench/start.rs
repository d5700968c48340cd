//! From a root directory to the end of `/bin/true`, with the same namespaces for all. Called by `main`, in
//! the host.
//!
//! A ratio is that of lower quartiles of interleaved runs: minima and medians vary more between measurements.

use super::contenders::{self, Contender, Users};
use super::crowd::{self, Crowd};
use super::run::{self, Calm, Sample};
use super::table::{self, lower_quartile, median, min, number, ratio};
use std::process::Command;

const ROUNDS: usize = 60;
const WARM_UP: usize = 3;
/// The contenders of the last table, with a crowd: those whose runs are short enough to show the difference.
const CROWDED: &[&str] = &["floor", "coracle", "bubblewrap", "crun"];

/// A contender with or without a user namespace, and its runs or the reason why it cannot run.
struct Entry {
    contender: &'static Contender,
    users: Users,
    samples: Result<Vec<Sample>, String>,
}

impl Entry {
    fn name(&self) -> String {
        match self.users {
            Users::Host => self.contender.name.to_owned(),
            Users::Private => {
                format!("{} {}", self.contender.name, self.contender.private.unwrap_or_default())
            }
        }
    }

    fn lower_quartile(&self, of: fn(&Sample) -> f64) -> Option<f64> {
        self.samples.as_ref().ok().map(|samples| lower_quartile(&column(samples, of)))
    }
}

/// Prints the tables: all contenders, then some of them on a crowded host. Exits with an error if the
/// measurement is not valid.
pub fn all() {
    contenders::prepare();
    stand_aside();
    let rows: Vec<Vec<String>> =
        contenders::ALL.iter().map(|one| vec![one.name.to_owned(), one.version()]).collect();
    table::print("Contenders", &["name", "version"], &rows);
    let title = "Start: mount, pid, uts, ipc, net and cgroup namespaces, also with a user namespace";
    let mut failures = compare(title, contenders::ALL);
    let title = format!("Start: the same with {} idle processes on the host", crowd::SIZE);
    match Crowd::gather() {
        Ok(crowd) => {
            let few = contenders::ALL.iter().filter(|one| CROWDED.contains(&one.name));
            failures.extend(compare(&title, few));
            drop(crowd);
        }
        Err(why) => failures.push(why),
    }
    if !failures.is_empty() {
        failures.iter().for_each(|why| println!("  failed: {why}"));
        std::process::exit(1);
    }
}

/// Moves this process to a sub-cgroup, like `DelegateSubgroup=`, so that the unit's cgroup is free for
/// containers.
fn stand_aside() {
    let script = "unit=/sys/fs/cgroup$(sed -n s/^0:://p /proc/$PPID/cgroup)
        mkdir \"$unit/supervisor\" && echo $PPID >\"$unit/supervisor/cgroup.procs\"";
    let moved = Command::new("bash").args(["-euc", script]).status();
    assert!(moved.is_ok_and(|status| status.success()), "cannot leave the unit's cgroup");
}

/// Measures contenders in interleaved rounds and prints their table. Returns the failures.
fn compare(title: &str, contenders: impl IntoIterator<Item = &'static Contender>) -> Vec<String> {
    let both = |one: &'static Contender| {
        let private = one.private.map(|_| Users::Private);
        std::iter::once(Users::Host).chain(private).map(move |users| (one, users))
    };
    let entry = |(contender, users)| Entry { contender, users, samples: Ok(Vec::new()) };
    let mut entries: Vec<Entry> = contenders.into_iter().flat_map(both).map(entry).collect();
    let (count, mut failures) = (entries.len(), Vec::new());
    let mut calm = Calm::default();
    for round in 0..WARM_UP + ROUNDS {
        // Each round begins with a different contender, so that the order varies.
        for place in 0..count {
            let entry = &mut entries[(round + place) % count];
            let Ok(kept) = &mut entry.samples else { continue };
            if round >= WARM_UP {
                calm.wait();
            }
            match run::once(&(entry.contender.start)(entry.users)) {
                Ok(sample) if round >= WARM_UP => kept.push(sample),
                Ok(_) => {}
                Err(why) => {
                    // A missing program or feature fails in the first round.
                    if round > 0 || entry.contender.required {
                        failures.push(format!("{}: {why}", entry.name()));
                    }
                    entry.samples = Err(why);
                }
            }
        }
    }
    print(title, &entries);
    failures.extend(calm.check().err());
    failures
}

fn print(title: &str, entries: &[Entry]) {
    let of = |name: &str, users: Users| {
        entries.iter().find(|entry| entry.contender.name == name && entry.users == users)
    };
    let rows: Vec<Vec<String>> = entries
        .iter()
        .filter_map(|entry| row(entry, of("floor", entry.users)?, of("crun", entry.users)?))
        .collect();
    let head = [
        "name",
        "wall ms",
        "min",
        "median",
        "/ floor",
        "/ crun",
        "cpu ms",
        "/ floor",
        "/ crun",
        "host cpu ms",
        "faults",
        "switches",
        "peak MiB",
    ];
    table::print(&format!("{title} ({ROUNDS} rounds, lower quartiles)"), &head, &rows);
    for entry in entries {
        if let Err(why) = &entry.samples {
            println!("  {} cannot run here: {why}", entry.name());
        }
    }
}

fn column(samples: &[Sample], of: fn(&Sample) -> f64) -> Vec<f64> {
    samples.iter().map(of).collect()
}

/// Returns the row of a contender; `None` if it cannot run.
fn row(entry: &Entry, floor: &Entry, crun: &Entry) -> Option<Vec<String>> {
    let wall = column(entry.samples.as_ref().ok()?, |sample| sample.wall);
    let plain = |of: fn(&Sample) -> f64| entry.lower_quartile(of).map_or_else(|| "-".into(), number);
    let over = |base: &Entry, of: fn(&Sample) -> f64| {
        ratio(entry.lower_quartile(of).unwrap_or(f64::NAN), base.lower_quartile(of))
    };
    Some(vec![
        entry.name(),
        plain(|sample| sample.wall),
        number(min(&wall)),
        number(median(&wall)),
        over(floor, |sample| sample.wall),
        over(crun, |sample| sample.wall),
        plain(|sample| sample.own),
        over(floor, |sample| sample.own),
        over(crun, |sample| sample.own),
        plain(|sample| sample.host),
        plain(|sample| sample.faults),
        plain(|sample| sample.switches),
        plain(|sample| sample.peak),
    ])
}
