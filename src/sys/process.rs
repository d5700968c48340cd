//! Ends, signals and awaits processes, and sets attributes of this process.
#![allow(unsafe_code)]

mod borrow;
mod clone;
mod credentials;
mod hold;
pub(crate) mod interrupt;
mod lend;
mod signals;
mod title;

pub(crate) use borrow::{clone_borrowing, clone_borrowing_as, run_child};
pub use clone::{Child, Side, clone, clone_as, clone_owned_by, clone_sibling};
pub(crate) use credentials::{
    as_effective, become_user, make_files_as, make_files_in_group_0, read_only, use_files_as,
};
pub(crate) use hold::Holder;
pub(crate) use lend::{CAN_LEND, Loan, LoanEnd, LoanWait, clone_lending};
pub(crate) use signals::SignalSet;
pub(crate) use title::replace_title;

use super::pseudo_file;
use crate::error::{Context, Error, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::process::Pid;

/// Ends this process at once, without running destructors: for a cloned child.
pub fn exit_now(status: i32) -> ! {
    // SAFETY: _exit(2) takes any value and does not return.
    unsafe { libc::_exit(status) }
}

/// Has the kernel kill this process, a cloned child, when its parent ends (PR_SET_PDEATHSIG(2const)). It
/// outlives an exec; a change of ids cancels it.
pub(crate) fn die_with_parent() {
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
}

/// Gives this process a new session keyring (keyctl(2), KEYCTL_JOIN_SESSION_KEYRING).
///
/// # Errors
/// Any error of keyctl(2); `ENOSYS` without keyrings.
pub(crate) fn join_new_session_keyring() -> std::io::Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_long = 1;
    // SAFETY: a null name requests an anonymous keyring; no memory is read.
    let serial = unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, 0usize) };
    if serial == -1 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}

/// Makes this process undumpable or dumpable (prctl(2), PR_SET_DUMPABLE).
pub(crate) fn set_dumpable(dumpable: bool) {
    // SAFETY: integers only.
    unsafe { libc::prctl(libc::PR_SET_DUMPABLE, libc::c_ulong::from(dumpable), 0, 0, 0) };
}

/// Sets the execution domain of this process (personality(2)).
///
/// # Errors
/// Any error of personality(2).
pub(crate) fn set_personality(domain: u32) -> std::io::Result<()> {
    // SAFETY: an integer only.
    let previous = unsafe { libc::personality(libc::c_ulong::from(domain)) };
    if previous == -1 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}

/// Opens a pidfd for a process id of the current pid namespace.
///
/// # Errors
/// Any error of pidfd_open(2).
pub(crate) fn open_pidfd(pid: u32) -> Result<OwnedFd> {
    let missing = || Error::new(format!("process {pid} does not exist"));
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(missing)?;
    Ok(rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?)
}

/// Sends a signal by number, real-time signals included, to the process of a pidfd.
///
/// # Errors
/// Any error of pidfd_send_signal(2).
pub(crate) fn send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> std::io::Result<()> {
    // SAFETY: a null siginfo is allowed; the descriptor is borrowed for the call.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, 0usize, 0) };
    if result == -1 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}

/// Sends a signal to the process group that a process leads. The process must not be reaped yet. A process that
/// leads none gets the signal alone.
///
/// # Errors
/// Any error of kill(2).
///
/// KERNEL(6.9): the number of the process is read, because pidfd_send_signal(2) addresses no group before.
pub(crate) fn send_signal_to_group(pidfd: BorrowedFd<'_>, signal: i32) -> std::io::Result<()> {
    let text = pseudo_file::read(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()))?;
    let number = text.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse::<i32>().ok());
    let Some(number) = number.filter(|number| *number > 1) else { return send_signal(pidfd, signal) };
    // SAFETY: kill(2) has no memory as argument.
    match unsafe { libc::kill(-number, signal) } {
        -1 => send_signal(pidfd, signal),
        _ => Ok(()),
    }
}

/// Returns free memory of the allocator to the kernel: for a process about to idle. musl has no such
/// function: there a process with much free memory executes itself again instead.
pub(crate) fn trim_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim(3) has a size as argument and changes free memory only.
    unsafe {
        libc::malloc_trim(0)
    };
}

