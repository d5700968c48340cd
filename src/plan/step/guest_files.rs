//! The arguments of steps that write files of the guest.

use std::path::PathBuf;

/// The action for the guest's `/etc/resolv.conf`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResolvConfAction {
    /// Write this content, also to the target of a link into `/run`.
    Write(String),
    /// Write this content if there is no file yet.
    WriteIfMissing(String),
    /// Write this content, but not to a link.
    Copy(String),
    /// Delete an existing file or link, and write this content.
    Replace(String),
    /// Mount this file of the host over it.
    Bind(PathBuf),
    /// Delete it.
    Delete,
}

impl ResolvConfAction {
    /// Returns the action as text.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Write(_) => "write '/etc/resolv.conf'".into(),
            Self::WriteIfMissing(_) => "write '/etc/resolv.conf' if it is missing".into(),
            Self::Copy(_) => "copy to '/etc/resolv.conf'".into(),
            Self::Replace(_) => "replace '/etc/resolv.conf'".into(),
            Self::Bind(file) => format!("bind '{}' over '/etc/resolv.conf'", file.display()),
            Self::Delete => "delete '/etc/resolv.conf'".into(),
        }
    }
}

/// The directory with the time zones (localtime(5)).
pub const ZONES: &str = "/usr/share/zoneinfo";

/// The action for the guest's `/etc/localtime`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TimezoneAction {
    /// Replace it by this content.
    Copy(Vec<u8>),
    /// Mount this file of the host over it.
    Bind(PathBuf),
    /// Link it to a zone of the tree.
    Link {
        /// The zone.
        zone: String,
        /// The file of the host to mount over it if the tree lacks the zone.
        file: PathBuf,
    },
    /// Delete it.
    Delete,
}

impl TimezoneAction {
    /// Returns the zone of a link. `None` if it does not lead to one.
    pub(crate) fn zone(link: &str) -> Option<&str> {
        let absolute = link.strip_prefix("..").unwrap_or(link);
        let zone = absolute.strip_prefix(ZONES)?.strip_prefix('/')?;
        let is_name = |part: &str| !matches!(part, "" | "." | "..");
        zone.split('/').all(is_name).then_some(zone)
    }

    /// Returns the action as text.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Copy(_) => "copy to '/etc/localtime'".into(),
            Self::Bind(file) => format!("bind '{}' over '/etc/localtime'", file.display()),
            Self::Link { zone, .. } => format!("link '/etc/localtime' to the zone {zone}"),
            Self::Delete => "delete '/etc/localtime'".into(),
        }
    }
}

/// A credential. Its content is secret, and therefore not part of a step.
#[derive(Clone, Copy)]
pub struct Credential<'a> {
    /// Its name.
    pub(crate) name: &'a str,
    /// Its content.
    pub(crate) content: &'a [u8],
}

impl std::fmt::Debug for Credential<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credential").field("name", &self.name).finish_non_exhaustive()
    }
}
