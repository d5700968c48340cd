//! The entry of a command into a machine: finds the user with the guest's files, clones the command, and
//! synchronises with it until it is executed. Called by `exec`.

use super::apart::Apart;
use super::forward;
use super::stdio::RedirectedStdio;
use crate::channel::{self, FromPayload, ParentEnd, StepFailure, SyncPoint};
use crate::control::guest_child;
use crate::error::{Context, Error, Kind, Result};
use crate::host::probe::Tree;
use crate::payload::{InitInputs, run_command_steps, run_init_steps};
use crate::plan::User;
use crate::plan::exec::{EntrySteps, Exec, command_steps, entry_steps};
use crate::state::record::Record;
use crate::sys::process::{self, Child, Loan, LoanEnd, LoanWait, Side};
use crate::sys::{descriptor, guest_files, pseudo_file};
use nix::sched::{CloneFlags, setns};
use nix::sys::signalfd::SignalFd;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};

/// A command about to enter a machine.
#[derive(Debug)]
pub(super) struct Entry<'a> {
    pub(super) exec: &'a Exec,
    /// User, and after a colon a group, by name or number.
    pub(super) user: &'a str,
    /// The user and group found by getent(1) of the machine.
    pub(super) found: FoundUser,
    pub(super) record: &'a Record,
    /// The pidfd of PID 1.
    pub(super) leader: &'a OwnedFd,
    /// The blocked signals.
    pub(super) signals: &'a SignalFd,
    /// The differences from a command of the machine itself.
    pub(super) apart: Apart<'a>,
}

/// The user and the group of a command that the files of the machine do not list. `None` is looked up there.
#[derive(Debug, Clone, Default)]
pub(super) struct FoundUser {
    pub(super) user: Option<User>,
    pub(super) gid: Option<u32>,
}

