//! Turns files and options into a machine: definitions → layers → machine. Called by `cli` and `run`. It
//! reads definitions and does not change the host.
//!
//! Each feature is one file with its rows of `settings!`, its value types, its defaults and a function
//! `build`. A new setting is one row, one type and one default there.

pub(crate) mod address_families;
pub(crate) mod boot;
pub(crate) mod bound_users;
pub(crate) mod build;
pub mod bundle;
mod cdi;
pub(crate) mod check;
pub(crate) mod command;
pub(crate) mod console;
pub(crate) mod credentials;
pub mod definition_files;
pub(crate) mod dependencies;
pub(crate) mod drop_in;
pub(crate) mod explain;
mod groups;
pub(crate) mod health;
pub(crate) mod identity;
pub mod ini;
pub(crate) mod journal;
pub mod layer;
pub(crate) mod migration;
pub(crate) mod mounts;
pub(crate) mod network;
pub mod nspawn;
mod oci;
pub(crate) mod problem;
mod profile;
pub(crate) mod recipe;
pub(crate) mod registries;
mod resolve;
pub(crate) mod resources;
pub(crate) mod root;
pub(crate) mod security;
mod setting;
mod short_names;
pub(crate) mod snapshot;
mod sources;
mod switches;
pub mod toml;
pub(crate) mod unit;
pub(crate) mod users;
pub(crate) mod values;

pub(crate) use layer::{Layer, Origin};
pub(crate) use problem::{Problem, ProblemSeverity};
pub(crate) use profile::Profile;
pub(crate) use resolve::Resolved;

use crate::error::{Context, Error, ErrorName, Kind, Result};
use crate::image::find;
use crate::machine::contract::Contract;
use crate::machine::name::Name;
use crate::machine::unit_name::ServiceTemplate;
use crate::paths::Paths;
use definition_files::Files;
use groups::Precedence;
use nspawn::SettingsMode;
use sources::Sources;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// Returns the machine `name` as its unit runs it: by its definition, else by its .nspawn file over the
/// defaults.
///
/// # Errors
/// Neither exists, the definition is masked, or all problems of the definition as one error.
pub fn machine(paths: &Paths, name: &Name) -> Result<Resolved> {
    let files = Files::of(paths, name)?;
    if let Some(link) = files.mask() {
        return Err(Error::new(format!("the machine '{name}' is masked"))
            .with_hint(format!("remove '{}', the link to '/dev/null'", link.display())));
    }
    if files.is_empty() && !has_image(paths, name)? {
        return Err(missing(paths, name));
    }
    let context = format!("cannot use the definition of '{name}'");
    let (options, settings, profile) = (Layer::default(), SettingsMode::Override, Profile::Unit);
    resolve(Sources { paths, name, options, files: &files, settings, profile }, name, &context)
}

/// Returns the name of the image in a file. `None` if it is no image.
pub(crate) fn image_name(file: &Path) -> Option<Name> {
    find::name_of(file)
}

/// Returns whether a machine has a definition or an image, or that cannot be determined.
pub(crate) fn exists(paths: &Paths, name: &Name) -> bool {
    Files::of(paths, name).is_ok_and(|files| !files.is_empty()) || has_image(paths, name).unwrap_or(true)
}

/// Returns the error for a machine that does not exist.
pub(crate) fn missing(paths: &Paths, name: &Name) -> Error {
    if let Err(error) = has_image(paths, name) {
        return error;
    }
    let error = Error::new(format!("machine '{name}' does not exist")).named(ErrorName::NoSuchMachine);
    error.with_hint(format!(
        "create '{}' or a root file system in '{}', or list the machines with 'coracle list -a'",
        paths.definitions()[0].join(format!("{name}.toml")).display(),
        paths.images().join(name).display()
    ))
}

/// Returns the settings of a definition with their origins, also if the definition has problems.
///
/// # Errors
/// A directory of files cannot be read, or a .nspawn file cannot be opened.
pub(crate) fn settings(paths: &Paths, name: &Name) -> Result<Layer> {
    let files = Files::of(paths, name)?;
    let (options, settings, profile) = (Layer::default(), SettingsMode::Override, Profile::Unit);
    let merged = Sources { paths, name, options, files: &files, settings, profile }.merge()?;
    Ok(resolve::with_defaults(paths, name, merged.layer, profile))
}

