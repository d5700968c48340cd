//! Reads the contents of credentials: files, stream sockets and the credentials of this unit. Called by `run`
//! before a launch.

use crate::error::{Context, Error, Result};
use crate::machine::contract::Contract;
use crate::machine::credentials::{Credential, CredentialSource, SIZE_MAX, Secret};
use std::io::Read;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The time that a service may take between two parts of a credential.
const PATIENCE: Duration = Duration::from_secs(30);

/// A credential with its content.
#[derive(Debug, Clone)]
pub(crate) struct LoadedCredential {
    /// Its name.
    pub(crate) name: String,
    /// Its content.
    pub(crate) content: Secret,
}

/// The stores in which systemd looks for credentials of units (systemd.exec(5)). systemd-nspawn(1) does not.
const STORES: [&str; 4] =
    ["/etc/credstore", "/run/credstore", "/usr/local/lib/credstore", "/usr/lib/credstore"];

/// Reads the contents of credentials.
///
/// # Errors
/// A content that cannot be read, or contents that are larger together than systemd accepts.
pub(crate) fn load(credentials: &[Credential], contract: Contract) -> Result<Vec<LoadedCredential>> {
    let mut left = SIZE_MAX;
    let mut loaded = Vec::with_capacity(credentials.len());
    for Credential { name, source } in credentials {
        let content =
            content(source, left, contract).map_err(|error| error.context(format!("credential '{name}'")))?;
        left = left.checked_sub(content.bytes().len() + name.len()).ok_or_else(too_large)?;
        loaded.push(LoadedCredential { name: name.clone(), content });
    }
    Ok(loaded)
}

fn too_large() -> Error {
    Error::new("the credentials of the machine are larger than 1 MiB together")
        .with_hint("pass a key as a credential, and large data in a bind mount")
}

fn content(source: &CredentialSource, limit: usize, contract: Contract) -> Result<Secret> {
    match source {
        CredentialSource::Given(secret) => Ok(secret.clone()),
        CredentialSource::File(path) => read(path, limit),
        CredentialSource::Passed(path) => {
            let directory = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
            let directory = directory.filter(|directory| directory.is_absolute());
            if contract == Contract::Coracle
                && let Some(file) = found(path, directory.as_deref(), &STORES)
            {
                return read(&file, limit);
            }
            let directory = directory.ok_or_else(|| {
                Error::new(format!(
                    "'{}' is not an absolute path, and no credentials were passed",
                    path.display()
                ))
                .with_hint(
                    "write an absolute path, store it in /etc/credstore, or pass it to the unit by LoadCredential=",
                )
            })?;
            read(&directory.join(path), limit)
        }
    }
}

/// Returns the first existing file of a credential: that of the unit, else that of a store.
fn found(path: &Path, directory: Option<&Path>, stores: &[&str]) -> Option<PathBuf> {
    let directories = directory.into_iter().chain(stores.iter().map(Path::new));
    directories.map(|directory| directory.join(path)).find(|file| file.exists())
}

/// Reads a file up to its end, or what a service sends at a stream socket.
fn read(path: &Path, limit: usize) -> Result<Secret> {
    let context = || format!("cannot read '{}'", path.display());
    match std::fs::File::open(path) {
        Ok(file) => read_all(file, limit).map_err(|error| error.context(context())),
        Err(error) if error.raw_os_error() == Some(libc::ENXIO) => {
            let stream = connect(path).context(context)?;
            read_all(stream, limit).map_err(|error| error.context(context()))
        }
        Err(error) => Err(error).context(context),
    }
}

fn connect(path: &Path) -> std::io::Result<UnixStream> {
    let stream = UnixStream::connect(path)?;
    stream.shutdown(Shutdown::Write)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn read_all(source: impl Read, limit: usize) -> Result<Secret> {
    let mut bytes = Vec::new();
    source.take(limit as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > limit { Err(too_large()) } else { Ok(Secret::new(bytes)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn one(source: CredentialSource) -> Result<Vec<LoadedCredential>> {
        load(&[Credential { name: "x".into(), source }], Contract::Nspawn)
    }

    #[test]
    fn files_and_stream_sockets_are_read() {
        let directory = tempfile::tempdir().unwrap();
        let (file, socket) = (directory.path().join("file"), directory.path().join("socket"));
        std::fs::write(&file, b"a\0b").unwrap();
        assert_eq!(one(CredentialSource::File(file)).unwrap()[0].content.bytes(), b"a\0b");
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let stream = connect(&socket).unwrap();
        let mut end = listener.accept().unwrap().0;
        // The end of the request has been sent.
        assert_eq!(end.read(&mut [0]).unwrap(), 0);
        end.write_all(b"from a service").unwrap();
        drop(end);
        assert_eq!(read_all(stream, 100).unwrap().bytes(), b"from a service");
        assert!(one(CredentialSource::File(directory.path().join("missing"))).is_err());
        assert!(one(CredentialSource::File(directory.path().to_owned())).is_err());
    }

    #[test]
    fn stores_are_searched_after_the_unit() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let stores = [one.path().to_str().unwrap(), other.path().to_str().unwrap()];
        assert_eq!(found(Path::new("key"), None, &stores), None);
        std::fs::write(other.path().join("key"), b"x").unwrap();
        assert_eq!(found(Path::new("key"), None, &stores), Some(other.path().join("key")));
        std::fs::write(one.path().join("key"), b"x").unwrap();
        assert_eq!(found(Path::new("key"), None, &stores), Some(one.path().join("key")));
        assert_eq!(found(Path::new("key"), Some(other.path()), &stores), Some(other.path().join("key")));
    }

    #[test]
    fn the_size_is_limited() {
        assert!(one(CredentialSource::Given(Secret::new(vec![0; SIZE_MAX - 1]))).is_ok());
        assert!(one(CredentialSource::Given(Secret::new(vec![0; SIZE_MAX]))).is_err());
        assert!(one(CredentialSource::File("/dev/zero".into())).is_err());
    }
}
