//! Traffic counters of a machine's link, and its dropped packets. Called by `status`.

use crate::control::list::read_number;
use crate::network::firewall;
use crate::state::record::Record;
use serde::Serialize;

/// Counters since the start of the machine. Serialised unchanged for `--json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Traffic {
    /// Bytes received.
    pub(crate) received: u64,
    /// Bytes sent.
    pub(crate) sent: u64,
    /// Packets sent with a source address of another host, or to the host's loopback addresses.
    pub(crate) forged: u64,
    /// Packets sent to destinations outside of `network.egress`.
    pub(crate) refused: u64,
}

impl Traffic {
    /// Reads the counters of a running machine. `None` without a link.
    pub(crate) fn of(record: &Record) -> Option<Self> {
        let interface = record.host_interface.as_ref()?;
        // The host's end receives the packets that the machine sends.
        let count = |file: &str| read_number(format!("/sys/class/net/{interface}/statistics/{file}"));
        let dropped = firewall::counters::of_machine(record.part()).unwrap_or_default();
        Some(Self {
            received: count("tx_bytes")?,
            sent: count("rx_bytes")?,
            forged: dropped.forged,
            refused: dropped.refused,
        })
    }

    /// Describes the dropped packets. `None` without any.
    pub(crate) fn dropped(&self) -> Option<String> {
        let forged = (self.forged > 0).then(|| format!("{} with a forged address", self.forged));
        let refused = (self.refused > 0).then(|| format!("{} outside of network.egress", self.refused));
        let parts: Vec<String> = forged.into_iter().chain(refused).collect();
        (!parts.is_empty()).then(|| format!("packets: {}", parts.join(", ")))
    }
}
