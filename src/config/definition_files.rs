//! Finds and reads the files that define a machine, in their order. Called by `config` and `check`; `toml`
//! parses their text.

use super::layer::Layer;
use super::problem::Problem;
use super::toml;
use crate::error::{Error, Result};
use crate::machine::name::Name;
use crate::paths::Paths;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The maximum size of a definition, bytes.
const MAX_SIZE: u64 = 256 << 10;

/// The files that define one machine.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Files {
    /// `NAME.toml` of the first directory that contains it.
    pub(crate) main: Option<PathBuf>,
    /// The drop-ins in effect, in the order in which they are merged.
    pub(crate) drop_ins: Vec<PathBuf>,
    /// A text in place of that of `main`, before it is stored.
    text: Option<String>,
}

impl Files {
    /// Finds the files of the machine `name`.
    ///
    /// # Errors
    /// A directory cannot be read.
    pub(crate) fn of(paths: &Paths, name: &Name) -> Result<Self> {
        Self::among(&paths.definitions(), name)
    }

    /// Finds the files of the machine `name` as they are once its definition has this text.
    ///
    /// # Errors
    /// A directory cannot be read.
    pub(crate) fn with_text(paths: &Paths, name: &Name, text: &str) -> Result<Self> {
        let directories = paths.definitions();
        let main = directories.first().map(|directory| directory.join(format!("{name}.toml")));
        Ok(Self { main, text: Some(text.to_owned()), ..Self::among(&directories, name)? })
    }

    /// Finds the files of a name in these directories, the first of which has precedence.
    ///
    /// # Errors
    /// A directory cannot be read.
    pub(crate) fn among(directories: &[PathBuf], name: &Name) -> Result<Self> {
        let mut main = None;
        // By file name: a drop-in replaces one of the same name in a later directory.
        let mut drop_ins: BTreeMap<OsString, PathBuf> = BTreeMap::new();
        for directory in directories {
            let file = directory.join(format!("{name}.toml"));
            if main.is_none() && fs::symlink_metadata(&file).is_ok() {
                main = Some(file);
            }
            for (file_name, file) in list(&directory.join(format!("{name}.toml.d")), "toml")? {
                drop_ins.entry(file_name).or_insert(file);
            }
        }
        Ok(Self { main, drop_ins: drop_ins.into_values().collect(), text: None })
    }

    /// Returns whether no file defines the machine.
    pub(crate) fn is_empty(&self) -> bool {
        self.main.is_none() && self.drop_ins.is_empty()
    }

    /// Iterates over all files, the lowest layer first.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Path> {
        self.main.iter().chain(&self.drop_ins).map(PathBuf::as_path)
    }

    /// Reads and merges the files. Returns the layer and all problems.
    pub(crate) fn read(&self) -> (Layer, Vec<Problem>) {
        let mut layer = Layer::default();
        let mut problems = Vec::new();
        for file in self.all() {
            let text = self.text.as_ref().filter(|_| self.main.as_deref() == Some(file));
            let (above, found) = text.map_or_else(|| read(file), |text| toml::read(file, text));
            layer = above.over(layer);
            problems.extend(found);
        }
        (layer, problems)
    }

    /// Returns the definition if it is a link to `/dev/null`, which masks the machine.
    pub(crate) fn mask(&self) -> Option<&Path> {
        let is_device =
            |file: &&Path| fs::metadata(file).is_ok_and(|found| found.file_type().is_char_device());
        self.main.as_deref().filter(is_device)
    }
}

/// Reads one file. Returns its layer and all problems.
pub fn read(file: &Path) -> (Layer, Vec<Problem>) {
    match text(file) {
        Ok(text) => toml::read(file, &text),
        Err(error) => (Layer::default(), vec![Problem::new(Some(file), &error)]),
    }
}

/// Returns the names of the machines with a definition, and problems of definitions with an invalid name.
///
/// # Errors
/// A directory cannot be read.
pub(crate) fn defined(paths: &Paths) -> Result<(BTreeSet<Name>, Vec<Problem>)> {
    defined_in(&paths.definitions())
}

/// Returns the names with a definition in these directories, and problems of definitions with an invalid name.
///
/// # Errors
/// A directory cannot be read.
pub(super) fn defined_in(directories: &[PathBuf]) -> Result<(BTreeSet<Name>, Vec<Problem>)> {
    let mut names = BTreeSet::new();
    let mut problems = Vec::new();
    for directory in directories {
        for (file_name, file) in list(directory, "toml")? {
            let stem = file_name.to_str().and_then(|name| name.strip_suffix(".toml")).unwrap_or_default();
            match Name::new(stem) {
                Ok(name) => drop(names.insert(name)),
                Err(error) => problems.push(Problem::new(Some(&file), &error)),
            }
        }
    }
    Ok((names, problems))
}

/// Returns the files of `directory` with this suffix; none if it does not exist.
pub(super) fn list(directory: &Path, suffix: &str) -> Result<Vec<(OsString, PathBuf)>> {
    let unreadable =
        |error| Error::from(error).context(format!("cannot read the directory '{}'", directory.display()));
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(unreadable(error)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let name = entry.map_err(unreadable)?.file_name();
        let file = directory.join(&name);
        // Editors create hidden files while a file is being edited.
        let hidden = name.as_encoded_bytes().starts_with(b".");
        if !hidden && file.extension().is_some_and(|extension| extension == suffix) {
            files.push((name, file));
        }
    }
    files.sort();
    Ok(files)
}

/// Opens a file for [`bytes`]. Pipes and terminals cannot block it.
///
/// # Errors
/// Any error of open(2).
pub(super) fn open(file: &Path) -> std::io::Result<fs::File> {
    fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(file)
}

/// Returns the content of a file of at most [`MAX_SIZE`]; that of a device, for example `/dev/null`, is
/// empty.
///
/// # Errors
/// Any error of read(2), or a file of another type or size.
pub(super) fn bytes(open: fs::File) -> Result<Vec<u8>> {
    let found = open.metadata().map_err(|error| Error::from(error).context("cannot read the file"))?;
    if found.file_type().is_char_device() {
        return Ok(Vec::new());
    }
    if !found.is_file() {
        return Err(Error::new("not a regular file"));
    }
    let mut bytes = Vec::new();
    open.take(MAX_SIZE + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Error::from(error).context("cannot read the file"))?;
    if bytes.len() as u64 > MAX_SIZE {
        return Err(Error::new("the file is larger than 256 KiB"));
    }
    Ok(bytes)
}

/// Returns the text of a file.
fn text(file: &Path) -> Result<String> {
    let open = open(file).map_err(|error| Error::from(error).context("cannot read the file"))?;
    String::from_utf8(bytes(open)?).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..valid].iter().filter(|byte| **byte == b'\n').count() + 1;
        Error::new(format!("line {line} is not UTF-8"))
    })
}
