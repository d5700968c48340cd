//! Resource limits of the processes in a machine. They are set with the host's rights, since in a user
//! namespace no hard limit can be raised: the builder sets those of PID 1, and a command sets its own to
//! those of PID 1 before it joins.

use crate::error::{Context, Error, Result};
use crate::plan::step::ResourceLimit;
use crate::sys::pseudo_file;
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

const INFINITE: Option<u64> = None;

/// The limit that was set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SetLimit {
    /// The given one.
    AsGiven,
    /// The hard limit of this process, which is lower.
    Lowered,
}

/// The kernel's boot defaults (`include/asm-generic/resource.h`), soft and hard. Locked memory and
/// open files are systemd's defaults for services.
const DEFAULTS: [(Resource, Option<u64>, Option<u64>); 14] = [
    (Resource::Cpu, INFINITE, INFINITE),
    (Resource::Fsize, INFINITE, INFINITE),
    (Resource::Data, INFINITE, INFINITE),
    (Resource::Stack, Some(8 << 20), INFINITE),
    (Resource::Core, Some(0), INFINITE),
    (Resource::Rss, INFINITE, INFINITE),
    (Resource::Nofile, Some(1024), Some(524_288)),
    (Resource::As, INFINITE, INFINITE),
    (Resource::Memlock, Some(8 << 20), Some(8 << 20)),
    (Resource::Locks, INFINITE, INFINITE),
    (Resource::Msgqueue, Some(819_200), Some(819_200)),
    (Resource::Nice, Some(0), Some(0)),
    (Resource::Rtprio, Some(0), Some(0)),
    (Resource::Rttime, INFINITE, INFINITE),
];

/// Sets limits of this process.
///
/// # Errors
/// Any error of prlimit(2).
pub(crate) fn apply(limits: &[ResourceLimit]) -> Result<()> {
    limits.iter().try_for_each(|limit| set(None, limit.resource, limit.soft, limit.hard).map(drop))
}

/// Resets the limits of a process to those of a fresh system: a guest does not depend on the limits of its
/// caller.
///
/// # Errors
/// Any error of prlimit(2).
pub(crate) fn reset(pid: Pid) -> Result<()> {
    for (resource, soft, hard) in DEFAULTS {
        set(Some(pid), resource, soft, hard)?;
    }
    // Half of the maximum number of threads, as in the kernel's fork_init(); unchanged if procfs does not
    // tell it.
    let threads = pseudo_file::read("/proc/sys/kernel/threads-max").unwrap_or_default();
    if let Ok(threads) = threads.trim().parse::<u64>() {
        for resource in [Resource::Nproc, Resource::Sigpending] {
            set(Some(pid), resource, Some(threads / 2), Some(threads / 2))?;
        }
    }
    Ok(())
}

/// Sets limits of a process. One above the hard limit of this process, in a container without
/// CAP_SYS_RESOURCE, is lowered to it.
///
/// # Errors
/// Any error of prlimit(2), or a lowered limit.
pub(crate) fn set_for(pid: Pid, limits: &[ResourceLimit]) -> Result<()> {
    let mut lowered = Vec::new();
    for limit in limits {
        if set(Some(pid), limit.resource, limit.soft, limit.hard)? == SetLimit::Lowered {
            lowered.push(limit.to_string());
        }
    }
    match lowered.as_slice() {
        [] => Ok(()),
        all => Err(Error::new(format!("the hard limit of this process is lower: {}", all.join(", ")))
            .with_hint("lower the limit of the machine, or run coracle with CAP_SYS_RESOURCE")),
    }
}

fn set(pid: Option<Pid>, resource: Resource, soft: Option<u64>, hard: Option<u64>) -> Result<SetLimit> {
    let put = |current, maximum| prlimit(pid, resource, Rlimit { current, maximum });
    if put(soft, hard).is_ok() {
        return Ok(SetLimit::AsGiven);
    }
    // Coracle itself runs in a container: the existing hard limit, the same for both processes, is the
    // maximum.
    let ceiling = getrlimit(resource).maximum;
    let below = |limit: Option<u64>| limit.into_iter().chain(ceiling).min();
    put(below(soft), below(hard)).context(|| format!("cannot set {resource:?}"))?;
    Ok(SetLimit::Lowered)
}
