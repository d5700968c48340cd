//! All problems of many definitions, for `coracle check`. Called by `cli`; it stops at nothing.

use super::files::{self, Files};
use super::layer::Layer;
use super::problem::Problem;
use super::resolve::{Profile, Resolved, resolve};
use crate::error::{Error, Result};
use crate::machine::name::Name;
use crate::paths::Paths;
use crate::paths::access::refuse_open;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// What was checked and found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Checked {
    /// How many files were read.
    pub files: usize,
    /// What is wrong, file by file.
    pub problems: Vec<Problem>,
}

/// Checks every definition of the host.
///
/// # Errors
/// A directory of definitions that cannot be read.
pub fn all(paths: &Paths) -> Result<Checked> {
    let (names, problems) = files::defined(paths)?;
    let mut checked = Checked { files: problems.len(), problems };
    let mut machines: Vec<(PathBuf, Resolved)> = Vec::new();
    for name in names {
        let files = Files::of(paths, &name)?;
        checked.files += files.all().count();
        if files.mask().is_some() {
            continue;
        }
        let (said, problems) = files.read();
        let readable = problems.is_empty();
        checked.problems.extend(problems);
        let resolved = meant(&mut checked, paths, &name, files.main.as_deref(), said);
        if let (Some(resolved), Some(file), true) = (resolved, files.main, readable) {
            machines.push((file, resolved));
        }
    }
    shared_roots(&mut checked, &machines);
    Ok(checked)
}

/// Checks the files named, each by itself: a definition as a machine of its name, a drop-in as
/// what it adds.
pub fn files(paths: &Paths, named: &[PathBuf]) -> Checked {
    let mut checked = Checked::default();
    for file in named {
        checked.files += 1;
        let (said, problems) = files::read(file);
        let readable = problems.is_empty();
        checked.problems.extend(problems);
        if !readable || is_drop_in(file) {
            continue;
        }
        let stem = file.file_stem().unwrap_or_default().to_string_lossy();
        match Name::new(&stem) {
            Ok(name) => drop(meant(&mut checked, paths, &name, Some(file), said)),
            Err(error) => checked.problems.push(Problem::new(Some(file), &error)),
        }
    }
    checked
}

/// A drop-in lies in a directory `NAME.toml.d`.
fn is_drop_in(file: &Path) -> bool {
    let parent = file.parent().and_then(Path::file_name).and_then(OsStr::to_str).unwrap_or_default();
    parent.ends_with(".toml.d")
}

/// The machine that was said, after noting the rules it breaks and what to beware of.
fn meant(
    checked: &mut Checked,
    paths: &Paths,
    name: &Name,
    file: Option<&Path>,
    said: Layer,
) -> Option<Resolved> {
    if !name.is_registrable() {
        let error = Error::new(format!("machined does not register machine '{name}': its name contains '_'"))
            .with_hint("replace '_' with '-', or do without machinectl and 'systemctl -M' for this machine");
        checked.problems.push(Problem::new(file, &error).as_warning());
    }
    match resolve(paths, name, said, Profile::Unit) {
        Ok(resolved) => {
            checked.problems.extend(resolved.warnings.iter().cloned());
            let open = resolved.machine.owned_trees().into_iter().map(refuse_open).filter_map(Result::err);
            checked.problems.extend(open.map(|error| Problem::new(file, &error).as_warning()));
            Some(resolved)
        }
        Err(broken) => {
            checked.problems.extend(broken.iter().map(|error| Problem::new(file, error)));
            None
        }
    }
}

/// Notes machines that cannot run at the same time, since they have one root.
fn shared_roots(checked: &mut Checked, machines: &[(PathBuf, Resolved)]) {
    for (at, (file, resolved)) in machines.iter().enumerate() {
        let root = &resolved.machine.root.directory;
        if let Some((other, _)) =
            machines[..at].iter().find(|(_, other)| other.machine.root.directory == *root)
        {
            let error = Error::new(format!("the root directory is that of '{}' too", other.display()))
                .with_hint("two machines cannot run on one tree at the same time");
            checked.problems.push(Problem::new(Some(file), &error).as_warning());
        }
    }
}
