//! References to images in registries, and the places that registries have on this host. Plain types for `config`,
//! `image` and `control`.

use super::name::Name;
use crate::error::{Error, Result};
use std::fmt;

/// The registry of Docker, and the server of its images.
const DOCKER: (&str, &str) = ("docker.io", "registry-1.docker.io");

/// A reference to an image: `REGISTRY/REPOSITORY:TAG` or `REGISTRY/REPOSITORY@DIGEST`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// The registry, with a port if it has one. Empty for a short name.
    pub(crate) registry: String,
    /// The repository.
    pub(crate) repository: String,
    /// The tag.
    pub(crate) tag: String,
    /// Whether the tag was named, and is not the default.
    pub(crate) has_tag: bool,
    /// The digest, which replaces the tag.
    pub(crate) digest: Option<String>,
}

/// A server that has an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The host, with a port if it has one.
    pub(crate) host: String,
    /// The repository.
    pub(crate) repository: String,
    /// Whether TLS is not required.
    pub(crate) insecure: bool,
}

impl Reference {
    /// Parses a reference.
    ///
    /// # Errors
    /// An invalid one.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = || {
            Error::usage(format!("'{}' is not the name of an image", text.escape_debug()))
                .with_hint("write REGISTRY/NAME:TAG, for example docker.io/library/debian:trixie")
        };
        let rest = text.strip_prefix("docker://").unwrap_or(text);
        let (rest, digest) = match rest.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.to_owned())),
            None => (rest, None),
        };
        let (rest, tag, has_tag) = match rest.rsplit_once(':').filter(|(_, tag)| !tag.contains('/')) {
            Some((rest, tag)) => (rest, tag.to_owned(), true),
            None => (rest, "latest".to_owned(), false),
        };
        let is_registry = |first: &str| first.contains(['.', ':']) || first == "localhost";
        let (registry, repository) = match rest.split_once('/').filter(|(first, _)| is_registry(first)) {
            Some((registry, repository)) => (registry.to_owned(), repository.to_owned()),
            None => (String::new(), rest.to_owned()),
        };
        let is_part = |part: &str| {
            !part.is_empty()
                && part.starts_with(|c: char| c.is_ascii_alphanumeric())
                && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c))
        };
        let is_host = registry.chars().all(|c| c.is_ascii_alphanumeric() || ".-:[]".contains(c));
        let is_tag = tag.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
            && tag.len() <= 128
            && tag.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
        if !is_host || !is_tag || repository.len() > 255 || !repository.split('/').all(is_part) {
            return Err(wrong());
        }
        Ok(Self { registry, repository, tag, has_tag, digest })
    }

    /// Returns the name without tag and digest.
    pub(crate) fn name(&self) -> String {
        if self.registry.is_empty() {
            self.repository.clone()
        } else {
            format!("{}/{}", self.registry, self.repository)
        }
    }

    /// Returns the image of this tag or digest under another name.
    ///
    /// # Errors
    /// An invalid name.
    pub(crate) fn with_name(&self, name: &str) -> Result<Self> {
        let (tag, digest) = (self.tag.clone(), self.digest.clone());
        Ok(Self { tag, has_tag: self.has_tag, digest, ..Self::parse(name)? })
    }

    /// Returns the name that the reference suggests for an image.
    ///
    /// # Errors
    /// A repository whose last part is not the name of a machine.
    pub(crate) fn machine_name(&self) -> Result<Name> {
        let last = self.repository.rsplit('/').next().unwrap_or_default();
        Name::new(last).map_err(|error| {
            Error::usage(error.to_string()).with_hint("give the image a name: coracle pull IMAGE NAME")
        })
    }

    /// Returns the server of the registry itself.
    pub(crate) fn endpoint(&self, insecure: bool) -> Endpoint {
        let is_docker = self.registry == DOCKER.0;
        let host = if is_docker { DOCKER.1 } else { &self.registry };
        let is_official = is_docker && !self.repository.contains('/');
        let library = if is_official { "library/" } else { "" };
        Endpoint { host: host.to_owned(), repository: format!("{library}{}", self.repository), insecure }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.digest {
            Some(digest) => write!(f, "{}@{digest}", self.name()),
            None => write!(f, "{}:{}", self.name(), self.tag),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_have_registry_repository_and_tag() {
        for (text, registry, repository, tag) in [
            ("debian", "", "debian", "latest"),
            ("docker.io/library/debian:trixie", "docker.io", "library/debian", "trixie"),
            ("localhost:5000/a/b", "localhost:5000", "a/b", "latest"),
            ("docker://quay.io/a/b:1.0", "quay.io", "a/b", "1.0"),
            ("a/b:x", "", "a/b", "x"),
        ] {
            let Reference { registry: r, repository: p, tag: t, .. } = Reference::parse(text).unwrap();
            assert_eq!((r.as_str(), p.as_str(), t.as_str()), (registry, repository, tag), "{text}");
        }
        for text in ["", "A", "a//b", "a:", "a:b c", "a/../b", "host:1/", "https://x/y", "a b", "x.y/-a"] {
            assert!(Reference::parse(text).is_err(), "{text}");
        }
        let docker = Reference::parse("docker.io/debian").unwrap().endpoint(false);
        assert_eq!(
            (docker.host.as_str(), docker.repository.as_str()),
            ("registry-1.docker.io", "library/debian")
        );
    }
}
