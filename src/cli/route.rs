//! The way of each verb for a user without the rights of root: directly, through the service `io.coracle1`, or not
//! at all. Called by `main`. The table is exhaustive: a new verb must choose.

use super::output;
use super::verb::{Failures, Verb, VerbResult};
use crate::ask::{Ask, AskVerb};
use crate::control::delegate::{self, Delegated, Passwords};
use crate::error::{Error, Kind, Result};
use crate::paths::Paths;
use serde::de::DeserializeOwned;

/// The way of a verb through the service: the verb of the service, and a function that runs it.
type Way<'a> = (AskVerb, Box<dyn FnOnce(Passwords) -> VerbResult + 'a>);

impl Verb {
    /// Runs the verb for a user without the rights of root.
    ///
    /// # Errors
    /// All errors of the verb, of the service, and of its job.
    pub fn run_as_user(self, paths: &Paths, asks_password: bool) -> VerbResult {
        let passwords = if asks_password { Passwords::Asked } else { Passwords::NotAsked };
        let Some((verb, run)) = self.route(paths)? else { return self.run(paths) };
        let of_entry = |error: Error| match verb.enters() && verb != AskVerb::Attach {
            true => error.with_kind_of_failure(Kind::Launch),
            false => error,
        };
        if *paths != Paths::default() {
            let error = Error::new(format!("{} {}s with --root needs root", verb.doing(), verb.noun()));
            return Err(of_entry(error.with_hint("run it with sudo(8)")).into());
        }
        run(passwords).map_err(|failures| Failures(failures.0.into_iter().map(of_entry).collect()))
    }

    /// Runs the request, one machine after the other if the service has no call for several.
    fn delegate(&self, ask: &Ask, passwords: Passwords) -> VerbResult {
        let is_for_all = matches!(
            ask.verb,
            AskVerb::Start
                | AskVerb::Stop
                | AskVerb::Restart
                | AskVerb::Doctor
                | AskVerb::Stats
                | AskVerb::Network
                | AskVerb::Remove
                | AskVerb::Verify
                | AskVerb::SessionEnd
        );
        if is_for_all || ask.machines.len() < 2 {
            return match (self, delegate::run(ask, passwords)) {
                (_, Ok(done)) => self.print(done),
                (Self::Build(build), Err(errors)) => build.failed(Failures(errors)),
                (_, Err(errors)) => Err(Failures(errors)),
            };
        }
        let mut failures = Vec::new();
        for name in &ask.machines {
            let one = Ask { machines: vec![name.clone()], ..ask.clone() };
            match delegate::run(&one, passwords) {
                Ok(done) => {
                    self.print(done)?;
                }
                Err(errors) => failures.extend(errors),
            }
        }
        if failures.is_empty() { Ok(0) } else { Err(Failures(failures)) }
    }

    /// Prints what the verb itself would have printed.
    fn print(&self, done: Delegated) -> VerbResult {
        match self {
            Self::Inspect(inspect) => inspect.print(&parsed(&done.output)?),
            Self::Doctor(doctor) => {
                let all: Vec<_> = parsed(&done.output)?;
                Ok(u8::from(doctor.print(&all)?))
            }
            Self::Set(set) => set.print(parsed(&done.output)?),
            Self::Apply(apply) => apply.print(parsed(&done.output)?),
            _ => {
                output::text(&done.output)?;
                Ok(done.status)
            }
        }
    }

