//! Elements of sets and maps, and the messages that create and delete them. Used by the files that define the
//! content of sets.

use super::expression::{jump_verdict, value};
use super::nfta::*;
use super::nlmsg::{AttributeBuffer, Batch, INET, IfExists, Operation, TABLE};

/// Returns an interface name as the kernel compares it: 16 bytes.
pub(crate) fn padded(interface: &str) -> Vec<u8> {
    let mut key = vec![0; libc::IFNAMSIZ];
    let length = interface.len().min(libc::IFNAMSIZ - 1);
    key[..length].copy_from_slice(&interface.as_bytes()[..length]);
    key
}

/// An element of a set or map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Element {
    /// The family of its table.
    pub(crate) family: u8,
    /// Its set or map.
    pub(crate) set: &'static str,
    /// Its key: each field is padded to 4 bytes.
    pub(crate) key: Vec<u8>,
    /// The end of the range that begins at the key, in a set of ranges.
    pub(crate) key_end: Option<Vec<u8>>,
    /// Its data, in a map.
    pub(crate) data: Option<Vec<u8>>,
    /// The name of its object, in a map of objects.
    pub(crate) object: Option<String>,
    /// The chain it jumps to, in a map of verdicts.
    pub(crate) chain: Option<String>,
}

impl Element {
    /// An element of the table `inet coracle`.
    pub(crate) fn new(set: &'static str, key: Vec<u8>) -> Self {
        Self::for_family(INET, set, key)
    }

    /// An element of the table of another family.
    pub(crate) fn for_family(family: u8, set: &'static str, key: Vec<u8>) -> Self {
        Self { family, set, key, key_end: None, data: None, object: None, chain: None }
    }

    /// The element with data, for a map.
    pub(crate) fn with_data(self, data: Vec<u8>) -> Self {
        Self { data: Some(data), ..self }
    }

    /// The element with a chain, for a map of verdicts.
    pub(crate) fn with_jump(self, chain: String) -> Self {
        Self { chain: Some(chain), ..self }
    }

    /// Whether the key alone finds it.
    pub(crate) fn is_single(&self) -> bool {
        self.key_end.is_none()
    }

    fn attributes(&self) -> AttributeBuffer {
        let mut item = AttributeBuffer::new().nested(NFTA_SET_ELEM_KEY, &value(&self.key));
        if let Some(end) = &self.key_end {
            item = item.nested(NFTA_SET_ELEM_KEY_END, &value(end));
        }
        if let Some(data) = &self.data {
            item = item.nested(NFTA_SET_ELEM_DATA, &value(data));
        }
        if let Some(chain) = &self.chain {
            let verdict = AttributeBuffer::new().nested(NFTA_DATA_VERDICT, &jump_verdict(chain));
            item = item.nested(NFTA_SET_ELEM_DATA, &verdict);
        }
        if let Some(object) = &self.object {
            item = item.text(NFTA_SET_ELEM_OBJREF, object);
        }
        item
    }

    /// Returns the attributes of a request for this element.
    pub(crate) fn request(&self) -> AttributeBuffer {
        let key = AttributeBuffer::new().nested(NFTA_SET_ELEM_KEY, &value(&self.key));
        list(self.set, &[key])
    }
}

/// Creates or deletes elements, with a message for each set.
pub(crate) fn push_all(batch: &mut Batch, operation: Operation, mut elements: Vec<Element>) {
    elements.sort_by_key(|element| (element.family, element.set));
    for of_set in elements.chunk_by(|one, other| (one.family, one.set) == (other.family, other.set)) {
        // An attribute holds 64 KiB.
        of_set.chunks(256).for_each(|chunk| push(batch, operation, chunk));
    }
}

/// Creates or deletes elements of one set.
pub(crate) fn push(batch: &mut Batch, operation: Operation, elements: &[Element]) {
    let Some(first) = elements.first() else { return };
    let items: Vec<AttributeBuffer> = elements.iter().map(Element::attributes).collect();
    batch.push_for(first.family, operation, IfExists::Keep, &list(first.set, &items));
}

fn list(set: &str, items: &[AttributeBuffer]) -> AttributeBuffer {
    AttributeBuffer::new()
        .text(NFTA_SET_ELEM_LIST_TABLE, TABLE)
        .text(NFTA_SET_ELEM_LIST_SET, set)
        .list(NFTA_SET_ELEM_LIST_ELEMENTS, items)
}
