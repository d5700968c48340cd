//! A child that attaches one mount in a running machine. Called by `control` for `bind`. Guests can unmount
//! it, but must not be able to remove its attributes. A mount namespace of the guest's own user namespace
//! locks the attributes of mounts that it copies (mount_namespaces(7)), so the mount is copied through such a
//! namespace.

use super::mounts;
use super::tree_paths::TreePaths;
use crate::channel::ChildEnd;
use crate::error::{Context, Result};
use crate::sys::mount::{self, Depth};
use crate::sys::process;
use nix::sched::{CloneFlags, setns, unshare};
use rustix::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// A mount to attach.
#[derive(Debug)]
pub(crate) struct Attach {
    /// PID 1 of the machine.
    pub(crate) leader: OwnedFd,
    /// The detached mount.
    pub(crate) tree: OwnedFd,
    /// The target inside. A symbolic link as its last component is refused.
    pub(crate) target: PathBuf,
    /// The state directory of the machine on the host, to lock the mount at. `None` if the machine has no
    /// user namespace.
    pub(crate) staging_dir: Option<PathBuf>,
    /// Whether to create a missing target.
    pub(crate) make_target: MakeTarget,
    /// The host id of the guest's root.
    pub(crate) owner: u32,
}

/// The action for a missing target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MakeTarget {
    /// It is an error.
    No,
    /// Create it, owned by the guest's root.
    Yes,
}

impl From<bool> for MakeTarget {
    fn from(wanted: bool) -> Self {
        if wanted { Self::Yes } else { Self::No }
    }
}

/// Attaches the mount, reports the result and exits.
pub(crate) fn attach(ask: Attach, link: &ChildEnd) -> ! {
    process::die_with_parent();
    // This process has more rights than the guest's root: no process of the guest may trace it.
    process::set_dumpable(false);
    let doing = format!("mount on '{}'", ask.target.display());
    super::end(link, enter_and_attach(ask).map_err(|error| super::failure(0, 1, &doing, &error)))
}

fn enter_and_attach(ask: Attach) -> Result<()> {
    let namespace = |flag| setns(&ask.leader, flag).context(|| "cannot join the machine's namespaces");
    // With the host's rights: the target is created in the guest's tree, owned by its root.
    let own = mount::open_directory(Path::new("/proc/self/ns"))?;
    let own = rustix::fs::openat(
        &own,
        "mnt",
        rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )
    .context(|| "cannot keep our mount namespace")?;
    namespace(CloneFlags::CLONE_NEWNS)?;
    let paths = TreePaths::new(mount::open_directory(Path::new("/"))?);
    if ask.make_target == MakeTarget::Yes {
        process::make_files_as(ask.owner)?;
        mounts::make_target(&paths, &ask.target, &ask.tree, ask.owner)?;
        process::make_files_as(0)?;
    }
    let place = mounts::open_target(&paths, &ask.target).map_err(|error| {
        if ask.make_target == MakeTarget::No {
            error.with_hint("create it first, or use --mkdir")
        } else {
            error
        }
    })?;
    let Some(staging_dir) = &ask.staging_dir else {
        return mount::attach(ask.tree.as_fd(), place.as_fd()).context(|| "cannot attach the mount");
    };
    setns(&own, CloneFlags::CLONE_NEWNS).context(|| "cannot return to the host's mounts")?;
    let locked = lock(&ask.tree, staging_dir, || namespace(CloneFlags::CLONE_NEWUSER))?;
    namespace(CloneFlags::CLONE_NEWNS)?;
    mount::attach(locked.as_fd(), place.as_fd()).context(|| "cannot attach the mount")
}

/// Copies a mount into a user namespace, which locks its attributes.
fn lock(tree: &OwnedFd, staging_dir: &Path, enter: impl FnOnce() -> Result<()>) -> Result<OwnedFd> {
    let new_mounts = || unshare(CloneFlags::CLONE_NEWNS).context(|| "cannot create a mount namespace");
    new_mounts()?;
    mount::propagate("/", libc::MS_PRIVATE).context(|| "cannot make mounts private")?;
    let stat = rustix::fs::fstat(tree).context(|| "cannot get the type of the mount")?;
    let is_directory = rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Directory;
    // A file cannot be mounted on a directory. The mount on the file disappears with this process's
    // namespace.
    let staging_dir = if is_directory { staging_dir.to_owned() } else { staging_dir.join("state.json") };
    let open = || {
        let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
        rustix::fs::open(&staging_dir, flags, rustix::fs::Mode::empty())
            .context(|| format!("cannot open '{}'", staging_dir.display()))
    };
    mount::attach(tree.as_fd(), open()?.as_fd()).context(|| "cannot attach the mount")?;
    enter()?;
    new_mounts()?;
    mount::copy_tree(open()?.as_fd(), Depth::Tree).context(|| "cannot copy the mount")
}
