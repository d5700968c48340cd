//! How a machine ended, in words and as an exit status.

use crate::sys::process::Ended;

/// The end of a machine's PID 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It powered off or halted.
    PowerOff,
    /// It asked for a reboot.
    Reboot,
    /// It exited with this status.
    Exited(u8),
    /// It was killed by this signal.
    Killed(i32),
    /// The kernel killed it, or something it needed, for want of memory.
    OutOfMemory,
    /// It rebooted at once, again and again.
    Rebooting,
}

impl Exit {
    /// Reads the end of PID 1. reboot(2) in a pid namespace ends its init by SIGHUP for a restart
    /// and by SIGINT for a halt or power-off (pid_namespaces(7)).
    pub fn of(ended: Ended, is_boot: bool, out_of_memory: bool) -> Self {
        match ended {
            Ended::Killed(libc::SIGHUP) if is_boot => Self::Reboot,
            Ended::Killed(libc::SIGINT) if is_boot => Self::PowerOff,
            Ended::Killed(_) if out_of_memory => Self::OutOfMemory,
            Ended::Killed(signal) => Self::Killed(signal),
            Ended::Exited(status) => Self::Exited(u8::try_from(status).unwrap_or(1)),
        }
    }

    /// The exit status of a run: the payload's own, 128 and the signal's number where it was killed.
    pub fn exit_status(self) -> u8 {
        match self {
            Self::PowerOff | Self::Reboot => 0,
            Self::Exited(status) => status,
            Self::Killed(signal) => u8::try_from(128 + signal).unwrap_or(u8::MAX),
            Self::OutOfMemory => 137,
            Self::Rebooting => 1,
        }
    }

    /// Why a machine failed, for people; nothing where it did not.
    pub fn failure(self) -> Option<String> {
        match self {
            Self::PowerOff | Self::Reboot | Self::Exited(0) => None,
            Self::Exited(status) => Some(format!("PID 1 exited with status {status}")),
            Self::Killed(signal) => {
                let name = nix::sys::signal::Signal::try_from(signal);
                let name = name.map_or_else(|_| "real-time".into(), |signal| signal.as_str().to_owned());
                Some(format!("PID 1 was killed by signal {signal} ({name})"))
            }
            Self::Rebooting => Some("it rebooted 20 times within a minute of running time".into()),
            Self::OutOfMemory => Some("the kernel killed PID 1 for want of memory".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reboot_and_power_off_are_told_apart() {
        assert_eq!(Exit::of(Ended::Killed(libc::SIGHUP), true, false), Exit::Reboot);
        assert_eq!(Exit::of(Ended::Killed(libc::SIGINT), true, true), Exit::PowerOff);
        assert_eq!(Exit::of(Ended::Killed(libc::SIGINT), false, false).exit_status(), 130);
        assert_eq!(Exit::of(Ended::Killed(libc::SIGKILL), true, true), Exit::OutOfMemory);
        assert!(Exit::Killed(libc::SIGSEGV).failure().unwrap().contains("SIGSEGV"));
        assert_eq!(Exit::Exited(0).failure(), None);
    }
}
