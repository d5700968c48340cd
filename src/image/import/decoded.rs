//! A stream for a reader of this process, decoded by the confined decoder if it is compressed. Called by `control` for
//! `copy-to`, whose archives go into a machine and not into a draft.

use super::compression::{self, Compression};
use super::pipeline::{self, Killed};
use crate::error::{Context, Result};
use crate::sys::descriptor;
use crate::sys::process::{self, Side};
use rustix::fd::{AsRawFd, OwnedFd};
use std::fs::File;
use std::io::{Chain, Cursor, ErrorKind, Read};

/// A decoded stream.
pub(crate) struct DecodedStream {
    stream: Chain<Cursor<Vec<u8>>, File>,
    compression: Compression,
    /// The processes that feed the decoder, and that decode. `None` for a plain stream.
    children: Option<(Killed, Killed)>,
}

impl DecodedStream {
    /// Starts to read a stream. Its content decides about the compression.
    ///
    /// # Errors
    /// A stream that cannot be read, or any error of clone3(2).
    pub(crate) fn of(mut input: File) -> Result<Self> {
        let mut head = Vec::new();
        (&mut input)
            .take(compression::LONGEST as u64)
            .read_to_end(&mut head)
            .context(|| "cannot read the archive")?;
        let compression = Compression::of(&head);
        if compression == Compression::Plain {
            return Ok(Self { stream: Cursor::new(head).chain(input), compression, children: None });
        }
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
        let stream = Cursor::new(Vec::new()).chain(File::from(stream));
        Ok(Self { stream, compression, children: Some((feeder, decoder)) })
    }

    /// Ends the stream after its reader. A damaged stream is the cause of the reader's error.
    ///
    /// # Errors
    /// A stream that is damaged, or the error of the reader.
    pub(crate) fn finish<T>(mut self, read: Result<T>) -> Result<T> {
        let Some((feeder, decoder)) = self.children.take() else { return read };
        if read.is_ok() {
            // Its checksums are at its end.
            std::io::copy(&mut self.stream, &mut std::io::sink()).context(|| "cannot read the archive")?;
        }
        drop((self.stream, feeder));
        match pipeline::decoder_error(decoder.wait()?, self.compression, read.is_ok()) {
            Some(error) => Err(error),
            None => read,
        }
    }
}

impl Read for DecodedStream {
    fn read(&mut self, part: &mut [u8]) -> std::io::Result<usize> {
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

    fn stream_of(text: &[u8]) -> DecodedStream {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        DecodedStream::of(File::open(file.path()).unwrap()).unwrap()
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
