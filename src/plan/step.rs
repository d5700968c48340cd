//! The steps a machine is made in, as data. `describe` is the debug log, the `--dry-run` output
//! and the context of an error at once.

use crate::channel::SyncPoint;
use crate::sys::filter::Instruction;
use crate::sys::mount::{Attributes, Depth};
use std::ffi::{CString, OsString};
use std::path::{Path, PathBuf};

/// What the supervisor does, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostStep {
    /// Takes the machine's name, its root and its ids, so that no second machine has them.
    Reserve,
    /// Prepares the cgroups `supervisor` and `payload`.
    Cgroups,
    /// Clones the machine's PID 1 into its namespaces and its cgroup.
    Clone,
    /// Waits for the child at a meeting.
    Await(SyncPoint),
    /// Writes the id maps of the user namespace.
    MapIds,
    /// Clones the builder, which makes the file system tree.
    Build,
    /// Makes the pair of virtual Ethernet links and gives both ends addresses.
    Link,
    /// Makes its other interfaces, or moves them in.
    Interfaces,
    /// Tells machined.
    Register,
    /// Waits until the builder is done.
    Built,
    /// Lets the child go on from a meeting.
    Release(SyncPoint),
    /// Waits until the child has executed the payload.
    Executed,
}

impl HostStep {
    /// One line for people.
    pub fn describe(&self) -> String {
        match self {
            Self::Reserve => "reserve name, root and ids".into(),
            Self::Cgroups => "prepare the cgroups 'supervisor' and 'payload'".into(),
            Self::Clone => "clone the child into its namespaces".into(),
            Self::Await(sync) => format!("await the child at '{sync:?}'"),
            Self::MapIds => "map user and group ids".into(),
            Self::Build => "start building the tree".into(),
            Self::Link => "make the network link".into(),
            Self::Interfaces => "make or move in the other interfaces".into(),
            Self::Register => "register with machined".into(),
            Self::Built => "await the tree".into(),
            Self::Release(sync) => format!("release the child from '{sync:?}'"),
            Self::Executed => "await the execution of the payload".into(),
        }
    }
}

/// Where a bind mount comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BindSource {
    /// A path of the host.
    Host(PathBuf),
    /// A path of the machine's tree.
    Inside(PathBuf),
}

/// What to do where a source or target is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IfMissing {
    /// It is an error.
    Error,
    /// There is nothing to do then: kernels differ in what they show.
    Skip,
}

/// What the guest's `/etc/resolv.conf` is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResolvConfAction {
    /// A file with this in it, also where a link leads to `/run`.
    Write(String),
    /// The same where there is nothing yet: what there is stays.
    WriteIfMissing(String),
    /// A file with this in it, but for a link.
    Copy(String),
    /// The same, in place of whatever there is.
    Replace(String),
    /// This file of the host, mounted over it.
    Bind(PathBuf),
    /// None.
    Delete,
}

/// A device node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device {
    /// Whether it is a block device.
    pub block: bool,
    /// Its major number.
    pub major: u32,
    /// Its minor number.
    pub minor: u32,
}

