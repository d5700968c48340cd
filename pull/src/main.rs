//! Fetches one document or blob from a registry (OCI distribution specification 1.1), as a process without any rights:
//! its parent, `coracle pull`, has made it nobody without capabilities, and the host's files read-only. It reads a
//! request from standard input and writes the head of the reply as one line, then the body, to standard output. It
//! checks no digest: its parent trusts nothing that it writes.

mod challenge;
mod fetch;
mod message;
mod tls;

use message::{Failure, Head, Request};
use std::io::{Read, Write};

/// The longest request, bytes.
const LONGEST: u64 = 4 << 20;

fn main() {
    let mut text = Vec::new();
    let mut output = std::io::stdout().lock();
    let done = std::io::stdin()
        .lock()
        .take(LONGEST)
        .read_to_end(&mut text)
        .map_err(|error| error.to_string())
        .and_then(|_| serde_json::from_slice::<Request>(&text).map_err(|error| error.to_string()))
        .map_err(Failure::from)
        .and_then(|request| fetch::fetch(&request, &mut output));
    if let Err(Failure { text, is_transient }) = done {
        let head = Head { error: Some(text), is_transient, ..Head::default() };
        let head = serde_json::to_string(&head).unwrap_or_default();
        let _ = writeln!(output, "{head}");
        let _ = output.flush();
        std::process::exit(1);
    }
}
