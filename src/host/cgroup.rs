//! The machine's cgroups in the unified hierarchy (`admin-guide/cgroup-v2.rst`): `supervisor` for Coracle,
//! `payload` for the guest, side by side in the unit's cgroup, as required by systemd for delegation.

use crate::error::{Context, Error, Result};
use crate::machine::name::Name;
use crate::machine::resources::Resources;
use crate::sys::{process, pseudo_file};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{FlockOperation, Mode, OFlags};
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// The name of the guest's cgroup below the cgroup of its unit.
pub(crate) const PAYLOAD: &str = "payload";
/// The mount point of the unified hierarchy on most hosts.
const USUAL_HIERARCHY: &str = "/sys/fs/cgroup";
/// Files of a delegated cgroup that its owner may write, for kernels that do not list them.
const DELEGATED: [&str; 3] = ["cgroup.procs", "cgroup.threads", "cgroup.subtree_control"];

/// The timeout for freezing: a process in uninterruptible sleep cannot be frozen.
pub(crate) const FREEZING: std::time::Duration = std::time::Duration::from_secs(5);

/// The cgroup above a machine's cgroups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cgroup {
    /// Its directory.
    pub(crate) directory: PathBuf,
    /// Whether Coracle created it and deletes it when the machine stops.
    pub(crate) is_ours: bool,
    /// Whether this process already is in the cgroup beside the guest's, not in the one above.
    pub(crate) is_free: bool,
}

/// Returns the directory of this process's cgroup in the unified hierarchy. `None` if there is no unified
/// hierarchy or the cgroup is outside of the visible part.
pub fn current() -> Option<PathBuf> {
    of("self")
}

/// Opens the cgroup of a guest's process; `payload` is the guest's cgroup. A guest can nest cgroups until the
/// kernel truncates their paths: then the cgroups of the guest are searched.
///
/// # Errors
/// The process has ended, or is not in a cgroup of the guest.
pub(crate) fn open_of_process(pid: u32, payload: &Path) -> Result<OwnedFd> {
    let by_path = of(&pid.to_string()).and_then(|path| open_deep(&path).ok());
    let by_path = by_path.filter(|directory| members(directory).contains(&pid));
    let open = || open_below(rustix::fs::CWD, payload.as_os_str()).ok();
    by_path.or_else(|| find(open()?, pid)).ok_or_else(|| {
        Error::new(format!("cannot find the cgroup of process {pid}")).with_hint("try again in a moment")
    })
}

/// Opens a cgroup by its path, or, if that is too long, by the components of its path.
fn open_deep(path: &Path) -> rustix::io::Result<OwnedFd> {
    match open_below(rustix::fs::CWD, path.as_os_str()) {
        Err(rustix::io::Errno::NAMETOOLONG) => {}
        opened => return opened,
    }
    let mut directory = open_below(rustix::fs::CWD, OsStr::new("/"))?;
    for part in path.components().filter(|part| matches!(part, Component::Normal(_))) {
        directory = open_below(&directory, part.as_os_str())?;
    }
    Ok(directory)
}

/// Returns the cgroup of a process, among this one and those below.
fn find(directory: OwnedFd, pid: u32) -> Option<OwnedFd> {
    if members(&directory).contains(&pid) {
        return Some(directory);
    }
    let below = |name: OsString| find(open_below(&directory, &name).ok()?, pid);
    children(&directory).into_iter().find_map(below)
}

fn of(pid: &str) -> Option<PathBuf> {
    let mount = hierarchy()?;
    let cgroups = pseudo_file::read(format!("/proc/{pid}/cgroup")).ok()?;
    let path = cgroups.lines().find_map(|line| line.strip_prefix("0::"))?;
    (!path.starts_with("/..")).then(|| mount.join(path.trim_start_matches('/')))
}

