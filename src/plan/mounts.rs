//! The mounts of a definition, as steps. Called by `plan`.

use super::Facts;
use super::mount_maps::MountMaps;
use super::step::{BindSource, BuildStep, IfMissing, OverlayUpper};
use crate::machine::Machine;
use crate::machine::mounts::{
    BindPath, LayerPath, Mount, MountKind, OverlayChanges, TMPFS_OPTIONS, temporary_directory,
};
use crate::sys::mount::{Depth, MountAttributes};

/// Returns the step that shows the outer root inside a directory of it that is the root.
pub(super) fn old_root(machine: &Machine, facts: &Facts, maps: &mut MountMaps) -> Option<BuildStep> {
    Some(BuildStep::Bind {
        source: BindSource::Host(machine.root.path().to_owned()),
        target: machine.root.pivot.as_ref()?.old.clone()?,
        attributes: MountAttributes { read_only: machine.root.read_only, ..MountAttributes::default() },
        depth: Depth::Tree,
        ids: maps.of_root(facts, machine.id_count()),
        missing: IfMissing::Create,
    })
}

/// Returns the steps for mounts that replace the root.
pub(super) fn on_root(machine: &Machine, facts: &Facts, maps: &mut MountMaps) -> Vec<BuildStep> {
    steps(machine, facts, maps, Mount::is_on_root)
}

/// Returns the steps for all other mounts, in the order of the definition.
pub(super) fn custom(machine: &Machine, facts: &Facts, maps: &mut MountMaps) -> Vec<BuildStep> {
    steps(machine, facts, maps, |mount| !mount.is_on_root())
}

fn steps(
    machine: &Machine,
    facts: &Facts,
    maps: &mut MountMaps,
    is_wanted: impl Fn(&Mount) -> bool,
) -> Vec<BuildStep> {
    let wanted = machine.mounts.iter().enumerate().filter(|(_, mount)| is_wanted(mount));
    wanted.map(|(number, mount)| step(number, mount, facts, machine.id_count(), maps)).collect()
}

fn step(number: usize, mount: &Mount, facts: &Facts, count: u32, maps: &mut MountMaps) -> BuildStep {
    let target = facts.targets.get(number).unwrap_or(&mount.target).clone();
    match &mount.kind {
        MountKind::Bind { source, read_only, recursive, ids, setuid, is_optional } => BuildStep::Bind {
            source: match source {
                BindPath::Host(path) => BindSource::Host(path.clone()),
                BindPath::Inside(path) => BindSource::Inside(path.clone()),
                BindPath::Temporary => BindSource::Host(facts.throwaway.join(temporary_directory(number))),
            },
            target,
            attributes: MountAttributes {
                read_only: *read_only,
                no_setuid: !setuid,
                ..MountAttributes::default()
            },
            depth: if *recursive { Depth::Tree } else { Depth::One },
            // Files of the machine have its ids already.
            ids: match source {
                BindPath::Host(_) => maps.of_bind(mount, ids, facts, count),
                BindPath::Inside(_) | BindPath::Temporary => None,
            },
            missing: if *is_optional { IfMissing::Skip } else { IfMissing::Create },
        },
        MountKind::Tmpfs { options } => {
            let words = words(options);
            let options = tmpfs_options(&words, facts.owner());
            BuildStep::Mount { kind: "tmpfs", options, attributes: tmpfs_attributes(&words), target }
        }
        MountKind::Overlay { lower, upper, map_ids, setuid } => BuildStep::Overlay {
            lower: lower.iter().map(layer).collect(),
            upper: match upper {
                OverlayChanges::None => OverlayUpper::None,
                OverlayChanges::Temporary => OverlayUpper::Temporary,
                OverlayChanges::Discarded => {
                    let directory = facts.throwaway.join(temporary_directory(number));
                    OverlayUpper::Directory(BindSource::Host(directory))
                }
                OverlayChanges::Directory(path) => OverlayUpper::Directory(layer(path)),
            },
            target,
            attributes: MountAttributes {
                read_only: *upper == OverlayChanges::None,
                no_setuid: !setuid,
                ..MountAttributes::default()
            },
            ids: if *map_ids { maps.of_host(facts, count) } else { None },
        },
        MountKind::Inaccessible { is_optional } => {
            let missing = if *is_optional { IfMissing::Skip } else { IfMissing::Error };
            BuildStep::Mask { target, missing }
        }
    }
}

fn layer(path: &LayerPath) -> BindSource {
    match path {
        LayerPath::Host(path) => BindSource::Host(path.clone()),
        LayerPath::Inside(path) => BindSource::Inside(path.clone()),
    }
}

/// Splits options into pairs. An option without a value has an empty one.
fn words(options: &str) -> Vec<(&str, &str)> {
    let words = options.split(',').map(str::trim).filter(|option| !option.is_empty());
    words.map(|option| option.split_once('=').unwrap_or((option, ""))).collect()
}

/// Returns the options of the file system. By default it is bounded, and owned by the guest's root, as
/// which the builder creates it.
fn tmpfs_options(words: &[(&str, &str)], owner: u32) -> Vec<(&'static str, String)> {
    const DEFAULTS: [(&str, &str); 3] = [("mode", "0755"), ("size", "10%"), ("nr_inodes", "400k")];
    let one = |key: &'static str| {
        let said = words.iter().rev().find(|(word, _)| *word == key);
        // nr_blocks is another way to set the size.
        let default = DEFAULTS.iter().find(|(word, _)| *word == key);
        let default = default.filter(|_| key != "size" || words.iter().all(|(word, _)| *word != "nr_blocks"));
        let (_, value) = said.or(default)?;
        let inside = value.parse::<u32>().ok().filter(|_| matches!(key, "uid" | "gid"));
        Some((key, inside.map_or_else(|| (*value).to_owned(), |id| owner.saturating_add(id).to_string())))
    };
    TMPFS_OPTIONS.into_iter().filter_map(one).collect()
}

/// Returns the attributes of the mount. Of an option and its opposite, the last one wins.
fn tmpfs_attributes(words: &[(&str, &str)]) -> MountAttributes {
    let mut attributes = MountAttributes { no_setuid: true, no_devices: true, ..MountAttributes::default() };
    for (word, _) in words {
        match *word {
            "ro" | "rw" => attributes.read_only = *word == "ro",
            "nosuid" | "suid" => attributes.no_setuid = *word == "nosuid",
            "nodev" | "dev" => attributes.no_devices = *word == "nodev",
            "noexec" | "exec" => attributes.no_exec = *word == "noexec",
            _ => {}
        }
    }
    attributes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_a_tmpfs_are_passed_on() {
        let words = words("size=1M, uid=7,noexec,noswap,mode=0700,suid,mode=1777");
        let options: Vec<String> =
            tmpfs_options(&words, 1000).into_iter().map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!(options, ["mode=1777", "uid=1007", "size=1M", "nr_inodes=400k", "noswap="]);
        let attributes = tmpfs_attributes(&words);
        assert!(
            attributes.no_exec && attributes.no_devices && !attributes.no_setuid && !attributes.read_only
        );
    }
}
