//! Merges all sources of one machine: options, definition files, the .nspawn file, which counts only without a
//! definition, and the configuration of an OCI image. Called by `config` and `check`.

use super::definition_files::Files;
use super::groups::{self, Precedence};
use super::layer::Layer;
use super::nspawn::{self, NspawnFile, SettingsMode, Trust};
use super::oci;
use super::problem::{Problem, ProblemSeverity};
use super::profile::Profile;
use super::root::RootSettings;
use crate::error::{Error, Result};
use crate::machine::name::Name;
use crate::paths::Paths;
use std::path::{Path, PathBuf};

/// The sources of a machine.
pub(super) struct Sources<'a> {
    /// The places of files.
    pub(super) paths: &'a Paths,
    /// Its name.
    pub(super) name: &'a Name,
    /// The options of the command line.
    pub(super) options: Layer,
    /// Its definition.
    pub(super) files: &'a Files,
    /// The use of its .nspawn file.
    pub(super) settings: SettingsMode,
    /// Its defaults.
    pub(super) profile: Profile,
}

/// All settings of a machine that its sources contain.
#[derive(Debug, Default)]
pub(super) struct MergedSources {
    /// The settings.
    pub(super) layer: Layer,
    /// Problems that end the start.
    pub(super) errors: Vec<Problem>,
    /// Settings of the .nspawn file that are ignored, or the whole file.
    pub(super) ignored: Vec<Problem>,
    /// The main file: the definition, else the .nspawn file.
    pub(super) main: Option<PathBuf>,
    /// The number of files read.
    pub(super) files: usize,
}

impl Sources<'_> {
    /// Reads and merges the sources.
    ///
    /// # Errors
    /// A .nspawn file that cannot be opened.
    pub(super) fn merge(self) -> Result<MergedSources> {
        let (mut definition, errors) = self.files.read();
        if !self.options.root.has_source() {
            definition.root.fill_source(self.paths, self.name);
        }
        let root = [&self.options.root, &definition.root].into_iter().find_map(|root| self.root(root));
        let found = nspawn::find(self.paths, self.name, root.as_deref(), self.settings);
        // systemd-nspawn(1) reads none.
        let reads_oci = self.profile != Profile::Nspawn && self.settings != SettingsMode::No;
        let image = root.filter(|_| reads_oci).and_then(|root| oci::find(Some(&root), self.name));
        let profile = self.profile;
        let main = self.files.main.clone();
        let mut merged =
            MergedSources { errors, main, files: self.files.all().count(), ..Default::default() };
        match (found, &merged.main) {
            (Ok(Some(file)), Some(main)) => merged.ignored.push(unread(self.paths, &file, main)),
            (Ok(Some(file)), None) => {
                merged.main = Some(file.path.clone());
                merged.files += 1;
                merged.layer = self.with_nspawn(definition, file, image.is_some(), &mut merged);
                merged.add_image(image, profile);
                return Ok(merged);
            }
            (Err(error), None) => return Err(error),
            // A definition does not depend on it.
            (Err(_), Some(_)) | (Ok(None), _) => {}
        }
        merged.layer = self.options.over(definition);
        merged.add_image(image, profile);
        Ok(merged)
    }

    /// Merges a .nspawn file by groups with the options, and by keys with the drop-ins of a definition.
    fn with_nspawn(
        self,
        drop_ins: Layer,
        file: NspawnFile,
        has_image_config: bool,
        merged: &mut MergedSources,
    ) -> Layer {
        let is_trusted = file.trust == Trust::Trusted;
        let (mut settings, problems) = nspawn::read(file);
        let (ignored, errors) =
            problems.into_iter().partition(|problem| problem.severity == ProblemSeverity::Warning);
        merged.ignored = ignored;
        merged.errors.extend::<Vec<Problem>>(errors);
        let mut options = self.options;
        if self.profile == Profile::Unit && has_image_config && !settings.command.has_command() {
            // The image decides.
        } else if self.profile == Profile::Unit {
            nspawn::boot_by_default(&mut settings);
        } else {
            merged.ignored.extend(nspawn::drop_parameters(&mut settings));
        }
        let precedence = match self.settings {
            SettingsMode::Override => Precedence::File,
            SettingsMode::Yes | SettingsMode::Trusted | SettingsMode::No => Precedence::Options,
        };
        groups::separate(&mut options, &mut settings, precedence, is_trusted);
        match precedence {
            Precedence::Options => options.over(drop_ins.over(settings)),
            Precedence::File => drop_ins.over(settings.over(options)),
        }
    }

    /// Returns the root of a layer.
    fn root(&self, root: &RootSettings) -> Option<PathBuf> {
        let path = |setting: &super::setting::Single<PathBuf>| {
            Some(setting.origin().host_path(self.paths, setting.value()?.clone()))
        };
        root.sources().into_iter().find_map(path)
    }
}

impl MergedSources {
    /// Adds the configuration of an image below all other settings.
    fn add_image(&mut self, image: Option<oci::OciSource>, profile: Profile) {
        let Some(image) = image else { return };
        let (layer, problems) = oci::below(std::mem::take(&mut self.layer), image, profile);
        let (ignored, errors): (Vec<Problem>, _) =
            problems.into_iter().partition(|problem| problem.severity == ProblemSeverity::Warning);
        self.layer = layer;
        self.ignored.extend(ignored);
        self.errors.extend(errors);
        self.files += 1;
    }
}

/// Returns the warning about a .nspawn file that a definition replaces.
fn unread(paths: &Paths, file: &NspawnFile, main: &Path) -> Problem {
    let main = paths.strip(main);
    let error =
        Error::new(format!("the file is not read: the machine has the definition '{}'", main.display()))
            .with_hint("remove one of the files");
    Problem::new(Some(&file.path), &error).into_warning()
}

#[cfg(test)]
mod tests;
