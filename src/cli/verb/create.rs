//! `coracle create`.

use super::VerbResult;
use super::provision_options::ProvisionOptions;
use crate::ask::{Ask, AskVerb, Options};
use crate::cli::output::{self, with_progress};
use crate::config::recipe::{Distribution, RecipeOptions};
use crate::control::create::{self, CreateOptions};
use crate::control::provision;
use crate::error::Result;
use crate::machine::name::Name;
use crate::paths::Paths;
use clap::Args;

/// Create an image of a distribution
///
/// The first image of a distribution creates a base: the distribution's own program installs packages, whose
/// signatures are verified. Further images are stacks on the same base, created in milliseconds. The programs and
/// packages are in recipes, /usr/lib/coracle/distributions.d/NAME.toml; /etc/coracle/distributions.d takes precedence.
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// The name of the image
    #[arg(value_name = "NAME", value_parser = Name::new)]
    name: Name,

    /// The distribution and its suite, for example debian:trixie; by default the suite of the recipe
    #[arg(long, value_name = "DISTRIBUTION[:SUITE]")]
    from: Distribution,

    /// The architecture; by default that of the host
    #[arg(long, value_name = "ARCHITECTURE")]
    arch: Option<String>,

    /// Packages to install in addition
    #[arg(long, value_name = "PACKAGE,…", value_delimiter = ',')]
    include: Vec<String>,

    /// The mirror; by default that of the distribution's own program
    #[arg(long, value_name = "URL")]
    mirror: Option<String>,

    /// Create a directory with files of its own, not a stack on the base
    #[arg(long)]
    directory: bool,

    /// Create the base again, with the present packages; existing images keep theirs
    #[arg(long)]
    refresh: bool,

    /// Print JSON
    #[arg(long)]
    json: bool,

    /// First settings.
    #[command(flatten)]
    first: ProvisionOptions,
}

impl CreateArgs {
    /// Returns the request for the service.
    ///
    /// # Errors
    /// Too long a word, or an option that only root has.
    pub(in crate::cli) fn ask(&self) -> Result<Ask> {
        self.first.refuse_without_root()?;
        let Distribution { name, suite } = &self.from;
        let from = suite.as_ref().map_or_else(|| name.clone(), |suite| format!("{name}:{suite}"));
        let options = Options::default()
            .with_text("from", Some(&from))
            .with_text("arch", self.arch.as_deref())
            .with_texts("include", self.include.clone())
            .with_text("mirror", self.mirror.as_deref())
            .with_flag("directory", self.directory)
            .with_flag("refresh", self.refresh)
            .with_flag("json", self.json);
        Ask::new(AskVerb::Create, vec![self.name.clone()], options, vec![self.name.to_string()])
    }

    pub(super) fn run(self, paths: &Paths) -> VerbResult {
        let settings = self.first.settings();
        settings.check()?;
        let recipe = RecipeOptions { architecture: self.arch, packages: self.include, mirror: self.mirror };
        let options = CreateOptions {
            from: self.from,
            recipe,
            is_directory: self.directory,
            is_refreshed: self.refresh,
        };
        let report = with_progress(|progress| create::create(paths, &self.name, &options, progress))?;
        provision::provision_new(paths, &self.name, &settings)?;
        output::report(&report, self.json, &report.text())?;
        Ok(0)
    }
}
