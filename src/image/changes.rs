//! Several changes of files as one. The steps are written to a file in `/var/lib/coracle/changes` before the
//! first one is done. After a kill or a power cut, the next verb or start does the remaining ones. A removal
//! frees space, and does not need it: on a full disk the file is in `/run/coracle`, and survives a kill only.
//! Called by the verbs that remove and rename images, and by `run` and `control` before they look for an
//! image.

use super::locks::{self, HeldLocks};
use super::named_files::exists;
use crate::error::{Context, Error, Result};
use crate::host::lock::{self, Lock, LockMode};
use crate::host::probe;
use crate::machine::name::Name;
use crate::paths::Paths;
use crate::sys::{btrfs, read_only};
use crate::tree::walk;
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// The maximum size of a file with changes, bytes.
const LIMIT: u64 = 1 << 20;

/// A change of a file. It can be repeated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Step {
    /// Renames a file or directory. It is done if the new name exists.
    Rename {
        /// The present path.
        from: PathBuf,
        /// The new path, on the same file system.
        to: PathBuf,
        /// Whether it is an immutable directory, which cannot be renamed as it is.
        immutable: bool,
    },
    /// Replaces the content of an existing file.
    Write {
        /// The file.
        file: PathBuf,
        /// Its present content.
        old: String,
        /// Its new content.
        new: String,
    },
    /// Deletes a file or tree.
    Delete(PathBuf),
}

/// Changes of files, and what is locked meanwhile.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Changes {
    /// The names of machines that cannot start meanwhile.
    pub(super) names: Vec<Name>,
    /// The paths of images that cannot be used meanwhile. They may be missing.
    pub(super) images: Vec<PathBuf>,
    /// The steps.
    pub(super) steps: Vec<Step>,
}

impl Changes {
    /// Does the steps, with all locks held. They are undone after an error if no step has deleted a file;
    /// otherwise the other ones are done, and the rest is left to the next verb.
    ///
    /// # Errors
    /// The first step that cannot be done.
    pub(super) fn run(&self, paths: &Paths) -> Result<()> {
        for step in &self.steps {
            if let Step::Rename { to, .. } = step
                && exists(to)?
            {
                return Err(Error::new(format!("'{}' exists already", to.display())));
            }
        }
        let file = self.write(paths)?;
        self.complete(&file)
    }

    /// Writes the file, with a lock that its owner holds.
    fn write(&self, paths: &Paths) -> Result<Lock> {
        let [kept, volatile] = directories(paths);
        let is_removal = self.steps.iter().any(|step| matches!(step, Step::Delete(_)));
        match self.write_in(&kept) {
            Err(error) if is_removal => self.write_in(&volatile).map_err(|_| error),
            written => written,
        }
    }

