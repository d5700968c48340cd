//! The lock of zones, and what the host's networkd is told of their bridges. Called by the supervisor.

use super::addresses::{IPV6_LENGTH, Plan};
use crate::error::{Context, Result};
use crate::host::lock;
use crate::host::lock::Held;
use crate::machine::network::Zone;
use crate::paths::Paths;
use std::path::PathBuf;

/// Waits for the lock of all zones, held while a bridge is made or removed, and while its machines are told of each
/// other.
///
/// # Errors
/// A holder that keeps it for long.
pub fn lock(paths: &Paths) -> Result<Held> {
    lock::wait_for_zones(paths)
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
         IPMasquerade=both\nLLMNR=no\nMulticastDNS=no\nIPv6AcceptRA=no\n\n\
         [Address]\nAddress={}/{IPV6_LENGTH}\nDuplicateAddressDetection=none\n",
        zone.bridge(),
        plan.ipv4.host,
        plan.ipv4_length,
        plan.ipv6.host,
    );
    std::fs::write(&file, text).context(writing)
}
