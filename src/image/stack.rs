//! Stacks of directory trees: the entries of a directory `NAME.mstack` and their meaning, as in
//! systemd.mstack(7). Called by `attach` and `locks`. It reads names only and mounts nothing.

use super::disk::Role;
use super::disk::partitions::Partition;
use super::version;
use crate::error::{Context, Error, Result};
use std::os::unix::fs::FileTypeExt;
use std::path::{Component, Path, PathBuf};

/// A stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stack {
    path: PathBuf,
    /// The root.
    pub(crate) root: StackPart,
    /// The file system at `/usr`, if it is another one.
    pub(crate) usr: Option<StackPart>,
    /// Further mounts, parents before their children.
    pub(crate) binds: Vec<StackBind>,
    /// Further file systems of a disk image.
    pub(crate) partitions: Vec<Partition>,
}

/// The source of the root or of `/usr`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum StackPart {
    /// An overlay.
    Overlay {
        /// The read-only layers, the uppermost first.
        layers: Vec<PathBuf>,
        /// The directory of the writable layer.
        writable: Option<PathBuf>,
    },
    /// A directory.
    Directory(StackBind),
    /// A partition of a disk image.
    Partition(Partition),
    /// An empty tmpfs.
    Tmpfs,
}

/// A directory that is mounted as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StackBind {
    /// The directory.
    pub(crate) source: PathBuf,
    /// The mount point.
    pub(crate) target: PathBuf,
    /// Whether it is read-only.
    pub(crate) read_only: bool,
}

/// The entries of a stack, by their names.
#[derive(Debug, Default)]
struct Entries {
    /// By their identifiers.
    layers: Vec<(String, PathBuf)>,
    writable: Option<PathBuf>,
    root: Option<PathBuf>,
    binds: Vec<StackBind>,
}

impl Stack {
    /// Reads the entries of a stack.
    ///
    /// # Errors
    /// An unknown or duplicate entry, or one that is not a directory.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let reading = || format!("cannot use the stack '{}'", path.display());
        let mut entries = Entries::default();
        for entry in std::fs::read_dir(path).context(reading)? {
            let name = entry.context(reading)?.file_name();
            let name = name.to_str().ok_or_else(|| unknown(&name.to_string_lossy()).context(reading()))?;
            if !name.starts_with('.') {
                entries.add(path, name).map_err(|error| error.context(reading()))?;
            }
        }
        Ok(entries.arrange(path))
    }

    /// Returns a stack that consists of one writable directory.
    pub(crate) fn of_directory(path: &Path) -> Self {
        let root = StackPart::Directory(bind(path.to_owned(), "/", false));
        Self { path: path.to_owned(), root, usr: None, binds: Vec::new(), partitions: Vec::new() }
    }

    /// Returns the file systems of a disk image as a stack.
    pub(crate) fn of_disk(path: &Path, root: &Partition, partitions: &[Partition]) -> Self {
        let part = |partition: &Partition| StackPart::Partition(partition.clone());
        let usr = partitions.iter().find(|partition| partition.role == Role::Usr);
        let is_further = |partition: &&Partition| !matches!(partition.role, Role::Root | Role::Usr);
        Self {
            path: path.to_owned(),
            root: part(root),
            usr: usr.map(part),
            binds: Vec::new(),
            partitions: partitions.iter().filter(is_further).cloned().collect(),
        }
    }

    /// Returns the uppermost existing directory of the root: its owner is that of the root inside.
    pub(crate) fn surface(&self) -> &Path {
        match &self.root {
            StackPart::Overlay { layers, .. } => layers.first().map_or(&self.path, PathBuf::as_path),
            StackPart::Directory(bind) => &bind.source,
            StackPart::Partition(_) | StackPart::Tmpfs => &self.path,
        }
    }

    /// Returns all directories, and whether each is writable.
    pub(crate) fn directories(&self) -> Vec<(&Path, bool)> {
        let mut found = Vec::new();
        for part in [Some(&self.root), self.usr.as_ref()].into_iter().flatten() {
            match part {
                StackPart::Overlay { layers, writable } => {
                    found.extend(writable.iter().map(|writable| (writable.as_path(), true)));
                    found.extend(layers.iter().map(|layer| (layer.as_path(), false)));
                }
                StackPart::Directory(bind) => found.push((bind.source.as_path(), !bind.read_only)),
                StackPart::Partition(_) | StackPart::Tmpfs => {}
            }
        }
        found.extend(self.binds.iter().map(|bind| (bind.source.as_path(), !bind.read_only)));
        found
    }

    /// Returns the directories outside of the stack, to which its entries are links, and whether each is
    /// writable.
    pub(crate) fn outside(&self) -> Vec<(PathBuf, bool)> {
        let own = self.path.canonicalize().unwrap_or_else(|_| self.path.clone());
        let found = self.directories().into_iter();
        let found = found.filter_map(|(path, writable)| Some((path.canonicalize().ok()?, writable)));
        found.filter(|(path, _)| !path.starts_with(&own)).collect()
    }
}

