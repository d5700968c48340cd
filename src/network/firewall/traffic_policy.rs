//! The traffic policy of a machine: its allowed destinations, its rates and its connections. Called by the
//! supervisor and by `member`; it does not change the kernel.

use crate::machine::egress;
use crate::machine::egress::{Destination, Prefix};
use crate::machine::network::Network;
use serde::{Deserialize, Serialize};

/// The largest default limit of connections.
const CONNECTIONS_DEFAULT: u32 = 32_768;
/// The default limit of connections is at most this fraction of the host's connection table.
const CONNECTIONS_FRACTION: u32 = 8;

/// The traffic policy of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub struct TrafficPolicy {
    /// The destinations to which the machine opens connections. `None` if it has no restriction.
    pub egress: Option<Vec<Prefix>>,
    /// The reach of a restricted machine within its zone.
    pub zone_reach: ZoneReach,
    /// The rate of traffic to the machine, bits per second. `None` if it has no limit.
    pub rate_in: Option<u64>,
    /// The rate of traffic from the machine, bits per second. `None` if it has no limit.
    pub rate_out: Option<u64>,
    /// The connections that the machine opens. `None` if they have no limit.
    pub connections: Option<u32>,
}

/// The reach of a restricted machine within its zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ZoneReach {
    /// The listed addresses.
    #[default]
    Listed,
    /// All machines.
    All,
}

impl TrafficPolicy {
    /// Returns the policy of a definition.
    pub(crate) fn of(network: &Network) -> Self {
        let reaches_zone = network.egress.contains(&Destination::Zone);
        Self {
            egress: egress::allowed(&network.egress),
            zone_reach: if reaches_zone { ZoneReach::All } else { ZoneReach::Listed },
            rate_in: network.rate_in,
            rate_out: network.rate_out,
            connections: connections(network.connections_max),
        }
    }

    /// Returns a policy that has the content of both, for the deletion of both.
    #[must_use]
    pub(crate) fn merged_with(self, other: &Self) -> Self {
        let egress = match (self.egress, other.egress.clone()) {
            (Some(mut ranges), Some(more)) => {
                ranges.extend(more);
                ranges.sort();
                ranges.dedup();
                Some(ranges)
            }
            (one, other) => one.or(other),
        };
        let zone_reach = if other.zone_reach == ZoneReach::All { ZoneReach::All } else { self.zone_reach };
        Self {
            egress,
            zone_reach,
            rate_in: self.rate_in.or(other.rate_in),
            rate_out: self.rate_out.or(other.rate_out),
            connections: self.connections.or(other.connections),
        }
    }
}

/// Returns the limit of connections for `network.connections-max`. `None` if that is [`u64::MAX`].
fn connections(defined: Option<u64>) -> Option<u32> {
    match defined {
        Some(u64::MAX) => None,
        Some(most) => Some(u32::try_from(most).unwrap_or(u32::MAX)),
        None => {
            let file = "/proc/sys/net/netfilter/nf_conntrack_max";
            let table = std::fs::read_to_string(file).ok().and_then(|text| text.trim().parse::<u32>().ok());
            let share = |table: u32| CONNECTIONS_DEFAULT.min(table / CONNECTIONS_FRACTION);
            Some(table.map_or(CONNECTIONS_DEFAULT, share))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_definition_sets_the_limit_of_connections() {
        assert_eq!(connections(Some(100)), Some(100));
        assert_eq!(connections(Some(u64::MAX)), None);
        assert_eq!(connections(Some(1 << 40)), Some(u32::MAX));
        assert!(connections(None).is_some_and(|most| most <= CONNECTIONS_DEFAULT));
    }

    #[test]
    fn a_merged_policy_has_the_content_of_both() {
        let range = |text: &str| Prefix::new(text.parse().unwrap(), 32).unwrap();
        let one = TrafficPolicy { egress: Some(vec![range("192.0.2.2")]), ..TrafficPolicy::default() };
        let other = TrafficPolicy {
            egress: Some(vec![range("192.0.2.1"), range("192.0.2.2")]),
            zone_reach: ZoneReach::All,
            rate_in: Some(8),
            ..TrafficPolicy::default()
        };
        let merged = one.merged_with(&other);
        assert_eq!(merged.egress, other.egress);
        assert_eq!((merged.zone_reach, merged.rate_in), (ZoneReach::All, Some(8)));
    }
}
