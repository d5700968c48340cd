//! Stacks that only a definition names: they may be anywhere. Called by the verbs that ask for the users of
//! images and layers.

use crate::config;
use crate::error::Result;
use crate::image::users;
use crate::machine::root::RootSource;
use crate::paths::Paths;

/// Records the stacks in the definitions of all machines as users of what they stand on. An invalid definition
/// starts no machine.
///
/// # Errors
/// A directory of definitions that cannot be read, or any error of [`users::record`].
pub(super) fn record(paths: &Paths) -> Result<()> {
    for name in config::names(paths)? {
        if let Ok(resolved) = config::machine(paths, &name)
            && let RootSource::Stack(stack) = &resolved.machine.root.source
        {
            users::record(paths, stack)?;
        }
    }
    Ok(())
}