impl Entries {
    fn add(&mut self, stack: &Path, name: &str) -> Result<()> {
        let mut place = stack.join(name);
        let kind = place.metadata().context(|| format!("cannot look at the entry '{name}'"))?.file_type();
        if kind.is_block_device() || name.ends_with(".raw") || name.ends_with(".raw.v") {
            return Err(Error::new(format!("the entry '{name}' is a disk image")).with_hint(
                "unpack the image to a directory: Coracle does not mount disk images as parts of stacks",
            ));
        }
        if !kind.is_dir() {
            return Err(Error::new(format!("the entry '{name}' is not a directory")));
        }
        let mut plain = name;
        if let Some(versioned) = name.strip_suffix(".v") {
            plain = versioned;
            place = version::newest(&place, plain, "")
                .ok_or_else(|| Error::new(format!("the entry '{name}' has no version of '{plain}'")))?;
        }
        let twice = || Error::new(format!("the entry '{name}' exists twice, as '{plain}' and '{plain}.v'"));
        match plain.split_once('@') {
            Some(("layer", id)) if !id.is_empty() => {
                if self.layers.iter().any(|(other, _)| other == id) {
                    return Err(twice());
                }
                self.layers.push((id.to_owned(), place));
            }
            Some((kind @ ("bind" | "robind"), escaped)) if !escaped.is_empty() => {
                let target = unescaped(escaped)
                    .ok_or_else(|| Error::new(format!("the entry '{name}' names no absolute path")))?;
                if self.binds.iter().any(|other| other.target == target) {
                    return Err(Error::new(format!("two entries are for '{}'", target.display())));
                }
                self.binds.push(StackBind { source: place, target, read_only: kind == "robind" });
            }
            None if plain == "rw" => {
                if self.writable.replace(place).is_some() {
                    return Err(twice());
                }
            }
            None if plain == "root" => {
                if self.root.replace(place).is_some() {
                    return Err(twice());
                }
            }
            _ => return Err(unknown(name)),
        }
        Ok(())
    }

    /// Decides what each entry is mounted as, by the rules of systemd: a single layer is not an overlay, and
    /// covered layers are not mounted.
    fn arrange(mut self, path: &Path) -> Stack {
        self.layers.sort_by(|(a, _), (b, _)| version::compare(b, a).then_with(|| b.cmp(a)));
        self.binds.sort_by(|a, b| a.target.cmp(&b.target));
        let mut layers: Vec<PathBuf> = self.layers.into_iter().map(|(_, layer)| layer).collect();
        let is_bound =
            |binds: &[StackBind], target: &str| binds.iter().any(|bind| bind.target == Path::new(target));
        if is_bound(&self.binds, "/") || self.root.is_some() && is_bound(&self.binds, "/usr") {
            layers.clear();
            self.writable = None;
        }
        let below = self.root.as_ref().map_or("/", |_| "/usr");
        let overlay = match (layers.len(), self.writable.take()) {
            (0, None) => None,
            (0, Some(only)) => Some(StackPart::Directory(bind(only, below, false))),
            (1, None) => layers.pop().map(|only| StackPart::Directory(bind(only, below, true))),
            (_, writable) => Some(StackPart::Overlay { layers, writable }),
        };
        let top = self.binds.iter().position(|bind| bind.target == Path::new("/"));
        let top = top.map(|at| self.binds.remove(at));
        let root = match (top, self.root) {
            (Some(top), _) => Some(StackPart::Directory(top)),
            (None, Some(root)) => Some(StackPart::Directory(bind(root, "/", false))),
            (None, None) => None,
        };
        let (root, usr) = match (root, overlay) {
            (Some(root), usr) => (root, usr),
            (None, Some(overlay)) => (overlay, None),
            (None, None) => (StackPart::Tmpfs, None),
        };
        Stack { path: path.to_owned(), root, usr, binds: self.binds, partitions: Vec::new() }
    }
}