/// What the builder does: it has the rights of the host and stands in a mount namespace of the
/// host's, so that PID 1 receives a copy whose mounts are locked together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BuildStep {
    /// Joins the child's network, IPC and cgroup namespaces, which some file systems show.
    Join,
    /// Gives PID 1 the resource limits of a fresh system.
    Limits,
    /// Opens the root tree, makes missing mount points in it, and attaches it.
    Root {
        /// The tree on the host.
        directory: PathBuf,
        /// Where it is attached until it becomes the root.
        at: PathBuf,
        /// Whether its ids are mapped through the child's user namespace.
        map_ids: bool,
        /// Whether it is read-only.
        read_only: bool,
        /// Directories that must exist in it.
        mount_points: Vec<PathBuf>,
    },
    /// Mounts a new file system.
    Mount {
        /// Its type.
        kind: &'static str,
        /// Its options.
        options: Vec<(&'static str, String)>,
        /// Its mount attributes.
        attributes: Attributes,
        /// Where.
        target: PathBuf,
    },
    /// Makes a directory, owned by the guest's root.
    Directory {
        /// Where.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// Makes a file, owned by the guest's root.
    File {
        /// Where.
        path: PathBuf,
        /// Its mode.
        mode: u32,
        /// What is in it.
        content: String,
    },
    /// Makes the guest's `/etc/resolv.conf` what it is to be.
    ResolvConf(ResolvConfAction),
    /// Makes a named pipe, owned by the guest's root.
    Fifo {
        /// Where.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// Creates the named pipe that stands for the kernel's log. The supervisor holds it open, so that open(2) inside
    /// returns at once and read(2) waits, as for a log without news.
    KernelLog {
        /// Where.
        path: PathBuf,
    },
    /// Makes a socket nobody listens at, owned by the guest's root.
    Socket {
        /// Where.
        path: PathBuf,
    },
    /// Makes a device node; where that is not allowed, binds the host's.
    Node {
        /// Where.
        path: PathBuf,
        /// Which.
        device: Device,
        /// Its mode.
        mode: u32,
    },
    /// Makes a symbolic link.
    Symlink {
        /// Where.
        path: PathBuf,
        /// To what.
        to: PathBuf,
    },
    /// Mounts a part of a tree somewhere else.
    Bind {
        /// What.
        source: BindSource,
        /// Where.
        target: PathBuf,
        /// Attributes added.
        attributes: Attributes,
        /// Whether mounts below come along.
        depth: Depth,
        /// Whether ids are mapped through the child's user namespace.
        map_ids: bool,
        /// What to do where either is missing.
        missing: IfMissing,
    },
    /// Adds attributes to a mount that is there.
    Restrict {
        /// Where.
        target: PathBuf,
        /// The attributes added.
        attributes: Attributes,
    },
    /// Covers a place with an empty node of mode 000 of the same type.
    Mask {
        /// Where.
        target: PathBuf,
    },
    /// Detaches a mount that was needed while building only, and removes its directory.
    Detach {
        /// Where.
        target: PathBuf,
    },
    /// Allows groups to send ICMP echo requests without privileges (`net.ipv4.ping_group_range`, icmp(7)).
    PingGroups {
        /// The first group id, as the host sees it.
        first: u32,
        /// The last one.
        last: u32,
    },
    /// Binds the socket at which the guest notifies its manager.
    NotifySocket {
        /// Where.
        path: PathBuf,
    },
    /// Binds the socket at which programs of a guest without a journal log.
    LogSocket {
        /// Where.
        path: PathBuf,
    },
    /// Opens the console's pty in the guest's own devpts and makes `/dev/console` a link to it.
    Console,
    /// Makes the tree the root.
    Pivot,
}

impl BuildStep {
    /// Whether the machine starts without it: a failure of the step is a warning.
    pub fn is_optional(&self) -> bool {
        matches!(self, Self::ResolvConf(_) | Self::PingGroups { .. })
    }

    /// One line for people.
    pub fn describe(&self) -> String {
        match self {
            Self::Join => "join the machine's namespaces".into(),
            Self::Limits => "reset the resource limits of PID 1".into(),
            Self::PingGroups { first, last } => format!("allow groups {first} to {last} to ping"),
            Self::Root { directory, map_ids, read_only, .. } => {
                let words = [(*map_ids, ", idmapped"), (*read_only, ", read-only")];
                let words: String = words.iter().filter(|(on, _)| *on).map(|(_, word)| *word).collect();
                format!("open root '{}'{words}", directory.display())
            }
            Self::Mount { kind, target, attributes, options } => {
                let options: Vec<String> = options.iter().map(|(key, value)| join(key, value)).collect();
                format!("mount {kind} on '{}'{}", target.display(), list(&options.join(","), *attributes))
            }
            Self::Directory { path, mode } => format!("make directory '{}' {mode:03o}", path.display()),
            Self::File { path, mode, .. } => format!("make file '{}' {mode:03o}", path.display()),
            Self::ResolvConf(ResolvConfAction::Write(_)) => "write '/etc/resolv.conf'".into(),
            Self::ResolvConf(ResolvConfAction::WriteIfMissing(_)) => {
                "make '/etc/resolv.conf' where it is not there".into()
            }
            Self::ResolvConf(ResolvConfAction::Copy(_)) => "copy to '/etc/resolv.conf'".into(),
            Self::ResolvConf(ResolvConfAction::Replace(_)) => "replace '/etc/resolv.conf'".into(),
            Self::ResolvConf(ResolvConfAction::Bind(file)) => {
                format!("bind '{}' over '/etc/resolv.conf'", file.display())
            }
            Self::ResolvConf(ResolvConfAction::Delete) => "remove '/etc/resolv.conf'".into(),
            Self::Fifo { path, mode } => format!("make fifo '{}' {mode:03o}", path.display()),
            Self::KernelLog { path } => format!("make the kernel's log '{}' 600", path.display()),
            Self::Socket { path } => format!("make socket '{}'", path.display()),
            Self::Node { path, device, mode } => {
                format!("make device '{}' {}:{} {mode:03o}", path.display(), device.major, device.minor)
            }
            Self::Symlink { path, to } => format!("link '{}' to '{}'", path.display(), to.display()),
            Self::Bind { source, target, attributes, map_ids, .. } => {
                let source = match source {
                    BindSource::Host(path) => format!("host's '{}'", path.display()),
                    BindSource::Inside(path) => format!("'{}'", path.display()),
                };
                let mapped = if *map_ids { "idmapped" } else { "" };
                format!("bind {source} on '{}'{}", target.display(), list(mapped, *attributes))
            }
            Self::Restrict { target, attributes } => {
                format!("restrict '{}'{}", target.display(), list("", *attributes))
            }
            Self::Mask { target } => format!("mask '{}'", target.display()),
            Self::Detach { target } => format!("detach '{}'", target.display()),
            Self::LogSocket { path } => format!("bind the log socket '{}'", path.display()),
            Self::NotifySocket { path } => format!("bind the notify socket '{}'", path.display()),
            Self::Console => "open the console".into(),
            Self::Pivot => "make the tree the root".into(),
        }
    }
}

/// `key=value`, or the key alone.
fn join(key: &str, value: &str) -> String {
    if value.is_empty() { key.to_owned() } else { format!("{key}={value}") }
}

/// Options and attributes in parentheses, or nothing.
fn list(options: &str, attributes: Attributes) -> String {
    let words = [
        (attributes.read_only, "ro"),
        (attributes.no_setuid, "nosuid"),
        (attributes.no_devices, "nodev"),
        (attributes.no_exec, "noexec"),
    ];
    let words = words.iter().filter(|(on, _)| *on).map(|(_, word)| *word);
    let all: Vec<&str> = words.chain((!options.is_empty()).then_some(options)).collect();
    if all.is_empty() { String::new() } else { format!(" ({})", all.join(",")) }
}

/// A label of the security module for what is executed next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LsmLabel {
    /// Where it is asked for, in the host's procfs.
    pub file: &'static str,
    /// What is written there.
    pub text: String,
}

/// A resource limit (setrlimit(2)). `None` is RLIM_INFINITY.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResourceLimit {
    /// The resource.
    pub resource: rustix::process::Resource,
    /// The soft limit.
    pub soft: Option<u64>,
    /// The hard limit.
    pub hard: Option<u64>,
}

