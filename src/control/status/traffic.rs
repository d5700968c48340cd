//! What a machine sent and got over its link, and what of it went nowhere. Called by `status`; it only
//! looks.

use crate::network::firewall;
use crate::state::record::Record;
use serde::Serialize;

/// Counted since the machine was started. Serialised as it is for `--json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Traffic {
    /// Bytes that came to it.
    pub received: u64,
    /// Bytes that it sent.
    pub sent: u64,
    /// Packets that it sent with an address that is not its own, or to the host's loopback.
    pub forged: u64,
    /// Packets that it sent to whom it may not speak (`network.egress`).
    pub refused: u64,
}

impl Traffic {
    /// That of a machine that runs and has a link.
    pub fn of(record: &Record) -> Option<Self> {
        let interface = record.host_interface.as_ref()?;
        // The host's end gets what the machine sends.
        let count = |file: &str| -> Option<u64> {
            let path = format!("/sys/class/net/{interface}/statistics/{file}");
            std::fs::read_to_string(path).ok()?.trim().parse().ok()
        };
        let dropped = firewall::counters::of_machine(record.part()).unwrap_or_default();
        Some(Self {
            received: count("tx_bytes")?,
            sent: count("rx_bytes")?,
            forged: dropped.forged,
            refused: dropped.refused,
        })
    }

    /// What went nowhere, in words.
    pub fn dropped(&self) -> Option<String> {
        let forged = (self.forged > 0).then(|| format!("{} with a forged address", self.forged));
        let refused = (self.refused > 0).then(|| format!("{} to whom it may not speak", self.refused));
        let parts: Vec<String> = forged.into_iter().chain(refused).collect();
        (!parts.is_empty()).then(|| format!("packets: {}", parts.join(", ")))
    }
}
