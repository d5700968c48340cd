//! `migrate`: definitions for machines of systemd-nspawn(1), whose units then run Coracle, and the way back.
//! Called by `cli`, which parses the options of the units. Neither changes a tree or a running machine.

use super::{block_on, each, remove};
use crate::config;
use crate::config::Options;
use crate::config::definition_files::Files;
use crate::config::layer::Sourced;
use crate::config::migration::{self, Migration};
use crate::config::nspawn::{self, NspawnUnit};
use crate::error::{Context, Error, Result};
use crate::host::systemd::units::{self, UnitStatus};
use crate::image::find;
use crate::machine::Machine;
use crate::machine::name::Name;
use crate::machine::root::RootSource;
use crate::machine::unit_name::ServiceTemplate;
use crate::machine::users::{RANGE_SIZE, Users};
use crate::paths::{Paths, store};
use crate::state::id_ranges;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

pub(crate) use super::BatchResult;

/// Parses the options of systemd-nspawn(1).
pub(crate) type ParseOptions<'a> = &'a dyn Fn(&[OsString]) -> Result<Options>;

/// The options of the template, if those of the unit have no equal.
const TEMPLATE_OPTIONS: [&str; 4] = ["--boot", "--network-veth", "-U", "--settings=override"];

/// Whether a definition is shown or written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MigrateMode {
    /// It is shown.
    DryRun,
    /// It is written if all settings have an equal.
    Complete,
    /// It is written.
    Force,
}

/// The migration of one machine.
#[derive(Debug)]
pub(crate) struct MigrateReport {
    /// The sources of the definition: files, the unit with its state, drop-ins.
    pub(crate) sources: String,
    /// The file of the definition.
    pub(crate) file: PathBuf,
    /// The number of its settings.
    pub(crate) settings: usize,
    /// The user ids of the machine.
    pub(crate) ids: String,
    /// Settings that are not written, without a loss for the machine.
    pub(crate) replaced: Vec<String>,
    /// Settings without an equal.
    pub(crate) lost: Vec<String>,
    /// The text of the definition.
    pub(crate) text: String,
    /// The command that starts the machine with Coracle.
    pub(crate) start: String,
}

/// Migrates machines, and calls `report` for each one.
///
/// # Errors
/// One per machine without a written definition.
pub(crate) fn migrate(
    paths: &Paths,
    names: &[Name],
    mode: MigrateMode,
    parse: ParseOptions<'_>,
    report: &mut dyn FnMut(&Name, &MigrateReport) -> Result<()>,
) -> BatchResult {
    let migrated = each(names, |name| {
        let migration = migrate_one(paths, name, mode, parse)
            .map_err(|error| error.context(format!("cannot migrate '{name}'")))?;
        let is_complete = migration.lost.is_empty();
        if is_complete || mode != MigrateMode::Complete {
            report(name, &migration)?;
        }
        if is_complete || mode == MigrateMode::Force {
            return Ok(());
        }
        let lost = migration.lost.join("\n  ");
        Err(Error::new(format!("cannot migrate '{name}', these settings have no equal:\n  {lost}"))
            .with_hint(format!("write the definition without them: coracle migrate --force {name}")))
    });
    if mode != MigrateMode::DryRun {
        remove::reload();
    }
    migrated
}

