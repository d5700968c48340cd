//! What was said to what is meant: layers to a machine. The only place with defaults. Called by
//! `config`; it does not look at the host, but for the files that say what a device's name stands for.

use super::layer::{self, Layer, MountWord, Origin, Said};
use super::problem::Problem;
use super::values::{Limit, OwnershipWord, Value, Variable};
use crate::error::{Error, Result};
use crate::machine::command::{Command, Payload};
use crate::machine::console::Console;
use crate::machine::egress::Destination;
use crate::machine::identity::Identity;
use crate::machine::init::{Boot, InitChoice, Wait};
use crate::machine::mounts::{Mount, MountKind};
use crate::machine::name::Name;
use crate::machine::network::{Further, FurtherKind, HostNames, Mode, Names, Network, ResolvConf};
use crate::machine::resources::Resources;
use crate::machine::root::Root;
use crate::machine::security::{NESTING_CALLS, OPTIONAL_DEVICES, Procfs, Security};
use crate::machine::users::{Ownership, Users};
use crate::machine::{Machine, Parts, Register};
use crate::paths::Paths;
use std::path::PathBuf;
use std::time::Duration;

/// Whose defaults hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Of a machine that is a unit: everything is private.
    Unit,
    /// Of a defined machine run in the foreground: as `Unit`, on our terminal.
    Foreground,
    /// Of systemd-nspawn(1): a command on our terminal, network and users of the host.
    Nspawn,
}

/// A machine, and what its owner may want to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The machine.
    pub machine: Machine,
    /// What is probably not as meant.
    pub warnings: Vec<Problem>,
    /// Every setting with its origin, the defaults included.
    pub settings: Layer,
}

/// The machine `name` that `said` means.
///
/// # Errors
/// All rules broken.
pub fn resolve(
    paths: &Paths,
    name: &Name,
    said: Layer,
    profile: Profile,
) -> std::result::Result<Resolved, Vec<Error>> {
    let mut settings = filled(name, said, profile);
    super::cdi::expand(paths, &mut settings)?;
    let parts = parts(paths, name, &settings, profile).map_err(|error| vec![error])?;
    let warnings = warnings(&settings);
    Machine::new(parts).map(|machine| Resolved { machine, warnings, settings })
}

/// `said` with the defaults of `profile` where nothing was said.
fn filled(name: &Name, mut said: Layer, profile: Profile) -> Layer {
    let nspawn = profile == Profile::Nspawn;
    said.name.fill(|| name.clone());
    said.directory.fill(|| Paths::default().images().join(name));
    said.read_only.fill(|| false);
    said.init.fill(|| InitChoice::Auto);
    // nspawn's READY=1 is "started" unless --notify-ready= is given.
    said.wait.fill(|| if nspawn { Wait::Running } else { Wait::Auto });
    said.stop_timeout.fill(|| Duration::from_secs(90));
    said.start_timeout.fill(|| Duration::from_secs(600));
    said.cgroups_max.fill(|| Limit(8192));
    said.cgroup_depth_max.fill(|| Limit(32));
    said.ptys_max.fill(|| Limit(1024));
    said.time_namespace.fill(|| false);
    said.veth_extra_routed.fill(|| false);
    said.private.fill(|| if nspawn { Users::Host } else { Users::Pick });
    fill_ownership(&mut said, nspawn);
    let implied = [
        (said.zone.value().is_some(), Mode::Zone),
        (said.bridge.value().is_some(), Mode::Bridge),
        (said.namespace.value().is_some(), Mode::Namespace),
        (nspawn, Mode::Host),
    ];
    let mode = implied.iter().find(|(is_so, _)| *is_so).map_or(Mode::Veth, |(_, mode)| *mode);
    said.mode.fill(|| mode);
    said.resolv_conf.fill(|| ResolvConf::Auto);
    said.hosts.fill(|| HostNames::Auto);
    said.environment.keep_last(|variable| variable.name.clone());
    said.procfs.fill(|| Procfs::Auto);
    said.nesting.fill(|| false);
    said.no_new_privileges.fill(|| false);
    // A defined machine is booted, unless it is told to run a command.
    let commands = !said.command.said().is_empty()
        || said.as_pid2.value().is_some()
        || said.user.value().is_some()
        || said.chdir.value().is_some();
    let boots = !nspawn && !commands;
    said.boot.fill(|| boots);
    said.as_pid2.fill(|| false);
    said.console.fill(|| if profile == Profile::Unit { Console::Journal } else { Console::Auto });
    said.register.fill(|| Register::Auto);
    said.keep_unit.fill(|| profile == Profile::Unit);
    said
}

