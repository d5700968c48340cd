//! Checks the systemd units with systemd-analyze(1).

use std::path::Path;
use std::process::Command;

/// The units of the project.
const UNITS: [&str; 14] = [
    "coracle@.service",
    "coracle-on-demand@.service",
    "coracle-health@.service",
    "coracle-idle@.service",
    "coracle-devices@.service",
    "coracle-hotplug@.service",
    "coracle-network-reload@.service",
    "coracle-resolver.path",
    "coracle-resolver.service",
    "coracle-zone-names.socket",
    "coracle-zone-names.service",
    "coracle-manager.service",
    "coracle-jobs.slice",
    "coracle.target",
];

fn unit(name: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("units").join(name);
    std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

#[test]
fn systemd_analyze_finds_no_problem() {
    let directory = tempfile::tempdir().unwrap();
    for name in UNITS {
        // The program is not installed yet: use the built one.
        let text = unit(name).replace("/usr/bin/coracle", env!("CARGO_BIN_EXE_coracle"));
        std::fs::write(directory.path().join(name), text).unwrap();
    }
    let output = Command::new("systemd-analyze")
        .args(["verify", "--man=no", "--recursive-errors=one"])
        .args(UNITS.map(|name| directory.path().join(name)))
        .output()
        .expect("run systemd-analyze");
    let said = String::from_utf8_lossy(&output.stderr);
    // systemd before version 254 ignores the key with a warning.
    let wrong: Vec<&str> = said
        .lines()
        .filter(|line| line.contains("coracle"))
        .filter(|line| !(line.contains("Unknown key") && line.contains("'DelegateSubgroup'")))
        .collect();
    assert!(output.status.success() && wrong.is_empty(), "{said}");
}

#[test]
fn clean_up_and_delegation_are_in_the_unit() {
    let text = unit("coracle@.service");
    for line in [
        "Type=notify",
        "NotifyAccess=main",
        "Delegate=yes",
        "DelegateSubgroup=supervisor",
        "Slice=machine.slice",
        "KillMode=mixed",
        "DevicePolicy=closed",
        "ExecStart=/usr/bin/coracle launch %i",
        "ExecStopPost=/usr/bin/coracle cleanup %i",
        "WantedBy=coracle.target",
    ] {
        assert!(text.lines().any(|is| is == line), "{line}");
    }
    assert!(unit("coracle.target").contains("WantedBy=multi-user.target"));
}

/// The greatest exposure of the service on the bus, which every user can start, in tenths.
const EXPOSURE: u64 = 15;

#[test]
fn the_service_is_confined() {
    let directory = tempfile::tempdir().unwrap();
    let text = unit("coracle-manager.service").replace("/usr/bin/coracle", env!("CARGO_BIN_EXE_coracle"));
    let file = directory.path().join("coracle-manager.service");
    std::fs::write(&file, text).unwrap();
    let output = Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--no-pager", &format!("--threshold={EXPOSURE}")])
        .arg(&file)
        .output()
        .expect("run systemd-analyze");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
}
