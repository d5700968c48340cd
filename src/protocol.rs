//! The protocol of a machine's control socket, `/run/coracle/NAME/control`: Varlink calls (varlink.org) and
//! their replies, as one definition for both sides. `control` sends calls, `supervisor` receives them. Pure:
//! no I/O.

use crate::machine::network::Port;
use crate::network::firewall::TrafficPolicy;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// A call. The first ones belong to the interface of systemd for virtual machines, the last ones are
/// Coracle's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "method", content = "parameters")]
pub enum Call {
    /// Freezes all processes of the machine.
    #[serde(rename = "io.systemd.MachineInstance.Pause")]
    Pause {},
    /// Thaws them.
    #[serde(rename = "io.systemd.MachineInstance.Resume")]
    Resume {},
    /// Requests an orderly reboot.
    #[serde(rename = "io.systemd.MachineInstance.Reboot")]
    Reboot {},
    /// Requests an orderly power-off.
    #[serde(rename = "io.systemd.MachineInstance.PowerOff")]
    PowerOff {},
    /// Requests an orderly power-off; the second call kills the machine.
    #[serde(rename = "io.systemd.MachineInstance.Terminate")]
    Terminate {},
    /// Returns a [`InstanceStatus`]. SYSTEMD(263): `Describe` is another name for it.
    #[serde(rename = "io.systemd.MachineInstance.QueryStatus", alias = "io.systemd.MachineInstance.Describe")]
    Status {},
    /// A call of the interface without a meaning for a container.
    #[serde(
        rename = "io.systemd.MachineInstance.AddStorage",
        alias = "io.systemd.MachineInstance.RemoveStorage",
        alias = "io.systemd.MachineInstance.ReplaceStorage",
        alias = "io.systemd.MachineInstance.SubscribeEvents",
        alias = "io.systemd.MachineInstance.SetMemory"
    )]
    Unsupported {},
    /// Attaches to the console: bytes in both directions follow the reply.
    #[serde(rename = "io.coracle.Machine.Attach")]
    Attach(WindowSize),
    /// Sets the window size of the console.
    #[serde(rename = "io.coracle.Machine.Resize")]
    Resize(WindowSize),
    /// Replaces published ports and the traffic policy.
    #[serde(rename = "io.coracle.Machine.UpdateNetwork")]
    UpdateNetwork(NetworkUpdate),
    /// Freezes all processes of the machine until the connection of the client ends.
    #[serde(rename = "io.coracle.Machine.Hold")]
    Hold {},
    /// Any other method.
    #[serde(other)]
    Unknown,
}

/// The size of a terminal's window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct WindowSize {
    /// Lines; 0 if there is no window.
    pub(crate) rows: u16,
    /// Columns.
    pub(crate) columns: u16,
}

/// The part of a machine's network that can be replaced while it runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct NetworkUpdate {
    /// Published ports.
    pub(crate) ports: Vec<Port>,
    /// The traffic policy.
    pub(crate) bounds: TrafficPolicy,
}

/// The status of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct InstanceStatus {
    /// Whether its processes run: false if they are frozen.
    pub(crate) running: bool,
    /// One word, for example `booting` or `running`.
    pub(crate) status: String,
}

/// The parameters of a reply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Reply {
    /// The reply to [`Call::Status`].
    Status(InstanceStatus),
    /// The reply to any other call.
    Done {},
}

/// An error reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallError {
    /// The message is not a call: the connection is closed without a reply.
    Invalid,
    /// No such method.
    MethodNotFound(String),
    /// A method of the interface without an implementation.
    NotSupported,
    /// The call failed, with the message.
    Failed(String),
}

#[derive(Deserialize)]
struct RawCall {
    method: String,
    #[serde(default)]
    parameters: Option<Value>,
}

impl Call {
    /// Parses a call, without the NUL that ends it.
    ///
    /// # Errors
    /// [`CallError::Invalid`] for malformed JSON or parameters, an error reply for a method that cannot be
    /// called.
    pub fn parse(message: &[u8]) -> Result<Self, CallError> {
        let RawCall { method, parameters } =
            serde_json::from_slice(message).map_err(|_| CallError::Invalid)?;
        // Without parameters only an unknown method is complete: known ones need at least an empty object.
        if let Ok(Self::Unknown) = serde_json::from_value(json!({ "method": method })) {
            return Err(CallError::MethodNotFound(method));
        }
        let parameters = parameters.unwrap_or_else(|| json!({}));
        match serde_json::from_value(json!({ "method": method, "parameters": parameters })) {
            Ok(Self::Unsupported {}) => Err(CallError::NotSupported),
            Ok(call) => Ok(call),
            Err(_) => Err(CallError::Invalid),
        }
    }

