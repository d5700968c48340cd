//! The init systems that a machine can run as PID 1, and their readiness and shutdown.

use std::convert::Infallible;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// The lowest and highest real-time signals in the numbering of guests: glibc reserves the first two of the
/// kernel (signal(7)), and systemd(1) counts from the next one. The C library of Coracle may count
/// differently.
pub(crate) const REAL_TIME_SIGNALS: std::ops::RangeInclusive<i32> = 34..=64;

/// The execution domain of the processes of a machine (personality(2)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Personality {
    /// That of the processor of the host.
    Linux,
    /// That of its 32-bit variant: uname(2) reports it.
    Linux32,
}

impl Personality {
    /// Returns the number of the kernel (linux/personality.h).
    pub(crate) fn domain(self) -> u32 {
        const PER_LINUX: u32 = 0;
        const PER_LINUX32: u32 = 8;
        match self {
            Self::Linux => PER_LINUX,
            Self::Linux32 => PER_LINUX32,
        }
    }
}

/// An init system with a known procedure for shutdown.
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
    /// An unknown program.
    Unknown,
}

impl Init {
    /// Returns the word for definitions and `list`.
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

    /// Returns the init system of a word in a definition; `None` if the word is unknown.
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Systemd, Self::OpenRc, Self::SysVinit, Self::Runit, Self::S6, Self::Dinit, Self::Busybox]
            .into_iter()
            .find(|init| init.as_str() == word)
    }

    /// Returns whether it notifies its manager by sd_notify(3) when the system has booted.
    pub(crate) fn reports_readiness(self) -> bool {
        self == Self::Systemd
    }
}

/// The program that runs as PID 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PayloadKind {
    /// A single command.
    Command,
    /// An init system.
    Init(Init),
}

impl fmt::Display for PayloadKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Command => "command",
            Self::Init(init) => init.as_str(),
        })
    }
}

impl FromStr for PayloadKind {
    type Err = Infallible;

    fn from_str(word: &str) -> Result<Self, Infallible> {
        Ok(match word {
            "command" => Self::Command,
            word => Self::Init(Init::from_word(word).unwrap_or(Init::Unknown)),
        })
    }
}

/// The program that becomes PID 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InitChoice {
    /// The first init found in the tree, with its init system detected.
    Auto,
    /// The first init found in the tree, treated as this init system.
    Kind(Init),
    /// This program, an absolute path inside the tree.
    Path(PathBuf),
}

/// The event after which a machine counts as started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// `READY=1` of the guest if its init sends it; otherwise as `Running`.
    Auto,
    /// `READY=1` of the guest.
    Ready,
    /// The execution of PID 1.
    Running,
}

/// The start and stop of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Boot {
    /// The program that becomes PID 1.
    pub(crate) init: InitChoice,
    /// The event after which the machine counts as started.
    pub(crate) wait: Wait,
    /// The number of the signal that requests a clean shutdown from PID 1; `None` for the signal of the init
    /// system.
    pub(crate) stop_signal: Option<i32>,
    /// The time limit of a clean shutdown; then PID 1 is killed.
    pub(crate) stop_timeout: Duration,
    /// The time limit of the boot; then the unit counts as started.
    pub(crate) start_timeout: Duration,
    /// Whether the guest gets a time namespace, in which its boot time starts at zero.
    pub(crate) time_namespace: bool,
    /// Whether calls that write files to the disk, such as fsync(2), only pretend to do so.
    pub(crate) suppress_sync: bool,
    /// The execution domain of its processes; `None` for that of Coracle.
    pub(crate) personality: Option<Personality>,
    /// Whether its unit is `systemd-nspawn@NAME.service`.
    pub(crate) machinectl: bool,
}
