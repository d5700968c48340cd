//! `coracle export`.

use super::VerbResult;
use crate::ask::{Ask, AskVerb, Options};
use crate::cli::output::{self, with_progress};
use crate::control::clone::CloneSource;
use crate::control::delegate::{self, Passwords};
use crate::control::export::{self, ExportOptions, Format, OwnDestination};
use crate::error::{Error, Result};
use crate::paths::Paths;
use clap::Args;
use std::io::Read;
use std::path::PathBuf;

/// Export an image as an archive or an OCI image, a disk image as it is
///
/// The ending of DEST is the format: tar, tar.gz, tar.zst or tar.xz for a directory or a stack, raw, raw.gz, raw.zst
/// or raw.xz for a disk image. An archive contains the whole tree, with owners as inside the machine, hard links,
/// holes, extended attributes and access lists. It is sorted, and equal trees have equal archives; with the
/// environment variable SOURCE_DATE_EPOCH, no file in it is younger. A running machine is exported from a snapshot,
/// for which it is paused for a moment.
///
/// 'oci:DIR:TAG', 'oci-archive:FILE:TAG' and 'docker-archive:FILE:NAME' are OCI images: a directory in the OCI layout,
/// an archive of one, and an archive for 'docker load' and 'podman load'; the tag can be omitted. Each layer of a stack is a layer,
/// with whiteouts for deleted files; a stack with volumes has one layer. The configuration is that of the file
/// NAME.oci-config beside the stack; without one, the image boots if it has an init.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// The image, also of a running machine; or one of its snapshots
    #[arg(value_name = "NAME[@TAG]", value_parser = CloneSource::parse)]
    source: CloneSource,

    /// The new file or OCI image; '-' for standard output
    #[arg(value_name = "DEST")]
    destination: PathBuf,

    /// The format; by default that of the ending of DEST, and for standard output tar or raw
    #[arg(long, value_name = "FORMAT", value_parser = Format::parse)]
    format: Option<Format>,

    /// Merge the layers of an OCI image into one
    #[arg(long)]
    squash: bool,

    /// The latest time of files, seconds since the epoch
    #[arg(long, hide = true, value_name = "SECONDS")]
    latest: Option<i64>,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl ExportArgs {
    /// Runs the verb as a user: the job of the service reads the image, and this process writes the file.
    ///
    /// # Errors
    /// Those of the file, of the service, and of its job.
    pub(in crate::cli) fn run_as_user(&self, passwords: Passwords) -> VerbResult {
        if self.squash {
            return Err(Error::new("exporting OCI images needs root")
                .with_hint("run it with sudo(8)")
                .into());
        }
        let (destination, format) = OwnDestination::create(&self.destination, self.format)?;
        let latest = self.latest()?.map(|seconds| seconds.to_string());
        let options = Options::default()
            .with_text("format", format.map(Format::as_text))
            .with_text("latest", latest.as_deref());
        let words = vec![self.source.to_string(), "-".to_owned()];
        let ask = Ask::new(AskVerb::Export, vec![self.source.name().clone()], options, words)?;
        let Some(destination) = destination else {
            delegate::run(&ask, passwords)?;
            return Ok(0);
        };
        let source = self.source.clone();
        let write = |from: &mut dyn Read| {
            let written = destination.write(from)?;
            let publish = move || written.publish(&source).and_then(|text| output::line(&text));
            Ok(Box::new(publish) as Box<dyn FnOnce() -> Result<()>>)
        };
        delegate::receive(&ask, passwords, Box::new(write))?;
        Ok(0)
    }

    /// Returns the latest time of files.
    fn latest(&self) -> Result<Option<i64>> {
        self.latest.map_or_else(latest, |seconds| Ok(Some(seconds)))
    }

    pub(super) fn run(self, paths: &Paths) -> VerbResult {
        let options = ExportOptions { format: self.format, latest: self.latest()?, squash: self.squash };
        let report = with_progress(|progress| {
            export::export(paths, &self.source, &self.destination, options, progress)
        })?;
        // Standard output is the export.
        if let Some(text) = report.text() {
            output::report(&report, self.json, &text)?;
        }
        Ok(0)
    }
}

/// Returns the latest time of files, by the environment (reproducible-builds.org).
fn latest() -> Result<Option<i64>> {
    let Some(text) = std::env::var_os("SOURCE_DATE_EPOCH") else { return Ok(None) };
    let seconds = text.to_str().and_then(|text| text.parse().ok()).filter(|seconds| *seconds >= 0);
    seconds.map(Some).ok_or_else(|| {
        Error::usage("SOURCE_DATE_EPOCH is not a number of seconds").with_hint("set it to one, or unset it")
    })
}
