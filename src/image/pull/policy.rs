//! Signatures (containers-policy.json(5)): Coracle checks none, and refuses an image for which the host demands some.
//! Called by `pull`.

use crate::error::{Context, Error, Result};
use crate::machine::registry::Reference;
use crate::paths::Paths;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::io::ErrorKind;

/// The file of the host.
const FILE: &str = "/etc/containers/policy.json";
/// The requirement that any image fulfils.
const ANY: &str = "insecureAcceptAnything";

/// The file.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Policy {
    default: Vec<Requirement>,
    transports: BTreeMap<String, BTreeMap<String, Vec<Requirement>>>,
}

/// A requirement for an image.
#[derive(Debug, Deserialize)]
struct Requirement {
    #[serde(rename = "type")]
    kind: String,
}

/// Refuses an image for which the host demands signatures, or which it rejects.
///
/// # Errors
/// Such an image, or an invalid file.
pub(super) fn check(paths: &Paths, reference: &Reference) -> Result<()> {
    let reading = || format!("cannot use '{FILE}'");
    let text = match std::fs::read(paths.join(FILE)) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        read => read.context(reading)?,
    };
    let policy: Policy =
        serde_json::from_slice(&text).map_err(|error| Error::new(error.to_string()).context(reading()))?;
    if requirements(&policy, &reference.name()).iter().all(|requirement| requirement.kind == ANY) {
        return Ok(());
    }
    Err(Error::new(format!("'{FILE}' demands a signature of it, which Coracle does not check")).with_hint(
        format!("check it by 'skopeo copy docker://{reference} oci:DIR', then 'coracle import oci:DIR'"),
    ))
}

/// Returns the requirements for the longest scope that a name is in.
fn requirements<'a>(policy: &'a Policy, name: &str) -> &'a [Requirement] {
    let scopes = policy.transports.get("docker");
    let mut scope = Some(name);
    while let Some(found) = scope {
        if let Some(requirements) = scopes.and_then(|scopes| scopes.get(found)) {
            return requirements;
        }
        scope = found.rsplit_once('/').map(|(above, _)| above);
    }
    scopes.and_then(|scopes| scopes.get("")).unwrap_or(&policy.default)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_scope_counts() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::below(root.path());
        let of = |name: &str| check(&paths, &Reference::parse(name).unwrap());
        of("x.org/a").unwrap();
        std::fs::create_dir_all(root.path().join("etc/containers")).unwrap();
        let text = r#"{"default":[{"type":"reject"}],"transports":{"docker":{"x.org":[{"type":"insecureAcceptAnything"}],"x.org/a/b":[{"type":"signedBy"}]}}}"#;
        std::fs::write(paths.join(FILE), text).unwrap();
        of("x.org/a").unwrap();
        assert!(
            of("x.org/a/b/c")
                .unwrap_err()
                .hint()
                .unwrap()
                .contains("skopeo copy docker://x.org/a/b/c:latest")
        );
        assert!(of("y.org/a").is_err());
    }
}
