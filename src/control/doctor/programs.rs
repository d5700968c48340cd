//! Machines with a supervisor older than the installed program.

use super::Finding;
use crate::machine::unit_name;
use crate::paths::Paths;
use crate::state::record::Record;

/// Returns one finding for all such machines.
pub(super) fn findings(paths: &Paths) -> Option<Finding> {
    let records = Record::all(paths);
    let old = records.iter().filter(|record| record.is_alive() && record.replaced_program().is_some());
    let names: Vec<&str> = old.map(|record| record.name.as_str()).collect();
    (!names.is_empty()).then(|| {
        Finding::note(
            format!(
                "supervisors of running machines are older than the installed program: {}",
                names.join(", ")
            ),
            format!("reboot the machines at a convenient time: coracle reboot {}", names.join(" ")),
        )
    })
}

/// Returns the finding for one running machine.
pub(super) fn of(record: &Record) -> Option<Finding> {
    let program = record.replaced_program()?;
    let name = &record.name;
    Some(Finding::note(
        format!("its supervisor is older than the installed '{}'", program.display()),
        if record.unit.as_ref().is_some_and(|unit| unit_name::is_service(unit)) {
            format!("coracle reboot {name}")
        } else {
            "stop it and run it again".to_owned()
        },
    ))
}
