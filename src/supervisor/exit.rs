//! The end of a machine, as a message and as an exit status. Called by the event loop.

use crate::sys::process::Ended;

/// The exit status that makes systemd restart the unit of a machine (`RestartForceExitStatus=` in
/// `units/coracle@.service` and systemd-nspawn@.service).
pub(crate) const RESTART: u8 = 133;

/// The end of a machine's PID 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// It powered off or halted.
    PowerOff,
    /// It requested a reboot.
    Reboot,
    /// It exited with this status.
    Exited(u8),
    /// This signal killed it.
    Killed(i32),
    /// The out-of-memory killer killed it, or a process of its cgroup.
    OutOfMemory,
    /// It rebooted too often.
    Rebooting,
}

impl Exit {
    /// Interprets the end of PID 1. reboot(2) in a pid namespace kills its init with SIGHUP for a restart and
    /// with SIGINT for a halt or power-off (pid_namespaces(7)). No other process can kill it with these two.
    pub(crate) fn of(ended: Ended, out_of_memory: impl FnOnce() -> bool) -> Self {
        match ended {
            Ended::Killed(libc::SIGHUP) => Self::Reboot,
            Ended::Killed(libc::SIGINT) => Self::PowerOff,
            Ended::Killed(_) if out_of_memory() => Self::OutOfMemory,
            Ended::Killed(signal) => Self::Killed(signal),
            Ended::Exited(status) => Self::Exited(u8::try_from(status).unwrap_or(1)),
        }
    }

    /// Returns the exit status of a run: the payload's own, or 128 plus the number of the signal that killed
    /// it.
    pub(crate) fn exit_status(self) -> u8 {
        match self {
            Self::PowerOff | Self::Reboot => 0,
            Self::Exited(status) => status,
            Self::Killed(signal) => u8::try_from(128 + signal).unwrap_or(u8::MAX),
            Self::OutOfMemory => 137,
            Self::Rebooting => 1,
        }
    }

    /// Returns the exit status of systemd-nspawn(1). Its unit restarts for [`RESTART`], which the payload cannot
    /// request.
    pub(crate) fn nspawn_status(self) -> u8 {
        match self {
            Self::PowerOff | Self::Reboot => 0,
            Self::Exited(RESTART) => 1,
            Self::Exited(status) => status,
            Self::Killed(_) | Self::OutOfMemory | Self::Rebooting => 1,
        }
    }

    /// Returns the message of a failure. `None` if the machine did not fail.
    pub(crate) fn failure(self) -> Option<String> {
        match self {
            Self::PowerOff | Self::Reboot | Self::Exited(0) => None,
            Self::Exited(status) => Some(format!("PID 1 exited with status {status}")),
            Self::Killed(signal) => {
                let name = nix::sys::signal::Signal::try_from(signal);
                let name = name.map_or_else(|_| "real-time".into(), |signal| signal.as_str().to_owned());
                Some(format!("PID 1 was killed by signal {signal} ({name})"))
            }
            Self::Rebooting => Some("it rebooted 20 times within a minute of running time".into()),
            Self::OutOfMemory => Some("PID 1 was killed by the out-of-memory killer".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reboot_and_power_off_differ() {
        assert_eq!(Exit::of(Ended::Killed(libc::SIGHUP), || false), Exit::Reboot);
        assert_eq!(Exit::of(Ended::Killed(libc::SIGINT), || true), Exit::PowerOff);
        assert_eq!(Exit::of(Ended::Killed(libc::SIGKILL), || true), Exit::OutOfMemory);
        assert!(Exit::Killed(libc::SIGSEGV).failure().unwrap().contains("SIGSEGV"));
        assert_eq!(Exit::Exited(0).failure(), None);
    }

    #[test]
    fn systemd_nspawn_has_other_statuses() {
        for (exit, own, nspawn) in [
            (Exit::Exited(7), 7, 7),
            (Exit::Exited(255), 255, 255),
            (Exit::Exited(RESTART), RESTART, 1),
            (Exit::PowerOff, 0, 0),
            (Exit::Reboot, 0, 0),
            (Exit::Killed(libc::SIGTERM), 143, 1),
            (Exit::OutOfMemory, 137, 1),
            (Exit::Rebooting, 1, 1),
        ] {
            assert_eq!((exit.exit_status(), exit.nspawn_status()), (own, nspawn), "{exit:?}");
        }
    }
}
