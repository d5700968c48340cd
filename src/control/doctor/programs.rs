//! Machines whose supervisors run an older program than the installed one.

use super::Finding;
use crate::machine::unit;
use crate::paths::Paths;
use crate::state::record::Record;

/// One finding for all of them.
pub(super) fn findings(paths: &Paths) -> Option<Finding> {
    let records = Record::all(paths);
    let old = records.iter().filter(|record| record.is_alive() && record.replaced_program().is_some());
    let names: Vec<&str> = old.map(|record| record.name.as_str()).collect();
    (!names.is_empty()).then(|| {
        Finding::note(
            format!("running machines have an older program than the installed one: {}", names.join(", ")),
            format!("reboot them when it suits: coracle reboot {}", names.join(" ")),
        )
    })
}

/// The same for one running machine.
pub(super) fn of(record: &Record) -> Option<Finding> {
    let program = record.replaced_program()?;
    let name = &record.name;
    Some(Finding::note(
        format!("its supervisor runs an older program than '{}'", program.display()),
        if record.unit.as_ref().is_some_and(|unit| unit::is_service(unit)) {
            format!("coracle reboot {name}, or coracle restart {name}")
        } else {
            "stop it, then run it again".to_owned()
        },
    ))
}
