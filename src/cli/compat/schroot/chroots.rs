//! `schroot --list`, `--info`, `--config` and `--location`: bases as chroots, and sessions.

use super::grammar::{self, Options};
use crate::cli::output;
use crate::control::build::bases::{self, Base};
use crate::control::build::caller::caller;
use crate::control::build::list;
use crate::error::{Error, Result};
use crate::machine::name::Name;
use crate::paths::Paths;
use std::path::PathBuf;

/// Returns the location of a session: an empty directory, unless its definition exposes the root.
pub(super) fn location_of(paths: &Paths, session: &Name) -> PathBuf {
    paths.session_root(session)
}

/// Prints the names of chroots and sessions.
///
/// # Errors
/// A name that is neither.
pub(super) fn list(paths: &Paths, options: &Options) -> Result<()> {
    let mut lines = Vec::new();
    for chroot in selected(paths, options)? {
        match chroot {
            Chroot::Base(base) => {
                lines.push(format!("chroot:{}", base.name));
                let aliases = base.aliases().into_iter().filter(|_| options.has_aliases);
                lines.extend(aliases.map(|alias| format!("chroot:{alias}")));
            }
            Chroot::Session(session, _) => lines.push(format!("session:{session}")),
        }
    }
    lines.sort();
    lines.iter().try_for_each(|line| output::line(line))
}

/// Prints chroots and sessions as schroot(1) does: blocks of names and values, which sbuild(1) reads.
///
/// # Errors
/// A name that is neither a chroot nor a session.
pub(super) fn info(paths: &Paths, options: &Options) -> Result<()> {
    let blocks: Vec<String> = selected(paths, options)?.iter().map(|chroot| block(paths, chroot)).collect();
    output::text(&blocks.join("\n"))
}

fn block(paths: &Paths, chroot: &Chroot) -> String {
    let row = |name: &str, value: &str| format!("  {name:<23} {value}").trim_end().to_owned();
    let lines = match chroot {
        Chroot::Base(base) => vec![
            "  --- Chroot ---".to_owned(),
            row("Name", base.name.as_str()),
            row("Description", "base of build sessions"),
            row("Type", "directory"),
            row("Priority", "0"),
            row("Aliases", &base.aliases().join(" ")),
            row("Location", &base.path.display().to_string()),
            row("Session Cloned", "true"),
        ],
        Chroot::Session(session, base) => vec![
            "  --- Session ---".to_owned(),
            row("Name", session.as_str()),
            row("Description", &format!("build session of {base}")),
            row("Type", "directory"),
            row("Priority", "0"),
            row("Aliases", ""),
            row("Location", &location_of(paths, session).display().to_string()),
            row("Session Purged", "true"),
            row("Session ID", session.as_str()),
        ],
    };
    lines.join("\n") + "\n"
}

/// Prints the bases as a configuration of schroot(1).
///
/// # Errors
/// Standard output cannot be written.
pub(super) fn config(paths: &Paths) -> Result<()> {
    let user = caller().name;
    for base in bases::all(paths) {
        output::text(&format!(
            "[{}]\ntype=directory\ndirectory={}\nunion-type=overlay\naliases={}\nroot-users={user}\nroot-groups=root\n\n",
            base.name,
            base.path.display(),
            base.aliases().join(",")
        ))?;
    }
    Ok(())
}

/// Prints the locations of chroots and sessions.
///
/// # Errors
/// A name that is neither.
pub(super) fn location(paths: &Paths, options: &Options) -> Result<()> {
    for chroot in selected(paths, options)? {
        let location = match chroot {
            Chroot::Base(base) => base.path,
            Chroot::Session(session, _) => location_of(paths, &session),
        };
        output::line(&location.display().to_string())?;
    }
    Ok(())
}

/// A chroot in the sense of schroot(1).
enum Chroot {
    /// A base.
    Base(Base),
    /// A session, with its base.
    Session(Name, String),
}

/// Returns the chroots that an action is about: those named, or all chroots.
fn selected(paths: &Paths, options: &Options) -> Result<Vec<Chroot>> {
    if !options.chroots.is_empty() {
        return options.chroots.iter().map(|name| one(paths, name)).collect();
    }
    let mut chroots = Vec::new();
    if options.all_chroots || !options.all_sessions {
        chroots.extend(bases::all(paths).into_iter().map(Chroot::Base));
    }
    if options.all_sessions {
        chroots.extend(list::list(paths).into_iter().map(|row| Chroot::Session(row.session, row.base)));
    }
    Ok(chroots)
}

/// Returns the chroot or session of a name, maybe with its namespace.
fn one(paths: &Paths, name: &str) -> Result<Chroot> {
    let (namespace, bare) = name.split_once(':').unwrap_or(("", name));
    let session = || {
        let wanted = grammar::session(bare)?;
        let found = list::list(paths).into_iter().find(|row| row.session == wanted);
        let found = found.map(|row| Chroot::Session(row.session, row.base));
        found.ok_or_else(|| Error::new(format!("{name}: Chroot not found")))
    };
    match namespace {
        "session" => session(),
        "chroot" | "source" => bases::find(paths, bare).map(Chroot::Base),
        _ => bases::find(paths, bare).map(Chroot::Base).or_else(|_| session()),
    }
}