    /// Returns the way through the service. `None` for a verb that reads what all users may read, or refuses other
    /// users than root itself.
    fn route<'a>(&'a self, paths: &'a Paths) -> Result<Option<Way<'a>>> {
        // This process reads or writes files of the user.
        match self {
            Self::CopyTo(copy) => {
                return with_files(AskVerb::CopyTo, |passwords| copy.run_as_user(passwords));
            }
            Self::CopyFrom(copy) => {
                return with_files(AskVerb::CopyFrom, |passwords| copy.run_as_user(passwords));
            }
            Self::Import(import) => {
                return with_files(AskVerb::Import, |passwords| import.run_as_user(passwords));
            }
            Self::Export(export) => {
                return with_files(AskVerb::Export, |passwords| export.run_as_user(passwords));
            }
            Self::Update(update) => {
                return with_files(AskVerb::Update, |passwords| update.run_as_user(passwords));
            }
            Self::Edit(edit) => {
                return with_files(AskVerb::Define, |passwords| edit.run_as_user(paths, passwords));
            }
            _ => {}
        }
        let ask = self.ask(paths)?;
        Ok(ask
            .map(|ask| -> Way<'a> { (ask.verb, Box::new(move |passwords| self.delegate(&ask, passwords))) }))
    }

    /// Returns the request for the service. `None` for a verb without one.
    fn ask(&self, paths: &Paths) -> Result<Option<Ask>> {
        Ok(Some(match self {
            Self::Start(start) => start.ask(paths)?,
            Self::Stop(stop) => stop.ask()?,
            Self::Restart(restart) => restart.ask(paths)?,
            Self::Enable(enable) => enable.ask()?,
            Self::Disable(disable) => disable.ask()?,
            Self::Poweroff(poweroff) => poweroff.ask()?,
            Self::Reboot(reboot) => reboot.ask()?,
            Self::Terminate(terminate) => terminate.ask()?,
            Self::Kill(kill) => kill.ask()?,
            Self::Freeze(freeze) => freeze.ask()?,
            Self::Thaw(thaw) => thaw.ask()?,
            Self::Exec(exec) => exec.ask()?,
            Self::Shell(shell) => shell.ask()?,
            Self::Login(login) => login.ask()?,
            Self::Attach(attach) => attach.ask()?,
            Self::Logs(logs) => logs.ask()?,
            Self::Inspect(inspect) => inspect.ask()?,
            Self::Doctor(doctor) if doctor.names_machines() => doctor.ask()?,
            Self::Unbind(unbind) => unbind.ask()?,
            Self::Set(set) => set.ask()?,
            Self::Apply(apply) => apply.ask()?,
            Self::Bind(bind) => match bind.ask()? {
                Some(ask) => ask,
                None => return Ok(None),
            },
            Self::Snapshot(snapshot) => match snapshot.ask()? {
                Some(ask) => ask,
                None => return Ok(None),
            },
            Self::Build(build) => match build.ask()? {
                Some(ask) => ask,
                None => return Ok(None),
            },
            Self::Rollback(rollback) => rollback.ask()?,
            Self::Clone(clone) => clone.ask()?,
            Self::Rename(rename) => rename.ask()?,
            Self::Remove(remove) => remove.ask()?,
            Self::ReadOnly(read_only) => read_only.ask()?,
            Self::Convert(convert) => convert.ask()?,
            Self::Create(create) => create.ask()?,
            Self::Pull(pull) => pull.ask()?,
            Self::Prune(prune) => prune.ask()?,
            Self::Verify(verify) => verify.ask()?,
            Self::CopyTo(_) | Self::CopyFrom(_) | Self::Edit(_) => return Ok(None),
            Self::Import(_) | Self::Export(_) | Self::Update(_) => return Ok(None),
            // They read what all may read.
            Self::List(_) | Self::Status(_) | Self::Show(_) | Self::Stats(_) | Self::Network(_) => {
                return Ok(None);
            }
            Self::Top(_) | Self::Check(_) | Self::Config(_) | Self::Completions(_) | Self::Names(_) => {
                return Ok(None);
            }
            Self::Doctor(_) | Self::Images(_) | Self::Events(_) => return Ok(None),
            // They need root, and say so.
            Self::Run(_) | Self::Launch(_) | Self::Activate(_) | Self::Cleanup(_) | Self::DnsUpdate(_) => {
                return Ok(None);
            }
            Self::Health(_) | Self::Idle(_) | Self::ZoneNames(_) | Self::Device(_) => return Ok(None),
            Self::Provision(_) | Self::Migrate(_) => return Ok(None),
        }))
    }
}

/// Returns the way of a verb with files of the user.
fn with_files<'a>(verb: AskVerb, run: impl FnOnce(Passwords) -> VerbResult + 'a) -> Result<Option<Way<'a>>> {
    Ok(Some((verb, Box::new(run))))
}

/// Parses a document of the service.
fn parsed<T: DeserializeOwned>(document: &str) -> Result<T> {
    serde_json::from_str(document)
        .map_err(|error| Error::new(format!("received an invalid document from the service: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsString;

    #[test]
    fn the_service_gets_no_request_about_other_files() {
        for line in ["coracle --root /srv/test stop web", "coracle exec --root=/srv/test web true"] {
            let words: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            let cli = crate::cli::parse(&words).unwrap().unwrap();
            let failures = cli.verb.run_as_user(&Paths::below("/srv/test"), false).unwrap_err();
            assert!(failures.0[0].to_string().ends_with("with --root needs root"), "{line}");
        }
    }
}