/// What the machine's PID 1 does with itself before it executes the payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InitStep {
    /// Meets the supervisor.
    Sync(SyncPoint),
    /// Joins all namespaces of a running machine.
    Join {
        /// Whether it has a time namespace of its own.
        time: bool,
    },
    /// Becomes root of its user namespace, without further groups.
    BecomeRoot,
    /// Takes the cgroup it was cloned into as the root of its cgroup namespace.
    CgroupNamespace,
    /// Takes a copy of the built mount namespace, locked, and shares its mounts with its children.
    MountNamespace,
    /// Sets the kernel host name.
    Hostname(String),
    /// Joins a session keyring of its own.
    Keyring,
    /// Begins a session with the console as controlling terminal and standard streams.
    Console,
    /// Begins a session on a new pty of the machine, and hands its other side to the parent.
    Terminal,
    /// Begins a session and keeps the standard streams it was given.
    Streams,
    /// Begins a time namespace in which the boot time is zero.
    TimeNamespace,
    /// Asks for a label of the security module, taken with the exec.
    Label(LsmLabel),
    /// Sets resource limits.
    Limits(Vec<ResourceLimit>),
    /// Keeps these capabilities (a mask of bits) in the bounding set and empties the inheritable one.
    Capabilities(u64),
    /// Has no capability but these any more, at once and not with the exec.
    Confine(u64),
    /// Lets a process that is born into the machine's pid namespace go on in our place.
    Replace,
    /// Becomes the payload's user.
    User {
        /// User id inside.
        uid: u32,
        /// Group id inside.
        gid: u32,
        /// Supplementary groups.
        groups: Vec<u32>,
    },
    /// Gives up gaining privileges by executing.
    NoNewPrivileges,
    /// Enters the working directory.
    Directory(PathBuf),
    /// Resets signals, umask, and marks every other descriptor close-on-exec.
    CleanSlate,
    /// Loads the system-call filter.
    Filter(Vec<Instruction>),
    /// Becomes a stub init that runs the payload as PID 2 (`--as-pid2`).
    Stub,
    /// Executes the payload.
    Execute {
        /// Candidates for the program; the first that exists is executed.
        programs: Vec<PathBuf>,
        /// Its arguments, the name first.
        argv: Vec<OsString>,
        /// Its whole environment.
        environment: Vec<CString>,
    },
}

