//! The files of a build session, as steps: its build user and its host names. Called by `plan`.

use super::Facts;
use super::step::{BuildStep, InitStep, SessionFile};
use std::path::PathBuf;

/// The build user and the files of a build session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildFacts {
    /// User and group of the caller on the host.
    pub(crate) caller: (u32, u32),
    /// User and group of the build user inside.
    pub(crate) inside: (u32, u32),
    /// The home directory to create. `None` for a user of the base.
    pub(crate) home: Option<PathBuf>,
    /// Files in the place of those of the base, with their content.
    pub(crate) files: Vec<(PathBuf, String)>,
    /// The emulator that the session registers for its programs. `None` if the host can execute them.
    pub(crate) emulator: Option<Emulator>,
    /// The path of the host at which the root is mounted too. `None` for a root without one.
    pub(crate) exposed_root: Option<PathBuf>,
}

/// An emulator of the host, for the programs of one architecture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Emulator {
    /// Its program on the host, which needs no file of the session.
    pub(crate) program: PathBuf,
    /// The name of the format in binfmt_misc.
    pub(crate) name: String,
    /// The bytes at the start of the programs, and those of their bits that count, in the notation of binfmt_misc.
    pub(crate) magic: String,
}

/// Returns the step that registers the emulator of a session, if it needs one.
pub(super) fn emulator(facts: &Facts) -> Option<InitStep> {
    let emulator = facts.build.as_ref()?.emulator.as_ref()?;
    Some(InitStep::Emulator { name: emulator.name.clone(), magic: emulator.magic.clone() })
}

/// Returns the steps that create the files.
pub(super) fn files(facts: &Facts) -> Vec<BuildStep> {
    let Some(build) = &facts.build else { return Vec::new() };
    // Programs keep lock files there, also without an init that creates the directory.
    let mut steps = vec![BuildStep::Directory { path: "/run/lock".into(), mode: 0o1777 }];
    let replace = |(path, content): &(PathBuf, String)| {
        BuildStep::Session(SessionFile::Replace { path: path.clone(), content: content.clone() })
    };
    steps.extend(build.files.iter().map(replace));
    if let Some(home) = &build.home {
        steps.push(BuildStep::Directory { path: "/home".into(), mode: 0o755 });
        let home = SessionFile::Home { path: home.clone(), owner: build.inside };
        steps.push(BuildStep::Session(home));
    }
    steps
}
