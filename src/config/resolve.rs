//! Resolves layers to a machine: sets the defaults, then builds each part. Called by `config` and `check`; of
//! the host it reads only the CDI files that describe devices.

use super::explain;
use super::layer::{Layer, Setting, settings};
use super::problem::Problem;
use super::profile::Profile;
use super::setting::Origin;
use crate::error::{Error, Result};
use crate::machine::name::Name;
use crate::machine::{Machine, Parts};
use crate::paths::Paths;

/// A machine with its settings and warnings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The machine, on the heap: the result is moved often.
    pub machine: Box<Machine>,
    /// Settings that are probably mistakes.
    pub(crate) warnings: Vec<Problem>,
    /// Settings of the .nspawn file that are ignored, or the whole file.
    pub(crate) ignored: Vec<Problem>,
    /// Each setting with its origin, including the defaults.
    pub(crate) settings: Layer,
}

impl Resolved {
    /// Refuses contents of credentials in a file that other users of the host can read.
    ///
    /// # Errors
    /// The file, with its mode as the hint.
    pub(crate) fn refuse_open_secrets(&self) -> Result<()> {
        self.settings.credentials.refuse_open_files()
    }

    /// Returns whether a definition names the root: by default it is the image of the machine's name.
    pub(crate) fn names_root(&self) -> bool {
        self.settings.root.sources().into_iter().any(|source| source.origin() != Origin::Default)
    }
}

/// Resolves the settings of the machine `name`.
///
/// # Errors
/// All broken rules.
pub(super) fn resolve(
    paths: &Paths,
    name: &Name,
    layer: Layer,
    profile: Profile,
) -> std::result::Result<Resolved, Vec<Error>> {
    let misplaced = refuse_build(&layer);
    if !misplaced.is_empty() {
        return Err(misplaced.into_iter().map(|error| with_origins(error, &layer)).collect());
    }
    let mut settings = with_defaults(paths, name, layer, profile);
    super::cdi::expand(paths, &mut settings)?;
    let parts = build(paths, name, &settings, profile).map_err(|error| vec![error])?;
    let warnings = warnings(&settings);
    match Machine::new(parts) {
        Ok(machine) => Ok(Resolved { machine: Box::new(machine), warnings, ignored: Vec::new(), settings }),
        Err(errors) => Err(errors.into_iter().map(|error| with_origins(error, &settings)).collect()),
    }
}

/// Returns an error for each setting of `[build]`: a machine has none of them.
fn refuse_build(layer: &Layer) -> Vec<Error> {
    let set = settings().filter(|setting| setting.is_of_build() && layer.is_set(setting));
    let error = |setting: &Setting| {
        Error::new(format!("{} is a setting of build sessions", setting.key))
            .with_hint("move the definition to '/etc/coracle/build.d', or remove the setting")
    };
    set.map(error).collect()
}

/// Adds the file and line of each setting that a broken rule names.
fn with_origins(error: Error, settings: &Layer) -> Error {
    let message = error.to_string();
    let is_part = |letter: char| letter.is_ascii_alphanumeric() || letter == '-' || letter == '.';
    let names = |key: &str| message.split(|letter| !is_part(letter)).any(|word| word == key);
    let named: Vec<&str> = explain::keys().filter(|key| names(key)).collect();
    let mut origins = explain::origins(settings, &named);
    if named.contains(&"network.mode") && origins.iter().all(|(key, _)| *key != "network.mode") {
        // These settings imply the mode.
        origins.extend(explain::origins(settings, &["network.zone", "network.bridge", "network.namespace"]));
    }
    if origins.is_empty() {
        return error;
    }
    let origins: Vec<String> = origins.iter().map(|(key, origin)| format!("{key}: {origin}")).collect();
    let located = Error::new(format!("{message} ({})", origins.join("; ")));
    match error.hint() {
        Some(hint) => located.with_hint(hint),
        None => located,
    }
}

/// Sets the defaults of `profile`. Those that depend on other settings come before or after the defaults of
/// the rows.
pub(super) fn with_defaults(paths: &Paths, name: &Name, mut layer: Layer, profile: Profile) -> Layer {
    layer.identity.name.fill(|| name.clone());
    layer.root.fill_source(paths, name);
    layer.network.fill_implied(profile);
    layer.command.fill_boot(profile);
    layer.fill_defaults(profile);
    layer.users.resolve_ownership(profile);
    layer.command.deduplicate_environment();
    layer.credentials.deduplicate();
    layer.resources.deduplicate_rlimits();
    layer
}

fn build(paths: &Paths, name: &Name, settings: &Layer, profile: Profile) -> Result<Parts> {
    let (users, ownership) = settings.users.build()?;
    Ok(Parts {
        contract: profile.contract(),
        switches: settings.switches.build(),
        name: name.clone(),
        root: settings.root.build(paths)?,
        boot: settings.boot.build()?,
        command: settings.command.build(settings.boot.init_arguments(), profile)?,
        credentials: settings.credentials.build(paths),
        mounts: settings.mounts.build(paths, users)?,
        network: settings.network.build(paths)?,
        users,
        bound_users: settings.bound_users.build(),
        ownership,
        security: settings.security.build(profile, settings.command.boot.required("boot")?)?,
        identity: settings.identity.build(),
        journal: settings.journal.build(paths)?,
        dependencies: settings.dependencies.build()?,
        health: settings.health.build()?,
        resources: settings.resources.build(),
        console: settings.console.build()?,
        register: settings.unit.register.required("register")?,
        keep_unit: settings.unit.keep_unit.required("keep-unit")?,
        slice: settings.unit.slice(),
        properties: settings.unit.properties(),
        build: None,
    })
}

fn warnings(settings: &Layer) -> Vec<Problem> {
    let mut warnings = settings.security.warnings();
    warnings.extend(settings.mounts.warnings(&settings.users.private));
    warnings.extend(settings.network.warnings());
    warnings.extend(settings.command.warnings());
    warnings
}
