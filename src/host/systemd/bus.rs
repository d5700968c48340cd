//! The system bus: connecting with a time bound, and its errors in our words. Used by the files
//! that speak to one service each. A connection lives for one exchange: dbus-daemon refuses the
//! 257th of one user, so no machine keeps one.

use crate::error::{Error, Result};
use std::time::Duration;
use zbus::DBusError;

/// How long connecting, and where nothing slower is said a call, may take.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Messages that may wait unread. A full queue would stop replies too, and a booting host sends
/// hundreds of signals.
const QUEUE: usize = 4096;

/// Connects to the system bus; every later call fails after `call_timeout`.
///
/// # Errors
/// Where there is no bus or it does not answer.
pub async fn connect(call_timeout: Duration) -> Result<zbus::Connection> {
    let connecting =
        zbus::connection::Builder::system().max_queued(queue()).method_timeout(call_timeout).build();
    match tokio::time::timeout(PATIENCE, connecting).await {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(error)) => Err(failure(error).context("cannot connect to the system bus")),
        Err(_) => Err(Error::new(format!("the system bus did not answer within {} s", PATIENCE.as_secs()))),
    }
}

/// [`QUEUE`] as zbus wants it.
fn queue() -> std::num::NonZeroUsize {
    std::num::NonZeroUsize::new(QUEUE).unwrap_or(std::num::NonZeroUsize::MIN)
}

/// The D-Bus name of an error reply (`org.freedesktop.…`), or nothing where no reply came.
pub fn error_name(error: &zbus::Error) -> Option<String> {
    match error {
        zbus::Error::MethodError(name, ..) => Some(name.to_string()),
        zbus::Error::FDO(error) => match &**error {
            zbus::fdo::Error::ZBus(inner) => error_name(inner),
            other => Some(other.name().to_string()),
        },
        _ => None,
    }
}

/// An error of the bus as ours: the text of the reply, without its D-Bus name where it has text.
pub fn failure(error: zbus::Error) -> Error {
    let text = match &error {
        zbus::Error::MethodError(name, text, _) => text.clone().unwrap_or_else(|| name.to_string()),
        zbus::Error::InputOutput(error) => {
            return Error::from(std::io::Error::new(error.kind(), error.to_string()));
        }
        zbus::Error::FDO(inner) => match &**inner {
            zbus::fdo::Error::ZBus(inner) => return failure(inner.clone()),
            other => other.description().unwrap_or("the call failed").to_owned(),
        },
        other => other.to_string(),
    };
    Error::new(one_line(&text))
}

/// Text of others as part of our messages: one line, no full stop, lower case where it begins as a
/// sentence.
fn one_line(text: &str) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ").replace('`', "'");
    let text = text.split(" (os error").next().unwrap_or_default().trim_end_matches('.');
    let mut letters = text.chars();
    match (letters.next(), text.chars().nth(1)) {
        (Some(first), Some(second)) if first.is_uppercase() && !second.is_uppercase() => {
            first.to_lowercase().chain(letters).collect()
        }
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_services_read_like_ours() {
        let error = zbus::fdo::Error::UnknownMethod("Unknown method 'X'.".into());
        let error = zbus::Error::FDO(Box::new(error));
        assert_eq!(error_name(&error).as_deref(), Some("org.freedesktop.DBus.Error.UnknownMethod"));
        assert_eq!(failure(error).to_string(), "unknown method 'X'");
        assert_eq!(one_line("PID 7\nis gone."), "PID 7 is gone");
    }
}
