//! The marks of a layer for the layers below it (image-layer specification, "Representing Changes"): whiteouts,
//! opaque directories, and directories that the layer does not describe. A mark never hides an entry of its own
//! layer, in any order. Called by `layer`.

use super::{Node, Policy, names, to_path};
use crate::error::{Error, Result};
use crate::tree::tar::reader::Entry;
use crate::tree::tar::shown;
use std::collections::BTreeSet;
use std::path::PathBuf;

/// The prefix of whiteouts.
const WHITEOUT: &[u8] = b".wh.";
/// The prefix of files of AUFS, which have no meaning elsewhere.
const OF_AUFS: &[u8] = b".wh..wh.";
/// The name of the mark of an opaque directory.
const OPAQUE: &[u8] = b".wh..wh..opq";

/// An entry of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MarkName<'a> {
    /// A file of the layer.
    None,
    /// A file without a meaning.
    Ignored,
    /// The directory with it is opaque.
    Opaque,
    /// It hides the entry of this name.
    Whiteout(&'a [u8]),
}

/// A mark to be written, with the missing directories above it.
#[derive(Debug, PartialEq, Eq)]
pub struct Mark {
    /// The missing directories above it, from the top.
    pub parents: Vec<PathBuf>,
    /// The hidden path. `None` if there is nothing to write.
    pub whiteout: Option<PathBuf>,
}

/// The marks of a whole layer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Marks {
    /// The whiteouts.
    pub whiteouts: BTreeSet<PathBuf>,
    /// The opaque directories; empty for the root.
    pub opaque: BTreeSet<PathBuf>,
    /// The directories below the root that are not described.
    pub implied: BTreeSet<PathBuf>,
    /// Whether the root is described.
    pub has_root: bool,
    /// The directories without entries of the layer, but with marks.
    bare: BTreeSet<PathBuf>,
}

impl Marks {
    /// Forgets a whiteout that the layer replaces by a file.
    pub(super) fn forget_whiteout(&mut self, path: &[u8]) {
        self.whiteouts.remove(&to_path(path.to_vec()));
    }

    /// Notes that a path and those above it are needed by an entry of the layer.
    pub(super) fn use_all(&mut self, names: &[&[u8]]) {
        for depth in 1..=names.len() {
            if self.bare.is_empty() {
                return;
            }
            self.bare.remove(&to_path(names.get(..depth).unwrap_or_default().join(&b'/')));
        }
    }

    /// Forgets the marks of a directory that is replaced by a file.
    pub(super) fn forget_directory(&mut self, path: &[u8]) {
        let path = to_path(path.to_vec());
        self.implied.remove(&path);
        self.opaque.remove(&path);
    }
}

impl Policy {
    /// Returns the marks of the layer.
    pub fn marks(&self) -> &Marks {
        &self.marks
    }

    /// Admits an entry that is a mark. `None` if it is a file of the layer, for [`Self::admit`].
    ///
    /// # Errors
    /// A mark for which the whole archive is refused, or a limit.
    pub fn admit_mark(&mut self, entry: &Entry) -> Result<Option<Mark>> {
        let names = names(&entry.path, self.limits.depth)?;
        let (mark, above) = match names.split_last() {
            None => return Ok(None),
            Some((last, above)) => (mark_of(last)?, above),
        };
        if let Some(name) = above.iter().find(|name| name.starts_with(WHITEOUT)) {
            if name.starts_with(OF_AUFS) {
                self.count(entry)?;
                return Ok(Some(Mark::none()));
            }
            return Err(Error::new(format!("{} above it is a whiteout", shown(name))));
        }
        let (hidden, is_opaque) = match mark {
            MarkName::None => return Ok(None),
            MarkName::Ignored => {
                self.count(entry)?;
                return Ok(Some(Mark::none()));
            }
            MarkName::Opaque => (above.to_vec(), true),
            MarkName::Whiteout(name) => (above.iter().copied().chain([name]).collect(), false),
        };
        self.count(entry)?;
        let entered: Vec<&[u8]> = if is_opaque { [&hidden[..], &[OPAQUE]].concat() } else { hidden.clone() };
        let (parents, uncovered) = self.enter_parents(&entered)?;
        // Readers do not agree on it.
        if let Some(above) = uncovered.first() {
            let above = shown(above.as_os_str().as_encoded_bytes());
            return Err(Error::new(format!("{above} above it is hidden by the same layer")));
        }
        self.marks.bare.extend(parents.iter().cloned());
        let path = hidden.join(&b'/');
        let whiteout = if is_opaque { self.add_opaque(&path)? } else { self.add_whiteout(&path)? };
        Ok(Some(Mark { parents, whiteout }))
    }

    fn add_opaque(&mut self, path: &[u8]) -> Result<Option<PathBuf>> {
        self.remember(path.len())?;
        self.marks.opaque.insert(to_path(path.to_vec()));
        Ok(None)
    }

    /// Adds a whiteout, unless the layer has an entry of this name.
    fn add_whiteout(&mut self, path: &[u8]) -> Result<Option<PathBuf>> {
        match self.nodes.get(path) {
            Some(Node::Directory(_)) if self.marks.bare.contains(&to_path(path.to_vec())) => {
                Err(Error::new("it hides other marks of its layer"))
            }
            Some(Node::Directory(_)) => {
                self.uncover(path);
                Ok(None)
            }
            Some(Node::Other | Node::Whiteout) => Ok(None),
            None => {
                self.add(path, Node::Whiteout)?;
                let path = to_path(path.to_vec());
                self.marks.whiteouts.insert(path.clone());
                Ok(Some(path))
            }
        }
    }

    /// Notes that a directory of this layer has the name of a whiteout: it hides the one below, with its metadata.
    pub(super) fn uncover(&mut self, path: &[u8]) {
        let path = to_path(path.to_vec());
        self.marks.whiteouts.remove(&path);
        self.marks.implied.remove(&path);
        self.marks.opaque.insert(path);
    }

    /// Notes that a directory is described.
    pub(super) fn describe(&mut self, path: &[u8]) {
        if path.is_empty() {
            self.marks.has_root = true;
        } else {
            self.marks.implied.remove(&to_path(path.to_vec()));
        }
    }
}

impl Mark {
    fn none() -> Self {
        Self { parents: Vec::new(), whiteout: None }
    }
}

fn mark_of(name: &[u8]) -> Result<MarkName<'_>> {
    if name == OPAQUE {
        return Ok(MarkName::Opaque);
    }
    if name.starts_with(OF_AUFS) {
        return Ok(MarkName::Ignored);
    }
    match name.strip_prefix(WHITEOUT) {
        None => Ok(MarkName::None),
        Some(b"" | b"." | b"..") => Err(Error::new("it is a whiteout of no name")),
        Some(hidden) => Ok(MarkName::Whiteout(hidden)),
    }
}
