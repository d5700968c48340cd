//! Features of the kernel, and tables that run full: namespaces, filters, keyrings, terminals.

use super::Finding;
use crate::control::list::read_number;
use crate::host::{empty_mounts, inotify, lsm};
use crate::machine::security::{APPARMOR_NESTING_PROFILE, APPARMOR_PROFILE};
use crate::paths::Paths;
use std::path::Path;

/// The namespaces of a machine, by their names in `/proc/self/ns`.
const NAMESPACES: [&str; 7] = ["user", "pid", "net", "mnt", "ipc", "uts", "cgroup"];
/// The first kernel with file systems that support idmapped mounts.
const OLDEST: (u32, u32) = (5, 12);
/// The recommended minimum of namespaces of a kind.
const FEW_NAMESPACES: u64 = 128;
/// The recommended minimum of inotify instances. A guest with systemd holds up to twenty. The limit applies
/// to each machine with user ids of its own; all other machines share the instances of the host's root.
const FEW_INOTIFY: u64 = 64;
/// The recommended minimum of neighbours of a family, for a table shared by machines and the host.
const FEW_NEIGHBOURS: u64 = 8192;
/// The usage from which a table counts as nearly full, percent.
const NEARLY_FULL: u64 = 80;

/// Returns the findings about the kernel.
pub(super) fn findings(paths: &Paths) -> Vec<Finding> {
    let mut findings = features();
    findings.extend(empty_mounts::refusal(paths).map(|reason| {
        Finding::note(
            format!("machines start in copies of the host's mount namespace, which takes longer: {reason}"),
            format!("to try again, remove '{}'", paths.empty_mounts().display()),
        )
    }));
    findings.extend(NAMESPACES.iter().filter_map(|kind| namespaces(kind)));
    findings.extend(profiles());
    findings.extend(few_inotify_instances());
    findings.extend(terminals());
    findings.extend(["ipv4", "ipv6"].iter().filter_map(|family| {
        let limit = read_number(format!("/proc/sys/net/{family}/neigh/default/gc_thresh3"))?;
        neighbours(family, limit)
    }));
    let users = std::fs::read_to_string("/proc/key-users").unwrap_or_default();
    findings.extend(keyrings(&users));
    findings
}

fn features() -> Vec<Finding> {
    let mut findings = Vec::new();
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    if version(&release).is_some_and(|version| version < OLDEST) {
        findings.push(Finding::wrong(
            format!("kernel {} has no idmapped mounts", release.trim()),
            format!("boot kernel {}.{} or later", OLDEST.0, OLDEST.1),
        ));
    }
    if !Path::new("/proc/sys/kernel/seccomp/actions_avail").exists() {
        findings.push(Finding::wrong(
            "the kernel has no system-call filter",
            "boot a kernel with CONFIG_SECCOMP_FILTER=y",
        ));
    }
    findings
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((parts.next()?.ok()?, parts.next()?.ok()?))
}

fn namespaces(kind: &str) -> Option<Finding> {
    if !Path::new("/proc/self/ns").join(kind).exists() {
        let option = if kind == "mnt" { "" } else { kind };
        return Some(Finding::wrong(
            format!("the kernel has no {kind} namespaces"),
            format!("boot a kernel with CONFIG_{}_NS=y", option.to_ascii_uppercase()),
        ));
    }
    let sysctl = format!("user.max_{kind}_namespaces");
    let limit = read_number(format!("/proc/sys/user/max_{kind}_namespaces"))?;
    let hint =
        format!("sysctl -w {sysctl}=10000, and write '{sysctl} = 10000' to /etc/sysctl.d/90-coracle.conf");
    match limit {
        0 => Some(Finding::wrong(format!("{kind} namespaces are disabled ({sysctl} is 0)"), hint)),
        limit if limit < FEW_NAMESPACES => {
            Some(Finding::risk(format!("only {limit} {kind} namespaces are allowed ({sysctl})"), hint))
        }
        _ => None,
    }
}

