//! Metrics of machines as text: OpenMetrics, or the text format of Prometheus, which its textfile collector
//! reads. Called by `stats`.

use super::list::MachineSummary;
use super::stats::Sample;

/// A format of metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MetricsFormat {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// The text format 0.0.4 of Prometheus: a counter has its whole name in all lines.
    Prometheus,
}

/// A metric: name, unit, help, type, and value in a sample.
type Metric = (&'static str, &'static str, &'static str, MetricType, fn(&Sample) -> Option<f64>);

/// The type of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MetricType {
    Counter,
    Gauge,
}

#[expect(clippy::cast_precision_loss, reason = "the format has numbers of this precision")]
fn float(value: Option<u64>) -> Option<f64> {
    value.map(|value| value as f64)
}

const METRICS: [Metric; 14] = [
    ("cpu", "seconds", "Processor time.", MetricType::Counter, |s| float(s.cpu).map(|micros| micros / 1e6)),
    ("cpu_throttled", "seconds", "Time throttled by the quota.", MetricType::Counter, |s| {
        float(s.cpu_throttled).map(|micros| micros / 1e6)
    }),
    ("memory", "bytes", "Memory in use.", MetricType::Gauge, |s| float(s.memory)),
    ("memory_limit", "bytes", "Limit of memory.", MetricType::Gauge, |s| float(s.memory_max)),
    ("swap", "bytes", "Swap in use.", MetricType::Gauge, |s| float(s.swap)),
    ("oom_kills", "", "Kills by the out-of-memory killer.", MetricType::Counter, |s| {
        float(s.out_of_memory_kills)
    }),
    ("io_read", "bytes", "Read from block devices.", MetricType::Counter, |s| float(s.io_read)),
    ("io_written", "bytes", "Written to block devices.", MetricType::Counter, |s| float(s.io_written)),
    ("network_received", "bytes", "Received over the link.", MetricType::Counter, |s| float(s.net_received)),
    ("network_sent", "bytes", "Sent over the link.", MetricType::Counter, |s| float(s.net_sent)),
    ("tasks", "", "Tasks.", MetricType::Gauge, |s| float(s.tasks)),
    (
        "pressure_cpu",
        "ratio",
        "Share of the last 10 s with a task waiting for the processor.",
        MetricType::Gauge,
        |s| s.pressure_cpu.map(|percent| percent / 100.0),
    ),
    (
        "pressure_memory",
        "ratio",
        "Share of the last 10 s with a task waiting for memory.",
        MetricType::Gauge,
        |s| s.pressure_memory.map(|percent| percent / 100.0),
    ),
    ("pressure_io", "ratio", "Share of the last 10 s with a task waiting for I/O.", MetricType::Gauge, |s| {
        s.pressure_io.map(|percent| percent / 100.0)
    }),
];

/// The states of `coracle_machine_state`.
const STATES: [&str; 10] = [
    "starting",
    "booting",
    "running",
    "degraded",
    "maintenance",
    "stopping",
    "frozen",
    "stopped",
    "failed",
    "dead",
];

/// Formats the states of all machines and the samples of those that are running. Names of machines need no
/// escapes.
pub(crate) fn text(machines: &[MachineSummary], samples: &[Sample], format: MetricsFormat) -> String {
    let mut text = String::new();
    describe(&mut text, format, "coracle_machine_state", "", "State of the machine.", MetricType::Gauge);
    for machine in machines {
        let (name, now) = (&machine.name, machine.shown_state());
        for state in STATES {
            let value = u8::from(state == now);
            text.push_str(&format!(
                "coracle_machine_state{{machine=\"{name}\",state=\"{state}\"}} {value}\n"
            ));
        }
    }
    let name = "coracle_machine_start_time_seconds";
    describe(&mut text, format, name, "seconds", "Time of the start since the epoch.", MetricType::Gauge);
    for machine in machines.iter().filter(|machine| machine.uptime.is_some()) {
        if let Some(started) = float(machine.started) {
            text.push_str(&format!("{name}{{machine=\"{}\"}} {}\n", machine.name, started / 1e6));
        }
    }
    for (name, unit, help, kind, value) in METRICS {
        let name = if unit.is_empty() { format!("coracle_{name}") } else { format!("coracle_{name}_{unit}") };
        let suffix = if kind == MetricType::Counter { "_total" } else { "" };
        describe(&mut text, format, &name, unit, help, kind);
        for sample in samples {
            if let Some(value) = value(sample) {
                text.push_str(&format!("{name}{suffix}{{machine=\"{}\"}} {value}\n", sample.name));
            }
        }
    }
    if format == MetricsFormat::OpenMetrics { text + "# EOF\n" } else { text }
}

/// Adds the lines that describe a metric.
fn describe(text: &mut String, format: MetricsFormat, name: &str, unit: &str, help: &str, kind: MetricType) {
    let (word, suffix) = if kind == MetricType::Counter { ("counter", "_total") } else { ("gauge", "") };
    let suffix = if format == MetricsFormat::Prometheus { suffix } else { "" };
    text.push_str(&format!("# HELP {name}{suffix} {help}\n# TYPE {name}{suffix} {word}\n"));
    if !unit.is_empty() && format == MetricsFormat::OpenMetrics {
        text.push_str(&format!("# UNIT {name} {unit}\n"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::name::Name;

    #[test]
    fn counters_have_the_names_of_their_format() {
        let sample = Sample { name: "web".into(), cpu: Some(2_500_000), ..Sample::default() };
        let row = |name, state| MachineSummary::of_unit(&Name::new(name).unwrap(), String::new(), state);
        let machines = [row("db", Some("failed")), row("old", None)];
        let of = |format| text(&machines, std::slice::from_ref(&sample), format);
        let open = of(MetricsFormat::OpenMetrics);
        assert!(
            open.contains("# TYPE coracle_cpu_seconds counter\n# UNIT coracle_cpu_seconds seconds\n"),
            "{open}"
        );
        assert!(open.contains("\ncoracle_cpu_seconds_total{machine=\"web\"} 2.5\n"), "{open}");
        assert!(!open.contains("coracle_memory_bytes{") && open.ends_with("# EOF\n"), "{open}");
        let text = of(MetricsFormat::Prometheus);
        assert!(
            text.contains("# TYPE coracle_cpu_seconds_total counter\ncoracle_cpu_seconds_total{"),
            "{text}"
        );
        assert!(!text.contains("# UNIT") && !text.contains("# EOF"), "{text}");
        for (machine, state, value) in [("db", "failed", 1), ("db", "stopped", 0), ("old", "stopped", 1)] {
            let line = format!("coracle_machine_state{{machine=\"{machine}\",state=\"{state}\"}} {value}\n");
            assert!(text.contains(&line), "{text}");
        }
    }
}
