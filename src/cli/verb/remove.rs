//! `coracle remove`.

use super::VerbResult;
use crate::ask::{Ask, AskVerb, Options};
use crate::cli::output;
use crate::control::remove::{self, Purge, Removal};
use crate::error::Result;
use crate::machine::name::Name;
use crate::paths::Paths;
use clap::Args;

/// Remove the images of stopped machines, with their snapshots and records
///
/// Also removes what is left of a machine whose image was deleted by hand, and resets its failed unit. Files
/// in /etc are kept: definitions, .nspawn files and enablement. A read-only image, and one that others stand
/// on, is not removed.
#[derive(Debug, Args)]
pub struct RemoveArgs {
    /// The images
    #[arg(value_name = "NAME", required = true, value_parser = Name::new)]
    names: Vec<Name>,

    /// Also delete the files in /etc
    #[arg(long)]
    purge: bool,
}

impl RemoveArgs {
    /// Returns the request for the service.
    ///
    /// # Errors
    /// Too long a word.
    pub(in crate::cli) fn ask(&self) -> Result<Ask> {
        let options = Options::default().with_flag("purge", self.purge);
        let words = self.names.iter().map(ToString::to_string).collect();
        Ask::new(AskVerb::Remove, self.names.clone(), options, words)
    }

    pub(super) fn run(self, paths: &Paths) -> VerbResult {
        let purge = if self.purge { Purge::Yes } else { Purge::No };
        let mut printed: Result<()> = Ok(());
        let removed = remove::remove(paths, &self.names, purge, |name, removal| {
            let result = output::text(&text(name, removal));
            if printed.is_ok() {
                printed = result;
            }
        });
        removed?;
        printed?;
        Ok(0)
    }
}

/// Returns the lines about a removed image.
fn text(name: &Name, removal: &Removal) -> String {
    let snapshots = match removal.snapshots {
        0 => String::new(),
        1 => " and its snapshot".to_owned(),
        count => format!(" and its {count} snapshots"),
    };
    let mut text = match &removal.image {
        Some(image) => format!("{name}: removed '{}'{snapshots}\n", image.display()),
        None if removal.files.is_empty() => format!("{name}: it had no image\n"),
        None => format!("{name}: removed its files{snapshots}; it had no image\n"),
    };
    for file in removal.files.iter().filter(|_| removal.image.is_none()) {
        text += &format!("{name}: removed '{}'\n", file.display());
    }
    if let Some(unit) = &removal.reset_unit {
        text += &format!("{name}: reset the failed unit '{unit}'\n");
    }
    if !removal.kept.is_empty() {
        let files: Vec<String> = removal.kept.iter().map(|file| format!("'{}'", file.display())).collect();
        text += &format!("{name}: kept {}; --purge deletes files in /etc\n", files.join(", "));
    }
    if let Some(image) = &removal.uncovered {
        text += &format!("{name}: the image of this name is now '{}'\n", image.display());
    }
    text
}
