//! The conformance table of `tests/nspawn/`: each row runs with the systemd-nspawn of the host and with
//! coracle called by that name, one after another on one host. A row that systemd-nspawn fails is wrong.
//!
//! `CORACLE_ROWS=TEXT` selects the rows whose subject or name contains the text, `CORACLE_ROWS_BY=real` or
//! `ours` one program.

mod report;
mod row;

use std::collections::BTreeSet;
use std::env;
use std::time::Duration;

use crate::support::{Host, Output};
use report::Report;
use row::Row;

/// The time limit of a row with one program.
const ROW: Duration = Duration::from_secs(15);

/// A program called `systemd-nspawn`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    Real,
    Ours,
}

impl Program {
    /// Returns the name in messages and of the directory below `/run` with the program.
    fn name(self) -> &'static str {
        match self {
            Self::Real => "real",
            Self::Ours => "ours",
        }
    }
}

/// Starts the host of all rows. It is a machine of coracle in no lane.
fn host() -> Host {
    let host =
        Host::builder().script().on_disk().guest_as("busybox", ".tiny").guest_as("trixie", ".debian").start();
    host.activate_machined();
    host.sh_ok(&row::script("setup.sh"));
    host
}

/// Returns the version of the host's systemd.
fn version(host: &Host) -> u32 {
    let words = host.sh_ok("/usr/bin/systemd-nspawn --version");
    words.split_whitespace().nth(1).and_then(|word| word.parse().ok()).expect("a version")
}

/// Runs a row with a program and returns how it deviates from what must be seen; `None` if it does not.
fn run(host: &Host, row: &Row, program: Program) -> Option<String> {
    let script = row.script();
    let mut command = vec!["env".to_owned(), format!("PROGRAM={}", program.name())];
    command.extend(row.variables());
    command.extend(["bash", "-c", &script, "row"].map(str::to_owned));
    let words: Vec<&str> = command.iter().map(String::as_str).collect();
    let out = host.exec_for(ROW, &words);
    row.deviation(&out).map(|problem| describe(row, program, &problem, &out))
}

/// Returns the text about a failed row.
fn describe(row: &Row, program: Program, problem: &str, out: &Output) -> String {
    let Output { status, stdout, stderr, .. } = out;
    let (program, line) = (program.name(), row.line());
    format!(
        "{program}: {row}: {problem}\n  {line}\n  status {status}\n  stdout: {stdout:?}\n  stderr: {stderr:?}"
    )
}

/// Panics if the help of the host's systemd-nspawn names an option without a row.
fn assert_options_have_rows(host: &Host) {
    let help = host.sh_ok("/usr/bin/systemd-nspawn --help | grep -oE -e '--[a-z][a-z0-9-]+' | sort -u");
    let names: BTreeSet<&str> = row::names().collect();
    let missing: Vec<_> = help.lines().filter(|option| !names.contains(option)).collect();
    assert!(missing.is_empty(), "not in tests/nspawn/names.txt: {missing:?}");
}

#[test]
fn every_row_holds_for_systemd_nspawn_and_for_coracle() {
    let host = host();
    assert_options_have_rows(&host);
    let version = version(&host);
    let wanted = env::var("CORACLE_ROWS").unwrap_or_default();
    let only = env::var("CORACLE_ROWS_BY").unwrap_or_default();
    let mut report = Report::new(version);
    for row in row::all().iter().filter(|row| row.matches(&wanted)) {
        if let Some(needs) = row.needs.as_ref().filter(|needs| host.sh(needs).status != 0) {
            report.skip(row, needs);
            continue;
        }
        report.add(row);
        let runs_real = row.since.is_none_or(|since| since <= version)
            && row.real_needs.as_ref().is_none_or(|needs| host.sh(needs).status == 0);
        if only != "ours" && runs_real {
            report.real(row, run(&host, row, Program::Real));
        }
        if only != "real" {
            report.ours(row, run(&host, row, Program::Ours));
        }
    }
    report.print();
    let wrong = report.into_wrong();
    assert!(wrong.is_empty(), "{} rows are wrong\n\n{}", wrong.len(), wrong.join("\n\n"));
    host.stop();
}

#[test]
fn every_name_of_systemd_nspawn_has_a_row() {
    let rows = row::all();
    let covered: BTreeSet<&str> = rows.iter().flat_map(|row| &row.covers).map(String::as_str).collect();
    let names: BTreeSet<&str> = row::names().collect();
    let missing: Vec<_> = names.difference(&covered).collect();
    assert!(missing.is_empty(), "no row covers {missing:?}");
    let unknown: Vec<_> = covered.difference(&names).collect();
    assert!(unknown.is_empty(), "not in tests/nspawn/names.txt: {unknown:?}");
}
