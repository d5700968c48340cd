//! Documents of OCI images (image specification 1.1) and of Docker: their types, digests and limits. Called by
//! `import` and `export`. Nothing here opens a file; a document is checked by its size and digest before it is
//! parsed.

pub mod digest;
pub mod document;
pub(crate) mod names;
pub(crate) mod platform;
