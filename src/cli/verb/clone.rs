//! `coracle clone`.

use super::VerbResult;
use super::provision_options::ProvisionOptions;
use crate::ask::{Ask, AskVerb, Options};
use crate::cli::output::{self, with_progress};
use crate::control::clone::{self, CloneOptions, CloneSource};
use crate::control::provision;
use crate::error::{Error, Result};
use crate::machine::name::Name;
use crate::paths::Paths;
use clap::Args;

/// Create an image as a clone of another one
///
/// A read-only image, a stack and a Btrfs subvolume are cloned at once, on every file system: the clone
/// shares their files. A writable directory is copied. The clone gets a new machine id, host name and SSH
/// host keys.
#[derive(Debug, Args)]
pub struct CloneArgs {
    /// The image to clone, also of a running machine; or one of its snapshots
    #[arg(value_name = "SOURCE[@TAG]", value_parser = CloneSource::parse)]
    source: CloneSource,

    /// The name of the clone
    #[arg(value_name = "NAME", value_parser = Name::new)]
    name: Name,

    /// Keep the identity of the source: machine id, host name and SSH host keys
    #[arg(long)]
    exact: bool,

    /// Create a clone that no machine can change
    #[arg(long)]
    read_only: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,

    /// First settings.
    #[command(flatten)]
    first: ProvisionOptions,
}

impl CloneArgs {
    /// Returns the request for the service.
    ///
    /// # Errors
    /// Too long a word, or an option that only root has.
    pub(in crate::cli) fn ask(&self) -> Result<Ask> {
        self.first.refuse_without_root()?;
        let options = Options::default()
            .with_flag("exact", self.exact)
            .with_flag("read-only", self.read_only)
            .with_flag("json", self.json);
        let words = vec![self.source.to_string(), self.name.to_string()];
        Ask::new(AskVerb::Clone, vec![self.source.name().clone()], options, words)
    }

    pub(super) fn run(self, paths: &Paths) -> VerbResult {
        let settings = self.first.settings();
        settings.check()?;
        if self.read_only && !settings.is_empty() {
            return Err(Error::usage("a read-only clone takes no settings")
                .with_hint("clone it without --read-only, then 'coracle read-only NAME yes'")
                .into());
        }
        let options = CloneOptions { is_exact: self.exact, is_read_only: self.read_only };
        let report =
            with_progress(|progress| clone::clone(paths, &self.source, &self.name, options, progress))?;
        provision::provision_new(paths, &self.name, &settings)?;
        output::report(&report, self.json, &report.text())?;
        Ok(0)
    }
}
