//! nftables' netlink messages (linux/netfilter/nf_tables.h): attributes, expressions, transactions.
//! Called by the other files of this folder. It knows numbers and no rule.

/// A buffer of netlink attributes, each padded to four bytes.
#[derive(Debug, Default, Clone)]
pub struct Attributes(Vec<u8>);

impl Attributes {
    /// No attribute.
    pub fn new() -> Self {
        Self::default()
    }

    /// An attribute of bytes.
    pub fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// A number, as nftables has them: most significant byte first.
    pub fn number(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// A long number.
    pub fn long(self, kind: u16, value: u64) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// A text with its end.
    pub fn text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes)
    }

    /// Attributes in an attribute.
    pub fn nested(self, kind: u16, inner: &Self) -> Self {
        const NESTED: u16 = 0x8000;
        self.bytes(kind | NESTED, &inner.0)
    }

    /// A list: each item is an attribute of kind 1.
    pub fn list(self, kind: u16, items: &[Self]) -> Self {
        let inner = items.iter().fold(Self::new(), |list, item| list.nested(1, item));
        self.nested(kind, &inner)
    }
}

/// What a message does; the numbers are those of `enum nf_tables_msg_types`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Makes a table.
    NewTable = 0,
    /// Asks for a table.
    GetTable = 1,
    /// Removes a table with all in it.
    DeleteTable = 2,
    /// Makes a chain.
    NewChain = 3,
    /// Asks for chains.
    GetChain = 4,
    /// Removes a chain that is empty.
    DeleteChain = 5,
    /// Makes a rule.
    NewRule = 6,
    /// Asks for rules.
    GetRule = 7,
    /// Removes a rule.
    DeleteRule = 8,
    /// Makes a set or map.
    NewSet = 9,
    /// Removes a set or map.
    DeleteSet = 11,
    /// Makes elements of a set.
    NewElements = 12,
    /// Asks for elements of a set.
    GetElements = 13,
    /// Removes elements of a set.
    DeleteElements = 14,
    /// Tells of a packet on its way through the rules.
    Trace = 17,
    /// Makes an object that has a state.
    NewObject = 18,
    /// Removes an object.
    DeleteObject = 20,
}

/// Whether what is there already is an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// It stays as it is.
    Keep,
    /// It is refused.
    Refuse,
}

/// A transaction: all of it happens, or nothing.
#[derive(Debug, Clone)]
pub struct Batch {
    bytes: Vec<u8>,
    count: u32,
}

const REQUEST: u16 = 1;
const DUMP: u16 = 0x300;
const EXCLUSIVE: u16 = 0x200;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;
/// nfnetlink's number of nftables.
const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
/// `NFPROTO_UNSPEC`: every family, in a question.
pub const EVERY: u8 = 0;
/// `NFPROTO_INET`: IPv4 and IPv6 in one table.
pub const INET: u8 = 1;
/// `NFPROTO_BRIDGE`: frames, as bridges pass them on.
pub const BRIDGE: u8 = 7;
/// `NFPROTO_IPV4`.
pub const IP: u8 = 2;
/// `NFPROTO_IPV6`.
pub const IP6: u8 = 10;

impl Batch {
    /// A transaction that does nothing yet.
    pub fn new() -> Self {
        let mut batch = Self { bytes: Vec::new(), count: 0 };
        batch.message(BATCH_BEGIN, 0, 0, SUBSYSTEM, &Attributes::new());
        batch
    }

    /// Adds a message about our own table.
    pub fn push(&mut self, kind: Kind, existing: Existing, attributes: &Attributes) {
        self.push_for(INET, kind, existing, attributes);
    }

    /// Adds a message about a table of this family.
    pub fn push_for(&mut self, family: u8, kind: Kind, existing: Existing, attributes: &Attributes) {
        let making = matches!(
            kind,
            Kind::NewTable
                | Kind::NewChain
                | Kind::NewRule
                | Kind::NewSet
                | Kind::NewElements
                | Kind::NewObject
        );
        // Errors come unasked for.
        let mut flags = 0;
        if making {
            flags |= CREATE;
        }
        if making && existing == Existing::Refuse {
            flags |= EXCLUSIVE;
        }
        if kind == Kind::NewRule {
            flags |= APPEND;
        }
        self.message(SUBSYSTEM << 8 | kind as u16, flags, family, 0, attributes);
    }

    /// Adds a rule that comes first in its chain, or before the one whose handle is its position.
    pub fn insert_rule(&mut self, family: u8, rule: &Attributes) {
        self.message(SUBSYSTEM << 8 | Kind::NewRule as u16, CREATE, family, 0, rule);
    }

    /// How long it is, bytes.
    pub fn length(&self) -> usize {
        self.bytes.len()
    }

    /// The bytes of a question for everything of a kind, in one family or in every.
    pub fn dump(family: u8, kind: Kind, attributes: &Attributes) -> Vec<u8> {
        let mut alone = Self { bytes: Vec::new(), count: 0 };
        alone.message(SUBSYSTEM << 8 | kind as u16, DUMP, family, 0, attributes);
        alone.bytes
    }

    /// The bytes of a question, which is no transaction.
    pub fn question(family: u8, kind: Kind, attributes: &Attributes) -> Vec<u8> {
        let mut alone = Self { bytes: Vec::new(), count: 0 };
        alone.message(SUBSYSTEM << 8 | kind as u16, 0, family, 0, attributes);
        alone.bytes
    }

