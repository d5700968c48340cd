//! Drafts: files and directories under temporary names, which are removed unless they are published. A name
//! contains the process that works on it, so that the next verb recognises what a killed one has left. Called
//! by the verbs on images.

use super::owner::Owner;
use super::{Store, StorePart, open_directory};
use crate::error::{Context, Error, Result};
use crate::sys::btrfs;
use crate::tree::walk;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags, RenameFlags};
use serde::Serialize;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// Between the name of an image and the owner of its draft.
const MARK: &str = ".coracle-";

/// A file or directory under a temporary name. It need not exist.
#[derive(Debug)]
pub(crate) struct Draft {
    directory: OwnedFd,
    place: PathBuf,
    name: OsString,
    is_published: bool,
}

/// The content of a draft. It determines the data written to the disk before the draft is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DraftContent {
    /// Directories, links and empty files: file systems keep the order of such changes across a power cut.
    Entries,
    /// Also files with data: the file system is synced first.
    Data,
}

impl Draft {
    /// Returns a draft in the store. Creates nothing.
    ///
    /// # Errors
    /// Any error of [`Store::open`].
    pub(crate) fn in_store(store: &Store) -> Result<Self> {
        Self::new(store.open(StorePart::Drafts)?, store.path(StorePart::Drafts), OsString::new())
    }

    /// Returns a draft beside an image, under a name that systemd removes at boot. Creates nothing.
    ///
    /// # Errors
    /// A directory of images that cannot be opened.
    pub(crate) fn of_image(image: &Path) -> Result<Self> {
        let opening = || format!("cannot create '{}'", image.display());
        let (Some(place), Some(file)) = (image.parent(), image.file_name()) else {
            return Err(Error::new("it has no name").context(opening()));
        };
        let mut before = OsString::from(".#");
        before.push(file);
        before.push(MARK);
        Self::new(open_directory(place).context(opening)?, place.to_owned(), before)
    }

    fn new(directory: OwnedFd, place: PathBuf, mut name: OsString) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        name.push(format!("{}.{}", Owner::current(), NEXT.fetch_add(1, Ordering::Relaxed)));
        Ok(Self { directory, place, name, is_published: false })
    }

    /// Moves a file or directory of the store, or of the same file system, into the trash. It has lost its
    /// name when this returns; it is removed with the draft.
    ///
    /// # Errors
    /// Any error of rename(2).
    pub(crate) fn of_trash(store: &Store, path: &Path) -> Result<Self> {
        let trash = Self::new(store.open(StorePart::Trash)?, store.path(StorePart::Trash), OsString::new())?;
        trash.take(path)?;
        Ok(trash)
    }

    /// Moves a file or directory of the same file system to the name of the draft.
    ///
    /// # Errors
    /// Any error of rename(2).
    pub(crate) fn take(&self, path: &Path) -> Result<()> {
        let (from, to) = (rustix::fs::CWD, self.directory.as_fd());
        rustix::fs::renameat_with(from, path, to, &self.name, RenameFlags::NOREPLACE)
            .context(|| format!("cannot remove '{}'", path.display()))
    }

    /// Returns the directory of the draft.
    pub(crate) fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Returns the name of the draft in its directory.
    pub(crate) fn name(&self) -> &OsStr {
        &self.name
    }

    /// Returns the path of the draft.
    pub(crate) fn path(&self) -> PathBuf {
        self.place.join(&self.name)
    }

    /// Creates the draft as a directory.
    ///
    /// # Errors
    /// Any error of mkdir(2).
    pub(crate) fn create_directory(&self, mode: u32) -> Result<OwnedFd> {
        let creating = || format!("cannot create '{}'", self.path().display());
        rustix::fs::mkdirat(&self.directory, &self.name, Mode::from_raw_mode(mode)).context(creating)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&self.directory, &self.name, flags, Mode::empty()).context(creating)
    }

    /// Publishes a file with a description, whose content is on the disk.
    ///
    /// # Errors
    /// A file that cannot be written, or an existing file of this name.
    pub(crate) fn publish_json(store: &Store, path: &Path, described: &impl Serialize) -> Result<()> {
        let text = serde_json::to_vec(described).map_err(|error| {
            Error::new(error.to_string()).context(format!("cannot write '{}'", path.display()))
        })?;
        Self::publish_text(store, path, &text)
    }

    /// Publishes a file with a text, whose content is on the disk.
    ///
    /// # Errors
    /// A file that cannot be written, or an existing file of this name.
    pub(crate) fn publish_text(store: &Store, path: &Path, text: &[u8]) -> Result<()> {
        let writing = || format!("cannot write '{}'", path.display());
        let draft = Self::in_store(store)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = rustix::fs::openat(draft.directory(), draft.name(), flags, Mode::RUSR | Mode::WUSR);
        let mut file = File::from(file.context(writing)?);
        file.write_all(text).and_then(|()| file.sync_all()).context(writing)?;
        draft.publish(path, DraftContent::Entries)
    }

    /// Renames the draft to its name, which is in the same directory for an image.
    ///
    /// # Errors
    /// An existing file of this name.
    pub(crate) fn publish(self, path: &Path, content: DraftContent) -> Result<()> {
        if self.publish_new(path, content)? {
            return Ok(());
        }
        Err(Error::new(format!("'{}' exists already", path.display())))
    }

    /// Renames the draft as [`Self::publish`]. Returns false if a file of this name exists.
    ///
    /// # Errors
    /// Any error of syncfs(2) and rename(2).
    pub(crate) fn publish_new(mut self, path: &Path, content: DraftContent) -> Result<bool> {
        self.sync(path, content)?;
        let flags = RenameFlags::NOREPLACE;
        match rustix::fs::renameat_with(&self.directory, &self.name, rustix::fs::CWD, path, flags) {
            Err(rustix::io::Errno::EXIST) => return Ok(false),
            renamed => renamed.context(|| format!("cannot create '{}'", path.display()))?,
        }
        self.is_published = true;
        settle(path, content)?;
        Ok(true)
    }

    /// Exchanges the draft with an existing file or directory: it is the former one afterwards.
    ///
    /// # Errors
    /// A missing file of this name.
    pub(crate) fn exchange(&self, path: &Path, content: DraftContent) -> Result<()> {
        self.sync(path, content)?;
        let flags = RenameFlags::EXCHANGE;
        rustix::fs::renameat_with(&self.directory, &self.name, rustix::fs::CWD, path, flags)
            .context(|| format!("cannot replace '{}'", path.display()))?;
        settle(path, content)
    }

    fn sync(&self, path: &Path, content: DraftContent) -> Result<()> {
        if content == DraftContent::Data {
            rustix::fs::syncfs(&self.directory).context(|| syncing(path))?;
        }
        Ok(())
    }
}

