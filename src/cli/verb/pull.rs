//! `coracle pull`.

use super::VerbResult;
use super::import::{import_options, parse_platform, parse_size};
use crate::ask::{Ask, AskVerb};
use crate::cli::output::{self, with_progress};
use crate::control::import::Platform;
use crate::control::pull::{self, ExistingImage, ImportOptions, Reference};
use crate::error::Result;
use crate::machine::name::Name;
use crate::paths::Paths;
use clap::Args;

/// Pull an OCI image from a registry
///
/// IMAGE is REGISTRY/NAME:TAG or REGISTRY/NAME@DIGEST; a name without a registry is looked up as podman does, and
/// without search registries as importctl(1) does. The registries, mirrors and short names are those of
/// containers-registries.conf(5), the credentials those of containers-auth.json(5) and of the programs
/// docker-credential-NAME that it names, and further authorities those of containers-certs.d(5). A registry that is
/// 'insecure' there may have any certificate, or no TLS. A program without any rights on the host talks to the
/// registry, with three layers at once. An interrupted or stalled transfer goes on where it has ended. Layers that are
/// larger than the free space are refused, and those that the store has from the same registry are not fetched again.
/// The result is that of 'coracle import' of the same image.
#[derive(Debug, Args)]
pub struct PullArgs {
    /// The image in a registry
    #[arg(value_name = "IMAGE", value_parser = parse_reference)]
    reference: Reference,

    /// The name of the new image; by default the last part of that of IMAGE
    #[arg(value_name = "NAME", value_parser = Name::new)]
    name: Option<Name>,

    /// Create an image that no machine can change
    #[arg(long)]
    read_only: bool,

    /// Replace an existing image of the name, a stack: it becomes the snapshot 'before-pull-TIME'
    #[arg(long)]
    force: bool,

    /// The maximum size of all files together, for example 20G; by default the free space less 5 %
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    max_size: Option<u64>,

    /// The platform, for example linux/arm64; by default that of the host
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", value_parser = parse_platform)]
    platform: Option<Platform>,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn parse_reference(text: &str) -> Result<Reference> {
    Reference::parse(text)
}

impl PullArgs {
    /// Returns the request for the service.
    ///
    /// # Errors
    /// Too long a word.
    pub(in crate::cli) fn ask(&self) -> Result<Ask> {
        let name = self.name.clone().map_or_else(|| self.reference.machine_name(), Ok)?;
        let options = import_options(self.read_only, self.max_size, self.platform.as_ref(), self.json);
        let words = vec![self.reference.to_string(), name.to_string()];
        Ask::new(AskVerb::Pull, vec![name], options, words)
    }

    pub(super) fn run(self, paths: &Paths) -> VerbResult {
        let options =
            ImportOptions { is_read_only: self.read_only, largest: self.max_size, platform: self.platform };
        let existing = if self.force { ExistingImage::Replaced } else { ExistingImage::Refused };
        let report = with_progress(|progress| {
            pull::pull(paths, &self.reference, self.name.as_ref(), (options, existing), progress)
        })?;
        output::report(&report, self.json, &report.text())?;
        Ok(0)
    }
}
