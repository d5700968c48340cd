//! `coracle build commit`: keeps the changes of a session as a layer of its base, or of a new image. Called by
//! `cli`, which removes the rest of the session.

use super::session;
use crate::config;
use crate::control::{defined_stacks, signal};
use crate::error::{Error, Result};
use crate::host::cgroup;
use crate::image::commit::{self, CommitRequest, SessionChanges};
use crate::image::{recovery, throwaway};
use crate::machine::name::Name;
use crate::machine::root::RootSource;
use crate::paths::Paths;
use crate::state::record::Record;

/// Refuses a base whose sessions cannot be committed, before one begins.
///
/// # Errors
/// A base that is not a stack, or an existing image of the new name.
pub(crate) fn refuse(paths: &Paths, base: &str, name: Option<&Name>) -> Result<()> {
    if !throwaway::takes_layers(&paths.storage()) {
        return Err(in_memory());
    }
    let base = config::build::base(paths, base)?;
    commit::prepare(CommitRequest { paths, base: &base, name }).map(drop)
}

fn in_memory() -> Error {
    Error::new("changes in memory cannot be committed").with_hint(
        "begin a session without --memory; '/var/lib/coracle/storage' must not be on an overlay or NFS",
    )
}

/// Ends the processes of a session and commits its changes: to its base, or to a new image.
///
/// # Errors
/// A name without a session, one in memory, a base that cannot get a layer, or one that has changed. The session
/// is dead then, if it was not refused before, and its changes stay.
pub(crate) fn commit(paths: &Paths, session_name: &Name, name: Option<&Name>) -> Result<()> {
    let doing = || format!("cannot commit session '{session_name}'");
    commit_session(paths, session_name, name).map_err(|error| error.context(doing()))
}

fn commit_session(paths: &Paths, session_name: &Name, name: Option<&Name>) -> Result<()> {
    crate::control::require_root()?;
    recovery::recover(paths);
    let (record, build) = session(paths, session_name)?;
    let Some(layer) = record.throwaway.as_deref().filter(|_| record.keeps_changes()) else {
        return Err(in_memory());
    };
    let base = RootSource::of_path(record.root.clone());
    let request = CommitRequest { paths, base: &base, name };
    let locked = commit::prepare(request)?;
    defined_stacks::record(paths)?;
    end_processes(&record)?;
    let changes = SessionChanges { layer, lower: &build.lower, created: &build.files };
    commit::commit(request, &locked, &changes)
}

/// Kills the supervisor of a session first, so that nothing of it is discarded, then all its processes.
fn end_processes(record: &Record) -> Result<()> {
    if record.is_alive() {
        let leader = signal::leader(record).ok();
        signal::kill_supervisor(record)?;
        // The kernel kills PID 1 with it, and the others with PID 1.
        leader.map_or(Ok(()), signal::wait_for_end)?;
    }
    record.payload_cgroup().map_or(Ok(()), |payload| cgroup::remove(&payload))
}
