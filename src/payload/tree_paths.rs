//! Resolution of paths while a tree is built: from the root of the tree, or from the root of a file system
//! that the builder has mounted in it. Called by the builder's steps.
//!
//! Paths in a mounted file system are resolved from the root of that file system, not from the root of the
//! tree. A mount point is a directory of the tree: a process that can write to the tree from outside may
//! rename it during the build and replace it with another directory. The mount moves with the renamed
//! directory, and so do the nodes and masks that the builder creates in it.
//!
//! In a tmpfs of the builder only the builder has created links. So paths in it that do not lead through one
//! are given to the kernel as they are. All other paths are resolved by openat2(2).

use super::tree_path::{Rest, TreePath};
use crate::sys::directory::FileKinds;
use crate::sys::mount::MountAttributes;
use crate::sys::{descriptor, guest_files};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{FileType, Mode, OFlags};
use std::cell::OnceCell;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// A directory that a resolution starts from or has reached.
#[derive(Debug)]
pub(crate) enum Directory<'a> {
    /// The root of the tree, or of a file system of the builder.
    Root(BorrowedFd<'a>),
    /// Another one.
    Opened(OwnedFd),
}

impl AsFd for Directory<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Root(root) => *root,
            Self::Opened(directory) => directory.as_fd(),
        }
    }
}

/// A mount of the builder.
#[derive(Debug)]
struct Mounted {
    /// Its mount point in the tree.
    target: TreePath<PathBuf>,
    /// Its root.
    root: OwnedFd,
    /// Its attributes.
    attributes: MountAttributes,
    /// The origin of its files.
    files: Files,
    /// The entries of its root, as far as they were needed.
    entries: OnceCell<Option<FileKinds>>,
}

/// The origin of the files of a mount.
#[derive(Debug, PartialEq, Eq)]
enum Files {
    /// The builder.
    Ours,
    /// The kernel, in a procfs.
    Procfs,
    /// The kernel, in another file system.
    Kernel,
    /// The host or the guest.
    Foreign,
}

/// The root of a tree, and the builder's mounts in it.
#[derive(Debug)]
pub(crate) struct TreePaths {
    root: OwnedFd,
    mounted: Vec<Mounted>,
    /// The other mount points, and the links of the builder.
    foreign: Vec<TreePath<PathBuf>>,
}

impl TreePaths {
    /// Creates a root without mounts.
    pub(crate) fn new(root: OwnedFd) -> Self {
        Self { root, mounted: Vec::new(), foreign: Vec::new() }
    }

    /// Returns the root.
    pub(crate) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Adds a new file system, mounted by the builder. A tmpfs is empty, others have files of the kernel. One
    /// on `/` becomes the root.
    pub(crate) fn keep(&mut self, target: &Path, root: OwnedFd, attributes: MountAttributes, kind: &str) {
        self.forget(target);
        if target == Path::new("/") {
            self.root = root;
            return;
        }
        let files = match kind {
            "tmpfs" => Files::Ours,
            "proc" => Files::Procfs,
            _ => Files::Kernel,
        };
        self.mounted.push(Mounted {
            target: TreePath::new(target).to_owned(),
            root,
            attributes,
            files,
            entries: OnceCell::new(),
        });
    }

    /// Adds a bind mount with foreign files: the builder's mounts below it are not visible any more. A mount
    /// at the same target is replaced, and one on `/` becomes the root.
    pub(crate) fn cover(&mut self, target: &Path, root: OwnedFd) {
        let path = TreePath::new(target);
        let replaces = self.mounted.iter().any(|mounted| mounted.target.is(path));
        self.forget(target);
        if target == Path::new("/") {
            self.root = root;
        } else if replaces {
            let attributes = MountAttributes::default();
            let files = Files::Foreign;
            self.mounted.push(Mounted {
                target: path.to_owned(),
                root,
                attributes,
                files,
                entries: OnceCell::new(),
            });
        } else {
            descriptor::leave(root);
            self.foreign.push(path.to_owned());
        }
    }

    /// Records a link of the builder. Paths through it are not given to the kernel as they are: an absolute
    /// target would be resolved outside of the tree.
    pub(crate) fn link(&mut self, path: &Path) {
        self.foreign.push(TreePath::new(path).to_owned());
    }

    /// Removes the mounts at a path and below.
    pub(crate) fn forget(&mut self, target: &Path) {
        let target = TreePath::new(target);
        self.mounted.retain(|mounted| !mounted.target.starts_with(target));
        self.foreign.retain(|foreign| !foreign.starts_with(target));
    }

