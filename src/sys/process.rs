//! Clones a child into namespaces and a cgroup, and sets attributes of this process.
#![allow(unsafe_code)]

use crate::error::{Context, Error, Result};
use rustix::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use rustix::process::Pid;

/// clone3(2) flag: start the child in the given cgroup. libc's constant overflows its type.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
/// clone3(2) flag: reset all signal dispositions of the child.
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;

/// Arguments of clone3(2), `struct clone_args` of `linux/sched.h`.
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// The side of a clone.
#[derive(Debug)]
pub enum Side {
    /// The parent, with the child's process id and pidfd.
    Parent(Child),
    /// The child.
    Child,
}

/// A child process, held by its pidfd so that a reused id does not matter.
#[derive(Debug)]
pub struct Child {
    /// Its id in the pid namespace of the parent.
    pub pid: Pid,
    /// Its pidfd, close-on-exec.
    pub pidfd: OwnedFd,
}

/// Clones this process as the owner of the child's new user namespace (user_namespaces(7)). The kernel
/// charges some per-user resources of the child's processes, for example inotify(7) instances, queued
/// signals, POSIX message queues and locked memory, to the owner as well: an owner per machine keeps a
/// machine from exhausting the resources of root. The capabilities of this process stay effective.
///
/// # Errors
/// Those of [`clone`], and of seteuid(2) and capset(2).
pub fn clone_owned_by(owner: u32, namespaces: u64, cgroup: Option<BorrowedFd<'_>>) -> Result<Side> {
    if owner == 0 {
        return clone(namespaces, cgroup);
    }
    let before = rustix::process::geteuid().as_raw();
    become_effective(owner)?;
    let side = clone(namespaces, cgroup);
    if !matches!(side, Ok(Side::Child)) {
        become_effective(before)?;
        set_dumpable(true);
    }
    side
}

/// Runs an action with this effective user id and all capabilities: the owner of a user namespace has all
/// capabilities in it, also those missing in this process.
///
/// # Errors
/// Those of the action, of seteuid(2) and capset(2).
pub fn as_effective(id: u32, action: impl FnOnce() -> Result<()>) -> Result<()> {
    let before = rustix::process::geteuid().as_raw();
    become_effective(id)?;
    let done = action();
    become_effective(before)?;
    done
}

/// Changes the effective user id and keeps the effective capabilities.
fn become_effective(id: u32) -> Result<()> {
    let context = || format!("cannot set the effective user id {id}");
    let sets = rustix::thread::capabilities(None).context(context)?;
    nix::unistd::seteuid(nix::unistd::Uid::from_raw(id)).context(context)?;
    rustix::thread::set_capabilities(None, sets).context(context)
}

/// Clones this process into new namespaces (`CLONE_NEW*` bits) and, if given, a cgroup.
///
/// # Errors
/// Refused in a process of several threads: only the caller's thread would exist in the child, and locks of
/// other threads would never be released. Else any error of clone3(2).
pub fn clone(namespaces: u64, cgroup: Option<BorrowedFd<'_>>) -> Result<Side> {
    let mut arguments = CloneArgs { flags: namespaces, ..CloneArgs::default() };
    if let Some(cgroup) = cgroup {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = cgroup.as_raw_fd() as u64;
    }
    clone_with(arguments)
}

/// Clones this process into the pid namespace of its children, as process `pid` there (Linux 5.5). Later ids
/// are not affected.
///
/// # Errors
/// As for [`clone`].
pub fn clone_as(pid: u32) -> Result<Side> {
    let set_tid = std::ptr::addr_of!(pid) as u64;
    clone_with(CloneArgs { set_tid, set_tid_size: 1, ..CloneArgs::default() })
}

/// Clones this process, itself a cloned child of one thread, as a child of its own parent.
///
/// # Errors
/// Any error of clone3(2).
pub fn clone_sibling() -> Result<Side> {
    // The exit signal is that of this process.
    clone_unchecked(CloneArgs { flags: libc::CLONE_PARENT as u64, ..CloneArgs::default() })
}

fn clone_with(arguments: CloneArgs) -> Result<Side> {
    let threads = std::fs::read_dir("/proc/self/task").context(|| "cannot count threads")?.count();
    if threads != 1 {
        return Err(Error::new(format!("refusing to clone a process of {threads} threads")));
    }
    clone_unchecked(CloneArgs { exit_signal: libc::SIGCHLD as u64, ..arguments })
}

