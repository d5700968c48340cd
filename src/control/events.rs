//! `coracle events`: what has happened to machines, from the journal of the host: messages of systemd about
//! their units, and events of health checks. Nothing is stored for it.

use super::health::{EVENT_FIELD, HEALTHY, LIMIT, UNHEALTHY};
use super::names;
use crate::config;
use crate::error::Result;
use crate::host::systemd::journal::{self, Fields, Journal, JournalEntry, Query};
use crate::machine::name::Name;
use crate::machine::unit_name::{self, ServiceTemplate};
use crate::paths::Paths;
use serde::Serialize;
use serde_json::Value;
use std::ops::ControlFlow;

/// The messages of systemd about a unit (systemd's `sd-messages.h`), and the events that they are.
const MESSAGES: [(&str, &str); 6] = [
    ("7d4958e842da4a758f6c1cdc7b36dcc5", "start"),
    ("39f53479d3a045ac8e11786248231fbf", "ready"),
    ("7ad2d189f7e94e70a38c781354912448", "stop"),
    ("d9b373ed55a64feb8242e02dbe79a49c", "failure"),
    ("fe6faa94e7774663a0da52717891d8ef", "out-of-memory"),
    ("5eb03494b6584870a536b337290809b3", "restart"),
];
/// The events of Coracle.
const OWN: [&str; 3] = [HEALTHY, UNHEALTHY, LIMIT];

/// A selection of events.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EventQuery<'a> {
    /// The machines; all of them if empty.
    pub(crate) names: &'a [Name],
    /// The first time, in the format of systemd.time(7).
    pub(crate) since: Option<&'a str>,
    /// Whether to wait for further events. Earlier ones are left out unless `since` is set.
    pub(crate) follow: bool,
}

/// An event. Serialised unchanged for `--json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Event {
    /// The time, microseconds since the epoch.
    pub(crate) time: u64,
    /// The machine.
    pub(crate) machine: String,
    /// `start`, `ready`, `stop`, `failure`, `restart`, `out-of-memory`, `healthy`, `unhealthy` or `limit`.
    pub(crate) event: &'static str,
    /// The unit. `None` for events of health checks.
    pub(crate) unit: Option<String>,
    /// The message in the journal.
    pub(crate) message: String,
}

impl Event {
    /// Formats the event as one line.
    pub(crate) fn line(&self) -> String {
        let message = self.message.replace('\n', " ");
        format!("{} {} {}: {message}", super::when(self.time), self.machine, self.event)
    }
}

/// Passes events to `sink` in time order, until it breaks.
///
/// # Errors
/// A named machine without events that does not exist, no journalctl, or what `sink` returns.
pub(crate) fn read(
    paths: &Paths,
    query: &EventQuery<'_>,
    sink: &mut dyn FnMut(&Event) -> Result<ControlFlow<()>>,
) -> Result<()> {
    let host = Journal::Host(matches());
    let since = query.since.or(query.follow.then_some("now"));
    let of_journal = Query {
        since: since.map(str::to_owned),
        follow: query.follow,
        fields: Fields::All,
        ..Query::default()
    };
    let mut found: Vec<String> = Vec::new();
    let is_wanted = |event: &Event| {
        query.names.is_empty() || query.names.iter().any(|name| name.as_str() == event.machine)
    };
    journal::read(&[(&host, of_journal)], &mut |_, entry| {
        let Some(event) = event_of(paths, entry).filter(is_wanted) else {
            return Ok(ControlFlow::Continue(()));
        };
        if !found.contains(&event.machine) {
            found.push(event.machine.clone());
        }
        sink(&event)
    })?;
    let known = names(paths)?;
    let is_unknown =
        |name: &&Name| !known.contains(name.as_str()) && !found.iter().any(|found| found == name.as_str());
    query.names.iter().find(is_unknown).map_or(Ok(()), |name| Err(config::missing(paths, name)))
}

/// Returns the matches of journalctl(1). Users of the host can write fields of their own, but neither as
/// systemd nor as root.
fn matches() -> Vec<String> {
    let group = |first: &str, field: &str, values: &mut dyn Iterator<Item = &str>| {
        values.fold(first.to_owned(), |all, value| format!("{all} {field}={value}"))
    };
    vec![
        group("_PID=1", "MESSAGE_ID", &mut MESSAGES.iter().map(|(id, _)| *id)),
        group("_UID=0", EVENT_FIELD, &mut OWN.into_iter()),
    ]
}

/// Returns the event of an entry. `None` for units of others.
fn event_of(paths: &Paths, entry: JournalEntry) -> Option<Event> {
    let fields: Value = serde_json::from_str(entry.whole.as_deref()?).ok()?;
    let text = |name: &str| fields.get(name).and_then(Value::as_str);
    let (event, machine, unit) = match text(EVENT_FIELD) {
        Some(event) => {
            let event = OWN.into_iter().find(|own| *own == event)?;
            (event, Name::new(text("CORACLE_MACHINE")?).ok()?, None)
        }
        None => {
            let (_, event) = MESSAGES.into_iter().find(|(id, _)| text("MESSAGE_ID") == Some(id))?;
            let unit = text("UNIT")?;
            (event, machine_of(paths, unit)?, Some(unit.to_owned()))
        }
    };
    Some(Event { time: entry.time, machine: machine.into(), event, unit, message: entry.message })
}

/// Returns the machine of a unit of Coracle.
fn machine_of(paths: &Paths, unit: &str) -> Option<Name> {
    let name = || Name::new(unit_name::machine_of(unit)).ok();
    match ServiceTemplate::of_unit(unit) {
        Some(ServiceTemplate::Coracle) => name(),
        // The unit of systemd-nspawn(1) has the same name.
        Some(ServiceTemplate::Nspawn) => {
            name().filter(|name| config::service_template(paths, name) == ServiceTemplate::Nspawn)
        }
        None => unit_name::machine_of_scope(unit),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(fields: &str) -> JournalEntry {
        JournalEntry {
            time: 1,
            source: "systemd".into(),
            pid: Some(1),
            priority: None,
            message: "a message".into(),
            boot: None,
            is_console: false,
            cursor: None,
            whole: Some(fields.into()),
        }
    }

    #[test]
    fn entries_of_machines_are_events() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::below(root.path());
        let of = |fields: &str| event_of(&paths, entry(fields)).map(|event| (event.machine, event.event));
        let message = |id: &str, unit: &str| format!(r#"{{"MESSAGE_ID":"{id}","UNIT":"{unit}"}}"#);
        let [start, _, stop, ..] = MESSAGES.map(|(id, _)| id);
        assert_eq!(of(&message(start, "coracle@web.service")), Some(("web".into(), "start")));
        assert_eq!(of(&message(stop, "coracle-a-b.scope")), Some(("a-b".into(), "stop")));
        for unit in
            ["ssh.service", "systemd-nspawn@web.service", "coracle-health@web.service", "coracle.target"]
        {
            assert_eq!(of(&message(start, unit)), None, "{unit}");
        }
        let own = r#"{"CORACLE_EVENT":"unhealthy","CORACLE_MACHINE":"web"}"#;
        assert_eq!(of(own), Some(("web".into(), "unhealthy")));
        assert_eq!(of(r#"{"CORACLE_EVENT":"other","CORACLE_MACHINE":"web"}"#), None);
    }
}
