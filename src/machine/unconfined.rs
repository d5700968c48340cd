//! What a machine opens to root inside: namespaces shared with the host, writable settings of its kernel, and what is
//! added to the defaults of a machine. Used by `claim` for its record, and by `run` for sessions of users.

use super::Parts;
use super::security::DeviceNode;

/// An opening of a machine to its host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Opening {
    /// Its word in lists, and for rules of polkit(8).
    pub(crate) word: &'static str,
    /// The setting that opens it.
    pub(crate) key: &'static str,
}

impl Parts {
    /// Returns the openings of the machine.
    pub(crate) fn openings(&self) -> impl Iterator<Item = Opening> {
        let security = &self.security;
        let left = |added: &[String], removed: &[String]| added.iter().any(|one| !removed.contains(one));
        let has_calls = left(&security.syscalls_allow, &security.syscalls_deny);
        let has_devices = !security.devices.is_empty() || security.nodes.iter().any(DeviceNode::is_device);
        let has_capabilities = left(&security.capabilities_add, &security.capabilities_drop);
        [
            ("users", "users.private", !self.users.are_separate()),
            ("network", "network.mode", !self.network.mode.is_private()),
            ("kernel", "writable-api", self.switches.writable_api),
            ("binds", "mount", self.writes_to_host()),
            ("devices", "security.devices", has_devices),
            ("capabilities", "security.capabilities.add", has_capabilities),
            ("syscalls", "security.syscalls", has_calls || security.syscalls_profile.is_some()),
        ]
        .into_iter()
        .filter(|(.., is_open)| *is_open)
        .map(|(word, key, _)| Opening { word, key })
    }
}
