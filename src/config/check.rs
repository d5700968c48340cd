//! Collects all problems of all definitions, for `coracle check`. Called by `cli`.

use super::build;
use super::build::definition::{self, Definition};
use super::definition_files::{self, Files};
use super::layer::Layer;
use super::nspawn::{self, SettingsMode};
use super::problem::{Problem, ProblemSeverity};
use super::profile::Profile;
use super::resolve::{Resolved, resolve};
use super::sources::Sources;
use super::toml;
use crate::error::{Error, Result};
use crate::image::find;
use crate::machine::name::Name;
use crate::machine::root::{Root, RootSource};
use crate::paths::access::refuse_open;
use crate::paths::{BUILD_DEFINITIONS, Paths};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// The result of a check.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Checked {
    /// The number of files read.
    pub(crate) files: usize,
    /// The problems, file by file.
    pub(crate) problems: Vec<Problem>,
    /// The machines of the definitions without errors, with their file if there is one.
    pub(crate) machines: Vec<(Option<PathBuf>, Resolved)>,
}

/// Checks every definition and every .nspawn file of the host.
///
/// # Errors
/// A directory of files cannot be read, or a .nspawn file cannot be opened.
pub(crate) fn all(paths: &Paths) -> Result<Checked> {
    let (mut names, mut problems) = definition_files::defined(paths)?;
    let (of_nspawn, more) = nspawn::names(paths)?;
    names.extend(of_nspawn);
    problems.extend(more);
    let mut checked = Checked { files: problems.len(), problems, machines: Vec::new() };
    for name in names {
        machine(&mut checked, paths, &name)?;
    }
    let shared = shared_roots(&checked.machines);
    checked.problems.extend(shared);
    let (names, problems) = definition::names(paths)?;
    checked.files += problems.len();
    checked.problems.extend(problems);
    for name in names {
        base(&mut checked, paths, &name)?;
    }
    Ok(checked)
}

/// Checks all files of a definition of build sessions.
fn base(checked: &mut Checked, paths: &Paths, name: &Name) -> Result<()> {
    let files = definition::files(paths, name)?;
    checked.files += files.all().count();
    if files.mask().is_some() {
        return Ok(());
    }
    let (layer, problems) = files.read();
    let is_readable = problems.is_empty();
    checked.problems.extend(problems);
    let resolved = session(checked, paths, name, files.main.as_deref(), layer);
    checked.machines.extend(resolved.filter(|_| is_readable).map(|resolved| (files.main, resolved)));
    Ok(())
}

/// Resolves the settings of a definition of build sessions; adds broken rules and warnings to `checked`.
fn session(
    checked: &mut Checked,
    paths: &Paths,
    name: &Name,
    file: Option<&Path>,
    layer: Layer,
) -> Option<Resolved> {
    match build::check(paths, &Definition::new(name.clone(), layer)) {
        Ok(resolved) => {
            checked.problems.extend(resolved.warnings.iter().cloned());
            Some(resolved)
        }
        Err(errors) => {
            checked.problems.extend(errors.iter().map(|error| Problem::new(file, error)));
            None
        }
    }
}

/// Checks all files of one machine.
fn machine(checked: &mut Checked, paths: &Paths, name: &Name) -> Result<()> {
    machine_of(checked, paths, name, &Files::of(paths, name)?)
}

/// Checks these files of one machine.
fn machine_of(checked: &mut Checked, paths: &Paths, name: &Name, files: &Files) -> Result<()> {
    if files.mask().is_some() {
        checked.files += files.all().count();
        return Ok(());
    }
    let (options, settings, profile) = (Layer::default(), SettingsMode::Override, Profile::Unit);
    let sources = Sources { paths, name, options, files, settings, profile };
    let merged = sources.merge()?;
    let readable = merged.errors.is_empty();
    checked.files += merged.files;
    let mut problems = [merged.errors, merged.ignored].concat();
    problems.sort_by(|one, other| (&one.file, one.line).cmp(&(&other.file, other.line)));
    checked.problems.extend(problems);
    let resolved = resolved(checked, paths, name, merged.main.as_deref(), merged.layer);
    if let (Some(resolved), true) = (resolved, readable) {
        checked.machines.push((merged.main, resolved));
    }
    Ok(())
}

