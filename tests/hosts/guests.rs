//! Complete guests: a Debian 13 server at its first boot, and Debian 11. Each is compared, unit by unit, with
//! the same tree under systemd-nspawn on the same host.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::support::{Host, LONG};

/// Units of systemd-nspawn only: ssh(1) of the host connects by a socket below `/run/host/unix-export`.
const OF_NSPAWN: [&str; 2] = ["ssh-access.target", "sshd-unix-export.socket"];

/// The states of units, by name.
type Units = BTreeMap<String, String>;

#[test]
fn units_of_debian_13_are_as_under_nspawn() {
    compare(
        "trixie-untrimmed",
        &[
            "cron.service",
            "nginx.service",
            "postgresql@17-main.service",
            "rsyslog.service",
            "ssh.service",
            "systemd-logind.service",
            "systemd-resolved.service",
        ],
    );
}

#[test]
fn units_of_debian_11_are_as_under_nspawn() {
    compare("bullseye", &["dbus.service", "systemd-journald.service", "systemd-logind.service"]);
}

/// Boots the tree under both managers, waits until both systems are up, and compares the states of all units.
/// `active` units must be active in both.
fn compare(tree: &str, active: &[&str]) {
    // The machine of systemd-nspawn receives its address from networkd, and its first boot waits for the
    // address.
    let host = Host::builder().networkd().guest_as(tree, "ours").guest_as(tree, "theirs").start();
    let nspawn = "systemd-run -q --unit=theirs -p Slice=machine.slice -p Delegate=yes -p KillMode=mixed \
                  -p Type=notify -p NotifyAccess=all systemd-nspawn -q -b -U -n --keep-unit -M theirs \
                  -D /var/lib/machines/theirs";
    host.exec_for(LONG, &["sh", "-euc", nspawn]).success("systemd-nspawn");
    wait_until_up(&host, "theirs");
    host.define("ours", "");
    host.coracle(&["start", "--wait=ready", "ours"]);
    wait_until_up(&host, "ours");

    // The state of a unit may still change: a timer elapses, a socket-activated service exits.
    let deadline = Instant::now() + LONG;
    let (ours, theirs) = loop {
        let (ours, theirs) = (units(&host, "ours"), units(&host, "theirs"));
        if ours == theirs || Instant::now() > deadline {
            break (ours, theirs);
        }
        std::thread::sleep(Duration::from_millis(500));
    };
    let names = ours.keys().chain(theirs.keys().filter(|name| !ours.contains_key(*name)));
    let different: Vec<String> = names
        .filter(|name| ours.get(*name) != theirs.get(*name))
        .map(|name| format!("{name}: {:?}, under systemd-nspawn {:?}", ours.get(name), theirs.get(name)))
        .collect();
    assert!(different.is_empty(), "{different:#?}\n{}", host.console("ours"));
    for unit in active {
        assert!(ours.get(*unit).is_some_and(|state| state.contains(" active ")), "{unit}: {ours:#?}");
    }
    let failed =
        host.in_guest("ours", &["/bin/systemctl", "list-units", "--failed", "--plain", "--no-legend"]);
    assert_eq!(failed.stdout, "", "units of any type that failed");
    host.coracle(&["stop", "ours"]);
    host.assert_clean_stop("ours");
    host.exec_for(LONG, &["systemctl", "stop", "theirs.service"]).success("systemd-nspawn stops");
    host.stop();
}

/// Waits until the guest's systemd has no remaining job. `degraded` is accepted: the units are compared
/// later.
fn wait_until_up(host: &Host, machine: &str) {
    let script = "leader=$(machinectl show \"$0\" -p Leader --value) && \
                  nsenter -t \"$leader\" -a /bin/systemctl is-system-running | grep -x -e running -e degraded";
    let script = script.replace("\"$0\"", machine);
    host.wait_until(LONG, &script);
}

/// Returns the units that do not depend on the mounts of a manager: mount and device units follow the mount
/// table and /dev, scopes follow logins.
fn units(host: &Host, machine: &str) -> Units {
    let listed = host.in_guest(
        machine,
        &["/bin/systemctl", "list-units", "--all", "--plain", "--no-legend", "--no-pager"],
    );
    let types = [".service", ".socket", ".target", ".timer", ".path", ".slice", ".automount", ".swap"];
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        let name = words.next()?;
        let state = words.take(3).collect::<Vec<_>>().join(" ");
        let counts = types.iter().any(|kind| name.ends_with(kind)) && !OF_NSPAWN.contains(&name);
        counts.then(|| (name.to_owned(), state))
    };
    listed.success("list the units").stdout.lines().filter_map(line).collect()
}
