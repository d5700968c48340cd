//! `set` and `apply`: definitions that change, and machines that run by them.

use super::output::{self, Align, Legend};
use super::verbs::{Apply, Set};
use crate::config::drop_in::{self, Keep};
use crate::config::snapshot::{self, Values};
use crate::config::{self, Resolved};
use crate::control::bind;
use crate::control::limits::{self, Act};
use crate::control::rewire;
use crate::error::{Error, Result};
use crate::machine::mounts::MountKind;
use crate::paths::Paths;
use crate::state::record::Record;

/// How a setting comes to hold.
const LIVE: &str = "live";
/// How a setting comes to hold that cannot while the machine runs.
const RESTART: &str = "restart";

/// One row for people: how, which setting, what holds, what is defined.
type Row = [String; 4];

/// `set`: keeps changes in a drop-in, and applies what can be applied to a machine that runs.
///
/// # Errors
/// A change that is none, or that leaves no valid definition.
pub fn set(paths: &Paths, wanted: &Set) -> Result<()> {
    let changes = wanted.changes.iter().map(|text| drop_in::change(text)).collect::<Result<Vec<_>>>()?;
    let changes = drop_in::merge(changes)?;
    config::machine(paths, &wanted.name)?;
    let keep = if wanted.runtime { Keep::UntilReboot } else { Keep::Always };
    let kept = drop_in::write_changes(paths, &wanted.name, &changes, keep)?;
    let runs = Record::read(paths, &wanted.name)?.is_some_and(|record| record.is_alive());
    if !runs {
        return output::line(&format!("kept in '{}'", drop_in::file(paths, &wanted.name, keep).display()));
    }
    let resolved = config::machine(paths, &wanted.name)?;
    let rows = match rows(paths, &resolved, Act::Do) {
        Ok(rows) => rows,
        Err(error) => {
            kept.restore()?;
            return Err(error);
        }
    };
    let is_meant = |row: &Row| changes.iter().any(|change| change.key == row[1]);
    report(&wanted.name.to_string(), rows.into_iter().filter(is_meant).collect(), Act::Do)
}

/// `apply`: makes a machine that runs what its definition says, as far as that can be.
///
/// # Errors
/// A machine that does not run, or has no valid definition.
pub fn apply(paths: &Paths, wanted: &Apply) -> Result<()> {
    let resolved = config::machine(paths, &wanted.name)?;
    let act = if wanted.dry_run { Act::Tell } else { Act::Do };
    report(&wanted.name.to_string(), rows(paths, &resolved, act)?, act)
}

/// What differs, after it was done where that was wanted.
fn rows(paths: &Paths, resolved: &Resolved, act: Act) -> Result<Vec<Row>> {
    let name = &resolved.machine.name;
    // Before anything is changed: a machine in the foreground is not one to be changed by its definition.
    let Some(mut started) = snapshot::read(paths, name) else {
        return Err(Error::new(format!("it is not known what machine '{name}' was started with"))
            .with_hint(format!("restart it once: coracle restart {name}")));
    };
    let read = started.clone();
    let after = snapshot::values(&resolved.settings);
    let mut rows: Vec<Row> = limits::apply(paths, &resolved.machine, act)?
        .into_iter()
        .map(|one| [LIVE.into(), one.key.into(), one.now, one.wanted])
        .collect();
    let rewires = rewire::is_possible(paths, &resolved.machine);
    let mut rewired = false;
    for one in snapshot::differences(&started, &after) {
        let text = |values: &[String]| if values.is_empty() { "-".into() } else { values.join(", ") };
        match one.key.as_str() {
            key if key.starts_with("resources.") => {}
            key if rewire::KEYS.contains(&key) && rewires => {
                rewired = true;
                rows.push([LIVE.into(), key.into(), text(&one.before), text(&one.after)]);
            }
            "mount" => rows.extend(mounts(paths, resolved, &mut started, &one.before, &one.after, act)?),
            key => rows.push([RESTART.into(), key.into(), text(&one.before), text(&one.after)]),
        }
    }
    if act == Act::Do {
        if rewired {
            rewire::apply(paths, &resolved.machine)?;
        }
        let is_done = |key: &str| key.starts_with("resources.") || (rewired && rewire::KEYS.contains(&key));
        started.extend(after.into_iter().filter(|(key, _)| is_done(key)));
        // Where nothing was done the file stays: a reboot may have written it anew meanwhile.
        if started != read {
            snapshot::write(paths, name, &started)?;
        }
    }
    Ok(rows)
}

/// Mounts that are defined and not there, and the other way round. New binds of the host's tree can be
/// made, and taken off again; what PID 1 has received is locked.
fn mounts(
    paths: &Paths,
    resolved: &Resolved,
    started: &mut Values,
    before: &[String],
    after: &[String],
    act: Act,
) -> Result<Vec<Row>> {
    let row = |how: &str, now: &str, defined: &str| -> Row {
        [how.into(), "mount".into(), now.into(), defined.into()]
    };
    let name = &resolved.machine.name;
    let bound = bind::list(paths, name)?;
    let mut rows = Vec::new();
    // First what goes: something else may come to its place.
    for text in before.iter().filter(|text| !after.contains(text)) {
        let target = snapshot::mount_target(text);
        let Some(binding) = bound.iter().find(|binding| Some(&binding.target) == target.as_ref()) else {
            rows.push(row(RESTART, text, "-"));
            continue;
        };
        rows.push(row(LIVE, text, "-"));
        if act == Act::Do {
            bind::unbind(paths, name, &binding.target)?;
            started.entry("mount".into()).or_default().retain(|mount| mount != text);
        }
    }
    for text in after.iter().filter(|text| !before.contains(text)) {
        // Not by its place in the list: what drop-ins say stands elsewhere in each.
        let target = snapshot::mount_target(text);
        let mut defined = resolved.machine.mounts.iter();
        let Some(mount) = defined.find(|mount| Some(&mount.target) == target.as_ref()) else { continue };
        let MountKind::Bind { source, read_only, map_ids, setuid, .. } = &mount.kind else {
            rows.push(row(RESTART, "-", text));
            continue;
        };
        rows.push(row(LIVE, "-", text));
        if act == Act::Do {
            bind::bind(
                paths,
                &bind::Ask {
                    name,
                    source,
                    target: &mount.target,
                    read_only: *read_only,
                    setuid: *setuid,
                    make_target: true.into(),
                    map: if *map_ids { bind::Map::Numbers } else { bind::Map::Unmapped },
                },
            )?;
            started.entry("mount".into()).or_default().push(text.clone());
        }
    }
    Ok(rows)
}

/// Says what was done, and what a restart is needed for.
fn report(name: &str, rows: Vec<Row>, act: Act) -> Result<()> {
    if rows.is_empty() {
        return output::line(&format!("machine '{name}' is as its definition says"));
    }
    let restarts = rows.iter().filter(|row| row[0] == RESTART).count();
    let columns = ["HOW", "SETTING", "NOW", "DEFINED"].map(|name| (name, Align::Left));
    let mut rows: Vec<Vec<String>> = rows.into_iter().map(Vec::from).collect();
    for row in rows.iter_mut().filter(|row| act == Act::Do && row[0] == LIVE) {
        row[0] = "done".into();
    }
    output::text(&output::table(&columns, &rows, Legend::Shown))?;
    if restarts > 0 {
        output::line(&format!("restart the machine for the rest: coracle restart {name}"))?;
    }
    Ok(())
}
