//! `edit`: the definition of a machine in an editor. The editor works on a hidden copy; the definition is
//! replaced only by one without errors. Called by `cli`.

use super::{preflight, running};
use crate::config::{Problem, ProblemSeverity};
use crate::error::{Context, Error, Result};
use crate::machine::name::Name;
use crate::paths::Paths;
use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The editors without `EDITOR` and `VISUAL`, in order of preference.
const EDITORS: [&str; 4] = ["editor", "nano", "vim", "vi"];
/// The beginning of the lines that report problems in the copy.
const MARK: &str = "#! ";

/// The result of [`edit`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum EditResult {
    /// The text was not changed.
    Unchanged,
    /// The definition was replaced.
    Stored {
        /// The file.
        file: PathBuf,
        /// The warnings about it.
        warnings: Vec<Problem>,
        /// Whether the machine is running, with its former definition.
        is_running: bool,
    },
}

/// Opens the definition of a machine in `/etc` in an editor, until it has no errors. A new one begins with
/// comments, or is a copy of that in another directory.
///
/// # Errors
/// A definition that is a link, an editor that fails, or errors that are left unchanged.
pub(crate) fn edit(paths: &Paths, name: &Name) -> Result<EditResult> {
    let files = paths.definitions().map(|directory| directory.join(format!("{name}.toml")));
    let [file, others @ ..] = &files;
    if file.is_symlink() {
        return Err(Error::new(format!("'{}' is a symbolic link", file.display()))
            .with_hint("edit the file that it leads to, or remove the link"));
    }
    let old = read(file)?;
    let begun = match (&old, others.iter().find(|file| file.is_file())) {
        (Some(text), _) => text.clone(),
        (None, Some(other)) => read(other)?.unwrap_or_default(),
        (None, None) => head(name),
    };
    let draft = Draft::create(file, name)?;
    let (mut text, mut problems) = (begun.clone(), Vec::new());
    loop {
        let marks: String = problems.iter().map(marked).collect();
        let shown = marks + &text;
        draft.write(&shown)?;
        run_editor(&draft.file)?;
        let edited = read(&draft.file)?.unwrap_or_default();
        let edited: String = edited.split_inclusive('\n').filter(|line| !line.starts_with(MARK)).collect();
        if edited == begun && problems.is_empty() {
            return Ok(EditResult::Unchanged);
        }
        if edited == text && !problems.is_empty() {
            let all: Vec<String> = problems.iter().map(ToString::to_string).collect();
            return Err(Error::new(format!(
                "the definition has errors, and was not replaced: {}",
                all.join("; ")
            )));
        }
        text = edited;
        draft.write(&text)?;
        draft.install(file)?;
        let checked = preflight::check_named(paths, &[PathBuf::from(name.as_str())])
            .map(|checked| checked.problems)
            .unwrap_or_else(|error| vec![Problem::new(Some(file), &error)]);
        let (errors, warnings): (Vec<_>, Vec<_>) =
            checked.into_iter().partition(|problem| problem.severity == ProblemSeverity::Error);
        if errors.is_empty() {
            let is_running = running(paths, name).is_ok();
            return Ok(EditResult::Stored { file: file.clone(), warnings, is_running });
        }
        restore(&draft, file, old.as_deref())?;
        problems = errors;
    }
}

/// Returns a problem, which can have several lines, as comments.
fn marked(problem: &Problem) -> String {
    problem.to_string().lines().map(|line| format!("{MARK}{line}\n")).collect()
}

/// The text of a new definition.
fn head(name: &Name) -> String {
    format!(
        "# The definition of machine '{name}', see coracle.toml(5). For example:\n#\n# [network]\n# ports = \
         [\"8080:80\"]\n#\n# [resources]\n# memory-max = \"1G\"\n"
    )
}

/// Restores the previous definition.
fn restore(draft: &Draft, file: &Path, old: Option<&str>) -> Result<()> {
    match old {
        Some(text) => draft.write(text).and_then(|()| draft.install(file)),
        None => std::fs::remove_file(file).context(|| format!("cannot delete '{}'", file.display())),
    }
}

/// Reads a file. `None` if it does not exist.
fn read(file: &Path) -> Result<Option<String>> {
    match std::fs::read_to_string(file) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        text => text.map(Some).context(|| format!("cannot read '{}'", file.display())),
    }
}

/// Runs the editor of the user on a file.
fn run_editor(file: &Path) -> Result<()> {
    let words = editor()?;
    let program = words.first().cloned().unwrap_or_default();
    let shown = program.to_string_lossy().into_owned();
    let status = Command::new(&program).args(words.iter().skip(1)).arg(file).status();
    let status = status.context(|| format!("cannot execute the editor '{shown}'"))?;
    if status.success() {
        return Ok(());
    }
    Err(Error::new(format!("the editor '{shown}' failed: {status}"))
        .with_hint("the definition was not replaced; set EDITOR to choose another editor"))
}

/// Returns the command of the editor: a program and its options.
fn editor() -> Result<Vec<OsString>> {
    let chosen = ["EDITOR", "VISUAL"].iter().filter_map(|variable| std::env::var(variable).ok());
    let mut commands = chosen.map(|text| text.split_whitespace().map(OsString::from).collect::<Vec<_>>());
    if let Some(command) = commands.find(|words| !words.is_empty()) {
        return Ok(command);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let exists =
        |program: &&&str| std::env::split_paths(&path).any(|directory| directory.join(program).is_file());
    let found = EDITORS.iter().find(exists).map(|program| vec![OsString::from(program)]);
    found.ok_or_else(|| Error::new("there is no editor").with_hint("set EDITOR, for example to nano"))
}

/// The copy that is edited, in a hidden directory beside the definition. Deleted on drop.
struct Draft {
    directory: PathBuf,
    file: PathBuf,
}

impl Draft {
    fn create(target: &Path, name: &Name) -> Result<Self> {
        let parent = target.parent().unwrap_or_else(|| Path::new("/"));
        let directory = parent.join(format!(".{name}.edit-{}", std::process::id()));
        // A definition with secrets is readable for root only, and so is its copy.
        let private = || std::fs::DirBuilder::new().mode(0o700).create(&directory);
        let created = std::fs::create_dir_all(parent).and_then(|()| private());
        created.context(|| format!("cannot create '{}'", directory.display()))?;
        Ok(Self { file: directory.join(format!("{name}.toml")), directory })
    }

    fn write(&self, text: &str) -> Result<()> {
        std::fs::write(&self.file, text).context(|| format!("cannot write '{}'", self.file.display()))
    }

    /// Replaces the definition, whose mode is kept.
    fn install(&self, target: &Path) -> Result<()> {
        let replacing = || format!("cannot replace '{}'", target.display());
        if let Ok(metadata) = target.metadata() {
            std::fs::set_permissions(&self.file, metadata.permissions()).context(replacing)?;
        }
        std::fs::rename(&self.file, target).context(replacing)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // Leftovers are hidden, and no definitions.
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}
