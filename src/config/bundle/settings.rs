//! The settings of a bundle, with the meaning that they have for systemd-nspawn(1). Called by `config` for
//! `--oci-bundle=`. Everything that the bundle does not mention has the default of the options, but the files
//! of the guest stay as they are.

use super::document::{Document, Hook, IdMapping, Linux, Namespace};
use super::layer_builder::LayerBuilder;
use super::{devices, mounts, process, properties, resources, seccomp};
use crate::config::layer::Layer;
use crate::config::problem::Problem;
use crate::config::users::OwnershipChoice;
use crate::config::values::{RawValue, quoted};
use crate::error::{Error, Result};
use crate::machine::identity::Timezone;
use crate::machine::journal::JournalLink;
use crate::machine::network::{Mode, ResolvConf};
use crate::machine::security::Sysctl;
use crate::machine::users::Users;
use std::path::Path;

/// Reads the settings of the bundle in a directory. Returns them with all problems: errors end the start,
/// warnings are ignored properties.
pub(in crate::config) fn load(directory: &Path) -> (Layer, Vec<Problem>) {
    let file = directory.join(super::NAME);
    match super::bytes(&file) {
        Ok(text) => layer(directory, &text),
        Err(error) => (Layer::default(), vec![Problem::new(Some(&file), &error)]),
    }
}

/// Returns the settings of the text of a bundle; see [`load`].
pub fn layer(directory: &Path, text: &[u8]) -> (Layer, Vec<Problem>) {
    let mut builder = LayerBuilder::new(directory);
    let file = directory.join(super::NAME);
    let parsed = super::parse(text).and_then(|document| {
        let value = serde_json::from_slice(text).map_err(|error| Error::new(error.to_string()))?;
        Ok((document, value))
    });
    match parsed {
        Err(error) => return (Layer::default(), vec![Problem::new(Some(&file), &error)]),
        Ok((document, value)) => {
            properties::check(&mut builder, &value);
            read(&mut builder, &document);
        }
    }
    (builder.layer, builder.problems)
}

fn read(builder: &mut LayerBuilder, document: &Document<'_>) {
    let origin = builder.origin("");
    let layer = &mut builder.layer;
    // A command, with the guest's own files.
    layer.command.boot.set(false, origin.clone());
    layer.network.resolv_conf.set(ResolvConf::Off, origin.clone());
    layer.journal.link.set(JournalLink::No, origin.clone());
    layer.identity.timezone.set(Timezone::Off, origin);
    if let Some(root) = &document.root {
        if let Some(path) = &root.path {
            let path = builder.host_path(path);
            if let Some(path) = builder.check("/root/path", path) {
                let origin = builder.origin("/root/path");
                builder.layer.root.directory.set(path, origin);
            }
        }
        if let Some(read_only) = root.readonly {
            builder.set("/root/readonly", "root.read-only", &RawValue::Boolean(read_only));
        }
    }
    if let Some(name) = &document.hostname {
        builder.set("/hostname", "identity.hostname", &RawValue::Text(name));
    }
    document.process.iter().for_each(|one| process::read(builder, one));
    mounts::read(builder, &document.mounts);
    document.linux.iter().for_each(|one| linux(builder, one));
    for (name, hooks) in &document.hooks {
        hooks.iter().enumerate().for_each(|(at, one)| hook(builder, &format!("/hooks/{name}/{at}"), one));
    }
    if document.annotations.keys().any(|name| name.is_empty()) {
        builder.refuse("/annotations", &Error::new("the name of an annotation is empty"));
    }
}

fn linux(builder: &mut LayerBuilder, linux: &Linux<'_>) {
    if let Some(list) = &linux.namespaces {
        namespaces(builder, list, linux);
    }
    devices::read(builder, &linux.devices);
    if let Some(path) = &linux.cgroups_path {
        let slice = slice_of(path);
        if let Some(slice) = builder.check("/linux/cgroupsPath", slice) {
            builder.set("/linux/cgroupsPath", "slice", &RawValue::Text(slice));
        }
    }
    linux.resources.iter().for_each(|limits| resources::read(builder, limits));
    for (key, value) in &linux.sysctl {
        let mut pointer = "/linux/sysctl".to_owned();
        super::push(&mut pointer, key);
        if let Some(sysctl) = builder.check(&pointer, Sysctl::new(key, value)) {
            let origin = builder.origin(&pointer);
            builder.layer.security.sysctls.push(sysctl, origin);
        }
    }
    linux.seccomp.iter().for_each(|profile| seccomp::read(builder, profile));
    mounts::masked(builder, &linux.masked_paths);
    mounts::read_only(builder, &linux.readonly_paths);
}

/// The kinds of namespaces. Those that every machine has of its own cannot be the host's.
const NAMESPACES: [(&str, bool); 7] = [
    ("mount", true),
    ("pid", true),
    ("ipc", true),
    ("uts", true),
    // Its own cgroup is the root of a machine without one, too.
    ("cgroup", false),
    ("network", false),
    ("user", false),
];

