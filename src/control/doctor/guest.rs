//! Services of a running systemd guest that others need, read from its cgroups: neither a bus nor an
//! answering init is needed.

use super::Finding;
use crate::control::status::{has_unread_signals, populated_units};
use crate::machine::init::{Init, PayloadKind};
use crate::state::record::{Phase, Record};

/// The journal of systemd, which every guest of it runs.
const JOURNAL: &str = "systemd-journald.service";

/// Returns the findings about a running machine.
pub(super) fn findings(record: &Record) -> Option<Finding> {
    if record.phase != Phase::Running || record.init != Some(PayloadKind::Init(Init::Systemd)) {
        return None;
    }
    let name = &record.name;
    if record.leader.is_some_and(has_unread_signals) {
        return Some(Finding::risk(
            "its PID 1 does not read signals: it waits for another program, or is stopped",
            format!("wait 90 s, else run 'coracle terminate {name}' and 'coracle start {name}'"),
        ));
    }
    let units = populated_units(&record.payload_cgroup()?);
    // A guest that does not delegate has no units here.
    (!units.is_empty() && !units.iter().any(|unit| unit == JOURNAL)).then(|| {
        Finding::risk(
            format!("the journal of the guest is not running: {JOURNAL}"),
            format!("coracle exec {name} -- systemctl start {JOURNAL}"),
        )
    })
}
