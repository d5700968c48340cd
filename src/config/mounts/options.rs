//! Mounts in the syntax of the options of systemd-nspawn(1).

use super::layers::{Layers, UpperLayer};
use super::{MountEntry, MountType, not_root, target_of};
use crate::config::values::{RawValue, Value, quoted};
use crate::error::{Context, Error, Result};
use crate::machine::mounts::{BindPath, MountIds};
use std::path::PathBuf;

/// Parses `SOURCE[:TARGET[:OPTION,…]]` of `--bind=` and `--bind-ro=`.
///
/// # Errors
/// The syntax, a path or an option is invalid.
pub(crate) fn bind(text: &str, read_only: bool) -> Result<MountEntry> {
    let parts = fields(text)?;
    let (source, target, options) = match parts.as_slice() {
        [source] => (source, None, String::new()),
        [source, target] => (source, Some(target), String::new()),
        [source, target, options] => (source, Some(target), options.clone()),
        // The users of a map.
        [source, target, options, rest] if options.contains("map=") => {
            (source, Some(target), format!("{options}:{rest}"))
        }
        _ => {
            return Err(Error::new(format!("{} has too many fields", quoted(text)))
                .with_hint("write SOURCE[:TARGET[:OPTIONS]]; write '\\:' for a colon in a path"));
        }
    };
    let source = match source.as_str() {
        "" => BindPath::Temporary,
        path if path.starts_with('+') => BindPath::read(&RawValue::Text(path))?,
        path => BindPath::Host(of_host(path)?),
    };
    let target = match target {
        Some(target) => PathBuf::read(&RawValue::Text(target))?,
        None => target_of(&source).and_then(|target| match text.starts_with(['/', '+', ':']) {
            true => Ok(target),
            // A relative source is not a target.
            false => PathBuf::read(&RawValue::Text(text)),
        })?,
    };
    let mut mount = MountEntry {
        kind: MountType::Bind,
        source: Some(source),
        target: Some(target),
        read_only: Some(read_only),
        // As in systemd-nspawn(1).
        setuid: Some(true),
        ..MountEntry::default()
    };
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "rbind" => mount.recursive = Some(true),
            "norbind" => mount.recursive = Some(false),
            "noidmap" => mount.map_ids = Some(MountIds::Host),
            "idmap" => mount.map_ids = Some(MountIds::Same),
            "rootidmap" => mount.map_ids = Some(MountIds::Root),
            "owneridmap" => mount.map_ids = Some(MountIds::Owner),
            other => match other.strip_prefix("map=") {
                Some(map) => mount.map_ids = Some(MountIds::new(map)?),
                None => {
                    return Err(Error::new(format!("unknown bind option {}", quoted(other)))
                        .with_hint("use rbind, norbind, idmap, noidmap, rootidmap, owneridmap, map=MAP"));
                }
            },
        }
    }
    Ok(mount)
}

/// Parses a path of the host; a relative one is below the working directory.
fn of_host(text: &str) -> Result<PathBuf> {
    if text.starts_with('/') {
        return PathBuf::read(&RawValue::Text(text));
    }
    let found = std::fs::canonicalize(text)
        // The mount reports a missing one; an overlay creates it.
        .or_else(|_| std::path::absolute(text))
        .context(|| format!("cannot find {}", quoted(text)))?;
    let found = found.to_str().ok_or_else(|| Error::new(format!("{} is not UTF-8", found.display())))?;
    PathBuf::read(&RawValue::Text(found))
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
    let target = PathBuf::read(&RawValue::Text(target))?;
    Ok(MountEntry { kind: MountType::Tmpfs, target: Some(target), options, ..MountEntry::default() })
}

