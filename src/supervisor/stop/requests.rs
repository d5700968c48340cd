//! Requests to an init by files: the pipe of sysvinit, the modes of runit's files. Called by `stop`.
//!
//! The guest controls these files. So a child opens them, with the file-system ids of the guest's root and
//! without capabilities over files of the host. A file that does not belong to the guest is refused.

use crate::error::{Context, Error, Result};
use crate::machine::users::RANGE_SIZE;
use crate::plan::init::{MissingFile, StopAction};
use crate::state::record::Record;
use crate::sys::guest_files::{self, GuestRoot, Owners};
use crate::sys::process;
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::thread::CapabilitySet;
use std::path::{Path, PathBuf};

/// The properties of a guest that determine access to its files.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GuestAccess {
    /// Process id of PID 1 in the host's view.
    pub(crate) pid: u32,
    /// The first host id of its range. `None` without a user namespace.
    id_base: Option<u32>,
    capabilities: u64,
}

impl GuestAccess {
    /// Returns the guest of a record.
    pub(crate) fn of(record: &Record) -> Self {
        Self {
            pid: record.leader.unwrap_or_default(),
            id_base: record.id_base,
            capabilities: record.capabilities,
        }
    }

    fn owners(self) -> Owners {
        self.id_base.map_or(Owners::ALL, |first| Owners { first, count: RANGE_SIZE })
    }
}

/// Sends requests by the files of a guest.
#[derive(Debug)]
pub(crate) struct Requests {
    root: GuestRoot,
    owners: Owners,
}

impl Requests {
    /// Reduces the rights of this process over files to those of the guest's root. Only for a cloned child.
    ///
    /// # Errors
    /// An ended guest, or privileges that cannot be dropped.
    pub(crate) fn as_root_of(guest: GuestAccess) -> Result<Self> {
        let root = GuestRoot::of_process(guest.pid)?;
        become_root_of(guest)?;
        Ok(Self { root, owners: guest.owners() })
    }

    /// Sends a request.
    ///
    /// # Errors
    /// A missing file, a pipe without a reader, or a file that does not belong to the guest.
    pub(crate) fn make(&self, action: &StopAction) -> rustix::io::Result<()> {
        match action {
            StopAction::WriteFifo { paths, bytes } => write_fifo(&self.root, paths, bytes, self.owners),
            StopAction::SetMode { path, mode, missing } => {
                set_mode(&self.root, Path::new(path), *mode, *missing, self.owners)
            }
            StopAction::Signal(_) => Ok(()),
        }
    }
}

/// Returns whether an error may disappear when the init is up.
pub(crate) fn is_early(errno: Errno) -> bool {
    matches!(errno, Errno::NOENT | Errno::NXIO | Errno::AGAIN)
}

/// Sets the file-system ids of the guest's root, and drops the capabilities over files. If the guest's root
/// is root of the host, the ids stay, with the guest's capabilities over files.
fn become_root_of(guest: GuestAccess) -> Result<()> {
    // Signals are sent after the requests.
    let mut kept = CapabilitySet::KILL;
    match guest.id_base.filter(|base| *base != 0) {
        Some(base) => process::use_files_as(base)?,
        None => {
            kept |= CapabilitySet::from_bits_truncate(guest.capabilities)
                & (CapabilitySet::DAC_OVERRIDE | CapabilitySet::FOWNER);
        }
    }
    let mut sets = rustix::thread::capabilities(None).context(|| "cannot read capabilities")?;
    sets.permitted &= kept;
    sets.effective = sets.permitted;
    sets.inheritable = CapabilitySet::empty();
    rustix::thread::set_capabilities(None, sets)
        .map_err(|errno| Error::from(errno).context("cannot drop capabilities"))
}

/// Writes to the first existing named pipe; never waits for a reader.
fn write_fifo(root: &GuestRoot, paths: &[&str], bytes: &[u8], owners: Owners) -> rustix::io::Result<()> {
    let mut last = Errno::NOENT;
    for path in paths {
        let pipe = root.find_own(Path::new(path), owners).and_then(|place| guest_files::reopen_pipe(&place));
        match pipe {
            Ok(pipe) => return rustix::io::write(&pipe, bytes).map(|_| ()),
            // Any other error is more useful than a missing file.
            Err(Errno::NOENT) => {}
            Err(errno) => last = errno,
        }
    }
    Err(last)
}

