//! Elements of sets and maps, and the messages that make and remove them. Called by `member` and `ports`,
//! which say what is in them.

use super::expression::jump_to;
use super::inet;
use super::message::{Attributes, Batch, Existing, INET, Kind};

/// The name of an interface as the kernel compares it.
pub(super) fn padded(interface: &str) -> Vec<u8> {
    let mut key = vec![0; 16];
    let length = interface.len().min(15);
    key[..length].copy_from_slice(&interface.as_bytes()[..length]);
    key
}

/// An element of a set or map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Element {
    /// The family of its table.
    pub family: u8,
    /// The set or map.
    pub set: &'static str,
    /// What is found.
    pub key: Vec<u8>,
    /// The end of a range that begins with the key.
    pub end: Option<Vec<u8>>,
    /// What a map has for it.
    pub data: Option<Vec<u8>>,
    /// The object that a map has for it.
    pub object: Option<String>,
    /// The chain that a map of verdicts jumps to for it.
    pub chain: Option<String>,
}

impl Element {
    /// One of the table `inet coracle`.
    pub(super) fn of(set: &'static str, key: Vec<u8>) -> Self {
        Self::of_family(INET, set, key)
    }

    /// One of a table of another family.
    pub(super) fn of_family(family: u8, set: &'static str, key: Vec<u8>) -> Self {
        Self { family, set, key, end: None, data: None, object: None, chain: None }
    }

    /// The same in a map, with what is there for it.
    pub(super) fn leading(set: &'static str, key: Vec<u8>, data: Vec<u8>) -> Self {
        Self::of(set, key).leading_to(data)
    }

    /// The same with what a map has for it.
    pub(super) fn leading_to(self, data: Vec<u8>) -> Self {
        Self { data: Some(data), ..self }
    }

    /// Whether its key alone finds it.
    pub(super) fn is_plain(&self) -> bool {
        self.end.is_none()
    }

    fn attributes(&self) -> Attributes {
        let value = |bytes: &[u8]| Attributes::new().bytes(1, bytes);
        let mut item = Attributes::new().nested(1, &value(&self.key));
        if let Some(end) = &self.end {
            item = item.nested(10, &value(end));
        }
        if let Some(data) = &self.data {
            item = item.nested(2, &value(data));
        }
        if let Some(chain) = &self.chain {
            const NFTA_DATA_VERDICT: u16 = 2;
            item = item.nested(2, &Attributes::new().nested(NFTA_DATA_VERDICT, &jump_to(chain)));
        }
        if let Some(object) = &self.object {
            item = item.text(9, object);
        }
        item
    }
}

/// Makes or removes elements, those of one set together: a message each.
pub(super) fn push_all(batch: &mut Batch, kind: Kind, mut elements: Vec<Element>) {
    elements.sort_by_key(|element| (element.family, element.set));
    for same in elements.chunk_by(|one, other| (one.family, one.set) == (other.family, other.set)) {
        // An attribute holds 64 KiB.
        same.chunks(256).for_each(|some| push(batch, kind, some));
    }
}

/// Names one element in a request.
pub(super) fn request(element: &Element) -> Attributes {
    let key = Attributes::new().nested(1, &Attributes::new().bytes(1, &element.key));
    Attributes::new().text(1, inet::TABLE).text(2, element.set).list(3, &[key])
}

/// Makes or removes elements of one set.
pub(super) fn push(batch: &mut Batch, kind: Kind, elements: &[Element]) {
    let Some(first) = elements.first() else { return };
    let items: Vec<Attributes> = elements.iter().map(Element::attributes).collect();
    let elements = Attributes::new().text(1, inet::TABLE).text(2, first.set).list(3, &items);
    batch.push_for(first.family, kind, Existing::Keep, &elements);
}