fn namespaces(builder: &mut LayerBuilder, list: &[Namespace<'_>], linux: &Linux<'_>) {
    const POINTER: &str = "/linux/namespaces";
    for (at, namespace) in list.iter().enumerate() {
        let (pointer, kind) = (format!("{POINTER}/{at}"), namespace.kind.as_ref());
        if NAMESPACES.iter().all(|(known, _)| *known != kind) {
            builder.refuse(&pointer, &Error::new(format!("unknown namespace {}", quoted(kind))));
        }
        if list[..at].iter().any(|earlier| earlier.kind == namespace.kind) {
            builder.refuse(&pointer, &Error::new(format!("the namespace {} is repeated", quoted(kind))));
        }
        if namespace.path.is_some() && kind != "network" {
            let error = Error::new(format!("a namespace {} cannot be joined", quoted(kind)));
            builder.refuse(&format!("{pointer}/path"), &error.with_hint("only a network namespace can be"));
        }
    }
    let find = |kind: &str| list.iter().position(|namespace| namespace.kind == kind);
    for (kind, _) in NAMESPACES.iter().filter(|(kind, is_required)| *is_required && find(kind).is_none()) {
        let error =
            Error::new(format!("a machine without its own namespace {} is not supported", quoted(kind)));
        builder.refuse(POINTER, &error.with_hint(format!("add {{\"type\": \"{kind}\"}}")));
    }
    let origin = builder.origin(POINTER);
    match find("network") {
        Some(at) => {
            if let Some(path) = &list[at].path {
                let pointer = format!("{POINTER}/{at}/path");
                builder.set(&pointer, "network.namespace-path", &RawValue::Text(path));
            }
            builder.layer.network.set_requested_mode(None, Some(origin.clone()));
        }
        None => builder.layer.network.mode.set(Mode::Host, origin.clone()),
    }
    if find("user").is_some() {
        user_range(builder, linux);
        builder.layer.users.ownership.set(OwnershipChoice::Off, origin);
    } else {
        builder.layer.users.private.set(Users::Host, origin);
    }
}

/// Sets the range of ids. Without a mapping it is that of the owner of the root.
fn user_range(builder: &mut LayerBuilder, linux: &Linux<'_>) {
    let origin = builder.origin("/linux/namespaces");
    let mut range = None;
    for (key, mappings) in [("uidMappings", &linux.uid_mappings), ("gidMappings", &linux.gid_mappings)] {
        let pointer = format!("/linux/{key}");
        let Some(mapping) = mappings.first() else { continue };
        let error = match range {
            _ if mappings.len() > 1 => "several mappings are not supported",
            _ if mapping.container_id != 0 => "a mapping must begin at 0 inside",
            Some(other) if other != *mapping => "the mappings of users and groups must be the same",
            _ => {
                range = Some(*mapping);
                continue;
            }
        };
        builder.refuse(&pointer, &Error::new(error).with_hint("use one mapping for users and groups"));
    }
    match range {
        None => builder.layer.users.private.set(Users::OfRoot, origin),
        Some(IdMapping { host_id: 0, size: 65536, .. }) => {
            builder.layer.users.private.set(Users::Identity, origin);
        }
        Some(IdMapping { host_id, size, .. }) => {
            let text = format!("{host_id}:{size}");
            builder.set("/linux/uidMappings", "users.private", &RawValue::Text(&text));
            if size < 65536 {
                builder.warn("/linux/uidMappings", "most programs require a range of 65536 ids");
            }
        }
    }
}

/// Returns the slice of a path in the tree of cgroups (systemd.slice(5)): `machine.slice/machine-web.slice`.
fn slice_of(path: &str) -> Result<&str> {
    let error = || {
        Error::new(format!("the cgroup {} is not that of a slice", quoted(path)))
            .with_hint("write the path of a slice, for example \"machine.slice/machine-web.slice\"")
    };
    let last = path.rsplit('/').next().unwrap_or_default();
    let bare = last.strip_suffix(".slice").filter(|bare| !bare.is_empty()).ok_or_else(error)?;
    let dashes = bare.match_indices('-').map(|(at, _)| at).chain([bare.len()]);
    let levels: Vec<String> = dashes.map(|end| format!("{}.slice", &bare[..end])).collect();
    if path.strip_prefix('/').unwrap_or(path) == levels.join("/") { Ok(last) } else { Err(error()) }
}

/// Checks a hook. As by systemd-nspawn(1), none is executed.
fn hook(builder: &mut LayerBuilder, pointer: &str, hook: &Hook<'_>) {
    if hook.path.is_empty() {
        builder.refuse(pointer, &Error::new("the path of the program is empty"));
    }
    if hook.args.as_ref().is_some_and(|words| words.first().is_none_or(|program| program.is_empty())) {
        builder.refuse(&format!("{pointer}/args"), &Error::new("the name of the program is empty"));
    }
    if hook.timeout == Some(0) {
        builder.refuse(&format!("{pointer}/timeout"), &Error::new("the time is 0"));
    }
    builder.warn(pointer, "hooks are not executed, ignoring");
}

#[cfg(test)]
mod tests;
