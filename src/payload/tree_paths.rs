//! Resolution of paths while a tree is built: from the root of the tree, or from the root of a file system
//! that the builder has mounted in it. Called by the builder's steps.
//!
//! Paths in a mounted file system are resolved from the root of that file system, not from the root of the
//! tree. A mount point is a directory of the tree: a process that can write to the tree from outside may
//! rename it during the build and replace it with another directory. The mount moves with the renamed
//! directory, and so do the nodes and masks that the builder creates in it.

use crate::sys::guest_files;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use std::path::{Path, PathBuf};

/// A directory that a resolution has reached.
#[derive(Debug)]
pub(crate) enum Directory<'a> {
    /// The root of a file system of the builder.
    Ours(BorrowedFd<'a>),
    /// Another one.
    Opened(OwnedFd),
}

impl AsFd for Directory<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Ours(root) => *root,
            Self::Opened(directory) => directory.as_fd(),
        }
    }
}

/// The root of a tree, and the builder's mounts in it.
#[derive(Debug)]
pub(crate) struct TreePaths {
    root: OwnedFd,
    ours: Vec<(PathBuf, OwnedFd)>,
}

impl TreePaths {
    /// Creates a root without mounts.
    pub(crate) fn new(root: OwnedFd) -> Self {
        Self { root, ours: Vec::new() }
    }

    /// Returns the root.
    pub(crate) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Adds a file system mounted by the builder.
    pub(crate) fn keep(&mut self, target: &Path, mounted: OwnedFd) {
        self.forget(target);
        self.ours.push((target.to_owned(), mounted));
    }

    /// Records another mount: the builder's mounts below it are not visible any more. A mount at the same
    /// target is replaced.
    pub(crate) fn cover(&mut self, target: &Path, mounted: OwnedFd) {
        if self.ours.iter().any(|(ours, _)| ours == target) {
            self.keep(target, mounted);
        } else {
            self.forget(target);
        }
    }

    /// Removes the mounts at a path and below.
    pub(crate) fn forget(&mut self, target: &Path) {
        self.ours.retain(|(ours, _)| !ours.starts_with(target));
    }

    /// Opens a path with `O_PATH`; a symbolic link as its last component is not followed.
    ///
    /// # Errors
    /// Any error of openat2(2).
    pub(crate) fn open(&self, path: &Path) -> std::io::Result<OwnedFd> {
        self.open_as(path, OFlags::PATH | OFlags::NOFOLLOW)
    }

    /// Opens a path with the given flags. Symbolic links are resolved inside the directory where the
    /// resolution starts.
    ///
    /// # Errors
    /// Any error of openat2(2).
    pub(crate) fn open_as(&self, path: &Path, flags: OFlags) -> std::io::Result<OwnedFd> {
        let (from, rest) = self.nearest(path);
        guest_files::open_inside_as(from, rest, flags, Mode::empty())
    }

    /// Opens a directory. The root of a file system of the builder is open already.
    ///
    /// # Errors
    /// Any error of openat2(2).
    pub(crate) fn directory(&self, path: &Path) -> std::io::Result<Directory<'_>> {
        match self.nearest(path) {
            (root, rest) if rest.as_os_str().is_empty() || rest == Path::new("/") => {
                Ok(Directory::Ours(root))
            }
            _ => self.open_as(path, OFlags::PATH | OFlags::DIRECTORY).map(Directory::Opened),
        }
    }

    /// Returns the deepest mounted file system that contains a path, or the root, and the path relative to
    /// it.
    fn nearest<'p>(&self, path: &'p Path) -> (BorrowedFd<'_>, &'p Path) {
        let around = self.ours.iter().filter_map(|(ours, fd)| Some((path.strip_prefix(ours).ok()?, fd)));
        let nearest = around.min_by_key(|(rest, _)| rest.components().count());
        nearest.map_or((self.root.as_fd(), path), |(rest, fd)| (fd.as_fd(), rest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn a_path_is_resolved_from_the_deepest_mount() {
        let directory = || OwnedFd::from(std::fs::File::open("/").unwrap());
        let mut paths = TreePaths::new(directory());
        let (dev, pts, run) = (directory(), directory(), directory());
        let [dev_fd, pts_fd] = [&dev, &pts].map(AsRawFd::as_raw_fd);
        paths.keep(Path::new("/dev"), dev);
        paths.keep(Path::new("/dev/pts"), pts);
        let at = |paths: &TreePaths, path: &'static str| {
            let (fd, rest) = paths.nearest(Path::new(path));
            (fd.as_raw_fd(), rest.to_owned())
        };
        assert_eq!(at(&paths, "/dev/pts/0"), (pts_fd, "0".into()));
        assert_eq!(at(&paths, "/dev/ptsx"), (dev_fd, "ptsx".into()));
        assert_eq!(at(&paths, "/dev"), (dev_fd, "".into()));
        assert_eq!(at(&paths, "/run/x").1, Path::new("/run/x"));
        // A bind mount over all of /dev, and one without a mount of the builder below.
        let other_fd = run.as_raw_fd();
        paths.cover(Path::new("/dev"), run);
        assert_eq!(at(&paths, "/dev/pts/0"), (other_fd, "pts/0".into()));
        paths.cover(Path::new("/srv"), directory());
        assert_eq!(at(&paths, "/srv/x").1, Path::new("/srv/x"));
        paths.forget(Path::new("/dev"));
        assert_eq!(at(&paths, "/dev/pts/0").1, Path::new("/dev/pts/0"));
    }
}
