//! Limits of a machine: most are kept by systemd as properties of its unit (systemd.resource-control(5)).

/// Resource limits; `None` leaves systemd's default.
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
    /// The most cgroups of the guest (`cgroup.max.descendants`); [`u64::MAX`] for no limit.
    pub cgroups_max: Option<u64>,
    /// How deep they may be nested (`cgroup.max.depth`); [`u64::MAX`] for no limit.
    pub cgroup_depth_max: Option<u64>,
    /// The most terminals of the guest, of a pool that all machines share (devpts, `max=`).
    pub ptys_max: Option<u64>,
}
