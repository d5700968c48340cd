//! Extended attributes of an entry (xattr(7)), also of entries that cannot be opened: symbolic links,
//! devices, sockets and named pipes. Called by `walk` and `tree_writer`.

use super::id_mapping::IdMapping;
use rustix::fd::{AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::XattrFlags;
use rustix::io::Errno;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

/// The greatest size of a value, and of a list of names (`linux/limits.h`).
const LARGEST: usize = 65536;

/// The prefixes of the attributes of an exact copy; the first ones are those of any copy.
const EXACT: [&[u8]; 4] = [b"user.", b"system.posix_acl_", b"security.", b"trusted."];

/// An attribute: its name and its value.
pub(super) type Attribute = (Vec<u8>, Vec<u8>);

/// The access to the attributes of an entry.
pub(super) enum XattrPlace<'a> {
    /// An open file or directory.
    Open(BorrowedFd<'a>),
    /// The path of a descriptor of the entry (`O_PATH`), which refers to a symbolic link itself.
    Reference(String),
}

impl XattrPlace<'_> {
    /// Returns the access by a descriptor for reference.
    pub(super) fn by_reference(place: &OwnedFd) -> Self {
        Self::Reference(format!("/proc/self/fd/{}", place.as_raw_fd()))
    }

    /// Sets an attribute. Returns false if the file system does not have such attributes.
    ///
    /// # Errors
    /// Any other error of setxattr(2).
    pub(super) fn set(&self, name: &[u8], value: &[u8]) -> rustix::io::Result<bool> {
        let (name, flags) = (OsStr::from_bytes(name), XattrFlags::empty());
        let set = match self {
            Self::Open(open) => rustix::fs::fsetxattr(open, name, value, flags),
            Self::Reference(path) => rustix::fs::setxattr(path, name, value, flags),
        };
        match set {
            Err(Errno::OPNOTSUPP) => Ok(false),
            set => set.map(|()| true),
        }
    }

    /// Returns an attribute. `None` if the entry or its file system has none of that name.
    ///
    /// # Errors
    /// Any error of getxattr(2).
    pub(super) fn value(&self, name: &[u8]) -> rustix::io::Result<Option<Vec<u8>>> {
        let mut value = vec![0u8; LARGEST];
        let length = match self.get(OsStr::from_bytes(name), &mut value) {
            Err(Errno::NODATA | Errno::OPNOTSUPP) => return Ok(None),
            read => read?,
        };
        value.truncate(length);
        // Most values are short.
        value.shrink_to_fit();
        Ok(Some(value))
    }

    /// Removes an attribute.
    ///
    /// # Errors
    /// Any error of removexattr(2).
    pub(super) fn remove(&self, name: &[u8]) -> rustix::io::Result<()> {
        let name = OsStr::from_bytes(name);
        match self {
            Self::Open(open) => rustix::fs::fremovexattr(open, name),
            Self::Reference(path) => rustix::fs::removexattr(path, name),
        }
    }

    fn list(&self, names: &mut [u8]) -> rustix::io::Result<usize> {
        match self {
            Self::Open(open) => rustix::fs::flistxattr(open, names),
            Self::Reference(path) => rustix::fs::listxattr(path, names),
        }
    }

    fn get(&self, name: &OsStr, value: &mut [u8]) -> rustix::io::Result<usize> {
        match self {
            Self::Open(open) => rustix::fs::fgetxattr(open, name, value),
            Self::Reference(path) => rustix::fs::getxattr(path, name, value),
        }
    }
}

/// The attributes of an entry as the source of a copy.
pub(super) struct Attributes<'a> {
    /// The access to them.
    pub(super) place: XattrPlace<'a>,
    /// The mapping of ids in access lists.
    pub(super) ids: IdMapping,
}

impl Attributes<'_> {
    /// Reads the copied attributes: user attributes, and access lists with ids of the guest. Attributes of
    /// security modules and of the kernel are valid on one side only, unless the copy is exact.
    ///
    /// # Errors
    /// Any error of listxattr(2) and getxattr(2). A file system without attributes has none.
    pub(super) fn read(&self, is_exact: bool) -> rustix::io::Result<Vec<Attribute>> {
        let mut names = vec![0u8; LARGEST];
        let length = match self.place.list(&mut names) {
            Err(Errno::OPNOTSUPP) => 0,
            listed => listed?,
        };
        let names = names.get(..length).unwrap_or_default().split(|byte| *byte == 0);
        let known: &[&[u8]] = if is_exact { &EXACT } else { &EXACT[..2] };
        let copied = names.filter(|name| known.iter().any(|prefix| name.starts_with(prefix)));
        copied.filter_map(|name| self.value(name).transpose()).collect()
    }

    /// Returns an attribute. `None` if it was removed in the meantime.
    fn value(&self, name: &[u8]) -> rustix::io::Result<Option<Attribute>> {
        let Some(mut value) = self.place.value(name)? else { return Ok(None) };
        if name.starts_with(b"system.posix_acl_") {
            value = IdMapping::in_list(&value, |id| self.ids.inside(id));
        }
        Ok(Some((name.to_vec(), value)))
    }
}
