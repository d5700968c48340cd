//! `coracle inspect`: the isolation of a running machine as seen by the kernel, not as defined: namespaces
//! and their sharing, mounts, capabilities, limits.

mod exposure;
mod graph;

pub(crate) use exposure::score;

use super::running;
use crate::error::{Context, Error, Result};
use crate::host::systemd::journal::{printable, printable_line};
use crate::host::{cgroup, procfs};
use crate::machine::name::Name;
use crate::machine::security::CAPABILITIES;
use crate::paths::{Paths, access};
use crate::state::record::Record;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::io::Write;
use std::net::IpAddr;
use std::path::PathBuf;

/// The namespaces of a process, by their names in `/proc/PID/ns`.
const NAMESPACES: [&str; 8] = ["user", "mnt", "pid", "net", "ipc", "uts", "cgroup", "time"];
/// Files of a cgroup with limits.
const LIMITS: [&str; 8] = [
    "memory.max",
    "memory.high",
    "memory.swap.max",
    "pids.max",
    "cpu.max",
    "cpu.weight",
    "io.max",
    "cpuset.cpus.effective",
];
/// The number of outside processes listed per namespace.
const NAMED: usize = 8;

/// The output of `inspect`. Serialised unchanged for `--json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Inspection {
    /// Its name.
    pub(crate) name: String,
    /// Process id of PID 1 in the host's view.
    pub(crate) leader: u32,
    /// Its namespaces.
    pub(crate) namespaces: Vec<Namespace>,
    /// Its user ids: lines of uid_map(5) with first id inside, first id outside, and count.
    pub(crate) id_map: Vec<String>,
    /// The capability bounding set.
    pub(crate) capabilities: Vec<String>,
    /// Whether PID 1 has a system-call filter.
    pub(crate) filter: bool,
    /// System calls and groups allowed in addition to the default filter.
    pub(crate) filter_allows: Vec<String>,
    /// System calls and groups denied in addition to the default filter.
    pub(crate) filter_denies: Vec<String>,
    /// Whether 32 bit programs create sockets by socketcall(2), of families that the filter cannot check.
    pub(crate) socketcall: bool,
    /// Whether the machine has a procfs and a sysfs without masks.
    pub(crate) procfs_full: bool,
    /// Whether containers can run inside.
    pub(crate) nesting: bool,
    /// Whether execve(2) grants no privileges.
    pub(crate) no_new_privileges: bool,
    /// The label of a security module that confines it.
    pub(crate) label: Option<String>,
    /// Its cgroup.
    pub(crate) cgroup: Option<PathBuf>,
    /// The limits in effect of its cgroup, and the finite ones of PID 1.
    pub(crate) limits: Vec<EffectiveLimit>,
    /// The host's end of its link.
    pub(crate) host_interface: Option<String>,
    /// Its addresses.
    pub(crate) addresses: Vec<IpAddr>,
    /// Its mounts.
    pub(crate) mounts: Vec<VisibleMount>,
    /// Features that are not confined.
    pub(crate) unconfined: Vec<String>,
    /// Its trees that users of the host can reach.
    pub(crate) open_trees: Vec<PathBuf>,
}

/// A namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Namespace {
    /// Its kind.
    pub(crate) kind: String,
    /// Its inode, which identifies the namespace.
    pub(crate) id: u64,
    /// Whether it is the host's namespace.
    pub(crate) shared_with_host: bool,
    /// Other machines in it, and processes outside of the machine: `machine web`, `process 7 (sh)`.
    pub(crate) shared_with: Vec<String>,
}

/// A limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct EffectiveLimit {
    /// The file of the cgroup, or the name in proc_pid_limits(5).
    pub(crate) name: String,
    /// Its value.
    pub(crate) value: String,
}

/// A mount in the machine's view.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct VisibleMount {
    /// Its mount point.
    pub(crate) target: String,
    /// The type of its file system.
    pub(crate) kind: String,
    /// The device or other source.
    pub(crate) source: String,
    /// The mounted directory of the file system.
    pub(crate) root: String,
    /// Its options.
    pub(crate) options: String,
}

