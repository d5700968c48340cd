//! `[journal]`: the connection of the journals of host and guest.

use super::profile::Profile;
use super::setting::{Single, settings};
use super::values::{RawValue, Value, words};
use crate::error::Result;
use crate::machine::journal::{Journal, JournalLink, LinkNeed};

settings! {
    /// Settings of the journal.
    JournalSettings {
        /// The connection of the journal directories.
        link: Single<JournalLink> = Single "journal.link", |profile| if profile == Profile::Nspawn {
            JournalLink::Auto
        } else {
            JournalLink::No
        };
    }
}

impl JournalSettings {
    /// Builds the journal of the machine.
    pub(super) fn build(&self) -> Journal {
        Journal { link: self.link.value().copied().unwrap_or_default() }
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
