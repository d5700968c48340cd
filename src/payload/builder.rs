//! The builder: a child with the host's rights, in a mount namespace of the host's and in the
//! machine's pid namespace, that makes the tree PID 1 will receive a locked copy of.

use super::tree_paths::TreePaths;
use super::{check, limits, mounts, nodes, resolv_conf};
use crate::error::{Context, Error, Result};
use crate::plan::step::BuildStep;
use crate::sys::{mount, process};
use nix::sched::CloneFlags;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::OFlags;
use std::path::Path;

/// What the builder stands on.
#[derive(Debug)]
pub struct BuildInputs {
    /// PID 1, whose namespaces are joined.
    pub leader: OwnedFd,
    /// The user namespace by which ids of trees are mapped.
    pub id_map: Option<OwnedFd>,
    /// Whether it has a network namespace of its own.
    pub private_network: bool,
    /// The host id of the guest's root.
    pub owner: u32,
    /// The socket the guest notifies us at, not bound yet.
    pub notify: Option<OwnedFd>,
    /// The supervisor's socket for what the guest logs.
    pub log: Option<OwnedFd>,
}

/// The state between steps.
#[derive(Debug)]
pub struct Builder {
    inputs: BuildInputs,
    paths: Option<TreePaths>,
    console: Option<OwnedFd>,
    kernel_log: Option<OwnedFd>,
}

impl Builder {
    /// Before the first step.
    pub fn new(inputs: BuildInputs) -> Self {
        Self { inputs, paths: None, console: None, kernel_log: None }
    }

    /// The descriptors of the console and of the kernel's log, at the end.
    pub fn into_descriptors(self) -> (Option<OwnedFd>, Option<OwnedFd>) {
        (self.console, self.kernel_log)
    }

    /// Does one step.
    pub fn run(&mut self, step: &BuildStep) -> Result<()> {
        let owner = self.inputs.owner;
        match step {
            BuildStep::Join => self.join(),
            BuildStep::Limits => {
                // In the machine's pid namespace PID 1 is the child that waits.
                let reset = || limits::reset(rustix::process::Pid::INIT);
                let done = process::as_effective(owner, reset);
                // A change of ids cancels PR_SET_PDEATHSIG(2const).
                super::die_with_supervisor();
                done
            }
            BuildStep::PingGroups { first, last } => ping_groups(*first, *last),
            BuildStep::Root { directory, at, map_ids, read_only, mount_points } => {
                let userns = self.inputs.id_map.as_ref().filter(|_| *map_ids).map(AsFd::as_fd);
                let root = mounts::attach_root(directory, at, userns, *read_only, mount_points)?;
                self.paths = Some(TreePaths::new(root));
                Ok(())
            }
            BuildStep::Mount { kind, options, attributes, target } => {
                let options: Vec<(&str, &str)> =
                    options.iter().map(|(key, value)| (*key, value.as_str())).collect();
                mounts::new(self.paths_mut()?, kind, &options, *attributes, target, owner)
            }
            BuildStep::Directory { path, mode } => nodes::directory(self.paths()?, path, *mode, owner),
            BuildStep::File { path, mode, content } => {
                nodes::file(self.paths()?, path, *mode, content, owner)
            }
            BuildStep::Fifo { path, mode } => nodes::fifo(self.paths()?, path, *mode, owner),
            BuildStep::KernelLog { path } => {
                nodes::fifo(self.paths()?, path, 0o600, owner)?;
                let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOFOLLOW;
                let opened = self.paths()?.open_as(path, flags);
                self.kernel_log = Some(opened.context(|| "cannot open the kernel's log")?);
                Ok(())
            }
            BuildStep::Socket { path } => nodes::socket(self.paths()?, path, owner),
            BuildStep::Node { path, device, mode } => {
                nodes::device(self.paths()?, path, *device, *mode, owner)
            }
            BuildStep::Symlink { path, to } => nodes::link(self.paths()?, path, to, owner),
            BuildStep::Bind { .. } => {
                let userns = self.inputs.id_map.as_ref().map(AsFd::as_fd);
                mounts::bind(self.paths.as_mut().ok_or_else(no_root)?, step, userns, owner)
            }
            BuildStep::Restrict { target, attributes } => {
                mounts::restrict(self.paths()?, target, *attributes)
            }
            BuildStep::Mask { target } => mounts::mask(self.paths()?, target),
            BuildStep::Detach { target } => mounts::detach(self.paths_mut()?, target),
            BuildStep::ResolvConf(wanted) => resolv_conf::make(self.paths()?, wanted, owner),
            BuildStep::NotifySocket { path } => self.notify_socket(path),
            BuildStep::LogSocket { path } => self.log_socket(path),
            BuildStep::Console => {
                self.console = Some(nodes::console(self.paths()?, owner)?);
                Ok(())
            }
            BuildStep::Pivot => check("cannot change the root", mount::pivot(self.paths()?.root())),
        }
    }

    fn paths(&self) -> Result<&TreePaths> {
        self.paths.as_ref().ok_or_else(no_root)
    }

    fn paths_mut(&mut self) -> Result<&mut TreePaths> {
        self.paths.as_mut().ok_or_else(no_root)
    }

    /// Joins what the file systems to be mounted show. The pid namespace is ours already.
    fn join(&self) -> Result<()> {
        let mut namespaces = CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWCGROUP;
        if self.inputs.private_network {
            namespaces |= CloneFlags::CLONE_NEWNET;
        }
        nix::sched::setns(&self.inputs.leader, namespaces)
            .map_err(std::io::Error::from)
            .context(|| "cannot join the machine's namespaces")
    }

    /// Gives the supervisor's socket its name inside the machine. The path of a socket address is
    /// short and the root not ours yet, so it is bound through the directory's descriptor.
    fn notify_socket(&self, path: &Path) -> Result<()> {
        let Some(socket) = &self.inputs.notify else { return Ok(()) };
        nodes::bind_socket(self.paths()?, socket.as_fd(), path, 0o200, self.inputs.owner)
    }

    /// The same for the socket everybody in the machine may log at. A daemon of the guest that wants
    /// the name for its own socket removes ours and has it.
    fn log_socket(&self, path: &Path) -> Result<()> {
        let Some(socket) = &self.inputs.log else { return Ok(()) };
        nodes::bind_socket(self.paths()?, socket.as_fd(), path, 0o666, self.inputs.owner)
    }
}

/// Sets the range of groups in the network namespace that was joined: procfs shows the writer's own one, and the kernel
/// reads ids as the writer's user namespace has them.
fn ping_groups(first: u32, last: u32) -> Result<()> {
    let file = "/proc/sys/net/ipv4/ping_group_range";
    match std::fs::write(file, format!("{first} {last}\n")) {
        // The host is a container itself: its own manager keeps its settings.
        Err(error) if error.kind() == std::io::ErrorKind::ReadOnlyFilesystem => Ok(()),
        other => other.context(|| format!("cannot write '{file}'")),
    }
}

fn no_root() -> Error {
    Error::new("the root is not attached yet")
}
