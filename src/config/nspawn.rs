//! Reads systemd.nspawn(5) files into a [`Layer`]. Called by `sources` and `check`. The rows of all settings
//! are in `table`, those with a meaning of their own in `special`.
//!
//! A file is trusted in the directories of the administrator. Beside an image it can only lower the rights of
//! the machine: the creator of the image may have written it.

mod special;
mod table;
mod unit;

use super::definition_files;
use super::ini::{self, Assignment};
use super::layer::{Layer, Origin, Setting};
use super::problem::Problem;
use super::values::{RawValue, systemd_boolean, ticked};
use crate::error::{Context, Error, Result, nearest};
use crate::machine::name::Name;
use crate::paths::Paths;
use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use table::{Action, Row};

pub(super) use special::{boot_by_default, drop_parameters};
pub use table::keys;
pub(crate) use unit::NspawnUnit;

/// The maximum number of reported problems of a file, errors first.
const MAX_PROBLEMS: usize = 100;

/// The use of .nspawn files, as in systemd-nspawn(1), `--settings=`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SettingsMode {
    /// Not read.
    No,
    /// Options have precedence.
    Yes,
    /// Options have precedence, and every file is trusted.
    Trusted,
    /// The file has precedence.
    Override,
}

impl SettingsMode {
    /// Returns the mode of a word or boolean. `None` if it is invalid.
    pub(crate) fn from_word(word: &str) -> Option<Self> {
        match word {
            "trusted" => Some(Self::Trusted),
            "override" => Some(Self::Override),
            _ => systemd_boolean(word).map(|is_read| if is_read { Self::Yes } else { Self::No }),
        }
    }
}

/// Whether a file may give the machine more rights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// It may.
    Trusted,
    /// It may not: settings that would do so are ignored.
    Untrusted,
}

/// An open .nspawn file.
#[derive(Debug)]
pub(super) struct NspawnFile {
    /// Its path.
    pub(super) path: PathBuf,
    /// Whether it is trusted.
    pub(super) trust: Trust,
    file: File,
}

/// Finds the file of the machine `name` with this root: the first one of the search.
///
/// # Errors
/// A file that cannot be opened.
pub(super) fn find(
    paths: &Paths,
    name: &Name,
    root: Option<&Path>,
    mode: SettingsMode,
) -> Result<Option<NspawnFile>> {
    if mode == SettingsMode::No {
        return Ok(None);
    }
    let trusted = paths.nspawn_directories().into_iter().map(|directory| (directory, Trust::Trusted));
    let beside = if mode == SettingsMode::Trusted { Trust::Trusted } else { Trust::Untrusted };
    let beside = root.into_iter().flat_map(directories_of_image).map(|directory| (directory, beside));
    for (directory, trust) in trusted.chain(beside) {
        let path = directory.join(format!("{name}.nspawn"));
        if let Some(file) = open(&path)? {
            return Ok(Some(NspawnFile { path, trust, file }));
        }
    }
    Ok(None)
}

/// Opens a file that is named by hand. It is trusted unless it is beside an image.
///
/// # Errors
/// A file that cannot be opened.
pub(super) fn named(paths: &Paths, path: &Path) -> Result<NspawnFile> {
    let full = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let is_beside = paths.image_directories().iter().any(|directory| full.starts_with(directory));
    let trust = if is_beside { Trust::Untrusted } else { Trust::Trusted };
    let file = definition_files::open(path).context(|| "cannot read the file")?;
    Ok(NspawnFile { path: path.to_owned(), trust, file })
}

