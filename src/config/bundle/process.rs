//! `process` of a bundle: the payload, its user, limits and rights. Called by `settings`.

use super::document::{BundleRlimit, BundleUser, CapabilitySets, ConsoleSize, Process, Quantity, Texts};
use super::layer_builder::LayerBuilder;
use crate::config::command::{Argument, Variable};
use crate::config::security::{AmbientCapability, Capability};
use crate::config::values::{INFINITY, RawValue, Value, quoted};
use crate::error::{Error, Result};
use crate::machine::command::UserIds;
use crate::machine::console::Console;
use crate::machine::security::CAPABILITIES;

/// Sets the settings of the process.
pub(super) fn read(builder: &mut LayerBuilder, process: &Process<'_>) {
    if process.terminal == Some(false) {
        let origin = builder.origin("/process/terminal");
        builder.layer.console.console.set(Console::Pipe, origin);
    }
    process.console_size.iter().for_each(|size| console_size(builder, size));
    if let Some(directory) = &process.cwd {
        builder.set("/process/cwd", "chdir", &RawValue::Text(directory));
    }
    for (at, text) in process.env.iter().enumerate() {
        let pointer = format!("/process/env/{at}");
        if let Some(variable) = builder.check(&pointer, Variable::read(&RawValue::Text(text))) {
            let origin = builder.origin(&pointer);
            builder.layer.command.environment.push(variable, origin);
        }
    }
    process.args.iter().for_each(|words| arguments(builder, words));
    rlimits(builder, &process.rlimits);
    process.capabilities.iter().for_each(|sets| capabilities(builder, sets));
    if let Some(no_new_privileges) = process.no_new_privileges {
        let raw = RawValue::Boolean(no_new_privileges);
        builder.set("/process/noNewPrivileges", "security.no-new-privileges", &raw);
    }
    if let Some(score) = process.oom_score_adj {
        builder.set("/process/oomScoreAdj", "resources.oom-score-adjust", &RawValue::Integer(score));
    }
    process.user.iter().for_each(|ids| user(builder, ids));
}

/// Checks the size of the console, which is that of the caller's terminal.
fn console_size(builder: &mut LayerBuilder, size: &ConsoleSize) {
    for (key, number) in [("height", size.height), ("width", size.width)] {
        if !(1..=u64::from(u16::MAX)).contains(&number) {
            let error = Error::new(format!("{number} is not a size of a terminal"));
            builder.refuse(&format!("/process/consoleSize/{key}"), &error.with_hint("use 1 to 65535"));
        }
    }
    builder.warn("/process/consoleSize", "the size is that of the terminal of the caller, ignoring");
}

fn arguments(builder: &mut LayerBuilder, words: &Texts<'_>) {
    if words.first().is_none_or(|program| program.is_empty()) {
        let error = Error::new("the program is empty").with_hint("name a program of the machine");
        return builder.refuse("/process/args", &error);
    }
    for (at, word) in words.iter().enumerate() {
        let pointer = format!("/process/args/{at}");
        if let Some(word) = builder.check(&pointer, Argument::read(&RawValue::Text(word))) {
            let origin = builder.origin(&pointer);
            builder.layer.command.command.push(word, origin);
        }
    }
}

fn rlimits(builder: &mut LayerBuilder, limits: &[BundleRlimit<'_>]) {
    let shown = |Quantity(limit): Quantity| limit.map_or(INFINITY.to_owned(), |limit| limit.to_string());
    for (at, limit) in limits.iter().enumerate() {
        let pointer = format!("/process/rlimits/{at}");
        let kind = limit.kind.as_ref();
        let Some(name) = kind.strip_prefix("RLIMIT_") else {
            let error = Error::new(format!("unknown resource limit {}", quoted(kind)));
            builder.refuse(&pointer, &error.with_hint("write a name that begins with RLIMIT_"));
            continue;
        };
        if limits[..at].iter().any(|earlier| earlier.kind == limit.kind) {
            builder.refuse(&pointer, &Error::new(format!("the limit {} is repeated", quoted(kind))));
            continue;
        }
        let text = format!("{name}={}:{}", shown(limit.soft), shown(limit.hard));
        builder.set(&pointer, "resources.rlimits", &RawValue::Text(&text));
    }
}

/// Sets the capabilities. Those that the program has after its execution follow from the bounding, the
/// inheritable and the ambient set (capabilities(7)).
fn capabilities(builder: &mut LayerBuilder, sets: &CapabilitySets<'_>) {
    let bounding = names(builder, "bounding", sets.bounding.as_ref());
    let inheritable = names(builder, "inheritable", sets.inheritable.as_ref());
    let ambient = names(builder, "ambient", sets.ambient.as_ref());
    names(builder, "effective", sets.effective.as_ref());
    names(builder, "permitted", sets.permitted.as_ref());
    if let Some(bounding) = bounding {
        let origin = builder.origin("/process/capabilities/bounding");
        let security = &mut builder.layer.security;
        for name in CAPABILITIES {
            let Ok(capability) = Capability::read(&RawValue::Text(name)) else { continue };
            let list = match bounding.contains(&capability) {
                true => &mut security.capabilities_add,
                false => &mut security.capabilities_drop,
            };
            list.push(capability, origin.clone());
        }
    }
    // As in systemd-nspawn(1) since 262 they are inheritable, too.
    let origin = builder.origin("/process/capabilities/ambient");
    for capability in ambient.into_iter().flatten() {
        if let Ok(ambient) = AmbientCapability::read(&RawValue::Text(capability.name())) {
            builder.layer.security.capabilities_ambient.push(ambient, origin.clone());
        }
    }
    let origin = builder.origin("/process/capabilities/inheritable");
    for capability in inheritable.into_iter().flatten() {
        builder.layer.security.capabilities_inheritable.push(capability, origin.clone());
    }
}

/// Returns the capabilities of a set. `None` if the bundle does not have it.
fn names(builder: &mut LayerBuilder, key: &str, set: Option<&Texts<'_>>) -> Option<Vec<Capability>> {
    let read = |text: &str| -> Result<Capability> {
        if !text.starts_with("CAP_") {
            return Err(Error::new(format!("unknown capability {}", quoted(text)))
                .with_hint("write a name that begins with CAP_"));
        }
        Capability::read(&RawValue::Text(text))
    };
    let mut found = Vec::new();
    for (at, text) in set?.iter().enumerate() {
        found.extend(builder.check(&format!("/process/capabilities/{key}/{at}"), read(text)));
    }
    Some(found)
}

fn user(builder: &mut LayerBuilder, user: &BundleUser) {
    let named = [("uid", user.uid), ("gid", user.gid)].into_iter();
    let groups = user.additional_gids.iter().map(|gid| ("additionalGids", *gid));
    for (key, id) in named.chain(groups) {
        if id == u32::MAX {
            let error = Error::new(format!("{id} is not an id")).with_hint("use at most 4294967294");
            builder.refuse(&format!("/process/user/{key}"), &error);
        }
    }
    let ids = UserIds { uid: user.uid, gid: user.gid, groups: user.additional_gids.clone() };
    let origin = builder.origin("/process/user");
    builder.layer.command.ids.set(ids, origin);
}
