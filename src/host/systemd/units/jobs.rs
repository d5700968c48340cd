//! Starts and stops units and waits for the end of their jobs; reports the status texts of the units
//! meanwhile.

use super::{CALL_TIMEOUT, SYSTEMD, SystemdManagerProxy, lost, manager, status_of};
use crate::error::{Error, Result};
use crate::host::systemd::bus;
use futures_util::{StreamExt, future};
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::time::Duration;
use zbus::message::{Message, Type};
use zbus::{Connection, MatchRule, MessageStream, OwnedObjectPath, OwnedVariant};

/// The time without messages after which systemd is queried for the job. Signals get lost when systemd
/// executes itself again.
const SILENCE: Duration = Duration::from_secs(2);

/// An operation on units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum JobAction {
    /// `systemctl start`
    Start,
    /// `systemctl stop`
    Stop,
    /// `systemctl restart`
    Restart,
}

impl JobAction {
    /// Completes "did not …".
    fn verb(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Restart => "restart",
        }
    }
}

/// The condition to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Until {
    /// The end of the jobs.
    Done,
    /// The queueing of the jobs.
    Queued,
}

/// The end of one unit's job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finished {
    /// The unit.
    pub(crate) unit: String,
    /// Success, or systemd's reason for the failure.
    pub(crate) result: Result<()>,
}

/// A unit with an unfinished job.
struct Pending {
    unit: String,
    path: OwnedObjectPath,
    job: OwnedObjectPath,
    /// The last status text; at first the text before the job, so that the text of an earlier run is not
    /// reported as new.
    status: String,
    /// systemd did not know the job at the last query.
    vanished: bool,
}

/// Queues a job for each unit and waits for all of them if requested. `progress` receives a unit's name and
/// its new status text, and no text if there was no message for a while; it breaks on a text to stop waiting
/// for this unit. The jobs themselves have systemd's timeouts.
///
/// # Errors
/// systemd is unreachable or the connection ends. The results of the units are in the list, in the order of
/// `units`.
pub(crate) async fn run(
    action: JobAction,
    units: &[String],
    until: Until,
    progress: &mut dyn FnMut(&str, &str) -> ControlFlow<()>,
) -> Result<Vec<Finished>> {
    let connection = bus::connect(CALL_TIMEOUT).await?;
    let manager = manager(&connection).await?;
    // Before the first job is queued, so that its end is not missed.
    let mut messages = listen(&connection, &manager).await?;
    let (mut pending, mut finished) = (Vec::new(), Vec::new());
    for unit in units {
        match queue(&connection, &manager, action, unit).await {
            Ok(_) if until == Until::Queued => finished.push(Finished { unit: unit.clone(), result: Ok(()) }),
            Ok(job) => pending.push(job),
            Err(error) => finished.push(Finished { unit: unit.clone(), result: Err(error) }),
        }
    }
    while !pending.is_empty() {
        for (unit, end) in next_ends(&manager, &mut messages, &mut pending, progress).await? {
            let result = judge(&connection, &manager, action, &unit, end).await;
            finished.push(Finished { unit, result });
        }
    }
    finished.sort_by_key(|one| units.iter().position(|unit| *unit == one.unit));
    Ok(finished)
}

/// Waits for the end of a job that is queued already and creates its unit. The caller has subscribed to the
/// messages before.
pub(super) async fn wait_for(
    connection: &Connection,
    manager: &SystemdManagerProxy<'_>,
    messages: &mut MessageStream,
    unit: &str,
    job: OwnedObjectPath,
) -> Result<()> {
    let (unit_name, path, status) = (unit.to_owned(), job.clone(), String::new());
    let mut pending = vec![Pending { unit: unit_name, path, job, status, vanished: false }];
    loop {
        let ends = next_ends(manager, messages, &mut pending, &mut |_, _| ControlFlow::Continue(())).await?;
        if let Some((_, end)) = ends.into_iter().next() {
            return judge(connection, manager, JobAction::Start, unit, end).await;
        }
    }
}

