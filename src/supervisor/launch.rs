//! The first act: runs a plan's host steps, synchronises with the children, and undoes everything if a step
//! fails. Called by `run` with the claims of the machine.

mod children;
mod descriptors;
mod journal;
mod journal_receiver;
mod network;
mod record;

use super::handover::{Carried, FdName, Fds, Running, SupervisorState};
use super::network::{dhcp, firewall, hosts_file};
use super::{cleanup, current_step, exposed_root, mount_tunnel, registration};
use crate::channel::ParentEnd;
use crate::claim::{self, Claims};
use crate::error::{Context, Error, Result};
use crate::host::cgroup::{self, Cgroup};
use crate::host::credentials::LoadedCredential;
use crate::host::systemd::machined::{PreviousOwner, RegistrationResult};
use crate::host::systemd::session::BusSession;
use crate::host::systemd::units;
use crate::host::{empty_mounts, idmap};
use crate::image::attach::AttachedRoot;
use crate::machine::console::Console;
use crate::machine::contract::Contract;
use crate::machine::{Machine, Register};
use crate::network::addresses::LinkPlan;
use crate::network::dhcp::Lease;
use crate::network::hosts_file::Hosts;
use crate::network::resolved::PendingSettings;
use crate::paths::Paths;
use crate::plan::step::HostStep;
use crate::plan::{Facts, MountMap, Plan};
use crate::state::record::{Phase, Record};
use crate::sys::process::{self, Child, interrupt};
use crate::sys::pseudo_file;
use descriptors::ring;
pub(crate) use journal::JournalPlan;
use nix::sched::{CloneFlags, setns};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use std::cell::OnceCell;
use std::path::Path;

/// The input of a launch.
#[derive(Debug)]
pub(crate) struct LaunchRequest<'a> {
    /// The places of Coracle.
    pub(crate) paths: &'a Paths,
    /// The machine.
    pub(crate) machine: &'a Machine,
    /// The mounts of its root. `None` for a plain directory.
    pub(crate) root: Option<AttachedRoot>,
    /// The facts that the plan was made from.
    pub(crate) facts: &'a Facts,
    /// The steps.
    pub(crate) plan: &'a Plan,
    /// The answers to a guest that requests its addresses by DHCP.
    pub(crate) lease: Option<Lease>,
    /// The guest's hosts(5), if Coracle maintains lines in it.
    pub(crate) hosts: Option<HostsFile>,
    /// The connection of its journal with the host.
    pub(crate) journal: Option<JournalPlan>,
    /// Its credentials.
    pub(crate) credentials: Vec<LoadedCredential>,
    /// The unit and the cgroup.
    pub(crate) placement: Placement,
    /// The arguments that start the machine again.
    pub(crate) arguments: Vec<std::ffi::OsString>,
    /// The state that a reboot keeps.
    pub(crate) kept: Option<Box<Carried>>,
}

/// The unit and the cgroup of a machine.
#[derive(Debug, Default)]
pub(crate) struct Placement {
    /// The unit or scope. `None` without systemd.
    pub(crate) unit: Option<String>,
    /// The cgroup. `None` if the host has no writable hierarchy.
    pub(crate) cgroup: Option<Cgroup>,
    /// The lock of a cgroup that further machines may start in.
    pub(crate) lock: Option<OwnedFd>,
    /// The bus on which the scope was created.
    pub(crate) bus: Option<BusSession>,
}

/// A guest's hosts(5).
#[derive(Debug, Clone)]
pub(crate) struct HostsFile {
    /// The host names of the guest itself.
    pub(crate) own_names: Vec<String>,
    /// The file.
    pub(crate) file: Hosts,
    /// Its first content, if it is bound over the file of a root that cannot be written.
    pub(crate) bound: Option<String>,
}

/// The state between steps.
struct Launch<'a> {
    request: LaunchRequest<'a>,
    link: Option<LinkPlan>,
    dead: Vec<Record>,
    record: Record,
    /// The descriptors for the next act, filled step by step.
    fds: Fds,
    /// The network namespace of the boot before.
    old_network: Option<OwnedFd>,
    /// The empty mount namespace. `None` if the kernel refuses it.
    empty_mounts: Option<OwnedFd>,
    /// The host's mount namespace, as long as this process is in another one.
    host_mounts: Option<OwnedFd>,
    cgroup: Option<OwnedFd>,
    leader: Option<(Child, ParentEnd)>,
    builder: Option<(Child, ParentEnd)>,
    /// The user namespaces that map the ids of mounts.
    id_maps: Vec<OwnedFd>,
    /// The settings that the host's resolved has not confirmed yet.
    settings: Option<PendingSettings>,
    /// The system bus, from the first step that uses it on.
    bus: OnceCell<BusSession>,
}

