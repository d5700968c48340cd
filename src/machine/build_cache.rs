//! A cache of packages that build sessions share: a directory of the host with what earlier sessions have
//! downloaded.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// A package manager.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum PackageManager {
    /// apt(8).
    Apt,
    /// dnf(8) and dnf5(8).
    Dnf,
    /// pacman(8).
    Pacman,
    /// apk(8).
    Apk,
}

/// A cache of packages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct PackageCache {
    /// The package manager.
    pub(crate) manager: PackageManager,
    /// The directory of the host.
    pub(crate) directory: PathBuf,
}

impl PackageManager {
    const ALL: [Self; 4] = [Self::Apt, Self::Dnf, Self::Pacman, Self::Apk];

    /// Returns the manager of a name.
    ///
    /// # Errors
    /// An unknown name.
    pub(crate) fn new(name: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|manager| manager.name() == name).ok_or_else(|| {
            Error::usage(format!("'{name}' is not a known package manager"))
                .with_hint("write apt, dnf, pacman or apk")
        })
    }

    /// Returns the name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Apt => "apt",
            Self::Dnf => "dnf",
            Self::Pacman => "pacman",
            Self::Apk => "apk",
        }
    }

    /// Returns the directories inside in which it keeps packages.
    pub(crate) fn directories(self) -> Vec<&'static Path> {
        let directories: &[&str] = match self {
            Self::Apt => &["/var/cache/apt/archives"],
            Self::Dnf => &["/var/cache/dnf", "/var/cache/libdnf5"],
            Self::Pacman => &["/var/cache/pacman/pkg"],
            // It keeps packages only if this directory exists (apk-cache(5)).
            Self::Apk => &["/etc/apk/cache"],
        };
        directories.iter().map(Path::new).collect()
    }

    /// Returns whether a file of this name is a package, or a signature of one, that all sessions can use.
    pub(crate) fn is_package(self, name: &str) -> bool {
        let ends: &[&str] = match self {
            Self::Apt => &[".deb"],
            Self::Dnf => &[".rpm"],
            Self::Pacman => {
                &[".pkg.tar.zst", ".pkg.tar.xz", ".pkg.tar.gz", ".pkg.tar.zst.sig", ".pkg.tar.xz.sig"]
            }
            Self::Apk => &[".apk"],
        };
        is_plain(name) && ends.iter().any(|end| name.len() > end.len() && name.ends_with(end))
    }

    /// Returns the number of directories below the cache that packages lie in: one for each repository, and one
    /// in it.
    pub(crate) fn depth(self) -> usize {
        match self {
            Self::Dnf => 2,
            Self::Apt | Self::Pacman | Self::Apk => 0,
        }
    }
}

/// Returns whether a name has only the letters of names of packages and repositories, and is not hidden.
pub(crate) fn is_plain(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._+~%:-".contains(&byte);
    !name.starts_with('.') && !name.is_empty() && name.len() <= 255 && name.bytes().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_packages_with_plain_names_are_shared() {
        let apt = PackageManager::new("apt").unwrap();
        assert!(apt.is_package("hello_2.10-3%2bb1_amd64.deb") && apt.is_package("a_1%3a2~rc1_all.deb"));
        for name in ["", ".deb", ".a.deb", "a b.deb", "a/b.deb", "a.deb.tmp", "lock", "\u{e4}.deb", "a\n.deb"]
        {
            assert!(!apt.is_package(name), "{name:?}");
        }
        assert!(PackageManager::Pacman.is_package("a-1-x86_64.pkg.tar.zst.sig"));
        assert!(PackageManager::Dnf.is_package("a-1.noarch.rpm") && !PackageManager::Dnf.is_package("a.deb"));
        assert!(PackageManager::new("npm").is_err());
    }
}
