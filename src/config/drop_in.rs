//! Drop-ins of `coracle set`, the only files that this stage writes. Each change is parsed like a definition
//! before a file is written, and reverted if it makes the definition of the machine invalid.

use super::layer::{Layer, Origin, Setting, Shape, definition_settings};
use super::mounts::{MountEntry, not_root};
use super::values::{RawValue, Value};
use crate::error::{Context, Error, Result, nearest};
use crate::machine::name::Name;
use crate::paths::{Paths, store};
use std::path::{Path, PathBuf};

/// The lifetime of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Persistence {
    /// Permanent, in `/etc`.
    Always,
    /// Until the host reboots, in `/run`.
    UntilReboot,
}

/// One changed setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DropInSetting {
    /// Its key.
    pub(crate) key: &'static str,
    /// The value as written in a definition; `None` to remove the setting from the drop-in.
    pub(crate) value: Option<String>,
    /// The values of a list in the drop-in that the new ones replace.
    pub(crate) replaced: Vec<String>,
}

impl DropInSetting {
    fn new(key: &'static str, value: Option<String>) -> Self {
        Self { key, value, replaced: Vec::new() }
    }
}

/// The effect of a change on the values of a list in the drop-in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ListChange {
    Replace,
    Add,
    Remove,
}

/// Parses `KEY=VALUE`, and for lists `KEY+=VALUE` and `KEY-=VALUE`, which change the values in the layer
/// `current` of the drop-in; the key may be its last part only.
///
/// # Errors
/// The key is unknown or a list without support here, or the value is invalid.
pub(crate) fn change(text: &str, current: &Layer) -> Result<DropInSetting> {
    let (key, value) = text.split_once('=').ok_or_else(|| {
        Error::usage(format!("'{text}' is not a change"))
            .with_hint("write KEY=VALUE, for example memory-max=512M")
    })?;
    let (key, how) = match (key.strip_suffix('+'), key.strip_suffix('-')) {
        (Some(key), _) => (key, ListChange::Add),
        (_, Some(key)) => (key, ListChange::Remove),
        _ => (key, ListChange::Replace),
    };
    let has_key = |setting: &&Setting| setting.key == key || setting.name() == key;
    let setting = definition_settings().find(has_key).ok_or_else(|| {
        let error = Error::usage(format!("unknown setting '{key}'"));
        match nearest(key, definition_settings().map(Setting::name)) {
            Some(near) => error.with_hint(format!("did you mean '{near}'?")),
            None => error.with_hint("see coracle.toml(5) for all settings"),
        }
    })?;
    if matches!(setting.shape, Shape::SingleOrList | Shape::List) {
        return list(setting, key, value, how, current);
    }
    if how != ListChange::Replace {
        return Err(Error::usage(format!("'{key}' is not a list")).with_hint(format!("write {key}=VALUE")));
    }
    if setting.shape == Shape::Tables {
        return bind(setting, value);
    }
    if setting.shape != Shape::Single {
        return Err(Error::usage(format!("'{key}' is a list"))
            .with_hint("edit the definition, then run 'coracle apply'"));
    }
    if value.is_empty() {
        return Ok(DropInSetting::new(setting.key, None));
    }
    let mut layer = Layer::default();
    let origin = Origin::Flag("set");
    let truth = match value {
        "true" | "yes" => Some(true),
        "false" | "no" => Some(false),
        _ => None,
    };
    layer
        .set(setting, &RawValue::Text(value), origin.clone())
        .or_else(|error| match (truth, value.parse()) {
            (Some(truth), _) => layer.set(setting, &RawValue::Boolean(truth), origin.clone()),
            (None, Ok(number)) => layer.set(setting, &RawValue::Integer(number), origin.clone()),
            _ => Err(error),
        })
        .map_err(|error| error.context(format!("'{key}'")))?;
    let value = layer.lines(setting).into_iter().next().map(|line| line.value);
    Ok(DropInSetting::new(setting.key, value))
}

