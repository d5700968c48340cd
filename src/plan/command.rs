//! The payload: its working directory, its stub init and its program. Called by `plan`.

use super::step::{InitStep, StubSettings, UserLookup};
use super::{Facts, User, filter, identity};
use crate::error::{Error, Result};
use crate::machine::Machine;
use crate::machine::command::Payload;
use crate::machine::contract::Contract;
use std::ffi::{CString, OsString};
use std::path::PathBuf;

/// Returns the settings of the stub init.
pub(super) fn stub(machine: &Machine, facts: &Facts, has_console: bool) -> StubSettings {
    let is_shown = |line: &CString| {
        ["container=", "container_uuid="].iter().any(|name| line.to_bytes().starts_with(name.as_bytes()))
    };
    StubSettings {
        environment: identity::environment(machine, facts).into_iter().filter(is_shown).collect(),
        has_console,
        shows_signals: machine.contract == Contract::Coracle,
        leaves_root: facts.build.as_ref().is_some_and(|build| build.exposed_root.is_some()),
    }
}

/// Returns the steps to another user than root. systemd-nspawn(1) creates a missing home.
///
/// # Errors
/// A filter that cannot be compiled.
pub(super) fn user(machine: &Machine, facts: &Facts, policy: &filter::Policy) -> Result<Vec<InitStep>> {
    let User { uid, gid, groups, home, .. } = facts.user.clone();
    let is_root = uid == 0 && !facts.finds_user && machine.command.ids.is_none();
    if is_root || matches!(machine.command.payload, Payload::Boot { .. }) {
        return Ok(Vec::new());
    }
    let is_filtered = facts.finds_user && machine.switches.filter;
    let found = UserLookup {
        name: facts.user.name.clone(),
        listed: (uid != u32::MAX).then(|| facts.user.clone()),
        keeps_home: machine.contract == Contract::Nspawn,
        no_new_privileges: machine.security.no_new_privileges,
        filter: is_filtered.then(|| filter::compile(policy)).transpose()?,
    };
    let found = facts.finds_user.then_some(InitStep::FindUser(found));
    let creates_home = machine.contract == Contract::Nspawn && machine.command.ids.is_none();
    let created = creates_home.then(|| InitStep::CreateHome { path: PathBuf::from(home), uid, gid });
    Ok(found.into_iter().chain(created).chain([InitStep::User { uid, gid, groups }]).collect())
}

/// Returns the step to the working directory. A command of systemd-nspawn(1) starts in the root directory,
/// and so does its shell without a home.
pub(super) fn working_directory(machine: &Machine, facts: &Facts) -> InitStep {
    let home = || PathBuf::from(&facts.user.home);
    match (&machine.command.directory, &machine.command.payload, machine.contract) {
        (Some(directory), ..) => InitStep::Directory(directory.clone()),
        (None, Payload::Command { argv, .. }, Contract::Nspawn) if argv.is_empty() => InitStep::Home(home()),
        (None, Payload::Command { .. }, Contract::Coracle) if facts.finds_user => InitStep::Home(home()),
        (None, Payload::Command { .. }, Contract::Coracle) => InitStep::Directory(home()),
        (None, ..) => InitStep::Directory(PathBuf::from("/")),
    }
}

/// The shells of systemd-nspawn(1), whatever the user has.
const NSPAWN_SHELLS: [&str; 2] = ["/bin/bash", "/bin/sh"];

/// Returns the last step: the program and its arguments.
pub(super) fn execute(machine: &Machine, facts: &Facts) -> Result<InitStep> {
    let environment = identity::environment(machine, facts);
    let mut is_login = false;
    let (programs, argv) = match &machine.command.payload {
        Payload::Boot { arguments } => {
            let (path, _) = facts.init.clone().ok_or_else(|| no_init(machine))?;
            let name = path.clone().into_os_string();
            let extra = identity::systemd_arguments(machine, facts, arguments);
            (vec![path], std::iter::once(name).chain(arguments.iter().cloned()).chain(extra).collect())
        }
        Payload::Command { argv, .. } if argv.is_empty() && machine.contract == Contract::Nspawn => {
            is_login = true;
            (NSPAWN_SHELLS.map(PathBuf::from).into(), vec![OsString::from("-")])
        }
        Payload::Command { argv, .. } if argv.is_empty() && facts.finds_user => {
            is_login = true;
            (Vec::new(), vec![OsString::from("-")])
        }
        Payload::Command { argv, .. } if argv.is_empty() => {
            let shell = facts.user.shell.clone();
            let name = format!("-{}", shell.rsplit('/').next().unwrap_or("sh"));
            (vec![PathBuf::from(shell)], vec![OsString::from(name)])
        }
        Payload::Command { argv, .. } => (candidates(argv, &machine.command.environment), argv.clone()),
        Payload::Hold => (Vec::new(), Vec::new()),
    };
    Ok(InitStep::Execute { programs, argv, is_login, environment })
}

fn no_init(machine: &Machine) -> Error {
    Error::new(format!("there is no init in '{}'", machine.root.path().display()))
        .with_hint("install an init system in the tree, or name a program with boot.init")
}

/// Returns the candidates for a command's program, as execvp(3) does.
pub(crate) fn candidates(argv: &[OsString], environment: &[(String, String)]) -> Vec<PathBuf> {
    let program = PathBuf::from(argv.first().cloned().unwrap_or_default());
    if program.components().count() > 1 || program.is_absolute() {
        return vec![program];
    }
    identity::search_path(environment).map(|directory| PathBuf::from(directory).join(&program)).collect()
}
