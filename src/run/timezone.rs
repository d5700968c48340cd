//! The change of the guest's time zone, by the time zone of the host. Called by `facts`. It changes nothing.

use crate::machine::Machine;
use crate::machine::identity::Timezone;
use crate::paths::Paths;
use crate::plan::step::TimezoneAction;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Returns the change of the guest's localtime(5). `None` if it stays: by the definition, or with a warning
/// if the host has no time zone to pass on.
pub(super) fn find(paths: &Paths, machine: &Machine) -> Option<TimezoneAction> {
    let wanted = machine.identity.timezone;
    if wanted == Timezone::Off {
        return None;
    }
    let file = paths.join("/etc/localtime");
    let link = std::fs::read_link(&file);
    let is_writable = machine.root.has_writable_etc();
    let action = match (wanted, &link) {
        (Timezone::Auto, Ok(_)) if is_writable => symlink(&file, &link),
        (Timezone::Auto, Err(error)) if error.kind() == ErrorKind::NotFound => {
            return is_writable.then_some(TimezoneAction::Delete);
        }
        (Timezone::Auto, Err(_)) if is_writable => copy(&file),
        (Timezone::Delete, _) => Ok(TimezoneAction::Delete),
        (Timezone::Symlink, _) => symlink(&file, &link),
        (Timezone::Copy, _) => copy(&file),
        _ => std::fs::metadata(&file).map(|_| TimezoneAction::Bind(file.clone())).map_err(|e| e.to_string()),
    };
    action
        .map_err(|error| {
            log::warn!("cannot use '{}': {error}: the guest keeps its time zone", file.display());
        })
        .ok()
}

fn copy(file: &Path) -> Result<TimezoneAction, String> {
    std::fs::read(file).map(TimezoneAction::Copy).map_err(|error| error.to_string())
}

fn symlink(file: &Path, link: &std::io::Result<PathBuf>) -> Result<TimezoneAction, String> {
    let link = link.as_ref().map_err(ToString::to_string)?;
    let zone = link.to_str().and_then(TimezoneAction::zone);
    let zone = zone.ok_or_else(|| format!("it links to '{}', not to a time zone", link.display()))?;
    Ok(TimezoneAction::Link { zone: zone.to_owned(), file: file.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_of_the_host_names_a_zone() {
        for (link, zone) in [
            ("/usr/share/zoneinfo/Europe/Lisbon", Some("Europe/Lisbon")),
            ("../usr/share/zoneinfo/UTC", Some("UTC")),
            ("../usr/share/zoneinfo/../../etc/shadow", None),
            ("/usr/share/zoneinfo/", None),
            ("/etc/zone", None),
        ] {
            let action = symlink(Path::new("/etc/localtime"), &Ok(link.into())).ok();
            let found = action.map(|action| match action {
                TimezoneAction::Link { zone, .. } => zone,
                other => panic!("{other:?}"),
            });
            assert_eq!(found.as_deref(), zone, "{link}");
        }
    }
}
