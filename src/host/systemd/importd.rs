//! systemd-importd (org.freedesktop.import1(5)): imports disk images of formats that it converts. Called by `image`.

use super::bus;
use super::machined::absence;
use crate::error::{Error, Result};
use crate::machine::name::Name;
use rustix::fd::{AsFd, BorrowedFd};
use std::time::Duration;
use zbus::proxy::CacheProperties;
use zbus::{Fd, OwnedObjectPath, proxy};

/// The timeout of a call: importd may have to be started.
const CALL_TIMEOUT: Duration = Duration::from_secs(25);
/// The time between two looks at a transfer.
const INTERVAL: Duration = Duration::from_millis(100);

/// A transfer: its number, its kind, its source, its image, its progress, and its object.
type Transfer = (u32, String, String, String, f64, OwnedObjectPath);

#[proxy(
    interface = "org.freedesktop.import1.Manager",
    default_service = "org.freedesktop.import1",
    default_path = "/org/freedesktop/import1"
)]
trait ImportManager {
    fn import_raw(
        &self,
        file: Fd<'_>,
        local_name: &str,
        force: bool,
        read_only: bool,
    ) -> zbus::Result<(u32, OwnedObjectPath)>;
    fn list_transfers(&self) -> zbus::Result<Vec<Transfer>>;
    fn cancel_transfer(&self, transfer: u32) -> zbus::Result<()>;
}

/// Imports a disk image as `NAME.raw`, and waits for the end of the transfer. `progress` is called with the part that
/// is done, from 0 to 1. Returns whether importd is available. The caller looks for the image: importd reports a failure
/// to its log only.
///
/// # Errors
/// importd refuses the image, or an error of `progress`: the transfer is cancelled.
pub(crate) async fn import_raw(
    file: BorrowedFd<'_>,
    name: &Name,
    is_read_only: bool,
    progress: &mut dyn FnMut(f64) -> Result<()>,
) -> Result<bool> {
    let connection = bus::connect(CALL_TIMEOUT).await?;
    let builder = ImportManagerProxy::builder(&connection).cache_properties(CacheProperties::No);
    let manager = builder.build().await.map_err(bus::failure)?;
    let refused = |error| bus::failure(error).context("systemd-importd does not import it");
    let begun = manager.import_raw(Fd::from(file.as_fd()), name.as_str(), false, is_read_only).await;
    let transfer = match begun {
        Ok((transfer, _)) => transfer,
        Err(error) if absence(&error).is_some() => return Ok(false),
        Err(error) => return Err(refused(error)),
    };
    loop {
        let transfers = manager.list_transfers().await.map_err(refused)?;
        let Some(found) = transfers.iter().find(|found| found.0 == transfer) else { return Ok(true) };
        if let Err(error) = progress(found.4) {
            cancel(&manager, transfer).await;
            return Err(error);
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Cancels a transfer, and waits until its files are removed.
async fn cancel(manager: &ImportManagerProxy<'_>, transfer: u32) {
    let ends = async {
        manager.cancel_transfer(transfer).await?;
        while manager.list_transfers().await?.iter().any(|found| found.0 == transfer) {
            tokio::time::sleep(INTERVAL).await;
        }
        Ok::<(), zbus::Error>(())
    };
    let failure = match tokio::time::timeout(bus::PATIENCE, ends).await {
        Ok(Ok(())) => return,
        Ok(Err(error)) => bus::failure(error),
        Err(_) => Error::new("it does not end"),
    };
    log::warn!("cannot cancel the transfer of systemd-importd: {failure}, ignoring");
}
