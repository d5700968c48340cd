//! The report of a job: its errors as one line of JSON, and the document that it prints. Written by the job, read
//! by the service.

use crate::error::{Error, ErrorName};
use rustix::fd::{AsFd, OwnedFd};
use serde::{Deserialize, Serialize};
use std::sync::OnceLock;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::UnixStream;
use tokio::net::unix::pipe::Receiver;

/// The greatest size of a report, bytes.
const REPORT: u64 = 1 << 20;
/// The greatest size of a document, bytes.
const DOCUMENT: u64 = 8 << 20;

/// The report of a job, one line of JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Report {
    /// The errors.
    errors: Vec<ReportedError>,
}

/// An error of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ReportedError {
    /// Its name for programs.
    pub(super) name: ErrorName,
    /// Its message, one line or the problems of a definition.
    pub(super) message: String,
    /// Its hint; empty if it has none.
    pub(super) hint: String,
}

/// The channel of a job that reads its standard input.
static CHANNEL: OnceLock<OwnedFd> = OnceLock::new();

/// Sets the channel for the report of this process.
pub(super) fn set_channel(channel: OwnedFd) {
    // There is one hand-over in a process.
    let _ = CHANNEL.set(channel);
}

/// Writes the report of a job to its standard input, a channel of the service, or to the channel that was handed
/// over.
pub fn report(errors: &[Error]) {
    let reported = |error: &Error| ReportedError {
        name: error.name(),
        message: error.to_string(),
        hint: error.hint().unwrap_or_default().to_owned(),
    };
    let report = Report { errors: errors.iter().map(reported).collect() };
    let Ok(mut line) = serde_json::to_vec(&report) else { return };
    line.push(b'\n');
    let channel = CHANNEL.get().map_or_else(rustix::stdio::stdin, AsFd::as_fd);
    let mut rest = line.as_slice();
    while let Ok(written @ 1..) = rustix::io::write(channel, rest) {
        rest = &rest[written..];
    }
}

/// Returns the errors of a report; none of one that is missing.
pub(super) fn errors_of(report: Option<Vec<u8>>) -> Vec<ReportedError> {
    let report: Report = report.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
    report.errors
}

/// Reads a report to its end.
pub(super) async fn read_report(channel: Option<OwnedFd>) -> Option<Vec<u8>> {
    let Some(channel) = channel.map(std::os::unix::net::UnixStream::from) else { return Some(Vec::new()) };
    channel.set_nonblocking(true).ok()?;
    read(UnixStream::from_std(channel).ok()?, REPORT).await
}

/// Reads a document to its end.
pub(super) async fn read_document(pipe: Option<OwnedFd>) -> Option<Vec<u8>> {
    let Some(pipe) = pipe else { return Some(Vec::new()) };
    read(Receiver::from_owned_fd(pipe).ok()?, DOCUMENT).await
}

/// Reads to the end. `None` if there are more bytes than allowed.
async fn read(source: impl AsyncRead + Unpin, limit: u64) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    source.take(limit + 1).read_to_end(&mut bytes).await.ok()?;
    (u64::try_from(bytes.len()).is_ok_and(|length| length <= limit)).then_some(bytes)
}
