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
    /// Whether setuid programs gain nothing (prctl(2), PR_SET_NO_NEW_PRIVS).
    pub no_new_privileges: bool,
}
