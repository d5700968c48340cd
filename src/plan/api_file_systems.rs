//! The guest's own file systems: `/proc`, `/sys`, `/dev`, `/run` and `/tmp` according to the Container
//! Interface and systemd-nspawn(1). Called by `plan`. The order is the order of the steps.

use super::step::{BindSource, BuildStep, Device, IfMissing};
use super::{Facts, process};
use crate::machine::Machine;
use crate::machine::command::Payload;
use crate::machine::credentials::{DIRECTORY, JOURNAL_DIRECTORY};
use crate::machine::network::RESOLVED_DROP_IN;
use crate::machine::security::{DeviceNode, NodeKind};
use crate::sys::mount::{Depth, MountAttributes};
use std::path::{Path, PathBuf};

/// Plain devices that every machine has: name, major and minor number (`admin-guide/devices.txt`).
const DEVICES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

/// Masked parts of `/proc`, which describe or affect the host: those of the OCI runtimes, and further ones.
const MASKED_PROC: [&str; 11] = [
    "acpi",
    "asound",
    "interrupts",
    "kallsyms",
    "kcore",
    "keys",
    "latency_stats",
    "sched_debug",
    "scsi",
    "sysrq-trigger",
    "timer_list",
];

/// Read-only parts of `/proc`.
const READ_ONLY_PROC: [&str; 4] = ["apm", "bus", "fs", "irq"];

/// Masked parts of sysfs, which describe the host: its tables and keys, and the power consumption of all
/// machines.
const MASKED_SYSFS: [&str; 2] = ["/sys/firmware", "/sys/devices/virtual/powercap"];

/// The visible parts of sysfs for a machine with a network of its own.
const SHOWN_SYSFS: [&str; 6] = ["block", "bus", "class", "dev", "devices", "kernel"];

/// Instances without masks, their types and paths: the kernel allows new mounts in a user namespace only if a
/// fully visible instance exists (`mount_too_revealing`).
const WHOLE: [(&str, &str); 2] = [("proc", "/run/host/full/proc"), ("sysfs", "/run/host/full/sys")];

/// The directory of these instances, accessible only for root inside: `ProtectProc=` still hides `/proc` from
/// services.
const WHOLE_PARENT: &str = "/run/host/full";

/// No setuid programs.
const NO_SETUID: MountAttributes =
    MountAttributes { read_only: false, no_setuid: true, no_devices: false, no_exec: false };
/// No setuid programs, no devices.
const PLAIN: MountAttributes =
    MountAttributes { read_only: false, no_setuid: true, no_devices: true, no_exec: false };

/// Returns the step for a directory of mode 755.
fn directory(path: &str) -> BuildStep {
    BuildStep::Directory { path: path.into(), mode: 0o755 }
}

/// Adds the steps for directories of mode 755.
fn add_directories(steps: &mut Vec<BuildStep>, paths: &[&str]) {
    paths.iter().for_each(|path| steps.push(directory(path)));
}

/// Returns the step for a device node.
fn node(path: String, device: Device, mode: u32) -> BuildStep {
    BuildStep::Node { path: path.into(), device, mode }
}

/// Returns the step for a tmpfs owned by the guest's root.
fn tmpfs(target: &str, mode: &str, size: &str, inodes: &str, attributes: MountAttributes) -> BuildStep {
    // The guest's root owns it, because the builder creates it as this user.
    let options = vec![("mode", mode.into()), ("size", size.into()), ("nr_inodes", inodes.into())];
    BuildStep::Mount { kind: "tmpfs", options, attributes, target: target.into() }
}

/// Returns the step for a bind mount inside the tree, skipped if source or target is missing.
fn bind_inside(source: &str, target: String, attributes: MountAttributes) -> BuildStep {
    BuildStep::Bind {
        source: BindSource::Inside(source.into()),
        target: target.into(),
        attributes,
        depth: Depth::One,
        ids: None,
        missing: IfMissing::Skip,
    }
}

