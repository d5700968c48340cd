//! A guest's `/etc/hosts`: a block of lines at its end, updated while the guest runs and removed when it
//! stops. Called by the supervisor.
//!
//! *Why this file, and in place.* Every libc and every resolver of a guest reads it first, at each lookup. A
//! name server instead would not work: musl sends queries to all name servers at once and takes the fastest
//! answer, so that a server of Coracle beside the host's is unreliable, and one alone would have to answer
//! for all domains. A file mounted over the guest's would work for all machines, but it breaks updates of the
//! package that owns the file, `sed -i` and editors: so that is used for read-only trees only. The file is
//! written from the host, below the tree's own root: mounts, symbolic links and file systems of the guest are
//! not followed.

use crate::error::{Context, Error, Result};
use crate::sys::guest_files::{GuestRoot, Owners};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const BEGIN: &str = "# Names from coracle, renewed as machines come and go; to the end mark:\n";
const END: &str = "# End of the names from coracle.\n";
/// The greatest size in bytes; a larger file is not changed.
const LIMIT: u64 = 1 << 20;

/// The location of a machine's hosts file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hosts {
    /// The directory that bounds path resolution.
    directory: PathBuf,
    /// The file below that directory.
    file: PathBuf,
}

/// The handling of a missing file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Missing {
    Make,
    Leave,
}

impl Hosts {
    /// Returns the file of a tree that is writable for its guest.
    pub fn of_tree(root: &Path) -> Self {
        Self { directory: root.to_owned(), file: "etc/hosts".into() }
    }

    /// Returns the file that is bind-mounted over the one of a read-only tree.
    pub(crate) fn bound(state: &Path) -> Self {
        Self { directory: state.to_owned(), file: "hosts".into() }
    }

    /// Returns its path.
    pub(crate) fn path(&self) -> PathBuf {
        self.directory.join(&self.file)
    }

    /// Returns whether the tree's own file can be written: neither on a read-only file system nor a symbolic
    /// link.
    pub fn is_writable(&self) -> bool {
        match self.open(Missing::Leave) {
            Ok(Some(_)) => true,
            Ok(None) => GuestRoot::of_tree(&self.directory)
                .is_ok_and(|root| root.is_writable(parent(&self.file), Owners::ALL)),
            Err(_) => false,
        }
    }

    /// Replaces the block by `lines`; an empty text removes the block.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, lines: &str) -> Result<()> {
        let doing = || format!("cannot write host names to '{}'", self.path().display());
        let missing = if lines.is_empty() { Missing::Leave } else { Missing::Make };
        let Some(file) = self.open(missing).context(doing)? else { return Ok(()) };
        let length = file.metadata().context(doing)?.len();
        if length > LIMIT {
            return Err(Error::new("it is larger than 1 MiB").context(doing()));
        }
        let mut old = vec![0; usize::try_from(length).unwrap_or_default()];
        file.read_exact_at(&mut old, 0).context(doing)?;
        let new = with_lines(&old, lines);
        let same = old.iter().zip(&new).take_while(|(one, other)| one == other).count();
        if old == new {
            return Ok(());
        }
        // The guest's own lines precede the block and are not rewritten: a concurrent reader always sees
        // them.
        let from = u64::try_from(same).unwrap_or_default();
        file.write_all_at(new.get(same..).unwrap_or_default(), from).context(doing)?;
        file.set_len(u64::try_from(new.len()).unwrap_or_default()).context(doing)
    }

    fn open(&self, missing: Missing) -> std::io::Result<Option<File>> {
        let root = GuestRoot::of_tree(&self.directory).map_err(std::io::Error::other)?;
        // Owners of a tree may be shifted; symbolic links and other mounts are refused anyway.
        match root.open_own(&self.file, OFlags::RDWR, Owners::ALL) {
            Err(Errno::NOENT) if missing == Missing::Make => {
                Ok(Some(root.create_own(&self.file, Mode::from_raw_mode(0o644), Owners::ALL)?))
            }
            Err(Errno::NOENT) => Ok(None),
            // A file lease: its holder has 45 s to release it (fcntl(2), F_SETLEASE). Coracle does not wait
            // for it.
            Err(Errno::AGAIN) => Err(std::io::Error::other("a process of the machine holds a lease on it")),
            file => Ok(file.map(Some)?),
        }
    }
}

fn parent(file: &Path) -> &Path {
    file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Returns the text with the block at its end, in place of an existing one.
fn with_lines(text: &[u8], lines: &str) -> Vec<u8> {
    let mut kept = Vec::with_capacity(text.len() + lines.len());
    let mut is_in_block = false;
    let is_whole = text.split_inclusive(|byte| *byte == b'\n').any(|line| line == END.as_bytes());
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        // Without its end mark it is not a complete block of Coracle.
        is_in_block |= is_whole && line == BEGIN.as_bytes();
        if !is_in_block {
            kept.extend(line);
        }
        is_in_block &= line != END.as_bytes();
    }
    if !lines.is_empty() {
        if kept.last().is_some_and(|last| *last != b'\n') {
            kept.push(b'\n');
        }
        kept.extend([BEGIN, lines, END].concat().bytes());
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_lines_stay_and_the_block_is_replaced() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("etc")).unwrap();
        let (hosts, file) = (Hosts::of_tree(root.path()), root.path().join("etc/hosts"));
        assert!(hosts.is_writable());
        hosts.write("").unwrap();
        assert!(!file.exists(), "nothing is made for nothing");
        std::fs::write(&file, "127.0.0.1 localhost").unwrap();
        hosts.write("10.0.0.1 a\n10.0.0.2 b\n").unwrap();
        hosts.write("10.0.0.1 a\n").unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        assert_eq!(text, format!("127.0.0.1 localhost\n{BEGIN}10.0.0.1 a\n{END}"));
        std::fs::write(&file, format!("{text}10.9.9.9 mine\n")).unwrap();
        hosts.write("").unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "127.0.0.1 localhost\n10.9.9.9 mine\n");
        std::fs::remove_file(&file).unwrap();
        hosts.write("10.0.0.1 a\n").unwrap();
        assert!(file.exists());
    }

    #[test]
    fn only_a_file_of_the_tree_is_written() {
        let root = tempfile::tempdir().unwrap();
        let tree = root.path().join("tree");
        std::fs::create_dir_all(tree.join("etc")).unwrap();
        std::fs::write(root.path().join("outside"), "x").unwrap();
        for link in ["../../outside", "/etc/hosts", "/etc/passwd"] {
            std::os::unix::fs::symlink(link, tree.join("etc/hosts")).unwrap();
            assert!(!Hosts::of_tree(&tree).is_writable());
            assert!(Hosts::of_tree(&tree).write("1.2.3.4 x\n").is_err(), "{link}");
            std::fs::remove_file(tree.join("etc/hosts")).unwrap();
        }
        nix::unistd::mkfifo(&tree.join("etc/hosts"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(Hosts::of_tree(&tree).write("1.2.3.4 x\n").is_err());
        assert_eq!(std::fs::read_to_string(root.path().join("outside")).unwrap(), "x");
    }

    #[test]
    fn a_block_without_its_end_belongs_to_the_guest() {
        let cut = format!("{BEGIN}10.0.0.1 a\n10.9.9.9 mine\n");
        assert_eq!(with_lines(cut.as_bytes(), ""), cut.as_bytes());
    }
}
