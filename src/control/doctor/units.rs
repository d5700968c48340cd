//! The units of machines: the one that the definition chooses must be known to systemd, and no other one may
//! start the machine.

use super::Finding;
use crate::control::block_on;
use crate::generator;
use crate::host::systemd::units;
use crate::machine::Machine;
use crate::machine::unit_name::ServiceTemplate;
use crate::paths::Paths;

/// Returns the findings about the units of one machine.
pub(super) fn findings_of(paths: &Paths, machine: &Machine) -> Vec<Finding> {
    if !units::is_running() {
        return Vec::new();
    }
    let mut findings = Vec::new();
    if machine.service_template() == ServiceTemplate::Nspawn {
        findings.extend(missing(machine));
        findings.extend(unread(paths, machine));
    }
    findings.extend(also_enabled(machine));
    findings
}

/// Returns the finding for a unit of a missing package.
fn missing(machine: &Machine) -> Option<Finding> {
    let unit = machine.service();
    (property_of(&unit, |status| status.load_state.clone())? == "not-found").then(|| {
        Finding::wrong(
            format!("systemd does not know the unit '{unit}' (boot.machinectl)"),
            "install the package systemd-container",
        )
    })
}

/// Returns the finding for a unit that starts systemd-nspawn(1), because systemd has not read the definition.
fn unread(paths: &Paths, machine: &Machine) -> Option<Finding> {
    (!generator::is_current(paths, machine)).then(|| {
        Finding::risk(
            format!("systemd has not read the definition: 'machinectl start {}' ignores it", machine.name),
            "systemctl daemon-reload",
        )
    })
}

/// Returns the finding for an enabled unit of the other template.
fn also_enabled(machine: &Machine) -> Option<Finding> {
    let others = ServiceTemplate::ALL.into_iter().filter(|template| *template != machine.service_template());
    let mut others = others.map(|template| template.service(&machine.name));
    let unit = others.find(|unit| {
        property_of(unit, |status| status.file_state.clone()).is_some_and(|state| state == "enabled")
    })?;
    Some(Finding::risk(
        format!("the unit '{unit}' is enabled, but the unit of the machine is '{}'", machine.service()),
        format!("systemctl disable {unit}"),
    ))
}

fn property_of(unit: &str, property: impl Fn(&units::UnitStatus) -> String) -> Option<String> {
    let status = block_on(units::unit_properties(unit)).and_then(|status| status).ok()?;
    Some(property(&status))
}
