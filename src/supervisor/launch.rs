//! The first act: carries out a plan's host steps, meets the children, and undoes everything when
//! a step fails.

mod children;
mod descriptors;
mod network;
mod record;

use super::handover::{Carried, FdName, Fds, Link, Running, SupervisorState};
use super::network::{dhcp, firewall};
use super::{cleanup, current_step, idmap, registration, reserve};
use crate::channel::ParentEnd;
use crate::error::{Context, Error, Kind, Result};
use crate::host::cgroup;
use crate::host::cgroup::Cgroup;
use crate::host::systemd::machined::{Outcome, Previous};
use crate::machine::{Machine, Register};
use crate::network::dhcp::Lease;
use crate::network::hosts_file::Hosts;
use crate::network::interfaces::ExtraInterface;
use crate::paths::Paths;
use crate::plan::Plan;
use crate::plan::step::HostStep;
use crate::state::id_ranges;
use crate::state::record::{Phase, Record};
use crate::sys::process::{self, Child};
use descriptors::ring;
use nix::sched::{CloneFlags, setns};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags};

/// Everything a launch needs.
#[derive(Debug)]
pub struct Ask<'a> {
    /// Where things are.
    pub paths: &'a Paths,
    /// What is meant.
    pub machine: &'a Machine,
    /// What is to be done.
    pub plan: &'a Plan,
    /// Names and addresses of the link.
    pub link: Link,
    /// What the guest is told of them that asks.
    pub lease: Option<Lease>,
    /// Its interfaces beside the link.
    pub wires: Vec<ExtraInterface>,
    /// Its file of names, where it is to have ours.
    pub names: Option<Names>,
    /// Device and inode of the root directory.
    pub root_identity: (u64, u64),
    /// The cgroup it runs in, where there is one.
    pub cgroup: Option<Cgroup>,
    /// The unit or scope it runs in.
    pub unit: Option<String>,
    /// The machine id.
    pub machine_id: [u8; 16],
    /// The id of this boot of the guest.
    pub boot_id: [u8; 16],
    /// Whether 32 bit programs of the machine have socketcall(2).
    pub socketcall: bool,
    /// Whether the machine's ids are locked while it runs.
    pub locks_ids: bool,
    /// The arguments that start it again.
    pub arguments: Vec<std::ffi::OsString>,
    /// What a reboot keeps.
    pub kept: Option<Carried>,
}

/// A guest's file of names.
#[derive(Debug, Clone)]
pub struct Names {
    /// The host names by which the guest may know itself.
    pub own: Vec<String>,
    /// Where it is.
    pub hosts: Hosts,
    /// What is in it, where it is bound over the tree's.
    pub bound: Option<String>,
}

/// The state between steps.
struct Launch<'a> {
    ask: Ask<'a>,
    reserved: bool,
    record: Record,
    locks: Vec<OwnedFd>,
    host_mounts: OwnedFd,
    cgroup: Option<OwnedFd>,
    leader: Option<(Child, ParentEnd)>,
    builder: Option<(Child, ParentEnd)>,
    notify: Option<OwnedFd>,
    log: Option<OwnedFd>,
    dhcp: Option<OwnedFd>,
    console: Option<OwnedFd>,
    kernel_log: Option<OwnedFd>,
    id_map: Option<OwnedFd>,
    network: Option<OwnedFd>,
}

/// Makes the machine; when it returns, the payload runs.
///
/// # Errors
/// The step that failed, with cause and hint; everything done before is undone.
pub fn launch(ask: Ask<'_>) -> Result<Running> {
    let plan = ask.plan;
    let of_launch = |error: Error| {
        let contended = error.kind() == Kind::Contended;
        if contended { error } else { error.with_kind(Kind::Launch) }
    };
    let mut launch = Launch::new(ask).map_err(of_launch)?;
    for step in &plan.host {
        log::debug!("{}", step.describe());
        current_step::set(step.describe());
        if let Err(error) = launch.run(step) {
            launch.abandon();
            return Err(of_launch(error));
        }
    }
    launch.finish().map_err(of_launch)
}

/// A namespace of this process, to come back to.
fn namespace(name: &str) -> Result<OwnedFd> {
    let path = format!("/proc/self/ns/{name}");
    rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .context(|| format!("cannot open '{path}'"))
}

