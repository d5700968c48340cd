//! Refuses ports of the host that are in use. Called by `claim`, and by the supervisor for ports that change
//! while a machine runs.

use crate::error::{Error, Result};
use crate::host::runtime::runtime;
use crate::host::systemd::units;
use crate::machine::Machine;
use crate::machine::name::Name;
use crate::machine::network::Port;
use crate::machine::unit_name;
use crate::network::listeners;
use crate::paths::Paths;
use crate::state::record::Record;

/// Refuses ports with a listening program. At ports that start a machine systemd listens.
pub(super) fn refuse_listening(paths: &Paths, machine: &Machine) -> Result<()> {
    let on_demand = &machine.network.on_demand;
    let others = machine.network.ports.iter().filter(|port| !on_demand.contains(port));
    listeners::refuse_listening(paths, &others.copied().collect::<Vec<_>>())?;
    listeners::refuse_listening(paths, on_demand).or_else(|error| {
        let socket = unit_name::on_demand_socket(&machine.name);
        match runtime()?.block_on(units::unit_properties(&socket)) {
            Ok(properties) if properties.active_state == "active" => Ok(()),
            _ => Err(error),
        }
    })
}

/// Refuses ports of running machines. Returns the records of dead machines that name some of the ports.
/// Requires the lock of claims.
///
/// # Errors
/// A port of another machine, with the machine's name.
pub(crate) fn refuse_claimed(paths: &Paths, own: &Name, wanted: &[Port]) -> Result<Vec<Record>> {
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let others = Record::all(paths).into_iter().filter(|other| other.name != *own);
    let mut dead = Vec::new();
    for other in others {
        let clash = other.ports().iter().flat_map(|held| wanted.iter().map(move |port| (held, port)));
        match clash.into_iter().find(|(held, port)| held.overlaps(port)) {
            Some((held, port)) if other.is_alive() => {
                let error =
                    Error::new(format!("cannot forward '{port}': machine '{}' has '{held}'", other.name));
                return Err(error.with_hint("stop that machine, or choose another port"));
            }
            Some(_) => dead.push(other),
            None => {}
        }
    }
    Ok(dead)
}
