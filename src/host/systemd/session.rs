//! The system bus during a start: one event loop, and one connection for all services that the steps of the start
//! use. Called by `run` and `supervisor`, which drop it when the machine is running.

use super::bus;
use crate::error::Result;
use crate::host::runtime::{Runtime, runtime};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::OnceCell;

/// The timeout of a call. systemd may be slow to create a scope; the callers have shorter ones for other services.
const CALL_TIMEOUT: Duration = Duration::from_secs(90);

/// The event loop of a start, and its connection to the bus.
#[derive(Debug)]
pub(crate) struct BusSession {
    runtime: Runtime,
    connection: BusConnection,
}

impl BusSession {
    /// Creates the event loop. The connection is opened when it is first used.
    ///
    /// # Errors
    /// Any error of epoll_create1(2).
    pub(crate) fn new() -> Result<Self> {
        Ok(Self { runtime: runtime()?, connection: BusConnection::default() })
    }

    /// Opens the connection, and sends its first messages. Later work on the event loop receives their replies.
    pub(crate) fn begin(&self) {
        let connection = self.connection();
        self.runtime.block_on(async move {
            // A failure is reported by the first use, which tries again.
            tokio::spawn(async move { connection.get().await.map(drop) });
            tokio::task::yield_now().await;
        });
    }

    /// Returns the connection.
    pub(crate) fn connection(&self) -> BusConnection {
        self.connection.clone()
    }

    /// Runs work on the event loop.
    pub(crate) fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }
}

/// A connection opened at its first use. Copies share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct BusConnection(Arc<OnceCell<zbus::Connection>>);

impl BusConnection {
    /// Returns the open connection.
    ///
    /// # Errors
    /// Those of [`bus::connect`].
    pub(crate) async fn get(&self) -> Result<&zbus::Connection> {
        self.0.get_or_try_init(|| bus::connect(CALL_TIMEOUT)).await
    }
}
