//! `coracle provision`.

use super::VerbResult;
use super::provision_options::ProvisionOptions;
use crate::control::provision;
use crate::error::Error;
use crate::machine::name::Name;
use crate::paths::Paths;
use clap::Args;

/// Write the first settings of a stopped machine into its tree
///
/// Host name, locale, time zone and password are written by systemd-firstboot(1) of the host. 'create', 'clone', 'set'
/// and 'run' have the same options. Other roots than trees and stacks, and settings for each boot, take credentials:
/// see coracle.toml(5).
#[derive(Debug, Args)]
pub struct ProvisionArgs {
    /// The machine
    #[arg(value_name = "NAME", value_parser = Name::new)]
    name: Name,

    /// First settings.
    #[command(flatten)]
    first: ProvisionOptions,
}

impl ProvisionArgs {
    pub(super) fn run(self, paths: &Paths) -> VerbResult {
        let settings = self.first.settings();
        if settings.is_empty() {
            return Err(Error::usage("no setting is given")
                .with_hint("show the settings with 'coracle provision --help'")
                .into());
        }
        provision::provision(paths, &self.name, &settings)?;
        Ok(0)
    }
}
