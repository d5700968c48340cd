//! Resource usage of machines: counters of their cgroups and links. Called by `stats` and `top`. A value that
//! the kernel does not count is `None`, not zero.

use super::list::{self, Include, read_number};
use super::metrics::{self, MetricsFormat};
use crate::config;
use crate::error::Result;
use crate::host::cgroup;
use crate::image::quota;
use crate::machine::name::Name;
use crate::paths::Paths;
use crate::state::record::Record;
use serde::Serialize;
use std::path::Path;

/// The resource usage of one machine. Serialised unchanged for `--json`. Counters since the start never
/// decrease.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Sample {
    /// Its name.
    pub(crate) name: String,
    /// Processor time since the start, microseconds.
    pub(crate) cpu: Option<u64>,
    /// The part of it in the kernel.
    pub(crate) cpu_system: Option<u64>,
    /// Time throttled by its quota, microseconds.
    pub(crate) cpu_throttled: Option<u64>,
    /// Memory, bytes.
    pub(crate) memory: Option<u64>,
    /// The memory limit, bytes. `None` without a limit.
    pub(crate) memory_max: Option<u64>,
    /// Swap, bytes.
    pub(crate) swap: Option<u64>,
    /// Kills by the out-of-memory killer.
    pub(crate) out_of_memory_kills: Option<u64>,
    /// Disk space of the files that it changes, bytes. `None` without a limit.
    pub(crate) disk: Option<u64>,
    /// The limit of that space, bytes.
    pub(crate) disk_max: Option<u64>,
    /// Bytes read from block devices.
    pub(crate) io_read: Option<u64>,
    /// Bytes written to block devices.
    pub(crate) io_written: Option<u64>,
    /// Bytes received by the machine over its link.
    pub(crate) net_received: Option<u64>,
    /// Bytes sent.
    pub(crate) net_sent: Option<u64>,
    /// Tasks, or processes if the kernel does not count tasks.
    pub(crate) tasks: Option<u64>,
    /// The limit of tasks.
    pub(crate) tasks_max: Option<u64>,
    /// Time of the last ten seconds in which a task waited for the processor, percent.
    pub(crate) pressure_cpu: Option<f64>,
    /// Time of the last ten seconds in which a task waited for memory, percent.
    pub(crate) pressure_memory: Option<f64>,
    /// Time of the last ten seconds in which a task waited for I/O, percent.
    pub(crate) pressure_io: Option<f64>,
}

/// A process of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Process {
    /// Its id in the host's view.
    pub(crate) pid: u32,
    /// Processor time, clock ticks.
    pub(crate) ticks: u64,
    /// Resident memory, bytes.
    pub(crate) memory: u64,
    /// Its command line, or its name in brackets. The guest controls this text.
    pub(crate) command: String,
}

/// Samples the resource usage of a machine.
pub(crate) fn sample(record: &Record) -> Sample {
    let mut sample = record.cgroup.as_deref().map(of_cgroup).unwrap_or_default();
    sample.name = record.name.to_string();
    if let Some(usage) = quota::usage(&record.root) {
        (sample.disk, sample.disk_max) = (Some(usage.bytes), usage.limit);
    }
    if let Some(link) = &record.host_interface {
        // The host's end of the link receives the packets that the guest sends.
        let counter =
            |name| read_number(Path::new("/sys/class/net").join(link).join("statistics").join(name));
        sample.net_received = counter("tx_bytes");
        sample.net_sent = counter("rx_bytes");
    }
    sample
}

/// Returns metrics of the named machines, or of all machines if `names` is empty.
///
/// # Errors
/// A named machine that does not exist, or a directory of definitions that cannot be read.
pub(crate) fn metrics(paths: &Paths, names: &[Name], format: MetricsFormat) -> Result<String> {
    let is_wanted = |name: &str| names.is_empty() || names.iter().any(|wanted| wanted.as_str() == name);
    let mut machines = list::rows(paths, Include::Defined)?;
    machines.retain(|machine| is_wanted(&machine.name));
    let is_missing = |name: &&Name| machines.iter().all(|machine| machine.name != name.as_str());
    if let Some(missing) = names.iter().find(is_missing) {
        return Err(config::missing(paths, missing));
    }
    let records = Record::all(paths).into_iter().filter(|record| is_wanted(record.name.as_str()));
    let samples: Vec<Sample> = records.filter(Record::is_alive).map(|record| sample(&record)).collect();
    Ok(metrics::text(&machines, &samples, format))
}

