//! nftables' netlink messages (include/uapi/linux/netfilter/nf_tables.h): attributes, requests, transactions
//! and their replies. Used by the other files of the firewall. It knows no rule.

use super::nfta::NFTA_LIST_ELEM;
use std::ffi::c_int;

/// A buffer of netlink attributes, each padded to four bytes.
#[derive(Debug, Default, Clone)]
pub(crate) struct AttributeBuffer(Vec<u8>);

impl AttributeBuffer {
    /// Creates an empty buffer.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Adds an attribute of bytes.
    pub(crate) fn bytes(self, kind: u16, value: &[u8]) -> Self {
        self.parts(kind, [value, &[]])
    }

    /// Adds an attribute of bytes in two parts.
    fn parts(mut self, kind: u16, value: [&[u8]; 2]) -> Self {
        /// The capacity of a new buffer, bytes: few buffers grow again.
        const USUAL: usize = 128;
        let length = value[0].len() + value[1].len() + 4;
        self.0.reserve(length.max(if self.0.capacity() == 0 { USUAL } else { 0 }) + 3);
        let [low, high] = u16::try_from(length).unwrap_or(u16::MAX).to_ne_bytes();
        let [kind_low, kind_high] = kind.to_ne_bytes();
        self.0.extend_from_slice(&[low, high, kind_low, kind_high]);
        value.iter().for_each(|part| self.0.extend_from_slice(part));
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// Adds a number of 32 bits in network byte order.
    pub(crate) fn number(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// Adds a constant of libc, which has a sign there.
    pub(crate) fn constant(self, kind: u16, value: c_int) -> Self {
        self.number(kind, value.cast_unsigned())
    }

    /// Adds a number of 64 bits in network byte order.
    pub(crate) fn long(self, kind: u16, value: u64) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// Adds a string with its null byte.
    pub(crate) fn text(self, kind: u16, value: &str) -> Self {
        self.parts(kind, [value.as_bytes(), &[0]])
    }

    /// Adds nested attributes.
    pub(crate) fn nested(self, kind: u16, inner: &Self) -> Self {
        self.bytes(kind | NLA_F_NESTED, &inner.0)
    }

    /// Adds a list of nested attributes.
    pub(crate) fn list(self, kind: u16, items: &[Self]) -> Self {
        let inner = items.iter().fold(Self::new(), |list, item| list.nested(NFTA_LIST_ELEM, item));
        self.nested(kind, &inner)
    }
}

/// The type of a message (`enum nf_tables_msg_types`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    /// Creates a table.
    NewTable = libc::NFT_MSG_NEWTABLE as isize,
    /// Returns a table.
    GetTable = libc::NFT_MSG_GETTABLE as isize,
    /// Deletes a table with its content.
    DeleteTable = libc::NFT_MSG_DELTABLE as isize,
    /// Creates a chain.
    NewChain = libc::NFT_MSG_NEWCHAIN as isize,
    /// Returns chains.
    GetChain = libc::NFT_MSG_GETCHAIN as isize,
    /// Deletes an empty chain.
    DeleteChain = libc::NFT_MSG_DELCHAIN as isize,
    /// Creates a rule.
    NewRule = libc::NFT_MSG_NEWRULE as isize,
    /// Returns rules.
    GetRule = libc::NFT_MSG_GETRULE as isize,
    /// Deletes a rule.
    DeleteRule = libc::NFT_MSG_DELRULE as isize,
    /// Creates a set or map.
    NewSet = libc::NFT_MSG_NEWSET as isize,
    /// Deletes a set or map.
    DeleteSet = libc::NFT_MSG_DELSET as isize,
    /// Creates elements of a set.
    NewElements = libc::NFT_MSG_NEWSETELEM as isize,
    /// Returns elements of a set.
    GetElements = libc::NFT_MSG_GETSETELEM as isize,
    /// Deletes elements of a set.
    DeleteElements = libc::NFT_MSG_DELSETELEM as isize,
    /// Reports a step of a traced packet.
    Trace = libc::NFT_MSG_TRACE as isize,
    /// Creates a stateful object.
    NewObject = libc::NFT_MSG_NEWOBJ as isize,
    /// Deletes a stateful object.
    DeleteObject = libc::NFT_MSG_DELOBJ as isize,
}

impl Operation {
    /// Whether it creates an object.
    fn creates(self) -> bool {
        matches!(
            self,
            Self::NewTable
                | Self::NewChain
                | Self::NewRule
                | Self::NewSet
                | Self::NewElements
                | Self::NewObject
        )
    }

    /// The type in the netlink header.
    const fn message_type(self) -> u16 {
        SUBSYSTEM << 8 | self as u16
    }
}

/// The result of creating an object that exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IfExists {
    /// Success: it stays as it is.
    Keep,
    /// EEXIST.
    Fail,
}

/// A transaction: the kernel executes all of its messages or none.
#[derive(Debug, Clone)]
pub(crate) struct Batch {
    bytes: Vec<u8>,
    count: u32,
}

