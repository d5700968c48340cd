//! What machines that are gone have left: their supervisor was killed, and nobody has cleaned up.

use super::Finding;
use crate::machine::name::Name;
use crate::paths::Paths;
use crate::paths::running_systemd;
use crate::state::record::Record;
use std::path::Path;

/// Where systemd-machined(8) records the machines it knows.
const KNOWN: &str = "machines";

/// Everything that is left over.
pub(super) fn findings(paths: &Paths) -> Vec<Finding> {
    let records = Record::all(paths);
    let dead = records.iter().filter(|record| !record.is_alive());
    let mut findings: Vec<Finding> = dead
        .map(|record| {
            Finding::wrong(
                format!("machine '{}' is dead and not cleaned up: its supervisor was killed", record.name),
                format!("coracle cleanup {}", record.name),
            )
        })
        .collect();
    findings.extend(directories(paths, &records));
    findings.extend(links(&records));
    findings
}

/// State directories of a start that was killed before it could write its record.
fn directories(paths: &Paths, records: &[Record]) -> Vec<Finding> {
    let entries = std::fs::read_dir(paths.state()).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| Name::new(entry.file_name().to_str()?).ok());
    let lost = names.filter(|name| {
        records.iter().all(|record| record.name != name.as_str())
            && !crate::host::lock::is_taken(&paths.machine(name).join("lock"))
    });
    lost.map(|name| {
        Finding::risk(
            format!("'{}' is left of a start that was killed", paths.machine(&name).display()),
            format!("coracle cleanup {name}"),
        )
    })
    .collect()
}

/// Host ends of links that no machine of ours has, nor one of others.
fn links(records: &[Record]) -> Vec<Finding> {
    let entries = std::fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let ours = |link: &String| records.iter().any(|record| record.host_interface.as_ref() == Some(link));
    let others = |link: &str| {
        let machine = link.strip_prefix("ve-").or_else(|| link.strip_prefix("vb-")).unwrap_or(link);
        // The name of a link is cut, that of a machine is not.
        let known = std::fs::read_dir(running_systemd(KNOWN)).into_iter().flatten().flatten();
        known.filter_map(|entry| entry.file_name().into_string().ok()).any(|name| name.starts_with(machine))
    };
    // A bridge of a zone that has ports is somebody's.
    let is_empty = |link: &str| {
        let mut ports =
            std::fs::read_dir(Path::new("/sys/class/net").join(link).join("brif")).into_iter().flatten();
        ports.next().is_none()
    };
    let is_end = |link: &str| link.starts_with("ve-") || link.starts_with("vb-");
    let lost = names.filter(|link| {
        (is_end(link) && !ours(link) && !others(link)) || (link.starts_with("vz-") && is_empty(link))
    });
    lost.map(|link| {
        Finding::risk(format!("interface '{link}' belongs to no machine"), format!("ip link delete {link}"))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_machine_and_a_killed_start_are_found() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::below(root.path());
        for name in ["dead", "killed"] {
            std::fs::create_dir_all(paths.machine(&Name::new(name).unwrap())).unwrap();
        }
        Record { name: "dead".into(), ..Record::default() }.write(&paths).unwrap();
        let records = Record::all(&paths);
        assert_eq!(directories(&paths, &records).len(), 1);
        let findings = findings(&paths);
        assert!(findings[0].message.contains("'dead' is dead"), "{findings:?}");
        assert_eq!(findings[0].hint, "coracle cleanup dead");
    }
}
