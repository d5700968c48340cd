//! The stack that an import replaces: its locks, and the reasons that forbid that. Called by `import`.

use crate::error::{Error, Result};
use crate::host::lock::LockMode;
use crate::image::locks::{self, HeldLocks};
use crate::image::{find, refuse, snapshot};
use crate::machine::name::Name;
use crate::machine::root::RootSource;
use crate::paths::Paths;

/// Locks the stack of a name, which is replaced. Returns false if the name has no image.
///
/// # Errors
/// An image of another kind, one that is in use, or one that cannot be replaced.
pub(super) fn lock(paths: &Paths, name: &Name, held: &mut HeldLocks) -> Result<bool> {
    let Some(image) = find::by_name(paths, name) else { return Ok(false) };
    let path = image.path();
    let is_stack = matches!(image, RootSource::Stack(_)) && path.parent() == Some(paths.images().as_path());
    if !is_stack || path.is_symlink() {
        return Err(Error::new(format!("'{}' is not a stack, and only stacks are replaced", path.display()))
            .with_hint(format!("move it away: coracle rename {name} OTHER")));
    }
    held.take(paths, locks::of_image(paths, name, path, LockMode::Exclusive)?)?;
    refuse::running(paths, name)?;
    snapshot::refuse_unreplaceable(paths, name, &image)?;
    refuse::writable_link(&image)?;
    Ok(true)
}
