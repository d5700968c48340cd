//! A row of the conformance table and the check of its output. The files are read when the test runs: a
//! changed row needs no build.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::Path;

use serde::Deserialize;

use crate::support::Output;

/// The directory of the table.
const TABLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/nspawn");
/// The names that rows cover.
const NAMES: &str = include_str!("../../nspawn/names.txt");

/// One row. Scripts run with `set -eu`; see setup.sh and run.sh for what they may use.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Row {
    /// The file of the row, without suffix.
    #[serde(skip)]
    pub subject: String,
    /// The claim, unique in the table.
    pub name: String,
    /// The options, settings and variables of names.txt that the row is about.
    #[serde(default)]
    pub covers: Vec<String>,
    /// The options as shell text, after those of every row.
    #[serde(default)]
    options: String,
    /// The options of every row, the root and the command are left to `options`.
    #[serde(default)]
    bare: bool,
    /// Assignments for the environment of the program, as shell text.
    #[serde(default)]
    environment: String,
    /// The tree of the root: `tiny` (busybox, a private copy) or `debian` (an overlay).
    tree: Option<String>,
    /// The text of /etc/systemd/nspawn/web.nspawn.
    trusted: Option<String>,
    /// The text of web.nspawn beside the image.
    untrusted: Option<String>,
    /// The script that runs inside.
    inside: Option<String>,
    /// Scripts on the host: before the run, during it, and after it with the exit status in `$status`.
    #[serde(default)]
    before: String,
    #[serde(default)]
    during: String,
    #[serde(default)]
    after: String,
    /// The expected result: the exit status, the whole standard output, and parts of standard error.
    #[serde(default)]
    status: i32,
    stdout: Option<String>,
    #[serde(default)]
    stderr: Vec<String>,
    /// The first version of systemd for which the row holds.
    pub since: Option<u32>,
    /// A script on the host: the row is skipped if it fails.
    pub needs: Option<String>,
    /// A script on the host: systemd-nspawn does not run if it fails.
    pub real_needs: Option<String>,
    /// The reason why coracle deviates from the row, which it must.
    pub differs: Option<String>,
    /// The reason why coracle does not conform yet.
    pub unbuilt: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    row: Vec<Row>,
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.subject, self.name)
    }
}

impl Row {
    /// Returns whether the row is selected.
    pub fn matches(&self, text: &str) -> bool {
        self.to_string().contains(text)
    }

    /// Returns the arguments of the program, as shell text.
    pub fn line(&self) -> String {
        let Self { options, .. } = self;
        match (self.bare, &self.inside) {
            (true, None) => options.clone(),
            (true, Some(_)) => format!(r#"{options} sh -euc "$INSIDE""#),
            (false, None) => format!(r#"$USUAL -D "$R" {options} true"#),
            (false, Some(_)) => format!(r#"$USUAL -D "$R" {options} sh -euc "$INSIDE""#),
        }
    }

    /// Returns the script of the row on the host.
    pub fn script(&self) -> String {
        let during =
            if self.during.is_empty() { String::new() } else { format!("during() {{ {}\n}}", self.during) };
        let Self { before, after, environment, .. } = self;
        let line = self.line();
        script("run.sh")
            .replace("@before@", before)
            .replace("@during@", &during)
            .replace("@after@", after)
            .replace("@program@", &format!("{environment} systemd-nspawn {line}"))
    }

    /// Returns the variables of the script, as arguments of env(1).
    pub fn variables(&self) -> Vec<String> {
        [
            ("TREE", &self.tree),
            ("INSIDE", &self.inside),
            ("TRUSTED", &self.trusted),
            ("UNTRUSTED", &self.untrusted),
        ]
        .into_iter()
        .filter_map(|(name, text)| text.as_ref().map(|text| format!("{name}={text}")))
        .collect()
    }

    /// Returns how the output differs from what must be seen.
    pub fn deviation(&self, out: &Output) -> Option<String> {
        if out.status != self.status {
            return Some(format!("the status must be {}", self.status));
        }
        if let Some(stdout) = self.stdout.as_ref().filter(|text| text.trim_end() != out.stdout.trim_end()) {
            return Some(format!("standard output must be {stdout:?}"));
        }
        self.stderr
            .iter()
            .find(|part| !out.stderr.contains(part.as_str()))
            .map(|part| format!("standard error must contain {part:?}"))
    }
}

/// Returns all rows, in the order of the file names and of each file.
pub fn all() -> Vec<Row> {
    let mut files: Vec<_> = fs::read_dir(TABLE)
        .expect("list the table")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    files.sort();
    let rows: Vec<Row> = files.iter().flat_map(|path| rows_of(path)).collect();
    let names: BTreeSet<_> = rows.iter().map(|row| &row.name).collect();
    assert_eq!(names.len(), rows.len(), "two rows have one name");
    rows
}

/// Returns a script of the table.
pub fn script(name: &str) -> String {
    fs::read_to_string(Path::new(TABLE).join(name)).expect("read a script of the table")
}

fn rows_of(path: &Path) -> Vec<Row> {
    let text = fs::read_to_string(path).expect("read a file of the table");
    let file: File = toml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let subject = path.file_stem().expect("a file name").to_string_lossy().into_owned();
    file.row.into_iter().map(|row| Row { subject: subject.clone(), ..row }).collect()
}

/// Returns the names that rows must cover.
pub fn names() -> impl Iterator<Item = &'static str> {
    NAMES.lines().filter(|line| !line.starts_with('#')).flat_map(str::split_whitespace)
}