    /// The bytes of the whole.
    pub fn finish(mut self) -> Vec<u8> {
        self.message(BATCH_END, 0, 0, SUBSYSTEM, &Attributes::new());
        self.bytes
    }

    fn message(&mut self, kind: u16, flags: u16, family: u8, resource: u16, attributes: &Attributes) {
        let length = u32::try_from(20 + attributes.0.len()).unwrap_or(u32::MAX);
        self.bytes.extend(length.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend((flags | REQUEST).to_ne_bytes());
        self.bytes.extend(self.count.to_ne_bytes());
        self.bytes.extend(0_u32.to_ne_bytes());
        self.bytes.extend([family, 0]);
        self.bytes.extend(resource.to_be_bytes());
        self.bytes.extend(&attributes.0);
        self.count += 1;
    }
}

/// One message of an answer: its type, the family, and its attributes.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    /// netlink's type.
    pub kind: u16,
    /// The family of the table it is about.
    pub family: u8,
    /// What it says.
    pub body: Read<'a>,
}

impl Message<'_> {
    /// Whether it is of nftables and of this kind.
    pub fn is(&self, kind: Kind) -> bool {
        self.kind == SUBSYSTEM << 8 | kind as u16
    }

    /// Whether it ends an answer of many.
    pub fn is_end(&self) -> bool {
        const DONE: u16 = 3;
        self.kind == DONE
    }
}

/// Attributes of an answer. What is cut off is not there.
#[derive(Debug, Clone, Copy)]
pub struct Read<'a>(&'a [u8]);

impl<'a> Read<'a> {
    /// Every attribute with its type.
    pub fn all(self) -> impl Iterator<Item = (u16, &'a [u8])> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            const FLAGS: u16 = 0xc000;
            let header = rest.first_chunk::<4>()?;
            let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
            let kind = u16::from_ne_bytes([header[2], header[3]]) & !FLAGS;
            let value = rest.get(4..length)?;
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            Some((kind, value))
        })
    }

    /// The value of an attribute.
    pub fn bytes(self, kind: u16) -> Option<&'a [u8]> {
        self.all().find(|(other, _)| *other == kind).map(|(_, value)| value)
    }

    /// The attributes in an attribute.
    pub fn nested(self, kind: u16) -> Option<Self> {
        self.bytes(kind).map(Self)
    }

    /// The items of a list.
    pub fn list(self, kind: u16) -> impl Iterator<Item = Self> {
        self.nested(kind).into_iter().flat_map(Self::all).map(|(_, item)| Self(item))
    }

    /// A number.
    pub fn number(self, kind: u16) -> Option<u32> {
        self.bytes(kind)?.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
    }

    /// A long number.
    pub fn long(self, kind: u16) -> Option<u64> {
        self.bytes(kind)?.first_chunk().map(|bytes| u64::from_be_bytes(*bytes))
    }

    /// A text, without its end.
    pub fn text(self, kind: u16) -> Option<&'a str> {
        let bytes = self.bytes(kind)?;
        std::str::from_utf8(bytes.strip_suffix(&[0]).unwrap_or(bytes)).ok()
    }
}

/// The messages in a buffer of answers.
pub fn messages(mut answers: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        const HEADER: usize = 16;
        let header = answers.first_chunk::<HEADER>()?;
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]);
        let length = usize::try_from(length).ok()?.max(HEADER);
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        let body = answers.get(HEADER..length.min(answers.len())).unwrap_or_default();
        answers = answers.get(length.next_multiple_of(4)..).unwrap_or_default();
        let body = Message { kind, family: body.first().copied().unwrap_or(0), body: Read(body) };
        Some(body)
    })
    // What is about nftables has a header of four bytes more; errors have their number there.
    .map(|message| {
        let is_ours = message.kind >> 8 == SUBSYSTEM;
        let rest = message.body.0.get(4..).unwrap_or_default();
        Message { body: if is_ours { Read(rest) } else { message.body }, ..message }
    })
}

/// The first error in a buffer of answers, as an error number; nothing where all went well. What is
/// cut off counts as an answer that says nothing.
pub fn first_error(answers: &[u8]) -> Option<i32> {
    const ERROR: u16 = 2;
    messages(answers).filter(|message| message.kind == ERROR).find_map(|message| {
        let code = i32::from_ne_bytes(*message.body.0.first_chunk()?);
        (code != 0).then_some(-code)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_nest() {
        let inner = Attributes::new().text(1, "ab");
        assert_eq!(inner.0, [7, 0, 1, 0, b'a', b'b', 0, 0]);
        let outer = Attributes::new().nested(4, &inner).number(2, 3);
        assert_eq!(outer.0[..4], [12, 0, 4, 0x80]);
        assert_eq!(outer.0[12..], [8, 0, 2, 0, 0, 0, 0, 3]);
    }

    #[test]
    fn answers_are_read_and_rubbish_is_harmless() {
        let answer = |code: i32| {
            let mut bytes = vec![20, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            bytes.extend(code.to_ne_bytes());
            bytes
        };
        assert_eq!(first_error(&answer(0)), None);
        assert_eq!(first_error(&[answer(0), answer(-17), answer(-2)].concat()), Some(17));
        for length in 0..40 {
            assert_eq!(first_error(&vec![0xff; length]), None);
        }
        assert_eq!(first_error(&answer(-2)[..18]), None);
    }
}
