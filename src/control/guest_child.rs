//! Access to files of a running machine by a child process with the capabilities of the guest's root. The
//! child enters the user and mount namespaces of the machine and executes no program of the guest. A file
//! system of the guest may never answer: the parent waits with a timeout, or until a signal.

use crate::error::{Context, Error, Kind, Result};
use crate::host::probe::Tree;
use crate::machine::name::Name;
use crate::state::record::Record;
use crate::sys::guest_files;
use crate::sys::process::{self, Child, Side};
use nix::sched::{CloneFlags, setns};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::thread::CapabilitySet;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{Read, Write};
use std::time::{Duration, Instant};

/// The timeout of reads of the guest's files.
pub(super) const PATIENCE: Duration = Duration::from_millis(1500);
/// The maximum size of an answer, bytes.
const LIMIT: usize = 1 << 20;

/// Root's capabilities over files. The child keeps those of them that the machine has.
const OVER_FILES: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID);

/// An error of the child, sent to the parent.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ChildError {
    text: String,
    hint: Option<String>,
    is_unknown_user: bool,
}

impl From<Error> for ChildError {
    fn from(error: Error) -> Self {
        let hint = error.hint().map(str::to_owned);
        Self { text: error.to_string(), hint, is_unknown_user: error.is_unknown_user() }
    }
}

impl From<ChildError> for Error {
    fn from(failure: ChildError) -> Self {
        let kind = if failure.is_unknown_user { Kind::UnknownUser } else { Kind::Failure };
        let error = Self::new(failure.text).with_kind(kind);
        match failure.hint {
            Some(hint) => error.with_hint(hint),
            None => error,
        }
    }
}

/// A child inside a machine, killed on drop.
#[derive(Debug)]
pub(super) struct GuestChild(Child);

impl GuestChild {
    /// Clones a child that enters the machine and calls `work` with the result. The child inherits the
    /// descriptors of this process.
    ///
    /// # Errors
    /// Any error of clone3(2).
    pub(super) fn start(record: &Record, leader: &OwnedFd, work: impl FnOnce(Result<()>)) -> Result<Self> {
        match process::clone(0, None)? {
            Side::Parent(child) => Ok(Self(child)),
            Side::Child => {
                work(enter(record, leader));
                process::exit_now(0)
            }
        }
    }
}

impl GuestChild {
    /// Same as [`GuestChild::start`], with a child in the pid namespace of the machine too: programs of the
    /// guest receive its process id with its connections (unix(7), SO_PEERCRED). They cannot trace it.
    ///
    /// # Errors
    /// Any error of setns(2) or clone3(2).
    fn start_visible(record: &Record, leader: &OwnedFd, work: impl FnOnce(Result<()>)) -> Result<Self> {
        let own = OFlags::RDONLY | OFlags::CLOEXEC;
        let own = rustix::fs::open("/proc/self/ns/pid", own, Mode::empty())
            .context(|| "cannot open the pid namespace of this process")?;
        let join = |namespace: &OwnedFd| {
            setns(namespace, CloneFlags::CLONE_NEWPID).context(|| "cannot enter the machine's pid namespace")
        };
        // For children only.
        join(leader)?;
        let child = Self::start(record, leader, work);
        join(&own)?;
        child
    }

    /// Wraps a cloned child that enters by itself.
    pub(super) fn of(child: Child) -> Self {
        Self(child)
    }

    /// Waits until the child exits, with a timeout.
    pub(super) fn wait(self, patience: Duration) {
        let patience = Timespec::try_from(patience).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
        // The drop kills a child that has not exited.
        let _ = poll(&mut [PollFd::new(&self.0.pidfd, PollFlags::IN)], Some(&patience));
    }
}

impl Drop for GuestChild {
    fn drop(&mut self) {
        // Fails if the child has exited, the usual case.
        let _ = process::send_signal(self.0.pidfd.as_fd(), libc::SIGKILL);
        let mut watched = [PollFd::new(&self.0.pidfd, PollFlags::IN)];
        let patience = Timespec { tv_sec: 1, tv_nsec: 0 };
        if matches!(poll(&mut watched, Some(&patience)), Ok(1)) {
            let _ = process::wait(self.0.pidfd.as_fd());
        }
    }
}

/// Enters the machine as its root, with the capabilities over files that PID 1 has.
///
/// # Errors
/// Any error of setns(2), setresuid(2) or capset(2).
pub(super) fn enter(record: &Record, leader: &OwnedFd) -> Result<()> {
    process::set_dumpable(false);
    guest_files::keep_descriptors()?;
    let own_users = record.id_base.is_some();
    let users = if own_users { CloneFlags::CLONE_NEWUSER } else { CloneFlags::empty() };
    setns(leader, users | CloneFlags::CLONE_NEWNS).context(|| "cannot enter the machine's namespaces")?;
    if own_users {
        process::become_user(0, 0, &[])?;
    }
    keep_capabilities(over_files(record.capabilities))
}

/// Prepares a child for the tree of a stopped machine: it keeps root's capabilities over files.
///
/// # Errors
/// Any error of prctl(2) or capset(2).
pub(super) fn restrict() -> Result<()> {
    process::set_dumpable(false);
    guest_files::keep_descriptors()?;
    keep_capabilities(OVER_FILES)
}

