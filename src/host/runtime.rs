//! The event loop for D-Bus and netlink. Called by `run`, the supervisor and `control`.

use crate::error::{Context, Result};
use crate::sys::process::interrupt;
use std::time::Duration;

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

/// The delay between two checks for a signal.
const CHECK: Duration = Duration::from_millis(100);

/// Waits for work on the host, until a signal interrupts the start of a machine.
///
/// # Errors
/// Those of the work, or a pending signal.
pub(crate) async fn unless_interrupted(work: impl Future<Output = Result<()>>) -> Result<()> {
    let mut work = std::pin::pin!(work);
    loop {
        if let Ok(done) = tokio::time::timeout(CHECK, work.as_mut()).await {
            return done;
        }
        interrupt::check()?;
    }
}
