//! The steps that create a machine, planned before the host is changed: pure functions from a [`Machine`] and
//! the host's
//! [`Facts`] to a [`Plan`]. Called by `run`; carried out by `supervisor` and `payload`. It does no I/O.

mod api_file_systems;
mod bound_users;
mod build;
pub(crate) mod capabilities;
mod command;
pub(crate) mod exec;
mod facts;
pub mod filter;
pub(crate) mod identity;
pub(crate) mod init;
mod mount_maps;
mod mounts;
mod process;
mod rlimits;
pub mod step;

pub use bound_users::BoundUser;
pub(crate) use bound_users::home as home_inside;
pub use build::{BuildFacts, Emulator};
pub(crate) use command::candidates;
pub use facts::{Facts, NamedDevice, User};
pub use mount_maps::{BindOwners, MountMap};

use crate::channel::SyncPoint;
use crate::error::Result;
use crate::machine::Machine;
use crate::machine::command::Payload;
use crate::machine::console::Console;
use crate::machine::contract::Contract;
use crate::machine::init::{Init, InitChoice, Personality, Wait};
use crate::machine::mounts::MOUNT_POINTS;
use crate::machine::root::RootSource;
use crate::machine::security::Procfs;
use crate::sys::mount::{Depth, MountAttributes};
use mount_maps::MountMaps;
use std::path::PathBuf;
use step::{BindSource, BuildStep, HostStep, IfMissing, InitStep, JournalDirectory};

/// The settings for recognising the init by its running process.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Recognition {
    /// The first program of PID 1: it may execute another one.
    pub(crate) program: PathBuf,
    /// The time for a program of an unknown kind to execute an init, milliseconds. Zero for a known kind.
    pub(crate) limit: u64,
    /// Whether the machine counts as started as soon as its init is recognised as one that does not report
    /// readiness, or is not recognised in time.
    pub(crate) decides_start: bool,
}

/// The time for a program that may execute an init, and for any other unknown program, milliseconds.
const SUCCESSOR_TIME: u64 = 10_000;
const UNKNOWN_TIME: u64 = 200;

/// All steps of a machine, and the settings that follow from them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The steps of the supervisor.
    pub host: Vec<HostStep>,
    /// The steps of the builder. Empty without a user namespace: PID 1 builds the tree.
    pub build: Vec<BuildStep>,
    /// The steps of PID 1.
    pub init_steps: Vec<InitStep>,
    /// `CLONE_NEW*` bits for the clone of PID 1. The cgroup namespace is created later, in the final cgroup,
    /// and that of mounts with the tree.
    pub namespaces: u64,
    /// The first host id and the number of ids of the user namespace.
    pub id_map: Option<(u32, u32)>,
    /// The mappings of the ids of mounts.
    pub mount_maps: Vec<MountMap>,
    /// The kind of the init, which determines its stop request.
    pub init: Init,
    /// Whether the machine counts as started only after the guest's `READY=1`.
    pub waits_for_ready: bool,
    /// The recognition of the running init. `None` for a command, or if the definition names the kind.
    pub(crate) recognition: Option<Recognition>,
    /// The capabilities of PID 1, a mask of bits.
    pub(crate) capabilities: u64,
    /// Whether new instances of procfs and sysfs can be mounted inside.
    pub(crate) procfs_full: bool,
    /// The connection of the console; never `Auto`.
    pub console: Console,
}

impl Plan {
    /// Returns the steps that create the tree, of the builder or of PID 1.
    pub fn tree(&self) -> impl Iterator<Item = &BuildStep> {
        let own = self.init_steps.iter().filter_map(|step| match step {
            InitStep::Build(steps) => Some(steps),
            _ => None,
        });
        self.build.iter().chain(own.flatten())
    }
}

/// More steps than most trees, and most processes, have: their list is not moved when it grows.
const MANY_BUILD_STEPS: usize = 160;
const MANY_INIT_STEPS: usize = 32;

