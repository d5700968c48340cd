//! The default system calls of a machine: the list of systemd-nspawn(1), without calls that a machine does
//! not need and with a few newer ones. Policy only, read by `decide`.

use super::groups::*;
use rustix::thread::CapabilitySet;

/// The groups of every machine.
pub(crate) const GROUPS: Groups = AIO
    | BASIC_IO
    | CHOWN
    | DEFAULT
    | SANDBOX
    | FILE_SYSTEM
    | IO_EVENT
    | IPC
    | MOUNT
    | NETWORK_IO
    | PROCESS
    | RESOURCES
    | SETUID
    | SIGNAL
    | SYNC
    | TIMER;

/// The groups that depend on a capability.
pub(crate) const GROUPS_BY_CAPABILITY: [(CapabilitySet, Groups); 4] = [
    (CapabilitySet::SYS_TIME, CLOCK),
    (CapabilitySet::SYS_MODULE, MODULE),
    (CapabilitySet::SYS_RAWIO, RAW_IO),
    (CapabilitySet::IPC_LOCK, MEMLOCK),
];

/// The calls of every machine beyond the groups.
pub(crate) const CALLS: [&str; 54] = [
    "arm_fadvise64_64",
    "cachestat",
    "capget",
    "capset",
    "copy_file_range",
    "fadvise64",
    "fadvise64_64",
    "flock",
    // The operations of futex(2) as separate calls: a C library does not fall back after EPERM.
    "futex_requeue",
    "futex_wait",
    "futex_wake",
    "get_mempolicy",
    "getcpu",
    "getpriority",
    "ioctl",
    "ioprio_get",
    "kcmp",
    "madvise",
    // A hardened C library maps shadow stacks before main().
    "map_shadow_stack",
    "mincore",
    "mremap",
    "name_to_handle_at",
    "oldolduname",
    "olduname",
    "personality",
    "readahead",
    "readdir",
    "remap_file_pages",
    // Yields the processor, as sched_yield(2) does.
    "rseq_slice_yield",
    "sched_get_priority_max",
    "sched_get_priority_min",
    "sched_getattr",
    "sched_getparam",
    "sched_getscheduler",
    "sched_rr_get_interval",
    "sched_rr_get_interval_time64",
    "sendfile",
    "sendfile64",
    "setdomainname",
    "setfsgid",
    "setfsgid32",
    "setfsuid",
    "setfsuid32",
    "sethostname",
    "setpgid",
    "setsid",
    "splice",
    "sysinfo",
    "tee",
    "umask",
    "uname",
    // Called by the kernel's trampolines while the host traces a program of the machine.
    "uprobe",
    "userfaultfd",
    "vmsplice",
];

/// The calls that depend on a capability, independent of their groups.
pub(crate) const CALLS_BY_CAPABILITY: [(CapabilitySet, &str); 8] = [
    (CapabilitySet::SYS_PACCT, "acct"),
    (CapabilitySet::BPF, "bpf"),
    (CapabilitySet::SYS_PTRACE, "process_vm_readv"),
    (CapabilitySet::SYS_PTRACE, "process_vm_writev"),
    (CapabilitySet::SYS_PTRACE, "ptrace"),
    (CapabilitySet::SYS_BOOT, "reboot"),
    (CapabilitySet::SYSLOG, "syslog"),
    (CapabilitySet::SYS_TTY_CONFIG, "vhangup"),
];

/// The calls of groups that are denied nevertheless: they move memory of other processes between NUMA nodes,
/// which the host's kernel does by itself.
pub(crate) const REFUSED: [&str; 2] = ["migrate_pages", "move_pages"];

/// The calls of groups that fail with ENOSYS nevertheless: programs with io_uring(7) fall back after that
/// error, but many do not after EPERM.
pub(crate) const ABSENT: [&str; 3] = ["io_uring_enter", "io_uring_register", "io_uring_setup"];
