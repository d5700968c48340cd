//! Runs and measures a single command. Called by every part.

use super::host::TOOLS;
use std::process::{Command, Stdio};
use std::time::Duration;

/// The timeout of every command, in seconds.
const BOUND: &str = "60";

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
        [wall, user, system, peak, 0.0] => {
            Ok(Sample { wall: wall / 1e3, own: (user + system) / 1e3, host, peak: peak / 1024.0 })
        }
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
