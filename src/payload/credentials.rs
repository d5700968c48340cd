//! Creates the file system with the credentials of a machine. Called by `builder`.

use super::tree_paths::TreePaths;
use super::{mounts, nodes};
use crate::error::{Context, Error, Result};
use crate::plan::step::Credential;
use crate::sys::mount::MountAttributes;
use rustix::fs::Mode;
use std::path::Path;

/// Mounts a file system whose pages are never swapped, writes the credentials and makes it read-only.
pub(super) fn create(
    paths: &mut TreePaths,
    target: &Path,
    is_world_readable: bool,
    credentials: &[Credential<'_>],
    owner: u32,
) -> Result<()> {
    let attributes = MountAttributes::INERT;
    let options = [("mode", "0700")];
    if mounts::new(paths, "ramfs", &options, attributes, target, owner).is_err() {
        // The host is a machine itself: root there cannot mount a ramfs.
        mounts::new(paths, "tmpfs", &options, attributes, target, owner)?;
    }
    let (directory, file) = if is_world_readable { (0o555, 0o444) } else { (0o500, 0o400) };
    for Credential { name, content } in credentials {
        nodes::file(paths, &target.join(name), file, content)
            .map_err(|error| error.context(format!("credential '{name}'")))?;
    }
    let root = paths.root_of(target).ok_or_else(|| Error::new("it is not mounted"))?;
    rustix::fs::chmodat(root, ".", Mode::from_raw_mode(directory), rustix::fs::AtFlags::empty())
        .context(|| "cannot set its mode")?;
    mounts::restrict(paths, target, attributes.read_only())
}
