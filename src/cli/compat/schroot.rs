//! The command line of schroot(1), for a program called `schroot` or `unschroot`: chroots are the bases of build
//! sessions. `unschroot` kills the processes that a command leaves, and has the name by which sbuild(1)
//! recognises that commands can be isolated from the network.

mod chroots;
mod grammar;

use crate::cli::output;
use crate::cli::verb::{SessionOptions, end_own_session, end_session};
use crate::control::build::bases::{self, Base};
use crate::control::build::caller::caller;
use crate::control::build::run::{self, RunOptions};
use crate::control::exec::{Apart, ExecRequest, TerminalMode};
use crate::error::{Context, Error, Result};
use crate::machine::name::Name;
use crate::paths::Paths;
use crate::run::session;
use grammar::{Action, Options};
use std::ffi::OsString;
use std::path::PathBuf;

/// Runs under one of the names; `arguments[0]` is the program. Returns the exit status.
///
/// # Errors
/// A word that is not understood, or a failed action.
pub fn main(paths: &Paths, arguments: &[OsString]) -> Result<u8> {
    super::refuse_setuid()?;
    let options = grammar::parse(arguments)?;
    match options.action {
        Action::Help => output::text(grammar::HELP).map(|()| 0),
        Action::Version => output::line(&format!("coracle {}", env!("CARGO_PKG_VERSION"))).map(|()| 0),
        Action::List => chroots::list(paths, &options).map(|()| 0),
        Action::Info => chroots::info(paths, &options).map(|()| 0),
        Action::Config => chroots::config(paths).map(|()| 0),
        Action::Location => chroots::location(paths, &options).map(|()| 0),
        Action::Begin => {
            let session = begin(paths, &options, Vec::new())?;
            output::line(session.as_str()).map(|()| 0)
        }
        Action::Run => run(paths, &options, &options.session()?),
        Action::End => end(paths, &options).map(|()| 0),
        Action::Automatic => automatic(paths, &options),
    }
}

/// Parses a command line, for the fuzzer.
///
/// # Errors
/// A word that is not understood.
pub fn check(arguments: &[OsString]) -> Result<()> {
    grammar::parse(arguments).map(drop)
}

/// Begins a session of the named chroot, with the network of the host. It ends with one of the processes.
fn begin(paths: &Paths, options: &Options, with_processes: Vec<u32>) -> Result<Name> {
    let base = base(paths, options)?;
    let name = options.session_name.as_deref().map(Name::new).transpose()?;
    let mut request = SessionOptions::of_schroot(base.name.as_str(), name).request(paths)?;
    request.with_processes = with_processes;
    let session = session::begin(paths, request)?;
    // The location of a session for programs that look for one.
    let location = chroots::location_of(paths, &session);
    match std::fs::create_dir(&location) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            end_own_session(paths, &session)?;
            Err(error).context(|| format!("cannot create '{}'", location.display()))?;
        }
        _ => {}
    }
    Ok(session)
}

/// Returns the base of the named chroot.
fn base(paths: &Paths, options: &Options) -> Result<Base> {
    let name = match options.chroots.as_slice() {
        [] => "default",
        [one] => one,
        _ => return Err(Error::usage("only one chroot can be used at a time").with_hint("pass -c once")),
    };
    if name.starts_with("source:") {
        return Err(Error::new(format!("'{name}': a base is not changed through schroot"))
            .with_hint("change it with 'coracle run -D DIR'"));
    }
    let name = name.strip_prefix("chroot:").unwrap_or(name);
    bases::find(paths, name)
}

/// Ends the named sessions, or all of them.
///
/// # Errors
/// That of the first session that is not ended; the other ones are.
fn end(paths: &Paths, options: &Options) -> Result<()> {
    let mut sessions: Vec<Name> =
        options.chroots.iter().map(|name| grammar::session(name)).collect::<Result<_>>()?;
    if options.all_sessions {
        sessions = crate::control::build::all(paths).into_iter().map(|(record, _)| record.name).collect();
    } else if sessions.is_empty() {
        return Err(Error::usage("a session is required").with_hint("pass -c SESSION, or --all-sessions"));
    }
    let mut done = Ok(());
    for session in &sessions {
        done = done.and(end_session(paths, session));
    }
    done
}

/// Begins a session, runs a command in it and ends it.
fn automatic(paths: &Paths, options: &Options) -> Result<u8> {
    // A killed client leaves no session.
    let session = begin(paths, options, vec![std::process::id()])?;
    let status = run(paths, options, &session);
    let ended = end_own_session(paths, &session);
    status.and_then(|status| ended.map(|()| status))
}

/// Runs a command in a session, or a login shell.
fn run(paths: &Paths, options: &Options, session: &Name) -> Result<u8> {
    let caller = caller();
    let user = options.user.clone().unwrap_or(caller.name);
    let is_shell = options.command.is_empty();
    let directory = match &options.directory {
        Some(directory) => Some(PathBuf::from(directory)),
        // A login shell starts at home.
        None if is_shell => None,
        None => Some(std::env::current_dir().context(|| "cannot find the working directory")?),
    };
    let mut environment = if options.preserves_environment { grammar::environment() } else { Vec::new() };
    environment.extend(variables(paths, session, &user, caller.ids));
    let request = ExecRequest {
        name: session,
        argv: options.argv(),
        user: Some(&user),
        directory,
        environment,
        terminal: TerminalMode::Auto,
        wait_ready: false,
        disconnects: false,
        announces: false,
        apart: Apart::default(),
    };
    let how =
        RunOptions { is_offline: options.is_isolated, keeps_processes: !options.is_unschroot, timeout: None };
    run::run(paths, &request, how)
}

/// Returns the variables that schroot(1) sets for a command.
fn variables(paths: &Paths, session: &Name, user: &str, ids: (u32, u32)) -> Vec<(String, String)> {
    let base = crate::control::build::session(paths, session)
        .map_or_else(|_| String::new(), |(_, build)| build.base);
    [
        ("SCHROOT_CHROOT_NAME", base.clone()),
        ("SCHROOT_ALIAS_NAME", base),
        ("SCHROOT_SESSION_ID", session.to_string()),
        ("SCHROOT_USER", user.to_owned()),
        ("SCHROOT_UID", ids.0.to_string()),
        ("SCHROOT_GID", ids.1.to_string()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}