/// Returns the mount point of the unified hierarchy.
fn hierarchy() -> Option<PathBuf> {
    // Its place on hosts with systemd. The list of all mounts is long.
    let usual = rustix::fs::statfs(USUAL_HIERARCHY);
    if usual.is_ok_and(|stat| stat.f_type == libc::CGROUP2_SUPER_MAGIC) {
        return Some(USUAL_HIERARCHY.into());
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    mounts.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        after.starts_with("cgroup2 ").then(|| before.split(' ').nth(4).map(PathBuf::from)).flatten()
    })
}

/// Returns the directory of a cgroup from its path below the unified hierarchy, the notation of systemd.
pub(crate) fn directory(path: &str) -> Option<PathBuf> {
    Some(hierarchy()?.join(path.trim_start_matches('/')))
}

impl Cgroup {
    /// Returns the cgroup of the unit or scope of this process, delegated by systemd.
    ///
    /// # Errors
    /// There is no unified hierarchy.
    pub(crate) fn of_unit() -> Result<Self> {
        let current = current().ok_or_else(|| {
            Error::new("this process is in no cgroup of the unified hierarchy")
                .with_hint("mount cgroup2, or boot the host with systemd.unified_cgroup_hierarchy=1")
        })?;
        let is_free = current.file_name().is_some_and(|name| name == "supervisor");
        let directory = match current.parent() {
            Some(parent) if is_free => parent.to_owned(),
            _ => current,
        };
        Ok(Self { directory, is_ours: false, is_free })
    }

    /// Returns the cgroup of this process's unit and its lock for a machine that stays in the unit. A further
    /// machine there gets a cgroup of its own, below that of the unit, and no lock.
    ///
    /// # Errors
    /// As for [`Self::of_unit`].
    pub(crate) fn of_shared_unit(name: &Name) -> Result<(Self, Option<OwnedFd>)> {
        let unit = Self::of_unit()?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let lock = rustix::fs::open(&unit.directory, flags, Mode::empty())
            .context(|| format!("cannot open cgroup '{}'", unit.directory.display()))?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok((unit, Some(lock))),
            Err(_) => Ok((
                Self { is_ours: true, is_free: true, directory: unit.directory.join(own_name(name)) },
                None,
            )),
        }
    }

    /// Returns a cgroup below the current one, for hosts without systemd.
    pub(crate) fn of_our_own(name: &Name) -> Option<Self> {
        let directory = current()?.join(own_name(name));
        Some(Self { directory, is_ours: true, is_free: true })
    }

    /// Creates `payload` for the guest's root (a host id), and moves this process to `supervisor` if the
    /// cgroup is the unit's. Returns the payload's directory for the clone.
    ///
    /// # Errors
    /// The cgroup that cannot be created, and the cause.
    pub(crate) fn prepare(&self, owner: u32, resources: &Resources) -> Result<OwnedFd> {
        let payload = self.payload();
        // Below an existing cgroup: a missing parent would be a path of another hierarchy.
        let create = std::fs::create_dir;
        let made = if self.is_ours { create(&self.directory) } else { Ok(()) };
        made.or_else(|error| if self.directory.is_dir() { Ok(()) } else { Err(error) })
            .and_then(|()| match create(&payload) {
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                    // A cgroup of the boot before, or of a killed supervisor.
                    remove(&payload).map_err(std::io::Error::other).and_then(|()| create(&payload))
                }
                other => other,
            })
            .context(|| format!("cannot create cgroup '{}'", payload.display()))?;
        // A move makes the kernel wait for all processors (an RCU grace period, some 10 ms), even to the same
        // cgroup: systemd's DelegateSubgroup= has started the supervisor there.
        if !self.is_free {
            let supervisor = self.directory.join("supervisor");
            std::fs::create_dir_all(&supervisor)
                .and_then(|()| pseudo_file::write(supervisor.join("cgroup.procs"), "0"))
                .context(|| format!("cannot enter cgroup '{}'", supervisor.display()))?;
        }
        self.enable_controllers();
        // These files stay owned by root: a guest cannot raise its limits.
        limit(&payload, "cgroup.max.descendants", resources.cgroups_max)?;
        limit(&payload, "cgroup.max.depth", resources.cgroup_depth_max)?;
        if owner != 0 {
            delegate(&payload, owner)?;
        }
        crate::sys::mount::open_directory(&payload)
    }

    /// Returns the guest's cgroup.
    pub(crate) fn payload(&self) -> PathBuf {
        self.directory.join(PAYLOAD)
    }

    /// Enables for the guest all controllers available here.
    fn enable_controllers(&self) {
        let available = pseudo_file::read(self.directory.join("cgroup.controllers")).unwrap_or_default();
        let control = self.directory.join("cgroup.subtree_control");
        let all: Vec<String> = available.split_whitespace().map(|name| format!("+{name}")).collect();
        if all.is_empty() || pseudo_file::write(&control, all.join(" ")).is_ok() {
            return;
        }
        // The kernel enables all or none.
        for controller in available.split_whitespace() {
            if let Err(error) = pseudo_file::write(&control, format!("+{controller}")) {
                log::debug!("cannot enable cgroup controller '{controller}': {error}, ignoring");
            }
        }
    }
}