/// Returns the machine that a word names: one without a directory and without the suffix of a definition.
fn machine_named(word: &Path) -> Option<Name> {
    let is_file = word.components().count() > 1
        || word.is_absolute()
        || word.extension().is_some_and(|suffix| suffix == "toml" || suffix == "nspawn");
    if is_file { None } else { Name::new(word.to_str()?).ok() }
}

/// Checks the named machines with all their files, and the named files separately: a definition or .nspawn
/// file as the machine of its name, a drop-in for its syntax and values only.
///
/// # Errors
/// A machine does not exist, or its files cannot be found.
pub(crate) fn files(paths: &Paths, named: &[PathBuf]) -> Result<Checked> {
    let mut checked = Checked::default();
    for file in named {
        if let Some(name) = machine_named(file) {
            let is_base = !definition::files(paths, &name)?.is_empty();
            if !is_base && !super::exists(paths, &name) {
                return Err(super::missing(paths, &name));
            }
            if is_base {
                base(&mut checked, paths, &name)?;
            }
            if super::exists(paths, &name) {
                machine(&mut checked, paths, &name)?;
            }
            continue;
        }
        checked.files += 1;
        let (layer, problems) = if file.extension().is_some_and(|suffix| suffix == "nspawn") {
            read_nspawn(paths, file)
        } else {
            definition_files::read(file)
        };
        separate(&mut checked, paths, file, (layer, problems));
    }
    Ok(checked)
}

/// Checks a text as the definition of a machine, without its other files.
pub(crate) fn text(paths: &Paths, name: &Name, text: &str) -> Checked {
    let mut checked = Checked { files: 1, ..Checked::default() };
    let file = paths.definitions()[0].join(format!("{name}.toml"));
    let read = toml::read(&file, text);
    separate(&mut checked, paths, &file, read);
    checked
}

/// Checks all files of a machine as they are once its definition has this text.
///
/// # Errors
/// Its files cannot be found.
pub(crate) fn replaced(paths: &Paths, name: &Name, text: &str) -> Result<Checked> {
    let mut checked = Checked::default();
    machine_of(&mut checked, paths, name, &Files::with_text(paths, name, text)?)?;
    Ok(checked)
}

/// Checks a file that was read, separately.
fn separate(checked: &mut Checked, paths: &Paths, file: &Path, (layer, problems): (Layer, Vec<Problem>)) {
    let readable = problems.iter().all(|problem| problem.severity == ProblemSeverity::Warning);
    checked.problems.extend(problems);
    if !readable || is_drop_in(file) {
        return;
    }
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    match Name::new(&stem) {
        Ok(name) => {
            let resolve = if is_of_build(file) { session } else { resolved };
            let resolved = resolve(checked, paths, &name, Some(file), layer);
            checked.machines.extend(resolved.map(|resolved| (Some(file.to_owned()), resolved)));
        }
        Err(error) => checked.problems.push(Problem::new(Some(file), &error)),
    }
}

/// Reads a .nspawn file for a unit.
fn read_nspawn(paths: &Paths, file: &Path) -> (Layer, Vec<Problem>) {
    match nspawn::named(paths, file) {
        Ok(open) => {
            let (mut layer, problems) = nspawn::read(open);
            nspawn::boot_by_default(&mut layer);
            (layer, problems)
        }
        Err(error) => (Layer::default(), vec![Problem::new(Some(file), &error)]),
    }
}

/// Returns whether a file is a definition of build sessions: one in a directory `build.d`.
fn is_of_build(file: &Path) -> bool {
    file.parent().and_then(Path::file_name).is_some_and(|name| name == BUILD_DEFINITIONS)
}

/// Returns whether a file is a drop-in: in a directory `NAME.toml.d`.
fn is_drop_in(file: &Path) -> bool {
    let parent = file.parent().and_then(Path::file_name).and_then(OsStr::to_str).unwrap_or_default();
    parent.ends_with(".toml.d")
}