/// Parses `LOWER:…:UPPER:TARGET` of `--overlay=`, or `LOWER:…:TARGET` of `--overlay-ro=`. If there are two
/// paths, the last one is a layer and the target.
///
/// # Errors
/// The syntax or a path is invalid.
pub(crate) fn overlay(text: &str, read_only: bool) -> Result<MountEntry> {
    let parts = fields(text)?;
    let (layers, target) = match parts.as_slice() {
        [lower, both] => (vec![lower, both], both),
        [layers @ .., target] if layers.len() > 1 => (layers.iter().collect(), target),
        _ => {
            return Err(Error::new(format!("{} has too few fields", quoted(text)))
                .with_hint("write LOWER:UPPER:TARGET; write '\\:' for a colon in a path"));
        }
    };
    let (upper, lower) = match layers.split_last() {
        Some((upper, lower)) if !read_only => (Some(*upper), lower.to_vec()),
        _ => (None, layers),
    };
    let mut mount = MountEntry {
        kind: MountType::Overlay,
        target: Some(PathBuf::read(&RawValue::Text(target))?),
        read_only: Some(read_only),
        // As in systemd-nspawn(1).
        setuid: Some(true),
        ..MountEntry::default()
    };
    let absolute = |layer: &str| match layer.starts_with(['/', '+']) || layer.is_empty() {
        true => Ok(layer.to_owned()),
        false => of_host(layer).map(|path| path.to_string_lossy().into_owned()),
    };
    let mut layers = Layers::default();
    for layer in lower {
        layers.push(&RawValue::Text(&absolute(layer)?))?;
    }
    mount.lower = Some(layers);
    mount.upper = upper
        .map(|upper| match upper.as_str() {
            "" => Ok(UpperLayer::Temporary),
            path => UpperLayer::read(&RawValue::Text(&absolute(path)?)),
        })
        .transpose()?;
    Ok(mount)
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
        assert_eq!(mount.source, Some(BindPath::Host("/srv/a:b".into())));
        assert_eq!(mount.target, Some("/data".into()));
        assert_eq!(
            (mount.recursive, mount.map_ids, mount.read_only),
            (Some(false), Some(MountIds::Same), Some(true))
        );
        assert_eq!(bind("/srv", false).unwrap().target, Some("/srv".into()));
        for (text, source, target) in [
            ("+/srv", BindPath::Inside("/srv".into()), "/srv"),
            ("+/srv:/data", BindPath::Inside("/srv".into()), "/data"),
            (":/scratch", BindPath::Temporary, "/scratch"),
        ] {
            let mount = bind(text, false).unwrap();
            assert_eq!((mount.source, mount.target), (Some(source), Some(target.into())));
        }
        let below = std::env::current_dir().unwrap().join("src").canonicalize().unwrap();
        assert_eq!(bind("src/../src:/x", false).unwrap().source, Some(BindPath::Host(below)));
        for (option, ids) in [
            ("noidmap", MountIds::Host),
            ("idmap", MountIds::Same),
            ("rootidmap", MountIds::Root),
            ("owneridmap", MountIds::Owner),
            ("map=ids", MountIds::Same),
            ("map=1001:1000", MountIds::User("1001".into(), "1000".into())),
        ] {
            assert_eq!(bind(&format!("/a:/b:{option}"), false).unwrap().map_ids, Some(ids));
        }
        for bad in [
            "",
            "a",
            "src",
            "./src",
            ":",
            "+",
            "+a",
            "/a:b",
            "/a:/b:nonsense",
            "/a:/b:idmap:x",
            "/a\\",
            "/",
            "/a:/../b",
        ] {
            assert!(bind(bad, false).is_err(), "{bad}");
        }
    }

    #[test]
    fn overlays_have_layers_and_a_target() {
        let mount = overlay("/a\\:b:+/etc:/changes:/target", false).unwrap();
        assert_eq!(mount.lower.unwrap().show(), "[\"/a:b\", \"+/etc\"]");
        assert_eq!(mount.upper.unwrap().show(), "\"/changes\"");
        assert_eq!(mount.target, Some("/target".into()));
        let mount = overlay("+/var::/var", false).unwrap();
        assert_eq!(mount.upper, Some(UpperLayer::Temporary));
        let mount = overlay("/a:/b", false).unwrap();
        assert_eq!((mount.lower.unwrap().show(), mount.target), ("[\"/a\"]".into(), Some("/b".into())));
        let mount = overlay("/a:/b:/c", true).unwrap();
        assert_eq!((mount.lower.unwrap().show(), mount.upper), ("[\"/a\", \"/b\"]".into(), None));
        let here = std::env::current_dir().unwrap();
        let mount = overlay("src:new:/target", false).unwrap();
        assert_eq!(mount.lower.unwrap().show(), format!("[\"{}\"]", here.join("src").display()));
        assert_eq!(mount.upper.unwrap().show(), format!("\"{}\"", here.join("new").display()));
        for bad in ["", "/a", "::/c", "/a:+/b", "/a:/b:c", "/a:+:/c", "/a:+/:/c"] {
            assert!(overlay(bad, false).is_err(), "{bad}");
        }
    }

    #[test]
    fn mounts_can_replace_the_root() {
        for mount in [bind("/a:/", false), overlay("/a:/b:/", false), tmpfs("/")] {
            assert_eq!(mount.unwrap().target, Some("/".into()));
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
