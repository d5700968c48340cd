//! The decoder of bzip2: the program of the host, as nobody, without network. Called by `pipeline`.

use super::decode::DecoderExit;
use crate::error::{Context, Error, Result};
use crate::sys::process::{self, Child, Side};
use crate::sys::{confine, descriptor};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::thread::CapabilitySet;
use std::path::Path;

/// The places of the program.
const PROGRAMS: [(&str, &std::ffi::CStr); 2] =
    [("/usr/bin/bzip2", c"/usr/bin/bzip2"), ("/bin/bzip2", c"/bin/bzip2")];
/// The memory of the program, bytes.
const MEMORY: u64 = 256 << 20;
/// The user of the program.
const NOBODY: u32 = 65534;
/// The exit status of the program if it cannot read or write (bzip2(1)): as the init of its namespace it is not killed
/// by SIGPIPE.
pub(super) const CANNOT_WRITE: i32 = 1;
/// The namespaces of the program.
const NAMESPACES: i32 = libc::CLONE_NEWPID | libc::CLONE_NEWNET | libc::CLONE_NEWIPC;

/// Starts the program between two pipes.
///
/// # Errors
/// The program is not installed, or any error of clone3(2).
pub(super) fn start(from: &OwnedFd, to: &OwnedFd) -> Result<Child> {
    let Some((_, program)) = PROGRAMS.iter().find(|(path, _)| Path::new(path).exists()) else {
        return Err(Error::new("bzip2 is not installed").with_hint("install the package 'bzip2'"));
    };
    let null = rustix::fs::open("/dev/null", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
        .context(|| "cannot open '/dev/null'")?;
    match process::clone(u64::from(NAMESPACES.cast_unsigned()), None)? {
        Side::Parent(child) => Ok(child),
        Side::Child => {
            let confined = || -> Result<()> {
                process::become_user(NOBODY, NOBODY, &[])?;
                process::die_with_parent();
                confine::keep_capabilities(CapabilitySet::empty())?;
                confine::limit(MEMORY)?;
                // Its messages have text of the source's making, and no cause.
                descriptor::place(null.as_fd(), 2)
                    .and_then(|()| descriptor::place(from.as_fd(), 0))
                    .and_then(|()| descriptor::place(to.as_fd(), 1))
                    .and_then(|()| descriptor::close_on_exec_from(3))
                    .context(|| "cannot pass the pipes on")
            };
            if confined().is_ok() {
                process::execute(program, &[c"bzip2".to_owned(), c"-dc".to_owned()], &[], || {});
            }
            process::exit_now(DecoderExit::Setup as i32)
        }
    }
}
