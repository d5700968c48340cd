//! Layout of control groups: whether limits can take effect.

use super::Finding;

/// The controllers needed for the limits of machines.
const CONTROLLERS: [&str; 4] = ["cpu", "memory", "pids", "io"];

/// Returns the findings about control groups.
pub(super) fn findings() -> Vec<Finding> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let Some(root) = unified(&mounts) else {
        return vec![Finding::wrong(
            "the host has no unified cgroup hierarchy",
            "boot with systemd.unified_cgroup_hierarchy=1, or mount cgroup2 on /sys/fs/cgroup",
        )];
    };
    let controllers = std::fs::read_to_string(format!("{root}/cgroup.controllers")).unwrap_or_default();
    missing(&controllers).into_iter().collect()
}

/// Returns the mount point of cgroup2.
fn unified(mounts: &str) -> Option<&str> {
    mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        after.starts_with("cgroup2 ").then(|| before.split(' ').nth(4)).flatten()
    })
}

fn missing(controllers: &str) -> Option<Finding> {
    let has = |wanted: &&str| controllers.split_whitespace().any(|controller| controller == *wanted);
    let missing: Vec<&str> = CONTROLLERS.into_iter().filter(|wanted| !has(wanted)).collect();
    (!missing.is_empty()).then(|| {
        Finding::risk(
            format!("the unified cgroup hierarchy lacks {}: their limits and counters are not in effect", missing.join(", ")),
            "boot with systemd.unified_cgroup_hierarchy=1 and without cgroup_disable=: the controllers may be in use by version 1",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_controllers_are_named() {
        assert!(missing("cpuset cpu io memory pids").is_none());
        assert!(missing("hugetlb cpu pids").unwrap().message.contains("lacks memory, io:"));
        let mounts = "31 24 0:27 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        assert_eq!(unified(mounts), Some("/sys/fs/cgroup"));
        assert_eq!(unified("1 2 0:1 / / rw - ext4 /dev/x rw\n"), None);
    }
}
