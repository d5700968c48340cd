//! The description of a machine. Created by `config`, read by `plan`. It uses no other stage and does not
//! access the host.

pub(crate) mod address_families;
pub mod bound_users;
pub(crate) mod build;
pub(crate) mod build_cache;
pub mod command;
pub mod console;
pub mod contract;
pub mod credentials;
pub mod dependencies;
pub(crate) mod descriptor_name;
pub mod egress;
pub(crate) mod hash;
pub mod health;
pub mod id128;
pub(crate) mod identity;
pub mod image_config;
pub mod image_policy;
pub mod init;
pub mod journal;
pub(crate) mod mac_addr;
pub(crate) mod mounts;
pub mod name;
pub mod network;
pub(crate) mod recipe;
pub mod registry;
pub(crate) mod resources;
pub(crate) mod root;
mod rules;
pub(crate) mod security;
pub(crate) mod size;
pub mod static_address;
pub mod switches;
pub(crate) mod syscall_profile;
pub(crate) mod unconfined;
pub(crate) mod unit_name;
pub mod usb_device;
pub mod users;
pub(crate) mod verity;

use crate::error::Error;
use credentials::Credential;
use mounts::Mount;

/// The parts of a machine, each valid separately.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parts {
    /// The program whose documented behaviour it has.
    pub contract: contract::Contract,
    /// The switches of its caller.
    pub switches: switches::Switches,
    /// Its name.
    pub name: name::Name,
    /// Its root file system.
    pub root: root::Root,
    /// Its start and stop.
    pub(crate) boot: init::Boot,
    /// Its payload.
    pub command: command::Command,
    /// Its credentials.
    pub credentials: Vec<credentials::Credential>,
    /// Further mounts, in order.
    pub mounts: Vec<mounts::Mount>,
    /// Its connection.
    pub network: network::Network,
    /// Its user namespace.
    pub users: users::Users,
    /// Users of the host that it knows.
    pub bound_users: bound_users::BoundUsers,
    /// The mapping of file owners to its ids.
    pub ownership: users::Ownership,
    /// Its capabilities, system calls and devices.
    pub security: security::Security,
    /// Its host name and machine id.
    pub(crate) identity: identity::Identity,
    /// Its journal.
    pub(crate) journal: journal::Journal,
    /// The dependencies of its unit.
    pub(crate) dependencies: dependencies::Dependencies,
    /// Its health checks.
    pub(crate) health: Option<health::Health>,
    /// Its resource limits.
    pub(crate) resources: resources::Resources,
    /// Its console.
    pub console: console::Console,
    /// Whether it is registered with machined(8).
    pub register: Register,
    /// Whether it runs in the unit of the supervisor, instead of a scope of its own.
    pub keep_unit: bool,
    /// The slice of its scope; `None` for `machine.slice`.
    pub(crate) slice: Option<String>,
    /// Further properties of its scope, each as `NAME=VALUE`.
    pub(crate) properties: Vec<String>,
    /// The build session that it is. `None` for all other machines.
    pub(crate) build: Option<build::Build>,
}

impl Parts {
    /// Returns the template of its service.
    pub(crate) fn service_template(&self) -> unit_name::ServiceTemplate {
        unit_name::ServiceTemplate::of_machinectl(self.boot.machinectl)
    }

    /// Returns its service.
    pub(crate) fn service(&self) -> String {
        self.service_template().service(&self.name)
    }

    /// Returns the directory of the host in which machined leaves mounts for the machine (`machinectl bind`):
    /// it does so for units of systemd-nspawn(1) without a user namespace.
    pub(crate) fn mount_tunnel(&self) -> Option<std::path::PathBuf> {
        let has_tunnel = self.boot.machinectl && self.users == users::Users::Host;
        has_tunnel.then(|| format!("/run/systemd/nspawn/propagate/{}", self.name).into())
    }

    /// Returns the number of ids in the machine's range.
    pub(crate) fn id_count(&self) -> u32 {
        match self.users {
            users::Users::Fixed { count, .. } => count,
            users::Users::Pick if self.security.nesting => users::NESTING_RANGE_SIZE,
            _ => users::RANGE_SIZE,
        }
    }

    /// Returns whether the machine has directories that vanish at its end.
    pub(crate) fn has_temporary_directories(&self) -> bool {
        self.root.is_throwaway() || self.mounts.iter().any(mounts::Mount::has_temporary_directory)
    }

    /// Returns the directories of the host in which root of the machine can create files of any owner of the
    /// host: the root and writable bind mounts, with mapped ids or the ids of the host. A setuid program
    /// created there by root of the machine belongs to root of the host.
    pub(crate) fn owned_trees(&self) -> Vec<&std::path::Path> {
        use mounts::{BindPath, LayerPath, MountIds, MountKind, OverlayChanges};
        let has_host_ids = !self.users.are_separate();
        // Files in a disk image are not files of the host.
        let is_tree = !matches!(self.root.source, root::RootSource::Image(_));
        let root =
            (is_tree && !self.root.is_shared() && (has_host_ids || self.ownership == users::Ownership::Map))
                .then_some(self.root.path());
        let binds = self.mounts.iter().filter_map(|mount| match &mount.kind {
            MountKind::Bind { source: BindPath::Host(source), read_only: false, ids, .. }
                if has_host_ids || *ids == MountIds::Same =>
            {
                Some(source.as_path())
            }
            MountKind::Overlay {
                upper: OverlayChanges::Directory(LayerPath::Host(upper)), map_ids, ..
            } if has_host_ids || *map_ids => Some(upper.as_path()),
            _ => None,
        });
        root.into_iter().chain(binds).collect()
    }

