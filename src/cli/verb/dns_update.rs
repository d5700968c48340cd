//! `coracle dns-update`.

use super::VerbResult;
use crate::control::resolv_conf;
use crate::machine::name::Name;
use crate::paths::Paths;
use clap::Args;

/// Update the name servers of running machines; run by coracle-resolver.service
#[derive(Debug, Args)]
#[command(hide = true)]
pub struct DnsUpdateArgs {
    /// The machine; all running machines by default
    #[arg(value_name = "NAME", value_parser = Name::new)]
    name: Option<Name>,
}

impl DnsUpdateArgs {
    pub(super) fn run(self, paths: &Paths) -> VerbResult {
        match &self.name {
            Some(name) => resolv_conf::update(paths, name)?,
            None => resolv_conf::update_all(paths)?,
        }
        Ok(0)
    }
}
