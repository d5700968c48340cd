//! set and apply: change the definition of a machine, and apply a definition to a running machine. Limits,
//! ports, traffic limits and bind mounts change at once, all other settings with a restart.

use super::bind;
use super::loopback_ports;
use super::network_update;
use super::resources::{self, Act};
use crate::config::drop_in::{self, DropInSetting, Persistence};
use crate::config::snapshot::{self, Values};
use crate::config::{self, Resolved};
use crate::error::{Error, Result};
use crate::host::systemd::units::resources::is_live;
use crate::image::quota;
use crate::machine::Machine;
use crate::machine::mounts::{BindPath, MountKind};
use crate::machine::name::Name;
use crate::paths::Paths;
use crate::state::record::Record;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// The limit of the disk space, which the file system enforces.
const DISK_KEY: &str = "resources.disk-max";

/// When a changed setting takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Effect {
    /// In the running machine.
    Live,
    /// Stored, but without effect: the host lacks the controller of the limit.
    NotEnforced,
    /// After a restart.
    Restart,
}

/// A setting with different values in the running machine and in its definition. Serialised unchanged for `--json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct SettingChange {
    /// When the value of the definition takes effect.
    pub(crate) effect: Effect,
    /// The key of the setting.
    pub(crate) key: String,
    /// The value in the running machine.
    pub(crate) now: String,
    /// The value in the definition.
    pub(crate) defined: String,
}

/// The result of [`set`]. Serialised unchanged for `--json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum SetResult {
    /// The machine is not running: the change is written to this drop-in only.
    Stored(PathBuf),
    /// The change is written and applied to the running machine.
    Applied(Vec<SettingChange>),
}

/// Writes changes (`KEY=VALUE`) to a drop-in of the definition, and applies them to the machine if it is
/// running. After a failure the drop-in is as before.
///
/// # Errors
/// An invalid change, a definition that is invalid with it, or a failure to apply it.
pub(crate) fn set(paths: &Paths, name: &Name, changes: &[String], keep: Persistence) -> Result<SetResult> {
    let changes = parsed(paths, name, changes, keep)?;
    for change in changes.iter().filter(|change| !change.replaced.is_empty()) {
        let word = change.key.rsplit('.').next().unwrap_or(change.key);
        log::info!("{} replaces {}; '{word}+=' adds values", change.key, change.replaced.join(", "));
    }
    // Another machine than the one that the change was allowed for is refused before the drop-in is written.
    Record::read(paths, name)?;
    let previous = drop_in::write_changes(paths, name, &changes, keep)?;
    match apply_stored(paths, name) {
        Ok(None) => Ok(SetResult::Stored(drop_in::file(paths, name, keep))),
        Ok(Some(applied)) => {
            let is_set = |one: &SettingChange| changes.iter().any(|change| change.key == one.key);
            Ok(SetResult::Applied(applied.into_iter().filter(is_set).collect()))
        }
        Err(error) => {
            previous.restore()?;
            restore_limits(paths, name);
            Err(error)
        }
    }
}

/// Checks changes (`KEY=VALUE`) before other settings are stored.
///
/// # Errors
/// An invalid change, or a machine that does not exist.
pub(crate) fn check(paths: &Paths, name: &Name, changes: &[String], keep: Persistence) -> Result<()> {
    parsed(paths, name, changes, keep).map(drop)
}

fn parsed(paths: &Paths, name: &Name, changes: &[String], keep: Persistence) -> Result<Vec<DropInSetting>> {
    let current = drop_in::current(paths, name, keep);
    let changes = changes.iter().map(|text| drop_in::change(text, &current)).collect::<Result<Vec<_>>>()?;
    let changes = drop_in::merge(changes)?;
    if !config::exists(paths, name) {
        return Err(config::missing(paths, name));
    }
    changes.iter().try_for_each(|change| drop_in::refuse_foreign(paths, name, change))?;
    Ok(changes)
}

/// Applies a changed definition to its machine. `None` if the machine is not running.
fn apply_stored(paths: &Paths, name: &Name) -> Result<Option<Vec<SettingChange>>> {
    if !Record::read(paths, name)?.is_some_and(|record| record.is_alive()) {
        return Ok(None);
    }
    reconcile(paths, &config::machine(paths, name)?, Act::Apply).map(Some)
}

/// Sets the limits of the restored definition: those of the refused one may be set already.
fn restore_limits(paths: &Paths, name: &Name) {
    if !Record::is_written(paths, name) {
        return;
    }
    let restored = config::machine(paths, name)
        .and_then(|resolved| resources::apply(paths, &resolved.machine, Act::Apply));
    if let Err(error) = restored {
        log::debug!("cannot restore the limits of machine '{name}': {error}, ignoring");
    }
}

/// Applies the definition of a running machine, and returns all settings that differed.
///
/// # Errors
/// A machine that is not running, or an invalid definition.
pub(crate) fn apply(paths: &Paths, name: &Name, act: Act) -> Result<Vec<SettingChange>> {
    reconcile(paths, &config::machine(paths, name)?, act)
}

