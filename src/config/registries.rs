//! Reads the registries of the host as podman does (containers-registries.conf(5)): search registries, short names,
//! locations and mirrors. On a host without search registries, short names are those of systemd. Called by `control` for
//! `pull`.

use super::short_names;
use crate::error::{Context, Error, Result};
use crate::machine::registry::{Endpoint, Reference};
use crate::paths::Paths;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The main files, of which the first existing one is read.
const FILES: [&str; 2] = ["/etc/containers/registries.conf", "/usr/share/containers/registries.conf"];
/// The directory of drop-ins.
const DROP_INS: &str = "/etc/containers/registries.conf.d";

/// The contents of all files.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub(crate) struct Registries {
    unqualified_search_registries: Option<Vec<String>>,
    credential_helpers: Option<Vec<String>>,
    registry: Vec<Registry>,
    aliases: BTreeMap<String, String>,
}

/// A registry, or a part of it.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Registry {
    prefix: Option<String>,
    location: Option<String>,
    insecure: bool,
    blocked: bool,
    mirror_by_digest_only: bool,
    mirror: Vec<Mirror>,
}

/// A mirror of a registry.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Mirror {
    location: String,
    insecure: bool,
    pull_from_mirror: Option<String>,
}

impl Registry {
    fn prefix(&self) -> &str {
        self.prefix.as_deref().or(self.location.as_deref()).unwrap_or_default()
    }

    /// Returns the length of the matching part of a name. `None` if the name is another one.
    fn matches(&self, name: &str) -> Option<usize> {
        let prefix = self.prefix();
        if let Some(domain) = prefix.strip_prefix("*.") {
            let host = name.split('/').next()?;
            return host.strip_suffix(domain)?.ends_with('.').then_some(host.len());
        }
        let rest = name.strip_prefix(prefix).filter(|_| !prefix.is_empty())?;
        (rest.is_empty() || rest.starts_with('/')).then_some(prefix.len())
    }
}

