//! Completes a layer by those below it. A directory that the layer does not describe keeps its metadata, where an
//! overlay would show that of the new one; and a whiteout of nothing, which an overlay would list as a name without a
//! file, is removed with the directories for it. Called by `layers`. The new layer and those below are hostile: no
//! link is followed.

use crate::error::{Context, Error, Result};
use crate::image::import::extractor::LayerMarks;
use crate::image::layer_files::{self, LayerFiles};
use rustix::fd::{BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The greatest size of a value, and of a list of names (`linux/limits.h`).
const LARGEST: usize = 65536;
/// The attributes that are copied.
const COPIED: [&[u8]; 2] = [b"user.", b"system.posix_acl_"];

/// The maximum number of looks for what a layer refers to, each of them in one layer below it.
const MOST_LOOKS: usize = 10_000_000;

/// Completes the tree of a layer, with `depth` layers below it. `go_on` is called for each entry.
///
/// # Errors
/// Too much work, an interruption, or a file that cannot be read or changed.
pub(super) fn complete(
    tree: BorrowedFd<'_>,
    marks: &LayerMarks,
    (below, depth): (&LayerFiles, usize),
    go_on: &mut dyn FnMut() -> Result<()>,
) -> Result<()> {
    limit_looks(marks.whiteouts().count() + marks.implied().count(), depth)?;
    let find = |path: &Path| -> Result<Option<(OwnedFd, Stat)>> {
        let hides = layer_files::hides_others(tree, path).context(|| "cannot read the layer")?;
        if hides { Ok(None) } else { below.find(path) }
    };
    for path in marks.whiteouts() {
        go_on()?;
        if find(&path)?.is_none() {
            remove(tree, &path, AtFlags::empty()).context(|| "cannot remove a whiteout")?;
        }
    }
    // Those inside first: a change of an entry updates the time of its directory.
    let implied: Vec<_> = marks.implied().collect();
    for path in implied.iter().rev() {
        go_on()?;
        if let Some((found, stat)) = find(path)?.filter(is_directory) {
            let new = layer_files::open(tree, path).context(|| "cannot open a directory of the layer")?;
            copy_metadata(&found, &stat, &new).context(|| "cannot complete a directory of the layer")?;
            continue;
        }
        // It may have had whiteouts only.
        match remove(tree, path, AtFlags::REMOVEDIR) {
            Ok(()) | Err(rustix::io::Errno::NOTEMPTY) => {}
            Err(errno) => return Err(errno).context(|| "cannot remove a directory of the layer"),
        }
    }
    Ok(())
}

/// Refuses a small layer that would keep the import busy for hours.
fn limit_looks(entries: usize, depth: usize) -> Result<()> {
    if entries.saturating_mul(depth) <= MOST_LOOKS {
        return Ok(());
    }
    Err(Error::new(format!("it has {entries} entries that refer to {depth} layers below it"))
        .with_hint("squash the image: its layers become one"))
}

fn is_directory((_, stat): &(OwnedFd, Stat)) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

/// Removes an entry. The time of its directory stays.
fn remove(tree: BorrowedFd<'_>, path: &Path, flags: AtFlags) -> rustix::io::Result<()> {
    let above = path.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let above = reopen(&layer_files::open(tree, above)?)?;
    let stat = rustix::fs::fstat(&above)?;
    rustix::fs::unlinkat(&above, path.file_name().unwrap_or_default(), flags)?;
    rustix::fs::futimens(&above, &times(&stat))
}

fn times(stat: &Stat) -> Timestamps {
    let time =
        Timespec { tv_sec: stat.st_mtime, tv_nsec: i64::try_from(stat.st_mtime_nsec).unwrap_or_default() };
    Timestamps { last_access: time, last_modification: time }
}

/// Opens a directory for reading.
fn reopen(place: &OwnedFd) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat(place, ".", flags, Mode::empty())
}

/// Gives a directory the owner, the attributes, the mode and the times of another one.
fn copy_metadata(from: &OwnedFd, stat: &Stat, to: &OwnedFd) -> rustix::io::Result<()> {
    let (from, to) = (reopen(from)?, reopen(to)?);
    rustix::fs::fchown(&to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    let mut names = vec![0u8; LARGEST];
    let length = match rustix::fs::flistxattr(&from, &mut names[..]) {
        Err(rustix::io::Errno::OPNOTSUPP) => 0,
        listed => listed?,
    };
    for name in names.get(..length).unwrap_or_default().split(|byte| *byte == 0) {
        let is_copied = COPIED.iter().any(|prefix| name.starts_with(prefix));
        if !is_copied || name.starts_with(b"user.overlay.") {
            continue;
        }
        let (name, mut value) = (OsStr::from_bytes(name), vec![0u8; LARGEST]);
        let length = rustix::fs::fgetxattr(&from, name, &mut value[..])?;
        rustix::fs::fsetxattr(&to, name, value.get(..length).unwrap_or_default(), XattrFlags::empty())?;
    }
    rustix::fs::fchmod(&to, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    rustix::fs::futimens(&to, &times(stat))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_work_for_a_layer_is_limited() {
        limit_looks(100_000, 100).unwrap();
        assert!(limit_looks(500_000, 498).unwrap_err().to_string().contains("500000 entries"));
    }
}