/// Returns the step that binds a path over itself, with attributes of its own.
fn seal(path: String, attributes: MountAttributes) -> BuildStep {
    bind_inside(&path.clone(), path, attributes)
}

/// Adds all steps for `/tmp`, `/dev`, `/run`, `/proc` and `/sys`. They are added to one list by all functions
/// of this file: a list is large, and moving its steps touches memory that a start needs for nothing else.
pub(crate) fn add_api(steps: &mut Vec<BuildStep>, machine: &Machine, facts: &Facts, procfs_full: bool) {
    let first = steps.len();
    if machine.switches.tmpfs_tmp {
        steps.push(tmpfs("/tmp", "1777", "10%", "400k", PLAIN));
    }
    add_devices(steps, machine, facts);
    if machine.switches.tmpfs_run {
        steps.push(tmpfs("/run", "755", "20%", "800k", PLAIN));
    }
    add_run_host(steps, machine, facts, procfs_full);
    if machine.switches.writable_api {
        steps.extend(writable().into_iter().chain(process::sysctls(machine)));
    } else {
        add_sysfs(steps, machine);
        add_proc(steps, machine);
    }
    if let Some(context) = &machine.security.selinux_apifs_context {
        steps.iter_mut().skip(first).for_each(|step| label(step, context));
    }
}

/// Adds a label of SELinux to a file system without labels of its own.
fn label(step: &mut BuildStep, context: &str) {
    if let BuildStep::Mount { kind: "tmpfs" | "devpts", options, .. } = step {
        options.push(("context", context.to_owned()));
    }
}

/// The largest number of terminals in one devpts (`NR_UNIX98_PTY_MAX`).
const MOST_PTYS: u64 = 1 << 20;

/// Adds the steps for `/dev`: nodes, pseudo terminals, shared memory, message queues.
fn add_devices(steps: &mut Vec<BuildStep>, machine: &Machine, facts: &Facts) {
    let first = steps.len();
    steps.push(tmpfs("/dev", "755", "4m", "64k", NO_SETUID));
    add_directories(steps, &["/dev/net", "/dev/pts", "/dev/shm", "/dev/mqueue", "/dev/char"]);
    for (name, major, minor) in DEVICES {
        steps.push(node(format!("/dev/{name}"), Device { block: false, major, minor }, 0o666));
        steps.push(BuildStep::Symlink {
            path: format!("/dev/char/{major}:{minor}").into(),
            to: format!("../{name}").into(),
        });
    }
    for (name, major, minor) in [("net/tun", 10, 200), ("fuse", 10, 229)] {
        let path = PathBuf::from(format!("/dev/{name}"));
        if facts.devices.iter().any(|present| present == name)
            && machine.security.optional_devices.contains(&path)
        {
            steps.push(node(format!("/dev/{name}"), Device { block: false, major, minor }, 0o666));
        }
    }
    steps.extend(further_devices(facts));
    let nodes = nodes(machine, facts, steps.get(first..).unwrap_or_default());
    steps.extend(nodes);
    for (path, to) in [
        ("ptmx", "pts/ptmx"),
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("core", "/proc/kcore"),
    ] {
        steps.push(BuildStep::Symlink { path: format!("/dev/{path}").into(), to: to.into() });
    }
    let ptys = machine.resources.ptys_max.unwrap_or(MOST_PTYS);
    steps.push(BuildStep::Mount {
        kind: "devpts",
        // The host id of the group of tty(4), 5 in every distribution.
        options: vec![
            ("newinstance", String::new()),
            ("ptmxmode", "0666".into()),
            ("mode", "0620".into()),
            ("gid", (facts.owner() + 5).to_string()),
            // All machines and the host share one pool (`kernel.pty.max`).
            ("max", ptys.min(MOST_PTYS).to_string()),
        ],
        attributes: MountAttributes { no_exec: true, ..NO_SETUID },
        target: "/dev/pts".into(),
    });
    steps.push(tmpfs("/dev/shm", "1777", "10%", "400k", PLAIN));
    // systemd mounts it itself, and again for units with IPCNamespacePath=, which fails over an existing
    // mount.
    if facts.init.as_ref().is_some_and(|(_, init)| *init == crate::machine::init::Init::Systemd) {
        return;
    }
    steps.push(BuildStep::Mount {
        kind: "mqueue",
        options: Vec::new(),
        attributes: MountAttributes::INERT,
        target: "/dev/mqueue".into(),
    });
}

