//! Clones a child that borrows the memory of this process, as in `borrow`, while this process waits for the
//! child, for signals and for a timeout: the files of a guest may never answer the child.

use super::borrow::{self, Stack, enter_on_stack};
use super::clone::{self, Child};
use super::{send_signal, wait};
use crate::error::{Error, Result};
use crate::sys::descriptor;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, BorrowedFd};
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};

/// The state of a child that borrows memory, in that memory.
#[derive(Debug, Default)]
pub(crate) struct Loan {
    has_answer: AtomicBool,
    is_settled: AtomicBool,
}

impl Loan {
    /// Marks that the files of the guest have answered: no timeout applies any more.
    pub(crate) fn answered(&self) {
        self.has_answer.store(true, Ordering::Release);
    }

    /// Marks whether the child leaves the memory as it is, until it executes a program or ends. A child
    /// killed before may have left the allocator in the middle of a change.
    pub(crate) fn set_settled(&self, settled: bool) {
        self.is_settled.store(settled, Ordering::Release);
    }
}

/// The events that end the wait of this process for a child that borrows its memory.
#[derive(Clone, Copy)]
pub(crate) struct LoanWait<'a> {
    /// The channel to the child: the end of this process, and that of the child, which is closed after the
    /// clone; its owner is to be forgotten. It hangs up when the child has executed a program or ended.
    pub(crate) channel: (BorrowedFd<'a>, BorrowedFd<'a>),
    /// Becomes readable with a signal.
    pub(crate) signals: BorrowedFd<'a>,
    /// Returns whether a received signal ends the child. Allocates no memory.
    pub(crate) is_interrupted: &'a dyn Fn() -> bool,
    /// The timeout for the first answer of the guest's files.
    pub(crate) patience: Timespec,
}

/// The end of a loan.
#[derive(Debug)]
pub(crate) enum LoanEnd {
    /// The child has executed a program, or has ended in order.
    Settled(Child),
    /// The child was killed, for this reason. This process must end by [`super::end_with`]: the allocator may
    /// be in any state.
    Broken(&'static str),
}

/// Whether [`clone_lending`] is implemented for this processor.
pub(crate) const CAN_LEND: bool = cfg!(target_arch = "x86_64");

/// Clones this process into a cgroup, if given. The child runs `action`, which must not return, with the
/// memory of this process, and sets its parent death signal. This process continues when the child has
/// executed a program or ended; until then it allocates nothing.
///
/// The same conditions as for [`super::clone_borrowing`] apply to the child.
///
/// # Errors
/// Those of [`super::clone()`], no memory for the stack, or another processor.
pub(crate) fn clone_lending(
    cgroup: Option<BorrowedFd<'_>>,
    loan: &Loan,
    until: LoanWait<'_>,
    action: &dyn Fn() -> Infallible,
) -> Result<LoanEnd> {
    if !CAN_LEND {
        return Err(Error::new("cannot lend memory to a child on this processor"));
    }
    let stack = Stack::new()?;
    let flags = u64::from(libc::CLONE_VM.cast_unsigned());
    let arguments = stack.give_to(clone::arguments(flags, cgroup)?);
    let child = clone::with_pidfd(arguments, |arguments| {
        // SAFETY: the stack is new and lives until the child has left it, as do the closures: `await_end`
        // returns after the child has executed a program or ended, else this process ends. Meanwhile this
        // process, of one thread, makes system calls with values of its own stack only.
        unsafe { enter_on_stack(arguments, borrow::run, std::ptr::from_ref(&action).cast()) }
    })?;
    let Some(child) = child else { return Err(Error::new("the child has left its stack")) };
    // The owner of the descriptor is not dropped, see `LoanWait`.
    descriptor::close_copy(until.channel.1);
    let end = await_end(child, loan, until, stack);
    // Until here the child may read this value.
    std::hint::black_box(&action);
    Ok(end)
}

/// Waits for the end of a loan.
fn await_end(child: Child, loan: &Loan, until: LoanWait<'_>, stack: Stack) -> LoanEnd {
    let broken = match await_hangup(loan, until) {
        None if loan.is_settled.load(Ordering::Acquire) => {
            drop(stack);
            return LoanEnd::Settled(child);
        }
        None => "the machine ended while it was being entered",
        Some(reason) => {
            // The child may be past its execve(2): then the command is killed.
            let _ = send_signal(child.pidfd.as_fd(), libc::SIGKILL);
            reason
        }
    };
    let second = Timespec { tv_sec: 1, tv_nsec: 0 };
    if matches!(poll(&mut [PollFd::new(&child.pidfd, PollFlags::IN)], Some(&second)), Ok(1)) {
        let _ = wait(child.pidfd.as_fd());
    }
    // A child that does not end continues to use its stack.
    std::mem::forget((child, stack));
    LoanEnd::Broken(broken)
}

/// Waits until the channel hangs up. Returns the reason for an earlier end.
fn await_hangup(loan: &Loan, until: LoanWait<'_>) -> Option<&'static str> {
    loop {
        let mut watched = [
            PollFd::from_borrowed_fd(until.channel.0, PollFlags::empty()),
            PollFd::from_borrowed_fd(until.signals, PollFlags::IN),
        ];
        let patience = (!loan.has_answer.load(Ordering::Acquire)).then_some(&until.patience);
        match poll(&mut watched, patience) {
            Ok(0) if !loan.has_answer.load(Ordering::Acquire) => {
                return Some("a file system of the machine does not answer");
            }
            Ok(0) | Err(rustix::io::Errno::INTR) => continue,
            Err(_) => return Some("cannot wait for the child"),
            Ok(_) => {}
        }
        if !watched[0].revents().is_empty() {
            return None;
        }
        if (until.is_interrupted)() {
            return Some("interrupted while entering the machine");
        }
    }
}
