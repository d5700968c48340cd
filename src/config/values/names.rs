//! Names and texts that the kernel or the guest gives a meaning: capabilities, system calls,
//! variables, host names, machine ids.

use super::{Given, Value, quoted, without_nul};
use crate::config::nearest::nearest;
use crate::error::{Error, Result};
use crate::machine::name::Name;
use crate::machine::security::CAPABILITIES;
use std::ffi::OsString;

/// A capability by its full name, or `all`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capability(String);

impl Capability {
    /// The full names it stands for.
    pub fn names(&self) -> Vec<String> {
        if self.0 == "all" {
            return CAPABILITIES.iter().map(|name| format!("CAP_{name}")).collect();
        }
        vec![self.0.clone()]
    }
}

impl Value for Capability {
    fn read(given: &Given) -> Result<Self> {
        let Given::Text(text) = given else { return Err(given.expected("a capability, as \"CAP_NET_RAW\"")) };
        let upper = text.to_ascii_uppercase();
        if upper == "ALL" {
            return Ok(Self("all".to_owned()));
        }
        let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
        if CAPABILITIES.contains(&short) {
            return Ok(Self(format!("CAP_{short}")));
        }
        let error = Error::new(format!("there is no capability {}", quoted(text)));
        Err(match nearest(short, CAPABILITIES.iter().copied()) {
            Some(near) => error.with_hint(format!("did you mean \"CAP_{near}\"?")),
            None => error.with_hint("capabilities(7) has the list"),
        })
    }

    fn show(&self) -> String {
        quoted(&self.0)
    }
}

/// A system call or `@group` by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Syscall(pub String);

impl Value for Syscall {
    fn read(given: &Given) -> Result<Self> {
        let Given::Text(text) = given else { return Err(given.expected("the name of a system call")) };
        let bare = text.strip_prefix('@').unwrap_or(text);
        let fits =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-');
        if bare.is_empty() || bare.len() > 64 || !bare.bytes().all(fits) {
            return Err(Error::new(format!("{} is not the name of a system call", quoted(text)))
                .with_hint("write a name of syscalls(2), as \"keyctl\", or a group, as \"@keyring\""));
        }
        Ok(Self((*text).to_owned()))
    }

    fn show(&self) -> String {
        quoted(&self.0)
    }
}

/// A device of the host: a path, or a name of the Container Device Interface as `vendor.com/gpu=0`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device(pub String);

impl Device {
    /// The device of a path below `/dev`.
    ///
    /// # Errors
    /// What is no such path.
    pub fn path(text: &str) -> Result<Self> {
        let below = text.strip_prefix("/dev/").unwrap_or_default();
        // No word of a unit file can hold others.
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:+/".contains(&byte);
        let odd = |part: &str| part.is_empty() || part == "." || part == "..";
        if below.len() > 128 || !below.bytes().all(fits) || below.split('/').any(odd) {
            return Err(Error::new(format!("{} is not the path of a device", quoted(text)))
                .with_hint("write the whole path of a node below /dev, as \"/dev/kvm\""));
        }
        Ok(Self(text.to_owned()))
    }

    /// Whether it is a path.
    pub fn is_path(&self) -> bool {
        self.0.starts_with('/')
    }
}

impl Value for Device {
    fn read(given: &Given) -> Result<Self> {
        let Given::Text(text) = given else { return Err(given.expected("the path of a device")) };
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
        let word = |word: &str| !word.is_empty() && word.len() <= 128 && word.bytes().all(fits);
        match text.split_once('=').and_then(|(kind, name)| Some((kind.split_once('/')?, name))) {
            Some(((vendor, class), name)) if word(vendor) && word(class) && word(name) => {
                Ok(Self((*text).to_owned()))
            }
            _ => Self::path(text),
        }
    }

    fn show(&self) -> String {
        quoted(&self.0)
    }
}

/// A variable for PID 1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Variable {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}

impl Variable {
    /// Checks and takes a variable.
    ///
    /// # Errors
    /// A name that no shell would take, or a value with control characters.
    pub fn new(name: &str, value: &str) -> Result<Self> {
        let fits = |(at, letter): (usize, char)| {
            letter == '_' || letter.is_ascii_alphabetic() || (at > 0 && letter.is_ascii_digit())
        };
        if name.is_empty() || !name.chars().enumerate().all(fits) {
            return Err(Error::new(format!("{} is not the name of a variable", quoted(name)))
                .with_hint("use letters, digits and '_', and begin with no digit"));
        }
        if value.chars().any(|letter| letter.is_control() && !matches!(letter, '\n' | '\t')) {
            return Err(Error::new(format!("the value of '{name}' holds a control character")));
        }
        Ok(Self { name: name.to_owned(), value: value.to_owned() })
    }
}

impl Value for Variable {
    /// `NAME=VALUE`.
    fn read(given: &Given) -> Result<Self> {
        let Given::Text(text) = given else { return Err(given.expected("a variable, as \"NAME=VALUE\"")) };
        let (name, value) = text.split_once('=').ok_or_else(|| {
            Error::new(format!("{} is not a variable", quoted(text))).with_hint("write it as NAME=VALUE")
        })?;
        Self::new(name, value)
    }

