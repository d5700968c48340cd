//! Recipes of distributions: `distributions.d/NAME.toml` to a [`Recipe`]. Called by `control`. It looks at no
//! program and no key.

use super::definition_files;
use crate::error::{Error, Result, nearest};
use crate::machine::recipe::{PLACEHOLDERS, Recipe, RecipeStep, RecipeValues};
use crate::paths::Paths;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// A file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct RecipeFile {
    suite: String,
    architectures: BTreeMap<String, String>,
    packages: Vec<String>,
    keyring: Vec<String>,
    keyring_package: String,
    mirror: Option<String>,
    #[serde(default)]
    requires_mirror: bool,
    step: Vec<StepTable>,
}

/// `[[step]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct StepTable {
    program: String,
    package: String,
    arguments: Vec<String>,
}

/// Words of arguments that switch the verification of signatures off.
const UNVERIFIED: [&str; 19] = [
    "no-check-gpg",
    "nogpgcheck",
    "no-gpg-checks",
    "no-gpgchecks",
    "gpgcheck=0",
    "gpgcheck=false",
    "allow-untrusted",
    "unauthenticated",
    "allow-insecure",
    "trusted=yes",
    "siglevel=never",
    "siglevel=optional",
    "trustall",
    "no-gpgcheck",
    "gpgcheck=no",
    "gpgcheck=off",
    "no-check-sig",
    "allow-weak",
    "allow-unsigned",
];

/// The suffixes of files of packages.
const FILES: [&str; 5] = [".rpm", ".deb", ".apk", ".xbps", ".pkg.tar.zst"];

/// A request for a distribution: `NAME[:SUITE]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Distribution {
    /// The name.
    pub(crate) name: String,
    /// The suite. `None` for that of the recipe.
    pub(crate) suite: Option<String>,
}

impl std::str::FromStr for Distribution {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, suite) = text.split_once(':').map_or((text, None), |(name, suite)| (name, Some(suite)));
        let invalid = || {
            Error::new(format!("'{text}' is not the name of a distribution"))
                .with_hint("write NAME or NAME:SUITE, for example debian:trixie")
        };
        let is_name = is_word(name) && !name.contains(['.', '/']) && suite.is_none_or(is_word);
        if !is_name {
            return Err(invalid());
        }
        Ok(Self { name: name.to_owned(), suite: suite.map(str::to_owned) })
    }
}

/// The wishes of the user for a new system.
#[derive(Debug, Clone, Default)]
pub(crate) struct RecipeOptions {
    /// The architecture, by its name of uname(2) or of the distribution. `None` for that of the host.
    pub(crate) architecture: Option<String>,
    /// Further packages.
    pub(crate) packages: Vec<String>,
    /// The mirror. `None` for that of the recipe.
    pub(crate) mirror: Option<String>,
}

/// Returns the recipe of a distribution, and the values of its placeholders.
///
/// # Errors
/// An unknown distribution or architecture, a file with mistakes, or an invalid option.
pub(crate) fn read(
    paths: &Paths,
    distribution: &Distribution,
    options: &RecipeOptions,
) -> Result<(Recipe, RecipeValues)> {
    let Distribution { name, suite } = distribution;
    let file = paths.distributions().map(|directory| directory.join(format!("{name}.toml")));
    let Some(file) = file.iter().find(|file| file.symlink_metadata().is_ok()) else {
        return Err(unknown(paths, name)?);
    };
    let recipe = parse(name, file).map_err(|error| error.context(format!("in '{}'", file.display())))?;
    let values = RecipeValues {
        suite: suite.clone().unwrap_or_else(|| recipe.suite.clone()),
        architecture: architecture(&recipe, options.architecture.as_deref())?,
        mirror: options.mirror.as_deref().map(mirror).transpose()?.or_else(|| recipe.mirror.clone()),
        packages: packages(&recipe, &options.packages)?,
    };
    if recipe.requires_mirror && values.mirror.is_none() {
        return Err(Error::new(format!("the programs that create {name} know no mirror of it")).with_hint(
            format!(
                "name one: --mirror=URL, or mirror = \"URL\" in '{}'",
                paths
                    .distributions()
                    .first()
                    .map_or_else(String::new, |own| own.join(format!("{name}.toml")).display().to_string())
            ),
        ));
    }
    Ok((recipe, values))
}

fn unknown(paths: &Paths, name: &str) -> Result<Error> {
    let mut known = BTreeSet::new();
    for directory in paths.distributions() {
        for (file, _) in definition_files::list(&directory, "toml")? {
            known.extend(file.to_str().and_then(|file| file.strip_suffix(".toml")).map(str::to_owned));
        }
    }
    let hint = match nearest(name, known.iter().map(String::as_str)) {
        Some(near) => format!("did you mean '{near}'?"),
        None if known.is_empty() => {
            "install the files of Coracle in /usr/lib/coracle/distributions.d".to_owned()
        }
        None => format!("known are {}", known.into_iter().collect::<Vec<_>>().join(", ")),
    };
    Ok(Error::new(format!("there is no recipe for the distribution '{name}'")).with_hint(hint))
}

