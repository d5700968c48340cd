//! The expressions of rules, each with the function that builds its message. A rule loads a value into a
//! register, compares it or looks it up, and ends with a verdict. Used by the files that define rules.

use super::nfta::*;
use super::nlmsg::AttributeBuffer;
use libc::{
    NFT_CMP_EQ, NFT_CMP_GTE, NFT_CMP_LTE, NFT_CMP_NEQ, NFT_CT_STATE, NFT_CT_STATUS, NFT_LOOKUP_F_INV,
    NFT_META_NFPROTO, NFT_REG_VERDICT,
};
use std::ffi::c_int;

/// The numbers of nft(8)'s data types (nftables' include/datatype.h): nft(8) needs them to list the tables.
pub(crate) mod datatype {
    pub(crate) const IPV4: u32 = 7;
    pub(crate) const IPV6: u32 = 8;
    pub(crate) const ETHER: u32 = 9;
    pub(crate) const PROTOCOL: u32 = 12;
    pub(crate) const SERVICE: u32 = 13;
    pub(crate) const MARK: u32 = 19;
    pub(crate) const IFNAME: u32 = 41;
}

/// The first register of 4 bytes. Longer values take the following registers too.
pub(crate) const R0: u32 = libc::NFT_REG32_00.cast_unsigned();
/// The register after an interface name in R0 (16 bytes).
pub(crate) const AFTER_IFNAME: u32 = R0 + 4;
/// The register after an interface name and a link-layer address (6 bytes).
pub(crate) const AFTER_ETHER: u32 = R0 + 6;

/// One expression of a rule.
pub(crate) type Expression = AttributeBuffer;
/// The expressions of a rule.
pub(crate) type Rule = Vec<Expression>;

/// Joins parts of a rule.
pub(crate) fn rule(parts: &[&[Expression]]) -> Rule {
    parts.concat()
}

/// Builds an expression from its name and attributes.
pub(crate) fn expression(name: &str, data: &AttributeBuffer) -> Expression {
    AttributeBuffer::new().text(NFTA_EXPR_NAME, name).nested(NFTA_EXPR_DATA, data)
}

/// Builds a constant value.
pub(crate) fn value(bytes: &[u8]) -> AttributeBuffer {
    AttributeBuffer::new().bytes(NFTA_DATA_VALUE, bytes)
}

/// Loads a `NFT_META_*` key.
pub(crate) fn meta(key: c_int, register: u32) -> Expression {
    let data = AttributeBuffer::new().number(NFTA_META_DREG, register).constant(NFTA_META_KEY, key);
    expression("meta", &data)
}

/// Sets a `NFT_META_*` key from a register.
pub(crate) fn set_meta(key: c_int, register: u32) -> Expression {
    let data = AttributeBuffer::new().constant(NFTA_META_KEY, key).number(NFTA_META_SREG, register);
    expression("meta", &data)
}

/// Loads bytes of a header (`NFT_PAYLOAD_*_HEADER`).
pub(crate) fn payload(header: c_int, offset: u32, length: u32, register: u32) -> Expression {
    let data = AttributeBuffer::new()
        .number(NFTA_PAYLOAD_DREG, register)
        .constant(NFTA_PAYLOAD_BASE, header)
        .number(NFTA_PAYLOAD_OFFSET, offset)
        .number(NFTA_PAYLOAD_LEN, length);
    expression("payload", &data)
}

/// Writes a register to bytes of a header (`NFT_PAYLOAD_*_HEADER`).
pub(crate) fn set_payload(header: c_int, offset: u32, length: u32, register: u32) -> Expression {
    let data = AttributeBuffer::new()
        .number(NFTA_PAYLOAD_SREG, register)
        .constant(NFTA_PAYLOAD_BASE, header)
        .number(NFTA_PAYLOAD_OFFSET, offset)
        .number(NFTA_PAYLOAD_LEN, length);
    expression("payload", &data)
}

/// Loads a constant.
pub(crate) fn load(bytes: &[u8], register: u32) -> Expression {
    let data = AttributeBuffer::new().number(NFTA_IMMEDIATE_DREG, register);
    expression("immediate", &data.nested(NFTA_IMMEDIATE_DATA, &value(bytes)))
}

fn compare(operator: c_int, register: u32, bytes: &[u8]) -> Expression {
    let data = AttributeBuffer::new().number(NFTA_CMP_SREG, register).constant(NFTA_CMP_OP, operator);
    expression("cmp", &data.nested(NFTA_CMP_DATA, &value(bytes)))
}

/// Continues if a register has this value.
pub(crate) fn equal(register: u32, bytes: &[u8]) -> Expression {
    compare(NFT_CMP_EQ, register, bytes)
}

/// Continues if a register has another value.
pub(crate) fn not_equal(register: u32, bytes: &[u8]) -> Expression {
    compare(NFT_CMP_NEQ, register, bytes)
}

/// Continues if a register is not below a value, in the order of memcmp(3).
pub(crate) fn at_least(register: u32, bytes: &[u8]) -> Expression {
    compare(NFT_CMP_GTE, register, bytes)
}

/// Continues if a register is not above a value, in the order of memcmp(3).
pub(crate) fn at_most(register: u32, bytes: &[u8]) -> Expression {
    compare(NFT_CMP_LTE, register, bytes)
}

