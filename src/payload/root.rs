//! The root of the tree: copied from the host's mounts, then attached in the mount namespace of the machine.
//! Called by the builder's steps.

use super::mounts::{make_directories, open_target};
use super::submounts;
use super::tree_paths::TreePaths;
use crate::error::{Context, Error, Result};
use crate::sys::mount::{self, Depth, MountAttributes};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::CWD;
use std::path::{Path, PathBuf};

/// A root that is not attached yet.
#[derive(Debug)]
pub(crate) struct OpenedRoot {
    /// The detached copy of its mount.
    tree: OwnedFd,
    /// The detached copies of mounts below, in the order of their mounts, with their places in the tree.
    below: Vec<(PathBuf, OwnedFd)>,
}

impl OpenedRoot {
    /// Opens a tree of the host, and creates missing mount points in it.
    ///
    /// # Errors
    /// A tree that cannot be opened, or whose ids cannot be mapped.
    pub(crate) fn open(
        directory: &Path,
        userns: Option<BorrowedFd<'_>>,
        read_only: bool,
        mount_points: &[PathBuf],
    ) -> Result<Self> {
        let host = TreePaths::new(mount::open_directory(directory)?);
        // On the host's own mount: an idmapped one has no id for the host's root to create with. In a writable
        // root without mapped ids, the mounts create them.
        let created = if read_only || userns.is_some() { mount_points } else { &[] };
        for point in created {
            make_directories(&host, point, 0)?;
        }
        let points = userns.map_or_else(|| Ok(Vec::new()), |_| submounts::of(directory))?;
        // Without mounts below, or without mapped ids, one recursive copy suffices.
        let depth = if points.is_empty() { Depth::Tree } else { Depth::One };
        let attributes = MountAttributes { read_only, ..MountAttributes::default() };
        let copy = |from: BorrowedFd<'_>, path: &Path| {
            let tree = mount::copy_tree(from, depth).context(|| "cannot copy the tree's mount")?;
            let separated = mount::separate(tree.as_fd(), userns, attributes);
            separated.map_err(|error| match userns {
                Some(_) => submounts::no_idmap(directory, path, from, error),
                None => Error::from(error).context("cannot separate the tree's mount from the host"),
            })?;
            Ok::<_, Error>(tree)
        };
        let tree = copy(host.root(), Path::new("/"))?;
        // Mounts below the machine's own mount points would be covered: they are not copied.
        let is_seen = |path: &&PathBuf| !mount_points.iter().any(|point| path.starts_with(point));
        let below = points.iter().filter(is_seen).map(|path| {
            let from = host.open(path).context(|| format!("cannot open '{}' in the tree", path.display()))?;
            Ok((path.clone(), copy(from.as_fd(), path)?))
        });
        Ok(Self { below: below.collect::<Result<_>>()?, tree })
    }

    /// Attaches the root to a directory of this mount namespace. Returns its paths.
    ///
    /// # Errors
    /// A mount point below that does not exist any more.
    pub(crate) fn attach(self, at: &Path) -> Result<TreePaths> {
        mount::attach_at(self.tree.as_fd(), CWD, at).context(|| "cannot attach the root")?;
        let root = TreePaths::new(self.tree);
        for (path, mounted) in self.below {
            let place = open_target(&root, &path)?;
            mount::attach(mounted.as_fd(), place.as_fd()).context(|| "cannot attach the mount")?;
        }
        Ok(root)
    }
}
