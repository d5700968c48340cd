//! Entries of a copy and its observer. A source (`walk`, `extract`) passes entries to a sink (`tree_writer`,
//! `writer`, `transfer`). Ids of entries are those of the guest.

use crate::error::{Error, Result};
use rustix::fd::BorrowedFd;
use rustix::fs::{FileType, Stat};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

/// Returns the path of an entry for a message, or `whole` for the empty path of the copied file itself.
pub(crate) fn shown(path: &Path, whole: &str) -> String {
    if path.as_os_str().is_empty() { whole.to_owned() } else { quoted(path.as_os_str().as_bytes()) }
}

/// Returns a name that is not trusted for a message: characters that control a terminal or the order of its text,
/// and bytes that are not text, are escaped.
pub(crate) fn quoted(name: &[u8]) -> String {
    // Unicode Standard Annex #9.
    let is_escaped =
        |c: char| c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    match std::str::from_utf8(name) {
        Ok(text) => {
            let escape = |c: char| if is_escaped(c) { c.escape_default().to_string() } else { c.to_string() };
            format!("'{}'", text.chars().map(escape).collect::<String>())
        }
        Err(_) => format!("'{}'", name.escape_ascii()),
    }
}

/// Normalises a path of a copy to its names; empty for the top.
pub(crate) fn plain(path: &Path) -> Result<PathBuf> {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => plain.push(name),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(Error::new(format!("the path {} leads out of the archive", shown(path, "")))
                    .with_hint("create the archive without '..' in its paths"));
            }
        }
    }
    Ok(plain)
}

/// The kind of an entry.
pub(crate) enum EntryKind<'a> {
    /// A directory; its entries follow.
    Directory,
    /// A regular file.
    File(&'a mut dyn Content),
    /// A symbolic link, with its target.
    Link(PathBuf),
    /// A hard link to an earlier entry.
    Hard(PathBuf),
    /// A named pipe.
    Fifo,
    /// A device or a socket, by its type and device number: of an exact copy only.
    Node(FileType, u64),
}

/// Fills a buffer with at most `most` bytes by one read, repeated after a signal. Returns the number of
/// bytes.
///
/// # Errors
/// Any other error of the read.
pub(crate) fn read_part(
    buffer: &mut Vec<u8>,
    most: usize,
    mut read: impl FnMut(&mut [u8]) -> std::io::Result<usize>,
) -> std::io::Result<usize> {
    buffer.resize(most, 0);
    let length = loop {
        match read(buffer) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            read => break read?,
        }
    };
    buffer.truncate(length);
    Ok(length)
}

/// The content of a file in parts, in order. Gaps between parts, and after the last one, are holes.
pub(crate) trait Content {
    /// Reads the next part of at most `most` bytes into a buffer. Returns its position, or `None` at the end
    /// of the file.
    ///
    /// # Errors
    /// Any read error.
    fn next(&mut self, buffer: &mut Vec<u8>, most: usize, monitor: &mut dyn Monitor) -> Result<Option<u64>>;

    /// Returns the length, which is final after the last part.
    fn length(&self) -> u64;

    /// Returns the length known in advance, which may still change. `None` if the size is not reliable:
    /// procfs, sysfs and FUSE report any size.
    fn expected_length(&self) -> Option<u64>;

    /// Returns the file, if the copy may share its blocks (ioctl_ficlone(2)).
    fn file(&self) -> Option<&File> {
        None
    }
}

/// The side of a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum TreeSide {
    /// The host.
    Host,
    /// A guest: mode bits that grant privileges on the host are cleared.
    Guest,
}

/// The metadata of an entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Meta {
    /// Permission bits.
    pub(crate) mode: u32,
    /// Owner, in ids of the guest.
    pub(crate) uid: u32,
    /// Group, in ids of the guest.
    pub(crate) gid: u32,
    /// Time of the last modification: seconds and nanoseconds.
    pub(crate) modified: (i64, i64),
    /// Copied extended attributes.
    pub(crate) attributes: Vec<(Vec<u8>, Vec<u8>)>,
}

/// A receiver of entries.
pub(crate) trait Sink {
    /// Returns whether the sink already has a file in this state. It is not passed to [`Self::take`] then; a
    /// directory is, with its entries.
    fn has(&mut self, _path: &Path, _stat: &Stat) -> bool {
        false
    }

    /// Returns whether another entry covers this one with all of its entries. It is left out then.
    fn is_hidden(&self, _path: &Path) -> bool {
        false
    }

    /// Replaces the metadata of a directory that the sink has.
    ///
    /// # Errors
    /// A directory that cannot be changed.
    fn update(&mut self, _path: &Path, _meta: &Meta) -> Result<()> {
        Ok(())
    }

    /// Removes an entry that another one replaces.
    ///
    /// # Errors
    /// An entry that cannot be removed.
    fn remove(&mut self, path: &Path) -> Result<()> {
        Err(Error::new(format!("{} is there twice", shown(path, "the root"))))
    }

    /// Gives a directory that the sink has an attribute for overlays.
    ///
    /// # Errors
    /// A sink without such attributes.
    fn mark(&mut self, path: &Path, (name, _): (&str, &[u8])) -> Result<()> {
        Err(Error::new(format!("{} cannot have the attribute '{name}'", shown(path, "the root"))))
    }

    /// Receives an entry. The path is relative to the source, empty for the source itself.
    ///
    /// # Errors
    /// An entry that cannot be created.
    fn take(
        &mut self,
        path: &Path,
        meta: &Meta,
        kind: EntryKind<'_>,
        monitor: &mut dyn Monitor,
    ) -> Result<()>;
}

/// The observer of a copy: shows its progress, and interrupts it.
pub(crate) trait Monitor {
    /// Counts an entry that begins.
    ///
    /// # Errors
    /// The copy was interrupted.
    fn count_entry(&mut self) -> Result<()>;

    /// Adds finished bytes.
    ///
    /// # Errors
    /// The copy was interrupted.
    fn advance(&mut self, bytes: u64) -> Result<()>;

    /// Warns about a skipped entry.
    fn skip(&mut self, path: &Path, reason: &str);

    /// Returns the descriptor that is readable when a wait must end. `None` if no event interrupts the copy.
    fn interrupts(&self) -> Option<BorrowedFd<'_>>;
}

#[cfg(test)]
mod tests {
    use super::{plain, shown};
    use std::path::Path;

    #[test]
    fn names_do_not_control_the_terminal() {
        let name = Path::new("a/\x1b[2J\n\u{202e}ö");
        assert_eq!(shown(name, "the source"), "'a/\\u{1b}[2J\\n\\u{202e}ö'");
        assert_eq!(shown(Path::new(""), "the source"), "the source");
    }

    #[test]
    fn paths_stay_below_the_top() {
        assert_eq!(plain(Path::new("./a//b/./c")).unwrap(), Path::new("a/b/c"));
        assert_eq!(plain(Path::new("/etc/passwd")).unwrap(), Path::new("etc/passwd"));
        assert_eq!(plain(Path::new("./")).unwrap(), Path::new(""));
        assert!(plain(Path::new("a/../../b")).is_err());
    }
}