/// A range of its own is mapped; nspawn maps picked ranges only, a fixed one is where the files
/// are already. Ids of the host need no mapping.
fn fill_ownership(said: &mut Layer, nspawn: bool) {
    let auto = match said.private.value() {
        Some(Users::Pick) => OwnershipWord::Map,
        Some(Users::Fixed { .. }) if !nspawn || said.ownership.value().is_some() => OwnershipWord::Map,
        _ => OwnershipWord::Off,
    };
    if said.ownership.value() == Some(&OwnershipWord::Auto) {
        let origin = said.ownership.origin();
        said.ownership.set(auto, origin);
    }
    said.ownership.fill(|| auto);
}

/// The value of a setting that has a default.
fn known<T: Clone>(setting: &layer::One<T>, key: &str) -> Result<T> {
    setting.value().cloned().ok_or_else(|| Error::new(format!("nothing says '{key}', and it has no default")))
}

fn parts(paths: &Paths, name: &Name, said: &Layer, profile: Profile) -> Result<Parts> {
    let users = known(&said.private, "users.private")?;
    Ok(Parts {
        name: name.clone(),
        root: Root {
            directory: known(&said.directory, "root.directory")
                .map(|path| on_host(paths, path, &said.directory.origin()))?,
            read_only: known(&said.read_only, "root.read-only")?,
        },
        boot: Boot {
            init: known(&said.init, "boot.init")?,
            wait: known(&said.wait, "boot.wait")?,
            stop_signal: said.stop_signal.value().map(|signal| signal.0),
            stop_timeout: known(&said.stop_timeout, "boot.stop-timeout")?,
            start_timeout: known(&said.start_timeout, "boot.start-timeout")?,
            time_namespace: known(&said.time_namespace, "boot.time-namespace")?,
        },
        command: command(said)?,
        mounts: mounts(paths, said, users)?,
        network: Network {
            mode: known(&said.mode, "network.mode")?,
            zone: said.zone.value().cloned(),
            bridge: said.bridge.value().cloned(),
            namespace: said
                .namespace
                .value()
                .map(|path| on_host(paths, path.clone(), &said.namespace.origin())),
            further: further(said),
            veth_extra_routed: known(&said.veth_extra_routed, "network.veth-extra-routed")?,
            resolv_conf: known(&said.resolv_conf, "network.resolv-conf")?,
            hosts: known(&said.hosts, "network.hosts")?,
            ports: said.ports.values().chain(said.on_demand.values()).copied().collect(),
            on_demand: said.on_demand.values().copied().collect(),
            egress: said.egress.values().copied().collect(),
            rate_in: said.rate_in.value().and_then(|rate| rate.0),
            rate_out: said.rate_out.value().and_then(|rate| rate.0),
            connections_max: said.connections_max.value().map(|limit| limit.0),
        },
        users,
        ownership: match known(&said.ownership, "users.ownership")? {
            OwnershipWord::Map => Ownership::Map,
            OwnershipWord::Off | OwnershipWord::Auto => Ownership::Off,
        },
        security: security(said, profile)?,
        identity: Identity {
            hostname: said.hostname.value().map(|hostname| hostname.0.clone()),
            uuid: said.uuid.value().map(|uuid| uuid.0),
        },
        resources: resources(said),
        console: known(&said.console, "console")?,
        register: known(&said.register, "register")?,
        keep_unit: known(&said.keep_unit, "keep-unit")?,
        slice: said.slice.value().map(|slice| slice.0.clone()),
    })
}

