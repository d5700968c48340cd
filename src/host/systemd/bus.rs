//! The system bus: connections with a timeout, and conversion of its errors. Used by the files for single
//! services. A connection lasts for one exchange: dbus-daemon refuses the 257th of one user, so machines do
//! not keep one.

use crate::error::{Error, Result};
use std::time::Duration;
use zbus::DBusError;

/// The timeout of connecting, and the default one of a call.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// The greatest number of unread messages. A full queue would delay replies too, and a booting host sends
/// hundreds of signals.
const QUEUE: usize = 4096;

/// Connects to the system bus; every later call fails after `call_timeout`.
///
/// # Errors
/// There is no bus, or it does not reply.
pub(crate) async fn connect(call_timeout: Duration) -> Result<zbus::Connection> {
    built(zbus::connection::Builder::system().method_timeout(call_timeout)).await
}

/// Connects to the system bus; calls may take any time, because users are asked for passwords meanwhile.
///
/// # Errors
/// There is no bus, or it does not reply.
pub(crate) async fn connect_for_questions() -> Result<zbus::Connection> {
    built(zbus::connection::Builder::system()).await
}

async fn built(builder: zbus::connection::Builder<'_>) -> Result<zbus::Connection> {
    let connecting = builder.max_queued(queue()).build();
    match tokio::time::timeout(PATIENCE, connecting).await {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(error)) => Err(failure(error).context("cannot connect to the system bus")),
        Err(_) => Err(Error::new(format!("the system bus did not reply within {} s", PATIENCE.as_secs()))),
    }
}

/// Returns whether a service is on the bus. `false` without a bus. The service is not started.
pub(crate) async fn has_owner(service: &str) -> bool {
    let owner = async {
        let connection = connect(PATIENCE).await.ok()?;
        let bus = zbus::fdo::DBusProxy::new(&connection).await.ok()?;
        bus.name_has_owner(service.try_into().ok()?).await.ok()
    };
    owner.await.unwrap_or(false)
}

/// [`QUEUE`] in the type required by zbus.
fn queue() -> std::num::NonZeroUsize {
    std::num::NonZeroUsize::new(QUEUE).unwrap_or(std::num::NonZeroUsize::MIN)
}

/// Returns a name as a part of an object path: all but letters and digits as `_` and two hexadecimal digits
/// (sd_bus_path_encode(3)).
pub(crate) fn label(name: &str) -> String {
    let escape = |(place, byte): (usize, u8)| match byte {
        b'0'..=b'9' if place > 0 => char::from(byte).to_string(),
        b'a'..=b'z' | b'A'..=b'Z' => char::from(byte).to_string(),
        other => format!("_{other:02x}"),
    };
    name.bytes().enumerate().map(escape).collect()
}

/// Returns the D-Bus name of an error reply (`org.freedesktop.…`). `None` if there was no reply.
pub(crate) fn error_name(error: &zbus::Error) -> Option<String> {
    match error {
        zbus::Error::MethodError(name, ..) => Some(name.to_string()),
        zbus::Error::FDO(error) => match &**error {
            zbus::fdo::Error::ZBus(inner) => error_name(inner),
            other => Some(other.name().to_string()),
        },
        _ => None,
    }
}

/// Returns the text of an error reply, with all its lines. `None` if there is none.
pub(crate) fn error_text(error: &zbus::Error) -> Option<String> {
    match error {
        zbus::Error::MethodError(_, text, _) => text.clone(),
        zbus::Error::FDO(error) => match &**error {
            zbus::fdo::Error::ZBus(inner) => error_text(inner),
            other => other.description().map(str::to_owned),
        },
        _ => None,
    }
}

/// Converts an error of the bus: the text of the reply, or its D-Bus name if it has no text. A refusal for
/// missing rights has a hint.
pub(crate) fn failure(error: zbus::Error) -> Error {
    let refusals = ["AccessDenied", "InteractiveAuthorizationRequired"];
    let name = error_name(&error).unwrap_or_default();
    let error = described(error);
    let is_refusal = refusals.iter().any(|refusal| name.ends_with(refusal));
    if is_refusal && !rustix::process::geteuid().is_root() {
        error.with_hint("run it with sudo(8)")
    } else {
        error
    }
}

fn described(error: zbus::Error) -> Error {
    let text = match &error {
        zbus::Error::MethodError(name, text, _) => text.clone().unwrap_or_else(|| name.to_string()),
        zbus::Error::InputOutput(error) => {
            return Error::from(std::io::Error::new(error.kind(), error.to_string()));
        }
        zbus::Error::FDO(inner) => match &**inner {
            zbus::fdo::Error::ZBus(inner) => return described(inner.clone()),
            other => other.description().unwrap_or("the call failed").to_owned(),
        },
        other => other.to_string(),
    };
    Error::new(one_line(&text))
}

/// Converts text of another program for a message: one line, no full stop, lower case at the beginning of a
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
    fn errors_of_services_become_one_line() {
        let error = zbus::fdo::Error::UnknownMethod("Unknown method 'X'.".into());
        let error = zbus::Error::FDO(Box::new(error));
        assert_eq!(error_name(&error).as_deref(), Some("org.freedesktop.DBus.Error.UnknownMethod"));
        assert_eq!(failure(error).to_string(), "unknown method 'X'");
        assert_eq!(one_line("PID 7\nis gone."), "PID 7 is gone");
    }
}
