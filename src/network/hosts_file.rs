//! A guest's `/etc/hosts`: a block of lines of ours at its end, renewed while the guest runs and taken
//! out again at its end. Called by the supervisor.
//!
//! *Why this file, and in place.* Every libc and every resolver of a guest reads it, first of all, and
//! at every question: musl asks all name servers at once and takes the fastest answer, so that one of
//! ours beside the host's could not be relied on, and one of ours alone would have to answer for the
//! whole world. A file of ours mounted over the guest's would hold for every machine, but make the
//! package that owns it, `sed -i` and people fail: so that is for trees in which nobody can write. The
//! file is written from the host, below the tree's own root: no mount, link or file system that the
//! guest makes is met on the way.

use crate::error::{Context, Error, Result};
use crate::sys::guest_files::{Owners, Root};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const BEGIN: &str = "# Names from coracle, renewed as machines come and go; to the end mark:\n";
const END: &str = "# End of the names from coracle.\n";
/// A larger one is left alone.
const LIMIT: u64 = 1 << 20;

/// Where a machine's file is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hosts {
    /// The directory that no link leads out of.
    directory: PathBuf,
    /// The file below it.
    file: PathBuf,
}

/// What is to become of what is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Missing {
    Make,
    Leave,
}

impl Hosts {
    /// The file of a tree that its guest can write to.
    pub fn of_tree(root: &Path) -> Self {
        Self { directory: root.to_owned(), file: "etc/hosts".into() }
    }

    /// A file that is bound over the one of a tree which is read-only.
    pub fn bound(state: &Path) -> Self {
        Self { directory: state.to_owned(), file: "hosts".into() }
    }

    /// Its path.
    pub fn path(&self) -> PathBuf {
        self.directory.join(&self.file)
    }

    /// Whether a tree's own file can be written: not on a read-only file system, nor where it is a link.
    pub fn is_writable(&self) -> bool {
        match self.open(Missing::Leave) {
            Ok(Some(_)) => true,
            Ok(None) => Root::of_tree(&self.directory)
                .is_ok_and(|root| root.is_writable(parent(&self.file), Owners::ALL)),
            Err(_) => false,
        }
    }

    /// Puts `lines` in place of those that are there from us; none takes the block out.
    ///
    /// # Errors
    /// What keeps the file from being written.
    pub fn write(&self, lines: &str) -> Result<()> {
        let doing = || format!("cannot write names to '{}'", self.path().display());
        let missing = if lines.is_empty() { Missing::Leave } else { Missing::Make };
        let Some(file) = self.open(missing).context(doing)? else { return Ok(()) };
        let length = file.metadata().context(doing)?.len();
        if length > LIMIT {
            return Err(Error::new("it is larger than a mebibyte").context(doing()));
        }
        let mut old = vec![0; usize::try_from(length).unwrap_or_default()];
        file.read_exact_at(&mut old, 0).context(doing)?;
        let new = with_lines(&old, lines);
        let same = old.iter().zip(&new).take_while(|(one, other)| one == other).count();
        if old == new {
            return Ok(());
        }
        // The guest's own lines come before ours and are not touched: who reads meanwhile has them.
        let from = u64::try_from(same).unwrap_or_default();
        file.write_all_at(new.get(same..).unwrap_or_default(), from).context(doing)?;
        file.set_len(u64::try_from(new.len()).unwrap_or_default()).context(doing)
    }

    fn open(&self, missing: Missing) -> std::io::Result<Option<File>> {
        let root = Root::of_tree(&self.directory).map_err(std::io::Error::other)?;
        // Owners of a tree may be shifted; links and other mounts are refused anyway.
        match root.open_own(&self.file, OFlags::RDWR, Owners::ALL) {
            Err(Errno::NOENT) if missing == Missing::Make => {
                Ok(Some(root.create_own(&self.file, Mode::from_raw_mode(0o644), Owners::ALL)?))
            }
            Err(Errno::NOENT) => Ok(None),
            // A lease: its holder has 45 s to give it up (fcntl(2), F_SETLEASE). Machines do not wait for it.
            Err(Errno::AGAIN) => Err(std::io::Error::other("a process of the machine holds a lease on it")),
            file => Ok(file.map(Some)?),
        }
    }
}

fn parent(file: &Path) -> &Path {
    file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A text with our block at its end, in place of one that is there.
fn with_lines(text: &[u8], lines: &str) -> Vec<u8> {
    let mut kept = Vec::with_capacity(text.len() + lines.len());
    let mut ours = false;
    let is_whole = text.split_inclusive(|byte| *byte == b'\n').any(|line| line == END.as_bytes());
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        // Without its end it is no block of ours any more.
        ours |= is_whole && line == BEGIN.as_bytes();
        if !ours {
            kept.extend(line);
        }
        ours &= line != END.as_bytes();
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
    fn own_lines_stay_and_ours_come_and_go() {
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
    fn nothing_but_a_file_of_the_tree_is_written() {
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
    fn a_block_without_its_end_is_the_guests() {
        let cut = format!("{BEGIN}10.0.0.1 a\n10.9.9.9 mine\n");
        assert_eq!(with_lines(cut.as_bytes(), ""), cut.as_bytes());
    }
}
