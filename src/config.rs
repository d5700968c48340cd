//! What was said of a machine, by files and options, to the machine that is meant. Called by
//! `cli` and `run`. It reads definitions and touches nothing.

mod cdi;
pub mod check;
pub mod drop_in;
pub mod explain;
pub mod files;
pub mod layer;
pub mod mount;
mod nearest;
pub mod problem;
mod resolve;
pub mod snapshot;
pub mod toml;
pub mod values;

pub use layer::{Layer, Origin};
pub use problem::{Problem, Severity};
pub use resolve::{Profile, Resolved};

use crate::error::{Error, Kind, Result};
use crate::machine::name::Name;
use crate::paths::Paths;
use files::Files;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The machine `name` as its unit runs it: by its definition, or with the defaults where there is
/// only its tree in `/var/lib/machines`.
///
/// # Errors
/// There is neither, or all that is wrong in the definition, as one error.
pub fn machine(paths: &Paths, name: &Name) -> Result<Resolved> {
    let files = Files::of(paths, name)?;
    if let Some(link) = files.mask() {
        return Err(Error::new(format!("the machine '{name}' is masked"))
            .with_hint(format!("remove '{}', a link to '/dev/null'", link.display())));
    }
    if files.is_empty() && !paths.images().join(name).is_dir() {
        return Err(Error::new(format!("there is no machine '{name}'")).with_hint(format!(
            "write '{}' or put a tree at '{}'",
            paths.definitions()[0].join(format!("{name}.toml")).display(),
            paths.images().join(name).display()
        )));
    }
    let what = format!("cannot use the definition of '{name}'");
    meant(paths, name, Layer::default(), &files, Profile::Unit, &what)
}

/// The machine that the options `flags` of `coracle run` mean. With a name that has a definition,
/// the definition lies below the options and its defaults hold; otherwise systemd-nspawn(1)'s do.
///
/// # Errors
/// All that is wrong, as one error of kind [`Kind::Launch`].
pub fn run(paths: &Paths, mut flags: Layer) -> Result<Resolved> {
    if flags.name.value().is_none() && flags.directory.value().is_none() {
        let here = std::env::current_dir()
            .map_err(|error| Error::from(error).context("cannot tell the current directory"))?;
        flags.directory.set(here, Origin::Flag("current directory"));
    }
    let (name, files) = match (flags.name.value(), flags.directory.value()) {
        (Some(name), _) => (name.clone(), Files::of(paths, name)?),
        (None, directory) => (name_of(directory.map_or(Path::new("/"), PathBuf::as_path))?, Files::default()),
    };
    let profile = if files.is_empty() { Profile::Nspawn } else { Profile::Foreground };
    let what = format!("cannot run the machine '{name}'");
    meant(paths, &name, flags, &files, profile, &what).map_err(|error| error.with_kind(Kind::Launch))
}

/// The machine that `above` over what `files` say means.
fn meant(
    paths: &Paths,
    name: &Name,
    above: Layer,
    files: &Files,
    profile: Profile,
    what: &str,
) -> Result<Resolved> {
    let (said, mut problems) = files.read();
    match resolve::resolve(paths, name, above.over(said), profile) {
        Ok(resolved) if problems.is_empty() => return Ok(resolved),
        Ok(_) => {}
        Err(broken) => {
            problems.extend(broken.iter().map(|error| Problem::new(files.main.as_deref(), error)));
        }
    }
    Err(problem::together(what, &problems))
}

/// The machines there are: those with a definition and those with a tree in `/var/lib/machines`.
///
/// # Errors
/// A directory that cannot be read.
pub fn names(paths: &Paths) -> Result<BTreeSet<Name>> {
    let (mut names, _) = files::defined(paths)?;
    let trees = std::fs::read_dir(paths.images()).into_iter().flatten().flatten();
    names.extend(
        trees
            .filter(|entry| entry.path().is_dir())
            .filter_map(|entry| Name::new(entry.file_name().to_str()?).ok()),
    );
    Ok(names)
}

/// The name of a machine that has none, by its directory: its last part, without what no name
/// has, as systemd-nspawn(1) makes it.
fn name_of(directory: &Path) -> Result<Name> {
    if directory == Path::new("/") {
        return Err(Error::new("the root directory is '/', the host's own")
            .with_hint("name a directory with a root file system of its own")
            .with_kind(Kind::Launch));
    }
    let last = directory.file_name().unwrap_or_default().to_string_lossy();
    let fit: String =
        last.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')).take(64).collect();
    let labels: Vec<&str> =
        fit.split('.').map(|label| label.trim_matches('-')).filter(|label| !label.is_empty()).collect();
    Name::new(&labels.join(".")).map_err(|_| {
        Error::new(format!("the directory '{}' gives the machine no name", directory.display()))
            .with_hint("name it with --machine=NAME")
            .with_kind(Kind::Launch)
    })
}
