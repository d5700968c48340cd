//! Decodes a compressed stream, as the decoder: a process with two pipes, and with system calls for reading,
//! writing, memory and its end only. It reports by its exit status. Called by `pipeline`.

use super::compression::Compression;
use crate::sys::{confine, process};
use lzma_rust2::XzReader;
use rustix::fd::OwnedFd;
use rustix::thread::CapabilitySet;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{FrameDecoder, StreamingDecoder};
use std::fs::File;
use std::io::{BufRead, BufReader, Error, ErrorKind, Read, Result, Write};

/// The memory of the decoder, bytes: the largest window of `xz -9` is 64 MiB, that of `zstd --ultra` 128 MiB.
const MEMORY: u64 = 2 << 30;
/// The largest window of zstd, bytes.
const WINDOW: u64 = 128 << 20;
/// The greatest ratio of output and input, beyond [`SMALL`] bytes of output.
const RATIO: u64 = 1000;
const SMALL: u64 = 1 << 30;
/// The bytes per read.
const PART: usize = 256 << 10;
/// The user of the decoder.
const NOBODY: u32 = 65534;

/// The exit status of the decoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DecoderExit {
    /// The whole stream was decoded.
    Done = 0,
    /// The stream is not valid.
    Corrupt = 1,
    /// The stream ends too early.
    Truncated = 2,
    /// The output is much larger than the input.
    Ratio = 3,
    /// The output cannot be written: the extractor has ended.
    Closed = 4,
    /// The process could not be confined.
    Setup = 5,
}

impl DecoderExit {
    /// Returns the exit of a status.
    pub(super) fn of(status: i32) -> Option<Self> {
        [Self::Done, Self::Corrupt, Self::Truncated, Self::Ratio, Self::Closed, Self::Setup]
            .into_iter()
            .find(|exit| *exit as i32 == status)
    }

    fn of_error(error: &Error) -> Self {
        match error.kind() {
            ErrorKind::BrokenPipe => Self::Closed,
            ErrorKind::UnexpectedEof => Self::Truncated,
            ErrorKind::FileTooLarge => Self::Ratio,
            _ => Self::Corrupt,
        }
    }
}

/// Decodes a stream, as the decoder, and ends the process. It has no other descriptors.
pub(super) fn run(compression: Compression, from: OwnedFd, to: OwnedFd, limits_ratio: bool) -> ! {
    let confined = process::become_user(NOBODY, NOBODY, &[])
        .and_then(|()| confine::keep_capabilities(CapabilitySet::empty()))
        .and_then(|()| confine::limit(MEMORY))
        .and_then(|()| {
            // The change of the user has cancelled it.
            process::die_with_parent();
            confine::allow(&[])
        });
    let exit = match confined {
        Err(_) => DecoderExit::Setup,
        Ok(()) => {
            // The end of the process closes them: it has no call for that.
            let [from, to] = [from, to].map(|end| std::mem::ManuallyDrop::new(File::from(end)));
            let mut output = Counted { to: &*to, read: 0, written: 0, limits_ratio };
            match decode(compression, &*from, &mut output) {
                Ok(()) => DecoderExit::Done,
                Err(error) => DecoderExit::of_error(&error),
            }
        }
    };
    process::exit_now(exit as i32)
}

/// The output, and the sizes of both sides.
struct Counted<W> {
    to: W,
    read: u64,
    written: u64,
    limits_ratio: bool,
}

impl<W: Write> Counted<W> {
    fn take(&mut self, part: &[u8]) -> Result<()> {
        self.written += part.len() as u64;
        if self.limits_ratio && self.written > SMALL && self.written / RATIO > self.read {
            return Err(ErrorKind::FileTooLarge.into());
        }
        self.to.write_all(part)
    }
}

/// A source that counts its bytes.
struct Source<R> {
    from: R,
    read: std::rc::Rc<std::cell::Cell<u64>>,
}

impl<R: Read> Read for Source<R> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let length = self.from.read(buffer)?;
        self.read.set(self.read.get() + length as u64);
        Ok(length)
    }
}

