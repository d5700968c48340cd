//! The files of a build session, as steps: its build user and its host names. Called by `plan`.

use super::Facts;
use super::step::{BuildStep, SessionFile};
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