fn syncing(path: &Path) -> String {
    format!("cannot write '{}' to the disk", path.display())
}

/// Writes the new name to the disk.
fn settle(path: &Path, content: DraftContent) -> Result<()> {
    if let (DraftContent::Data, Some(above)) = (content, path.parent()) {
        let above = open_directory(above).context(|| syncing(path))?;
        rustix::fs::fsync(above).context(|| syncing(path))?;
    }
    Ok(())
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.is_published {
            remove(self.directory.as_fd(), &self.name);
        }
    }
}

/// Removes a draft. What remains is removed by a later verb.
fn remove(directory: BorrowedFd<'_>, name: &OsStr) {
    let remove = || {
        // Most trees are not too deep to be removed in one pass.
        if !walk::has_parts(directory, name)? && walk::remove(directory, name).is_ok() {
            return Ok(());
        }
        walk::remove_deep(directory, name)
    };
    let removed: Result<()> = remove();
    removed.unwrap_or_else(|error| {
        log::warn!("{error}; a later verb tries again, 'lsattr -R' shows immutable files, ignoring");
    });
}

/// Removes a Btrfs subvolume at once, also a read-only one. Returns false for anything else, and for a
/// subvolume with others inside.
pub(crate) fn destroy_subvolume(path: &Path) -> bool {
    let (Some(above), Some(name)) = (path.parent(), path.file_name()) else { return false };
    open_directory(above).is_ok_and(|above| destroy(above.as_fd(), name))
}

fn destroy(directory: BorrowedFd<'_>, name: &OsStr) -> bool {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::openat(directory, name, flags, Mode::empty());
    opened.is_ok_and(|opened| btrfs::is_subvolume(opened.as_fd())) && btrfs::destroy(directory, name).is_ok()
}

/// Removes the drafts of ended processes from a directory of images.
pub(crate) fn sweep_images(directory: &Path) {
    sweep(directory, |name| name.strip_prefix(".#")?.rsplit_once(MARK).map(|(_, draft)| draft));
}

