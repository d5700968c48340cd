//! Paths of a tree as seen by its machine, with the mounts of the definition. Called by `probe`.

use super::Tree;
use crate::error::{Context, Result};
use crate::machine::mounts::MOUNT_POINTS;
use crate::sys::guest_files::GuestRoot;
use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

/// The greatest number of symbolic links followed in a path (path_resolution(7)).
const LINKS: usize = 40;

/// A mount of the definition in a tree.
#[derive(Debug)]
pub(super) struct Mounted {
    /// The mount point, without symbolic links.
    target: PathBuf,
    /// The source: a directory, and the name of a file in it. `None` if it is empty.
    source: Option<(GuestRoot, PathBuf)>,
}

impl Tree {
    /// Returns the tree with the mounts of its definition: the mount point, and the source on the host.
    /// `None` for a mount without source on the host.
    ///
    /// # Errors
    /// A source cannot be opened.
    pub(crate) fn with_mounts<'m>(
        mut self,
        mounts: impl Iterator<Item = (&'m Path, Option<&'m Path>)>,
    ) -> Result<Self> {
        for (target, source) in mounts {
            let mounted =
                Mounted { target: self.mount_point(target), source: source.map(shown).transpose()? };
            self.mounted.insert(0, mounted);
        }
        Ok(self)
    }

    /// Returns a mount point with links followed in the tree. File systems that the machine gets hide the links
    /// of the tree below their mount points.
    fn mount_point(&self, target: &Path) -> PathBuf {
        if MOUNT_POINTS.iter().any(|point| target.starts_with(point)) {
            return target.to_owned();
        }
        let found = self.follow(target);
        if found == Path::new("/") { target.to_owned() } else { found }
    }

    /// Returns the last `count` mount points, without links, in the order in which they were added.
    pub(crate) fn mount_points(&self, count: usize) -> Vec<PathBuf> {
        self.mounted.iter().take(count).rev().map(|mounted| mounted.target.clone()).collect()
    }

    /// Adds a mount by its root.
    pub(super) fn add_mount(&mut self, target: &Path, root: GuestRoot) {
        let mounted = Mounted { target: self.resolve(target), source: Some((root, PathBuf::new())) };
        self.mounted.insert(0, mounted);
    }

    /// Returns the root of a path without symbolic links, and the path below it. A later mount covers an
    /// earlier one. `None` in an empty mount.
    pub(super) fn nearest<'p>(&'p self, path: &'p Path) -> Option<(&'p GuestRoot, PathBuf)> {
        let inside = |mounted: &'p Mounted| Some((mounted, path.strip_prefix(&mounted.target).ok()?));
        match self.mounted.iter().find_map(inside) {
            None => Some((&self.root, path.to_owned())),
            Some((mounted, rest)) => {
                let (root, name) = mounted.source.as_ref()?;
                // A path with a trailing slash is a directory.
                let rest_of = if rest.as_os_str().is_empty() { name.clone() } else { name.join(rest) };
                Some((root, rest_of))
            }
        }
    }

    /// Returns the target of a symbolic link; the directory part of its path has none.
    pub(super) fn link(&self, path: &Path) -> Option<PathBuf> {
        let (root, inside) = self.nearest(path)?;
        root.link(&inside).ok()
    }

    /// Resolves all symbolic links of a path, as seen by the machine with its mounts. Without mounts the
    /// kernel does it.
    pub(super) fn resolve(&self, path: &Path) -> PathBuf {
        if self.mounted.is_empty() { path.to_owned() } else { self.follow(path) }
    }

    /// Resolves all symbolic links of a path, which may not exist, as [`Self::resolve`] with mounts.
    fn follow(&self, path: &Path) -> PathBuf {
        let (mut done, mut links) = (PathBuf::from("/"), 0);
        let mut rest: Vec<OsString> = parts(path);
        while let Some(part) = rest.pop() {
            if part == ".." {
                done.pop();
                continue;
            }
            let next = done.join(&part);
            match self.link(&next) {
                Some(target) if links < LINKS => {
                    links += 1;
                    if target.is_absolute() {
                        done = PathBuf::from("/");
                    }
                    rest.extend(parts(&target));
                }
                _ => done = next,
            }
        }
        done
    }

    /// Resolves a path except for a symbolic link at its end.
    pub(super) fn place(&self, path: &Path) -> PathBuf {
        match (path.parent(), path.file_name()) {
            (Some(parent), Some(name)) => self.resolve(parent).join(name),
            _ => path.to_owned(),
        }
    }

    /// Returns whether there is a file, or a dangling symbolic link, at a path.
    pub(super) fn has_link(&self, path: &Path) -> bool {
        [self.resolve(path), self.place(path)]
            .iter()
            .any(|path| self.nearest(path).is_some_and(|(root, inside)| root.find_link(&inside).is_ok()))
    }
}

/// Opens the source of a mount: a directory, or a file in its directory.
fn shown(source: &Path) -> Result<(GuestRoot, PathBuf)> {
    let doing = || format!("cannot open '{}'", source.display());
    let source = source.canonicalize().context(doing)?;
    match (source.parent(), source.file_name()) {
        (Some(parent), Some(name)) if !source.is_dir() => Ok((GuestRoot::of_tree(parent)?, name.into())),
        _ => Ok((GuestRoot::of_tree(&source)?, PathBuf::new())),
    }
}

/// Returns the components of a path, last one first.
fn parts(path: &Path) -> Vec<OsString> {
    let names = path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    });
    let mut names: Vec<OsString> = names.collect();
    names.reverse();
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::init::{Init, InitChoice};

    #[test]
    fn links_lead_into_mounts_and_out_of_them() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path();
        for file in
            ["tree/etc/os-release", "tree/real/init", "store/sbin/systemd", "store/file", "usr/lib/other"]
        {
            std::fs::create_dir_all(root.join(file).parent().unwrap()).unwrap();
            std::fs::write(root.join(file), "#!libsystemd-core-257.so").unwrap();
        }
        let at = root.join("tree");
        let link = |target: &str, name: &str| std::os::unix::fs::symlink(target, at.join(name)).unwrap();
        link("store/sbin", "sbin");
        link("usr/lib", "lib");
        link("../..//real", "up");
        std::os::unix::fs::symlink("/up/init", root.join("store/sbin/init")).unwrap();
        let (store, file, usr) = (root.join("store"), root.join("store/file"), root.join("usr"));
        let tree = Tree::open(&at).unwrap();
        assert!(tree.find_init(&InitChoice::Auto).is_err());
        let mounts = [
            ("/store", Some(store.as_path())),
            ("/usr", Some(usr.as_path())),
            ("/file", Some(file.as_path())),
            ("/lib/empty", None),
        ];
        let mounts = mounts.iter().map(|(target, source)| (Path::new(*target), *source));
        let tree = tree.with_mounts(mounts).unwrap();
        tree.check_is_root(crate::machine::contract::Contract::Coracle, true).unwrap();
        assert_eq!(tree.find_init(&InitChoice::Auto).unwrap(), ("/sbin/init".into(), Init::Systemd));
        let names = tree.links(Path::new("/sbin/init"));
        assert_eq!(names, [Path::new("/sbin/init"), Path::new("/up/init")]);
        for (path, expected) in [
            ("/lib/other", true),
            ("/file", true),
            ("/sbin/systemd", true),
            ("/sbin/../../etc/os-release", true),
            ("/store/../store/file", true),
            ("/usr/lib/empty", false),
            ("/file/x", false),
            ("/host/etc", false),
        ] {
            assert_eq!(tree.has(Path::new(path)), expected, "{path}");
        }
    }
}