    /// Returns the root of the builder's mount at a target.
    pub(crate) fn root_of(&self, target: &Path) -> Option<BorrowedFd<'_>> {
        let target = TreePath::new(target);
        let mounted = self.mounted.iter().find(|mounted| mounted.target.is(target));
        mounted.map(|mounted| mounted.root.as_fd())
    }

    /// Records further attributes of the builder's mount at a target.
    pub(crate) fn restricted(&mut self, target: &Path, attributes: MountAttributes) {
        let target = TreePath::new(target);
        if let Some(mounted) = self.mounted.iter_mut().find(|mounted| mounted.target.is(target)) {
            mounted.attributes = mounted.attributes.and(attributes);
        }
    }

    /// Returns the attributes of the builder's mount that contains a path. None if it is unknown.
    pub(crate) fn attributes(&self, path: &Path) -> MountAttributes {
        let path = TreePath::new(path);
        let is_other = self.foreign.iter().any(|foreign| path.below(foreign).is_some());
        let nearest = self.nearest(path).filter(|_| !is_other);
        nearest.map_or_else(MountAttributes::default, |(mounted, _)| mounted.attributes)
    }

    /// Returns a path in a tmpfs of the builder as the root of the file system and the path below it:
    /// no link is on the way to its last component.
    pub(crate) fn ours<'p>(&self, path: &'p Path) -> Option<(BorrowedFd<'_>, &'p Path)> {
        let path = TreePath::new(path);
        let (mounted, rest) = self.nearest(path)?;
        (mounted.files == Files::Ours && self.is_without_links(path, mounted, rest))
            .then(|| (mounted.root.as_fd(), rest.path()))
    }

    /// Returns a path in a tmpfs of the builder, or right below the root of another mount or of the tree, as
    /// that root and the path below it: no link is on the way to its last component.
    pub(crate) fn direct<'p>(&self, path: &'p Path) -> Option<(BorrowedFd<'_>, &'p Path)> {
        let path = TreePath::new(path);
        self.direct_in(path, self.nearest(path))
    }

    /// Like [`Self::direct`], with the deepest mount of the builder that contains the path.
    fn direct_in<'a, 'p>(
        &'a self,
        path: TreePath<&'p Path>,
        nearest: Option<(&'a Mounted, Rest<'p>)>,
    ) -> Option<(BorrowedFd<'a>, &'p Path)> {
        let (root, rest) = match nearest {
            Some((mounted, rest)) if self.is_without_links(path, mounted, rest) => {
                return Some((mounted.root.as_fd(), rest.path()));
            }
            Some((mounted, rest)) => (mounted.root.as_fd(), rest),
            None => (self.root.as_fd(), path.below_root()),
        };
        rest.only_name().map(|_| (root, rest.path()))
    }

    /// Returns whether no link is on the way to the last component of a path in a mount: in a tmpfs of the
    /// builder, and in `sys` of a procfs, where the kernel has none (proc(5)).
    fn is_without_links(&self, path: TreePath<&Path>, mounted: &Mounted, rest: Rest<'_>) -> bool {
        let has_no_links = match mounted.files {
            Files::Ours => !rest.is_empty(),
            Files::Procfs => rest.begins_with("sys"),
            Files::Kernel | Files::Foreign => false,
        };
        has_no_links && rest.has_only_names() && !self.is_covered(path)
    }

    /// Returns the type of a file right below the root of a procfs, whose entries are read once: many of them
    /// are masked. `None` for other paths.
    ///
    /// # Errors
    /// The file does not exist.
    pub(crate) fn kind(&self, path: &Path) -> Option<std::io::Result<FileType>> {
        let nearest = self.nearest(TreePath::new(path));
        let (mounted, rest) = nearest.filter(|(mounted, _)| mounted.files == Files::Procfs)?;
        let name = rest.only_name()?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let open = || guest_files::open_inside_as(mounted.root.as_fd(), Path::new("."), flags, Mode::empty());
        let read = || FileKinds::read(open().ok()?.as_fd()).ok();
        let entries = mounted.entries.get_or_init(read).as_ref()?;
        Some(entries.find(name).ok_or_else(|| ErrorKind::NotFound.into()))
    }

    /// Like [`Self::direct`], but only in a mount of the builder: its names do not change during the build.
    pub(crate) fn in_mount<'p>(&self, path: &'p Path) -> Option<(BorrowedFd<'_>, &'p Path)> {
        let path = TreePath::new(path);
        let nearest = self.nearest(path).filter(|(mounted, _)| mounted.files != Files::Foreign)?;
        self.direct_in(path, Some(nearest))
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
        let (from, rest) = self.start_of(path);
        guest_files::open_inside_as(from, rest, flags, Mode::empty())
    }

    /// Returns the root of the deepest mount of the builder that contains a path, or the root of the tree,
    /// and the path relative to it.
    fn start_of<'p>(&self, path: &'p Path) -> (BorrowedFd<'_>, &'p Path) {
        let nearest = self.nearest(TreePath::new(path));
        nearest.map_or((self.root.as_fd(), path), |(mounted, rest)| (mounted.root.as_fd(), rest.path()))
    }

    /// Returns the deepest mount of the builder that contains a path, and the path relative to it.
    fn nearest<'p>(&self, path: TreePath<&'p Path>) -> Option<(&Mounted, Rest<'p>)> {
        let around = self.mounted.iter();
        let around = around.filter_map(|mounted| Some((mounted, path.below(&mounted.target)?)));
        around.min_by_key(|(_, rest)| rest.depth())
    }

    /// Returns whether a path leads through a mount with foreign files or a link.
    fn is_covered(&self, path: TreePath<&Path>) -> bool {
        self.foreign.iter().any(|foreign| path.below(foreign).is_some_and(|rest| !rest.is_empty()))
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
        paths.keep(Path::new("/dev"), dev, MountAttributes::default(), "tmpfs");
        paths.keep(Path::new("/dev/pts"), pts, MountAttributes::INERT, "devpts");
        let at = |paths: &TreePaths, path: &'static str| {
            let (fd, rest) = paths.start_of(Path::new(path));
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

    #[test]
    fn only_paths_without_foreign_links_are_direct() {
        let directory = || OwnedFd::from(std::fs::File::open("/").unwrap());
        let mut paths = TreePaths::new(directory());
        paths.keep(Path::new("/run"), directory(), MountAttributes::default(), "tmpfs");
        let rest = |paths: &TreePaths, path: &'static str| {
            paths.direct(Path::new(path)).map(|(_, rest)| rest.to_str().unwrap().to_owned())
        };
        assert_eq!(rest(&paths, "/run/host/notify").as_deref(), Some("host/notify"));
        assert_eq!(rest(&paths, "/etc").as_deref(), Some("etc"));
        for path in ["/", "/run", "/etc/hosts", "/run/../etc/hosts", "/.."] {
            assert_eq!(rest(&paths, path), None, "{path}");
        }
        paths.keep(Path::new("/proc"), directory(), MountAttributes::INERT, "proc");
        assert_eq!(rest(&paths, "/proc/keys").as_deref(), Some("keys"));
        assert_eq!(rest(&paths, "/proc/1/root/etc"), None);
        assert_eq!(rest(&paths, "/proc/sys/net").as_deref(), Some("sys/net"));
        assert_eq!(rest(&paths, "/proc/sys/../1/root"), None);
        paths.keep(Path::new("/dev"), directory(), MountAttributes::default(), "tmpfs");
        paths.link(Path::new("/dev/fd"));
        assert_eq!(rest(&paths, "/dev/fd").as_deref(), Some("fd"));
        assert_eq!(rest(&paths, "/dev/fd/3/etc"), None);
        paths.cover(Path::new("/run/shared"), directory());
        assert_eq!(rest(&paths, "/run/shared").as_deref(), Some("shared"));
        assert_eq!(rest(&paths, "/run/shared/link/file"), None);
        paths.cover(Path::new("/run"), directory());
        assert_eq!(rest(&paths, "/run/link/file"), None);
        assert_eq!(rest(&paths, "/run/file").as_deref(), Some("file"));
        assert!(paths.ours(Path::new("/run/file")).is_none() && paths.ours(Path::new("/etc")).is_none());
    }

    #[test]
    fn attributes_are_those_of_the_mount_around_a_path() {
        let directory = || OwnedFd::from(std::fs::File::open("/").unwrap());
        let mut paths = TreePaths::new(directory());
        paths.keep(Path::new("/run"), directory(), MountAttributes::default(), "tmpfs");
        paths.restricted(Path::new("/run"), MountAttributes::INERT);
        assert!(paths.attributes(Path::new("/run/x/y")).include(MountAttributes::INERT));
        assert!(!paths.attributes(Path::new("/run/x")).include(MountAttributes::INERT.read_only()));
        paths.cover(Path::new("/run/x"), directory());
        assert_eq!(paths.attributes(Path::new("/run/x/y")), MountAttributes::default());
        assert_eq!(paths.attributes(Path::new("/etc")), MountAttributes::default());
    }
}
