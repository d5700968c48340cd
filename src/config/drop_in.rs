//! Drop-ins that `coracle set` keeps: the one place of this stage that writes. Each change is read
//! as a definition would be before anything is written, and taken back where the machine would have
//! no valid definition with it.

use super::layer::{Layer, Mount, Origin, SETTINGS, Setting, Shape};
use super::nearest::nearest;
use super::values::{Given, Value};
use crate::error::{Context, Error, Result};
use crate::machine::name::Name;
use crate::paths::Paths;
use std::path::{Path, PathBuf};

/// How long a change is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// For good, in `/etc`.
    Always,
    /// Until the host reboots, in `/run`.
    UntilReboot,
}

/// One changed setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Its key.
    pub key: &'static str,
    /// The value as a definition has it; nothing to forget what was set before.
    pub value: Option<String>,
}

/// Reads `KEY=VALUE`, the key whole or its last part.
///
/// # Errors
/// An unknown key, one that is a list, or a value that does not fit.
pub fn change(text: &str) -> Result<Change> {
    let (key, value) = text.split_once('=').ok_or_else(|| {
        Error::usage(format!("'{text}' is no change")).with_hint("write KEY=VALUE, as memory-max=512M")
    })?;
    let known = || SETTINGS.iter().filter(|setting| setting.shape != Shape::FlagOnly);
    let last = |setting: &Setting| setting.key.rsplit('.').next().unwrap_or_default().to_owned();
    let setting = known().find(|setting| setting.key == key || last(setting) == key).ok_or_else(|| {
        let error = Error::usage(format!("there is no setting '{key}'"));
        match nearest(key, known().map(|setting| setting.key.rsplit('.').next().unwrap_or_default())) {
            Some(near) => error.with_hint(format!("did you mean '{near}'?")),
            None => error.with_hint("coracle.toml(5) lists all of them"),
        }
    })?;
    if setting.shape == Shape::OneOrMany || matches!(setting.key, "network.ports" | "network.on-demand") {
        return list(setting, key, value);
    }
    if setting.shape == Shape::Mounts {
        return bind(setting, value);
    }
    if setting.shape != Shape::One {
        return Err(Error::usage(format!("'{key}' holds more than one value"))
            .with_hint("write it into the definition, then 'coracle apply' it"));
    }
    if value.is_empty() {
        return Ok(Change { key: setting.key, value: None });
    }
    let mut layer = Layer::default();
    let said = Origin::Flag("set");
    let truth = match value {
        "true" | "yes" => Some(true),
        "false" | "no" => Some(false),
        _ => None,
    };
    setting
        .say(&mut layer, &Given::Text(value), said.clone())
        .or_else(|error| match (truth, value.parse()) {
            (Some(truth), _) => setting.say(&mut layer, &Given::Boolean(truth), said.clone()),
            (None, Ok(number)) => setting.say(&mut layer, &Given::Integer(number), said.clone()),
            _ => Err(error),
        })
        .map_err(|error| error.context(format!("'{key}'")))?;
    let shown = setting.tell(&layer).into_iter().next().map(|(shown, _)| shown);
    Ok(Change { key: setting.key, value: shown })
}

/// A list between commas. It comes to that of the definition, a word alone in its place.
fn list(setting: &'static Setting, key: &str, value: &str) -> Result<Change> {
    let mut layer = Layer::default();
    for item in value.split(',').filter(|item| !item.is_empty()) {
        let said = setting.say(&mut layer, &Given::Text(item.trim()), Origin::Flag("set"));
        said.map_err(|error| error.context(format!("'{key}'")))?;
    }
    let shown: Vec<String> = setting.tell(&layer).into_iter().map(|(shown, _)| shown).collect();
    let value = match shown.as_slice() {
        [] => None,
        [word] if setting.shape == Shape::OneOrMany => Some(word.clone()),
        all => Some(format!("[{}]", all.join(", "))),
    };
    Ok(Change { key: setting.key, value })
}

/// A bind mount, as `SOURCE[:TARGET[:OPTIONS]][:ro]`. It comes to those of the definition.
fn bind(setting: &'static Setting, text: &str) -> Result<Change> {
    if text.is_empty() {
        return Ok(Change { key: setting.key, value: None });
    }
    let (text, read_only) = text.strip_suffix(":ro").map_or((text, false), |text| (text, true));
    let bind = super::mount::bind(text, read_only).map_err(|error| error.context("'mount'"))?;
    // As in definitions, where setuid programs of a mount count only where it is said.
    let bind = Mount { setuid: None, ..bind };
    Ok(Change { key: setting.key, value: Some(format!("[{}]", bind.show())) })
}

/// Changes of which each key is in one: further mounts come to the first.
///
/// # Errors
/// A setting other than mounts that is changed twice.
pub fn joined(changes: Vec<Change>) -> Result<Vec<Change>> {
    let mut joined: Vec<Change> = Vec::new();
    for change in changes {
        let Some(first) = joined.iter_mut().find(|first| first.key == change.key) else {
            joined.push(change);
            continue;
        };
        match (&first.value, &change.value) {
            (Some(some), Some(more)) if change.key == "mount" => {
                let inner = |list: &str| list.trim_matches(['[', ']']).to_owned();
                first.value = Some(format!("[{}, {}]", inner(some), inner(more)));
            }
            _ => {
                return Err(Error::usage(format!("'{}' is changed twice", change.key))
                    .with_hint("say what it is to be once"));
            }
        }
    }
    Ok(joined)
}

