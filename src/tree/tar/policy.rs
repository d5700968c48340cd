//! The policy for the entries of an archive that is not trusted: which archives are refused, which entries are
//! confined or left out, and the limits. Pure: it knows the names that it has admitted, and touches no file.
//! Called by `extract` and by the fuzz target.

mod marks;

pub use marks::{Mark, Marks};

use super::reader::{Entry, Kind};
use super::shown;
use crate::error::{Error, Result};
use crate::tree::entry::Meta;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// The longest name of a file, bytes (path_resolution(7), `NAME_MAX`).
const LONGEST_NAME: usize = 255;
/// The longest target of a symbolic link, bytes (symlink(2)).
const LONGEST_TARGET: usize = 4095;
/// The greatest id of a machine.
const GREATEST_ID: u64 = 65535;
/// The owner of files of other ids.
const NOBODY: u32 = 65534;
/// The prefix of extended attributes with a meaning for overlays only.
const OVERLAY: &[u8] = b"user.overlay.";
/// The other attributes that a file may have.
const KEPT: [&[u8]; 3] = [b"system.posix_acl_access", b"system.posix_acl_default", b"security.capability"];

/// The limits of an archive.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The number of entries.
    pub entries: u64,
    /// The depth of directories.
    pub depth: usize,
    /// The bytes of all files.
    pub bytes: u64,
    /// The bytes in memory: the paths of all entries, and the attributes of directories, which are set at the end.
    pub memory: u64,
}

impl Limits {
    /// Returns the limits with this one for the bytes of all files.
    pub const fn of_bytes(bytes: u64) -> Self {
        Self { entries: 5_000_000, depth: 512, bytes, memory: 1 << 30 }
    }
}

/// A name that has been admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Node {
    /// A directory with this number of entries.
    Directory(u64),
    /// Anything else.
    Other,
    /// A mark in a layer: it hides an entry of the layers below.
    Whiteout,
}

/// The files that were left out, or changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// Devices.
    pub(crate) devices: u64,
    /// Extended attributes.
    pub(crate) attributes: u64,
    /// Access lists with names in place of ids.
    pub(crate) lists: u64,
    /// Files whose owner or group is nobody's.
    pub(crate) owners: u64,
}

/// The kind of an admitted entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdmittedKind {
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// A symbolic link with this target.
    Symlink(PathBuf),
    /// A hard link to this earlier entry.
    Hard(PathBuf),
    /// A named pipe.
    Fifo,
}

/// The effect of an entry on an earlier one of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Former {
    /// There is none.
    None,
    /// It is a directory, as the entry is: only its metadata is replaced.
    Updated,
    /// It is replaced.
    Replaced,
}

/// An admitted entry.
#[derive(Debug)]
pub struct Admitted {
    /// Its path, which has no other components than names; empty for the root.
    pub path: PathBuf,
    /// Its kind.
    pub kind: AdmittedKind,
    /// The effect on an earlier entry.
    pub former: Former,
    /// The whiteouts that give way to a directory above it.
    pub uncovered: Vec<PathBuf>,
    /// The missing directories above it, from the top.
    pub parents: Vec<PathBuf>,
    /// Its metadata.
    pub(crate) meta: Meta,
}

/// The policy for one archive.
#[derive(Debug)]
pub struct Policy {
    limits: Limits,
    nodes: HashMap<Vec<u8>, Node>,
    entries: u64,
    bytes: u64,
    memory: u64,
    left_out: LeftOut,
    marks: Marks,
}

impl Policy {
    /// Creates the policy for a new tree.
    pub fn new(limits: Limits) -> Self {
        let nodes = HashMap::from([(Vec::new(), Node::Directory(0))]);
        let (left_out, marks) = (LeftOut::default(), Marks::default());
        Self { limits, nodes, entries: 0, bytes: 0, memory: 0, left_out, marks }
    }

    /// Returns what was left out.
    pub fn left_out(&self) -> LeftOut {
        self.left_out
    }

    /// Admits an entry. `None` if it is left out.
    ///
    /// # Errors
    /// An entry for which the whole archive is refused, or a limit.
    pub fn admit(&mut self, entry: &Entry) -> Result<Option<Admitted>> {
        self.count(entry)?;
        let names = names(&entry.path, self.limits.depth)?;
        let path = names.join(&b'/');
        let kind = match entry.kind {
            Kind::Device => {
                self.left_out.devices += 1;
                return Ok(None);
            }
            Kind::Directory => AdmittedKind::Directory,
            _ if path.is_empty() => return Err(Error::new("the root of the archive is not a directory")),
            Kind::File => AdmittedKind::File,
            Kind::Fifo => AdmittedKind::Fifo,
            Kind::Symlink => AdmittedKind::Symlink(target(&entry.link)?),
            Kind::Hard => AdmittedKind::Hard(self.first(&entry.link, &path)?),
        };
        let (parents, uncovered) = self.enter_parents(&names)?;
        let former = self.enter(&path, &kind)?;
        self.marks.use_all(&names);
        let meta = self.meta(entry, &kind);
        if kind == AdmittedKind::Directory {
            self.remember(meta.attributes.iter().map(|(name, value)| name.len() + value.len()).sum())?;
        }
        Ok(Some(Admitted { path: to_path(path), kind, former, uncovered, parents, meta }))
    }

