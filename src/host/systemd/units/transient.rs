//! Transient services: a command of this program as a unit, with streams of the caller, and its end. Called by
//! the service `io.coracle1` on its own connection, which keeps a reference to each unit until its end is read.

use super::{SYSTEMD, SystemdManagerProxy, all_properties, jobs, manager, number, text};
use crate::error::{Context, Error, Result};
use crate::host::systemd::bus;
use futures_util::StreamExt;
use rustix::fd::OwnedFd;
use std::collections::HashMap;
use std::time::Duration;
use zbus::message::{Message, Type};
use zbus::{Connection, Fd, MatchRule, MessageStream, OwnedVariant, Variant};

/// The time without a signal after which systemd is queried: signals get lost when it executes itself again.
const SILENCE: Duration = Duration::from_secs(5);

/// The time for a stopped service to remove its files.
const STOP: Duration = Duration::from_secs(10);

/// A service to be started.
#[derive(Debug)]
pub(crate) struct TransientService {
    /// Its name, with `.service`.
    pub(crate) name: String,
    /// The description in `systemctl status`.
    pub(crate) description: String,
    /// Its slice, with `.slice`.
    pub(crate) slice: String,
    /// The program, an absolute path, and its arguments.
    pub(crate) command: Vec<String>,
    /// Its environment, each as `NAME=VALUE`.
    pub(crate) environment: Vec<String>,
    /// Fields of all its journal entries, each as `NAME=VALUE`.
    pub(crate) log_fields: Vec<String>,
    /// Its standard streams; `None` for `/dev/null` as input and the journal as output.
    pub(crate) streams: [Option<OwnedFd>; 3],
}

/// The signals of a unit, from before its start.
#[derive(Debug)]
pub(crate) struct UnitWatch {
    connection: Connection,
    unit: String,
    messages: MessageStream,
    seen: Seen,
}

/// The end of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UnitEnd {
    /// Its main process exited with this status.
    Exited(u8),
    /// A signal killed its main process.
    Killed(u8),
    /// It ended before its main process ran, or its end was not received.
    Unknown,
}

/// Properties of a unit from its signals.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Seen {
    active: String,
    code: i32,
    status: i32,
    status_text: String,
}

/// Starts a service and returns when its job is queued.
///
/// # Errors
/// systemd does not reply, or refuses.
pub(crate) async fn start(connection: &Connection, service: TransientService) -> Result<UnitWatch> {
    let unit = service.name.clone();
    let starting = |error| bus::failure(error).context(format!("cannot start the job '{unit}'"));
    let manager = manager(connection).await?;
    // systemd sends signals only while somebody listens. This connection may have subscribed for an earlier job.
    match manager.subscribe().await {
        Err(error) if !bus::error_name(&error).is_some_and(|name| name.ends_with(".AlreadySubscribed")) => {
            return Err(starting(error));
        }
        _ => {}
    }
    let watch = UnitWatch::new(connection, &unit).await?;
    let requested = manager.start_transient_unit(&unit, "fail", &properties(service), &[]).await;
    requested.map_err(starting)?;
    Ok(watch)
}

/// Sends a signal to the main process of a service.
///
/// # Errors
/// The unit is gone, or systemd refuses.
pub(crate) async fn signal(connection: &Connection, unit: &str, signal: i32) -> Result<()> {
    let refused = |error| bus::failure(error).context(format!("cannot signal the job '{unit}'"));
    manager(connection).await?.kill_unit(unit, "main", signal).await.map_err(refused)
}

/// Stops a service without waiting for its end.
///
/// # Errors
/// The unit is gone, or systemd refuses.
pub(crate) async fn stop(connection: &Connection, unit: &str) -> Result<()> {
    let refused = |error| bus::failure(error).context(format!("cannot stop the job '{unit}'"));
    manager(connection).await?.stop_unit(unit, "replace").await.map(|_| ()).map_err(refused)
}

/// Returns the running services whose names match a pattern, each with its description.
///
/// # Errors
/// systemd does not reply.
pub(crate) async fn running(connection: &Connection, pattern: &str) -> Result<Vec<(String, String)>> {
    let listing = |error| bus::failure(error).context("cannot list the jobs");
    let states = ["active", "activating", "deactivating"];
    let listed = manager(connection).await?.list_units_by_patterns(&states, &[pattern]).await;
    Ok(listed.map_err(listing)?.into_iter().map(|(name, description, ..)| (name, description)).collect())
}

/// Returns the properties of a service (org.freedesktop.systemd1(5)).
fn properties(service: TransientService) -> Vec<(&'static str, Variant<'static>)> {
    let program = service.command.first().cloned().unwrap_or_default();
    let bytes = |field: String| field.into_bytes();
    let fields: Vec<Vec<u8>> = service.log_fields.into_iter().map(bytes).collect();
    let mut properties = vec![
        ("Description", Variant::from(service.description)),
        ("Type", Variant::from("exec")),
        ("NotifyAccess", Variant::from("main")),
        ("AddRef", Variant::from(true)),
        ("CollectMode", Variant::from("inactive-or-failed")),
        ("KillMode", Variant::from("mixed")),
        // A job that waits for its caller does not notice the signal.
        ("TimeoutStopUSec", Variant::from(u64::try_from(STOP.as_micros()).unwrap_or(u64::MAX))),
        ("Slice", Variant::from(service.slice)),
        ("Environment", Variant::from(service.environment)),
        ("LogExtraFields", Variant::from(fields)),
        // With "ExecStart" systemd would expand `$NAME` in the words.
        ("ExecStartEx", Variant::from(vec![(program, service.command, vec!["no-env-expand"])])),
    ];
    if service.streams[2].is_none() {
        // By default it is that of standard output, and also if both have the same setting: warnings would be in a
        // document. The descriptor of standard output takes precedence over its setting.
        properties.push(("StandardOutput", Variant::from("null")));
        properties.push(("StandardError", Variant::from("journal")));
    }
    let names =
        ["StandardInputFileDescriptor", "StandardOutputFileDescriptor", "StandardErrorFileDescriptor"];
    let streams = names.into_iter().zip(service.streams);
    properties.extend(streams.filter_map(|(name, stream)| Some((name, Variant::from(Fd::from(stream?))))));
    properties
}

