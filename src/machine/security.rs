//! What the machine may do to the kernel.

use std::path::PathBuf;

/// Every capability of linux/capability.h by its number, without `CAP_`.
pub const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// The AppArmor profile that is installed with us.
pub const APPARMOR_PROFILE: &str = "coracle-machine";
/// The installed AppArmor profile of machines with [`Security::nesting`], in which containers mount a procfs of their
/// own.
pub const APPARMOR_NESTING_PROFILE: &str = "coracle-machine-nesting";

/// Devices that systemd-nspawn(1) gives where the host has them, and that containers inside are given.
pub const OPTIONAL_DEVICES: [&str; 2] = ["/dev/net/tun", "/dev/fuse"];

/// System calls that containers inside ask for beyond those of a system: a session keyring for each.
pub const NESTING_CALLS: [&str; 1] = ["@keyring"];

/// Whether a machine has one instance of procfs and one of sysfs without masks. Only then the kernel mounts fresh
/// instances in its user namespace (`mount_too_revealing`), which services with a `/proc` of their own need.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Procfs {
    /// `Full` for systemd and for containers inside, if the machine has user ids of its own; else `Masked`.
    #[default]
    Auto,
    /// Fresh instances can be mounted. What is global in them is not writable: it belongs to root of the host.
    Full,
    /// The masks are all that the machine sees, and none can be removed.
    Masked,
}

/// Capabilities, system calls and privileges of a machine, beyond the defaults.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Security {
    /// Capability names (`CAP_NET_ADMIN`) added to the default set.
    pub capabilities_add: Vec<String>,
    /// Capability names taken from the default set; wins over added ones.
    pub capabilities_drop: Vec<String>,
    /// System calls and `@groups` added to the allow list.
    pub syscalls_allow: Vec<String>,
    /// System calls and `@groups` taken from the allow list; wins over added ones.
    pub syscalls_deny: Vec<String>,
    /// Devices of the host that it has too, by their paths below `/dev`.
    pub devices: Vec<PathBuf>,
    /// Devices that it has where the host has them, of [`OPTIONAL_DEVICES`].
    pub optional_devices: Vec<PathBuf>,
    /// The AppArmor profile its processes have; [`Security::own_profile`] where not given, and where it is
    /// loaded.
    pub apparmor_profile: Option<String>,
    /// The SELinux context of its processes.
    pub selinux_context: Option<String>,
    /// The SELinux context of files in file systems that it gets from us.
    pub selinux_apifs_context: Option<String>,
    /// How much of procfs and sysfs it may mount.
    pub procfs: Procfs,
    /// Whether containers run inside of it, machines of coracle among them.
    pub nesting: bool,
    /// Whether setuid programs gain nothing (prctl(2), PR_SET_NO_NEW_PRIVS).
    pub no_new_privileges: bool,
}

impl Security {
    /// Returns the installed AppArmor profile that is meant for the machine.
    pub fn own_profile(&self) -> &'static str {
        if self.nesting { APPARMOR_NESTING_PROFILE } else { APPARMOR_PROFILE }
    }
}
