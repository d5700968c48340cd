//! The requests of users without the rights of root to the service `io.coracle1`: a verb, machines and options as
//! data. The client makes it of a command line, the service of a call on the bus; both read the same table.
//! From it follow the polkit action, the details of the question, and the words of the job, which is a command
//! line of this program. It decides and runs nothing.

mod option_rows;
mod options;
mod verbs;

pub(crate) use options::{OptionValue, Options};
pub(crate) use verbs::{Action, AskVerb, Output};

use crate::error::{Error, ErrorName, Result};
use crate::machine::name::Name;

/// The greatest number of machines of a call.
const MACHINES: usize = 256;
/// The greatest number of words of a command.
const WORDS: usize = 256;
/// The greatest size of a command, bytes.
const BYTES: usize = 64 << 10;
/// The greatest length of a detail in the dialog, characters.
const SHOWN: usize = 128;

/// A verb with machines and options, within all bounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ask {
    /// The verb.
    pub(crate) verb: AskVerb,
    /// The machines; empty for a verb of the host.
    pub(crate) machines: Vec<Name>,
    /// The options, all known to the verb.
    pub(crate) options: Options,
    /// The words after the machines: a command, paths, settings, or the text of a definition. All words of a verb
    /// on images and sessions.
    pub(crate) command: Vec<String>,
}

/// A build session, for the details of a question about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SessionDetails {
    /// The image below it.
    pub(crate) image: String,
    /// The user of its commands.
    pub(crate) user: String,
}

impl Ask {
    /// Creates a request and checks its bounds.
    ///
    /// # Errors
    /// An option that the verb does not have, or too long a list.
    pub(crate) fn new(
        verb: AskVerb,
        machines: Vec<Name>,
        options: Options,
        command: Vec<String>,
    ) -> Result<Self> {
        let bad = |text: String| Error::new(text).named(ErrorName::BadArgument);
        if machines.len() > MACHINES {
            return Err(bad(format!("more than {MACHINES} machines in one call")));
        }
        if command.len() > WORDS || command.iter().map(String::len).sum::<usize>() > BYTES {
            return Err(bad(format!("the command has more than {WORDS} words or {} KiB", BYTES >> 10)));
        }
        if command.iter().any(|word| word.contains('\0')) {
            return Err(bad("the command contains a NUL".to_owned()));
        }
        let program = if verb == AskVerb::SessionRun { command.get(1) } else { command.first() };
        if matches!(verb, AskVerb::Exec | AskVerb::SessionRun) && program.is_none_or(String::is_empty) {
            return Err(bad("the command is empty".to_owned()));
        }
        options.check(verb.options())?;
        Ok(Self { verb, machines, options, command })
    }

    /// Returns the words of the job after the name of the program. The caller's words are behind `--` or part
    /// of `--option=value`, so none of them is an option.
    pub(crate) fn words(&self) -> Vec<String> {
        let mut words: Vec<String> = self.verb.words().iter().map(|word| (*word).to_owned()).collect();
        words.extend(self.options.words(self.verb.options()));
        words.push("--".to_owned());
        if self.verb.own_interface().is_none() {
            words.extend(self.machines.iter().map(ToString::to_string));
        }
        if self.text().is_none() {
            words.extend(self.command.iter().cloned());
        }
        words
    }

    /// Returns the text that the job reads from its standard input.
    pub(crate) fn text(&self) -> Option<&str> {
        let has_text = matches!(self.verb, AskVerb::Define | AskVerb::Check);
        self.command.first().filter(|_| has_text).map(String::as_str)
    }

    /// Returns the details for polkit's rules and dialog about one of the machines, or about the host.
    /// `unconfined` has the words of the machine, or `nothing`; `session` is what the machine is, if it is one.
    pub(crate) fn details(
        &self,
        machine: Option<&Name>,
        unconfined: &str,
        session: Option<&SessionDetails>,
    ) -> Vec<(&'static str, String)> {
        let mut details = vec![("verb", self.verb.as_str().to_owned())];
        let is_commit = self.verb == AskVerb::SessionCommit;
        // A session has a name of its user's choice.
        let about = match is_commit {
            true => session.map_or("unknown".to_owned(), |session| shown(&session.image)),
            false => machine.map_or("this host".to_owned(), ToString::to_string),
        };
        // The dialog shows it: a missing detail would be a hole in its text.
        details.push(("machine", about));
        details.extend(machine.filter(|_| is_commit).map(|session| ("session", session.to_string())));
        let unconfined = if self.verb == AskVerb::SessionBegin { "nothing" } else { unconfined };
        details.extend(machine.map(|_| ("unconfined", unconfined.to_owned())));
        if self.verb.action() == Action::Enter || self.verb.enters() {
            let own = session.filter(|_| self.verb.own_interface().is_some());
            let user = own.map_or("root", |session| &session.user);
            details.push(("user", shown(self.options.text("user").unwrap_or(user))));
            let program = match self.verb {
                AskVerb::Exec => self.command.first(),
                AskVerb::SessionRun => self.command.get(1),
                _ => None,
            };
            details.extend(program.map(|program| ("program", shown(program))));
        }
        let target = match self.verb {
            AskVerb::Clone | AskVerb::Rename | AskVerb::SessionCommit => {
                self.command.get(1).map(String::as_str)
            }
            AskVerb::SessionBegin => self.options.text("name"),
            _ => None,
        };
        details.extend(target.map(|target| ("target", shown(target))));
        if self.verb == AskVerb::Set {
            // All of them: a rule that reads a part would allow the rest unread.
            let keys: Vec<String> = self.command.iter().map(|change| printable(key(change))).collect();
            details.push(("settings", keys.join(" ")));
        }
        details
    }
}

