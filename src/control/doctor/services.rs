//! The services of the host that machines lean on: systemd, machined, the journal, our own units.

use super::Finding;
use crate::control::block_on;
use crate::host::systemd1;
use crate::paths::Paths;
use std::path::Path;

/// Everything there is to say of the host's services.
pub(super) fn findings(paths: &Paths) -> Vec<Finding> {
    if !systemd1::is_running() {
        return vec![Finding::note(
            "PID 1 of this host is not systemd: machines run in the foreground only",
            "run them with 'coracle run -b -M NAME'",
        )];
    }
    let mut findings = Vec::new();
    findings.extend(unit(
        "systemd-machined.service",
        Finding::risk(
            "systemd-machined is not there: machinectl and 'systemctl -M' do not know the machines",
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
    if !Path::new("/run/systemd/journal/socket").exists() {
        findings.push(Finding::risk(
            "the journal does not listen: consoles of machines are lost",
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
    findings
}

/// `missing` where systemd does not know a unit; where it is masked or failed, that.
fn unit(name: &str, missing: Finding) -> Option<Finding> {
    let status = match block_on(systemd1::unit_properties(name)).and_then(|status| status) {
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
