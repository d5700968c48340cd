//! Running machines with the same machine-id(5): copies of a tree made without `coracle clone`. Called by
//! `start` and `doctor`.

use crate::machine::name::Name;
use crate::paths::Paths;
use crate::state::record::Record;

/// Two running machines with the same id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SharedId {
    /// The problem, one line.
    pub(super) message: String,
    /// The solution.
    pub(super) hint: String,
}

/// Returns the running machines with the id of another one that was started before, in the order of their
/// start.
pub(super) fn shared(paths: &Paths) -> Vec<SharedId> {
    let records = running(paths);
    let later = records.iter().enumerate().filter_map(|(at, record)| {
        let first = records.iter().take(at).find(|first| first.machine_id == record.machine_id)?;
        Some(of_two(record, &first.name))
    });
    later.collect()
}

/// Returns the first other running machine with the id of a running machine.
pub(super) fn shared_by(paths: &Paths, name: &Name) -> Option<SharedId> {
    let record = Record::read(paths, name).ok()??;
    let id = record.machine_id.filter(|id| !id.is_null())?;
    let is_same = |other: &&Record| other.machine_id == Some(id) && other.is_alive();
    let others = Record::others_with(paths, name, &id.to_string());
    others.iter().find(is_same).map(|other| of_two(&record, &other.name))
}

/// Returns the records of running machines with an id, by the time of their start.
fn running(paths: &Paths) -> Vec<Record> {
    let mut records = Record::all(paths);
    records.retain(|record| record.is_alive() && record.machine_id.is_some_and(|id| !id.is_null()));
    records.sort_by_key(|record| record.started);
    records
}

/// Describes a machine with the id of another one. An empty file gets the id of the machine at its next
/// start.
fn of_two(record: &Record, other: &Name) -> SharedId {
    let name = &record.name;
    SharedId {
        message: format!(
            "machines '{other}' and '{name}' have the same machine id: DHCP servers may give them the same address, \
             and their journals cannot be told apart"
        ),
        hint: format!(
            "run 'coracle stop {name}', empty etc/machine-id in '{}', and start it; 'coracle clone' creates copies \
             with ids of their own",
            record.root.display()
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::procfs::start_time;
    use crate::machine::id128::Id128;

    #[test]
    fn the_machine_that_was_started_later_is_reported() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::below(root.path());
        let id: Id128 = "f42b80dd3fd64944af42b25322552335".parse().unwrap();
        let supervisor = std::process::id();
        for (name, machine_id, started, is_alive) in [
            ("web", Some(id), 2, true),
            ("db", Some(id), 1, true),
            ("gone", Some(id), 0, false),
            ("one", None, 3, true),
            ("two", None, 4, true),
        ] {
            let record = Record {
                machine_id,
                started,
                supervisor,
                supervisor_start: if is_alive { start_time(supervisor).unwrap() } else { 0 },
                ..Record::new(Name::new(name).unwrap())
            };
            std::fs::create_dir_all(paths.machine(&record.name)).unwrap();
            record.write(&paths).unwrap();
        }
        let found = shared(&paths);
        assert_eq!(found.len(), 1);
        assert!(found[0].message.starts_with("machines 'db' and 'web' have"), "{found:?}");
        assert!(found[0].hint.contains("'coracle stop web'"), "{found:?}");
        let of = |name| shared_by(&paths, &Name::new(name).unwrap());
        assert_eq!(of("web").as_ref(), found.first());
        assert!(of("db").unwrap().hint.contains("'coracle stop db'"));
        assert_eq!(of("one"), None);
    }
}
