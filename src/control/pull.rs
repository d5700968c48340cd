//! `pull`: a new image from a registry. Called by `cli`.

use super::import::ImportReport;
use super::progress::Progress;
use crate::config::registries::Registries;
use crate::error::{Error, Result};
use crate::image::pull::{self, PullFailure, PullRequest};
use crate::image::recovery;
use crate::image::snapshot::{BEFORE_PULL, Tag};
use crate::machine::name::Name;
use crate::paths::Paths;
use serde::Serialize;
use std::time::Instant;

pub(crate) use super::import::ImportOptions;
pub(crate) use crate::machine::registry::Reference;

/// The handling of an existing image of the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ExistingImage {
    /// It is an error.
    Refused,
    /// It becomes a snapshot.
    Replaced,
}

/// A finished pull.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct PullReport {
    reference: String,
    /// The server that it comes from.
    server: String,
    /// The digest of its manifest or index.
    digest: String,
    /// The bytes fetched.
    fetched: u64,
    #[serde(flatten)]
    import: ImportReport,
}

/// Pulls an image from a registry. Without a name it is derived from the reference.
///
/// # Errors
/// An existing image of the name that is not replaced, an image that no registry has, or one that is refused.
pub(crate) fn pull(
    paths: &Paths,
    reference: &Reference,
    name: Option<&Name>,
    (options, existing): (ImportOptions, ExistingImage),
    progress: &mut Progress<'_>,
) -> Result<PullReport> {
    let name = name.map_or_else(|| reference.machine_name(), |name| Ok(name.clone()))?;
    let registries = Registries::read(paths)?;
    let former = (existing == ExistingImage::Replaced).then(|| Tag::now(BEFORE_PULL));
    recovery::recover(paths);
    let since = Instant::now();
    let total = || None;
    let mut bar = progress.bar(name.as_str(), &total)?;
    let mut advance = |bytes| bar.advance(bytes);
    let ImportOptions { is_read_only, largest, platform } = options;
    let mut last = None::<Error>;
    for full in registries.full(paths, reference)? {
        if let Some(error) = last.take() {
            log::warn!("{error}, trying '{full}'");
        }
        let endpoints = registries.endpoints(&full)?;
        let request = PullRequest {
            paths,
            reference: &full,
            endpoints,
            credential_helpers: registries.credential_helpers(),
            name: &name,
            platform: platform.clone(),
            is_read_only,
            largest,
            former: former.clone(),
        };
        match pull::pull(&request, &mut advance) {
            Ok(pulled) => {
                let import =
                    ImportReport::of(name.clone(), pulled.imported, super::milliseconds(since.elapsed()));
                let (server, digest) = (pulled.host, pulled.digest.to_string());
                return Ok(PullReport {
                    reference: full.to_string(),
                    server,
                    digest,
                    fetched: pulled.fetched,
                    import,
                });
            }
            Err(PullFailure::Registry(error)) => last = Some(error),
            Err(PullFailure::Local(error)) => return Err(error),
        }
    }
    Err(last.unwrap_or_else(|| Error::new("no registry is searched")))
}

impl PullReport {
    /// Returns the lines for a person.
    pub(crate) fn text(&self) -> String {
        let Self { reference, server, digest, import, .. } = self;
        let short = digest.get(..19).unwrap_or(digest);
        format!("{}: {reference} from {server}, {short}\n{}", import.name(), import.text())
    }
}