impl Registries {
    /// Reads the file of the host, and its drop-ins in their order.
    ///
    /// # Errors
    /// A file that cannot be read, or an invalid one.
    pub(crate) fn read(paths: &Paths) -> Result<Self> {
        let main = FILES.map(|file| paths.join(file)).into_iter().find(|file| file.exists());
        let mut drop_ins: Vec<PathBuf> = std::fs::read_dir(paths.join(DROP_INS))
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|suffix| suffix == "conf"))
            .collect();
        drop_ins.sort();
        let mut all = Self::default();
        for path in main.into_iter().chain(drop_ins) {
            let reading = || format!("cannot use '{}'", path.display());
            let text = std::fs::read_to_string(&path).context(reading)?;
            let file =
                toml::from_str(&text).map_err(|error| Error::new(error.to_string()).context(reading()))?;
            all.merge(file);
        }
        Ok(all)
    }

    fn merge(&mut self, other: Self) {
        if other.unqualified_search_registries.is_some() {
            self.unqualified_search_registries = other.unqualified_search_registries;
        }
        if other.credential_helpers.is_some() {
            self.credential_helpers = other.credential_helpers;
        }
        for registry in other.registry {
            self.registry.retain(|old| old.prefix() != registry.prefix());
            self.registry.push(registry);
        }
        self.aliases.extend(other.aliases);
    }

    /// Returns the full names that a short one may stand for, and any other one as it is.
    ///
    /// # Errors
    /// A short name that neither podman nor systemd knows, or an invalid file of systemd.
    pub(crate) fn full(&self, paths: &Paths, reference: &Reference) -> Result<Vec<Reference>> {
        if !reference.registry.is_empty() {
            return Ok(vec![reference.clone()]);
        }
        if let Some(alias) = self.aliases.get(&reference.repository).filter(|alias| !alias.is_empty()) {
            return reference.with_name(alias).map(|full| vec![full]);
        }
        let searched = self.unqualified_search_registries.as_deref().unwrap_or_default();
        if searched.is_empty() {
            if let Some(full) = short_names::full(paths, reference)? {
                return Ok(vec![full]);
            }
            return Err(Error::usage(format!("'{reference}' has no registry")).with_hint(format!(
                "write it before the name, for example 'docker.io/{reference}', or set \
                 'unqualified-search-registries' in '/etc/containers/registries.conf'"
            )));
        }
        searched
            .iter()
            .map(|registry| reference.with_name(&format!("{registry}/{}", reference.repository)))
            .collect()
    }

    /// Returns the sources of credentials, in their order.
    pub(crate) fn credential_helpers(&self) -> &[String] {
        static FILES: std::sync::LazyLock<Vec<String>> =
            std::sync::LazyLock::new(|| vec!["containers-auth.json".to_owned()]);
        self.credential_helpers.as_ref().filter(|helpers| !helpers.is_empty()).unwrap_or(&FILES)
    }

    /// Returns the servers of an image, mirrors first.
    ///
    /// # Errors
    /// A blocked registry, or an invalid location.
    pub(crate) fn endpoints(&self, reference: &Reference) -> Result<Vec<Endpoint>> {
        let name = reference.name();
        let found = self.registry.iter().filter_map(|registry| Some((registry.matches(&name)?, registry)));
        let Some((length, registry)) = found.max_by_key(|(length, _)| *length) else {
            return Ok(vec![reference.endpoint(false)]);
        };
        if registry.blocked {
            return Err(Error::new(format!("the registry of '{name}' is blocked"))
                .with_hint("see 'blocked' in '/etc/containers/registries.conf'"));
        }
        let rest = name.get(length..).unwrap_or_default();
        let at = |location: &str, insecure| {
            reference.with_name(&format!("{location}{rest}")).map(|reference| reference.endpoint(insecure))
        };
        let mut endpoints = Vec::new();
        for mirror in &registry.mirror {
            let by_digest =
                registry.mirror_by_digest_only || mirror.pull_from_mirror.as_deref() == Some("digest-only");
            let by_tag = mirror.pull_from_mirror.as_deref() == Some("tag-only");
            let has_digest = reference.digest.is_some();
            if !(by_digest && !has_digest || by_tag && has_digest) {
                endpoints.push(at(&mirror.location, mirror.insecure)?);
            }
        }
        endpoints.push(match &registry.location {
            Some(location) => at(location, registry.insecure)?,
            None => reference.endpoint(registry.insecure),
        });
        Ok(endpoints)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registries(text: &str) -> Registries {
        toml::from_str(text).unwrap()
    }

    fn hosts(registries: &Registries, name: &str) -> Vec<String> {
        let endpoints = registries.endpoints(&Reference::parse(name).unwrap()).unwrap();
        endpoints
            .iter()
            .map(|endpoint| format!("{}/{} {}", endpoint.host, endpoint.repository, endpoint.insecure))
            .collect()
    }

    #[test]
    fn mirrors_come_before_their_registry() {
        let all = registries(
            "unqualified-search-registries = ['docker.io', 'quay.io']\n[aliases]\nweb = 'x.org/team/web'\n\
             [[registry]]\nprefix = 'x.org/team'\nlocation = 'y.org:5000/copy'\n\
             [[registry.mirror]]\nlocation = 'm.org/m'\ninsecure = true\n\
             [[registry.mirror]]\nlocation = 'd.org/d'\npull-from-mirror = 'digest-only'\n\
             [[registry]]\nprefix = '*.bad.org'\nblocked = true\n[[registry]]\nlocation = 'x.org'\ninsecure = true\n",
        );
        assert_eq!(hosts(&all, "x.org/team/web:1"), ["m.org/m/web true", "y.org:5000/copy/web false"]);
        assert_eq!(hosts(&all, &format!("x.org/team/web@sha256:{}", "0".repeat(64))).len(), 3);
        assert_eq!(hosts(&all, "x.org/teamwork/web"), ["x.org/teamwork/web true"]);
        assert_eq!(hosts(&all, "other.org/a"), ["other.org/a false"]);
        assert!(all.endpoints(&Reference::parse("a.bad.org/x").unwrap()).is_err());
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::below(root.path());
        let full = |name: &str| all.full(&paths, &Reference::parse(name).unwrap()).unwrap();
        assert_eq!(full("web:2")[0].to_string(), "x.org/team/web:2");
        assert_eq!(full("other").len(), 2);
        let short = Reference::parse("web").unwrap();
        assert!(Registries::default().full(&paths, &short).is_err());
        let files = root.path().join("usr/lib/systemd/oci-registry");
        std::fs::create_dir_all(&files).unwrap();
        std::fs::write(files.join("image.web.oci-registry"), r#"{"overrideRegistry":"z.org"}"#).unwrap();
        assert_eq!(Registries::default().full(&paths, &short).unwrap()[0].to_string(), "z.org/web:latest");
        assert_eq!(all.credential_helpers(), ["containers-auth.json"]);
        assert_eq!(registries("credential-helpers = ['a', 'b']").credential_helpers(), ["a", "b"]);
    }
}
