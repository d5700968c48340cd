//! lxcfs, a file system in user space: files of procfs and sysfs that show a process the limits and the usage of
//! its own cgroup. Called by `run`, and by `control` before a start. It must not depend on a machine.

use crate::error::{Error, Result};
use std::path::{Path, PathBuf};

/// The directory where lxcfs(1) is mounted.
const DIRECTORY: &str = "/var/lib/lxcfs";
/// The magic number of FUSE (statfs(2)).
const FUSE: u32 = 0x6573_5546;
/// The files and directories that cover those of the machine.
const FILES: [&str; 9] = [
    "proc/cpuinfo",
    "proc/diskstats",
    "proc/loadavg",
    "proc/meminfo",
    "proc/slabinfo",
    "proc/stat",
    "proc/swaps",
    "proc/uptime",
    "sys/devices/system/cpu",
];

/// Returns the paths of lxcfs, each with the path inside that it covers. Older versions lack some.
///
/// # Errors
/// lxcfs is not running.
pub(crate) fn files() -> Result<Vec<(PathBuf, PathBuf)>> {
    find(Path::new(DIRECTORY), FUSE)
}

fn find(directory: &Path, magic: u32) -> Result<Vec<(PathBuf, PathBuf)>> {
    let is_mounted = |place: &Path| {
        rustix::fs::statfs(place)
            .is_ok_and(|found| u32::try_from(found.f_type).is_ok_and(|kind| kind == magic))
    };
    let meminfo = directory.join("proc/meminfo");
    if !is_mounted(directory) || !meminfo.exists() {
        return Err(Error::new(format!(
            "resources.visible requires lxcfs: '{}' does not exist",
            meminfo.display()
        ))
        .with_hint("install lxcfs and start lxcfs.service, or set resources.visible = false"));
    }
    let pairs = FILES.iter().map(|file| (directory.join(file), Path::new("/").join(file)));
    Ok(pairs.filter(|(source, _)| source.exists()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_without_the_file_system_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let error = find(root.path(), FUSE).unwrap_err();
        assert!(error.to_string().contains("requires lxcfs") && error.hint().is_some(), "{error}");
        std::fs::create_dir(root.path().join("proc")).unwrap();
        for file in ["meminfo", "uptime"] {
            std::fs::write(root.path().join("proc").join(file), "").unwrap();
        }
        assert!(find(root.path(), FUSE).is_err(), "its files are on a disk");
        let magic = u32::try_from(rustix::fs::statfs(root.path()).unwrap().f_type).unwrap();
        let found: Vec<PathBuf> =
            find(root.path(), magic).unwrap().into_iter().map(|(_, inside)| inside).collect();
        assert_eq!(found, [Path::new("/proc/meminfo"), Path::new("/proc/uptime")]);
    }
}
