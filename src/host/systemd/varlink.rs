//! Varlink calls (varlink.org): a JSON object and a NUL each way over a stream socket. Called by
//! `machined` and by verbs that speak to a supervisor; the supervisor's own side is in its loop.

use crate::error::{Context, Error, Result};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest answer, bytes.
const LONGEST: usize = 64 << 10;

/// An error that was answered, by its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The name of the error.
    pub name: String,
    /// What it says, where it says something.
    pub text: String,
}

/// Connects to a service.
///
/// # Errors
/// Nobody listens.
pub fn connect(path: &Path) -> Result<UnixStream> {
    UnixStream::connect(path).context(|| format!("cannot speak to '{}'", path.display()))
}

/// Calls a method and waits for its answer.
///
/// # Errors
/// One that was answered, or none.
pub fn call(stream: &mut UnixStream, method: &str, parameters: &Value) -> Result<Value> {
    try_call(stream, method, parameters)?.map_err(|refused| {
        let text = if refused.text.is_empty() { refused.name } else { refused.text };
        Error::new(text)
    })
}

/// The same, with an error that was answered as a value.
///
/// # Errors
/// No answer.
pub fn try_call(
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
    // Byte for byte: what follows the answer may be no message any more.
    let mut byte = [0u8];
    loop {
        match stream.read(&mut byte) {
            Ok(1) if byte[0] == 0 => break,
            Ok(1) if answer.len() < LONGEST => answer.push(byte[0]),
            Ok(_) => return Err(Error::new("the answer has no end").context(asking())),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error).context(asking),
        }
    }
    stream.set_read_timeout(None).context(asking)?;
    let mut answer: Value = serde_json::from_slice(&answer)
        .map_err(|error| Error::new(format!("strange answer: {error}")).context(asking()))?;
    let parameters = answer.get_mut("parameters").map(Value::take).unwrap_or_default();
    Ok(match answer.get("error").and_then(Value::as_str) {
        None => Ok(parameters),
        Some(name) => {
            let text = parameters.get("message").and_then(Value::as_str).unwrap_or_default();
            Err(Refused { name: name.to_owned(), text: text.to_owned() })
        }
    })
}