/// Plans a machine.
///
/// # Errors
/// A tree without an init, or a filter with an unknown call.
pub fn make(machine: &Machine, facts: &Facts) -> Result<Plan> {
    let init = match (&machine.command.payload, &facts.init, &machine.boot.init) {
        (Payload::Boot { .. }, _, InitChoice::Kind(kind)) => *kind,
        (Payload::Boot { .. }, Some((_, kind)), _) => *kind,
        _ => Init::Unknown,
    };
    let console = console(machine, facts);
    let has_console = console != Console::Pipe;
    let mut maps = MountMaps::default();
    let tree = build_steps(machine, facts, init, has_console, &mut maps);
    let procfs_full = shows_full_procfs(machine, init);
    let mut capabilities = capabilities::kept(
        &machine.security,
        machine.network.mode.is_private(),
        facts.user_namespace,
        facts.bounding,
    );
    if machine.keep_unit && matches!(machine.root.source, RootSource::Image(_)) {
        // Its unit may use loop devices, also those of other machines.
        capabilities &= !capabilities::nodes(&machine.security);
    }
    // Only another process than PID 1 can build a tree whose mounts are locked in a user namespace.
    let (build, own) = if facts.user_namespace { (tree, Vec::new()) } else { (Vec::new(), tree) };
    Ok(Plan {
        host: host_steps(machine, facts, &maps),
        mount_maps: maps.0,
        build,
        init_steps: init_steps(machine, facts, has_console, capabilities, own)?,
        capabilities,
        procfs_full,
        namespaces: namespaces(machine, facts),
        id_map: facts.id_base.filter(|_| facts.user_namespace).map(|base| (base, machine.id_count())),
        init,
        waits_for_ready: waits_for_ready(machine, init),
        recognition: recognition(machine, facts, init),
        console,
    })
}

fn recognition(machine: &Machine, facts: &Facts, init: Init) -> Option<Recognition> {
    let (program, _) = facts.init.as_ref().filter(|_| !matches!(machine.boot.init, InitChoice::Kind(_)))?;
    Some(Recognition {
        program: program.clone(),
        limit: match (init, facts.init_has_successor) {
            (Init::Unknown, true) => SUCCESSOR_TIME,
            (Init::Unknown, false) => UNKNOWN_TIME,
            _ => 0,
        },
        decides_start: machine.boot.wait == Wait::Auto,
    })
}

/// Returns the connection of the console: a pty for a terminal or a booting system, otherwise the standard
/// streams, which pass the output of a command on unchanged.
fn console(machine: &Machine, facts: &Facts) -> Console {
    match (machine.console, facts.on_terminal, &machine.command.payload) {
        (Console::Auto, true, _) => Console::Interactive,
        (Console::Auto, false, Payload::Boot { .. }) => Console::ReadOnly,
        (Console::Auto, false, Payload::Command { .. }) if machine.contract == Contract::Nspawn => {
            Console::ReadOnly
        }
        (Console::Auto, false, Payload::Command { .. }) => Console::Pipe,
        (console, ..) => console,
    }
}

fn waits_for_ready(machine: &Machine, init: Init) -> bool {
    let is_boot = matches!(machine.command.payload, Payload::Boot { .. });
    match machine.boot.wait {
        Wait::Ready => true,
        Wait::Running => false,
        // An unknown init is recognised first.
        Wait::Auto => init.reports_readiness() || (is_boot && init == Init::Unknown),
    }
}

/// Returns the namespaces for the clone of PID 1.
fn namespaces(machine: &Machine, facts: &Facts) -> u64 {
    let mut flags = libc::CLONE_NEWPID | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC;
    if facts.user_namespace {
        flags |= libc::CLONE_NEWUSER;
    }
    if machine.network.mode.makes_namespace() {
        flags |= libc::CLONE_NEWNET;
    }
    u64::from(flags.cast_unsigned())
}

