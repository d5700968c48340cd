//! A standard stream of a copy: a pipe can have nothing, or take nothing, for long, while the signals are blocked.
//! Called by `copy`.

use super::interrupts::Interrupts;
use rustix::event::PollFlags;
use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::FileType;
use std::fs::File;
use std::io::{Read, Write};
use std::rc::Rc;

/// The greatest part of a write that does not block once a pipe is ready (pipe(7), `PIPE_BUF`).
const PART: usize = 4096;

/// A stream whose reads and writes are interrupted by signals.
pub(super) struct Interruptible {
    stream: File,
    interrupts: Rc<Interrupts>,
    is_file: bool,
}

impl Interruptible {
    /// Duplicates a standard stream.
    ///
    /// # Errors
    /// No free descriptors.
    pub(super) fn of(stream: BorrowedFd<'_>, interrupts: Rc<Interrupts>) -> std::io::Result<Self> {
        let stream = rustix::io::fcntl_dupfd_cloexec(stream, 3)?;
        let is_file = FileType::from_raw_mode(rustix::fs::fstat(&stream)?.st_mode) == FileType::RegularFile;
        Ok(Self { stream: stream.into(), interrupts, is_file })
    }
}

impl Read for Interruptible {
    fn read(&mut self, part: &mut [u8]) -> std::io::Result<usize> {
        self.interrupts.wait(self.stream.as_fd(), PollFlags::IN)?;
        self.stream.read(part)
    }
}

impl Write for Interruptible {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.is_file {
            return self.stream.write(bytes);
        }
        self.interrupts.wait(self.stream.as_fd(), PollFlags::OUT)?;
        self.stream.write(bytes.get(..PART).unwrap_or(bytes))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::signal::{Signal, raise};

    #[test]
    fn a_signal_interrupts_silent_pipes() {
        let interrupts = Rc::new(Interrupts::block().unwrap());
        let (reader, writer) = std::io::pipe().unwrap();
        let mut output = Interruptible::of(writer.as_fd(), Rc::clone(&interrupts)).unwrap();
        let mut input = Interruptible::of(reader.as_fd(), Rc::clone(&interrupts)).unwrap();
        assert_eq!(output.write(b"abc").unwrap(), 3);
        assert_eq!(input.read(&mut [0; 9]).unwrap(), 3);
        raise(Signal::SIGTERM).unwrap();
        assert!(input.read(&mut [0; 9]).unwrap_err().to_string().contains("interrupted"));
        rustix::pipe::fcntl_setpipe_size(&writer, 4096).unwrap();
        output.write_all(&[0; 4096]).unwrap();
        raise(Signal::SIGTERM).unwrap();
        assert!(output.write(b"x").unwrap_err().to_string().contains("interrupted"));
    }
}