impl UnitWatch {
    /// Subscribes to the signals of a unit.
    ///
    /// # Errors
    /// The bus refuses.
    pub(crate) async fn new(connection: &Connection, unit: &str) -> Result<Self> {
        let listening = |error| bus::failure(error).context("cannot listen to systemd");
        let path = jobs::unit_path(unit).map_err(listening)?;
        let rule = MatchRule::builder()
            .msg_type(Type::Signal)
            .sender(SYSTEMD)
            .interface("org.freedesktop.DBus.Properties")
            .member("PropertiesChanged")
            .path(path)
            .build();
        let messages = MessageStream::for_match_rule(rule.map_err(listening)?, connection, None);
        let messages = messages.await.map_err(listening)?;
        let (connection, unit) = (connection.clone(), unit.to_owned());
        Ok(Self { connection, unit, messages, seen: Seen::default() })
    }

    /// Waits for the end of the unit, and lets systemd forget it. `progress` receives its status texts.
    ///
    /// # Errors
    /// The connection ended.
    pub(crate) async fn end(mut self, progress: &mut (dyn FnMut(&str) + Send)) -> Result<UnitEnd> {
        let end = loop {
            let before = self.seen.status_text.clone();
            let queried = match tokio::time::timeout(SILENCE, self.messages.next()).await {
                Ok(Some(Ok(message))) => {
                    self.seen.merge(&message);
                    false
                }
                Ok(_) => return Err(Error::new("lost the connection to systemd")),
                Err(_) => {
                    self.query().await?;
                    true
                }
            };
            if self.seen.status_text != before {
                progress(&self.seen.status_text);
            }
            if let Some(end) = self.seen.end(queried) {
                break end;
            }
        };
        // It fails if the unit is gone already.
        let _ = manager(&self.connection).await?.unref_unit(&self.unit).await;
        Ok(end)
    }

    /// Reads the properties after a silence.
    async fn query(&mut self) -> Result<()> {
        let manager: SystemdManagerProxy<'_> = manager(&self.connection).await?;
        let reading = |error| bus::failure(error).context("cannot read the state of a job");
        let path = manager.load_unit(&self.unit).await.map_err(reading)?;
        let properties = all_properties(&self.connection, &path).await.map_err(reading)?;
        self.seen.update(&properties);
        Ok(())
    }
}

impl Seen {
    /// Adds the properties of a signal.
    fn merge(&mut self, message: &Message) {
        let body = message.body();
        if let Ok((_, changed, _)) =
            body.deserialize::<(String, HashMap<String, OwnedVariant>, Vec<String>)>()
        {
            self.update(&changed);
        }
    }

    fn update(&mut self, changed: &HashMap<String, OwnedVariant>) {
        let texts = [("ActiveState", &mut self.active), ("StatusText", &mut self.status_text)];
        for (name, field) in texts {
            if let Some(value) = text(changed, name) {
                *field = value;
            }
        }
        for (name, field) in [("ExecMainCode", &mut self.code), ("ExecMainStatus", &mut self.status)] {
            if let Some(value) = number(changed, name) {
                *field = value;
            }
        }
    }

    /// Returns the end if the unit has ended. Before its start it is inactive, too, which sends no signal; a
    /// `queried` state is later than that.
    fn end(&self, queried: bool) -> Option<UnitEnd> {
        let has_ended = self.active == "failed" || self.active == "inactive" && (self.code != 0 || queried);
        has_ended.then(|| match (self.code, u8::try_from(self.status)) {
            (libc::CLD_EXITED, Ok(status)) => UnitEnd::Exited(status),
            (libc::CLD_KILLED | libc::CLD_DUMPED, Ok(signal)) => UnitEnd::Killed(signal),
            _ => UnitEnd::Unknown,
        })
    }
}

/// Returns the file of the running program, for a job of the same program.
///
/// # Errors
/// Any error of readlink(2).
pub(crate) fn own_program() -> Result<String> {
    let program = std::env::current_exe().context(|| "cannot find the own program")?;
    let program = program.to_string_lossy().into_owned();
    // After an upgrade the path leads to the newer program.
    Ok(program.strip_suffix(" (deleted)").map_or(program.clone(), str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_before_its_start_has_not_ended() {
        let seen =
            |active: &str, code, status| Seen { active: active.to_owned(), code, status, ..Seen::default() };
        assert_eq!(seen("inactive", 0, 0).end(false), None);
        assert_eq!(seen("activating", 1, 7).end(false), None);
        assert_eq!(seen("inactive", 1, 0).end(false), Some(UnitEnd::Exited(0)));
        assert_eq!(seen("failed", 1, 7).end(false), Some(UnitEnd::Exited(7)));
        assert_eq!(seen("failed", 2, 9).end(false), Some(UnitEnd::Killed(9)));
        assert_eq!(seen("inactive", 0, 0).end(true), Some(UnitEnd::Unknown));
    }
}
