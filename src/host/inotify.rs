//! The instances of inotify(7), which the kernel limits per user: machines without user ids of their own share those
//! of the host's root. Called by `run` before a start, and by those that report their exhaustion.

use crate::error::{Error, Result};
use nix::errno::Errno;
use nix::sys::inotify::{InitFlags, Inotify};

/// The cure of exhausted instances.
pub(crate) const HINT: &str =
    "sysctl -w fs.inotify.max_user_instances=8192, and write it to /etc/sysctl.d/90-coracle.conf";
/// The instances that a small guest with systemd opens until it is up.
const OF_GUEST: usize = 8;

/// Refuses to boot a guest that shares the instances of this process, if too few are left. The kernel does not tell
/// their number.
///
/// # Errors
/// Fewer instances than a guest with systemd opens.
pub(crate) fn refuse_exhausted() -> Result<()> {
    let open = || Inotify::init(InitFlags::IN_CLOEXEC);
    let opened: nix::Result<Vec<Inotify>> = (0..OF_GUEST).map(|_| open()).collect();
    match opened {
        Err(Errno::EMFILE) => Err(Error::new(format!(
            "inotify instances exhausted: a guest with systemd opens at least {OF_GUEST}, and root of the host has \
             fewer left"
        ))
        .with_hint(HINT)),
        // Another error is that of the guest.
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_are_returned() {
        for _ in 0..64 {
            assert_eq!(refuse_exhausted(), Ok(()));
        }
    }
}
