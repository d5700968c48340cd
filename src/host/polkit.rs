//! polkit(8): whether a caller on the system bus may perform an action. Two calls of its authority, as its
//! interface documents them. The subject is always the name on the bus: a process id can be reused, and the
//! bus name ends with its connection.

use super::systemd::bus;
use crate::error::{Error, Result};
use std::collections::HashMap;
use zbus::proxy::CacheProperties;
use zbus::{Connection, Variant, proxy};

#[proxy(
    interface = "org.freedesktop.PolicyKit1.Authority",
    default_service = "org.freedesktop.PolicyKit1",
    default_path = "/org/freedesktop/PolicyKit1/Authority"
)]
trait Authority {
    fn check_authorization(
        &self,
        subject: &(&str, HashMap<&str, Variant<'_>>),
        action: &str,
        details: &HashMap<&str, &str>,
        flags: u32,
        cancellation: &str,
    ) -> zbus::Result<(bool, bool, HashMap<String, String>)>;
    fn cancel_check_authorization(&self, cancellation: &str) -> zbus::Result<()>;
}

/// The flag for questions to the user.
const ALLOW_USER_INTERACTION: u32 = 1;

/// The answer of polkit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Allowed.
    Yes,
    /// Not allowed.
    No,
    /// Allowed after authentication, which was not requested.
    Challenge,
}

/// A question: a bus name, an action and details for rules and the dialog.
#[derive(Debug, Clone)]
pub(crate) struct Question<'a> {
    /// The unique name of the caller.
    pub(crate) sender: &'a str,
    /// The action.
    pub(crate) action: &'a str,
    /// The details.
    pub(crate) details: &'a [(&'static str, String)],
}

/// Asks polkit. With a cancellation id, users are asked for passwords, which may take any time.
///
/// # Errors
/// There is no polkit on the bus, or it does not understand the question.
pub(crate) async fn check(
    connection: &Connection,
    question: &Question<'_>,
    cancellation: Option<&str>,
) -> Result<Answer> {
    let details = question.details.iter().map(|(key, value)| (*key, value.as_str())).collect();
    let subject = ("system-bus-name", HashMap::from([("name", Variant::from(question.sender))]));
    let flags = if cancellation.is_some() { ALLOW_USER_INTERACTION } else { 0 };
    let asked = authority(connection)
        .await?
        .check_authorization(&subject, question.action, &details, flags, cancellation.unwrap_or_default())
        .await;
    match asked {
        Ok((true, ..)) => Ok(Answer::Yes),
        Ok((false, true, _)) => Ok(Answer::Challenge),
        Ok((false, false, _)) => Ok(Answer::No),
        Err(error) => Err(bus::failure(error).context("cannot ask polkit")),
    }
}

/// Withdraws a question: the dialog closes.
pub(crate) async fn cancel(connection: &Connection, cancellation: &str) {
    if let Ok(authority) = authority(connection).await {
        // It fails if the question was answered meanwhile.
        let _ = authority.cancel_check_authorization(cancellation).await;
    }
}

async fn authority(connection: &Connection) -> Result<AuthorityProxy<'static>> {
    let builder = AuthorityProxy::builder(connection).cache_properties(CacheProperties::No);
    builder.build().await.map_err(|error| -> Error { bus::failure(error) })
}
