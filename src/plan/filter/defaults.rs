//! What a machine may call where its definition says nothing: the list of systemd-nspawn(1), with
//! fewer calls where a machine does not need them and a few that are younger than it. Policy only,
//! read by `decide`.

use super::groups::*;

/// Groups that every machine has.
pub const GROUPS: Groups = AIO
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

/// Groups that come with a capability: the number of capabilities(7), the group.
pub const GROUPS_BY_CAPABILITY: [(u8, Groups); 4] =
    [(SYS_TIME, CLOCK), (SYS_MODULE, MODULE), (SYS_RAWIO, RAW_IO), (IPC_LOCK, MEMLOCK)];

/// Calls beyond the groups that every machine has.
pub const CALLS: [&str; 54] = [
    "arm_fadvise64_64",
    "cachestat",
    "capget",
    "capset",
    "copy_file_range",
    "fadvise64",
    "fadvise64_64",
    "flock",
    // The parts of futex(2) as calls of their own: a C library that finds them refused, not absent,
    // does not fall back.
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
    // Shadow stacks are what a hardened C library maps before main().
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
    // Gives the processor back early, as sched_yield(2) does.
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
    // Called by the kernel's own trampolines where the host traces a program of the machine.
    "uprobe",
    "userfaultfd",
    "vmsplice",
];

/// Calls that come with a capability, whatever groups they are in.
pub const CALLS_BY_CAPABILITY: [(u8, &str); 8] = [
    (SYS_PACCT, "acct"),
    (BPF, "bpf"),
    (SYS_PTRACE, "process_vm_readv"),
    (SYS_PTRACE, "process_vm_writev"),
    (SYS_PTRACE, "ptrace"),
    (SYS_BOOT, "reboot"),
    (SYSLOG, "syslog"),
    (SYS_TTY_CONFIG, "vhangup"),
];

/// Calls that the machine does not get although a group has them: they move memory of others between the processor's
/// nodes, which the host's kernel does by itself.
pub const REFUSED: [&str; 2] = ["migrate_pages", "move_pages"];

/// Calls that the machine does not get although a group has them, and that it is told do not exist:
/// programs that use io_uring(7) fall back on that answer, on EPERM many do not.
pub const ABSENT: [&str; 3] = ["io_uring_enter", "io_uring_register", "io_uring_setup"];

const IPC_LOCK: u8 = 14;
const SYS_MODULE: u8 = 16;
const SYS_RAWIO: u8 = 17;
const SYS_PTRACE: u8 = 19;
const SYS_PACCT: u8 = 20;
const SYS_BOOT: u8 = 22;
const SYS_TIME: u8 = 25;
const SYS_TTY_CONFIG: u8 = 26;
const SYSLOG: u8 = 34;
const BPF: u8 = 39;
