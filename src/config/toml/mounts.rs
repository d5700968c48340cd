//! Parses `[[mount]]`, tables whose keys depend on one another.

use super::{TomlReader, raw_value, ticked};
use crate::config::mounts::{KEYS, LIST, MountEntry, MountType, target_of};
use crate::config::values::{RawValue, Value};
use crate::error::{Error, Result, nearest};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

impl TomlReader<'_> {
    /// Parses one mount.
    pub(super) fn mount(&mut self, item: &Spanned<DeValue>) {
        let DeValue::Table(table) = item.get_ref() else {
            let error = raw_value(item.get_ref()).expected("a table of a mount");
            self.report(item.span(), error.with_hint("write the line [[mount]] before each mount"));
            return;
        };
        let before = self.errors.len();
        let mut mount = MountEntry::default();
        for (key, value) in table {
            // A list is the same key several times.
            let values: Vec<RawValue> = match value.get_ref() {
                DeValue::Array(items) if key.get_ref() == LIST => {
                    items.iter().map(|item| raw_value(item.get_ref())).collect()
                }
                one => vec![raw_value(one)],
            };
            let set = |raw| set(&mut mount, key.get_ref(), raw);
            if let Err(error) = values.iter().try_for_each(set) {
                let name = key.get_ref().as_ref();
                let unknown = name != "type" && KEYS.iter().all(|key| key.name != name);
                self.report(if unknown { key.span() } else { value.span() }, error);
            }
        }
        if self.errors.len() == before {
            self.check_keys(&mount, table, item);
        }
        if mount.kind == MountType::Bind && mount.target.is_none() {
            match mount.source.as_ref().map(target_of) {
                Some(Err(error)) => self.report(item.span(), error.context("'target'")),
                Some(Ok(target)) => mount.target = Some(target),
                None => {}
            }
        }
        if self.errors.len() == before {
            let origin = self.origin(&item.span());
            self.layer.mounts.entries.push(mount, origin);
        }
    }

    /// Checks that the keys belong to the type.
    fn check_keys(&mut self, mount: &MountEntry, table: &DeTable, item: &Spanned<DeValue>) {
        let (word, required) = (mount.kind.as_str(), mount.kind.required_key());
        let allowed = mount.kind.keys();
        if !table.contains_key(required) {
            let error = Error::new(format!("a mount of type '{word}' requires '{required}'"));
            // The span of [[mount]] is its header.
            self.report(item.span(), error);
        }
        for (key, _) in table {
            let name = key.get_ref().as_ref();
            if name != "type" && !allowed.contains(&name) {
                let error = Error::new(format!("a mount of type '{word}' has no key '{name}'"));
                self.report(key.span(), error.with_hint(format!("its keys are {}", allowed.join(", "))));
            }
        }
    }
}

/// Parses one key of a mount.
fn set(mount: &mut MountEntry, key: &str, raw: &RawValue) -> Result<()> {
    let result = if key == "type" {
        MountType::read(raw).map(|kind| mount.kind = kind)
    } else if let Some(row) = KEYS.iter().find(|row| row.name == key) {
        row.set(mount, raw)
    } else {
        let names: Vec<&str> = std::iter::once("type").chain(KEYS.iter().map(|key| key.name)).collect();
        let error = Error::new(format!("unknown key {} in [[mount]]", ticked(key)));
        return Err(match nearest(key, names.iter().copied()) {
            Some(near) => error.with_hint(format!("did you mean '{near}'?")),
            None => error.with_hint(format!("known keys: {}", names.join(", "))),
        });
    };
    result.map_err(|error| error.context(format!("'{key}'")))
}
