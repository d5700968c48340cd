//! set and apply: ports that lead to a machine that runs, and what it may send and get. Its supervisor
//! changes them: it alone writes the record of the machine.

use super::running;
use crate::error::Result;
use crate::host::systemd::varlink;
use crate::machine::Machine;
use crate::machine::network::Port;
use crate::network::firewall::TrafficPolicy;
use crate::paths::Paths;
use crate::protocol::{Call, NetworkUpdate};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// How long a supervisor may be away.
const RESTART_TIME: Duration = Duration::from_secs(1);

/// The settings that are changed here.
pub const KEYS: [&str; 5] =
    ["network.ports", "network.egress", "network.rate-in", "network.rate-out", "network.connections-max"];

/// Whether a machine that runs has a part in the firewall that can be changed.
pub fn is_possible(paths: &Paths, machine: &Machine) -> bool {
    running(paths, &machine.name).is_ok_and(|record| record.firewall.is_some())
}

/// Connects to a supervisor, which after a change executes itself anew and is away for a moment.
fn connect(paths: &Paths, name: &str) -> Result<UnixStream> {
    let begun = Instant::now();
    loop {
        match varlink::connect(&paths.control(name)) {
            Err(_) if begun.elapsed() < RESTART_TIME => std::thread::sleep(RESTART_TIME / 50),
            other => return other,
        }
    }
}

/// Makes ports and bounds of a machine that runs those of its definition.
///
/// # Errors
/// A port of somebody else, or a supervisor that does not do it; then all is as it was.
pub fn apply(paths: &Paths, machine: &Machine) -> Result<()> {
    let network = &machine.network;
    call(paths, machine.name.as_str(), &network.ports, &TrafficPolicy::of(network))
}

/// Gives a running machine these ports and bounds. Its supervisor looks the host's resolver up anew.
pub(super) fn call(paths: &Paths, name: &str, ports: &[Port], bounds: &TrafficPolicy) -> Result<()> {
    let mut stream = connect(paths, name).map_err(|error| {
        error.with_hint("its supervisor is of an older version or is just starting; try again, or restart it")
    })?;
    let update = NetworkUpdate { ports: ports.to_vec(), bounds: bounds.clone() };
    let (method, parameters) = Call::UpdateNetwork(update).into_parts();
    varlink::call(&mut stream, &method, &parameters)?;
    Ok(())
}
