//! The parent of a machine, in three acts: `launch` does everything heavy, `supervise` is one
//! event loop that idles for as long as the machine runs, `cleanup` undoes from the state record.
//! Called by `run`.

pub mod cleanup;
pub mod console;
pub mod control;
mod ending;
pub mod failure;
pub mod firewall;
pub mod guest;
pub mod handover;
mod idmap;
mod inbox;
pub mod launch;
mod manager;
mod names;
mod rate_limit;
mod recognition;
pub mod registration;
mod repeats;
pub mod reserve;
pub mod responder;
mod rights;
pub mod rules;
mod stop;
pub mod supervise;
pub mod syslog;
pub mod underway;
mod wires;

use crate::machine::users::Users;

/// A tokio runtime of one thread, for zbus and rtnetlink. Never kept while a machine idles.
///
/// # Errors
/// Where the kernel refuses an epoll instance.
pub fn runtime() -> crate::error::Result<tokio::runtime::Runtime> {
    use crate::error::Context;
    tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .context(|| "cannot start the event loop for D-Bus and netlink")
}

/// Sees to it that a machine whose root is the host's root cannot write to the program we are, when
/// it has itself executed by us. It executes this program again, where that is needed.
///
/// # Errors
/// What the kernel refuses.
pub fn protect_program(users: &Users) -> crate::error::Result<()> {
    if matches!(users, Users::Host | Users::Identity) {
        crate::sys::process::run_from_read_only()?;
    }
    Ok(())
}