/// Waits for the next message or the end of the silence; returns the finished units.
async fn next_ends(
    manager: &SystemdManagerProxy<'_>,
    messages: &mut MessageStream,
    pending: &mut Vec<Pending>,
    progress: &mut dyn FnMut(&str, &str) -> ControlFlow<()>,
) -> Result<Vec<(String, End)>> {
    match tokio::time::timeout(SILENCE, messages.next()).await {
        Ok(Some(Ok(message))) => Ok(on_message(&message, pending, progress)),
        Ok(Some(Err(_)) | None) => Err(lost()),
        Err(_) => {
            // No new text; the caller may have another source of progress.
            for one in pending.iter() {
                let _ = progress(&one.unit, "");
            }
            Ok(on_silence(manager, pending).await)
        }
    }
}

/// The end of waiting for a job.
#[derive(Debug, Clone, PartialEq, Eq)]
enum End {
    /// The result of systemd: `done`, `failed`, `timeout`, `canceled`, `dependency`, …
    Result(String),
    /// The caller has stopped waiting.
    Enough,
    /// The job is gone and its end was not received.
    Unheard,
}

/// Subscribes to systemd's signals.
pub(super) async fn listen(
    connection: &Connection,
    manager: &SystemdManagerProxy<'_>,
) -> Result<MessageStream> {
    let asking = |error| bus::failure(error).context("cannot listen to systemd");
    let rule = MatchRule::builder()
        .msg_type(Type::Signal)
        .sender(SYSTEMD)
        .interface("org.freedesktop.systemd1.Manager")
        .member("JobRemoved")
        .build();
    let (subscribed, matched) =
        future::join(manager.subscribe(), add_match(connection, rule.map_err(asking)?)).await;
    subscribed.and(matched).map_err(asking)?;
    Ok(MessageStream::from(connection))
}

/// Subscribes to the messages of a rule.
async fn add_match(connection: &Connection, rule: MatchRule<'_>) -> zbus::Result<()> {
    let bus = zbus::fdo::DBusProxy::new(connection).await?;
    bus.add_match_rule(rule).await.map_err(|error| zbus::Error::FDO(Box::new(error)))
}

/// Queues the job of one unit. All requests are sent at once: waiting for each reply would add a round trip
/// per request.
async fn queue(
    connection: &Connection,
    manager: &SystemdManagerProxy<'_>,
    action: JobAction,
    unit: &str,
) -> Result<Pending> {
    let asking = |error| bus::failure(error).context(format!("cannot {} '{unit}'", action.verb()));
    let path = unit_path(unit).map_err(asking)?;
    let rule = MatchRule::builder()
        .msg_type(Type::Signal)
        .sender(SYSTEMD)
        .interface("org.freedesktop.DBus.Properties")
        .path(&path)
        .build();
    let order = async {
        match action {
            JobAction::Start => manager.start_unit(unit, "replace").await,
            JobAction::Stop => manager.stop_unit(unit, "replace").await,
            JobAction::Restart => manager.restart_unit(unit, "replace").await,
        }
    };
    let matching = add_match(connection, rule.map_err(asking)?);
    // The job before the status: systemd would load the unit for the status only, and load it again for the
    // job.
    let (matched, job, status) = future::join3(matching, order, status_text(connection, &path)).await;
    matched.map_err(asking)?;
    let job = job.map_err(asking)?;
    Ok(Pending { unit: unit.to_owned(), path, job, status: status.unwrap_or_default(), vanished: false })
}

/// Returns the object path of a unit.
pub(super) fn unit_path(unit: &str) -> zbus::Result<OwnedObjectPath> {
    OwnedObjectPath::try_from(format!("/org/freedesktop/systemd1/unit/{}", bus::label(unit)))
}

/// Returns the status text of a service. Only this property, because reading all of a unit takes systemd ten
/// milliseconds.
async fn status_text(connection: &Connection, path: &OwnedObjectPath) -> Option<String> {
    let interface = Some("org.freedesktop.DBus.Properties");
    let ask = ("org.freedesktop.systemd1.Service", "StatusText");
    let reply = connection.call_method(Some(SYSTEMD), path, interface, "Get", &ask).await.ok()?;
    let value: OwnedVariant = reply.body().deserialize().ok()?;
    value.downcast_ref::<&str>().ok().map(str::to_owned)
}

