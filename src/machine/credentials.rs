//! Credentials of a machine (systemd's System and Service Credentials). Their contents are secret: they are
//! in no text, record or log.

use std::fmt;
use std::path::PathBuf;

/// The directory with the credentials inside.
pub(crate) const DIRECTORY: &str = "/run/host/credentials";
/// The directory inside with the socket that receives the guest's journal.
pub(crate) const JOURNAL_DIRECTORY: &str = "/run/host/journal";
/// The name of the socket.
pub(crate) const JOURNAL_SOCKET: &str = "socket";
/// The maximum size of all credentials of a machine together, in bytes: that of systemd.
pub(crate) const SIZE_MAX: usize = 1 << 20;

/// A credential of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// Its name.
    pub(crate) name: String,
    /// The source of its content.
    pub(crate) source: CredentialSource,
}

impl Credential {
    /// Returns the credential with the socket that a guest sends its journal to
    /// (systemd.system-credentials(7)). `None` if the machine has one of its own.
    pub(crate) fn of_forwarding(others: &[Self]) -> Option<Self> {
        const NAME: &str = "journal.forward_to_socket";
        let is_set = others.iter().any(|other| other.name == NAME);
        let source = CredentialSource::Given(Secret::new(format!("{JOURNAL_DIRECTORY}/{JOURNAL_SOCKET}")));
        (!is_set).then(|| Self { name: NAME.to_owned(), source })
    }
}

/// The source of the content of a credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CredentialSource {
    /// The definition or an option.
    Given(Secret),
    /// A file or stream socket of the host.
    File(PathBuf),
    /// A file below `$CREDENTIALS_DIRECTORY`, which systemd passes to a unit.
    Passed(PathBuf),
}

/// Secret bytes, which are not formatted.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Creates a secret.
    pub(crate) fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
    }

    /// Returns the bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// Returns whether a text can be the name of a credential, as in systemd: a file name of at most 255
/// printable characters without a colon.
pub(crate) fn is_name(text: &str) -> bool {
    let fits = |byte: u8| (b' '..0x7f).contains(&byte) && !matches!(byte, b':' | b'/');
    !text.is_empty() && text.len() <= 255 && text.bytes().all(fits) && text != "." && text != ".."
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_systemd() {
        for good in ["a", "passwd.hashed-password.root", "a b", "...", "=", &"x".repeat(255)] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", ".", "..", "a:b", "a/b", "\n", "ä", "\u{7f}", &"x".repeat(256)] {
            assert!(!is_name(bad), "{bad}");
        }
    }

    #[test]
    fn a_secret_is_not_formatted() {
        let source = CredentialSource::Given(Secret::new(*b"hunter2"));
        let shown = format!("{:?}", Credential { name: "x".into(), source });
        assert!(!shown.contains("hunter2") && !shown.contains("104"), "{shown}");
    }
}
