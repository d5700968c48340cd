//! `[root]`: the root file system.

use super::setting::{Single, settings};
use super::values::{RawValue, Value, choose, quoted, word_of};
use crate::error::{Error, Result};
use crate::image::find;
use crate::machine::image_policy::ImagePolicy;
use crate::machine::name::Name;
use crate::machine::root::{Ephemeral, Pivot, Root, RootSource, Volatile};
use crate::machine::verity::Verity;
use crate::paths::Paths;
use std::path::{Path, PathBuf};

/// The words of `root.volatile`.
const VOLATILE: [(&str, Volatile); 4] = [
    ("no", Volatile::No),
    ("yes", Volatile::Yes),
    ("state", Volatile::State),
    ("overlay", Volatile::Overlay),
];
/// The words of `root.ephemeral`.
const EPHEMERAL: [(&str, Ephemeral); 3] =
    [("no", Ephemeral::No), ("disk", Ephemeral::Disk), ("memory", Ephemeral::Memory)];

/// Booleans stand for `yes` and `no`.
impl Value for Volatile {
    fn read(raw: &RawValue) -> Result<Self> {
        match raw {
            RawValue::Boolean(true) => Ok(Self::Yes),
            RawValue::Boolean(false) => Ok(Self::No),
            _ => choose(raw, &VOLATILE),
        }
    }

    fn show(&self) -> String {
        word_of(self, &VOLATILE)
    }
}

/// Booleans stand for `disk` and `no`.
impl Value for Ephemeral {
    fn read(raw: &RawValue) -> Result<Self> {
        match raw {
            RawValue::Boolean(true) => Ok(Self::Disk),
            RawValue::Boolean(false) => Ok(Self::No),
            _ => choose(raw, &EPHEMERAL),
        }
    }

    fn show(&self) -> String {
        word_of(self, &EPHEMERAL)
    }
}

impl Value for ImagePolicy {
    fn read(raw: &RawValue) -> Result<Self> {
        let RawValue::Text(text) = raw else { return Err(raw.expected("the policy of a disk image")) };
        text.parse()
    }

    fn show(&self) -> String {
        quoted(&self.to_string())
    }
}

impl Value for Pivot {
    fn read(raw: &RawValue) -> Result<Self> {
        let RawValue::Text(text) = raw else { return Err(raw.expected("a path inside the root")) };
        let below = |path: &str| match PathBuf::read(&RawValue::Text(path))? {
            path if path == Path::new("/") => Err(Error::new("'/' is the root already")
                .with_hint("write NEW or NEW:OLD, paths of directories below the root")),
            path => Ok(path),
        };
        match text.split_once(':') {
            Some((new, old)) => Ok(Self { new: below(new)?, old: Some(below(old)?) }),
            None => Ok(Self { new: below(text)?, old: None }),
        }
    }

    fn show(&self) -> String {
        let old = self.old.iter().map(|old| format!(":{}", old.display()));
        quoted(&old.fold(self.new.display().to_string(), |text, old| text + &old))
    }
}

/// A root hash: an even number of hexadecimal digits, at least 128 bits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootHash(String);

impl Value for RootHash {
    fn read(raw: &RawValue) -> Result<Self> {
        let RawValue::Text(text) = raw else { return Err(raw.expected("a root hash")) };
        let is_hex = text.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !is_hex || text.len() % 2 != 0 || !(32..=128).contains(&text.len()) {
            return Err(Error::new(format!("{} is not a root hash", quoted(text)))
                .with_hint("write the hexadecimal digits that 'veritysetup format' prints"));
        }
        Ok(Self(text.to_ascii_lowercase()))
    }

    fn show(&self) -> String {
        quoted(&self.0)
    }
}

/// The signature of a root hash: an absolute path, or `base64:` and its text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootHashSignature(String);

impl Value for RootHashSignature {
    fn read(raw: &RawValue) -> Result<Self> {
        let RawValue::Text(text) = raw else { return Err(raw.expected("the signature of a root hash")) };
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte);
        match text.strip_prefix("base64:") {
            Some(coded) if !coded.is_empty() && coded.bytes().all(fits) => Ok(Self((*text).to_owned())),
            Some(_) => Err(Error::new(format!("{} is not a text in base64", quoted(text)))),
            None => {
                let path = PathBuf::read(raw).map_err(|error| {
                    error.with_hint("write an absolute path, or 'base64:' and the signature")
                })?;
                Ok(Self(path.to_string_lossy().into_owned()))
            }
        }
    }

    fn show(&self) -> String {
        quoted(&self.0)
    }
}

