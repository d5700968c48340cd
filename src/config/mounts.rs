//! `[[mount]]`: further mounts. Each kind of mount and each key is one row of a table here.

mod layers;
mod options;

pub(crate) use options::{bind, inaccessible, overlay, tmpfs};

use super::build::BuildBind;
use super::problem::Problem;
use super::setting::{List, Single, Sourced, settings};
use super::values::{RawValue, Value, choose, quoted};
use crate::error::{Error, Result};
use crate::machine::build_cache::PackageCache;
use crate::machine::mounts::{BindPath, Mount, MountIds, MountKind};
use crate::machine::users::Users;
use crate::paths::Paths;
use layers::{Layers, UpperLayer};
use std::path::{Path, PathBuf};

settings! {
    /// Settings of further mounts.
    MountsSettings {
        /// Further mounts.
        entries: List<MountEntry> = Tables "mount";
    }
}

/// A further mount as written in a definition or on the command line.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MountEntry {
    /// The kind of mount.
    pub(crate) kind: MountType,
    /// The source of a bind mount.
    pub(crate) source: Option<BindPath>,
    /// The path inside the machine; by default the source of a bind mount.
    pub(crate) target: Option<PathBuf>,
    /// Whether a bind mount is read-only inside.
    pub(crate) read_only: Option<bool>,
    /// Whether a bind mount includes the mounts below its source.
    pub(crate) recursive: Option<bool>,
    /// The owners of files inside.
    pub(crate) map_ids: Option<MountIds>,
    /// Whether setuid programs and file capabilities of a bind mount take effect.
    pub(crate) setuid: Option<bool>,
    /// Options of tmpfs(5).
    pub(crate) options: Option<String>,
    /// The read-only layers of an overlay, the lowest first.
    pub(crate) lower: Option<Layers>,
    /// The place of changes to an overlay.
    pub(crate) upper: Option<UpperLayer>,
    /// Whether a missing source inside, or a missing path that is hidden, is skipped.
    pub(crate) is_optional: bool,
}

/// A kind of mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum MountType {
    /// A file or directory of the host.
    #[default]
    Bind,
    /// An empty file system in memory.
    Tmpfs,
    /// Directories combined by overlayfs.
    Overlay,
    /// An empty node that hides an existing one.
    Inaccessible,
}

/// The kinds of mounts: the value of `type`, the kind and its required key.
const TYPES: &[(&str, MountType, &str)] = &[
    ("bind", MountType::Bind, "source"),
    ("tmpfs", MountType::Tmpfs, "target"),
    ("overlay", MountType::Overlay, "lower"),
    ("inaccessible", MountType::Inaccessible, "target"),
];

impl MountType {
    /// Returns the value of `type`.
    pub(super) fn as_str(self) -> &'static str {
        TYPES.iter().find(|row| row.1 == self).map_or("", |row| row.0)
    }

    /// Returns the key that a mount of this kind requires.
    pub(super) fn required_key(self) -> &'static str {
        TYPES.iter().find(|row| row.1 == self).map_or("", |row| row.2)
    }

    /// Returns the keys of a mount of this kind beside `type`.
    pub(super) fn keys(self) -> Vec<&'static str> {
        KEYS.iter().filter(|key| key.kinds.contains(&self)).map(|key| key.name).collect()
    }
}

impl Value for MountType {
    fn read(raw: &RawValue) -> Result<Self> {
        choose(raw, &TYPES.iter().map(|row| (row.0, row.1)).collect::<Vec<_>>())
    }

    fn show(&self) -> String {
        quoted(self.as_str())
    }
}

/// A key of `[[mount]]` beside `type`.
pub(super) struct MountKey {
    /// Its name.
    pub(super) name: &'static str,
    kinds: &'static [MountType],
    set: fn(&mut MountEntry, &RawValue) -> Result<()>,
    show: fn(&MountEntry) -> Option<String>,
}

impl MountKey {
    /// Parses the value of this key.
    pub(super) fn set(&self, entry: &mut MountEntry, raw: &RawValue) -> Result<()> {
        (self.set)(entry, raw)
    }
}

/// Creates the row of the key `$name`, stored in `$field` and parsed by `$read`.
macro_rules! key {
    ($name:literal, $field:ident, $read:expr, [$($kind:ident),+]) => {
        MountKey {
            name: $name,
            kinds: &[$(MountType::$kind),+],
            set: |entry, raw| {
                entry.$field = Some($read(raw)?);
                Ok(())
            },
            show: |entry| entry.$field.as_ref().map(Value::show),
        }
    };
}