/// Returns the names of the machines with a file, and problems of files with an invalid name.
///
/// # Errors
/// A directory of trusted files cannot be read. Those of images may be closed to the caller.
pub(crate) fn names(paths: &Paths) -> Result<(Vec<Name>, Vec<Problem>)> {
    let mut files = Vec::new();
    for directory in paths.nspawn_directories() {
        files.extend(definition_files::list(&directory, "nspawn")?);
    }
    for directory in paths.image_directories() {
        files.extend(definition_files::list(&directory, "nspawn").unwrap_or_default());
    }
    let mut names = Vec::new();
    let mut problems = Vec::new();
    for (file_name, file) in files {
        match Name::new(file_name.to_str().and_then(|name| name.strip_suffix(".nspawn")).unwrap_or_default())
        {
            Ok(name) => names.push(name),
            Err(error) => problems.push(Problem::new(Some(&file), &error)),
        }
    }
    Ok((names, problems))
}

/// Returns the directories for files beside the image at `root`. Images with versions are in a directory of
/// their own.
fn directories_of_image(root: &Path) -> impl Iterator<Item = PathBuf> {
    let parent = root.parent().map(Path::to_owned);
    let is_versions = |directory: &&PathBuf| directory.extension().is_some_and(|suffix| suffix == "v");
    let above =
        parent.as_ref().filter(is_versions).and_then(|versions| versions.parent()).map(Path::to_owned);
    parent.into_iter().chain(above)
}

/// Opens a file. `None` if it does not exist.
fn open(path: &Path) -> Result<Option<File>> {
    match definition_files::open(path) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        opened => opened.map(Some).context(|| format!("cannot open '{}'", path.display())),
    }
}

/// Parses a file. Returns its layer and all problems: errors end the start, warnings are ignored settings.
pub(super) fn read(opened: NspawnFile) -> (Layer, Vec<Problem>) {
    let NspawnFile { path, trust, file } = opened;
    match definition_files::bytes(file) {
        Ok(text) => parse(&path, trust, &text),
        Err(error) => (Layer::default(), vec![Problem::new(Some(&path), &error)]),
    }
}

/// Parses the text of a file; see [`read`].
pub fn parse(path: &Path, trust: Trust, text: &[u8]) -> (Layer, Vec<Problem>) {
    let (assignments, problems) = ini::read(path, text, &table::SECTIONS);
    let mut reader = NspawnReader { trust, layer: Layer::default(), problems, veth: None, private: None };
    let mut is_network_ignored = false;
    for assignment in &assignments {
        if assignment.section == "Network" && trust == Trust::Untrusted {
            if !is_network_ignored {
                reader.warn_untrusted(&assignment.origin, "[Network]");
            }
            is_network_ignored = true;
            continue;
        }
        reader.assignment(assignment);
    }
    reader.finish_network();
    reader.finish_users();
    let mut problems = reader.problems;
    if problems.len() > MAX_PROBLEMS {
        problems.sort_by_key(|problem| problem.severity);
        problems.truncate(MAX_PROBLEMS);
    }
    (reader.layer, problems)
}

/// The reason why a value is not used.
enum Refusal {
    /// It is invalid.
    Invalid(Error),
    /// It is valid, but Coracle does not support it.
    Unsupported(Error),
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::Invalid(error)
    }
}

/// A walk over the assignments of one file.
struct NspawnReader {
    trust: Trust,
    layer: Layer,
    problems: Vec<Problem>,
    /// `VirtualEthernet=`.
    veth: Option<(bool, Origin)>,
    /// `Private=`.
    private: Option<(bool, Origin)>,
}

impl NspawnReader {
    fn assignment(&mut self, assignment: &Assignment) {
        let Assignment { section, key, origin, .. } = assignment;
        let Some(row) = table::find(section, key) else {
            if !key.starts_with("X-") {
                self.unknown(assignment);
            }
            return;
        };
        if row.is_privileged && self.trust == Trust::Untrusted {
            return self.warn_untrusted(origin, &format!("{key}="));
        }
        let result = match row.action {
            Action::Boolean(setting) => self.boolean(setting, assignment),
            Action::Value(setting) => self.value(setting, assignment),
            Action::Names(setting) => self.names(row, setting, assignment),
            Action::Words(setting) => self.words(row, setting, assignment),
            Action::Special(read) => read(self, row, assignment),
        };
        self.check(row, origin, result);
    }