fn of_cgroup(cgroup: &Path) -> Sample {
    let cpu = text(cgroup, "cpu.stat");
    let events = text(cgroup, "memory.events");
    let io = text(cgroup, "io.stat");
    Sample {
        cpu: field(&cpu, "usage_usec"),
        cpu_system: field(&cpu, "system_usec"),
        cpu_throttled: field(&cpu, "throttled_usec"),
        memory: read_number(cgroup.join("memory.current")),
        memory_max: read_number(cgroup.join("memory.max")),
        swap: read_number(cgroup.join("memory.swap.current")),
        out_of_memory_kills: field(&events, "oom_kill"),
        io_read: io.as_deref().map(|io| sum(io, "rbytes=")),
        io_written: io.as_deref().map(|io| sum(io, "wbytes=")),
        tasks: read_number(cgroup.join("pids.current"))
            .or_else(|| u64::try_from(cgroup::processes(cgroup).len()).ok()),
        tasks_max: read_number(cgroup.join("pids.max")),
        pressure_cpu: pressure(cgroup, "cpu.pressure"),
        pressure_memory: pressure(cgroup, "memory.pressure"),
        pressure_io: pressure(cgroup, "io.pressure"),
        ..Sample::default()
    }
}

fn text(cgroup: &Path, file: &str) -> Option<String> {
    std::fs::read_to_string(cgroup.join(file)).ok()
}

/// Returns the value of a line `NAME VALUE`.
fn field(text: &Option<String>, name: &str) -> Option<u64> {
    text.as_deref()?.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

/// Returns the sum of all values of a key of `io.stat`.
fn sum(io: &str, key: &str) -> u64 {
    io.split_whitespace().filter_map(|word| word.strip_prefix(key)?.parse::<u64>().ok()).sum()
}

/// Returns `some avg10=` of a pressure file.
fn pressure(cgroup: &Path, file: &str) -> Option<f64> {
    let text = text(cgroup, file)?;
    let some = text.lines().find_map(|line| line.strip_prefix("some "))?;
    some.split(' ').find_map(|word| word.strip_prefix("avg10=")?.parse().ok())
}

/// Returns the processes of a machine by processor time, highest first.
pub(crate) fn processes(record: &Record) -> Vec<Process> {
    let payload = record.payload_cgroup();
    let pids = payload.map(|payload| cgroup::processes(&payload)).unwrap_or_default();
    let mut processes: Vec<Process> = pids.into_iter().filter_map(process).collect();
    processes.sort_by_key(|process| std::cmp::Reverse(process.ticks));
    processes
}

fn process(pid: u32) -> Option<Process> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (before, after) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = after.split(' ').collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words: Vec<u8> = words.iter().take(512).map(|byte| if *byte == 0 { b' ' } else { *byte }).collect();
    let command = crate::host::systemd::journal::printable(words.trim_ascii());
    let page = u64::try_from(rustix::param::page_size()).unwrap_or(4096);
    Some(Process {
        pid,
        ticks: number(11)?.saturating_add(number(12)?),
        memory: number(21)?.saturating_mul(page),
        command: if command.is_empty() {
            format!("[{}]", crate::host::systemd::journal::printable(before.split_once('(')?.1.as_bytes()))
        } else {
            command
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_counters_are_none() {
        let root = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(root.path().join(name), text).unwrap();
        write("cpu.stat", "usage_usec 2500000\nuser_usec 1\nsystem_usec 7\n");
        write("io.stat", "8:0 rbytes=10 wbytes=20 rios=1\n7:0 rbytes=5 wbytes=1\n");
        write("pids.max", "max\n");
        write("cpu.pressure", "some avg10=12.50 avg60=0.00 avg300=0.00 total=1\n");
        let sample = Sample { name: "web".into(), ..of_cgroup(root.path()) };
        assert_eq!((sample.cpu, sample.cpu_system, sample.memory), (Some(2_500_000), Some(7), None));
        assert_eq!((sample.io_read, sample.io_written, sample.tasks_max), (Some(15), Some(21), None));
        assert_eq!(sample.pressure_cpu, Some(12.5));
    }
}