fn keep_capabilities(kept: CapabilitySet) -> Result<()> {
    let mut sets = rustix::thread::capabilities(None).context(|| "cannot read capabilities")?;
    sets.permitted &= kept;
    sets.effective = sets.permitted;
    sets.inheritable = CapabilitySet::empty();
    rustix::thread::set_capabilities(None, sets).context(|| "cannot drop capabilities")
}

/// Returns those of root's capabilities over files that the machine has.
fn over_files(machine: u64) -> CapabilitySet {
    OVER_FILES & CapabilitySet::from_bits_truncate(machine)
}

/// Calls `work` with no other effective capabilities than those over files, of the machine with these ones.
///
/// # Errors
/// Those of `work`, or any error of capset(2).
pub(super) fn with_rights_over_files<T>(machine: u64, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let mut sets = rustix::thread::capabilities(None).context(|| "cannot read capabilities")?;
    sets.effective = sets.permitted & over_files(machine);
    rustix::thread::set_capabilities(None, sets).context(|| "cannot drop capabilities")?;
    let done = work();
    sets.effective = sets.permitted;
    rustix::thread::set_capabilities(None, sets).context(|| "cannot keep capabilities")?;
    done
}

/// Reads files of a machine with the capabilities of its root, with a timeout.
///
/// # Errors
/// Any error of `read`, or a timeout.
pub(super) fn read_tree<T: Serialize + for<'de> Deserialize<'de>>(
    record: &Record,
    leader: &OwnedFd,
    read: impl FnOnce(&Tree) -> Result<T>,
) -> Result<T> {
    run(record, leader, || read(&Tree::of_machine(record.name.as_str())?))
}

/// Calls `work` inside a machine with the capabilities of its root, with a timeout.
///
/// # Errors
/// Any error of `work`, or a timeout.
pub(super) fn run<T: Serialize + for<'de> Deserialize<'de>>(
    record: &Record,
    leader: &OwnedFd,
    work: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let deadline = Instant::now() + PATIENCE;
    let (answer, theirs) = pipe()?;
    let child = GuestChild::start(record, leader, |entered| reply(entered, &theirs, |_| work()))?;
    drop(theirs);
    Answer { child, pipe: answer, machine: record.name.clone() }.receive(deadline)
}

/// The pending answer of a child inside a machine.
#[derive(Debug)]
pub(super) struct Answer {
    child: GuestChild,
    pipe: OwnedFd,
    machine: Name,
}

impl Answer {
    /// Calls `work` inside a machine with the capabilities of its root, in a child that programs of the guest
    /// see. `work` gets the pipe of its answer.
    ///
    /// # Errors
    /// Any error of pipe2(2), setns(2) or clone3(2).
    pub(super) fn request_visibly<T: Serialize>(
        record: &Record,
        leader: &OwnedFd,
        work: impl FnOnce(&OwnedFd) -> Result<T>,
    ) -> Result<Self> {
        let (answer, theirs) = pipe()?;
        let child = GuestChild::start_visible(record, leader, |entered| reply(entered, &theirs, work))?;
        Ok(Self { child, pipe: answer, machine: record.name.clone() })
    }

    /// Waits for the answer.
    ///
    /// # Errors
    /// Any error of `work`, or a timeout.
    pub(super) fn receive<T: for<'de> Deserialize<'de>>(self, deadline: Instant) -> Result<T> {
        let answer = receive(self.pipe, deadline)?;
        drop(self.child);
        let done: std::result::Result<T, ChildError> = serde_json::from_slice(&answer).map_err(|_| {
            Error::new(format!("machine '{}' ended while it was being entered", self.machine))
        })?;
        Ok(done?)
    }
}

fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    let pipe = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC);
    pipe.context(|| "cannot create a pipe")
}

/// Writes the result of `work` to the parent.
fn reply<T: Serialize>(entered: Result<()>, pipe: &OwnedFd, work: impl FnOnce(&OwnedFd) -> Result<T>) {
    let done = entered.and_then(|()| work(pipe));
    let answer = serde_json::to_vec(&done.map_err(ChildError::from)).unwrap_or_default();
    // Fails if the parent has given up.
    let _ = pipe.try_clone().map(|pipe| File::from(pipe).write_all(&answer));
}

fn receive(pipe: OwnedFd, deadline: Instant) -> Result<Vec<u8>> {
    let mut pipe = File::from(pipe);
    let mut answer = Vec::new();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 0, tv_nsec: 0 });
        match poll(&mut [PollFd::new(&pipe, PollFlags::IN)], Some(&left)) {
            Err(rustix::io::Errno::INTR) => continue,
            Ok(0) => return Err(Error::new("a file system of the machine does not answer")),
            ready => ready.context(|| "cannot wait for the child")?,
        };
        let mut chunk = [0u8; 8192];
        let length = pipe.read(&mut chunk).context(|| "cannot read from the child")?;
        answer.extend_from_slice(chunk.get(..length).unwrap_or_default());
        if length == 0 || answer.len() > LIMIT {
            return Ok(answer);
        }
    }
}
