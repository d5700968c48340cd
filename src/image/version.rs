//! Versions: their order, and the choice of an entry in a directory `NAME.v` (systemd.v(7)). Called by
//! `find`. It renames no entry: counters of boot attempts are only read.

use crate::error::{Error, Result};
use std::cmp::Ordering;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Compares two versions by the UAPI version format specification, as systemd does (`strverscmp_improved`).
pub(super) fn compare(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
    loop {
        (a, b) = (without_separators(a), without_separators(b));
        // A pre-release.
        match prefixed(&mut a, &mut b, b'~') {
            Ordering::Equal => {}
            order => return order,
        }
        if a.is_empty() || b.is_empty() {
            return (!a.is_empty()).cmp(&!b.is_empty());
        }
        for separator in *b"-^." {
            match prefixed(&mut a, &mut b, separator) {
                Ordering::Equal => {}
                order => return order,
            }
        }
        match part(&mut a, &mut b) {
            Ordering::Equal => {}
            order => return order,
        }
    }
}

/// Removes leading bytes that a version cannot contain.
fn without_separators(text: &[u8]) -> &[u8] {
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || b"~-^.".contains(byte);
    let from = text.iter().position(is_part).unwrap_or(text.len());
    text.get(from..).unwrap_or_default()
}

/// Compares the beginnings: the version with the separator is older. Removes it from both.
fn prefixed(a: &mut &[u8], b: &mut &[u8], separator: u8) -> Ordering {
    let (one, other) = (a.first() == Some(&separator), b.first() == Some(&separator));
    if one && other {
        (*a, *b) = (a.get(1..).unwrap_or_default(), b.get(1..).unwrap_or_default());
    }
    other.cmp(&one)
}

/// Compares and removes the leading numbers, or else the leading words.
fn part(a: &mut &[u8], b: &mut &[u8]) -> Ordering {
    let is_number = [&*a, &*b].iter().any(|text| text.first().is_some_and(u8::is_ascii_digit));
    let is_of_part = |byte: &u8| if is_number { byte.is_ascii_digit() } else { byte.is_ascii_alphabetic() };
    let length = |text: &[u8]| text.iter().position(|byte| !is_of_part(byte)).unwrap_or(text.len());
    let ((one, a_rest), (other, b_rest)) = (a.split_at(length(a)), b.split_at(length(b)));
    (*a, *b) = (a_rest, b_rest);
    if !is_number {
        return one.cmp(other);
    }
    let plain =
        |digits: &[u8]| digits.iter().copied().skip_while(|digit| *digit == b'0').collect::<Vec<u8>>();
    let (first, second) = (plain(one), plain(other));
    // A number is newer than no number.
    (!one.is_empty())
        .cmp(&!other.is_empty())
        .then(first.len().cmp(&second.len()))
        .then_with(|| first.cmp(&second))
}

/// Architectures as systemd names them, in the order of preference on this processor (systemd.unit(5),
/// `ConditionArchitecture=`).
fn architectures() -> &'static [&'static str] {
    match std::env::consts::ARCH {
        "x86_64" => &["x86-64", "x86"],
        "aarch64" => &["arm64", "arm"],
        "x86" => &["x86"],
        "arm" => &["arm"],
        "riscv64" => &["riscv64"],
        "powerpc64" => &["ppc64-le", "ppc64"],
        "s390x" => &["s390x"],
        "loongarch64" => &["loongarch64"],
        _ => &[],
    }
}

/// All architectures of a suffix `_ARCHITECTURE`: an unknown word is a part of the version.
const ARCHITECTURES: [&str; 33] = [
    "x86-64",
    "x86",
    "arm64",
    "arm64-be",
    "arm",
    "arm-be",
    "riscv64",
    "riscv32",
    "ppc64-le",
    "ppc64",
    "ppc-le",
    "ppc",
    "s390x",
    "s390",
    "loongarch64",
    "mips64-le",
    "mips64",
    "mips-le",
    "mips",
    "sparc64",
    "sparc",
    "alpha",
    "ia64",
    "parisc64",
    "parisc",
    "sh64",
    "sh",
    "m68k",
    "tilegx",
    "cris",
    "arc-be",
    "arc",
    "nios2",
];

