//! Clones PID 1 and the builder, and synchronises with them. Called by `launch`.

use super::descriptors::{guest_socket, notify_socket};
use super::{Launch, enter, namespace, network};
use crate::channel::{self, ChildEnd, FromPayload, ParentEnd, SyncPoint};
use crate::error::{Context, Error, Result};
use crate::host::executable::Executable;
use crate::image::attach::AttachedRoot;
use crate::payload::{self, BuildInputs, InitInputs};
use crate::plan::step::{BuildStep, Credential, HostStep, InitStep};
use crate::supervisor::handover::FdName;
use crate::sys::descriptor;
use crate::sys::mount::{self, Depth, MountAttributes};
use crate::sys::process::{self, Child, Ended, Side, interrupt};
use nix::sched::{CloneFlags, unshare};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::convert::Infallible;
use std::path::Path;

/// The builder's process id in the machine: high enough that the first child of PID 1 is process 2.
const BUILDER: u32 = 300;

/// Opens a program of the host on a read-only copy of its mount: `/proc/PID/exe` of a process in the machine leads to the
/// file, and cannot be opened for writing then, with any rights (CVE-2019-5736).
fn protected(program: &Path) -> Result<OwnedFd> {
    let opened = rustix::fs::open(program, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .context(|| format!("cannot open the emulator '{}'", program.display()))?;
    let attributes = MountAttributes { read_only: true, ..MountAttributes::default() };
    let copied = mount::copy_tree(opened.as_fd(), Depth::One)
        .and_then(|copy| mount::separate(copy.as_fd(), None, attributes).map(|()| copy));
    copied.context(|| format!("cannot protect the emulator '{}'", program.display()))
}

impl Launch<'_> {
    pub(super) fn clone_leader(&mut self) -> Result<()> {
        let (ours, theirs) = channel::pair()?;
        self.fds.insert(FdName::Notify, notify_socket()?);
        let logs = |step: &BuildStep| matches!(step, BuildStep::LogSocket { .. });
        self.fds.insert(FdName::Log, self.request.plan.tree().any(logs).then(guest_socket).transpose()?);
        let emulator = self.open_emulator()?;
        let known = self.record.program.as_ref().map(Executable::identity);
        let ourselves = known.or_else(process::own_program);
        // Only the child stays in the joined namespace: the supervisor returns. Its file is one of the host's mounts.
        let own = match &self.request.machine.network.namespace {
            Some(path) => Some(network::enter(path)?),
            None => None,
        };
        let left = if self.has_builder() { self.leave_host_mounts() } else { Ok(()) };
        let clone = || self.clone_into_namespaces(&ours, &theirs, ourselves, emulator.as_ref());
        let child = left.and_then(|()| clone());
        if let Some(own) = &own {
            enter(own, CloneFlags::CLONE_NEWNET, "cannot leave the network namespace again")?;
        }
        self.return_to_host_mounts()?;
        let child = child?;
        self.record.leader = Some(child.pid.as_raw_nonzero().get().cast_unsigned());
        let connects = |step: &HostStep| matches!(step, HostStep::Link | HostStep::Interfaces);
        let forwards = !self.request.machine.network.ports.is_empty();
        let is_connected = forwards || self.request.plan.host.iter().any(connects);
        let network = is_connected.then(|| network::open_of(&child)).transpose()?;
        self.fds.insert(FdName::Network, network);
        self.leader = Some((child, ours));
        Ok(())
    }

    /// Opens the emulator of a build session, before the mounts of the host are left.
    fn open_emulator(&self) -> Result<Option<OwnedFd>> {
        let build = self.request.facts.build.as_ref();
        let emulator = build.and_then(|build| build.emulator.as_ref());
        emulator.map(|emulator| protected(&emulator.program)).transpose()
    }

    /// Clones PID 1. It returns in this process only.
    fn clone_into_namespaces(
        &self,
        ours: &ParentEnd,
        theirs: &ChildEnd,
        ourselves: Option<(u64, u64)>,
        emulator: Option<&OwnedFd>,
    ) -> Result<Child> {
        let plan = self.request.plan;
        let cgroup = self.cgroup.as_ref().map(AsFd::as_fd);
        let lead = || -> Infallible {
            // In a clone that borrows memory the parent still needs the value.
            descriptor::close_copy(ours.as_fd());
            let builds = (!self.has_builder()).then(|| self.build_inputs(None));
            let inputs = InitInputs::Leads { ourselves, emulator: emulator.map(AsFd::as_fd), builds };
            payload::run_init_steps(&plan.init_steps, theirs, inputs)
        };
        let works_meanwhile = plan.host.iter().any(|step| matches!(step, HostStep::Release(_)));
        // A stub init never executes a program, and both replace the arguments and the environment of their
        // memory.
        let keeps_memory =
            |step: &InitStep| matches!(step, InitStep::Stub(_) | InitStep::Hold(_) | InitStep::FindUser(_));
        if !works_meanwhile && !plan.init_steps.iter().any(keeps_memory) {
            return process::clone_borrowing(plan.namespaces, cgroup, &lead);
        }
        match process::clone_owned_by(self.owner(), plan.namespaces, cgroup)? {
            Side::Child => process::run_child(&lead),
            Side::Parent(child) => Ok(child),
        }
    }

    /// Returns whether another process than PID 1 builds the tree.
    fn has_builder(&self) -> bool {
        !self.request.plan.build.is_empty()
    }

    /// Enters a new mount namespace of the host's user namespace. The builder joins it. PID 1 is in it until
    /// the tree is built, and then copies it into its user namespace, which locks all mounts together.
    fn leave_host_mounts(&mut self) -> Result<()> {
        self.host_mounts = Some(namespace("mnt")?);
        if let Some(empty) = &self.empty_mounts {
            enter(empty, CloneFlags::CLONE_NEWNS, "cannot enter the empty mount namespace")?;
        }
        unshare(CloneFlags::CLONE_NEWNS).context(|| "cannot create a mount namespace")?;
        if self.empty_mounts.is_some() {
            return Ok(());
        }
        mount::propagate("/", libc::MS_PRIVATE).context(|| "cannot keep mounts from the host")
    }

    /// Returns what the tree is built with, in the process that builds it: a clone of this one.
    fn build_inputs<'a>(&'a self, leader: Option<BorrowedFd<'a>>) -> BuildInputs<'a> {
        BuildInputs {
            leader,
            empty: self.empty_mounts.as_ref().map(AsFd::as_fd),
            root: self.request.root.iter().flat_map(AttachedRoot::mounts).collect(),
            id_maps: self.id_maps.iter().map(AsFd::as_fd).collect(),
            private_network: self.request.machine.network.mode.is_private(),
            owner: self.owner(),
            credentials: self.credentials(),
            notify: self.fds.get(FdName::Notify).map(AsFd::as_fd),
            log: self.fds.get(FdName::Log).map(AsFd::as_fd),
        }
    }

    fn credentials(&self) -> Vec<Credential<'_>> {
        let loaded = self.request.credentials.iter();
        loaded.map(|one| Credential { name: &one.name, content: one.content.bytes() }).collect()
    }

    pub(super) fn leader(&self) -> Result<&(Child, ParentEnd)> {
        self.leader.as_ref().ok_or_else(|| Error::new("PID 1 is not cloned yet"))
    }

    pub(super) fn await_leader(&mut self, sync: SyncPoint) -> Result<()> {
        loop {
            self.await_user()?;
            match self.leader()?.1.receive()? {
                Some((FromPayload::Reached(reached), _)) if reached == sync => return Ok(()),
                Some(message) => self.progress(message)?,
                None => return Err(self.died("PID 1")),
            }
        }
    }

    /// Returns the error for a child that ended without a message.
    pub(super) fn died(&self, who: &str) -> Error {
        let child = if who == "PID 1" { self.leader.as_ref() } else { self.builder.as_ref() };
        let how = match child.map(|(child, _)| process::wait(child.pidfd.as_fd())) {
            Some(Ok(Ended::Exited(status))) => format!("exited with status {status}"),
            Some(Ok(Ended::Killed(signal))) => format!("was killed by signal {signal}"),
            _ => "ended".into(),
        };
        Error::new(format!("{who} {how} while it was set up"))
    }

    pub(super) fn build(&mut self) -> Result<()> {
        let (ours, theirs) = channel::pair()?;
        let leader = self.leader()?.0.pidfd.as_fd();
        // The builder is cloned into the machine's pid namespace, which a new procfs shows.
        let own = namespace("pid")?;
        enter(leader, CloneFlags::CLONE_NEWPID, "cannot enter the machine's pid namespace")?;
        let child = self.clone_builder(&ours, &theirs);
        // Stored before the next step can fail: PID 1 does not end before the builder is reaped.
        let cloned = child.map(|child| self.builder = Some((child, ours)));
        enter(&own, CloneFlags::CLONE_NEWPID, "cannot leave the machine's pid namespace")?;
        cloned
    }

    /// Clones the builder. It returns in this process only.
    fn clone_builder(&self, ours: &ParentEnd, theirs: &ChildEnd) -> Result<Child> {
        let leader = self.leader()?.0.pidfd.as_fd();
        let build = || -> Infallible {
            // In a clone that borrows memory the parent still needs the value.
            descriptor::close_copy(ours.as_fd());
            payload::build(&self.request.plan.build, theirs, self.build_inputs(Some(leader)))
        };
        let mut steps = self.request.plan.host.iter().skip_while(|step| !matches!(step, HostStep::Build));
        let works_meanwhile = !matches!(steps.nth(1), Some(HostStep::Built));
        if !works_meanwhile {
            let child = process::clone_borrowing_as(BUILDER, &build);
            // The attribute is one of the memory, and changes with the ids that the builder makes files as.
            process::set_dumpable(true);
            return child;
        }
        match process::clone_as(BUILDER)? {
            Side::Child => process::run_child(&build),
            Side::Parent(child) => Ok(child),
        }
    }

    pub(super) fn built(&mut self) -> Result<()> {
        loop {
            let Some((_, end)) = &self.builder else { return Ok(()) };
            match end.receive()? {
                Some((FromPayload::Done, _)) => break,
                Some(message) => self.progress(message)?,
                None => return Err(self.died("the builder")),
            }
        }
        // Dropped after it is reaped: PID 1 cannot end before all processes of its namespace are reaped.
        if let Some((child, _)) = &self.builder {
            process::wait(child.pidfd.as_fd())?;
        }
        self.builder = None;
        Ok(())
    }

    /// Handles a message of a child that does not end its part.
    fn progress(&mut self, (message, descriptor): (FromPayload, Option<OwnedFd>)) -> Result<()> {
        match message {
            FromPayload::Warned(failure) => log::warn!("{}, ignoring", failure.in_short()),
            FromPayload::KernelLog => self.fds.insert(FdName::KernelLog, descriptor),
            FromPayload::Console => self.fds.insert(FdName::Console, descriptor),
            FromPayload::Failed(failure) => return Err(failure.into()),
            other => return Err(Error::new(format!("protocol error: received '{other:?}' from a child"))),
        }
        Ok(())
    }

    pub(super) fn executed(&mut self) -> Result<()> {
        match self.leader()?.1.receive()? {
            None => Ok(()),
            Some((FromPayload::Failed(failure), _)) => Err(failure.into()),
            Some(_) => Err(Error::new("received a message from PID 1 after its last synchronisation point")),
        }
    }

    /// Waits for PID 1 that looks up a user by a program of the guest, which may ask a slow server, until it
    /// goes on or a signal interrupts the start.
    fn await_user(&self) -> Result<()> {
        let looks_up = |step: &InitStep| matches!(step, InitStep::FindUser(_));
        if !self.request.plan.init_steps.iter().any(looks_up) {
            return Ok(());
        }
        let pause = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
        let mut ready = [PollFd::new(&self.leader()?.1, PollFlags::IN)];
        while let Ok(0) | Err(Errno::INTR) = poll(&mut ready, Some(&pause)) {
            interrupt::check()?;
        }
        Ok(())
    }
}
