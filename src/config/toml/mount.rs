//! `[[mount]]`: the tables whose keys depend on one another.

use super::{Reader, given, ticked};
use crate::config::layer::{Mount, MountWord};
use crate::config::mount::not_root;
use crate::config::nearest::nearest;
use crate::config::values::{Given, Value, quoted};
use crate::error::{Error, Result};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

const KEYS: [&str; 8] =
    ["type", "source", "target", "read-only", "recursive", "map-ids", "setuid", "options"];
const TYPES: [&str; 3] = ["bind", "tmpfs", "inaccessible"];

impl Reader<'_> {
    /// Reads one mount.
    pub(super) fn mount(&mut self, item: &Spanned<DeValue>) {
        let DeValue::Table(table) = item.get_ref() else {
            let error = given(item.get_ref()).expected("a table of a mount");
            self.wrong(item.span(), error.with_hint("begin each mount with the line [[mount]]"));
            return;
        };
        let before = self.wrong.len();
        let mut mount = Mount::default();
        for (key, value) in table {
            if let Err(error) = take(&mut mount, key.get_ref(), &given(value.get_ref())) {
                let unknown = !KEYS.contains(&key.get_ref().as_ref());
                self.wrong(if unknown { key.span() } else { value.span() }, error);
            }
        }
        if self.wrong.len() == before {
            self.agree(&mount, table, item);
        }
        if mount.kind == MountWord::Bind && mount.target.is_none() {
            match mount.source.clone().map(not_root) {
                Some(Err(error)) => self.wrong(item.span(), error.context("'target'")),
                Some(Ok(source)) => mount.target = Some(source),
                None => {}
            }
        }
        if self.wrong.len() == before {
            let origin = self.origin(&item.span());
            self.layer.mounts.push(mount, origin);
        }
    }

    /// Checks that the keys fit the type.
    fn agree(&mut self, mount: &Mount, table: &DeTable, item: &Spanned<DeValue>) {
        let (word, wanted, allowed): (&str, &str, &[&str]) = match mount.kind {
            MountWord::Bind => {
                ("bind", "source", &["source", "target", "read-only", "recursive", "map-ids", "setuid"])
            }
            MountWord::Tmpfs => ("tmpfs", "target", &["target", "options"]),
            MountWord::Inaccessible => ("inaccessible", "target", &["target"]),
        };
        if !table.contains_key(wanted) {
            let error = Error::new(format!("a mount of type '{word}' needs '{wanted}'"));
            // The span of [[mount]] is its header.
            self.wrong(item.span(), error);
        }
        for (key, _) in table {
            let name = key.get_ref().as_ref();
            if name != "type" && !allowed.contains(&name) {
                let error = Error::new(format!("a mount of type '{word}' has no '{name}'"));
                self.wrong(key.span(), error.with_hint(format!("it has {}", allowed.join(", "))));
            }
        }
    }
}

/// Takes one key of a mount.
fn take(mount: &mut Mount, key: &str, given: &Given) -> Result<()> {
    let named = |error: Error| error.context(format!("'{key}'"));
    match key {
        "type" => mount.kind = kind(given).map_err(named)?,
        "source" => mount.source = Some(Value::read(given).map_err(named)?),
        "target" => mount.target = Some(Value::read(given).and_then(not_root).map_err(named)?),
        "read-only" => mount.read_only = Some(Value::read(given).map_err(named)?),
        "recursive" => mount.recursive = Some(Value::read(given).map_err(named)?),
        "map-ids" => mount.map_ids = Some(Value::read(given).map_err(named)?),
        "setuid" => mount.setuid = Some(Value::read(given).map_err(named)?),
        "options" => mount.options = Some(Value::read(given).map_err(named)?),
        _ => {
            let error = Error::new(format!("unknown key {} in [[mount]]", ticked(key)));
            return Err(match nearest(key, KEYS.into_iter()) {
                Some(near) => error.with_hint(format!("did you mean '{near}'?")),
                None => error.with_hint(format!("known here: {}", KEYS.join(", "))),
            });
        }
    }
    Ok(())
}

fn kind(given: &Given) -> Result<MountWord> {
    match given {
        Given::Text("bind") => Ok(MountWord::Bind),
        Given::Text("tmpfs") => Ok(MountWord::Tmpfs),
        Given::Text("inaccessible") => Ok(MountWord::Inaccessible),
        Given::Text(text) => {
            let error = Error::new(format!("there is no mount type {}", quoted(text)));
            Err(match nearest(text, TYPES.into_iter()) {
                Some(near) => error.with_hint(format!("did you mean \"{near}\"?")),
                None => error.with_hint("write \"bind\", \"tmpfs\" or \"inaccessible\""),
            })
        }
        _ => Err(given.expected("a word")),
    }
}