fn migrate_one(
    paths: &Paths,
    name: &Name,
    mode: MigrateMode,
    parse: ParseOptions<'_>,
) -> Result<MigrateReport> {
    refuse_defined(paths, name)?;
    let unit = NspawnUnit::read(paths, name)?;
    let (options, refused) = options_of(&unit, parse)?;
    let Migration { text, settings, file: nspawn_file, machine, replaced, mut lost } =
        migration::migration(paths, name, &unit, options)?;
    lost.extend(refused);
    let root = machine.root.path();
    let is_image = matches!(machine.root.source, RootSource::Image(_));
    if !(root.is_dir() || is_image && root.exists()) {
        let kind = if is_image { "disk image" } else { "directory" };
        return Err(Error::new(format!("its root '{}' is not a {kind}", root.display()))
            .with_hint("create it, or correct the definition"));
    }
    let file = definition(paths, name);
    let sources: Vec<&Path> = nspawn_file.as_deref().into_iter().chain(unit.files()).collect();
    let is_written = mode == MigrateMode::Force || (mode == MigrateMode::Complete && lost.is_empty());
    if is_written {
        let writing = || format!("cannot write '{}'", file.display());
        file.parent().map_or(Ok(()), std::fs::create_dir_all).context(writing)?;
        store::create(&file, text.as_bytes(), mode_of(&sources)).context(writing)?;
    }
    let status = status_of(name);
    let ids = describe_ids(paths, &machine);
    let sources = describe_sources(paths, name, nspawn_file.as_deref(), &unit, status.as_ref());
    let start = start_command(name, status.as_ref());
    Ok(MigrateReport { sources, file, settings, ids, replaced, lost, text, start })
}

/// Refuses a machine with a definition.
fn refuse_defined(paths: &Paths, name: &Name) -> Result<()> {
    match Files::of(paths, name)?.main {
        None => Ok(()),
        Some(main) => Err(Error::new(format!("it has the definition '{}'", main.display()))
            .with_hint("set machinectl = true in its section [boot]")),
    }
}

/// Returns the options of a unit, else those of the template with the reason.
fn options_of(unit: &NspawnUnit, parse: ParseOptions<'_>) -> Result<(Options, Option<String>)> {
    let of_template = || parse(&TEMPLATE_OPTIONS.map(OsString::from));
    let Some(Sourced { value, origin }) = &unit.options else { return Ok((of_template()?, None)) };
    match parse(value) {
        Ok(options) => Ok((options, None)),
        Err(error) => Ok((of_template()?, Some(format!("ExecStart=: {error} ({origin})")))),
    }
}

/// Returns the mode of a definition: that of a file that users cannot read, if one of its sources is such a
/// file.
fn mode_of(sources: &[&Path]) -> u32 {
    const READ: u32 = 0o004;
    let is_secret = |path: &&Path| path.metadata().is_ok_and(|found| found.mode() & READ == 0);
    if sources.iter().any(is_secret) { 0o600 } else { 0o644 }
}

fn definition(paths: &Paths, name: &Name) -> PathBuf {
    paths.definitions()[0].join(format!("{name}.toml"))
}

/// Returns the state of the unit of systemd-nspawn(1). `None` without systemd.
fn status_of(name: &Name) -> Option<UnitStatus> {
    let unit = ServiceTemplate::Nspawn.service(name);
    units::is_running().then(|| block_on(units::unit_properties(&unit)).and_then(|status| status).ok())?
}

fn start_command(name: &Name, status: Option<&UnitStatus>) -> String {
    match status.map(|status| status.active_state.as_str()) {
        Some("active" | "activating" | "deactivating" | "reloading") => {
            format!("systemctl restart systemd-nspawn@{name}")
        }
        _ => format!("machinectl start {name}"),
    }
}

fn describe_sources(
    paths: &Paths,
    name: &Name,
    file: Option<&Path>,
    unit: &NspawnUnit,
    status: Option<&UnitStatus>,
) -> String {
    let mut sources: Vec<String> =
        file.map(|file| paths.strip(file).display().to_string()).into_iter().collect();
    let state = status.map(|status| format!(" ({})", status.file_state)).filter(|state| state != " ()");
    sources.push(format!("{}{}", ServiceTemplate::Nspawn.service(name), state.unwrap_or_default()));
    match unit.drop_ins.len() {
        0 => {}
        1 => sources.push("1 drop-in".to_owned()),
        count => sources.push(format!("{count} drop-ins")),
    }
    sources.join(", ")
}