/// Returns the steps of the supervisor. Those between the start and the end of the builder run beside it, or,
/// without a builder, beside PID 1.
fn host_steps(machine: &Machine, facts: &Facts, maps: &MountMaps) -> Vec<HostStep> {
    let map_mounts = (!maps.0.is_empty()).then_some(HostStep::MapMounts);
    // Before the clone: the child is cloned into its cgroup.
    let exposed = facts.build.as_ref().and_then(|build| build.exposed_root.clone());
    let mut steps: Vec<HostStep> = exposed.map(HostStep::ExposeRoot).into_iter().collect();
    steps.push(HostStep::Cgroups);
    // PID 1 without a user namespace is the builder, which gets the mappings.
    steps.extend(map_mounts.clone().filter(|_| !facts.user_namespace));
    steps.push(HostStep::Clone);
    let beside = steps_beside_the_build(machine, facts);
    if facts.user_namespace {
        steps.extend([
            HostStep::Await(SyncPoint::Cloned),
            HostStep::MapIds,
            HostStep::Release(SyncPoint::Cloned),
        ]);
        steps.extend(map_mounts);
        // The builder joins namespaces that the child has created by now.
        steps.extend([HostStep::Await(SyncPoint::Unshared), HostStep::Build]);
        steps.extend(beside);
        steps.extend([HostStep::Built, HostStep::Release(SyncPoint::Unshared)]);
        steps.push(HostStep::Await(SyncPoint::Ready));
    } else {
        let waits = !beside.is_empty();
        steps.extend(beside);
        steps.push(HostStep::Await(SyncPoint::Ready));
        steps.extend(waits.then_some(HostStep::Release(SyncPoint::Ready)));
    }
    steps.push(HostStep::Executed);
    steps
}

/// Returns the steps of the supervisor that need only the namespaces of PID 1.
fn steps_beside_the_build(machine: &Machine, facts: &Facts) -> Vec<HostStep> {
    use crate::machine::{Register, network::Mode};
    // With the rights of the host, which lowering requires; PID 1 waits for the end of these steps.
    let mut steps: Vec<HostStep> =
        machine.resources.oom_score_adjust.map(HostStep::OomScore).into_iter().collect();
    let network = &machine.network;
    if network.has_link() {
        steps.push(HostStep::Link);
    }
    if network.mode == Mode::Bridge || network.has_plain_link() || !network.interfaces.is_empty() {
        steps.push(HostStep::Interfaces);
    }
    if machine.register == Register::Yes || machine.register == Register::Auto && facts.has_systemd {
        // After the link: the registration contains its index.
        steps.push(HostStep::Register);
    }
    steps
}

/// Returns whether the machine has instances of procfs and sysfs without masks.
fn shows_full_procfs(machine: &Machine, init: Init) -> bool {
    match machine.security.procfs {
        Procfs::Full => true,
        Procfs::Masked => false,
        Procfs::Auto => machine.security.nesting || (init == Init::Systemd && machine.users.are_separate()),
    }
}

