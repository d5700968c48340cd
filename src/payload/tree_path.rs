//! Comparison of paths in a tree by their components. Most paths are plain: they are compared by their bytes,
//! which is faster than [`Path::components`]. Called by `tree_paths`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// A path, and whether it is plain: absolute, with names only, each after a single slash.
#[derive(Debug, Clone, Copy)]
pub(super) struct TreePath<P> {
    path: P,
    is_plain: bool,
}

impl<'p> TreePath<&'p Path> {
    /// Examines a path.
    pub(super) fn new(path: &'p Path) -> Self {
        Self { path, is_plain: is_plain(path) }
    }

    /// Returns the path with memory of its own.
    pub(super) fn to_owned(self) -> TreePath<PathBuf> {
        TreePath { path: self.path.to_owned(), is_plain: self.is_plain }
    }

    /// Returns the path below a directory, as [`Path::strip_prefix`] does.
    pub(super) fn below(self, directory: &TreePath<PathBuf>) -> Option<Rest<'p>> {
        if !(self.is_plain && directory.is_plain) {
            let path = self.path.strip_prefix(&directory.path).ok()?;
            return Some(Rest { path, is_plain: false });
        }
        let rest = bytes(self.path).strip_prefix(bytes(&directory.path))?;
        let rest = if rest.is_empty() { rest } else { rest.strip_prefix(b"/")? };
        Some(Rest { path: Path::new(OsStr::from_bytes(rest)), is_plain: true })
    }

    /// Returns the path below `/`.
    pub(super) fn below_root(self) -> Rest<'p> {
        let path = match self.is_plain {
            true => Path::new(OsStr::from_bytes(bytes(self.path).get(1..).unwrap_or_default())),
            false => self.path.strip_prefix("/").unwrap_or(self.path),
        };
        Rest { path, is_plain: self.is_plain }
    }
}

impl TreePath<PathBuf> {
    /// Returns whether this is the same path.
    pub(super) fn is(&self, path: TreePath<&Path>) -> bool {
        if self.is_plain && path.is_plain {
            return bytes(&self.path) == bytes(path.path);
        }
        self.path == path.path
    }

    /// Returns whether this is a path or one below it, as [`Path::starts_with`] does.
    pub(super) fn starts_with(&self, directory: TreePath<&Path>) -> bool {
        if self.is_plain && directory.is_plain {
            let rest = bytes(&self.path).strip_prefix(bytes(directory.path));
            return rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"));
        }
        self.path.starts_with(directory.path)
    }
}

/// The part of a path below a directory of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rest<'p> {
    path: &'p Path,
    /// Whether it has names only, with single slashes between them.
    is_plain: bool,
}

impl<'p> Rest<'p> {
    /// Returns the relative path.
    pub(super) fn path(self) -> &'p Path {
        self.path
    }

    /// Returns whether it is that of the directory itself.
    pub(super) fn is_empty(self) -> bool {
        if self.is_plain { bytes(self.path).is_empty() } else { self.path.components().next().is_none() }
    }

    /// Returns the number of components.
    pub(super) fn depth(self) -> usize {
        if !self.is_plain {
            return self.path.components().count();
        }
        let slashes = bytes(self.path).iter().filter(|byte| **byte == b'/').count();
        if self.is_empty() { 0 } else { slashes + 1 }
    }

    /// Returns whether all components are names: none is `..`.
    pub(super) fn has_only_names(self) -> bool {
        self.is_plain || self.path.components().all(|part| matches!(part, Component::Normal(_)))
    }

    /// Returns the only component, if it is a name.
    pub(super) fn only_name(self) -> Option<&'p OsStr> {
        if self.is_plain {
            let is_one = !self.is_empty() && !bytes(self.path).contains(&b'/');
            return is_one.then_some(self.path.as_os_str());
        }
        let mut parts = self.path.components();
        match (parts.next(), parts.next()) {
            (Some(Component::Normal(name)), None) => Some(name),
            _ => None,
        }
    }

    /// Returns whether the first component is a name.
    pub(super) fn begins_with(self, name: &str) -> bool {
        if self.is_plain {
            let rest = bytes(self.path).strip_prefix(name.as_bytes());
            return rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"));
        }
        self.path.starts_with(name)
    }
}

/// Returns whether a path is absolute and consists of names, each after a single slash.
fn is_plain(path: &Path) -> bool {
    let Some(names) = bytes(path).strip_prefix(b"/") else { return false };
    names.split(|byte| *byte == b'/').all(|name| !matches!(name, b"" | b"." | b".."))
}

fn bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plain paths, and others with the same or other components.
    const PATHS: [&str; 27] = [
        "/", "//", "/.", "/..", "", ".", "..", "a", "a/b", "./a", "/a", "//a", "/a/", "/a/.", "/a/..",
        "/./a", "/../a", "/a/b", "/a//b", "/a/./b", "/a/../b", "/a/b/", "/ab", "/a/bc", "/a/b/c", "/...",
        "/a/..b",
    ];

    #[test]
    fn plain_paths_have_single_slashes_and_names_only() {
        let plain: Vec<&str> = PATHS.into_iter().filter(|path| is_plain(Path::new(path))).collect();
        assert_eq!(plain, ["/a", "/a/b", "/ab", "/a/bc", "/a/b/c", "/...", "/a/..b"]);
    }

    #[test]
    fn comparisons_are_those_of_components() {
        for (path, other) in PATHS.into_iter().flat_map(|path| PATHS.map(|other| (path, other))) {
            let [plain, directory] = [path, other].map(|path| TreePath::new(Path::new(path)));
            let [path, other] = [path, other].map(Path::new);
            let rest = plain.below(&directory.to_owned()).map(Rest::path);
            assert_eq!(rest.map(Path::as_os_str), path.strip_prefix(other).ok().map(Path::as_os_str));
            assert_eq!(plain.to_owned().is(directory), path == other, "{path:?} {other:?}");
            assert_eq!(
                plain.to_owned().starts_with(directory),
                path.starts_with(other),
                "{path:?} {other:?}"
            );
        }
    }

    #[test]
    fn rests_have_the_properties_of_their_components() {
        for (path, other) in PATHS.into_iter().flat_map(|path| PATHS.map(|other| (path, other))) {
            let directory = TreePath::new(Path::new(other)).to_owned();
            let path = TreePath::new(Path::new(path));
            let mut rests = vec![path.below_root()];
            assert_eq!(rests[0].path(), path.path.strip_prefix("/").unwrap_or(path.path));
            rests.extend(path.below(&directory));
            for rest in rests {
                let parts: Vec<Component> = rest.path().components().collect();
                let names = parts.iter().filter(|part| matches!(part, Component::Normal(_))).count();
                let only = match parts[..] {
                    [Component::Normal(name)] => Some(name),
                    _ => None,
                };
                assert_eq!(rest.is_empty(), parts.is_empty(), "{rest:?}");
                assert_eq!(rest.depth(), parts.len(), "{rest:?}");
                assert_eq!(rest.has_only_names(), names == parts.len(), "{rest:?}");
                assert_eq!(rest.only_name(), only, "{rest:?}");
                for name in ["a", "b", "ab", "..b"] {
                    assert_eq!(rest.begins_with(name), rest.path().starts_with(name), "{rest:?}");
                }
            }
        }
    }
}
