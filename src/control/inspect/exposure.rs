//! The exposure of a host to a hostile machine: a score from 0 (isolated) to 10 (equivalent to root of the
//! host), with reasons. A weight is the effect of a weakness, not its likelihood.

use super::Inspection;
use crate::error::{Context, Result};
use crate::machine::security::APPARMOR_PROFILE;
use serde::Serialize;
use std::io::Write;

/// The score, in tenths, and its reasons.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Exposure {
    /// Its name.
    pub(crate) name: String,
    /// From 0 to 100.
    pub(crate) score: u32,
    /// `strong`, `fair`, `weak` or `unsafe`.
    pub(crate) rating: &'static str,
    /// The reasons, by weight.
    pub(crate) reasons: Vec<Reason>,
}

/// A reason of the score.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Reason {
    /// Its description.
    pub(crate) message: String,
    /// Its part of the score; 0 if there is no weakness.
    pub(crate) weight: u32,
    /// The remedy.
    pub(crate) hint: Option<&'static str>,
}

/// Namespaces besides user and mount namespaces, with the weight of sharing the host's.
const SHARED: [(&str, u32, &str); 5] = [
    ("pid", 25, "set no option that shares the host's processes"),
    ("net", 15, "set network.mode = \"veth\""),
    ("ipc", 10, "set no option that shares the host's ipc"),
    ("uts", 3, "set no option that shares the host's name"),
    ("cgroup", 5, "boot a kernel with cgroup namespaces"),
];

/// Capabilities with their weights without and with a user namespace.
const CAPABILITIES: [(&str, u32, u32); 8] = [
    ("CAP_SYS_MODULE", 30, 5),
    ("CAP_SYS_RAWIO", 25, 5),
    ("CAP_SYS_ADMIN", 20, 0),
    ("CAP_BPF", 10, 2),
    ("CAP_SYS_PTRACE", 10, 0),
    ("CAP_SYS_TIME", 5, 0),
    ("CAP_MKNOD", 5, 0),
    ("CAP_DAC_READ_SEARCH", 10, 0),
];

/// Features of machines that run containers, with weights. Additional system calls are listed separately.
const NESTING: [(&str, u32); 2] = [
    ("it has the devices tun and fuse: it can create file systems and links", 2),
    ("it has id ranges for 15 machines inside", 0),
];

/// Scores a machine.
pub(crate) fn score(found: &Inspection) -> Exposure {
    let mut reasons = Vec::new();
    let mut add = |bad: bool, weight: u32, message: String, hint: &'static str| {
        reasons.push(Reason { message, weight: if bad { weight } else { 0 }, hint: bad.then_some(hint) });
    };
    let hosts = |kind: &str| {
        found.namespaces.iter().any(|namespace| namespace.kind == kind && namespace.shared_with_host)
    };
    let is_root = hosts("user") || found.id_map.iter().any(|line| line.starts_with("0 0 "));
    let root = if is_root { "root inside is root of the host" } else { "root inside is nobody outside" };
    add(is_root, 40, root.into(), "set users.private = \"pick\"");
    for (kind, weight, hint) in SHARED {
        let owner = if hosts(kind) { "the host's" } else { "its own" };
        add(hosts(kind), weight, format!("the {kind} namespace is {owner}"), hint);
    }
    for namespace in found.namespaces.iter().filter(|namespace| !namespace.shared_with_host) {
        for other in namespace.shared_with.iter().filter(|other| other.starts_with("machine ")) {
            add(
                true,
                5,
                format!("{other} is in its {} namespace", namespace.kind),
                "give each machine its own namespace",
            );
        }
    }
    let filter = if found.filter { "it has a system-call filter" } else { "it has no system-call filter" };
    add(!found.filter, 20, filter.into(), "boot a kernel with CONFIG_SECCOMP_FILTER=y");
    for call in &found.filter_allows {
        add(true, 3, format!("the filter allows '{call}'"), "remove it from security.syscalls.allow");
    }
    for (message, weight) in NESTING.iter().filter(|_| found.nesting) {
        add(*weight > 0, *weight, (*message).into(), "remove security.nesting");
    }
    for (name, as_root, mapped) in CAPABILITIES {
        let weight = if is_root { as_root } else { mapped };
        if found.capabilities.iter().any(|kept| kept == name) {
            let scope = if is_root { "on the host" } else { "in its own namespaces" };
            add(weight > 0, weight, format!("{name} applies {scope}"), "drop it with security.capabilities");
        }
    }
    let label = found.label.as_deref().map_or_else(
        || "no security module confines it".to_owned(),
        |label| format!("it is confined as '{label}'"),
    );
    add(found.label.is_none(), 3, label, "boot the host with AppArmor or SELinux");
    reasons.extend(opened(found));
    reasons.push(socketcall(found));
    reasons.extend(unlimited(found));
    reasons.extend(trees(found));
    reasons.push(procfs(found));
    reasons.sort_by_key(|reason| std::cmp::Reverse(reason.weight));
    let score = reasons.iter().map(|reason| reason.weight).sum::<u32>().min(100);
    Exposure { name: found.name.clone(), score, rating: rating(score), reasons }
}

