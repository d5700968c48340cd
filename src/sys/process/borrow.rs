//! Clones a child that borrows the memory of this process until it executes a program (CLONE_VM,
//! CLONE_VFORK): no page is copied, neither by the clone nor by a later write of either process.

use super::clone::{self, Child, CloneArgs};
use crate::error::{Context, Error, Result};
use rustix::fd::BorrowedFd;
use std::convert::Infallible;
use std::ffi::c_void;

/// The size of the child's stack, bytes. Only used pages exist.
const STACK_SIZE: usize = 1 << 20;
/// The size of the page below the stack that cannot be accessed, bytes.
const GUARD_SIZE: usize = 4096;

/// Clones this process into new namespaces (`CLONE_NEW*` bits) and, if given, a cgroup. The child runs
/// `action`, which must not return, with the memory of this process. This process continues when the child
/// has executed a program or ended. A fatal signal ends both: the child has to set its parent death signal.
///
/// The child has its own descriptors, credentials and signal handlers. Values of this process are only
/// borrowed, so it drops none of them; memory that it allocates stays allocated.
///
/// # Errors
/// Those of [`clone::clone`], or no memory for the stack.
pub(crate) fn clone_borrowing(
    namespaces: u64,
    cgroup: Option<BorrowedFd<'_>>,
    action: &dyn Fn() -> Infallible,
) -> Result<Child> {
    clone_with(clone::arguments(namespaces, cgroup)?, action)
}

/// Clones this process, as above, into the pid namespace of its children, as process `pid` there.
///
/// # Errors
/// As for [`clone_borrowing`].
pub(crate) fn clone_borrowing_as(pid: u32, action: &dyn Fn() -> Infallible) -> Result<Child> {
    clone_with(clone::arguments(0, None)?.with_pid(&pid), action)
}

fn clone_with(arguments: CloneArgs, action: &dyn Fn() -> Infallible) -> Result<Child> {
    let stack = Stack::new()?;
    let flags = u64::from((libc::CLONE_VM | libc::CLONE_VFORK).cast_unsigned());
    let arguments = stack.give_to(arguments.with_flags(flags));
    let child = clone::with_pidfd(arguments, |arguments| {
        // SAFETY: the stack is new and lives until the child has left it. The kernel suspends this process,
        // of one thread, meanwhile, and the closure reference lives across the call.
        unsafe { enter_on_stack(arguments, run, std::ptr::from_ref(&action).cast()) }
    })?;
    child.ok_or_else(|| Error::new("the child has left its stack"))
}

/// Runs the action of a child.
pub(crate) fn run_child(action: &dyn Fn() -> Infallible) -> ! {
    match action() {}
}

/// The first function of a child on a stack of its own.
pub(super) type Entry = extern "C" fn(*const c_void) -> !;

/// Runs the action in the child on its stack.
pub(super) extern "C" fn run(action: *const c_void) -> ! {
    // SAFETY: the parent has passed the address of such a reference, and is suspended.
    let action = unsafe { *action.cast::<&dyn Fn() -> Infallible>() };
    run_child(action)
}

/// Calls clone3(2). In the child, calls `entry` with the argument on the stack of the arguments. Returns the
/// child's id, or an error as a negative number.
#[cfg(target_arch = "x86_64")]
pub(super) unsafe fn enter_on_stack(arguments: &CloneArgs, entry: Entry, argument: *const c_void) -> i64 {
    let result: i64;
    // SAFETY: the kernel keeps all registers but these three. The child starts with an empty stack, aligned
    // to 16 bytes, and never leaves the call.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r12",
            "call r13",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 => result,
            in("rdi") std::ptr::from_ref(arguments),
            in("rsi") std::mem::size_of::<CloneArgs>(),
            in("r12") argument,
            in("r13") entry,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    result
}

/// As above, on other processors: the child has a copy of the memory.
#[cfg(not(target_arch = "x86_64"))]
pub(super) unsafe fn enter_on_stack(arguments: &CloneArgs, entry: Entry, argument: *const c_void) -> i64 {
    match clone::call_copying(arguments) {
        0 => entry(argument),
        result => result,
    }
}

/// A stack with an inaccessible page at its end.
pub(super) struct Stack {
    mapped: *mut c_void,
    lowest: *mut c_void,
}

impl Stack {
    /// Maps a stack.
    ///
    /// # Errors
    /// Any error of mmap(2) and mprotect(2).
    pub(super) fn new() -> Result<Self> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_STACK;
        let (size, access) = (GUARD_SIZE + STACK_SIZE, libc::PROT_READ | libc::PROT_WRITE);
        // SAFETY: a new mapping at an address chosen by the kernel.
        let mapped = unsafe { libc::mmap(std::ptr::null_mut(), size, access, flags, -1, 0) };
        if mapped == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error()).context(|| "cannot map the stack of the child");
        }
        let stack = Self { mapped, lowest: mapped.wrapping_byte_add(GUARD_SIZE) };
        // SAFETY: the page is part of the mapping, which nobody uses yet.
        if unsafe { libc::mprotect(mapped, GUARD_SIZE, libc::PROT_NONE) } == -1 {
            return Err(
                Error::from(std::io::Error::last_os_error()).context("cannot protect the child's stack")
            );
        }
        Ok(stack)
    }

    /// Returns the arguments of a child with this stack.
    pub(super) fn give_to(&self, arguments: CloneArgs) -> CloneArgs {
        arguments.with_stack(self.lowest as u64, STACK_SIZE as u64)
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and the child has left it.
        unsafe { libc::munmap(self.mapped, GUARD_SIZE + STACK_SIZE) };
    }
}
