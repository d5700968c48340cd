//! The steps that create a machine, as data. `describe` serves the debug log, the `--dry-run` output and the
//! context of errors.

mod build_step;
mod guest_files;
mod host_step;
mod init_step;
mod journal;
mod session_file;
mod user_lookup;

pub use build_step::{BindSource, BuildStep, Device, IfMissing, OverlayUpper};
pub use guest_files::{Credential, ResolvConfAction, TimezoneAction, ZONES};
pub use host_step::HostStep;
pub use init_step::{InitStep, LsmLabel, ResourceLimit, StubSettings};
pub use journal::JournalDirectory;
pub use session_file::SessionFile;
pub use user_lookup::UserLookup;

pub(crate) use super::User;