/// Removes the drafts of ended processes from the store.
pub(crate) fn sweep_store(store: &Store) {
    for part in [StorePart::Drafts, StorePart::Trash] {
        sweep(&store.path(part), |name| Some(name));
    }
}

/// Removes what ended processes have left in the trash of the store.
pub(crate) fn sweep_trash(store: &Store) {
    sweep(&store.path(StorePart::Trash), |name| Some(name));
}

fn sweep(directory: &Path, draft_of: impl Fn(&str) -> Option<&str>) {
    let names = std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.file_name());
    // The number of a draft, and those of parts that a removal has moved, follow the owner.
    let owner = |name: &OsString| Owner::parse(draft_of(name.to_str()?)?.split('.').next()?);
    let left: Vec<OsString> = names.filter(|name| owner(name).is_some_and(Owner::is_gone)).collect();
    if left.is_empty() {
        return;
    }
    match open_directory(directory) {
        Ok(directory) => left.iter().for_each(|name| remove(directory.as_fd(), name)),
        Err(errno) => log::warn!("cannot open '{}': {errno}, ignoring", directory.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::paths::Paths;
    use std::fs;

    #[test]
    fn a_draft_is_published_or_removed() {
        let root = tempfile::tempdir().unwrap();
        let image = root.path().join("web");
        let draft = Draft::of_image(&image).unwrap();
        draft.create_directory(0o755).unwrap();
        fs::write(draft.path().join("a"), "").unwrap();
        drop(draft);
        assert_eq!(root.path().read_dir().unwrap().count(), 0);
        for content in [DraftContent::Entries, DraftContent::Data] {
            let draft = Draft::of_image(&image).unwrap();
            draft.create_directory(0o755).unwrap();
            let published = draft.publish(&image, content);
            assert_eq!(published.is_ok(), content == DraftContent::Entries);
            assert_eq!(root.path().read_dir().unwrap().count(), 1);
        }
    }

    #[test]
    fn an_exchanged_draft_is_the_former_image() {
        let root = tempfile::tempdir().unwrap();
        let image = root.path().join("web");
        fs::create_dir(&image).unwrap();
        fs::write(image.join("old"), "").unwrap();
        let draft = Draft::of_image(&image).unwrap();
        draft.create_directory(0o755).unwrap();
        draft.exchange(&image, DraftContent::Data).unwrap();
        assert!(!image.join("old").exists() && draft.path().join("old").exists());
        drop(draft);
        assert_eq!(root.path().read_dir().unwrap().count(), 1);
    }

    #[test]
    fn only_drafts_of_ended_processes_are_swept() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::below(root.path());
        let store = Store::of(&paths);
        let own = Draft::in_store(&store).unwrap();
        own.create_directory(0o700).unwrap();
        let (namespace, _) = own.name().to_str().unwrap().split_once('-').unwrap();
        let dead = format!("{namespace}-{}-1.0", std::process::id());
        for name in [dead.as_str(), &format!("{dead}.1"), "other"] {
            fs::create_dir_all(store.path(StorePart::Drafts).join(name).join("below")).unwrap();
        }
        sweep_store(&store);
        let mut left: Vec<_> = fs::read_dir(store.path(StorePart::Drafts)).unwrap().flatten().collect();
        left.retain(|entry| entry.file_name() != "other");
        assert_eq!(left.iter().map(fs::DirEntry::file_name).collect::<Vec<_>>(), [own.name().to_owned()]);
        let images = root.path().join("images");
        for name in [&format!(".#web.mstack{MARK}{dead}"), ".#web.mstack.lck", ".#web0123456789abcdef", "web"]
        {
            fs::create_dir_all(images.join(name)).unwrap();
        }
        sweep_images(&images);
        assert_eq!(images.read_dir().unwrap().count(), 3);
        assert!(!images.join(format!(".#web.mstack{MARK}{dead}")).exists());
    }

    #[test]
    fn trash_has_lost_its_name_before_it_is_removed() {
        let root = tempfile::tempdir().unwrap();
        let store = Store::of(&Paths::below(root.path()));
        let layer = store.path(StorePart::Layers).join("0");
        fs::create_dir_all(layer.join("tree")).unwrap();
        let trash = Draft::of_trash(&store, &layer).unwrap();
        assert!(!layer.exists() && trash.path().join("tree").is_dir());
        drop(trash);
        assert_eq!(store.path(StorePart::Trash).read_dir().unwrap().count(), 0);
    }
}