/// Unmaps the read-only pages of the program: for a process about to idle. The kernel maps them again from
/// the page cache when they are used.
pub(crate) fn release_program() {
    unsafe extern "C" fn release(
        object: *mut libc::dl_phdr_info,
        _: usize,
        _: *mut libc::c_void,
    ) -> libc::c_int {
        // Program headers of 64 bits (elf(5)).
        const PAGE: u64 = 4096;
        // SAFETY: the C library passes a valid object with this number of program headers.
        let (base, headers) = unsafe {
            (
                (*object).dlpi_addr,
                std::slice::from_raw_parts((*object).dlpi_phdr, (*object).dlpi_phnum.into()),
            )
        };
        for header in headers {
            if header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0 {
                let (start, end) = (base + header.p_vaddr, base + header.p_vaddr + header.p_memsz);
                let (start, end) = (start - start % PAGE, end.next_multiple_of(PAGE));
                // SAFETY: the mapping is a read-only one of a file: its pages keep their content.
                unsafe {
                    libc::madvise(start as *mut libc::c_void, (end - start) as usize, libc::MADV_DONTNEED)
                };
            }
        }
        // The program is the first object.
        1
    }
    // SAFETY: the function has the required type and unmaps pages of read-only files only.
    unsafe { libc::dl_iterate_phdr(Some(release), std::ptr::null_mut()) };
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
/// Any error of waitid(2). The child has ended then, too.
pub fn wait(pidfd: BorrowedFd<'_>) -> Result<Ended> {
    use rustix::event::{PollFd, PollFlags};
    use rustix::process::{WaitId, WaitIdOptions, waitid};
    loop {
        match waitid(WaitId::PidFd(pidfd), WaitIdOptions::EXITED) {
            Ok(Some(status)) => return Ok(ended(&status)),
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => {
                // Until it has ended, it holds the locks that it inherited.
                let _ = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], None);
                return Err(errno).context(|| "cannot wait for the child");
            }
        }
    }
}

/// Reaps the child of a pidfd if it has ended. `None` if it is running.
pub(crate) fn has_ended(pidfd: BorrowedFd<'_>) -> Option<Ended> {
    use rustix::process::{WaitId, WaitIdOptions, waitid};
    match waitid(WaitId::PidFd(pidfd), WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {
        Ok(status) => status.map(|status| ended(&status)),
        // The child does not exist any more.
        Err(_) => Some(Ended::Killed(libc::SIGKILL)),
    }
}

/// The time for a killed child to end. One that the kernel keeps longer is in a file of a guest.
const DYING: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// Kills a child, if there is one, and waits for its end: a child that has not run yet still has copies of
/// all descriptors of this process.
pub(crate) fn kill_child(child: Option<OwnedFd>) {
    let Some(child) = child else { return };
    let _ = send_signal(child.as_fd(), libc::SIGKILL);
    let _ = poll(&mut [PollFd::new(&child, PollFlags::IN)], Some(&DYING));
    has_ended(child.as_fd());
}

fn ended(status: &rustix::process::WaitIdStatus) -> Ended {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Ended::Exited(code),
        (None, signal) => Ended::Killed(signal.unwrap_or(libc::SIGKILL)),
    }
}

/// Resets the signal attributes inherited by an exec: an empty mask and default dispositions, as in a new
/// process. The clone has reset all handlers already (CLONE_CLEAR_SIGHAND); ignored signals stay ignored, for
/// example SIGPIPE (by Rust): bit 0 of `ignored` is signal 1.
pub(crate) fn reset_signals(ignored: u64) {
    // The kernel's own layout of an action, all zero: SIG_DFL. The C library reserves two signals for
    // threads, which may be inherited as ignored.
    let default = [0u64; 4];
    for signal in (1..=64).filter(|signal| ignored >> (signal - 1) & 1 == 1) {
        let (action, old) = (std::ptr::from_ref(&default), std::ptr::null_mut::<u64>());
        // SAFETY: the action has the size read by the kernel and lives across the call; no memory is written.
        // SIGKILL and SIGSTOP are refused.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, action, old, 8usize) };
    }
    let _ = nix::sys::signal::SigSet::empty().thread_set_mask();
}

/// Returns device and inode of this program, by procfs.
pub(crate) fn own_program() -> Option<(u64, u64)> {
    let stat = rustix::fs::stat("/proc/self/exe").ok()?;
    Some((stat.st_dev, stat.st_ino))
}