/// Compares a running machine with its definition, and applies the differences with [`Act::Apply`].
fn reconcile(paths: &Paths, resolved: &Resolved, act: Act) -> Result<Vec<SettingChange>> {
    let name = &resolved.machine.name;
    // Read before any change: a machine in the foreground has no snapshot and is not changed by a definition.
    let Some(mut started) = snapshot::read(paths, name) else {
        return Err(Error::new(format!("the definition that machine '{name}' was started with is unknown"))
            .with_hint(format!("restart it once: coracle restart {name}")));
    };
    let read = started.clone();
    let after = snapshot::values(&resolved.settings);
    loopback_ports::warn(&resolved.machine.network);
    let mut changes = limit_changes(paths, &resolved.machine, act)?;
    let can_update = network_update::is_possible(paths, &resolved.machine);
    let mut is_updated = false;
    for one in snapshot::differences(&started, &after) {
        let text = |values: &[String]| if values.is_empty() { "-".into() } else { values.join(", ") };
        let change = |effect| SettingChange {
            effect,
            key: one.key.clone(),
            now: text(&one.before),
            defined: text(&one.after),
        };
        match one.key.as_str() {
            key if is_live(key) => {}
            DISK_KEY => {
                changes.push(change(Effect::Live));
                if act == Act::Apply {
                    quota::limit(paths, &resolved.machine.root, resolved.machine.resources.disk_max)?;
                }
            }
            key if network_update::KEYS.contains(&key) && can_update => {
                is_updated = true;
                changes.push(change(Effect::Live));
            }
            "mount" => {
                changes.extend(unbind_removed(paths, resolved, &mut started, &one, act)?);
                changes.extend(bind_added(paths, resolved, &mut started, &one, act)?);
            }
            _ => changes.push(change(Effect::Restart)),
        }
    }
    if act == Act::Apply {
        if is_updated {
            network_update::apply(paths, &resolved.machine)?;
        }
        let is_done = |key: &str| {
            key == DISK_KEY || is_live(key) || (is_updated && network_update::KEYS.contains(&key))
        };
        started.extend(after.into_iter().filter(|(key, _)| is_done(key)));
        // Without a change the file is not written: a concurrent reboot may have replaced it.
        if started != read {
            snapshot::write(paths, name, &started)?;
        }
    }
    Ok(changes)
}

/// Compares the limits of a running machine with its definition, and applies them with [`Act::Apply`].
fn limit_changes(paths: &Paths, machine: &Machine, act: Act) -> Result<Vec<SettingChange>> {
    let unenforced = resources::unenforced(&machine.resources);
    let effect_of = |key: &str| match unenforced.iter().find(|(limit, _)| *limit == key) {
        Some((_, message)) => {
            log::warn!("{message}; {}", resources::ADD_CONTROLLERS);
            Effect::NotEnforced
        }
        None => Effect::Live,
    };
    let limits = resources::apply(paths, machine, act)?
        .into_iter()
        .map(|limit| SettingChange {
            effect: effect_of(limit.key),
            key: limit.key.into(),
            now: limit.now,
            defined: limit.wanted,
        })
        .collect();
    Ok(limits)
}

/// Returns a changed mount.
fn mount_change(effect: Effect, now: &str, defined: &str) -> SettingChange {
    SettingChange { effect, key: "mount".into(), now: now.into(), defined: defined.into() }
}

/// Unmounts bind mounts removed from the definition. Runs before [`bind_added`]: a new mount may have the
/// same target. The mounts that PID 1 received at the start are locked and need a restart.
fn unbind_removed(
    paths: &Paths,
    resolved: &Resolved,
    started: &mut Values,
    mounts: &snapshot::ChangedSetting,
    act: Act,
) -> Result<Vec<SettingChange>> {
    let name = &resolved.machine.name;
    let bound = bind::added(paths, name)?;
    let mut changes = Vec::new();
    for text in mounts.before.iter().filter(|text| !mounts.after.contains(text)) {
        let target = snapshot::mount_target(text);
        let Some(binding) = bound.iter().find(|binding| Some(&binding.target) == target.as_ref()) else {
            changes.push(mount_change(Effect::Restart, text, "-"));
            continue;
        };
        changes.push(mount_change(Effect::Live, text, "-"));
        if act == Act::Apply {
            bind::unbind(paths, name, &binding.target)?;
            started.entry("mount".into()).or_default().retain(|mount| mount != text);
        }
    }
    Ok(changes)
}

/// Mounts bind mounts added to the definition. All other kinds of mounts need a restart.
fn bind_added(
    paths: &Paths,
    resolved: &Resolved,
    started: &mut Values,
    mounts: &snapshot::ChangedSetting,
    act: Act,
) -> Result<Vec<SettingChange>> {
    let mut changes = Vec::new();
    for text in mounts.after.iter().filter(|text| !mounts.before.contains(text)) {
        // Found by its target: its position in the list depends on the drop-ins.
        let target = snapshot::mount_target(text);
        let mut defined = resolved.machine.mounts.iter();
        let Some(mount) = defined.find(|mount| Some(&mount.target) == target.as_ref()) else { continue };
        let kind = Some(&mount.kind).filter(|_| !mount.is_on_root());
        let Some(MountKind::Bind { source: BindPath::Host(source), read_only, ids, setuid, .. }) = kind
        else {
            changes.push(mount_change(Effect::Restart, "-", text));
            continue;
        };
        changes.push(mount_change(Effect::Live, "-", text));
        if act == Act::Apply {
            let request = bind::BindRequest {
                name: &resolved.machine.name,
                source,
                target: &mount.target,
                read_only: *read_only,
                setuid: *setuid,
                make_target: true.into(),
                map: ids.clone(),
            };
            bind::bind(paths, &request)?;
            started.entry("mount".into()).or_default().push(text.clone());
        }
    }
    Ok(changes)
}
