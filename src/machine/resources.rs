//! Resource limits of a machine. systemd enforces most of them as properties of its unit (systemd.resource-control(5)).

/// Resource limits; `None` for the default of systemd.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Resources {
    /// `MemoryMax=`, bytes.
    pub memory_max: Option<u64>,
    /// `MemoryHigh=`, bytes.
    pub memory_high: Option<u64>,
    /// `MemorySwapMax=`, bytes.
    pub memory_swap_max: Option<u64>,
    /// `CPUQuota=`, percent of one processor.
    pub cpu_quota: Option<u32>,
    /// `CPUWeight=`, 1 to 10000.
    pub cpu_weight: Option<u64>,
    /// `TasksMax=`.
    pub tasks_max: Option<u64>,
    /// `IOWeight=`, 1 to 10000.
    pub io_weight: Option<u64>,
    /// The maximum number of cgroups of the guest (`cgroup.max.descendants`); [`u64::MAX`] for no limit.
    pub cgroups_max: Option<u64>,
    /// Their maximum depth (`cgroup.max.depth`); [`u64::MAX`] for no limit.
    pub cgroup_depth_max: Option<u64>,
    /// The maximum number of terminals of the guest (devpts, `max=`), from a pool shared by all machines.
    pub ptys_max: Option<u64>,
}
