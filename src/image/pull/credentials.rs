//! The credentials for a registry (containers-auth.json(5)), of files and of programs, and the certificates of its
//! authorities (containers-certs.d(5)), as podman reads them for root. Called by `server`.

use super::credential_helper;
use crate::error::{Context, Error, Result};
use crate::machine::registry::Endpoint;
use crate::paths::Paths;
use crate::tree::copy::CopyProgress;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// The names of the registry of Docker in files of credentials.
const DOCKER: [&str; 3] = ["docker.io", "https://index.docker.io/v1/", "index.docker.io"];
/// The server of its images.
const DOCKER_SERVER: &str = "registry-1.docker.io";
/// The word for the files of credentials in a list of programs (containers-registries.conf(5)).
const FILES: &str = "containers-auth.json";
/// The directories of certificates.
const CERTIFICATES: [&str; 2] = ["/etc/containers/certs.d", "/etc/docker/certs.d"];

/// A file of credentials.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct AuthFile {
    auths: BTreeMap<String, Entry>,
    /// The programs with the credentials for registries.
    cred_helpers: BTreeMap<String, String>,
    /// The program with all other credentials, as Docker has it.
    creds_store: Option<String>,
}

/// The credentials for a registry, or for a part of it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Entry {
    /// `USER:PASSWORD` in base64.
    auth: Option<String>,
}

/// Returns user and password for the image of a server. `None` if there are none. `helpers` are the sources: programs,
/// and the word for the files.
///
/// # Errors
/// An invalid file, or a program that fails.
pub(super) fn of(
    paths: &Paths,
    endpoint: &Endpoint,
    helpers: &[String],
    progress: &mut CopyProgress<'_>,
) -> Result<Option<(String, String)>> {
    for helper in helpers {
        let found = match helper.as_str() {
            FILES => of_files(paths, endpoint, progress)?,
            name => of_program(name, &endpoint.host, progress)?,
        };
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// Returns user and password of the first file that has them.
fn of_files(
    paths: &Paths,
    endpoint: &Endpoint,
    progress: &mut CopyProgress<'_>,
) -> Result<Option<(String, String)>> {
    for path in files(paths) {
        let reading = || format!("cannot use '{}'", path.display());
        let text = match std::fs::read(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            read => read.context(reading)?,
        };
        let file: AuthFile = serde_json::from_slice(&text)
            .map_err(|error| Error::new(format!("invalid JSON, line {}", error.line())).context(reading()))?;
        let program = names(&endpoint.host).iter().find_map(|name| file.cred_helpers.get(*name));
        if let Some(program) = program
            && let Some(found) =
                of_program(program, &endpoint.host, progress).map_err(|error| error.context(reading()))?
        {
            return Ok(Some(found));
        }
        if let Some(entry) = find(&file, endpoint) {
            return parse(entry).map(Some).ok_or_else(|| {
                Error::new(format!("the entry for '{}' is invalid", endpoint.host)).context(reading())
            });
        }
        if let Some(program) = file.creds_store.filter(|program| !program.is_empty())
            && let Some(found) =
                of_program(&program, &endpoint.host, progress).map_err(|error| error.context(reading()))?
        {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// Returns user and password of a program, by the names of a registry.
fn of_program(
    program: &str,
    host: &str,
    progress: &mut CopyProgress<'_>,
) -> Result<Option<(String, String)>> {
    for name in names(host) {
        if let Some(found) = credential_helper::get(program, name, progress)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// Returns the names of a registry in files of credentials.
fn names(host: &str) -> Vec<&str> {
    if host == DOCKER_SERVER { DOCKER.to_vec() } else { vec![host] }
}

/// Returns the files in the order of podman.
fn files(paths: &Paths) -> Vec<PathBuf> {
    if let Some(file) = std::env::var_os("REGISTRY_AUTH_FILE") {
        return vec![file.into()];
    }
    let mut files = vec![paths.join("/run/containers/0/auth.json")];
    if let Some(home) = std::env::var_os("HOME").map(PathBuf::from) {
        files.extend([".config/containers/auth.json", ".docker/config.json"].map(|file| home.join(file)));
    }
    files
}

/// Returns the entry with the longest name that matches.
fn find<'a>(file: &'a AuthFile, endpoint: &Endpoint) -> Option<&'a str> {
    let mut keys: Vec<String> = Vec::new();
    for name in names(&endpoint.host) {
        let mut repository = Some(endpoint.repository.as_str());
        while let Some(part) = repository {
            keys.push(format!("{name}/{part}"));
            repository = part.rsplit_once('/').map(|(above, _)| above);
        }
        keys.push(name.to_owned());
        keys.push(format!("https://{name}"));
    }
    keys.iter().find_map(|key| file.auths.get(key)?.auth.as_deref())
}

fn parse(text: &str) -> Option<(String, String)> {
    let plain = String::from_utf8(base64(text)?).ok()?;
    let (user, password) = plain.trim_end_matches('\0').split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

/// Decodes bytes (RFC 4648).
fn base64(text: &str) -> Option<Vec<u8>> {
    let (mut bytes, mut buffer, mut bits) = (Vec::new(), 0u32, 0);
    for byte in text.trim_end_matches('=').bytes() {
        let digit = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        buffer = buffer << 6 | u32::from(digit);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push(u8::try_from(buffer >> bits & 0xff).ok()?);
        }
    }
    Some(bytes)
}

/// Returns the certificates of authorities for a server.
///
/// # Errors
/// A certificate that cannot be read.
pub(super) fn authorities(paths: &Paths, host: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for directory in CERTIFICATES {
        let directory = paths.join(Path::new(directory).join(host));
        let entries = std::fs::read_dir(&directory).into_iter().flatten().flatten();
        for path in
            entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|is| is == "crt"))
        {
            found.push(
                std::fs::read_to_string(&path).context(|| format!("cannot read '{}'", path.display()))?,
            );
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_name_has_the_credentials() {
        // user:one, user:two, user:all
        let text = r#"{"auths":{"x.org":{"auth":"dXNlcjpvbmU="},"x.org/a":{"auth":"dXNlcjp0d28="},"https://index.docker.io/v1/":{"auth":"dXNlcjphbGw="}},"credHelpers":{"y.org":"own"},"credsStore":"all"}"#;
        let file: AuthFile = serde_json::from_str(text).unwrap();
        let password = |host: &str, repository: &str| {
            let endpoint = Endpoint { host: host.into(), repository: repository.into(), insecure: false };
            find(&file, &endpoint).and_then(parse).map(|(_, password)| password)
        };
        assert_eq!(password("x.org", "a/b/c").as_deref(), Some("two"));
        assert_eq!(password("x.org", "ab").as_deref(), Some("one"));
        assert_eq!(password(DOCKER_SERVER, "library/debian").as_deref(), Some("all"));
        assert_eq!(password("y.org", "a"), None);
        assert_eq!(parse("*"), None);
        let programs = (file.cred_helpers.get("y.org").map(String::as_str), file.creds_store.as_deref());
        assert_eq!(programs, (Some("own"), Some("all")));
    }
}
