//! Looks up the user of a command by getent(1) of the machine, which knows more sources than passwd(5) and
//! group(5). Called by `exec` for a name that these files do not list.
//!
//! getent is a program of the guest: it enters like any command, with the rights and the filter of the
//! payload, and its output is untrusted.

use super::entry::{Entry, FoundUser, is_interrupted};
use super::stdio::RedirectedStdio;
use crate::error::{Context, Error, Kind, Result};
use crate::payload::user_lookup::{LONGEST, PATIENCE, UNKNOWN, groups_of, id, user_of};
use crate::plan::User;
use crate::plan::exec::Exec;
use crate::sys::process::{self, Ended};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::{Duration, Instant};

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
    let output = receive(entry, &output, child.pidfd.as_fd(), until);
    let ended = process::has_ended(child.pidfd.as_fd());
    process::kill_child(ended.is_none().then_some(child.pidfd));
    match (output?, ended) {
        (text, Some(Ended::Exited(0))) => {
            Ok(String::from_utf8_lossy(&text).lines().next().map(str::to_owned))
        }
        (_, Some(Ended::Exited(UNKNOWN))) => Ok(None),
        (_, Some(Ended::Exited(status))) => Err(Error::new(format!("exit status {status}"))),
        (_, Some(Ended::Killed(signal))) => Err(Error::new(format!("killed by signal {signal}"))),
        (_, None) => Err(Error::new("it does not end")),
    }
}

/// Receives the output of getent until it ends, or until a signal. Processes that it has left belong to the
/// machine, and may keep the pipe open.
fn receive(entry: &Entry<'_>, output: &OwnedFd, child: BorrowedFd<'_>, until: Instant) -> Result<Vec<u8>> {
    let (mut text, mut is_open) = (Vec::new(), true);
    let mut buffer = [0; 4096];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Error::new(format!("it did not end within {} seconds", PATIENCE.as_secs())));
        }
        let [has_ended, is_signalled, has_text] = wait(entry, child, is_open.then_some(output), left)?;
        if is_signalled && is_interrupted(entry.signals) {
            return Err(Error::new("interrupted"));
        }
        if has_text {
            match rustix::io::read(output, &mut buffer).context(|| "cannot read its output")? {
                0 => is_open = false,
                count => text.extend_from_slice(buffer.get(..count).unwrap_or_default()),
            }
            if text.len() > LONGEST {
                return Err(Error::new(format!("its output is longer than {LONGEST} bytes")));
            }
        } else if has_ended {
            return Ok(text);
        }
    }
}

/// Waits for the end of getent, a signal, or output. Returns which of them there are.
fn wait(
    entry: &Entry<'_>,
    child: BorrowedFd<'_>,
    output: Option<&OwnedFd>,
    left: Duration,
) -> Result<[bool; 3]> {
    let left = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
    let watched = [child, entry.signals.as_fd()].into_iter().chain(output.map(AsFd::as_fd));
    let mut watched: Vec<PollFd<'_>> =
        watched.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
    match poll(&mut watched, Some(&left)) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(errno) => return Err(errno).context(|| "cannot wait for it"),
    }
    Ok([0, 1, 2].map(|at: usize| watched.get(at).is_some_and(|fd| !fd.revents().is_empty())))
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
