//! Varlink calls (varlink.org): a JSON object and a NUL in each direction of a stream socket. Called by
//! `machined` and by verbs that call a supervisor; the supervisor's side is in its loop.

use crate::error::{Context, Error, Result};
use rustix::net::RecvFlags;
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
    let answer = receive(stream).context(asking)?;
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

/// Receives a reply without its NUL. Data after it may not be a message and stays in the socket.
fn receive(stream: &mut UnixStream) -> Result<Vec<u8>> {
    let mut answer = Vec::new();
    let mut chunk = [0; 4096];
    while answer.len() < LONGEST {
        let count = match rustix::net::recv(&*stream, &mut chunk, RecvFlags::PEEK) {
            Err(rustix::io::Errno::INTR) => continue,
            received => received?.0,
        };
        let there = chunk.get_mut(..count).unwrap_or_default();
        let end = there.iter().position(|byte| *byte == 0);
        let taken = there.get_mut(..end.map_or(count, |end| end + 1)).unwrap_or_default();
        stream.read_exact(taken)?;
        answer.extend_from_slice(taken);
        if end.is_some() {
            answer.pop();
            return Ok(answer);
        }
        if count == 0 {
            break;
        }
    }
    Err(Error::new("the reply is incomplete or too long"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_after_a_reply_stays_in_the_socket() {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        let text = "x".repeat(5000);
        theirs.write_all(format!("{{\"parameters\":{{\"a\":\"{text}\"}}}}\0raw").as_bytes()).unwrap();
        assert_eq!(call(&mut ours, "a.b", &json!({})).unwrap()["a"], text.as_str());
        let mut rest = [0; 3];
        ours.read_exact(&mut rest).unwrap();
        assert_eq!(&rest, b"raw");
    }

    #[test]
    fn an_incomplete_or_endless_reply_is_an_error() {
        for text in [&b""[..], b"{\"parameters\"", &vec![b'x'; LONGEST + 4096]] {
            let (mut ours, mut theirs) = UnixStream::pair().unwrap();
            theirs.write_all(text).unwrap();
            theirs.shutdown(std::net::Shutdown::Write).unwrap();
            let error = call(&mut ours, "a.b", &json!({})).unwrap_err();
            assert!(error.to_string().contains("incomplete or too long"), "{error}");
        }
    }
}
