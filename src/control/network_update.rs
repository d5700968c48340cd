//! `set` and `apply`: changes ports and traffic limits of a running machine. The supervisor applies the
//! change: only the supervisor writes the machine's record.

use super::running;
use crate::error::Result;
use crate::host::systemd::varlink;
use crate::machine::Machine;
use crate::machine::name::Name;
use crate::machine::network::Port;
use crate::network::firewall::TrafficPolicy;
use crate::paths::Paths;
use crate::protocol::{Call, NetworkUpdate};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// The time for which a supervisor may be unreachable.
const RESTART_TIME: Duration = Duration::from_secs(1);

/// The settings that are changed without a restart of the machine.
pub(crate) const KEYS: [&str; 5] =
    ["network.ports", "network.egress", "network.rate-in", "network.rate-out", "network.connections-max"];

/// Returns whether the machine is running and has firewall rules.
pub(crate) fn is_possible(paths: &Paths, machine: &Machine) -> bool {
    running(paths, &machine.name).is_ok_and(|record| record.firewall.is_some())
}

/// Connects to a supervisor. After a change it executes itself again, and is unreachable for a moment.
fn connect(paths: &Paths, name: &Name) -> Result<UnixStream> {
    let begun = Instant::now();
    loop {
        match varlink::connect(&paths.control(name)) {
            Err(_) if begun.elapsed() < RESTART_TIME => std::thread::sleep(RESTART_TIME / 50),
            other => return other,
        }
    }
}

/// Applies the ports and traffic limits of a definition to its running machine.
///
/// # Errors
/// A port in use, or a supervisor that refuses. Nothing is changed then.
pub(crate) fn apply(paths: &Paths, machine: &Machine) -> Result<()> {
    let network = &machine.network;
    call(paths, &machine.name, &network.ports, &TrafficPolicy::of(network))
}

/// Applies ports and traffic limits to a running machine. Its supervisor also looks up the host's resolver
/// again.
pub(super) fn call(paths: &Paths, name: &Name, ports: &[Port], bounds: &TrafficPolicy) -> Result<()> {
    let mut stream = connect(paths, name).map_err(|error| {
        error.with_hint(
            "its supervisor is starting or is of an older version; try again, or restart the machine",
        )
    })?;
    let update = NetworkUpdate { ports: ports.to_vec(), bounds: bounds.clone() };
    let (method, parameters) = Call::UpdateNetwork(update).into_parts();
    varlink::call(&mut stream, &method, &parameters)?;
    Ok(())
}
