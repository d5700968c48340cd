//! Many Debian machines at a time on a host as `make install` leaves it. `CORACLE_MACHINES` sets their number for longer
//! runs.

use crate::support::Host;
use std::time::Duration;

const BOUND: Duration = Duration::from_secs(900);

#[test]
fn debian_machines_run_side_by_side_with_default_sysctls() {
    let count: usize =
        std::env::var("CORACLE_MACHINES").map_or(10, |text| text.parse().expect("a number of machines"));
    let host = Host::builder().guest_as("trixie", "base").start();
    // The root of a nested host is an overlay, which cannot be a layer of another one.
    host.sh_ok(
        "mkdir -m 700 /var/lib/machines/.storage; mkdir -p /var/lib/coracle
         ln -s /var/lib/machines/.storage /var/lib/coracle/storage",
    );
    let shipped = host.read("/usr/lib/sysctl.d/10-coracle.conf");
    assert!(shipped.contains("\n-fs.inotify.max_user_instances = 8192\n"), "{shipped}");
    let names: Vec<String> = (1..=count).map(|number| format!("m{number}")).collect();
    for name in &names {
        host.define(name, "[root]\ndirectory = \"/var/lib/machines/base\"\nephemeral = true\n");
    }
    let all = names.join(" ");
    let started = host.exec_for(BOUND, &["sh", "-c", &format!("coracle start --wait=ready {all}")]);
    started.success("start of all");
    for name in &names {
        let state = host.exec(&["coracle", "exec", name, "--", "systemctl", "is-system-running", "--wait"]);
        assert_eq!(state.stdout, "running\n", "{name}: {state}");
        assert!(!host.ok(&["coracle", "doctor", name]).contains("inotify"));
    }
    assert_eq!(host.coracle(&["list", "--no-legend"]).lines().count(), count);
    host.exec_for(BOUND, &["sh", "-c", &format!("coracle stop {all}")]).success("stop of all");
    assert_eq!(host.coracle(&["list", "--no-legend"]), "");
    host.stop();
}
