//! The state of hosts and its removal: directories below `/var/tmp/coracle-test` and cgroups of the same
//! name. Called by `host` and `install`. It changes only files and cgroups with its own marks.
//!
//! The files of a host are in a tmpfs if enough memory is available: on a disk, copying and removing trees
//! takes as long as the tests themselves. A host that needs a disk requests it.
//!
//! A killed test run cannot clean up. Therefore each state has an owner, and the next run removes the states
//! without a running owner.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

const BASE: &str = "/var/tmp/coracle-test";
const OWNER: &str = "owner";
/// Marks the directory for nested-host.sh.
const MARK: &str = "nested-host";
/// The files of the host, below its directory.
const FILES: &str = "files";
/// In KiB: the files of a host take at most a quarter of this, and four hosts run at once.
const MEMORY_NEEDED: u64 = 12 << 20;

static COUNTER: AtomicU32 = AtomicU32::new(0);
static SWEPT: Once = Once::new();

/// A host's directory and cgroup; `remove` removes both.
#[derive(Debug)]
pub struct State {
    pub name: String,
    pub dir: PathBuf,
    pub cgroup: PathBuf,
}

/// The file system of a host's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Storage {
    /// A tmpfs if enough memory is available, otherwise the disk.
    Memory,
    Disk,
}

impl State {
    /// Creates a state with a unique name.
    pub fn new(storage: Storage) -> Self {
        assert!(rustix::process::geteuid().is_root(), "nested hosts need root");
        SWEPT.call_once(sweep);
        let name = format!("{}-{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed));
        let dir = owned_dir(&name).join(FILES);
        fs::create_dir(&dir).expect("create the directory of a host's files");
        if storage == Storage::Memory && memory_available() > MEMORY_NEEDED {
            mount(c"tmpfs", &dir, c"tmpfs", MountFlags::empty(), Some(c"mode=0755,size=4G"))
                .expect("mount a file system in memory");
        }
        for part in ["upper", "work", "root", "machines", "vartmp"] {
            fs::create_dir(dir.join(part)).expect("create the state's directories");
        }
        // The mode set by `make install`.
        let closed = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        fs::set_permissions(dir.join("machines"), closed).expect("close the directory of trees");
        fs::write(dir.join(MARK), "").expect("mark the state");
        let cgroup = cgroup_of(&name);
        fs::create_dir(&cgroup).expect("create the host's cgroup");
        Self { name, dir, cgroup }
    }

    /// Kills the processes in the cgroup and removes the state. Returns an error if anything is left.
    pub fn remove(&self) -> Result<(), String> {
        remove(self.dir.parent().expect("the files are below a directory"), &self.cgroup)
    }
}

/// Returns a directory shared by the tests of this process, removed by the next run.
pub fn shared(name: &str) -> PathBuf {
    SWEPT.call_once(sweep);
    owned_dir(&format!("{}-{name}", std::process::id()))
}

/// Returns a directory for one test, which removes it; the next run removes a directory left over.
pub fn own() -> PathBuf {
    SWEPT.call_once(sweep);
    owned_dir(&format!("{}-{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed)))
}

fn owned_dir(name: &str) -> PathBuf {
    let dir = Path::new(BASE).join(name);
    fs::create_dir_all(BASE).expect("create the base directory");
    fs::create_dir(&dir).expect("create a state directory");
    fs::write(dir.join(OWNER), owner_of(std::process::id()).expect("our own start time"))
        .expect("write the owner");
    dir
}

/// Returns the memory available without swapping, in KiB: `MemAvailable` of proc_meminfo(5).
fn memory_available() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").expect("read /proc/meminfo");
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    line.and_then(|value| value.trim_end_matches("kB").trim().parse().ok()).unwrap_or_default()
}

/// Returns the mount point of the cgroup2 file system.
fn cgroup_root() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mounts").expect("read /proc/self/mounts");
    let line = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2"));
    PathBuf::from(line.and_then(|line| line.split(' ').nth(1)).expect("a cgroup2 mount on this machine"))
}

fn cgroup_of(name: &str) -> PathBuf {
    cgroup_root().join(format!("coracle-test.{name}"))
}

/// Returns the pid and start time of a process: a pid alone may have been reused.
fn owner_of(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let start = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?;
    Some(format!("{pid} {start}"))
}

/// Removes the states of all finished test runs.
fn sweep() {
    let Ok(entries) = fs::read_dir(BASE) else { return };
    for entry in entries.flatten() {
        // A directory without an owner is being created at the moment, or is not a state.
        let Ok(owner) = fs::read_to_string(entry.path().join(OWNER)) else { continue };
        let pid = owner.split(' ').next().and_then(|pid| pid.parse().ok());
        if pid.and_then(owner_of).as_deref() != Some(owner.as_str()) {
            // Another run may clean up in parallel: a state removed by it is not a failure.
            let _ = remove(&entry.path(), &cgroup_of(&entry.file_name().to_string_lossy()));
        }
    }
}

fn remove(dir: &Path, cgroup: &Path) -> Result<(), String> {
    let end = Instant::now() + Duration::from_secs(10);
    while cgroup.exists() {
        if Instant::now() >= end {
            return Err(format!("cannot remove the cgroup '{}'", cgroup.display()));
        }
        // Without effect in a cgroup without processes.
        let _ = fs::write(cgroup.join("cgroup.kill"), "1");
        remove_cgroup(cgroup);
        thread::sleep(Duration::from_millis(5));
    }
    // The mounts of the host are gone with its mount namespace. The call fails if the files are on disk.
    let _ = unmount(dir.join(FILES), UnmountFlags::DETACH);
    match fs::remove_dir_all(dir) {
        Err(error) if dir.exists() => Err(format!("cannot remove '{}': {error}", dir.display())),
        _ => Ok(()),
    }
}

/// Removes the empty cgroups of a subtree, leaves first. Uses find(1), because guests create paths longer
/// than PATH_MAX.
fn remove_cgroup(cgroup: &Path) {
    let mut find = Command::new("find");
    find.arg(cgroup).args(["-depth", "-type", "d", "-delete"]);
    let _ = find.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
}