/// Parses a list separated by commas. It is appended to the list of the definition; a single word of a
/// setting with [`Shape::SingleOrList`] replaces it.
fn list(
    setting: &'static Setting,
    key: &str,
    value: &str,
    how: ListChange,
    current: &Layer,
) -> Result<DropInSetting> {
    let mut layer = Layer::default();
    for item in value.split(',').filter(|item| !item.is_empty()) {
        let result = layer.set(setting, &RawValue::Text(item.trim()), Origin::Flag("set"));
        result.map_err(|error| error.context(format!("'{key}'")))?;
    }
    let values =
        |layer: &Layer| -> Vec<String> { layer.lines(setting).into_iter().map(|line| line.value).collect() };
    let (named, stored) = (values(&layer), values(current));
    let shown: Vec<String> = match how {
        ListChange::Replace => named,
        ListChange::Add => {
            let added = named.into_iter().filter(|value| !stored.contains(value));
            stored.iter().cloned().chain(added.collect::<Vec<_>>()).collect()
        }
        ListChange::Remove => {
            if let Some(absent) = named.iter().find(|value| !stored.contains(value)) {
                return Err(Error::new(format!("'{key}' has no value {absent} that 'set' has written"))
                    .with_hint("see 'coracle config NAME --explain' for the file of each value"));
            }
            stored.into_iter().filter(|value| !named.contains(value)).collect()
        }
    };
    let is_replaced =
        |value: &String| how == ListChange::Replace && !shown.is_empty() && !shown.contains(value);
    let replaced = values(current).into_iter().filter(is_replaced).collect();
    let value = match shown.as_slice() {
        [] => None,
        [word] if setting.shape == Shape::SingleOrList => Some(word.clone()),
        all => Some(format!("[{}]", all.join(", "))),
    };
    Ok(DropInSetting { key: setting.key, value, replaced })
}

/// Parses a bind mount, `SOURCE[:TARGET[:OPTIONS]][:ro]`. It is appended to the mounts of the definition.
fn bind(setting: &'static Setting, text: &str) -> Result<DropInSetting> {
    if text.is_empty() {
        return Ok(DropInSetting::new(setting.key, None));
    }
    let (text, read_only) = text.strip_suffix(":ro").map_or((text, false), |text| (text, true));
    let bind = super::mounts::bind(text, read_only).map_err(|error| error.context("'mount'"))?;
    not_root(bind.target.clone().unwrap_or_default()).map_err(|error| error.context("'mount'"))?;
    // As in definitions, setuid programs of a mount take effect only with an explicit setting.
    let bind = MountEntry { setuid: None, ..bind };
    Ok(DropInSetting::new(setting.key, Some(format!("[{}]", bind.show()))))
}

/// Merges changes of the same key: further mounts are appended to the first one.
///
/// # Errors
/// A setting other than `mount` is changed twice.
pub(crate) fn merge(changes: Vec<DropInSetting>) -> Result<Vec<DropInSetting>> {
    let mut merged: Vec<DropInSetting> = Vec::new();
    for change in changes {
        let Some(first) = merged.iter_mut().find(|first| first.key == change.key) else {
            merged.push(change);
            continue;
        };
        match (&first.value, &change.value) {
            (Some(some), Some(more)) if change.key == "mount" => {
                let inner = |list: &str| list.trim_matches(['[', ']']).to_owned();
                first.value = Some(format!("[{}, {}]", inner(some), inner(more)));
            }
            _ => {
                return Err(
                    Error::usage(format!("'{}' is changed twice", change.key)).with_hint("set each key once")
                );
            }
        }
    }
    Ok(merged)
}

/// Returns the drop-in for changes of a machine. The one in `/run` overrides the one in `/etc`.
pub(crate) fn file(paths: &Paths, name: &Name, keep: Persistence) -> PathBuf {
    let (directory, file) = match keep {
        Persistence::Always => ("/etc/coracle/machines.d", "90-set.toml"),
        Persistence::UntilReboot => ("/run/coracle/machines.d", "95-set.toml"),
    };
    paths.join(directory).join(format!("{name}.toml.d")).join(file)
}

/// Returns the settings of the drop-in of a lifetime; none if it does not exist.
pub(crate) fn current(paths: &Paths, name: &Name, keep: Persistence) -> Layer {
    let file = file(paths, name, keep);
    if file.exists() { super::definition_files::read(&file).0 } else { Layer::default() }
}

/// Refuses to remove a setting that is in another file than the drop-ins.
///
/// # Errors
/// The setting with its file and line.
pub(crate) fn refuse_foreign(paths: &Paths, name: &Name, change: &DropInSetting) -> Result<()> {
    let Some(setting) = definition_settings().find(|setting| setting.key == change.key) else {
        return Ok(());
    };
    let is_own = [Persistence::Always, Persistence::UntilReboot]
        .into_iter()
        .any(|keep| !current(paths, name, keep).lines(setting).is_empty());
    if is_own || change.value.is_some() {
        return Ok(());
    }
    let lines = super::settings(paths, name)?.lines(setting);
    match lines.into_iter().map(|line| line.origin).find(|origin| matches!(origin, Origin::File { .. })) {
        Some(origin) => {
            let message =
                format!("{} is set in {origin}: 'set' removes only what 'set' has written", change.key);
            Err(Error::new(message).with_hint("edit that file, then run 'coracle apply'"))
        }
        None => Ok(()),
    }
}

