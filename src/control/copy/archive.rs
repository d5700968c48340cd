//! Copies of users without the rights of root: this process packs and unpacks files of the host as the user, and
//! the job of the service copies between an archive and the machine. Called by `cli`.

use super::copy_state::CopyState;
use super::{CopyRequest, HARMLESS_BITS, LinkMode, absolute, destination, open_source};
use crate::control::interrupts::Interrupts;
use crate::control::progress::Progress;
use crate::error::{Error, Result};
use crate::host::probe;
use crate::sys::guest_files::GuestRoot;
use crate::tree::entry::{EntryKind, Meta, Monitor, Sink, TreeSide, shown};
use crate::tree::id_mapping::IdMapping;
use crate::tree::tar::extract::extract;
use crate::tree::tar::policy::Limits;
use crate::tree::tar::writer::Writer;
use crate::tree::tree_writer::{Replace, TreeWriter};
use crate::tree::walk::Walk;
use rustix::fd::OwnedFd;
use std::ffi::OsString;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

/// The name of the one tree of an archive.
const TOP: &str = "tree";

/// A file or tree of this user, open for reference.
pub(crate) struct OwnSource {
    /// Its absolute path.
    pub(crate) path: PathBuf,
    place: OwnedFd,
}

impl OwnSource {
    /// Opens the source of a copy.
    ///
    /// # Errors
    /// A missing file, or one that this user must not reach.
    pub(crate) fn open(path: &Path, links: LinkMode) -> Result<Self> {
        let path = absolute(path)?;
        let place = open_source(&GuestRoot::of_caller()?, &path, links)?;
        Ok(Self { path, place })
    }

    /// Writes an archive with the file or tree, owners as on the host.
    ///
    /// # Errors
    /// A file that cannot be read, or any write error.
    pub(crate) fn pack(&self, to: impl Write, progress: Progress<'_>) -> Result<()> {
        self.pack_as(Path::new(TOP), to, progress)
    }

    /// Writes an archive with all entries below a name.
    ///
    /// # Errors
    /// As for [`Self::pack`].
    pub(crate) fn pack_as(&self, top: &Path, to: impl Write, progress: Progress<'_>) -> Result<()> {
        let shown = self.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut state = CopyState::new(shown, progress, Some(Interrupts::block()?));
        let mut writer = Writer::new(BufWriter::new(to), top, None);
        Walk::run(&self.place, TreeSide::Host, IdMapping::HOST, &mut writer, &mut state)?;
        writer.finish().map(drop)
    }
}

/// The destination of a copy on the host, with the rights of this user.
pub(crate) struct OwnDestination {
    tree: TreeWriter,
    name: OsString,
    replace: Replace,
    machine: String,
}

impl OwnDestination {
    /// Opens the directory of a destination.
    ///
    /// # Errors
    /// A missing directory.
    pub(crate) fn open(request: &CopyRequest<'_>) -> Result<Self> {
        let path = absolute(request.destination)?;
        let host = GuestRoot::of_caller()?;
        let (directory, name) = destination(&host, &path, request.source, request.replace)?;
        let temporary = format!(".coracle-copy-{}", probe::random_id());
        let tree = TreeWriter::new(directory, temporary.into(), IdMapping::HOST).without_owners();
        Ok(Self { tree, name, replace: request.replace, machine: request.name.to_string() })
    }

    /// Extracts an archive with one tree, whose files belong to this user. They appear with
    /// [`Self::publish`].
    ///
    /// # Errors
    /// An archive that is refused, or a file that cannot be created.
    pub(crate) fn unpack(mut self, from: impl Read, progress: Progress<'_>) -> Result<Self> {
        let mut state = CopyState::new(self.machine.clone(), progress, Some(Interrupts::block()?));
        extract_one(from, &mut self.tree, HARMLESS_BITS, &mut state)?;
        Ok(self)
    }

    /// Gives the copy its name.
    ///
    /// # Errors
    /// An existing file of this name.
    pub(crate) fn publish(self) -> Result<()> {
        self.tree.finish(&self.name, self.replace)
    }
}

/// Passes the one tree of an archive to a sink, without its name. `kept` masks the mode bits.
///
/// # Errors
/// An archive without a tree, or with several, or any error of the sink.
pub(super) fn extract_one(
    from: impl Read,
    sink: &mut impl Sink,
    kept: u32,
    monitor: &mut dyn Monitor,
) -> Result<()> {
    let mut one = OneTree { sink, kept, top: None };
    let left_out = extract(BufReader::new(from), Limits::of_bytes(u64::MAX), &mut one, monitor)?;
    if one.top.is_none() {
        return Err(Error::new("the archive is empty"));
    }
    if let Some(summary) = left_out.summary() {
        log::warn!("{summary}");
    }
    Ok(())
}