fn clone_unchecked(arguments: CloneArgs) -> Result<Side> {
    let mut pidfd: i32 = -1;
    let arguments = CloneArgs {
        flags: arguments.flags | CLONE_CLEAR_SIGHAND | libc::CLONE_PIDFD as u64,
        pidfd: std::ptr::addr_of_mut!(pidfd) as u64,
        ..arguments
    };
    // SAFETY: the arguments and the memory referred to live across the call and have the size passed. No
    // stack is given, so the child continues with a copy of the caller's, as after fork(2); the callers
    // ensure that there is one thread.
    let pid = unsafe {
        libc::syscall(libc::SYS_clone3, std::ptr::addr_of!(arguments), std::mem::size_of::<CloneArgs>())
    };
    match pid {
        -1 => Err(std::io::Error::last_os_error()).context(|| "cannot clone"),
        0 => Ok(Side::Child),
        pid => {
            let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
            // SAFETY: because of CLONE_PIDFD the kernel has stored a new descriptor, without another owner.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            pid.map(|pid| Side::Parent(Child { pid, pidfd }))
                .ok_or_else(|| Error::new("clone returned a process id out of range"))
        }
    }
}

/// Ends this process at once, without running destructors: for a cloned child.
pub fn exit_now(status: i32) -> ! {
    // SAFETY: _exit(2) takes any value and does not return.
    unsafe { libc::_exit(status) }
}

/// Waits until the parent kills this process or ends itself: for a cloned child. It has no descriptors
/// meanwhile, for example no lock of the parent.
pub fn wait_to_be_killed() -> ! {
    // SAFETY: integers only; no descriptor is used below.
    unsafe { libc::syscall(libc::SYS_close_range, 0, libc::c_uint::MAX, 0) };
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    loop {
        // SAFETY: pause(2) has no arguments.
        unsafe { libc::pause() };
    }
}

/// Gives this process a new session keyring (keyctl(2), KEYCTL_JOIN_SESSION_KEYRING).
///
/// # Errors
/// Any error of keyctl(2); `ENOSYS` without keyrings.
pub fn join_new_session_keyring() -> std::io::Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_long = 1;
    // SAFETY: a null name requests an anonymous keyring; no memory is read.
    let serial = unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, 0usize) };
    if serial == -1 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}

/// Makes this process undumpable or dumpable (prctl(2), PR_SET_DUMPABLE).
pub fn set_dumpable(dumpable: bool) {
    // SAFETY: integers only.
    unsafe { libc::prctl(libc::PR_SET_DUMPABLE, libc::c_ulong::from(dumpable), 0, 0, 0) };
}

/// Opens a pidfd for a process id of the current pid namespace.
///
/// # Errors
/// Any error of pidfd_open(2).
pub fn open_pidfd(pid: u32) -> Result<OwnedFd> {
    let missing = || Error::new(format!("process {pid} does not exist"));
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(missing)?;
    Ok(rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?)
}

/// Sends a signal by number, real-time signals included, to the process of a pidfd.
///
/// # Errors
/// Any error of pidfd_send_signal(2).
pub fn send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> std::io::Result<()> {
    // SAFETY: a null siginfo is allowed; the descriptor is borrowed for the call.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, 0usize, 0) };
    if result == -1 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}

/// Returns free memory of the allocator to the kernel: for a process about to idle. musl has no such
/// function: there a process with much free memory executes itself again instead.
pub fn trim_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim(3) has a size as argument and changes free memory only.
    unsafe {
        libc::malloc_trim(0)
    };
}

/// The exit of a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Exited with this status.
    Exited(i32),
    /// Killed by this signal.
    Killed(i32),
}

/// Waits for the child of a pidfd to end and reaps it.
///
/// # Errors
/// Any error of waitid(2).
pub fn wait(pidfd: BorrowedFd<'_>) -> Result<Ended> {
    use rustix::process::{WaitId, WaitIdOptions, waitid};
    loop {
        match waitid(WaitId::PidFd(pidfd), WaitIdOptions::EXITED) {
            Ok(Some(status)) => return Ok(ended(&status)),
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno).context(|| "cannot wait for the child"),
        }
    }
}

