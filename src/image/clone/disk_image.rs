//! Clones of disk images: copies of their files, which share all blocks if the file system can
//! (ioctl_ficlone(2)). Holes stay holes.

use super::super::disk::mounts::{Disk, DiskAccess};
use crate::error::{Context, Error, Result};
use crate::tree::copy::{Copied, CopyMethod, CopyProgress};
use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::fs::{Mode, OFlags, SeekFrom};
use std::ffi::OsStr;
use std::path::Path;

/// The bytes copied between two reports of the progress.
const CHUNK: u64 = 16 << 20;

/// Copies the file of an image as `name` into a directory, with the mode of the clone.
///
/// # Errors
/// A file that cannot be copied.
pub(super) fn copy(
    source: &Path,
    directory: BorrowedFd<'_>,
    name: &OsStr,
    is_read_only: bool,
    progress: &mut CopyProgress<'_>,
) -> Result<Copied> {
    let opening = || format!("cannot open '{}'", source.display());
    let from = rustix::fs::open(source, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).context(opening)?;
    let found = rustix::fs::fstat(&from).context(opening)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let creating = || "cannot create the copy";
    let to = rustix::fs::openat(directory, name, flags, Mode::from_raw_mode(0o600)).context(creating)?;
    let size = u64::try_from(found.st_size).unwrap_or_default();
    let copied = if rustix::fs::ioctl_ficlone(&to, &from).is_ok() {
        Copied { method: CopyMethod::Reflink, bytes: size }
    } else {
        let bytes = copy_data(&from, &to, size, progress)?;
        Copied { method: CopyMethod::Copy, bytes }
    };
    let mode = Mode::from_raw_mode(found.st_mode & 0o777);
    let mode = if is_read_only { mode & !Mode::from_raw_mode(0o222) } else { mode | Mode::WUSR };
    rustix::fs::fchmod(&to, mode).context(creating)?;
    Ok(copied)
}

/// Copies the data of a file, without its holes. Returns the copied bytes.
fn copy_data(from: &OwnedFd, to: &OwnedFd, size: u64, progress: &mut CopyProgress<'_>) -> Result<u64> {
    let doing = || "cannot copy the image";
    rustix::fs::ftruncate(to, size).context(doing)?;
    let (mut at, mut copied) = (0, 0);
    while at < size {
        let begin = match rustix::fs::seek(from, SeekFrom::Data(at)) {
            Ok(begin) => begin,
            // The rest is a hole.
            Err(rustix::io::Errno::NXIO) => break,
            Err(errno) => return Err(errno).context(doing),
        };
        at = rustix::fs::seek(from, SeekFrom::Hole(begin)).context(doing)?.min(size);
        let (mut input, mut output) = (begin, begin);
        while input < at {
            let wanted = usize::try_from((at - input).min(CHUNK)).unwrap_or(usize::MAX);
            let done = rustix::fs::copy_file_range(from, Some(&mut input), to, Some(&mut output), wanted)
                .context(doing)?;
            if done == 0 {
                return Err(Error::new("the image became shorter").context(doing()));
            }
            copied += done as u64;
            progress(copied)?;
        }
    }
    Ok(copied)
}

/// Mounts the root of a clone, to change its identity. `None` if it cannot be changed.
///
/// # Errors
/// A root that cannot be mounted.
pub(super) fn writable_root(image: &Path) -> Result<Option<OwnedFd>> {
    let disk = Disk::open(image, DiskAccess::Write)?;
    let root = disk.root()?;
    if !root.is_writable() {
        return Ok(None);
    }
    disk.mount(root, DiskAccess::Write, None).map(Some)
}
