//! A server of a registry: the requests to it, with its credentials and its token. Called by `download` and `blobs`.

use super::PullRequest;
use super::credentials;
use super::helper::{self, Fetch, FetchHead, Reply};
use crate::error::{Error, Result};
use crate::image::oci::document::{INDEXES, MANIFESTS};
use crate::machine::registry::Endpoint;
use crate::tree::copy::CopyProgress;
use std::time::Duration;

/// The attempts for each file.
pub(super) const ATTEMPTS: u32 = 3;
/// The pause between two attempts, if the registry requests none.
const PAUSE: Duration = Duration::from_secs(1);
/// The longest pause that a registry can request.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// A server.
pub(super) struct Server {
    endpoint: Endpoint,
    credentials: Option<(String, String)>,
    authorities: Vec<String>,
    token: Option<String>,
    /// Whether it has replied.
    has_replied: bool,
    /// Whether it has TLS.
    has_tls: bool,
    /// The bytes that were fetched.
    pub(super) fetched: u64,
    /// Whether a signal has interrupted the transfer.
    pub(super) is_interrupted: bool,
    /// Whether this host has failed, for example because its disk is full.
    pub(super) has_local_failure: bool,
}

/// An attempt that has failed.
pub(super) enum Failure {
    /// Another attempt may succeed, after a pause.
    Transient(Error, Option<Duration>),
    /// No other attempt does.
    Final(Error),
}

impl Failure {
    /// Returns the pause before another attempt after `number` ones.
    ///
    /// # Errors
    /// There is no other attempt.
    pub(super) fn pause(self, number: u32, path: &str) -> Result<Duration> {
        match self {
            Self::Transient(error, pause) if number < ATTEMPTS => {
                log::warn!("{error}, trying '{path}' again");
                Ok(pause.unwrap_or(PAUSE).min(LONGEST_PAUSE))
            }
            Self::Transient(error, _) | Self::Final(error) => Err(error),
        }
    }
}

impl Server {
    /// Returns the server of an image.
    ///
    /// # Errors
    /// Credentials that cannot be read.
    pub(super) fn new(
        request: &PullRequest<'_>,
        endpoint: &Endpoint,
        progress: &mut CopyProgress<'_>,
    ) -> Result<Self> {
        let credentials = credentials::of(request.paths, endpoint, request.credential_helpers, progress)?;
        Ok(Self {
            endpoint: endpoint.clone(),
            credentials,
            authorities: credentials::authorities(request.paths, &endpoint.host)?,
            token: None,
            has_replied: false,
            has_tls: true,
            fetched: 0,
            is_interrupted: false,
            has_local_failure: false,
        })
    }

    /// Returns the host, with a port if it has one.
    pub(super) fn host(&self) -> &str {
        &self.endpoint.host
    }

    /// Requests a file from a position on.
    ///
    /// # Errors
    /// A program that cannot be executed.
    pub(super) fn request(&mut self, path: &str, from: u64) -> Result<Reply> {
        let Endpoint { host, repository, insecure } = &self.endpoint;
        let scheme = if self.has_tls { "https" } else { "http" };
        let started = helper::start(&Fetch {
            url: format!("{scheme}://{host}/v2/{repository}/{path}"),
            accept: if path.starts_with("manifests/") { [INDEXES, MANIFESTS].concat() } else { Vec::new() },
            from,
            credentials: self.credentials.clone(),
            token: self.token.clone(),
            authorities: self.authorities.clone(),
            insecure: *insecure,
            proxy: helper::proxy(scheme, host),
            timeout: helper::TIMEOUT.as_secs(),
        });
        self.has_local_failure |= started.is_err();
        started
    }

    /// Checks the head of a reply, and keeps its token. A server that is insecure may have no TLS.
    pub(super) fn accept(&mut self, head: &FetchHead, path: &str) -> std::result::Result<(), Failure> {
        match head.failure() {
            None => {}
            Some((error, _)) if self.endpoint.insecure && !self.has_replied && self.has_tls => {
                self.has_tls = false;
                let error = error.context(format!("no TLS at {}", self.endpoint.host));
                return Err(Failure::Transient(error, Some(Duration::ZERO)));
            }
            Some((error, true)) => return Err(Failure::Transient(error, None)),
            Some((error, false)) => return Err(Failure::Final(error)),
        }
        self.has_replied = true;
        self.token.clone_from(&head.token);
        check_status(head, path)
    }

    /// Counts bytes, and checks for an interruption.
    ///
    /// # Errors
    /// An interruption.
    pub(super) fn advance(&mut self, progress: &mut CopyProgress<'_>, bytes: u64) -> Result<()> {
        self.fetched += bytes;
        let advanced = progress(self.fetched);
        self.is_interrupted |= advanced.is_err();
        advanced
    }
}

/// Refuses the status of a reply that is not a success.
fn check_status(head: &FetchHead, path: &str) -> std::result::Result<(), Failure> {
    let status = head.status;
    let error = |text: String| Error::new(text);
    match status {
        200 | 206 => Ok(()),
        401 | 403 => Err(Failure::Final(
            error(format!("access to '{path}' is denied, status {status}"))
                .with_hint("log in: 'podman login REGISTRY' or 'skopeo login REGISTRY' as root"),
        )),
        404 => Err(Failure::Final(error(format!("'{path}' does not exist")))),
        408 | 429 | 500..=599 => {
            let pause = head.retry_after.map(Duration::from_secs);
            Err(Failure::Transient(
                error(format!("the server replied to '{path}' with status {status}")),
                pause,
            ))
        }
        _ => Err(Failure::Final(error(format!("the server replied to '{path}' with status {status}")))),
    }
}
