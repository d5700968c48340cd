//! `[build]`: the properties of build sessions. The command line has the same words for them. It knows no path of
//! the host: `cli` creates the directories.

use crate::config::setting::{List, Single, settings};
use crate::config::values::{RawValue, Value, quoted};
use crate::error::{Error, Result};
use crate::machine::build_cache::PackageManager;
use crate::machine::name::Name;
use std::path::{Path, PathBuf};
use std::time::Duration;

settings! {
    /// Settings of build sessions.
    BuildSettings {
        /// Further names of the definition for schroot(1).
        aliases: List<Name> = List "build.aliases";
        /// The user of the commands.
        user: Single<UserName> = Single "build.user";
        /// The time after which a session ends.
        lifetime: Single<Duration> = Single "build.lifetime";
        /// Directories of the host for results.
        results: List<ResultsDirectory> = List "build.results";
        /// Caches of packages.
        caches: List<CacheDirectory> = List "build.caches";
        /// Whether the root of a session has a path on the host.
        expose: Single<bool> = Single "build.expose";
    }
}

/// The user of the commands of a session: `NAME[:UID]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserName {
    /// Its name inside.
    pub(crate) name: String,
    /// Its number, if it is chosen.
    pub(crate) uid: Option<u32>,
}

impl Value for UserName {
    fn read(raw: &RawValue) -> Result<Self> {
        let RawValue::Text(text) = raw else { return Err(raw.expected("a user")) };
        let invalid = || {
            Error::new(format!("{} is not a user", quoted(text)))
                .with_hint("write NAME or NAME:UID, for example builder:1000")
        };
        let (name, uid) = match text.split_once(':') {
            Some((name, uid)) => (name, Some(uid.parse().map_err(|_| invalid())?)),
            None => (*text, None),
        };
        let fits = |(at, letter): (usize, char)| {
            letter.is_ascii_lowercase()
                || letter == '_'
                || at > 0 && (letter.is_ascii_digit() || "-.".contains(letter))
        };
        let is_name = !name.is_empty() && name.len() <= 32 && name.chars().enumerate().all(fits);
        if !is_name || uid == Some(u32::MAX) || name == "root" && uid.is_some_and(|uid| uid != 0) {
            return Err(invalid());
        }
        Ok(Self { name: name.to_owned(), uid })
    }

    fn show(&self) -> String {
        quoted(&self.uid.map_or_else(|| self.name.clone(), |uid| format!("{}:{uid}", self.name)))
    }
}

/// A directory of the host for results: `DIR[:INSIDE]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResultsDirectory {
    /// Its path on the host; on the command line maybe below the working directory.
    pub(crate) directory: PathBuf,
    /// Its path inside, absolute.
    pub(crate) target: PathBuf,
}

impl ResultsDirectory {
    /// Parses a directory, which may be relative.
    ///
    /// # Errors
    /// More than two fields, or a path inside that is not below `/`.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let parts = fields(text);
        let (directory, target) = match parts.as_slice() {
            [directory] => (directory, "/results"),
            [directory, target] => (directory, target.as_str()),
            _ => {
                return Err(Error::new(format!("{} is not a directory", quoted(text)))
                    .with_hint("write DIR or DIR:INSIDE; write '\\:' for a colon in a path"));
            }
        };
        Ok(Self { directory: directory.into(), target: inside(target)? })
    }
}

impl Value for ResultsDirectory {
    fn read(raw: &RawValue) -> Result<Self> {
        let RawValue::Text(text) = raw else { return Err(raw.expected("a directory")) };
        let results = Self::parse(text)?;
        Ok(Self { directory: absolute(&results.directory)?, ..results })
    }

    fn show(&self) -> String {
        let path = |path: &Path| escaped(&path.to_string_lossy());
        quoted(&format!("{}:{}", path(&self.directory), path(&self.target)))
    }
}

