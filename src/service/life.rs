//! The start and the end of the service: it leaves when nobody has needed it for a while, and loses no call of
//! that moment.

use super::{BUS_NAME, Service, lock};
use crate::error::{Context, Result};
use crate::host::systemd::bus;
use sd_notify::NotifyState;
use std::time::Duration;
use zbus::Connection;

/// The time without a need of the service after which it ends.
const IDLE: Duration = Duration::from_secs(30);
/// The time in which calls that came before the name was released reach their objects.
const LAST_CALLS: Duration = Duration::from_millis(50);

/// Notifies systemd.
///
/// # Errors
/// The socket of systemd cannot be written to.
pub(super) fn notify(state: NotifyState<'_>) -> Result<()> {
    sd_notify::notify(&[state]).context(|| "cannot notify systemd")
}

/// Waits until the service was not needed for [`IDLE`]: no message, no call without an answer, no
/// subscription, no job, also none that has ended and can still be waited for.
pub(super) async fn until_idle(service: &Service, connection: &Connection) {
    loop {
        let has_activity = tokio::time::timeout(IDLE, connection.monitor_activity()).await.is_ok();
        let is_needed = has_activity || !service.quota.is_unused() || !lock(&service.jobs).is_empty();
        if !is_needed || connection.is_closed() {
            return;
        }
    }
}

/// Gives up the name and answers the calls that came before. From `STOPPING=1` on, systemd starts the next
/// instance after the end of this one; without it, a call that starts the service would find it still active
/// and wait for a name that nobody takes.
///
/// # Errors
/// systemd cannot be notified.
pub(super) async fn leave(service: &Service, connection: &Connection) -> Result<()> {
    notify(NotifyState::Stopping)?;
    let released = connection.release_name(BUS_NAME).await;
    released.map_err(|error| bus::failure(error).context("cannot release the name"))?;
    loop {
        let is_quiet = tokio::time::timeout(LAST_CALLS, connection.monitor_activity()).await.is_err();
        if is_quiet && service.quota.is_unused() || connection.is_closed() {
            return Ok(());
        }
    }
}
