//! Boot counting of versions (systemd.v(7)): the start of a version `+LEFT-DONE` takes one of its attempts, a ready
//! guest removes the counters, and a failed boot goes on with the next older version. Called by `run` and by the
//! supervisor.

use super::locks::{self, HeldLocks};
use super::version::{self, Tries};
use crate::error::{Context, Result};
use crate::host::lock::LockMode;
use crate::machine::name::Name;
use crate::machine::root::{Root, RootSource};
use crate::paths::Paths;
use crate::state::record::Record;
use rustix::fs::{CWD, RenameFlags};
use std::path::{Path, PathBuf};

/// Returns the root of the next boot: a version that has not booted is replaced by the next older one, and an attempt is
/// taken from a version with counters. `is_again` is false for a first start: nothing of a running machine changes.
///
/// # Errors
/// Any error of rename(2).
pub(crate) fn begin(
    paths: &Paths,
    name: &Name,
    root: &Root,
    failed: Option<&Path>,
    is_again: bool,
) -> Result<Root> {
    let mut root = root.clone();
    if failed == Some(root.source.path())
        && let Some(older) = version::older(root.source.path())
    {
        root.source = RootSource::of_path(older);
    }
    let Some(tries) = Tries::of(root.source.path()).filter(|tries| tries.left > 0) else { return Ok(root) };
    if !is_again && Record::read(paths, name)?.is_some_and(|record| record.is_alive()) {
        return Ok(root);
    }
    let mut held = HeldLocks::default();
    let mut lock = || held.take(paths, locks::of_path(paths, root.source.path(), LockMode::Exclusive)?);
    // A verb or another machine uses it by its path. The claim of the start refuses what excludes each other.
    if !is_again && let Err(error) = lock() {
        log::debug!("{error}, not counting the boot");
        return Ok(root);
    }
    let taken = tries.taken();
    if let Err(error) = rename(root.source.path(), &taken) {
        // A read-only or full file system counts no boots, and has a good tree nevertheless.
        if root.source.path().exists() {
            log::warn!("{error}, ignoring");
            return Ok(root);
        }
        return Err(error);
    }
    root.source = RootSource::of_path(taken);
    root.is_trial = true;
    Ok(root)
}

/// Gives back the attempt of a version whose start has failed, and so has that of the versions before it: the fault is
/// not that of the version. Errors are logged.
pub(crate) fn give_back(version: &Path) {
    let Some(path) = Tries::of(version).and_then(|tries| tries.given_back()) else { return };
    rename(version, &path).unwrap_or_else(|error| log::warn!("{error}, ignoring"));
}

/// Returns whether there is an older version to go on with.
pub(crate) fn has_older(version: &Path) -> bool {
    version::older(version).is_some()
}

/// Removes the counters of a version that has booted, and returns its path.
///
/// # Errors
/// Any error of rename(2).
pub(crate) fn bless(version: &Path) -> Result<PathBuf> {
    let Some(tries) = Tries::of(version) else { return Ok(version.to_owned()) };
    let blessed = tries.blessed();
    rename(version, &blessed)?;
    Ok(blessed)
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)
        .context(|| format!("cannot count the boots of '{}'", from.display()))
}

/// Returns the name of a version for a message.
pub(crate) fn shown(version: &Path) -> String {
    let path = Tries::of(version).map_or_else(|| version.to_owned(), |tries| tries.blessed());
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_version_is_followed_by_an_older_one() {
        let directory = tempfile::tempdir().unwrap();
        let (paths, name) = (Paths::below(directory.path()), Name::new("web").unwrap());
        let at = |file: &str| directory.path().join("web.v").join(file);
        for file in ["web_1", "web_2+3"] {
            std::fs::create_dir_all(at(file)).unwrap();
        }
        let root = Root::of(RootSource::Directory(at("web_2+3")));
        let root = begin(&paths, &name, &root, None, false).unwrap();
        assert!(root.is_trial && root.source.path() == at("web_2+2-1"));
        give_back(root.source.path());
        let root =
            begin(&paths, &name, &Root::of(RootSource::Directory(at("web_2+3"))), None, false).unwrap();
        assert!(root.is_trial && root.source.path() == at("web_2+2-1"));
        let again = Root::of(RootSource::Directory(at("web_2+2-1")));
        let again = begin(&paths, &name, &again, Some(root.source.path()), true).unwrap();
        assert!(!again.is_trial && again.source.path() == at("web_1"));
        assert_eq!(shown(root.source.path()), "web_2");
        assert_eq!(bless(root.source.path()).unwrap(), at("web_2"));
        assert!(at("web_2").is_dir());
        // Boots that cannot be counted.
        for file in ["web_3+1", "web_3+0-1"] {
            std::fs::create_dir_all(at(file)).unwrap();
        }
        let root =
            begin(&paths, &name, &Root::of(RootSource::Directory(at("web_3+1"))), None, false).unwrap();
        assert!(!root.is_trial && root.source.path() == at("web_3+1"));
    }
}
