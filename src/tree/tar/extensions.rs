//! The headers before that of an entry: long names of GNU tar (`L`, `K`) and extension headers (`x`). Each
//! may be there once, and none may contradict another one. Called by `reader`.

use super::sparse::SparseKeys;
use super::{acl, pax, shown};
use crate::error::{Error, Result};

/// The largest extension header, bytes.
pub(super) const LARGEST: u64 = 1 << 20;
/// The largest value of an extended attribute, bytes (xattr(7)).
const LARGEST_ATTRIBUTE: usize = 64 << 10;

/// The prefix of keys of extended attributes.
pub(super) const ATTRIBUTE: &[u8] = b"SCHILY.xattr.";
/// The keys of access lists, and their attributes.
pub(super) const LISTS: [(&[u8], &[u8]); 2] = [
    (b"SCHILY.acl.access", b"system.posix_acl_access"),
    (b"SCHILY.acl.default", b"system.posix_acl_default"),
];

/// The values for an entry in the headers before it.
#[derive(Debug, Default)]
pub(super) struct Extensions {
    /// Its path by `L`.
    pub(super) long_path: Option<Vec<u8>>,
    /// Its link target by `K`.
    pub(super) long_link: Option<Vec<u8>>,
    /// Whether there was a header `x`.
    has_records: bool,
    /// Its path by `x`.
    pub(super) path: Option<Vec<u8>>,
    /// Its link target by `x`.
    pub(super) link: Option<Vec<u8>>,
    /// The size of its data.
    pub(super) size: Option<u64>,
    /// Its owner.
    pub(super) uid: Option<u64>,
    /// Its group.
    pub(super) gid: Option<u64>,
    /// The time of its last modification.
    pub(super) modified: Option<(i64, i64)>,
    /// Its extended attributes.
    pub(super) attributes: Vec<(Vec<u8>, Vec<u8>)>,
    /// Its access lists that have names in place of ids.
    pub(super) lost_lists: u32,
    /// The keys about a sparse file.
    pub(super) sparse: SparseKeys,
}

fn twice() -> Error {
    Error::new("an extension header is there twice")
}

/// Sets a value that a header may have once.
fn set<T>(place: &mut Option<T>, value: T) -> Result<()> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(Error::new("its extension header has a key twice")),
    }
}

/// Returns a path or link target that is not empty and has no NUL inside.
fn plain(value: &[u8]) -> Result<Vec<u8>> {
    if value.is_empty() || value.contains(&0) {
        return Err(Error::new("a name in its extension header is invalid"));
    }
    Ok(value.to_vec())
}

/// A path and a link target, if there are any.
type Names = (Option<Vec<u8>>, Option<Vec<u8>>);

impl Extensions {
    /// Takes a long name of GNU tar.
    ///
    /// # Errors
    /// A second one, or an invalid name.
    pub(super) fn take_long_name(&mut self, flag: u8, data: &[u8]) -> Result<()> {
        // GNU tar ends it with one NUL.
        let name = plain(data.strip_suffix(b"\0").unwrap_or(data))?;
        let place = if flag == b'L' { &mut self.long_path } else { &mut self.long_link };
        if place.replace(name).is_some() { Err(twice()) } else { Ok(()) }
    }

    /// Takes an extension header.
    ///
    /// # Errors
    /// A second one, an invalid record, or a key twice.
    pub(super) fn take_records(&mut self, data: &[u8]) -> Result<()> {
        if std::mem::replace(&mut self.has_records, true) {
            return Err(twice());
        }
        pax::records(data)?.into_iter().try_for_each(|(key, value)| self.take(key, value))
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        match key {
            b"path" => set(&mut self.path, plain(value)?),
            b"linkpath" => set(&mut self.link, plain(value)?),
            b"size" => set(&mut self.size, pax::decimal(value)?),
            b"uid" => set(&mut self.uid, pax::decimal(value)?),
            b"gid" => set(&mut self.gid, pax::decimal(value)?),
            b"mtime" => set(&mut self.modified, pax::time(value)?),
            _ => self.take_other(key, value),
        }
    }

    fn take_other(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
            return self.sparse.take(key, value);
        }
        if let Some((_, name)) = LISTS.iter().find(|(list, _)| *list == key) {
            let Some(list) = acl::to_attribute(value) else {
                self.lost_lists += 1;
                return Ok(());
            };
            return self.add_attribute(name, list);
        }
        if let Some(name) = key.strip_prefix(ATTRIBUTE) {
            return self.add_attribute(name, value.to_vec());
        }
        // Other sizes and other kinds of entries.
        let changes_meaning = [&b"GNU."[..], b"SCHILY.realsize", b"SCHILY.offset", b"SUN.holesdata"];
        if changes_meaning.iter().any(|prefix| key.starts_with(prefix)) {
            return Err(Error::new(format!("its extension header has the unknown key {}", shown(key))));
        }
        Ok(())
    }

    fn add_attribute(&mut self, name: &[u8], value: Vec<u8>) -> Result<()> {
        if self.attributes.iter().any(|(other, _)| other == name) {
            return Err(Error::new(format!("it has the attribute {} twice", shown(name))));
        }
        if value.len() > LARGEST_ATTRIBUTE {
            return Err(Error::new(format!("its attribute {} is larger than 64 KiB", shown(name))));
        }
        self.attributes.push((name.to_vec(), value));
        Ok(())
    }

    /// Returns whether there was any header.
    pub(super) fn is_used(&self) -> bool {
        self.has_records || self.long_path.is_some() || self.long_link.is_some()
    }

    /// Returns the path and the link target, if the headers have them.
    ///
    /// # Errors
    /// Two headers with one of them.
    pub(super) fn take_names(&mut self) -> Result<Names> {
        let one = |long: Option<Vec<u8>>, record: Option<Vec<u8>>| match (long, record) {
            (Some(_), Some(_)) => Err(Error::new("two extension headers have a name for it")),
            (long, record) => Ok(long.or(record)),
        };
        let path = one(self.long_path.take(), self.path.take())?;
        Ok((path, one(self.long_link.take(), self.link.take())?))
    }
}

/// Checks a global extension header: one with a comment only has no meaning.
///
/// # Errors
/// Any other key: some readers ignore it.
pub(super) fn check_global(data: &[u8]) -> Result<()> {
    match pax::records(data)?.into_iter().find(|(key, _)| *key != b"comment") {
        None => Ok(()),
        Some((key, _)) => Err(Error::new(format!("a global header changes {} of all entries", shown(key)))),
    }
}
