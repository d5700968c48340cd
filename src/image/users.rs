//! The users of images and layers: the links of all stacks to directories outside of them. Called by the verbs
//! that remove or change images and layers.

use super::store::{Store, StorePart};
use crate::error::{Context, Error, Result};
use crate::paths::Paths;
use rustix::io::Errno;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

/// A link of a stack to a directory outside of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StackLink {
    /// The stack or snapshot.
    pub(crate) stack: PathBuf,
    /// The link.
    entry: PathBuf,
    /// The directory, without links. A missing one has the path of the link.
    pub(crate) target: PathBuf,
    /// The text of the link, as an absolute path. It may lead through other links.
    path: PathBuf,
}

/// Returns the links of all stacks in the directories of images, of all snapshots, and of the stacks
/// elsewhere that the store knows.
///
/// # Errors
/// A directory that cannot be read: what it leads to is unknown.
pub(crate) fn links(paths: &Paths) -> Result<Vec<StackLink>> {
    let store = Store::of(paths);
    let mut found = Vec::new();
    for directory in paths.image_directories() {
        for image in entries(&directory)? {
            // Also those of drafts, and of versioned stacks.
            let is_stack = image.file_name().is_some_and(|name| name.to_string_lossy().contains(".mstack"));
            if is_stack {
                add_links(&mut found, &image)?;
                let is_versioned = image.extension().is_some_and(|suffix| suffix == "v");
                for version in if is_versioned { entries(&image)? } else { Vec::new() } {
                    add_links(&mut found, &version)?;
                }
            }
        }
    }
    for snapshots in entries(&store.path(StorePart::Snapshots))? {
        for snapshot in entries(&snapshots)?.iter().filter(|snapshot| !is_directory(snapshot)) {
            add_links(&mut found, snapshot)?;
        }
    }
    for root in entries(&store.path(StorePart::Roots))? {
        if let Ok(stack) = root.canonicalize() {
            add_links(&mut found, &stack)?;
        }
    }
    Ok(found)
}

/// Returns the stacks and snapshots that stand on a directory, or on a directory in it, or whose links lead
/// through it, without itself, sorted.
///
/// # Errors
/// As for [`links`].
pub(crate) fn of(paths: &Paths, directory: &Path) -> Result<Vec<PathBuf>> {
    let place = directory.canonicalize().unwrap_or_else(|_| directory.to_owned());
    let is_inside = |path: &Path| path.starts_with(&place) || path.starts_with(directory);
    let uses = |link: &StackLink| link.target.starts_with(&place) || link.path.starts_with(directory);
    let mut users: Vec<PathBuf> = links(paths)?
        .into_iter()
        .filter(|link| uses(link) && !is_inside(&link.stack))
        .map(|link| link.stack)
        .collect();
    users.sort();
    users.dedup();
    Ok(users)
}

/// Returns the first entry of a stack that leads through the name of the stack itself.
///
/// # Errors
/// As for [`links`].
pub(crate) fn through_own_name(stack: &Path) -> Result<Option<PathBuf>> {
    let mut found = Vec::new();
    add_links(&mut found, stack)?;
    // The text of a link that stays inside is relative to the stack.
    let leaves = |text: &Path| text.is_absolute() || text.starts_with("..");
    let is_through = |link: &StackLink| link.path.starts_with(stack);
    let mut through = found.into_iter().filter(is_through).map(|link| link.entry);
    Ok(through.find(|entry| std::fs::read_link(entry).is_ok_and(|text| leaves(&text))))
}

/// Returns the links in the directories of images that lead to an image, and the stacks and snapshots that
/// stand on it, sorted.
///
/// # Errors
/// As for [`links`].
pub(crate) fn with_links(paths: &Paths, image: &Path) -> Result<Vec<PathBuf>> {
    let place = image.canonicalize().context(|| format!("cannot look at '{}'", image.display()))?;
    let mut users = of(paths, image)?;
    for directory in paths.image_directories() {
        let is_link = |path: &PathBuf| path.is_symlink() && path.canonicalize().is_ok_and(|to| to == place);
        users.extend(entries(&directory)?.into_iter().filter(is_link));
    }
    users.sort();
    users.dedup();
    Ok(users)
}