/// Returns the steps for the nodes of a bundle, and for the parent directories that no earlier step creates.
fn nodes(machine: &Machine, facts: &Facts, earlier: &[BuildStep]) -> Vec<BuildStep> {
    let mut steps = Vec::new();
    for DeviceNode { path, kind, mode, uid, gid } in &machine.security.nodes {
        let above: Vec<_> = path.ancestors().skip(1).take_while(|path| *path != Path::new("/dev")).collect();
        for path in above.into_iter().rev() {
            let made = BuildStep::Directory { path: path.into(), mode: 0o755 };
            if !earlier.contains(&made) && !steps.contains(&made) {
                steps.push(made);
            }
        }
        let (path, mode) = (path.clone(), *mode);
        let device = |block, major, minor| Device { block, major, minor };
        steps.push(match *kind {
            NodeKind::Character { major, minor } => {
                BuildStep::Node { path: path.clone(), device: device(false, major, minor), mode }
            }
            NodeKind::Block { major, minor } => {
                BuildStep::Node { path: path.clone(), device: device(true, major, minor), mode }
            }
            NodeKind::Fifo => BuildStep::Fifo { path: path.clone(), mode },
        });
        if (*uid, *gid) != (0, 0) {
            let [uid, gid] = [uid, gid].map(|id| facts.owner().saturating_add(*id));
            steps.push(BuildStep::Owner { path, uid, gid });
        }
    }
    steps
}

/// Returns the steps for the devices of a definition, owned by the guest's root, and for their parent
/// directories.
fn further_devices(facts: &Facts) -> Vec<BuildStep> {
    let mut steps = Vec::new();
    let plain = |path: &Path| DEVICES.iter().any(|(name, ..)| Path::new("/dev").join(name) == path);
    for named in facts.further_devices.iter().filter(|named| !plain(&named.path)) {
        let above: Vec<_> =
            named.path.ancestors().skip(1).take_while(|path| *path != Path::new("/dev")).collect();
        for path in above.into_iter().rev() {
            let made = BuildStep::Directory { path: path.into(), mode: 0o755 };
            if !steps.contains(&made) {
                steps.push(made);
            }
        }
        steps.push(BuildStep::Node { path: named.path.clone(), device: named.device, mode: named.mode });
    }
    steps
}

/// The directory inside where mounts of machined appear (systemd-nspawn(1)).
pub(super) const MOUNT_TUNNEL: &str = "/run/host/incoming";

