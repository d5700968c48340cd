//! Parses arguments by a table, with the rules of clap, but without its definition, which takes time and
//! memory to build. Called by `fast_path`; the tables are in the files of the verbs. It returns no errors: clap
//! parses rejected arguments again, and contains all messages.

use crate::machine::name::Name;
use clap::ValueEnum;
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
    /// The options of a group replace each other
    group: Option<&'static str>,
    /// The field that receives the value
    pub(super) slot: Slot<'a>,
}

/// The field that receives the value of an argument, and the rules for that value. Of repeated options the
/// last one counts; `Texts` and `Names` are combined.
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
    /// A word of a list
    Word(&'a mut (dyn WordField + 'static)),
    /// The name of a machine
    Name(&'a mut Option<Name>),
    /// The names of machines, one for each positional argument
    Names(&'a mut Vec<Name>),
    /// A word and all words after it
    Command(&'a mut Vec<OsString>),
}

/// A field with a word of a list.
pub(super) trait WordField {
    /// Stores a word. `None` if it is not in the list.
    fn store(&mut self, word: &str) -> Option<()>;

    /// Deletes the word.
    fn clear(&mut self);
}

impl<T: ValueEnum + 'static> WordField for Option<T> {
    fn store(&mut self, word: &str) -> Option<()> {
        *self = Some(T::from_str(word, false).ok()?);
        Some(())
    }

    fn clear(&mut self) {
        *self = None;
    }
}

/// Returns an option with a long name.
pub(super) fn long<'a>(name: &'static str, slot: Slot<'a>) -> ArgumentRow<'a> {
    ArgumentRow { long: Some(name), short: None, group: None, slot }
}

/// Returns an option with a letter only.
pub(super) fn short<'a>(letter: u8, slot: Slot<'a>) -> ArgumentRow<'a> {
    ArgumentRow { long: None, short: Some(letter), group: None, slot }
}

/// Returns a positional argument.
pub(super) fn positional<'a>(slot: Slot<'a>) -> ArgumentRow<'a> {
    ArgumentRow { long: None, short: None, group: None, slot }
}

impl ArgumentRow<'_> {
    /// Adds a letter to an option.
    pub(super) fn or_short(self, letter: u8) -> Self {
        Self { short: Some(letter), ..self }
    }

    /// Adds an option to a group.
    pub(super) fn in_group(self, group: &'static str) -> Self {
        Self { group: Some(group), ..self }
    }

    /// Returns whether the next positional argument belongs to this row.
    fn awaits_word(&self) -> bool {
        let is_filled = matches!(&self.slot, Slot::Name(field) if field.is_some());
        self.long.is_none() && self.short.is_none() && !is_filled
    }
}

impl Slot<'_> {
    /// Stores a value. `None` if the value is invalid, or if the slot is a flag.
    pub(super) fn store(&mut self, value: &OsStr) -> Option<()> {
        match self {
            Self::Flag(_) => return None,
            Self::Text(field) | Self::TextAfterEquals(field, _) => **field = Some(value.to_str()?.to_owned()),
            Self::Texts(field) => field.push(value.to_str()?.to_owned()),
            Self::Path(_) if value.is_empty() => return None,
            Self::Path(field) => **field = Some(PathBuf::from(value)),
            Self::Boolean(field, parse) => **field = Some(parse(value.to_str()?).ok()?),
            Self::Word(field) => field.store(value.to_str()?)?,
            Self::Name(field) => **field = Some(Name::new(value.to_str()?).ok()?),
            Self::Names(field) => field.push(Name::new(value.to_str()?).ok()?),
            Self::Command(field) => field.push(value.to_owned()),
        }
        Some(())
    }

    /// Deletes the value of an option that another one replaces.
    pub(super) fn clear(&mut self) {
        match self {
            Self::Flag(field) => **field = false,
            Self::Text(field) | Self::TextAfterEquals(field, _) => **field = None,
            Self::Texts(field) => field.clear(),
            Self::Path(field) => **field = None,
            Self::Boolean(field, _) => **field = None,
            Self::Word(field) => field.clear(),
            Self::Name(field) => **field = None,
            Self::Names(field) => field.clear(),
            Self::Command(field) => field.clear(),
        }
    }

    /// Stores an option without an attached value: the value is the next word. `None` as for [`Self::store`],
    /// or if the next word is missing or an option.
    fn store_next<'w>(&mut self, words: &mut impl Iterator<Item = &'w OsString>) -> Option<()> {
        match self {
            Self::Flag(field) => **field = true,
            Self::TextAfterEquals(field, default) => **field = Some((*default).to_owned()),
            _ => {
                let value = words.next()?;
                let is_option = value.as_bytes().starts_with(b"-") && value != "-";
                return if is_option { None } else { self.store(value) };
            }
        }
        Some(())
    }
}

/// Returns the row of an option, after deleting the values of the other options of its group.
pub(super) fn select<'t, 'a>(
    table: &'t mut [ArgumentRow<'a>],
    is_wanted: impl Fn(&ArgumentRow<'a>) -> bool,
) -> Option<&'t mut ArgumentRow<'a>> {
    let at = table.iter().position(is_wanted)?;
    let group = table.get(at)?.group;
    let others = table.iter_mut().enumerate().filter(|(other, row)| *other != at && row.group == group);
    others.filter(|_| group.is_some()).for_each(|(_, row)| row.slot.clear());
    table.get_mut(at)
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
    let row = select(table, |row| row.long.is_some_and(|long| long.as_bytes() == name))?;
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
        let row = select(table, |row| row.short == Some(*letter))?;
        if !rest.is_empty() && !matches!(row.slot, Slot::Flag(_)) {
            return row.slot.store(OsStr::from_bytes(rest.strip_prefix(b"=").unwrap_or(rest)));
        }
        row.slot.store_next(words)?;
        letters = rest;
    }
    Some(())
}
