//! Parses words by a table with the rules of getopt_long(3) and of systemd-nspawn(1): the first word that is
//! not an option ends the options. The only pass over the command line; errors are of one line.

use super::reference;
use super::word_lists;
use crate::cli::argument_table::{ArgumentRow, Slot, select};
use crate::error::{Error, Result};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

/// The request of a command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reply {
    /// A machine: all words are in the table.
    Complete,
    /// The text of `help` or `version`.
    Option(&'static str),
    /// The words of this option.
    Words(&'static str),
}

/// Options that print a text and end the program.
const TEXTS: [&str; 2] = ["help", "version"];

/// An iterator over the words.
type Words<'w> = std::iter::Peekable<std::slice::Iter<'w, OsString>>;

/// Stores the words in the fields of a table.
///
/// # Errors
/// The first word that is not understood, or its value.
pub(super) fn parse(words: &[OsString], table: &mut [ArgumentRow<'_>]) -> Result<Reply> {
    let mut words = words.iter().peekable();
    while let Some(word) = words.next_if(|word| is_option(word)) {
        let reply = match word.as_bytes() {
            b"--" => break,
            [b'-', b'-', option @ ..] => parse_long(option, &mut words, table)?,
            [_, letters @ ..] => parse_short(letters, &mut words, table)?,
            [] => Reply::Complete,
        };
        if reply != Reply::Complete {
            return Ok(reply);
        }
    }
    let command = table.iter_mut().find(|row| matches!(row.slot, Slot::Command(_)));
    if let Some(row) = command {
        words.for_each(|word| _ = row.slot.store(word));
    }
    Ok(Reply::Complete)
}

/// Returns whether a word begins with a minus sign and has more letters.
fn is_option(word: &OsStr) -> bool {
    word.len() > 1 && word.as_bytes().starts_with(b"-")
}

/// Parses an option with a long name: `NAME`, `NAME=VALUE` or the begin of a name.
fn parse_long(option: &[u8], words: &mut Words<'_>, table: &mut [ArgumentRow<'_>]) -> Result<Reply> {
    let mut parts = option.splitn(2, |byte| *byte == b'=');
    let name = find(parts.next().unwrap_or_default(), table)?;
    let value = parts.next().map(OsStr::from_bytes);
    let shown = format!("--{name}");
    let Some(row) = select(table, |row| row.long == Some(name)) else {
        return Err(Error::usage(reference::refusal(name)));
    };
    let value = match (&row.slot, value) {
        (Slot::Flag(_), Some(_)) => {
            return Err(Error::usage(format!("option '{shown}' doesn't allow an argument")));
        }
        // The older meaning of the option has its value in the next word.
        (Slot::TextAfterEquals(..), None) if name == "user" => {
            words.next_if(|word| !word.as_bytes().starts_with(b"-")).map(OsString::as_os_str)
        }
        (_, value) => value,
    };
    store(row, &shown, value, words)
}

/// Returns the whole name of an option.
///
/// # Errors
/// No option has this name, or several begin with it.
fn find(begin: &[u8], table: &[ArgumentRow<'_>]) -> Result<&'static str> {
    let known = || table.iter().filter_map(|row| row.long).chain(reference::others(table));
    if let Some(name) = known().find(|name| name.as_bytes() == begin) {
        return Ok(name);
    }
    let possible: Vec<&str> = known().filter(|name| name.as_bytes().starts_with(begin)).collect();
    let shown = String::from_utf8_lossy(begin);
    match possible[..] {
        [] => Err(Error::usage(format!("unrecognized option '--{shown}'"))),
        [name] => Ok(name),
        _ => {
            let list: Vec<String> = possible.iter().map(|name| format!("--{name}")).collect();
            let list = list.join(", ");
            Err(Error::usage(format!("option '--{shown}' is ambiguous; possibilities: {list}")))
        }
    }
}

/// Parses options with letters: flags, then at most one option with a value: `LETTERS` or `LETTERSVALUE`.
fn parse_short(mut letters: &[u8], words: &mut Words<'_>, table: &mut [ArgumentRow<'_>]) -> Result<Reply> {
    while let [letter, rest @ ..] = letters {
        let shown = format!("-{}", char::from(*letter));
        let Some(row) = select(table, |row| row.short == Some(*letter)) else {
            let is_known = reference::LETTERS.contains(letter);
            return Err(Error::usage(if is_known {
                format!("option '{shown}' is not supported")
            } else {
                format!("unrecognized option '{shown}'")
            }));
        };
        let takes_rest = !matches!(row.slot, Slot::Flag(_)) && !rest.is_empty();
        let reply = store(row, &shown, takes_rest.then(|| OsStr::from_bytes(rest)), words)?;
        if reply != Reply::Complete || takes_rest {
            return Ok(reply);
        }
        letters = rest;
    }
    Ok(Reply::Complete)
}

/// Stores the value of an option, by default the next word.
fn store(
    row: &mut ArgumentRow<'_>,
    shown: &str,
    value: Option<&OsStr>,
    words: &mut Words<'_>,
) -> Result<Reply> {
    let name = row.long.unwrap_or_default();
    let value = match &mut row.slot {
        Slot::Flag(field) => {
            **field = true;
            let text = TEXTS.iter().find(|text| **text == name);
            return Ok(text.map_or(Reply::Complete, |text| Reply::Option(text)));
        }
        Slot::TextAfterEquals(field, default) if value.is_none() => {
            **field = Some((*default).to_owned());
            return Ok(Reply::Complete);
        }
        _ => value.or_else(|| words.next().map(OsString::as_os_str)),
    };
    let value = value.ok_or_else(|| Error::usage(format!("option '{shown}' requires an argument")))?;
    if value == "help" && word_lists::has(name) {
        return Ok(Reply::Words(name));
    }
    match (&mut row.slot, value.is_empty()) {
        // The default, as if the option were not there.
        (slot, true) if reference::RESET_BY_EMPTY.contains(&name) => slot.clear(),
        (slot, _) => {
            let shown = if shown.starts_with("--") { format!("{shown}=") } else { format!("{shown} ") };
            let text = value.to_string_lossy();
            slot.store(value)
                .ok_or_else(|| Error::usage(format!("invalid value: '{shown}{}'", text.escape_debug())))?;
        }
    }
    Ok(Reply::Complete)
}

#[cfg(test)]
mod tests;
