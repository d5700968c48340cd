//! Names of the systemd units of machines. Used by every stage that names a unit. Must not talk to systemd.

use super::name::Name;

/// The template of a machine's service. `boot.machinectl` of the definition chooses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ServiceTemplate {
    /// `coracle@.service`.
    Coracle,
    /// `systemd-nspawn@.service`, which machinectl(1) starts and enables.
    Nspawn,
}

impl ServiceTemplate {
    /// All templates.
    pub(crate) const ALL: [Self; 2] = [Self::Coracle, Self::Nspawn];

    /// Returns the template for a value of `boot.machinectl`.
    pub(crate) fn of_machinectl(is_machinectl: bool) -> Self {
        if is_machinectl { Self::Nspawn } else { Self::Coracle }
    }

    /// Returns the template of a unit. `None` if the unit is not the service of a machine.
    pub(crate) fn of_unit(unit: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|template| template.instance(unit).is_some())
    }

    /// Returns the service of a machine.
    pub(crate) fn service(self, name: &Name) -> String {
        format!("{}{name}{SUFFIX}", self.prefix())
    }

    /// Returns the pattern of the services of all machines.
    pub(crate) fn pattern(self) -> &'static str {
        match self {
            Self::Coracle => "coracle@*.service",
            Self::Nspawn => "systemd-nspawn@*.service",
        }
    }

    /// Returns the target that starts the enabled services.
    pub(crate) fn target(self) -> &'static str {
        match self {
            Self::Coracle => "coracle.target",
            Self::Nspawn => "machines.target",
        }
    }

    /// Returns the manager in the registration with machined(8), by which tools select machines.
    pub(crate) fn manager(self) -> &'static str {
        match self {
            Self::Coracle => "coracle",
            Self::Nspawn => "systemd-nspawn",
        }
    }

    fn prefix(self) -> &'static str {
        match self {
            Self::Coracle => "coracle@",
            Self::Nspawn => "systemd-nspawn@",
        }
    }

    fn instance(self, unit: &str) -> Option<&str> {
        unit.strip_prefix(self.prefix()).and_then(|rest| rest.strip_suffix(SUFFIX))
    }
}

/// The drop-in with which a unit `systemd-nspawn@NAME.service` runs Coracle.
pub(crate) const DROP_IN_OF_NSPAWN: &str = "zz-coracle.conf";

const SUFFIX: &str = ".service";

/// Returns the timer of the health checks of a machine.
pub(crate) fn health_timer(name: &Name) -> String {
    format!("coracle-health@{name}.timer")
}

/// Returns the scope of a machine in the foreground.
pub(crate) fn scope(name: &Name) -> String {
    format!("coracle-{name}.scope")
}

/// Returns the scope of a machine of systemd-nspawn(1): the manager's own, or that of machined(8).
pub(crate) fn nspawn_scope(name: &Name, is_of_machined: bool) -> String {
    if is_of_machined {
        // Of the characters of names, unit names escape this one (systemd-escape(1)).
        format!("machine-{}.scope", name.as_str().replace('-', "\\x2d"))
    } else {
        format!("{name}.scope")
    }
}

/// Returns all possible scopes of a machine in the foreground.
pub(crate) fn scopes(name: &Name) -> [String; 3] {
    [scope(name), nspawn_scope(name, false), nspawn_scope(name, true)]
}

/// Returns the name of the machine of a service, or the unit itself if it is not the service of a machine.
pub(crate) fn machine_of(unit: &str) -> &str {
    ServiceTemplate::ALL.into_iter().find_map(|template| template.instance(unit)).unwrap_or(unit)
}

/// Returns the timer of the idle checks of a machine.
pub(crate) fn idle_timer(name: &Name) -> String {
    format!("coracle-idle@{name}.timer")
}

/// Returns the service that adds plugged-in devices to a machine that has started.
pub(crate) fn hotplug_service(name: &Name) -> String {
    format!("coracle-hotplug@{name}.service")
}

/// Returns the service that stops with a machine to which devices were added.
pub(crate) fn devices_service(name: &Name) -> String {
    format!("coracle-devices@{name}.service")
}

/// Returns the machine in the foreground of a scope. `None` for any other unit.
pub(crate) fn machine_of_scope(unit: &str) -> Option<Name> {
    Name::new(unit.strip_prefix("coracle-")?.strip_suffix(".scope")?).ok()
}

/// Returns whether a unit is a service. systemd restarts services; a scope ends with its processes.
pub(crate) fn is_service(unit: &str) -> bool {
    unit.ends_with(SUFFIX)
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
        for template in ServiceTemplate::ALL {
            let service = template.service(&name);
            assert_eq!(machine_of(&service), "a.b-c");
            assert_eq!(ServiceTemplate::of_unit(&service), Some(template));
            assert_eq!(service, template.pattern().replace('*', "a.b-c"));
            assert!(is_service(&service));
        }
        assert!(!is_service("a.b-c.scope"));
        assert_eq!(scopes(&name), ["coracle-a.b-c.scope", "a.b-c.scope", "machine-a.b\\x2dc.scope"]);
        assert_eq!(machine_of("ssh.service"), "ssh.service");
        assert_eq!(ServiceTemplate::of_unit("coracle-on-demand@web.service"), None);
    }
}