/// Returns the name of a cgroup that Coracle creates for a machine.
fn own_name(name: &Name) -> String {
    format!("coracle.{name}")
}

/// Gives the guest's cgroup to the guest's root, with the files that its owner may write.
fn delegate(payload: &Path, owner: u32) -> Result<()> {
    let delegated = pseudo_file::read("/sys/kernel/cgroup/delegate").unwrap_or_default();
    let files = delegated.lines().chain(DELEGATED);
    for file in std::iter::once("").chain(files) {
        let path = payload.join(file);
        match std::os::unix::fs::chown(&path, Some(owner), Some(owner)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).context(|| {
                    format!("cannot change the owner of '{}' to the guest's root", path.display())
                });
            }
            _ => {}
        }
    }
    Ok(())
}

/// Writes a limit; [`u64::MAX`] means unlimited. A kernel without the file has no such limit.
fn limit(directory: &Path, file: &str, limit: Option<u64>) -> Result<()> {
    let Some(limit) = limit else { return Ok(()) };
    let path = directory.join(file);
    // The kernel parses an int.
    let word = i32::try_from(limit).map_or_else(|_| "max".to_owned(), |limit| limit.to_string());
    match pseudo_file::write(&path, word) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        written => written.context(|| format!("cannot write '{}'", path.display())),
    }
}

/// Returns whether a cgroup or one below it has processes. `false` if it is missing.
pub(crate) fn is_populated(directory: &Path) -> bool {
    has_event(directory, "populated 1")
}

/// Returns the names of the cgroups below this one that `counts` accepts and that have processes. Cgroups
/// below these belong to them.
pub(crate) fn populated(directory: &Path, counts: &dyn Fn(&OsStr) -> bool) -> Vec<OsString> {
    fn each(directory: &OwnedFd, counts: &dyn Fn(&OsStr) -> bool, found: &mut Vec<OsString>) {
        for name in children(directory) {
            let Ok(below) = open_below(directory, &name) else { continue };
            if !counts(&name) {
                each(&below, counts, found);
            } else if text(&below, "cgroup.events").lines().any(|event| event == "populated 1") {
                found.push(name);
            }
        }
    }
    let mut found = Vec::new();
    if let Ok(directory) = open_below(rustix::fs::CWD, directory.as_os_str()) {
        each(&directory, counts, &mut found);
    }
    found
}

/// Returns whether a cgroup is frozen, by itself or by an ancestor.
pub(crate) fn is_frozen(directory: &Path) -> bool {
    has_event(directory, "frozen 1")
}

/// Returns whether `cgroup.events` has a line.
fn has_event(directory: &Path, line: &str) -> bool {
    let events = pseudo_file::read(directory.join("cgroup.events")).unwrap_or_default();
    events.lines().any(|event| event == line)
}

