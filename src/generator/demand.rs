//! The socket unit of a machine that is started by its ports: systemd listens there, and no process of ours is.
//! Called by the file above.

use crate::machine::Machine;
use crate::machine::network::Port;
use std::fmt::Write as _;
use std::net::IpAddr;

/// The socket unit, where a port starts the machine. It may listen before an address is there, as it starts
/// early, and while the machine runs: then its ports lead past it.
pub fn socket(machine: &Machine) -> Option<String> {
    let ports = &machine.network.on_demand;
    if ports.is_empty() {
        return None;
    }
    let mut text = format!(
        "# Made by {} from the definition of machine '{name}'.\n\n\
         [Unit]\nDescription=Ports that start machine {name}\nDocumentation=man:coracle.toml(5)\n\n\
         [Socket]\nFreeBind=yes\n",
        super::PROGRAM,
        name = machine.name
    );
    for address in ports.iter().flat_map(addresses) {
        // Writing to a string does not fail.
        let _ = writeln!(text, "ListenStream={address}");
    }
    Some(text)
}

/// What systemd listens at: `[ADDRESS:]PORT`.
fn addresses(port: &Port) -> impl Iterator<Item = String> {
    let address = port.address.map_or_else(String::new, |address| match address {
        IpAddr::V4(address) => format!("{address}:"),
        IpAddr::V6(address) => format!("[{address}]:"),
    });
    (port.host..=port.last).map(move |number| format!("{address}{number}"))
}
