//! Creates the mount tree, with the host's rights, in a mount namespace owned by the host's user namespace
//! and in the machine's pid namespace: in a child of its own, of whose tree PID 1 receives a locked copy, or,
//! for a machine without a user namespace, in PID 1. Called by `payload` and `init_process`.

use super::host_mounts::HostMounts;
use super::overlay::Surroundings;
use super::root::OpenedRoot;
use super::tree_paths::TreePaths;
use super::{attached_root, credentials, journal, mounts, nodes, overlay, resolv_conf, rlimits, timezone};
use crate::channel::{ChildEnd, FromPayload};
use crate::error::{Context, Error, Result};
use crate::plan::step::{BuildStep, Credential, JournalDirectory};
use crate::sys::{interface, mount, process, pseudo_file, terminal};
use nix::sched::{CloneFlags, setns, unshare};
use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::OFlags;
use rustix::process::Pid;
use std::path::{Path, PathBuf};

/// The descriptors and settings that the builder gets from the supervisor.
#[derive(Debug)]
pub struct BuildInputs<'a> {
    /// The pidfd of PID 1. The builder joins its namespaces. `None` in PID 1 itself.
    pub leader: Option<BorrowedFd<'a>>,
    /// The empty mount namespace, which that of the machine is a copy of. `None` if it is one of the host's.
    pub empty: Option<BorrowedFd<'a>>,
    /// The detached mounts of an attached root, the root first.
    pub root: Vec<BorrowedFd<'a>>,
    /// The user namespaces that map the ids of mounts.
    pub id_maps: Vec<BorrowedFd<'a>>,
    /// Whether the machine has a network namespace of its own.
    pub private_network: bool,
    /// The host id of the guest's root.
    pub owner: u32,
    /// The credentials of the machine.
    pub credentials: Vec<Credential<'a>>,
    /// The supervisor's socket for notifications of the guest, not bound yet.
    pub notify: Option<BorrowedFd<'a>>,
    /// The supervisor's socket for the guest's log, not bound yet.
    pub log: Option<BorrowedFd<'a>>,
}

/// The state between steps.
#[derive(Debug)]
pub(crate) struct Builder<'a> {
    inputs: BuildInputs<'a>,
    host: HostMounts,
    opened: Option<OpenedRoot>,
    paths: Option<TreePaths>,
}

impl<'a> Builder<'a> {
    /// Creates the state before the first step.
    pub(crate) fn new(inputs: BuildInputs<'a>) -> Self {
        Self { inputs, host: HostMounts::new(), opened: None, paths: None }
    }

    /// Carries out one step. Descriptors for the supervisor are sent to it.
    pub(crate) fn run(&mut self, step: &BuildStep, link: &ChildEnd) -> Result<()> {
        let owner = self.inputs.owner;
        match step {
            BuildStep::Join => self.join(),
            BuildStep::Limits => limits_of_pid_1(owner, || rlimits::reset(Pid::INIT)),
            BuildStep::Rlimits(limits) => limits_of_pid_1(owner, || rlimits::set_for(Pid::INIT, limits)),
            BuildStep::Loopback => interface::bring_up(c"lo"),
            BuildStep::PingGroups { first, last } => ping_groups(*first, *last),
            BuildStep::Sysctl { key, value } => self.sysctl(key, value),
            BuildStep::Root { directory, ids, read_only, mount_points } => {
                self.open_root(directory, *ids, *read_only, mount_points)
            }
            BuildStep::MountNamespace => self.enter_mount_namespace(),
            BuildStep::Attach { at } => self.attach(at),
            BuildStep::AttachedRoot { at, targets, mount_points, .. } => {
                self.attach_root(at, targets, mount_points)
            }
            BuildStep::Mount { kind, options, attributes, target } => {
                let options: Vec<(&str, &str)> =
                    options.iter().map(|(key, value)| (*key, value.as_str())).collect();
                mounts::new(self.paths_mut()?, kind, &options, *attributes, target, owner)
            }
            BuildStep::Directory { path, mode } => nodes::directory(self.paths()?, path, *mode),
            BuildStep::File { path, mode, content } => {
                nodes::file(self.paths()?, path, *mode, content.as_bytes())
            }
            BuildStep::Session(file) => nodes::session(self.paths()?, file, owner),
            BuildStep::Fifo { path, mode } => nodes::fifo(self.paths()?, path, *mode),
            BuildStep::KernelLog { path } => self.kernel_log(path, link),
            BuildStep::Socket { path } => nodes::socket(self.paths()?, path),
            BuildStep::Node { path, device, mode } => {
                nodes::device(self.paths()?, &self.host, path, *device, *mode)
            }
            BuildStep::Owner { path, uid, gid } => nodes::own(self.paths()?, path, *uid, *gid),
            BuildStep::Symlink { path, to } => self.link(path, to),
            BuildStep::Bind { ids, .. } => self.bind(step, *ids),
            BuildStep::MountTunnel { source, target } => self.tunnel(source, target),
            BuildStep::Overlay { ids, .. } => self.overlay(step, *ids),
            BuildStep::Restrict { target, attributes } => {
                mounts::restrict(self.paths_mut()?, target, *attributes)
            }
            BuildStep::Mask { target, missing } => mounts::mask(self.paths()?, target, *missing),
            BuildStep::Detach { target } => mounts::detach(self.paths_mut()?, target),
            BuildStep::Credentials { target, is_world_readable } => {
                let paths = self.paths.as_mut().ok_or_else(no_root)?;
                credentials::create(paths, target, *is_world_readable, &self.inputs.credentials, owner)
            }
            BuildStep::ResolvConf(wanted) => resolv_conf::make(self.paths()?, &self.host, wanted, owner),
            BuildStep::Timezone(action) => timezone::set(self.paths()?, &self.host, action, owner),
            BuildStep::Journal(directory) => self.journal(directory),
            BuildStep::NotifySocket { path } => self.notify_socket(path),
            BuildStep::LogSocket { path } => self.log_socket(path),
            BuildStep::Console => {
                let console = nodes::console(self.paths()?)?;
                // Before the payload starts, which may ask for the size at once.
                terminal::copy_size(rustix::stdio::stdin(), console.as_fd());
                link.send(&FromPayload::Console, Some(console.as_fd()))
            }
            BuildStep::Pivot => self.change_root(),
        }
    }

