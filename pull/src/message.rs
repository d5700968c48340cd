//! The request and the head of the reply.

use serde::{Deserialize, Serialize};

/// A request.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Request {
    /// The address.
    pub(crate) url: String,
    /// The accepted media types.
    #[serde(default)]
    pub(crate) accept: Vec<String>,
    /// The first byte.
    #[serde(default)]
    pub(crate) from: u64,
    /// The user, and the password.
    #[serde(default)]
    pub(crate) credentials: Option<(String, String)>,
    /// The token of an earlier reply.
    #[serde(default)]
    pub(crate) token: Option<String>,
    /// Further certificates of authorities (PEM).
    #[serde(default)]
    pub(crate) authorities: Vec<String>,
    /// Whether certificates are not checked, and HTTP is allowed.
    #[serde(default)]
    pub(crate) insecure: bool,
    /// The address of a proxy.
    #[serde(default)]
    pub(crate) proxy: Option<String>,
    /// The time limit of a wait, seconds.
    pub(crate) timeout: u64,
}

/// The head of a reply.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Head {
    /// The error, in place of a reply.
    pub(crate) error: Option<String>,
    /// Whether another attempt may succeed after the error.
    pub(crate) is_transient: bool,
    /// The status (RFC 9110).
    pub(crate) status: u16,
    /// The first byte of the body in the whole content.
    pub(crate) from: u64,
    /// The media type.
    pub(crate) media_type: Option<String>,
    /// The token, for further requests.
    pub(crate) token: Option<String>,
    /// The requested pause, seconds.
    pub(crate) retry_after: Option<u64>,
}

/// An error.
#[derive(Debug)]
pub(crate) struct Failure {
    /// Its text.
    pub(crate) text: String,
    /// Whether another attempt may succeed.
    pub(crate) is_transient: bool,
}

impl From<String> for Failure {
    fn from(text: String) -> Self {
        Self { text, is_transient: false }
    }
}
