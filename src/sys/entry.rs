//! The start of the program. Rust's own entry point is not used: a start of a machine executes the program
//! twice, and most of what that entry point prepares (a stack and handlers for stack overflows, names of
//! threads) costs system calls and pages that a short life does not need. Called by `main`.
#![allow(unsafe_code)]

use crate::error::{Context, Result};
use rustix::event::{PollFd, PollFlags};
use rustix::fd::{AsRawFd, BorrowedFd};
use rustix::fs::{Mode, OFlags};
use std::ffi::{CStr, OsStr, OsString, c_char};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicPtr, Ordering};

/// The arguments of the program, a list with a null pointer at its end. Null in tests.
static ARGUMENTS: AtomicPtr<*const c_char> = AtomicPtr::new(std::ptr::null_mut());

/// Defines the entry point of the C library, `main`: it calls the function `first` before anything else, and
/// then `program`, whose result is the exit status. For a program with `#![no_main]`.
#[macro_export]
macro_rules! entry_point {
    ($first:path, $program:path) => {
        /// The entry point, called by the C library.
        ///
        /// # Safety
        /// The arguments are a list of C strings with a null pointer at its end, which the process keeps.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn main(
            _: ::std::ffi::c_int,
            arguments: *const *const ::std::ffi::c_char,
        ) -> ::std::ffi::c_int {
            // SAFETY: the same condition.
            unsafe { $crate::sys::entry::set_arguments(arguments) };
            $first();
            ::std::ffi::c_int::from($program())
        }
    };
}

/// Records the arguments, which std knows only by its own entry point.
///
/// # Safety
/// They are those of the C function `main`: a list of C strings with a null pointer at its end, which the
/// process keeps.
pub unsafe fn set_arguments(arguments: *const *const c_char) {
    ARGUMENTS.store(arguments.cast_mut(), Ordering::Relaxed);
}

/// Returns the arguments, the name of the program first.
pub fn arguments() -> Vec<OsString> {
    let words = raw_arguments().map(|word| OsStr::from_bytes(word.to_bytes()).to_owned());
    if ARGUMENTS.load(Ordering::Relaxed).is_null() { std::env::args_os().collect() } else { words.collect() }
}

/// Returns the recorded arguments, without an allocation.
pub fn raw_arguments() -> impl Iterator<Item = &'static CStr> {
    let mut at = ARGUMENTS.load(Ordering::Relaxed).cast_const();
    std::iter::from_fn(move || {
        // SAFETY: a recorded list consists of C strings with a null pointer at its end, and stays. Nothing is
        // read beyond the null pointer.
        unsafe {
            if at.is_null() || (*at).is_null() {
                return None;
            }
            let word = CStr::from_ptr(*at);
            at = at.add(1);
            Some(word)
        }
    })
}

/// Overwrites the arguments passed at the execution: they are readable through procfs. For a child that uses
/// them no more.
pub(crate) fn forget_arguments() {
    for word in raw_arguments() {
        // SAFETY: the process may write to its arguments, and nothing reads them any more. Each ends with the
        // NUL that stays.
        unsafe { std::ptr::write_bytes(word.as_ptr().cast_mut(), 0, word.count_bytes()) };
    }
}

/// The name of the program that it replaces.
const NSPAWN: &CStr = c"systemd-nspawn";

/// Returns whether the program was called as `systemd-nspawn`, also by a path.
pub fn is_nspawn() -> bool {
    let name = raw_arguments().next().map(CStr::to_bytes).unwrap_or_default();
    name.rsplit(|byte| *byte == b'/').next() == Some(NSPAWN.to_bytes())
}

/// Returns whether this program is called as schroot(1), or by the name that sbuild(1) knows as a variant of
/// it.
pub fn is_schroot() -> bool {
    let name = raw_arguments().next().map(CStr::to_bytes).unwrap_or_default();
    matches!(name.rsplit(|byte| *byte == b'/').next(), Some(b"schroot" | b"unschroot"))
}

/// Returns whether this program is called by autopkgtest(1), as a server of testbeds.
pub fn is_testbed_server() -> bool {
    let name = raw_arguments().next().map(CStr::to_bytes).unwrap_or_default();
    name.rsplit(|byte| *byte == b'/').next() == Some(b"autopkgtest-virt-coracle")
}