/// Inspects a running machine.
///
/// # Errors
/// The machine is not running, or its PID 1 exited in the meantime.
pub(crate) fn collect(paths: &Paths, name: &Name) -> Result<Inspection> {
    let record = running(paths, name)?;
    let leader = record.leader.ok_or_else(|| Error::new(format!("machine '{name}' has no PID 1 now")))?;
    let read = |file: &str| {
        std::fs::read_to_string(format!("/proc/{leader}/{file}"))
            .context(|| format!("cannot read the state of PID 1 of machine '{name}'"))
    };
    let status = read("status")?;
    let value =
        |key: &str| status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')).map(str::trim);
    let mask = value("CapBnd").and_then(|mask| u64::from_str_radix(mask, 16).ok()).unwrap_or(0);
    let label = read("attr/current").ok().map(|label| printable(label.trim_end_matches('\0').as_bytes()));
    Ok(Inspection {
        name: name.to_string(),
        leader,
        namespaces: namespaces(paths, &record, leader),
        id_map: read("uid_map")?
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect(),
        capabilities: capabilities(mask),
        filter: value("Seccomp") == Some("2"),
        filter_allows: record.syscalls.allow.clone(),
        filter_denies: record.syscalls.deny.clone(),
        socketcall: record.syscalls.socketcall
            || record.syscalls.allow.iter().any(|word| word == "socketcall"),
        procfs_full: record.procfs_full,
        nesting: record.nesting,
        no_new_privileges: value("NoNewPrivs") == Some("1"),
        label: label.filter(|label| !label.is_empty() && label != "unconfined" && label != "kernel"),
        limits: limits(&record, &read("limits")?),
        cgroup: record.cgroup.clone(),
        host_interface: record.host_interface.clone(),
        addresses: record.addresses.clone(),
        mounts: read("mountinfo")?.lines().filter_map(mount).collect(),
        unconfined: record.unconfined_now(paths),
        open_trees: record.owned_trees.iter().filter(|tree| access::is_open(tree)).cloned().collect(),
    })
}

fn capabilities(mask: u64) -> Vec<String> {
    let set = CAPABILITIES.iter().enumerate().filter(|(bit, _)| mask >> bit & 1 == 1);
    set.map(|(_, name)| format!("CAP_{name}")).collect()
}

/// Parses a line of proc_pid_mountinfo(5).
fn mount(line: &str) -> Option<VisibleMount> {
    let (before, after) = line.split_once(" - ")?;
    let (before, after): (Vec<&str>, Vec<&str>) = (before.split(' ').collect(), after.split(' ').collect());
    let word = |word: Option<&&str>| word.map(|word| printable_line(&procfs::unescaped(word.as_bytes())));
    Some(VisibleMount {
        target: word(before.get(4))?,
        kind: word(after.first())?,
        source: word(after.get(1))?,
        root: word(before.get(3))?,
        options: word(before.get(5))?,
    })
}

fn limits(record: &Record, process: &str) -> Vec<EffectiveLimit> {
    let file = |name: &&str| {
        let cgroup = record.cgroup.as_ref()?;
        // If the unit's cgroup lacks the file, systemd has delegated the controller to the guest's cgroup.
        let text = std::fs::read_to_string(cgroup.join(name)).ok()?;
        let value = text.trim().replace('\n', "; ");
        let is_limit = !value.is_empty() && value != "max" && value != "max 100000";
        is_limit.then(|| EffectiveLimit { name: (*name).to_owned(), value })
    };
    let of_process = process.lines().skip(1).filter_map(|line| {
        let (name, rest) = (line.get(..26)?.trim(), line.get(26..)?);
        let values: Vec<&str> = rest.split_whitespace().take(2).collect();
        let [soft, hard] = values[..] else { return None };
        (hard != "unlimited")
            .then(|| EffectiveLimit { name: name.to_lowercase(), value: format!("{soft} ({hard})") })
    });
    LIMITS.iter().filter_map(file).chain(of_process).collect()
}

/// Returns the inode of a namespace of a process.
fn identity(pid: u32, kind: &str) -> Option<u64> {
    let link = std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok()?;
    link.to_str()?.split_once('[')?.1.strip_suffix(']')?.parse().ok()
}

fn namespaces(paths: &Paths, record: &Record, leader: u32) -> Vec<Namespace> {
    let machines: Vec<Record> = Record::all(paths)
        .into_iter()
        .filter(|other| other.is_alive() && other.name != record.name)
        .collect();
    let outside = outside(record);
    let of = |kind: &&str| {
        let id = identity(leader, kind)?;
        let shared_with_host = identity(std::process::id(), kind) == Some(id);
        let others =
            machines.iter().filter(|other| other.leader.and_then(|pid| identity(pid, kind)) == Some(id));
        let mut shared_with: Vec<String> = others.map(|other| format!("machine {}", other.name)).collect();
        if !shared_with_host {
            let inside = outside.iter().filter(|pid| identity(**pid, kind) == Some(id));
            shared_with.extend(inside.take(NAMED).map(|pid| process(*pid)));
        }
        Some(Namespace { kind: (*kind).to_owned(), id, shared_with_host, shared_with })
    };
    NAMESPACES.iter().filter_map(of).collect()
}

fn process(pid: u32) -> String {
    let name = std::fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
    format!("process {pid} ({})", printable(&name))
}

/// Returns all processes outside of the machine's cgroup.
fn outside(record: &Record) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids: Vec<u32> = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    // Read second: children forked in the meantime are excluded as well.
    let payload = record.payload_cgroup();
    let inside = payload.map(|payload| cgroup::processes(&payload)).unwrap_or_default();
    let inside: BTreeSet<u32> = inside.into_iter().collect();
    pids.into_iter().filter(|pid| !inside.contains(pid)).collect()
}

