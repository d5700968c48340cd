//! Ranges of user ids: whether those of machines and those of others overlap, and which belong to
//! nobody any more.

use super::Finding;
use crate::machine::name::Name;
use crate::machine::users::RANGE_SIZE;
use crate::paths::Paths;
use crate::state::id_ranges;
use std::collections::BTreeMap;

/// Deleted machines named in the finding about their ranges.
const NAMED: usize = 3;

/// The first ids of the ranges of each machine. A machine with nesting has many ranges.
type Ranges = BTreeMap<String, Vec<u32>>;

/// Everything there is to say of id ranges; `defined` are the machines there are.
pub(super) fn findings(paths: &Paths, defined: &[&Name]) -> Vec<Finding> {
    let mut recorded = Ranges::new();
    for (base, owner) in id_ranges::records(paths) {
        recorded.entry(owner).or_default().push(base);
    }
    recorded.values_mut().for_each(|bases| bases.sort_unstable());
    let mut findings = shared(paths, &recorded);
    recorded.retain(|owner, _| defined.iter().all(|name| name.as_str() != owner));
    findings.extend(unused(paths, &recorded));
    findings
}

/// One finding for each machine with ids that are delegated to a user too.
fn shared(paths: &Paths, recorded: &Ranges) -> Vec<Finding> {
    let delegated = id_ranges::delegated(paths);
    let overlap = |base: u32| {
        let end = u64::from(base) + u64::from(RANGE_SIZE);
        delegated.iter().find(|(start, stop)| u64::from(base) < *stop && end > *start)
    };
    let of_owner = |(owner, bases): (&String, &Vec<u32>)| {
        let (base, (start, _)) = bases.iter().find_map(|base| Some((base, overlap(*base)?)))?;
        Some(Finding::wrong(
            format!(
                "the ids of machine '{owner}', from {base} on, are delegated to a user as well (from {start} on)"
            ),
            format!(
                "take that range out of /etc/subuid and /etc/subgid, or '{}' and start '{owner}' anew",
                deletion(paths, &[owner])
            ),
        ))
    };
    recorded.iter().filter_map(of_owner).collect()
}

/// One finding for all ranges of deleted machines.
fn unused(paths: &Paths, kept: &Ranges) -> Option<Finding> {
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
            format!("if no file belongs to these ids any more: {}", deletion(paths, &owners)),
        )
    })
}

/// The command that deletes the records of these machines.
fn deletion(paths: &Paths, owners: &[&str]) -> String {
    let names: String = owners.iter().map(|owner| format!(" -e {owner}")).collect();
    let records = id_ranges::record_file(paths, 0).with_file_name("*");
    format!("grep -lxF{names} {} | xargs rm", records.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Paths with this many records of each machine.
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
        let command = hint.rsplit_once(": ").unwrap().1;
        assert!(std::process::Command::new("sh").args(["-c", command]).status().unwrap().success(), "{hint}");
        assert_eq!(of(4), []);
        assert_eq!(what(0), ["4 ranges of user ids are kept for deleted machines: 'c', 'd', 'e' and 1 more"]);
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
            found[0].message.contains("'nest', from 600000 on") && found[0].hint.contains("-e nest "),
            "{found:?}"
        );
    }
}