impl InitStep {
    /// One line for people.
    pub fn describe(&self) -> String {
        match self {
            Self::Sync(sync) => format!("meet the supervisor at '{sync:?}'"),
            Self::Join { .. } => "join the machine's namespaces".into(),
            Self::Terminal => "begin a session on a new terminal".into(),
            Self::BecomeRoot => "become root, of no other group".into(),
            Self::CgroupNamespace => "enter a cgroup namespace".into(),
            Self::MountNamespace => "enter a mount namespace".into(),
            Self::Hostname(name) => format!("set host name '{name}'"),
            Self::Keyring => "join a new session keyring".into(),
            Self::Console => "begin a session on the console".into(),
            Self::Streams => "begin a session".into(),
            Self::TimeNamespace => "enter a time namespace".into(),
            Self::Label(label) => format!("ask for label '{}'", label.text),
            Self::Limits(limits) => format!("set {} resource limits", limits.len()),
            Self::Capabilities(kept) => format!("keep {} capabilities ({kept:#x})", kept.count_ones()),
            Self::Confine(kept) => format!("have {} capabilities ({kept:#x})", kept.count_ones()),
            Self::Replace => "be born into the machine's pid namespace".into(),
            Self::User { uid, gid, .. } => format!("become user {uid} of group {gid}"),
            Self::NoNewPrivileges => "give up gaining privileges".into(),
            Self::Directory(path) => format!("enter directory '{}'", path.display()),
            Self::CleanSlate => "reset signals, umask and descriptors".into(),
            Self::Filter(program) => format!("load the system-call filter ({} instructions)", program.len()),
            Self::Stub => "begin as a stub init".into(),
            Self::Execute { programs, argv, .. } => {
                let program = programs.first().map_or(Path::new(""), PathBuf::as_path);
                let arguments = argv.iter().skip(1).map(|word| word.to_string_lossy().into_owned());
                let words: Vec<String> =
                    std::iter::once(program.display().to_string()).chain(arguments).collect();
                format!("execute '{}'", words.join(" "))
            }
        }
    }
}
