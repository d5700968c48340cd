//! `mounts`, `linux.maskedPaths` and `linux.readonlyPaths` of a bundle. Called by `settings`.

use super::document::{BundleMount, Texts};
use super::layer_builder::LayerBuilder;
use crate::config::mounts::{MountEntry, MountType, not_root};
use crate::config::values::{RawValue, Value, quoted};
use crate::error::{Error, Result};
use crate::machine::mounts::{BindPath, MountIds};
use std::path::{Path, PathBuf};

/// Paths with mounts of every machine: a bundle cannot replace them.
const OWN: [&str; 22] = [
    "/dev",
    "/dev/mqueue",
    "/dev/pts",
    "/dev/shm",
    "/proc",
    "/proc/acpi",
    "/proc/apm",
    "/proc/asound",
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/kallsyms",
    "/proc/kcore",
    "/proc/keys",
    "/proc/scsi",
    "/proc/sys",
    "/proc/sys/net",
    "/proc/sysrq-trigger",
    "/proc/timer_list",
    "/run",
    "/sys",
    "/tmp",
];

/// Options without an effect in a machine: propagation, and times of access.
const INERT: [&str; 22] = [
    "private",
    "rprivate",
    "shared",
    "rshared",
    "slave",
    "rslave",
    "unbindable",
    "runbindable",
    "atime",
    "noatime",
    "diratime",
    "nodiratime",
    "relatime",
    "norelatime",
    "strictatime",
    "nostrictatime",
    "lazytime",
    "async",
    "sync",
    "dirsync",
    "nomand",
    "defaults",
];

fn is_own(path: &Path) -> bool {
    let others = ["/sys/fs/cgroup", "/sys/fs/selinux"];
    OWN.iter().any(|own| path == Path::new(own)) || others.iter().any(|own| path.starts_with(own))
}

/// Sets the mounts, in their order.
pub(super) fn read(builder: &mut LayerBuilder, mounts: &[BundleMount<'_>]) {
    for (at, mount) in mounts.iter().enumerate() {
        let pointer = format!("/mounts/{at}");
        let entry = entry(builder, mount);
        if let Some(Some(entry)) = builder.check(&pointer, entry) {
            push(builder, &pointer, entry);
        }
    }
}

fn push(builder: &mut LayerBuilder, pointer: &str, entry: MountEntry) {
    let origin = builder.origin(pointer);
    builder.layer.mounts.entries.push(entry, origin);
}

/// Returns a mount. `None` for one that every machine has.
fn entry(builder: &LayerBuilder, mount: &BundleMount<'_>) -> Result<Option<MountEntry>> {
    let target = PathBuf::read(&RawValue::Text(&mount.destination))?;
    if is_own(&target) {
        return Ok(None);
    }
    match mount.kind.as_deref() {
        None | Some("bind" | "none" | "") => bind(builder, mount, target).map(Some),
        Some("tmpfs") => {
            let options: Vec<&str> =
                mount.options.iter().map(AsRef::as_ref).filter(|word| !INERT.contains(word)).collect();
            let options = (!options.is_empty()).then(|| options.join(","));
            if let Some(options) = &options {
                String::read(&RawValue::Text(options))?;
            }
            Ok(Some(MountEntry {
                kind: MountType::Tmpfs,
                target: Some(target),
                options,
                ..MountEntry::default()
            }))
        }
        Some(other) => Err(Error::new(format!("mounts of the type {} are not supported", quoted(other)))
            .with_hint("mount it on the host, and use a mount of the type \"bind\"")),
    }
}

fn bind(builder: &LayerBuilder, mount: &BundleMount<'_>, target: PathBuf) -> Result<MountEntry> {
    let source = match mount.source.as_deref() {
        None | Some("") => BindPath::Temporary,
        Some(source) => BindPath::Host(builder.host_path(source)?),
    };
    let mut entry = MountEntry {
        kind: MountType::Bind,
        source: Some(source),
        target: Some(target),
        // As in systemd-nspawn(1).
        setuid: Some(true),
        ..MountEntry::default()
    };
    for option in &mount.options {
        match option.as_ref() {
            "rbind" => entry.recursive = Some(true),
            "bind" | "norbind" => entry.recursive = Some(false),
            "ro" | "rro" => entry.read_only = Some(true),
            "rw" | "rrw" => entry.read_only = Some(false),
            "nosuid" | "rnosuid" => entry.setuid = Some(false),
            "suid" | "rsuid" => entry.setuid = Some(true),
            "noidmap" => entry.map_ids = Some(MountIds::Host),
            "idmap" => entry.map_ids = Some(MountIds::Same),
            "rootidmap" => entry.map_ids = Some(MountIds::Root),
            "owneridmap" => entry.map_ids = Some(MountIds::Owner),
            other if INERT.contains(&other) => {}
            other => {
                return Err(Error::new(format!("unknown option {} of a bind mount", quoted(other)))
                    .with_hint("use bind, rbind, ro, rw, suid, nosuid, idmap, rootidmap, owneridmap"));
            }
        }
    }
    Ok(entry)
}

/// Sets the paths that are covered, if they exist.
pub(super) fn masked(builder: &mut LayerBuilder, paths: &Texts<'_>) {
    each(builder, "/linux/maskedPaths", paths, |target| {
        Ok(MountEntry { kind: MountType::Inaccessible, target: Some(not_root(target)?), ..optional() })
    });
}

/// Sets the paths that are read-only, if they exist.
pub(super) fn read_only(builder: &mut LayerBuilder, paths: &Texts<'_>) {
    each(builder, "/linux/readonlyPaths", paths, |target| {
        let target = not_root(target)?;
        let source = Some(BindPath::Inside(target.clone()));
        let kind = MountType::Bind;
        Ok(MountEntry {
            kind,
            source,
            target: Some(target),
            read_only: Some(true),
            setuid: Some(true),
            ..optional()
        })
    });
}

fn optional() -> MountEntry {
    MountEntry { is_optional: true, ..MountEntry::default() }
}

/// Adds a mount for each of several paths that have no mount of every machine.
fn each(
    builder: &mut LayerBuilder,
    pointer: &str,
    paths: &Texts<'_>,
    entry: impl Fn(PathBuf) -> Result<MountEntry>,
) {
    for (at, text) in paths.iter().enumerate() {
        let pointer = format!("{pointer}/{at}");
        let Some(path) = builder.check(&pointer, PathBuf::read(&RawValue::Text(text))) else { continue };
        if is_own(&path) {
            continue;
        }
        if let Some(entry) = builder.check(&pointer, entry(path)) {
            push(builder, &pointer, entry);
        }
    }
}