/// Refuses a change of an image that others stand on, and names them.
///
/// # Errors
/// There is one.
pub(crate) fn refuse(image: &Path, users: &[PathBuf]) -> Result<()> {
    let named: Vec<String> = users.iter().map(|user| format!("'{}'", user.display())).collect();
    let verb = match named.len() {
        0 => return Ok(()),
        1 => "stands",
        _ => "stand",
    };
    Err(Error::new(format!("{} {verb} on image '{}'", named.join(", "), image.display())))
}

/// Returns whether a snapshot is one of a directory: links in it are those of a guest.
fn is_directory(snapshot: &Path) -> bool {
    let mut description = snapshot.as_os_str().to_owned();
    description.push(".json");
    let text = std::fs::read(description).unwrap_or_default();
    let described: Option<serde_json::Value> = serde_json::from_slice(&text).ok();
    described.is_some_and(|described| described.get("kind").is_some_and(|kind| kind == "directory"))
}

/// Records a stack that is in no directory of images, if it stands on directories elsewhere: they are in use.
///
/// # Errors
/// Any error of symlink(2).
pub(crate) fn record(paths: &Paths, stack: &Path) -> Result<()> {
    if is_listed(paths, stack) {
        return Ok(());
    }
    let store = Store::of(paths);
    let mut found = Vec::new();
    add_links(&mut found, stack)?;
    let own = stack.canonicalize().unwrap_or_else(|_| stack.to_owned());
    if found.iter().all(|link| link.target.starts_with(&own)) {
        return Ok(());
    }
    let recording = || format!("cannot record that '{}' uses layers", stack.display());
    let inode = stack.metadata().context(recording)?.ino();
    store.open(StorePart::Roots)?;
    let link = store.path(StorePart::Roots).join(format!("inode-{inode}"));
    let is_recorded =
        || link.canonicalize().is_ok_and(|known| stack.canonicalize().is_ok_and(|own| own == known));
    if is_recorded() {
        return Ok(());
    }
    // Of a stack that was moved.
    let _ = std::fs::remove_file(&link);
    std::os::unix::fs::symlink(stack, &link).context(recording)
}

/// Returns whether [`links`] finds a stack in a directory of images, itself or among the versions of an entry.
fn is_listed(paths: &Paths, stack: &Path) -> bool {
    let is_versioned = |above: &&Path| above.extension().is_some_and(|suffix| suffix == "v");
    let is_named =
        |path: &Path| path.file_name().is_some_and(|name| name.to_string_lossy().contains(".mstack"));
    let above = stack.parent();
    let place =
        above.filter(is_versioned).map_or(Some(stack), |above| Some(above).filter(|above| is_named(above)));
    let place = place.filter(|place| is_named(place)).and_then(Path::parent);
    place.is_some_and(|place| paths.image_directories().iter().any(|directory| directory == place))
}

/// Adds the links in a stack, also those in the versions of an entry. A file, and a link to a stack
/// elsewhere, have none.
fn add_links(found: &mut Vec<StackLink>, stack: &Path) -> Result<()> {
    let mut all = entries(stack)?;
    for versioned in all.clone().iter().filter(|entry| entry.extension().is_some_and(|suffix| suffix == "v"))
    {
        all.extend(entries(versioned)?);
    }
    for entry in all {
        if let Ok(text) = std::fs::read_link(&entry) {
            let path = without_dots(&entry.parent().unwrap_or(stack).join(text));
            let target = entry.canonicalize().unwrap_or_else(|_| path.clone());
            found.push(StackLink { stack: stack.to_owned(), entry, target, path });
        }
    }
    Ok(())
}

/// Returns an absolute path without its parts `.` and `..`. Links are not followed.
fn without_dots(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::new(), |mut above, part| {
        match part {
            Component::ParentDir => _ = above.pop(),
            Component::CurDir => {}
            part => above.push(part),
        }
        above
    })
}

