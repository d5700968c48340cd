//! Extracts a stream by three processes: this one reads the source and computes its digest, the decoder has two
//! pipes and nothing else, the extractor writes the draft. The digest is taken before both parsers; of a layer, a
//! fourth process takes that of the decoded stream between them. Called by `import`.

use super::bzip2;
use super::compression::{self, Compression};
use super::decode::{self, DecoderExit};
use super::digester::{self, Digester};
use super::extractor::{self, Extracted, ExtractorInput, LONGEST_MESSAGE, Message, StreamUse};
use crate::error::{Context, Error, Result};
use crate::sys::descriptor;
use crate::sys::process::{self, Child, Ended, Side};
use crate::tree::copy::CopyProgress;
use crate::tree::tar::policy::Limits;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::Read;

/// The bytes per read of the source.
const PART: usize = 256 << 10;
/// The time between two checks for an interruption.
const INTERVAL: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// The namespaces of the extractor that the host owns; it creates the other ones itself.
const NAMESPACES: i32 = libc::CLONE_NEWPID | libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;

/// Where a stream is extracted to.
pub(super) struct Destination {
    /// The draft, a detached mount.
    pub(super) draft: OwnedFd,
    /// The user namespace with the ids of the extractor.
    pub(super) users: OwnedFd,
    /// The limits of the tree.
    pub(super) limits: Limits,
    /// Whether the ratio of output and input is limited.
    pub(super) limits_ratio: bool,
    /// The use of the stream.
    pub(super) stream_use: StreamUse,
}

/// An extracted stream.
#[derive(Debug)]
pub(super) struct ExtractedStream {
    /// The output of the extractor.
    pub(super) extracted: Extracted,
    /// The compression of the source.
    pub(super) compression: Compression,
    /// The SHA-256 digest of the source, hexadecimal.
    pub(super) digest: String,
    /// That of the decoded stream of a layer, or of a stream that is not compressed.
    pub(super) decoded_digest: Option<String>,
}

/// A child that is killed when it is dropped.
pub(super) struct Killed(Option<OwnedFd>);

impl Killed {
    pub(super) fn of(child: Child) -> Self {
        Self(Some(child.pidfd))
    }

    pub(super) fn wait(mut self) -> Result<Ended> {
        let child = self.0.take().ok_or_else(|| Error::new("the child has ended"))?;
        process::wait(child.as_fd())
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        process::kill_child(self.0.take());
    }
}

/// Extracts a source. `progress` is called with the bytes read from it.
///
/// # Errors
/// A source that cannot be read, decoded or extracted.
pub(super) fn extract(
    source: &mut File,
    to: Destination,
    progress: &mut CopyProgress<'_>,
) -> Result<ExtractedStream> {
    let mut head = [0; compression::LONGEST];
    let mut feed = Feed { source, digest: Sha256::new(), bytes: 0, progress };
    let head = feed.read_head(&mut head)?;
    let compression = Compression::of(head);
    let ((first, input), (messages, report)) = (pipe()?, pipe()?);
    let (decoder, digester, stream) = start_readers(compression, first, &to)?;
    let Destination { draft, users, limits, stream_use, .. } = to;
    let extractor = match process::clone(u64::from(NAMESPACES.cast_unsigned()), None)? {
        Side::Parent(child) => Killed::of(child),
        Side::Child => {
            process::die_with_parent();
            descriptor::close_copy(input.as_fd());
            std::mem::forget(input);
            extractor::run(ExtractorInput { stream, draft, users, limits, stream_use }, report)
        }
    };
    drop((stream, draft, users, report));
    let (end, message) = feed.run(head, input, messages)?;
    let digest = digester::hex(&feed.digest.finalize());
    let decoded = match end {
        // The decoder may wait for the source: it is killed.
        FeedEnd::Reported => decoder.map(drop).and(None),
        FeedEnd::Source | FeedEnd::Closed => decoder.map(Killed::wait).transpose()?,
    };
    let extracted = result(message, extractor.wait()?, decoded, compression)?;
    let decoded_digest = match digester {
        Some(digester) => Some(digester.finish()?),
        None => (compression == Compression::Plain).then(|| digest.clone()),
    };
    Ok(ExtractedStream { extracted, compression, digest, decoded_digest })
}