/// nla(7): the attribute contains attributes (linux/netlink.h).
const NLA_F_NESTED: u16 = 1 << 15;
/// The number is in network byte order.
const NLA_F_NET_BYTEORDER: u16 = 1 << 14;
/// The length of a netlink header, bytes.
const NLMSG_HDRLEN: usize = 16;
/// The length of `struct nfgenmsg`, bytes.
const NFGENMSG_LEN: usize = 4;
/// nftables among the subsystems of nfnetlink.
const SUBSYSTEM: u16 = libc::NFNL_SUBSYS_NFTABLES as u16;
/// The name of the tables, in each family.
pub(crate) const TABLE: &str = "coracle";
/// Every family, in a request.
pub(crate) const UNSPEC: u8 = libc::NFPROTO_UNSPEC as u8;
/// IPv4 and IPv6 in one table.
pub(crate) const INET: u8 = libc::NFPROTO_INET as u8;
/// Frames that bridges forward.
pub(crate) const BRIDGE: u8 = libc::NFPROTO_BRIDGE as u8;
/// IPv4.
pub(crate) const IPV4: u8 = libc::NFPROTO_IPV4 as u8;
/// IPv6.
pub(crate) const IPV6: u8 = libc::NFPROTO_IPV6 as u8;

impl Batch {
    /// Creates an empty transaction.
    pub(crate) fn new() -> Self {
        let mut batch = Self { bytes: Vec::new(), count: 0 };
        batch.message(libc::NFNL_MSG_BATCH_BEGIN as u16, 0, 0, SUBSYSTEM, &AttributeBuffer::new());
        batch
    }

    /// Adds a message about the table `inet coracle`.
    pub(crate) fn push(&mut self, operation: Operation, if_exists: IfExists, attributes: &AttributeBuffer) {
        self.push_for(INET, operation, if_exists, attributes);
    }

    /// Adds a message about a table of this family. The kernel reports errors without `NLM_F_ACK`.
    pub(crate) fn push_for(
        &mut self,
        family: u8,
        operation: Operation,
        if_exists: IfExists,
        attributes: &AttributeBuffer,
    ) {
        let mut flags = 0;
        if operation.creates() {
            flags |= libc::NLM_F_CREATE;
        }
        if operation.creates() && if_exists == IfExists::Fail {
            flags |= libc::NLM_F_EXCL;
        }
        if operation == Operation::NewRule {
            flags |= libc::NLM_F_APPEND;
        }
        self.message(operation.message_type(), flags as u16, family, 0, attributes);
    }

    /// Inserts a rule at the start of its chain, or before the rule of `NFTA_RULE_POSITION`.
    pub(crate) fn insert_rule(&mut self, family: u8, rule: &AttributeBuffer) {
        let kind = Operation::NewRule.message_type();
        self.message(kind, libc::NLM_F_CREATE as u16, family, 0, rule);
    }

    /// The length, bytes.
    pub(crate) fn length(&self) -> usize {
        self.bytes.len()
    }

    /// Returns the bytes of a dump request: all objects of a kind, of one family or of all.
    pub(crate) fn dump_request(family: u8, operation: Operation, attributes: &AttributeBuffer) -> Vec<u8> {
        Self::single(family, operation, libc::NLM_F_DUMP as u16, attributes)
    }

    /// Returns the bytes of a request outside of a transaction.
    pub(crate) fn request(family: u8, operation: Operation, attributes: &AttributeBuffer) -> Vec<u8> {
        Self::single(family, operation, 0, attributes)
    }

    fn single(family: u8, operation: Operation, flags: u16, attributes: &AttributeBuffer) -> Vec<u8> {
        let mut single = Self { bytes: Vec::new(), count: 0 };
        single.message(operation.message_type(), flags, family, 0, attributes);
        single.bytes
    }

    /// Returns the bytes of the transaction.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.message(libc::NFNL_MSG_BATCH_END as u16, 0, 0, SUBSYSTEM, &AttributeBuffer::new());
        self.bytes
    }

    fn message(&mut self, kind: u16, flags: u16, family: u8, resource: u16, attributes: &AttributeBuffer) {
        const NFNETLINK_V0: u8 = 0;
        let length = u32::try_from(NLMSG_HDRLEN + NFGENMSG_LEN + attributes.0.len()).unwrap_or(u32::MAX);
        self.bytes.extend(length.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend((flags | libc::NLM_F_REQUEST as u16).to_ne_bytes());
        self.bytes.extend(self.count.to_ne_bytes());
        self.bytes.extend(0_u32.to_ne_bytes());
        self.bytes.extend([family, NFNETLINK_V0]);
        self.bytes.extend(resource.to_be_bytes());
        self.bytes.extend(&attributes.0);
        self.count += 1;
    }
}

/// A received message: its type, its family and its attributes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NetlinkMessage<'a> {
    /// The type in the netlink header.
    pub(crate) kind: u16,
    /// The family of its table.
    pub(crate) family: u8,
    /// Its attributes.
    pub(crate) body: AttributeReader<'a>,
}

