//! The properties of a machine's object: its record and its definition at one moment. Read from files that all
//! users may read, so that no property needs a right.

use crate::config;
use crate::host::cgroup;
use crate::machine::name::Name;
use crate::paths::Paths;
use crate::state::record::Record;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::net::IpAddr;

/// The properties of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Snapshot {
    /// `starting`, `booting`, `running`, `stopping`, `frozen`, `dead`, or `stopped`.
    pub(super) state: String,
    /// The kind of its init, or `command`.
    pub(super) init: String,
    /// Its unit.
    pub(super) unit: String,
    /// PID 1; 0 if there is none.
    pub(super) leader: u32,
    /// The inode of a pidfd of PID 1, which no other process gets; 0 if the kernel has none.
    pub(super) leader_pidfd_id: u64,
    /// Its addresses.
    pub(super) addresses: Vec<String>,
    /// The host's end of its link.
    pub(super) host_interface: String,
    /// Its zone.
    pub(super) zone: String,
    /// Its published ports.
    pub(super) ports: Vec<String>,
    /// Microseconds since the epoch; 0 for a stopped machine.
    pub(super) started: u64,
    /// Whether it has a definition or an image.
    pub(super) defined: bool,
    /// Its root.
    pub(super) root: String,
    /// The parts that are not confined.
    pub(super) unconfined: Vec<String>,
    /// The unit of the guest that delays it.
    pub(super) waits: String,
}

impl Snapshot {
    /// Reads a machine.
    pub(super) fn read(paths: &Paths, name: &Name) -> Self {
        let defined = config::exists(paths, name);
        match Record::read(paths, name).ok().flatten() {
            Some(record) => Self { defined, ..Self::of_record(paths, &record) },
            None => Self {
                state: "stopped".to_owned(),
                unit: config::service_template(paths, name).service(name),
                defined,
                ..Self::default()
            },
        }
    }

    fn of_record(paths: &Paths, record: &Record) -> Self {
        let is_alive = record.is_alive();
        let is_frozen = || record.payload_cgroup().is_some_and(|payload| cgroup::is_frozen(&payload));
        let state = match is_alive {
            false => "dead",
            true if is_frozen() => "frozen",
            true if record.is_late => "starting",
            true => record.phase.as_str(),
        };
        let leader = record.leader.filter(|_| is_alive).unwrap_or(0);
        Self {
            state: state.to_owned(),
            init: record.init.map(|init| init.to_string()).unwrap_or_default(),
            unit: record.unit.clone().unwrap_or_default(),
            leader,
            leader_pidfd_id: pidfd_id(leader),
            addresses: record.addresses.iter().map(IpAddr::to_string).collect(),
            host_interface: record.host_interface.clone().unwrap_or_default(),
            zone: record.zone.as_ref().map(ToString::to_string).unwrap_or_default(),
            ports: record.ports().iter().map(ToString::to_string).collect(),
            started: record.started,
            defined: false,
            root: record.root.to_string_lossy().into_owned(),
            unconfined: record.unconfined_now(paths),
            waits: record.waits_for.clone().unwrap_or_default(),
        }
    }
}

/// Returns the inode of a pidfd. Until Linux 6.9 all pidfds have the same.
fn pidfd_id(pid: u32) -> u64 {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let pidfd = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    pidfd.and_then(|pidfd| rustix::fs::fstat(pidfd).ok()).map_or(0, |stat| stat.st_ino)
}
