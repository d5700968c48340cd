//! The steps of the machine's PID 1, and of a process that enters a running machine.

use super::{BuildStep, UserLookup};
use crate::channel::SyncPoint;
use crate::sys::filter::Instruction;
use std::ffi::{CString, OsString};
use std::path::{Path, PathBuf};

/// A label of the security module for the next executed program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LsmLabel {
    /// The file of the host's procfs that sets it.
    pub file: &'static str,
    /// The text to write there.
    pub text: String,
}

/// The settings of a stub init.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StubSettings {
    /// Its environment, for processes that recognise a container by PID 1.
    pub(crate) environment: Vec<CString>,
    /// Whether PID 2 gets the console as its controlling terminal.
    pub(crate) has_console: bool,
    /// Whether the exit status is 128 plus the number of the signal that killed PID 2.
    pub(crate) shows_signals: bool,
    /// Whether its root directory is one outside the root of the session, which programs of the host look at.
    pub(crate) leaves_root: bool,
}

/// A resource limit (setrlimit(2)). `None` is RLIM_INFINITY.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResourceLimit {
    /// The resource.
    pub(crate) resource: rustix::process::Resource,
    /// The soft limit.
    pub(crate) soft: Option<u64>,
    /// The hard limit.
    pub(crate) hard: Option<u64>,
}

impl std::fmt::Display for ResourceLimit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown = |limit: Option<u64>| limit.map_or("infinity".to_owned(), |number| number.to_string());
        let name = format!("{:?}", self.resource).to_uppercase();
        write!(f, "{name} to {}:{}", shown(self.soft), shown(self.hard))
    }
}

/// A step of the machine's PID 1, before it executes the payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InitStep {
    /// Waits for the supervisor at a synchronisation point.
    Sync(SyncPoint),
    /// Reports a synchronisation point to the supervisor, without waiting for it.
    Report(SyncPoint),
    /// Joins all namespaces of a running machine.
    Join {
        /// Whether the machine has a time namespace of its own.
        time: bool,
    },
    /// Becomes root of its user namespace, without supplementary groups.
    BecomeRoot {
        /// Whether it has root's ids and capabilities already: a process without a user namespace of its own.
        is_root: bool,
    },
    /// Creates a network namespace with a loopback interface only.
    Offline,
    /// Creates a cgroup namespace with its own cgroup as the root.
    CgroupNamespace,
    /// Changes to the built root, and creates a mount namespace as a locked copy of the built one.
    MountNamespace,
    /// Steps of the tree, without a user namespace. They count and are reported as steps of PID 1.
    Build(Vec<BuildStep>),
    /// Makes all mounts shared, as the kernel does for the init of a host.
    SharedMounts,
    /// Makes a mount receive those of its original only: systemd-machined(8) moves them away, which is not
    /// possible below a shared mount.
    ReceivedMounts(&'static str),
    /// Sets the kernel host name.
    Hostname(String),
    /// Sets the kernel NIS domain name.
    Domainname(String),
    /// Joins a session keyring of its own.
    Keyring,
    /// Creates a session with the console as controlling terminal and standard streams.
    Console,
    /// Creates a session on a new pty of the machine, and sends its master to the parent.
    Terminal,
    /// Creates a session and keeps its standard streams.
    Streams,
    /// Creates a time namespace in which the boot time is zero.
    TimeNamespace,
    /// Sets the label of the security module, which takes effect with the exec.
    Label(LsmLabel),
    /// Restricts itself to processors, by their numbers.
    CpuAffinity(Vec<u16>),
    /// Sets its execution domain (personality(2)).
    Personality(u32),
    /// Mounts a binfmt_misc of its user namespace, and registers the emulator of a build session there.
    Emulator {
        /// The name of the format.
        name: String,
        /// The start of its programs and the bits that count, in the notation of binfmt_misc.
        magic: String,
    },
    /// Sets resource limits.
    Limits(Vec<ResourceLimit>),
    /// Keeps these capabilities (a mask of bits) in the bounding set and clears the inheritable set.
    Capabilities(u64),
    /// Adds these capabilities (a mask of bits) to the inheritable set.
    Inheritable(u64),
    /// Raises these capabilities (a mask of bits) in the ambient set, for the payload's user.
    Ambient(u64),
    /// Drops all other capabilities at once, not only with the exec.
    Confine(u64),
    /// Continues in a process cloned into the machine's pid namespace.
    Replace,
    /// Looks up the payload's user: later steps are those of the found one.
    FindUser(UserLookup),
    /// Creates a missing home directory of the payload's user.
    CreateHome {
        /// Its path.
        path: PathBuf,
        /// User id inside.
        uid: u32,
        /// Group id inside.
        gid: u32,
    },
    /// Becomes the payload's user.
    User {
        /// User id inside.
        uid: u32,
        /// Group id inside.
        gid: u32,
        /// Supplementary groups.
        groups: Vec<u32>,
    },
    /// Sets PR_SET_NO_NEW_PRIVS(2const).
    NoNewPrivileges,
    /// Changes to the working directory.
    Directory(PathBuf),
    /// Changes to a home directory, or to the root directory if it does not exist.
    Home(PathBuf),
    /// Resets signals and umask, and marks every other descriptor close-on-exec.
    CleanSlate {
        /// The signals that may be ignored, a mask: bit 0 is signal 1.
        ignored_signals: u64,
        /// The number of descriptors from 3 on that stay open.
        passed_descriptors: u32,
    },
    /// Loads the system-call filter.
    Filter(Vec<Instruction>),
    /// Becomes a stub init that runs the payload as PID 2 (`--as-pid2`).
    Stub(StubSettings),
    /// Becomes a stub init without a payload, which holds the namespaces for commands that enter them.
    Hold(StubSettings),
    /// Executes the payload.
    Execute {
        /// Candidates for the program; the first existing one is executed.
        programs: Vec<PathBuf>,
        /// Its arguments, the name first.
        argv: Vec<OsString>,
        /// Whether its name is that of a login shell: a minus sign and the name of the executed file.
        is_login: bool,
        /// Its whole environment.
        environment: Vec<CString>,
    },
}

