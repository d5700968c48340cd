//! Ranges of user ids: whether those of machines and those of others overlap, and which belong to
//! nobody any more.

use super::Finding;
use crate::host::ids;
use crate::machine::name::Name;
use crate::machine::users::RANGE_SIZE;
use crate::paths::Paths;

/// Everything there is to say of id ranges; `defined` are the machines there are.
pub(super) fn findings(paths: &Paths, defined: &[&Name]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let delegated = ids::delegated(paths);
    for (base, owner) in ids::records(paths) {
        let end = u64::from(base) + u64::from(RANGE_SIZE);
        if let Some((start, _)) =
            delegated.iter().find(|(start, stop)| u64::from(base) < *stop && end > *start)
        {
            findings.push(Finding::wrong(
                format!("the ids of machine '{owner}', from {base} on, are delegated to a user as well (from {start} on)"),
                format!("take that range out of /etc/subuid and /etc/subgid, or 'rm {}' and start '{owner}' anew", ids::record_file(paths, base).display()),
            ));
        }
        if defined.iter().all(|name| name.as_str() != owner) {
            findings.push(Finding::note(
                format!("ids from {base} on are kept for '{owner}', which is no machine any more"),
                format!("if nothing of it is left: rm {}", ids::record_file(paths, base).display()),
            ));
        }
    }
    findings
}