    fn write_in(&self, directory: &Path) -> Result<Lock> {
        let file = directory.join(probe::random_id().to_string());
        let draft = directory.join(format!(".{}", probe::random_id()));
        let writing = || format!("cannot write '{}'", file.display());
        directory.parent().map_or(Ok(()), std::fs::create_dir_all).context(writing)?;
        match std::fs::DirBuilder::new().mode(0o700).create(directory) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(error).context(writing);
            }
            _ => {}
        }
        let text =
            serde_json::to_vec(self).map_err(|error| Error::new(error.to_string()).context(writing()))?;
        let Lock { descriptor, path } = lock::take(&draft)?
            .ok_or_else(|| Error::new("another process has locked it").context(writing()))?;
        let mut open = std::fs::File::from(descriptor);
        let written = open
            .write_all(&text)
            .and_then(|()| open.sync_all())
            .and_then(|()| std::fs::rename(&path, &file))
            .and_then(|()| sync(directory));
        if written.is_err() {
            let _ = std::fs::remove_file(&path);
            let _ = std::fs::remove_file(&file);
        }
        written.context(writing)?;
        Ok(Lock { descriptor: open.into(), path: file })
    }

    fn complete(&self, file: &Lock) -> Result<()> {
        let mut failed = None;
        for (at, step) in self.steps.iter().enumerate() {
            let Err(error) = step.execute() else { continue };
            // A failed deletion may have deleted files.
            let begun = self.steps.get(..=at).unwrap_or_default();
            if begun.iter().any(|step| matches!(step, Step::Delete(_))) {
                failed.get_or_insert(error);
                continue;
            }
            for step in self.steps.iter().take(at + 1).rev() {
                step.undo()
                    .map_err(|second| error.clone().context(format!("cannot undo a change: {second}")))?;
            }
            self.sync_and_forget(file)?;
            return Err(error);
        }
        match failed {
            None => self.sync_and_forget(file),
            Some(error) => Err(error.with_hint(
                "the next verb on an image repeats it; 'lsattr -R' shows files that cannot be deleted, 'chattr -ia' changes them",
            )),
        }
    }

    /// Deletes the file after all changes are on the disk.
    fn sync_and_forget(&self, file: &Lock) -> Result<()> {
        let parents = self.steps.iter().flat_map(Step::paths).filter_map(Path::parent);
        for parent in parents.collect::<BTreeSet<_>>() {
            match sync(parent) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error).context(|| format!("cannot write '{}'", parent.display()));
                }
                _ => {}
            }
        }
        std::fs::remove_file(&file.path).context(|| format!("cannot delete '{}'", file.path.display()))
    }
}

impl Step {
    fn paths(&self) -> impl Iterator<Item = &Path> {
        let paths = match self {
            Self::Rename { from, to, .. } => [Some(from), Some(to)],
            Self::Write { file: path, .. } | Self::Delete(path) => [Some(path), None],
        };
        paths.into_iter().flatten().map(PathBuf::as_path)
    }

    fn execute(&self) -> Result<()> {
        match self {
            Self::Rename { from, to, immutable } => rename(from, to, *immutable),
            Self::Write { file, new, .. } => replace(file, new),
            Self::Delete(path) => delete(path),
        }
    }

    /// Undoes the step, also one that is done in part.
    fn undo(&self) -> Result<()> {
        match self {
            Self::Rename { from, to, immutable } if !exists(from)? => rename(to, from, *immutable),
            Self::Rename { from, immutable, .. } => protect(from, *immutable),
            Self::Write { file, old, .. } => replace(file, old),
            Self::Delete(_) => Ok(()),
        }
    }
}

fn rename(from: &Path, to: &Path, immutable: bool) -> Result<()> {
    let doing = || format!("cannot rename '{}' to '{}'", from.display(), to.display());
    if !exists(to)? {
        if !exists(from)? {
            return Ok(());
        }
        if immutable {
            set_immutable(from, false).context(doing)?;
        }
        let cwd = rustix::fs::CWD;
        let renamed = rustix::fs::renameat_with(cwd, from, cwd, to, RenameFlags::NOREPLACE);
        let hint = match renamed {
            Err(Errno::BUSY) => Some("it is a mount point: unmount it"),
            Err(Errno::PERM) => Some("'lsattr -d' shows whether it is immutable or append-only"),
            _ => None,
        };
        let renamed = renamed.context(doing);
        renamed.map_err(|error| if let Some(hint) = hint { error.with_hint(hint) } else { error })?;
    }
    protect(to, immutable)
}

/// Makes a directory immutable again.
fn protect(directory: &Path, immutable: bool) -> Result<()> {
    if !immutable {
        return Ok(());
    }
    set_immutable(directory, true).context(|| format!("cannot make '{}' read-only", directory.display()))
}

fn set_immutable(directory: &Path, value: bool) -> std::io::Result<()> {
    read_only::set(open(directory)?.as_fd(), value)
}

fn open(directory: &Path) -> std::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::open(directory, flags, Mode::empty())?)
}