    /// Returns the method and its parameters, as a Varlink client sends them.
    pub(crate) fn into_parts(self) -> (String, Value) {
        let mut message = serde_json::to_value(self).unwrap_or_default();
        let method = message.get("method").and_then(Value::as_str).unwrap_or_default().to_owned();
        (method, message.get_mut("parameters").map(Value::take).unwrap_or_else(|| json!({})))
    }
}

/// Returns the message of a reply. `None` if the call is not answered.
pub(crate) fn message(reply: &Result<Reply, CallError>) -> Option<Value> {
    Some(match reply {
        Ok(reply) => json!({ "parameters": reply }),
        Err(CallError::Invalid) => return None,
        Err(CallError::MethodNotFound(method)) => {
            json!({ "error": "org.varlink.service.MethodNotFound", "parameters": { "method": method } })
        }
        Err(CallError::NotSupported) => {
            json!({ "error": "io.systemd.MachineInstance.NotSupported", "parameters": {} })
        }
        Err(CallError::Failed(text)) => {
            json!({ "error": "io.coracle.Machine.Failed", "parameters": { "message": text } })
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Call, CallError> {
        Call::parse(text.as_bytes())
    }

    #[test]
    fn a_call_is_parsed_with_and_without_parameters() {
        assert_eq!(parse(r#"{"method":"io.systemd.MachineInstance.Pause"}"#), Ok(Call::Pause {}));
        assert_eq!(
            parse(r#"{"method":"io.systemd.MachineInstance.Pause","parameters":{}}"#),
            Ok(Call::Pause {})
        );
        assert_eq!(parse(r#"{"method":"io.systemd.MachineInstance.Describe"}"#), Ok(Call::Status {}));
        assert_eq!(
            parse(r#"{"method":"io.coracle.Machine.Attach"}"#),
            Ok(Call::Attach(WindowSize::default()))
        );
        let attach = r#"{"method":"io.coracle.Machine.Attach","parameters":{"rows":5,"columns":9}}"#;
        assert_eq!(parse(attach), Ok(Call::Attach(WindowSize { rows: 5, columns: 9 })));
    }

    #[test]
    fn a_malformed_call_is_invalid() {
        for message in ["", "{", "[]", r#"{"method":7}"#, "\u{0}", &"[".repeat(4000)] {
            assert_eq!(parse(message), Err(CallError::Invalid), "{message}");
        }
        let update = r#"{"method":"io.coracle.Machine.UpdateNetwork","parameters":{"ports":7}}"#;
        assert_eq!(parse(update), Err(CallError::Invalid));
    }

    #[test]
    fn a_method_that_cannot_be_called_has_an_error_reply() {
        for parameters in ["", r#","parameters":{"x":1}"#] {
            let unknown = parse(&format!(r#"{{"method":"a.b"{parameters}}}"#));
            assert_eq!(unknown, Err(CallError::MethodNotFound("a.b".into())));
        }
        let storage = r#"{"method":"io.systemd.MachineInstance.AddStorage","parameters":{"name":"x"}}"#;
        assert_eq!(parse(storage), Err(CallError::NotSupported));
    }

    #[test]
    fn a_client_sends_what_the_supervisor_parses() {
        let update = NetworkUpdate { ports: Vec::new(), bounds: TrafficPolicy::default() };
        let size = WindowSize { rows: 5, columns: 9 };
        for call in [Call::Pause {}, Call::Resize(size), Call::UpdateNetwork(update)] {
            let (method, parameters) = call.clone().into_parts();
            let message = json!({ "method": method, "parameters": parameters }).to_string();
            assert_eq!(parse(&message), Ok(call));
        }
    }

    #[test]
    fn replies_have_their_parameters() {
        let status = InstanceStatus { running: true, status: "running".into() };
        let reply = message(&Ok(Reply::Status(status))).unwrap();
        assert_eq!(reply, json!({ "parameters": { "running": true, "status": "running" } }));
        assert_eq!(message(&Ok(Reply::Done {})), Some(json!({ "parameters": {} })));
        assert_eq!(message(&Err(CallError::Invalid)), None);
    }
}
