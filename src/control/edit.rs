//! `edit`: the definition of a machine in an editor. The editor works on a hidden copy; the definition is
//! replaced only by one without errors. Called by `cli`.

use super::{preflight, running};
use crate::config::{Problem, ProblemSeverity};
use crate::error::{Context, Error, ErrorName, Result};
use crate::host::probe;
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
    let definition = Definition::find(paths, name)?;
    let draft = Draft::beside(&definition.file, name)?;
    let stored = edit_text(&draft, definition.begun(name), &mut |text| {
        match definition.store(paths, name, &draft, text) {
            Ok(stored) => Ok(stored.map_err(|problems| problems.iter().map(ToString::to_string).collect())),
            // The text is not lost.
            Err(error) if error.name() == ErrorName::Changed => Ok(Err(vec![error.to_string()])),
            Err(error) => Err(error),
        }
    })?;
    Ok(stored.unwrap_or(EditResult::Unchanged))
}

/// Replaces the definition of a machine in `/etc` by a text, if it has no errors.
///
/// # Errors
/// A definition that is a link, or all errors of the text.
pub(crate) fn define(paths: &Paths, name: &Name, text: &str) -> std::result::Result<EditResult, Vec<Error>> {
    let one = |error: Error| vec![error];
    let definition = Definition::find(paths, name).map_err(one)?;
    if definition.old.as_deref() == Some(text) {
        return Ok(EditResult::Unchanged);
    }
    let draft = Draft::beside(&definition.file, name).map_err(one)?;
    let stored = definition.store(paths, name, &draft, text).map_err(one)?;
    stored.map_err(|problems| problems.iter().map(refusal).collect())
}

/// The result of storing a text, or the problems of the text.
type Stored<T, P> = Result<std::result::Result<T, Vec<P>>>;

/// Opens the definition of a machine in an editor, as a user without the right to replace it: `define` does it,
/// and returns the output, or the errors of the text. `None` if the text was not changed.
///
/// # Errors
/// A definition that this user may not read, an editor that fails, or errors that are left unchanged.
pub(crate) fn edit_elsewhere(
    paths: &Paths,
    name: &Name,
    define: &mut dyn FnMut(&str) -> Stored<String, Error>,
) -> Result<Option<String>> {
    let definition = Definition::find(paths, name)
        .map_err(|error| error.with_hint(format!("run 'sudo coracle edit {name}'")))?;
    let draft = Draft::of_user(name)?;
    let described = |error: &Error| match error.hint() {
        Some(hint) => format!("{error}\nhint: {hint}"),
        None => error.to_string(),
    };
    edit_text(&draft, definition.begun(name), &mut |text| {
        Ok(define(text)?.map_err(|errors| errors.iter().map(described).collect()))
    })
}

/// Edits a text until it is stored. `store` returns the problems of a text that is not. `None` if the text was not
/// changed.
fn edit_text<T>(
    draft: &Draft,
    begun: String,
    store: &mut dyn FnMut(&str) -> Stored<T, String>,
) -> Result<Option<T>> {
    let (mut text, mut problems) = (begun.clone(), Vec::new());
    loop {
        let marks: String = problems.iter().map(|problem: &String| marked(problem)).collect();
        draft.write(&(marks + &text))?;
        run_editor(&draft.file)?;
        let edited = read(&draft.file)?.unwrap_or_default();
        let edited: String = edited.split_inclusive('\n').filter(|line| !line.starts_with(MARK)).collect();
        if edited == begun && problems.is_empty() {
            return Ok(None);
        }
        if edited == text && !problems.is_empty() {
            return Err(Error::new(format!(
                "the definition has errors, and was not replaced: {}",
                problems.join("; ")
            )));
        }
        text = edited;
        match store(&text)? {
            Ok(stored) => return Ok(Some(stored)),
            Err(found) => problems = found,
        }
    }
}

/// The definition of a machine in `/etc`.
struct Definition {
    file: PathBuf,
    /// Its text. `None` if it does not exist.
    old: Option<String>,
    /// The text of the definition in another directory.
    other: Option<String>,
}