/// Reaps the child of a pidfd if it has ended. `None` if it is running.
pub fn has_ended(pidfd: BorrowedFd<'_>) -> Option<Ended> {
    use rustix::process::{WaitId, WaitIdOptions, waitid};
    match waitid(WaitId::PidFd(pidfd), WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {
        Ok(status) => status.map(|status| ended(&status)),
        // The child does not exist any more.
        Err(_) => Some(Ended::Killed(libc::SIGKILL)),
    }
}

fn ended(status: &rustix::process::WaitIdStatus) -> Ended {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Ended::Exited(code),
        (None, signal) => Ended::Killed(signal.unwrap_or(libc::SIGKILL)),
    }
}

/// Resets the signal attributes inherited by an exec: an empty mask and default dispositions, as in a new
/// process. The clone has reset all handlers already (CLONE_CLEAR_SIGHAND); ignored signals stay ignored, for
/// example SIGPIPE (by Rust). No file is read for it: procfs may belong to the guest.
pub fn reset_signals() {
    // The kernel's own layout of an action, all zero: SIG_DFL. The C library reserves two signals for
    // threads, which may be inherited as ignored.
    let default = [0u64; 4];
    for signal in 1..=64 {
        let (action, old) = (std::ptr::from_ref(&default), std::ptr::null_mut::<u64>());
        // SAFETY: the action has the size read by the kernel and lives across the call; no memory is written.
        // SIGKILL and SIGSTOP are refused.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, action, old, 8usize) };
    }
    let _ = nix::sys::signal::SigSet::empty().thread_set_mask();
}

/// Executes this program again from a read-only mount without a mount namespace, unless it is on a read-only
/// mount already: then a process that opens or executes it through `/proc/PID/exe` cannot write to it, with
/// any rights (CVE-2019-5736). The mount cannot be made writable: once its last descriptor is closed by the
/// exec, it belongs to no namespace.
///
/// # Errors
/// Any error of the kernel; returns only if the program need not be executed again.
pub fn run_from_read_only() -> Result<()> {
    use super::mount::{Attributes, Depth, copy_tree, restrict};
    use rustix::fd::AsFd;
    use rustix::fs::{Mode, OFlags, StatVfsMountFlags};
    let program = rustix::fs::open("/proc/self/exe", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .context(|| "cannot open the program of this process")?;
    let stat = rustix::fs::fstatvfs(&program).context(|| "cannot examine the program of this process")?;
    if stat.f_flag.contains(StatVfsMountFlags::RDONLY) {
        // A program executed by a descriptor has its number as name.
        let _ = rustix::thread::set_name(c"coracle");
        return Ok(());
    }
    let protected = copy_tree(program.as_fd(), Depth::One)
        .and_then(|tree| {
            let attributes = Attributes { read_only: true, ..Attributes::default() };
            restrict(tree.as_fd(), Depth::One, attributes).map(|()| tree)
        })
        .context(|| "cannot protect the program of this process")?;
    let text = |word: std::ffi::OsString| {
        std::ffi::CString::new(std::os::unix::ffi::OsStringExt::into_vec(word))
            .map_err(|_| Error::new("an argument has a NUL in it"))
    };
    let arguments = std::env::args_os().map(text).collect::<Result<Vec<_>>>()?;
    let variable = |(mut name, value): (std::ffi::OsString, std::ffi::OsString)| {
        name.push("=");
        name.push(value);
        text(name)
    };
    let variables = std::env::vars_os().map(variable).collect::<Result<Vec<_>>>()?;
    let flags = nix::fcntl::AtFlags::AT_EMPTY_PATH;
    match nix::unistd::execveat(protected, c"", &arguments, &variables, flags) {
        Ok(never) => match never {},
        Err(errno) => Err(std::io::Error::from(errno)).context(|| "cannot execute the protected program"),
    }
}

/// Changes to a user of the namespace: groups, then group, then user.
///
/// # Errors
/// Any error of the kernel, with the id.
pub fn become_user(uid: u32, gid: u32, groups: &[u32]) -> Result<()> {
    use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
    let groups: Vec<Gid> = groups.iter().copied().map(Gid::from_raw).collect();
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    setgroups(&groups).context(|| "cannot set groups")?;
    setresgid(gid, gid, gid).context(|| format!("cannot become group {gid}"))?;
    setresuid(uid, uid, uid).context(|| format!("cannot become user {uid}"))
}

/// Runs a command as the user nobody with the right to read all files: without other capabilities, new
/// privileges and network. For programs that parse files of a guest. A caller without root runs the command
/// as itself.
pub fn read_only(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt;
    if rustix::process::geteuid().is_root() {
        // SAFETY: the closure makes system calls only, which is allowed between fork(2) and execve(2).
        unsafe { command.pre_exec(become_reader) };
    }
}

fn become_reader() -> std::io::Result<()> {
    use rustix::thread::{CapabilitySet, CapabilitySets};
    const NOBODY: libc::c_long = 65534;
    // SAFETY: unshare(2) has an integer argument. A host without network namespaces cannot run machines
    // either.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } == -1 {
        return Err(std::io::Error::last_os_error());
    }
    rustix::thread::set_keep_capabilities(true)?;
    let calls = [
        (libc::SYS_setgroups, [0, 0, 0]),
        (libc::SYS_setresgid, [NOBODY; 3]),
        (libc::SYS_setresuid, [NOBODY; 3]),
    ];
    for (call, [one, two, three]) in calls {
        // SAFETY: ids are integers, and an empty list of groups needs no address.
        if unsafe { libc::syscall(call, one, two, three) } == -1 {
            return Err(std::io::Error::last_os_error());
        }
    }
    let kept = CapabilitySet::DAC_READ_SEARCH;
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: kept };
    rustix::thread::set_capabilities(None, sets)?;
    rustix::thread::configure_capability_in_ambient_set(kept, true)?;
    rustix::thread::set_no_new_privs(true)?;
    Ok(())
}