/// Creates a pipe.
///
/// # Errors
/// Any error of pipe(2).
pub(super) fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    pipe_with(PipeFlags::CLOEXEC).context(|| "cannot create a pipe")
}

/// Starts the processes before the extractor. Returns them with the decoded stream.
fn start_readers(
    compression: Compression,
    first: OwnedFd,
    to: &Destination,
) -> Result<(Option<Killed>, Option<Digester>, OwnedFd)> {
    if compression == Compression::Plain {
        return Ok((None, None, first));
    }
    let (stream, decoded) = pipe()?;
    let decoder = Some(start_decoder(compression, first, decoded, to.limits_ratio)?);
    if to.stream_use == StreamUse::Image {
        return Ok((decoder, None, stream));
    }
    let (digester, stream) = Digester::start(stream)?;
    Ok((decoder, Some(digester), stream))
}

/// Starts the decoder between two pipes.
///
/// # Errors
/// Any error of clone3(2).
pub(super) fn start_decoder(
    compression: Compression,
    from: OwnedFd,
    to: OwnedFd,
    limits_ratio: bool,
) -> Result<Killed> {
    if compression == Compression::Bzip2 {
        return bzip2::start(&from, &to).map(Killed::of);
    }
    match process::clone(0, None)? {
        Side::Parent(child) => Ok(Killed::of(child)),
        Side::Child => {
            let mut kept = [from.as_raw_fd(), to.as_raw_fd()];
            kept.sort_unstable();
            descriptor::close_all_but(&kept);
            decode::run(compression, from, to, limits_ratio)
        }
    }
}

/// The end of the source on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FeedEnd {
    /// The source was read.
    Source,
    /// The reader of the first pipe has ended.
    Closed,
    /// The extractor has reported or ended, and the decoder has not.
    Reported,
}

/// The parent's ends of the pipes to the children.
struct Pipes<'a> {
    input: &'a OwnedFd,
    messages: &'a File,
}

/// The source on its way into the first pipe.
struct Feed<'a, 'p> {
    source: &'a mut File,
    digest: Sha256,
    bytes: u64,
    progress: &'a mut CopyProgress<'p>,
}