fn further(said: &Layer) -> Vec<Further> {
    let all = |kind, list: &layer::Many<Names>| -> Vec<Further> {
        list.values().map(|names| Further { kind, names: names.clone() }).collect()
    };
    [
        all(FurtherKind::Moved, &said.interface),
        all(FurtherKind::Macvlan, &said.macvlan),
        all(FurtherKind::Ipvlan, &said.ipvlan),
        all(FurtherKind::Veth, &said.veth_extra),
    ]
    .concat()
}

fn command(said: &Layer) -> Result<Command> {
    let argv: Vec<_> = said.command.values().map(|argument| argument.0.clone()).collect();
    let payload = if known(&said.boot, "boot")? {
        let defined = said.arguments.values().map(|argument| argument.0.clone());
        Payload::Boot { arguments: defined.chain(argv).collect() }
    } else {
        Payload::Command { argv, as_pid2: known(&said.as_pid2, "as-pid2")? }
    };
    Ok(Command {
        payload,
        directory: said.chdir.value().cloned(),
        user: said.user.value().cloned(),
        environment: said
            .environment
            .values()
            .map(|Variable { name, value }| (name.clone(), value.clone()))
            .collect(),
    })
}

/// Where a path of the host lies: paths of definitions are paths below the root directory in use,
/// those of options are not.
fn on_host(paths: &Paths, path: PathBuf, origin: &Origin) -> PathBuf {
    if matches!(origin, Origin::Flag(_)) { path } else { paths.join(path) }
}

/// The mounts, parents before what lies below them; what was said later hides what was said
/// before at the same place.
fn mounts(paths: &Paths, said: &Layer, users: Users) -> Result<Vec<Mount>> {
    let made = said.mounts.said().iter().map(|said| mount(paths, said, users));
    let mut mounts: Vec<Mount> = made.collect::<Result<_>>()?;
    mounts.sort_by(|one, other| one.target.cmp(&other.target));
    Ok(mounts)
}

fn mount(paths: &Paths, Said { value: said, origin }: &Said<layer::Mount>, users: Users) -> Result<Mount> {
    let missing = |key: &str| Error::new(format!("a mount has no {key}"));
    let target = said.target.as_ref().or(said.source.as_ref()).ok_or_else(|| missing("target"))?;
    let kind = match said.kind {
        MountWord::Bind => MountKind::Bind {
            source: on_host(paths, said.source.clone().ok_or_else(|| missing("source"))?, origin),
            read_only: said.read_only.unwrap_or(false),
            recursive: said.recursive.unwrap_or(true),
            // Off unless asked: a guest that is root over files of the host can leave
            // setuid programs there.
            map_ids: said.map_ids.unwrap_or(false) && users != Users::Host,
            setuid: said.setuid.unwrap_or(false),
        },
        MountWord::Tmpfs => MountKind::Tmpfs { options: said.options.clone().unwrap_or_default() },
        MountWord::Inaccessible => MountKind::Inaccessible,
    };
    Ok(Mount { target: target.clone(), kind })
}

