//! Records the failure of a machine: an error of its launch, or the end of its PID 1 with the last lines of
//! its console. Called at the end of both acts. A record that cannot be written is a warning, never an error.

use super::exit::Exit;
use super::handover::SupervisorState;
use crate::error::Error;
use crate::host::inotify;
use crate::host::runtime::runtime;
pub(crate) use crate::state::failure::LINES;

use crate::host::systemd::units;
use crate::machine::name::Name;
use crate::paths::Paths;
use crate::state::failure::Failure;
use crate::state::record::Phase;
use std::time::{SystemTime, UNIX_EPOCH};

/// Records a failed launch.
pub(crate) fn record_launch(paths: &Paths, name: &Name, error: &Error) {
    write(
        paths,
        name,
        &Failure {
            time: now(),
            step: "set up".into(),
            cause: error.to_string(),
            hint: error.hint().map(str::to_owned),
            ..Failure::default()
        },
    );
}

/// Records the unexpected end of PID 1, with the last lines of the console.
pub(crate) fn record_exit(state: &SupervisorState, exit: Exit, why: &str, console: Vec<String>) {
    let name = &state.record.name;
    let time = now();
    let failure = Failure {
        time,
        uptime_ms: Some(time.saturating_sub(state.record.started) / 1000),
        step: state.record.phase.as_str().into(),
        cause: cause(why, &console),
        hint: Some(hint(exit, name, &console)),
        exit_status: if let Exit::Exited(status) = exit { Some(status) } else { None },
        signal: if let Exit::Killed(signal) = exit { Some(signal) } else { None },
        out_of_memory: exit == Exit::OutOfMemory,
        seccomp_denied: exit == Exit::Killed(libc::SIGSYS),
        failed_units: failed_units(&console),
        console,
    };
    write(&Paths::below(&state.paths_root), name, &failure);
}

/// Records a machine stopped by systemd because it was not up in time. Returns false for any other stop: only
/// systemd knows the reason.
pub(crate) fn record_timeout(state: &SupervisorState, waits_for: Option<&str>, console: &[String]) -> bool {
    let Some(unit) = state.record.unit.as_deref().filter(|_| units::is_running()) else { return false };
    let status = runtime().and_then(|runtime| runtime.block_on(units::unit_properties(unit)));
    let is_late = match status {
        Ok(status) => status.result == "timeout",
        Err(error) => {
            log::warn!("cannot get the reason of the stop: {error}, ignoring");
            false
        }
    };
    if !is_late {
        return false;
    }
    let name = &state.record.name;
    let time = now();
    let failure = Failure {
        time,
        uptime_ms: Some(time.saturating_sub(state.record.started) / 1000),
        step: Phase::Booting.as_str().into(),
        cause: match waits_for {
            Some(unit) => format!("it was not up in time, and was stopped: it waited for '{unit}'"),
            None => "it was not up in time, and was stopped".into(),
        },
        hint: Some(format!(
            "see what it waited for below and in 'coracle logs {name}'; where nobody waits for it to be up, \
             set boot.wait = \"running\""
        )),
        failed_units: failed_units(console),
        console: console.to_vec(),
        ..Failure::default()
    };
    write(&Paths::below(&state.paths_root), name, &failure);
    true
}

/// Removes the failure record of a machine that is up now.
pub(crate) fn clear(state: &SupervisorState) {
    Failure::forget(&Paths::below(&state.paths_root), &state.record.name);
}

fn write(paths: &Paths, name: &Name, failure: &Failure) {
    if let Err(error) = failure.write(paths, name) {
        log::warn!("{error}, ignoring");
    }
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// Returns whether the guest reports on its console that it gets no inotify instance.
fn lacks_inotify(console: &[String]) -> bool {
    console.iter().any(|line| line.contains("inotify") && line.contains("Too many open files"))
}

fn cause(why: &str, console: &[String]) -> String {
    if lacks_inotify(console) { format!("inotify instances exhausted: {why}") } else { why.to_owned() }
}

fn hint(exit: Exit, name: &Name, console: &[String]) -> String {
    match exit {
        _ if lacks_inotify(console) => inotify::HINT.into(),
        Exit::OutOfMemory => "raise resources.memory-max or reduce the load".into(),
        Exit::Killed(libc::SIGSYS) => {
            "its filter denies a system call: allow it with security.syscalls.allow".into()
        }
        Exit::Killed(libc::SIGSEGV | libc::SIGILL | libc::SIGBUS) => {
            "its init crashes: check that the tree is complete and built for this processor".into()
        }
        Exit::Exited(127 | 126) => {
            "its init is a script without its interpreter: install the program in its first line".into()
        }
        _ => format!("see its last messages below, and all of them in 'coracle logs {name}'"),
    }
}

/// Returns the units that systemd in the guest reports as failed on its console.
fn failed_units(console: &[String]) -> Vec<String> {
    let unit = |line: &String| {
        let what = line.split_once("[FAILED] ")?.1;
        let unit = what.split(' ').find(|word| word.contains('.') && !word.ends_with('.'));
        Some(unit.unwrap_or(what).trim_end_matches('.').to_owned())
    };
    console.iter().filter_map(unit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exhausted_inotify_instances_are_the_cause() {
        let name = Name::new("m7").unwrap();
        let line = "Failed to create control group inotify object: Too many open files".to_owned();
        let console = [line, "Failed to allocate manager object: Too many open files".into()];
        assert_eq!(cause("PID 1 exited", &console), "inotify instances exhausted: PID 1 exited");
        assert!(
            hint(Exit::Exited(255), &name, &console).starts_with("sysctl -w fs.inotify.max_user_instances=")
        );
        assert_eq!(cause("PID 1 exited", &console[1..]), "PID 1 exited");
    }

    #[test]
    fn failed_units_are_read_from_the_console() {
        let lines = [
            "[  OK  ] Started a.service - A.",
            "[FAILED] Failed to start db.service - The database.",
            "[FAILED] Failed to mount Something.",
        ];
        let lines = lines.map(str::to_owned);
        assert_eq!(failed_units(&lines), ["db.service", "Failed to mount Something"]);
    }
}
