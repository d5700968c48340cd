//! Tables, chains, sets, maps and limit objects: the messages that create and delete them in the table
//! `coracle` of a family. Used by the files that define the tables.

use super::expression::{Rule, counter, datatype};
use super::nfta::*;
use super::nlmsg::{AttributeBuffer, Batch, INET, IfExists, Operation, TABLE};
use libc::{NFT_SET_EVAL, NFT_SET_INTERVAL, NFT_SET_MAP};
use std::ffi::c_int;

/// A field of a key or of data: nft(8)'s number of its type and its length, bytes.
pub(crate) type Field = (u32, u32);

/// An interface name.
pub(crate) const IFNAME: Field = (datatype::IFNAME, libc::IFNAMSIZ as u32);
/// A link-layer address.
pub(crate) const ETHER: Field = (datatype::ETHER, 6);
/// An IPv4 address.
pub(crate) const IPV4: Field = (datatype::IPV4, 4);
/// An IPv6 address.
pub(crate) const IPV6: Field = (datatype::IPV6, 16);
/// A transport protocol.
pub(crate) const PROTOCOL: Field = (datatype::PROTOCOL, 1);
/// A port of a transport protocol.
pub(crate) const SERVICE: Field = (datatype::SERVICE, 2);
/// A packet mark, for a plain number.
pub(crate) const MARK: Field = (datatype::MARK, 4);

/// A base chain.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BaseChain {
    pub(crate) name: &'static str,
    /// `filter` or `nat`.
    pub(crate) kind: &'static str,
    /// `NF_INET_*` or `NF_BR_*`.
    pub(crate) hook: c_int,
    pub(crate) priority: c_int,
}

/// Creates or deletes the table of a family.
pub(crate) fn table(batch: &mut Batch, family: u8, operation: Operation, if_exists: IfExists) {
    batch.push_for(family, operation, if_exists, &table_name());
}

/// Returns the attributes that name the table.
pub(crate) fn table_name() -> AttributeBuffer {
    AttributeBuffer::new().text(NFTA_TABLE_NAME, TABLE)
}

/// Returns the attributes that name a chain.
pub(crate) fn chain_name(name: &str) -> AttributeBuffer {
    AttributeBuffer::new().text(NFTA_CHAIN_TABLE, TABLE).text(NFTA_CHAIN_NAME, name)
}

/// Returns the attributes that name the rules of a chain.
pub(crate) fn rules_of(chain: &str) -> AttributeBuffer {
    AttributeBuffer::new().text(NFTA_RULE_TABLE, TABLE).text(NFTA_RULE_CHAIN, chain)
}

/// Returns the attributes that name a set.
pub(crate) fn set_name(name: &str) -> AttributeBuffer {
    AttributeBuffer::new().text(NFTA_SET_TABLE, TABLE).text(NFTA_SET_NAME, name)
}

/// Creates a base chain with policy accept.
pub(crate) fn base_chain(batch: &mut Batch, family: u8, if_exists: IfExists, chain: &BaseChain) {
    let chain = base_chain_attributes(chain_name(chain.name), chain);
    batch.push_for(family, Operation::NewChain, if_exists, &chain);
}

/// Adds the hook, the policy and the type of a base chain to its name.
pub(crate) fn base_chain_attributes(name: AttributeBuffer, chain: &BaseChain) -> AttributeBuffer {
    let hook = AttributeBuffer::new()
        .constant(NFTA_HOOK_HOOKNUM, chain.hook)
        .constant(NFTA_HOOK_PRIORITY, chain.priority);
    name.nested(NFTA_CHAIN_HOOK, &hook)
        .constant(NFTA_CHAIN_POLICY, libc::NF_ACCEPT)
        .text(NFTA_CHAIN_TYPE, chain.kind)
}

/// Creates a chain without a hook.
pub(crate) fn chain(batch: &mut Batch, if_exists: IfExists, name: &str) {
    batch.push(Operation::NewChain, if_exists, &chain_name(name));
}

/// Appends rules to a chain.
pub(crate) fn rules(batch: &mut Batch, family: u8, chain: &str, rules: &[Rule]) {
    for rule in rules {
        let rule = rules_of(chain).list(NFTA_RULE_EXPRESSIONS, rule);
        batch.push_for(family, Operation::NewRule, IfExists::Keep, &rule);
    }
}

/// Creates a set.
pub(crate) fn set(batch: &mut Batch, family: u8, name: &str, key: &[Field]) {
    create(batch, family, &keyed(name, key).number(NFTA_SET_FLAGS, 0));
}

/// Creates a set that counts the matching packets of each element.
pub(crate) fn counting_set(batch: &mut Batch, family: u8, name: &str, key: &[Field]) {
    let set = keyed(name, key).number(NFTA_SET_FLAGS, 0).nested(NFTA_SET_EXPR, &counter());
    create(batch, family, &set);
}

/// Creates a set of ranges of concatenated fields.
pub(crate) fn range_set(batch: &mut Batch, family: u8, name: &str, key: &[Field]) {
    let field = |(_, length): &Field| AttributeBuffer::new().number(NFTA_SET_FIELD_LEN, *length);
    let fields: Vec<AttributeBuffer> = key.iter().map(field).collect();
    let description = AttributeBuffer::new().list(NFTA_SET_DESC_CONCAT, &fields);
    let set = keyed(name, key)
        .number(NFTA_SET_FLAGS, NFT_SET_INTERVAL.cast_unsigned() | NFT_SET_CONCAT)
        .nested(NFTA_SET_DESC, &description);
    create(batch, family, &set);
}

