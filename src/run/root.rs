//! The root of a machine: opened before it is claimed, attached after. Called by `run`. The root is a
//! directory today; an image would be looked up in `open` and mounted in `attach`.

use crate::error::{Error, Result};
use crate::host::probe::Tree;
use crate::machine::Machine;
use crate::machine::command::Payload;
use crate::paths::access::refuse_open;
use crate::state::id_ranges::RangeRetention;

/// Opens the root of a machine, for its identity and its owners.
///
/// # Errors
/// A path that does not exist or is not a directory.
pub(super) fn open(machine: &Machine) -> Result<Tree> {
    check_sources(machine)?;
    Tree::open(machine.root.path())
}

/// Attaches a claimed root: with the mounts of the definition over it, as the payload will see it.
///
/// # Errors
/// A tree that is not a root file system, or that users of the host can reach.
pub(super) fn attach(machine: &Machine, root: Tree, keep: RangeRetention) -> Result<Tree> {
    let mounts = machine.mounts.iter().map(|mount| (mount.target.as_path(), mount.source()));
    let tree = root.with_mounts(mounts)?;
    tree.check_is_root(matches!(machine.command.payload, Payload::Boot { .. }))?;
    check_access(machine, keep)?;
    Ok(tree)
}

/// Refuses bind mounts without a source on the host.
fn check_sources(machine: &Machine) -> Result<()> {
    let missing = machine.mounts.iter().find_map(|mount| {
        let source = mount.source()?;
        source.metadata().err().map(|error| (source, mount, error))
    });
    match missing {
        None => Ok(()),
        Some((source, mount, error)) => Err(Error::from(error)
            .context(format!("cannot bind '{}' on '{}'", source.display(), mount.target.display()))
            .with_hint("create it on the host, or remove the mount from the definition")),
    }
}

/// Refuses trees that users of the host can reach. `coracle run` only warns.
fn check_access(machine: &Machine, keep: RangeRetention) -> Result<()> {
    for tree in machine.owned_trees() {
        match (refuse_open(tree), keep) {
            (Err(error), RangeRetention::Recorded) => return Err(error),
            (Err(error), RangeRetention::WhileRunning) => {
                log::warn!(
                    "{error}: its setuid programs are the host's; {}",
                    error.hint().unwrap_or_default()
                );
            }
            (Ok(()), _) => {}
        }
    }
    Ok(())
}
