//! The options for the first settings of a tree, shared by `provision`, `create`, `clone`, `set` and `run`.

use crate::cli::argument_table::{ArgumentRow, Slot, long};
use crate::control::provision::ProvisionSettings;
use crate::error::{Error, Result};
use clap::Args;
use std::path::PathBuf;

/// All first settings.
#[derive(Debug, Default, Args)]
pub(crate) struct ProvisionOptions {
    /// Write this host name into the tree
    #[arg(long, value_name = "NAME", help_heading = "First settings")]
    hostname: Option<String>,

    /// Write this time zone into the tree, for example Europe/Berlin
    #[arg(long, value_name = "ZONE", help_heading = "First settings")]
    timezone: Option<String>,

    /// The others.
    #[command(flatten)]
    account: AccountOptions,
}

/// The first settings that `run` has, too: its options for host name and time zone are those of systemd-nspawn(1).
#[derive(Debug, Default, Args)]
pub(crate) struct AccountOptions {
    /// Write this locale into the tree, for example C.UTF-8
    #[arg(long, value_name = "LOCALE", help_heading = "First settings")]
    locale: Option<String>,

    /// Write the password of root into the tree, from a file
    #[arg(long, value_name = "FILE", help_heading = "First settings")]
    root_password_file: Option<PathBuf>,

    /// Add the public keys in a file to those of root for ssh(1)
    #[arg(long, value_name = "FILE", help_heading = "First settings")]
    ssh_key: Vec<String>,
}

impl ProvisionOptions {
    /// The options, for clap: one of them is enough for `set`.
    pub(super) const NAMES: [&str; 5] = ["hostname", "timezone", "locale", "root_password_file", "ssh_key"];

    /// Returns the settings.
    pub(super) fn settings(&self) -> ProvisionSettings<'_> {
        ProvisionSettings {
            hostname: self.hostname.as_deref(),
            timezone: self.timezone.as_deref(),
            ..self.account.settings()
        }
    }

    /// Refuses the options of a user without root: files are read and written with all rights.
    ///
    /// # Errors
    /// One of the options is there.
    pub(super) fn refuse_without_root(&self) -> Result<()> {
        if self.settings().is_empty() {
            return Ok(());
        }
        Err(Error::new("first settings of a tree need root").with_hint("run it with sudo(8)"))
    }
}

impl AccountOptions {
    /// Returns the settings.
    pub(super) fn settings(&self) -> ProvisionSettings<'_> {
        ProvisionSettings {
            hostname: None,
            timezone: None,
            locale: self.locale.as_deref(),
            root_password: self.root_password_file.as_deref(),
            ssh_keys: &self.ssh_key,
        }
    }

    /// Returns the options as rows of a table.
    pub(super) fn rows(&mut self) -> Vec<ArgumentRow<'_>> {
        vec![
            long("locale", Slot::Text(&mut self.locale)),
            long("root-password-file", Slot::Path(&mut self.root_password_file)),
            long("ssh-key", Slot::Texts(&mut self.ssh_key)),
        ]
    }
}
