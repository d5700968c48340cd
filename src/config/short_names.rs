//! Short names of images as systemd has them for importctl(1): files `image.NAME.oci-registry`, or
//! `default.oci-registry` for all others, in directories `systemd/oci-registry`. Called by `registries`.

use crate::error::{Context, Error, Result};
use crate::machine::registry::Reference;
use crate::paths::Paths;
use serde::Deserialize;
use std::io::ErrorKind;
use std::path::PathBuf;

/// The directories, of which the first one with a file counts.
const DIRECTORIES: [&str; 4] = ["/etc", "/run", "/usr/local/lib", "/usr/lib"];
/// The server of Docker's images, which is called otherwise in names of images.
const DOCKER: (&str, &str) = ("registry-1.docker.io", "docker.io");

/// A file. systemd ignores other keys, too.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct RegistryFile {
    override_registry: Option<String>,
    default_registry: Option<String>,
    override_image: Option<String>,
    short_image_prefix: Option<String>,
    default_tag: Option<String>,
}

/// Returns the full name of a short one. `None` if systemd does not know it.
///
/// # Errors
/// A file that cannot be read, or an invalid one.
pub(super) fn full(paths: &Paths, reference: &Reference) -> Result<Option<Reference>> {
    let name = &reference.repository;
    let Some(file) = read(paths, &format!("image.{}", escaped(name)))?
        .map_or_else(|| read(paths, "default"), |file| Ok(Some(file)))?
    else {
        return Ok(None);
    };
    let Some(registry) = file.override_registry.or(file.default_registry) else { return Ok(None) };
    let registry = if registry == DOCKER.0 { DOCKER.1.to_owned() } else { registry };
    let image = match (file.override_image, file.short_image_prefix) {
        (Some(image), _) => image,
        (None, Some(prefix)) if !name.contains('/') => format!("{prefix}{name}"),
        _ => name.clone(),
    };
    let full = reference.with_name(&format!("{registry}/{image}"))?;
    Ok(Some(match file.default_tag.filter(|_| !reference.has_tag) {
        Some(tag) => Reference { tag, ..full },
        None => full,
    }))
}

/// Reads the first file of a name. `None` if there is none.
fn read(paths: &Paths, name: &str) -> Result<Option<RegistryFile>> {
    for directory in DIRECTORIES {
        let path: PathBuf = paths.join(directory).join(format!("systemd/oci-registry/{name}.oci-registry"));
        let reading = || format!("cannot use '{}'", path.display());
        let text = match std::fs::read(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            read => read.context(reading)?,
        };
        let file = serde_json::from_slice(&text)
            .map_err(|error| Error::new(format!("invalid JSON, line {}", error.line())).context(reading()))?;
        return Ok(Some(file));
    }
    Ok(None)
}

/// Escapes a name as part of the name of a file.
fn escaped(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    name.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02x}") })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_are_those_of_systemd() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::below(root.path());
        let full = |name: &str| full(&paths, &Reference::parse(name).unwrap());
        assert_eq!(full("debian").unwrap(), None);
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let usr = "usr/lib/systemd/oci-registry";
        let docker = r#"{"shortImagePrefix": "library/", "overrideRegistry": "registry-1.docker.io"}"#;
        write(&format!("{usr}/default.oci-registry"), docker);
        let fedora = r#"{"defaultRegistry": "f.org", "defaultTag": "rawhide", "other": 1}"#;
        write(&format!("{usr}/image.fedora.oci-registry"), fedora);
        write(
            &format!("{usr}/image.a%2fb.oci-registry"),
            r#"{"overrideRegistry":"x.org","overrideImage":"c/d"}"#,
        );
        write(&format!("{usr}/image.own.oci-registry"), r#"{"overrideRegistry":"usr.org"}"#);
        write("etc/systemd/oci-registry/image.own.oci-registry", r#"{"overrideRegistry":"etc.org"}"#);
        write("etc/systemd/oci-registry/image.broken.oci-registry", "{");
        for (name, expected) in [
            ("debian:trixie", "docker.io/library/debian:trixie"),
            ("some/one", "docker.io/some/one:latest"),
            ("fedora", "f.org/fedora:rawhide"),
            ("fedora:latest", "f.org/fedora:latest"),
            ("a/b:1", "x.org/c/d:1"),
            ("own", "etc.org/own:latest"),
        ] {
            assert_eq!(full(name).unwrap().unwrap().to_string(), expected);
        }
        assert!(full("broken").unwrap_err().to_string().contains("image.broken.oci-registry"));
    }
}
