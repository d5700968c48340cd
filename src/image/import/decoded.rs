//! A stream for a reader of this process, decoded by the confined decoder if it is compressed. Called by `control` for
//! `copy-to`, whose archives go into a machine and not into a draft.

use super::compression::{self, Compression};
use super::pipeline::{self, Killed};
use crate::error::{Context, Result};
use crate::sys::descriptor;
use crate::sys::process::{self, Side};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::fs::File;
use std::io::{Cursor, ErrorKind, Read};

/// Waits until a stream can be read. An error ends the reader.
pub(crate) type WaitForInput<'a> = dyn Fn(BorrowedFd<'_>) -> std::io::Result<()> + 'a;

/// A decoded stream.
pub(crate) struct DecodedStream<'a> {
    /// The first bytes of a plain stream.
    head: Cursor<Vec<u8>>,
    stream: File,
    wait: &'a WaitForInput<'a>,
    compression: Compression,
    /// The processes that feed the decoder, and that decode. `None` for a plain stream.
    children: Option<(Killed, Killed)>,
}

impl<'a> DecodedStream<'a> {
    /// Starts to read a stream, which may be a pipe that has nothing for long. Its content decides about the
    /// compression.
    ///
    /// # Errors
    /// A stream that cannot be read, or any error of clone3(2).
    pub(crate) fn of(input: File, wait: &'a WaitForInput<'a>) -> Result<Self> {
        let compression = Compression::Plain;
        let mut plain = Self { head: Cursor::default(), stream: input, wait, compression, children: None };
        let mut head = Vec::new();
        (&mut plain)
            .take(compression::LONGEST as u64)
            .read_to_end(&mut head)
            .context(|| "cannot read the archive")?;
        let compression = Compression::of(&head);
        if compression == Compression::Plain {
            return Ok(Self { head: Cursor::new(head), ..plain });
        }
        let input = plain.stream;
        let ((from, to), (stream, decoded)) = (pipeline::pipe()?, pipeline::pipe()?);
        let feeder = match process::clone(0, None)? {
            Side::Parent(child) => Killed::of(child),
            Side::Child => {
                process::die_with_parent();
                let mut kept = [input.as_raw_fd(), to.as_raw_fd()];
                kept.sort_unstable();
                descriptor::close_all_but(&kept);
                feed(&head, input, to)
            }
        };
        drop((input, to));
        // The guest limits the size of what it gets.
        let decoder = pipeline::start_decoder(compression, from, decoded, false)?;
        let children = Some((feeder, decoder));
        Ok(Self { head: Cursor::default(), stream: stream.into(), wait, compression, children })
    }

    /// Ends the stream after its reader. A damaged stream is the cause of the reader's error.
    ///
    /// # Errors
    /// A stream that is damaged, or the error of the reader.
    pub(crate) fn finish<T>(mut self, read: Result<T>) -> Result<T> {
        let Some((feeder, decoder)) = self.children.take() else { return read };
        if read.is_ok() {
            // Its checksums are at its end.
            std::io::copy(&mut self, &mut std::io::sink()).context(|| "cannot read the archive")?;
        }
        drop((self.stream, feeder));
        match pipeline::decoder_error(decoder.wait()?, self.compression, read.is_ok()) {
            Some(error) => Err(error),
            None => read,
        }
    }
}

impl Read for DecodedStream<'_> {
    fn read(&mut self, part: &mut [u8]) -> std::io::Result<usize> {
        let read = self.head.read(part)?;
        if read > 0 || part.is_empty() {
            return Ok(read);
        }
        (self.wait)(self.stream.as_fd())?;
        self.stream.read(part)
    }
}

/// Passes the stream on to the decoder, as a child.
fn feed(head: &[u8], mut input: File, to: OwnedFd) -> ! {
    let mut to = File::from(to);
    let passed = std::io::copy(&mut head.chain(&mut input), &mut to);
    let is_done = passed.is_ok() || passed.is_err_and(|error| error.kind() == ErrorKind::BrokenPipe);
    process::exit_now(i32::from(!is_done))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    fn stream_of(text: &[u8]) -> DecodedStream<'static> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        DecodedStream::of(File::open(file.path()).unwrap(), &|_| Ok(())).unwrap()
    }

    #[test]
    fn a_plain_stream_is_passed_on() {
        for text in [&b""[..], b"abc", &[7; 100_000]] {
            let mut stream = stream_of(text);
            let mut read = Vec::new();
            stream.read_to_end(&mut read).unwrap();
            assert!(read == text && stream.finish(Ok(())).is_ok());
            // The error of the reader stays.
            let error = stream_of(text).finish::<()>(Err(Error::new("refused"))).unwrap_err();
            assert_eq!(error.to_string(), "refused");
        }
    }
}
