//! Whether users of the host can reach a directory. Root of a machine creates files of any owner in its
//! trees: a setuid program created there and executed by a user of the host has the rights of root of the
//! host (CVE-2025-64507). So users must not reach such a tree. Called by `config`, `run` and `control`; it
//! changes nothing.

use crate::error::{Error, Result};
use rustix::fd::AsRawFd;
use rustix::fs::{Mode, OFlags};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Directories needed by all users of a host: closing them is not a solution.
const PUBLIC: [&str; 12] =
    ["/", "/etc", "/home", "/media", "/mnt", "/opt", "/run", "/srv", "/tmp", "/usr", "/var", "/var/tmp"];

/// Refuses a tree that users of the host can reach.
///
/// # Errors
/// The tree is open, with the directory to close as the hint.
pub(crate) fn refuse_open(tree: &Path) -> Result<()> {
    if !is_open(tree) {
        return Ok(());
    }
    let parent = tree.parent().filter(|parent| !PUBLIC.iter().any(|public| parent == &Path::new(public)));
    let hint = match parent {
        Some(parent) => {
            format!("chmod 700 '{}', or move the tree below a directory of mode 0700", parent.display())
        }
        None => "move the tree below a directory of mode 0700, for example /var/lib/machines".to_owned(),
    };
    Err(Error::new(format!("the tree '{}' can be reached by every user of this host", tree.display()))
        .with_hint(hint))
}

/// Returns whether users of the host can reach a directory: "others" may search every directory above it. The
/// mode of the directory itself does not count, root of a machine may change it. A directory that belongs to
/// another user than root is searched by that user. `false` if the directory is missing.
pub(crate) fn is_open(directory: &Path) -> bool {
    const SEARCH: u32 = 0o001;
    let Ok(place) = without_links(directory) else { return false };
    let is_closed = |above: &Path| {
        above.symlink_metadata().is_ok_and(|found| found.uid() == 0 && found.mode() & SEARCH == 0)
    };
    !place.ancestors().skip(1).any(is_closed)
}

/// Returns the path of a directory without symbolic links, by the kernel: three calls for a path of any depth.
fn without_links(directory: &Path) -> std::io::Result<PathBuf> {
    let opened = rustix::fs::open(directory, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    std::fs::read_link(format!("/proc/self/fd/{}", opened.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{Permissions, create_dir_all, set_permissions};
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn a_closed_parent_directory_closes_a_tree() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let root = tempfile::tempdir().unwrap();
        let set_mode = |path: &Path, mode| set_permissions(path, Permissions::from_mode(mode)).unwrap();
        let tree = root.path().join("above/tree");
        create_dir_all(&tree).unwrap();
        symlink(&tree, root.path().join("link")).unwrap();
        set_mode(root.path(), 0o755);
        for (above, own, expected) in [
            (0o755, 0o755, true),
            (0o711, 0o755, true),
            (0o755, 0o700, true),
            (0o750, 0o755, false),
            (0o700, 0o755, false),
        ] {
            set_mode(&root.path().join("above"), above);
            set_mode(&tree, own);
            assert_eq!(is_open(&tree), expected, "{above:o} {own:o}");
            assert_eq!(is_open(&root.path().join("link")), expected, "{above:o} {own:o}");
        }
        // A directory of a user is closed for all other users.
        std::os::unix::fs::chown(root.path().join("above"), Some(1000), Some(1000)).unwrap();
        assert!(is_open(&tree));
        assert!(!is_open(&root.path().join("missing")));
    }
}