/// Creates the machine from its plan. The payload is running when it returns. A failure undoes the launch and
/// the claims.
///
/// # Errors
/// The step that failed, with cause and hint.
pub(crate) fn launch(request: LaunchRequest<'_>, claims: Box<Claims>) -> Result<Box<Running>> {
    let plan = request.plan;
    let mut launch = Launch::new(request, claims);
    let mut steps = || -> Result<()> {
        launch.prepare()?;
        // The last moment: later signals are requests to the event loop.
        interrupt::check()?;
        for step in &plan.host {
            log::debug!("{}", step.describe());
            current_step::set(step.describe());
            launch.run(step)?;
        }
        launch.watch_addresses()?;
        launch.record_phase()
    };
    if let Err(error) = steps() {
        launch.abandon();
        return Err(error);
    }
    launch.finish()
}

/// Returns the limit of an orderly stop, milliseconds. systemd-nspawn(1) has none.
fn stop_timeout(machine: &Machine) -> Option<u64> {
    (machine.contract == Contract::Coracle)
        .then(|| u64::try_from(machine.boot.stop_timeout.as_millis()).ok())
        .flatten()
}

/// A namespace of this process, to come back to.
fn namespace(name: &str) -> Result<OwnedFd> {
    let path = format!("/proc/self/ns/{name}");
    rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .context(|| format!("cannot open '{path}'"))
}

fn enter(namespace: impl AsFd, kind: CloneFlags, doing: &str) -> Result<()> {
    setns(namespace, kind).context(|| doing.to_owned())
}

impl<'a> Launch<'a> {
    fn new(mut request: LaunchRequest<'a>, claims: Box<Claims>) -> Self {
        let mut fds = request.kept.as_mut().map(|kept| std::mem::take(&mut kept.fds)).unwrap_or_default();
        let old_network = fds.take(FdName::Network);
        let locks = claims.locks.into_iter().chain(request.placement.lock.take());
        locks.for_each(|lock| fds.insert(FdName::Lock, lock));
        let layers =
            request.root.as_mut().map(|root| std::mem::take(&mut root.in_memory)).unwrap_or_default();
        layers.into_iter().for_each(|layer| fds.insert(FdName::Layer, layer));
        let bus = request.placement.bus.take().map_or_else(OnceCell::new, OnceCell::from);
        Self {
            request,
            link: claims.choice.link,
            dead: claims.dead,
            record: claims.record,
            fds,
            old_network,
            empty_mounts: None,
            host_mounts: None,
            cgroup: None,
            leader: None,
            builder: None,
            id_maps: Vec::new(),
            settings: None,
            bus,
        }
    }

    /// Completes the record, and creates what the steps find in the state directory.
    fn prepare(&mut self) -> Result<()> {
        if self.fds.get(FdName::Ring).is_none() && self.request.plan.console != Console::Pipe {
            self.fds.insert(FdName::Ring, ring()?);
        }
        record::complete(&mut self.record, &self.request);
        // Names the cgroup before the first step creates it.
        self.record.write(self.request.paths)?;
        self.empty_mounts = empty_mounts::open(self.request.paths);
        if self.empty_mounts.is_none() {
            let place = &self.request.facts.attach_at;
            std::fs::create_dir_all(place).context(|| format!("cannot create '{}'", place.display()))?;
        }
        self.create_hosts()?;
        self.request.journal.as_ref().map_or(Ok(()), journal::connect)?;
        self.request.machine.mount_tunnel().map_or(Ok(()), |directory| mount_tunnel::create(&directory))?;
        if self.link.is_none() {
            hosts_file::write_own(&self.record);
        }
        firewall::forget(self.request.paths, &self.dead)
    }

    /// Leaves the mount namespace of the machine, if this process is in it.
    fn return_to_host_mounts(&mut self) -> Result<()> {
        let Some(mounts) = self.host_mounts.take() else { return Ok(()) };
        enter(mounts, CloneFlags::CLONE_NEWNS, "cannot return to the host's mounts")
    }

