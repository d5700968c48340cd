//! The lock of zones, and what the host's networkd is told of their bridges. Called by the supervisor.

use super::lock::{self, Lock};
use super::netlink::plan::{IPV6_LENGTH, Plan};
use crate::error::{Context, Error, Result};
use crate::machine::network::Zone;
use crate::paths::Paths;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Longer than anybody holds it.
const PATIENCE: Duration = Duration::from_secs(20);

/// Held while a bridge is made or removed, and while its machines are told of each other.
#[derive(Debug)]
pub struct Held(Lock);

impl Drop for Held {
    fn drop(&mut self) {
        // While it is locked: whoever opened the file before finds out.
        let _ = std::fs::remove_file(&self.0.path);
    }
}

/// Waits for the lock of all zones: systemd-nspawn's, whose machines may be in them too.
///
/// # Errors
/// Somebody who holds it for long.
pub fn lock(paths: &Paths) -> Result<Held> {
    let file = paths.join("/run/systemd/nspawn-network-zone");
    let since = Instant::now();
    loop {
        if let Some(lock) = lock::take(&file)? {
            return Ok(Held(lock));
        }
        if since.elapsed() > PATIENCE {
            return Err(Error::new(format!("another program holds '{}' for long", file.display())));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// The file by which the host's networkd knows a zone's bridge. No machine's is called so.
pub fn network_file(paths: &Paths, zone: &Zone) -> PathBuf {
    paths.join(format!("/run/systemd/network/74-coracle-{}.network", zone.bridge()))
}

/// Has the host's networkd keep its hands off what a zone's bridge has from us.
///
/// # Errors
/// A file that cannot be written.
pub fn announce(paths: &Paths, plan: &Plan, zone: &Zone) -> Result<()> {
    let file = network_file(paths, zone);
    let writing = || format!("cannot write '{}'", file.display());
    if let Some(directory) = file.parent() {
        std::fs::create_dir_all(directory).context(writing)?;
    }
    let text = format!(
        "# Made by coracle for zone '{zone}', gone with its last machine.\n\
         [Match]\nKind=bridge\nName={}\n\n\
         [Link]\nRequiredForOnline=no\n\n\
         [Network]\nAddress={}/{}\nConfigureWithoutCarrier=yes\nLinkLocalAddressing=ipv6\n\
         IPMasquerade=both\nIPv6AcceptRA=no\n\n\
         [Address]\nAddress={}/{IPV6_LENGTH}\nDuplicateAddressDetection=none\n",
        zone.bridge(),
        plan.ipv4.host,
        plan.ipv4_length,
        plan.ipv6.host,
    );
    std::fs::write(&file, text).context(writing)
}
