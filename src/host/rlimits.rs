//! The resource limits of a running process, from `/proc/PID/limits` (proc(5)). prlimit(2) needs
//! CAP_SYS_RESOURCE in the user namespace of the process. Called by `control` for processes that enter a
//! machine.

use crate::error::{Context, Result};
use crate::plan::step::ResourceLimit;
use crate::sys::pseudo_file;
use rustix::process::Resource;

/// The kernel's names (`fs/proc/base.c`, `lnames`).
const NAMES: [(&str, Resource); 16] = [
    ("Max cpu time", Resource::Cpu),
    ("Max file size", Resource::Fsize),
    ("Max data size", Resource::Data),
    ("Max stack size", Resource::Stack),
    ("Max core file size", Resource::Core),
    ("Max resident set", Resource::Rss),
    ("Max processes", Resource::Nproc),
    ("Max open files", Resource::Nofile),
    ("Max locked memory", Resource::Memlock),
    ("Max address space", Resource::As),
    ("Max file locks", Resource::Locks),
    ("Max pending signals", Resource::Sigpending),
    ("Max msgqueue size", Resource::Msgqueue),
    ("Max nice priority", Resource::Nice),
    ("Max realtime priority", Resource::Rtprio),
    ("Max realtime timeout", Resource::Rttime),
];

/// Reads the limits of a process.
///
/// # Errors
/// The process is gone, or its procfs entry cannot be read.
pub(crate) fn of_process(pid: u32) -> Result<Vec<ResourceLimit>> {
    let text = pseudo_file::read(format!("/proc/{pid}/limits"))
        .context(|| format!("cannot read the resource limits of process {pid}"))?;
    Ok(parse(&text))
}

fn parse(text: &str) -> Vec<ResourceLimit> {
    let limit = |line: &str| {
        let (rest, resource) =
            NAMES.iter().find_map(|(name, resource)| Some((line.strip_prefix(name)?, *resource)))?;
        let mut values = rest.split_whitespace().map(|word| match word {
            "unlimited" => Some(None),
            number => number.parse().ok().map(Some),
        });
        Some(ResourceLimit { resource, soft: values.next()??, hard: values.next()?? })
    };
    text.lines().filter_map(limit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_as_the_kernel_writes_them() {
        let text = "Limit                     Soft Limit           Hard Limit           Units     \n\
                    Max cpu time              unlimited            unlimited            seconds   \n\
                    Max open files            1000                 2000                 files     \n\
                    Max nice priority         0                    7                    \n\
                    Max something new         1                    2                    files     \n";
        let limit = |resource, soft, hard| ResourceLimit { resource, soft, hard };
        assert_eq!(
            parse(text),
            [
                limit(Resource::Cpu, None, None),
                limit(Resource::Nofile, Some(1000), Some(2000)),
                limit(Resource::Nice, Some(0), Some(7)),
            ]
        );
    }

    #[test]
    fn a_process_has_all_of_them() {
        let limits = of_process(std::process::id()).unwrap();
        assert_eq!(limits.len(), NAMES.len());
        for limit in limits {
            let own = rustix::process::getrlimit(limit.resource);
            assert_eq!((limit.soft, limit.hard), (own.current, own.maximum), "{:?}", limit.resource);
        }
        assert!(of_process(0).is_err());
    }
}
