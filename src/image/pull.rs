//! Pulls an OCI image from a registry. Its documents and blobs are fetched into a layout, a draft of the store, which
//! is imported then. Called by `control`.

mod blobs;
mod credential_helper;
mod credentials;
mod download;
mod helper;
mod policy;
mod server;

use super::import::{self, ImageSelection, ImportRequest, ImportSource, Imported};
use super::oci::digest::Digest;
use super::oci::platform::Platform;
use super::snapshot::Tag;
use super::store::Store;
use super::store::draft;
use crate::error::{Context, Error};
use crate::host::lock::LockMode;
use crate::machine::name::Name;
use crate::machine::registry::{Endpoint, Reference};
use crate::paths::Paths;
use crate::tree::copy::CopyProgress;
use download::PulledLayout;
use server::Server;

/// A request for a pull.
pub(crate) struct PullRequest<'a> {
    /// The places of Coracle.
    pub(crate) paths: &'a Paths,
    /// The image, with its registry.
    pub(crate) reference: &'a Reference,
    /// The servers that may have it, in this order.
    pub(crate) endpoints: Vec<Endpoint>,
    /// The programs that have credentials, and the word for the files of credentials among them, in this order.
    pub(crate) credential_helpers: &'a [String],
    /// The name of the new image.
    pub(crate) name: &'a Name,
    /// The platform. `None` for that of this host.
    pub(crate) platform: Option<Platform>,
    /// Whether no machine can change the image.
    pub(crate) is_read_only: bool,
    /// The limit of the bytes of all files.
    pub(crate) largest: Option<u64>,
    /// The snapshot that an existing stack of this name becomes. `None` if it is not replaced.
    pub(crate) former: Option<Tag>,
}

/// A finished pull.
pub(crate) struct Pulled {
    /// The image.
    pub(crate) imported: Imported,
    /// The server that it comes from.
    pub(crate) host: String,
    /// The digest of its manifest or index.
    pub(crate) digest: Digest,
    /// The bytes fetched.
    pub(crate) fetched: u64,
}

/// A failed pull.
pub(crate) enum PullFailure {
    /// No server of the registry has sent the image. Another registry may have it.
    Registry(Error),
    /// An interruption, or a failure of this host.
    Local(Error),
}

impl From<Error> for PullFailure {
    fn from(error: Error) -> Self {
        Self::Local(error)
    }
}

/// Pulls an image. `progress` is called with the bytes fetched, then with those extracted.
///
/// # Errors
/// An existing image of this name, an image that no server has, or one that is refused. Nothing is left then.
pub(crate) fn pull(
    request: &PullRequest<'_>,
    progress: &mut CopyProgress<'_>,
) -> std::result::Result<Pulled, PullFailure> {
    let PullRequest { paths, reference, name, .. } = request;
    let pulling = || format!("cannot pull '{reference}' as '{name}'");
    if request.former.is_none() || super::find::by_name(paths, name).is_none() {
        super::clone::refuse_existing(paths, name).context(pulling)?;
    } else {
        import::refuse_unreplaceable(paths, name).context(pulling)?;
    }
    policy::check(paths, reference).context(pulling).map_err(PullFailure::Registry)?;
    let store = Store::of(paths);
    draft::sweep_store(&store);
    // Layers that are not fetched stay until the stack has links to them.
    let users = store.lock(LockMode::Shared)?;
    let (layout, host, digest) = fetch(request, &store, progress).map_err(|failure| match failure {
        PullFailure::Registry(error) => PullFailure::Registry(error.context(pulling())),
        PullFailure::Local(error) => PullFailure::Local(error.context(pulling())),
    })?;
    let origin = Some(layout.origin());
    let selection =
        ImageSelection { platform: request.platform.clone(), origin, ..ImageSelection::default() };
    let source = ImportSource::Directory { path: reference.to_string().into(), directory: layout.open()? };
    let PullRequest { is_read_only, largest, .. } = *request;
    let former = request.former.clone();
    let import = ImportRequest { paths, source, selection: &selection, name, is_read_only, largest, former };
    let imported = import::import(import, progress)?;
    drop(users);
    Ok(Pulled { imported, host, digest, fetched: layout.fetched() })
}

/// Fetches an image from the first server that has it.
fn fetch(
    request: &PullRequest<'_>,
    store: &Store,
    progress: &mut CopyProgress<'_>,
) -> std::result::Result<(PulledLayout, String, Digest), PullFailure> {
    let mut last = None::<Error>;
    for endpoint in &request.endpoints {
        if let Some(error) = last.take() {
            log::warn!("{error}, trying the next server");
        }
        let mut is_interrupted = false;
        let mut noted = |bytes| progress(bytes).inspect_err(|_| is_interrupted = true);
        let server = match Server::new(request, endpoint, &mut noted) {
            Ok(server) => server,
            Err(error) if is_interrupted => return Err(error.into()),
            Err(error) => {
                last = Some(error.context(endpoint.host.clone()));
                continue;
            }
        };
        let mut layout = PulledLayout::create(store, server)?;
        match layout.fetch_image(request, progress) {
            Ok(digest) => return Ok((layout, endpoint.host.clone(), digest)),
            Err(error) if layout.has_failed_locally() => return Err(error.into()),
            Err(error) => last = Some(error.context(endpoint.host.clone())),
        }
    }
    Err(PullFailure::Registry(last.unwrap_or_else(|| Error::new("no server has it"))))
}
