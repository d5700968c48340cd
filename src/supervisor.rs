//! The parent of a machine, in three acts: `launch` does the expensive work, `supervise` is one event loop
//! that idles while the machine runs, `cleanup` undoes from the state record. Called by `run`.

pub(crate) mod cleanup;
pub(crate) mod control_socket;
pub(crate) mod current_step;
pub(crate) mod detached;
mod drop_privileges;
mod exit;
mod exposed_root;
pub(crate) mod failure;
pub mod guest;
pub(crate) mod handover;
pub(crate) mod launch;
mod mount_tunnel;
pub(crate) mod network;
mod notify_out;
mod package_cache;
mod recognition;
pub(crate) mod registration;
mod results;
mod stop;
pub(crate) mod supervise;

use crate::machine::users::Users;

/// Prevents a machine with the host's root from writing to this program's file: such a machine can have
/// the supervisor execute it. Executes this program again from a read-only mount if necessary.
///
/// # Errors
/// Any error of the system calls that create the mount.
pub(crate) fn protect_program(users: &Users) -> crate::error::Result<()> {
    if !users.are_separate() {
        crate::sys::process::run_from_read_only()?;
    }
    Ok(())
}