/// An entry of a versioned directory.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    name: String,
    version: String,
    /// The position of the architecture in the order of preference; the last one for none.
    architecture: usize,
    /// Boot attempts left and done. `None` without counters.
    tries: Option<(u32, u32)>,
}

impl Entry {
    /// Parses a file name `NAME_VERSION[_ARCHITECTURE][+LEFT[-DONE]]SUFFIX`. `None` for another file, or one
    /// of another architecture.
    fn parse(file: &str, name: &str, suffix: &str) -> Option<Self> {
        let mut rest = file.strip_prefix(name)?.strip_prefix('_')?.strip_suffix(suffix)?;
        let mut tries = None;
        if let Some((before, counters)) = rest.rsplit_once('+') {
            tries = parse_tries(counters);
            rest = if tries.is_some() { before } else { rest };
        }
        let own = architectures();
        let mut architecture = own.len();
        if let Some((before, word)) = rest.rsplit_once('_')
            && ARCHITECTURES.contains(&word)
        {
            architecture = own.iter().position(|own| *own == word)?;
            rest = before;
        }
        let is_valid = |letter: char| letter.is_ascii_alphanumeric() || "._-+~^,".contains(letter);
        (!rest.is_empty() && rest.chars().all(is_valid)).then(|| Self {
            name: file.to_owned(),
            version: rest.to_owned(),
            architecture,
            tries,
        })
    }

    /// Compares two entries: the greater one is preferred.
    fn compare(&self, other: &Self) -> Ordering {
        let usable = |entry: &Self| entry.tries.is_none_or(|(left, _)| left > 0);
        let counters = |entry: &Self| entry.tries.unwrap_or((u32::MAX, u32::MAX));
        usable(self)
            .cmp(&usable(other))
            .then_with(|| compare(&self.version, &other.version))
            .then(other.architecture.cmp(&self.architecture))
            .then(counters(self).0.cmp(&counters(other).0))
            .then(counters(other).1.cmp(&counters(self).1))
            .then_with(|| self.name.cmp(&other.name))
    }
}

fn parse_tries(counters: &str) -> Option<(u32, u32)> {
    let (left, done) = counters.split_once('-').unwrap_or((counters, "0"));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    (is_number(left) && is_number(done)).then(|| Some((left.parse().ok()?, done.parse().ok()?))).flatten()
}

/// Returns the newest entry `NAME_VERSION…SUFFIX` of a versioned directory. `None` if it has none.
pub(super) fn newest(directory: &Path, name: &str, suffix: &str) -> Option<PathBuf> {
    let names = std::fs::read_dir(directory).ok()?.flatten().map(|entry| entry.file_name());
    let entries = names.filter_map(|file: OsString| Entry::parse(file.to_str()?, name, suffix));
    entries.max_by(Entry::compare).map(|entry| directory.join(entry.name))
}

/// Returns the newest version in a directory, also one that cannot be booted. `None` if it has none.
pub(super) fn latest(directory: &Path, name: &str, suffix: &str) -> Option<String> {
    let names = std::fs::read_dir(directory).ok()?.flatten().map(|entry| entry.file_name());
    let entries = names.filter_map(|file| Entry::parse(file.to_str()?, name, suffix));
    entries.map(|entry| entry.version).max_by(|a, b| compare(a, b))
}

/// Returns the newest entry that is older than a version, and that can be booted. `None` if there is none, or if
/// the path is not that of a version.
pub(super) fn older(path: &Path) -> Option<PathBuf> {
    let (directory, file) = (path.parent()?, path.file_name()?.to_str()?);
    let (name, suffix) = parts(directory)?;
    let failed = Entry::parse(file, name, suffix)?;
    let names = std::fs::read_dir(directory).ok()?.flatten().map(|entry| entry.file_name());
    let entries = names.filter_map(|file| Entry::parse(file.to_str()?, name, suffix));
    let is_older = |entry: &Entry| {
        let usable = entry.tries.is_none_or(|(left, _)| left > 0);
        usable && compare(&entry.version, &failed.version) == Ordering::Less
    };
    entries.filter(is_older).max_by(Entry::compare).map(|entry| directory.join(entry.name))
}