impl Feed<'_, '_> {
    /// Reads the first bytes of the source.
    fn read_head<'b>(&mut self, head: &'b mut [u8; compression::LONGEST]) -> Result<&'b [u8]> {
        let mut length = 0;
        while let Some(place) = head.get_mut(length..).filter(|place| !place.is_empty()) {
            match self.read(place, None)? {
                Ok(0) | Err(_) => break,
                Ok(read) => length += read,
            }
        }
        Ok(head.get(..length).unwrap_or_default())
    }

    /// Reads from the source, which may be a pipe that has nothing for long. Returns the end if the children do not
    /// wait for it any more.
    fn read(
        &mut self,
        place: &mut [u8],
        pipes: Option<&Pipes<'_>>,
    ) -> Result<std::result::Result<usize, FeedEnd>> {
        loop {
            let mut polled = vec![PollFd::new(&*self.source, PollFlags::IN)];
            if let Some(Pipes { input, messages }) = pipes {
                // An error of the input is always reported: it has no reader.
                polled.push(PollFd::new(*input, PollFlags::empty()));
                polled.push(PollFd::new(*messages, PollFlags::IN));
            }
            let ready = poll(&mut polled, Some(&INTERVAL));
            let has_event = |index: usize| polled.get(index).is_some_and(|end| !end.revents().is_empty());
            let (is_closed, has_reported) = (has_event(1), has_event(2));
            match ready {
                Ok(0) | Err(Errno::INTR) => (self.progress)(self.bytes)?,
                Err(errno) => return Err(errno).context(|| "cannot wait for the source"),
                Ok(_) if is_closed => return Ok(Err(FeedEnd::Closed)),
                Ok(_) if has_reported => return Ok(Err(FeedEnd::Reported)),
                Ok(_) => match self.source.read(place) {
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                    read => return read.map(Ok).context(|| "cannot read the source"),
                },
            }
        }
    }

    /// Writes the whole source to `input`, and returns its end and the message of the extractor.
    fn run(&mut self, head: &[u8], input: OwnedFd, messages: OwnedFd) -> Result<(FeedEnd, Vec<u8>)> {
        rustix::io::ioctl_fionbio(&input, true).context(|| "cannot set a pipe up")?;
        let mut message = Vec::new();
        let mut part = vec![0; PART];
        let mut messages = File::from(messages);
        let mut is_open = self.send(head, &input)?;
        let end = loop {
            if !is_open {
                break FeedEnd::Closed;
            }
            match self.read(&mut part, Some(&Pipes { input: &input, messages: &messages }))? {
                Ok(0) => break FeedEnd::Source,
                Ok(length) => is_open = self.send(part.get(..length).unwrap_or_default(), &input)?,
                Err(end) => break end,
            }
        };
        drop(input);
        while self.wait(&messages, PollFlags::IN)? {
            let length = messages.read(&mut part).context(|| "cannot receive from the extractor")?;
            if length == 0 || message.len() > LONGEST_MESSAGE {
                break;
            }
            message.extend_from_slice(part.get(..length).unwrap_or_default());
        }
        Ok((end, message))
    }

    /// Sends a part. Returns false if the other end is closed.
    fn send(&mut self, part: &[u8], input: &OwnedFd) -> Result<bool> {
        self.digest.update(part);
        self.bytes += part.len() as u64;
        (self.progress)(self.bytes)?;
        let mut rest = part;
        while !rest.is_empty() {
            match rustix::io::write(input, rest) {
                Ok(length) => rest = rest.get(length..).unwrap_or_default(),
                Err(Errno::PIPE) => return Ok(false),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    self.wait(input, PollFlags::OUT)?;
                }
                Err(errno) => return Err(errno).context(|| "cannot send to the decoder"),
            }
        }
        Ok(true)
    }

    /// Waits for a descriptor, and for an interruption.
    fn wait(&mut self, descriptor: &impl AsFd, flags: PollFlags) -> Result<bool> {
        loop {
            match poll(&mut [PollFd::new(descriptor, flags)], Some(&INTERVAL)) {
                Ok(0) | Err(Errno::INTR) => (self.progress)(self.bytes)?,
                ready => return ready.map(|_| true).context(|| "cannot wait for the extractor"),
            }
        }
    }
}

/// Returns what the extractor has written, if both children have done their work.
fn result(
    message: Vec<u8>,
    extractor: Ended,
    decoder: Option<Ended>,
    compression: Compression,
) -> Result<Extracted> {
    let message: Option<Message> = serde_json::from_slice(&message).ok();
    // The end of the decoder is the cause of a truncated archive, not its effect.
    let message = message.filter(|_| extractor == Ended::Exited(0));
    let has_reader = matches!(message, Some(Ok(_)));
    let decoded = decoder.and_then(|ended| decoder_error(ended, compression, has_reader)).map_or(Ok(()), Err);
    match message {
        Some(Ok(extracted)) => decoded.map(|()| extracted),
        Some(Err((text, hint))) => {
            decoded?;
            let error = Error::new(text);
            Err(hint.into_iter().fold(error, Error::with_hint))
        }
        None => {
            decoded?;
            Err(Error::new(format!("the extractor {}", describe(extractor)))
                .with_hint("it has too little memory, or the archive is hostile"))
        }
    }
}