/// The file that changes of a machine are kept in. That of the run-time lies above the other.
pub fn file(paths: &Paths, name: &Name, keep: Keep) -> PathBuf {
    let (directory, file) = match keep {
        Keep::Always => ("/etc/coracle/machines.d", "90-set.toml"),
        Keep::UntilReboot => ("/run/coracle/machines.d", "95-set.toml"),
    };
    paths.join(directory).join(format!("{name}.toml.d")).join(file)
}

/// Files as they were before a change was kept.
#[derive(Debug)]
pub struct Kept(Vec<(PathBuf, Option<String>)>);

impl Kept {
    /// Makes them so again.
    ///
    /// # Errors
    /// What cannot be written.
    pub fn take_back(&self) -> Result<()> {
        self.0.iter().try_for_each(|(file, text)| write(file, text.as_deref().unwrap_or_default()))
    }
}

/// Keeps changes. What is kept for good is no longer covered by what was set for the run-time.
///
/// # Errors
/// What cannot be written, or a machine that would have no valid definition; then all is as before.
pub fn keep(paths: &Paths, name: &Name, changes: &[Change], keep: Keep) -> Result<Kept> {
    let place = file(paths, name, keep);
    let above = (keep == Keep::Always).then(|| file(paths, name, Keep::UntilReboot));
    let touched: Vec<PathBuf> = above.iter().cloned().chain([place.clone()]).collect();
    let before = touched.into_iter().map(|file| {
        let text = std::fs::read_to_string(&file).ok();
        (file, text)
    });
    let before = Kept(before.collect());
    let kept =
        write_all(&place, above.as_deref(), changes).and_then(|()| super::machine(paths, name).map(|_| ()));
    if kept.is_err() {
        before.take_back()?;
    }
    // In '/run' the directory is ours as well; one that holds something stays.
    let run = file(paths, name, Keep::UntilReboot);
    let _ = run.parent().and_then(Path::parent).map(std::fs::remove_dir);
    kept.map(|()| before)
}

fn write_all(place: &Path, above: Option<&Path>, changes: &[Change]) -> Result<()> {
    if let Some(above) = above {
        let mut table = read(above)?;
        changes.iter().for_each(|change| remove(&mut table, change.key));
        write(above, &table.to_string())?;
    }
    let mut table = read(place)?;
    for change in changes {
        remove(&mut table, change.key);
        if let Some(value) = &change.value {
            insert(&mut table, change.key, value)?;
        }
    }
    write(place, &table.to_string())
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

/// Writes a file whole or not at all; one with nothing in it goes.
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
    let temporary = file.with_extension("new");
    std::fs::create_dir_all(directory)
        .and_then(|()| std::fs::write(&temporary, text))
        .and_then(|()| std::fs::rename(&temporary, file))
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
                _ => Err(Error::new(format!("'{section}' is no section"))),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_read_as_definitions_are() {
        let shown = |text: &str| change(text).unwrap().value;
        assert_eq!(change("memory-max=512M").unwrap().key, "resources.memory-max");
        assert_eq!(shown("resources.tasks-max=64").as_deref(), Some("64"));
        assert_eq!(shown("cpu-quota=150%").as_deref(), Some("\"150%\""));
        assert_eq!(shown("no-new-privileges=yes").as_deref(), Some("true"));
        assert_eq!(shown("memory-max="), None);
        let mounts = [change("mount=/a:/b:ro").unwrap(), change("mount=/c").unwrap()].to_vec();
        let both = joined(mounts).unwrap();
        let table: toml::Table = format!("mount = {}", both[0].value.as_deref().unwrap()).parse().unwrap();
        assert_eq!(table["mount"][0]["target"].as_str(), Some("/b"));
        assert_eq!(table["mount"][0]["read-only"].as_bool(), Some(true));
        assert_eq!(table["mount"][1]["source"].as_str(), Some("/c"));
        assert!(joined([change("tasks-max=1").unwrap(), change("tasks-max=2").unwrap()].to_vec()).is_err());
        for bad in [
            "memory-max",
            "memroy-max=1",
            "memory-max=much",
            "mount=x",
            "mount=/a:/",
            "mount=/a:/b:nonsense",
            "name=y",
        ] {
            assert!(change(bad).is_err(), "{bad}");
        }
        assert!(change("memroy-max=1").unwrap_err().hint().unwrap().contains("memory-max"));
    }

    #[test]
    fn what_is_kept_replaces_and_can_be_forgotten() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::below(root.path());
        let name = Name::new("web").unwrap();
        std::fs::create_dir_all(paths.images().join("web")).unwrap();
        let set = |text: &str, keep_for| keep(&paths, &name, &[change(text).unwrap()], keep_for);
        let memory =
            || *crate::config::machine(&paths, &name).unwrap().machine.resources.memory_max.as_ref().unwrap();
        set("memory-max=1M", Keep::Always).unwrap();
        set("memory-max=2M", Keep::UntilReboot).unwrap();
        assert_eq!(memory(), 2 << 20);
        set("memory-max=3M", Keep::Always).unwrap();
        assert_eq!(memory(), 3 << 20);
        // A change that makes the definition invalid is taken back.
        set("users.private=no", Keep::Always).unwrap();
        assert!(set("users.ownership=map", Keep::Always).is_err());
        assert_eq!(memory(), 3 << 20);
        set("memory-max=", Keep::Always).unwrap();
        set("users.private=", Keep::Always).unwrap();
        assert!(!file(&paths, &name, Keep::Always).exists());
    }
}