    fn count(&mut self, entry: &Entry) -> Result<()> {
        self.count_entry()?;
        self.bytes = self.bytes.saturating_add(entry.stored);
        if self.bytes > self.limits.bytes {
            return Err(larger_than(self.limits.bytes));
        }
        Ok(())
    }

    /// Counts an entry, or a directory that the archive does not have.
    fn count_entry(&mut self) -> Result<()> {
        self.entries += 1;
        if self.entries > self.limits.entries {
            return Err(Error::new(format!("the archive has more than {} entries", self.limits.entries)));
        }
        Ok(())
    }

    /// Counts bytes that are kept until the end.
    fn remember(&mut self, bytes: usize) -> Result<()> {
        self.memory = self.memory.saturating_add(bytes as u64);
        if self.memory > self.limits.memory {
            return Err(Error::new(format!(
                "the names and attributes of the archive are larger than {} bytes",
                self.limits.memory
            )));
        }
        Ok(())
    }

    /// Enters the directories above an entry. Returns those that are new, and the whiteouts among them.
    fn enter_parents(&mut self, names: &[&[u8]]) -> Result<(Vec<PathBuf>, Vec<PathBuf>)> {
        let (mut new, mut uncovered) = (Vec::new(), Vec::new());
        for depth in 1..names.len() {
            let above = names.get(..depth).unwrap_or_default().join(&b'/');
            match self.nodes.get(&above) {
                Some(Node::Directory(_)) => {}
                Some(Node::Whiteout) => {
                    self.uncover(&above);
                    self.nodes.insert(above.clone(), Node::Directory(0));
                    let path = to_path(above);
                    uncovered.push(path.clone());
                    new.push(path);
                }
                Some(Node::Other) => {
                    return Err(Error::new(format!("{} above it is not a directory", shown(&above))));
                }
                None => {
                    self.count_entry()?;
                    self.add(&above, Node::Directory(0))?;
                    let path = to_path(above);
                    self.marks.implied.insert(path.clone());
                    new.push(path);
                }
            }
        }
        Ok((new, uncovered))
    }

    /// Enters an entry itself.
    fn enter(&mut self, path: &[u8], kind: &AdmittedKind) -> Result<Former> {
        let is_directory = *kind == AdmittedKind::Directory;
        let node = if is_directory { Node::Directory(0) } else { Node::Other };
        match self.nodes.get(path) {
            None => {
                self.add(path, node)?;
                Ok(Former::None)
            }
            Some(Node::Directory(_)) if is_directory => {
                self.describe(path);
                Ok(Former::Updated)
            }
            Some(Node::Whiteout) => {
                if is_directory {
                    self.uncover(path);
                } else {
                    self.marks.forget_whiteout(path);
                }
                self.nodes.insert(path.to_vec(), node);
                Ok(Former::Replaced)
            }
            Some(Node::Directory(1..)) => Err(Error::new("it replaces a directory that is not empty")),
            Some(_) => {
                self.marks.forget_directory(path);
                self.nodes.insert(path.to_vec(), node);
                Ok(Former::Replaced)
            }
        }
    }

    fn add(&mut self, path: &[u8], node: Node) -> Result<()> {
        self.remember(path.len())?;
        let above = path.iter().rposition(|byte| *byte == b'/').map_or(&[][..], |slash| &path[..slash]);
        if let Some(Node::Directory(entries)) = self.nodes.get_mut(above) {
            *entries += 1;
        }
        self.nodes.insert(path.to_vec(), node);
        Ok(())
    }

    /// Returns the earlier entry that a hard link leads to.
    fn first(&self, link: &[u8], path: &[u8]) -> Result<PathBuf> {
        let first = names(link, self.limits.depth)
            .map_err(|error| error.context(format!("hard link to {}", shown(link))))?
            .join(&b'/');
        match self.nodes.get(&first) {
            _ if first == path => Err(Error::new("it is a hard link to itself")),
            Some(Node::Other) => Ok(to_path(first)),
            Some(Node::Directory(_)) => {
                Err(Error::new(format!("it is a hard link to the directory {}", shown(link))))
            }
            Some(Node::Whiteout) | None => {
                Err(Error::new(format!("it is a hard link to {}, which is not there", shown(link))))
            }
        }
    }