    fn show(&self) -> String {
        format!("{} = {}", self.name, quoted(&self.value))
    }
}

/// An argument of a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Argument(pub OsString);

impl Value for Argument {
    fn read(given: &Given) -> Result<Self> {
        let Given::Text(text) = given else { return Err(given.expected("a string")) };
        Ok(Self(without_nul(text)?.into()))
    }

    fn show(&self) -> String {
        quoted(&self.0.to_string_lossy())
    }
}

/// A host name of hostname(7).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hostname(pub String);

impl Value for Hostname {
    fn read(given: &Given) -> Result<Self> {
        let Given::Text(text) = given else { return Err(given.expected("a host name")) };
        // machined's rule for names is the rule of hostname(7).
        if Name::new(text).is_err() {
            return Err(Error::new(format!("{} is not a host name", quoted(text)))
                .with_hint("use letters, digits, '-' and single dots, at most 64 characters"));
        }
        Ok(Self((*text).to_owned()))
    }

    fn show(&self) -> String {
        quoted(&self.0)
    }
}

impl Value for Name {
    fn read(given: &Given) -> Result<Self> {
        let Given::Text(text) = given else { return Err(given.expected("a machine name")) };
        Self::new(text)
    }

    fn show(&self) -> String {
        quoted(self.as_str())
    }
}

/// A slice by its unit name, as systemd.slice(5) has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice(pub String);

impl Value for Slice {
    /// `machine-web.slice`, or `machine-web`.
    fn read(given: &Given) -> Result<Self> {
        let Given::Text(text) = given else { return Err(given.expected("the name of a slice")) };
        let bare = text.strip_suffix(".slice").unwrap_or(text);
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b':' | b'\\');
        let labels = bare == "-" || bare.split('-').all(|label| !label.is_empty());
        if bare.is_empty() || bare.len() > 200 || !labels || !bare.bytes().all(fits) {
            return Err(Error::new(format!("{} is not the name of a slice", quoted(text)))
                .with_hint("write it as \"machine-web.slice\""));
        }
        Ok(Self(format!("{bare}.slice")))
    }

    fn show(&self) -> String {
        quoted(&self.0)
    }
}

/// A machine id of machine-id(5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Uuid(pub [u8; 16]);

impl Value for Uuid {
    fn read(given: &Given) -> Result<Self> {
        let Given::Text(text) = given else { return Err(given.expected("a machine id")) };
        let wrong = |why: &str| {
            Error::new(format!("{} is not a machine id: {why}", quoted(text)))
                .with_hint("systemd-id128 new makes one")
        };
        let digits: String = text.chars().filter(|letter| *letter != '-').collect();
        if digits.len() != 32 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(wrong("it has not 32 hexadecimal digits"));
        }
        let number = u128::from_str_radix(&digits, 16).map_err(|_| wrong("it is no number"))?;
        if number == 0 {
            return Err(wrong("it is zero"));
        }
        Ok(Self(number.to_be_bytes()))
    }

    fn show(&self) -> String {
        format!("\"{:032x}\"", u128::from_be_bytes(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_known_by_any_spelling() {
        for text in ["CAP_NET_RAW", "net_raw", "Net_Raw", "cap_net_raw"] {
            assert_eq!(Capability::read(&Given::Text(text)).unwrap().names(), ["CAP_NET_RAW"]);
        }
        assert_eq!(Capability::read(&Given::Text("all")).unwrap().names().len(), 41);
        let error = Capability::read(&Given::Text("CAP_NET_RAM")).unwrap_err();
        assert_eq!(error.hint(), Some("did you mean \"CAP_NET_RAW\"?"));
    }

    #[test]
    fn names_of_calls_variables_and_ids_are_checked() {
        for good in ["@keyring", "keyctl", "open_by_handle_at", "@basic-io"] {
            assert!(Syscall::read(&Given::Text(good)).is_ok(), "{good}");
        }
        for bad in ["", "@", "~keyctl", "a b", "@@x", "A"] {
            assert!(Syscall::read(&Given::Text(bad)).is_err(), "{bad}");
        }
        assert!(Variable::new("LANG", "C.UTF-8").is_ok());
        for (name, value) in [("", "a"), ("1A", "a"), ("A B", "a"), ("A", "\0"), ("A", "\u{1b}[2J")] {
            assert!(Variable::new(name, value).is_err(), "{name:?}");
        }
        assert_eq!(Slice::read(&Given::Text("machine-web")).unwrap().0, "machine-web.slice");
        for bad in ["", ".slice", "a--b", "-a", "a/b", "web.service"] {
            assert!(Slice::read(&Given::Text(bad)).is_err(), "{bad}");
        }
        let id = Uuid::read(&Given::Text("6d1d3ac0-8d0f-4d2a-9a0c-0123456789ab")).unwrap();
        assert_eq!(id.show(), "\"6d1d3ac08d0f4d2a9a0c0123456789ab\"");
        for bad in ["", "0", &"0".repeat(32), &"g".repeat(32), &"é".repeat(16)] {
            assert!(Uuid::read(&Given::Text(bad)).is_err(), "{bad}");
        }
    }
}