/// The previous contents of the files that a change replaced.
#[derive(Debug)]
pub(crate) struct ReplacedFiles(Vec<(PathBuf, Option<String>)>);

impl ReplacedFiles {
    /// Restores the files.
    ///
    /// # Errors
    /// A file cannot be written.
    pub(crate) fn restore(&self) -> Result<()> {
        self.0.iter().try_for_each(|(file, text)| write(file, text.as_deref().unwrap_or_default()))
    }
}

/// Writes changes to the drop-in. A permanent change removes the same settings from the drop-in in `/run`,
/// which would override it.
///
/// # Errors
/// A file cannot be written, or the definition of the machine would be invalid; then all files are restored.
pub(crate) fn write_changes(
    paths: &Paths,
    name: &Name,
    changes: &[DropInSetting],
    keep: Persistence,
) -> Result<ReplacedFiles> {
    let target = file(paths, name, keep);
    let above = (keep == Persistence::Always).then(|| file(paths, name, Persistence::UntilReboot));
    let touched: Vec<PathBuf> = above.iter().cloned().chain([target.clone()]).collect();
    let previous = touched.into_iter().map(|file| {
        let text = std::fs::read_to_string(&file).ok();
        (file, text)
    });
    let previous = ReplacedFiles(previous.collect());
    let result =
        write_all(&target, above.as_deref(), changes).and_then(|()| super::machine(paths, name).map(|_| ()));
    if result.is_err() {
        previous.restore()?;
    }
    // Coracle creates the directory in '/run'. It remains if it is not empty.
    let run = file(paths, name, Persistence::UntilReboot);
    let _ = run.parent().and_then(Path::parent).map(std::fs::remove_dir);
    result.map(|()| previous)
}

fn write_all(target: &Path, above: Option<&Path>, changes: &[DropInSetting]) -> Result<()> {
    if let Some(above) = above {
        let mut table = read(above)?;
        changes.iter().for_each(|change| remove(&mut table, change.key));
        write(above, &table.to_string())?;
    }
    let mut table = read(target)?;
    for change in changes {
        remove(&mut table, change.key);
        if let Some(value) = &change.value {
            insert(&mut table, change.key, value)?;
        }
    }
    write(target, &table.to_string())
}