fn decode<W: Write>(compression: Compression, from: impl Read, to: &mut Counted<W>) -> Result<()> {
    let read = std::rc::Rc::<std::cell::Cell<u64>>::default();
    let from = BufReader::with_capacity(PART, Source { from, read: read.clone() });
    let mut copy = |decoder: &mut dyn Read| -> Result<()> {
        let mut part = vec![0; PART];
        loop {
            let length = match decoder.read(&mut part) {
                Ok(0) => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                read => read?,
            };
            to.read = read.get();
            to.take(part.get(..length).unwrap_or_default())?;
        }
    };
    match compression {
        Compression::Gzip => copy(&mut flate2::bufread::MultiGzDecoder::new(from)),
        Compression::Xz => copy(&mut XzReader::new(from, true)),
        Compression::Zstd => zstd(from, &mut copy),
        Compression::Plain | Compression::Bzip2 => Err(ErrorKind::Unsupported.into()),
    }
}

/// Decodes all frames of a zstd stream (RFC 8878), with their checksums.
fn zstd(mut from: impl BufRead, copy: &mut dyn FnMut(&mut dyn Read) -> Result<()>) -> Result<()> {
    let mut decoder = FrameDecoder::new();
    decoder.set_max_window_size(WINDOW);
    while !from.fill_buf()?.is_empty() {
        match StreamingDecoder::new_with_decoder(&mut from, &mut decoder) {
            Ok(mut frame) => copy(&mut frame)?,
            Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                length, ..
            })) => {
                let skipped = std::io::copy(&mut (&mut from).take(length.into()), &mut std::io::sink())?;
                if skipped < u64::from(length) {
                    return Err(ErrorKind::UnexpectedEof.into());
                }
                continue;
            }
            Err(_) => return Err(ErrorKind::InvalidData.into()),
        }
        if let Some(stored) = decoder.get_checksum_from_data()
            && decoder.get_calculated_checksum() != Some(stored)
        {
            return Err(ErrorKind::InvalidData.into());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    /// Compresses by a program of the host.
    fn compress(program: &str, options: &[&str], data: &[u8]) -> Vec<u8> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), data).unwrap();
        let input = Stdio::from(File::open(file.path()).unwrap());
        let output = Command::new(program).args(options).arg("-c").stdin(input).output().unwrap();
        assert!(output.status.success());
        output.stdout
    }

    fn decoded(compression: Compression, data: &[u8]) -> Result<Vec<u8>> {
        let mut output = Counted { to: Vec::new(), read: 0, written: 0, limits_ratio: true };
        decode(compression, data, &mut output)?;
        Ok(output.to)
    }

    const KINDS: [(&str, &[&str], Compression); 5] = [
        ("gzip", &["-9"], Compression::Gzip),
        ("xz", &["-6"], Compression::Xz),
        ("xz", &["--check=sha256", "--block-size=65536"], Compression::Xz),
        ("zstd", &["-q"], Compression::Zstd),
        ("zstd", &["-q", "--ultra", "-20", "--check"], Compression::Zstd),
    ];

    #[test]
    fn streams_of_the_real_programs_are_decoded() {
        let data: Vec<u8> =
            (0..300_000u32).flat_map(|number| (number.wrapping_mul(number) % 1009).to_le_bytes()).collect();
        for (program, options, compression) in KINDS {
            let stream = compress(program, options, &data);
            assert_eq!(Compression::of(&stream), compression);
            assert!(decoded(compression, &stream).unwrap() == data, "{program}");
            // Streams one after the other are one.
            let twice = [&stream[..], &stream].concat();
            assert_eq!(decoded(compression, &twice).unwrap().len(), 2 * data.len(), "{program}");
        }
    }

    #[test]
    fn damaged_streams_are_refused() {
        let data = vec![7; 100_000];
        for (program, options, compression) in KINDS {
            let stream = compress(program, options, &data);
            for length in [stream.len() - 1, stream.len() / 2, 7] {
                assert!(decoded(compression, &stream[..length]).is_err(), "{program} {length}");
            }
            let garbage = [&stream[..], b"garbage"].concat();
            assert!(decoded(compression, &garbage).is_err(), "{program}");
        }
        let mut flipped = compress("zstd", &["-q", "--check"], &data);
        let last = flipped.len() - 1;
        flipped[last] ^= 1;
        assert!(decoded(Compression::Zstd, &flipped).is_err());
    }

    #[test]
    fn a_bomb_ends_at_the_ratio() {
        let mut output = Counted { to: std::io::sink(), read: 1 << 20, written: SMALL, limits_ratio: true };
        assert_eq!(output.take(&[0; 1 << 10]).unwrap_err().kind(), ErrorKind::FileTooLarge);
        output.limits_ratio = false;
        output.take(&[0; 1 << 10]).unwrap();
    }
}