impl Definition {
    fn find(paths: &Paths, name: &Name) -> Result<Self> {
        let files = paths.definitions().map(|directory| directory.join(format!("{name}.toml")));
        let [file, others @ ..] = &files;
        if file.is_symlink() {
            return Err(Error::new(format!("'{}' is a symbolic link", file.display()))
                .with_hint("edit the file that it leads to, or remove the link"));
        }
        let other = others.iter().find(|file| file.is_file()).map(|other| read(other)).transpose()?.flatten();
        Ok(Self { file: file.clone(), old: read(file)?, other })
    }

    /// Returns the text at the begin of the edit.
    fn begun(&self, name: &Name) -> String {
        self.old.clone().or_else(|| self.other.clone()).unwrap_or_else(|| head(name))
    }

    /// Checks a text with the other files of the machine, and replaces the definition by it. With errors it is not
    /// replaced, and they are returned.
    ///
    /// # Errors
    /// Another definition than at the begin of the edit, or any error of rename(2).
    fn store(
        &self,
        paths: &Paths,
        name: &Name,
        draft: &Draft,
        text: &str,
    ) -> Result<std::result::Result<EditResult, Vec<Problem>>> {
        let checked = preflight::check_replaced(paths, name, text)
            .map(|checked| checked.problems)
            .unwrap_or_else(|error| vec![Problem::new(Some(&self.file), &error)]);
        let (errors, warnings): (Vec<_>, Vec<_>) =
            checked.into_iter().partition(|problem| problem.severity == ProblemSeverity::Error);
        if !errors.is_empty() {
            return Ok(Err(errors));
        }
        draft.write(text)?;
        if read(&self.file)? != self.old {
            let message = format!("'{}' was changed by another program meanwhile", self.file.display());
            return Err(Error::new(message).named(ErrorName::Changed).with_hint("edit it again"));
        }
        draft.install(&self.file)?;
        let is_running = running(paths, name).is_ok();
        Ok(Ok(EditResult::Stored { file: self.file.clone(), warnings, is_running }))
    }
}

/// Returns a problem as an error.
fn refusal(problem: &Problem) -> Error {
    let text = problem.to_string();
    let error = Error::new(text.lines().next().unwrap_or_default()).named(ErrorName::BadDefinition);
    match &problem.hint {
        Some(hint) => error.with_hint(hint.as_str()),
        None => error,
    }
}

/// Returns a problem, which can have several lines, as comments.
fn marked(problem: &str) -> String {
    problem.lines().map(|line| format!("{MARK}{line}\n")).collect()
}

/// The text of a new definition.
fn head(name: &Name) -> String {
    format!(
        "# The definition of machine '{name}', see coracle.toml(5). For example:\n#\n# [network]\n# ports = \
         [\"8080:80\"]\n#\n# [resources]\n# memory-max = \"1G\"\n"
    )
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

/// The copy that is edited, in a private directory. Deleted on drop.
struct Draft {
    directory: PathBuf,
    file: PathBuf,
}

impl Draft {
    /// Creates a copy beside the definition, which it can replace.
    fn beside(target: &Path, name: &Name) -> Result<Self> {
        let parent = target.parent().unwrap_or_else(|| Path::new("/"));
        std::fs::create_dir_all(parent).context(|| format!("cannot create '{}'", parent.display()))?;
        Self::create(parent.join(format!(".{name}.edit-{}", std::process::id())), name)
    }

    /// Creates a copy in a directory of this user.
    fn of_user(name: &Name) -> Result<Self> {
        let parent = std::env::var_os("XDG_RUNTIME_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
        Self::create(parent.join(format!("coracle-edit-{}", probe::random_id())), name)
    }

    fn create(directory: PathBuf, name: &Name) -> Result<Self> {
        // A definition with secrets is readable for root only, and so is its copy.
        let created = std::fs::DirBuilder::new().mode(0o700).create(&directory);
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
