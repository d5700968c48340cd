//! Leftovers of killed supervisors, before a cleanup.

use super::Finding;
use crate::machine::name::Name;
use crate::paths::Paths;
use crate::paths::running_systemd;
use crate::state::record::Record;
use std::path::Path;

/// The directory of systemd-machined(8) with its registered machines, below /run/systemd.
const REGISTERED: &str = "machines";

/// Returns the findings about leftovers.
pub(super) fn findings(paths: &Paths) -> Vec<Finding> {
    let records = Record::all(paths);
    let dead = records.iter().filter(|record| !record.is_alive());
    let mut findings: Vec<Finding> = dead
        .map(|record| {
            Finding::wrong(
                format!("machine '{}' is not cleaned up: its supervisor was killed", record.name),
                format!("coracle cleanup {}", record.name),
            )
        })
        .collect();
    findings.extend(directories(paths, &records));
    findings.extend(links(&records));
    findings
}

/// Returns findings about state directories of starts that were killed before they wrote their record.
fn directories(paths: &Paths, records: &[Record]) -> Vec<Finding> {
    let entries = std::fs::read_dir(paths.state()).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| Name::new(entry.file_name().to_str()?).ok());
    let lost = names.filter(|name| {
        records.iter().all(|record| record.name != *name)
            && !crate::host::lock::is_taken(&paths.machine(name).join("lock"))
    });
    lost.map(|name| {
        Finding::risk(
            format!("'{}' is left by a killed start", paths.machine(&name).display()),
            format!("coracle cleanup {name}"),
        )
    })
    .collect()
}

/// Returns findings about host ends of links that belong neither to a machine of Coracle nor to one of
/// machined.
fn links(records: &[Record]) -> Vec<Finding> {
    let entries = std::fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let is_known = |link: &String| records.iter().any(|record| record.host_interface.as_ref() == Some(link));
    let is_registered = |link: &str| {
        let machine = link.strip_prefix("ve-").or_else(|| link.strip_prefix("vb-")).unwrap_or(link);
        // The name of a link is truncated, the name of a machine is not.
        let machines = std::fs::read_dir(running_systemd(REGISTERED)).into_iter().flatten().flatten();
        machines
            .filter_map(|entry| entry.file_name().into_string().ok())
            .any(|name| name.starts_with(machine))
    };
    // A bridge of a zone with ports is in use.
    let is_empty = |link: &str| {
        let mut ports =
            std::fs::read_dir(Path::new("/sys/class/net").join(link).join("brif")).into_iter().flatten();
        ports.next().is_none()
    };
    let is_end = |link: &str| link.starts_with("ve-") || link.starts_with("vb-");
    let lost = names.filter(|link| {
        (is_end(link) && !is_known(link) && !is_registered(link))
            || (link.starts_with("vz-") && is_empty(link))
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
    fn leftovers_of_killed_supervisors_are_found() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::below(root.path());
        for name in ["dead", "killed"] {
            std::fs::create_dir_all(paths.machine(&Name::new(name).unwrap())).unwrap();
        }
        Record::new(Name::new("dead").unwrap()).write(&paths).unwrap();
        let records = Record::all(&paths);
        assert_eq!(directories(&paths, &records).len(), 1);
        let findings = findings(&paths);
        assert!(findings[0].message.contains("'dead' is not cleaned up"), "{findings:?}");
        assert_eq!(findings[0].hint, "coracle cleanup dead");
    }
}
