//! The user namespace by which a tree's ids are mapped. It is not the machine's own: it also maps
//! the host's root, to an id no file has, so that host tools that enter the machine's mounts
//! (`machinectl copy-to`) can create files there; systemd-nspawn(1) does the same.

use crate::error::{Context, Result};
use crate::link;
use crate::sys::process::{self, Side};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags};

/// The id the host's root has in a tree (systemd's `UID_MAPPED_ROOT`).
const MAPPED_ROOT: u32 = i32::MAX as u32 - 1;

/// Makes a user namespace that maps `count` ids from 0 to `base`, and the host's root.
///
/// # Errors
/// What clone3(2) or the map files say.
pub fn namespace(base: u32, count: u32) -> Result<OwnedFd> {
    let (ours, theirs) = link::pair()?;
    match process::clone(u64::from(libc::CLONE_NEWUSER.cast_unsigned()), None)? {
        Side::Child => {
            drop(ours);
            // It only has to be there while its namespace is mapped and opened.
            let _ = theirs.meet(link::Sync::Born);
            process::exit_now(0)
        }
        Side::Parent(child) => {
            drop(theirs);
            let path = format!("/proc/{}", child.pid.as_raw_nonzero());
            let map = format!("0 {base} {count}\n{MAPPED_ROOT} 0 1\n");
            let opened = ["uid_map", "gid_map"]
                .iter()
                .try_for_each(|file| std::fs::write(format!("{path}/{file}"), &map))
                .context(|| format!("cannot map ids from {base} for the tree"))
                .and_then(|()| {
                    rustix::fs::open(
                        format!("{path}/ns/user"),
                        OFlags::RDONLY | OFlags::CLOEXEC,
                        Mode::empty(),
                    )
                    .context(|| "cannot open the tree's user namespace")
                });
            drop(ours);
            process::wait(child.pidfd.as_fd())?;
            opened
        }
    }
}
