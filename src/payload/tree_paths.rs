//! Where things of a machine are while its tree is built: below the tree's root, or below a file system that we have
//! mounted there ourselves. Called by the builder's steps.
//!
//! What lies in a file system of ours is found from that file system's own root and not by its name in the tree. A mount
//! point is a directory of the tree: whoever can write to the tree from outside may give it another name while we work,
//! and put in its place what he likes. Our mount goes along with the directory, and what we make in it, and what covers
//! parts of it, still gets there.

use crate::sys::guest_files;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use std::path::{Path, PathBuf};

/// A root, and what of ours is mounted in it.
#[derive(Debug)]
pub struct TreePaths {
    root: OwnedFd,
    ours: Vec<(PathBuf, OwnedFd)>,
}

impl TreePaths {
    /// A root in which nothing is ours.
    pub fn new(root: OwnedFd) -> Self {
        Self { root, ours: Vec::new() }
    }

    /// The root.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Notes a new file system of ours.
    pub fn keep(&mut self, target: &Path, mounted: OwnedFd) {
        self.forget(target);
        self.ours.push((target.to_owned(), mounted));
    }

    /// Notes that something else has been mounted: what of ours is below it is not seen any more. Where there was one of
    /// ours, it stands in its place.
    pub fn cover(&mut self, target: &Path, mounted: OwnedFd) {
        if self.ours.iter().any(|(ours, _)| ours == target) {
            self.keep(target, mounted);
        } else {
            self.forget(target);
        }
    }

    /// Notes that what is mounted at a place and below is not there any more.
    pub fn forget(&mut self, target: &Path) {
        self.ours.retain(|(ours, _)| !ours.starts_with(target));
    }

    /// Opens a place for reference; a link at the end is not followed.
    ///
    /// # Errors
    /// What openat2(2) says.
    pub fn open(&self, path: &Path) -> std::io::Result<OwnedFd> {
        self.open_as(path, OFlags::PATH | OFlags::NOFOLLOW)
    }

    /// Opens a path with the flags given; no link leads out of where it is looked for.
    ///
    /// # Errors
    /// What openat2(2) says.
    pub fn open_as(&self, path: &Path, flags: OFlags) -> std::io::Result<OwnedFd> {
        let (from, rest) = self.nearest(path);
        guest_files::open_inside_as(from, rest, flags, Mode::empty())
    }

    /// The deepest file system of ours that a path is in, and the way from there; else the root.
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
    fn the_deepest_file_system_of_ours_is_where_a_path_is_looked_for() {
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
        // Somebody's directory over all of /dev, and one where there is none of ours.
        let other_fd = run.as_raw_fd();
        paths.cover(Path::new("/dev"), run);
        assert_eq!(at(&paths, "/dev/pts/0"), (other_fd, "pts/0".into()));
        paths.cover(Path::new("/srv"), directory());
        assert_eq!(at(&paths, "/srv/x").1, Path::new("/srv/x"));
        paths.forget(Path::new("/dev"));
        assert_eq!(at(&paths, "/dev/pts/0").1, Path::new("/dev/pts/0"));
    }
}