fn enter(namespace: &OwnedFd, kind: CloneFlags, doing: &str) -> Result<()> {
    setns(namespace, kind).context(|| doing.to_owned())
}

impl<'a> Launch<'a> {
    fn new(ask: Ask<'a>) -> Result<Self> {
        Ok(Self {
            host_mounts: namespace("mnt")?,
            record: record::of(&ask),
            ask,
            reserved: false,
            locks: Vec::new(),
            cgroup: None,
            leader: None,
            builder: None,
            notify: None,
            log: None,
            dhcp: None,
            console: None,
            kernel_log: None,
            id_map: None,
            network: None,
        })
    }

    fn run(&mut self, step: &HostStep) -> Result<()> {
        match step {
            HostStep::Reserve => self.reserve(),
            HostStep::Cgroups => self.cgroups(),
            HostStep::Clone => self.clone_leader(),
            HostStep::Await(sync) => self.await_leader(*sync),
            HostStep::MapIds => self.map_ids(),
            HostStep::Build => self.build(),
            HostStep::Link => self.link(),
            HostStep::Interfaces => self.wires(),
            HostStep::Register => self.register(),
            HostStep::Built => self.built(),
            HostStep::Release(sync) => self.leader()?.1.release(*sync),
            HostStep::Executed => self.executed(),
        }
    }

    fn reserve(&mut self) -> Result<()> {
        let paths = self.ask.paths;
        if let Some(kept) = &mut self.ask.kept {
            // A reboot: everything is ours still.
            self.reserved = true;
            self.locks.append(&mut kept.fds.take_locks());
            self.name_hosts()?;
            return self.record.write(paths);
        }
        let name = reserve::name(paths, &self.ask.machine.name)?;
        self.reserved = true;
        // The name's lock is the first: it is held until all else is given back.
        self.locks.push(name.descriptor);
        // Before anything else is made, and naming all that will be: whoever cleans up after a
        // kill at any later moment finds it here.
        firewall::reserve(paths, &mut self.record)?;
        if let Some(plan) = self.ask.link.as_ref().filter(|plan| plan.zone.is_none()) {
            self.locks.push(reserve::address(paths, plan.ipv4.guest)?.descriptor);
        }
        let place = paths.machine(&self.ask.machine.name).join("root");
        std::fs::create_dir_all(&place).context(|| format!("cannot make '{}'", place.display()))?;
        for base in record::locked_ids(&self.ask) {
            self.locks.push(id_ranges::lock(paths, base)?.descriptor);
        }
        let (machine, identity) = (self.ask.machine, self.ask.root_identity);
        let root = reserve::root(paths, &machine.name, &machine.root.directory, identity)?;
        self.locks.push(root.descriptor);
        // Only now is the tree ours to write to.
        self.name_hosts()
    }

