//! The address families of sockets that a machine may create.

use serde::{Deserialize, Serialize};

/// The address families by their number in linux/socket.h, without `AF_`.
pub(crate) const FAMILIES: [(&str, u16); 49] = [
    ("UNIX", 1),
    ("LOCAL", 1),
    ("FILE", 1),
    ("INET", 2),
    ("AX25", 3),
    ("IPX", 4),
    ("APPLETALK", 5),
    ("NETROM", 6),
    ("BRIDGE", 7),
    ("ATMPVC", 8),
    ("X25", 9),
    ("INET6", 10),
    ("ROSE", 11),
    ("DECnet", 12),
    ("NETBEUI", 13),
    ("SECURITY", 14),
    ("KEY", 15),
    ("NETLINK", 16),
    ("ROUTE", 16),
    ("PACKET", 17),
    ("ASH", 18),
    ("ECONET", 19),
    ("ATMSVC", 20),
    ("RDS", 21),
    ("SNA", 22),
    ("IRDA", 23),
    ("PPPOX", 24),
    ("WANPIPE", 25),
    ("LLC", 26),
    ("IB", 27),
    ("MPLS", 28),
    ("CAN", 29),
    ("TIPC", 30),
    ("BLUETOOTH", 31),
    ("IUCV", 32),
    ("RXRPC", 33),
    ("ISDN", 34),
    ("PHONET", 35),
    ("IEEE802154", 36),
    ("CAIF", 37),
    ("ALG", 38),
    ("NFC", 39),
    ("VSOCK", 40),
    ("KCM", 41),
    ("QIPCRTR", 42),
    ("SMC", 43),
    ("XDP", 44),
    ("MCTP", 45),
    ("UNSPEC", 0),
];

/// The allowed address families, by number. The families that no machine may use are not allowed in any case.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum AddressFamilies {
    /// All.
    #[default]
    All,
    /// These only.
    Only(Vec<u16>),
    /// All but these.
    Except(Vec<u16>),
}

impl AddressFamilies {
    /// Forbids all families.
    pub(crate) fn forbid_all(&mut self) {
        *self = Self::Only(Vec::new());
    }

    /// Allows a family. The first one makes a list of allowed families; a forbidden one is removed from the
    /// list of those.
    pub(crate) fn allow(&mut self, family: u16) {
        match self {
            Self::All => *self = Self::Only(vec![family]),
            Self::Only(allowed) if allowed.contains(&family) => {}
            Self::Only(allowed) => allowed.push(family),
            Self::Except(forbidden) => forbidden.retain(|other| *other != family),
        }
    }

    /// Forbids a family. The first one makes a list of forbidden families; an allowed one is removed from the
    /// list of those.
    pub(crate) fn forbid(&mut self, family: u16) {
        match self {
            Self::All => *self = Self::Except(vec![family]),
            Self::Only(allowed) => allowed.retain(|other| *other != family),
            Self::Except(forbidden) if forbidden.contains(&family) => {}
            Self::Except(forbidden) => forbidden.push(family),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_word_decides_about_the_others() {
        let of = |words: &[i32]| {
            let mut families = AddressFamilies::All;
            for word in words {
                let family = u16::try_from(word.abs()).unwrap();
                if *word > 0 { families.allow(family) } else { families.forbid(family) }
            }
            families
        };
        assert_eq!(of(&[]), AddressFamilies::All);
        assert_eq!(of(&[1, 2]), AddressFamilies::Only(vec![1, 2]));
        assert_eq!(of(&[1, 2, -1]), AddressFamilies::Only(vec![2]));
        assert_eq!(of(&[1, 1]), AddressFamilies::Only(vec![1]));
        assert_eq!(of(&[1, -1]), AddressFamilies::Only(vec![]));
        assert_eq!(of(&[-1, -2, 1]), AddressFamilies::Except(vec![2]));
        let mut none = of(&[-1]);
        none.forbid_all();
        assert_eq!(none, AddressFamilies::Only(vec![]));
    }
}
