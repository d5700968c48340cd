//! The lock of zones, and the configuration of their bridges for the host's networkd. Called by the
//! supervisor.

use super::addresses::{IPV6_LENGTH, LinkPlan};
use crate::error::{Context, Result};
use crate::host::lock;
use crate::host::lock::Held;
use crate::machine::network::Zone;
use crate::paths::Paths;
use std::path::PathBuf;

/// Waits for the lock of all zones, held while a bridge is created or deleted and while the hosts files of
/// its machines are updated.
///
/// # Errors
/// The lock is held for too long.
pub(crate) fn lock(paths: &Paths) -> Result<Held> {
    lock::wait_for_zones(paths)
}

/// Returns the path of the configuration of a zone's bridge for the host's networkd. It differs from that of
/// any machine.
pub(crate) fn network_file(paths: &Paths, zone: &Zone) -> PathBuf {
    paths.systemd("network").join(format!("74-coracle-{}.network", zone.bridge()))
}

/// Writes a configuration that keeps the host's networkd from changing a zone's bridge.
///
/// # Errors
/// The file cannot be written.
pub(crate) fn announce(paths: &Paths, plan: &LinkPlan, zone: &Zone) -> Result<()> {
    let file = network_file(paths, zone);
    let writing = || format!("cannot write '{}'", file.display());
    if let Some(directory) = file.parent() {
        std::fs::create_dir_all(directory).context(writing)?;
    }
    let text = format!(
        "# Created by coracle for zone '{zone}', deleted with its last machine.\n\
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
