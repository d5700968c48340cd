//! Recognises the init of a running PID 1 by its program: a script of the tree may have executed another one.
//! Called by `supervise`.
//!
//! The path of the program is a link of procfs. A child process reads the program and its arguments: a FUSE
//! server of the guest can delay each read for ever.

use crate::machine::init::Init;
use crate::plan::init::{recognise_process, recognise_program};
use crate::sys::descriptor;
use crate::sys::process::{self, Ended, Side};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

/// The time limit of the child.
const READING: Duration = Duration::from_millis(200);
/// The read part of a program, bytes.
const LIMIT: u64 = 16 << 20;
/// The read part of the arguments, bytes.
const ARGUMENTS: u64 = 4096;
/// The exit status of a child if PID 1 still runs the first program.
const SAME: i32 = 100;

/// The inits by the exit status of the child, from 1 on.
const INITS: [Init; 7] =
    [Init::Systemd, Init::OpenRc, Init::SysVinit, Init::Runit, Init::S6, Init::Dinit, Init::Busybox];

/// The result of a look at a PID 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RecognitionResult {
    /// This init.
    Init(Init),
    /// The first program, or its interpreter for a script.
    First,
    /// Another unknown program, or one that cannot be read in time.
    Unknown,
}

/// Recognises inits, by one child at a time.
#[derive(Debug, Default)]
pub(crate) struct Recogniser(Option<OwnedFd>);

impl Recogniser {
    /// Looks at PID 1. `first` is its first program.
    pub(crate) fn look(&mut self, pid: u32, leader: BorrowedFd<'_>, first: &Path) -> RecognitionResult {
        if let Some(init) = by_path(pid) {
            return RecognitionResult::Init(init);
        }
        self.0.take_if(|child| process::has_ended(child.as_fd()).is_some());
        if self.0.is_some() {
            return RecognitionResult::Unknown;
        }
        match process::clone(0, None) {
            Ok(Side::Child) => {
                // It must not hold locks of the supervisor while it waits.
                descriptor::close_from(3, leader);
                process::exit_now(read(pid, first))
            }
            Ok(Side::Parent(child)) => self.wait(child.pidfd),
            Err(error) => {
                log::debug!("cannot look at PID 1: {error}, ignoring");
                RecognitionResult::Unknown
            }
        }
    }

    /// Ends the child, if it has not ended in time.
    pub(crate) fn end(&mut self) {
        process::kill_child(self.0.take());
    }

    fn wait(&mut self, child: OwnedFd) -> RecognitionResult {
        let limit = Timespec { tv_sec: 0, tv_nsec: i64::from(READING.subsec_nanos()) };
        let _ = poll(&mut [PollFd::new(&child, PollFlags::IN)], Some(&limit));
        let Some(ended) = process::has_ended(child.as_fd()) else {
            let _ = process::send_signal(child.as_fd(), libc::SIGKILL);
            self.0 = Some(child);
            return RecognitionResult::Unknown;
        };
        match ended {
            Ended::Exited(SAME) => RecognitionResult::First,
            Ended::Exited(status) => {
                let init = usize::try_from(status).ok().and_then(|status| INITS.get(status.checked_sub(1)?));
                init.map_or(RecognitionResult::Unknown, |init| RecognitionResult::Init(*init))
            }
            Ended::Killed(_) => RecognitionResult::Unknown,
        }
    }
}

/// Recognises a PID 1 by the path of its program alone, without waiting. `None` if the path does not suffice.
pub(crate) fn by_path(pid: u32) -> Option<Init> {
    recognise_program(&std::fs::read_link(format!("/proc/{pid}/exe")).ok()?)
}

/// Reads the program in the child. Returns its exit status.
fn read(pid: u32, first: &Path) -> i32 {
    let read = |file: &str, limit: u64| {
        let mut bytes = Vec::new();
        let file = std::fs::File::open(format!("/proc/{pid}/{file}"));
        let _ = file.and_then(|file| file.take(limit).read_to_end(&mut bytes));
        bytes
    };
    let arguments = read("cmdline", ARGUMENTS);
    let init = recognise_process(&arguments, &read("exe", LIMIT));
    match INITS.iter().position(|known| *known == init).and_then(|at| i32::try_from(at + 1).ok()) {
        Some(status) => status,
        None if is_run_by(first, &arguments) => SAME,
        None => 0,
    }
}

/// Returns whether arguments belong to a program or to the interpreter of a script (execve(2)).
fn is_run_by(first: &Path, arguments: &[u8]) -> bool {
    let mut words = arguments.split(|byte| *byte == 0).take(3);
    words.any(|word| word == first.as_os_str().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_running_script_is_recognised_by_its_arguments() {
        for (arguments, expected) in [
            (&b"/bin/sh\0/sbin/init\0"[..], true),
            (b"/bin/sh\0-e\0/sbin/init\0single\0", true),
            (b"/sbin/init\0single\0", true),
            (b"/usr/sbin/nginx\0-g\0daemon off;\0", false),
            (b"", false),
        ] {
            assert_eq!(is_run_by(Path::new("/sbin/init"), arguments), expected);
        }
    }
}
