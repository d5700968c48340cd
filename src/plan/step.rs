//! The steps that create a machine, as data. `describe` serves the debug log, the `--dry-run` output and the context of
//! errors.

mod build;
mod host;
mod init;

pub use build::{BindSource, BuildStep, Device, IfMissing, ResolvConfAction};
pub use host::HostStep;
pub use init::{InitStep, LsmLabel, ResourceLimit};
