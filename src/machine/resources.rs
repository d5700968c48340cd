//! Resource limits of a machine. systemd enforces most of them as properties of its unit
//! (systemd.resource-control(5)), the kernel those of processes (setrlimit(2)).

/// The unit of a limit of setrlimit(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RlimitUnit {
    /// A count.
    Number,
    /// Bytes.
    Bytes,
    /// Seconds.
    Seconds,
    /// Microseconds.
    Microseconds,
    /// 20 minus the lowest nice level.
    Nice,
}

/// The limits of setrlimit(2), in lower case and without `RLIMIT_`.
pub(crate) const RLIMITS: [(&str, RlimitUnit); 16] = [
    ("as", RlimitUnit::Bytes),
    ("core", RlimitUnit::Bytes),
    ("cpu", RlimitUnit::Seconds),
    ("data", RlimitUnit::Bytes),
    ("fsize", RlimitUnit::Bytes),
    ("locks", RlimitUnit::Number),
    ("memlock", RlimitUnit::Bytes),
    ("msgqueue", RlimitUnit::Bytes),
    ("nice", RlimitUnit::Nice),
    ("nofile", RlimitUnit::Number),
    ("nproc", RlimitUnit::Number),
    ("rss", RlimitUnit::Bytes),
    ("rtprio", RlimitUnit::Number),
    ("rttime", RlimitUnit::Microseconds),
    ("sigpending", RlimitUnit::Number),
    ("stack", RlimitUnit::Bytes),
];

/// The number of processors that a CPU affinity can name (`CPU_SETSIZE` of sched_setaffinity(2)).
pub(crate) const PROCESSORS_MAX: u16 = 1024;

/// A limit of the processes of a machine (setrlimit(2)); `None` for no limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rlimit {
    /// Its name in [`RLIMITS`].
    pub(crate) name: &'static str,
    /// The soft limit.
    pub(crate) soft: Option<u64>,
    /// The hard limit.
    pub(crate) hard: Option<u64>,
}

/// Resource limits; `None` for the default of systemd.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Resources {
    /// `MemoryMax=`, bytes.
    pub(crate) memory_max: Option<u64>,
    /// `MemoryHigh=`, bytes.
    pub(crate) memory_high: Option<u64>,
    /// `MemorySwapMax=`, bytes.
    pub(crate) memory_swap_max: Option<u64>,
    /// `CPUQuota=`, percent of one processor.
    pub(crate) cpu_quota: Option<u32>,
    /// `CPUWeight=`, 1 to 10000.
    pub(crate) cpu_weight: Option<u64>,
    /// `TasksMax=`.
    pub(crate) tasks_max: Option<u64>,
    /// `IOWeight=`, 1 to 10000.
    pub(crate) io_weight: Option<u64>,
    /// The maximum number of cgroups of the guest (`cgroup.max.descendants`); [`u64::MAX`] for no limit.
    pub(crate) cgroups_max: Option<u64>,
    /// Their maximum depth (`cgroup.max.depth`); [`u64::MAX`] for no limit.
    pub(crate) cgroup_depth_max: Option<u64>,
    /// The maximum number of terminals of the guest (devpts, `max=`), from a pool shared by all machines.
    pub(crate) ptys_max: Option<u64>,
    /// The maximum disk space of the files that the machine changes, bytes; [`u64::MAX`] for no limit.
    pub(crate) disk_max: Option<u64>,
    /// Whether files of `/proc` show the guest its own limits and usage, by lxcfs.
    pub(crate) visible: bool,
    /// The processors for its processes, in order, each below [`PROCESSORS_MAX`]; empty for all.
    pub(crate) cpu_affinity: Vec<u16>,
    /// The adjustment of the out-of-memory score of its processes (proc(5), `oom_score_adj`).
    pub(crate) oom_score_adjust: Option<i16>,
    /// Limits of its processes that differ from those of a fresh system, each at most once.
    pub(crate) rlimits: Vec<Rlimit>,
}