    /// Returns whether root inside acts with the rights of the owners of files of the host: through a mount with
    /// mapped ids (a read-only one too: it reads files of root, and connects to sockets there), or a writable one
    /// with the ids of the host.
    pub(crate) fn writes_to_host(&self) -> bool {
        use mounts::{BindPath, LayerPath, MountIds, MountKind, OverlayChanges};
        let has_host_ids = !self.users.are_separate();
        let is_caller = |ids: &MountIds| *ids == MountIds::BuildUser && !self.is_of_host_root();
        self.mounts.iter().any(|mount| match &mount.kind {
            MountKind::Bind { source: BindPath::Host(_), read_only, ids, .. } => {
                (has_host_ids && !read_only) || *ids != MountIds::Host && !is_caller(ids)
            }
            MountKind::Overlay { upper: OverlayChanges::Directory(LayerPath::Host(_)), map_ids, .. } => {
                has_host_ids || *map_ids
            }
            _ => false,
        })
    }

    /// Returns whether the build user of a session is root of the host in its bind mounts: root has begun it.
    fn is_of_host_root(&self) -> bool {
        self.build.as_ref().is_some_and(|build| build.user.caller.0 == 0 || build.user.caller.1 == 0)
    }
}

/// The registration of a machine with machined(8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Register {
    /// Registered if machined is available; otherwise a notice is logged.
    Auto,
    /// Registered; an error if machined is not available.
    Yes,
    /// Not registered.
    No,
}

/// A machine with consistent parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine(Parts);

impl Machine {
    /// Creates a machine from its parts and checks the rules across them.
    ///
    /// # Errors
    /// All broken rules, each as one error.
    pub(crate) fn new(mut parts: Parts) -> std::result::Result<Self, Vec<Error>> {
        // A mount on '/' replaces the root: nothing is written to the one below.
        parts.root.read_only |= parts.mounts.iter().any(Mount::is_on_root);
        if parts.journal.forward.is_some() {
            parts.credentials.extend(Credential::of_forwarding(&parts.credentials));
        }
        let broken = rules::broken(&parts);
        if broken.is_empty() { Ok(Self(parts)) } else { Err(broken) }
    }

    /// Removes the names of system calls and groups that `is_known` does not accept. Returns them.
    pub(crate) fn drop_unknown_calls(&mut self, is_known: impl Fn(&str) -> bool) -> Vec<String> {
        let security = &mut self.0.security;
        let lists = [&mut security.syscalls_allow, &mut security.syscalls_deny];
        lists.into_iter().flat_map(|names| names.extract_if(.., |name| !is_known(name))).collect()
    }

    /// Returns whether the host receives its journal.
    pub fn receives_journal(&self) -> bool {
        self.journal.forward.is_some()
    }

    /// Replaces the root by one of the same settings: another version of its image.
    pub(crate) fn replace_root(&mut self, root: root::Root) {
        self.0.root = root;
    }

    /// Makes a directory inside the source, by its path on the host, the root.
    pub(crate) fn pivot(&mut self, directory: std::path::PathBuf) {
        self.0.root.pivoted = Some(directory);
    }

    /// Makes the machine a build session: it holds its namespaces for commands, and `/tmp` and `/run` are
    /// directories of its root.
    ///
    /// # Errors
    /// All broken rules, each as one error.
    pub(crate) fn into_session(
        self,
        build: build::Build,
        personality: Option<init::Personality>,
    ) -> std::result::Result<Self, Vec<Error>> {
        let mut parts = self.0;
        (parts.root.is_synced, parts.root.memory_size) = (build.is_synced, build.memory_size);
        parts.build = Some(build);
        parts.boot.personality = parts.boot.personality.or(personality);
        if !matches!(parts.command.payload, command::Payload::Boot { .. }) {
            parts.command.payload = command::Payload::Hold;
            (parts.switches.tmpfs_tmp, parts.switches.tmpfs_run) = (false, false);
        }
        Self::new(parts)
    }

    /// Makes the root read-only, and leaves other file systems of its image writable.
    pub(crate) fn make_root_partition_read_only(&mut self) {
        self.0.root.read_only = true;
        self.0.root.has_writable_parts = true;
    }

    /// Makes the root read-only. Every machine can have such a root: no rule is about it.
    pub(crate) fn make_root_read_only(&mut self) {
        self.0.root.read_only = true;
    }
}

/// Read access only: checked parts do not change.
impl std::ops::Deref for Machine {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}
