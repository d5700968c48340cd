//! `[credentials]`: credentials of the guest.

use super::setting::{List, Origin, settings};
use super::values::{RawValue, Value, quoted, unescape};
use crate::error::{Error, Result};
use crate::machine::credentials::{Credential, CredentialSource, Secret, is_name};
use crate::paths::Paths;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

settings! {
    /// Settings of credentials.
    CredentialsSettings {
        /// Credentials with their contents.
        set: List<GivenCredential> = Variables "credentials.set";
        /// Credentials with the files or sockets of their contents.
        load: List<LoadedCredential> = Variables "credentials.load";
    }
}

impl CredentialsSettings {
    /// Removes credentials that a later one of the same name replaces.
    pub(super) fn deduplicate(&mut self) {
        self.set.keep_last(|credential| credential.name.clone());
        self.load.keep_last(|credential| credential.name.clone());
    }

    /// Refuses contents in a file that other users of the host can read.
    ///
    /// # Errors
    /// The file, with its mode as the hint.
    pub(super) fn refuse_open_files(&self) -> Result<()> {
        for credential in self.set.sourced() {
            let Origin::File { path, .. } = &credential.origin else { continue };
            if path.metadata().is_ok_and(|file| file.mode() & 0o077 != 0) {
                let message = format!("other users can read the credentials in '{}'", path.display());
                return Err(Error::new(message).with_hint(format!("chmod 600 '{}'", path.display())));
            }
        }
        Ok(())
    }

    /// Builds the credentials of the machine.
    pub(super) fn build(&self, paths: &Paths) -> Vec<Credential> {
        let given = self.set.values().map(|given| Credential {
            name: given.name.clone(),
            source: CredentialSource::Given(given.content.clone()),
        });
        let loaded = self.load.sourced().iter().map(|loaded| Credential {
            name: loaded.value.name.clone(),
            source: if loaded.value.path.is_absolute() {
                CredentialSource::File(loaded.origin.host_path(paths, loaded.value.path.clone()))
            } else {
                CredentialSource::Passed(loaded.value.path.clone())
            },
        });
        given.chain(loaded).collect()
    }
}

/// A credential with its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GivenCredential {
    name: String,
    content: Secret,
}

impl Value for GivenCredential {
    /// Parses `ID:VALUE` with the escapes of C in the value.
    fn read(raw: &RawValue) -> Result<Self> {
        let (name, value) = split(raw, "VALUE")?;
        Ok(Self { name, content: Secret::new(unescape(value)?) })
    }

    fn read_entry(name: &str, raw: &RawValue) -> Result<Self> {
        let name = checked(name)?;
        match raw {
            RawValue::Text(text) => Ok(Self { name, content: Secret::new(*text) }),
            other => Err(other
                .expected("a string")
                .context(format!("'{name}'"))
                .with_hint("write the content between quotes, or load it from a file")),
        }
    }

    fn show(&self) -> String {
        format!("{} = {}", quoted(&self.name), quoted(&String::from_utf8_lossy(self.content.bytes())))
    }
}

/// A credential with the file or socket of its content: an absolute path of the host, or one below
/// `$CREDENTIALS_DIRECTORY`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadedCredential {
    name: String,
    path: PathBuf,
}

impl Value for LoadedCredential {
    /// Parses `ID:PATH`.
    fn read(raw: &RawValue) -> Result<Self> {
        let (name, path) = split(raw, "PATH")?;
        Ok(Self { name, path: path_of(path)? })
    }

    fn read_entry(name: &str, raw: &RawValue) -> Result<Self> {
        let name = checked(name)?;
        let RawValue::Text(path) = raw else {
            return Err(raw.expected("a path").context(format!("'{name}'")));
        };
        let path = path_of(path).map_err(|error| error.context(format!("'{name}'")))?;
        Ok(Self { name, path })
    }

    fn show(&self) -> String {
        format!("{} = {}", quoted(&self.name), quoted(&self.path.to_string_lossy()))
    }
}

/// Splits `ID:REST` at the first colon. No error contains the text: it may be secret.
fn split<'t>(raw: &'t RawValue, rest: &str) -> Result<(String, &'t str)> {
    let RawValue::Text(text) = raw else { return Err(raw.expected(&format!("ID:{rest}"))) };
    let (name, value) = text
        .split_once(':')
        .ok_or_else(|| Error::new("there is no colon").with_hint(format!("write ID:{rest}")))?;
    Ok((checked(name)?, value))
}

fn checked(name: &str) -> Result<String> {
    if is_name(name) {
        return Ok(name.to_owned());
    }
    Err(Error::new(format!("{} is not the name of a credential", quoted(name)))
        .with_hint("use printable ASCII characters without ':' and '/', at most 255"))
}

/// Parses an absolute path, or a path below a directory.
fn path_of(text: &str) -> Result<PathBuf> {
    if text.starts_with('/') {
        return PathBuf::read(&RawValue::Text(text));
    }
    let path = Path::new(text);
    let is_below = path.components().all(|part| matches!(part, Component::Normal(_)));
    if text.is_empty() || !is_below || text.contains('\0') {
        return Err(Error::new(format!("{} is not a path of a credential", quoted(text)))
            .with_hint("write an absolute path, or one below $CREDENTIALS_DIRECTORY without '..'"));
    }
    Ok(path.components().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_have_a_name_and_a_value_with_escapes() {
        let given = GivenCredential::read(&RawValue::Text("a.b:x:\\n\\xff")).unwrap();
        assert_eq!((given.name.as_str(), given.content.bytes()), ("a.b", &b"x:\n\xff"[..]));
        let given = GivenCredential::read_entry("a", &RawValue::Text("x\\n")).unwrap();
        assert_eq!(given.content.bytes(), b"x\\n");
        let loaded = LoadedCredential::read(&RawValue::Text("a:/etc//b:c")).unwrap();
        assert_eq!(loaded.path, Path::new("/etc/b:c"));
        assert_eq!(LoadedCredential::read(&RawValue::Text("a:b/c")).unwrap().path, Path::new("b/c"));
        for bad in ["", "a", ":x", "a/b:/x", "..:/x", "a:", "a:../x", "a:./x", "a:/../x"] {
            assert!(LoadedCredential::read(&RawValue::Text(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn contents_in_a_file_of_all_users_are_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut settings = CredentialsSettings::default();
        let given = GivenCredential::read(&RawValue::Text("a:b")).unwrap();
        settings.set.push(given, Origin::File { path: file.path().to_owned(), line: 1 });
        assert_eq!(settings.refuse_open_files(), Ok(()));
        for mode in [0o644, 0o640, 0o604] {
            std::fs::set_permissions(file.path(), std::os::unix::fs::PermissionsExt::from_mode(mode))
                .unwrap();
            assert!(settings.refuse_open_files().unwrap_err().hint().unwrap().starts_with("chmod 600 "));
        }
    }

    #[test]
    fn errors_do_not_contain_the_content() {
        for bad in ["hunter2", "a:hunter2\\q", "\u{7f}:hunter2"] {
            let error = GivenCredential::read(&RawValue::Text(bad)).unwrap_err().to_string();
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