fn profiles() -> Option<Finding> {
    if !lsm::has_apparmor() {
        return None;
    }
    let all = [APPARMOR_PROFILE, APPARMOR_NESTING_PROFILE];
    let missing: Vec<&str> = all.into_iter().filter(|profile| !lsm::is_loaded(profile)).collect();
    (!missing.is_empty()).then(|| {
        let files = missing.iter().map(|profile| format!(" /etc/apparmor.d/{profile}")).collect::<String>();
        Finding::risk(
            format!(
                "AppArmor is active, and machines run without a profile: '{}' is not loaded",
                missing.join("', '")
            ),
            format!("apparmor_parser -r{files}"),
        )
    })
}

fn few_inotify_instances() -> Option<Finding> {
    let limit = read_number("/proc/sys/fs/inotify/max_user_instances")?;
    (limit < FEW_INOTIFY).then(|| {
        Finding::risk(
            format!(
                "only {limit} inotify instances per machine are allowed; a guest with systemd uses about 20"
            ),
            inotify::HINT,
        )
    })
}

/// Returns the finding about a small neighbour table. All network namespaces share one (arp(7),
/// `gc_thresh3`), and a machine can fill it on links of its own, which no rule of the host filters.
fn neighbours(family: &str, limit: u64) -> Option<Finding> {
    let sysctl = format!("net.{family}.neigh.default.gc_thresh3");
    (limit < FEW_NEIGHBOURS).then(|| {
        Finding::note(
            format!("the host and all machines share a table of {limit} neighbours ({sysctl}), which one machine can fill"),
            format!("sysctl -w {sysctl}=65536, and write it to /etc/sysctl.d/90-coracle.conf"),
        )
    })
}

fn terminals() -> Option<Finding> {
    let (used, limit) = (read_number("/proc/sys/kernel/pty/nr")?, read_number("/proc/sys/kernel/pty/max")?);
    is_nearly_full(used, limit).then(|| {
        Finding::risk(
            format!("{used} of {limit} pseudo terminals are in use"),
            "sysctl -w kernel.pty.max=16384, and write it to /etc/sysctl.d/90-coracle.conf",
        )
    })
}

/// Parses proc_key-users(5): `UID: usage nkeys/nikeys qnkeys/maxkeys qnbytes/maxbytes`.
fn keyrings(users: &str) -> Vec<Finding> {
    let of = |line: &str| {
        let (uid, rest) = line.split_once(':')?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let is_full = |field: &&str| {
            let (used, limit) = field.split_once('/')?;
            Some(is_nearly_full(used.parse().ok()?, limit.parse().ok()?))
        };
        let is_short = fields.get(2..4)?.iter().any(|field| is_full(field).unwrap_or(false));
        let key = if uid.trim() == "0" { "root_maxkeys" } else { "maxkeys" };
        is_short.then(|| {
            Finding::risk(
                format!(
                    "the keyrings of user {} are nearly full ({} keys, {} bytes)",
                    uid.trim(),
                    fields[2],
                    fields[3]
                ),
                format!(
                    "sysctl -w kernel.keys.{key}=20000 kernel.keys.{}=2000000",
                    key.replace("keys", "bytes")
                ),
            )
        })
    };
    users.lines().filter_map(of).collect()
}

fn is_nearly_full(used: u64, limit: u64) -> bool {
    limit > 0 && used.saturating_mul(100) >= limit.saturating_mul(NEARLY_FULL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        assert_eq!(version("6.18.5-foo"), Some((6, 18)));
        assert!(version("5.4.0").unwrap() < OLDEST && version("5.12-rc1").unwrap() >= OLDEST);
        assert_eq!(version("x"), None);
    }

    #[test]
    fn a_small_table_of_neighbours_is_named() {
        let note = neighbours("ipv6", 1024).unwrap();
        assert!(
            note.message.contains("1024") && note.hint.contains("net.ipv6.neigh.default.gc_thresh3=65536")
        );
        assert!(neighbours("ipv6", FEW_NEIGHBOURS).is_none());
    }

    #[test]
    fn keyrings_that_run_full_are_named() {
        let users =
            "    0:    20 19/19 18/1000000 300/25000000\n 1000:     9 9/9 190/200 20/20000\nnonsense\n";
        let findings = keyrings(users);
        assert_eq!(findings.len(), 1);
        assert!(findings[0].message.contains("user 1000") && findings[0].hint.contains("keys.maxbytes"));
    }
}