    fn run(&mut self, step: &HostStep) -> Result<()> {
        match step {
            HostStep::ExposeRoot(path) => self.expose_root(path),
            HostStep::Cgroups => self.cgroups().and_then(|()| self.receive_journal()),
            HostStep::Clone => self.begin_bus().and_then(|()| self.clone_leader()),
            HostStep::Await(sync) => self.await_leader(*sync),
            HostStep::MapIds => self.map_ids(),
            HostStep::MapMounts => self.map_mounts(),
            HostStep::Build => self.build(),
            HostStep::Link => self.link(),
            HostStep::Interfaces => self.connect_interfaces(),
            HostStep::OomScore(score) => self.adjust_oom_score(*score),
            HostStep::Register => self.register(),
            HostStep::Built => self.built(),
            HostStep::Release(sync) => {
                self.await_settings();
                self.leader()?.1.release(*sync)
            }
            HostStep::Executed => self.executed(),
        }
    }

    fn expose_root(&mut self, path: &Path) -> Result<()> {
        self.request.root.as_mut().map_or(Ok(()), |root| exposed_root::expose(&mut root.root, path))
    }

    fn cgroups(&mut self) -> Result<()> {
        let Some(cgroup) = &self.request.placement.cgroup else { return Ok(()) };
        match cgroup.prepare(self.owner(), &self.request.machine.resources) {
            Ok(payload) => self.cgroup = Some(payload),
            // In a container the hierarchy may be read-only, or another one than that of the container.
            Err(error) if cgroup.is_ours => {
                log::info!("the machine gets no cgroup of its own: {error}");
                let _ = cgroup::remove(&cgroup.directory);
                self.request.placement.cgroup = None;
                (self.record.cgroup, self.record.cgroup_is_ours) = (None, false);
                self.record.write(self.request.paths)?;
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Starts the receiver of the journal, in the cgroup of this process. That of the boot before goes on.
    fn receive_journal(&self) -> Result<()> {
        if self.request.kept.is_some() {
            return Ok(());
        }
        let forward = self.request.machine.journal.forward.as_ref();
        let Some((forward, directory)) = forward.zip(self.request.facts.journal_socket.as_ref()) else {
            return Ok(());
        };
        journal_receiver::start(forward, directory, self.owner())
            .context(|| "cannot receive the journal of the machine")
    }

    /// The host id of the guest's root.
    fn owner(&self) -> u32 {
        self.request.plan.id_map.map_or(0, |(base, _)| base)
    }

    fn map_ids(&mut self) -> Result<()> {
        let Some((base, count)) = self.request.plan.id_map else { return Ok(()) };
        let pid = self.record.leader.unwrap_or_default();
        for file in ["uid_map", "gid_map"] {
            pseudo_file::write(format!("/proc/{pid}/{file}"), format!("0 {base} {count}\n"))
                .context(|| format!("cannot map ids 0 to {} from {base} ({file})", count - 1))?;
        }
        Ok(())
    }

    fn map_mounts(&mut self) -> Result<()> {
        let maps = self.request.plan.mount_maps.iter();
        let create = |map: &MountMap| match (map.user, map.group) {
            (None, None) => idmap::of_mount(map.users, map.groups),
            (user, group) => idmap::with_replaced(map.users, map.groups, user, group),
        };
        self.id_maps = maps.map(create).collect::<Result<_>>()?;
        Ok(())
    }

    fn adjust_oom_score(&self, score: i16) -> Result<()> {
        let file = format!("/proc/{}/oom_score_adj", self.record.leader.unwrap_or_default());
        pseudo_file::write(&file, score.to_string()).map_err(|error| {
            let is_refused = error.kind() == std::io::ErrorKind::PermissionDenied;
            let error = Error::from(error).context(format!("cannot write '{file}'"));
            if is_refused {
                return error.with_hint(
                    "a score below that of coracle itself requires CAP_SYS_RESOURCE; choose a higher one",
                );
            }
            error
        })
    }

    /// Returns the system bus.
    fn bus(&self) -> Result<&BusSession> {
        if self.bus.get().is_none() {
            let _ = self.bus.set(BusSession::new()?);
        }
        self.bus.get().ok_or_else(|| Error::new("there is no event loop for the bus"))
    }

    /// Connects to the bus if later steps use it: the bus replies while PID 1 is cloned.
    fn begin_bus(&self) -> Result<()> {
        let uses_bus = |step: &HostStep| matches!(step, HostStep::Link) || self.is_registering(step);
        if self.bus.get().is_none() && units::is_running() && self.request.plan.host.iter().any(uses_bus) {
            self.bus()?.begin();
        }
        Ok(())
    }

    /// Returns whether a step registers the machine. One without a unit of systemd is not registered by default.
    fn is_registering(&self, step: &HostStep) -> bool {
        let is_wanted =
            self.request.placement.unit.is_some() || self.request.machine.register != Register::Auto;
        is_wanted && matches!(step, HostStep::Register)
    }

    fn register(&mut self) -> Result<()> {
        if !self.is_registering(&HostStep::Register) {
            return Ok(());
        }
        let previous = if self.request.kept.is_some() { PreviousOwner::Ours } else { PreviousOwner::Unknown };
        let leader = self.leader()?.0.pidfd.as_fd();
        match registration::register(
            self.bus()?,
            self.request.paths,
            &self.record,
            leader,
            self.request.facts.machine_id,
            previous,
        )? {
            RegistrationResult::Registered => self.record.registered = true,
            RegistrationResult::Absent(why) if self.request.machine.register == Register::Yes => {
                return Err(Error::new(format!("cannot register with machined: {why}"))
                    .with_hint("install systemd-container, or run with --register=no"));
            }
            RegistrationResult::Absent(why) => log::info!("not registered with machined: {why}"),
        }
        if previous == PreviousOwner::Ours {
            registration::discard_machined_sigterm(self.record.unit.as_deref());
        }
        Ok(())
    }

    /// Ends the children and undoes what was done: the record names all of it.
    fn abandon(&mut self) {
        let _ = self.return_to_host_mounts();
        for (child, _) in self.builder.take().into_iter().chain(self.leader.take()) {
            let _ = process::send_signal(child.pidfd.as_fd(), libc::SIGKILL);
            let _ = process::wait(child.pidfd.as_fd());
        }
        claim::abandon(self.request.paths, cleanup::undo, &self.record, &mut self.fds.take_locks());
    }

    fn record_phase(&mut self) -> Result<()> {
        let plan = self.request.plan;
        let reports = plan.waits_for_ready || plan.init.reports_readiness();
        self.record.phase = if reports { Phase::Booting } else { Phase::Running };
        self.record.write(self.request.paths)
    }

    #[inline(never)]
    fn finish(mut self) -> Result<Box<Running>> {
        let plan = self.request.plan;
        let (leader, _) = self.leader.take().ok_or_else(|| Error::new("PID 1 is not cloned yet"))?;
        self.fds.insert(FdName::Leader, leader.pidfd);
        let (boots, uptimes) =
            self.request.kept.map_or((0, Vec::new()), |kept| (kept.state.boots + 1, kept.state.uptimes));
        let machine = self.request.machine;
        // A cgroup of the first boot is new.
        let payload = self.request.placement.cgroup.as_ref().filter(|_| boots > 0).map(Cgroup::payload);
        Ok(Box::new(Running {
            state: SupervisorState {
                paths_root: self.request.paths.join("/"),
                arguments: self.request.arguments,
                stop_signal: machine.boot.stop_signal,
                stop_timeout: stop_timeout(machine),
                start_timeout: u64::try_from(machine.boot.start_timeout.as_millis()).unwrap_or(u64::MAX),
                waits_for_ready: plan.waits_for_ready,
                recognition: plan.recognition.clone(),
                is_boot: matches!(machine.command.payload, crate::machine::command::Payload::Boot { .. }),
                contract: machine.contract,
                keep_unit: machine.keep_unit,
                console: plan.console,
                machine_id: self.request.facts.machine_id,
                boot_id: self.request.facts.boot_id,
                register: machine.register != Register::No,
                out_of_memory_kills: payload.map_or(0, |directory| cgroup::out_of_memory_kills(&directory)),
                lease: self.request.lease,
                solicited: dhcp::Solicited::Nothing,
                is_announced: false,
                has_stored: false,
                boots,
                uptimes,
                record: self.record,
            },
            fds: self.fds,
        }))
    }
}
