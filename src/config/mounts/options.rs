//! Mounts in the syntax of the options of systemd-nspawn(1).

use super::{MountEntry, MountType, not_root};
use crate::config::values::{RawValue, Value, quoted};
use crate::error::{Error, Result};
use std::path::PathBuf;

/// Parses `SOURCE[:TARGET[:OPTION,…]]` of `--bind=` and `--bind-ro=`.
///
/// # Errors
/// The syntax, a path or an option is invalid.
pub(crate) fn bind(text: &str, read_only: bool) -> Result<MountEntry> {
    let parts = fields(text)?;
    let (source, target, options) = match parts.as_slice() {
        [source] => (source, source, ""),
        [source, target] => (source, target, ""),
        [source, target, options] => (source, target, options.as_str()),
        _ => {
            return Err(Error::new(format!("{} has too many fields", quoted(text)))
                .with_hint("write SOURCE[:TARGET[:OPTIONS]]; write '\\:' for a colon in a path"));
        }
    };
    if source.is_empty() || source.starts_with('+') {
        return Err(Error::new("a bind mount requires a path of the host as its source")
            .with_hint("use --tmpfs= for an empty directory"));
    }
    let mut mount = MountEntry {
        kind: MountType::Bind,
        source: Some(PathBuf::read(&RawValue::Text(source))?),
        target: Some(PathBuf::read(&RawValue::Text(target)).and_then(not_root)?),
        read_only: Some(read_only),
        // As in systemd-nspawn(1).
        setuid: Some(true),
        ..MountEntry::default()
    };
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "rbind" => mount.recursive = Some(true),
            "norbind" => mount.recursive = Some(false),
            // The mapping of the root makes id 0 of the host root inside: idmap and rootidmap differ for
            // sources with other owners only.
            "idmap" | "rootidmap" => mount.map_ids = Some(true),
            "noidmap" => mount.map_ids = Some(false),
            other => {
                return Err(Error::new(format!("unknown bind option {}", quoted(other)))
                    .with_hint("use rbind, norbind, idmap, noidmap, rootidmap"));
            }
        }
    }
    Ok(mount)
}

/// Parses `TARGET[:OPTIONS]` of `--tmpfs=`.
///
/// # Errors
/// The path is invalid, or the options contain control characters.
pub(crate) fn tmpfs(text: &str) -> Result<MountEntry> {
    let parts = fields(text)?;
    let (target, options) = match parts.as_slice() {
        [target] => (target, None),
        // Options of tmpfs(5) may contain colons, for example mpol=bind:0.
        [target, options @ ..] => (target, Some(options.join(":")).filter(|options| !options.is_empty())),
        [] => return Err(Error::new("the path is empty")),
    };
    if let Some(options) = &options {
        String::read(&RawValue::Text(options))?;
    }
    let target = PathBuf::read(&RawValue::Text(target)).and_then(not_root)?;
    Ok(MountEntry { kind: MountType::Tmpfs, target: Some(target), options, ..MountEntry::default() })
}

/// Parses `TARGET` of `--inaccessible=`.
///
/// # Errors
/// The path is invalid.
pub(crate) fn inaccessible(text: &str) -> Result<MountEntry> {
    let target = PathBuf::read(&RawValue::Text(text)).and_then(not_root)?;
    Ok(MountEntry { kind: MountType::Inaccessible, target: Some(target), ..MountEntry::default() })
}

/// Splits `text` at colons; `\:` is a colon and `\\` a backslash.
fn fields(text: &str) -> Result<Vec<String>> {
    let mut fields = vec![String::new()];
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        let letter = match letter {
            ':' => {
                fields.push(String::new());
                continue;
            }
            '\\' => {
                letters.next().ok_or_else(|| Error::new(format!("{} ends with a backslash", quoted(text))))?
            }
            other => other,
        };
        if let Some(field) = fields.last_mut() {
            field.push(letter);
        }
    }
    Ok(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binds_are_parsed_in_the_syntax_of_nspawn() {
        let mount = bind("/srv/a\\:b:/data:norbind,idmap", true).unwrap();
        assert_eq!(mount.source, Some("/srv/a:b".into()));
        assert_eq!(mount.target, Some("/data".into()));
        assert_eq!((mount.recursive, mount.map_ids, mount.read_only), (Some(false), Some(true), Some(true)));
        assert_eq!(bind("/srv", false).unwrap().target, Some("/srv".into()));
        for bad in
            ["", "a", ":/x", "+/a", "/a:b", "/a:/b:nonsense", "/a:/b:idmap:x", "/a\\", "/a:/", "/a:/../b"]
        {
            assert!(bind(bad, false).is_err(), "{bad}");
        }
    }

    #[test]
    fn tmpfs_has_its_options() {
        let mount = tmpfs("/scratch:size=10%,mpol=bind:0").unwrap();
        assert_eq!(mount.options.as_deref(), Some("size=10%,mpol=bind:0"));
        assert_eq!(tmpfs("/scratch").unwrap().options, None);
        assert!(tmpfs("").is_err() && tmpfs("x").is_err() && inaccessible("/").is_err());
    }
}
