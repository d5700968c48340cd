//! Looks up the user of a command by getent(1) of the machine, which knows more sources than passwd(5) and
//! group(5). Called by `exec` for a name that these files do not list.
//!
//! getent is a program of the guest: it enters like any command, with the rights and the filter of the
//! payload, and its output is untrusted.

use super::entry::{Entry, FoundUser, is_interrupted};
use super::stdio::RedirectedStdio;
use crate::error::{Context, Error, Kind, Result};
use crate::payload::user_lookup::{Interrupt, PATIENCE, answer, groups_of, id, user_of};
use crate::plan::User;
use crate::plan::exec::Exec;
use rustix::fd::AsFd;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Instant;

/// Looks up the user and the group of a command, if they are names.
///
/// # Errors
/// `missing` if getent does not know one of them, or the machine has no getent. Else the reason why getent
/// fails.
pub(super) fn find(entry: &Entry<'_>, missing: Error) -> Result<FoundUser> {
    let (user, group) = entry.user_and_group();
    let until = Instant::now() + PATIENCE;
    let query = |database: &str, key: &str| match query(entry, database, key, until) {
        Err(error) if error.exit_status() == Kind::NoCommand.exit_status() => Ok(None),
        queried => queried.context(|| format!("'getent {database}' of the machine failed")),
    };
    let invalid =
        |database: &str| Error::new(format!("'getent {database}' of the machine returned an invalid entry"));
    let mut found = FoundUser::default();
    if is_name(user) && user != "root" {
        let Some(line) = query("passwd", user)? else { return Err(missing) };
        let mut entry = user_of(user, &line).ok_or_else(|| invalid("passwd"))?;
        // Some implementations have no such database.
        if let Ok(Some(line)) = query("initgroups", user) {
            entry.groups = groups_of(&line).ok_or_else(|| invalid("initgroups"))?;
        }
        found.user = Some(entry);
    }
    if let Some(group) = group.filter(|group| is_name(group)) {
        let Some(line) = query("group", group)? else { return Err(missing) };
        found.gid = Some(line.split(':').nth(2).and_then(id).ok_or_else(|| invalid("group"))?);
    }
    match found {
        FoundUser { user: None::<User>, gid: None } => Err(missing),
        found => Ok(found),
    }
}

/// Returns whether a user or group is given by name. A name with a dash in front would be an option of getent.
fn is_name(text: &str) -> bool {
    !text.is_empty() && !text.starts_with('-') && !text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Returns the first line that getent prints about a key. `None` if it does not know the key.
fn query(entry: &Entry<'_>, database: &str, key: &str, until: Instant) -> Result<Option<String>> {
    let exec = Exec {
        argv: ["getent", database, key].map(OsString::from).to_vec(),
        directory: Some(PathBuf::from("/")),
        environment: Vec::new(),
        terminal: "dumb".into(),
        on_terminal: false,
        ..entry.exec.clone()
    };
    let getent = Entry { exec: &exec, user: "root", found: FoundUser::default(), ..*entry };
    let (mut stdio, output) = RedirectedStdio::collect()?;
    let entered = getent.enter(&mut stdio);
    stdio.restore()?;
    let (child, _) = entered?;
    let interrupts = || is_interrupted(entry.signals);
    let interrupt = Interrupt { watched: entry.signals.as_fd(), interrupts: &interrupts };
    answer(child, &output, until, Some(interrupt))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_are_looked_up() {
        for (text, is_it) in [("web", true), ("1000", false), ("", false), ("-i", false), ("0x1", true)] {
            assert_eq!(is_name(text), is_it, "{text}");
        }
    }
}