/// Freezes or thaws all processes of a cgroup and waits for the end of the transition.
///
/// # Errors
/// Any error of the kernel, or a process that cannot be frozen in time.
pub(crate) fn set_frozen(directory: &Path, frozen: bool) -> Result<()> {
    let doing = || format!("cannot {} '{}'", if frozen { "freeze" } else { "thaw" }, directory.display());
    // Opened before the change, so that its notification is not missed (POLLPRI, cgroup-v2.rst).
    let events = std::fs::File::open(directory.join("cgroup.events")).context(doing)?;
    begin_freezing(directory, frozen)?;
    let begun = std::time::Instant::now();
    while is_frozen(directory) != frozen {
        let left = FREEZING.saturating_sub(begun.elapsed());
        if left.is_zero() {
            return Err(not_frozen(frozen).context(doing()));
        }
        let left = rustix::time::Timespec { tv_sec: 0, tv_nsec: i64::from(left.subsec_nanos().max(1)) };
        let _ = rustix::event::poll(
            &mut [rustix::event::PollFd::new(&events, rustix::event::PollFlags::PRI)],
            Some(&left),
        );
    }
    Ok(())
}

/// Starts freezing or thawing, without waiting.
///
/// # Errors
/// Any error of write(2).
pub(crate) fn begin_freezing(directory: &Path, frozen: bool) -> Result<()> {
    let word = if frozen { "1" } else { "0" };
    pseudo_file::write(directory.join("cgroup.freeze"), word)
        .context(|| format!("cannot {} '{}'", if frozen { "freeze" } else { "thaw" }, directory.display()))
}

/// Returns the error for processes that are not frozen or thawed in time.
pub(crate) fn not_frozen(frozen: bool) -> Error {
    Error::new(if frozen { "a process does not stop" } else { "a cgroup above is frozen" })
}

/// Kills all processes of a cgroup and deletes it with all cgroups below. It is thawed first: a frozen
/// process dies only when thawed. A missing cgroup is not an error.
///
/// # Errors
/// The cgroup stays busy.
pub(crate) fn remove(directory: &Path) -> Result<()> {
    // After an orderly stop it and the guest's cgroup are empty and can be deleted at once.
    let _ = std::fs::remove_dir(directory.join(PAYLOAD));
    match std::fs::remove_dir(directory) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(_) => {}
    }
    if remove_tree(directory).is_ok() {
        return Ok(());
    }
    let _ = pseudo_file::write(directory.join("cgroup.freeze"), "0");
    let _ = pseudo_file::write(directory.join("cgroup.kill"), "1");
    let mut last = None;
    // Killed processes end within moments; the bound is for processes that cannot be killed.
    for attempt in 0..200u64 {
        match remove_tree(directory) {
            Ok(()) => return Ok(()),
            Err(error) => last = Some(error),
        }
        std::thread::sleep(std::time::Duration::from_millis(1 + attempt / 4));
    }
    let error = last.unwrap_or_else(|| std::io::ErrorKind::ResourceBusy.into());
    Err(error).context(|| format!("cannot remove cgroup '{}'", directory.display()))
}

fn remove_tree(directory: &Path) -> std::io::Result<()> {
    let (Some(parent), Some(name)) = (directory.parent(), directory.file_name()) else {
        return Err(std::io::ErrorKind::InvalidInput.into());
    };
    Ok(remove_below(&open_below(rustix::fs::CWD, parent.as_os_str())?, name)?)
}

pub(super) fn remove_below(parent: &OwnedFd, name: &OsStr) -> rustix::io::Result<()> {
    let directory = match open_below(parent, name) {
        Err(rustix::io::Errno::NOENT) => return Ok(()),
        opened => opened?,
    };
    for child in children(&directory) {
        remove_below(&directory, &child)?;
    }
    match rustix::fs::unlinkat(parent, name, rustix::fs::AtFlags::REMOVEDIR) {
        Err(rustix::io::Errno::NOENT) => Ok(()),
        result => result,
    }
}

/// Opens a cgroup by its name in another one: a guest can nest cgroups beyond the greatest path length.
fn open_below(parent: impl AsFd, name: &OsStr) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