fn read(file: &Path) -> Result<toml::Table> {
    let reading = || format!("cannot read '{}'", file.display());
    match std::fs::read_to_string(file) {
        Ok(text) => text.parse().map_err(|error: toml::de::Error| {
            Error::new(error.message().to_owned()).context(reading()).with_hint("correct or remove that file")
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(toml::Table::new()),
        Err(error) => Err(error).context(reading),
    }
}

/// Returns the mode of a file with this text: contents of credentials are readable for root only.
fn mode_of(text: &str) -> u32 {
    let table: toml::Table = text.parse().unwrap_or_default();
    if table.get("credentials").is_some_and(|section| section.get("set").is_some()) { 0o600 } else { 0o666 }
}

/// Writes a file atomically; deletes it if `text` is empty.
fn write(file: &Path, text: &str) -> Result<()> {
    let writing = || format!("cannot write '{}'", file.display());
    if text.trim().is_empty() {
        return match std::fs::remove_file(file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).context(writing),
            _ => {
                let _ = file.parent().map(std::fs::remove_dir);
                Ok(())
            }
        };
    }
    let directory = file.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(directory)
        .and_then(|()| store::replace(file, text.as_bytes(), mode_of(text)))
        .context(writing)
}

fn remove(table: &mut toml::Table, key: &str) {
    match key.split_once('.') {
        None => drop(table.remove(key)),
        Some((section, rest)) => {
            if let Some(toml::Value::Table(inner)) = table.get_mut(section) {
                remove(inner, rest);
                if inner.is_empty() {
                    table.remove(section);
                }
            }
        }
    }
}

fn insert(table: &mut toml::Table, key: &str, value: &str) -> Result<()> {
    match key.split_once('.') {
        None => {
            let parsed: toml::Table = format!("value = {value}")
                .parse()
                .map_err(|error: toml::de::Error| Error::new(error.message().to_owned()))?;
            parsed.into_iter().for_each(|(_, value)| drop(table.insert(key.to_owned(), value)));
            Ok(())
        }
        Some((section, rest)) => {
            let inner = table.entry(section).or_insert_with(|| toml::Value::Table(toml::Table::new()));
            match inner {
                toml::Value::Table(inner) => insert(inner, rest, value),
                _ => Err(Error::new(format!("'{section}' is not a table"))),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_parsed_like_definitions() {
        let shown = |text: &str| change(text, &Layer::default()).unwrap().value;
        assert_eq!(change("memory-max=512M", &Layer::default()).unwrap().key, "resources.memory-max");
        assert_eq!(shown("resources.tasks-max=64").as_deref(), Some("64"));
        assert_eq!(shown("cpu-quota=150%").as_deref(), Some("\"150%\""));
        assert_eq!(shown("no-new-privileges=yes").as_deref(), Some("true"));
        assert_eq!(shown("memory-max="), None);
        let mounts = [
            change("mount=/a:/b:ro", &Layer::default()).unwrap(),
            change("mount=/c", &Layer::default()).unwrap(),
        ]
        .to_vec();
        let both = merge(mounts).unwrap();
        let table: toml::Table = format!("mount = {}", both[0].value.as_deref().unwrap()).parse().unwrap();
        assert_eq!(table["mount"][0]["target"].as_str(), Some("/b"));
        assert_eq!(table["mount"][0]["read-only"].as_bool(), Some(true));
        assert_eq!(table["mount"][1]["source"].as_str(), Some("/c"));
        assert!(
            merge(
                [
                    change("tasks-max=1", &Layer::default()).unwrap(),
                    change("tasks-max=2", &Layer::default()).unwrap()
                ]
                .to_vec()
            )
            .is_err()
        );
        for bad in [
            "memory-max",
            "memroy-max=1",
            "memory-max=much",
            "mount=x",
            "mount=/a:/",
            "mount=/a:/b:nonsense",
            "name=y",
            "memory-max+=1M",
        ] {
            assert!(change(bad, &Layer::default()).is_err(), "{bad}");
        }
        assert!(
            change("memroy-max=1", &Layer::default()).unwrap_err().hint().unwrap().contains("memory-max")
        );
    }

    #[test]
    fn values_are_added_to_and_removed_from_the_list_of_the_drop_in() {
        let file = Path::new("/set.toml");
        let (current, _) = super::super::toml::read(file, "network.ports = [\"8080:80\", \"81:81\"]");
        let shown = |text: &str| change(text, &current).unwrap().value;
        assert_eq!(shown("ports+=8082:82").as_deref(), Some("[\"8080:80\", \"81:81\", \"8082:82\"]"));
        assert_eq!(shown("ports+=81:81").as_deref(), Some("[\"8080:80\", \"81:81\"]"));
        assert_eq!(shown("ports-=8080:80").as_deref(), Some("[\"81:81\"]"));
        assert_eq!(shown("ports-=8080:80,81:81"), None);
        assert!(change("ports-=9:9", &current).unwrap_err().hint().unwrap().contains("--explain"));
        assert_eq!(shown("boot.arguments=a,b").as_deref(), Some("[\"a\", \"b\"]"));
    }

    #[test]
    fn changes_replace_earlier_ones_and_can_be_removed() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::below(root.path());
        let name = Name::new("web").unwrap();
        std::fs::create_dir_all(paths.images().join("web")).unwrap();
        let set = |text: &str, lifetime| {
            write_changes(&paths, &name, &[change(text, &Layer::default()).unwrap()], lifetime)
        };
        let memory =
            || *crate::config::machine(&paths, &name).unwrap().machine.resources.memory_max.as_ref().unwrap();
        set("memory-max=1M", Persistence::Always).unwrap();
        set("memory-max=2M", Persistence::UntilReboot).unwrap();
        assert_eq!(memory(), 2 << 20);
        set("memory-max=3M", Persistence::Always).unwrap();
        assert_eq!(memory(), 3 << 20);
        // A change that makes the definition invalid is reverted.
        set("users.private=no", Persistence::Always).unwrap();
        assert!(set("users.ownership=map", Persistence::Always).is_err());
        assert_eq!(memory(), 3 << 20);
        set("memory-max=", Persistence::Always).unwrap();
        set("users.private=", Persistence::Always).unwrap();
        assert!(!file(&paths, &name, Persistence::Always).exists());
    }
}
