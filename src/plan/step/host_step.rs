//! The steps of the supervisor.

use crate::channel::SyncPoint;
use std::path::PathBuf;

/// A step of the supervisor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostStep {
    /// Mounts the root of a build session at a path of the host too.
    ExposeRoot(PathBuf),
    /// Prepares the cgroups `supervisor` and `payload`.
    Cgroups,
    /// Clones the machine's PID 1 into its namespaces and its cgroup.
    Clone,
    /// Waits until the child reaches a synchronisation point.
    Await(SyncPoint),
    /// Writes the id maps of the user namespace.
    MapIds,
    /// Creates the user namespaces that map the ids of mounts.
    MapMounts,
    /// Clones the builder, which creates the mount tree of a machine with a user namespace.
    Build,
    /// Creates the pair of virtual Ethernet links and configures the addresses of both ends.
    Link,
    /// Creates further interfaces, or moves them into the machine.
    Interfaces,
    /// Adjusts the out-of-memory score of PID 1, which its processes inherit.
    OomScore(i16),
    /// Registers the machine with machined.
    Register,
    /// Waits for the end of the builder.
    Built,
    /// Releases the child from a synchronisation point.
    Release(SyncPoint),
    /// Waits until the child has executed the payload.
    Executed,
}

impl HostStep {
    /// Returns the step as one line of text.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::ExposeRoot(path) => format!("mount the root at '{}' of the host", path.display()),
            Self::Cgroups => "prepare the cgroups 'supervisor' and 'payload'".into(),
            Self::Clone => "clone the child into its namespaces".into(),
            Self::Await(sync) => format!("await the child at '{sync:?}'"),
            Self::MapIds => "map user and group ids".into(),
            Self::MapMounts => "map the ids of mounts".into(),
            Self::Build => "start building the tree".into(),
            Self::Link => "create the network link".into(),
            Self::Interfaces => "create or move further interfaces".into(),
            Self::OomScore(score) => format!("adjust the out-of-memory score to {score}"),
            Self::Register => "register with machined".into(),
            Self::Built => "await the tree".into(),
            Self::Release(sync) => format!("release the child from '{sync:?}'"),
            Self::Executed => "await the execution of the payload".into(),
        }
    }
}
