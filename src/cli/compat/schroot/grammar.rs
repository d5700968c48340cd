//! The grammar of schroot(1): long options, and short ones that may be clustered. The first other word begins
//! the command.

use crate::error::{Error, Result};
use crate::machine::name::Name;
use std::ffi::OsString;

/// The help.
pub(super) const HELP: &str = "\
usage: schroot [OPTIONS] [-c CHROOT] [--] [COMMAND]

actions:
  -h, --help                   show this help
  -V, --version                show the version
  -l, --list                   list chroots
  -i, --info                   show chroots
      --config                 print chroots as a configuration
      --location               print the location of chroots
      --automatic-session      begin a session, run the command and end it (default)
  -b, --begin-session          begin a session and print its name
  -r, --run-session            run the command in a session
  -e, --end-session            end sessions

options:
  -c, --chroot=NAME            the chroot, or the session
  -a, --all                    all chroots and sessions
      --all-chroots            all chroots
      --all-sessions           all sessions
      --exclude-aliases        no aliases of chroots
  -d, --directory=DIR          the working directory inside
  -u, --user=USER              the user of the command
  -p, --preserve-environment   pass on the environment
  -s, --shell=SHELL            the login shell
  -n, --session-name=NAME      the name of the session
      --isolate-network        run the command without a network
  -f, --force, -q, --quiet, -v, --verbose, -o, --option=, --debug=    accepted without effect
";

/// An action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// Begin a session, run a command, end it.
    Automatic,
    /// Show the help.
    Help,
    /// Show the version.
    Version,
    /// List the names of chroots.
    List,
    /// Show chroots.
    Info,
    /// Print a configuration.
    Config,
    /// Print locations.
    Location,
    /// Begin a session.
    Begin,
    /// Run a command in a session.
    Run,
    /// End sessions.
    End,
}

/// A parsed command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Options {
    /// Whether the program is called `unschroot`.
    pub(super) is_unschroot: bool,
    /// The action.
    pub(super) action: Action,
    /// The named chroots or sessions, maybe with a namespace.
    pub(super) chroots: Vec<String>,
    /// Whether all chroots are meant.
    pub(super) all_chroots: bool,
    /// Whether all sessions are meant.
    pub(super) all_sessions: bool,
    /// Whether aliases are listed.
    pub(super) has_aliases: bool,
    /// The working directory inside.
    pub(super) directory: Option<String>,
    /// The user of the command.
    pub(super) user: Option<String>,
    /// Whether the environment is passed on.
    pub(super) preserves_environment: bool,
    /// The login shell.
    pub(super) shell: Option<String>,
    /// The name of a new session.
    pub(super) session_name: Option<String>,
    /// Whether the command has no network.
    pub(super) is_isolated: bool,
    /// The command.
    pub(super) command: Vec<OsString>,
}

impl Options {
    /// Returns the named session.
    ///
    /// # Errors
    /// None or several.
    pub(super) fn session(&self) -> Result<Name> {
        match self.chroots.as_slice() {
            [one] => session(one),
            _ => Err(Error::usage("one session is required").with_hint("pass -c SESSION")),
        }
    }

    /// Returns the command, or a login shell if there is none.
    pub(super) fn argv(&self) -> Vec<OsString> {
        match (&self.shell, self.command.is_empty()) {
            (Some(shell), true) => vec![shell.into(), "-l".into()],
            _ => self.command.clone(),
        }
    }
}

/// Returns the name of a session, maybe with its namespace.
///
/// # Errors
/// Another namespace, or an invalid name.
pub(super) fn session(name: &str) -> Result<Name> {
    let name = name.strip_prefix("session:").unwrap_or(name);
    Name::new(name).map_err(|_| Error::new(format!("{name}: Chroot not found")))
}

/// A row of the table of options: letter, name, and whether it has a value.
type Row = (Option<u8>, &'static str, bool);
const TABLE: [Row; 28] = [
    (Some(b'h'), "help", false),
    (Some(b'V'), "version", false),
    (Some(b'l'), "list", false),
    (Some(b'i'), "info", false),
    (None, "config", false),
    (None, "location", false),
    (None, "automatic-session", false),
    (Some(b'b'), "begin-session", false),
    (Some(b'r'), "run-session", false),
    (Some(b'e'), "end-session", false),
    (Some(b'f'), "force", false),
    (Some(b'a'), "all", false),
    (None, "all-chroots", false),
    (None, "all-sessions", false),
    (None, "all-source-chroots", false),
    (None, "exclude-aliases", false),
    (Some(b'c'), "chroot", true),
    (Some(b'd'), "directory", true),
    (Some(b'u'), "user", true),
    (Some(b'p'), "preserve-environment", false),
    (Some(b's'), "shell", true),
    (Some(b'n'), "session-name", true),
    (Some(b'o'), "option", true),
    (Some(b'q'), "quiet", false),
    (Some(b'v'), "verbose", false),
    (None, "debug", true),
    (None, "isolate-network", false),
    (None, "recover-session", false),
];

/// Parses a command line; `arguments[0]` is the program.
///
/// # Errors
/// An unknown option, a missing value, or two actions.
pub(super) fn parse(arguments: &[OsString]) -> Result<Options> {
    let program = arguments.first().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let mut options = Options {
        is_unschroot: program.rsplit('/').next() == Some("unschroot"),
        action: Action::Automatic,
        chroots: Vec::new(),
        all_chroots: false,
        all_sessions: false,
        has_aliases: true,
        directory: None,
        user: None,
        preserves_environment: false,
        shell: None,
        session_name: None,
        is_isolated: false,
        command: Vec::new(),
    };
    let mut words = arguments.iter().skip(1);
    while let Some(word) = words.next() {
        let text = word.to_str().unwrap_or_default();
        if text == "--" {
            break;
        }
        let mut next = || words.next().and_then(|word| word.to_str()).map(str::to_owned);
        if let Some(long) = text.strip_prefix("--") {
            let (name, value) = match long.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (long, None),
            };
            let row = TABLE.iter().find(|row| row.1 == name).ok_or_else(|| unknown(text))?;
            let value = if row.2 { value.or_else(&mut next) } else { value };
            options.set(row, value)?;
        } else if text.len() > 1 && text.starts_with('-') {
            options.set_letters(&text[1..], &mut next)?;
        } else {
            options.command.push(word.clone());
            break;
        }
    }
    options.command.extend(words.cloned());
    Ok(options)
}