/// Returns the template of a machine's service, as far as its definition can be read.
pub(crate) fn service_template(paths: &Paths, name: &Name) -> ServiceTemplate {
    let (definition, _) = Files::of(paths, name).unwrap_or_default().read();
    ServiceTemplate::of_machinectl(definition.boot.machinectl.value() == Some(&true))
}

/// Returns whether a machine has a tree in `/var/lib/machines`.
fn has_image(paths: &Paths, name: &Name) -> Result<bool> {
    let tree = paths.images().join(name);
    match std::fs::metadata(&tree) {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            let examining = format!("cannot examine '{}'", tree.display());
            Err(Error::from(error).context(examining).with_hint("run it with sudo(8)"))
        }
        _ => Ok(find::by_name(paths, name).is_some()),
    }
}

/// The options of a machine in the foreground.
#[derive(Debug)]
pub struct Options {
    /// Their settings.
    pub layer: Layer,
    /// The use of the .nspawn file.
    pub settings: SettingsMode,
    /// The program that was called.
    pub contract: Contract,
    /// The directory of an OCI bundle, whose settings replace those of files.
    pub bundle: Option<PathBuf>,
}

/// Returns the machine of the options of `coracle run`. The options override their OCI bundle, or the
/// definition of the name, if there is one; otherwise the defaults of systemd-nspawn(1) apply, and the .nspawn file as the options say.
/// For systemd-nspawn(1) there are no definitions.
///
/// # Errors
/// All problems as one error of kind [`Kind::Launch`].
pub fn run(paths: &Paths, options: Options, kept: Option<&Name>) -> Result<Resolved> {
    let Options { layer: mut options, mut settings, contract, bundle } = options;
    let mut ignored = Vec::new();
    if let Some(directory) = &bundle {
        (options, ignored) = with_bundle(options, directory, settings)?;
        settings = SettingsMode::No;
    }
    if options.identity.name.value().is_none() && !options.root.has_source() {
        refuse_reference(&options)?;
        let here = std::env::current_dir()
            .map_err(|error| Error::from(error).context("cannot determine the current directory"))?;
        options.root.directory.set(here, Origin::Flag("current directory"));
    }
    // Before the name of the machine, which is that of the version.
    options.root.use_newest_version().map_err(|error| error.with_kind(Kind::Launch))?;
    let root = || options.root.sources().into_iter().find_map(|source| source.value());
    let (name, is_derived) = match options.identity.name.value() {
        Some(name) => (name.clone(), false),
        None => (name_of(contract, root().map_or(Path::new("/"), PathBuf::as_path))?, true),
    };
    let files = match contract {
        Contract::Coracle if !is_derived && bundle.is_none() => Files::of(paths, &name)?,
        _ => Files::default(),
    };
    let profile = match contract {
        Contract::Nspawn => Profile::Nspawn,
        Contract::Coracle if files.is_empty() => Profile::Options,
        Contract::Coracle => Profile::Foreground,
    };
    let context = format!("cannot run the machine '{name}'");
    let machine = match kept {
        Some(kept) => kept.clone(),
        None if is_derived && profile == Profile::Nspawn && options.root.is_ephemeral() => {
            with_random_suffix(&name)?
        }
        None => name.clone(),
    };
    let sources = Sources { paths, name: &name, options, files: &files, settings, profile };
    let mut resolved = resolve(sources, &machine, &context).map_err(|error| error.with_kind(Kind::Launch))?;
    ignored.append(&mut resolved.ignored);
    Ok(Resolved { ignored, ..resolved })
}

/// Merges the settings of an OCI bundle by groups with the options. Returns them with all warnings.
fn with_bundle(
    mut options: Layer,
    directory: &Path,
    settings: SettingsMode,
) -> Result<(Layer, Vec<Problem>)> {
    let (mut bundle, problems) = bundle::load(directory);
    let (ignored, errors): (Vec<Problem>, _) =
        problems.into_iter().partition(|problem| problem.severity == ProblemSeverity::Warning);
    if !errors.is_empty() {
        let context = format!("cannot use the OCI bundle '{}'", directory.display());
        return Err(problem::combined(&context, &errors).with_kind(Kind::Launch));
    }
    let precedence = if settings == SettingsMode::Override { Precedence::File } else { Precedence::Options };
    groups::separate(&mut options, &mut bundle, precedence, true);
    let merged = match precedence {
        Precedence::Options => options.over(bundle),
        Precedence::File => bundle.over(options),
    };
    Ok((merged, ignored))
}