/// Accesses files as this user and group from now on, without the capabilities of root over files
/// (setfsuid(2)).
///
/// # Errors
/// Without `CAP_SETUID` and `CAP_SETGID`.
pub fn use_files_as(id: u32) -> Result<()> {
    use nix::unistd::{Gid, Uid, setfsgid, setfsuid};
    setfsgid(Gid::from_raw(id));
    setfsuid(Uid::from_raw(id));
    // Neither call reports a failure; both return the former id.
    let taken =
        setfsuid(Uid::from_raw(u32::MAX)).as_raw() == id && setfsgid(Gid::from_raw(u32::MAX)).as_raw() == id;
    if taken { Ok(()) } else { Err(Error::new(format!("cannot reach files as user {id}"))) }
}

/// Creates files as this user and group from now on, with all other rights kept (setfsuid(2)): a file system
/// of a user namespace accepts files of its own ids only.
///
/// # Errors
/// Any error of capset(2).
pub fn make_files_as(id: u32) -> Result<()> {
    nix::unistd::setfsgid(nix::unistd::Gid::from_raw(id));
    nix::unistd::setfsuid(nix::unistd::Uid::from_raw(id));
    // The kernel has dropped the capabilities over files as well.
    let mut sets = rustix::thread::capabilities(None).context(|| "cannot read capabilities")?;
    sets.effective = sets.permitted;
    rustix::thread::set_capabilities(None, sets).context(|| "cannot keep capabilities")
}

/// Overwrites the environment passed at the execution: it is readable through procfs.
pub fn forget_environment() {
    unsafe extern "C" {
        static environ: *mut *mut libc::c_char;
    }
    // SAFETY: the C library keeps `environ` a list of C strings with a null pointer at its end, and this
    // process may write to the strings. The caller has one thread, and std returns copies of variables only.
    unsafe {
        let mut at = environ;
        while !at.is_null() && !(*at).is_null() {
            let length = libc::strlen(*at);
            std::ptr::write_bytes(*at, 0, length);
            at = at.add(1);
        }
    }
}

/// Executes a program; returns only on failure.
pub fn execute(
    path: &std::ffi::CStr,
    argv: &[std::ffi::CString],
    environment: &[std::ffi::CString],
) -> std::io::Error {
    match nix::unistd::execve(path, argv, environment) {
        Ok(never) => match never {},
        Err(errno) => errno.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fd::AsFd;

    #[test]
    fn refuses_to_clone_with_threads() {
        // The test runner has several threads.
        let error = clone(0, None).unwrap_err();
        assert!(error.to_string().contains("threads"), "{error}");
    }

    #[test]
    fn signals_reach_a_process_by_pidfd() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pidfd = open_pidfd(child.id()).unwrap();
        send_signal(pidfd.as_fd(), libc::SIGKILL).unwrap();
        assert!(!child.wait().unwrap().success());
    }
}
