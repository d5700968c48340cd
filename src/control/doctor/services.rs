//! Services of the host used by machines: systemd, machined, the journal, units of Coracle.

use super::Finding;
use crate::control::block_on;
use crate::host::systemd::units;
use crate::paths::Paths;
use crate::paths::running_systemd;

/// A fault of systemd that running machines expose.
struct Fault {
    /// Its public identifier.
    id: &'static str,
    /// Its effect, in one clause.
    effect: &'static str,
    /// The first fixed update of each affected release.
    fixed: &'static [(u32, u32)],
}

/// The known faults of systemd. Source: the CVE records and the release notes of systemd.
const FAULTS: [Fault; 1] = [Fault {
    id: "CVE-2026-40223",
    effect: "while a machine runs, any local user can make it fail an assertion",
    fixed: &[(258, 5), (259, 2)],
}];

/// Returns the findings about the host's services.
pub(super) fn findings(paths: &Paths) -> Vec<Finding> {
    if !units::is_running() {
        return vec![Finding::note(
            "PID 1 of this host is not systemd: machines run in the foreground only",
            "run them with: coracle run -b -M NAME",
        )];
    }
    let mut findings = Vec::new();
    findings.extend(unit(
        "systemd-machined.service",
        Finding::risk(
            "systemd-machined is missing: machinectl and 'systemctl -M' do not find machines",
            "install the package systemd-container",
        ),
    ));
    findings.extend(unit(
        "coracle@doctor.service",
        Finding::wrong(
            "systemd does not know coracle@.service",
            "run 'make install', then 'systemctl daemon-reload'",
        ),
    ));
    match block_on(units::version()).and_then(|version| version) {
        Ok(version) => findings.extend(faults(&version)),
        Err(error) => log::debug!("{error}, ignoring"),
    }
    if !running_systemd("journal/socket").exists() {
        findings.push(Finding::risk(
            "the journal is not listening: output of consoles is lost",
            "systemctl start systemd-journald.socket",
        ));
    }
    let names = std::fs::read_to_string(paths.join("/etc/nsswitch.conf")).unwrap_or_default();
    let hosts = names.lines().find(|line| line.starts_with("hosts:"));
    if hosts.is_some_and(|line| !line.contains("mymachines")) {
        findings.push(Finding::note(
            "names of machines are not resolved on this host",
            "install libnss-mymachines, or add 'mymachines' to 'hosts:' in /etc/nsswitch.conf",
        ));
    }
    findings.extend(super::network::no_name_server(paths));
    findings
}

/// Returns the known faults of a version of systemd.
fn faults(version: &str) -> Vec<Finding> {
    let Some((release, update)) = parse_version(version) else { return Vec::new() };
    let finding = |fault: &Fault| {
        let (_, fixed) =
            fault.fixed.iter().find(|(affected, fixed)| *affected == release && update < *fixed)?;
        Some(Finding::risk(
            format!("systemd {version} has a known fault, {}: {}", fault.id, fault.effect),
            format!(
                "update systemd to {release}.{fixed}, and run 'systemctl daemon-reexec'; nothing needs to be \
                 done if the distribution has backported the fix"
            ),
        ))
    };
    FAULTS.iter().filter_map(finding).collect()
}

/// Splits a version of systemd into release and update: `258.4-1.fc43` is 258 and 4, `259~rc1` is 259 and 0.
fn parse_version(version: &str) -> Option<(u32, u32)> {
    let digits = |text: &str| text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let version = version.trim_start_matches('v');
    let (release, rest) = version.split_at(digits(version));
    let update = rest.strip_prefix('.').and_then(|rest| rest[..digits(rest)].parse().ok()).unwrap_or(0);
    Some((release.parse().ok()?, update))
}

/// Returns `missing` if systemd does not know a unit, or a finding for a masked or failed one.
fn unit(name: &str, missing: Finding) -> Option<Finding> {
    let status = match block_on(units::unit_properties(name)).and_then(|status| status) {
        Ok(status) => status,
        Err(error) => {
            return Some(Finding::wrong(error.to_string(), "systemctl daemon-reexec, or see the journal"));
        }
    };
    match (status.load_state.as_str(), status.active_state.as_str()) {
        ("not-found", _) => Some(missing),
        ("masked", _) => Some(Finding::risk(format!("{name} is masked"), format!("systemctl unmask {name}"))),
        (_, "failed") => Some(Finding::risk(
            format!("{name} failed: {}", status.describe_failure()),
            format!("see 'journalctl -u {name}', then 'systemctl restart {name}'"),
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_systemd_with_known_faults_are_named() {
        let wrong = [
            ("258", "258.5"),
            ("258.4-1.fc43", "258.5"),
            ("258~rc2-1", "258.5"),
            ("259", "259.2"),
            ("259.1-1", "259.2"),
            ("v259.1", "259.2"),
            ("259-1ubuntu3", "259.2"),
        ];
        for (version, fixed) in wrong {
            let findings = faults(version);
            assert_eq!(findings.len(), 1, "{version}");
            let Finding { severity, message, hint } = &findings[0];
            assert_eq!(*severity, super::super::FindingSeverity::Risk);
            assert!(message.contains(version) && message.contains("CVE-2026-40223"), "{message}");
            assert!(hint.starts_with(&format!("update systemd to {fixed},")), "{hint}");
        }
        for version in
            ["252.38-1~deb12u1", "257.7-1", "258.5", "258.10-2", "259.2", "260~rc1-1", "262", "", "x"]
        {
            assert_eq!(faults(version), [], "{version}");
        }
    }
}