/// Returns the error of a decoder. `None` if it is done, or if its reader has ended first: `has_reader` is false if
/// that is possible.
pub(super) fn decoder_error(ended: Ended, compression: Compression, has_reader: bool) -> Option<Error> {
    let name = compression.name();
    let exit = match ended {
        Ended::Exited(status) if compression == Compression::Bzip2 => match status {
            0 => return None,
            bzip2::CANNOT_WRITE if !has_reader => return None,
            status if status == DecoderExit::Setup as i32 => DecoderExit::Setup,
            _ => DecoderExit::Corrupt,
        },
        Ended::Killed(libc::SIGPIPE) => return None,
        Ended::Exited(status) if DecoderExit::of(status).is_some() => DecoderExit::of(status)?,
        ended => {
            return Some(
                Error::new(format!("the decoder of {name} {}", describe(ended)))
                    .with_hint("it has too little memory, or the file is hostile"),
            );
        }
    };
    let again = "it is incomplete or damaged: create or download it again";
    match exit {
        DecoderExit::Done | DecoderExit::Closed => None,
        DecoderExit::Corrupt => Some(Error::new(format!("the {name} stream is corrupt")).with_hint(again)),
        DecoderExit::Truncated => {
            Some(Error::new(format!("the {name} stream is truncated")).with_hint(again))
        }
        DecoderExit::Ratio => Some(
            Error::new(format!("the {name} stream is more than a thousand times larger when decoded"))
                .with_hint("if that is right, set a limit: --max-size=SIZE"),
        ),
        DecoderExit::Setup => Some(Error::new("cannot confine the decoder")),
    }
}

fn describe(ended: Ended) -> String {
    match ended {
        Ended::Exited(status) => format!("exited with status {status}"),
        Ended::Killed(signal) => format!("was killed by signal {signal}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cause(message: &Message, decoder: Ended, compression: Compression) -> String {
        let message = serde_json::to_vec(message).unwrap();
        result(message, Ended::Exited(0), Some(decoder), compression).unwrap_err().to_string()
    }

    #[test]
    fn a_refusal_is_the_cause_and_not_its_effect_on_the_decoder() {
        let refusal: Message = Err(("it is refused".into(), None));
        let (closed, corrupt) = (DecoderExit::Closed as i32, DecoderExit::Corrupt as i32);
        for (decoder, compression, expected) in [
            (Ended::Exited(bzip2::CANNOT_WRITE), Compression::Bzip2, "it is refused"),
            (Ended::Exited(2), Compression::Bzip2, "the bzip2 stream is corrupt"),
            (Ended::Exited(DecoderExit::Setup as i32), Compression::Bzip2, "cannot confine the decoder"),
            (Ended::Exited(closed), Compression::Gzip, "it is refused"),
            (Ended::Exited(corrupt), Compression::Gzip, "the gzip stream is corrupt"),
        ] {
            assert_eq!(cause(&refusal, decoder, compression), expected, "{decoder:?}");
        }
        let extracted: Message = Ok(Extracted {
            content: extractor::StreamContent::Tree,
            entries: 1,
            bytes: 1,
            left_out: crate::tree::tar::policy::LeftOut::default(),
            marks: extractor::LayerMarks::default(),
        });
        let error = cause(&extracted, Ended::Exited(bzip2::CANNOT_WRITE), Compression::Bzip2);
        assert_eq!(error, "the bzip2 stream is corrupt");
    }

    /// Runs a feed from a source that has nothing and does not end.
    fn end_of_silent_source(has_decoder: bool, message: &[u8]) -> (FeedEnd, Vec<u8>) {
        let pipe = || pipe_with(PipeFlags::CLOEXEC).unwrap();
        let ((source, _silent), (decoder, input), (messages, report)) = (pipe(), pipe(), pipe());
        let decoder = has_decoder.then_some(decoder);
        rustix::io::write(&report, message).unwrap();
        drop(report);
        let mut source = File::from(source);
        let mut progress = |_| Ok(());
        let mut feed = Feed { source: &mut source, digest: Sha256::new(), bytes: 0, progress: &mut progress };
        let end = feed.run(b"", input, messages).unwrap();
        drop(decoder);
        end
    }

    #[test]
    fn a_refusal_does_not_wait_for_a_silent_source() {
        assert_eq!(end_of_silent_source(true, b"refused"), (FeedEnd::Reported, b"refused".to_vec()));
        assert_eq!(end_of_silent_source(false, b"refused"), (FeedEnd::Closed, b"refused".to_vec()));
    }
}
