//! The groups of settings that options and a .nspawn file set as a whole (systemd-nspawn(1), `--settings=`):
//! a group of one source replaces that of the other. Called by `sources`. Definitions are merged by key
//! instead.

use super::layer::{Layer, Setting};

/// The source that sets a group if options and file have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Precedence {
    /// The options.
    Options,
    /// The file.
    File,
}

/// How options and file are combined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Combination {
    /// One of them replaces the other.
    Replaced,
    /// One of them replaces the other, but only a trusted file replaces options: they may restrict the
    /// machine.
    Restricting,
    /// Options replace the file, and a file adds to the options.
    Added,
}

/// A group: its combination and the keys of its settings.
type Group = (Combination, &'static [&'static str]);

use Combination::{Added, Replaced, Restricting};

/// All groups. Each resource limit is one of its own: of several with one name the last one counts.
const GROUPS: &[Group] = &[
    (Replaced, &["boot", "as-pid2", "command"]),
    (Replaced, &["root.ephemeral"]),
    (Replaced, &["root.directory", "root.stack", "root.image"]),
    (Replaced, &["root.pivot"]),
    (Replaced, &["chdir"]),
    (Replaced, &["environment"]),
    (Restricting, &["user", "user-ids"]),
    (Added, &["security.capabilities.add", "security.capabilities.drop", "security.capabilities.ambient"]),
    (Replaced, &["boot.stop-signal"]),
    (Replaced, &["boot.personality"]),
    (Replaced, &["identity.uuid"]),
    (Restricting, &["root.read-only"]),
    (Restricting, &["root.volatile"]),
    (Replaced, &["mount"]),
    (
        Replaced,
        &[
            "network.mode",
            "network.zone",
            "network.bridge",
            "network.macvlan",
            "network.ipvlan",
            "network.interface",
            "network.veth-extra",
            "network.namespace-path",
        ],
    ),
    (Replaced, &["network.ports"]),
    (Replaced, &["users.private", "users.ownership"]),
    (Replaced, &["users.bind"]),
    (Replaced, &["users.bind-shell"]),
    (Replaced, &["boot.wait"]),
    (Restricting, &["security.syscalls.allow", "security.syscalls.deny", "security.syscalls.profile"]),
    (Restricting, &["security.address-families"]),
    (Replaced, &["identity.hostname"]),
    (Restricting, &["security.no-new-privileges"]),
    (Replaced, &["resources.oom-score-adjust"]),
    (Replaced, &["resources.cpu-affinity"]),
    (Replaced, &["network.resolv-conf"]),
    (Replaced, &["journal.link"]),
    (Replaced, &["identity.timezone"]),
    (Replaced, &["boot.suppress-sync"]),
    (Replaced, &["console"]),
    (Replaced, &["slice"]),
];

/// Removes every group from one of two layers that both set: from the file with [`Precedence::Options`], else
/// from the options.
pub(super) fn separate(options: &mut Layer, file: &mut Layer, precedence: Precedence, is_trusted: bool) {
    for (combination, keys) in GROUPS {
        let settings = || keys.iter().filter_map(|key| Setting::find(key));
        let sets = |layer: &Layer| settings().any(|setting| layer.is_set(setting));
        if !sets(options) || !sets(file) {
            continue;
        }
        let loser = match (precedence, combination) {
            (Precedence::Options, _) => &mut *file,
            (Precedence::File, Restricting) if !is_trusted => &mut *file,
            (Precedence::File, Replaced | Restricting) => &mut *options,
            (Precedence::File, Added) => continue,
        };
        settings().for_each(|setting| loser.unset(setting));
    }
}

/// Returns whether a group has the setting `key`.
#[cfg(test)]
pub(super) fn has(key: &str) -> bool {
    GROUPS.iter().any(|(_, keys)| keys.contains(&key))
}

#[cfg(test)]
mod tests {
    use super::super::layer::Origin;
    use super::super::values::RawValue;
    use super::*;

    /// Returns a layer with values.
    fn layer(values: &[(&str, RawValue)]) -> Layer {
        let mut layer = Layer::default();
        for (key, value) in values {
            layer.set(Setting::find(key).unwrap(), value, Origin::Default).unwrap();
        }
        layer
    }

    /// Returns the keys that remain in both layers.
    fn separated(precedence: Precedence, is_trusted: bool) -> [Vec<&'static str>; 2] {
        let mut options = layer(&[
            ("network.mode", RawValue::Text("none")),
            ("security.capabilities.add", RawValue::Text("CAP_BPF")),
            ("root.read-only", RawValue::Boolean(true)),
            ("chdir", RawValue::Text("/srv")),
        ]);
        let mut file = layer(&[
            ("network.zone", RawValue::Text("lan")),
            ("network.ports", RawValue::Text("80")),
            ("security.capabilities.drop", RawValue::Text("CAP_MKNOD")),
            ("root.read-only", RawValue::Boolean(false)),
        ]);
        separate(&mut options, &mut file, precedence, is_trusted);
        [options, file].map(|layer| {
            let set = super::super::layer::settings().filter(|setting| layer.is_set(setting));
            set.map(|setting| setting.key).collect()
        })
    }

    #[test]
    fn a_group_is_of_one_source() {
        let options = ["root.read-only", "network.mode", "security.capabilities.add", "chdir"];
        assert_eq!(separated(Precedence::Options, true), [options.to_vec(), vec!["network.ports"]]);
        let file = ["root.read-only", "network.zone", "network.ports", "security.capabilities.drop"];
        assert_eq!(
            separated(Precedence::File, true),
            [vec!["security.capabilities.add", "chdir"], file.to_vec()]
        );
        // An untrusted file cannot make the root writable.
        let [options, file] = separated(Precedence::File, false);
        assert!(options.contains(&"root.read-only") && !file.contains(&"root.read-only"));
    }

    #[test]
    fn groups_have_settings_once() {
        let keys: Vec<&str> = GROUPS.iter().flat_map(|(_, keys)| *keys).copied().collect();
        for (at, key) in keys.iter().enumerate() {
            assert!(Setting::find(key).is_some() && !keys[..at].contains(key), "{key}");
        }
    }
}
