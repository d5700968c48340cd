//! `coracle provision`.

use super::VerbResult;
use crate::control::provision::{self, ProvisionRequest};
use crate::error::Error;
use crate::machine::name::Name;
use crate::paths::Paths;
use clap::Args;
use std::path::PathBuf;

/// Write the first settings of a stopped machine into its tree
///
/// Host name, locale, time zone and password are written by systemd-firstboot(1) of the host. Other roots than
/// trees, and settings for each boot, take credentials: see coracle.toml(5).
#[derive(Debug, Args)]
pub struct ProvisionArgs {
    /// The machine
    #[arg(value_name = "NAME", value_parser = Name::new)]
    name: Name,

    /// The host name
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,

    /// The locale, for example C.UTF-8
    #[arg(long, value_name = "LOCALE")]
    locale: Option<String>,

    /// The time zone, for example Europe/Berlin
    #[arg(long, value_name = "ZONE")]
    timezone: Option<String>,

    /// A file with the password of root
    #[arg(long, value_name = "FILE")]
    root_password_file: Option<PathBuf>,

    /// A file with public keys to add to those of root for ssh(1)
    #[arg(long, value_name = "FILE")]
    ssh_key: Vec<PathBuf>,
}

impl ProvisionArgs {
    pub(super) fn run(self, paths: &Paths) -> VerbResult {
        let request = ProvisionRequest {
            name: &self.name,
            hostname: self.hostname.as_deref(),
            locale: self.locale.as_deref(),
            timezone: self.timezone.as_deref(),
            root_password: self.root_password_file.as_deref(),
            ssh_keys: &self.ssh_key,
        };
        let texts = [request.hostname, request.locale, request.timezone];
        if texts.iter().all(Option::is_none) && request.root_password.is_none() && self.ssh_key.is_empty() {
            return Err(Error::usage("no setting is given")
                .with_hint("show the settings with 'coracle provision --help'")
                .into());
        }
        provision::provision(paths, &request)?;
        Ok(0)
    }
}
