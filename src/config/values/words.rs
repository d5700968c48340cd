//! Settings of a few words each: init, wait, signals, users, network, console.

use super::{Given, Value, quoted};
use crate::config::nearest::nearest;
use crate::error::{Error, Result};
use crate::machine::Register;
use crate::machine::console::Console;
use crate::machine::init::{Init, InitChoice, REAL_TIME_SIGNALS, Wait};
use crate::machine::network::{HostNames, Mode, ResolvConf, ResolvFile, ResolvWay};
use crate::machine::security::Procfs;
use crate::machine::users::{RANGE_SIZE, Users};
use std::path::PathBuf;

/// The one of `words` that was given.
///
/// # Errors
/// The words there are, the nearest of them as the hint.
fn choose<T: Copy>(given: &Given, words: &[(&'static str, T)]) -> Result<T> {
    let Given::Text(text) = given else { return Err(given.expected("a word")) };
    if let Some((_, value)) = words.iter().find(|(word, _)| word == text) {
        return Ok(*value);
    }
    let list: Vec<String> = words.iter().map(|(word, _)| quoted(word)).collect();
    let error = Error::new(format!("{} is none of {}", quoted(text), list.join(", ")));
    Err(match nearest(text, words.iter().map(|(word, _)| *word)) {
        Some(near) => error.with_hint(format!("did you mean {}?", quoted(near))),
        None => error,
    })
}

/// The word of `value`.
fn word_of<T: PartialEq>(value: &T, words: &[(&'static str, T)]) -> String {
    quoted(words.iter().find(|(_, other)| other == value).map_or("", |(word, _)| word))
}

const WAITS: &[(&str, Wait)] = &[("auto", Wait::Auto), ("ready", Wait::Ready), ("running", Wait::Running)];
const MODES: &[(&str, Mode)] = &[
    ("veth", Mode::Veth),
    ("zone", Mode::Zone),
    ("bridge", Mode::Bridge),
    ("macvlan", Mode::Macvlan),
    ("ipvlan", Mode::Ipvlan),
    ("interface", Mode::Interface),
    ("namespace", Mode::Namespace),
    ("host", Mode::Host),
    ("none", Mode::None),
];
const RESOLV_CONFS: &[(&str, ResolvConf)] = &[
    ("auto", ResolvConf::Auto),
    ("off", ResolvConf::Off),
    ("delete", ResolvConf::Delete),
    ("copy-host", ResolvConf::From(ResolvWay::Copy, ResolvFile::Host)),
    ("copy-static", ResolvConf::From(ResolvWay::Copy, ResolvFile::Static)),
    ("copy-uplink", ResolvConf::From(ResolvWay::Copy, ResolvFile::Uplink)),
    ("copy-stub", ResolvConf::From(ResolvWay::Copy, ResolvFile::Stub)),
    ("replace-host", ResolvConf::From(ResolvWay::Replace, ResolvFile::Host)),
    ("replace-static", ResolvConf::From(ResolvWay::Replace, ResolvFile::Static)),
    ("replace-uplink", ResolvConf::From(ResolvWay::Replace, ResolvFile::Uplink)),
    ("replace-stub", ResolvConf::From(ResolvWay::Replace, ResolvFile::Stub)),
    ("bind-host", ResolvConf::From(ResolvWay::Bind, ResolvFile::Host)),
    ("bind-static", ResolvConf::From(ResolvWay::Bind, ResolvFile::Static)),
    ("bind-uplink", ResolvConf::From(ResolvWay::Bind, ResolvFile::Uplink)),
    ("bind-stub", ResolvConf::From(ResolvWay::Bind, ResolvFile::Stub)),
];
const HOST_NAMES: &[(&str, HostNames)] = &[("auto", HostNames::Auto), ("off", HostNames::Off)];
const REGISTERS: &[(&str, Register)] =
    &[("auto", Register::Auto), ("yes", Register::Yes), ("no", Register::No)];
const CONSOLES: &[(&str, Console)] = &[
    ("auto", Console::Auto),
    ("interactive", Console::Interactive),
    ("read-only", Console::ReadOnly),
    ("passive", Console::Passive),
    ("pipe", Console::Pipe),
    ("journal", Console::Journal),
];
const PROCFS: &[(&str, Procfs)] =
    &[("auto", Procfs::Auto), ("full", Procfs::Full), ("masked", Procfs::Masked)];
const OWNERSHIPS: &[(&str, OwnershipWord)] =
    &[("auto", OwnershipWord::Auto), ("map", OwnershipWord::Map), ("off", OwnershipWord::Off)];

impl Value for Wait {
    fn read(given: &Given) -> Result<Self> {
        choose(given, WAITS)
    }

    fn show(&self) -> String {
        word_of(self, WAITS)
    }
}

impl Value for Mode {
    fn read(given: &Given) -> Result<Self> {
        choose(given, MODES)
    }

    fn show(&self) -> String {
        word_of(self, MODES)
    }
}

impl Value for ResolvConf {
    fn read(given: &Given) -> Result<Self> {
        choose(given, RESOLV_CONFS)
    }

    fn show(&self) -> String {
        word_of(self, RESOLV_CONFS)
    }
}

impl Value for HostNames {
    fn read(given: &Given) -> Result<Self> {
        choose(given, HOST_NAMES)
    }

    fn show(&self) -> String {
        word_of(self, HOST_NAMES)
    }
}

impl Value for Register {
    fn read(given: &Given) -> Result<Self> {
        match given {
            Given::Boolean(true) => Ok(Self::Yes),
            Given::Boolean(false) => Ok(Self::No),
            _ => choose(given, REGISTERS),
        }
    }

    fn show(&self) -> String {
        word_of(self, REGISTERS)
    }
}

impl Value for Procfs {
    fn read(given: &Given) -> Result<Self> {
        choose(given, PROCFS)
    }

    fn show(&self) -> String {
        word_of(self, PROCFS)
    }
}

impl Value for Console {
    fn read(given: &Given) -> Result<Self> {
        choose(given, CONSOLES)
    }

    fn show(&self) -> String {
        word_of(self, CONSOLES)
    }
}

/// How files get to the machine's ids, as it is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnershipWord {
    /// Mapped where the machine has a range of its own.
    Auto,
    /// Mapped.
    Map,
    /// Taken as they are.
    Off,
}

impl Value for OwnershipWord {
    fn read(given: &Given) -> Result<Self> {
        if let Given::Text("chown" | "foreign") = given {
            return Err(Error::new("files are never given other owners").with_hint("write \"map\""));
        }
        choose(given, OWNERSHIPS)
    }

    fn show(&self) -> String {
        word_of(self, OWNERSHIPS)
    }
}

impl Value for InitChoice {
    fn read(given: &Given) -> Result<Self> {
        const WORDS: &[&str] = &["auto", "systemd", "openrc", "sysvinit", "runit", "s6", "dinit", "busybox"];
        let Given::Text(text) = given else { return Err(given.expected("the name or path of an init")) };
        if *text == "auto" {
            return Ok(Self::Auto);
        }
        if let Some(init) = Init::from_word(text) {
            return Ok(Self::Kind(init));
        }
        if text.starts_with('/') {
            return PathBuf::read(given).map(Self::Path);
        }
        let error = Error::new(format!("no init {} is known", quoted(text)));
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

/// A signal by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signal(pub i32);

impl Value for Signal {
    /// `TERM`, `SIGTERM`, `SIGRTMIN+3` in any case, or a number of signal(7).
    fn read(given: &Given) -> Result<Self> {
        let wrong = |shown: &str| {
            Error::new(format!("there is no signal {shown}"))
                .with_hint("write a name of signal(7), as \"SIGTERM\" or \"SIGRTMIN+3\"")
        };
        match given {
            Given::Integer(number) => i32::try_from(*number)
                .ok()
                .filter(|number| (1..=*REAL_TIME_SIGNALS.end()).contains(number))
                .map(Self)
                .ok_or_else(|| wrong(&number.to_string())),
            Given::Text(text) => signal(text).map(Self).ok_or_else(|| wrong(&quoted(text))),
            _ => Err(given.expected("a signal, as \"SIGTERM\"")),
        }
    }

    fn show(&self) -> String {
        match nix::sys::signal::Signal::try_from(self.0) {
            Ok(signal) => quoted(signal.as_str()),
            Err(_) => quoted(&format!("SIGRTMIN+{}", self.0 - REAL_TIME_SIGNALS.start())),
        }
    }
}

fn signal(text: &str) -> Option<i32> {
    let upper = text.to_ascii_uppercase();
    let short = upper.strip_prefix("SIG").unwrap_or(&upper);
    // Without a sign in front: +5 is no number of a signal.
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

impl Value for Users {
    fn read(given: &Given) -> Result<Self> {
        let wrong = |shown: &str| {
            Error::new(format!("{shown} is no user id range")).with_hint(
                "write \"pick\", \"no\", \"identity\", or a first id and a count, as \"1000000:65536\"",
            )
        };
        match given {
            Given::Boolean(true) | Given::Text("pick") => Ok(Self::Pick),
            Given::Boolean(false) | Given::Text("no") => Ok(Self::Host),
            Given::Text("identity") => Ok(Self::Identity),
            Given::Text("yes") => Err(Error::new("the range cannot be taken from the root's owner")
                .with_hint(
                    "write \"pick\": the machine gets a range of its own, and files stay as they are",
                )),
            Given::Text(text) => {
                let (base, count) = text.split_once(':').unwrap_or((text, ""));
                let base = base.parse::<u32>().map_err(|_| wrong(&quoted(text)))?;
                let count =
                    if count.is_empty() && !text.ends_with(':') { Ok(RANGE_SIZE) } else { count.parse() };
                range(base, count.map_err(|_| wrong(&quoted(text)))?)
            }
            Given::Integer(base) => {
                range(u32::try_from(*base).map_err(|_| wrong(&base.to_string()))?, RANGE_SIZE)
            }
            Given::Other(_) => Err(given.expected("a user id range, as \"pick\"")),
        }
    }

    fn show(&self) -> String {
        match self {
            Self::Pick => quoted("pick"),
            Self::Host => quoted("no"),
            Self::Identity => quoted("identity"),
            Self::Fixed { base, count } => format!("\"{base}:{count}\""),
        }
    }
}

/// The range of `count` ids from `base` on, which holds neither the host's root nor an id that
/// stands for none (4294967295).
fn range(base: u32, count: u32) -> Result<Users> {
    if base == 0 {
        return Err(Error::new("a user id range that begins at 0 is the host's own")
            .with_hint("write \"identity\" if that is meant"));
    }
    if count == 0 || base.checked_add(count).is_none() {
        return Err(Error::new(format!(
            "the user id range {base}:{count} is empty or ends above 4294967294"
        )));
    }
    Ok(Users::Fixed { base, count })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_read_by_name_and_number() {
        let read = |text| Signal::read(&Given::Text(text)).map(|signal| signal.0);
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

    #[test]
    fn user_ranges_fit_and_leave_the_host_alone() {
        let read = |text| Users::read(&Given::Text(text));
        assert_eq!(read("1000000").unwrap(), Users::Fixed { base: 1_000_000, count: 65536 });
        assert_eq!(read("1000000:1").unwrap(), Users::Fixed { base: 1_000_000, count: 1 });
        assert_eq!(Users::read(&Given::Boolean(false)).unwrap(), Users::Host);
        for bad in ["", "0", "-1", "5:", "5:0", ":5", "4294967295:1", "99999999999", "yes", "a:b", "5:6:7"] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
    }
}