/// Returns name and suffix of the entries of a directory `NAME.v`.
fn parts(directory: &Path) -> Option<(&str, &'static str)> {
    let base = directory.file_name()?.to_str()?.strip_suffix(".v")?;
    let suffix = [".mstack", ".raw"].into_iter().find(|suffix| base.ends_with(suffix)).unwrap_or_default();
    Some((base.strip_suffix(suffix).unwrap_or(base), suffix))
}

/// The boot attempts of a version in a directory `NAME.v`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tries {
    directory: PathBuf,
    /// The name without counters and suffix.
    stem: String,
    suffix: &'static str,
    /// The number of attempts left.
    pub(super) left: u32,
    done: u32,
}

impl Tries {
    /// Returns the attempts of a version. `None` for one without counters.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let directory = path.parent()?;
        let (_, suffix) = parts(directory)?;
        let file = path.file_name()?.to_str()?.strip_suffix(suffix)?;
        let (stem, counters) = file.rsplit_once('+')?;
        let (left, done) = parse_tries(counters)?;
        Some(Self { directory: directory.to_owned(), stem: stem.to_owned(), suffix, left, done })
    }

    /// Returns the path with one attempt less.
    pub(super) fn taken(&self) -> PathBuf {
        let Self { directory, stem, suffix, left, done } = self;
        directory.join(format!("{stem}+{}-{}{suffix}", left.saturating_sub(1), done.saturating_add(1)))
    }

    /// Returns the path with one attempt more. `None` if none was taken.
    pub(super) fn given_back(&self) -> Option<PathBuf> {
        let Self { directory, stem, suffix, left, done } = self;
        let (left, done) = (left.saturating_add(1), done.checked_sub(1)?);
        let done = if done == 0 { String::new() } else { format!("-{done}") };
        Some(directory.join(format!("{stem}+{left}{done}{suffix}")))
    }

    /// Returns the path without counters.
    pub(super) fn blessed(&self) -> PathBuf {
        self.directory.join(format!("{}{}", self.stem, self.suffix))
    }
}

