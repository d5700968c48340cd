//! Copies a tree that is changed meanwhile, in two passes: the first one while it changes, and the second one
//! while it does not, for what has changed since. The second one takes little time. Called by `image`.

use super::copy::{Copied, CopyProgress, Count, duplicate};
use super::entry::{EntryKind, Meta, Monitor, Sink};
use super::id_mapping::IdMapping;
use super::tree_writer::TreeWriter;
use super::walk::Walk;
use crate::error::{Context, Result};
use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::fs::{FileType, Stat};
use rustix::time::ClockId;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// The state of a file: its device, its inode and its type, and the time of its last change. A new file may have the
/// inode of a deleted one.
type State = ((u64, u64, FileType), (i64, i64));

/// A copy after its first pass. It is removed unless it is finished.
pub(crate) struct LiveCopy {
    from: OwnedFd,
    passes: Passes,
    copied: u64,
}

impl LiveCopy {
    /// Copies a directory as `name` into another one, as [`super::copy::copy`], while it changes.
    ///
    /// # Errors
    /// A file that cannot be copied. Nothing is left under the name then.
    pub(crate) fn begin(
        from: BorrowedFd<'_>,
        to_parent: BorrowedFd<'_>,
        name: &OsStr,
        progress: &mut CopyProgress<'_>,
    ) -> Result<Self> {
        let writer = TreeWriter::new(duplicate(to_parent)?, name.to_owned(), IdMapping::HOST);
        let from = duplicate(from)?;
        let now = rustix::time::clock_gettime(ClockId::RealtimeCoarse);
        // Written pages are protected then: the next change through a mapping sets the time of the file
        // again.
        rustix::fs::syncfs(&from).context(|| "cannot write the source to the disk")?;
        let since = (now.tv_sec, now.tv_nsec);
        let mut passes = Passes { writer, seen: HashMap::new(), since: None, kept: None, replaced: None };
        let mut monitor = Count { bytes: 0, shows_skipped: false, progress };
        Walk::run_exactly(&from, &mut passes, &mut monitor)?;
        let copied = monitor.bytes;
        passes.since = Some(since);
        Ok(Self { from, passes, copied })
    }

    /// Copies what has changed since the first pass began, and removes what was deleted. The directory does
    /// not change meanwhile. `progress` is called with the bytes of this pass.
    ///
    /// # Errors
    /// A file that cannot be copied, or an error of `progress`. Nothing is left under the name then.
    pub(crate) fn finish(self, progress: &mut CopyProgress<'_>) -> Result<Copied> {
        let Self { from, mut passes, copied } = self;
        passes.writer.begin_again();
        let mut monitor = Count { bytes: 0, shows_skipped: true, progress };
        Walk::run_exactly(&from, &mut passes, &mut monitor)?;
        for path in passes.seen.keys() {
            passes.writer.remove_entry(path)?;
        }
        let shared = passes.writer.finish_in_place()?;
        Ok(Copied::of(copied + monitor.bytes, shared))
    }
}

/// The sink of both passes.
struct Passes {
    writer: TreeWriter,
    /// The states of all entries in the first pass that were not found yet in the second one.
    seen: HashMap<PathBuf, State>,
    /// The time before the first pass; set in the second one.
    since: Option<(i64, i64)>,
    /// The directory of the first pass that is found again.
    kept: Option<PathBuf>,
    /// The directory that has taken the place of another entry: all in it is new.
    replaced: Option<PathBuf>,
}

impl Sink for Passes {
    fn has(&mut self, path: &Path, stat: &Stat) -> bool {
        let changed = (stat.st_ctime, i64::try_from(stat.st_ctime_nsec).unwrap_or_default());
        let state = ((stat.st_dev, stat.st_ino, FileType::from_raw_mode(stat.st_mode)), changed);
        let Some(since) = self.since else {
            self.seen.insert(path.to_owned(), state);
            return false;
        };
        let before = self.seen.remove(path);
        if self.replaced.as_ref().is_some_and(|replaced| path.starts_with(replaced)) {
            return false;
        }
        let is_same_file = before.is_some_and(|before| before.0 == state.0);
        self.kept = is_same_file.then(|| path.to_owned());
        // A time that equals the first pass's may be that of a later change.
        before == Some(state) && changed < since
    }