/// Adds the steps for `/run/host`: information of the container manager for the guest, read-only at the
/// end.
fn add_run_host(steps: &mut Vec<BuildStep>, machine: &Machine, facts: &Facts, procfs_full: bool) {
    let file = |name: &str, mode, content: String| BuildStep::File {
        path: format!("/run/host/{name}").into(),
        mode,
        content,
    };
    steps.push(directory("/run/host"));
    // A mount of its own: only the supervisor creates files there.
    steps.push(tmpfs("/run/host", "755", "1m", "1k", MountAttributes::INERT));
    steps.push(file("container-manager", 0o444, format!("{}\n", super::identity::manager(machine))));
    steps.push(file("container-uuid", 0o444, format!("{}\n", facts.machine_id.to_uuid())));
    steps.push(file("os-release", 0o444, facts.host_os_release.clone()));
    steps.push(file("proc-sys-kernel-random-boot-id", 0o444, format!("{}\n", facts.boot_id.to_uuid())));
    steps.push(BuildStep::KernelLog { path: "/run/host/proc-kmsg".into() });
    steps.push(BuildStep::Directory { path: MOUNT_TUNNEL.into(), mode: 0o600 });
    steps.push(BuildStep::Directory { path: "/run/host/inaccessible".into(), mode: 0o555 });
    steps.push(file("inaccessible/reg", 0o000, String::new()));
    steps.push(BuildStep::Directory { path: "/run/host/inaccessible/dir".into(), mode: 0o000 });
    steps.push(BuildStep::Fifo { path: "/run/host/inaccessible/fifo".into(), mode: 0o000 });
    steps.push(BuildStep::Socket { path: "/run/host/inaccessible/sock".into() });
    steps.push(node("/run/host/inaccessible/chr".into(), Device { block: false, major: 0, minor: 0 }, 0o000));
    steps.push(node("/run/host/inaccessible/blk".into(), Device { block: true, major: 0, minor: 0 }, 0o000));
    steps.push(BuildStep::NotifySocket { path: "/run/host/notify".into() });
    steps.extend(
        super::identity::hostname_file(machine, facts).map(|content| file("hostname", 0o444, content)),
    );
    if let Some(content) = &facts.guest_network_file {
        add_directories(steps, &["/run/systemd", "/run/systemd/network"]);
        let path = PathBuf::from("/run/systemd/network/70-host0.network");
        steps.push(BuildStep::File { path, mode: 0o644, content: content.clone() });
    }
    let whole = if procfs_full { &WHOLE[..] } else { &[] };
    if procfs_full {
        steps.push(BuildStep::Directory { path: WHOLE_PARENT.into(), mode: 0o700 });
    }
    if let Some(content) = &facts.resolved_drop_in {
        add_directories(steps, &["/run/systemd", "/run/systemd/resolved.conf.d"]);
        steps.push(BuildStep::File { path: RESOLVED_DROP_IN.into(), mode: 0o644, content: content.clone() });
    }
    steps.extend(whole.iter().map(|(_, target)| directory(target)));
    steps.extend(super::bound_users::records(facts));
    let credentials = credentials(machine, facts);
    if credentials.is_some() {
        steps.push(BuildStep::Directory { path: DIRECTORY.into(), mode: 0o500 });
    }
    steps.extend(facts.journal_socket.iter().map(|_| directory(JOURNAL_DIRECTORY)));
    let attributes = MountAttributes::INERT.read_only();
    steps.push(BuildStep::Restrict { target: "/run/host".into(), attributes });
    steps.extend(facts.journal_socket.as_deref().map(journal_socket));
    if let Some(source) = machine.mount_tunnel() {
        steps.push(BuildStep::MountTunnel { source, target: MOUNT_TUNNEL.into() });
    }
    steps.extend(whole.iter().map(|(kind, target)| BuildStep::Mount {
        kind,
        options: Vec::new(),
        attributes: MountAttributes::INERT,
        target: target.into(),
    }));
    steps.extend(credentials);
}

/// Returns the step for the directory with the socket that receives the journal.
fn journal_socket(source: &Path) -> BuildStep {
    BuildStep::Bind {
        source: BindSource::Host(source.to_owned()),
        target: JOURNAL_DIRECTORY.into(),
        attributes: MountAttributes::INERT.read_only(),
        depth: Depth::One,
        ids: None,
        missing: IfMissing::Error,
    }
}

/// Returns the step for credentials. Only a command of another user than root, without a way to become root,
/// can read them as this user.
fn credentials(machine: &Machine, facts: &Facts) -> Option<BuildStep> {
    let is_command = matches!(machine.command.payload, Payload::Command { as_pid2: false, .. });
    let is_world_readable = is_command && facts.user.uid != 0 && machine.security.no_new_privileges;
    let step = BuildStep::Credentials { target: DIRECTORY.into(), is_world_readable };
    (!machine.credentials.is_empty()).then_some(step)
}