fn sync(directory: &Path) -> std::io::Result<()> {
    Ok(rustix::fs::fsync(rustix::fs::open(directory, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)?)
}

/// Replaces the content of a file, unless it is missing.
fn replace(file: &Path, text: &str) -> Result<()> {
    if !exists(file)? {
        return Ok(());
    }
    let mode = std::os::unix::fs::MetadataExt::mode(&file.symlink_metadata()?) & 0o777;
    crate::paths::store::replace(file, text.as_bytes(), mode)
        .context(|| format!("cannot write '{}'", file.display()))
}

/// Deletes a file, tree or subvolume, unless it is missing. Links are not followed, and other mounts are not
/// entered.
fn delete(path: &Path) -> Result<()> {
    let (Some(above), Some(name)) = (path.parent(), path.file_name()) else { return Ok(()) };
    let doing = || format!("cannot delete '{}'", path.display());
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let above = match rustix::fs::open(above, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        above => above.context(doing)?,
    };
    if let Ok(directory) = open(path)
        && btrfs::is_subvolume(directory.as_fd())
    {
        let destroyed =
            read_only::set(directory.as_fd(), false).and_then(|()| btrfs::destroy(above.as_fd(), name));
        match destroyed {
            Ok(()) => return Ok(()),
            // For example one with other subvolumes inside.
            Err(error) => log::debug!("{}: {error}, deleting its files", doing()),
        }
    }
    walk::remove_deep(above.as_fd(), name).map_err(|error| error.context(doing()))
}

/// Returns the directories with the files: on the disk, and in memory.
fn directories(paths: &Paths) -> [PathBuf; 2] {
    [paths.kept().join("changes"), paths.state().join(".changes")]
}

/// Returns whether changes of a name have begun and are not finished.
pub(super) fn are_begun(paths: &Paths, name: &Name) -> bool {
    let files = directories(paths).into_iter().flat_map(std::fs::read_dir).flatten().flatten();
    let changes =
        files.filter_map(|entry| serde_json::from_slice::<Changes>(&std::fs::read(entry.path()).ok()?).ok());
    changes.into_iter().any(|changes| changes.names.contains(name))
}

/// Completes the changes of killed processes. Those of running ones, and those with an image in use, are
/// left.
pub(crate) fn finish(paths: &Paths) {
    let entries = directories(paths).into_iter().flat_map(std::fs::read_dir);
    for entry in entries.flatten().flatten() {
        let path = entry.path();
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            // A draft of a killed process.
            let _ = lock::delete_unless_taken(&path);
        } else {
            finish_one(paths, &path).unwrap_or_else(|error| log::warn!("{error}, ignoring"));
        }
    }
}

