//! The record of a running machine in `/run/coracle/NAME/state.json`. Written by the supervisor only; read by
//! the control verbs and by `cleanup`, which reverts the recorded changes.

use crate::error::{Context, Error, Result};
use crate::host::cgroup::PAYLOAD;
use crate::host::executable::Executable;
use crate::host::procfs::start_time;
use crate::machine::address_families::AddressFamilies;
use crate::machine::id128::Id128;
use crate::machine::init::PayloadKind;
use crate::machine::name::Name;
use crate::machine::network::{Port, Zone};
use crate::network::firewall;
use crate::network::hosts_file::Hosts;
use crate::network::interfaces::ExtraInterface;
use crate::paths::{Paths, access, store};
use crate::state::build::BuildRecord;
use crate::state::{binds, devices, expected};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

/// The word for writable mounts of the host.
const BINDS: &str = "binds";
/// The word for devices of the host.
const DEVICES: &str = "devices";

/// The phase of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Phase {
    /// The machine is being set up; PID 1 is not executed yet.
    #[default]
    Starting,
    /// PID 1 runs and has not reported readiness.
    Booting,
    /// The guest has reported readiness.
    Running,
    /// The machine has been requested to stop.
    Stopping,
}

impl Phase {
    /// Returns the word used in `list` and in `--json`.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Booting => "booting",
            Self::Running => "running",
            Self::Stopping => "stopping",
        }
    }
}

/// Names and groups of system calls.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub(crate) struct Syscalls {
    /// Allowed in addition to the default list.
    pub(crate) allow: Vec<String>,
    /// Removed from the default list.
    pub(crate) deny: Vec<String>,
    /// Whether 32-bit programs may use socketcall(2).
    pub(crate) socketcall: bool,
    /// Whether calls that write files to the disk only pretend to do so.
    pub(crate) suppress_sync: bool,
    /// The address families of sockets.
    pub(crate) families: AddressFamilies,
}