/// Returns the entries of a directory. None if it is missing, not a directory, or a looping link.
fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    let reading = || format!("cannot read '{}'", directory.display());
    match std::fs::read_dir(directory) {
        Err(error)
            if matches!(Errno::from_io_error(&error), Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP)) =>
        {
            Ok(Vec::new())
        }
        read => read.context(reading)?.map(|entry| Ok(entry.context(reading)?.path())).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn all_stacks_on_a_directory_are_found() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        let paths = Paths::below(&root);
        let golden = root.join("usr/lib/machines/golden");
        let layer = paths.storage().join("layers/0/tree");
        fs::create_dir_all(&golden).unwrap();
        fs::create_dir_all(&layer).unwrap();
        let stacks = [
            root.join("srv/other"),
            paths.storage().join("snapshots/web/before"),
            root.join("var/lib/machines/db.mstack.v/db_1.mstack"),
            root.join("var/lib/machines/web.mstack"),
        ];
        for stack in &stacks {
            fs::create_dir_all(stack.join("rw/data")).unwrap();
            symlink(&layer, stack.join("layer@1")).unwrap();
        }
        symlink(&golden, stacks[3].join("layer@0")).unwrap();
        record(&paths, &stacks[3]).unwrap();
        assert!(!paths.storage().join("roots").exists(), "it is in a directory of images");
        assert_eq!(of(&paths, &golden).unwrap(), stacks[3..]);
        assert_eq!(of(&paths, &layer).unwrap(), stacks[1..]);
        for _ in 0..2 {
            record(&paths, &stacks[0]).unwrap();
        }
        assert_eq!(fs::read_dir(paths.storage().join("roots")).unwrap().count(), 1);
        assert_eq!(of(&paths, layer.parent().unwrap()).unwrap(), stacks);
        let error = refuse(&golden, &of(&paths, &golden).unwrap()).unwrap_err().to_string();
        assert!(error.contains("/web.mstack' stands on image"), "{error}");
        fs::create_dir(stacks[2].join("layer@0.v")).unwrap();
        symlink(golden.join("usr"), stacks[2].join("layer@0.v/layer@0_1")).unwrap();
        assert_eq!(of(&paths, &golden).unwrap(), stacks[2..]);
        fs::remove_dir_all(stacks[2].join("layer@0.v")).unwrap();
        // Of a snapshot of a directory, links are those of a guest.
        let description = paths.storage().join("snapshots/web/before.json");
        fs::write(&description, r#"{"kind":"directory"}"#).unwrap();
        let snapshot = paths.storage().join("snapshots/web/before");
        assert!(!of(&paths, &layer).unwrap().contains(&snapshot));
        fs::remove_file(description).unwrap();
        let links = [root.join("etc/machines/linked"), stacks[3].clone()];
        fs::create_dir_all(root.join("etc/machines")).unwrap();
        symlink(&golden, &links[0]).unwrap();
        assert_eq!(with_links(&paths, &golden).unwrap(), links);
        fs::remove_dir(&golden).unwrap();
        assert_eq!(of(&paths, &golden).unwrap(), stacks[3..], "a dangling link");
    }

    #[test]
    fn links_through_the_name_of_a_stack_are_found() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        let paths = Paths::below(&root);
        let layer = paths.storage().join("layers/0/tree");
        fs::create_dir_all(&layer).unwrap();
        let [web, db] = ["web.mstack", "db.mstack"].map(|stack| paths.images().join(stack));
        [&web, &db].into_iter().for_each(|stack| fs::create_dir_all(stack.join("inner")).unwrap());
        symlink(&layer, web.join("layer@0")).unwrap();
        symlink("inner", web.join("layer@1")).unwrap();
        assert_eq!((of(&paths, &web).unwrap(), through_own_name(&web).unwrap()), (vec![], None));
        for text in ["../web.mstack/layer@0", web.join("./layer@0").to_str().unwrap()] {
            symlink(text, db.join("layer@0")).unwrap();
            symlink(text, web.join("layer@2")).unwrap();
            assert_eq!(of(&paths, &web).unwrap(), std::slice::from_ref(&db), "{text}");
            assert_eq!(through_own_name(&web).unwrap(), Some(web.join("layer@2")), "{text}");
            [db.join("layer@0"), web.join("layer@2")].iter().for_each(|link| fs::remove_file(link).unwrap());
        }
    }
}
