//! systemd as the init of a guest: its state and its failed units, read over the message bus of the guest.
//! Replies at the private socket of systemd have a sender that zbus refuses. Called by `control` in a child
//! process that has entered the machine. The guest controls the replies: the result is bounded, and the caller
//! limits time and memory.

use super::bus;
use super::journal::printable_line;
use crate::error::{Context, Error, Result};
use crate::host::runtime::runtime;
use serde::{Deserialize, Serialize};
use std::os::unix::net::UnixStream;
use std::time::Duration;
use zbus::{Connection, OwnedVariant, Variant};

/// The socket of the message bus.
const SOCKET: &str = "/run/dbus/system_bus_socket";
const NAME: Option<&str> = Some("org.freedesktop.systemd1");
/// The path and the interface of its manager.
const PATH: &str = "/org/freedesktop/systemd1";
const INTERFACE: &str = "org.freedesktop.systemd1.Manager";
/// The timeout of a call.
const PATIENCE: Duration = Duration::from_millis(1200);
/// The greatest number of named units, and the greatest length of a name (`UNIT_NAME_MAX`).
const NAMED: usize = 16;
const LONGEST_NAME: usize = 255;
/// The states of systemd (`SystemState`, org.freedesktop.systemd1(5)).
const STATES: [&str; 6] = ["initializing", "starting", "running", "degraded", "maintenance", "stopping"];

/// The state that the systemd of a guest reports. Serialised unchanged for `--json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct GuestState {
    /// `SystemState`: `starting`, `running`, `degraded`, …
    pub(crate) state: String,
    /// The number of failed units.
    pub(crate) failed: u32,
    /// The names of the first failed units.
    pub(crate) failed_units: Vec<String>,
}

impl GuestState {
    /// Describes the state in one line: `degraded, 1 failed unit (bad.service)`.
    pub(crate) fn describe(&self) -> String {
        match self.describe_units() {
            Some(units) => format!("{}, {units}", self.state),
            None => self.state.clone(),
        }
    }

    /// Describes the failed units. `None` if there are none.
    pub(crate) fn describe_units(&self) -> Option<String> {
        const SHOWN: usize = 4;
        let names = self.failed_units.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
        let more = (self.failed as usize).saturating_sub(self.failed_units.len().min(SHOWN));
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        match self.failed {
            0 => None,
            1 => Some(format!("1 failed unit ({names})")),
            count => Some(format!("{count} failed units ({names}{more})")),
        }
    }
}

/// Reads the state of the systemd of this mount namespace.
///
/// # Errors
/// systemd is not running here, does not reply, or replies with an invalid state.
pub(crate) fn state() -> Result<GuestState> {
    let doing = || "cannot read the state of the guest's systemd";
    let socket = UnixStream::connect(SOCKET).context(doing)?;
    runtime()?.block_on(exchange(socket)).map_err(|error| error.context(doing()))
}

async fn exchange(socket: UnixStream) -> Result<GuestState> {
    let connecting = zbus::connection::Builder::unix_stream(socket).method_timeout(PATIENCE).build();
    let connection = connecting.await.map_err(bus::failure)?;
    let state = property(&connection, "SystemState").await?;
    let state: String = state.downcast_ref().map_err(|error| Error::new(error.to_string()))?;
    if !STATES.contains(&state.as_str()) {
        return Err(Error::new("it reports an unknown state"));
    }
    let units = if state == "running" { Vec::new() } else { failed_units(&connection).await? };
    let failed = u32::try_from(units.len()).unwrap_or(u32::MAX);
    Ok(GuestState { state, failed, failed_units: named(&units) })
}

/// Returns the first names of units that a guest has sent, each as a part of one line.
fn named(units: &[String]) -> Vec<String> {
    let names = units.iter().take(NAMED);
    names.map(|name| printable_line(name.as_bytes()).chars().take(LONGEST_NAME).collect()).collect()
}

async fn property(connection: &Connection, name: &str) -> Result<OwnedVariant> {
    let properties = Some("org.freedesktop.DBus.Properties");
    let arguments = (INTERFACE, name);
    let call = connection.call_method(NAME, PATH, properties, "Get", &arguments);
    let body = call.await.map_err(bus::failure)?.body();
    let value: Variant<'_> = body.deserialize().map_err(bus::failure)?;
    value.try_to_owned().map_err(|error| Error::new(error.to_string()))
}

/// Returns the names of the failed units.
async fn failed_units(connection: &Connection) -> Result<Vec<String>> {
    let states = vec!["failed"];
    let call = connection.call_method(NAME, PATH, Some(INTERFACE), "ListUnitsFiltered", &states);
    let body = call.await.map_err(bus::failure)?.body();
    let listed: Vec<super::units::ListedUnit> = body.deserialize().map_err(bus::failure)?;
    Ok(listed.into_iter().map(|unit| unit.0).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_units_are_bounded_and_have_one_line() {
        let long = "x".repeat(1000);
        let sent = ["a\nfake: running\n.service", "b\t\x1b[2Jc.service", &long].map(str::to_owned);
        let names = named(&sent);
        assert_eq!(names[..2], ["a\\x0afake: running\\x0a.service", "b\\x09c.service"]);
        assert_eq!(names[2].len(), LONGEST_NAME);
        assert_eq!(named(&vec![long; 100]).len(), NAMED);
    }

    #[test]
    fn failed_units_are_counted_and_named() {
        let state = |failed: u32, names: &[&str]| GuestState {
            state: "degraded".into(),
            failed,
            failed_units: names.iter().map(|name| (*name).to_owned()).collect(),
        };
        assert_eq!(state(1, &["bad.service"]).describe(), "degraded, 1 failed unit (bad.service)");
        assert_eq!(state(2, &["a", "b"]).describe(), "degraded, 2 failed units (a, b)");
        assert_eq!(
            state(7, &["a", "b", "c", "d", "e"]).describe(),
            "degraded, 7 failed units (a, b, c, d and 3 more)"
        );
        assert_eq!(GuestState { state: "starting".into(), ..state(0, &[]) }.describe(), "starting");
    }
}
