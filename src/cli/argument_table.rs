//! Parses arguments by a table, with the rules of clap, but without its definition, which takes time and
//! memory to build. Called by `fast_path`; the tables are in the files of the verbs `run`, `exec` and
//! `launch`. It returns no errors: clap parses rejected arguments again, and contains all messages.

use crate::machine::name::Name;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// Parses the words after a verb by its table. `None` if clap must parse them.
pub(super) type TableParser<'a> = &'a mut dyn FnMut(Vec<ArgumentRow<'_>>) -> Option<()>;

/// An argument of a verb. Without a name and a letter it is a positional argument; those are in their order
/// on the command line.
pub(super) struct ArgumentRow<'a> {
    /// The name after `--`
    pub(super) long: Option<&'static str>,
    /// The letter after `-`
    pub(super) short: Option<u8>,
    /// The field that receives the value
    pub(super) slot: Slot<'a>,
}

/// The field that receives the value of an argument, and the rules for that value. Only `Texts` can be
/// repeated.
pub(super) enum Slot<'a> {
    /// No value
    Flag(&'a mut bool),
    /// A text
    Text(&'a mut Option<String>),
    /// A text after `=`, or without `=` this text
    TextAfterEquals(&'a mut Option<String>, &'static str),
    /// One text for each option
    Texts(&'a mut Vec<String>),
    /// A path, not empty
    Path(&'a mut Option<PathBuf>),
    /// A boolean, and the function that parses it
    Boolean(&'a mut Option<bool>, fn(&str) -> Result<bool, String>),
    /// The name of a machine
    Name(&'a mut Option<Name>),
    /// A word and all words after it
    Command(&'a mut Vec<OsString>),
}

/// Returns an option with a long name.
pub(super) fn long<'a>(name: &'static str, slot: Slot<'a>) -> ArgumentRow<'a> {
    ArgumentRow { long: Some(name), short: None, slot }
}

/// Returns an option with a letter only.
pub(super) fn short<'a>(letter: u8, slot: Slot<'a>) -> ArgumentRow<'a> {
    ArgumentRow { long: None, short: Some(letter), slot }
}

/// Returns a positional argument.
pub(super) fn positional<'a>(slot: Slot<'a>) -> ArgumentRow<'a> {
    ArgumentRow { long: None, short: None, slot }
}

impl ArgumentRow<'_> {
    /// Adds a letter to an option.
    pub(super) fn or_short(self, letter: u8) -> Self {
        Self { short: Some(letter), ..self }
    }

    /// Returns whether the next positional argument belongs to this row.
    fn awaits_word(&self) -> bool {
        let is_filled = matches!(&self.slot, Slot::Name(field) if field.is_some());
        self.long.is_none() && self.short.is_none() && !is_filled
    }
}

impl Slot<'_> {
    /// Stores a value. `None` if the value is invalid, if it is the second one, or if the slot is a flag.
    fn store(&mut self, value: &OsStr) -> Option<()> {
        match self {
            Self::Flag(_) => None,
            Self::Text(field) | Self::TextAfterEquals(field, _) => fill(field, value.to_str()?.to_owned()),
            Self::Texts(field) => {
                field.push(value.to_str()?.to_owned());
                Some(())
            }
            Self::Path(_) if value.is_empty() => None,
            Self::Path(field) => fill(field, PathBuf::from(value)),
            Self::Boolean(field, parse) => fill(field, parse(value.to_str()?).ok()?),
            Self::Name(field) => fill(field, Name::new(value.to_str()?).ok()?),
            Self::Command(field) => {
                field.push(value.to_owned());
                Some(())
            }
        }
    }

    /// Stores an option without an attached value: the value is the next word. `None` as for [`Self::store`],
    /// or if the next word is missing or an option.
    fn store_next<'w>(&mut self, words: &mut impl Iterator<Item = &'w OsString>) -> Option<()> {
        match self {
            Self::Flag(field) => {
                let is_first = !**field;
                **field = true;
                is_first.then_some(())
            }
            Self::TextAfterEquals(field, default) => fill(field, (*default).to_owned()),
            _ => {
                let value = words.next()?;
                let is_option = value.as_bytes().starts_with(b"-") && value != "-";
                if is_option { None } else { self.store(value) }
            }
        }
    }
}

/// Fills a field. `None` if it was full.
fn fill<T>(field: &mut Option<T>, value: T) -> Option<()> {
    let is_first = field.is_none();
    *field = Some(value);
    is_first.then_some(())
}

/// Stores the words after a verb in the fields of a table. `None` if clap must parse them: they are invalid,
/// or request help. The caller checks for missing and conflicting arguments.
pub(super) fn parse(words: &[OsString], table: &mut [ArgumentRow<'_>]) -> Option<()> {
    let mut words = words.iter();
    let mut options_ended = false;
    while let Some(word) = words.next() {
        match word.as_bytes() {
            b"--" if !options_ended => options_ended = true,
            [b'-', b'-', option @ ..] if !options_ended => parse_long(option, &mut words, table)?,
            [b'-', letters @ ..] if !options_ended && !letters.is_empty() => {
                parse_short(letters, &mut words, table)?;
            }
            _ => {
                let row = table.iter_mut().find(|row| row.awaits_word())?;
                row.slot.store(word)?;
                if matches!(row.slot, Slot::Command(_)) {
                    words.try_for_each(|word| row.slot.store(word))?;
                }
            }
        }
    }
    Some(())
}

/// Parses an option with a long name: `NAME` or `NAME=VALUE`.
fn parse_long<'w>(
    option: &[u8],
    words: &mut impl Iterator<Item = &'w OsString>,
    table: &mut [ArgumentRow<'_>],
) -> Option<()> {
    let mut parts = option.splitn(2, |byte| *byte == b'=');
    let name = parts.next()?;
    let row = table.iter_mut().find(|row| row.long.is_some_and(|long| long.as_bytes() == name))?;
    match parts.next() {
        Some(value) => row.slot.store(OsStr::from_bytes(value)),
        None => row.slot.store_next(words),
    }
}

/// Parses options with letters: flags, then at most one option with a value: `LETTERS`, `LETTERSVALUE` or
/// `LETTERS=VALUE`.
fn parse_short<'w>(
    mut letters: &[u8],
    words: &mut impl Iterator<Item = &'w OsString>,
    table: &mut [ArgumentRow<'_>],
) -> Option<()> {
    while let [letter, rest @ ..] = letters {
        let row = table.iter_mut().find(|row| row.short == Some(*letter))?;
        if !rest.is_empty() && !matches!(row.slot, Slot::Flag(_)) {
            return row.slot.store(OsStr::from_bytes(rest.strip_prefix(b"=").unwrap_or(rest)));
        }
        row.slot.store_next(words)?;
        letters = rest;
    }
    Some(())
}
