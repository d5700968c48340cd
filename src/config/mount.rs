//! Mounts as options of systemd-nspawn(1) write them, and the rules all mounts share.

use super::layer::{Mount, MountWord};
use super::values::{Given, Value, quoted};
use crate::error::{Error, Result};
use std::path::{Path, PathBuf};

/// `target`, unless it is the root directory.
///
/// # Errors
/// It is: nothing of the machine would be seen.
pub fn not_root(target: PathBuf) -> Result<PathBuf> {
    if target == Path::new("/") {
        return Err(Error::new("'/' is the machine's root itself").with_hint("name a directory below it"));
    }
    Ok(target)
}

/// `SOURCE[:TARGET[:OPTION,…]]` of `--bind=` and `--bind-ro=`.
///
/// # Errors
/// What is wrong with it.
pub fn bind(text: &str, read_only: bool) -> Result<Mount> {
    let parts = fields(text)?;
    let (source, target, options) = match parts.as_slice() {
        [source] => (source, source, ""),
        [source, target] => (source, target, ""),
        [source, target, options] => (source, target, options.as_str()),
        _ => {
            return Err(Error::new(format!("{} has too many fields", quoted(text)))
                .with_hint("write SOURCE[:TARGET[:OPTIONS]]; '\\:' is a colon of a path"));
        }
    };
    if source.is_empty() || source.starts_with('+') {
        return Err(Error::new("a bind needs a path of the host as its source")
            .with_hint("for an empty directory use --tmpfs="));
    }
    let mut mount = Mount {
        kind: MountWord::Bind,
        source: Some(PathBuf::read(&Given::Text(source))?),
        target: Some(PathBuf::read(&Given::Text(target)).and_then(not_root)?),
        read_only: Some(read_only),
        // As systemd-nspawn(1) binds.
        setuid: Some(true),
        ..Mount::default()
    };
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "rbind" => mount.recursive = Some(true),
            "norbind" => mount.recursive = Some(false),
            // The root's mapping has the host's id 0 as root inside: idmap and rootidmap differ
            // for sources of other owners only.
            "idmap" | "rootidmap" => mount.map_ids = Some(true),
            "noidmap" => mount.map_ids = Some(false),
            other => {
                return Err(Error::new(format!("there is no bind option {}", quoted(other)))
                    .with_hint("there are rbind, norbind, idmap, noidmap, rootidmap"));
            }
        }
    }
    Ok(mount)
}

/// `TARGET[:OPTIONS]` of `--tmpfs=`.
///
/// # Errors
/// What is wrong with it.
pub fn tmpfs(text: &str) -> Result<Mount> {
    let parts = fields(text)?;
    let (target, options) = match parts.as_slice() {
        [target] => (target, None),
        // tmpfs(5) options may have colons of their own, as in mpol=bind:0.
        [target, options @ ..] => (target, Some(options.join(":")).filter(|options| !options.is_empty())),
        [] => return Err(Error::new("the path is empty")),
    };
    if let Some(options) = &options {
        String::read(&Given::Text(options))?;
    }
    let target = PathBuf::read(&Given::Text(target)).and_then(not_root)?;
    Ok(Mount { kind: MountWord::Tmpfs, target: Some(target), options, ..Mount::default() })
}

/// `TARGET` of `--inaccessible=`.
///
/// # Errors
/// What is wrong with it.
pub fn inaccessible(text: &str) -> Result<Mount> {
    let target = PathBuf::read(&Given::Text(text)).and_then(not_root)?;
    Ok(Mount { kind: MountWord::Inaccessible, target: Some(target), ..Mount::default() })
}

/// The fields between colons; `\:` is a colon and `\\` a backslash.
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
                letters.next().ok_or_else(|| Error::new(format!("{} ends in a backslash", quoted(text))))?
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
    fn binds_are_read_as_nspawn_writes_them() {
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
    fn tmpfs_keeps_its_options() {
        let mount = tmpfs("/scratch:size=10%,mpol=bind:0").unwrap();
        assert_eq!(mount.options.as_deref(), Some("size=10%,mpol=bind:0"));
        assert_eq!(tmpfs("/scratch").unwrap().options, None);
        assert!(tmpfs("").is_err() && tmpfs("x").is_err() && inaccessible("/").is_err());
    }
}
