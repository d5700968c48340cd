//! The record of a running machine in `/run/coracle/NAME/state.json`. Written by the supervisor
//! only; read by the control verbs and by `cleanup`, which undoes from it.

use crate::error::{Context, Error, Result};
use crate::host::process::start_time;
use crate::host::program::Program;
use crate::machine::name::Name;
use crate::machine::network::Zone;
use crate::network::firewall;
use crate::network::hosts_file::Hosts;
use crate::network::interfaces::Wire;
use crate::paths::{Paths, access};
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

/// How far a machine is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Being set up; PID 1 is not executed yet.
    Starting,
    /// PID 1 runs and has not reported readiness.
    Booting,
    /// The guest is up, as far as it tells.
    Running,
    /// Asked to stop.
    Stopping,
}

impl Phase {
    /// The word used in `list` and in `--json`.
    pub fn as_str(self) -> &'static str {
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
pub struct Syscalls {
    /// Allowed beyond the default list.
    pub allow: Vec<String>,
    /// Taken from it.
    pub deny: Vec<String>,
    /// Whether 32 bit programs have socketcall(2).
    pub socketcall: bool,
}

/// What is known of a running machine. Unknown fields are ignored, missing ones are the default,
/// so that a newer or older program can clean up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct Record {
    /// The machine's name.
    pub name: String,
    /// How far it is.
    pub phase: Phase,
    /// The systemd unit it runs in, where there is one.
    pub unit: Option<String>,
    /// Process id of the supervisor.
    pub supervisor: u32,
    /// Start time of the supervisor in clock ticks since boot (proc(5), `stat` field 22), which
    /// tells it from a later process of the same id.
    pub supervisor_start: u64,
    /// The program that the supervisor runs. `None` if it is unknown.
    pub program: Option<Program>,
    /// Process id of PID 1 in the host's view.
    pub leader: Option<u32>,
    /// The word for its init, or `command`.
    pub init: String,
    /// When it was started, microseconds since the epoch.
    pub started: u64,
    /// Its machine id, 32 hex digits.
    pub machine_id: String,
    /// Its root directory on the host.
    pub root: PathBuf,
    /// The unit's or scope's cgroup directory, which holds `payload` (absolute path).
    pub cgroup: Option<PathBuf>,
    /// Whether we made that cgroup and remove it at the end.
    pub cgroup_is_ours: bool,
    /// Name of the host's end of the veth pair.
    pub host_interface: Option<String>,
    /// Index of that interface.
    pub host_ifindex: Option<u32>,
    /// Addresses inside the machine that we gave it.
    pub addresses: Vec<IpAddr>,
    /// The host's addresses on the machine's link.
    pub host_addresses: Vec<IpAddr>,
    /// Ports of the host that lead to it, as they are written in a definition.
    pub ports: Vec<String>,
    /// Whether its guest was not up within its start timeout, and is not up yet.
    pub is_late: bool,
    /// What a late guest waits for, as far as it says.
    pub waits_for: Option<String>,
    /// Its part of the firewall.
    pub firewall: Option<firewall::Member>,
    /// The interfaces beside its link that the firewall knows.
    pub extras: Vec<firewall::Extra>,
    /// The zone it is in.
    pub zone: Option<Zone>,
    /// Its interfaces beside its link.
    pub wires: Vec<Wire>,
    /// Its file of names, which has lines of ours.
    pub hosts: Option<Hosts>,
    /// The host names by which it may know itself.
    pub hostnames: Vec<String>,
    /// Whether its name servers are the host's, and follow them.
    pub resolver: bool,
    /// First host id of its range, where it has a user namespace.
    pub id_base: Option<u32>,
    /// Whether machined knows it.
    pub registered: bool,
    /// The capabilities PID 1 keeps, a mask of bits: what enters later gets no more.
    pub capabilities: u64,
    /// What the definition adds to the system-call filter, and what it takes from it.
    pub syscalls: Syscalls,
    /// Whether it has instances of procfs and sysfs without masks.
    pub procfs_full: bool,
    /// Whether containers run inside.
    pub nesting: bool,
    /// Whether executing gains no privileges.
    pub no_new_privileges: bool,
    /// What is not confined, in words for people (`network`, `users`).
    pub unconfined: Vec<String>,
    /// Directories of the host in which its root creates files of any owner: users of the host must not reach them.
    pub owned_trees: Vec<PathBuf>,
    /// Files and directories that `cleanup` removes, beside the machine's own state directory.
    pub files: Vec<PathBuf>,
}

