//! The process that a draft is named for: its files are removed when it has ended. Called by `draft`.

use crate::host::procfs::start_time;
use std::fmt;
use std::os::unix::fs::MetadataExt;

/// A process. Its id alone does not identify it: ids are used again, and in each pid namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Owner {
    /// The inode of its pid namespace.
    namespace: u64,
    pid: u32,
    /// Its start time in clock ticks since boot.
    start: u64,
}

impl Owner {
    /// Returns this process.
    pub(super) fn current() -> Self {
        let pid = std::process::id();
        Self { namespace: namespace(), pid, start: start_time(pid).unwrap_or_default() }
    }

    /// Parses the text that `Display` writes.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split('-').map(|number| number.parse::<u64>().ok());
        let (namespace, pid, start) = (numbers.next()??, numbers.next()??, numbers.next()??);
        let pid = u32::try_from(pid).ok()?;
        numbers.next().is_none().then_some(Self { namespace, pid, start })
    }

    /// Returns whether the process has ended. `false` in another pid namespace: its processes are unknown.
    pub(super) fn is_gone(self) -> bool {
        self.namespace == namespace() && start_time(self.pid) != Some(self.start)
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.namespace, self.pid, self.start)
    }
}

/// Returns the inode of this process's pid namespace.
fn namespace() -> u64 {
    std::fs::metadata("/proc/self/ns/pid").map(|found| found.ino()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_told_from_later_processes_with_their_id() {
        let current = Owner::current();
        assert_eq!(Owner::parse(&current.to_string()), Some(current));
        assert!(!current.is_gone());
        assert!(Owner { start: current.start + 1, ..current }.is_gone());
        assert!(!Owner { namespace: current.namespace + 1, start: 1, ..current }.is_gone());
        for text in ["", "1", "1-2", "1-2-3-4", "1-2-x", "1-99999999999-3"] {
            assert_eq!(Owner::parse(text), None, "{text}");
        }
    }
}