settings! {
    /// Settings of the root file system.
    RootSettings {
        /// The root directory.
        directory: Single<PathBuf> = Single "root.directory";
        /// The stack of directories.
        stack: Single<PathBuf> = Single "root.stack";
        /// The disk image.
        image: Single<PathBuf> = Single "root.image";
        /// The policy of the disk image.
        image_policy: Single<ImagePolicy> = Single "root.image-policy";
        /// The root hash of the disk image.
        root_hash: Single<RootHash> = Single "root.root-hash";
        /// The signature of the root hash.
        root_hash_signature: Single<RootHashSignature> = Single "root.root-hash-signature";
        /// The file with the hashes of the disk image.
        verity_data: Single<PathBuf> = Single "root.verity-data";
        /// Whether the root is mounted read-only.
        read_only: Single<bool> = Single "root.read-only", |_| false;
        /// The part that is empty at each boot.
        volatile: Single<Volatile> = Single "root.volatile", |_| Volatile::No;
        /// Whether changes are discarded at the end of the machine.
        ephemeral: Single<Ephemeral> = Single "root.ephemeral", |_| Ephemeral::No;
        /// Whether they are also discarded when the guest reboots.
        fresh_on_reboot: Single<bool> = Single "root.fresh-on-reboot", |_| false;
        /// The directory inside that becomes the root.
        pivot: Single<Pivot> = Single "root.pivot";
    }
}

impl RootSettings {
    /// Sets the default root of the machine `name`: the image of this name.
    pub(super) fn fill_source(&mut self, paths: &Paths, name: &Name) {
        if self.has_source() {
            return;
        }
        match find::by_name(paths, name) {
            Some(RootSource::Directory(path)) => self.directory.fill(|| paths.strip(&path)),
            Some(RootSource::Stack(path)) => self.stack.fill(|| paths.strip(&path)),
            Some(RootSource::Image(path)) => self.image.fill(|| paths.strip(&path)),
            None => self.directory.fill(|| paths.strip(&paths.images().join(name))),
        }
    }

    /// Returns whether changes are discarded at the end of the machine.
    pub(super) fn is_ephemeral(&self) -> bool {
        self.ephemeral.value().is_some_and(|ephemeral| *ephemeral != Ephemeral::No)
    }

    /// Returns whether these settings name a root.
    pub(super) fn has_source(&self) -> bool {
        self.sources().into_iter().any(|source| source.value().is_some())
    }

    /// Returns the settings that name a root.
    pub(super) fn sources(&self) -> [&Single<PathBuf>; 3] {
        [&self.directory, &self.stack, &self.image]
    }

    /// Removes the root of lower layers: an upper one names another.
    pub(super) fn clear_source(&mut self) {
        self.directory = Single::default();
        self.stack = Single::default();
        self.image = Single::default();
    }

    /// Replaces a directory of versions by its newest version.
    ///
    /// # Errors
    /// There is no version for this host.
    pub(super) fn use_newest_version(&mut self) -> Result<()> {
        for source in [&mut self.directory, &mut self.stack, &mut self.image] {
            if let Some(path) = source.value().cloned() {
                source.set(find::newest_version(&path)?, source.origin());
            }
        }
        Ok(())
    }

    /// Builds the root file system of the machine.
    pub(super) fn build(&self, paths: &Paths) -> Result<Root> {
        type Kind = (&'static str, fn(PathBuf) -> RootSource);
        const KINDS: [Kind; 3] = [
            ("root.directory", RootSource::Directory),
            ("root.stack", RootSource::Stack),
            ("root.image", RootSource::Image),
        ];
        let path =
            |setting: &Single<PathBuf>| Some(setting.origin().host_path(paths, setting.value()?.clone()));
        let mut given =
            self.sources().into_iter().zip(KINDS).filter_map(|(setting, kind)| Some((path(setting)?, kind)));
        let source = match (given.next(), given.next()) {
            (Some((_, (one, _))), Some((_, (other, _)))) => {
                return Err(Error::new(format!("{one} and {other} exclude each other"))
                    .with_hint("remove one of them"));
            }
            (Some((path, (_, source))), None) => source(find::newest_version(&path)?),
            (None, _) => {
                return Err(Error::new("'root.directory', 'root.stack' or 'root.image' is required"));
            }
        };
        let mut ephemeral = self.ephemeral.required("root.ephemeral")?;
        if ephemeral == Ephemeral::Disk && source.path() == Path::new("/") {
            // A directory of an overlay cannot be below another one of it.
            ephemeral = Ephemeral::Memory;
        }
        Ok(Root {
            source,
            read_only: self.read_only.required("root.read-only")?,
            volatile: self.volatile.required("root.volatile")?,
            ephemeral,
            fresh_on_reboot: self.fresh_on_reboot.required("root.fresh-on-reboot")?,
            is_synced: false,
            memory_size: None,
            pivot: self.pivot.value().cloned(),
            pivoted: None,
            has_writable_parts: false,
            is_trial: false,
            fallback: None,
            image_policy: self.image_policy.value().cloned(),
            verity: Verity {
                root_hash: self.root_hash.value().map(|hash| hash.0.clone()),
                signature: self.root_hash_signature.value().map(|signature| signature.0.clone()),
                data: path(&self.verity_data),
            },
        })
    }
}
