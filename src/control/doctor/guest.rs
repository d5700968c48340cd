//! Services of a running systemd guest that others need, read from its cgroups: neither a bus nor an
//! answering init is needed.

use super::Finding;
use crate::control::guest_states;
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
    let units = record.payload_cgroup().map(|payload| populated_units(&payload)).unwrap_or_default();
    // A guest that does not delegate has no units here.
    let journal = (!units.is_empty() && !units.iter().any(|unit| unit == JOURNAL)).then(|| {
        Finding::risk(
            format!("the journal of the guest is not running: {JOURNAL}"),
            format!("coracle exec {name} -- systemctl start {JOURNAL}"),
        )
    });
    journal.or_else(|| failed_units(record))
}

/// Returns the finding about failed units.
fn failed_units(record: &Record) -> Option<Finding> {
    let guest = guest_states::of(&[record]).pop()??;
    let unit = guest.failed_units.first()?;
    let hint = format!("see 'coracle logs {} -u {unit}'", record.name);
    Some(Finding::risk(format!("its guest is {}", guest.describe()), hint))
}
