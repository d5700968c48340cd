//! System calls without a library function, each behind a safe function: the only room with `unsafe`. Used by
//! `plan` (its plain data), `payload`, `host`, `image`, `supervisor` and `control`; does not know machines.

pub(crate) mod btrfs;
pub(crate) mod confine;
pub(crate) mod descriptor;
pub(crate) mod directory;
pub mod entry;
pub mod filter;
pub(crate) mod guest_files;
pub(crate) mod interface;
pub(crate) mod loops;
pub mod mount;
pub(crate) mod overlay;
pub(crate) mod packet;
pub mod process;
pub(crate) mod pseudo_file;
pub(crate) mod quota;
pub(crate) mod read_only;
pub(crate) mod terminal;
