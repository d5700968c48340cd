//! The init systems a machine may run as PID 1, and what "started" and "stop" mean for them.

use std::path::PathBuf;
use std::time::Duration;

/// The lowest real-time signal and the highest, as guests count them: glibc keeps the first two of the kernel's for
/// itself (signal(7)), and systemd(1) counts from what is left. Our own C library may count otherwise.
pub const REAL_TIME_SIGNALS: std::ops::RangeInclusive<i32> = 34..=64;

/// An init system we know how to stop, and whether it reports readiness.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Init {
    /// systemd(1).
    Systemd,
    /// openrc-init(8).
    OpenRc,
    /// init(8) of sysvinit.
    SysVinit,
    /// runit(8), as runit-init.
    Runit,
    /// s6-linux-init.
    S6,
    /// dinit(8).
    Dinit,
    /// The init applet of busybox(1).
    Busybox,
    /// A program that nothing is known of.
    Unknown,
}

impl Init {
    /// The word used in definitions and in `list`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Systemd => "systemd",
            Self::OpenRc => "openrc",
            Self::SysVinit => "sysvinit",
            Self::Runit => "runit",
            Self::S6 => "s6",
            Self::Dinit => "dinit",
            Self::Busybox => "busybox",
            Self::Unknown => "unknown",
        }
    }

    /// The init system a definition's word names.
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Systemd, Self::OpenRc, Self::SysVinit, Self::Runit, Self::S6, Self::Dinit, Self::Busybox]
            .into_iter()
            .find(|init| init.as_str() == word)
    }

    /// Whether it tells its manager that the system is up, by sd_notify(3).
    pub fn reports_readiness(self) -> bool {
        self == Self::Systemd
    }
}

/// Which program becomes PID 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InitChoice {
    /// The first init found in the tree, recognised by what it is.
    Auto,
    /// The first init found in the tree, stopped as this kind is stopped.
    Kind(Init),
    /// This program, an absolute path inside the tree.
    Path(PathBuf),
}

/// When a machine counts as started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// When the guest says so; where its init never does, as `Running`.
    Auto,
    /// When the guest sends `READY=1`.
    Ready,
    /// When PID 1 was executed.
    Running,
}

/// How a machine starts and stops.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Boot {
    /// What becomes PID 1.
    pub init: InitChoice,
    /// When the machine counts as started.
    pub wait: Wait,
    /// The signal that asks PID 1 for an orderly stop (a number), where it is not the init's own.
    pub stop_signal: Option<i32>,
    /// How long an orderly stop may take before PID 1 is killed.
    pub stop_timeout: Duration,
    /// How long the guest may take until it is up; then its unit counts as started all the same.
    pub start_timeout: Duration,
    /// Whether the guest gets a time namespace, in which its boot time begins at zero.
    pub time_namespace: bool,
}