/// Returns the steps that create the mount tree.
fn build_steps(
    machine: &Machine,
    facts: &Facts,
    init: Init,
    has_console: bool,
    maps: &mut MountMaps,
) -> Vec<BuildStep> {
    let mut steps = Vec::with_capacity(MANY_BUILD_STEPS);
    process::add_steps(&mut steps, machine, facts);
    let (source, at) = (machine.root.top().to_owned(), facts.attach_at.clone());
    let mount_points = MOUNT_POINTS.iter().map(PathBuf::from).collect();
    // The namespace is entered after the last use of the host's procfs.
    match facts.attached_targets.clone() {
        Some(targets) => {
            let root = BuildStep::AttachedRoot { source, targets, at, mount_points };
            steps.push(BuildStep::MountNamespace);
            steps.push(root);
        }
        None => {
            let read_only = machine.root.read_only;
            let ids = maps.of_root(facts, machine.id_count());
            let root = BuildStep::Root { directory: source, ids, read_only, mount_points };
            steps.push(root);
            steps.push(BuildStep::MountNamespace);
            steps.push(BuildStep::Attach { at });
        }
    }
    // Before all mounts below, which belong to the root that the machine sees.
    steps.extend(mounts::on_root(machine, facts, maps));
    api_file_systems::add_api(&mut steps, machine, facts, shows_full_procfs(machine, init));
    // After `/run`, the target of most links.
    add_guest_files(&mut steps, machine, facts, maps);
    if has_console {
        steps.push(BuildStep::Console);
    }
    // systemd starts a journal, which binds the name itself. Other inits start without a log daemon.
    if matches!(machine.command.payload, Payload::Boot { .. }) && init != Init::Systemd {
        steps.push(BuildStep::LogSocket { path: "/dev/log".into() });
    }
    // After the guest's own file systems, so that they can be mounted over.
    steps.extend(bound_users::homes(facts, maps));
    steps.extend(mounts::old_root(machine, facts, maps));
    steps.extend(mounts::custom(machine, facts, maps));
    // Last: all steps before use paths below the directory that the tree is attached at.
    steps.push(BuildStep::Pivot);
    steps
}

/// Adds the steps for files and directories that the guest has from its host.
fn add_guest_files(steps: &mut Vec<BuildStep>, machine: &Machine, facts: &Facts, maps: &mut MountMaps) {
    steps.extend(facts.resolv_conf.iter().cloned().map(BuildStep::ResolvConf));
    steps.extend(facts.timezone.iter().cloned().map(BuildStep::Timezone));
    steps.extend(build::files(facts));
    if let Some(journal) = &facts.journal {
        let ids = maps.of_journal(journal.groups, facts, machine.id_count());
        steps.push(BuildStep::Journal(JournalDirectory { ids, ..journal.clone() }));
    }
    let bind = |source: BindSource, target: &str| BuildStep::Bind {
        source,
        target: target.into(),
        attributes: MountAttributes::INERT.read_only(),
        depth: Depth::One,
        ids: None,
        missing: IfMissing::Skip,
    };
    let files = facts.limit_files.iter();
    steps.extend(
        files.map(|(source, target)| bind(BindSource::Host(source.clone()), &target.to_string_lossy())),
    );
    steps.extend(facts.hosts_file.iter().map(|file| bind(BindSource::Host(file.clone()), "/etc/hosts")));
    if identity::hostname_file(machine, facts).is_some() {
        steps.push(bind(BindSource::Inside("/run/host/hostname".into()), "/etc/hostname"));
    }
}