/// Returns the files and devices of the host that the machine has.
fn opened(found: &Inspection) -> Vec<Reason> {
    let of = |(word, weight, message, hint): (&str, u32, &str, &'static str)| {
        let is_open = found.unconfined.iter().any(|is| is == word);
        is_open.then(|| Reason { message: message.to_owned(), weight, hint: Some(hint) })
    };
    let binds = "root inside writes files of the host as their owners, through its mounts";
    let all = [
        ("binds", 5, binds, "set read-only = true or map = \"none\" for its mounts"),
        ("devices", 5, "it has devices of the host", "remove them from security.devices"),
    ];
    all.into_iter().filter_map(of).collect()
}

/// Returns whether 32 bit programs create sockets that the filter cannot check.
fn socketcall(found: &Inspection) -> Reason {
    let confined = found.label.as_deref().is_some_and(|label| label.starts_with(APPARMOR_PROFILE));
    let (message, weight) = match (found.socketcall, confined) {
        (false, _) => ("it has no socketcall(2)", 0),
        (true, true) => ("it has socketcall(2), and AppArmor denies the families alg and vsock", 0),
        (true, false) => ("32 bit programs can create sockets of every family by socketcall(2)", 3),
    };
    let hint = (weight > 0).then_some("use a 64 bit tree, or boot the host with AppArmor");
    Reason { message: message.into(), weight, hint }
}

/// Returns the trees that users of the host can reach.
fn trees(found: &Inspection) -> Vec<Reason> {
    if found.open_trees.is_empty() {
        let message = "no user of the host can reach its trees".to_owned();
        return vec![Reason { message, weight: 0, hint: None }];
    }
    let open = found.open_trees.iter().map(|tree| {
        let message = format!(
            "every user of the host can reach '{}' and execute setuid programs in it",
            tree.display()
        );
        Reason { message, weight: 40, hint: Some("set mode 700 on a directory above it") }
    });
    open.collect()
}

/// Returns the visibility of procfs and sysfs.
fn procfs(found: &Inspection) -> Reason {
    if found.unconfined.iter().any(|word| word == "kernel") {
        let message = "/proc and /sys are writable: root inside can change settings of the host's kernel";
        let hint = "start it without SYSTEMD_NSPAWN_API_VFS_WRITABLE=yes";
        return Reason { message: message.into(), weight: 20, hint: Some(hint) };
    }
    if found.can_mount_procfs() {
        let message =
            "procfs is masked, but root inside can remove the masks and mount a fresh procfs and sysfs";
        return Reason { message: message.into(), weight: 2, hint: Some("set users.private = \"pick\"") };
    }
    if !found.procfs_full {
        let message = "procfs is masked: no fresh procfs or sysfs can be mounted inside".to_owned();
        return Reason { message, weight: 0, hint: None };
    }
    let message =
        "procfs is full: root inside can read masked files of /proc and /sys like any user of the host";
    Reason { message: message.into(), weight: 2, hint: Some("set security.procfs = \"masked\"") }
}

/// Returns unlimited resources of the host.
fn unlimited(found: &Inspection) -> Vec<Reason> {
    let of = |(file, resource, hint): (&str, &str, &'static str)| {
        let is_limited = found.limits.iter().any(|limit| limit.name == file);
        if is_limited {
            return Reason { message: format!("its {resource} is limited"), weight: 0, hint: None };
        }
        Reason { message: format!("it can use all {resource} of the host"), weight: 4, hint: Some(hint) }
    };
    let all = [
        ("memory.max", "memory", "set resources.memory-max"),
        ("pids.max", "task capacity", "set resources.tasks-max"),
    ];
    all.map(of).into()
}

fn rating(score: u32) -> &'static str {
    match score {
        0..=19 => "strong",
        20..=39 => "fair",
        40..=69 => "weak",
        _ => "unsafe",
    }
}

impl Exposure {
    /// Writes the exposure as text.
    ///
    /// # Errors
    /// `out` cannot be written.
    pub(crate) fn write(&self, out: &mut dyn Write) -> Result<()> {
        let mut text = String::new();
        for reason in &self.reasons {
            let weight = if reason.weight == 0 {
                "ok".to_owned()
            } else {
                format!("+{}.{}", reason.weight / 10, reason.weight % 10)
            };
            let hint = reason.hint.map_or_else(String::new, |hint| format!(" (hint: {hint})"));
            text.push_str(&format!("{weight:>5}  {}{hint}\n", reason.message));
        }
        text.push_str(&format!(
            "{}: exposure {}.{} of 10, {}\n",
            self.name,
            self.score / 10,
            self.score % 10,
            self.rating
        ));
        out.write_all(text.as_bytes()).context(|| "cannot write the exposure".to_owned())
    }
}
