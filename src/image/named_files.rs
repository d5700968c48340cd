//! The files of the host that belong to the name of a machine, besides its image: settings, definitions,
//! records. Called by the verbs that remove and rename images. It lists them and changes nothing.

use super::snapshot;
use crate::error::{Context, Result};
use crate::machine::name::Name;
use crate::machine::unit_name::ServiceTemplate;
use crate::paths::Paths;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// The suffixes of the files beside an image, as systemd-machined removes and renames them.
const BESIDE: [&str; 7] =
    [".nspawn", ".oci-config", ".roothash", ".roothash.p7s", ".usrhash", ".usrhash.p7s", ".verity"];

/// The owner of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keeper {
    /// The image, or the records about it.
    Image,
    /// The administrator, who has written it to `/etc`.
    Administrator,
}

/// A file or directory. It may be missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NamedFile {
    /// Its path.
    pub(super) path: PathBuf,
    /// Its owner.
    pub(super) keeper: Keeper,
}

/// Returns the files of a name, in an order that does not depend on the name. `directory` is that of the
/// image.
///
/// # Errors
/// A directory of units that cannot be read.
pub(super) fn all(paths: &Paths, directory: &Path, name: &Name) -> Result<Vec<NamedFile>> {
    let mut found: Vec<PathBuf> =
        BESIDE.iter().map(|suffix| directory.join(format!("{name}{suffix}"))).collect();
    found.push(paths.failure(name));
    found.push(snapshot::directory(paths, name));
    found.push(paths.storage().join("images").join(format!("{name}.json")));
    let kept = found.len();
    for settings in paths.nspawn_directories() {
        found.push(settings.join(format!("{name}.nspawn")));
    }
    for directory in paths.definitions() {
        found.extend(["toml", "toml.d"].map(|suffix| directory.join(format!("{name}.{suffix}"))));
    }
    for units in [paths.join("/etc/systemd/system"), paths.systemd("system")] {
        let directories = directories_of_links(&units)?;
        for unit in ServiceTemplate::ALL.map(|template| template.service(name)) {
            found.extend(["", ".d"].map(|suffix| units.join(format!("{unit}{suffix}"))));
            found.extend(directories.iter().map(|directory| directory.join(&unit)));
        }
    }
    let keeper = |(at, path): (usize, PathBuf)| {
        let is_etc = at >= kept && paths.strip(&path).starts_with("/etc");
        NamedFile { path, keeper: if is_etc { Keeper::Administrator } else { Keeper::Image } }
    };
    Ok(found.into_iter().enumerate().map(keeper).collect())
}

/// Returns the files of a name that exist.
///
/// # Errors
/// As for [`all`], or a file that cannot be looked at.
pub(super) fn existing(paths: &Paths, directory: &Path, name: &Name) -> Result<Vec<NamedFile>> {
    let mut found = Vec::new();
    for file in all(paths, directory, name)? {
        if exists(&file.path)? {
            found.push(file);
        }
    }
    Ok(found)
}

/// Returns whether a file exists, also as a dangling link.
///
/// # Errors
/// Any error of lstat(2): the file may exist.
pub(super) fn exists(path: &Path) -> Result<bool> {
    match path.symlink_metadata() {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(false),
        found => found.map(|_| true).context(|| format!("cannot look at '{}'", path.display())),
    }
}

/// Deletes an empty directory, unless it is missing.
///
/// # Errors
/// Any error of rmdir(2).
pub(super) fn delete_directory(path: &Path) -> Result<()> {
    match std::fs::remove_dir(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed.context(|| format!("cannot delete '{}'", path.display())),
    }
}

/// Returns the directories that enable units: with links to those that another unit wants or requires.
fn directories_of_links(units: &Path) -> Result<Vec<PathBuf>> {
    let reading = || format!("cannot read '{}'", units.display());
    let entries = match std::fs::read_dir(units) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.context(reading)?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.context(reading)?.path();
        if path.extension().is_some_and(|suffix| suffix == "wants" || suffix == "requires") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

impl NamedFile {
    /// Returns whether a package has installed it.
    pub(super) fn is_of_package(&self, paths: &Paths) -> bool {
        paths.strip(&self.path).starts_with("/usr")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_two_names_are_in_the_same_order() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::below(root.path());
        std::fs::create_dir_all(paths.join("/etc/systemd/system/coracle.target.wants")).unwrap();
        let of = |name: &str| all(&paths, &paths.images(), &Name::new(name).unwrap()).unwrap();
        let (one, other) = (of("web"), of("db"));
        assert_eq!(one.len(), other.len());
        for (one, other) in one.iter().zip(&other) {
            assert_eq!(one.path.to_str().unwrap().replace("web", "db"), other.path.to_str().unwrap());
            assert_eq!(one.keeper, other.keeper);
        }
        let of_etc: Vec<_> = one.iter().filter(|file| file.keeper == Keeper::Administrator).collect();
        assert!(of_etc.iter().all(|file| file.path.starts_with(root.path().join("etc"))));
        assert!(of_etc.iter().any(|file| file.path.ends_with("coracle.target.wants/coracle@web.service")));
        assert!(of_etc.iter().any(|file| file.path.ends_with("machines.d/web.toml.d")));
    }
}
