//! Capabilities, system calls, devices and procfs of a machine.

use super::address_families::AddressFamilies;
use super::syscall_profile::SyscallProfile;
use super::usb_device::UsbDevice;
use crate::error::{Error, Result};
use std::path::PathBuf;

/// Every capability of linux/capability.h by its number, without `CAP_`.
pub(crate) const CAPABILITIES: [&str; 41] = [
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

/// The installed AppArmor profile of machines.
pub(crate) const APPARMOR_PROFILE: &str = "coracle-machine";
/// The installed AppArmor profile of machines with [`Security::nesting`], in which containers mount their own
/// procfs.
pub(crate) const APPARMOR_NESTING_PROFILE: &str = "coracle-machine-nesting";

/// Devices that systemd-nspawn(1) and machines with nesting provide if the host has them.
pub(crate) const OPTIONAL_DEVICES: [&str; 2] = ["/dev/net/tun", "/dev/fuse"];

/// Further system calls that containers inside require: each creates a session keyring.
pub(crate) const NESTING_CALLS: [&str; 1] = ["@keyring"];

/// Whether a machine has one instance of procfs and of sysfs without masks. The kernel requires them for new
/// mounts of these file systems in its user namespace (`mount_too_revealing`), for example by services with a
/// private `/proc`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Procfs {
    /// `Full` for systemd and for nesting if the machine has its own user ids; otherwise `Masked`.
    #[default]
    Auto,
    /// New instances can be mounted. Global files in them are not writable, since they belong to root of the
    /// host.
    Full,
    /// All instances in the machine have masks, which cannot be removed.
    Masked,
}

/// Capabilities, system calls and privileges of a machine, beyond the defaults.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Security {
    /// Capability names (`CAP_NET_ADMIN`) added to the default set.
    pub(crate) capabilities_add: Vec<String>,
    /// Capability names removed from the default set; they take precedence over added ones.
    pub(crate) capabilities_drop: Vec<String>,
    /// Capability names that the command keeps as any user (capabilities(7)). Empty for an init.
    pub(crate) capabilities_ambient: Vec<String>,
    /// System calls and `@groups` added to the allow list.
    pub(crate) syscalls_allow: Vec<String>,
    /// System calls and `@groups` removed from the allow list; they take precedence over added ones.
    pub(crate) syscalls_deny: Vec<String>,
    /// The profile that replaces the allow list.
    pub(crate) syscalls_profile: Option<SyscallProfile>,
    /// Address families of sockets that processes may create.
    pub(crate) address_families: AddressFamilies,
    /// Devices of the host for the machine, by their paths below `/dev`.
    pub(crate) devices: Vec<PathBuf>,
    /// USB devices that the machine gets while they are plugged in.
    pub(crate) hotplug: Vec<UsbDevice>,
    /// Devices for the machine if the host has them, of [`OPTIONAL_DEVICES`].
    pub(crate) optional_devices: Vec<PathBuf>,
    /// The AppArmor profile of its processes; `None` for [`Security::own_profile`] if it is loaded.
    pub(crate) apparmor_profile: Option<String>,
    /// The SELinux context of its processes.
    pub selinux_context: Option<String>,
    /// The SELinux context of files in the API file systems.
    pub(crate) selinux_apifs_context: Option<String>,
    /// Whether it can mount procfs and sysfs.
    pub(crate) procfs: Procfs,
    /// Whether containers can run inside, including machines of coracle.
    pub(crate) nesting: bool,
    /// Whether setuid programs gain no privileges (prctl(2), PR_SET_NO_NEW_PRIVS).
    pub(crate) no_new_privileges: bool,
    /// Capability names that the command inherits (capabilities(7)).
    pub(crate) capabilities_inheritable: Vec<String>,
    /// Further device nodes.
    pub(crate) nodes: Vec<DeviceNode>,
    /// Parameters of the kernel for its namespaces.
    pub(crate) sysctls: Vec<Sysctl>,
}

/// A device node, or a named pipe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DeviceNode {
    /// Its path, below `/dev`.
    pub(crate) path: PathBuf,
    /// Its type and number.
    pub(crate) kind: NodeKind,
    /// Its mode.
    pub(crate) mode: u32,
    /// Its owner inside.
    pub(crate) uid: u32,
    /// Its group inside.
    pub(crate) gid: u32,
}

impl DeviceNode {
    /// Returns whether it leads to a device of the host.
    pub(crate) fn is_device(&self) -> bool {
        self.kind != NodeKind::Fifo
    }
}

/// The type of a device node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NodeKind {
    /// A character device.
    Character {
        /// Its major number.
        major: u32,
        /// Its minor number.
        minor: u32,
    },
    /// A block device.
    Block {
        /// Its major number.
        major: u32,
        /// Its minor number.
        minor: u32,
    },
    /// A named pipe.
    Fifo,
}

/// A parameter of the kernel (sysctl(8)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sysctl {
    /// Its name, with dots.
    pub(crate) key: String,
    /// Its value.
    pub(crate) value: String,
}

/// Parameters of namespaces that every machine has.
const SAFE_SYSCTLS: [&str; 9] = [
    "kernel.hostname",
    "kernel.domainname",
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
];

impl Sysctl {
    /// Creates a parameter.
    ///
    /// # Errors
    /// The name is not words with dots between.
    pub(crate) fn new(key: &str, value: &str) -> Result<Self> {
        let fits =
            |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/');
        if key.len() > 256 || !key.split('.').all(fits) {
            return Err(Error::new(format!("'{}' is not a parameter of the kernel", key.escape_debug()))
                .with_hint("write words with dots between, for example \"net.ipv4.ip_forward\""));
        }
        Ok(Self { key: key.to_owned(), value: value.to_owned() })
    }

    /// Returns whether it is one of the network.
    pub(crate) fn is_of_network(&self) -> bool {
        self.key.starts_with("net.")
    }

    /// Returns whether it has an effect in the namespaces of every machine only.
    pub(crate) fn is_of_machine(&self) -> bool {
        SAFE_SYSCTLS.contains(&self.key.as_str()) || self.key.starts_with("fs.mqueue.")
    }
}

impl Security {
    /// Returns the installed AppArmor profile for the machine.
    pub(crate) fn own_profile(&self) -> &'static str {
        if self.nesting { APPARMOR_NESTING_PROFILE } else { APPARMOR_PROFILE }
    }
}
