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
    /// Makes a rule.
    NewRule = 6,
    /// Lists rules.
    GetRule = 7,
    /// Makes a set or map.
    NewSet = 9,
    /// Makes elements of a set.
    NewElements = 12,
    /// Removes elements of a set.
    DeleteElements = 14,
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
const EXCLUSIVE: u16 = 0x200;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;
/// nfnetlink's number of nftables.
const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
/// The family of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4 and IPv6 in one.
    Inet = 1,
    /// Frames, as bridges pass them on.
    Bridge = 7,
}

impl Batch {
    /// A transaction that does nothing yet.
    pub fn new() -> Self {
        let mut batch = Self { bytes: Vec::new(), count: 0 };
        batch.message(BATCH_BEGIN, 0, 0, SUBSYSTEM, &Attributes::new());
        batch
    }

    /// Adds a message.
    pub fn push(&mut self, kind: Kind, existing: Existing, attributes: &Attributes) {
        self.push_in(Family::Inet, kind, existing, attributes);
    }

    /// Adds a message for a table of this family.
    pub fn push_in(&mut self, family: Family, kind: Kind, existing: Existing, attributes: &Attributes) {
        let making = !matches!(kind, Kind::DeleteTable | Kind::DeleteElements);
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
        self.message(SUBSYSTEM << 8 | kind as u16, flags, family as u8, 0, attributes);
    }

    /// The bytes of a question, which is no transaction.
    pub fn question(family: Family, kind: Kind, attributes: &Attributes) -> Vec<u8> {
        let mut alone = Self { bytes: Vec::new(), count: 0 };
        alone.message(SUBSYSTEM << 8 | kind as u16, 0, family as u8, 0, attributes);
        alone.bytes
    }

    /// The bytes of a question for all of a kind.
    pub fn listing(family: Family, kind: Kind, attributes: &Attributes) -> Vec<u8> {
        const DUMP: u16 = 0x300;
        let mut alone = Self { bytes: Vec::new(), count: 0 };
        alone.message(SUBSYSTEM << 8 | kind as u16, DUMP, family as u8, 0, attributes);
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

/// The first error in a buffer of answers, as an error number; nothing where all went well. What is
/// cut off counts as an answer that says nothing.
pub fn first_error(mut answers: &[u8]) -> Option<i32> {
    const ERROR: u16 = 2;
    const HEADER: usize = 16;
    while answers.len() >= HEADER {
        let (header, body) = answers.split_at(HEADER);
        let length =
            usize::try_from(u32::from_ne_bytes([header[0], header[1], header[2], header[3]])).ok()?;
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        if kind == ERROR
            && let Some(code) = body.first_chunk::<4>().map(|code| i32::from_ne_bytes(*code))
            && code != 0
        {
            return Some(-code);
        }
        answers = answers.get(length.max(HEADER).next_multiple_of(4)..)?;
    }
    None
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
