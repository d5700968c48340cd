//! The source of an import: what it is, and the name that it suggests for the image. Called by `import`.

use crate::error::{Context, Error, Result};
use crate::machine::name::Name;
use rustix::fd::OwnedFd;
use rustix::fs::{FileType, Mode, OFlags};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The endings that are not part of the name of an image.
const ENDINGS: [&str; 18] = [
    ".gz",
    ".zst",
    ".xz",
    ".bz2",
    ".tar",
    ".tgz",
    ".tzst",
    ".txz",
    ".tbz",
    ".tbz2",
    ".raw",
    ".img",
    ".rootfs",
    ".squashfs",
    ".erofs",
    ".disk",
    ".ext4",
    ".qcow2",
];

/// The begin of a disk image in the format qcow2.
const QCOW2: &[u8] = b"QFI\xfb";

/// The source of an import.
pub(crate) enum ImportSource {
    /// A directory, which is copied.
    Directory {
        /// Its path.
        path: PathBuf,
        /// The directory.
        directory: OwnedFd,
    },
    /// An archive or a disk image.
    Stream {
        /// Its path. `None` for standard input.
        path: Option<PathBuf>,
        /// The file.
        file: File,
        /// Its size in bytes, if it is known.
        size: Option<u64>,
    },
}

impl ImportSource {
    /// Opens a source: `-` for standard input, else a path.
    ///
    /// # Errors
    /// A missing file, or a terminal.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        if path == Path::new("-") {
            let input = rustix::stdio::stdin();
            if rustix::termios::isatty(input) {
                return Err(Error::usage("refusing to read an archive from a terminal")
                    .with_hint("redirect standard input from a file or a pipe, or name the file"));
            }
            let file = rustix::io::fcntl_dupfd_cloexec(input, 3).context(|| "cannot open standard input")?;
            let file = File::from(file);
            let size = size(&file);
            return Ok(Self::Stream { path: None, file, size });
        }
        let opening = || format!("cannot open '{}'", path.display());
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY;
        let opened = rustix::fs::open(path, flags, Mode::empty()).context(opening)?;
        let found = rustix::fs::fstat(&opened).context(opening)?;
        let path = path.canonicalize().context(opening)?;
        if FileType::from_raw_mode(found.st_mode) == FileType::Directory {
            return Ok(Self::Directory { path, directory: opened });
        }
        let file = File::from(opened);
        let size = size(&file);
        Ok(Self::Stream { path: Some(path), file, size })
    }

    /// Refuses a directory with the images in it: the copy would copy itself. Refuses a format that is not
    /// imported.
    ///
    /// # Errors
    /// Such a source.
    pub(crate) fn check(&self, images: &Path) -> Result<()> {
        match self {
            Self::Directory { path, .. } => {
                let images = images.canonicalize().unwrap_or_else(|_| images.to_owned());
                if images.starts_with(path) {
                    return Err(Error::new(format!("'{}' contains the directory of images", path.display()))
                        .with_hint("name the directory of one root file system"));
                }
                Ok(())
            }
            Self::Stream { .. } if self.qcow2().is_some() => Ok(()),
            Self::Stream { file, .. } => refuse_format(file),
        }
    }

    /// Returns a disk image in the format qcow2, which systemd-importd converts. `None` for any other source.
    pub(super) fn qcow2(&self) -> Option<&File> {
        let Self::Stream { file, .. } = self else { return None };
        let mut head = [0; QCOW2.len()];
        (file.read_exact_at(&mut head, 0).is_ok() && head == QCOW2).then_some(file)
    }

    /// Returns the source for a message.
    pub(crate) fn shown(&self) -> String {
        match self {
            Self::Directory { path, .. } | Self::Stream { path: Some(path), .. } => {
                format!("'{}'", path.display())
            }
            Self::Stream { .. } => "standard input".to_owned(),
        }
    }

    /// Returns the size of the source in bytes, if it is known.
    pub(crate) fn size(&self) -> Option<u64> {
        match self {
            Self::Directory { .. } => None,
            Self::Stream { size, .. } => *size,
        }
    }

    /// Returns the name that the source suggests: that of its file, without the endings of formats.
    ///
    /// # Errors
    /// Standard input, or a file whose name is not one of a machine.
    pub(crate) fn name(&self) -> Result<Name> {
        const HINT: &str = "give the image a name: coracle import SOURCE NAME";
        let path = match self {
            Self::Directory { path, .. } | Self::Stream { path: Some(path), .. } => path,
            Self::Stream { .. } => return Err(Error::usage("standard input has no name").with_hint(HINT)),
        };
        let file = path.file_name().unwrap_or_default().to_string_lossy();
        let mut name = &*file;
        while let Some(rest) = ENDINGS.iter().find_map(|ending| name.strip_suffix(ending)) {
            name = rest;
        }
        Name::new(name).map_err(|error| Error::usage(error.to_string()).with_hint(HINT))
    }
}