/// Adds the steps for `/sys`: with a network of its own parts of sysfs in a read-only tmpfs, otherwise all
/// of it read-only. udev and other programs recognise a container by a read-only `/sys`.
fn add_sysfs(steps: &mut Vec<BuildStep>, machine: &Machine) {
    let full = |target: &str| BuildStep::Mount {
        kind: "sysfs",
        options: Vec::new(),
        attributes: MountAttributes::INERT.read_only(),
        target: target.into(),
    };
    if machine.network.mode.is_private() {
        steps.push(tmpfs("/sys", "555", "4m", "1k", MountAttributes::INERT));
        steps.push(directory("/sys/full"));
        steps.push(full("/sys/full"));
        for part in SHOWN_SYSFS {
            steps.push(directory(&format!("/sys/{part}")));
            steps.push(bind_inside(
                &format!("/sys/full/{part}"),
                format!("/sys/{part}"),
                MountAttributes::INERT.read_only(),
            ));
        }
        steps.push(BuildStep::Detach { target: "/sys/full".into() });
        add_directories(steps, &["/sys/fs", "/sys/fs/cgroup"]);
        // In place: mounts below stay visible.
        let attributes = MountAttributes::INERT.read_only();
        steps.push(BuildStep::Restrict { target: "/sys".into(), attributes });
    } else {
        steps.push(full("/sys"));
    }
    steps.push(BuildStep::Mount {
        kind: "cgroup2",
        options: Vec::new(),
        attributes: MountAttributes::INERT,
        target: "/sys/fs/cgroup".into(),
    });
    MASKED_SYSFS.iter().for_each(|place| steps.push(mask((*place).into())));
}

/// Returns the steps for `/sys` and `/proc` without masks, which root inside can write to. The files of the
/// container manager are bound over those of the host.
fn writable() -> Vec<BuildStep> {
    let whole = |(kind, target): (&'static str, &str)| BuildStep::Mount {
        kind,
        options: Vec::new(),
        attributes: MountAttributes::INERT,
        target: target.into(),
    };
    let kinds = [("sysfs", "/sys"), ("cgroup2", "/sys/fs/cgroup"), ("proc", "/proc")];
    kinds.into_iter().map(whole).chain(manager_files()).collect()
}

/// Returns the steps for files in `/proc` that the container manager replaces.
fn manager_files() -> [BuildStep; 2] {
    let [boot_id, log] =
        ["proc-sys-kernel-random-boot-id", "proc-kmsg"].map(|name| format!("/run/host/{name}"));
    let read_only = MountAttributes::INERT.read_only();
    [
        bind_inside(&boot_id, "/proc/sys/kernel/random/boot_id".into(), read_only),
        bind_inside(&log, "/proc/kmsg".into(), MountAttributes::default()),
    ]
}

/// Adds the steps for `/proc`. Parts that describe or affect the host are masked or read-only.
fn add_proc(steps: &mut Vec<BuildStep>, machine: &Machine) {
    let read_only = MountAttributes::INERT.read_only();
    steps.push(BuildStep::Mount {
        kind: "proc",
        options: Vec::new(),
        attributes: MountAttributes::INERT,
        target: "/proc".into(),
    });
    // Before it is read-only.
    steps.extend(process::sysctls(machine));
    if machine.network.mode.makes_namespace() {
        // First `net` alone, then `sys` with it: only the top mount becomes read-only. The settings of
        // another network namespace, for example the host's, stay read-only: with the host's ids root inside
        // could write them without any capability.
        steps.push(seal("/proc/sys/net".into(), MountAttributes::default()));
    }
    steps.push(BuildStep::Bind {
        source: BindSource::Inside("/proc/sys".into()),
        target: "/proc/sys".into(),
        attributes: read_only,
        depth: Depth::Tree,
        ids: None,
        missing: IfMissing::Error,
    });
    steps.extend(manager_files());
    MASKED_PROC.iter().for_each(|name| steps.push(mask(format!("/proc/{name}").into())));
    READ_ONLY_PROC.iter().for_each(|name| steps.push(seal(format!("/proc/{name}"), read_only)));
}

/// Returns the step that hides a file. Kernels differ in the files that they have.
fn mask(target: PathBuf) -> BuildStep {
    BuildStep::Mask { target, missing: IfMissing::Skip }
}
