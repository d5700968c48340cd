//! `coracle update`.

use super::VerbResult;
use crate::ask::{Ask, AskVerb, OptionValue, Options};
use crate::cli::output::{self, with_progress};
use crate::config::values::{RawValue, Size, Value};
use crate::control::delegate::{self, Passwords};
use crate::control::import::OwnSource;
use crate::control::update::{self, UpdateOptions};
use crate::error::Result;
use crate::machine::name::Name;
use crate::paths::Paths;
use clap::Args;
use std::io::Write;
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
    /// Runs the verb as a user: this process reads the source, and the job of the service imports it.
    ///
    /// # Errors
    /// Those of the source, of the service, and of its job.
    pub(in crate::cli) fn run_as_user(&self, passwords: Passwords) -> VerbResult {
        let (source, name) = OwnSource::open(&self.source, Some(&self.name))?;
        let options = Options::default()
            .with_text("version", self.version.as_deref())
            .with("tries", OptionValue::Number(self.tries))
            .with_text("max-size", self.max_size.map(|size| size.to_string()).as_deref())
            .with_flag("json", self.json);
        let ask =
            Ask::new(AskVerb::Update, vec![name.clone()], options, vec![name.to_string(), "-".to_owned()])?;
        let send = |to: &mut dyn Write| with_progress(|progress| source.send(&name, to, progress));
        output::text(&delegate::send(&ask, passwords, Box::new(send))?.output)?;
        Ok(0)
    }

    pub(super) fn run(self, paths: &Paths) -> VerbResult {
        let options = UpdateOptions { version: self.version, tries: self.tries, largest: self.max_size };
        let report =
            with_progress(|progress| update::update(paths, &self.name, &self.source, &options, progress))?;
        output::report(&report, self.json, &report.text())?;
        Ok(0)
    }
}