fn security(said: &Layer, profile: Profile) -> Result<Security> {
    let nesting = known(&said.nesting, "security.nesting")?;
    let nested: &[&str] = if nesting { &NESTING_CALLS } else { &[] };
    let optional: &[&str] = if nesting || profile == Profile::Nspawn { &OPTIONAL_DEVICES } else { &[] };
    let allowed = said.syscalls_allow.values().map(|name| name.0.clone());
    let names = |list: &layer::Many<super::values::Capability>| {
        list.values().flat_map(super::values::Capability::names).collect()
    };
    Ok(Security {
        capabilities_add: names(&said.capabilities_add),
        capabilities_drop: names(&said.capabilities_drop),
        syscalls_allow: allowed.chain(nested.iter().map(|name| (*name).to_owned())).collect(),
        syscalls_deny: said.syscalls_deny.values().map(|name| name.0.clone()).collect(),
        devices: said.devices.values().map(|device| device.0.clone().into()).collect(),
        optional_devices: optional.iter().map(PathBuf::from).collect(),
        apparmor_profile: said.apparmor_profile.value().cloned(),
        selinux_context: said.selinux_context.value().cloned(),
        selinux_apifs_context: said.selinux_apifs_context.value().cloned(),
        procfs: known(&said.procfs, "security.procfs")?,
        nesting,
        no_new_privileges: known(&said.no_new_privileges, "security.no-new-privileges")?,
    })
}

fn resources(said: &Layer) -> Resources {
    Resources {
        memory_max: said.memory_max.value().map(|size| size.0),
        memory_high: said.memory_high.value().map(|size| size.0),
        memory_swap_max: said.memory_swap_max.value().map(|size| size.0),
        cpu_quota: said.cpu_quota.value().and_then(|quota| quota.0),
        cpu_weight: said.cpu_weight.value().map(|weight| weight.0),
        tasks_max: said.tasks_max.value().map(|Limit(limit)| *limit),
        io_weight: said.io_weight.value().map(|weight| weight.0),
        cgroups_max: said.cgroups_max.value().map(|limit| limit.0),
        cgroup_depth_max: said.cgroup_depth_max.value().map(|limit| limit.0),
        ptys_max: said.ptys_max.value().map(|limit| limit.0),
    }
}

/// What is probably not as meant.
fn warnings(said: &Layer) -> Vec<Problem> {
    let mut warnings = Vec::new();
    let mut warn = |origin: &Origin, text: String| warnings.push(Problem::warning(origin, text));
    for Said { value, origin } in said.capabilities_add.said() {
        if said.capabilities_drop.values().any(|dropped| dropped == value) {
            warn(origin, format!("the capability {} is added and dropped; it is dropped", value.show()));
        }
    }
    for Said { value, origin } in said.syscalls_allow.said() {
        if said.syscalls_deny.values().any(|denied| denied == value) {
            warn(origin, format!("the system call {} is allowed and denied; it is denied", value.show()));
        }
    }
    for Said { value, origin } in said.mounts.said() {
        if value.map_ids == Some(true) && said.private.value() == Some(&Users::Host) {
            warn(origin, "without a user namespace there are no ids to map".to_owned());
        }
    }
    for (at, Said { value, origin }) in said.mounts.said().iter().enumerate() {
        if said.mounts.values().take(at).any(|earlier| earlier.target == value.target) {
            let target = value.target.clone().unwrap_or_else(PathBuf::new);
            warn(origin, format!("'{}' is mounted on twice; this one hides the other", target.display()));
        }
    }
    warnings.extend(unjudged(said));
    warnings
}

/// Interfaces whose packets no rule of this host judges, beside a machine with `network.egress`.
fn unjudged(said: &Layer) -> Vec<Problem> {
    if said.egress.values().all(|destination| *destination == Destination::Any) {
        return Vec::new();
    }
    let is_routed = said.veth_extra_routed.value() == Some(&true);
    let routed = Some(&said.veth_extra).filter(|_| is_routed);
    let mut warnings = Vec::new();
    for list in [&said.macvlan, &said.ipvlan, &said.interface].into_iter().chain(routed) {
        for Said { value, origin } in list.said() {
            let host = value.host.as_str();
            warnings.push(Problem::warning(
                origin,
                format!("network.egress does not restrict packets that the machine sends by '{host}'"),
            ));
        }
    }
    warnings
}
