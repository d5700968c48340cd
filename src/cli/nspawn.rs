//! The command line of systemd-nspawn(1), for a program called by that name. It takes the options of `coracle
//! run` by their table, with the grammar of that program, and some of its own. Called by `main`.

mod grammar;
mod help;
mod reference;
mod word_lists;

use super::argument_table::{ArgumentRow, Slot, long};
use super::output;
use super::verb::{Failures, RunArgs, VerbResult, settings_mode};
use crate::config::Options;
use crate::error::{Error, Result};
use crate::machine::contract::Contract;
use crate::machine::name::Name;
use crate::paths::Paths;
use clap::Args;
use grammar::Reply;
use std::ffi::OsString;

/// The options of systemd-nspawn(1) that `coracle run` does not have.
#[derive(Debug, Default, Args)]
struct NspawnArgs {
    /// Show this help
    #[arg(short, long)]
    help: bool,

    /// Show the version
    #[arg(long)]
    version: bool,

    /// Accepted without effect
    #[arg(long)]
    no_pager: bool,

    /// Accepted without effect
    #[arg(long)]
    no_ask_password: bool,

    /// Delete what a killed machine of this name has left on the host, and run nothing
    #[arg(long)]
    cleanup: bool,

    /// The same as --private-users-ownership=chown
    #[arg(long, value_name = "MODE", num_args = 0..=1, require_equals = true, hide = true)]
    private_users_chown: Option<String>,

    /// Refused: namespaces are not shared with the host
    #[arg(long, hide = true)]
    share_system: bool,

    /// Accepted without effect
    #[arg(long, value_name = "COLOR", help_heading = "Console")]
    background: Option<String>,

    /// Run in the scope of the system, the only one
    #[arg(long, help_heading = "Unit")]
    system: bool,

    /// The older name of --uid=USER; without USER the scope of the user, which is refused
    #[arg(long, value_name = "USER", num_args = 0..=1, help_heading = "Unit")]
    user: Option<String>,
}

impl NspawnArgs {
    /// Returns the options as rows of a table, in the order of the fields.
    fn table(&mut self) -> Vec<ArgumentRow<'_>> {
        vec![
            long("help", Slot::Flag(&mut self.help)).or_short(b'h'),
            long("version", Slot::Flag(&mut self.version)),
            long("no-pager", Slot::Flag(&mut self.no_pager)),
            long("no-ask-password", Slot::Flag(&mut self.no_ask_password)),
            long("cleanup", Slot::Flag(&mut self.cleanup)),
            long("private-users-chown", Slot::TextAfterEquals(&mut self.private_users_chown, "")),
            long("share-system", Slot::Flag(&mut self.share_system)),
            long("background", Slot::Text(&mut self.background)),
            long("system", Slot::Flag(&mut self.system)).in_group("scope"),
            long("user", Slot::TextAfterEquals(&mut self.user, "")).in_group("scope"),
        ]
    }
}

/// Returns the reason why a typed option of systemd-nspawn(1) is not supported. `None` for one that is not
/// supported yet.
pub(super) fn replacement(option: &str) -> Option<&'static str> {
    reference::replacement(option.strip_prefix("--")?)
}

/// Returns whether a typed option is one of systemd-nspawn(1), by its long name or its letter.
pub(super) fn is_nspawn_option(option: &str) -> bool {
    match (option.strip_prefix("--"), option.as_bytes()) {
        (Some(name), _) => reference::has(name),
        (None, [b'-', letter]) => reference::LETTERS.contains(letter),
        _ => false,
    }
}

/// The modes of the console that systemd-nspawn(1) does not have.
const OWN_CONSOLES: [&str; 2] = ["auto", "journal"];

/// A parsed command line.
#[derive(Debug)]
pub struct Nspawn {
    run: RunArgs,
    own: NspawnArgs,
}

impl Nspawn {
    /// Parses the command line; `arguments[0]` is the program. `None` if a text was requested and printed.
    ///
    /// # Errors
    /// A word that is not understood.
    pub fn parse(arguments: &[OsString]) -> Result<Option<Self>> {
        let (nspawn, reply) = Self::read(arguments)?;
        let text = match reply {
            Reply::Complete => return Ok(Some(nspawn)),
            Reply::Option("help") => help::text(),
            Reply::Option(_) => help::version(),
            Reply::Words(option) => word_lists::of(option),
        };
        output::text(&text)?;
        Ok(None)
    }

    /// Parses the command line. Returns its options, and what it requests.
    fn read(arguments: &[OsString]) -> Result<(Self, Reply)> {
        let (mut run, mut own) = (RunArgs::default(), NspawnArgs::default());
        let words = arguments.get(1..).unwrap_or_default();
        let reply = {
            let mut table: Vec<ArgumentRow<'_>> =
                run.table().into_iter().filter(|row| row.long.is_none_or(reference::has)).collect();
            table.extend(own.table());
            grammar::parse(words, &mut table)?
        };
        Ok((Self { run, own }, reply))
    }