/// Returns whether a signal is a SIGHUP that this process ignores because of nohup(1). A blocked signal is
/// queued even then. Shells let background jobs ignore SIGINT, which is still a request to stop.
pub(crate) fn is_ignored_hangup(signal: u32) -> bool {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    if signal != libc::SIGHUP.cast_unsigned() {
        return false;
    }
    // SAFETY: the action is large enough and lives across the call; all zero is a valid one.
    unsafe {
        libc::sigaction(libc::SIGHUP, std::ptr::null(), action.as_mut_ptr()) == 0
            && action.assume_init().sa_sigaction == libc::SIG_IGN
    }
}

/// Executes this program again from a read-only mount without a mount namespace, unless it is on a read-only
/// mount already: then a process that opens or executes it through `/proc/PID/exe` cannot write to it, with
/// any rights (CVE-2019-5736). The mount cannot be made writable: once its last descriptor is closed by the
/// exec, it belongs to no namespace.
///
/// # Errors
/// Any error of the kernel; returns only if the program need not be executed again.
pub(crate) fn run_from_read_only() -> Result<()> {
    use super::mount::{Depth, MountAttributes, copy_tree, separate};
    use rustix::fd::AsFd;
    use rustix::fs::{Mode, OFlags, StatVfsMountFlags};
    use std::sync::atomic::{AtomicBool, Ordering};
    static RUNS_FROM_READ_ONLY: AtomicBool = AtomicBool::new(false);
    if RUNS_FROM_READ_ONLY.load(Ordering::Relaxed) {
        return Ok(());
    }
    let program = rustix::fs::open("/proc/self/exe", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .context(|| "cannot open the program of this process")?;
    let stat = rustix::fs::fstatvfs(&program).context(|| "cannot examine the program of this process")?;
    if stat.f_flag.contains(StatVfsMountFlags::RDONLY) {
        // A program executed by a descriptor has its number as name.
        let _ = rustix::thread::set_name(super::entry::process_name());
        RUNS_FROM_READ_ONLY.store(true, Ordering::Relaxed);
        return Ok(());
    }
    let attributes = MountAttributes { read_only: true, ..MountAttributes::default() };
    let protected = copy_tree(program.as_fd(), Depth::One)
        .and_then(|tree| separate(tree.as_fd(), None, attributes).map(|()| tree))
        .context(|| "cannot protect the program of this process")?;
    Err(super::entry::execute_again(protected.as_fd())).context(|| "cannot execute the protected program")
}

/// Overwrites the environment passed at the execution: it is readable through procfs.
pub(crate) fn forget_environment() {
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

/// Executes a program; returns only on failure. Calls `last` when all memory for it is allocated.
pub(crate) fn execute(
    path: &std::ffi::CStr,
    argv: &[std::ffi::CString],
    environment: &[std::ffi::CString],
    last: impl FnOnce(),
) -> std::io::Error {
    let pointers = |words: &[std::ffi::CString]| -> Vec<*const libc::c_char> {
        words.iter().map(|word| word.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (argv, environment) = (pointers(argv), pointers(environment));
    last();
    // SAFETY: the path and all words end with a NUL, both lists with a null pointer, and all live across the
    // call.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), environment.as_ptr()) };
    std::io::Error::last_os_error()
}

/// Prints an error and ends this process at once, without allocating memory.
pub(crate) fn end_with(message: &str, status: u8) -> ! {
    for text in ["coracle: ", message, "\n"] {
        let _ = rustix::io::write(rustix::stdio::stderr(), text.as_bytes());
    }
    exit_now(status.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fd::AsFd;

    #[test]
    fn signals_reach_a_process_by_pidfd() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pidfd = open_pidfd(child.id()).unwrap();
        send_signal(pidfd.as_fd(), libc::SIGKILL).unwrap();
        assert!(!child.wait().unwrap().success());
    }

    #[test]
    fn a_released_program_continues() {
        for _ in 0..3 {
            release_program();
            assert!(std::fs::read_to_string("/proc/self/comm").is_ok());
        }
    }

    #[test]
    fn a_failed_wait_ends_with_the_process() {
        // A process of another parent cannot be waited for.
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", "sleep 0.3 >/dev/null & echo $!"]);
        let pid = String::from_utf8(shell.output().unwrap().stdout).unwrap();
        let pidfd = open_pidfd(pid.trim().parse().unwrap()).unwrap();
        assert!(wait(pidfd.as_fd()).is_err());
        let mut ready = [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)];
        let now = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
        assert_eq!(poll(&mut ready, Some(&now)), Ok(1));
    }
}