/// A cache of packages: `MANAGER[:DIR]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheDirectory {
    /// The package manager.
    pub(crate) manager: PackageManager,
    /// The directory of the host. `None` for the default.
    pub(crate) directory: Option<PathBuf>,
}

impl CacheDirectory {
    /// Parses a cache, whose directory may be relative.
    ///
    /// # Errors
    /// More than two fields, or an unknown package manager.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let parts = fields(text);
        let (name, directory) = match parts.as_slice() {
            [name] => (name, None),
            [name, directory] => (name, Some(directory.into())),
            _ => {
                return Err(Error::new(format!("{} is not a cache", quoted(text)))
                    .with_hint("write MANAGER or MANAGER:DIR; write '\\:' for a colon in a path"));
            }
        };
        Ok(Self { manager: PackageManager::new(name)?, directory })
    }
}

impl Value for CacheDirectory {
    fn read(raw: &RawValue) -> Result<Self> {
        let RawValue::Text(text) = raw else { return Err(raw.expected("a cache")) };
        let cache = Self::parse(text)?;
        let directory = cache.directory.as_deref().map(absolute).transpose()?;
        Ok(Self { directory, ..cache })
    }

    fn show(&self) -> String {
        let name = self.manager.name();
        let path = |path: &PathBuf| format!("{name}:{}", escaped(&path.to_string_lossy()));
        quoted(&self.directory.as_ref().map_or_else(|| name.to_owned(), path))
    }
}

fn absolute(path: &Path) -> Result<PathBuf> {
    PathBuf::read(&RawValue::Text(&path.to_string_lossy()))
}

/// Parses a path inside a session.
///
/// # Errors
/// A relative path, or `/`.
pub(crate) fn inside(path: &str) -> Result<PathBuf> {
    if path.starts_with('/') && path != "/" {
        return Ok(Path::new(path).components().collect());
    }
    Err(Error::new(format!("{} is not a path inside the session", quoted(path)))
        .with_hint("write an absolute path below '/'"))
}

/// Escapes a path for [`fields`].
pub(crate) fn escaped(path: &str) -> String {
    path.replace('\\', "\\\\").replace(':', "\\:")
}

/// Splits a text at colons that are not escaped.
pub(crate) fn fields(text: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match (letter, fields.last_mut()) {
            (':', _) => fields.push(String::new()),
            ('\\', Some(field)) => field.extend(letters.next()),
            (letter, Some(field)) => field.push(letter),
            (_, None) => {}
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_have_a_name_and_maybe_a_number() {
        let user = |text| UserName::read(&RawValue::Text(text));
        let builder = user("builder:900").unwrap();
        assert_eq!((builder.name.as_str(), builder.uid), ("builder", Some(900)));
        for bad in ["", ":", "a:", "a:x", "a b", "A", "1a", "root:7", "a:4294967295", "a\n"] {
            assert!(user(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn an_escaped_path_is_one_field() {
        for path in ["/a", "/a:b", "/a\\b", "/a\\:b\\", "/\\\\::"] {
            assert_eq!(fields(&format!("{}:/x", escaped(path))), [path, "/x"]);
        }
    }

    #[test]
    fn values_are_shown_as_they_are_read() {
        for text in ["/srv/out:/results", "/a\\:b:/x"] {
            let results = ResultsDirectory::read(&RawValue::Text(text)).unwrap();
            assert_eq!(results.show(), quoted(text));
        }
        for text in ["apt", "dnf:/srv/rpm"] {
            let cache = CacheDirectory::read(&RawValue::Text(text)).unwrap();
            assert_eq!(cache.show(), quoted(text));
        }
        for bad in ["out", "/a:b", "/a:/", "/a:/b:ro", "/a/../b"] {
            assert!(ResultsDirectory::read(&RawValue::Text(bad)).is_err(), "{bad}");
        }
        for bad in ["npm", "apt:cache", "apt:/a:b"] {
            assert!(CacheDirectory::read(&RawValue::Text(bad)).is_err(), "{bad}");
        }
    }
}