impl Inspection {
    /// Writes the inspection as text.
    ///
    /// # Errors
    /// `out` cannot be written.
    pub(crate) fn write(&self, out: &mut dyn Write) -> Result<()> {
        let mut text = format!("{}: PID 1 is process {}\n", self.name, self.leader);
        text.push_str("namespaces\n");
        for namespace in &self.namespaces {
            let owner = match (namespace.shared_with_host, namespace.shared_with.is_empty()) {
                (true, _) => "the host's".to_owned(),
                (false, true) => "its own".to_owned(),
                (false, false) => format!("shared with {}", namespace.shared_with.join(", ")),
            };
            text.push_str(&format!("  {:<8}{:<12}{owner}\n", namespace.kind, namespace.id));
        }
        self.rights().into_iter().for_each(|(key, value)| text.push_str(&format!("{key}: {value}\n")));
        text.push_str("limits\n");
        for limit in &self.limits {
            text.push_str(&format!("  {:<26}{}\n", limit.name, limit.value));
        }
        text.push_str("mounts\n");
        for mount in &self.mounts {
            text.push_str(&format!("  {:<34} {:<10} {}\n", mount.target, mount.kind, mount.options));
        }
        out.write_all(text.as_bytes()).context(|| "cannot write the inspection".to_owned())
    }

    /// Returns whether root inside can mount a fresh procfs although there is no unmasked one: the kernel
    /// requires one in user namespaces only (mount_namespaces(7)).
    fn can_mount_procfs(&self) -> bool {
        let is_initial = self.id_map == ["0 0 4294967295"]
            && self.namespaces.iter().any(|namespace| namespace.kind == "user" && namespace.shared_with_host);
        is_initial && self.capabilities.iter().any(|name| name == "CAP_SYS_ADMIN")
    }

    fn describe_procfs(&self) -> &'static str {
        match (self.procfs_full, self.can_mount_procfs()) {
            (true, _) => "full",
            (false, true) => "masked, not locked",
            (false, false) => "masked",
        }
    }

    fn rights(&self) -> Vec<(&'static str, String)> {
        let words = |words: &[String]| if words.is_empty() { "-".to_owned() } else { words.join(", ") };
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
        let filter = match (self.filter, self.filter_allows.is_empty() && self.filter_denies.is_empty()) {
            (false, _) => "none".to_owned(),
            (true, true) => "the default".to_owned(),
            (true, false) => format!(
                "additionally allows {}; denies {}",
                words(&self.filter_allows),
                words(&self.filter_denies)
            ),
        };
        vec![
            ("user ids", words(&self.id_map)),
            ("capabilities", self.capabilities.join(" ").replace("CAP_", "").to_lowercase()),
            ("system-call filter", filter),
            ("socketcall(2)", if self.socketcall { "yes" } else { "no" }.into()),
            ("procfs", self.describe_procfs().into()),
            ("containers inside", if self.nesting { "yes" } else { "no" }.into()),
            ("no new privileges", if self.no_new_privileges { "yes" } else { "no" }.into()),
            ("label", or_dash(self.label.clone())),
            ("cgroup", or_dash(self.cgroup.as_ref().map(|cgroup| cgroup.display().to_string()))),
            ("link", or_dash(self.host_interface.clone())),
            ("addresses", words(&self.addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>())),
            ("unconfined", words(&self.unconfined)),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_mounts_and_limits_are_read() {
        assert_eq!(capabilities(1 << 21 | 1), ["CAP_CHOWN", "CAP_SYS_ADMIN"]);
        let found = mount("31 24 0:27 /a /b\u{7} ro,nosuid shared:1 - ext4 /dev/x rw").unwrap();
        assert_eq!((found.target.as_str(), found.options.as_str()), ("/b\\x07", "ro,nosuid"));
        let found = mount(r"31 24 0:27 /a\040b\134 /c\012d\011\0 rw - fuse.a\040b /dev/\040x rw").unwrap();
        assert_eq!((found.root.as_str(), found.target.as_str()), ("/a b\\", "/c\\x0ad\\x09\\0"));
        assert_eq!((found.kind.as_str(), found.source.as_str()), ("fuse.a b", "/dev/ x"));
        assert!(mount("nonsense").is_none());
        let text = "Limit                     Soft Limit           Hard Limit           Units     \n\
                    Max cpu time              unlimited            unlimited            seconds   \n\
                    Max open files            1024                 524288               files     \n";
        let limits = limits(&Record::new(Name::new("web").unwrap()), text);
        assert_eq!(limits.len(), 1);
        assert_eq!(limits[0].value, "1024 (524288)");
    }
}