    fn meta(&mut self, entry: &Entry, kind: &AdmittedKind) -> Meta {
        let has_attributes = matches!(kind, AdmittedKind::File | AdmittedKind::Directory);
        let is_kept = |(name, _): &&(Vec<u8>, Vec<u8>)| {
            has_attributes
                && (name.starts_with(b"user.") && !name.starts_with(OVERLAY) && is_name(name)
                    || KEPT.contains(&name.as_slice()) && is_possible(name, kind))
        };
        let attributes: Vec<_> = entry.attributes.iter().filter(is_kept).cloned().collect();
        // Those of a hard link are the ones of its first name.
        if !matches!(kind, AdmittedKind::Hard(_)) {
            self.left_out.attributes += (entry.attributes.len() - attributes.len()) as u64;
        }
        self.left_out.lists += u64::from(entry.lost_lists);
        if entry.uid > GREATEST_ID || entry.gid > GREATEST_ID {
            self.left_out.owners += 1;
        }
        let id = |id: u64| if id > GREATEST_ID { NOBODY } else { u32::try_from(id).unwrap_or(NOBODY) };
        let (uid, gid) = (id(entry.uid), id(entry.gid));
        Meta { mode: entry.mode & 0o7777, uid, gid, modified: entry.modified, attributes }
    }
}

/// Returns the error of files that are larger than their limit.
pub(crate) fn larger_than(largest: u64) -> Error {
    Error::new(format!("the files are larger than {largest} bytes"))
        .with_hint("set another limit: --max-size=SIZE")
}

/// Returns whether the name of an attribute is one for the kernel.
fn is_name(name: &[u8]) -> bool {
    name.len() > b"user.".len() && name.len() <= LONGEST_NAME && !name.contains(&0)
}

/// Returns whether an entry of a kind can have an attribute.
fn is_possible(name: &[u8], kind: &AdmittedKind) -> bool {
    match name {
        b"system.posix_acl_default" => *kind == AdmittedKind::Directory,
        b"security.capability" => *kind == AdmittedKind::File,
        _ => true,
    }
}

/// Splits a path into its names. A leading slash is dropped.
fn names(path: &[u8], deepest: usize) -> Result<Vec<&[u8]>> {
    if path.is_empty() {
        return Err(Error::new("its path is empty"));
    }
    let names: Vec<&[u8]> =
        path.split(|byte| *byte == b'/').filter(|name| !matches!(*name, b"" | b".")).collect();
    for name in &names {
        if *name == b".." {
            return Err(Error::new("its path leads out of the archive")
                .with_hint("create the archive without '..' in its paths"));
        }
        if name.len() > LONGEST_NAME {
            return Err(Error::new(format!("a name in its path is longer than {LONGEST_NAME} bytes")));
        }
    }
    if names.len() > deepest {
        return Err(Error::new(format!("it is more than {deepest} directories deep")));
    }
    Ok(names)
}

/// Returns the target of a symbolic link, which is only data.
fn target(link: &[u8]) -> Result<PathBuf> {
    match link.len() {
        0 => Err(Error::new("the target of the symbolic link is empty")),
        1..=LONGEST_TARGET => Ok(to_path(link.to_vec())),
        _ => {
            Err(Error::new(format!("the target of the symbolic link is longer than {LONGEST_TARGET} bytes")))
        }
    }
}

fn to_path(bytes: Vec<u8>) -> PathBuf {
    PathBuf::from(OsString::from_vec(bytes))
}

/// The metadata of directories that the archive does not have.
pub(super) fn default_meta() -> Meta {
    Meta { mode: 0o755, uid: 0, gid: 0, modified: (0, 0), attributes: Vec::new() }
}

impl LeftOut {
    /// Adds that of another archive.
    pub(crate) fn add(&mut self, other: Self) {
        self.devices += other.devices;
        self.attributes += other.attributes;
        self.lists += other.lists;
        self.owners += other.owners;
    }

    /// Returns one line about everything left out. `None` if nothing was.
    pub(crate) fn summary(&self) -> Option<String> {
        let part = |count: u64, one: &str, many: &str| match count {
            0 => None,
            1 => Some(format!("1 {one}")),
            count => Some(format!("{count} {many}")),
        };
        let left: Vec<String> = [
            part(self.devices, "device", "devices"),
            part(self.attributes, "extended attribute", "extended attributes"),
            part(self.lists, "access list with names", "access lists with names"),
        ]
        .into_iter()
        .flatten()
        .collect();
        let owners = part(self.owners, "file belongs", "files belong");
        let owners =
            owners.map(|owners| format!("{owners} to nobody, with an id above {GREATEST_ID} before"));
        let left = (!left.is_empty()).then(|| format!("left out: {}", left.join(", ")));
        match (left, owners) {
            (Some(left), Some(owners)) => Some(format!("{left}; {owners}")),
            (left, owners) => left.or(owners),
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
