//! The mounts of a session: bind mounts, directories for results and for packages.

use crate::config::build::BuildBind;
use crate::config::build::settings::{CacheDirectory, ResultsDirectory, fields, inside};
use crate::control::build::caller::Caller;
use crate::error::{Context, Error, Result};
use crate::machine::build_cache::PackageCache;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Parses the value of an option.
pub(super) fn read<T>(flag: &str, text: &str, parse: impl FnOnce(&str) -> Result<T>) -> Result<T> {
    parse(text).map_err(|error| {
        let usage = Error::usage(format!("'{flag}{text}': {error}"));
        match error.hint() {
            Some(hint) => usage.with_hint(hint),
            None => usage,
        }
    })
}

/// Parses `SRC[:DST[:ro]]`. A relative source is below the working directory.
pub(super) fn bind(text: &str) -> Result<BuildBind> {
    let parts = fields(text);
    let (source, target, read_only) = match parts.as_slice() {
        [source] => (source, source, false),
        [source, target] => (source, target, false),
        [source, target, option] if option == "ro" => (source, target, true),
        _ => {
            return Err(Error::usage(format!("'--bind={text}' is not a mount"))
                .with_hint("write SRC, SRC:DST or SRC:DST:ro; write '\\:' for a colon in a path"));
        }
    };
    let source = existing(source)?;
    let target = if parts.len() == 1 { source.clone() } else { read("--bind=", text, |_| inside(target))? };
    Ok(BuildBind { source, target, read_only })
}

/// Binds a directory for results. A missing one is created, and belongs to the caller.
pub(super) fn result(wanted: &ResultsDirectory, caller: &Caller) -> Result<BuildBind> {
    let source = text(&wanted.directory)?;
    let doing = || format!("cannot create the directory of results '{source}'");
    match std::fs::create_dir(&source) {
        Ok(()) => {
            let (uid, gid) = caller.ids;
            std::os::unix::fs::lchown(&source, Some(uid), Some(gid)).context(doing)?;
        }
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error).context(doing),
    }
    let source = existing(&source)?;
    if !source.is_dir() {
        return Err(Error::new(format!("'{}' is not a directory", source.display()))
            .with_hint("name a directory for results"));
    }
    Ok(BuildBind { source, target: wanted.target.clone(), read_only: false })
}

/// Creates the directory of a cache, if it is missing.
pub(super) fn cache(wanted: &CacheDirectory) -> Result<PackageCache> {
    let manager = wanted.manager;
    let directory = match &wanted.directory {
        Some(directory) => text(directory)?,
        None => format!("/var/cache/coracle/{}", manager.name()),
    };
    let mut builder = std::fs::DirBuilder::new();
    builder
        .mode(0o755)
        .recursive(true)
        .create(&directory)
        .context(|| format!("cannot create '{directory}'"))?;
    Ok(PackageCache { manager, directory: existing(&directory)? })
}

fn existing(path: &str) -> Result<PathBuf> {
    Path::new(path).canonicalize().context(|| format!("cannot find '{path}'"))
}

pub(super) fn text(path: &Path) -> Result<String> {
    let text = path.to_str().ok_or_else(|| Error::new(format!("'{}' is not UTF-8", path.display())));
    text.map(str::to_owned)
}

/// Refuses two mounts on one path.
pub(super) fn refuse_doubles(binds: &[BuildBind]) -> Result<()> {
    for (at, bind) in binds.iter().enumerate() {
        if let Some(other) = binds.iter().take(at).find(|other| other.target == bind.target) {
            let (one, two) = (other.source.display(), bind.source.display());
            return Err(Error::usage(format!(
                "both '{one}' and '{two}' are bound to '{}'",
                bind.target.display()
            ))
            .with_hint("choose another path inside for one of them"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_have_a_source_that_exists() {
        let here = tempfile::tempdir().unwrap();
        let path = here.path().to_str().unwrap();
        let bound = bind(&format!("{path}:/data:ro")).unwrap();
        assert!(bound.read_only && bound.target == Path::new("/data"));
        assert_eq!(bind(path).unwrap().target, here.path());
        for bad in [format!("{path}:data"), format!("{path}:/"), format!("{path}:/a:rw"), format!("{path}/x")]
        {
            assert!(bind(&bad).is_err(), "{bad}");
        }
        let odd = here.path().join("a:b");
        std::fs::create_dir(&odd).unwrap();
        assert_eq!(bind(&format!("{path}/a\\:b:/x")).unwrap().source, odd);
        assert!(refuse_doubles(&[bound.clone(), bound]).is_err());
    }

    #[test]
    fn a_missing_directory_of_results_is_created() {
        let here = tempfile::tempdir().unwrap();
        let out = here.path().join("out");
        let caller = Caller { name: "x".into(), ids: (rustix::process::geteuid().as_raw(), 0) };
        let wanted = |path: &str| ResultsDirectory::parse(path).unwrap();
        let bound = result(&wanted(out.to_str().unwrap()), &caller).unwrap();
        assert!(out.is_dir() && bound.target == Path::new("/results"));
        assert!(result(&wanted("/nowhere/out"), &caller).is_err());
    }
}
