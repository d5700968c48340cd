//! The options of a call: values by their keys, checked against the table of the verb, and turned into words
//! of its job. Used by `ask`.

use crate::error::{Error, ErrorName, Result, nearest};

/// The value of an option.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum OptionValue {
    /// A boolean.
    Flag(bool),
    /// A number.
    Number(u32),
    /// A text.
    Text(String),
    /// A list of texts.
    Texts(Vec<String>),
}

/// An option of a verb: its key on the bus, and its kind.
#[derive(Debug)]
pub(crate) struct OptionRow(pub(super) &'static str, pub(super) OptionKind);

/// The kind of an option, with the start of its word.
#[derive(Debug)]
pub(crate) enum OptionKind {
    /// A word if true.
    Flag(&'static str),
    /// A text.
    Text(&'static str),
    /// A word for each text.
    Texts(&'static str),
    /// A number.
    Number(&'static str),
    /// One of some texts; the last one stands for no word.
    Choice(&'static str, &'static [&'static str], &'static str),
    /// An absolute path.
    Directory(&'static str),
    /// Environment variables with values.
    Variables(&'static str),
    /// Whether there is a terminal.
    Terminal,
    /// A property of the terminal, which the service sets.
    Size,
}

/// Options by their keys.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Options(Vec<(String, OptionValue)>);

impl Options {
    /// Adds an option.
    pub(crate) fn with(mut self, key: &str, value: OptionValue) -> Self {
        self.0.push((key.to_owned(), value));
        self
    }

    /// Adds a flag if it is set.
    pub(crate) fn with_flag(self, key: &str, value: bool) -> Self {
        if value { self.with(key, OptionValue::Flag(true)) } else { self }
    }

    /// Adds a text if there is one.
    pub(crate) fn with_text(self, key: &str, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.with(key, OptionValue::Text(value.to_owned())),
            None => self,
        }
    }

    /// Adds texts if there are any.
    pub(crate) fn with_texts(self, key: &str, values: Vec<String>) -> Self {
        if values.is_empty() { self } else { self.with(key, OptionValue::Texts(values)) }
    }

    /// Returns all options.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &OptionValue)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// Returns a text.
    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        self.iter().find(|(is, _)| *is == key).and_then(|(_, value)| match value {
            OptionValue::Text(text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// Returns a number.
    pub(crate) fn number(&self, key: &str) -> Option<u32> {
        self.iter().find(|(is, _)| *is == key).and_then(|(_, value)| match value {
            OptionValue::Number(number) => Some(*number),
            _ => None,
        })
    }

    /// Returns whether a flag is set.
    pub(crate) fn flag(&self, key: &str) -> bool {
        self.iter().any(|(is, value)| is == key && *value == OptionValue::Flag(true))
    }

    /// Checks the options of a verb.
    ///
    /// # Errors
    /// An unknown key, or a value of another type or out of bounds.
    pub(super) fn check(&self, rows: &[OptionRow]) -> Result<()> {
        for (key, value) in self.iter() {
            let bad = |text: String| Error::new(text).named(ErrorName::BadArgument);
            let Some(OptionRow(_, kind)) = rows.iter().find(|OptionRow(is, _)| *is == key) else {
                let error = bad(format!("unknown option '{}'", key.escape_debug()));
                return Err(match nearest(key, rows.iter().map(|OptionRow(key, _)| *key)) {
                    Some(near) => error.with_hint(format!("use '{near}'")),
                    None => error,
                });
            };
            kind.check(value).map_err(|reason| bad(format!("option '{key}': {reason}")))?;
        }
        Ok(())
    }

    /// Returns the words of checked options.
    pub(super) fn words(&self, rows: &[OptionRow]) -> Vec<String> {
        let kind = |key: &str| rows.iter().find(|OptionRow(is, _)| *is == key).map(|OptionRow(_, kind)| kind);
        self.iter().filter_map(|(key, value)| Some(kind(key)?.words(value))).flatten().collect()
    }
}

impl OptionKind {
    fn check(&self, value: &OptionValue) -> std::result::Result<(), String> {
        let texts: &[String] = match value {
            OptionValue::Text(text) => std::slice::from_ref(text),
            OptionValue::Texts(texts) => texts,
            _ => &[],
        };
        if texts.len() > 1024 || texts.iter().map(String::len).sum::<usize>() > 64 << 10 {
            return Err("it is too long".to_owned());
        }
        if texts.iter().any(|text| text.contains('\0')) {
            return Err("it contains a NUL".to_owned());
        }
        match (self, value) {
            (Self::Flag(_) | Self::Terminal, OptionValue::Flag(_))
            | (Self::Number(_) | Self::Size, OptionValue::Number(_))
            | (Self::Text(_), OptionValue::Text(_))
            | (Self::Texts(_), OptionValue::Texts(_)) => Ok(()),
            (Self::Size, OptionValue::Text(text)) => match text.bytes().all(|byte| byte.is_ascii_graphic()) {
                true if text.len() <= 64 => Ok(()),
                _ => Err("it is not the name of a terminal".to_owned()),
            },
            (Self::Choice(_, words, _), OptionValue::Text(text)) => match words.contains(&text.as_str()) {
                true => Ok(()),
                false => Err(format!("use one of {}", words.join(", "))),
            },
            (Self::Directory(_), OptionValue::Text(text)) => match text.starts_with('/') {
                true => Ok(()),
                false => Err("it is not an absolute path".to_owned()),
            },
            (Self::Variables(_), OptionValue::Texts(texts)) => {
                match texts.iter().all(|text| text.find('=').is_some_and(|at| at > 0)) {
                    true => Ok(()),
                    false => Err("write NAME=VALUE".to_owned()),
                }
            }
            _ => Err("it has another type".to_owned()),
        }
    }

    fn words(&self, value: &OptionValue) -> Vec<String> {
        match (self, value) {
            (Self::Flag(word), OptionValue::Flag(true)) => vec![(*word).to_owned()],
            (Self::Terminal, OptionValue::Flag(has)) => {
                vec![if *has { "--tty" } else { "--no-tty" }.to_owned()]
            }
            (Self::Number(start), OptionValue::Number(number)) => vec![format!("{start}{number}")],
            (Self::Choice(_, _, default), OptionValue::Text(text)) if text == default => Vec::new(),
            (
                Self::Text(start) | Self::Choice(start, ..) | Self::Directory(start),
                OptionValue::Text(text),
            ) => {
                vec![format!("{start}{text}")]
            }
            (Self::Texts(start) | Self::Variables(start), OptionValue::Texts(texts)) => {
                texts.iter().map(|text| format!("{start}{text}")).collect()
            }
            _ => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::AskVerb;
    use super::*;

    #[test]
    fn unknown_keys_have_a_hint_and_values_a_type() {
        let rows = AskVerb::Exec.options();
        let error = Options::default().with_text("usr", Some("x")).check(rows).unwrap_err();
        assert_eq!(error.hint(), Some("use 'user'"));
        for (key, value) in [
            ("user", OptionValue::Flag(true)),
            ("directory", OptionValue::Text("relative".into())),
            ("environment", OptionValue::Texts(vec!["NAME".into()])),
            ("environment", OptionValue::Texts(vec!["=x".into()])),
            ("term", OptionValue::Text("a b".into())),
            ("user", OptionValue::Text("a\0".into())),
        ] {
            assert!(Options::default().with(key, value.clone()).check(rows).is_err(), "{key} {value:?}");
        }
    }

    #[test]
    fn options_become_words() {
        let options = Options::default()
            .with_flag("terminal", true)
            .with_texts("environment", vec!["A=1".into(), "B=".into()])
            .with("rows", OptionValue::Number(24));
        assert_eq!(options.words(AskVerb::Exec.options()), ["--tty", "--setenv=A=1", "--setenv=B="]);
        let wait = |word| Options::default().with_text("wait", Some(word));
        assert_eq!(wait("ready").words(AskVerb::Start.options()), ["--wait=ready"]);
        assert!(wait("unit").words(AskVerb::Start.options()).is_empty());
        assert!(wait("later").check(AskVerb::Start.options()).is_err());
    }
}