/// The key of `[[mount]]` with a list of values.
pub(super) const LIST: &str = "lower";

/// The keys of `[[mount]]` beside `type`, with the kinds that have them.
pub(super) const KEYS: &[MountKey] = &[
    key!("source", source, Value::read, [Bind]),
    MountKey {
        name: LIST,
        kinds: &[MountType::Overlay],
        set: |entry, raw| entry.lower.get_or_insert_default().push(raw),
        show: |entry| entry.lower.as_ref().map(Layers::show),
    },
    key!("upper", upper, Value::read, [Overlay]),
    key!("target", target, Value::read, [Bind, Tmpfs, Overlay, Inaccessible]),
    key!("read-only", read_only, Value::read, [Bind, Overlay]),
    key!("recursive", recursive, Value::read, [Bind]),
    MountKey {
        name: "map-ids",
        kinds: &[MountType::Bind, MountType::Overlay],
        set: |entry, raw| {
            entry.map_ids = Some(Value::read(raw)?);
            Ok(())
        },
        show: |entry| entry.map_ids.as_ref().filter(|ids| !is_of_user(ids)).map(Value::show),
    },
    MountKey {
        name: "map",
        kinds: &[MountType::Bind],
        set: |entry, raw| {
            let RawValue::Text(text) = raw else { return Err(raw.expected("a map such as \"1001:1000\"")) };
            entry.map_ids = Some(MountIds::new(text)?);
            Ok(())
        },
        show: |entry| entry.map_ids.as_ref().filter(|ids| is_of_user(ids)).map(Value::show),
    },
    key!("setuid", setuid, Value::read, [Bind, Overlay]),
    key!("options", options, Value::read, [Tmpfs]),
];

/// Returns whether a mapping is of single users, which `map` shows.
fn is_of_user(ids: &MountIds) -> bool {
    matches!(ids, MountIds::User(..))
}

/// Returns the target of a bind mount that names none.
///
/// # Errors
/// The source has no path, or is the root directory.
pub(super) fn target_of(source: &BindPath) -> Result<PathBuf> {
    match source {
        BindPath::Host(path) | BindPath::Inside(path) => not_root(path.clone()),
        BindPath::Temporary => Err(Error::new("a temporary directory requires a mount point")),
    }
}

/// Returns `target`, unless it is the root directory.
///
/// # Errors
/// It is.
pub(in crate::config) fn not_root(target: PathBuf) -> Result<PathBuf> {
    if target == Path::new("/") {
        return Err(
            Error::new("'/' is the root of the machine").with_hint("write the path of a directory below it")
        );
    }
    Ok(target)
}

/// The word for a directory that vanishes at the end.
pub(super) const TEMPORARY: &str = "temporary";

impl Value for BindPath {
    fn read(raw: &RawValue) -> Result<Self> {
        match raw {
            RawValue::Text(TEMPORARY) => Ok(Self::Temporary),
            RawValue::Text(text) if text.starts_with('+') => {
                PathBuf::read(&RawValue::Text(&text[1..])).map(Self::Inside)
            }
            _ => PathBuf::read(raw).map(Self::Host),
        }
    }

    fn show(&self) -> String {
        match self {
            Self::Host(path) => path.show(),
            Self::Inside(path) => quoted(&format!("+{}", path.display())),
            Self::Temporary => quoted(TEMPORARY),
        }
    }
}

impl Value for MountIds {
    fn read(raw: &RawValue) -> Result<Self> {
        match raw {
            RawValue::Boolean(false) => Ok(Self::Host),
            RawValue::Boolean(true) => Ok(Self::Same),
            RawValue::Text("root") => Ok(Self::Root),
            RawValue::Text("owner") => Ok(Self::Owner),
            _ => Err(raw.expected("true, false, \"root\" or \"owner\"")),
        }
    }

    fn show(&self) -> String {
        match self {
            Self::Host => "false".into(),
            Self::Same => "true".into(),
            Self::Root => quoted("root"),
            Self::Owner => quoted("owner"),
            Self::User(..) | Self::BuildUser => quoted(&self.as_text()),
        }
    }
}

