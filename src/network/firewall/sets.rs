//! Sets, maps and the objects they lead to: how each is made, in the table of a family. Called by `table`, `ports` and
//! `member`.

use super::expression::{counter, datatype};
use super::inet::TABLE;
use super::message::{Attributes, Batch, Existing, Kind};

/// `NFT_OBJECT_LIMIT`.
const LIMIT: u32 = 4;

/// The number of a type of several fields, and its length: each of several begins at a register.
fn joined(fields: &[(u32, u32)]) -> (u32, u32) {
    if let &[one] = fields {
        return one;
    }
    let kind = fields.iter().fold(0, |kinds, (kind, _)| kinds << 6 | kind);
    (kind, fields.iter().map(|(_, length)| length.next_multiple_of(4)).sum())
}

/// A set whose keys are these fields, each a type and its length.
pub(super) fn set(batch: &mut Batch, family: u8, name: &str, key: &[(u32, u32)]) {
    batch.push_for(family, Kind::NewSet, Existing::Refuse, &keyed(name, key).number(3, 0));
}

/// A map from keys to data.
pub(super) fn map(batch: &mut Batch, family: u8, name: &str, key: &[(u32, u32)], data: &[(u32, u32)]) {
    const MAP: u32 = 8;
    let (kind, length) = joined(data);
    let map = keyed(name, key).number(3, MAP).number(6, kind).number(7, length);
    batch.push_for(family, Kind::NewSet, Existing::Refuse, &map);
}

/// A set each of whose elements counts the packets that are found in it.
pub(super) fn counted(batch: &mut Batch, family: u8, name: &str, key: &[(u32, u32)]) {
    batch.push_for(
        family,
        Kind::NewSet,
        Existing::Refuse,
        &keyed(name, key).number(3, 0).nested(17, &counter()),
    );
}

/// A set of ranges of several fields.
pub(super) fn ranges(batch: &mut Batch, family: u8, name: &str, key: &[(u32, u32)]) {
    const INTERVAL: u32 = 4;
    const CONCATENATED: u32 = 0x80;
    let fields: Vec<Attributes> =
        key.iter().map(|(_, length)| Attributes::new().number(1, *length)).collect();
    let description = Attributes::new().list(2, &fields);
    let set = keyed(name, key).number(3, INTERVAL | CONCATENATED).nested(9, &description);
    batch.push_for(family, Kind::NewSet, Existing::Refuse, &set);
}

/// A map from interfaces to objects that limit.
pub(super) fn limits(batch: &mut Batch, family: u8, name: &str) {
    const OBJECTS: u32 = 0x40;
    let set = keyed(name, &[(datatype::IFNAME, 16)]).number(3, OBJECTS).number(15, LIMIT);
    batch.push_for(family, Kind::NewSet, Existing::Refuse, &set);
}

/// A map from a field to verdicts.
pub(super) fn verdicts(batch: &mut Batch, family: u8, name: &str, key: (u32, u32)) {
    const NFT_SET_MAP: u32 = 8;
    const NFT_DATA_VERDICT: u32 = 0xffff_ff00;
    let set = keyed(name, &[key]).number(3, NFT_SET_MAP).number(6, NFT_DATA_VERDICT).number(7, 16);
    batch.push_for(family, Kind::NewSet, Existing::Refuse, &set);
}

/// A set of at most so many elements, which rules add. The kernel removes those without a state by itself.
pub(super) fn filled_by_rules(batch: &mut Batch, family: u8, name: &str, key: (u32, u32), size: u32) {
    const NFT_SET_EVAL: u32 = 0x20;
    const NFTA_SET_DESC: u16 = 9;
    const NFTA_SET_DESC_SIZE: u16 = 1;
    let description = Attributes::new().number(NFTA_SET_DESC_SIZE, size);
    let set = keyed(name, &[key]).number(3, NFT_SET_EVAL).nested(NFTA_SET_DESC, &description);
    batch.push_for(family, Kind::NewSet, Existing::Keep, &set);
}

/// An object that is over its limit where more than so many bytes come in a second. The kernel lets a
/// second's worth come at once.
pub(super) fn limit(name: &str, bytes: u64) -> Attributes {
    const BYTES: u32 = 1;
    const OVER: u32 = 1;
    /// A packet that the kernel puts together from many is taken at once or never.
    const LEAST: u64 = 256 << 10;
    let burst = u32::try_from((bytes / 10).max(LEAST)).unwrap_or(u32::MAX);
    let data = Attributes::new().long(1, bytes).long(2, 1).number(3, burst).number(4, BYTES).number(5, OVER);
    Attributes::new().text(1, TABLE).text(2, name).number(3, LIMIT).nested(4, &data)
}

/// What names an object of that kind.
pub(super) fn limit_name(name: &str) -> Attributes {
    Attributes::new().text(1, TABLE).text(2, name).number(3, LIMIT)
}

fn keyed(name: &str, key: &[(u32, u32)]) -> Attributes {
    // For nft(8), which shows names wrong without: record 0, the order of the key's bytes, is the host's.
    const HOST_ORDER: u32 = 1;
    const NETWORK_ORDER: u32 = 2;
    let (kind, length) = joined(key);
    let order = if [datatype::IFNAME, datatype::MARK].contains(&kind) { HOST_ORDER } else { NETWORK_ORDER };
    let set = Attributes::new().text(1, TABLE).text(2, name).number(4, kind).number(5, length);
    // The id is for messages of one transaction that mean a set without a name.
    set.number(10, 1).bytes(13, &[&[0, 4][..], &order.to_ne_bytes()].concat())
}