/// Processes one message; returns the finished units.
fn on_message(
    message: &Message,
    pending: &mut Vec<Pending>,
    progress: &mut dyn FnMut(&str, &str) -> ControlFlow<()>,
) -> Vec<(String, End)> {
    let header = message.header();
    let member = header.member().map(|member| member.to_string());
    let (at, end) = match member.as_deref() {
        Some("JobRemoved") => {
            let Ok((_, job, _, result)) =
                message.body().deserialize::<(u32, OwnedObjectPath, String, String)>()
            else {
                return Vec::new();
            };
            (pending.iter().position(|one| one.job == job), End::Result(result))
        }
        Some("PropertiesChanged") => {
            let at = pending.iter().position(|one| Some(&*one.path) == header.path());
            let (Some(index), Some(text)) = (at, changed_status(message)) else { return Vec::new() };
            let one = &mut pending[index];
            let is_news = one.status != text;
            one.status = text;
            if !is_news || one.status.is_empty() || progress(&one.unit, &one.status).is_continue() {
                return Vec::new();
            }
            (at, End::Enough)
        }
        _ => return Vec::new(),
    };
    at.map(|index| (pending.remove(index).unit, end)).into_iter().collect()
}

/// Returns the status text of a signal of changed properties.
fn changed_status(message: &Message) -> Option<String> {
    let body = message.body();
    let (_, changed, _): (String, HashMap<String, OwnedVariant>, Vec<String>) = body.deserialize().ok()?;
    changed.get("StatusText")?.downcast_ref::<&str>().ok().map(str::to_owned)
}

/// Queries systemd for the jobs after a silence. A job missing twice in a row has ended without a signal: at
/// the first time its signal may still be on the way.
async fn on_silence(manager: &SystemdManagerProxy<'_>, pending: &mut Vec<Pending>) -> Vec<(String, End)> {
    let mut ended = Vec::new();
    let mut kept = Vec::new();
    for mut one in std::mem::take(pending) {
        let id = one.job.rsplit('/').next().and_then(|id| id.parse().ok()).unwrap_or(0);
        let gone = match manager.get_job(id).await {
            Err(error) => bus::error_name(&error).is_some_and(|name| name.ends_with(".NoSuchJob")),
            Ok(_) => false,
        };
        if gone && one.vanished {
            ended.push((one.unit, End::Unheard));
        } else {
            one.vanished = gone;
            kept.push(one);
        }
    }
    *pending = kept;
    ended
}

/// Returns whether the job ended as requested.
async fn judge(
    connection: &Connection,
    manager: &SystemdManagerProxy<'_>,
    action: JobAction,
    unit: &str,
    end: End,
) -> Result<()> {
    let result = match end {
        End::Enough => return Ok(()),
        End::Result(result) if result == "done" => return Ok(()),
        End::Result(result) => Some(result),
        End::Unheard => None,
    };
    let status = status_of(connection, manager, unit).await?;
    let is_up = matches!(status.active_state.as_str(), "active" | "reloading");
    if result.is_none() && is_up == (action != JobAction::Stop) {
        return Ok(());
    }
    let why = match result.as_deref() {
        Some("canceled") => "another job took its place".to_owned(),
        Some("dependency") => "a unit that it needs did not start".to_owned(),
        Some("timeout") => format!("it took too long; {}", status.describe_failure()),
        _ => status.describe_failure(),
    };
    Err(Error::new(format!("unit '{unit}' did not {}: {why}", action.verb())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_has_its_path() {
        let path = |unit| unit_path(unit).unwrap().to_string();
        assert_eq!(
            path("coracle@web-1.service"),
            "/org/freedesktop/systemd1/unit/coracle_40web_2d1_2eservice"
        );
        assert_eq!(path("7.slice"), "/org/freedesktop/systemd1/unit/_37_2eslice");
    }
}
