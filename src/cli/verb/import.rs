//! `coracle import`.

use super::VerbResult;
use crate::ask::{Ask, AskVerb, Options};
use crate::cli::output::{self, with_progress};
use crate::config::values::{RawValue, Size, Value};
use crate::control::delegate::{self, Passwords};
use crate::control::import::{self, ImportOptions, OwnSource, Platform};
use crate::error::Result;
use crate::machine::name::Name;
use crate::paths::Paths;
use clap::Args;
use std::io::Write;
use std::path::PathBuf;

/// Import an archive, a disk image, an OCI image or a directory as an image
///
/// The content of SOURCE decides how it is read, not its name: a tar archive or a disk image, plain or
/// compressed by gzip, zstd, xz or bzip2; a disk image in the format qcow2, which systemd-importd converts; or a
/// directory, which is copied. It need not be trusted: it is decoded
/// and extracted by processes without any rights on the host; only bzip2 is a program of the host, which runs as
/// nobody. An archive with two meanings, or with paths that
/// lead out of it, is refused as a whole. Devices, and attributes that are valid on one host only, are left out.
///
/// A directory in the OCI layout, an archive of one, or an archive of 'docker save' has OCI images. One of several
/// is chosen by its tag: 'oci:DIR:TAG', 'oci-archive:FILE:TAG' or 'docker-archive:FILE:NAME'. Every document and
/// layer must have its digest. The image becomes a stack NAME.mstack: images share equal layers, and each volume of
/// the image is a directory of its own in the stack. Its configuration is the file NAME.oci-config beside it, the
/// lowest source of settings: command, environment, working directory, user and stop signal. If the command is an
/// init, or a shell while there is an init, the machine boots; any other command is run beside a stub init.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// The file or directory; '-' for standard input
    #[arg(value_name = "SOURCE")]
    source: PathBuf,

    /// The name of the image; by default that of SOURCE without the endings of formats
    #[arg(value_name = "NAME", value_parser = Name::new)]
    name: Option<Name>,

    /// Create an image that no machine can change
    #[arg(long)]
    read_only: bool,

    /// The maximum size of all files together, for example 20G; by default the free space less 5 %, and a
    /// thousand times the size of SOURCE
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    max_size: Option<u64>,

    /// The platform of an OCI image, for example linux/arm64; by default that of the host
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", value_parser = parse_platform)]
    platform: Option<Platform>,

    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn parse_size(text: &str) -> Result<u64> {
    Size::read(&RawValue::Text(text)).map(|size| size.0)
}

pub(super) fn parse_platform(text: &str) -> Result<Platform> {
    text.parse()
}

/// Returns the options of `import` and `pull` in a request for the service.
pub(super) fn import_options(
    read_only: bool,
    max_size: Option<u64>,
    platform: Option<&Platform>,
    json: bool,
) -> Options {
    Options::default()
        .with_flag("read-only", read_only)
        .with_text("max-size", max_size.map(|size| size.to_string()).as_deref())
        .with_text("platform", platform.map(ToString::to_string).as_deref())
        .with_flag("json", json)
}

impl ImportArgs {
    /// Runs the verb as a user: this process reads the source, and the job of the service imports it.
    ///
    /// # Errors
    /// Those of the source, of the service, and of its job.
    pub(in crate::cli) fn run_as_user(&self, passwords: Passwords) -> VerbResult {
        let (source, name) = OwnSource::open(&self.source, self.name.as_ref())?;
        let options = import_options(self.read_only, self.max_size, self.platform.as_ref(), self.json);
        let ask =
            Ask::new(AskVerb::Import, vec![name.clone()], options, vec!["-".to_owned(), name.to_string()])?;
        let send = |to: &mut dyn Write| with_progress(|progress| source.send(&name, to, progress));
        output::text(&delegate::send(&ask, passwords, Box::new(send))?.output)?;
        Ok(0)
    }

    pub(super) fn run(self, paths: &Paths) -> VerbResult {
        let options =
            ImportOptions { is_read_only: self.read_only, largest: self.max_size, platform: self.platform };
        let report = with_progress(|progress| {
            import::import(paths, &self.source, self.name.as_ref(), options, progress)
        })?;
        output::report(&report, self.json, &report.text())?;
        Ok(0)
    }
}
