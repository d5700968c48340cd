//! The further mounts of a definition, as steps.

use super::Facts;
use super::step::{BuildStep, Missing, Source};
use crate::machine::mounts::{Mount, MountKind};
use crate::sys::mount::{Attributes, Depth};

/// The steps for `mounts`, in the order given.
pub fn custom(mounts: &[Mount], facts: &Facts) -> Vec<BuildStep> {
    mounts.iter().map(|mount| step(mount, facts)).collect()
}

fn step(mount: &Mount, facts: &Facts) -> BuildStep {
    let target = mount.target.clone();
    match &mount.kind {
        MountKind::Bind { source, read_only, recursive, map_ids } => BuildStep::Bind {
            source: Source::Host(source.clone()),
            target,
            attributes: Attributes { read_only: *read_only, ..Attributes::default() },
            depth: if *recursive { Depth::Tree } else { Depth::One },
            map_ids: *map_ids && facts.user_namespace,
            missing: Missing::Error,
        },
        MountKind::Tmpfs { options } => BuildStep::Mount {
            kind: "tmpfs",
            options: tmpfs_options(options, facts.owner()),
            attributes: Attributes { no_setuid: true, no_devices: true, ..Attributes::default() },
            target,
        },
        MountKind::Inaccessible => BuildStep::Mask { target },
    }
}

/// tmpfs(5) options as pairs, owned by the guest's root where they do not say otherwise.
fn tmpfs_options(options: &str, owner: u32) -> Vec<(&'static str, String)> {
    let value = |key: &str, default: &str| {
        let given = options.split(',').find_map(|option| option.trim().strip_prefix(key)?.strip_prefix('='));
        given.unwrap_or(default).to_owned()
    };
    let id = |key: &str| {
        let inside = value(key, "0").parse::<u32>().unwrap_or(0);
        owner.saturating_add(inside).to_string()
    };
    vec![
        ("mode", value("mode", "0755")),
        ("size", value("size", "10%")),
        ("nr_inodes", value("nr_inodes", "400k")),
        ("uid", id("uid")),
        ("gid", id("gid")),
    ]
}