    fn cgroups(&mut self) -> Result<()> {
        let Some(cgroup) = &self.ask.cgroup else { return Ok(()) };
        match cgroup.prepare(self.owner(), &self.ask.machine.resources) {
            Ok(payload) => self.cgroup = Some(payload),
            // In a container the hierarchy may be read-only, or another one than that of the container.
            Err(error) if cgroup.is_ours => {
                log::info!("the machine gets no cgroup of its own: {error}");
                let _ = cgroup::remove(&cgroup.directory);
                self.ask.cgroup = None;
                (self.record.cgroup, self.record.cgroup_is_ours) = (None, false);
                self.record.write(self.ask.paths)?;
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// The host id of the guest's root.
    fn owner(&self) -> u32 {
        self.ask.plan.id_map.map_or(0, |(base, _)| base)
    }

    fn map_ids(&mut self) -> Result<()> {
        let Some((base, count)) = self.ask.plan.id_map else { return Ok(()) };
        let pid = self.record.leader.unwrap_or_default();
        for file in ["uid_map", "gid_map"] {
            std::fs::write(format!("/proc/{pid}/{file}"), format!("0 {base} {count}\n"))
                .context(|| format!("cannot map ids 0 to {} from {base} ({file})", count - 1))?;
        }
        if self.ask.plan.maps_tree {
            self.id_map = Some(idmap::namespace(base, count)?);
        }
        Ok(())
    }

    fn register(&mut self) -> Result<()> {
        if self.ask.unit.is_none() && self.ask.machine.register == Register::Auto {
            // Without systemd there is no machined either; that was said already.
            return Ok(());
        }
        let previous = if self.ask.kept.is_some() { Previous::Ours } else { Previous::Unknown };
        let leader = self.leader()?.0.pidfd.as_fd();
        match registration::register(self.ask.paths, &self.record, leader, self.ask.machine_id, previous)? {
            Outcome::Registered => self.record.registered = true,
            Outcome::Absent(why) if self.ask.machine.register == Register::Yes => {
                return Err(Error::new(format!("cannot register with machined: {why}"))
                    .with_hint("install systemd-container, or run with --register=no"));
            }
            Outcome::Absent(why) => log::info!("not registered with machined: {why}"),
        }
        if previous == Previous::Ours {
            registration::discard_machined_sigterm(self.record.unit.as_deref());
        }
        Ok(())
    }

    /// Ends the children and undoes what was done: the record names all of it.
    fn abandon(&mut self) {
        let _ = enter(&self.host_mounts, CloneFlags::CLONE_NEWNS, "cannot return to the host's mounts");
        for (child, _) in self.builder.take().into_iter().chain(self.leader.take()) {
            let _ = process::send_signal(child.pidfd.as_fd(), libc::SIGKILL);
            let _ = process::wait(child.pidfd.as_fd());
        }
        if self.reserved {
            // What is locked still is another's, and stays.
            self.locks.truncate(1);
            cleanup::undo(self.ask.paths, &self.record);
        }
    }

    fn finish(mut self) -> Result<Running> {
        let plan = self.ask.plan;
        let says_so = plan.waits_for_ready || plan.init.reports_readiness();
        self.record.phase = if says_so { Phase::Booting } else { Phase::Running };
        self.record.write(self.ask.paths)?;
        let (leader, _) = self.leader.take().ok_or_else(|| Error::new("PID 1 is not cloned yet"))?;
        let mut fds = Fds::default();
        let (boots, uptimes) = match self.ask.kept.take() {
            Some(mut kept) => {
                fds.insert(FdName::Ring, kept.fds.take(FdName::Ring));
                fds.insert(FdName::Control, kept.fds.take(FdName::Control));
                (kept.state.boots + 1, kept.state.uptimes)
            }
            None => {
                fds.insert(FdName::Ring, ring()?);
                (0, Vec::new())
            }
        };
        fds.insert(FdName::Leader, leader.pidfd);
        fds.insert(FdName::Console, self.console);
        fds.insert(FdName::KernelLog, self.kernel_log);
        fds.insert(FdName::Notify, self.notify);
        fds.insert(FdName::Log, self.log);
        fds.insert(FdName::Dhcp, self.dhcp);
        fds.insert(FdName::Network, self.network);
        self.locks.into_iter().for_each(|lock| fds.insert(FdName::Lock, lock));
        let machine = self.ask.machine;
        let payload = self.ask.cgroup.as_ref().map(Cgroup::payload);
        Ok(Running {
            state: SupervisorState {
                paths_root: self.ask.paths.join("/"),
                arguments: self.ask.arguments,
                stop_signal: machine.boot.stop_signal,
                stop_timeout: u64::try_from(machine.boot.stop_timeout.as_millis()).ok(),
                start_timeout: u64::try_from(machine.boot.start_timeout.as_millis()).unwrap_or(u64::MAX),
                waits_for_ready: plan.waits_for_ready,
                recognition: plan.recognition.clone(),
                is_boot: matches!(machine.command.payload, crate::machine::command::Payload::Boot { .. }),
                console: plan.console,
                machine_id: self.ask.machine_id,
                boot_id: crate::plan::identity::plain(self.ask.boot_id),
                register: machine.register != Register::No,
                out_of_memory_kills: payload.map_or(0, |directory| cgroup::out_of_memory_kills(&directory)),
                lease: self.ask.lease,
                solicited: dhcp::Solicited::Nothing,
                boots,
                uptimes,
                record: self.record,
            },
            fds,
        })
    }
}
