//! Ranges of user ids: overlaps with ranges delegated to users, and ranges of deleted machines.

use super::Finding;
use crate::machine::name::Name;
use crate::machine::users::RANGE_SIZE;
use crate::paths::Paths;
use crate::state::id_ranges;
use std::collections::BTreeMap;
use std::path::Path;

/// The number of deleted machines named in a finding.
const NAMED: usize = 3;

/// The first ids of the ranges of each machine. A machine with nesting has several ranges.
type Ranges = BTreeMap<String, Vec<u32>>;

/// Returns the findings about id ranges; `defined` are the defined machines.
pub(super) fn findings(paths: &Paths, defined: &[&Name]) -> Vec<Finding> {
    let mut recorded = Ranges::new();
    for (base, owner) in id_ranges::records(paths) {
        recorded.entry(owner).or_default().push(base);
    }
    recorded.values_mut().for_each(|bases| bases.sort_unstable());
    let mut findings = shared(paths, &recorded);
    recorded.retain(|owner, _| defined.iter().all(|name| name.as_str() != owner));
    // Without the rights to list the images, every machine would count as deleted.
    if !is_hidden(&paths.images()) {
        findings.extend(unused(&recorded));
    }
    findings
}

/// Returns whether this user may not list a directory.
fn is_hidden(directory: &Path) -> bool {
    std::fs::read_dir(directory).is_err_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied)
}

/// Returns one finding per machine with ids that are also delegated to a user.
fn shared(paths: &Paths, recorded: &Ranges) -> Vec<Finding> {
    let delegated = id_ranges::delegated(paths);
    let overlap = |base: u32| {
        let end = u64::from(base) + u64::from(RANGE_SIZE);
        delegated.iter().find(|(start, stop)| u64::from(base) < *stop && end > *start)
    };
    let of_owner = |(owner, bases): (&String, &Vec<u32>)| {
        let (base, (start, _)) = bases.iter().find_map(|base| Some((base, overlap(*base)?)))?;
        Some(Finding::wrong(
            format!("the ids of machine '{owner}', from {base}, are also delegated to a user (from {start})"),
            format!(
                "remove the range from /etc/subuid and /etc/subgid, or run '{}' and restart '{owner}'",
                deletion(paths, &[owner])
            ),
        ))
    };
    recorded.iter().filter_map(of_owner).collect()
}

/// Returns one finding for all ranges of deleted machines.
fn unused(kept: &Ranges) -> Option<Finding> {
    let ranges = kept.values().map(Vec::len).sum::<usize>();
    let owners: Vec<&str> = kept.keys().take(NAMED).map(String::as_str).collect();
    let more = match kept.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let (noun, verb) = if ranges == 1 { ("range", "is") } else { ("ranges", "are") };
    (ranges > 0).then(|| {
        Finding::note(
            format!(
                "{ranges} {noun} of user ids {verb} kept for deleted machines: '{}'{more}",
                owners.join("', '")
            ),
            format!("if these ids own no files: coracle remove {}", owners.join(" ")),
        )
    })
}

/// Returns the command that deletes the records of machines.
fn deletion(paths: &Paths, owners: &[&str]) -> String {
    let names: String = owners.iter().map(|owner| format!(" -e {owner}")).collect();
    let records = id_ranges::record_file(paths, 0).with_file_name("*");
    format!("grep -lxF{names} {} | xargs rm", records.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Creates paths with a number of records per machine.
    fn recorded(owners: &[(&str, u32)]) -> (tempfile::TempDir, Paths) {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::below(root.path());
        let directory = id_ranges::record_file(&paths, 0).with_file_name("");
        std::fs::create_dir_all(directory).unwrap();
        let owners = owners.iter().flat_map(|(owner, count)| std::iter::repeat_n(*owner, *count as usize));
        for (owner, base) in owners.zip((600_000_u32..).step_by(RANGE_SIZE as usize)) {
            std::fs::write(id_ranges::record_file(&paths, base), format!("{owner}\n")).unwrap();
        }
        (root, paths)
    }

    #[test]
    fn ranges_of_deleted_machines_are_one_finding() {
        let (_root, paths) = recorded(&[("a.b", 16), ("c", 1), ("d", 1), ("e", 1), ("web", 1)]);
        let defined: Vec<Name> = ["web", "c", "d", "e"].map(|name| Name::new(name).unwrap()).into();
        let of = |count: usize| findings(&paths, &defined.iter().take(count).collect::<Vec<_>>());
        let what = |count| of(count).into_iter().map(|finding| finding.message).collect::<Vec<_>>();
        assert_eq!(
            what(0),
            ["20 ranges of user ids are kept for deleted machines: 'a.b', 'c', 'd' and 2 more"]
        );
        assert_eq!(what(3), ["17 ranges of user ids are kept for deleted machines: 'a.b', 'e'"]);
        let hint = &of(4)[0].hint;
        assert_eq!(hint, "if these ids own no files: coracle remove a.b");
    }

    #[test]
    fn delegated_ranges_are_one_finding_for_each_machine() {
        let (_root, paths) = recorded(&[("nest", 16), ("web", 1)]);
        let file = paths.join("/etc/subuid");
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, "you:600000:10000000\n").unwrap();
        let defined = ["web", "nest"].map(|name| Name::new(name).unwrap());
        let found = findings(&paths, &defined.iter().collect::<Vec<_>>());
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(
            found[0].message.contains("'nest', from 600000") && found[0].hint.contains("-e nest "),
            "{found:?}"
        );
    }
}