impl Default for Record {
    fn default() -> Self {
        Self {
            name: String::new(),
            phase: Phase::Starting,
            unit: None,
            supervisor: 0,
            supervisor_start: 0,
            program: None,
            leader: None,
            init: String::new(),
            started: 0,
            machine_id: String::new(),
            root: PathBuf::new(),
            cgroup: None,
            cgroup_is_ours: false,
            host_interface: None,
            host_ifindex: None,
            addresses: Vec::new(),
            host_addresses: Vec::new(),
            ports: Vec::new(),
            is_late: false,
            waits_for: None,
            firewall: None,
            extras: Vec::new(),
            zone: None,
            wires: Vec::new(),
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
            unconfined: Vec::new(),
            owned_trees: Vec::new(),
            files: Vec::new(),
        }
    }
}

impl Record {
    /// Its part in the tables of the firewall.
    pub fn part(&self) -> firewall::Part<'_> {
        firewall::Part { member: self.firewall.as_ref(), extras: &self.extras }
    }

    /// The host's IPv4 address on the machine's link.
    pub fn gateway(&self) -> Option<Ipv4Addr> {
        self.host_addresses.iter().find_map(|address| match address {
            IpAddr::V4(address) => Some(*address),
            IpAddr::V6(_) => None,
        })
    }

    /// Whether the supervisor that wrote this still runs.
    pub fn is_alive(&self) -> bool {
        self.supervisor != 0 && start_time(self.supervisor) == Some(self.supervisor_start)
    }

    /// Returns the place of the program that the supervisor runs, if a newer one is there.
    pub fn replaced_program(&self) -> Option<&Path> {
        self.program.as_ref().filter(|program| program.is_replaced()).map(Program::path)
    }

    /// Returns the words for what is not confined: those of its start, and `tree` if users of the host can reach one of
    /// its trees now.
    pub fn unconfined_now(&self) -> Vec<String> {
        let tree = self.owned_trees.iter().any(|tree| access::is_open(tree)).then(|| "tree".to_owned());
        self.unconfined.iter().cloned().chain(tree).collect()
    }

    /// Writes the record whole or not at all.
    ///
    /// # Errors
    /// The file that cannot be written, and why.
    pub fn write(&self, paths: &Paths) -> Result<()> {
        let directory = paths.state().join(&self.name);
        let temporary = directory.join(".state.json");
        // Nobody enters a machine that is being made: until its tree is whole PID 1 stands in the host's.
        let leader = self.leader.filter(|_| self.phase != Phase::Starting);
        let written = Self { leader, ..self.clone() };
        let text = serde_json::to_vec_pretty(&written).map_err(|error| Error::new(error.to_string()))?;
        std::fs::File::create(&temporary)
            .and_then(|mut file| file.write_all(&text))
            .and_then(|()| std::fs::rename(&temporary, directory.join("state.json")))
            .context(|| format!("cannot write the state record '{}'", temporary.display()))
    }

    /// The record of `name`, or nothing where the machine has none.
    ///
    /// # Errors
    /// A record that cannot be read or understood.
    pub fn read(paths: &Paths, name: &Name) -> Result<Option<Self>> {
        let file = paths.machine(name).join("state.json");
        match std::fs::read(&file) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|error| Error::new(format!("cannot read '{}': {error}", file.display()))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).context(|| format!("cannot read '{}'", file.display())),
        }
    }

    /// The records of all machines, alive or left over, by name.
    pub fn all(paths: &Paths) -> Vec<Self> {
        let Ok(entries) = std::fs::read_dir(paths.state()) else { return Vec::new() };
        let mut records: Vec<Self> = entries
            .flatten()
            .filter_map(|entry| Name::new(entry.file_name().to_str()?).ok())
            .filter_map(|name| Self::read(paths, &name).ok().flatten())
            .collect();
        records.sort_by(|a, b| a.name.cmp(&b.name));
        records
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_survives_writing_and_reading() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::below(root.path());
        let name = Name::new("web").unwrap();
        std::fs::create_dir_all(paths.machine(&name)).unwrap();
        let record = Record {
            name: "web".into(),
            supervisor: std::process::id(),
            supervisor_start: start_time(std::process::id()).unwrap(),
            ..Record::default()
        };
        record.write(&paths).unwrap();
        let read = Record::read(&paths, &name).unwrap().unwrap();
        assert_eq!(read, record);
        assert!(read.is_alive());
        assert!(!Record { supervisor_start: 1, ..read }.is_alive());
        assert_eq!(Record::all(&paths).len(), 1);
        for (phase, leader) in [(Phase::Starting, None), (Phase::Booting, Some(7))] {
            Record { phase, leader: Some(7), ..record.clone() }.write(&paths).unwrap();
            assert_eq!(Record::read(&paths, &name).unwrap().unwrap().leader, leader, "{phase:?}");
        }
    }
}
