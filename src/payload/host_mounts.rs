//! The host's mount namespace, for a builder that has left it: bind mounts have their sources there. Called
//! by the builder's steps.

use crate::error::{Context, Result};
use crate::sys::{guest_files, mount};
use nix::sched::{CloneFlags, setns};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use std::path::Path;

/// The mount namespace of the host.
#[derive(Debug)]
pub(crate) struct HostMounts {
    /// It, and the directory of this process in the host's procfs. `None` as long as this process is in it.
    left: Option<(OwnedFd, OwnedFd)>,
}

impl HostMounts {
    /// Begins in the host's mount namespace.
    pub(crate) const fn new() -> Self {
        Self { left: None }
    }

    /// Leaves it for another mount namespace by `enter`.
    ///
    /// # Errors
    /// Those of `enter`, or there is no procfs.
    pub(crate) fn leave(&mut self, enter: impl FnOnce() -> Result<()>) -> Result<()> {
        let directory = mount::open_directory(Path::new("/proc/self"))?;
        let host = current(&directory)?;
        enter()?;
        self.left = Some((host, directory));
        Ok(())
    }

    /// Calls a function in the host's mount namespace. The root and the working directory are those of the
    /// namespaces then and afterwards (setns(2)).
    ///
    /// # Errors
    /// Those of the function and of setns(2).
    pub(crate) fn visit<T>(&self, act: impl FnOnce() -> Result<T>) -> Result<T> {
        let Some((host, directory)) = &self.left else { return act() };
        let own = current(directory)?;
        setns(host, CloneFlags::CLONE_NEWNS).context(|| "cannot enter the host's mount namespace")?;
        let result = act();
        setns(&own, CloneFlags::CLONE_NEWNS).context(|| "cannot return to the machine's mount namespace")?;
        result
    }

    /// Opens the regular file behind a descriptor (`O_PATH`). Where the builder is, there may be no procfs yet, or that
    /// of the guest.
    ///
    /// # Errors
    /// `EINVAL` for another kind of file, else any error of open(2).
    pub(super) fn reopen(&self, place: &OwnedFd, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let host = self.left.as_ref().map(|(_, directory)| directory.as_fd());
        guest_files::reopen_file_by(host, place, flags)
    }
}

/// Opens the present mount namespace of this process.
fn current(directory: &OwnedFd) -> Result<OwnedFd> {
    rustix::fs::openat(directory, "ns/mnt", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .context(|| "cannot open the mount namespace of this process")
}
