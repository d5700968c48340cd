//! The bases of sessions under the names that sbuild(1) and schroot(1) give them. Called by `cli`.

use crate::config::build::definition::{self, Definition};
use crate::error::{Error, Result};
use crate::host::probe::Tree;
use crate::image::find;
use crate::machine::name::Name;
use crate::machine::root::RootSource;
use crate::paths::Paths;
use std::path::{Path, PathBuf};

/// An image or a definition that sessions can stand on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Base {
    /// Its name.
    pub(crate) name: Name,
    /// Its place on the host.
    pub(crate) path: PathBuf,
    /// Its architecture, a name of dpkg(1).
    pub(crate) architecture: String,
    /// The aliases of its definition.
    aliases: Vec<String>,
}

impl Base {
    fn of(name: Name, source: &RootSource) -> Self {
        let tree = match source {
            RootSource::Directory(path) => Tree::open(path).ok(),
            _ => None,
        };
        let found = tree.and_then(|tree| tree.architecture_name(Path::new("/bin/sh")));
        let architecture = debian(found.unwrap_or(std::env::consts::ARCH)).to_owned();
        Self { name, path: source.path().to_owned(), architecture, aliases: Vec::new() }
    }

    /// Returns the base of a definition. `None` if it does not exist.
    fn of_definition(paths: &Paths, definition: Definition) -> Result<Self> {
        let source = definition.source(paths)?;
        let aliases = definition.settings.aliases.values().map(ToString::to_string).collect();
        Ok(Self { aliases, ..Self::of(definition.name, &source) })
    }

    /// Returns the other names under which sbuild(1) looks for it.
    pub(crate) fn aliases(&self) -> Vec<String> {
        let Self { name, architecture, .. } = self;
        let usual = [
            format!("{name}-sbuild"),
            format!("{name}-{architecture}"),
            format!("{name}-{architecture}-sbuild"),
        ];
        usual.into_iter().chain(self.aliases.iter().cloned()).collect()
    }
}

/// Returns the name of an architecture in Debian.
fn debian(architecture: &str) -> &str {
    match architecture {
        "x86_64" => "amd64",
        "x86" => "i386",
        "aarch64" => "arm64",
        "arm" => "armhf",
        "powerpc64" => "ppc64el",
        other => other,
    }
}

/// Returns all bases. A definition that cannot be used hides the image of its name.
pub(crate) fn all(paths: &Paths) -> Vec<Base> {
    let hidden = definition::names(paths).map(|(names, _)| names).unwrap_or_default();
    let images = find::names(paths).into_iter().filter(|name| !hidden.contains(name));
    let images = images.filter_map(|name| find::by_name(paths, &name).map(|source| Base::of(name, &source)));
    let defined = definition::all(paths).unwrap_or_else(|error| vec![Err(error)]).into_iter();
    let defined = defined.map(|one| one.and_then(|definition| Base::of_definition(paths, definition)));
    let usable = |base: Result<Base>| base.inspect_err(|error| log::debug!("{error}, ignoring")).ok();
    let mut bases: Vec<Base> = images.chain(defined.filter_map(usable)).collect();
    bases.sort_by(|one, other| one.name.cmp(&other.name));
    bases
}

/// Returns the base of a name or alias.
///
/// # Errors
/// There is none, or its definition cannot be used.
pub(crate) fn find(paths: &Paths, name: &str) -> Result<Base> {
    if let Ok(name) = Name::new(name) {
        if let Some(definition) = Definition::find(paths, &name)? {
            return Base::of_definition(paths, definition);
        }
        if let Some(source) = find::by_name(paths, &name) {
            return Ok(Base::of(name, &source));
        }
    }
    let found = all(paths).into_iter().find(|base| base.aliases().iter().any(|alias| alias == name));
    found.ok_or_else(|| {
        Error::new(format!("{name}: Chroot not found")).with_hint("list the images with 'coracle images'")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bases_have_the_names_of_sbuild() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::below(root.path());
        std::fs::create_dir_all(paths.images().join("sid")).unwrap();
        let architecture = debian(std::env::consts::ARCH);
        for name in ["sid".to_owned(), "sid-sbuild".into(), format!("sid-{architecture}-sbuild")] {
            assert_eq!(find(&paths, &name).unwrap().name.as_str(), "sid", "{name}");
        }
        assert!(find(&paths, "sid-x").is_err());
    }

    #[test]
    fn definitions_have_further_names() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::below(root.path());
        std::fs::create_dir_all(paths.images().join("sid")).unwrap();
        let directory = &paths.build_definitions()[0];
        std::fs::create_dir_all(directory).unwrap();
        let text =
            "[root]\ndirectory = '/var/lib/machines/sid'\n[build]\naliases = ['unstable', 'UNRELEASED']\n";
        std::fs::write(directory.join("debian.toml"), text).unwrap();
        for name in ["debian", "debian-sbuild", "unstable", "UNRELEASED"] {
            assert_eq!(find(&paths, name).unwrap().name.as_str(), "debian", "{name}");
        }
        let names: Vec<_> = all(&paths).into_iter().map(|base| base.name.to_string()).collect();
        assert_eq!(names, ["debian", "sid"]);
        std::fs::write(directory.join("sid.toml"), "[build]\nalias = ['x']\n").unwrap();
        assert!(find(&paths, "sid").unwrap_err().to_string().contains("alias"));
        assert_eq!(all(&paths).len(), 1);
    }
}