fn unknown(option: &str) -> Error {
    Error::usage(format!("unknown option '{option}'")).with_hint("show the options with --help")
}

impl Options {
    /// Sets clustered short options. The rest of the word, or the next one, is the value of one that has it.
    fn set_letters(&mut self, letters: &str, next: &mut dyn FnMut() -> Option<String>) -> Result<()> {
        for (at, letter) in letters.char_indices() {
            let row = TABLE.iter().find(|row| row.0.map(char::from) == Some(letter));
            let row = row.ok_or_else(|| unknown(&format!("-{letter}")))?;
            if row.2 {
                let rest = letters.get(at + letter.len_utf8()..).filter(|rest| !rest.is_empty());
                return self.set(row, rest.map(str::to_owned).or_else(next));
            }
            self.set(row, None)?;
        }
        Ok(())
    }

    fn set(&mut self, row: &Row, value: Option<String>) -> Result<()> {
        let name = row.1;
        if row.2 != value.is_some() {
            let problem = if row.2 { "requires a value" } else { "has no value" };
            return Err(Error::usage(format!("the option '--{name}' {problem}"))
                .with_hint("show the options with --help"));
        }
        match name {
            "chroot" => self.chroots.extend(value),
            "directory" => self.directory = value,
            "user" => self.user = value,
            "shell" => self.shell = value,
            "session-name" => self.session_name = value,
            "all" => (self.all_chroots, self.all_sessions) = (true, true),
            "all-chroots" => self.all_chroots = true,
            "all-sessions" => self.all_sessions = true,
            "exclude-aliases" => self.has_aliases = false,
            "preserve-environment" => self.preserves_environment = true,
            "isolate-network" => self.is_isolated = true,
            "recover-session" => {
                return Err(Error::new("sessions are not recovered: end it, and begin another one"));
            }
            _ => return self.act(name),
        }
        Ok(())
    }

    /// Sets the action of an option, if it is one.
    fn act(&mut self, name: &str) -> Result<()> {
        let action = match name {
            "help" => Action::Help,
            "version" => Action::Version,
            "list" => Action::List,
            "info" => Action::Info,
            "config" => Action::Config,
            "location" => Action::Location,
            "begin-session" => Action::Begin,
            "run-session" => Action::Run,
            "end-session" => Action::End,
            _ => return Ok(()),
        };
        if self.action != Action::Automatic && self.action != action {
            return Err(Error::usage("only one action may be specified"));
        }
        self.action = action;
        Ok(())
    }
}

/// The variables that schroot(1) does not pass on by default, besides those of the dynamic linker.
const FILTERED: [&str; 16] = [
    "BASH_ENV",
    "CDPATH",
    "ENV",
    "HOSTALIASES",
    "IFS",
    "KRB5_CONFIG",
    "KRBCONFDIR",
    "KRBTKFILE",
    "KRB_CONF",
    "LOCALDOMAIN",
    "NLSPATH",
    "PATH_LOCALE",
    "RES_OPTIONS",
    "TERMINFO",
    "TERMINFO_DIRS",
    "TERMPATH",
];

/// Returns the variables of the caller for a command that keeps them.
pub(super) fn environment() -> Vec<(String, String)> {
    let passes = |name: &str| !FILTERED.contains(&name) && !name.starts_with("LD_");
    let text =
        |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, value.into_string().ok()?));
    std::env::vars_os().filter_map(text).filter(|(name, _)| passes(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Options> {
        parse(&line.split(' ').map(OsString::from).collect::<Vec<_>>())
    }

    #[test]
    fn the_lines_of_sbuild_are_understood() {
        let begin = parsed("/usr/lib/coracle/unschroot -c chroot:sid-amd64-sbuild --begin-session").unwrap();
        assert!(begin.is_unschroot && begin.action == Action::Begin);
        let run = "unschroot -d / -c sid-abcdef --run-session -q -u root -p -- /bin/sh -c --x";
        let run = parsed(run).unwrap();
        assert_eq!((run.action, run.session().unwrap().as_str()), (Action::Run, "sid-abcdef"));
        assert_eq!(run.command, ["/bin/sh", "-c", "--x"]);
        assert!(run.preserves_environment && !run.is_isolated && run.user.as_deref() == Some("root"));
        let info = parsed("schroot --info --chroot session:sid-abcdef").unwrap();
        assert!(!info.is_unschroot && info.session().unwrap().as_str() == "sid-abcdef");
        assert!(parsed("unschroot -d / -c a -r --isolate-network -u x -- true").unwrap().is_isolated);
    }

    #[test]
    fn short_options_may_be_clustered() {
        let options = parsed("schroot -prca -d/x -uroot id -u").unwrap();
        assert_eq!(
            (options.chroots, options.command),
            (vec!["a".to_owned()], vec!["id".into(), "-u".into()])
        );
        assert_eq!(options.directory.as_deref(), Some("/x"));
        for bad in ["schroot -Z", "schroot --nope", "schroot -c", "schroot -be", "schroot --all=x"] {
            assert!(parsed(bad).is_err(), "{bad}");
        }
    }
}
