//! Runs and measures a single command. Called by every part.

use super::host::TOOLS;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The timeout of every command, in seconds.
const BOUND: &str = "60";
/// The share of idle processor time in a time of this length with which a run may begin, and the longest wait
/// for it, of a run and of a whole measurement.
const IDLE: f64 = 0.8;
const WATCHED: Duration = Duration::from_millis(40);
const PATIENCE: Duration = Duration::from_secs(3);
const WHOLE_PATIENCE: Duration = Duration::from_secs(120);
/// The share of runs that may begin on busy processors.
const BUSY: f64 = 0.1;

/// The measurements of one run.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// Wall-clock time from before the start to after the end, ms.
    pub wall: f64,
    /// Processor time of the command and of all children waited for, ms.
    pub own: f64,
    /// Processor time of the whole host until it is idle again, ms: it includes the work of other processes
    /// for the command.
    pub host: f64,
    /// The peak memory of its largest process, MiB.
    pub peak: f64,
    /// Minor page faults of the command and of all children waited for.
    pub faults: f64,
    /// Voluntary context switches of the same processes.
    pub switches: f64,
}

/// Waits for idle processors before each run of a measurement, and counts the runs that began without them.
#[derive(Debug, Default)]
pub struct Calm {
    runs: usize,
    busy: usize,
    waited: Duration,
}

impl Calm {
    /// Waits until the processors are idle, or for the longest time.
    pub fn wait(&mut self) {
        let begun = Instant::now();
        let patience = PATIENCE.min(WHOLE_PATIENCE.saturating_sub(self.waited));
        self.runs += 1;
        if idle_share() >= IDLE {
            return;
        }
        while begun.elapsed() < patience {
            if idle_share() >= IDLE {
                self.waited += begun.elapsed();
                return;
            }
        }
        self.waited += begun.elapsed();
        self.busy += 1;
    }

    /// Returns the failure if too many runs began on busy processors.
    ///
    /// # Errors
    /// The number of those runs.
    pub fn check(&self) -> Result<(), String> {
        let Self { runs, busy, .. } = self;
        if *busy as f64 > BUSY * *runs as f64 {
            Err(format!("{busy} of {runs} runs began on busy processors: repeat it on a quiet computer"))
        } else {
            Ok(())
        }
    }
}

/// Watches the processors for a while and returns their share of idle time. `/proc/stat` of a nested host is
/// that of the computer.
fn idle_share() -> f64 {
    let read = || {
        let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
        let line = stat.lines().next().unwrap_or_default();
        let times: Vec<f64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        // The fourth is idle, the fifth waits for the disk: proc_stat(5). Guest times are part of user time.
        (times.iter().skip(3).take(2).sum::<f64>(), times.iter().take(8).sum::<f64>())
    };
    let before = read();
    std::thread::sleep(WATCHED);
    let after = read();
    // Idle time is exact, while busy time is counted in ticks.
    (after.0 - before.0) / (after.1 - before.1).max(1.0)
}

/// Runs a command once under the meter, and waits until the host is idle.
///
/// # Errors
/// The failure, with the end of the output.
pub fn once(command: &[String]) -> Result<Sample, String> {
    let before = host_time();
    let output = Command::new("timeout")
        .args(["--kill-after=5", BOUND, &format!("{TOOLS}/meter")])
        .args(command)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| error.to_string())?;
    // Wait for work that a manager has delegated to other processes at its end.
    std::thread::sleep(Duration::from_millis(30));
    let host = host_time() - before;
    let text = String::from_utf8_lossy(&output.stdout);
    let numbers: Vec<f64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    match numbers[..] {
        [wall, user, system, peak, faults, switches, 0.0] => Ok(Sample {
            wall: wall / 1e3,
            own: (user + system) / 1e3,
            host,
            peak: peak / 1024.0,
            faults,
            switches,
        }),
        _ => Err(why(&output.stderr, numbers.last().copied().unwrap_or(-1.0))),
    }
}

/// Returns the last line of the output, shortened.
fn why(stderr: &[u8], status: f64) -> String {
    let text = String::from_utf8_lossy(stderr);
    let is_telling = |line: &&str| !line.trim().is_empty() && !line.starts_with("hint: ");
    let line = text.lines().rev().find(is_telling).unwrap_or_default();
    format!("ended with {status}: {}", line.chars().take(160).collect::<String>())
}

/// Returns the processor time used in the host so far, ms.
fn host_time() -> f64 {
    let stat = std::fs::read_to_string("/sys/fs/cgroup/cpu.stat").unwrap_or_default();
    let usage = stat.lines().find_map(|line| line.strip_prefix("usage_usec "));
    usage.and_then(|usage| usage.parse::<f64>().ok()).unwrap_or(f64::NAN) / 1e3
}

/// Returns the trimmed output of a shell script, run with a timeout.
///
/// # Errors
/// The failure, with the end of the output.
pub fn shell(script: &str) -> Result<String, String> {
    let output = Command::new("timeout")
        .args(["--kill-after=5", BOUND, "bash", "-euc", script])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| error.to_string())?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    } else {
        Err(why(&output.stderr, output.status.code().map_or(-1.0, f64::from)))
    }
}

/// Splits a line into arguments.
pub fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}