/// Creates a set of at most `size` elements, which rules add. The kernel deletes elements without a state.
pub(crate) fn dynamic_set(batch: &mut Batch, family: u8, name: &str, key: Field, size: u32) {
    let description = AttributeBuffer::new().number(NFTA_SET_DESC_SIZE, size);
    let set = keyed(name, &[key]).constant(NFTA_SET_FLAGS, NFT_SET_EVAL).nested(NFTA_SET_DESC, &description);
    batch.push_for(family, Operation::NewSet, IfExists::Keep, &set);
}

/// Creates a map.
pub(crate) fn map(batch: &mut Batch, family: u8, name: &str, key: &[Field], data: &[Field]) {
    let (kind, length) = concatenated(data);
    let map = keyed(name, key)
        .constant(NFTA_SET_FLAGS, NFT_SET_MAP)
        .number(NFTA_SET_DATA_TYPE, kind)
        .number(NFTA_SET_DATA_LEN, length);
    create(batch, family, &map);
}

/// Creates a map of verdicts.
pub(crate) fn verdict_map(batch: &mut Batch, family: u8, name: &str, key: Field) {
    /// The size of the kernel's `struct nft_verdict`, bytes.
    const VERDICT_LENGTH: u32 = 16;
    let map = keyed(name, &[key])
        .constant(NFTA_SET_FLAGS, NFT_SET_MAP)
        .number(NFTA_SET_DATA_TYPE, libc::NFT_DATA_VERDICT)
        .number(NFTA_SET_DATA_LEN, VERDICT_LENGTH);
    create(batch, family, &map);
}

/// Creates a map from interfaces to limit objects.
pub(crate) fn limit_map(batch: &mut Batch, family: u8, name: &str) {
    let map = keyed(name, &[IFNAME])
        .number(NFTA_SET_FLAGS, NFT_SET_OBJECT)
        .number(NFTA_SET_OBJ_TYPE, NFT_OBJECT_LIMIT);
    create(batch, family, &map);
}

/// Returns the attributes of a limit object that matches packets above a rate, bytes per second. The kernel's
/// bucket holds the bytes of one second and the burst.
pub(crate) fn limit(name: &str, rate: u64) -> AttributeBuffer {
    const SECOND: u64 = 1;
    /// A packet that the kernel has merged from many (GRO) passes as a whole or not at all.
    const SMALLEST_BURST: u64 = 256 << 10;
    let burst = u32::try_from((rate / 10).max(SMALLEST_BURST)).unwrap_or(u32::MAX);
    let data = AttributeBuffer::new()
        .long(NFTA_LIMIT_RATE, rate)
        .long(NFTA_LIMIT_UNIT, SECOND)
        .number(NFTA_LIMIT_BURST, burst)
        .constant(NFTA_LIMIT_TYPE, libc::NFT_LIMIT_PKT_BYTES)
        .constant(NFTA_LIMIT_FLAGS, libc::NFT_LIMIT_F_INV);
    limit_name(name).nested(NFTA_OBJ_DATA, &data)
}

/// Returns the attributes that name a limit object.
pub(crate) fn limit_name(name: &str) -> AttributeBuffer {
    AttributeBuffer::new()
        .text(NFTA_OBJ_TABLE, TABLE)
        .text(NFTA_OBJ_NAME, name)
        .number(NFTA_OBJ_TYPE, NFT_OBJECT_LIMIT)
}

/// Deletes all rules of a chain of the table `inet coracle`.
pub(crate) fn flush(batch: &mut Batch, chain: &str) {
    batch.push_for(INET, Operation::DeleteRule, IfExists::Keep, &rules_of(chain));
}

fn create(batch: &mut Batch, family: u8, set: &AttributeBuffer) {
    batch.push_for(family, Operation::NewSet, IfExists::Fail, set);
}

/// The type and the length of concatenated fields: each field begins at a register.
fn concatenated(fields: &[Field]) -> Field {
    if let &[field] = fields {
        return field;
    }
    // nftables' concat_subtype_add(): 6 bits for each type.
    let kind = fields.iter().fold(0, |kinds, (kind, _)| kinds << 6 | kind);
    (kind, fields.iter().map(|(_, length)| length.next_multiple_of(4)).sum())
}

fn keyed(name: &str, key: &[Field]) -> AttributeBuffer {
    // nftables' enum byteorder. Without it nft(8) lists wrong names.
    const BYTEORDER_HOST_ENDIAN: u32 = 1;
    const BYTEORDER_BIG_ENDIAN: u32 = 2;
    let (kind, length) = concatenated(key);
    let is_host_order = [datatype::IFNAME, datatype::MARK].contains(&kind);
    let order = if is_host_order { BYTEORDER_HOST_ENDIAN } else { BYTEORDER_BIG_ENDIAN };
    let user_data = [&[NFTNL_UDATA_SET_KEYBYTEORDER, 4][..], &order.to_ne_bytes()].concat();
    set_name(name)
        .number(NFTA_SET_KEY_TYPE, kind)
        .number(NFTA_SET_KEY_LEN, length)
        // The id refers to an unnamed set within a transaction; the kernel requires it.
        .number(NFTA_SET_ID, 1)
        .bytes(NFTA_SET_USERDATA, &user_data)
}
