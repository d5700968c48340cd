//! The start and the end of the service: it leaves when nobody has needed it for a while, or when systemd stops
//! it, for example for an upgrade; and loses no call of that moment.

use super::{BUS_NAME, Service, lock};
use crate::error::{Context, Result};
use crate::host::systemd::bus;
use futures_util::future::{Either, select};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::fd::AsFd;
use sd_notify::NotifyState;
use std::pin::pin;
use std::time::Duration;
use tokio::net::unix::pipe::Receiver;
use zbus::Connection;

/// The time without a need of the service after which it ends.
const IDLE: Duration = Duration::from_secs(30);
/// The time in which calls that came before the name was released reach their objects.
const LAST_CALLS: Duration = Duration::from_millis(50);
/// The longest time for the answers to them: a user may be asked for a password, or wait for a job. The next
/// instance starts after the end of this one.
const LAST_ANSWERS: Duration = Duration::from_secs(5);

/// The request of systemd to end: SIGTERM, which is blocked.
pub(super) struct Termination(Receiver);

impl Termination {
    /// Blocks the signal and receives it from now on.
    ///
    /// # Errors
    /// Any error of sigprocmask(2) or signalfd(2).
    pub(super) fn new() -> Result<Self> {
        let receiving = || "cannot receive signals";
        let mask: SigSet = [Signal::SIGTERM].into_iter().collect();
        mask.thread_block().context(receiving)?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let signals = SignalFd::with_flags(&mask, flags).context(receiving)?;
        let descriptor = rustix::io::fcntl_dupfd_cloexec(signals.as_fd(), 3).context(receiving)?;
        // It waits for any descriptor of poll(2).
        Receiver::from_owned_fd_unchecked(descriptor).map(Self).context(receiving)
    }

    /// Waits for the request.
    async fn requested(&self) {
        if let Err(error) = self.0.readable().await {
            log::warn!("cannot receive signals: {error}, ignoring");
            std::future::pending::<()>().await;
        }
    }
}

/// Notifies systemd.
///
/// # Errors
/// The socket of systemd cannot be written to.
pub(super) fn notify(state: NotifyState<'_>) -> Result<()> {
    sd_notify::notify(&[state]).context(|| "cannot notify systemd")
}

/// Waits until the service was not needed for [`IDLE`]: no message, no call without an answer, no
/// subscription, no job, also none that has ended and can still be waited for; or until systemd stops it, or the
/// bus has closed the connection.
pub(super) async fn until_idle(service: &Service, connection: &Connection, termination: &Termination) {
    loop {
        let activity = pin!(tokio::time::timeout(IDLE, connection.monitor_activity()));
        // The end of the connection is no activity.
        let (requested, closed) = (pin!(termination.requested()), pin!(connection.closed()));
        let ended = select(requested, closed);
        let Either::Left((activity, _)) = select(activity, ended).await else {
            return;
        };
        let is_unused = !service.has_calls() && service.quota.is_unused() && lock(&service.jobs).is_empty();
        if activity.is_err() && is_unused {
            return;
        }
    }
}

/// Gives up the name and answers the calls that came before. From `STOPPING=1` on, systemd starts the next
/// instance after the end of this one; without it, a call that starts the service would find it still active
/// and wait for a name that nobody takes. The next instance finds running jobs by their units.
///
/// # Errors
/// systemd cannot be notified.
pub(super) async fn leave(service: &Service, connection: &Connection) -> Result<()> {
    notify(NotifyState::Stopping)?;
    let released = connection.release_name(BUS_NAME).await;
    released.map_err(|error| bus::failure(error).context("cannot release the name"))?;
    let answered = async {
        loop {
            let is_quiet = tokio::time::timeout(LAST_CALLS, connection.monitor_activity()).await.is_err();
            if is_quiet && !service.has_calls() || connection.is_closed() {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(LAST_ANSWERS, answered).await;
    Ok(())
}
