//! The layout of control groups: whether limits can be in force at all.

use super::Finding;

/// Controllers that limits of machines stand on.
const CONTROLLERS: [&str; 4] = ["cpu", "memory", "pids", "io"];

/// Everything there is to say of control groups.
pub(super) fn findings() -> Vec<Finding> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let Some(root) = unified(&mounts) else {
        return vec![Finding::wrong(
            "there is no unified hierarchy of control groups",
            "boot with systemd.unified_cgroup_hierarchy=1, or mount cgroup2 on /sys/fs/cgroup",
        )];
    };
    let controllers = std::fs::read_to_string(format!("{root}/cgroup.controllers")).unwrap_or_default();
    missing(&controllers).into_iter().collect()
}

/// Where cgroup2 is mounted.
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
            format!("the unified hierarchy lacks {}: such limits are not in force and not counted", missing.join(", ")),
            "boot with systemd.unified_cgroup_hierarchy=1 and without cgroup_disable=, so that version 1 does not hold them",
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
