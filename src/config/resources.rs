//! `[resources]`: limits of memory, processors, tasks, cgroups, terminals and processes.

mod processors;
mod rlimits;

pub(crate) use processors::Processors;

use super::setting::{List, Single, settings};
use super::values::{CountLimit, INFINITY, RawValue, Size, Value, quoted};
use crate::error::{Error, Result};
use crate::machine::resources::{Resources, Rlimit};
use std::collections::BTreeSet;

settings! {
    /// Settings of the resource limits.
    ResourcesSettings {
        /// `MemoryMax=`.
        memory_max: Single<Size> = Single "resources.memory-max";
        /// `MemoryHigh=`.
        memory_high: Single<Size> = Single "resources.memory-high";
        /// `MemorySwapMax=`.
        memory_swap_max: Single<Size> = Single "resources.memory-swap-max";
        /// `CPUQuota=`.
        cpu_quota: Single<Quota> = Single "resources.cpu-quota";
        /// `CPUWeight=`.
        cpu_weight: Single<Weight> = Single "resources.cpu-weight";
        /// `TasksMax=`.
        tasks_max: Single<CountLimit> = Single "resources.tasks-max";
        /// `IOWeight=`.
        io_weight: Single<Weight> = Single "resources.io-weight";
        /// The maximum number of cgroups of the guest.
        cgroups_max: Single<CountLimit> = Single "resources.cgroups-max", |_| CountLimit(8192);
        /// The maximum depth of cgroups of the guest.
        cgroup_depth_max: Single<CountLimit> = Single "resources.cgroup-depth-max", |_| CountLimit(32);
        /// The maximum number of terminals of the guest.
        ptys_max: Single<CountLimit> = Single "resources.ptys-max", |_| CountLimit(1024);
        /// The maximum disk space of the files that the machine changes.
        disk_max: Single<Size> = Single "resources.disk-max";
        /// Whether the guest sees its limits in `/proc`.
        visible: Single<bool> = Single "resources.visible", |_| false;
        /// The processors of its processes.
        cpu_affinity: List<Processors> = List "resources.cpu-affinity";
        /// The adjustment of the out-of-memory score.
        oom_score_adjust: Single<OomScore> = Single "resources.oom-score-adjust";
        /// Limits of processes.
        rlimits: List<Rlimit> = Variables "resources.rlimits";
    }
}

impl ResourcesSettings {
    /// Removes limits that a later one of the same name replaces.
    pub(super) fn deduplicate_rlimits(&mut self) {
        self.rlimits.keep_last(|limit| limit.name);
    }

    /// Returns the processors of its processes, in order.
    fn processors(&self) -> Vec<u16> {
        let numbers: BTreeSet<u16> = self.cpu_affinity.values().flat_map(|range| range.0.clone()).collect();
        numbers.into_iter().collect()
    }

    /// Builds the limits of the machine.
    pub(super) fn build(&self) -> Resources {
        let size = |setting: &Single<Size>| setting.value().map(|size| size.0);
        let limit = |setting: &Single<CountLimit>| setting.value().map(|limit| limit.0);
        let weight = |setting: &Single<Weight>| setting.value().map(|weight| weight.0);
        Resources {
            memory_max: size(&self.memory_max),
            memory_high: size(&self.memory_high),
            memory_swap_max: size(&self.memory_swap_max),
            cpu_quota: self.cpu_quota.value().and_then(|quota| quota.0),
            cpu_weight: weight(&self.cpu_weight),
            tasks_max: limit(&self.tasks_max),
            io_weight: weight(&self.io_weight),
            cgroups_max: limit(&self.cgroups_max),
            cgroup_depth_max: limit(&self.cgroup_depth_max),
            ptys_max: limit(&self.ptys_max),
            disk_max: size(&self.disk_max),
            visible: self.visible.value().copied().unwrap_or_default(),
            cpu_affinity: self.processors(),
            oom_score_adjust: self.oom_score_adjust.value().map(|score| score.0),
            rlimits: self.rlimits.values().cloned().collect(),
        }
    }
}

/// A share of one processor in percent; `None` for no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota(pub Option<u32>);

impl Value for Quota {
    fn read(raw: &RawValue) -> Result<Self> {
        let RawValue::Text(text) = raw else { return Err(raw.expected("a percentage such as \"150%\"")) };
        if *text == INFINITY {
            return Ok(Self(None));
        }
        let percent = text.strip_suffix('%').and_then(|number| number.parse().ok());
        percent.filter(|percent| *percent > 0).map(|percent| Self(Some(percent))).ok_or_else(|| {
            Error::new(format!("{} is not a share of a processor", quoted(text)))
                .with_hint("write whole percents of one processor, for example \"150%\", or \"infinity\"")
        })
    }

    fn show(&self) -> String {
        self.0.map_or_else(|| quoted(INFINITY), |percent| format!("\"{percent}%\""))
    }
}

/// A weight from 1 to 10000.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weight(pub u64);

impl Value for Weight {
    fn read(raw: &RawValue) -> Result<Self> {
        let number = match raw {
            RawValue::Text(text) => text.parse().ok(),
            RawValue::Integer(number) => u64::try_from(*number).ok(),
            _ => return Err(raw.expected("a number")),
        };
        number.filter(|number| (1..=10_000).contains(number)).map(Self).ok_or_else(|| {
            Error::new(format!("{raw} is not a weight"))
                .with_hint("write a number from 1 to 10000; the usual weight is 100")
        })
    }

    fn show(&self) -> String {
        self.0.to_string()
    }
}

/// An adjustment of the out-of-memory score, from -1000 to 1000.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OomScore(pub i16);

impl Value for OomScore {
    fn read(raw: &RawValue) -> Result<Self> {
        let number = match raw {
            RawValue::Text(text) => text.parse().ok(),
            RawValue::Integer(number) => i16::try_from(*number).ok(),
            _ => return Err(raw.expected("a number")),
        };
        number.filter(|number| (-1000..=1000).contains(number)).map(Self).ok_or_else(|| {
            Error::new(format!("{raw} is not an adjustment of the out-of-memory score"))
                .with_hint("write a number from -1000 (never killed) to 1000 (killed first)")
        })
    }

    fn show(&self) -> String {
        self.0.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_and_weights_are_bounded() {
        assert_eq!(Quota::read(&RawValue::Text("150%")).unwrap(), Quota(Some(150)));
        for bad in ["150", "0%", "-5%", "99999999999%", "%"] {
            assert!(Quota::read(&RawValue::Text(bad)).is_err(), "{bad}");
        }
        assert!(Weight::read(&RawValue::Integer(10_000)).is_ok());
        assert!(Weight::read(&RawValue::Integer(10_001)).is_err());
        assert_eq!(OomScore::read(&RawValue::Text("-1000")).unwrap(), OomScore(-1000));
        for bad in ["", "1001", "-1001", "x", "1.5", "70000"] {
            assert!(OomScore::read(&RawValue::Text(bad)).is_err(), "{bad}");
        }
    }
}
