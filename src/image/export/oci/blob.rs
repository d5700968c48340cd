//! Blobs of an image: files that are named for their digest, which is computed while they are written. Called by
//! `oci`.

use crate::error::{Context, Error, Result};
use crate::host::probe;
use crate::image::oci::digest::Digest;
use flate2::GzBuilder;
use flate2::write::GzEncoder;
use rustix::fd::BorrowedFd;
use rustix::fs::{Mode, OFlags};
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::{BufWriter, Write};

/// The compression of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BlobCompression {
    /// None.
    None,
    /// gzip(1).
    Gzip,
}

/// A finished blob.
#[derive(Debug)]
pub(super) struct Blob {
    /// Its digest.
    pub(super) digest: Digest,
    /// Its size, bytes.
    pub(super) size: u64,
}

/// A stream with its digest and its size.
struct Hashed<W> {
    to: W,
    digest: Sha256,
    size: u64,
}

impl<W: Write> Hashed<W> {
    fn new(to: W) -> Self {
        Self { to, digest: Sha256::new(), size: 0 }
    }
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let length = self.to.write(bytes)?;
        self.digest.update(bytes.get(..length).unwrap_or_default());
        self.size += length as u64;
        Ok(length)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.to.flush()
    }
}

/// The output of a blob.
enum Output {
    Plain(Hashed<File>),
    Gzip(Box<GzEncoder<Hashed<File>>>),
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Self::Plain(to) => to.write(bytes),
            Self::Gzip(to) => to.write(bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match self {
            Self::Plain(to) => to.flush(),
            // A flush in between would change the output.
            Self::Gzip(_) => Ok(()),
        }
    }
}

/// A blob in work.
pub(super) struct BlobWriter {
    to: BufWriter<Hashed<Output>>,
    name: String,
}

impl BlobWriter {
    /// Creates a blob under a temporary name in a directory that is a draft.
    ///
    /// # Errors
    /// A file that cannot be created.
    pub(super) fn create(directory: BorrowedFd<'_>, compression: BlobCompression) -> Result<Self> {
        let name = format!("new-{}", probe::random_id());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = rustix::fs::openat(directory, name.as_str(), flags, Mode::from_raw_mode(0o644));
        let file = Hashed::new(File::from(file.context(|| "cannot create a file of the image")?));
        let output = match compression {
            BlobCompression::None => Output::Plain(file),
            BlobCompression::Gzip => {
                Output::Gzip(Box::new(GzBuilder::new().mtime(0).write(file, flate2::Compression::default())))
            }
        };
        Ok(Self { to: BufWriter::with_capacity(256 << 10, Hashed::new(output)), name })
    }

    /// Completes a blob. Returns the digest of its plain content, and the blob.
    ///
    /// # Errors
    /// Any write error.
    pub(super) fn finish(self, directory: BorrowedFd<'_>) -> Result<(Digest, Blob)> {
        let writing = || "cannot write a file of the image";
        let plain = self.to.into_inner().map_err(|error| Error::from(error.into_error())).context(writing)?;
        let file = match plain.to {
            Output::Plain(file) => file,
            Output::Gzip(encoder) => encoder.finish().context(writing)?,
        };
        let blob = Blob { digest: digest(file.digest), size: file.size };
        rustix::fs::renameat(directory, self.name.as_str(), directory, blob.digest.digits())
            .context(writing)?;
        Ok((digest(plain.digest), blob))
    }
}

fn digest(hash: Sha256) -> Digest {
    let digits: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Digest::of_digits(&digits)
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.to.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.to.flush()
    }
}
