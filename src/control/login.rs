//! `login` and `shell --session`: selects the command that `exec` runs to log in, by the programs in the
//! tree. No bus of the guest is used.

use super::exec::{ExecRequest, TerminalMode};
use super::{guest_child, require_root, running, signal};
use crate::error::{Error, Kind, Result};
use crate::host::probe::Tree;
use crate::machine::name::Name;
use crate::paths::Paths;
use std::ffi::OsString;
use std::path::Path;

/// The programs that request a user's name and password on the given terminal, in order of preference.
const PROMPTS: [&[&str]; 3] =
    [&["/sbin/agetty", "--noclear", "--keep-baud", "-"], &["/bin/login"], &["/sbin/getty", "0", "-"]];

/// Returns the request for a login prompt on a new terminal.
///
/// # Errors
/// The machine is not running, or has no login program. They are of kind [`Kind::Launch`].
pub(crate) fn login<'a>(paths: &Paths, name: &'a Name, disconnects: bool) -> Result<ExecRequest<'a>> {
    prompt(paths, name, disconnects).map_err(|error| error.with_kind(Kind::Launch))
}

fn prompt<'a>(paths: &Paths, name: &'a Name, disconnects: bool) -> Result<ExecRequest<'a>> {
    let (found, is_locked) = read_tree(paths, name, |tree| {
        let found = PROMPTS.iter().position(|prompt| tree.has(Path::new(prompt[0])));
        Ok((found, tree.has_locked_users()))
    })?;
    if is_locked {
        log::warn!("no user of machine '{name}' has a password");
        log::warn!("hint: open a shell without a password: coracle shell {name}");
    }
    let prompt = found.and_then(|at| PROMPTS.get(at)).ok_or_else(|| {
        Error::new(format!("machine '{name}' has no login program"))
            .with_hint(format!("open a shell without a password: coracle shell {name}"))
    })?;
    Ok(ExecRequest {
        name,
        argv: prompt.iter().map(OsString::from).collect(),
        user: None,
        directory: None,
        environment: Vec::new(),
        terminal: TerminalMode::Yes,
        wait_ready: false,
        disconnects,
        announces: true,
        apart: super::exec::Apart::default(),
    })
}

/// Changes the request for a shell into one for a session of the machine's logind: a transient unit of its
/// systemd, opened by PAM like a login.
///
/// # Errors
/// A machine without systemd-run(1), of kind [`Kind::Launch`].
pub(crate) fn as_session(paths: &Paths, request: &mut ExecRequest<'_>) -> Result<()> {
    session(paths, request).map_err(|error| error.with_kind(Kind::Launch))
}

fn session(paths: &Paths, request: &mut ExecRequest<'_>) -> Result<()> {
    let (user, group) = match request.user.unwrap_or("root").split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (request.user.unwrap_or("root"), None),
    };
    let (has_systemd, user) = read_tree(paths, request.name, |tree| {
        Ok((tree.has(Path::new("/usr/bin/systemd-run")), tree.user(user)?))
    })?;
    if !has_systemd {
        return Err(Error::new(format!("machine '{}' has no systemd to create a session", request.name))
            .with_hint("open the shell without --session"));
    }
    let mut words: Vec<OsString> =
        ["/usr/bin/systemd-run", "--quiet", "--pty", "--wait", "--collect", "--service-type=exec"]
            .map(OsString::from)
            .into();
    let mut property = |text: String| words.push(text.into());
    property("--property=PAMName=login".into());
    property(format!("--property=User={}", user.name));
    if let Some(group) = group {
        property(format!("--property=Group={group}"));
    }
    let directory = request.directory.take().unwrap_or_else(|| user.home.clone().into());
    property(format!("--property=WorkingDirectory=-{}", directory.display()));
    let terminal = std::env::var("TERM").unwrap_or_else(|_| "dumb".into());
    property(format!("--setenv=TERM={terminal}"));
    for (name, value) in &request.environment {
        property(format!("--setenv={name}={value}"));
    }
    property("--".into());
    property(user.shell.clone());
    property("-l".into());
    *request = ExecRequest {
        argv: words,
        user: None,
        terminal: TerminalMode::Yes,
        environment: Vec::new(),
        ..request.clone()
    };
    Ok(())
}

/// Reads the machine's files.
fn read_tree<T: serde::Serialize + for<'de> serde::Deserialize<'de>>(
    paths: &Paths,
    name: &Name,
    wanted: impl FnOnce(&Tree) -> Result<T>,
) -> Result<T> {
    require_root()?;
    let record = running(paths, name)?;
    guest_child::read_tree(&record, &signal::leader(&record)?, wanted)
}
