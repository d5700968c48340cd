//! The credentials for a registry (containers-auth.json(5)) and the certificates of its authorities
//! (containers-certs.d(5)), as podman reads them for root. Called by `download`.

use crate::error::{Context, Error, Result};
use crate::machine::registry::Endpoint;
use crate::paths::Paths;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// The names of the registry of Docker in files of credentials.
const DOCKER: [&str; 3] = ["docker.io", "https://index.docker.io/v1/", "index.docker.io"];
/// The server of its images.
const DOCKER_SERVER: &str = "registry-1.docker.io";
/// The directories of certificates.
const CERTIFICATES: [&str; 2] = ["/etc/containers/certs.d", "/etc/docker/certs.d"];

/// A file of credentials.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct AuthFile {
    auths: BTreeMap<String, Entry>,
}

/// The credentials for a registry, or for a part of it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Entry {
    /// `USER:PASSWORD` in base64.
    auth: Option<String>,
}

/// Returns user and password for the image of a server. `None` if no file has them.
///
/// # Errors
/// An invalid file.
pub(super) fn of(paths: &Paths, endpoint: &Endpoint) -> Result<Option<(String, String)>> {
    for path in files(paths) {
        let reading = || format!("cannot use '{}'", path.display());
        let text = match std::fs::read(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            read => read.context(reading)?,
        };
        let file: AuthFile = serde_json::from_slice(&text)
            .map_err(|error| Error::new(format!("invalid JSON, line {}", error.line())).context(reading()))?;
        if let Some(entry) = find(&file, endpoint) {
            return parse(entry).map(Some).ok_or_else(|| {
                Error::new(format!("the entry for '{}' is invalid", endpoint.host)).context(reading())
            });
        }
    }
    Ok(None)
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
    let is_docker = endpoint.host == DOCKER_SERVER;
    let names = if is_docker { DOCKER.to_vec() } else { vec![endpoint.host.as_str()] };
    let mut keys: Vec<String> = Vec::new();
    for name in names {
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
        let text = r#"{"auths":{"x.org":{"auth":"dXNlcjpvbmU="},"x.org/a":{"auth":"dXNlcjp0d28="},"https://index.docker.io/v1/":{"auth":"dXNlcjphbGw="}},"credHelpers":{}}"#;
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
    }
}
