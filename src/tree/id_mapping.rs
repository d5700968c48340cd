//! User and group ids of the two sides of a copy. The child inside a machine reads and sets ids of the guest;
//! ids without a mapping are nobody's.

use crate::error::{Context, Error, Result};

/// The id for owners without a mapping.
const NOBODY: u32 = 65534;

/// A mapping of ids between the host and a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct IdMapping {
    base: u32,
    count: u32,
    /// The id for owners without a mapping.
    other: u32,
}

impl IdMapping {
    /// The host's own: every id maps to itself.
    pub(crate) const HOST: Self = Self { base: 0, count: u32::MAX, other: NOBODY };

    /// Every id maps to root.
    pub(crate) const ROOT: Self = Self { base: 0, count: 1, other: 0 };

    /// Returns the mapping of all ids from a base on.
    pub(crate) const fn from(base: u32) -> Self {
        Self { base, count: u32::MAX - base, other: NOBODY }
    }

    /// Reads the mapping of a machine by its PID 1, as seen inside.
    ///
    /// # Errors
    /// A mapping that is not one range from 0.
    pub(crate) fn of_machine(leader: u32) -> Result<Self> {
        let file = format!("/proc/{leader}/uid_map");
        let map = std::fs::read_to_string(&file).context(|| format!("cannot read '{file}'"))?;
        let words: Vec<u32> = map.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        match words[..] {
            [0, _, count] => Ok(Self { base: 0, count, other: NOBODY }),
            _ => Err(Error::new("the machine's ids are not one range from 0")),
        }
    }

    /// Maps an id of the host to the guest.
    pub(crate) fn inside(self, outside: u32) -> u32 {
        outside.checked_sub(self.base).filter(|id| *id < self.count).unwrap_or(self.other)
    }

    /// Maps an id of the guest to the host.
    pub(crate) fn outside(self, inside: u32) -> u32 {
        self.base + if inside < self.count { inside } else { self.other.min(self.count - 1) }
    }

    /// Maps the ids of a posix_acl attribute (`linux/posix_acl_xattr.h`: a version, then tag, permissions and
    /// id of each entry).
    pub(crate) fn in_list(list: &[u8], map: impl Fn(u32) -> u32) -> Vec<u8> {
        const NAMED_USER: u16 = 0x02;
        const NAMED_GROUP: u16 = 0x08;
        let mut mapped = list.to_vec();
        for entry in mapped.get_mut(4..).unwrap_or_default().chunks_exact_mut(8) {
            if let [t0, t1, _, _, id @ ..] = entry
                && [NAMED_USER, NAMED_GROUP].contains(&u16::from_le_bytes([*t0, *t1]))
            {
                let number = u32::from_le_bytes([id[0], id[1], id[2], id[3]]);
                id.copy_from_slice(&map(number).to_le_bytes());
            }
        }
        mapped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_mapped_both_ways() {
        let ids = IdMapping { base: 524_288, count: 65536, other: NOBODY };
        assert_eq!((ids.inside(524_288), ids.inside(525_288), ids.inside(1000)), (0, 1000, NOBODY));
        assert_eq!((ids.outside(1000), ids.outside(70_000)), (525_288, 524_288 + NOBODY));
        assert_eq!((IdMapping::HOST.inside(7), IdMapping::HOST.outside(7)), (7, 7));
        assert_eq!((IdMapping::ROOT.inside(7), IdMapping::ROOT.outside(7)), (0, 0));
    }

    #[test]
    fn named_ids_of_access_lists_are_mapped() {
        let entry = |tag: u16, id: u32| [&tag.to_le_bytes()[..], &[7, 0], &id.to_le_bytes()].concat();
        let list = |id| [vec![2, 0, 0, 0], entry(1, u32::MAX), entry(2, id), entry(4, u32::MAX)].concat();
        assert_eq!(IdMapping::in_list(&list(5), |id| id + 10), list(15));
        assert_eq!(IdMapping::in_list(&[1], |id| id), [1]);
    }
}
