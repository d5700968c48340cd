//! `[boot]`: the init system, readiness and shutdown.

use super::command::Argument;
use super::setting::{List, Single, settings};
use super::values::{RawValue, Value, quoted, words};
use crate::error::{Error, Result, nearest};
use crate::machine::init::{Boot, Init, InitChoice, Personality, REAL_TIME_SIGNALS, Wait};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

settings! {
    /// Settings of the init system.
    BootSettings {
        /// The program that becomes PID 1.
        init: Single<InitChoice> = Single "boot.init", |_| InitChoice::Auto;
        /// The event after which the machine counts as started. systemd-nspawn(1) waits for `READY=1` only
        /// with `--notify-ready=`.
        wait: Single<Wait> = Single "boot.wait", |profile| if profile.is_of_nspawn() {
            Wait::Running
        } else {
            Wait::Auto
        };
        /// The signal that requests a clean shutdown from PID 1.
        stop_signal: Single<Signal> = Single "boot.stop-signal";
        /// The time limit of a clean shutdown.
        stop_timeout: Single<Duration> = Single "boot.stop-timeout", |_| Duration::from_secs(90);
        /// The time limit of a start.
        start_timeout: Single<Duration> = Single "boot.start-timeout", |_| Duration::from_secs(600);
        /// Arguments of the init.
        arguments: List<Argument> = List "boot.arguments";
        /// Whether the guest gets a time namespace.
        time_namespace: Single<bool> = Single "boot.time-namespace", |_| false;
        /// Whether calls such as fsync(2) have no effect.
        suppress_sync: Single<bool> = Single "boot.suppress-sync", |_| false;
        /// The execution domain of the guest.
        personality: Single<Personality> = Single "boot.personality";
        /// Whether the unit of the machine is that of machinectl(1).
        machinectl: Single<bool> = Single "boot.machinectl", |_| false;
    }
}

impl BootSettings {
    /// Builds the start and stop of the machine.
    pub(super) fn build(&self) -> Result<Boot> {
        Ok(Boot {
            init: self.init.required("boot.init")?,
            wait: self.wait.required("boot.wait")?,
            stop_signal: self.stop_signal.value().map(|signal| signal.0),
            stop_timeout: self.stop_timeout.required("boot.stop-timeout")?,
            start_timeout: self.start_timeout.required("boot.start-timeout")?,
            time_namespace: self.time_namespace.required("boot.time-namespace")?,
            suppress_sync: self.suppress_sync.required("boot.suppress-sync")?,
            personality: self.personality.value().copied(),
            machinectl: self.machinectl.required("boot.machinectl")?,
        })
    }

    /// Returns the arguments of the init.
    pub(super) fn init_arguments(&self) -> Vec<OsString> {
        self.arguments.values().map(|argument| argument.0.clone()).collect()
    }
}

words!(Wait, [("auto", Wait::Auto), ("ready", Wait::Ready), ("running", Wait::Running)]);

/// The words of systemd for the processor of this program and its 32-bit variant.
#[cfg(target_arch = "x86_64")]
const PERSONALITIES: [(&str, Personality); 2] =
    [("x86-64", Personality::Linux), ("x86", Personality::Linux32)];
#[cfg(target_arch = "aarch64")]
const PERSONALITIES: [(&str, Personality); 2] =
    [("arm64", Personality::Linux), ("arm", Personality::Linux32)];
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const PERSONALITIES: [(&str, Personality); 1] = [(std::env::consts::ARCH, Personality::Linux)];

words!(Personality, PERSONALITIES);

impl Value for InitChoice {
    fn read(raw: &RawValue) -> Result<Self> {
        const WORDS: &[&str] = &["auto", "systemd", "openrc", "sysvinit", "runit", "s6", "dinit", "busybox"];
        let RawValue::Text(text) = raw else { return Err(raw.expected("the name or path of an init")) };
        if *text == "auto" {
            return Ok(Self::Auto);
        }
        if let Some(init) = Init::from_word(text) {
            return Ok(Self::Kind(init));
        }
        if text.starts_with('/') {
            return PathBuf::read(raw).map(Self::Path);
        }
        let error = Error::new(format!("unknown init {}", quoted(text)));
        Err(match nearest(text, WORDS.iter().copied()) {
            Some(near) => error.with_hint(format!("did you mean {}?", quoted(near))),
            None => error.with_hint(format!("write one of {}, or an absolute path", WORDS.join(", "))),
        })
    }