/// Resolves a layer; adds broken rules and warnings to `checked`.
fn resolved(
    checked: &mut Checked,
    paths: &Paths,
    name: &Name,
    file: Option<&Path>,
    layer: Layer,
) -> Option<Resolved> {
    if !name.is_registrable() {
        let error =
            Error::new(format!("machined cannot register the machine '{name}': the name contains '_'"))
                .with_hint("replace '_' with '-' to use machinectl and 'systemctl -M' with this machine");
        checked.problems.push(Problem::new(file, &error).into_warning());
    }
    match resolve(paths, name, layer, Profile::Unit) {
        Ok(resolved) => {
            checked.problems.extend(resolved.warnings.iter().cloned());
            let open_secrets = resolved.refuse_open_secrets().err();
            checked.problems.extend(open_secrets.map(|error| Problem::new(file, &error)));
            checked.problems.extend(
                hidden_images(paths, name, &resolved).map(|error| Problem::new(file, &error).into_warning()),
            );
            checked.problems.extend(
                hidden_from_machinectl(paths, name, &resolved)
                    .map(|error| Problem::new(file, &error).into_warning()),
            );
            let open = resolved.machine.owned_trees().into_iter().map(refuse_open).filter_map(Result::err);
            checked.problems.extend(open.map(|error| Problem::new(file, &error).into_warning()));
            Some(resolved)
        }
        Err(errors) => {
            checked.problems.extend(errors.iter().map(|error| Problem::new(file, error)));
            None
        }
    }
}

/// Returns the warning for a machine whose root is not the image of its name: machinectl(1) looks for the
/// image.
fn hidden_from_machinectl(paths: &Paths, name: &Name, resolved: &Resolved) -> Option<Error> {
    let root = resolved.machine.root.path();
    let mut images = paths.image_directories().into_iter().map(|directory| directory.join(name));
    let is_image = |root: &Path, image: &Path| {
        root == image || ["mstack", "raw"].iter().any(|suffix| root == image.with_added_extension(suffix))
    };
    let is_hidden = resolved.machine.boot.machinectl && images.all(|image| !is_image(root, &image));
    is_hidden.then(|| {
        let message = format!("machinectl does not find the machine: '{}' is not the image '{name}'", root.display());
        Error::new(message).with_hint(format!(
            "start it with 'coracle start {name}' or 'systemctl start systemd-nspawn@{name}', or move it to '{}'",
            paths.images().join(name).display()
        ))
    })
}

/// Returns a warning for each image of a name that an earlier one hides.
fn hidden_images(paths: &Paths, name: &Name, resolved: &Resolved) -> impl Iterator<Item = Error> {
    let used = resolved.machine.root.path().to_owned();
    let mut images: Vec<RootSource> = find::all_of(paths, name).collect();
    if images.first().is_none_or(|first| first.path() != used) {
        images.clear();
    }
    images.into_iter().skip(1).map(move |image| {
        let (hidden, used) = (image.path().display(), used.display());
        Error::new(format!("the image '{hidden}' is not used: '{used}' has the same name"))
            .with_hint("remove or rename one of them, or set the root in the definition")
    })
}

/// Returns warnings for defined machines with the same root, which cannot run at the same time.
fn shared_roots(machines: &[(Option<PathBuf>, Resolved)]) -> Vec<Problem> {
    let defined = machines.iter().filter_map(|(file, resolved)| Some((file.as_ref()?, resolved)));
    let machines: Vec<(&PathBuf, &Resolved)> = defined.collect();
    let mut problems = Vec::new();
    for (at, (file, resolved)) in machines.iter().enumerate() {
        let root = &resolved.machine.root;
        let excludes = |other: &Root| other.path() == root.path() && !(other.is_shared() && root.is_shared());
        if let Some((other, _)) = machines[..at].iter().find(|(_, other)| excludes(&other.machine.root)) {
            let error = Error::new(format!("'{}' has the same root", other.display()))
                .with_hint("run at most one of the machines at a time, or set another root");
            problems.push(Problem::new(Some(file), &error).into_warning());
        }
    }
    problems
}
