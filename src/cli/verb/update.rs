//! `coracle update`.

use super::VerbResult;
use crate::cli::output::{self, with_progress};
use crate::config::values::{RawValue, Size, Value};
use crate::control::update::{self, UpdateOptions};
use crate::error::Result;
use crate::machine::name::Name;
use crate::paths::Paths;
use clap::Args;
use std::path::PathBuf;

/// Add a new version to an image, which the next start tries
///
/// The image becomes a directory NAME.v with versions (systemd.v(7)). A start of the new version takes one of its boot
/// attempts; a guest that is up makes it permanent. After a failed boot the previous version runs, in the same unit, and
/// `status` shows the reason. Files that a machine changes are those of its version: keep data in volumes, which are
/// mounted by the definition.
#[derive(Debug, Args)]
pub struct UpdateArgs {
    /// The image
    #[arg(value_name = "NAME", value_parser = Name::new)]
    name: Name,

    /// The archive, disk image or directory of the new version, as for import; '-' for standard input
    #[arg(value_name = "SOURCE")]
    source: PathBuf,

    /// The version, newer than all existing ones; by default the present time
    #[arg(long, value_name = "VERSION")]
    version: Option<String>,

    /// The number of boot attempts
    #[arg(long, value_name = "NUMBER", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=99))]
    tries: u32,

    /// The maximum size of all files together, for example 20G; by default the free space less 5 %
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    max_size: Option<u64>,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn parse_size(text: &str) -> Result<u64> {
    Size::read(&RawValue::Text(text)).map(|size| size.0)
}

impl UpdateArgs {
    pub(super) fn run(self, paths: &Paths) -> VerbResult {
        let options = UpdateOptions { version: self.version, tries: self.tries, largest: self.max_size };
        let report =
            with_progress(|progress| update::update(paths, &self.name, &self.source, &options, progress))?;
        output::report(&report, self.json, &report.text())?;
        Ok(0)
    }
}
