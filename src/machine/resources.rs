//! Resource limits of a machine. systemd enforces most of them as properties of its unit
//! (systemd.resource-control(5)).

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
}
