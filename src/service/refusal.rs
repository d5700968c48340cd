//! Error replies of the service: a name on the bus, the message of the command line, and the hint as a second
//! line.

use crate::error::{Error, ErrorName};
use crate::host::systemd::journal::printable;
use zbus::message::{Header, Message};

/// An error reply.
#[derive(Debug)]
pub(super) struct Refusal {
    name: &'static str,
    text: String,
}

/// The bus's own error for a caller without the right.
const ACCESS_DENIED: &str = "org.freedesktop.DBus.Error.AccessDenied";
/// The bus's own error for a call that would be allowed after authentication.
const AUTHENTICATION_REQUIRED: &str = "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired";

impl Refusal {
    /// Creates the reply to a caller without the right.
    pub(super) fn denied(error: &Error) -> Self {
        Self { name: ACCESS_DENIED, text: text(error) }
    }

    /// Creates the reply to a call that needs authentication and does not allow it.
    pub(super) fn authentication_required(error: &Error) -> Self {
        Self { name: AUTHENTICATION_REQUIRED, text: text(error) }
    }

    /// Creates the reply of a named error.
    pub(super) fn of(name: ErrorName, message: &str, hint: &str) -> Self {
        let text = if hint.is_empty() { message.to_owned() } else { format!("{message}\n{hint}") };
        Self { name: name.on_bus(), text: printable(text.as_bytes()) }
    }
}

fn text(error: &Error) -> String {
    match error.hint() {
        Some(hint) => printable(format!("{error}\n{hint}").as_bytes()),
        None => printable(error.to_string().as_bytes()),
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self { name: error.name().on_bus(), text: text(&error) }
    }
}

impl zbus::DBusError for Refusal {
    fn create_reply(&self, call: &Header<'_>) -> zbus::Result<Message> {
        Message::error(call, self.name).build(&(self.text.as_str(),))
    }

    fn name(&self) -> zbus::names::ErrorName<'_> {
        zbus::names::ErrorName::from_static_str_unchecked(self.name)
    }

    fn description(&self) -> Option<&str> {
        Some(&self.text)
    }
}
