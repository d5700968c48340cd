//! Names of the systemd units of machines. Used by every stage that names a unit. Must not talk to systemd.

use super::name::Name;

/// The pattern of the services of all machines.
pub(crate) const ALL_SERVICES: &str = "coracle@*.service";

/// Returns the service of a machine.
pub(crate) fn service(name: &Name) -> String {
    format!("coracle@{name}.service")
}

/// Returns the scope of a machine in the foreground.
pub(crate) fn scope(name: &Name) -> String {
    format!("coracle-{name}.scope")
}

/// Returns the name of the machine of a service, or the unit itself if it is not the service of a machine.
pub(crate) fn machine_of(unit: &str) -> &str {
    unit.strip_prefix("coracle@").and_then(|rest| rest.strip_suffix(".service")).unwrap_or(unit)
}

/// Returns whether a unit is a service. systemd restarts services; a scope ends with its processes.
pub(crate) fn is_service(unit: &str) -> bool {
    unit.ends_with(".service")
}

/// Returns the socket unit that listens at the ports of `network.on-demand`.
pub(crate) fn on_demand_socket(name: &Name) -> String {
    format!("coracle-on-demand@{name}.socket")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_are_named_after_their_machines() {
        let name = Name::new("a.b-c").unwrap();
        assert_eq!(machine_of(&service(&name)), "a.b-c");
        assert!(is_service(&service(&name)) && !is_service("a.b-c.scope"));
        assert_eq!(machine_of("ssh.service"), "ssh.service");
    }
}
