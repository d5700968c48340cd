//! `[journal]`: the connection of the journals of host and guest.

use super::profile::Profile;
use super::setting::{Single, settings};
use super::values::{RawValue, Size, Value, words};
use crate::error::{Error, Result};
use crate::machine::journal::{Forwarding, Journal, JournalLink, LinkNeed};
use crate::paths::Paths;
use std::path::PathBuf;

settings! {
    /// Settings of the journal.
    JournalSettings {
        /// The connection of the journal directories.
        link: Single<JournalLink> = Single "journal.link", |profile| if profile == Profile::Nspawn {
            JournalLink::Auto
        } else {
            JournalLink::No
        };
        /// The place of a received journal on the host.
        forward: Single<PathBuf> = Single "journal.forward";
        /// Its maximum disk space.
        forward_max_use: Single<Size> = Single "journal.forward-max-use";
        /// The disk space that it leaves free.
        forward_keep_free: Single<Size> = Single "journal.forward-keep-free";
        /// The maximum size of its files.
        forward_max_file_size: Single<Size> = Single "journal.forward-max-file-size";
        /// The maximum number of its files.
        forward_max_files: Single<Size> = Single "journal.forward-max-files";
    }
}

impl JournalSettings {
    /// Builds the journal of the machine.
    ///
    /// # Errors
    /// Limits without a received journal.
    pub(super) fn build(&self, paths: &Paths) -> Result<Journal> {
        let size = |setting: &Single<Size>| setting.value().map(|size| size.0);
        let limits = Forwarding {
            path: PathBuf::new(),
            max_use: size(&self.forward_max_use),
            keep_free: size(&self.forward_keep_free),
            max_file_size: size(&self.forward_max_file_size),
            max_files: size(&self.forward_max_files),
        };
        let forward = match self.forward.value() {
            Some(path) => {
                Some(Forwarding { path: self.forward.origin().host_path(paths, path.clone()), ..limits })
            }
            None if limits != Forwarding::default() => {
                return Err(Error::new("limits of a forwarded journal require journal.forward")
                    .with_hint("name a file or directory with journal.forward or --forward-journal="));
            }
            None => None,
        };
        Ok(Journal { link: self.link.value().copied().unwrap_or_default(), forward })
    }
}

words!(
    JournalLink,
    [
        ("no", JournalLink::No),
        ("auto", JournalLink::Auto),
        ("host", JournalLink::Host(LinkNeed::Required)),
        ("try-host", JournalLink::Host(LinkNeed::Optional)),
        ("guest", JournalLink::Guest(LinkNeed::Required)),
        ("try-guest", JournalLink::Guest(LinkNeed::Optional)),
    ]
);
