//! Imports a disk image in the format qcow2: systemd-importd converts it. Called by `import`.

use super::{Imported, ImportedKind, source};
use crate::error::{Context, Error, Result};
use crate::host::runtime::runtime;
use crate::host::systemd::importd;
use crate::image::disk::bytes::OpenDisk;
use crate::image::disk::partitions;
use crate::image::{clone, locks};
use crate::machine::name::Name;
use crate::paths::Paths;
use crate::tree::copy::CopyProgress;
use crate::tree::tar::policy;
use rustix::fd::AsFd;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};

/// The place of the size of the disk, in bytes and in network order.
const SIZE: u64 = 24;

/// Imports a disk image. `progress` is called with the bytes of the file that are converted.
///
/// # Errors
/// An existing image of the name, a disk that is too large, no systemd-importd, or an image that cannot be started.
pub(super) fn import(
    paths: &Paths,
    name: &Name,
    file: &File,
    (is_read_only, largest): (bool, Option<u64>),
    progress: &mut CopyProgress<'_>,
) -> Result<Imported> {
    clone::refuse_existing(paths, name)?;
    clone::create_directory(&paths.images())?;
    let path = paths.images().join(format!("{name}.raw"));
    let mut held = locks::HeldLocks::default();
    held.take(paths, [locks::of_name(paths, name, &paths.images().join(name.as_str()))])?;
    clone::refuse_existing(paths, name)?;
    let mut size = [0; 8];
    file.read_exact_at(&mut size, SIZE).context(|| "cannot read its size")?;
    if let Some(largest) = largest.filter(|largest| u64::from_be_bytes(size) > *largest) {
        return Err(policy::larger_than(largest));
    }
    let bytes = file.metadata().context(|| "cannot look at it")?.len();
    let mut advance = |part: f64| {
        #[allow(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a part"
        )]
        progress((bytes as f64 * part.clamp(0.0, 1.0)) as u64)
    };
    let converting = importd::import_raw(file.as_fd(), name, is_read_only, &mut advance);
    if !runtime()?.block_on(converting)? {
        return source::refuse_format(file).and(Err(Error::new("systemd-importd is missing")));
    }
    let converted = File::open(&path).map_err(|error| {
        Error::from(error)
            .context("systemd-importd has not converted it")
            .with_hint("its message: journalctl -u systemd-importd")
    })?;
    let found = converted.metadata().context(|| "cannot look at the disk image")?;
    partitions::read(&OpenDisk::new(converted, found.len())).inspect_err(|_| clone::remove(&path))?;
    Ok(Imported {
        path,
        kind: ImportedKind::Disk,
        bytes: found.blocks().saturating_mul(512),
        stream: None,
        oci: None,
        former: None,
    })
}
