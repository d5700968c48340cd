//! `coracle stats`.

use super::VerbResult;
use crate::cli::arguments::RunningMachines;
use crate::cli::output::{self, Align, Legend};
use crate::control::metrics::MetricsFormat;
use crate::control::running_records;
use crate::control::stats::{self, Sample};
use crate::machine::size::rounded as size;
use crate::paths::Paths;
use clap::Args;

/// Show the resource usage of machines: CPU, memory, I/O, network, tasks, pressure
#[derive(Debug, Args)]
pub struct StatsArgs {
    #[command(flatten)]
    machines: RunningMachines,

    /// Print JSON
    #[arg(long, conflicts_with = "metrics")]
    json: bool,

    /// Print metrics, also of machines that are not running: as OpenMetrics text, or in the text format of
    /// Prometheus for its textfile collector
    #[arg(
        long,
        value_name = "openmetrics|prometheus",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "openmetrics",
        value_parser = format
    )]
    metrics: Option<MetricsFormat>,
}

impl StatsArgs {
    pub(super) fn run(self, paths: &Paths) -> VerbResult {
        if let Some(format) = self.metrics {
            output::text(&stats::metrics(paths, &self.machines.names, format)?)?;
            return Ok(0);
        }
        let samples: Vec<Sample> =
            running_records(paths, &self.machines.names)?.iter().map(stats::sample).collect();
        if self.json {
            output::json(&samples)?;
        } else {
            let columns = ["NAME", "CPU", "MEMORY", "DISK", "READ", "WRITTEN", "RECEIVED", "SENT", "TASKS"];
            let align = |name: &'static str| (name, if name == "NAME" { Align::Left } else { Align::Right });
            let rows: Vec<Vec<String>> = samples.iter().map(cells).collect();
            output::text(&output::table(&columns.map(align), &rows, Legend::Shown))?;
        }
        Ok(0)
    }
}

fn format(text: &str) -> std::result::Result<MetricsFormat, &'static str> {
    match text {
        "openmetrics" => Ok(MetricsFormat::OpenMetrics),
        "prometheus" => Ok(MetricsFormat::Prometheus),
        _ => Err("write openmetrics or prometheus"),
    }
}

/// Returns the row of a machine.
fn cells(sample: &Sample) -> Vec<String> {
    let size = |bytes: Option<u64>| bytes.map_or_else(|| "-".to_owned(), size);
    let seconds = |micros: u64| format!("{}.{:02}s", micros / 1_000_000, micros % 1_000_000 / 10_000);
    vec![
        sample.name.clone(),
        sample.cpu.map_or_else(|| "-".into(), seconds),
        size(sample.memory),
        size(sample.disk),
        size(sample.io_read),
        size(sample.io_written),
        size(sample.net_received),
        size(sample.net_sent),
        sample.tasks.map_or_else(|| "-".into(), |tasks| tasks.to_string()),
    ]
}
