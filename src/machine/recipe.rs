//! The recipe of a distribution: the programs that create a root file system of it. Parsed by `config`, carried
//! out by `image`.

use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// A recipe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Recipe {
    /// The name of the distribution.
    pub(crate) name: String,
    /// The suite if none is given.
    pub(crate) suite: String,
    /// The distribution's names of architectures, by those of uname(2).
    pub(crate) architectures: BTreeMap<String, String>,
    /// The packages of a bootable system.
    pub(crate) packages: Vec<String>,
    /// The places of the keys that signatures are verified with; the first existing one is used.
    pub(crate) keyrings: Vec<String>,
    /// The package with the keys.
    pub(crate) keyring_package: String,
    /// The mirror. `None` for that of the programs.
    pub(crate) mirror: Option<String>,
    /// Whether the programs know no mirror by themselves.
    pub(crate) requires_mirror: bool,
    /// The programs, in their order.
    pub(crate) steps: Vec<RecipeStep>,
}

/// A program of a recipe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct RecipeStep {
    /// Its name.
    pub(crate) program: String,
    /// The package with it.
    pub(crate) package: String,
    /// Its arguments, with placeholders.
    pub(crate) arguments: Vec<String>,
}

/// A placeholder in the arguments and keyrings of a recipe: `{suite}`.
pub(crate) const PLACEHOLDERS: [&str; 6] = ["suite", "arch", "tree", "packages", "keyring", "mirror"];

/// The values of the placeholders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RecipeValues {
    /// The suite.
    pub(crate) suite: String,
    /// The architecture, as the distribution names it.
    pub(crate) architecture: String,
    /// The mirror. Arguments with it are left out if there is none.
    pub(crate) mirror: Option<String>,
    /// All packages.
    pub(crate) packages: Vec<String>,
}

impl RecipeValues {
    /// Returns the places of the keys.
    pub(crate) fn keyrings(&self, recipe: &Recipe) -> Vec<PathBuf> {
        let places = recipe.keyrings.iter();
        places.map(|place| PathBuf::from(self.replace(place, &[]))).collect()
    }

    /// Returns the arguments of a program for a tree, with the keys in a file or directory. An argument that is
    /// `{packages}` becomes one for each package; in an argument the packages are separated by commas.
    pub(crate) fn arguments(&self, step: &RecipeStep, tree: &str, keyring: &str) -> Vec<String> {
        let mut words = Vec::new();
        for argument in &step.arguments {
            if argument == "{packages}" {
                words.extend(self.packages.iter().cloned());
            } else if !argument.contains("{mirror}") || self.mirror.is_some() {
                words.push(self.replace(argument, &[("{tree}", tree), ("{keyring}", keyring)]));
            }
        }
        words
    }

    fn replace(&self, text: &str, others: &[(&str, &str)]) -> String {
        let mut text = text
            .replace("{suite}", &self.suite)
            .replace("{arch}", &self.architecture)
            .replace("{packages}", &self.packages.join(","))
            .replace("{mirror}", self.mirror.as_deref().unwrap_or_default());
        for (placeholder, value) in others {
            text = text.replace(placeholder, value);
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_have_values() {
        let arguments =
            ["--include={packages}", "{packages}", "{suite}", "{tree}/{arch}", "-R{mirror}", "{keyring}"];
        let step = RecipeStep {
            program: String::new(),
            package: String::new(),
            arguments: arguments.map(str::to_owned).to_vec(),
        };
        let mut values = RecipeValues {
            suite: "trixie".into(),
            architecture: "amd64".into(),
            mirror: None,
            packages: vec!["a".into(), "b".into()],
        };
        let words = values.arguments(&step, "/tree", "/keys");
        assert_eq!(words, ["--include=a,b", "a", "b", "trixie", "/tree/amd64", "/keys"]);
        values.mirror = Some("file:/srv".into());
        let words = values.arguments(&step, "/tree", "/keys");
        assert_eq!(words[5], "-Rfile:/srv");
    }
}