fn parse(name: &str, path: &Path) -> Result<Recipe> {
    let text = std::fs::read_to_string(path)?;
    let file: RecipeFile = toml::from_str(&text).map_err(|error| {
        let line =
            error.span().and_then(|span| text.get(..span.start)).map(|before| before.lines().count().max(1));
        let line = line.map_or_else(String::new, |line| format!("line {line}: "));
        Error::new(format!("{line}{}", error.message().trim()))
    })?;
    if file.step.is_empty() {
        return Err(Error::new("a recipe requires at least one [[step]]"));
    }
    let (packages, mirror) = (packages_of(&file.packages)?, file.mirror.as_deref().map(mirror).transpose()?);
    let steps = file.step.into_iter().map(step).collect::<Result<_>>()?;
    for place in &file.keyring {
        check_placeholders(place)?;
        if !place.starts_with('/') {
            return Err(Error::new(format!("keyring '{place}' is not an absolute path")));
        }
    }
    if file.keyring.is_empty() {
        return Err(Error::new("a recipe requires a keyring: signatures are always verified"));
    }
    if !is_word(&file.suite) {
        return Err(Error::new(format!("'{}' is not the name of a suite", file.suite)));
    }
    Ok(Recipe {
        name: name.to_owned(),
        suite: file.suite,
        architectures: file.architectures,
        packages,
        keyrings: file.keyring,
        keyring_package: file.keyring_package,
        mirror,
        requires_mirror: file.requires_mirror,
        steps,
    })
}

fn step(table: StepTable) -> Result<RecipeStep> {
    let StepTable { program, package, arguments } = table;
    if !is_word(&program) || program.contains('/') {
        return Err(Error::new(format!("'{program}' is not the name of a program")));
    }
    for argument in &arguments {
        check_placeholders(argument)?;
        let lower: String = argument.to_ascii_lowercase().split_whitespace().collect();
        if let Some(word) = UNVERIFIED.iter().find(|word| lower.contains(*word)) {
            return Err(Error::new(format!(
                "the argument '{argument}' of '{program}' switches signatures off"
            ))
            .with_hint(format!("remove '{word}': signatures are always verified")));
        }
    }
    Ok(RecipeStep { program, package, arguments })
}

/// Refuses `{word}` with an unknown word.
fn check_placeholders(text: &str) -> Result<()> {
    let mut rest = text;
    while let Some((_, after)) = rest.split_once('{') {
        let Some((word, after)) = after.split_once('}') else { break };
        if !PLACEHOLDERS.contains(&word) {
            return Err(Error::new(format!("unknown placeholder '{{{word}}}' in '{text}'")).with_hint(
                format!("known are {}", PLACEHOLDERS.map(|word| format!("{{{word}}}")).join(", ")),
            ));
        }
        rest = after;
    }
    Ok(())
}

fn architecture(recipe: &Recipe, wanted: Option<&str>) -> Result<String> {
    let wanted = wanted.unwrap_or(std::env::consts::ARCH);
    if let Some(known) = recipe.architectures.get(wanted) {
        return Ok(known.clone());
    }
    if recipe.architectures.values().any(|known| known == wanted) {
        return Ok(wanted.to_owned());
    }
    let known = recipe.architectures.values().cloned().collect::<Vec<_>>().join(", ");
    Err(Error::new(format!("{} has no architecture '{wanted}' in its recipe", recipe.name))
        .with_hint(format!("known are {known}")))
}

fn mirror(text: &str) -> Result<String> {
    let has_scheme = text.split_once(':').is_some_and(|(scheme, rest)| {
        !scheme.is_empty() && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric()) && rest.starts_with('/')
    });
    let is_plain = text.bytes().all(|byte| byte.is_ascii_graphic() && !b"[]\"'`\\{}".contains(&byte));
    if !has_scheme || !is_plain {
        return Err(Error::new(format!("'{text}' is not the address of a mirror"))
            .with_hint("write SCHEME://HOST/PATH, for example https://example.org/debian"));
    }
    Ok(text.to_owned())
}

fn packages(recipe: &Recipe, further: &[String]) -> Result<Vec<String>> {
    let mut all = recipe.packages.clone();
    for package in packages_of(further)? {
        if !all.contains(&package) {
            all.push(package);
        }
    }
    Ok(all)
}

fn packages_of(names: &[String]) -> Result<Vec<String>> {
    match names.iter().find(|name| !is_package(name)) {
        None => Ok(names.to_vec()),
        Some(name) => Err(Error::new(format!("'{name}' is not the name of a package"))),
    }
}

/// Returns whether a text is the name of a package. A path or an address would be a file, which no repository has signed.
fn is_package(text: &str) -> bool {
    is_word(text) && !text.contains('/') && !FILES.iter().any(|suffix| text.ends_with(suffix))
}