    fn unknown(&mut self, Assignment { section, key, origin, .. }: &Assignment) {
        let error = Error::new(format!("unknown key {} in [{section}], ignoring", ticked(key)));
        let near = nearest(key, table::keys().filter(|(of, _)| of == section).map(|(_, key)| key));
        let error = match near {
            Some(near) => error.with_hint(format!("did you mean '{near}'?")),
            None => error.with_hint("see systemd.nspawn(5) for all keys"),
        };
        self.problems.push(Problem::at_origin(origin, &error).into_warning());
    }

    fn warn_untrusted(&mut self, origin: &Origin, what: &str) {
        let error = Error::new(format!("'{what}' is ignored: the file is not trusted"))
            .with_hint("move the file to '/etc/systemd/nspawn' to trust it");
        self.problems.push(Problem::at_origin(origin, &error).into_warning());
    }

    /// Adds the problem of a refused value. Invalid values are ignored, as by systemd, unless the row
    /// requires them.
    fn check(&mut self, row: &Row, origin: &Origin, result: std::result::Result<(), Refusal>) {
        let (error, ends_start) = match result {
            Ok(()) => return,
            Err(Refusal::Unsupported(error)) => (error, true),
            Err(Refusal::Invalid(error)) => (error, row.is_required),
        };
        let key = row.key;
        self.problems.push(if ends_start {
            Problem::at_origin(origin, &error.context(format!("'{key}='")))
        } else {
            let ignored = Error::new(format!("'{key}=': {error}, ignoring"));
            let ignored = error.hint().into_iter().fold(ignored, Error::with_hint);
            Problem::at_origin(origin, &ignored).into_warning()
        });
    }

    /// Sets a setting, or removes it if the value is empty.
    fn set(&mut self, setting: &str, raw: &RawValue, origin: &Origin) -> std::result::Result<(), Refusal> {
        let setting =
            Setting::find(setting).ok_or_else(|| Error::new(format!("unknown setting '{setting}'")))?;
        if *raw == RawValue::Text("") {
            self.layer.unset(setting);
            return Ok(());
        }
        Ok(self.layer.set(setting, raw, origin.clone())?)
    }

    fn boolean(&mut self, setting: &str, assignment: &Assignment) -> std::result::Result<(), Refusal> {
        if assignment.value.is_empty() {
            return self.set(setting, &RawValue::Text(""), &assignment.origin);
        }
        self.set(setting, &RawValue::Boolean(truth(&assignment.value)?), &assignment.origin)
    }

    fn value(&mut self, setting: &str, assignment: &Assignment) -> std::result::Result<(), Refusal> {
        self.set(setting, &RawValue::Text(&assignment.value), &assignment.origin)
    }

    /// Appends names without quotes. An invalid one is ignored alone.
    fn names(
        &mut self,
        row: &Row,
        setting: &str,
        assignment: &Assignment,
    ) -> std::result::Result<(), Refusal> {
        for name in assignment.value.split_ascii_whitespace() {
            let result = self.set(setting, &RawValue::Text(name), &assignment.origin);
            self.check(row, &assignment.origin, result);
        }
        Ok(())
    }

    /// Appends words in quotes. An empty value removes those of earlier lines.
    fn words(
        &mut self,
        row: &Row,
        setting: &str,
        assignment: &Assignment,
    ) -> std::result::Result<(), Refusal> {
        let Some(setting) = Setting::find(setting) else { return Ok(()) };
        if assignment.value.is_empty() {
            self.layer.unset(setting);
        }
        for word in ini::words(&assignment.value)? {
            let result = self.layer.set(setting, &RawValue::Text(&word), assignment.origin.clone());
            self.check(row, &assignment.origin, result.map_err(Refusal::from));
        }
        Ok(())
    }
}

/// Parses a boolean.
fn truth(text: &str) -> Result<bool> {
    systemd_boolean(text)
        .ok_or_else(|| Error::new(format!("{} is not a boolean", ticked(text))).with_hint("write yes or no"))
}

#[cfg(test)]
mod tests;