/// Sets the mode of a regular file. Follows one link of runit's package into `/run`.
fn set_mode(
    root: &GuestRoot,
    path: &Path,
    mode: u32,
    missing: MissingFile,
    owners: Owners,
) -> rustix::io::Result<()> {
    let (path, found) = match root.find_own(path, owners) {
        Err(Errno::LOOP) => {
            let target = root.link_own(path, owners)?;
            if !in_run(path).contains(&target) {
                return Err(Errno::LOOP);
            }
            let found = root.find_own(&target, owners);
            (target, found)
        }
        found => (path.to_owned(), found),
    };
    let mode = Mode::from_raw_mode(mode);
    let place = match (found, missing) {
        (Err(Errno::NOENT), MissingFile::Skip) => return Ok(()),
        (Err(Errno::NOENT), MissingFile::Create) => {
            root.create_own(&path, Mode::RUSR, owners)?;
            root.find_own(&path, owners)?
        }
        (found, _) => found?,
    };
    guest_files::set_mode(&place, mode)
}

/// Returns the link targets of runit's packages of Debian and Void, which allow a read-only `/etc`.
fn in_run(path: &Path) -> [PathBuf; 2] {
    let name = path.file_name().unwrap_or_default().display();
    [format!("/run/runit.{name}").into(), format!("/run/runit/{name}").into()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    #[test]
    fn runit_files_must_belong_to_the_guest() {
        let directory = tempfile::tempdir().unwrap();
        let tree = directory.path().join("tree");
        for part in ["etc/runit", "run/runit", "srv"] {
            std::fs::create_dir_all(tree.join(part)).unwrap();
        }
        let canary = tree.join("srv/canary");
        std::fs::write(&canary, "").unwrap();
        std::fs::set_permissions(&canary, std::fs::Permissions::from_mode(0o644)).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).map(|data| data.permissions().mode() & 0o777).ok();
        let root = GuestRoot::of_tree(&tree).unwrap();
        let data = std::fs::metadata(&tree).unwrap();
        let own = Owners { first: data.uid().min(data.gid()), count: data.uid().abs_diff(data.gid()) + 1 };
        let (path, file) = (Path::new("/etc/runit/stopit"), tree.join("etc/runit/stopit"));
        let set = |mode, missing| set_mode(&root, path, mode, missing, own);
        assert_eq!(set(0, MissingFile::Skip), Ok(()));
        assert_eq!(mode(&file), None);
        assert_eq!(set(0o100, MissingFile::Create), Ok(()));
        assert_eq!(mode(&file), Some(0o100));
        std::fs::remove_file(&file).unwrap();
        for target in ["/srv/canary", "../../srv/canary", "/proc/execdomains", "/run/runit/reboot"] {
            symlink(target, &file).unwrap();
            assert_eq!(set(0o100, MissingFile::Create), Err(Errno::LOOP), "{target}");
            std::fs::remove_file(&file).unwrap();
        }
        assert_eq!(mode(&canary), Some(0o644));
        for target in ["run/runit.stopit", "run/runit/stopit"] {
            symlink(Path::new("/").join(target), &file).unwrap();
            assert_eq!(set(0o100, MissingFile::Create), Ok(()));
            assert_eq!(mode(&tree.join(target)), Some(0o100));
            std::fs::remove_file(&file).unwrap();
        }
        symlink("/run/runit/stopit", &file).unwrap();
        assert_eq!(mode(&tree.join("run/runit/stopit")), Some(0o100));
        // A second link is refused.
        std::fs::remove_file(tree.join("run/runit/stopit")).unwrap();
        symlink("/srv/canary", tree.join("run/runit/stopit")).unwrap();
        assert_eq!(set(0, MissingFile::Create), Err(Errno::LOOP));
        assert_eq!(mode(&canary), Some(0o644));
    }

    #[test]
    fn a_request_needs_a_pipe_with_a_reader() {
        let directory = tempfile::tempdir().unwrap();
        let root = GuestRoot::of_tree(directory.path()).unwrap();
        let write = || write_fifo(&root, &["/initctl", "/other"], b"x", Owners::ALL);
        assert_eq!(write(), Err(Errno::NOENT));
        nix::unistd::mkfifo(&directory.path().join("other"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(write(), Err(Errno::NXIO));
        std::fs::write(directory.path().join("initctl"), "").unwrap();
        let _reader = std::fs::OpenOptions::new().read(true).write(true).open(directory.path().join("other"));
        assert_eq!(write(), Ok(()));
        assert_eq!(std::fs::metadata(directory.path().join("initctl")).unwrap().len(), 0);
    }
}