impl Value for MountEntry {
    /// Rejects all values: mounts are tables or options with parsers of their own.
    fn read(raw: &RawValue) -> Result<Self> {
        Err(raw.expected("a table of a mount"))
    }

    fn show(&self) -> String {
        let keys = KEYS.iter().filter_map(|key| Some(format!("{} = {}", key.name, (key.show)(self)?)));
        let parts: Vec<String> =
            std::iter::once(format!("type = {}", self.kind.show())).chain(keys).collect();
        format!("{{ {} }}", parts.join(", "))
    }
}

impl MountEntry {
    /// Returns the bind mount of a build session. Setuid programs of the host take no effect.
    pub(super) fn of_build(bind: &BuildBind) -> Self {
        Self {
            source: Some(BindPath::Host(bind.source.clone())),
            target: Some(bind.target.clone()),
            read_only: Some(bind.read_only),
            map_ids: Some(MountIds::BuildUser),
            setuid: Some(false),
            ..Self::default()
        }
    }

    /// Returns the mounts of a cache of packages in a build session: changes stay private until its end.
    pub(super) fn of_cache(cache: &PackageCache, in_memory: bool) -> impl Iterator<Item = Self> {
        let upper = if in_memory { UpperLayer::Temporary } else { UpperLayer::Discarded };
        cache.manager.directories().into_iter().map(move |target| Self {
            kind: MountType::Overlay,
            lower: Some(Layers::of_host(cache.directory.clone())),
            upper: Some(upper.clone()),
            target: Some(target.to_owned()),
            ..Self::default()
        })
    }
}

impl MountsSettings {
    /// Builds the mounts of the machine, parents before the paths below them. Of two mounts on one path the
    /// later one hides the earlier one.
    pub(super) fn build(&self, paths: &Paths, users: Users) -> Result<Vec<Mount>> {
        let built = self.entries.sourced().iter().map(|entry| build(paths, entry, users));
        let mut mounts: Vec<Mount> = built.collect::<Result<_>>()?;
        mounts.sort_by(|one, other| one.target.cmp(&other.target));
        Ok(mounts)
    }

    /// Returns warnings for id mappings without a user namespace and for hidden mounts.
    pub(super) fn warnings(&self, users: &Single<Users>) -> Vec<Problem> {
        let mut warnings = Vec::new();
        for Sourced { value, origin } in self.entries.sourced() {
            if value.map_ids == Some(MountIds::Same) && users.value() == Some(&Users::Host) {
                let text = "'map-ids' has no effect without a user namespace".to_owned();
                warnings.push(Problem::warning(origin, text));
            }
        }
        for (at, Sourced { value, origin }) in self.entries.sourced().iter().enumerate() {
            if self.entries.values().take(at).any(|earlier| earlier.target == value.target) {
                let target = value.target.clone().unwrap_or_default();
                let text = format!("this mount on '{}' hides an earlier one", target.display());
                warnings.push(Problem::warning(origin, text));
            }
        }
        warnings
    }
}

fn build(
    paths: &Paths,
    Sourced { value: entry, origin }: &Sourced<MountEntry>,
    users: Users,
) -> Result<Mount> {
    let missing = |key: &str| Error::new(format!("a mount requires '{key}'"));
    let target = entry.target.as_ref().ok_or_else(|| missing("target"))?;
    let kind = match entry.kind {
        MountType::Inaccessible => {
            let is_optional = entry.is_optional;
            not_root(target.clone()).map(|_| MountKind::Inaccessible { is_optional })?
        }
        MountType::Bind => MountKind::Bind {
            source: match entry.source.clone().ok_or_else(|| missing("source"))? {
                BindPath::Host(path) => BindPath::Host(origin.host_path(paths, path)),
                other => other,
            },
            read_only: entry.read_only.unwrap_or(false),
            recursive: entry.recursive.unwrap_or(true),
            // Off by default: a guest with root access to files of the host can create setuid programs there.
            ids: match entry.map_ids.clone().unwrap_or(MountIds::Host) {
                MountIds::Same if users == Users::Host => MountIds::Host,
                ids => ids,
            },
            setuid: entry.setuid.unwrap_or(false),
            is_optional: entry.is_optional,
        },
        MountType::Overlay => layers::build(paths, entry, origin, users)?,
        MountType::Tmpfs => MountKind::Tmpfs { options: entry.options.clone().unwrap_or_default() },
    };
    Ok(Mount { target: target.clone(), kind })
}
