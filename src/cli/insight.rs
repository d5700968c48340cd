//! The verbs that look: `doctor`, `stats`, `inspect`, and the names for completions. Their options,
//! and the way from these to `control` and back to the output. Called by `main`.

use super::output::{self, Align, Legend};
use crate::config;
use crate::control::{doctor, inspect, stats};
use crate::error::Result;
use crate::machine::name::Name;
use crate::paths::Paths;
use crate::state::record::Record;
use clap::Args;
use serde_json::json;

/// `doctor`.
#[derive(Debug, Args)]
pub struct Doctor {
    /// The machines; this host where none is named
    #[arg(value_name = "NAME", value_parser = Name::new)]
    pub names: Vec<Name>,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `stats`.
#[derive(Debug, Args)]
pub struct Stats {
    /// The machines; all that run where none is named
    #[arg(value_name = "NAME", value_parser = Name::new)]
    pub names: Vec<Name>,

    /// Print JSON
    #[arg(long, conflicts_with = "metrics")]
    pub json: bool,

    /// Print OpenMetrics text
    #[arg(long)]
    pub metrics: bool,
}

/// `top`.
#[derive(Debug, Args)]
pub struct Top {
    /// The machines; all that run where none is named
    #[arg(value_name = "NAME", value_parser = Name::new)]
    pub names: Vec<Name>,

    /// Seconds between two looks
    #[arg(short, long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=60))]
    pub delay: u8,
}

/// `inspect`.
#[derive(Debug, Args)]
pub struct Inspect {
    /// The machine
    #[arg(value_name = "NAME", value_parser = Name::new)]
    pub name: Name,

    /// Score how much it could do to the host, with the reasons
    #[arg(long)]
    pub security: bool,

    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// `doctor`: the exit status, 1 where something is wrong.
///
/// # Errors
/// A failure record that cannot be read, or standard output that cannot be written.
pub fn doctor(paths: &Paths, wanted: &Doctor) -> Result<u8> {
    if wanted.names.is_empty() {
        return host(paths, wanted);
    }
    let of = |name: &Name| {
        doctor::diagnose(paths, name, config::machine(paths, name).map(|resolved| resolved.machine))
    };
    let all = wanted.names.iter().map(of).collect::<Result<Vec<_>>>()?;
    if wanted.json {
        output::json(&all)?;
    } else {
        let mut text = Vec::new();
        all.iter().try_for_each(|diagnosis| diagnosis.write(&mut text))?;
        output::folded(&String::from_utf8_lossy(&text))?;
    }
    Ok(u8::from(all.iter().any(doctor::Diagnosis::has_errors)))
}

fn host(paths: &Paths, wanted: &Doctor) -> Result<u8> {
    let names = config::names(paths)?;
    let machines: Vec<_> = names
        .iter()
        .filter_map(|name| config::machine(paths, name).ok())
        .map(|resolved| resolved.machine)
        .collect();
    let findings = doctor::host(paths, &machines);
    if wanted.json {
        output::json(&json!({ "findings": findings }))?;
    } else if findings.is_empty() {
        output::line("nothing is wrong with this host")?;
    } else {
        let shown = |finding: &doctor::Finding| {
            format!("{:>6}: {}\n  hint: {}\n", finding.severity.as_str(), finding.message, finding.hint)
        };
        output::folded(&findings.iter().map(shown).collect::<String>())?;
    }
    Ok(u8::from(doctor::has_errors(&findings)))
}

/// The records of the machines named, or of all that run.
///
/// # Errors
/// A machine that does not run.
pub(super) fn records(paths: &Paths, names: &[Name]) -> Result<Vec<Record>> {
    if names.is_empty() {
        return Ok(Record::all(paths).into_iter().filter(Record::is_alive).collect());
    }
    names.iter().map(|name| crate::control::running(paths, name)).collect()
}

/// `stats`.
///
/// # Errors
/// A machine that does not run, or standard output that cannot be written.
pub fn stats(paths: &Paths, wanted: &Stats) -> Result<()> {
    let samples: Vec<stats::Sample> = records(paths, &wanted.names)?.iter().map(stats::sample).collect();
    if wanted.json {
        return output::json(&samples);
    }
    if wanted.metrics {
        return output::text(&stats::metrics(&samples));
    }
    let columns = ["NAME", "CPU", "MEMORY", "READ", "WRITTEN", "RECEIVED", "SENT", "TASKS"];
    let align = |name: &'static str| (name, if name == "NAME" { Align::Left } else { Align::Right });
    let size = |bytes: Option<u64>| bytes.map_or_else(|| "-".to_owned(), crate::control::list::size);
    let cells = |sample: &stats::Sample| {
        vec![
            sample.name.clone(),
            sample.cpu.map_or_else(
                || "-".into(),
                |micros| format!("{}.{:02}s", micros / 1_000_000, micros % 1_000_000 / 10_000),
            ),
            size(sample.memory),
            size(sample.io_read),
            size(sample.io_written),
            size(sample.net_received),
            size(sample.net_sent),
            sample.tasks.map_or_else(|| "-".into(), |tasks| tasks.to_string()),
        ]
    };
    let rows: Vec<Vec<String>> = samples.iter().map(cells).collect();
    output::text(&output::table(&columns.map(align), &rows, Legend::Shown))
}

/// `inspect`.
///
/// # Errors
/// A machine that does not run, or standard output that cannot be written.
pub fn inspect(paths: &Paths, wanted: &Inspect) -> Result<()> {
    let found = inspect::look(paths, &wanted.name)?;
    let exposure = inspect::score(&found);
    let mut text = Vec::new();
    match (wanted.security, wanted.json) {
        (true, true) => return output::json(&exposure),
        (false, true) => return output::json(&found),
        (true, false) => exposure.write(&mut text)?,
        (false, false) => found.write(&mut text)?,
    }
    output::text(&String::from_utf8_lossy(&text))
}

/// The names of all machines, from their files alone: a shell asks for them at each press of a key.
///
/// # Errors
/// Definitions that cannot be listed, or standard output that cannot be written.
pub fn names(paths: &Paths) -> Result<()> {
    let mut names: Vec<String> = config::names(paths)?.iter().map(ToString::to_string).collect();
    names.extend(Record::all(paths).into_iter().map(|record| record.name));
    names.sort();
    names.dedup();
    output::text(&names.iter().map(|name| format!("{name}\n")).collect::<String>())
}