/// Returns the names of the child cgroups.
fn children(directory: &OwnedFd) -> Vec<OsString> {
    let entries = rustix::fs::Dir::read_from(directory).into_iter().flatten().flatten();
    let directories = entries.filter(|entry| entry.file_type() == rustix::fs::FileType::Directory);
    let names = directories.map(|entry| OsStr::from_bytes(entry.file_name().to_bytes()).to_owned());
    names.filter(|name| name != "." && name != "..").collect()
}

/// Calls `visit` for a cgroup and all cgroups below. A missing cgroup has none.
fn walk(directory: &Path, visit: &mut dyn FnMut(&OwnedFd)) {
    fn each(directory: &OwnedFd, visit: &mut dyn FnMut(&OwnedFd)) {
        visit(directory);
        let below = children(directory).into_iter().filter_map(|name| open_below(directory, &name).ok());
        below.for_each(|directory| each(&directory, visit));
    }
    if let Ok(directory) = open_below(rustix::fs::CWD, directory.as_os_str()) {
        each(&directory, visit);
    }
}

/// Returns the process ids of one cgroup.
fn members(directory: &OwnedFd) -> Vec<u32> {
    text(directory, "cgroup.procs").lines().filter_map(|line| line.parse().ok()).collect()
}

/// Reads a file of a cgroup. Empty if it cannot be read.
fn text(directory: &OwnedFd, file: &str) -> String {
    let open = rustix::fs::openat(directory, file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    let text = open.map(|file| std::io::read_to_string(std::fs::File::from(file)));
    text.ok().and_then(std::io::Result::ok).unwrap_or_default()
}

/// Returns the processes of a cgroup and of all cgroups below.
pub(crate) fn processes(directory: &Path) -> Vec<u32> {
    let mut all = Vec::new();
    walk(directory, &mut |directory| all.extend(members(directory)));
    all
}

/// Calls `act` with the id and the pidfd of each process of a cgroup and of all cgroups below. The cgroup is
/// read again once the pidfds are open: until then an id may be reused.
pub(crate) fn for_each_process(directory: &Path, act: &mut dyn FnMut(u32, OwnedFd)) {
    walk(directory, &mut |directory| {
        for some in members(directory).chunks(256) {
            let held = some.iter().filter_map(|pid| Some((*pid, process::open_pidfd(*pid).ok()?)));
            let held: Vec<(u32, OwnedFd)> = held.collect();
            let still: BTreeSet<u32> = members(directory).into_iter().collect();
            held.into_iter().filter(|(pid, _)| still.contains(pid)).for_each(|(pid, pidfd)| act(pid, pidfd));
        }
    });
}

/// Returns the number of processes of a cgroup killed by the out-of-memory killer (`memory.events`).
pub(crate) fn out_of_memory_kills(directory: &Path) -> u64 {
    let events = pseudo_file::read(directory.join("memory.events")).unwrap_or_default();
    let count = events.lines().find_map(|line| line.strip_prefix("oom_kill "));
    count.and_then(|count| count.parse().ok()).unwrap_or(0)
}

/// Returns the controllers of the unified hierarchy of the host, separated by blanks.
pub(crate) fn controllers() -> String {
    std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The processes acted on, where `cgroup.procs` lists this process first and `then` when it is read
    /// again.
    fn acted_on(then: &str) -> usize {
        let directory = tempfile::tempdir().unwrap();
        nix::unistd::mkfifo(&directory.path().join("cgroup.procs"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        std::fs::write(directory.path().join("next"), then).unwrap();
        // The redirection returns when the first reader opens; the second reader opens the file that replaces
        // it.
        let script = format!("exec 3>cgroup.procs; mv next cgroup.procs; echo {} >&3", std::process::id());
        let mut writer = std::process::Command::new("sh");
        let mut writer = writer.args(["-c", &script]).current_dir(&directory).spawn().unwrap();
        let mut count = 0;
        for_each_process(directory.path(), &mut |_, _| count += 1);
        assert!(writer.wait().unwrap().success());
        count
    }

    #[test]
    fn processes_that_left_while_their_pidfds_were_opened_are_left_alone() {
        assert_eq!(acted_on(&format!("{}\n", std::process::id())), 1);
        assert_eq!(acted_on(""), 0);
    }
}