impl Entry<'_> {
    /// Returns the same command for a found user.
    pub(super) fn with_found(&self, found: FoundUser) -> Self {
        Self { found, ..*self }
    }

    /// Clones the command into the pid namespace of the machine and the cgroup of PID 1. Returns after the
    /// execve(2), with the host's end of the terminal.
    ///
    /// # Errors
    /// A user that the guest does not have, or a failed step of the command.
    pub(super) fn enter(&self, stdio: &mut RedirectedStdio) -> Result<(Child, Option<OwnedFd>)> {
        let steps = entry_steps(self.exec)?;
        let lends = self.can_lend();
        let command = match lends {
            true => None,
            false => Some(guest_child::run(self.record, self.leader, || self.find_user())?),
        };
        let of_leader = if self.apart.cgroup.is_some() { None } else { leader_cgroup(self.record)? };
        inherit_oom_score(self.record);
        if self.exec.user_namespace {
            setns(self.leader, CloneFlags::CLONE_NEWPID)
                .context(|| "cannot enter the machine's pid namespace")?;
        }
        let cgroup = self.apart.cgroup.or(of_leader.as_ref().map(AsFd::as_fd));
        match command {
            None => Ok((self.lend(&steps, cgroup, stdio)?, None)),
            Some(user) => self.clone(&steps, &user, cgroup, stdio),
        }
    }

    /// Returns whether the child can borrow the memory of this process. Then it finds the user itself, else
    /// another child has found it.
    ///
    /// No process of the guest may change the memory. In a user namespace with ids of its own, it may not
    /// trace a process that is not dumpable, unless the administrator makes processes that change their ids
    /// dumpable (proc_sys_fs(5), suid_dumpable). A process that shares its memory cannot enter a time
    /// namespace.
    fn can_lend(&self) -> bool {
        let is_traceable = || {
            let text = pseudo_file::read("/proc/sys/fs/suid_dumpable");
            text.map_or(true, |text| text.trim() == "1")
        };
        process::CAN_LEND
            && self.record.id_base.is_some_and(|base| base != 0)
            && !self.exec.time_namespace
            && !self.exec.on_terminal
            && !is_traceable()
    }

    /// Finds the user in the guest's files, inside the machine.
    fn find_user(&self) -> Result<User> {
        let tree = Tree::of_machine(self.record.name.as_str())?;
        let (user, group) = self.user_and_group();
        let user = match &self.found.user {
            Some(user) => tree.with_existing_home(user.clone()),
            None => tree.user(user)?,
        };
        let gid = match self.found.gid {
            Some(gid) => Some(gid),
            None => group.map(|group| tree.group(group)).transpose()?,
        };
        Ok(User { gid: gid.unwrap_or(user.gid), ..user })
    }

    /// Returns the name or number of the user, and that of the group if there is one.
    pub(super) fn user_and_group(&self) -> (&str, Option<&str>) {
        match self.user.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (self.user, None),
        }
    }

    /// Clones the command with the memory of this process.
    fn lend(
        &self,
        steps: &EntrySteps,
        cgroup: Option<BorrowedFd<'_>>,
        stdio: &mut RedirectedStdio,
    ) -> Result<Child> {
        let (own_end, machine_end) = channel::pair()?;
        let loan = Loan::default();
        let action = || {
            descriptor::close_copy(own_end.as_fd());
            let kept = guest_files::keep_descriptors();
            let plan = || {
                kept.clone()?;
                let capabilities = self.record.capabilities;
                let user = guest_child::with_rights_over_files(capabilities, || self.find_user())?;
                Ok(command_steps(self.exec, &user, steps))
            };
            run_command_steps(&steps.entry, &plan, &machine_end, self.leader.as_fd(), &loan)
        };
        let is_interrupted = || is_interrupted(self.signals);
        let until = LoanWait {
            channel: (own_end.as_fd(), machine_end.as_fd()),
            signals: self.signals.as_fd(),
            is_interrupted: &is_interrupted,
            patience: Timespec::try_from(guest_child::PATIENCE).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 }),
        };
        match process::clone_lending(cgroup, &loan, until, &action)? {
            LoanEnd::Settled(child) => {
                // Closed after the clone.
                std::mem::forget(machine_end);
                self.take_over(child, &own_end, stdio).map(|(child, _)| child)
            }
            LoanEnd::Broken(reason) => {
                let _ = stdio.restore();
                process::end_with(reason, Kind::Launch.exit_status())
            }
        }
    }

    /// Clones the command with a copy of the memory of this process.
    fn clone(
        &self,
        steps: &EntrySteps,
        user: &User,
        cgroup: Option<BorrowedFd<'_>>,
        stdio: &mut RedirectedStdio,
    ) -> Result<(Child, Option<OwnedFd>)> {
        let command = command_steps(self.exec, user, steps);
        let steps: Vec<_> = steps.entry.iter().cloned().chain(command).collect();
        let (own_end, machine_end) = channel::pair()?;
        match process::clone(0, cgroup)? {
            Side::Child => {
                drop(own_end);
                run_init_steps(&steps, &machine_end, InitInputs::Joins(self.leader.as_fd()))
            }
            Side::Parent(child) => {
                drop(machine_end);
                self.take_over(child, &own_end, stdio)
            }
        }
    }

    /// Restores the streams and synchronises with a cloned child, which ends with an error.
    fn take_over(
        &self,
        mut child: Child,
        link: &ParentEnd,
        stdio: &mut RedirectedStdio,
    ) -> Result<(Child, Option<OwnedFd>)> {
        let synchronised = stdio.restore().and_then(|()| self.synchronise(link, &mut child));
        if synchronised.is_err() {
            let _ = process::send_signal(child.pidfd.as_fd(), libc::SIGKILL);
            let _ = process::wait(child.pidfd.as_fd());
        }
        Ok((child, synchronised?))
    }

    /// Receives the messages of the child until it has executed the command. A file system of the guest can
    /// block the child forever: a signal interrupts the wait.
    fn synchronise(&self, link: &ParentEnd, child: &mut Child) -> Result<Option<OwnedFd>> {
        let mut terminal = None;
        let mut is_ready = false;
        loop {
            if !has_message(link, self.signals)? {
                return Err(Error::new("interrupted while entering the machine"));
            }
            match link.receive()? {
                Some((FromPayload::Replaced, Some(pidfd))) => {
                    process::wait(child.pidfd.as_fd())?;
                    child.pidfd = pidfd;
                }
                Some((FromPayload::Terminal, descriptor)) => {
                    // Before the command can query the size.
                    descriptor.iter().for_each(|machine_end| forward::set_window_size(machine_end.as_fd()));
                    terminal = descriptor;
                }
                Some((FromPayload::Reached(SyncPoint::Ready), _)) => {
                    // A command without a terminal does not wait; a killed one cannot.
                    is_ready = !self.exec.on_terminal || link.release(SyncPoint::Ready).is_ok();
                }
                Some((FromPayload::Failed(failure), _)) => return Err(self.refused(failure)),
                Some((FromPayload::Refused(refusal), _)) => return Err(refusal.into()),
                Some(_) => return Err(Error::new("received an invalid message from the child process")),
                None if is_ready => return Ok(terminal),
                None => {
                    let _ = process::wait(child.pidfd.as_fd());
                    return Err(Error::new("the machine ended while it was being entered"));
                }
            }
        }
    }
}

