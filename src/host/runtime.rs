//! The event loop for D-Bus and netlink. Called by `run`, the supervisor and `control`.

use crate::error::{Context, Result};

pub(crate) use tokio::runtime::Runtime;

/// Returns a tokio runtime of one thread, for zbus and rtnetlink. Dropped after use: a supervisor keeps none
/// while its machine is idle.
///
/// # Errors
/// Any error of epoll_create1(2).
pub(crate) fn runtime() -> Result<Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .context(|| "cannot create the event loop for D-Bus and netlink")
}