/// A sink for an archive with one tree.
struct OneTree<'a, S: Sink> {
    sink: &'a mut S,
    kept: u32,
    /// The name of the tree.
    top: Option<OsString>,
}

impl<S: Sink> OneTree<'_, S> {
    /// Returns a path below the tree. `None` for the root of the archive.
    fn below<'p>(&mut self, path: &'p Path) -> Result<Option<&'p Path>> {
        let mut parts = path.components();
        let Some(first) = parts.next() else { return Ok(None) };
        let top = self.top.get_or_insert_with(|| first.as_os_str().to_owned());
        if top.as_os_str() != first.as_os_str() {
            let message = format!("{} is beside the tree of the archive", shown(path, ""));
            return Err(Error::new(message).with_hint("create the archive of one file or directory"));
        }
        Ok(Some(parts.as_path()))
    }

    fn masked(&self, meta: &Meta) -> Meta {
        Meta { mode: meta.mode & self.kept, ..meta.clone() }
    }
}

impl<S: Sink> Sink for OneTree<'_, S> {
    fn update(&mut self, path: &Path, meta: &Meta) -> Result<()> {
        let meta = self.masked(meta);
        self.below(path)?.map_or(Ok(()), |path| self.sink.update(path, &meta))
    }

    fn remove(&mut self, path: &Path) -> Result<()> {
        self.below(path)?.map_or(Ok(()), |path| self.sink.remove(path))
    }

    fn take(
        &mut self,
        path: &Path,
        meta: &Meta,
        kind: EntryKind<'_>,
        monitor: &mut dyn Monitor,
    ) -> Result<()> {
        let Some(path) = self.below(path)? else { return Ok(()) };
        let kind = match kind {
            EntryKind::Hard(first) => {
                EntryKind::Hard(self.below(&first)?.unwrap_or(Path::new("")).to_owned())
            }
            kind => kind,
        };
        self.sink.take(path, &self.masked(meta), kind, monitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::name::Name;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    fn pack(path: &Path) -> Vec<u8> {
        let mut archive = Vec::new();
        OwnSource::open(path, LinkMode::Follow).unwrap().pack(&mut archive, Progress::silent()).unwrap();
        archive
    }

    fn unpack(archive: &[u8], source: &str, to: &Path) -> Result<()> {
        let name = Name::new("web").unwrap();
        let request = CopyRequest {
            name: &name,
            source: Path::new(source),
            archived: None,
            destination: to,
            replace: Replace::No,
            links: LinkMode::Follow,
            owners: super::super::CopyOwners::Kept,
        };
        OwnDestination::open(&request)?.unpack(archive, Progress::silent())?.publish()
    }

    #[test]
    fn a_tree_and_a_file_are_copied_through_an_archive() {
        let here = tempfile::tempdir().unwrap();
        let from = here.path().join("from");
        std::fs::create_dir_all(from.join("below")).unwrap();
        std::fs::write(from.join("below/file"), "text").unwrap();
        std::fs::hard_link(from.join("below/file"), from.join("same")).unwrap();
        std::os::unix::fs::symlink("below/file", from.join("link")).unwrap();
        std::fs::set_permissions(from.join("below/file"), PermissionsExt::from_mode(0o4751)).unwrap();
        let to = here.path().join("to");
        unpack(&pack(&from), "/guest/from", &to).unwrap();
        assert_eq!(std::fs::read_to_string(to.join("link")).unwrap(), "text");
        let found = std::fs::metadata(to.join("same")).unwrap();
        assert_eq!((found.nlink(), found.mode() & 0o7777), (2, 0o751));
        // An existing directory takes a file under its name.
        unpack(&pack(&from.join("same")), "/guest/one", &to).unwrap();
        assert_eq!(std::fs::read_to_string(to.join("one")).unwrap(), "text");
        assert!(unpack(&pack(&from.join("same")), "/guest/one", &to).is_err());
        assert_eq!(std::fs::read_dir(&to).unwrap().count(), 4, "nothing unfinished is left");
    }

    #[test]
    fn a_truncated_archive_leaves_nothing() {
        let here = tempfile::tempdir().unwrap();
        std::fs::write(here.path().join("file"), vec![1; 100_000]).unwrap();
        let archive = pack(&here.path().join("file"));
        for length in [0, 512, 50_000, archive.len() - 1024] {
            assert!(unpack(&archive[..length], "/file", &here.path().join("copy")).is_err(), "{length}");
        }
        assert_eq!(std::fs::read_dir(here.path()).unwrap().count(), 1);
    }
}
