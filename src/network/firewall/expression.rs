//! The expressions that rules are made of, as nftables takes them over netlink. Called by `table` and `ports`.

use super::message::Attributes;

/// nft's numbers of types, for those who list the table.
pub(super) mod datatype {
    pub const IPV4: u32 = 7;
    pub const IPV6: u32 = 8;
    pub const ETHER: u32 = 9;
    pub const PROTOCOL: u32 = 12;
    pub const SERVICE: u32 = 13;
    pub const MARK: u32 = 19;
    pub const IFNAME: u32 = 41;
}

/// Registers of four bytes; the first four make the register that holds an interface name.
pub(super) const R0: u32 = 8;
pub(super) const ETHER_AT: u32 = R0 + 4;
pub(super) const ADDRESS_AT: u32 = R0 + 6;

pub(super) const ACCEPT: u32 = 1;
pub(super) const DROP: u32 = 0;
/// `META_*` keys.
pub(super) const IIFNAME: u32 = 6;
pub(super) const OIFNAME: u32 = 7;
pub(super) const IIFTYPE: u32 = 8;
pub(super) const NFPROTO: u32 = 15;
pub(super) const L4PROTO: u32 = 16;
pub(super) const PKTTYPE: u32 = 19;
/// A kind of packets, by whom they are for.
pub(super) const MULTICAST: u8 = 2;
pub(super) const IPV4: u8 = 2;
pub(super) const IPV6: u8 = 10;
/// Bases of payload.
pub(super) const LINK: u32 = 0;
pub(super) const NETWORK: u32 = 1;
pub(super) const TRANSPORT: u32 = 2;

/// One expression of a rule.
pub(super) type Expression = Attributes;

pub(super) fn expression(name: &str, data: &Attributes) -> Expression {
    Attributes::new().text(1, name).nested(2, data)
}

pub(super) fn value(bytes: &[u8]) -> Attributes {
    Attributes::new().bytes(1, bytes)
}

pub(super) fn meta(key: u32, register: u32) -> Expression {
    expression("meta", &Attributes::new().number(1, register).number(2, key))
}

pub(super) fn payload(base: u32, offset: u32, length: u32, register: u32) -> Expression {
    let data = Attributes::new().number(1, register).number(2, base).number(3, offset).number(4, length);
    expression("payload", &data)
}

pub(super) fn equal(register: u32, bytes: &[u8]) -> Expression {
    expression("cmp", &Attributes::new().number(1, register).number(2, 0).nested(3, &value(bytes)))
}

pub(super) fn differs(register: u32, bytes: &[u8]) -> Expression {
    expression("cmp", &Attributes::new().number(1, register).number(2, 1).nested(3, &value(bytes)))
}

/// In the order of bytes.
pub(super) fn at_least(register: u32, bytes: &[u8]) -> Expression {
    expression("cmp", &Attributes::new().number(1, register).number(2, 5).nested(3, &value(bytes)))
}

pub(super) fn at_most(register: u32, bytes: &[u8]) -> Expression {
    expression("cmp", &Attributes::new().number(1, register).number(2, 3).nested(3, &value(bytes)))
}

pub(super) fn mask(register: u32, mask: &[u8]) -> Expression {
    let length = u32::try_from(mask.len()).unwrap_or(u32::MAX);
    let data = Attributes::new().number(1, register).number(2, register).number(3, length);
    expression("bitwise", &data.nested(4, &value(mask)).nested(5, &value(&vec![0; mask.len()])))
}

pub(super) fn within(set: &str, register: u32) -> Expression {
    expression("lookup", &Attributes::new().text(1, set).number(2, register))
}

pub(super) fn outside(set: &str, register: u32) -> Expression {
    expression("lookup", &Attributes::new().text(1, set).number(2, register).number(5, 1))
}

/// Goes on where a map leads somewhere, with what is there.
pub(super) fn leads(map: &str, register: u32, found: u32) -> Expression {
    expression("lookup", &Attributes::new().text(1, map).number(2, register).number(3, found))
}

pub(super) fn verdict(code: u32) -> Expression {
    let verdict = Attributes::new().nested(2, &Attributes::new().number(1, code));
    expression("immediate", &Attributes::new().number(1, 0).nested(2, &verdict))
}

/// Sends to another chain of the table.
pub(super) fn jump(chain: &str) -> Expression {
    let data = Attributes::new().number(1, libc::NFT_REG_VERDICT.cast_unsigned());
    expression("immediate", &data.nested(2, &Attributes::new().nested(2, &jump_to(chain))))
}

/// The verdict that sends to another chain of the table.
pub(super) fn jump_to(chain: &str) -> Attributes {
    const NFTA_VERDICT_CODE: u16 = 1;
    const NFTA_VERDICT_CHAIN: u16 = 2;
    let code = libc::NFT_JUMP.cast_unsigned();
    Attributes::new().number(NFTA_VERDICT_CODE, code).text(NFTA_VERDICT_CHAIN, chain)
}

pub(super) fn counter() -> Expression {
    expression("counter", &Attributes::new())
}

/// Takes the address of the interface it goes out of.
pub(super) fn masquerade() -> Expression {
    expression("masq", &Attributes::new())
}

/// Bits of the state of a connection (key 0) or of its status (key 2).
pub(super) fn connection(key: u32, bits: u32) -> [Expression; 3] {
    let load = expression("ct", &Attributes::new().number(1, R0).number(2, key));
    [load, mask(R0, &bits.to_ne_bytes()), differs(R0, &[0; 4])]
}

pub(super) fn family(family: u8) -> [Expression; 2] {
    [meta(NFPROTO, R0), equal(R0, &[family])]
}
