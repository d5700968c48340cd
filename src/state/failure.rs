//! The failure record of a machine, in `/var/lib/coracle/failures/NAME.json`: the failed step, the cause, the
//! exit of PID 1 and its last output. Written by the supervisor, replaced by the next failure, deleted by the
//! next successful start; read by `status` and `doctor`. One small file per machine.

use crate::error::{Context, Error, Result};
use crate::machine::name::Name;
use crate::paths::{Paths, store};
use serde::{Deserialize, Serialize};
use std::io::Read;

/// The greatest number of console lines, and of failed units.
pub(crate) const LINES: usize = 12;
/// The longest text in characters: the guest controls its console.
const LONGEST: usize = 400;
/// The greatest size of a record in bytes.
const LIMIT: u64 = 64 << 10;

/// The last failure of a machine. Missing fields are the default, unknown ones are ignored.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
pub(crate) struct Failure {
    /// The time of the failure, microseconds since the epoch.
    pub(crate) time: u64,
    /// Time from the start to the failure, milliseconds. `None` if PID 1 was not executed.
    pub(crate) uptime_ms: Option<u64>,
    /// The failed step: `set up`, `booting`, `running` or `stopping`.
    pub(crate) step: String,
    /// The cause.
    pub(crate) cause: String,
    /// The hint, if there is one.
    pub(crate) hint: Option<String>,
    /// The exit status of PID 1.
    pub(crate) exit_status: Option<u8>,
    /// The signal that killed PID 1.
    pub(crate) signal: Option<i32>,
    /// Whether the out-of-memory killer has killed a process.
    pub(crate) out_of_memory: bool,
    /// Whether the system-call filter has killed PID 1.
    pub(crate) seccomp_denied: bool,
    /// The last lines of its console, oldest first.
    pub(crate) console: Vec<String>,
    /// Units of the guest that failed, according to its console.
    pub(crate) failed_units: Vec<String>,
}

impl Failure {
    /// Writes the record atomically, with every text cut to its bound.
    ///
    /// # Errors
    /// The file that cannot be written, and the cause.
    pub(crate) fn write(&self, paths: &Paths, name: &Name) -> Result<()> {
        let file = paths.failure(name);
        let doing = || format!("cannot write the failure record '{}'", file.display());
        let text =
            serde_json::to_vec_pretty(&self.bounded()).map_err(|error| Error::new(error.to_string()))?;
        std::fs::create_dir_all(paths.kept().join("failures"))
            // Readable for root only, like the journal: it has the end of the guest's console.
            .and_then(|()| store::replace(&file, &text, 0o600))
            .context(doing)
    }

    fn bounded(&self) -> Self {
        let cut = |text: &str| text.chars().take(LONGEST).collect::<String>();
        let last =
            |all: &[String]| all.iter().skip(all.len().saturating_sub(LINES)).map(|text| cut(text)).collect();
        Self {
            cause: self.cause.chars().take(4 * LONGEST).collect(),
            hint: self.hint.as_ref().map(|hint| hint.chars().take(4 * LONGEST).collect()),
            console: last(&self.console),
            failed_units: last(&self.failed_units),
            ..self.clone()
        }
    }

    /// Returns the failure record of a machine. `None` if its last start succeeded.
    ///
    /// # Errors
    /// The record cannot be read or parsed.
    pub(crate) fn read(paths: &Paths, name: &Name) -> Result<Option<Self>> {
        let path = paths.failure(name);
        let doing = || format!("cannot read the failure record '{}'", path.display());
        let file = match std::fs::File::open(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            file => file.context(doing)?,
        };
        let mut bytes = Vec::new();
        file.take(LIMIT).read_to_end(&mut bytes).context(doing)?;
        serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|error| Error::new(error.to_string()).context(doing()))
    }

    /// Deletes the failure record: the machine is up.
    pub(crate) fn forget(paths: &Paths, name: &Name) {
        match std::fs::remove_file(paths.failure(name)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                log::warn!("cannot delete the failure record of machine '{name}': {error}, ignoring");
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_bounded_replaced_and_deleted() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::below(root.path());
        let name = Name::new("web").unwrap();
        assert_eq!(Failure::read(&paths, &name), Ok(None));
        let failure = Failure {
            cause: "x".repeat(100_000),
            console: vec!["\u{1b}".repeat(9_000); 1000],
            ..Failure::default()
        };
        failure.write(&paths, &name).unwrap();
        assert!(std::fs::metadata(paths.failure(&name)).unwrap().len() < LIMIT);
        assert_eq!(Failure::read(&paths, &name).unwrap().unwrap().console.len(), LINES);
        Failure { cause: "other".into(), ..Failure::default() }.write(&paths, &name).unwrap();
        assert_eq!(Failure::read(&paths, &name).unwrap().unwrap().cause, "other");
        Failure::forget(&paths, &name);
        assert_eq!(Failure::read(&paths, &name), Ok(None));
        assert_eq!(std::fs::read_dir(paths.kept().join("failures")).unwrap().count(), 0);
    }
}