/// Returns a text for the dialog: printable, and at most [`SHOWN`] characters.
fn shown(text: &str) -> String {
    printable(&text.chars().take(SHOWN).collect::<String>())
}

/// Replaces blanks and characters that are not printable.
fn printable(text: &str) -> String {
    text.chars().map(|letter| if letter.is_ascii_graphic() { letter } else { '?' }).collect()
}

/// Returns the key of `KEY=VALUE`, `KEY+=VALUE` or `KEY-=VALUE`.
fn key(change: &str) -> &str {
    let key = change.split_once('=').map_or(change, |(key, _)| key);
    key.strip_suffix(['+', '-']).unwrap_or(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(verb: AskVerb, options: Options, command: &[&str]) -> Result<Ask> {
        let command = command.iter().map(|word| (*word).to_owned()).collect();
        Ask::new(verb, vec![Name::new("web").unwrap()], options, command)
    }

    #[test]
    fn words_of_the_caller_are_no_options() {
        let options = Options::default().with("user", OptionValue::Text("--root=/x".to_owned()));
        let words = ask(AskVerb::Exec, options, &["--debug", "-x"]).unwrap().words();
        assert_eq!(words, ["exec", "--user=--root=/x", "--", "web", "--debug", "-x"]);
    }

    #[test]
    fn commands_have_bounds() {
        for command in [&[][..], &[""], &["a\0b"], &["x"; WORDS + 1]] {
            let error = ask(AskVerb::Exec, Options::default(), command).unwrap_err();
            assert_eq!(error.name(), ErrorName::BadArgument, "{error}");
        }
        let long = "x".repeat(BYTES + 1);
        assert!(ask(AskVerb::Exec, Options::default(), &[&long]).is_err());
        assert!(ask(AskVerb::Exec, Options::default(), &["true"]).is_ok());
    }

    #[test]
    fn details_are_printable_and_short() {
        let options = Options::default().with("user", OptionValue::Text("a\u{1b}[2J".to_owned()));
        let ask = ask(AskVerb::Exec, options, &[&"é".repeat(500)]).unwrap();
        let details = ask.details(ask.machines.first(), "nothing", None);
        let value = |key: &str| details.iter().find(|(is, _)| *is == key).map(|(_, value)| value.as_str());
        assert_eq!(value("user"), Some("a?[2J"));
        assert_eq!(value("program").map(str::len), Some(SHOWN));
        assert_eq!((value("machine"), value("unconfined")), (Some("web"), Some("nothing")));
        assert_eq!(ask.details(None, "nothing", None)[1], ("machine", "this host".to_owned()));
    }

    #[test]
    fn details_name_all_settings() {
        let changes = ["memory-max=1G", "env.A=x y", "port+=80", "mount-=/a:/b", "a b=c"];
        let ask = ask(AskVerb::Set, Options::default(), &changes).unwrap();
        let details = ask.details(ask.machines.first(), "nothing", None);
        assert_eq!(details.last(), Some(&("settings", "memory-max env.A port mount a?b".to_owned())));
    }

    #[test]
    fn verbs_on_images_name_source_and_target() {
        let options = Options::default().with_flag("exact", true);
        let ask = ask(AskVerb::Clone, options, &["web@a", "new"]).unwrap();
        assert_eq!(ask.words(), ["clone", "--exact", "--", "web@a", "new"]);
        let details = ask.details(ask.machines.first(), "nothing", None);
        assert!(
            details.contains(&("machine", "web".to_owned()))
                && details.contains(&("target", "new".to_owned()))
        );
    }

    #[test]
    fn verbs_on_sessions_name_image_and_user() {
        let session = SessionDetails { image: "trixie".into(), user: "builder".into() };
        let of = |verb, options, command: &[&str]| {
            let ask = ask(verb, options, command).unwrap();
            ask.details(ask.machines.first(), "unknown", Some(&session))
        };
        let has = |details: &[(&str, String)], key: &str, value: &str| {
            details.iter().any(|(is, found)| *is == key && found == value)
        };
        let commit = of(AskVerb::SessionCommit, Options::default(), &["web", "new"]);
        for (key, value) in [("machine", "trixie"), ("session", "web"), ("target", "new")] {
            assert!(has(&commit, key, value), "{commit:?}");
        }
        assert!(has(&of(AskVerb::SessionRun, Options::default(), &["web", "sh"]), "user", "builder"));
        let options = Options::default().with_text("name", Some("own"));
        let begin = of(AskVerb::SessionBegin, options, &["web"]);
        for (key, value) in [("machine", "web"), ("target", "own"), ("unconfined", "nothing")] {
            assert!(has(&begin, key, value), "{begin:?}");
        }
    }

    #[test]
    fn a_definition_is_no_word_of_its_job() {
        let ask = ask(AskVerb::Define, Options::default(), &["[boot]\n"]).unwrap();
        assert_eq!(ask.words(), ["edit", "--from=-", "--", "web"]);
        assert_eq!(ask.text(), Some("[boot]\n"));
    }

    #[test]
    fn every_verb_has_an_action_and_words() {
        for verb in AskVerb::ALL.iter().copied() {
            assert!(!verb.words().is_empty() && !verb.doing().is_empty(), "{verb:?}");
            assert!(verb.action().id().starts_with("io.coracle1."), "{verb:?}");
            let name = |verb: AskVerb| (verb.own_interface(), verb.method());
            assert_eq!(AskVerb::ALL.iter().filter(|other| name(**other) == name(verb)).count(), 1);
        }
    }
}