    fn take(
        &mut self,
        path: &Path,
        meta: &Meta,
        kind: EntryKind<'_>,
        monitor: &mut dyn Monitor,
    ) -> Result<()> {
        if self.since.is_some() {
            if matches!(kind, EntryKind::Directory) {
                if self.kept.as_deref() == Some(path) {
                    self.writer.update_directory(path, meta);
                    return Ok(());
                }
                if self.replaced.as_ref().is_none_or(|replaced| !path.starts_with(replaced)) {
                    self.replaced = Some(path.to_owned());
                }
            }
            self.writer.remove_entry(path)?;
        }
        self.writer.take(path, meta, kind, monitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::copy::tests::{create, entries_of, open};
    use rustix::fd::AsFd;
    use std::fs;
    use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};

    /// Changes a tree in all ways that a guest can.
    fn change(top: &Path) {
        fs::write(top.join("program"), "changed").unwrap();
        fs::write(top.join("new"), "new").unwrap();
        fs::remove_file(top.join("gone")).unwrap();
        fs::remove_dir_all(top.join("tree")).unwrap();
        symlink("/nowhere", top.join("tree")).unwrap();
        fs::remove_file(top.join("file")).unwrap();
        fs::create_dir_all(top.join("file/below")).unwrap();
        fs::rename(top.join("a"), top.join("c")).unwrap();
        fs::rename(top.join("b"), top.join("a")).unwrap();
        fs::rename(top.join("c"), top.join("b")).unwrap();
        fs::hard_link(top.join("kept"), top.join("below/hard")).unwrap();
        fs::set_permissions(top.join("mode"), fs::Permissions::from_mode(0o4711)).unwrap();
        rustix::fs::setxattr(top.join("mode"), "user.new", b"1", rustix::fs::XattrFlags::empty()).unwrap();
    }

    #[test]
    fn the_second_pass_copies_all_changes() {
        let root = tempfile::Builder::new().tempdir_in("/var/tmp").unwrap();
        let from = root.path().join("from");
        create(&from);
        for name in ["gone", "tree/deep/file", "file", "a/x", "b/x", "kept", "mode", "mapped", "same"] {
            fs::create_dir_all(from.join(name).parent().unwrap()).unwrap();
            fs::write(from.join(name), name).unwrap();
        }
        // Files of this moment are copied twice: the clock of their times is coarse.
        let created = from.join("same").metadata().unwrap();
        let now = || rustix::time::clock_gettime(ClockId::RealtimeCoarse);
        while (now().tv_sec, now().tv_nsec) <= (created.ctime(), created.ctime_nsec()) {
            std::thread::yield_now();
        }
        let mapped = fs::File::options().read(true).write(true).open(from.join("mapped")).unwrap();
        let live = LiveCopy::begin(
            open(&from).as_fd(),
            open(root.path()).as_fd(),
            OsStr::new("to"),
            &mut |_| Ok(()),
        )
        .unwrap();
        let same = || root.path().join("to/same").metadata().unwrap().ino();
        let before = same();
        mapped.write_all_at(b"M", 0).unwrap();
        change(&from);
        let copied = live.finish(&mut |_| Ok(())).unwrap();
        assert_eq!(entries_of(&root.path().join("to")), entries_of(&from));
        assert_eq!(same(), before, "an unchanged file stays");
        assert!(copied.bytes > 0);
        let inode = |name: &str| root.path().join("to").join(name).metadata().unwrap().ino();
        assert_eq!((inode("kept"), inode("program")), (inode("below/hard"), inode("below/second")));
    }

    #[test]
    fn a_directory_with_the_inode_of_a_deleted_file_is_another_one() {
        let root = tempfile::tempdir().unwrap();
        let writer = TreeWriter::new(open(root.path()), "to".into(), IdMapping::HOST);
        let mut passes = Passes { writer, seen: HashMap::new(), since: None, kept: None, replaced: None };
        let mut stat = rustix::fs::stat(root.path()).unwrap();
        stat.st_mode = 0o100644;
        passes.has(Path::new("a"), &stat);
        passes.since = Some((0, 0));
        stat.st_mode = 0o40755;
        passes.has(Path::new("a"), &stat);
        assert_eq!(passes.kept, None);
    }

    #[test]
    fn an_unfinished_copy_is_removed() {
        let root = tempfile::Builder::new().tempdir_in("/var/tmp").unwrap();
        let from = root.path().join("from");
        fs::create_dir_all(from.join("below")).unwrap();
        let (source, parent) = (open(&from), open(root.path()));
        let live =
            LiveCopy::begin(source.as_fd(), parent.as_fd(), OsStr::new("to"), &mut |_| Ok(())).unwrap();
        assert!(root.path().join("to/below").exists());
        drop(live);
        assert_eq!(root.path().read_dir().unwrap().count(), 1);
    }
}