/// The state of a running machine. Unknown fields are ignored, and missing ones except the name have a
/// default, so that a newer or older program can clean up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Record {
    /// The machine's name.
    pub(crate) name: Name,
    /// Its phase.
    #[serde(default)]
    pub(crate) phase: Phase,
    /// Its systemd unit. `None` if it has none.
    pub(crate) unit: Option<String>,
    /// The manager in its registration with machined(8). `None` for that of its unit.
    pub(crate) manager: Option<String>,
    /// Process id of the supervisor.
    #[serde(default)]
    pub(crate) supervisor: u32,
    /// Start time of the supervisor in clock ticks since boot (proc(5), `stat` field 22), which distinguishes
    /// it from a later process of the same id.
    #[serde(default)]
    pub(crate) supervisor_start: u64,
    /// The program of the supervisor. `None` if it is unknown.
    pub(crate) program: Option<Executable>,
    /// Process id of PID 1 in the host's view.
    pub(crate) leader: Option<u32>,
    /// The program that runs as PID 1. `None` before its plan.
    #[serde(default, with = "optional_text")]
    pub(crate) init: Option<PayloadKind>,
    /// Start time of the machine, microseconds since the epoch.
    #[serde(default)]
    pub(crate) started: u64,
    /// Its machine id. `None` before its plan.
    #[serde(default, with = "optional_text")]
    pub(crate) machine_id: Option<Id128>,
    /// Its root directory on the host.
    #[serde(default)]
    pub(crate) root: PathBuf,
    /// The version whose boot is an attempt: the root, or a directory above it.
    pub(crate) version: Option<PathBuf>,
    /// The version that has not booted, for the next launch in the same unit.
    pub(crate) failed_version: Option<PathBuf>,
    /// The newer version that did not boot, and why, as a message.
    pub(crate) fallback: Option<String>,
    /// The cgroup directory of the unit or scope, the parent of `payload` (absolute path).
    pub(crate) cgroup: Option<PathBuf>,
    /// Whether Coracle created that cgroup and deletes it when the machine stops.
    #[serde(default)]
    pub(crate) cgroup_is_ours: bool,
    /// Name of the host's end of the veth pair.
    pub(crate) host_interface: Option<String>,
    /// Index of that interface.
    pub(crate) host_ifindex: Option<u32>,
    /// Addresses configured inside the machine.
    #[serde(default)]
    pub(crate) addresses: Vec<IpAddr>,
    /// The host's addresses on the machine's link.
    #[serde(default)]
    pub(crate) host_addresses: Vec<IpAddr>,
    /// Whether the guest exceeded its start timeout and is still not up.
    #[serde(default)]
    pub(crate) is_late: bool,
    /// Whether its definition has variables of the environment, which commands inside get too.
    #[serde(default)]
    pub(crate) has_environment: bool,
    /// The cause reported by a late guest.
    pub(crate) waits_for: Option<String>,
    /// Its member of the firewall's tables.
    pub(crate) firewall: Option<firewall::Member>,
    /// The interfaces beside its link in the firewall's tables.
    #[serde(default)]
    pub(crate) extras: Vec<firewall::Extra>,
    /// Its forwarded ports, if it configures its addresses itself.
    pub(crate) forwarding: Option<firewall::Forwarding>,
    /// Its zone.
    pub(crate) zone: Option<Zone>,
    /// Its interfaces beside its link.
    #[serde(default)]
    pub(crate) interfaces: Vec<ExtraInterface>,
    /// Its hosts file, if Coracle writes to it.
    pub(crate) hosts: Option<Hosts>,
    /// Its host names.
    #[serde(default)]
    pub(crate) hostnames: Vec<String>,
    /// Whether its name servers are the host's, and are updated with them.
    #[serde(default)]
    pub(crate) resolver: bool,
    /// First host id of its range. `None` if it has no user namespace.
    pub(crate) id_base: Option<u32>,
    /// Whether it is registered with machined.
    #[serde(default)]
    pub(crate) registered: bool,
    /// The capabilities of PID 1, a bit mask: processes that enter later get no more.
    #[serde(default)]
    pub(crate) capabilities: u64,
    /// The definition's changes to the system-call filter.
    #[serde(default)]
    pub(crate) syscalls: Syscalls,
    /// Whether it has unmasked instances of procfs and sysfs.
    #[serde(default)]
    pub(crate) procfs_full: bool,
    /// Whether nested containers are enabled.
    #[serde(default)]
    pub(crate) nesting: bool,
    /// Whether an exec cannot gain privileges.
    #[serde(default)]
    pub(crate) no_new_privileges: bool,
    /// The processors of its processes; empty for all.
    #[serde(default)]
    pub(crate) cpu_affinity: Vec<u16>,
    /// The execution domain of its processes (personality(2)); `None` for that of Coracle.
    #[serde(default)]
    pub(crate) personality: Option<u32>,
    /// The parts of the machine that are not confined (`network`, `users`).
    #[serde(default)]
    pub(crate) unconfined: Vec<String>,
    /// Directories of the host in which its root creates files of any owner: users of the host must not reach
    /// them.
    #[serde(default)]
    pub(crate) owned_trees: Vec<PathBuf>,
    /// Files and directories deleted by `cleanup`, in addition to the machine's state directory.
    #[serde(default)]
    pub(crate) files: Vec<PathBuf>,
    /// Directories that the kernel works in for overlays, deleted by `cleanup`.
    #[serde(default)]
    pub(crate) work_directories: Vec<PathBuf>,
    /// The directory in which machined leaves mounts for it. `None` if it has none.
    #[serde(default)]
    pub(crate) mount_tunnel: Option<PathBuf>,
    /// The directory of changes that are discarded at the end. `None` if the machine has none on the disk.
    #[serde(default)]
    pub(crate) throwaway: Option<PathBuf>,
    /// The build session that it is. `None` for all other machines.
    #[serde(default)]
    pub(crate) build: Option<BuildRecord>,
}