impl InitStep {
    /// Returns the number of steps: those of the tree are several.
    pub(crate) fn count(&self) -> usize {
        match self {
            Self::Build(steps) => steps.len(),
            _ => 1,
        }
    }

    /// Returns the lines of text of the step: one for each of the steps of the tree.
    pub(crate) fn lines(&self) -> Vec<String> {
        match self {
            Self::Build(steps) => steps.iter().map(BuildStep::describe).collect(),
            _ => vec![self.describe()],
        }
    }

    /// Returns the step as one line of text.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Sync(sync) => format!("wait for the supervisor at '{sync:?}'"),
            Self::Join { .. } => "join the machine's namespaces".into(),
            Self::Terminal => "create a session on a new terminal".into(),
            Self::BecomeRoot { .. } => "become root, without other groups".into(),
            Self::CgroupNamespace => "create a cgroup namespace".into(),
            Self::MountNamespace => "create a mount namespace".into(),
            Self::Build(_) => "create the mount tree".into(),
            Self::SharedMounts => "make all mounts shared".into(),
            Self::ReceivedMounts(target) => format!("let '{target}' receive mounts only"),
            Self::Report(sync) => format!("report '{sync:?}' to the supervisor"),
            Self::Hostname(name) => format!("set host name '{name}'"),
            Self::Domainname(name) => format!("set domain name '{}'", name.escape_debug()),
            Self::Keyring => "join a new session keyring".into(),
            Self::Console => "create a session on the console".into(),
            Self::Streams => "create a session".into(),
            Self::TimeNamespace => "create a time namespace".into(),
            Self::Label(label) => format!("set label '{}'", label.text),
            Self::CpuAffinity(numbers) => {
                let numbers: Vec<String> = numbers.iter().map(u16::to_string).collect();
                format!("run on processors {}", numbers.join(","))
            }
            Self::Personality(domain) => format!("set personality {domain:#x}"),
            Self::Emulator { name, .. } => format!("register the emulator '{name}'"),
            Self::Limits(limits) => format!("set {} resource limits", limits.len()),
            Self::Capabilities(kept) => format!("keep {} capabilities ({kept:#x})", kept.count_ones()),
            Self::Inheritable(added) => {
                format!("inherit {} capabilities ({added:#x})", added.count_ones())
            }
            Self::Ambient(raised) => {
                format!("raise {} ambient capabilities ({raised:#x})", raised.count_ones())
            }
            Self::Confine(kept) => format!("drop all but {} capabilities ({kept:#x})", kept.count_ones()),
            Self::Replace => "continue in the machine's pid namespace".into(),
            Self::FindUser(lookup) => format!("look up user '{}'", lookup.name.escape_debug()),
            Self::CreateHome { uid: u32::MAX, .. } => "create the home directory of that user".into(),
            Self::CreateHome { path, .. } => format!("create home directory '{}'", path.display()),
            Self::User { uid: u32::MAX, .. } => "become the user that was looked up".into(),
            Self::User { uid, gid, .. } => format!("become user {uid} of group {gid}"),
            Self::NoNewPrivileges => "set no-new-privileges".into(),
            Self::Home(path) => format!("change to home directory '{}'", path.display()),
            Self::Directory(path) => format!("change to directory '{}'", path.display()),
            Self::CleanSlate { .. } => "reset signals, umask and descriptors".into(),
            Self::Filter(program) => format!("load the system-call filter ({} instructions)", program.len()),
            Self::Stub(_) => "start a stub init".into(),
            Self::Offline => "create a network namespace".into(),
            Self::Hold(_) => "hold the machine for commands".into(),
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