/// Returns whether a text can be an argument of a program: not an option, and without blanks and other
/// letters with a meaning.
fn is_word(text: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || b"._+-~:/@".contains(&byte);
    text.bytes().all(is_letter)
        && text.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric() || first == b'@')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(recipes: &[(&str, &str)]) -> (tempfile::TempDir, Paths) {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::below(root.path());
        for (file, text) in recipes {
            let file = root.path().join(file);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, text).unwrap();
        }
        (root, paths)
    }

    fn from(text: &str) -> Distribution {
        text.parse().unwrap()
    }

    #[test]
    fn all_shipped_recipes_are_valid() {
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("distributions.d");
        let mut names = Vec::new();
        for entry in std::fs::read_dir(shipped).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let recipe = parse(&name, &path).unwrap_or_else(|error| panic!("{name}: {error}"));
            let uses = |word: &str| {
                recipe.steps.iter().any(|step| step.arguments.iter().any(|argument| argument.contains(word)))
            };
            assert!(uses("{tree}") && uses("{packages}"), "{name}");
            assert!(!recipe.requires_mirror || uses("{mirror}"), "{name}");
            assert!(
                ["x86_64", "aarch64"].iter().all(|known| recipe.architectures.contains_key(*known)),
                "{name}"
            );
            // The mirrors are those of the programs, or of the user.
            assert_eq!(recipe.mirror, None, "{name}");
            names.push(name);
        }
        names.sort();
        assert_eq!(
            names,
            ["alpine", "arch", "centos", "debian", "devuan", "fedora", "opensuse", "ubuntu", "void"]
        );
    }

    const RECIPE: &str = "suite = 'one'\npackages = ['init']\nkeyring = ['/keys/{suite}']\nkeyring-package = 'keys'\n\
        [architectures]\nx86_64 = 'amd64'\naarch64 = 'arm64'\n\
        [[step]]\nprogram = 'make'\npackage = 'maker'\narguments = ['{suite}', '{tree}', '{mirror}', '{packages}']\n";

    #[test]
    fn the_administrator_replaces_a_recipe() {
        let (_root, paths) = host(&[
            ("usr/lib/coracle/distributions.d/own.toml", RECIPE),
            ("etc/coracle/distributions.d/own.toml", &RECIPE.replace("'one'", "'two'")),
        ]);
        let options = RecipeOptions {
            architecture: Some("arm64".into()),
            packages: vec!["ssh".into(), "init".into()],
            mirror: Some("https://example.org/own".into()),
        };
        let (recipe, values) = read(&paths, &from("own"), &options).unwrap();
        assert_eq!((values.suite.as_str(), values.architecture.as_str()), ("two", "arm64"));
        assert_eq!(values.packages, ["init", "ssh"]);
        assert_eq!(values.keyrings(&recipe), [Path::new("/keys/two")]);
        let (_, values) = read(&paths, &from("own:three"), &RecipeOptions::default()).unwrap();
        assert_eq!((values.suite.as_str(), values.mirror), ("three", None));
    }

    #[test]
    fn mistakes_are_named() {
        for (text, expected) in [
            ("suite = 1", "in '"),
            (&RECIPE.replace("{tree}", "{root}"), "unknown placeholder '{root}'"),
            (&RECIPE.replace("'{suite}'", "'--allow-untrusted'"), "switches signatures off"),
            (
                &RECIPE.replace("'{suite}', '{tree}'", "'SigLevel = Never', '{tree}'"),
                "switches signatures off",
            ),
            (&RECIPE.replace("['/keys/{suite}']", "[]"), "signatures are always verified"),
            (&RECIPE.replace("suite = 'one'", "suite = 'one'\nrequires-mirror = true"), "know no mirror"),
            (&RECIPE.replace("'init'", "'-o'"), "is not the name of a package"),
            (&RECIPE.replace("'init'", "'https://example.org/x'"), "is not the name of a package"),
            (&RECIPE.replace("'init'", "'tmp/x'"), "is not the name of a package"),
            (&RECIPE.replace("'init'", "'x.rpm'"), "is not the name of a package"),
            (&RECIPE.replace("'make'", "'../make'"), "is not the name of a program"),
        ] {
            let (_root, paths) = host(&[("etc/coracle/distributions.d/own.toml", text)]);
            let error = read(&paths, &from("own"), &RecipeOptions::default()).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
        let (_root, paths) = host(&[("etc/coracle/distributions.d/debian.toml", RECIPE)]);
        let error = read(&paths, &from("debain"), &RecipeOptions::default()).unwrap_err();
        assert_eq!(error.hint(), Some("did you mean 'debian'?"));
        for text in ["", ":one", "-a", "a:-b", "a b", "../a", "a:"] {
            assert!(text.parse::<Distribution>().is_err(), "{text}");
        }
        for text in ["-o", "host/path", "http://a b", "deb[trusted=yes]://a", "https:host"] {
            assert!(mirror(text).is_err(), "{text}");
        }
    }
}
