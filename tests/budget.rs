//! The budget: the cost of a start, a command and an end of a machine in units that depend neither on the
//! speed nor on the load of a computer: system calls, processes, executed programs, page faults, voluntary
//! context switches, and round trips to D-Bus. `tests/budget/limits.txt` has a limit for each; a measure
//! above its limit fails the test. `make bench` measures times.
//!
//! The release binary is measured, with which `make test` sets `CORACLE_BINARY`: a debug build makes other
//! calls and touches more pages.

// clippy.toml allows unwrap in #[test] functions only, not in their helpers.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "budget/calls.rs"]
mod calls;
#[path = "budget/host.rs"]
mod host;
#[path = "budget/limits.rs"]
mod limits;
#[path = "support/mod.rs"]
mod support;

use limits::{Limits, Measures};
use std::path::Path;

/// The table of limits, in the repository.
const TABLE: &str = "tests/budget/limits.txt";

#[test]
#[ignore = "needs root and the release binary in CORACLE_BINARY"]
fn costs_stay_within_their_limits() {
    assert!(
        std::env::var_os("CORACLE_BINARY").is_some(),
        "CORACLE_BINARY must name the release binary, see `make binary`: a debug build has other costs"
    );
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(TABLE);
    let limits = Limits::parse(&std::fs::read_to_string(&file).unwrap());
    let mut measured = host::measure();
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&file, limits.with(&measured)).unwrap();
        return;
    }
    let mut found = limits.compare(&measured);
    if !found.exceeded.is_empty() {
        // On a busy computer, events may have been late in all runs.
        for (row, again) in host::measure() {
            let value = measured.entry(row).or_insert(again);
            *value = again.min(*value);
        }
        found = limits.compare(&measured);
    }
    found.tighter.iter().for_each(|line| eprintln!("{line}"));
    assert!(found.exceeded.is_empty(), "{}", found.message());
}

/// Returns measures of one subject.
fn measures(values: &[(&str, u64)]) -> Measures {
    values.iter().map(|(row, value)| ((*row).to_owned(), *value)).collect()
}

#[test]
fn a_measure_above_its_limit_is_named_with_a_hint() {
    let limits = Limits::parse("run/faults 100  # the payload's 30\n");
    assert!(limits.compare(&measures(&[("run/faults", 100)])).exceeded.is_empty());
    let found = limits.compare(&measures(&[("run/faults", 101)]));
    let message = found.message();
    assert_eq!(found.exceeded.len(), 1, "{message}");
    for part in ["'run/faults'", "is 101", "limit 100", TABLE, "BLESS=1"] {
        assert!(message.contains(part), "no {part}: {message}");
    }
}

#[test]
fn every_measure_has_a_limit_and_every_limit_a_measure() {
    let limits = Limits::parse("run/faults 100\nrun/gone 1\n");
    let exceeded = limits.compare(&measures(&[("run/faults", 1), ("run/new", 7)])).exceeded;
    assert_eq!(exceeded.len(), 2, "{exceeded:?}");
    assert!(exceeded[0].contains("'run/new'") && exceeded[1].contains("'run/gone'"), "{exceeded:?}");
}

#[test]
fn a_limit_far_above_its_measure_can_be_tightened() {
    let limits = Limits::parse("run/calls 100\nrun/execs 4\nrun/faults 100\n");
    let tighter = |calls, execs, faults| {
        let values = [("run/calls", calls), ("run/execs", execs), ("run/faults", faults)];
        limits.compare(&measures(&values)).tighter
    };
    // By more than a twentieth and more than two, with the margin of the row.
    assert_eq!(tighter(95, 2, 86), Vec::<String>::new());
    assert_eq!(tighter(94, 1, 82).len(), 3);
}

#[test]
fn a_measure_of_zero_needs_no_limit() {
    assert!(Limits::parse("").compare(&measures(&[("run/bus-trips", 0)])).exceeded.is_empty());
}

#[test]
fn updated_limits_keep_their_comments_and_have_a_margin() {
    let table = "# Costs.\n\nrun/execs 4  # why\nrun/gone 1\n\nend/faults 10\n";
    let values = [("run/execs", 3), ("run/new", 7), ("run/zero", 0), ("end/faults", 20)];
    let limits = Limits::parse(table).with(&measures(&values));
    assert_eq!(limits, "# Costs.\n\nrun/execs 3  # why\nrun/new 7\n\nend/faults 25\n");
}
