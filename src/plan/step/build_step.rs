//! The steps that create the mount tree: of the builder, or of PID 1.

use super::{JournalDirectory, ResolvConfAction, ResourceLimit, SessionFile, TimezoneAction};
use crate::sys::mount::{Depth, MountAttributes};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// The source of a bind mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BindSource {
    /// A path of the host.
    Host(PathBuf),
    /// A path of the machine's tree.
    Inside(PathBuf),
}

/// The place of changes to an overlay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OverlayUpper {
    /// None: it is read-only.
    None,
    /// A layer in memory.
    Temporary,
    /// A directory.
    Directory(BindSource),
}

impl OverlayUpper {
    /// Returns the name of the directory that the kernel works in, beside that of changes.
    pub(crate) fn work_directory(data: &OsStr) -> OsString {
        crate::machine::mounts::work_directory(data)
    }

    fn describe(&self) -> String {
        match self {
            Self::None => String::new(),
            Self::Temporary => " with a layer in memory".into(),
            Self::Directory(source) => format!(" with {}", source.describe()),
        }
    }
}

impl BindSource {
    fn describe(&self) -> String {
        match self {
            Self::Host(path) => format!("host's '{}'", path.display()),
            Self::Inside(path) => format!("'{}'", path.display()),
        }
    }
}

/// The action for a missing source or target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IfMissing {
    /// Report an error.
    Error,
    /// Report an error for the source, and create the target.
    Create,
    /// Skip the step: kernels differ in the files of procfs and sysfs.
    Skip,
}

/// A device node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device {
    /// Whether it is a block device.
    pub(crate) block: bool,
    /// Its major number.
    pub(crate) major: u32,
    /// Its minor number.
    pub(crate) minor: u32,
}

