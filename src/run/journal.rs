//! The connection of the journals of host and guest, by their machine ids and directories. Called by `facts`.
//! It changes nothing.

use crate::error::{Error, Result};
use crate::host::probe::{self, Tree};
use crate::machine::Machine;
use crate::machine::id128::Id128;
use crate::machine::journal::JournalLink;
use crate::machine::root::Ephemeral;
use crate::paths::Paths;
use crate::plan::step::JournalDirectory;
use crate::supervisor::launch::JournalPlan;

/// The group that reads journals.
const GROUP: &str = "systemd-journal";

/// Returns the step of the builder, if the guest's directory is mounted, and the changes on the host. `None`
/// without a connection.
///
/// # Errors
/// A required connection that is not possible.
pub(super) fn find(
    paths: &Paths,
    machine: &Machine,
    tree: &Tree,
    machine_id: Id128,
    id_base: Option<u32>,
) -> Result<Option<(JournalPlan, Option<JournalDirectory>)>> {
    let link = machine.journal.link;
    if link == JournalLink::No {
        return Ok(None);
    }
    match refusal(machine, machine_id) {
        Some(error) if link.is_required() => return Err(error.context("cannot link the journal")),
        Some(error) => {
            log::debug!("the journal is not linked: {error}");
            return Ok(None);
        }
        None => {}
    }
    let directory = paths.join("/var/log/journal").join(machine_id.to_string());
    let tree_directory = machine.root.plain_directory().map(ToOwned::to_owned);
    let host_group = Tree::open(&paths.join("/")).and_then(|host| host.group(GROUP)).ok();
    let guest_group = tree.group(GROUP).ok();
    let groups = id_base.and(host_group.zip(guest_group));
    let plan = JournalPlan {
        link,
        directory: directory.clone(),
        tree: tree_directory,
        owner: id_base.map(|base| (base, groups.map_or(base, |(host, _)| host))),
    };
    let is_mounted = match link {
        JournalLink::Guest(_) => false,
        JournalLink::Auto => rustix::fs::lstat(&directory)
            .is_ok_and(|found| rustix::fs::FileType::from_raw_mode(found.st_mode).is_dir()),
        _ => true,
    };
    if link == JournalLink::Auto && !is_mounted {
        return Ok(None);
    }
    let target = format!("/var/log/journal/{machine_id}").into();
    let is_required = link.is_required();
    let step =
        is_mounted.then_some(JournalDirectory { source: directory, target, groups, is_required, ids: None });
    Ok(Some((plan, step)))
}

/// Returns the reason that no connection is possible.
fn refusal(machine: &Machine, machine_id: Id128) -> Option<Error> {
    if machine_id == probe::host_id() {
        return Some(
            Error::new("the machine has the machine id of its host")
                .with_hint("remove /etc/machine-id of the tree"),
        );
    }
    // The directory of the next start would have another place.
    if machine.root.ephemeral != Ephemeral::No {
        return Some(Error::new("the changes of the machine are discarded"));
    }
    let is_guest = matches!(machine.journal.link, JournalLink::Guest(_));
    (is_guest && machine.root.plain_directory().is_none())
        .then(|| Error::new("the root of the machine is not a directory of the host"))
}
