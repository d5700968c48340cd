//! The machine of a copy: a running one, which the child enters, or a stopped one with a tree on the host, whose
//! locks are held. Called by `copy`.

use super::copy_state::CopyState;
use super::transfer::Transfer;
use crate::control::progress::Progress;
use crate::control::{defined, guest_child, running, signal};
use crate::error::{Context, Error, ErrorName, Result};
use crate::image::locks::{self, HeldLocks};
use crate::machine::name::Name;
use crate::paths::Paths;
use crate::state::expected;
use crate::state::record::Record;
use crate::sys::guest_files::GuestRoot;
use crate::sys::process;
use crate::tree::id_mapping::IdMapping;
use rustix::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

/// The machine of a copy.
pub(super) struct CopyPeer {
    place: Place,
    /// Its ids, as the child sees them.
    pub(super) ids: IdMapping,
}

/// The place of its files.
enum Place {
    /// The namespaces of its PID 1.
    Running { record: Box<Record>, leader: OwnedFd },
    /// A tree of the host.
    Stopped { name: Name, tree: GuestRoot, _locks: HeldLocks },
}

impl CopyPeer {
    /// Finds the machine.
    ///
    /// # Errors
    /// A machine that does not exist or has just ended. A stopped machine without a tree, or whose tree is in
    /// use.
    pub(super) fn find(paths: &Paths, name: &Name) -> Result<Self> {
        match running(paths, name) {
            Ok(record) => Self::running(record),
            Err(error) if error.name() == ErrorName::NotRunning => {
                // The answer for a running machine is none for its tree.
                expected::refuse_ended(name)?;
                Self::stopped(paths, name, error)
            }
            Err(error) => Err(error),
        }
    }

    fn running(record: Record) -> Result<Self> {
        // The open pidfd keeps the process id from being reused while procfs is read.
        let leader = signal::leader(&record)?;
        let pid = record.leader.unwrap_or_default();
        let ids = if record.id_base.is_some() { IdMapping::of_machine(pid)? } else { IdMapping::HOST };
        process::send_signal(leader.as_fd(), 0).context(|| format!("machine '{}' ended", record.name))?;
        Ok(Self { place: Place::Running { record: Box::new(record), leader }, ids })
    }

    /// `not_running` is the error for a machine that must be started first.
    fn stopped(paths: &Paths, name: &Name, not_running: Error) -> Result<Self> {
        let Ok(machine) = defined(paths, name) else { return Err(not_running) };
        let Some(directory) = machine.root.plain_directory() else { return Err(not_running) };
        let mut held = HeldLocks::default();
        held.take(paths, locks::of_root(paths, &machine)?)?;
        let reading = || format!("cannot open the tree '{}'", directory.display());
        // Its owner is the first id of the machine, unless mounts map the ids.
        let base = directory.metadata().context(reading)?.uid();
        let tree = GuestRoot::of_tree(directory)?;
        let place = Place::Stopped { name: name.clone(), tree, _locks: held };
        Ok(Self { place, ids: IdMapping::from(base) })
    }

    /// Runs in the child: enters the machine, calls `work`, and reports the result.
    pub(super) fn work(
        &self,
        transfer: &Transfer,
        work: impl FnOnce(&GuestRoot, &mut CopyState<'_>) -> Result<()>,
    ) -> ! {
        let name = match &self.place {
            Place::Running { record, .. } => &record.name,
            Place::Stopped { name, .. } => name,
        };
        let mut state = CopyState::new(name.to_string(), Progress::silent(), None);
        let done = match &self.place {
            Place::Running { record, leader } => {
                guest_child::enter(record, leader).and_then(|()| work(&GuestRoot::of_caller()?, &mut state))
            }
            Place::Stopped { tree, .. } => guest_child::restrict().and_then(|()| work(tree, &mut state)),
        };
        // Fails if the parent is gone.
        let _ = transfer.finish(done, &mut state);
        process::exit_now(0)
    }
}
