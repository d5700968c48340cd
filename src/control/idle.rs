//! `coracle idle`: one check of a machine with `unit.idle-stop`, which is stopped if it was idle for that time.
//! Run by the timer that the generator creates.

use super::progress::Progress;
use super::{defined, start, stats};
use crate::error::Result;
use crate::host::cgroup;
use crate::machine::name::Name;
use crate::paths::Paths;
use crate::state::idle::Activity;
use crate::state::record::{Phase, Record};
use std::time::Duration;

/// The use of one processor up to which a machine is idle, percent.
const IDLE_PROCESSOR: u64 = 2;

/// Checks a machine once. One without the setting, one that is not running, and a frozen one is left alone.
///
/// # Errors
/// An invalid definition, counters that cannot be written, or a stop that failed.
pub(crate) fn check(paths: &Paths, name: &Name) -> Result<()> {
    let Some(limit) = defined(paths, name)?.dependencies.idle_stop else { return Ok(()) };
    let Some(record) = Record::read(paths, name)?.filter(is_checked) else { return Ok(()) };
    let leader = record.leader.unwrap_or_default();
    let sample = stats::sample(&record);
    let bytes = sample.net_received.unwrap_or(0).saturating_add(sample.net_sent.unwrap_or(0));
    let time = uptime();
    let found = Activity { leader, time, since: time, bytes, processor: sample.cpu.unwrap_or(0) };
    let before = Activity::read(paths, name, leader);
    let after = before
        .filter(|before| is_idle(before, &found))
        .map_or(found, |before| Activity { since: before.since, ..found });
    after.write(paths, name)?;
    let idle = Duration::from_micros(after.time.saturating_sub(after.since));
    if idle < limit {
        return Ok(());
    }
    log::info!("machine '{name}' was idle for {} s: stopping it", idle.as_secs());
    let names = std::slice::from_ref(name);
    start::stop(paths, names, &mut Progress::silent()).map_err(|mut errors| errors.swap_remove(0))
}

fn is_checked(record: &Record) -> bool {
    let is_frozen = || record.payload_cgroup().is_some_and(|payload| cgroup::is_frozen(&payload));
    record.is_alive() && record.phase == Phase::Running && !is_frozen()
}

/// Returns the time since the host booted, microseconds. A clock that is set, and a host that sleeps, do not make a
/// machine idle.
fn uptime() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let part = |value: i64| u64::try_from(value).unwrap_or(0);
    part(now.tv_sec) * 1_000_000 + part(now.tv_nsec) / 1_000
}

/// Returns whether a machine was idle between two checks: no traffic over its link, and hardly any processor
/// time. A check in the future is one of another clock, by an older version.
fn is_idle(before: &Activity, now: &Activity) -> bool {
    if before.time > now.time {
        return false;
    }
    let (elapsed, used) =
        (now.time.saturating_sub(before.time), now.processor.saturating_sub(before.processor));
    now.bytes == before.bytes && u128::from(used) * 100 <= u128::from(elapsed) * u128::from(IDLE_PROCESSOR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traffic_and_processor_time_are_activity() {
        let before = Activity { leader: 7, time: 1_000_000, since: 0, bytes: 100, processor: 500_000 };
        let at = |bytes, processor| Activity { time: 11_000_000, bytes, processor, ..before };
        assert!(is_idle(&before, &at(100, 500_000)));
        assert!(is_idle(&before, &at(100, 700_000)));
        assert!(!is_idle(&before, &at(100, 700_001)));
        assert!(!is_idle(&before, &at(101, 500_000)));
        let later = Activity { time: before.time - 1, ..before };
        assert!(!is_idle(&before, &later), "a check in the future");
        assert!(uptime() > 0);
    }
}
