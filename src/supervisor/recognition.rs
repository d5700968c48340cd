//! Which init a machine's PID 1 is, by what it runs: a script of the tree may have become another program. Called by
//! `supervise`.
//!
//! The path of the program is a link of procfs. What is in the program and in its memory is read by a child process: a
//! FUSE server of the guest can prolong each read for ever.

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

/// How long the child may take.
const READING: Duration = Duration::from_millis(200);
/// No more of a program is read, bytes.
const LIMIT: u64 = 16 << 20;
/// The most arguments that are read, bytes.
const ARGUMENTS: u64 = 4096;
/// The exit status of a child if the process is the first program still.
const SAME: i32 = 100;

/// The inits by the exit status of the child, from 1 on.
const INITS: [Init; 7] =
    [Init::Systemd, Init::OpenRc, Init::SysVinit, Init::Runit, Init::S6, Init::Dinit, Init::Busybox];

/// The kind of a PID 1, as far as it is recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// This init.
    Init(Init),
    /// The program that was executed first, or a script's interpreter.
    First,
    /// Another program that is unknown, or one that cannot be read in time.
    Unknown,
}

/// Recognises inits, by one child at a time.
#[derive(Debug, Default)]
pub struct Recogniser(Option<OwnedFd>);

impl Recogniser {
    /// Looks at PID 1. `first` is the program that was executed.
    pub fn look(&mut self, pid: u32, leader: BorrowedFd<'_>, first: &Path) -> Found {
        if let Some(init) = by_path(pid) {
            return Found::Init(init);
        }
        self.0.take_if(|child| process::has_ended(child.as_fd()).is_some());
        if self.0.is_some() {
            return Found::Unknown;
        }
        match process::clone(0, None) {
            Ok(Side::Child) => {
                // It holds no lock of the supervisor's while it waits.
                descriptor::close_from(3, leader);
                process::exit_now(read(pid, first))
            }
            Ok(Side::Parent(child)) => self.wait(child.pidfd),
            Err(error) => {
                log::debug!("cannot look at PID 1: {error}, ignoring");
                Found::Unknown
            }
        }
    }

    fn wait(&mut self, child: OwnedFd) -> Found {
        let limit = Timespec { tv_sec: 0, tv_nsec: i64::from(READING.subsec_nanos()) };
        let _ = poll(&mut [PollFd::new(&child, PollFlags::IN)], Some(&limit));
        let Some(ended) = process::has_ended(child.as_fd()) else {
            let _ = process::send_signal(child.as_fd(), libc::SIGKILL);
            self.0 = Some(child);
            return Found::Unknown;
        };
        match ended {
            Ended::Exited(SAME) => Found::First,
            Ended::Exited(status) => {
                let init = usize::try_from(status).ok().and_then(|status| INITS.get(status.checked_sub(1)?));
                init.map_or(Found::Unknown, |init| Found::Init(*init))
            }
            Ended::Killed(_) => Found::Unknown,
        }
    }
}

/// Recognises a PID 1 by the path of its program, where that decides alone. Waits for nothing.
pub fn by_path(pid: u32) -> Option<Init> {
    recognise_program(&std::fs::read_link(format!("/proc/{pid}/exe")).ok()?)
}

/// The child's part: returns its exit status.
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

/// Whether arguments are those of a program or of a script's interpreter (execve(2)).
fn is_run_by(first: &Path, arguments: &[u8]) -> bool {
    let mut words = arguments.split(|byte| *byte == 0).take(3);
    words.any(|word| word == first.as_os_str().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_tell_whether_a_script_is_running() {
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
