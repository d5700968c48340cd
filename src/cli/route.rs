//! The way of each verb for a user without the rights of root: directly, through the service `io.coracle1`, or not
//! at all. Called by `main`. The table is exhaustive: a new verb must choose.

use super::output;
use super::verb::{Failures, Verb, VerbResult};
use crate::ask::{Ask, AskVerb};
use crate::control::delegate::{self, Delegated, Passwords};
use crate::error::{Error, Kind, Result};
use crate::paths::Paths;
use serde::de::DeserializeOwned;

/// The way of a verb.
#[derive(Debug)]
enum Route {
    /// It reads what all users may read, or refuses other users than root itself.
    Direct,
    /// Through the service.
    Service(Ask),
}

impl Verb {
    /// Runs the verb for a user without the rights of root.
    ///
    /// # Errors
    /// All errors of the verb, of the service, and of its job.
    pub fn run_as_user(self, paths: &Paths, asks_password: bool) -> VerbResult {
        match self.route(paths)? {
            Route::Direct => self.run(paths),
            Route::Service(ask) => {
                let passwords = if asks_password { Passwords::Asked } else { Passwords::NotAsked };
                let is_entry = matches!(ask.verb, AskVerb::Exec | AskVerb::Shell | AskVerb::Login);
                let of_entry = |error: Error| match is_entry {
                    true => error.with_kind_of_failure(Kind::Launch),
                    false => error,
                };
                if *paths != Paths::default() {
                    let error = Error::new(format!("{} machines with --root needs root", ask.verb.doing()));
                    return Err(of_entry(error.with_hint("run it with sudo(8)")).into());
                }
                self.delegate(&ask, passwords)
                    .map_err(|failures| Failures(failures.0.into_iter().map(of_entry).collect()))
            }
        }
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
        );
        if is_for_all || ask.machines.len() < 2 {
            return self.print(delegate::run(ask, passwords)?);
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
            _ => {
                output::text(&done.output)?;
                Ok(done.status)
            }
        }
    }

    fn route(&self, paths: &Paths) -> Result<Route> {
        Ok(Route::Service(match self {
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
            // They read what all may read.
            Self::List(_) | Self::Status(_) | Self::Show(_) | Self::Stats(_) | Self::Network(_) => {
                return Ok(Route::Direct);
            }
            Self::Top(_) | Self::Check(_) | Self::Config(_) | Self::Completions(_) | Self::Names(_) => {
                return Ok(Route::Direct);
            }
            Self::Doctor(_) | Self::Images(_) | Self::Events(_) => return Ok(Route::Direct),
            // They need root, and say so.
            Self::Run(_) | Self::Launch(_) | Self::Activate(_) | Self::Cleanup(_) | Self::DnsUpdate(_) => {
                return Ok(Route::Direct);
            }
            Self::Health(_) | Self::Idle(_) | Self::Device(_) | Self::Provision(_) | Self::Create(_) => {
                return Ok(Route::Direct);
            }
            Self::Import(_) | Self::Export(_) | Self::Clone(_) | Self::Convert(_) | Self::Migrate(_) => {
                return Ok(Route::Direct);
            }
            Self::ReadOnly(_) | Self::Verify(_) | Self::Prune(_) | Self::Snapshot(_) | Self::Rollback(_) => {
                return Ok(Route::Direct);
            }
            Self::Rename(_) | Self::Remove(_) | Self::CopyTo(_) | Self::CopyFrom(_) | Self::Bind(_) => {
                return Ok(Route::Direct);
            }
            Self::Unbind(_)
            | Self::Build(_)
            | Self::Set(_)
            | Self::Apply(_)
            | Self::Edit(_)
            | Self::Update(_)
            | Self::Pull(_) => {
                return Ok(Route::Direct);
            }
        }))
    }
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
