//! Entries of layers as an overlay shows them, without mounting it: whiteouts and opaque directories count, and links
//! are not followed. Called by `import`, and by `config` for the init of a stack. The layers are hostile.

use super::stack::{Stack, StackPart};
use crate::error::{Context, Result};
use crate::sys::mount;
use crate::sys::overlay::DATA;
use crate::tree::tar::layer::OPAQUE;
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use std::path::Path;

/// The paths of inits, without links in them.
const INITS: [&str; 6] = [
    "usr/lib/systemd/systemd",
    "lib/systemd/systemd",
    "usr/sbin/init",
    "sbin/init",
    "usr/bin/init",
    "bin/init",
];

/// Layers, the uppermost first.
pub(crate) struct LayerFiles(Vec<OwnedFd>);

/// Returns the layers of the root of a stack.
///
/// # Errors
/// A stack that cannot be read.
pub(crate) fn of_stack(path: &Path) -> Result<LayerFiles> {
    let stack = Stack::read(path)?;
    let mut found = Vec::new();
    match &stack.root {
        StackPart::Overlay { layers, writable } => {
            let written = writable.as_ref().map(|writable| writable.join(DATA));
            found.extend(written.filter(|data| data.is_dir()));
            found.extend(layers.iter().cloned());
        }
        StackPart::Directory(bind) => found.push(bind.source.clone()),
        StackPart::Partition(_) | StackPart::Tmpfs => {}
    }
    LayerFiles::open(found.iter().map(std::path::PathBuf::as_path))
}

/// Returns whether the root of a stack has an init, as far as that is known without following links.
pub(crate) fn has_init(layers: &LayerFiles) -> bool {
    INITS.iter().any(|path| layers.find(Path::new(path)).is_ok_and(|found| found.is_some()))
}

impl LayerFiles {
    /// Opens layers, the uppermost first.
    ///
    /// # Errors
    /// A directory that cannot be opened.
    pub(crate) fn open<'a>(layers: impl Iterator<Item = &'a Path>) -> Result<Self> {
        layers.map(mount::open_directory).collect::<Result<_>>().map(Self)
    }

    /// Returns an entry, as a descriptor for reference. `None` if there is none.
    ///
    /// # Errors
    /// A layer that cannot be read.
    pub(crate) fn find(&self, path: &Path) -> Result<Option<(OwnedFd, Stat)>> {
        let reading = || "cannot read a layer";
        for layer in &self.0 {
            match open(layer.as_fd(), path) {
                Ok(found) => {
                    let stat = rustix::fs::fstat(&found).context(reading)?;
                    return Ok((!is_whiteout(&stat)).then_some((found, stat)));
                }
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                    if hides_others(layer.as_fd(), path).context(reading)? {
                        return Ok(None);
                    }
                }
                Err(errno) => return Err(errno).context(reading),
            }
        }
        Ok(None)
    }
}

/// Returns whether a layer hides an entry of the layers below, as far as the directories above it do.
pub(super) fn hides_others(layer: BorrowedFd<'_>, path: &Path) -> rustix::io::Result<bool> {
    let mut above: Vec<&Path> =
        path.ancestors().skip(1).filter(|above| !above.as_os_str().is_empty()).collect();
    above.reverse();
    for above in above {
        match open(layer, above) {
            Ok(found) => {
                let stat = rustix::fs::fstat(&found)?;
                if FileType::from_raw_mode(stat.st_mode) != FileType::Directory || is_opaque(&found) {
                    return Ok(true);
                }
            }
            Err(Errno::NOENT) => return Ok(false),
            Err(Errno::NOTDIR | Errno::LOOP) => return Ok(true),
            Err(errno) => return Err(errno),
        }
    }
    Ok(false)
}

/// Opens an entry of a layer for reference, without following links.
pub(super) fn open(layer: BorrowedFd<'_>, path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    loop {
        match rustix::fs::openat2(layer, path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN) => {}
            // Only a link in between is an error: the entry itself may be one.
            Err(Errno::LOOP) => return open_link(layer, path),
            opened => return opened,
        }
    }
}

fn open_link(layer: BorrowedFd<'_>, path: &Path) -> rustix::io::Result<OwnedFd> {
    let Some((above, name)) = path.parent().zip(path.file_name()) else { return Err(Errno::LOOP) };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let above = if above.as_os_str().is_empty() { Path::new(".") } else { above };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let above = rustix::fs::openat2(layer, above, flags, Mode::empty(), resolve)?;
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(&above, name, flags, Mode::empty())
}

fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

fn is_opaque(directory: &OwnedFd) -> bool {
    let path = format!("/proc/self/fd/{}", directory.as_raw_fd());
    let mut value = [0; 2];
    let (name, expected) = OPAQUE;
    rustix::fs::getxattr(path, name, &mut value).is_ok_and(|length| value.get(..length) == Some(expected))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::XattrFlags;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn layers_hide_those_below() {
        let root = tempfile::Builder::new().tempdir_in("/var/tmp").unwrap();
        let at = |path: &str| root.path().join(path);
        for directory in ["low/a/b", "low/c", "low/d/e", "low/usr/sbin", "top/a", "top/c"] {
            fs::create_dir_all(at(directory)).unwrap();
        }
        fs::write(at("low/c/file"), "").unwrap();
        fs::write(at("top/d"), "").unwrap();
        symlink("../lib/systemd/systemd", at("low/usr/sbin/init")).unwrap();
        symlink("usr/sbin", at("low/sbin")).unwrap();
        rustix::fs::setxattr(at("top/c"), OPAQUE.0, OPAQUE.1, XattrFlags::empty()).unwrap();
        let (top, low) = (at("top"), at("low"));
        let layers = LayerFiles::open([top.as_path(), &low].into_iter()).unwrap();
        let has = |path: &str| layers.find(Path::new(path)).unwrap().is_some();
        assert!(has("a/b") && has("c") && has("d") && has("usr/sbin/init") && has("sbin"));
        assert!(!has("c/file"), "c is opaque");
        assert!(!has("d/e"), "d is a file");
        assert!(!has("a/x") && !has("x/y") && !has("sbin/init"));
        assert!(has_init(&layers));
        let directory = fs::File::open(at("top/a")).unwrap();
        let mode = Mode::from_raw_mode(0);
        if rustix::fs::mknodat(&directory, "b", FileType::CharacterDevice, mode, 0).is_ok() {
            assert!(!has("a/b") && !has("a/b/c"));
        }
    }
}
