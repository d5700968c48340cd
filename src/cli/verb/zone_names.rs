//! `coracle zone-names`.

use super::VerbResult;
use crate::control::zone_names;
use crate::paths::Paths;
use clap::Args;

/// Answer the questions of systemd-resolved for machines in zones; run by coracle-zone-names.service
#[derive(Debug, Args)]
#[command(hide = true)]
pub struct ZoneNamesArgs {}

impl ZoneNamesArgs {
    pub(super) fn run(self, paths: &Paths) -> VerbResult {
        zone_names::serve(paths)?;
        Ok(0)
    }
}
