//! `create`: a new image of a distribution. Called by `cli`.

use super::clone::duration_text;
use super::interrupts::Interrupts;
use super::progress::Progress;
use crate::config::recipe::{self, Distribution, RecipeOptions};
use crate::error::{Error, Result};
use crate::image::clone::CloneMethod;
use crate::image::create::{self, Base, CreateRequest, Created};
use crate::image::recovery;
use crate::machine::name::Name;
use crate::machine::recipe::{Recipe, RecipeValues};
use crate::paths::Paths;
use serde::Serialize;
use std::path::PathBuf;
use std::time::Duration;

/// The age of a base that the user is reminded of.
const OLD: Duration = Duration::from_secs(30 * DAY);
/// A day in seconds.
const DAY: u64 = 24 * 3600;

/// The options of a creation.
#[derive(Debug)]
pub(crate) struct CreateOptions {
    /// The distribution.
    pub(crate) from: Distribution,
    /// Its architecture, packages and mirror.
    pub(crate) recipe: RecipeOptions,
    /// Whether the image is a directory with files of its own.
    pub(crate) is_directory: bool,
    /// Whether a new base is created.
    pub(crate) is_refreshed: bool,
}

/// A created image.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct CreateReport {
    name: Name,
    path: PathBuf,
    /// `stack`, `snapshot` or `directory`.
    kind: &'static str,
    base: BaseReport,
    /// The time without that for the base.
    duration_ms: u64,
    /// The message about files of its identity that are still those of the base.
    kept_identity: Option<String>,
    hint: Option<String>,
}

/// The base of a created image.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct BaseReport {
    distribution: String,
    suite: String,
    architecture: String,
    /// The program that has created it.
    program: String,
    /// The package with the keys that its packages were verified with.
    keyring_package: String,
    /// The time for which it exists, seconds. `None` for one that was created now.
    age: Option<u64>,
    /// The time of its creation. `None` for an existing one.
    duration_ms: Option<u64>,
}

/// Creates an image of a distribution.
///
/// # Errors
/// An unknown distribution, an existing image of the name, a missing program or key, a program that fails, or an
/// interruption.
pub(crate) fn create(
    paths: &Paths,
    name: &Name,
    options: &CreateOptions,
    progress: &mut Progress<'_>,
) -> Result<CreateReport> {
    let (recipe, values) = recipe::read(paths, &options.from, &options.recipe)?;
    recovery::recover(paths);
    let CreateOptions { is_directory, is_refreshed, .. } = *options;
    let request = CreateRequest { paths, name, recipe: &recipe, values: &values, is_directory, is_refreshed };
    let interrupts = Interrupts::block()?;
    let mut output = |line: Option<&str>| {
        if interrupts.have_arrived() {
            return Err(Error::new("interrupted"));
        }
        if let Some(line) = line {
            progress.show(name.as_str(), line);
        }
        Ok(())
    };
    let created = create::create(&request, &mut output)?;
    Ok(report(name, &recipe, values, created))
}

fn report(name: &Name, recipe: &Recipe, values: RecipeValues, created: Created) -> CreateReport {
    let (age, duration) = match created.base {
        Base::Existing(age) => (Some(age), None),
        Base::Created(duration) => (None, Some(duration)),
    };
    let hint = age.filter(|age| *age >= OLD).map(|_| {
        "--refresh creates the base again, with the present packages; existing machines keep theirs"
            .to_owned()
    });
    CreateReport {
        name: name.clone(),
        path: created.path,
        kind: match created.method {
            CloneMethod::Snapshot => "snapshot",
            CloneMethod::Base | CloneMethod::Layers => "stack",
            CloneMethod::Copy(_) | CloneMethod::Taken => "directory",
        },
        base: BaseReport {
            distribution: recipe.name.clone(),
            suite: values.suite,
            architecture: values.architecture,
            program: recipe.steps.last().map_or_else(String::new, |step| step.program.clone()),
            keyring_package: recipe.keyring_package.clone(),
            age: age.map(|age| age.as_secs()),
            duration_ms: duration.map(super::milliseconds),
        },
        duration_ms: super::milliseconds(created.duration),
        kept_identity: created.kept_identity,
        hint,
    }
}

impl CreateReport {
    /// Returns the lines for a person.
    pub(crate) fn text(&self) -> String {
        let Self { name, base, .. } = self;
        let BaseReport { distribution, suite, architecture, program, keyring_package, .. } = base;
        let what = format!("{name}: base {distribution}:{suite} {architecture}");
        let mut text = match (base.duration_ms, base.age) {
            (Some(duration), _) => format!(
                "{what}, created by {program} and verified with {keyring_package} in {}",
                duration_text(duration)
            ),
            (None, age) => format!("{what}, {}", age_text(age.unwrap_or_default())),
        };
        let kind = match self.kind {
            "directory" => "copy of that base",
            "snapshot" => "snapshot of that base",
            _ => "stack on that base",
        };
        text.push_str(&format!("\n{name}: {kind} in {}", duration_text(self.duration_ms)));
        for (label, line) in [("warning", &self.kept_identity), ("hint", &self.hint)] {
            if let Some(line) = line {
                text.push_str(&format!("\n{label}: {line}"));
            }
        }
        text
    }
}

/// Returns the age of a base for a person.
fn age_text(seconds: u64) -> String {
    match seconds / DAY {
        0 => "created today".to_owned(),
        1 => "created yesterday".to_owned(),
        days => format!("created {days} days ago"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_age_of_a_base_is_in_days() {
        for (seconds, text) in
            [(0, "created today"), (DAY, "created yesterday"), (40 * DAY, "created 40 days ago")]
        {
            assert_eq!(age_text(seconds), text);
        }
    }
}
