//! Varlink calls (varlink.org): a JSON object and a NUL in each direction of a stream socket. Called by
//! `machined` and by verbs that call a supervisor; the supervisor's side is in its loop.

use crate::error::{Context, Error, Result};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// The timeout of a reply.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest reply, in bytes.
const LONGEST: usize = 64 << 10;

/// An error reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refused {
    /// The name of the error.
    pub(crate) name: String,
    /// Its text, empty if it has none.
    pub(crate) text: String,
}

/// Connects to a service.
///
/// # Errors
/// No process listens at the socket.
pub(crate) fn connect(path: &Path) -> Result<UnixStream> {
    UnixStream::connect(path).context(|| format!("cannot speak to '{}'", path.display()))
}

/// Calls a method and waits for its reply.
///
/// # Errors
/// An error reply, or no reply.
pub(crate) fn call(stream: &mut UnixStream, method: &str, parameters: &Value) -> Result<Value> {
    try_call(stream, method, parameters)?.map_err(|refused| {
        let text = if refused.text.is_empty() { refused.name } else { refused.text };
        Error::new(text)
    })
}

/// Calls a method and returns an error reply as a value.
///
/// # Errors
/// There is no reply.
pub(crate) fn try_call(
    stream: &mut UnixStream,
    method: &str,
    parameters: &Value,
) -> Result<std::result::Result<Value, Refused>> {
    let asking = || format!("cannot call '{method}'");
    let mut message = json!({ "method": method, "parameters": parameters }).to_string().into_bytes();
    message.push(0);
    stream.set_read_timeout(Some(PATIENCE)).context(asking)?;
    stream.write_all(&message).context(asking)?;
    let mut answer = Vec::new();
    // Byte for byte: data after the reply may not be a message.
    let mut byte = [0u8];
    loop {
        match stream.read(&mut byte) {
            Ok(1) if byte[0] == 0 => break,
            Ok(1) if answer.len() < LONGEST => answer.push(byte[0]),
            Ok(_) => return Err(Error::new("the reply is incomplete or too long").context(asking())),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error).context(asking),
        }
    }
    stream.set_read_timeout(None).context(asking)?;
    let mut answer: Value = serde_json::from_slice(&answer)
        .map_err(|error| Error::new(format!("invalid reply: {error}")).context(asking()))?;
    let parameters = answer.get_mut("parameters").map(Value::take).unwrap_or_default();
    Ok(match answer.get("error").and_then(Value::as_str) {
        None => Ok(parameters),
        Some(name) => {
            let text = parameters.get("message").and_then(Value::as_str).unwrap_or_default();
            Err(Refused { name: name.to_owned(), text: text.to_owned() })
        }
    })
}