    /// Returns the user namespace of a mapping, by its number.
    fn id_map(&self, number: Option<usize>) -> Result<Option<BorrowedFd<'a>>> {
        let map = |number: usize| self.inputs.id_maps.get(number).copied();
        let missing = || Error::new("the ids of a mount are not mapped yet");
        number.map(|number| map(number).ok_or_else(missing)).transpose()
    }

    /// Mounts directories combined by overlayfs.
    fn overlay(&mut self, step: &BuildStep, ids: Option<usize>) -> Result<()> {
        let (id_map, owner) = (self.id_map(ids)?, self.inputs.owner);
        let around = Surroundings { host: &self.host, id_map, owner };
        overlay::create(self.paths.as_mut().ok_or_else(no_root)?, step, &around)
    }

    /// Mounts the directory of the journal.
    fn journal(&mut self, directory: &JournalDirectory) -> Result<()> {
        let id_map = self.id_map(directory.ids)?;
        journal::bind(self.paths.as_mut().ok_or_else(no_root)?, &self.host, directory, id_map)
    }

    fn open_root(
        &mut self,
        directory: &Path,
        ids: Option<usize>,
        read_only: bool,
        mount_points: &[PathBuf],
    ) -> Result<()> {
        let userns = self.id_map(ids)?;
        self.opened = Some(OpenedRoot::open(directory, userns, read_only, mount_points)?);
        Ok(())
    }

    /// Attaches a root whose mounts exist already.
    fn attach_root(&mut self, at: &Path, targets: &[PathBuf], mount_points: &[PathBuf]) -> Result<()> {
        let (at, owner) = (self.place(at), self.inputs.owner);
        self.paths = Some(attached_root::attach(&self.inputs.root, targets, at, mount_points, owner)?);
        Ok(())
    }

    fn bind(&mut self, step: &BuildStep, ids: Option<usize>) -> Result<()> {
        let id_map = self.id_map(ids)?;
        let paths = self.paths.as_mut().ok_or_else(no_root)?;
        mounts::bind(paths, step, &self.host, id_map, self.inputs.owner)
    }

    fn tunnel(&mut self, source: &Path, target: &Path) -> Result<()> {
        let paths = self.paths.as_mut().ok_or_else(no_root)?;
        mounts::tunnel(paths, &self.host, source, target, self.inputs.owner)
    }

    /// Creates a symbolic link.
    fn link(&mut self, path: &Path, to: &Path) -> Result<()> {
        nodes::link(self.paths()?, path, to)?;
        self.paths_mut()?.link(path);
        Ok(())
    }

    /// Makes the tree the root.
    fn change_root(&self) -> Result<()> {
        let change = if self.inputs.empty.is_some() { mount::change_root } else { mount::pivot };
        change(self.paths()?.root()).context(|| "cannot change the root")
    }

    fn paths(&self) -> Result<&TreePaths> {
        self.paths.as_ref().ok_or_else(no_root)
    }

    fn paths_mut(&mut self) -> Result<&mut TreePaths> {
        self.paths.as_mut().ok_or_else(no_root)
    }

    /// Joins the namespaces that procfs, sysfs and others show. The builder was cloned into the pid
    /// namespace.
    fn join(&self) -> Result<()> {
        let mut namespaces = CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWCGROUP;
        if self.inputs.private_network {
            namespaces |= CloneFlags::CLONE_NEWNET;
        }
        let leader = self.inputs.leader.ok_or_else(|| Error::new("there is no machine to join"))?;
        setns(leader, namespaces).context(|| "cannot join the machine's namespaces")
    }

    /// Returns the place to attach the root at: over that of an empty namespace, or a directory of the host.
    fn place<'p>(&self, at: &'p Path) -> &'p Path {
        if self.inputs.empty.is_some() { Path::new("/") } else { at }
    }

    /// Attaches the opened root.
    fn attach(&mut self, at: &Path) -> Result<()> {
        let at = self.place(at);
        self.paths = Some(self.opened.take().ok_or_else(no_root)?.attach(at)?);
        // Every file and file system created from here on belongs to the guest's root.
        let owner = self.inputs.owner;
        if owner == 0 { Ok(()) } else { process::make_files_as(owner) }
    }

    /// Enters the mount namespace of the machine: that of PID 1, or a new one.
    fn enter_mount_namespace(&mut self) -> Result<()> {
        let join = |namespace: BorrowedFd<'_>| {
            setns(namespace, CloneFlags::CLONE_NEWNS).context(|| "cannot join a mount namespace")
        };
        let inputs = &self.inputs;
        self.host.leave(|| match (inputs.leader, inputs.empty) {
            (Some(leader), _) => join(leader),
            (None, Some(empty)) => join(empty).and_then(|()| new_mount_namespace()),
            (None, None) => {
                new_mount_namespace()?;
                mount::propagate("/", libc::MS_PRIVATE).context(|| "cannot keep mounts from the host")
            }
        })
    }

    /// Sets a parameter of the joined namespaces.
    fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = Path::new("/proc/sys").join(key.replace('.', "/"));
        let doing = || format!("cannot write '{}'", path.display());
        let file = self.paths()?.open_as(&path, OFlags::WRONLY).context(doing)?;
        rustix::io::write(&file, value.as_bytes()).context(doing)?;
        Ok(())
    }

    fn kernel_log(&self, path: &Path, link: &ChildEnd) -> Result<()> {
        nodes::fifo(self.paths()?, path, 0o600)?;
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOFOLLOW;
        let log = self.paths()?.open_as(path, flags).context(|| "cannot open the kernel's log")?;
        link.send(&FromPayload::KernelLog, Some(log.as_fd()))
    }

    /// Binds the supervisor's notification socket to its path in the machine.
    fn notify_socket(&self, path: &Path) -> Result<()> {
        let Some(socket) = self.inputs.notify else { return Ok(()) };
        nodes::bind_socket(self.paths()?, socket, path, 0o200)
    }

    /// Binds the supervisor's log socket, writable for all users of the machine. A log daemon of the guest
    /// replaces it with its own socket.
    fn log_socket(&self, path: &Path) -> Result<()> {
        let Some(socket) = self.inputs.log else { return Ok(()) };
        nodes::bind_socket(self.paths()?, socket, path, 0o666)
    }
}

/// Sets limits of PID 1, which in the machine's pid namespace is the waiting init child.
fn limits_of_pid_1(owner: u32, set: impl FnOnce() -> Result<()>) -> Result<()> {
    if owner == 0 {
        return set();
    }
    let done = process::as_effective(owner, set);
    // A change of ids cancels PR_SET_PDEATHSIG(2const).
    process::die_with_parent();
    done
}

/// Sets the range of groups in the joined network namespace: procfs shows the namespace of the writing
/// process, and the kernel reads ids in its user namespace.
fn ping_groups(first: u32, last: u32) -> Result<()> {
    let file = "/proc/sys/net/ipv4/ping_group_range";
    match pseudo_file::write(file, format!("{first} {last}\n")) {
        // The host is itself a container with read-only settings.
        Err(error) if error.kind() == std::io::ErrorKind::ReadOnlyFilesystem => Ok(()),
        other => other.context(|| format!("cannot write '{file}'")),
    }
}

fn new_mount_namespace() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context(|| "cannot create a mount namespace")
}

fn no_root() -> Error {
    Error::new("the root is not attached yet")
}
