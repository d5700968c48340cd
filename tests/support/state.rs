//! Where hosts keep their state, and how it goes away: directories below `/var/tmp/coracle-test` (a real disk) and
//! cgroups of the same name. Called by `host` and `install`. It touches only what carries its own marks.
//!
//! A test run that was killed cannot clean up. So each state names its owner, and the next run removes what
//! belongs to nobody any more.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const BASE: &str = "/var/tmp/coracle-test";
const OWNER: &str = "owner";
/// Tells nested-host.sh that the directory is meant.
const MARK: &str = "nested-host";

static COUNTER: AtomicU32 = AtomicU32::new(0);
static SWEPT: Once = Once::new();

/// A host's directory and cgroup; both are gone after `remove`.
#[derive(Debug)]
pub struct State {
    pub name: String,
    pub dir: PathBuf,
    pub cgroup: PathBuf,
}

impl State {
    /// A new state with a name that no other process or test has.
    pub fn new() -> Self {
        assert!(rustix::process::geteuid().is_root(), "nested hosts need root");
        SWEPT.call_once(sweep);
        let name = format!("{}-{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed));
        let dir = owned_dir(&name);
        for part in ["upper", "work", "root", "machines", "vartmp"] {
            fs::create_dir(dir.join(part)).expect("create the state's directories");
        }
        // As `make install` has it.
        let closed = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        fs::set_permissions(dir.join("machines"), closed).expect("close the directory of trees");
        fs::write(dir.join(MARK), "").expect("mark the state");
        let cgroup = cgroup_of(&name);
        fs::create_dir(&cgroup).expect("create the host's cgroup");
        Self { name, dir, cgroup }
    }

    /// Kills what is left in the cgroup and removes everything. Says what could not be removed.
    pub fn remove(&self) -> Result<(), String> {
        remove(&self.dir, &self.cgroup)
    }
}

/// A directory shared by the tests of this process, removed by the next run.
pub fn shared(name: &str) -> PathBuf {
    SWEPT.call_once(sweep);
    owned_dir(&format!("{}-{name}", std::process::id()))
}

/// A directory for one test, which removes it; the next run does where the test could not.
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

/// The cgroup2 tree of this machine, wherever it is mounted.
fn cgroup_root() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mounts").expect("read /proc/self/mounts");
    let line = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2"));
    PathBuf::from(line.and_then(|line| line.split(' ').nth(1)).expect("a cgroup2 mount on this machine"))
}

fn cgroup_of(name: &str) -> PathBuf {
    cgroup_root().join(format!("coracle-test.{name}"))
}

/// Pid and start time: a pid alone may belong to somebody else by now.
fn owner_of(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let start = stat.rsplit_once(')')?.1.split_whitespace().nth(19)?;
    Some(format!("{pid} {start}"))
}

/// Removes the states of test runs that have ended, however they ended.
fn sweep() {
    let Ok(entries) = fs::read_dir(BASE) else { return };
    for entry in entries.flatten() {
        // A directory without an owner is being made at this moment, or was never ours.
        let Ok(owner) = fs::read_to_string(entry.path().join(OWNER)) else { continue };
        let pid = owner.split(' ').next().and_then(|pid| pid.parse().ok());
        if pid.and_then(owner_of).as_deref() != Some(owner.as_str()) {
            // Another run may be sweeping too: what it removed is no failure of ours.
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
        // In a cgroup without processes this does nothing.
        let _ = fs::write(cgroup.join("cgroup.kill"), "1");
        remove_cgroup(cgroup);
        thread::sleep(Duration::from_millis(5));
    }
    // The mounts lived in the host's own mount namespace and went with its last process.
    match fs::remove_dir_all(dir) {
        Err(error) if dir.exists() => Err(format!("cannot remove '{}': {error}", dir.display())),
        _ => Ok(()),
    }
}

/// Removes a cgroup from the leaves up, as far as it is empty.
fn remove_cgroup(cgroup: &Path) {
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroup(&entry.path());
        }
    }
    let _ = fs::remove_dir(cgroup);
}
