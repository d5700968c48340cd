//! The facts about the host and the tree, found by `run` before a machine is planned. Plain data.

use super::BuildFacts;
use super::step::{Device, JournalDirectory, LsmLabel, ResolvConfAction, TimezoneAction};
use super::{BindOwners, BoundUser};
use crate::machine::id128::Id128;
use crate::machine::init::Init;
use std::path::PathBuf;

/// A user of the guest, from its passwd(5).
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct User {
    /// Its name.
    pub name: String,
    /// Its user id inside.
    pub uid: u32,
    /// Its group id inside.
    pub gid: u32,
    /// Its supplementary groups.
    pub groups: Vec<u32>,
    /// Its home directory.
    pub home: String,
    /// Its login shell.
    pub shell: String,
}

impl User {
    /// Returns a user that is not in passwd(5) of the tree.
    pub(crate) fn unlisted(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            uid: u32::MAX,
            gid: u32::MAX,
            groups: Vec::new(),
            home: "/".into(),
            shell: "/bin/sh".into(),
        }
    }
}

/// A device of the host for a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedDevice {
    /// Its path, below `/dev`.
    pub(crate) path: PathBuf,
    /// Its type and number.
    pub(crate) device: Device,
    /// Its mode.
    pub(crate) mode: u32,
}

/// The facts about the host and the tree that a plan depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The first host id of the machine's range. `None` without a user namespace.
    pub id_base: Option<u32>,
    /// The first id of the owners of files in the tree, if their ids are mapped to that range.
    pub mapped_from: Option<u32>,
    /// The mount points of the definition with links followed in the tree, in its order.
    pub targets: Vec<PathBuf>,
    /// The owners of the bind mounts that map them, by target.
    pub bind_owners: Vec<(PathBuf, BindOwners)>,
    /// The users of the host that the machine knows.
    pub bound_users: Vec<BoundUser>,
    /// The build user and the files of a build session. `None` for all other machines.
    pub build: Option<BuildFacts>,
    /// The directory of temporary directories.
    pub throwaway: PathBuf,
    /// The mount points of the further mounts of a root that is attached already. `None` for a plain
    /// directory.
    pub attached_targets: Option<Vec<PathBuf>>,
    /// Whether the machine gets a user namespace.
    pub user_namespace: bool,
    /// The machine id of the guest.
    pub machine_id: Id128,
    /// A new id for this boot of the guest.
    pub boot_id: Id128,
    /// The text of the host's os-release(5).
    pub host_os_release: String,
    /// The init of the tree: its path and kind.
    pub init: Option<(PathBuf, Init)>,
    /// Whether that init, of an unknown kind, may execute another init in its own process.
    pub init_has_successor: bool,
    /// Whether its programs need socketcall(2), or a security module makes it harmless.
    pub socketcall: bool,
    /// Whether `/etc/hostname` of a tree with systemd has the name of the host, for example of the one that
    /// built it.
    pub has_hosts_name: bool,
    /// Whether the host has systemd, and the machine a unit.
    pub has_systemd: bool,
    /// The user of the payload.
    pub user: User,
    /// Whether the user is looked up inside by getent(1). Then `user` is that of passwd(5), without a user id
    /// (`u32::MAX`) if there is none.
    pub finds_user: bool,
    /// The bounding set of this process, a mask of capability bits.
    pub bounding: u64,
    /// The signals that this process ignores, a mask: bit 0 is signal 1.
    pub ignored_signals: u64,
    /// Whether all ids of this process are 0, and all its permitted capabilities are effective.
    pub is_root: bool,
    /// The number of descriptors from 3 on for the payload (sd_listen_fds(3)).
    pub passed_descriptors: u32,
    /// Their names, separated by colons. `None` if the manager has passed none.
    pub descriptor_names: Option<String>,
    /// `TERM` for the payload.
    pub terminal: String,
    /// The variables of the caller about colors, for a payload on its terminal.
    pub color_variables: Vec<(&'static str, String)>,
    /// The existing ones of the host's optional device nodes (`fuse`, `net/tun`).
    pub devices: Vec<String>,
    /// The devices named by the definition.
    pub further_devices: Vec<NamedDevice>,
    /// A .network file for a guest with networkd, if the link has addresses.
    pub guest_network_file: Option<String>,
    /// A drop-in for a guest with systemd-resolved, with the host's name servers.
    pub resolved_drop_in: Option<String>,
    /// The action for the guest's resolv.conf(5). `None` if it stays unchanged.
    pub resolv_conf: Option<ResolvConfAction>,
    /// The action for the guest's localtime(5). `None` if it stays unchanged.
    pub timezone: Option<TimezoneAction>,
    /// The journal directory of the host to mount. Its mapping is planned.
    pub journal: Option<JournalDirectory>,
    /// The directory of the host with the socket that receives the guest's journal.
    pub journal_socket: Option<PathBuf>,
    /// A file of the host to bind over the guest's hosts(5), if that cannot be written.
    pub hosts_file: Option<PathBuf>,
    /// Files of the host that show the limits of the machine, each with the path inside that it covers.
    pub limit_files: Vec<(PathBuf, PathBuf)>,
    /// An empty directory of the host to attach the tree at until it becomes the root.
    pub attach_at: PathBuf,
    /// The label of PID 1 in the security module.
    pub label: Option<LsmLabel>,
    /// Whether standard input and output are a terminal, if that decides about the console.
    pub on_terminal: bool,
}

impl Facts {
    /// Returns the host id of the guest's root.
    pub(crate) fn owner(&self) -> u32 {
        self.id_base.unwrap_or(0)
    }
}