/// Describes the user ids that a machine will have.
fn describe_ids(paths: &Paths, machine: &Machine) -> String {
    let owner = machine.root.path().metadata().map_or(0, |found| found.uid());
    match machine.users {
        Users::Pick if owner >= RANGE_SIZE => format!("ids from {owner} (owner of its tree)"),
        Users::Pick => match id_ranges::recorded(paths, &machine.name).first() {
            Some(base) => format!("ids from {base} (recorded)"),
            None => "ids of its own".to_owned(),
        },
        Users::Fixed { base, .. } => format!("ids from {base}"),
        _ => "ids of the host".to_owned(),
    }
}

/// Deletes the definitions that `migrate` has written. Calls `report` with each file and the command that
/// starts the machine with systemd-nspawn(1).
///
/// # Errors
/// One per machine with no such definition, or a changed one.
pub(crate) fn migrate_back(
    paths: &Paths,
    names: &[Name],
    report: &mut dyn FnMut(&Name, &Path, &str) -> Result<()>,
) -> BatchResult {
    let removed = each(names, |name| {
        let file = definition(paths, name);
        let removing = || format!("cannot remove '{}'", file.display());
        let text = std::fs::read_to_string(&file).context(removing)?;
        if !migration::is_unchanged(&text) {
            return Err(Error::new("it has changed since 'coracle migrate'")
                .context(removing())
                .with_hint("remove it yourself if its changes are not needed"));
        }
        store::delete(&file).context(removing)?;
        for drop_in in Files::of(paths, name)?.drop_ins {
            log::warn!("'{}' is left: systemd-nspawn does not read it", drop_in.display());
        }
        report(name, &file, &start_command(name, status_of(name).as_ref()))
    });
    remove::reload();
    removed
}

/// Returns the machines that `migrate --all` migrates: those without a definition that have an image, and a
/// .nspawn file, an own unit, drop-ins or an enabled unit.
///
/// # Errors
/// A directory of definitions cannot be read.
pub(crate) fn candidates(paths: &Paths) -> Result<Vec<Name>> {
    let mut names = nspawn_names(paths);
    names.extend(nspawn::names(paths)?.0);
    let is_candidate = |name: &Name| {
        find::by_name(paths, name).is_some() && Files::of(paths, name).is_ok_and(|files| files.main.is_none())
    };
    Ok(names.into_iter().filter(is_candidate).collect())
}

/// Returns the machines that `migrate --all --back` migrates: those with an unchanged definition of
/// `migrate`.
///
/// # Errors
/// A directory of definitions cannot be read.
pub(crate) fn migrated(paths: &Paths) -> Result<Vec<Name>> {
    let is_migrated = |name: &Name| {
        std::fs::read_to_string(definition(paths, name)).is_ok_and(|text| migration::is_unchanged(&text))
    };
    Ok(config::names(paths)?.into_iter().filter(is_migrated).collect())
}

/// Returns the machines with files of their unit in `/etc` and `/run`: a unit, drop-ins, links that enable
/// it.
fn nspawn_names(paths: &Paths) -> BTreeSet<Name> {
    let list = |directory: &Path| {
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect::<Vec<_>>()
    };
    let directories = [paths.join("/etc/systemd/system"), paths.systemd("system")];
    let mut files: Vec<PathBuf> = directories.iter().flat_map(|directory| list(directory)).collect();
    let links: Vec<PathBuf> =
        files.iter().filter(|file| file.extension().is_some_and(|end| end == "wants")).cloned().collect();
    files.extend(links.iter().flat_map(|directory| list(directory)));
    let names = files.iter().filter_map(|file| {
        let unit = file.file_name()?.to_str()?;
        let instance =
            unit.trim_end_matches(".d").strip_prefix("systemd-nspawn@")?.strip_suffix(".service")?;
        Name::new(instance).ok()
    });
    names.collect()
}