    fn show(&self) -> String {
        match self {
            Self::Auto => quoted("auto"),
            Self::Kind(init) => quoted(init.as_str()),
            Self::Path(path) => path.show(),
        }
    }
}

/// A signal number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signal(pub i32);

impl Value for Signal {
    /// Parses `TERM`, `SIGTERM`, `SIGRTMIN+3` in upper or lower case, or a number of signal(7).
    fn read(raw: &RawValue) -> Result<Self> {
        let invalid = |shown: &str| {
            Error::new(format!("unknown signal {shown}"))
                .with_hint("write a name of signal(7), for example \"SIGTERM\" or \"SIGRTMIN+3\"")
        };
        match raw {
            RawValue::Integer(number) => i32::try_from(*number)
                .ok()
                .filter(|number| (1..=*REAL_TIME_SIGNALS.end()).contains(number))
                .map(Self)
                .ok_or_else(|| invalid(&number.to_string())),
            RawValue::Text(text) => signal(text).map(Self).ok_or_else(|| invalid(&quoted(text))),
            _ => Err(raw.expected("a signal such as \"SIGTERM\"")),
        }
    }

    fn show(&self) -> String {
        quoted(&self.name())
    }
}

impl Signal {
    /// Returns the name of the signal.
    pub(crate) fn name(&self) -> String {
        match nix::sys::signal::Signal::try_from(self.0) {
            Ok(signal) => signal.as_str().to_owned(),
            Err(_) => format!("SIGRTMIN+{}", self.0 - REAL_TIME_SIGNALS.start()),
        }
    }
}

fn signal(text: &str) -> Option<i32> {
    let upper = text.to_ascii_uppercase();
    let short = upper.strip_prefix("SIG").unwrap_or(&upper);
    // A leading '+' is invalid here although parse() accepts it.
    let number = |digits: &str| digits.parse::<u8>().ok().filter(|_| !digits.starts_with('+')).map(i32::from);
    let (least, greatest) = REAL_TIME_SIGNALS.into_inner();
    let real_time = if let Some(rest) = short.strip_prefix("RTMIN") {
        Some(if rest.is_empty() { least } else { least + number(rest.strip_prefix('+')?)? })
    } else if let Some(rest) = short.strip_prefix("RTMAX") {
        Some(if rest.is_empty() { greatest } else { greatest - number(rest.strip_prefix('-')?)? })
    } else {
        None
    };
    match real_time {
        Some(found) => Some(found).filter(|found| (least..=greatest).contains(found)),
        None => match number(&upper) {
            Some(found) => Some(found).filter(|found| (1..=greatest).contains(found)),
            None => format!("SIG{short}").parse::<nix::sys::signal::Signal>().ok().map(|found| found as i32),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_parsed_by_name_and_number() {
        let read = |text| Signal::read(&RawValue::Text(text)).map(|signal| signal.0);
        assert_eq!(read("SIGTERM").unwrap(), 15);
        assert_eq!(read("term").unwrap(), 15);
        assert_eq!(read("15").unwrap(), 15);
        assert_eq!(read("SIGRTMIN+3").unwrap(), 37);
        assert_eq!(read("RTMAX-1").unwrap(), 63);
        assert_eq!(read("rtmin").unwrap(), 34);
        for bad in ["", "0", "65", "999", "SIG", "SIGNONE", "RTMIN+99", "RTMIN3", "RTMIN++3", "+5", "-5"] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
        assert_eq!(Signal(37).show(), "\"SIGRTMIN+3\"");
        assert_eq!(Signal(15).show(), "\"SIGTERM\"");
    }
}