fn bind(source: PathBuf, target: &str, read_only: bool) -> StackBind {
    StackBind { source, target: target.into(), read_only }
}

fn unknown(name: &str) -> Error {
    Error::new(format!("unknown entry '{name}'")).with_hint(
        "entries are named layer@ID, rw, root, bind@PATH and robind@PATH, with the path escaped by \
         systemd-escape --path (systemd.mstack(7))",
    )
}

/// Encodes the path of an entry (systemd-escape(1), `--path`). The path is absolute, and not that of the root.
pub(crate) fn escaped(path: &Path) -> String {
    let text = path.as_os_str().as_encoded_bytes();
    let text = text.strip_prefix(b"/").unwrap_or(text);
    let mut escaped = String::new();
    for (at, byte) in text.iter().enumerate() {
        match byte {
            b'/' => escaped.push('-'),
            b'.' if at == 0 => escaped.push_str("\\x2e"),
            b'_' | b':' | b'.' => escaped.push(char::from(*byte)),
            byte if byte.is_ascii_alphanumeric() => escaped.push(char::from(*byte)),
            byte => escaped.push_str(&format!("\\x{byte:02x}")),
        }
    }
    escaped
}

/// Decodes the path of an entry (systemd-escape(1), `--path`). `None` for an invalid one.
fn unescaped(text: &str) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStringExt;
    if text == "-" {
        return Some("/".into());
    }
    if text.starts_with('-') || text.ends_with('-') {
        return None;
    }
    let mut bytes = vec![b'/'];
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        match first {
            b'-' => bytes.push(b'/'),
            b'\\' => {
                let digits = std::str::from_utf8(after.strip_prefix(b"x")?.get(..2)?).ok()?;
                bytes.push(u8::from_str_radix(digits, 16).ok().filter(|byte| *byte != 0)?);
                rest = after.get(3..)?;
            }
            byte => bytes.push(*byte),
        }
    }
    let path = PathBuf::from(std::ffi::OsString::from_vec(bytes));
    let is_plain = path.components().skip(1).all(|part| matches!(part, Component::Normal(_)));
    let normal: PathBuf = path.components().collect();
    (is_plain && normal.as_os_str() == path.as_os_str()).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a stack with these directories. Paths of the result are relative to the stack.
    fn read(entries: &[&str]) -> Result<Stack> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("web.mstack");
        std::fs::create_dir(&path).unwrap();
        for entry in entries {
            std::fs::create_dir_all(path.join(entry)).unwrap();
        }
        let mut stack = Stack::read(&path)?;
        let strip = |place: &mut PathBuf| *place = place.strip_prefix(&path).unwrap().to_owned();
        for part in [Some(&mut stack.root), stack.usr.as_mut()].into_iter().flatten() {
            match part {
                StackPart::Overlay { layers, writable } => layers.iter_mut().chain(writable).for_each(strip),
                StackPart::Directory(bind) => strip(&mut bind.source),
                StackPart::Partition(_) | StackPart::Tmpfs => {}
            }
        }
        stack.binds.iter_mut().for_each(|bind| strip(&mut bind.source));
        Ok(stack)
    }

    fn overlay(layers: &[&str], writable: Option<&str>) -> StackPart {
        StackPart::Overlay {
            layers: layers.iter().map(PathBuf::from).collect(),
            writable: writable.map(PathBuf::from),
        }
    }

    fn directory(source: &str, target: &str, read_only: bool) -> StackPart {
        StackPart::Directory(bind(source.into(), target, read_only))
    }

    #[test]
    fn paths_are_encoded_as_they_are_decoded() {
        for (path, entry) in [
            ("/var/lib/my-sql", r"var-lib-my\x2dsql"),
            ("/.a", r"\x2ea"),
            ("/a b/ö.x_y", r"a\x20b-\xc3\xb6.x_y"),
        ] {
            assert_eq!(escaped(Path::new(path)), entry);
            assert_eq!(unescaped(entry).unwrap(), Path::new(path));
        }
    }

    #[test]
    fn layers_are_in_the_order_of_their_versions() {
        let stack = read(&["layer@1", "layer@10", "layer@9", "layer@2~rc1", "rw", ".hidden"]).unwrap();
        let expected = ["layer@10", "layer@9", "layer@2~rc1", "layer@1"];
        assert_eq!((stack.root, stack.usr, stack.binds), (overlay(&expected, Some("rw")), None, Vec::new()));
        let stack = read(&["layer@a.v/layer@a_1", "layer@a.v/layer@a_2", "layer@b"]).unwrap();
        assert_eq!(stack.root, overlay(&["layer@b", "layer@a.v/layer@a_2"], None));
    }

    #[test]
    fn entries_are_arranged_as_by_systemd() {
        for (entries, root, usr, binds) in [
            (&["rw"][..], directory("rw", "/", false), None, 0),
            (&["layer@0"], directory("layer@0", "/", true), None, 0),
            (
                &["layer@0", "root"],
                directory("root", "/", false),
                Some(directory("layer@0", "/usr", true)),
                0,
            ),
            (
                &["layer@0", "rw", "root"],
                directory("root", "/", false),
                Some(overlay(&["layer@0"], Some("rw"))),
                0,
            ),
            (&["layer@0", "rw", "bind@-"], directory("bind@-", "/", false), None, 0),
            (&["layer@0", "root", "robind@usr"], directory("root", "/", false), None, 1),
            (&["robind@usr"], StackPart::Tmpfs, None, 1),
            (
                &["layer@0", "layer@1", "bind@var-lib", "robind@srv"],
                overlay(&["layer@1", "layer@0"], None),
                None,
                2,
            ),
        ] {
            let stack = read(entries).unwrap();
            assert_eq!((stack.root, stack.usr, stack.binds.len()), (root, usr, binds), "{entries:?}");
        }
    }

    #[test]
    fn other_entries_are_errors() {
        for (entries, expected) in [
            (&["layer@0", "redo"][..], "unknown entry 'redo'"),
            (&["layer@"], "unknown entry 'layer@'"),
            (&["layer@0", "layer@0.v/layer@0_1"], "exists twice"),
            (&["layer@0.v/layer@1_1"], "has no version"),
            (&["bind@srv", "robind@srv"], "two entries are for '/srv'"),
            (&["bind@srv-..-etc"], "names no absolute path"),
            (&["layer@0.raw"], "is a disk image"),
        ] {
            let error = read(entries).unwrap_err().to_string();
            assert!(error.contains(expected), "{entries:?}: {error}");
        }
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("layer@0"), "").unwrap();
        let error = Stack::read(directory.path()).unwrap_err().to_string();
        assert!(error.contains("'layer@0' is not a directory"), "{error}");
    }

    #[test]
    fn paths_of_entries_are_unescaped() {
        let path = |text| unescaped(text).map(|path| path.to_str().unwrap().to_owned());
        assert_eq!(path("var-lib-x\\x2dy").as_deref(), Some("/var/lib/x-y"));
        assert_eq!(path("-").as_deref(), Some("/"));
        for wrong in ["-var", "var-", "a--b", "a\\x2", "a\\x00", "a\\xzz", "a-..-b", "a-.-b", "a\\x2f\\x2fb"]
        {
            assert_eq!(path(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn links_out_of_the_stack_are_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("web.mstack");
        for place in ["web.mstack/rw", "web.mstack/layer@1", "golden"] {
            std::fs::create_dir_all(directory.path().join(place)).unwrap();
        }
        std::os::unix::fs::symlink(directory.path().join("golden"), path.join("layer@0")).unwrap();
        let golden = directory.path().join("golden").canonicalize().unwrap();
        assert_eq!(Stack::read(&path).unwrap().outside(), [(golden, false)]);
    }
}
