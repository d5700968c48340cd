//! Changes of machines, by inotify(7): of records, definitions, images and freezers. Used by the service on the
//! bus and by `list --watch`. It watches what all users may read, and says only that something has changed.

use crate::error::{Context, Result};
use crate::paths::Paths;
use crate::state::record::Record;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use rustix::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::time::Duration;

/// The time in which changes are collected: a start changes several files.
pub(crate) const COLLECTED: Duration = Duration::from_millis(100);
/// The changes of directories: files are renamed into their places.
const OF_DIRECTORIES: AddWatchFlags = AddWatchFlags::IN_MOVED_TO
    .union(AddWatchFlags::IN_MOVED_FROM)
    .union(AddWatchFlags::IN_CREATE)
    .union(AddWatchFlags::IN_DELETE)
    .union(AddWatchFlags::IN_CLOSE_WRITE)
    .union(AddWatchFlags::IN_ONLYDIR);

/// The watched files.
#[derive(Debug)]
pub(crate) struct Changes(Inotify);

impl Changes {
    /// Watches nothing yet.
    ///
    /// # Errors
    /// Any error of inotify_init1(2).
    pub(crate) fn new() -> Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK);
        inotify.map(Self).context(|| "cannot create an inotify instance")
    }

    /// Watches the files that there are now. Called before they are read, after every change: a new machine has
    /// a new directory. Directories that are missing or may not be read are skipped.
    pub(crate) fn renew(&self, paths: &Paths) {
        for (place, changes) in places(paths) {
            let _ = self.0.add_watch(&place, changes);
        }
    }

    /// Discards the changes so far.
    pub(crate) fn clear(&self) {
        while self.0.read_events().is_ok_and(|events| !events.is_empty()) {}
    }
}

impl AsFd for Changes {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Returns the watched directories, and for each machine the file that changes when it is frozen.
fn places(paths: &Paths) -> Vec<(PathBuf, AddWatchFlags)> {
    let mut directories: Vec<_> = paths.definitions().into();
    directories.extend([paths.images(), paths.state()]);
    // Before the first machine there is no state directory.
    directories.extend(paths.state().parent().filter(|_| !paths.state().exists()).map(Into::into));
    let records = Record::all(paths);
    directories.extend(records.iter().map(|record| paths.machine(&record.name)));
    let events = records.iter().filter_map(|record| Some(record.payload_cgroup()?.join("cgroup.events")));
    let events = events.map(|file| (file, AddWatchFlags::IN_MODIFY));
    directories.into_iter().map(|directory| (directory, OF_DIRECTORIES)).chain(events).collect()
}
