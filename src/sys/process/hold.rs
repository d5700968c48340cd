//! Clones a child that only holds new namespaces until they are configured and opened. It shares the memory
//! of this process, and does nothing with it (CLONE_VM): no page is copied.

use super::borrow::{Stack, enter_on_stack};
use super::clone::{self, Child};
use super::{exit_now, wait};
use crate::error::{Context, Error, Result};
use crate::sys::descriptor;
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Pid;
use std::ffi::c_void;

/// A child that holds namespaces. It ends with this value.
pub(crate) struct Holder {
    child: Child,
    /// The end of the pipe that the child waits for. Closed first.
    release: Option<OwnedFd>,
    /// Used by the child until it is reaped.
    stack: Option<Stack>,
}

impl Holder {
    /// Clones this process into new namespaces (`CLONE_NEW*` bits). The child has no descriptor of this
    /// process above 2. It waits for the end of a pipe, because a signal could fail to end it, and leave it
    /// with locks.
    ///
    /// # Errors
    /// Those of [`clone::clone`], of pipe2(2), or no memory for the stack.
    pub(crate) fn new(namespaces: u64) -> Result<Self> {
        let (wait_for, release) = pipe_with(PipeFlags::CLOEXEC).context(|| "cannot create a pipe")?;
        let stack = Stack::new()?;
        let flags = namespaces | u64::from(libc::CLONE_VM.cast_unsigned());
        let arguments = stack.give_to(clone::arguments(flags, None)?);
        // Two numbers, not an address: the child reads no memory of this process.
        const { assert!(usize::BITS == 64) };
        let [low, high] = [&wait_for, &release].map(|end| end.as_raw_fd().cast_unsigned() as usize);
        let argument = std::ptr::without_provenance::<c_void>(high << 32 | low);
        let child = clone::with_pidfd(arguments, |arguments| {
            // SAFETY: the stack is new, and is unmapped after the child is reaped. The child makes system
            // calls that do not fail, and changes no memory but its stack.
            unsafe { enter_on_stack(arguments, hold, argument) }
        })?;
        let child = child.ok_or_else(|| Error::new("the child has left its stack"))?;
        Ok(Self { child, release: Some(release), stack: Some(stack) })
    }

    /// Returns the process id of the child.
    pub(crate) fn pid(&self) -> Pid {
        self.child.pid
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        self.release = None;
        if wait(self.child.pidfd.as_fd()).is_err() {
            // A child that has not ended may use its stack.
            std::mem::forget(self.stack.take());
        }
    }
}

/// The child: closes its copies of all descriptors but that of the end in its argument, and waits for that of the
/// other one, whose own copy it closes by a call of its own: without it the wait would not end.
extern "C" fn hold(argument: *const c_void) -> ! {
    let numbers = [argument.addr() & 0xffff_ffff, argument.addr() >> 32];
    // SAFETY: the descriptors are copies of the parent's, the first one open until this process ends.
    let [wait_for, release] =
        numbers.map(|number| unsafe { BorrowedFd::borrow_raw(i32::try_from(number).unwrap_or(i32::MAX)) });
    descriptor::close_copy(release);
    descriptor::close_from(3, wait_for);
    let _ = rustix::io::read(wait_for, &mut [0u8; 1]);
    exit_now(0)
}