/// Returns the newest version that a path stands for: a directory `NAME.v`, or `NAME.v/NAME___SUFFIX`. All
/// other paths stand for themselves, and so does a tree in a directory `NAME.v`.
///
/// # Errors
/// There is no version for this host.
pub(super) fn of_path(path: &Path) -> Result<PathBuf> {
    let pattern = path.file_name().and_then(|file| file.to_str()?.split_once("___"));
    let found = match (parts(path), pattern, path.parent()) {
        (Some((name, suffix)), ..) if !path.join("usr").exists() => newest(path, name, suffix),
        (None, Some((name, suffix)), Some(above)) if parts(above).is_some() => newest(above, name, suffix),
        _ => return Ok(path.to_owned()),
    };
    found.ok_or_else(|| {
        Error::new(format!("there is no version for this host in '{}'", path.display()))
            .with_hint("create a directory NAME_VERSION in NAME.v (systemd.v(7))")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The order of the UAPI version format specification, oldest first.
    const ORDERED: [&str; 14] = [
        "122.1",
        "123~rc1-1",
        "123",
        "123-a",
        "123-a.1",
        "123-1",
        "123-1.1",
        "123^post1",
        "123.a-1",
        "123.1-1",
        "123a-1",
        "124-1",
        "1230",
        "00012345",
    ];

    #[test]
    fn versions_have_the_order_of_systemd() {
        for (at, older) in ORDERED.iter().enumerate() {
            assert_eq!(compare(older, older), Ordering::Equal, "{older}");
            for newer in &ORDERED[at + 1..] {
                assert_eq!(compare(older, newer), Ordering::Less, "{older} {newer}");
                assert_eq!(compare(newer, older), Ordering::Greater, "{newer} {older}");
            }
        }
        for (one, other, order) in [
            ("", "", Ordering::Equal),
            ("~1", "", Ordering::Less),
            ("001", "1", Ordering::Equal),
            ("a_1", "a1", Ordering::Equal),
            ("10", "9", Ordering::Greater),
            ("alpha", "beta", Ordering::Less),
            ("abc", "abcd", Ordering::Less),
        ] {
            assert_eq!(compare(one, other), order, "{one} {other}");
        }
    }

    #[test]
    fn the_newest_usable_entry_of_this_architecture_is_chosen() {
        let directory = tempfile::tempdir().unwrap();
        let newest = |files: &[&str]| {
            let place = directory.path().join("web.v");
            let _ = std::fs::remove_dir_all(&place);
            for file in files {
                std::fs::create_dir_all(place.join(file)).unwrap();
            }
            let found = super::newest(&place, "web", "")?;
            Some(found.file_name().unwrap().to_str().unwrap().to_owned())
        };
        let own = architectures().first().copied().unwrap_or("x86-64");
        let foreign = if own == "s390x" { "x86-64" } else { "s390x" };
        assert_eq!(newest(&[]), None);
        assert_eq!(newest(&["web", "other_3", "webs_2", ".#web_9"]), None);
        assert_eq!(newest(&["web_9", "web_10", "web_1"]).as_deref(), Some("web_10"));
        assert_eq!(newest(&["web_1", &format!("web_2_{foreign}")]).as_deref(), Some("web_1"));
        assert_eq!(newest(&["web_1", &format!("web_1_{own}")]), Some(format!("web_1_{own}")));
        assert_eq!(newest(&["web_1+0-3", "web_2+0"]).as_deref(), Some("web_2+0"));
        assert_eq!(newest(&["web_1", "web_2+0-3"]).as_deref(), Some("web_1"));
        assert_eq!(newest(&["web_2+1-2", "web_2+3-0"]).as_deref(), Some("web_2+3-0"));
    }

    #[test]
    fn boot_attempts_are_counted_in_names() {
        let tries = |path: &str| Tries::of(Path::new(path));
        let first = tries("/a/web.v/web_2+3").unwrap();
        assert_eq!((first.left, first.taken()), (3, PathBuf::from("/a/web.v/web_2+2-1")));
        let raw = tries("/a/web.raw.v/web_2_x86-64+1-2.raw").unwrap();
        assert_eq!(raw.taken(), Path::new("/a/web.raw.v/web_2_x86-64+0-3.raw"));
        assert_eq!(raw.given_back().as_deref(), Some(Path::new("/a/web.raw.v/web_2_x86-64+2-1.raw")));
        assert_eq!(tries("/a/web.v/web_2+2-1").unwrap().given_back(), Some(first.directory.join("web_2+3")));
        assert_eq!(first.given_back(), None);
        assert_eq!(raw.blessed(), Path::new("/a/web.raw.v/web_2_x86-64.raw"));
        for path in ["/a/web.v/web_2", "/a/web/web_2+3", "/a/web.v/web_2+x", "/a/web+3"] {
            assert_eq!(tries(path), None, "{path}");
        }
        let directory = tempfile::tempdir().unwrap();
        let at = |file: &str| directory.path().join("web.v").join(file);
        for file in ["web_1", "web_2", "web_3+0-3", "web_4+2-1", "web_5"] {
            std::fs::create_dir_all(at(file)).unwrap();
        }
        assert_eq!(older(&at("web_4+2-1")), Some(at("web_2")));
        assert_eq!(older(&at("web_5")), Some(at("web_4+2-1")));
        assert_eq!(older(&at("web_1")), None);
        assert_eq!(older(&directory.path().join("web")), None);
    }

    #[test]
    fn a_path_can_stand_for_its_newest_version() {
        let directory = tempfile::tempdir().unwrap();
        let at = |path: &str| directory.path().join(path);
        for path in ["a.v/a_9", "a.v/a_10", "a.v/a_11_sparc", "b.mstack.v/b_1.mstack", "tree.v/usr", "c/c_1"]
        {
            std::fs::create_dir_all(at(path)).unwrap();
        }
        for (path, expected) in [
            ("a.v", "a.v/a_10"),
            ("a.v/", "a.v/a_10"),
            ("a.v/a___", "a.v/a_10"),
            ("a.v/a_9", "a.v/a_9"),
            ("b.mstack.v", "b.mstack.v/b_1.mstack"),
            ("tree.v", "tree.v"),
            ("c/c___", "c/c___"),
            ("c", "c"),
        ] {
            assert_eq!(of_path(&at(path)).unwrap(), at(expected), "{path}");
        }
        for path in ["missing.v", "a.v/other___", "a.v/a___.mstack"] {
            assert!(of_path(&at(path)).is_err(), "{path}");
        }
    }
}
