//! Images by name, in the directories of systemd (machinectl(1), "Files and directories"). Called by `config`
//! for the default root of a machine. It opens no image.

use super::version;
use crate::error::{Error, Result};
use crate::machine::name::Name;
use crate::machine::root::RootSource;
use crate::paths::Paths;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// A kind of images: the suffix of its names, and its source by a path.
type Kind = (&'static str, fn(PathBuf) -> RootSource);

/// The kinds of images, in the order of the search.
const KINDS: [Kind; 3] =
    [("", RootSource::Directory), (".raw", RootSource::Image), (".mstack", RootSource::Stack)];

/// Returns whether a file is an image of its kind: a disk image is a file, the other ones are directories.
fn is_of_kind(path: &Path, suffix: &str) -> bool {
    if suffix == ".raw" { path.is_file() } else { path.is_dir() }
}

/// Returns the image of a name: the first one in the order of the search. `None` if there is none.
pub(crate) fn by_name(paths: &Paths, name: &Name) -> Option<RootSource> {
    all_of(paths, name).next()
}

/// Returns the newest version if a path stands for one (systemd.v(7)), else the path.
///
/// # Errors
/// There is no version for this host.
pub(crate) fn newest_version(path: &Path) -> Result<PathBuf> {
    version::of_path(path)
}

/// Returns the image of a name for a verb that changes it.
///
/// # Errors
/// A name without an image.
pub(crate) fn existing(paths: &Paths, name: &Name) -> Result<RootSource> {
    by_name(paths, name).ok_or_else(|| {
        Error::new(format!("image '{name}' does not exist")).with_hint("'coracle images' lists all images")
    })
}

/// Refuses a name without an image whose place is taken by another file.
///
/// # Errors
/// Such a file, or one that cannot be looked at: it may be an image.
pub(super) fn refuse_other(paths: &Paths, name: &Name) -> Result<()> {
    for directory in paths.image_directories() {
        for (file, ..) in candidates(name) {
            let path = directory.join(file);
            if super::named_files::exists(&path)? {
                return Err(Error::new(format!("'{}' is not an image", path.display()))
                    .with_hint("it must be a directory, or 'NAME.raw' a file: remove it by hand"));
            }
        }
    }
    Ok(())
}

/// Returns all images of a name, the one in use first.
pub(crate) fn all_of<'a>(paths: &Paths, name: &'a Name) -> impl Iterator<Item = RootSource> + use<'a> {
    let directories = paths.image_directories().into_iter().filter(|directory| directory.is_dir());
    directories.flat_map(move |directory| {
        let found = candidates(name).filter_map(move |(file, is_versioned, (suffix, source))| {
            let path = directory.join(file);
            let image = if is_versioned { version::newest(&path, name.as_str(), suffix) } else { Some(path) };
            image.filter(|image| is_of_kind(image, suffix)).map(source)
        });
        found.collect::<Vec<_>>()
    })
}

/// Returns the file names of a name in the order of the search: without a version first.
fn candidates(name: &Name) -> impl Iterator<Item = (String, bool, Kind)> {
    let of =
        move |end: &'static str| KINDS.map(|kind| (format!("{name}{}{end}", kind.0), !end.is_empty(), kind));
    of("").into_iter().chain(of(".v"))
}

/// Returns the names of all images.
pub(crate) fn names(paths: &Paths) -> BTreeSet<Name> {
    let entries = |directory: PathBuf| std::fs::read_dir(directory).into_iter().flatten().flatten();
    let files = paths.image_directories().into_iter().flat_map(entries);
    files
        .map(|entry| entry.path())
        .filter(|path| {
            let is_image = path.extension().is_some_and(|suffix| suffix == "raw");
            is_of_kind(path, if is_image { ".raw" } else { "" })
        })
        .filter_map(|path| name_of(&path))
        .collect()
}

/// Returns the name of the image in a file. `None` if it is no image.
pub(crate) fn name_of(file: &Path) -> Option<Name> {
    let file = file.file_name()?.to_str()?;
    let plain = file.strip_suffix(".v").unwrap_or(file);
    let known = KINDS
        .iter()
        .filter(|(suffix, _)| !suffix.is_empty())
        .find_map(|(suffix, _)| plain.strip_suffix(suffix));
    Name::new(known.unwrap_or(plain)).ok()
}

/// Refuses a new name that ends like the file of an image: the image would have another name.
///
/// # Errors
/// Such a name.
pub(super) fn refuse_suffix(name: &Name) -> Result<()> {
    let suffix = [".v", ".mstack", ".raw"].into_iter().find(|suffix| name.as_str().ends_with(suffix));
    suffix.map_or(Ok(()), |suffix| {
        Err(Error::usage(format!("'{name}' is no name for an image: it ends in '{suffix}'"))
            .with_hint("choose a name without this ending"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Creates directories of a host.
    fn host(directories: &[&str]) -> (tempfile::TempDir, Paths) {
        let root = tempfile::tempdir().unwrap();
        for directory in directories {
            std::fs::create_dir_all(root.path().join(directory)).unwrap();
        }
        let paths = Paths::below(root.path());
        (root, paths)
    }

    #[test]
    fn images_are_found_in_the_order_of_the_search() {
        let web = Name::new("web").unwrap();
        let mut directories = vec![
            "usr/lib/machines/web",
            "usr/local/lib/machines/web",
            "var/lib/machines/web.v/web_1",
            "var/lib/machines/web.v/web_2",
            "var/lib/machines/web.mstack",
            "var/lib/machines/web",
            "run/machines/web.mstack.v/web_1.mstack",
            "run/machines/web",
            "etc/machines/web",
        ];
        while let Some(first) = directories.last() {
            let (root, paths) = host(&directories);
            std::fs::write(root.path().join(".file"), "").unwrap();
            let expected = if *first == "var/lib/machines/web.v/web_1" {
                continue;
            } else {
                root.path().join(first)
            };
            assert_eq!(by_name(&paths, &web).unwrap().path(), expected, "{directories:?}");
            assert_eq!(names(&paths), BTreeSet::from([web.clone()]));
            directories.pop();
            if directories.last() == Some(&"var/lib/machines/web.v/web_1") {
                directories.pop();
            }
        }
        assert_eq!(by_name(&host(&[]).1, &web), None);
    }

    #[test]
    fn files_that_are_no_images_have_no_name() {
        let (root, paths) =
            host(&["var/lib/machines/.hidden", "var/lib/machines/empty.v", "var/lib/machines/a.b"]);
        std::fs::write(root.path().join("var/lib/machines/file"), "").unwrap();
        std::fs::write(root.path().join("var/lib/machines/.#a.lck"), "").unwrap();
        let found: Vec<String> = names(&paths).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["a.b", "empty"]);
        assert_eq!(by_name(&paths, &Name::new("empty").unwrap()), None);
    }
}
