//! The bases of sessions under the names that sbuild(1) and schroot(1) give them. Called by `cli`.

use crate::error::{Error, Result};
use crate::host::probe::Tree;
use crate::image::find;
use crate::machine::name::Name;
use crate::machine::root::RootSource;
use crate::paths::Paths;
use std::path::{Path, PathBuf};

/// An image that sessions can stand on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Base {
    /// Its name.
    pub(crate) name: Name,
    /// Its place on the host.
    pub(crate) path: PathBuf,
    /// Its architecture, a name of dpkg(1).
    pub(crate) architecture: String,
}

impl Base {
    fn of(name: Name, source: &RootSource) -> Self {
        let tree = match source {
            RootSource::Directory(path) => Tree::open(path).ok(),
            _ => None,
        };
        let found = tree.and_then(|tree| tree.architecture_name(Path::new("/bin/sh")));
        let architecture = debian(found.unwrap_or(std::env::consts::ARCH)).to_owned();
        Self { name, path: source.path().to_owned(), architecture }
    }

    /// Returns the other names under which sbuild(1) looks for it.
    pub(crate) fn aliases(&self) -> Vec<String> {
        let Self { name, architecture, .. } = self;
        [format!("{name}-sbuild"), format!("{name}-{architecture}"), format!("{name}-{architecture}-sbuild")]
            .into()
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

/// Returns all bases.
pub(crate) fn all(paths: &Paths) -> Vec<Base> {
    let names = find::names(paths).into_iter();
    names.filter_map(|name| find::by_name(paths, &name).map(|source| Base::of(name, &source))).collect()
}

/// Returns the base of a name or alias.
///
/// # Errors
/// There is none.
pub(crate) fn find(paths: &Paths, name: &str) -> Result<Base> {
    let named = Name::new(name).ok().and_then(|name| Some((find::by_name(paths, &name)?, name)));
    if let Some((source, name)) = named {
        return Ok(Base::of(name, &source));
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
}