    /// Returns the options of a unit for `config`: the words of its `ExecStart=` without the program.
    ///
    /// # Errors
    /// A word that is not understood, or all problems of the options.
    pub(in crate::cli) fn options_of_unit(words: &[OsString]) -> Result<Options> {
        let arguments = [&[OsString::from("systemd-nspawn")], words].concat();
        let (mut nspawn, reply) = Self::read(&arguments)?;
        if reply != Reply::Complete {
            return Err(Error::new("it prints a text"));
        }
        nspawn.options().map_err(|failures| {
            let messages: Vec<String> = failures.0.iter().map(ToString::to_string).collect();
            Error::new(messages.join("; "))
        })
    }

    /// Runs the machine. Returns its exit status.
    ///
    /// # Errors
    /// All problems of the options, or the reason why the machine does not run.
    pub fn run(mut self, paths: &Paths) -> VerbResult {
        let options = self.options()?;
        if self.own.cleanup {
            return self.clean_up(paths);
        }
        self.run.foreground(paths, options)
    }

    /// Returns the options for `config`.
    ///
    /// # Errors
    /// All problems of the options, without hints.
    pub fn options(&mut self) -> std::result::Result<Options, Failures> {
        self.complete()?;
        let settings = settings_mode(self.run.settings.as_deref());
        let settings = settings.map_err(|error| vec![Error::usage(error.to_string())])?;
        let layer = self.run.settings().map_err(|problems| {
            problems.into_iter().map(|problem| Error::usage(problem.message)).collect::<Vec<_>>()
        })?;
        let bundle = self.run.bundle().map_err(|error| vec![error])?;
        Ok(Options { layer, settings, contract: Contract::Nspawn, bundle })
    }

    /// Replaces the options of systemd-nspawn(1) by those of `coracle run`.
    fn complete(&mut self) -> Result<()> {
        let (run, own) = (&mut self.run, &self.own);
        if own.share_system {
            return Err(Error::usage(reference::refusal("share-system")));
        }
        match own.user.as_deref() {
            None => {}
            Some("") => return Err(Error::usage(reference::refusal("user"))),
            Some(name) => {
                log::warn!("--user=NAME is deprecated, use --uid=NAME instead");
                run.uid = Some(name.to_owned());
            }
        }
        if own.private_users_chown.is_some() {
            run.private_users_ownership = Some("chown".to_owned());
        }
        if own.background.as_deref().is_some_and(|color| !is_color(color)) {
            return Err(Error::usage("'--background=': not an ANSI color"));
        }
        if run.console.as_deref().is_some_and(|console| OWN_CONSOLES.contains(&console)) {
            return Err(Error::usage("'--console=': unknown mode"));
        }
        if let Some(slice) = &mut run.slice {
            *slice = unit_name(slice);
        }
        // Standard error belongs to the payload.
        run.quiet |= run.pipe || run.console.as_deref() == Some("pipe");
        // A temporary copy needs no other copy before.
        if run.ephemeral && run.directory.is_none() && run.template.is_some() {
            run.directory = run.template.take();
        }
        self.refuse_combinations()
    }

    /// Refuses options that exclude each other.
    fn refuse_combinations(&mut self) -> Result<()> {
        let run = &self.run;
        let combinations = [
            (run.boot && run.as_pid2, "--boot and --as-pid2"),
            (run.boot && !run.ambient_capability.is_empty(), "--boot and --ambient-capability="),
            (run.directory.is_some() && run.disk.mstack.is_some(), "--directory= and --mstack="),
            (run.directory.is_some() && run.disk.image.is_some(), "--directory= and --image="),
            (run.disk.mstack.is_some() && run.disk.image.is_some(), "--mstack= and --image="),
            (run.template.is_some() && run.disk.image.is_some(), "--template= and --image="),
            (run.template.is_some() && run.disk.mstack.is_some(), "--template= and --mstack="),
            (run.template.is_some() && run.ephemeral, "--ephemeral and --template="),
            (
                run.network_bridge.is_some() && run.network_zone.is_some(),
                "--network-bridge= and --network-zone=",
            ),
        ];
        match combinations.iter().find(|(is_given, _)| *is_given) {
            Some((_, names)) => Err(Error::usage(format!("{names} may not be combined"))),
            None => Ok(()),
        }
    }

    /// Deletes what a killed machine has left.
    fn clean_up(&self, paths: &Paths) -> VerbResult {
        let root = self.run.directory.as_ref().or(self.run.disk.image.as_ref());
        let name = match (&self.run.machine, root) {
            (Some(name), _) => name.clone(),
            (None, Some(directory)) => {
                let name = directory.file_name().unwrap_or_default().to_string_lossy();
                name.strip_suffix(".raw").unwrap_or(&name).to_owned()
            }
            (None, None) => return Ok(0),
        };
        crate::run::clean_up(paths, &Name::new(&name)?)?;
        Ok(0)
    }
}

/// Returns a text as the name of a unit, as `systemctl` reads it: a path with dashes, other characters
/// escaped.
fn unit_name(text: &str) -> String {
    let escape = |byte: u8| match byte {
        b'/' => "-".to_owned(),
        b':' | b'-' | b'_' | b'.' | b'\\' => char::from(byte).to_string(),
        _ if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
        _ => format!("\\x{byte:02x}"),
    };
    text.bytes().map(escape).collect()
}

/// Returns whether a text is an ANSI color: numbers with semicolons.
fn is_color(text: &str) -> bool {
    !text.is_empty()
        && text
            .split(';')
            .all(|number| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()))
}
