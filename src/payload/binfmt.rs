//! The emulator of a build session: a binfmt_misc of its own user namespace. Called by `init_process`.
//!
//! KERNEL(6.7): before, there is one binfmt_misc for the host, and only the host can mount it.

use crate::error::{Context, Result};
use crate::sys::mount::{self, MountAttributes};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd};
use rustix::fs::{CWD, Mode, OFlags};
use std::path::Path;

/// The mount point of binfmt_misc (Documentation/admin-guide/binfmt-misc.rst).
const PLACE: &str = "/proc/sys/fs/binfmt_misc";

/// Mounts a binfmt_misc in the user namespace of this process, and registers a program of the host, which the kernel
/// keeps open (flag `F`). The mount stays: its formats end with it.
///
/// # Errors
/// A kernel without binfmt_misc for user namespaces, or a format that it refuses.
pub(super) fn register(program: BorrowedFd<'_>, name: &str, magic: &str) -> Result<()> {
    let formats = mount::new_file_system("binfmt_misc", &[], MountAttributes::INERT)?.mount;
    mount::attach_at(formats.as_fd(), CWD, Path::new(PLACE)).context(|| format!("cannot mount '{PLACE}'"))?;
    let doing = || format!("cannot register '{name}' in '{PLACE}'");
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let register = rustix::fs::openat(&formats, "register", flags, Mode::empty()).context(doing)?;
    // The program has no path in this root, but a descriptor.
    let format = format!(":{name}:M::{magic}:/proc/self/fd/{}:POCF", program.as_raw_fd());
    rustix::io::write(&register, format.as_bytes()).context(doing).map(|_| ())
}