/// A step of the mount tree. With a user namespace a separate builder carries it out: it has the rights of
/// the host and works in a mount namespace of the host's user namespace, so that PID 1 receives a copy with
/// all mounts locked together. Without one PID 1 has these rights itself, and no mount is locked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BuildStep {
    /// Joins the child's network, IPC and cgroup namespaces, which some file systems show: for the builder.
    Join,
    /// Brings up the loopback interface of a network namespace without a link.
    Loopback,
    /// Sets the resource limits of PID 1 to those of a fresh system.
    Limits,
    /// Sets further resource limits of PID 1.
    Rlimits(Vec<ResourceLimit>),
    /// Opens the root tree, and creates missing mount points in it.
    Root {
        /// The tree on the host.
        directory: PathBuf,
        /// The number of the mapping of its ids. `None` if they are not mapped.
        ids: Option<usize>,
        /// Whether it is read-only.
        read_only: bool,
        /// Directories that must exist in it.
        mount_points: Vec<PathBuf>,
    },
    /// Leaves the host's mount namespace for that of the machine.
    MountNamespace,
    /// Attaches the opened root in the machine's mount namespace.
    Attach {
        /// The directory to attach it at until it becomes the root, in a copy of the host's mount namespace.
        /// In a copy of the empty one it is attached over the root.
        at: PathBuf,
    },
    /// Attaches a root whose mounts exist already, and creates missing mount points in it.
    AttachedRoot {
        /// Its source on the host.
        source: PathBuf,
        /// The mount points of its further mounts.
        targets: Vec<PathBuf>,
        /// The directory of the host to attach it at until it becomes the root.
        at: PathBuf,
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
        attributes: MountAttributes,
        /// The mount point.
        target: PathBuf,
    },
    /// Creates a directory, owned by the guest's root.
    Directory {
        /// Its path.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// Creates a file, owned by the guest's root.
    File {
        /// Its path.
        path: PathBuf,
        /// Its mode.
        mode: u32,
        /// Its content.
        content: String,
    },
    /// Creates a file or directory of a build session.
    Session(SessionFile),
    /// Creates the file system with the credentials, which the builder gets beside the plan.
    Credentials {
        /// The mount point.
        target: PathBuf,
        /// Whether all users inside may read them.
        is_world_readable: bool,
    },
    /// Writes, replaces or deletes the guest's `/etc/resolv.conf`.
    ResolvConf(ResolvConfAction),
    /// Writes, links, covers or deletes the guest's `/etc/localtime`.
    Timezone(TimezoneAction),
    /// Mounts the directory of the machine's journal.
    Journal(JournalDirectory),
    /// Creates a named pipe, owned by the guest's root.
    Fifo {
        /// Its path.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// Creates the named pipe that stands for the kernel's log. The supervisor holds it open, so that open(2)
    /// inside returns at once and read(2) waits, as for a log without new messages.
    KernelLog {
        /// Its path.
        path: PathBuf,
    },
    /// Creates a socket without a listener, owned by the guest's root.
    Socket {
        /// Its path.
        path: PathBuf,
    },
    /// Creates a device node; if that is not permitted, binds the host's node.
    Node {
        /// Its path.
        path: PathBuf,
        /// Its type and number.
        device: Device,
        /// Its mode.
        mode: u32,
    },
    /// Creates a symbolic link.
    Symlink {
        /// Its path.
        path: PathBuf,
        /// Its target.
        to: PathBuf,
    },
    /// Binds a file or directory to another path.
    Bind {
        /// The source.
        source: BindSource,
        /// The mount point.
        target: PathBuf,
        /// Additional attributes.
        attributes: MountAttributes,
        /// Whether mounts below the source are included.
        depth: Depth,
        /// The number of the mapping of its ids. `None` if they are not mapped.
        ids: Option<usize>,
        /// The action for a missing source or target.
        missing: IfMissing,
    },
    /// Mounts directories combined by overlayfs.
    Overlay {
        /// The read-only layers, the lowest first.
        lower: Vec<BindSource>,
        /// The place of changes.
        upper: OverlayUpper,
        /// The mount point.
        target: PathBuf,
        /// Additional attributes.
        attributes: MountAttributes,
        /// The number of the mapping of its ids. `None` if they are not mapped.
        ids: Option<usize>,
    },
    /// Binds a directory of the host, read-only, where later mounts of the host below it appear too.
    MountTunnel {
        /// The directory of the host.
        source: PathBuf,
        /// The mount point.
        target: PathBuf,
    },
    /// Adds attributes to an existing mount.
    Restrict {
        /// The mount point.
        target: PathBuf,
        /// The additional attributes.
        attributes: MountAttributes,
    },
    /// Covers a path with an empty node of mode 000 of the same type.
    Mask {
        /// The path.
        target: PathBuf,
        /// The action for a missing path.
        missing: IfMissing,
    },
    /// Detaches a mount that is only needed during the build, and removes its directory.
    Detach {
        /// The mount point.
        target: PathBuf,
    },
    /// Allows groups to send ICMP echo requests without privileges (`net.ipv4.ping_group_range`, icmp(7)).
    PingGroups {
        /// The first group id, as the host sees it.
        first: u32,
        /// The last one.
        last: u32,
    },
    /// Sets a parameter of the kernel in the machine's namespaces.
    Sysctl {
        /// Its name, with dots.
        key: String,
        /// Its value.
        value: String,
    },
    /// Changes the owner of a node.
    Owner {
        /// Its path.
        path: PathBuf,
        /// Its owner, as the host sees it.
        uid: u32,
        /// Its group, as the host sees it.
        gid: u32,
    },
    /// Binds the socket for notifications of the guest's PID 1.
    NotifySocket {
        /// Its path.
        path: PathBuf,
    },
    /// Binds the log socket of a guest without a journal.
    LogSocket {
        /// Its path.
        path: PathBuf,
    },
    /// Opens the console's pty in the guest's own devpts and links `/dev/console` to it.
    Console,
    /// Makes the tree the root.
    Pivot,
}

impl BuildStep {
    /// Returns whether the machine starts without the step: its failure is a warning.
    pub(crate) fn is_optional(&self) -> bool {
        matches!(
            self,
            Self::ResolvConf(_)
                | Self::Timezone(_)
                | Self::Journal(_)
                | Self::PingGroups { .. }
                | Self::Loopback
                | Self::Rlimits(_)
        )
    }

    /// Returns the step as one line of text.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Join => "join the machine's namespaces".into(),
            Self::Loopback => "bring up the loopback interface".into(),
            Self::Limits => "reset the resource limits of PID 1".into(),
            Self::Rlimits(limits) => {
                let limits: Vec<String> = limits.iter().map(ResourceLimit::to_string).collect();
                format!("limit {}", limits.join(", "))
            }
            Self::Root { directory, ids, read_only, .. } => {
                let mapped = if ids.is_some() { ", idmapped" } else { "" };
                let read_only = if *read_only { ", read-only" } else { "" };
                format!("open root '{}'{mapped}{read_only}", directory.display())
            }
            Self::MountNamespace => "enter the machine's mount namespace".into(),
            Self::Attach { .. } => "attach the root".into(),
            Self::AttachedRoot { source, targets, .. } => describe_attached(source, targets),
            Self::Mount { kind, target, attributes, options } => {
                let options: Vec<String> = options.iter().map(|(key, value)| join(key, value)).collect();
                format!("mount {kind} on '{}'{}", target.display(), list(&options.join(","), *attributes))
            }
            Self::Directory { path, mode } => format!("create directory '{}' {mode:03o}", path.display()),
            Self::File { path, mode, .. } => format!("create file '{}' {mode:03o}", path.display()),
            Self::Session(file) => file.describe(),
            Self::Credentials { target, is_world_readable } => {
                let mode = if *is_world_readable { 0o444 } else { 0o400 };
                format!("create credentials in '{}' {mode:03o}", target.display())
            }
            Self::ResolvConf(action) => action.describe(),
            Self::Timezone(action) => action.describe(),
            Self::Journal(directory) => directory.describe(),
            Self::Fifo { path, mode } => format!("create fifo '{}' {mode:03o}", path.display()),
            Self::KernelLog { path } => format!("create the kernel's log '{}' 600", path.display()),
            Self::Socket { path } => format!("create socket '{}'", path.display()),
            Self::Node { path, device, mode } => {
                format!("create device '{}' {}:{} {mode:03o}", path.display(), device.major, device.minor)
            }
            Self::Symlink { path, to } => format!("link '{}' to '{}'", path.display(), to.display()),
            Self::Bind { source, target, attributes, ids, .. } => {
                let source = source.describe();
                let mapped = if ids.is_some() { "idmapped" } else { "" };
                format!("bind {source} on '{}'{}", target.display(), list(mapped, *attributes))
            }
            Self::Overlay { .. } => self.describe_overlay(),
            Self::MountTunnel { source, target } => describe_tunnel(source, target),
            Self::Restrict { target, attributes } => {
                format!("restrict '{}'{}", target.display(), list("", *attributes))
            }
            Self::Mask { target, .. } => format!("mask '{}'", target.display()),
            Self::Detach { target } => format!("detach '{}'", target.display()),
            Self::PingGroups { .. } | Self::Sysctl { .. } | Self::Owner { .. } => self.describe_value(),
            Self::LogSocket { path } => format!("bind the log socket '{}'", path.display()),
            Self::NotifySocket { path } => format!("bind the notify socket '{}'", path.display()),
            Self::Console => "open the console".into(),
            Self::Pivot => "make the tree the root".into(),
        }
    }

    fn describe_value(&self) -> String {
        match self {
            Self::PingGroups { first, last } => format!("allow groups {first} to {last} to ping"),
            Self::Sysctl { key, value } => format!("set {key} to '{}'", value.escape_debug()),
            Self::Owner { path, uid, gid } => {
                format!("change the owner of '{}' to {uid}:{gid}", path.display())
            }
            _ => String::new(),
        }
    }

    fn describe_overlay(&self) -> String {
        let Self::Overlay { lower, upper, target, attributes, ids } = self else { return String::new() };
        let lower: Vec<String> = lower.iter().map(BindSource::describe).collect();
        let mapped = if ids.is_some() { "idmapped" } else { "" };
        let attributes = list(mapped, *attributes);
        let (upper, target) = (upper.describe(), target.display());
        format!("overlay {}{upper} on '{target}'{attributes}", lower.join(", "))
    }
}

fn describe_attached(source: &Path, targets: &[PathBuf]) -> String {
    let targets: Vec<String> = targets.iter().map(|target| target.display().to_string()).collect();
    let further = if targets.is_empty() { String::new() } else { format!(", with {}", targets.join(", ")) };
    format!("attach root '{}'{further}", source.display())
}

fn describe_tunnel(source: &Path, target: &Path) -> String {
    format!("bind '{}' on '{}' with later mounts", source.display(), target.display())
}

/// Formats an option as `key=value`, or as the key alone.
fn join(key: &str, value: &str) -> String {
    if value.is_empty() { key.to_owned() } else { format!("{key}={value}") }
}

/// Formats options and attributes in parentheses. Empty if there are none.
fn list(options: &str, attributes: MountAttributes) -> String {
    let mut words = Vec::new();
    if attributes.read_only {
        words.push("ro");
    }
    if attributes.no_setuid {
        words.push("nosuid");
    }
    if attributes.no_devices {
        words.push("nodev");
    }
    if attributes.no_exec {
        words.push("noexec");
    }
    if !options.is_empty() {
        words.push(options);
    }
    if words.is_empty() { String::new() } else { format!(" ({})", words.join(",")) }
}