/// Returns the name of one of several machines that discard the changes of one root: with 16 random
/// hexadecimal digits, as in systemd-nspawn(1), `--machine=`.
fn with_random_suffix(name: &Name) -> Result<Name> {
    let mut random = [0; 8];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())
        .context(|| "cannot get random numbers")?;
    let end = format!("-{:016x}", u64::from_ne_bytes(random));
    let room = 64 - end.len();
    let begin = name.as_str().get(..room).unwrap_or(name.as_str()).trim_end_matches(['-', '.']);
    Name::new(&format!("{begin}{end}"))
}

/// Merges and resolves the sources of the machine `name`; `context` is that of an error.
fn resolve(sources: Sources<'_>, name: &Name, context: &str) -> Result<Resolved> {
    let (paths, profile) = (sources.paths, sources.profile);
    let merged = sources.merge().map_err(|error| error.context(context))?;
    let mut problems = merged.errors;
    match resolve::resolve(paths, name, merged.layer, profile) {
        Ok(resolved) if problems.is_empty() => return Ok(Resolved { ignored: merged.ignored, ..resolved }),
        Ok(_) => {}
        Err(errors) => {
            problems.extend(errors.iter().map(|error| Problem::new(merged.main.as_deref(), error)));
        }
    }
    Err(problem::combined(context, &problems))
}

/// Refuses the name of an OCI image in the place of a command: without a directory, the root would be the
/// current directory.
fn refuse_reference(options: &Layer) -> Result<()> {
    let Some(word) = options.command.first_word() else { return Ok(()) };
    let Some((registry, rest)) = word.split_once('/') else { return Ok(()) };
    let is_host = registry.contains('.') && !registry.starts_with('.') || registry.contains(':');
    if !is_host || rest.is_empty() {
        return Ok(());
    }
    Err(Error::new(format!("'{word}' is an image of a registry: coracle runs root directories"))
        .with_hint(format!("pull it with 'coracle pull {word} NAME', then start NAME, or run it with -D"))
        .with_kind(Kind::Launch))
}

/// Returns the names of all machines with a definition or an image.
///
/// # Errors
/// A directory of definitions cannot be read.
pub fn names(paths: &Paths) -> Result<BTreeSet<Name>> {
    let (mut names, _) = definition_files::defined(paths)?;
    names.extend(find::names(paths));
    Ok(names)
}

/// Returns the default name of a machine, from its directory: the last component without characters that
/// names cannot contain, as in systemd-nspawn(1).
fn name_of(contract: Contract, directory: &Path) -> Result<Name> {
    let is_root = directory == Path::new("/");
    if is_root && contract == Contract::Coracle {
        return Err(Error::new("the root directory is '/', the root of the host")
            .with_hint("choose a directory with another root file system")
            .with_kind(Kind::Launch));
    }
    let host = is_root.then(|| rustix::system::uname().nodename().to_string_lossy().into_owned());
    let host = host.map(OsString::from);
    let last = host.as_deref().or(directory.file_name()).unwrap_or_default().to_string_lossy();
    let last = [".mstack", ".raw"].iter().find_map(|suffix| last.strip_suffix(suffix)).unwrap_or(&last);
    // Host names do not have them.
    let has_underscores = contract == Contract::Coracle;
    let fit: String = last
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.') || *c == '_' && has_underscores)
        .take(64)
        .collect();
    let labels: Vec<&str> =
        fit.split('.').map(|label| label.trim_matches('-')).filter(|label| !label.is_empty()).collect();
    Name::new(&labels.join(".")).map_err(|_| {
        Error::new(format!("cannot derive a machine name from the directory '{}'", directory.display()))
            .with_hint("set the name with --machine=NAME")
            .with_kind(Kind::Launch)
    })
}