fn finish_one(paths: &Paths, path: &Path) -> Result<()> {
    let reading = || format!("cannot complete '{}'", path.display());
    let Some(file) = lock::take(path)? else { return Ok(()) };
    let mut text = Vec::new();
    let open = std::fs::File::open(path).context(reading)?;
    open.take(LIMIT).read_to_end(&mut text).context(reading)?;
    if text.is_empty() {
        // Its owner has deleted it meanwhile, and the lock has created it again.
        return std::fs::remove_file(path).context(reading);
    }
    let changes: Changes =
        serde_json::from_slice(&text).map_err(|error| Error::new(error.to_string()).context(reading()))?;
    let names = changes.names.iter().map(|name| locks::of_name(paths, name, Path::new(name.as_str())));
    let mut wanted: Vec<_> = names.collect();
    for image in changes.images.iter().filter(|image| image.exists()) {
        wanted.extend(locks::of_path(paths, image, LockMode::Exclusive)?);
    }
    let mut held = HeldLocks::default();
    held.take(paths, wanted).map_err(|error| error.context(reading()))?;
    changes.complete(&file).map_err(|error| error.context(reading()))?;
    // The lock files of the killed process.
    changes.images.iter().filter_map(|image| locks::beside(image)).for_each(|file| {
        let _ = lock::delete_unless_taken(&file);
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> (tempfile::TempDir, Paths) {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::below(root.path());
        std::fs::create_dir_all(root.path().join("a/b")).unwrap();
        std::fs::write(root.path().join("ids"), "a\n").unwrap();
        (root, paths)
    }

    fn changes(root: &Path, last: Step) -> Changes {
        let rename = Step::Rename { from: root.join("a"), to: root.join("c"), immutable: false };
        let write = Step::Write { file: root.join("ids"), old: "a\n".into(), new: "c\n".into() };
        Changes {
            names: vec![Name::new("a").unwrap()],
            images: vec![root.join("a")],
            steps: vec![rename, write, last],
        }
    }

    fn state(root: &Path) -> (bool, bool, String) {
        (
            root.join("a/b").exists(),
            root.join("c/b").exists(),
            std::fs::read_to_string(root.join("ids")).unwrap(),
        )
    }

    fn files(paths: &Paths) -> usize {
        directories(paths).iter().flat_map(std::fs::read_dir).flatten().count()
    }

    #[test]
    fn all_steps_are_done_once_or_more() {
        let (root, paths) = host();
        let changes = changes(root.path(), Step::Delete(root.path().join("missing/file")));
        changes.run(&paths).unwrap();
        assert_eq!(state(root.path()), (false, true, "c\n".into()));
        let error = changes.run(&paths).unwrap_err().to_string();
        assert!(error.contains("exists already"), "{error}");
        changes.complete(&changes.write(&paths).unwrap()).unwrap();
        assert_eq!((state(root.path()), files(&paths)), ((false, true, "c\n".into()), 0));
    }

    #[test]
    fn a_failed_step_undoes_the_ones_before() {
        let (root, paths) = host();
        let impossible =
            Step::Rename { from: root.path().join("ids"), to: root.path().join("x/y"), immutable: false };
        let changes = changes(root.path(), impossible);
        let error = changes.run(&paths).unwrap_err().to_string();
        assert!(error.contains("cannot rename"), "{error}");
        assert_eq!((state(root.path()), files(&paths)), ((true, false, "a\n".into()), 0));
    }

    #[test]
    fn changes_of_a_killed_process_are_completed() {
        let (root, paths) = host();
        let changes = changes(root.path(), Step::Delete(root.path().join("c/b")));
        let file = changes.write(&paths).unwrap();
        changes.steps[0].execute().unwrap();
        finish(&paths);
        assert_eq!(files(&paths), 1, "its owner is alive");
        drop(file);
        std::fs::write(directories(&paths)[0].join(".draft"), "{").unwrap();
        finish(&paths);
        assert_eq!((state(root.path()), files(&paths)), ((false, false, "c\n".into()), 0));
        std::fs::write(directories(&paths)[0].join("broken"), "{").unwrap();
        finish(&paths);
        assert_eq!(files(&paths), 1, "kept for a look at it");
    }

    #[test]
    fn only_a_removal_needs_no_disk() {
        let (root, paths) = host();
        // In the place of the directory, which cannot be created.
        std::fs::create_dir_all(paths.kept()).unwrap();
        std::fs::write(&directories(&paths)[0], "").unwrap();
        let again = Step::Write { file: root.path().join("ids"), old: String::new(), new: String::new() };
        changes(root.path(), again).run(&paths).unwrap_err();
        assert_eq!(state(root.path()), (true, false, "a\n".into()));
        let removal = changes(root.path(), Step::Delete(root.path().join("c/b")));
        drop(removal.write(&paths).unwrap());
        assert!(are_begun(&paths, &Name::new("a").unwrap()));
        finish(&paths);
        assert!(!are_begun(&paths, &Name::new("a").unwrap()));
        assert_eq!((state(root.path()), files(&paths)), ((false, false, "c\n".into()), 0));
    }
}