impl Record {
    /// Creates the record of a machine before its start.
    pub(crate) fn new(name: Name) -> Self {
        Self {
            name,
            phase: Phase::Starting,
            unit: None,
            manager: None,
            supervisor: 0,
            supervisor_start: 0,
            program: None,
            leader: None,
            init: None,
            started: 0,
            machine_id: None,
            root: PathBuf::new(),
            version: None,
            failed_version: None,
            fallback: None,
            cgroup: None,
            cgroup_is_ours: false,
            host_interface: None,
            host_ifindex: None,
            addresses: Vec::new(),
            host_addresses: Vec::new(),
            is_late: false,
            has_environment: false,
            waits_for: None,
            firewall: None,
            extras: Vec::new(),
            forwarding: None,
            zone: None,
            interfaces: Vec::new(),
            hosts: None,
            hostnames: Vec::new(),
            resolver: false,
            id_base: None,
            registered: false,
            capabilities: 0,
            syscalls: Syscalls::default(),
            procfs_full: false,
            nesting: false,
            no_new_privileges: false,
            cpu_affinity: Vec::new(),
            personality: None,
            unconfined: Vec::new(),
            owned_trees: Vec::new(),
            files: Vec::new(),
            work_directories: Vec::new(),
            mount_tunnel: None,
            throwaway: None,
            build: None,
        }
    }