/// Returns the steps of PID 1.
fn init_steps(
    machine: &Machine,
    facts: &Facts,
    has_console: bool,
    capabilities: u64,
    tree: Vec<BuildStep>,
) -> Result<Vec<InitStep>> {
    let mut steps = Vec::with_capacity(MANY_INIT_STEPS);
    if facts.user_namespace {
        steps.push(InitStep::Sync(SyncPoint::Cloned));
    }
    // Without a user namespace, Coracle's caller may have had supplementary groups (CVE-2022-2989).
    steps.push(InitStep::BecomeRoot { is_root: facts.is_root && !facts.user_namespace });
    // After the clone into the cgroup, which becomes the root of the machine's cgroup namespace.
    steps.push(InitStep::CgroupNamespace);
    if facts.user_namespace {
        steps.push(InitStep::Sync(SyncPoint::Unshared));
        // After the build of the tree, in the user namespace: the mounts of the copy are locked.
        steps.push(InitStep::MountNamespace);
    } else {
        steps.push(InitStep::Build(tree));
    }
    steps.push(InitStep::SharedMounts);
    let tunnel = machine.mount_tunnel().map(|_| InitStep::ReceivedMounts(api_file_systems::MOUNT_TUNNEL));
    steps.extend(tunnel);
    // With all rights in the user namespace, and a procfs to mount it on.
    steps.extend(build::emulator(facts));
    // As soon as there is a procfs: the label takes effect with the exec.
    steps.extend(facts.label.iter().cloned().map(InitStep::Label));
    steps.push(InitStep::Hostname(identity::hostname(machine)));
    steps.extend(process::domain_name(machine));
    steps.push(InitStep::Keyring);
    steps.push(if has_console { InitStep::Console } else { InitStep::Streams });
    if machine.boot.time_namespace {
        steps.push(InitStep::TimeNamespace);
    }
    let personality = machine.boot.personality.map(Personality::domain);
    steps.extend(exec::of_process(&machine.resources.cpu_affinity, personality));
    // After the tree: they may be too low to create it.
    let limits = process::limits(machine).filter(|_| !facts.user_namespace);
    steps.extend(limits.map(|limits| InitStep::Build(vec![limits])));
    steps.push(InitStep::Capabilities(capabilities));
    let inheritable = capabilities::inheritable(&machine.security, capabilities);
    if inheritable != 0 {
        steps.push(InitStep::Inheritable(inheritable));
    }
    let policy = filter_policy(machine, facts, capabilities);
    steps.extend(command::user(machine, facts, &policy)?);
    let ambient = capabilities::ambient(&machine.security, capabilities)?;
    if ambient != 0 {
        // After the change of the user, which clears the set.
        steps.push(InitStep::Ambient(ambient));
    }
    steps.push(command::working_directory(machine, facts));
    if machine.security.no_new_privileges {
        steps.push(InitStep::NoNewPrivileges);
    }
    // After the last change of ids, which cancels the signal at the supervisor's end.
    let waits = !facts.user_namespace && !steps_beside_the_build(machine, facts).is_empty();
    steps.push(if waits { InitStep::Sync(SyncPoint::Ready) } else { InitStep::Report(SyncPoint::Ready) });
    let (ignored_signals, passed_descriptors) = (facts.ignored_signals, facts.passed_descriptors);
    steps.push(InitStep::CleanSlate { ignored_signals, passed_descriptors });
    // As late as possible: the steps before need calls that the filter denies.
    if machine.switches.filter {
        steps.push(InitStep::Filter(filter::compile(&policy)?));
    }
    if matches!(machine.command.payload, Payload::Command { as_pid2: true, .. }) {
        steps.push(InitStep::Stub(command::stub(machine, facts, has_console)));
    }
    steps.push(match machine.command.payload {
        Payload::Hold => InitStep::Hold(command::stub(machine, facts, has_console)),
        _ => command::execute(machine, facts)?,
    });
    Ok(steps)
}

/// Returns the policy of the system-call filter.
fn filter_policy(machine: &Machine, facts: &Facts, capabilities: u64) -> filter::Policy {
    filter::Policy {
        capabilities,
        allow: machine.security.syscalls_allow.clone(),
        deny: machine.security.syscalls_deny.clone(),
        socketcall: facts.socketcall,
        suppress_sync: machine.boot.suppress_sync,
        families: machine.security.address_families.clone(),
        profile: machine.security.syscalls_profile.clone(),
    }
}

/// Writes the plan as text, one line per step: `--dry-run`.
impl std::fmt::Display for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts: [(&str, Vec<String>); 3] = [
            ("host", self.host.iter().map(HostStep::describe).collect()),
            ("build", self.build.iter().map(BuildStep::describe).collect()),
            ("init", self.init_steps.iter().flat_map(InitStep::lines).collect()),
        ];
        for (who, steps) in parts {
            for (number, step) in steps.iter().enumerate() {
                writeln!(f, "{who} {:2}: {step}", number + 1)?;
            }
        }
        Ok(())
    }
}
