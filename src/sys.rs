//! System calls that no library has, each behind a safe function: the only place with `unsafe`.
//! Used by `plan` (its plain data), `payload`, `host`, `supervisor` and `control`; knows nothing of machines.

pub mod descriptor;
pub mod filter;
pub mod guest_files;
pub mod mount;
pub mod packet;
pub mod process;
pub mod terminal;