/// Clears the bits of a register that are not in the mask.
pub(crate) fn mask(register: u32, mask: &[u8]) -> Expression {
    let length = u32::try_from(mask.len()).unwrap_or(u32::MAX);
    let data = AttributeBuffer::new()
        .number(NFTA_BITWISE_SREG, register)
        .number(NFTA_BITWISE_DREG, register)
        .number(NFTA_BITWISE_LEN, length)
        .nested(NFTA_BITWISE_MASK, &value(mask))
        .nested(NFTA_BITWISE_XOR, &value(&vec![0; mask.len()]));
    expression("bitwise", &data)
}

fn lookup(set: &str, register: u32) -> AttributeBuffer {
    AttributeBuffer::new().text(NFTA_LOOKUP_SET, set).number(NFTA_LOOKUP_SREG, register)
}

/// Continues if a set has the key that begins at this register.
pub(crate) fn in_set(set: &str, register: u32) -> Expression {
    expression("lookup", &lookup(set, register))
}

/// Continues if a set does not have the key that begins at this register.
pub(crate) fn not_in_set(set: &str, register: u32) -> Expression {
    expression("lookup", &lookup(set, register).constant(NFTA_LOOKUP_FLAGS, NFT_LOOKUP_F_INV))
}

/// Continues if a map has the key that begins at this register, and loads its data into another.
pub(crate) fn map_lookup(map: &str, register: u32, data: u32) -> Expression {
    expression("lookup", &lookup(map, register).number(NFTA_LOOKUP_DREG, data))
}

/// Executes the verdict of a map, if the map has the key that begins at this register.
pub(crate) fn verdict_map(map: &str, register: u32) -> Expression {
    map_lookup(map, register, NFT_REG_VERDICT.cast_unsigned())
}

fn immediate_verdict(verdict: &AttributeBuffer) -> Expression {
    let data = AttributeBuffer::new().constant(NFTA_IMMEDIATE_DREG, NFT_REG_VERDICT);
    let value = AttributeBuffer::new().nested(NFTA_DATA_VERDICT, verdict);
    expression("immediate", &data.nested(NFTA_IMMEDIATE_DATA, &value))
}

/// Accepts the packet in this hook.
pub(crate) fn accept() -> Expression {
    immediate_verdict(&AttributeBuffer::new().constant(NFTA_VERDICT_CODE, libc::NF_ACCEPT))
}

/// Drops the packet.
pub(crate) fn drop() -> Expression {
    immediate_verdict(&AttributeBuffer::new().constant(NFTA_VERDICT_CODE, libc::NF_DROP))
}

/// Counts and drops the packet.
pub(crate) fn counter_drop() -> [Expression; 2] {
    [counter(), drop()]
}

/// Jumps to another chain of the table.
pub(crate) fn jump(chain: &str) -> Expression {
    immediate_verdict(&jump_verdict(chain))
}

/// The verdict that jumps to another chain of the table.
pub(crate) fn jump_verdict(chain: &str) -> AttributeBuffer {
    AttributeBuffer::new().constant(NFTA_VERDICT_CODE, libc::NFT_JUMP).text(NFTA_VERDICT_CHAIN, chain)
}

/// Counts packets and bytes.
pub(crate) fn counter() -> Expression {
    expression("counter", &AttributeBuffer::new())
}

/// Translates the source to the address of the output interface.
pub(crate) fn masquerade() -> Expression {
    expression("masq", &AttributeBuffer::new())
}

/// Translates an address, and a port if a register is given (`NFT_NAT_*`).
pub(crate) fn nat(kind: c_int, family: u8, address: u32, port: Option<u32>) -> Expression {
    let data = AttributeBuffer::new()
        .constant(NFTA_NAT_TYPE, kind)
        .number(NFTA_NAT_FAMILY, family.into())
        .number(NFTA_NAT_REG_ADDR_MIN, address);
    let data = port.iter().fold(data, |data, port| data.number(NFTA_NAT_REG_PROTO_MIN, *port));
    expression("nat", &data)
}

/// Continues if the state of the connection has one of these bits.
pub(crate) fn ct_state(bits: u32) -> [Expression; 3] {
    ct(NFT_CT_STATE, bits)
}

/// Continues if the packet is of an established connection or related to one.
pub(crate) fn established() -> [Expression; 3] {
    ct_state(NF_CT_STATE_ESTABLISHED_BIT | NF_CT_STATE_RELATED_BIT)
}

/// Continues if the destination of the connection was translated.
pub(crate) fn ct_status_dnat() -> [Expression; 3] {
    ct(NFT_CT_STATUS, IPS_DST_NAT)
}

fn ct(key: c_int, bits: u32) -> [Expression; 3] {
    let data = AttributeBuffer::new().number(NFTA_CT_DREG, R0).constant(NFTA_CT_KEY, key);
    [expression("ct", &data), mask(R0, &bits.to_ne_bytes()), not_equal(R0, &[0; 4])]
}

/// Looks up an address of the packet (`NFTA_FIB_F_*`) and loads the result (`NFT_FIB_RESULT_*`).
pub(crate) fn fib(flags: u32, result: u32) -> Expression {
    let data = AttributeBuffer::new()
        .number(NFTA_FIB_DREG, R0)
        .number(NFTA_FIB_RESULT, result)
        .number(NFTA_FIB_FLAGS, flags);
    expression("fib", &data)
}

/// Continues if the packet is of this family.
pub(crate) fn nfproto(family: u8) -> [Expression; 2] {
    [meta(NFT_META_NFPROTO, R0), equal(R0, &[family])]
}