/// Returns the name of this process for ps(1) and messages. The kernel names a process after the executed
/// file, which may be a descriptor.
pub fn process_name() -> &'static CStr {
    if is_nspawn() { NSPAWN } else { c"coracle" }
}

/// Returns whether the program was executed with the rights of root: the kernel has passed the effective user
/// along (getauxval(3)), so this is no system call.
pub fn is_root() -> bool {
    // SAFETY: the function has no preconditions.
    unsafe { libc::getauxval(libc::AT_EUID) == 0 }
}

/// Opens closed standard streams at `/dev/null`, so that no other file becomes one of them, and ignores
/// SIGPIPE: a write to a closed pipe is an error. Both as Rust's own entry point does, except that a closed
/// stream stays unusable: a machine must not lose its output without an error.
///
/// # Errors
/// `/dev/null` cannot be opened.
pub fn prepare() -> Result<()> {
    // SAFETY: poll(2) accepts numbers that are not open, and nothing else uses them as descriptors.
    let streams = [0, 1, 2].map(|number| unsafe { BorrowedFd::borrow_raw(number) });
    let mut polled = streams.each_ref().map(|stream| PollFd::new(stream, PollFlags::empty()));
    let now = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
    rustix::event::poll(&mut polled, Some(&now)).context(|| "cannot examine the standard streams")?;
    for (number, _) in polled.iter().enumerate().filter(|(_, it)| it.revents().contains(PollFlags::NVAL)) {
        // The lowest free number is that of the first closed stream.
        let flags = if number == 0 { OFlags::WRONLY } else { OFlags::RDONLY };
        let null = rustix::fs::open("/dev/null", flags, Mode::empty());
        let null = null.context(|| "cannot open '/dev/null' as a standard stream")?;
        std::mem::forget(null);
    }
    // SAFETY: the dispositions have no handlers. Without SIGCHLD, which a caller may ignore, nothing is left
    // of an ended child to wait for (wait(2)).
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
        libc::signal(libc::SIGCHLD, libc::SIG_DFL);
    }
    Ok(())
}

/// The stack that a start of a machine uses below the entry point, bytes.
const STACK: usize = 36 << 10;

/// The part of the first mapping of the heap that is free then and that a start uses, bytes.
const HEAP: usize = 44 << 10;

/// Lets the kernel provide the memory that a start of a machine uses by two calls: otherwise each page costs a
/// fault. Before Linux 5.14 each page costs one.
#[inline(never)]
pub fn provide_memory() {
    let here = 0u8;
    provide((&raw const here as usize).saturating_sub(STACK), STACK);
    let heap = Vec::<u8>::with_capacity(HEAP);
    provide(heap.as_ptr() as usize, HEAP);
}

/// Provides the whole pages of a range of addresses, which keep what they contain (madvise(2)).
fn provide(start: usize, length: usize) {
    const PAGE: usize = 4096;
    let (from, to) = (start.next_multiple_of(PAGE), (start + length) & !(PAGE - 1));
    // SAFETY: the call changes no content of memory; addresses that the process does not have are an error.
    unsafe { libc::madvise(from as *mut libc::c_void, to - from, libc::MADV_POPULATE_WRITE) };
}

/// Executes a program by its descriptor, with the arguments and the environment of this process.
///
/// # Errors
/// Any error of execveat(2). Returns only then.
pub(crate) fn execute_again(program: BorrowedFd<'_>) -> std::io::Error {
    unsafe extern "C" {
        static environ: *const *const c_char;
    }
    let arguments = ARGUMENTS.load(Ordering::Relaxed).cast_const();
    // SAFETY: both are lists of C strings with a null pointer at their ends, kept by the process. The path is
    // an empty C string.
    unsafe {
        let number = program.as_raw_fd();
        libc::syscall(libc::SYS_execveat, number, c"".as_ptr(), arguments, environ, libc::AT_EMPTY_PATH);
    }
    std::io::Error::last_os_error()
}

#[cfg(test)]
mod tests {
    #[test]
    fn without_an_own_entry_point_std_knows_the_arguments() {
        assert_eq!(super::arguments(), std::env::args_os().collect::<Vec<_>>());
        assert_eq!(super::raw_arguments().count(), 0);
    }
}
