//! Users of the host that a machine knows, with their home directories.

/// Users of the host in a machine (systemd-nspawn(1), `--bind-user=`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BoundUsers {
    /// Their names.
    pub(crate) names: Vec<String>,
    /// Their shell inside.
    pub(crate) shell: BoundShell,
    /// Further groups of theirs inside.
    pub(crate) groups: Vec<String>,
}

/// The login shell of users of the host.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum BoundShell {
    /// That of the machine.
    #[default]
    Default,
    /// The one that they have on the host.
    Host,
    /// This program of the machine.
    Path(std::path::PathBuf),
}

/// The ids of such users inside (systemd's `UID_BOUND_MIN`, UIDS-GIDS).
pub(crate) const IDS: std::ops::RangeInclusive<u32> = 60514..=60577;