impl Entry<'_> {
    /// Returns the error of a failed step. A command that is missing or not executable has the exit status
    /// that a shell returns.
    fn refused(&self, failure: StepFailure) -> Error {
        let program = self.exec.argv.first().filter(|_| failure.is_last());
        let Some(program) = program.map(|program| program.display().to_string()) else {
            return failure.into();
        };
        log::debug!("{}", Error::from(failure.clone()));
        let name = &self.record.name;
        let cause = failure.cause();
        if cause.ends_with("no such file or directory") {
            let message = format!("no such command in machine '{name}': {program}");
            let hint = "the program or its interpreter is not in the tree; choose an existing one";
            return Error::new(message).with_hint(hint).with_kind(Kind::NoCommand);
        }
        let error = Error::new(cause).context(format!("in machine '{name}'")).with_kind(Kind::NotExecutable);
        match failure.hint {
            Some(hint) => error.with_hint(hint),
            None => error,
        }
    }
}

/// Waits for a message of the child. Returns false on a signal that ends the command.
fn has_message(link: &ParentEnd, signals: &SignalFd) -> Result<bool> {
    loop {
        let mut watched = [
            PollFd::from_borrowed_fd(link.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN),
        ];
        match poll(&mut watched, None) {
            Err(rustix::io::Errno::INTR) => continue,
            result => result.context(|| "cannot wait for the child")?,
        };
        if !watched[0].revents().is_empty() {
            return Ok(true);
        }
        if is_interrupted(signals) {
            return Ok(false);
        }
    }
}

/// Reads all received signals. Returns whether one of them ends the command. Allocates no memory.
pub(super) fn is_interrupted(signals: &SignalFd) -> bool {
    let mut ended = false;
    while let Ok(Some(info)) = signals.read_signal() {
        let ends = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT];
        let is_end = ends.iter().any(|signal| u32::try_from(*signal) == Ok(info.ssi_signo));
        ended |= is_end && !process::is_ignored_hangup(info.ssi_signo);
    }
    ended
}

/// Opens the cgroup of PID 1: the command counts against the same limits. `None` if the machine has no cgroup
/// of its own.
fn leader_cgroup(record: &Record) -> Result<Option<OwnedFd>> {
    let payload = record.payload_cgroup();
    let leader = record.leader.unwrap_or_default();
    payload.map(|payload| crate::host::cgroup::open_of_process(leader, &payload)).transpose()
}

/// Copies the OOM score adjustment of PID 1: the out-of-memory killer treats the command as the guest's other
/// processes.
fn inherit_oom_score(record: &Record) {
    let path = |pid: &str| format!("/proc/{pid}/oom_score_adj");
    let machine_end = pseudo_file::read(path(&record.leader.unwrap_or_default().to_string()));
    if let Err(error) = machine_end.and_then(|score| std::fs::write(path("self"), score)) {
        log::debug!("cannot copy the OOM score adjustment of PID 1: {error}, ignoring");
    }
}