    /// Returns its part of the firewall's tables.
    pub(crate) fn part(&self) -> firewall::Part<'_> {
        let forwarding = self.forwarding.as_ref();
        firewall::Part { member: self.firewall.as_ref(), extras: &self.extras, forwarding }
    }

    /// Returns its published ports.
    pub(crate) fn ports(&self) -> &[Port] {
        let forwarded = self.forwarding.as_ref().map(firewall::Forwarding::ports);
        self.firewall.as_ref().map(firewall::Member::ports).or(forwarded).unwrap_or_default()
    }

    /// Returns the cgroup of the guest. `None` if the machine has no cgroup of its own.
    pub(crate) fn payload_cgroup(&self) -> Option<PathBuf> {
        self.cgroup.as_ref().map(|cgroup| cgroup.join(PAYLOAD))
    }

    /// Returns the host's IPv4 address on the machine's link.
    pub(crate) fn gateway(&self) -> Option<Ipv4Addr> {
        self.host_addresses.iter().find_map(|address| match address {
            IpAddr::V4(address) => Some(*address),
            IpAddr::V6(_) => None,
        })
    }

    /// Returns the host's ends of the machine's links.
    pub(crate) fn host_ends(&self) -> Vec<&str> {
        let extras = self.interfaces.iter().filter_map(ExtraInterface::host_end);
        self.host_interface.as_deref().into_iter().chain(extras).collect()
    }

    /// Returns whether the supervisor that wrote the record is running.
    pub(crate) fn is_alive(&self) -> bool {
        self.supervisor != 0 && start_time(self.supervisor) == Some(self.supervisor_start)
    }

    /// Returns whether it is that of a build session whose changes stay on the disk until the session is ended or
    /// recovered, also without a supervisor.
    pub(crate) fn keeps_changes(&self) -> bool {
        self.throwaway.is_some() && self.build.as_ref().is_some_and(|build| build.is_begun)
    }

    /// Returns the path of the supervisor's program if a newer program has replaced it.
    pub(crate) fn replaced_program(&self) -> Option<&Path> {
        self.program.as_ref().filter(|program| program.is_replaced()).map(Executable::path)
    }

    /// Returns the parts that are not confined: those recorded at the start, `tree` if users of the host can
    /// reach one of its trees now, and `binds` and `devices` for those added since the start.
    pub(crate) fn unconfined_now(&self, paths: &Paths) -> Vec<String> {
        let mut words = self.unconfined.clone();
        let has_host_ids = self.id_base.is_none_or(|base| base == 0);
        let leader = self.leader.unwrap_or(0);
        let is_bound = || binds::writes_to_host(paths, &self.name, leader, has_host_ids);
        let has_devices = || devices::has_any(paths, &self.name, leader);
        let added: [(&str, &dyn Fn() -> bool); 2] = [(BINDS, &is_bound), (DEVICES, &has_devices)];
        for (word, is_added) in added {
            if !words.iter().any(|known| known == word) && is_added() {
                words.push(word.to_owned());
            }
        }
        words.extend(self.owned_trees.iter().any(|tree| access::is_open(tree)).then(|| "tree".to_owned()));
        words
    }

    /// Writes the record atomically.
    ///
    /// # Errors
    /// The file that cannot be written, and the cause.
    pub(crate) fn write(&self, paths: &Paths) -> Result<()> {
        let file = paths.machine(&self.name).join("state.json");
        // Processes must not enter a starting machine: until its tree is complete, PID 1 is in the host's
        // tree.
        let leader = self.leader.filter(|_| self.phase != Phase::Starting);
        let written = Self { leader, ..self.clone() };
        let text = serde_json::to_vec_pretty(&written).map_err(|error| Error::new(error.to_string()))?;
        store::replace(&file, &text, 0o666)
            .context(|| format!("cannot write the state record '{}'", file.display()))
    }

    /// Returns whether a machine has a record.
    pub(crate) fn is_written(paths: &Paths, name: &Name) -> bool {
        paths.machine(name).join("state.json").exists()
    }

    /// Returns the record of `name`. `None` if the machine has none.
    ///
    /// # Errors
    /// The record cannot be read or parsed, or is that of another machine than the expected one.
    pub(crate) fn read(paths: &Paths, name: &Name) -> Result<Option<Self>> {
        let record = Self::read_any(paths, name)?;
        if let Some(record) = &record {
            expected::refuse_changed(name, record.supervisor, record.supervisor_start)?;
        }
        Ok(record)
    }

    /// Implements [`Self::read`] for lists of machines.
    fn read_any(paths: &Paths, name: &Name) -> Result<Option<Self>> {
        let file = paths.machine(name).join("state.json");
        match std::fs::read(&file) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|error| Error::new(format!("cannot read '{}': {error}", file.display()))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).context(|| format!("cannot read '{}'", file.display())),
        }
    }

    /// Returns the records of all machines, running or left over, sorted by name.
    pub(crate) fn all(paths: &Paths) -> Vec<Self> {
        let records = Self::names(paths).into_iter();
        records.filter_map(|name| Self::read_any(paths, &name).ok().flatten()).collect()
    }

    /// Returns the records of other machines whose files contain a text. Only these are parsed: a host may have
    /// many machines.
    pub(crate) fn others_with(paths: &Paths, own: &Name, text: &str) -> Vec<Self> {
        let wanted = memchr::memmem::Finder::new(text);
        let contains = |name: &Name| {
            let text = std::fs::read(paths.machine(name).join("state.json"));
            text.is_ok_and(|text| wanted.find(&text).is_some())
        };
        let names = Self::names(paths).into_iter().filter(|name| name != own).filter(contains);
        names.filter_map(|name| Self::read(paths, &name).ok().flatten()).collect()
    }

    /// Returns the records of all machines, if all can be read.
    ///
    /// # Errors
    /// The first record that cannot be read or parsed.
    pub(crate) fn all_readable(paths: &Paths) -> Result<Vec<Self>> {
        let records = Self::names(paths).into_iter();
        records.filter_map(|name| Self::read(paths, &name).transpose()).collect()
    }

    /// Returns the names of all machines with a state directory, sorted.
    fn names(paths: &Paths) -> Vec<Name> {
        let entries = std::fs::read_dir(paths.state()).into_iter().flatten().flatten();
        let mut names: Vec<Name> =
            entries.filter_map(|entry| Name::new(entry.file_name().to_str()?).ok()).collect();
        names.sort();
        names
    }
}

/// The text form of an optional value: empty without a value. An invalid text of another version is no value.
mod optional_text {
    use serde::{Deserialize, Deserializer, Serializer};
    use std::fmt::Display;
    use std::str::FromStr;

    pub(crate) fn serialize<T: Display, S: Serializer>(
        value: &Option<T>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => serializer.collect_str(value),
            None => serializer.serialize_str(""),
        }
    }

    pub(crate) fn deserialize<'de, T: FromStr, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<T>, D::Error> {
        let text = String::deserialize(deserializer)?;
        Ok(Some(text).filter(|text| !text.is_empty()).and_then(|text| text.parse().ok()))
    }
}

#[cfg(test)]
mod tests;
