//! Computes the digest of a decoded layer, as a process between the decoder and the extractor: both parse hostile
//! bytes, this one only passes them on. The digest is what the store names the layer for. Called by `pipeline`.

use super::pipeline::Killed;
use crate::error::{Context, Error, Result};
use crate::sys::process::{self, Ended, Side};
use crate::sys::{confine, descriptor};
use rustix::fd::{AsRawFd, OwnedFd};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::thread::CapabilitySet;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{ErrorKind, Read, Write};

/// The bytes per read.
const PART: usize = 256 << 10;
/// The size of a digest, bytes.
const SIZE: usize = 32;
/// The memory of the process, bytes.
const MEMORY: u64 = 1 << 30;
/// The user of the process.
const NOBODY: u32 = 65534;

/// Returns bytes as hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A running digester.
pub(super) struct Digester {
    child: Killed,
    report: File,
}

impl Digester {
    /// Starts a digester of a stream. Returns it with the stream behind it.
    ///
    /// # Errors
    /// Any error of clone3(2) and pipe(2).
    pub(super) fn start(from: OwnedFd) -> Result<(Self, OwnedFd)> {
        let pipe = || pipe_with(PipeFlags::CLOEXEC).context(|| "cannot create a pipe");
        let ((stream, to), (reported, report)) = (pipe()?, pipe()?);
        match process::clone(0, None)? {
            Side::Parent(child) => {
                let report = File::from(reported);
                Ok((Self { child: Killed::of(child), report }, stream))
            }
            Side::Child => {
                let mut kept = [from.as_raw_fd(), to.as_raw_fd(), report.as_raw_fd()];
                kept.sort_unstable();
                descriptor::close_all_but(&kept);
                run(from, to, report)
            }
        }
    }

    /// Returns the digest, hexadecimal, when the stream was read to its end.
    ///
    /// # Errors
    /// A process that has failed.
    pub(super) fn finish(mut self) -> Result<String> {
        let mut digest = [0; SIZE];
        let read = self.report.read_exact(&mut digest);
        match (self.child.wait()?, read) {
            (Ended::Exited(0), Ok(())) => Ok(hex(&digest)),
            _ => Err(Error::new("the digest of the layer cannot be computed")),
        }
    }
}

fn run(from: OwnedFd, to: OwnedFd, report: OwnedFd) -> ! {
    let confined = process::become_user(NOBODY, NOBODY, &[])
        .and_then(|()| confine::keep_capabilities(CapabilitySet::empty()))
        .and_then(|()| confine::limit(MEMORY))
        .and_then(|()| {
            // The change of the user has cancelled it.
            process::die_with_parent();
            confine::allow(&[])
        });
    // The end of the process closes them: it has no call for that.
    let [from, to, report] = [from, to, report].map(|end| std::mem::ManuallyDrop::new(File::from(end)));
    let passed = match confined {
        Ok(()) => pass(&*from, &*to).and_then(|digest| (&*report).write_all(&digest)),
        Err(_) => Err(ErrorKind::Other.into()),
    };
    process::exit_now(i32::from(passed.is_err()))
}

/// Passes a stream on. Returns its digest.
fn pass(mut from: impl Read, mut to: impl Write) -> std::io::Result<[u8; SIZE]> {
    let mut digest = Sha256::new();
    let mut part = vec![0; PART];
    loop {
        let length = match from.read(&mut part) {
            Ok(0) => return Ok(digest.finalize().into()),
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            read => read?,
        };
        let part = part.get(..length).unwrap_or_default();
        digest.update(part);
        to.write_all(part)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_passed_on_with_its_digest() {
        let mut passed = Vec::new();
        let digest = pass(&b"abc"[..], &mut passed).unwrap();
        assert_eq!(passed, b"abc");
        // FIPS 180-4, appendix.
        assert!(hex(&digest).starts_with("ba7816bf8f01cfea414140de5dae2223"));
    }
}