impl NetlinkMessage<'_> {
    /// Whether it is a message of nftables of this type.
    pub(crate) fn is(&self, operation: Operation) -> bool {
        self.kind == operation.message_type()
    }

    /// Whether it ends a dump.
    pub(crate) fn is_end(&self) -> bool {
        i32::from(self.kind) == libc::NLMSG_DONE
    }
}

/// The attributes of a received message. Truncated attributes are absent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AttributeReader<'a>(&'a [u8]);

impl<'a> AttributeReader<'a> {
    /// Returns all attributes with their types.
    pub(crate) fn all(self) -> impl Iterator<Item = (u16, &'a [u8])> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let header = rest.first_chunk::<4>()?;
            let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
            let kind = u16::from_ne_bytes([header[2], header[3]]) & !(NLA_F_NESTED | NLA_F_NET_BYTEORDER);
            let value = rest.get(4..length)?;
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            Some((kind, value))
        })
    }

    /// Returns the bytes of an attribute.
    pub(crate) fn bytes(self, kind: u16) -> Option<&'a [u8]> {
        self.all().find(|(other, _)| *other == kind).map(|(_, value)| value)
    }

    /// Returns nested attributes.
    pub(crate) fn nested(self, kind: u16) -> Option<Self> {
        self.bytes(kind).map(Self)
    }

    /// Returns the items of a list.
    pub(crate) fn list(self, kind: u16) -> impl Iterator<Item = Self> {
        self.nested(kind).into_iter().flat_map(Self::all).map(|(_, item)| Self(item))
    }

    /// Returns a number of 32 bits.
    pub(crate) fn number(self, kind: u16) -> Option<u32> {
        self.bytes(kind)?.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
    }

    /// Returns a constant of libc, which has a sign there.
    pub(crate) fn constant(self, kind: u16) -> Option<c_int> {
        self.number(kind).map(u32::cast_signed)
    }

    /// Returns a number of 64 bits.
    pub(crate) fn long(self, kind: u16) -> Option<u64> {
        self.bytes(kind)?.first_chunk().map(|bytes| u64::from_be_bytes(*bytes))
    }

    /// Returns a string without its null byte.
    pub(crate) fn text(self, kind: u16) -> Option<&'a str> {
        let bytes = self.bytes(kind)?;
        std::str::from_utf8(bytes.strip_suffix(&[0]).unwrap_or(bytes)).ok()
    }
}

/// Returns the messages in a buffer.
pub(crate) fn messages(mut buffer: &[u8]) -> impl Iterator<Item = NetlinkMessage<'_>> {
    std::iter::from_fn(move || {
        let header = buffer.first_chunk::<NLMSG_HDRLEN>()?;
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]);
        let length = usize::try_from(length).ok()?.max(NLMSG_HDRLEN);
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        let body = buffer.get(NLMSG_HDRLEN..length.min(buffer.len())).unwrap_or_default();
        buffer = buffer.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(NetlinkMessage { kind, family: body.first().copied().unwrap_or(0), body: AttributeReader(body) })
    })
    // Messages of nftables begin with struct nfgenmsg, those of an error with its number.
    .map(|message| {
        let is_nftables = message.kind >> 8 == SUBSYSTEM;
        let rest = message.body.0.get(NFGENMSG_LEN..).unwrap_or_default();
        NetlinkMessage { body: if is_nftables { AttributeReader(rest) } else { message.body }, ..message }
    })
}

/// Returns the first error number in a buffer of replies. `None` if all requests succeeded. A truncated reply
/// counts as success.
pub(crate) fn first_error(replies: &[u8]) -> Option<i32> {
    let is_error = |message: &NetlinkMessage<'_>| i32::from(message.kind) == libc::NLMSG_ERROR;
    messages(replies).filter(is_error).find_map(|message| {
        let code = i32::from_ne_bytes(*message.body.0.first_chunk()?);
        (code != 0).then_some(-code)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_nest() {
        let inner = AttributeBuffer::new().text(1, "ab");
        assert_eq!(inner.0, [7, 0, 1, 0, b'a', b'b', 0, 0]);
        let outer = AttributeBuffer::new().nested(4, &inner).number(2, 3);
        assert_eq!(outer.0[..4], [12, 0, 4, 0x80]);
        assert_eq!(outer.0[12..], [8, 0, 2, 0, 0, 0, 0, 3]);
    }

    #[test]
    fn errors_are_found_in_replies_and_garbage_is_harmless() {
        let reply = |code: i32| {
            let mut bytes = vec![20, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            bytes.extend(code.to_ne_bytes());
            bytes
        };
        assert_eq!(first_error(&reply(0)), None);
        assert_eq!(first_error(&[reply(0), reply(-17), reply(-2)].concat()), Some(17));
        for length in 0..40 {
            assert_eq!(first_error(&vec![0xff; length]), None);
        }
        assert_eq!(first_error(&reply(-2)[..18]), None);
    }
}
