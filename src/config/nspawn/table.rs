//! The settings of systemd.nspawn(5), of systemd 262: one row each. A row names the
//! key of coracle.toml(5), which belongs to a group of `groups`.

use super::special;
use super::{Assignment, NspawnReader, Refusal};

/// The sections.
pub(super) const SECTIONS: [&str; 3] = ["Exec", "Files", "Network"];

/// A setting.
pub(super) struct Row {
    /// Its section.
    pub(super) section: &'static str,
    /// Its key.
    pub(super) key: &'static str,
    /// Its meaning.
    pub(super) action: Action,
    /// Whether only a trusted file can have it.
    pub(super) is_privileged: bool,
    /// Whether an invalid value is an error: those of the network, without which the machine would have another
    /// one, possibly that of the host.
    pub(super) is_required: bool,
}

/// Reads a setting with a meaning of its own.
pub(super) type SpecialAction = fn(&mut NspawnReader, &Row, &Assignment) -> Result<(), Refusal>;

/// The meaning of a setting. Texts are keys of coracle.toml(5), or of options without one.
#[derive(Clone, Copy)]
pub(super) enum Action {
    /// A boolean.
    Boolean(&'static str),
    /// A single value.
    Value(&'static str),
    /// A list of names without quotes.
    Names(&'static str),
    /// A list of words, possibly in quotes.
    Words(&'static str),
    /// A meaning of its own.
    Special(SpecialAction),
}

impl Row {
    const fn new(section: &'static str, key: &'static str, action: Action) -> Self {
        Self { section, key, action, is_privileged: false, is_required: false }
    }

    const fn privileged(self) -> Self {
        Self { is_privileged: true, ..self }
    }

    const fn required(self) -> Self {
        Self { is_required: true, ..self }
    }
}

const fn exec(key: &'static str, action: Action) -> Row {
    Row::new("Exec", key, action)
}

const fn files(key: &'static str, action: Action) -> Row {
    Row::new("Files", key, action)
}

/// Returns a row of the section that untrusted files cannot have.
const fn network(key: &'static str, action: Action) -> Row {
    Row::new("Network", key, action).privileged()
}

/// Returns the row of a resource limit.
const fn limit(key: &'static str) -> Row {
    exec(key, Special(special::limit)).privileged()
}

use Action::{Boolean, Names, Special, Value, Words};

/// All settings, in the order of systemd.nspawn(5).
const ROWS: &[Row] = &[
    exec("Boot", Special(special::boot)),
    exec("Ephemeral", Boolean("root.ephemeral")).privileged(),
    exec("ProcessTwo", Special(special::process_two)),
    exec("Parameters", Words("command")),
    exec("Environment", Words("environment")),
    exec("User", Value("user")),
    exec("WorkingDirectory", Value("chdir")),
    exec("PivotRoot", Value("root.pivot")),
    exec("Capability", Names("security.capabilities.add")).privileged(),
    exec("DropCapability", Names("security.capabilities.drop")),
    exec("AmbientCapability", Names("security.capabilities.ambient")).privileged(),
    exec("NoNewPrivileges", Boolean("security.no-new-privileges")),
    exec("KillSignal", Value("boot.stop-signal")),
    exec("Personality", Value("boot.personality")),
    exec("MachineID", Value("identity.uuid")).privileged(),
    exec("PrivateUsers", Special(special::private_users)).privileged(),
    exec("PrivateUsersDelegate", Special(special::delegate)).privileged(),
    exec("NotifyReady", Special(special::notify_ready)),
    exec("SystemCallFilter", Special(special::system_call_filter)),
    exec("RestrictAddressFamilies", Special(special::address_families)),
    limit("LimitCPU"),
    limit("LimitFSIZE"),
    limit("LimitDATA"),
    limit("LimitSTACK"),
    limit("LimitCORE"),
    limit("LimitRSS"),
    limit("LimitNOFILE"),
    limit("LimitAS"),
    limit("LimitNPROC"),
    limit("LimitMEMLOCK"),
    limit("LimitLOCKS"),
    limit("LimitSIGPENDING"),
    limit("LimitMSGQUEUE"),
    limit("LimitNICE"),
    limit("LimitRTPRIO"),
    limit("LimitRTTIME"),
    exec("OOMScoreAdjust", Value("resources.oom-score-adjust")).privileged(),
    exec("CPUAffinity", Special(special::processors)).privileged(),
    exec("Hostname", Value("identity.hostname")),
    exec("ResolvConf", Special(special::resolv_conf)),
    exec("Timezone", Special(special::timezone)),
    exec("LinkJournal", Value("journal.link")).privileged(),
    exec("SuppressSync", Boolean("boot.suppress-sync")),
    files("ReadOnly", Boolean("root.read-only")),
    files("Volatile", Special(special::volatile)),
    files("Bind", Special(special::bind)).privileged(),
    files("BindReadOnly", Special(special::bind)).privileged(),
    files("BindUser", Special(special::bind_user)).privileged(),
    files("BindUserShell", Special(special::bind_user_shell)).privileged(),
    files("TemporaryFileSystem", Special(special::tmpfs)).privileged(),
    files("Inaccessible", Special(special::inaccessible)).privileged(),
    files("Overlay", Special(special::overlay)).privileged(),
    files("OverlayReadOnly", Special(special::overlay)).privileged(),
    files("PrivateUsersOwnership", Special(special::ownership)).privileged(),
    files("PrivateUsersChown", Special(special::chown)).privileged(),
    network("Private", Special(special::private)),
    network("NamespacePath", Value("network.namespace-path")).required(),
    network("VirtualEthernet", Special(special::virtual_ethernet)),
    network("VirtualEthernetExtra", Value("network.veth-extra")).required(),
    network("Interface", Names("network.interface")).required(),
    network("MACVLAN", Names("network.macvlan")).required(),
    network("IPVLAN", Names("network.ipvlan")).required(),
    network("Bridge", Value("network.bridge")).required(),
    network("Zone", Value("network.zone")).required(),
    network("Port", Special(special::port)),
];

/// Returns the row of a key.
pub(super) fn find(section: &str, key: &str) -> Option<&'static Row> {
    ROWS.iter().find(|row| row.section == section && row.key == key)
}

/// Iterates over the sections and keys of all settings, in the order of systemd.nspawn(5).
pub fn keys() -> impl Iterator<Item = (&'static str, &'static str)> {
    ROWS.iter().map(|row| (row.section, row.key))
}

#[cfg(test)]
mod tests {
    use super::super::super::groups;
    use super::super::super::layer::Setting;
    use super::*;

    #[test]
    fn rows_name_settings_of_a_group() {
        for row in ROWS {
            if let Boolean(key) | Value(key) | Names(key) | Words(key) = row.action {
                assert!(Setting::find(key).is_some() && groups::has(key), "{key}");
            }
        }
    }

    #[test]
    fn every_setting_has_one_row() {
        let all: Vec<_> = keys().collect();
        assert_eq!(all.len(), 65);
        for (at, key) in all.iter().enumerate() {
            assert!(!all[..at].contains(key) && SECTIONS.contains(&key.0), "{key:?}");
        }
    }
}
