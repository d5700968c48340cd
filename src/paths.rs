//! The paths of Coracle and of systemd on the host, below one root, which tests set to a temporary directory.
//! Not below it: `/proc` and `/sys`, the running kernel's.

pub(crate) mod access;
pub(crate) mod store;

use crate::machine::name::Name;
use std::path::{Path, PathBuf};

/// The paths of Coracle below one root directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    root: PathBuf,
}

impl Default for Paths {
    fn default() -> Self {
        Self::below("/")
    }
}

impl Paths {
    /// Returns the paths below `root`, an absolute directory.
    pub fn below(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Returns `path`, an absolute path of the host, below the root.
    pub(crate) fn join(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Returns the directories of definitions; the first directory with a definition of a name wins.
    pub fn definitions(&self) -> [PathBuf; 4] {
        ["/etc", "/run", "/usr/local/lib", "/usr/lib"]
            .map(|parent| self.join(parent).join("coracle/machines.d"))
    }

    /// Returns the directories of definitions of build sessions, in the order of [`Self::definitions`].
    pub(crate) fn build_definitions(&self) -> [PathBuf; 4] {
        self.definitions().map(|directory| directory.with_file_name(BUILD_DEFINITIONS))
    }

    /// Returns the directories of the recipes of distributions; the first directory with a recipe wins.
    pub(crate) fn distributions(&self) -> [PathBuf; 2] {
        ["/etc", "/usr/lib"].map(|parent| self.join(parent).join("coracle/distributions.d"))
    }

    /// Returns the default directory of machines' trees: `/var/lib/machines`.
    pub fn images(&self) -> PathBuf {
        self.join("/var/lib/machines")
    }

    /// Returns the directories of images, in the order of the search: those of systemd.
    pub(crate) fn image_directories(&self) -> Vec<PathBuf> {
        [
            "/etc/machines",
            "/run/machines",
            "/var/lib/machines",
            "/usr/local/lib/machines",
            "/usr/lib/machines",
        ]
        .iter()
        .map(|directory| self.join(directory))
        .collect()
    }

    /// Returns the directories of trusted systemd.nspawn(5) files, in the order of the search.
    pub(crate) fn nspawn_directories(&self) -> [PathBuf; 2] {
        [self.join("/etc/systemd/nspawn"), self.systemd("nspawn")]
    }

    /// Returns the directories of units, in the order of the search (systemd.unit(5)).
    pub(crate) fn unit_directories(&self) -> [PathBuf; 10] {
        [
            "/etc/systemd/system.control",
            "/run/systemd/system.control",
            "/run/systemd/transient",
            "/etc/systemd/system",
            "/run/systemd/system",
            "/run/systemd/generator",
            "/usr/local/lib/systemd/system",
            "/usr/lib/systemd/system",
            "/lib/systemd/system",
            "/run/systemd/generator.late",
        ]
        .map(|directory| self.join(directory))
    }

    /// Returns whether a unit is enabled by the link of a target (systemd.unit(5), `WantedBy=`).
    pub(crate) fn is_wanted(&self, unit: &str, target: &str) -> bool {
        let link = Path::new(&format!("{target}.wants")).join(unit);
        self.unit_directories().iter().any(|directory| directory.join(&link).is_symlink())
    }

    /// Returns a path of [`Self::join`] without the root.
    pub(crate) fn strip(&self, path: &Path) -> PathBuf {
        path.strip_prefix(&self.root).map_or_else(|_| path.to_owned(), |path| Path::new("/").join(path))
    }

    /// Returns the directory of run-time state: `/run/coracle`.
    pub(crate) fn state(&self) -> PathBuf {
        self.join("/run/coracle")
    }

    /// Returns the directory of short-term locks: `/run/coracle/.locks`.
    pub(crate) fn locks(&self) -> PathBuf {
        self.state().join(".locks")
    }

    /// Returns the file that pins the empty mount namespace: `/run/coracle/.mounts/empty`.
    pub(crate) fn empty_mounts(&self) -> PathBuf {
        self.state().join(".mounts/empty")
    }

    /// Returns the note about the running systemd-machined: `/run/coracle/.machined`.
    pub(crate) fn machined_methods(&self) -> PathBuf {
        self.state().join(".machined")
    }

    /// Returns the run-time state directory of one machine: `/run/coracle/NAME`.
    pub(crate) fn machine(&self, name: &Name) -> PathBuf {
        self.state().join(name)
    }

    /// Returns the control socket of a machine: `/run/coracle/NAME/control`.
    pub(crate) fn control(&self, name: &Name) -> PathBuf {
        self.machine(name).join("control")
    }

    /// Returns the history of the commands of a build session: `/run/coracle/NAME/history`.
    pub(crate) fn history(&self, name: &Name) -> PathBuf {
        self.machine(name).join("history")
    }

    /// Returns the environment of a definition for the commands of a session: `/run/coracle/NAME/environment.json`.
    pub(crate) fn session_environment(&self, name: &Name) -> PathBuf {
        self.machine(name).join("environment.json")
    }

    /// Returns the path of a session for programs that look for its root: `/run/coracle/NAME/root`.
    pub(crate) fn session_root(&self, name: &Name) -> PathBuf {
        self.machine(name).join("root")
    }

    /// Returns the options of a build session, for its recovery: `/run/coracle/NAME/session.json`.
    pub(crate) fn session_request(&self, name: &Name) -> PathBuf {
        self.machine(name).join("session.json")
    }

    /// Returns the directory of sessions that outlast a reboot: `/var/lib/coracle/sessions`.
    pub(crate) fn kept_sessions(&self) -> PathBuf {
        self.kept().join("sessions")
    }

    /// Returns the file of a session that outlasts a reboot: `/var/lib/coracle/sessions/NAME.json`.
    pub(crate) fn kept_session(&self, name: &Name) -> PathBuf {
        self.kept_sessions().join(format!("{name}.json"))
    }

    /// Returns the file that exists while a machine is paused for a snapshot: `/run/coracle/NAME/paused`.
    pub(crate) fn paused(&self, name: &Name) -> PathBuf {
        self.machine(name).join("paused")
    }

    /// Returns the directory of state kept across reboots (id ranges, addresses): `/var/lib/coracle`.
    pub(crate) fn kept(&self) -> PathBuf {
        self.join("/var/lib/coracle")
    }

    /// Returns the directory of the store of images: `/var/lib/coracle/storage`.
    pub(crate) fn storage(&self) -> PathBuf {
        self.kept().join("storage")
    }

    /// Returns the record of a machine's last failure: `/var/lib/coracle/failures/NAME.json`.
    pub(crate) fn failure(&self, name: &Name) -> PathBuf {
        self.kept().join("failures").join(format!("{name}.json"))
    }

    /// Returns a path of systemd's run-time files: `/run/systemd/NAME`.
    pub(crate) fn systemd(&self, name: impl AsRef<Path>) -> PathBuf {
        self.join(SYSTEMD).join(name)
    }
}

/// The last part of the directories of definitions of build sessions.
pub(crate) const BUILD_DEFINITIONS: &str = "build.d";

/// The run-time directory of systemd and its services.
const SYSTEMD: &str = "/run/systemd";

/// The file with a system's machine id (machine-id(5)).
pub(crate) const MACHINE_ID: &str = "/etc/machine-id";

/// Returns a path of the running systemd, for its sockets and the files of its services: `/run/systemd/NAME`.
/// Like `/proc`, the running system does not depend on the root of [`Paths`].
pub(crate) fn running_systemd(name: impl AsRef<Path>) -> PathBuf {
    Path::new(SYSTEMD).join(name)
}
