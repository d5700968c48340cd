//! What a machine is meant to be: the second stage. Made by `config`, read by `plan`. It can be
//! read alone: nothing here touches the host.

pub mod command;
pub mod console;
pub mod egress;
pub mod identity;
pub mod init;
pub mod mounts;
pub mod name;
pub mod network;
pub mod resources;
pub mod root;
mod rules;
pub mod security;
pub mod users;

use crate::error::Error;

/// Everything a machine is made of, each part valid by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parts {
    /// Its name.
    pub name: name::Name,
    /// Its root file system.
    pub root: root::Root,
    /// How it starts and stops.
    pub boot: init::Boot,
    /// What runs in it.
    pub command: command::Command,
    /// Further mounts, in order.
    pub mounts: Vec<mounts::Mount>,
    /// Its connection.
    pub network: network::Network,
    /// Its user namespace.
    pub users: users::Users,
    /// How files get to its ids.
    pub ownership: users::Ownership,
    /// What it may do to the kernel.
    pub security: security::Security,
    /// Who it says it is.
    pub identity: identity::Identity,
    /// Its limits.
    pub resources: resources::Resources,
    /// Its console.
    pub console: console::Console,
    /// Whether machined(8) is told of it.
    pub register: Register,
    /// Whether it runs in the unit we are in already, instead of a scope of its own.
    pub keep_unit: bool,
    /// The slice of its scope, `machine.slice` where not given.
    pub slice: Option<String>,
}

impl Parts {
    /// The directories of the host in which root of the machine creates files of any owner of the host: the root and
    /// writable bind mounts, where ids are mapped or the machine has the host's. A setuid program left there by root of
    /// the machine is one of root of the host.
    pub fn owned_trees(&self) -> Vec<&std::path::Path> {
        use mounts::MountKind;
        let has_host_ids = matches!(self.users, users::Users::Host | users::Users::Identity);
        let root = (!self.root.read_only && (has_host_ids || self.ownership == users::Ownership::Map))
            .then_some(self.root.directory.as_path());
        let binds = self.mounts.iter().filter_map(|mount| match &mount.kind {
            MountKind::Bind { source, read_only: false, map_ids, .. } if has_host_ids || *map_ids => {
                Some(source.as_path())
            }
            _ => None,
        });
        root.into_iter().chain(binds).collect()
    }
}

/// Whether machined(8) is told of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Register {
    /// Told where there is a machined; its absence is a notice.
    Auto,
    /// Told; its absence is an error.
    Yes,
    /// Not told.
    No,
}

/// A machine whose parts agree with one another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine(Parts);

impl Machine {
    /// Checks the rules across parts.
    ///
    /// # Errors
    /// All rules broken, each as one error.
    pub fn new(parts: Parts) -> std::result::Result<Self, Vec<Error>> {
        let broken = rules::broken(&parts);
        if broken.is_empty() { Ok(Self(parts)) } else { Err(broken) }
    }
}

/// Reading only: what was checked stays as it was.
impl std::ops::Deref for Machine {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}