fn size(file: &File) -> Option<u64> {
    let found = file.metadata().ok()?;
    found.is_file().then_some(found.len())
}

/// Refuses formats of disk images that another program converts.
///
/// # Errors
/// Such a file.
pub(super) fn refuse_format(file: &File) -> Result<()> {
    let formats = [(QCOW2, "qcow2"), (b"KDMV", "vmdk"), (b"vhdxfile", "vhdx"), (b"conectix", "vpc")];
    let mut head = [0; 8];
    let length = file.read_at(&mut head, 0).unwrap_or_default();
    let head = head.get(..length).unwrap_or_default();
    match formats.iter().find(|(magic, _)| head.starts_with(magic)) {
        None => Ok(()),
        Some((_, format)) => {
            Err(Error::new(format!("it is a disk image in the format {format}")).with_hint(format!(
                "convert it first: qemu-img convert -f {format} -O raw FILE NAME.raw (package 'qemu-utils')"
            )))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lose_the_endings_of_formats() {
        let directory = tempfile::tempdir().unwrap();
        for (file, name) in [
            ("web.tar.gz", "web"),
            ("debian-13.tar.zst", "debian-13"),
            ("a.b.tgz", "a.b"),
            ("disk.raw.xz", "disk"),
            ("plain", "plain"),
        ] {
            std::fs::write(directory.path().join(file), "").unwrap();
            let source = ImportSource::open(&directory.path().join(file)).unwrap();
            assert_eq!(source.name().unwrap().as_str(), name);
        }
        let wrong = directory.path().join("_x y.tar");
        std::fs::write(&wrong, "").unwrap();
        assert!(ImportSource::open(&wrong).unwrap().name().unwrap_err().hint().is_some());
    }

    #[test]
    fn other_formats_are_named() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut file, b"vhdxfile").unwrap();
        let source = ImportSource::open(file.path()).unwrap();
        let error = source.check(Path::new("/var/lib/machines")).unwrap_err();
        assert!(error.to_string().contains("vhdx") && error.hint().unwrap().contains("qemu-img"), "{error}");
        assert!(source.qcow2().is_none());
        let mut file = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut file, b"QFI\xfb\0\0\0\x03").unwrap();
        let source = ImportSource::open(file.path()).unwrap();
        source.check(Path::new("/var/lib/machines")).unwrap();
        assert!(source.qcow2().is_some());
        let error = refuse_format(source.qcow2().unwrap()).unwrap_err();
        assert!(error.to_string().contains("qcow2") && error.hint().unwrap().contains("qemu-img"), "{error}");
    }

    #[test]
    fn a_directory_with_the_images_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let images = root.path().join("machines");
        std::fs::create_dir(&images).unwrap();
        let source = ImportSource::open(root.path()).unwrap();
        assert!(source.check(&images).unwrap_err().to_string().contains("contains the directory of images"));
        std::fs::create_dir(root.path().join("tree")).unwrap();
        ImportSource::open(&root.path().join("tree")).unwrap().check(&images).unwrap();
    }
}
