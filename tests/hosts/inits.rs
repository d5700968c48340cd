//! Machines without systemd inside: each of Debian's other inits boots, is reachable, reboots and shuts down
//! orderly, without a killed process.

use std::time::Duration;

use crate::support::{Host, LONG, Snapshot};

/// A guest and its expected console output.
struct Guest {
    tree: &'static str,
    /// The name of its init in `coracle list`.
    init: &'static str,
    /// The last line of its boot.
    up: &'static str,
    /// Lines of its shutdown, in this order.
    down: &'static [&'static str],
    /// The command of a user inside to power it off.
    poweroff: &'static str,
}

/// The shutdown of sysvinit's scripts. The last one halts, and its lines are lost if startpar(8) is killed
/// before it prints them.
const SYSVINIT_DOWN: [&str; 2] =
    ["Asking all remaining processes to terminate", "Unmounting local filesystems"];

#[test]
fn busybox() {
    lives(&Guest {
        tree: "busybox",
        init: "busybox",
        up: "busybox: up",
        down: &["busybox: down", "The system is going down NOW!", "Requesting system poweroff"],
        poweroff: "poweroff",
    });
}

#[test]
fn sysvinit() {
    lives(&Guest {
        tree: "sysvinit",
        init: "sysvinit",
        up: "INIT: Entering runlevel: 2",
        down: &SYSVINIT_DOWN,
        poweroff: "poweroff",
    });
}

#[test]
fn openrc() {
    lives(&Guest {
        tree: "openrc",
        // Debian's OpenRC is started by the init of sysvinit.
        init: "sysvinit",
        up: "INIT: Entering runlevel: 2",
        down: &SYSVINIT_DOWN,
        poweroff: "poweroff",
    });
}

#[test]
fn runit() {
    lives(&Guest {
        tree: "runit",
        init: "runit",
        up: "runit: enter stage: /etc/runit/2",
        down: &["Running shutdown tasks", "runit: leave stage: /etc/runit/3", "runit: power off"],
        poweroff: "poweroff",
    });
}

fn lives(guest: &Guest) {
    let name = guest.tree;
    let host = Host::start(&[name]);
    host.define(name, "[identity]\nhostname = \"www\"\n");
    host.sh_ok(&format!("echo of-the-tree >/var/lib/machines/{name}/etc/hostname"));
    host.activate_machined();
    let before = Snapshot::take(&host);

    host.coracle(&["start", name]);
    host.wait_for_console(name, guest.up);
    assert_eq!(host.property(name, "init"), guest.init);
    // The init has set a name from a file, if it does.
    assert_eq!(host.ok(&["coracle", "exec", name, "--", "hostname"]), "www\n");
    assert_eq!(host.read(&format!("/var/lib/machines/{name}/etc/hostname")), "of-the-tree\n");
    is_reached(&host, name);
    host.assert_registered(name, true);
    reboots(&host, guest);

    host.coracle(&["stop", name]);
    went_down(&host, guest);
    before.assert_same(&host);
    // The log of a stopped machine contains lines of the guest and of the host.
    let logs = host.coracle(&["logs", name]);
    assert!(logs.contains(guest.up) && logs.contains(guest.down[0]), "{logs}");

    let lines = host.console(name).lines().count();
    host.coracle(&["start", name]);
    host.wait_until(LONG, &format!("coracle logs {name} | tail -n +{lines} | grep -F -e '{}'", guest.up));
    host.ask_in_guest(name, &["sh", "-c", guest.poweroff]);
    host.wait_for_unit(name, "inactive");
    went_down(&host, guest);
    before.assert_same(&host);
    host.stop();
}

/// Asserts that the host reaches the machine by address and by name, and that the machine reaches the host.
fn is_reached(host: &Host, name: &str) {
    let address = host.address(name);
    host.wait_until(Duration::from_secs(20), &format!("ping -q -c1 -W1 {address}"));
    host.ok(&["ping", "-q", "-c1", "-W5", name]);
    let host_address = host.property(name, "host-addresses");
    let host_address = host_address.split(' ').next().expect("an address");
    host.in_guest(name, &["ping", "-q", "-c1", "-W5", host_address]).success("reach the host");
    if name == "busybox" {
        host.wait_for_page(&address);
    }
}

/// Asserts that `coracle reboot` reboots by the init: the unit remains, and a new PID 1 boots.
fn reboots(host: &Host, guest: &Guest) {
    let name = guest.tree;
    let (invocation, leader) = (host.unit(name, "InvocationID"), host.machine_leader(name));
    let boots = host.console(name).matches(guest.up).count();
    host.coracle(&["reboot", name]);
    host.wait_until(
        LONG,
        &format!(
            "[ $(journalctl -q -a -o cat CORACLE_MACHINE={name} | grep -c -F -e '{}') -gt {boots} ]",
            guest.up
        ),
    );
    assert_ne!(host.machine_leader(name), leader);
    assert_eq!(host.unit(name, "InvocationID"), invocation);
    host.assert_registered(name, true);
    is_reached(host, name);
}

/// Asserts that the last console lines are those of an orderly shutdown.
fn went_down(host: &Host, guest: &Guest) {
    host.assert_clean_stop(guest.tree);
    let console = host.console(guest.tree);
    let mut rest = &console[console.rfind(guest.up).expect("it was up")..];
    for said in guest.down {
        let Some(at) = rest.find(said) else { panic!("no '{said}' in order at the end of\n{console}") };
        rest = &rest[at..];
    }
}

/// Commands that create a wrapper of the init at `/sbin/init`: a script that contains the path of the init, a
/// script that does not, a link to such a script, and a program.
const LEADING: [(&str, &str); 4] = [
    ("named", "printf '#!/bin/sh\\n[ -x /x ] || exec %s \"$@\"\\n' $INIT >init"),
    ("unnamed", "printf '#!/bin/sh\\nread -r real </etc/real-init\\nexec $real $word \"$@\"\\n' >init"),
    (
        "linked",
        "mkdir -p ../../opt; printf '#!/bin/sh\\nexec %s\\n' $INIT >../../opt/start; ln -s ../../opt/start init",
    ),
    ("program", "cp /tmp/wrapper init"),
];

#[test]
fn a_wrapper_of_an_init_is_stopped_as_that_init() {
    let host = Host::start(&["trixie", "busybox", "sysvinit"]);
    let wrapper = crate::support::program::build("tests/hosts/wrapper.c", &[]);
    std::fs::copy(wrapper, host.machines().join("wrapper")).unwrap();
    host.sh_ok("mv /var/lib/machines/wrapper /tmp/wrapper");
    move_inits(&host);
    std::thread::scope(|scope| {
        let host = &host;
        scope.spawn(move || become_init(host, "trixie", "/opt/systemd/systemd", "systemd", &[1, 3]));
        scope.spawn(move || become_init(host, "sysvinit", "/opt/init", "sysvinit", &[1]));
        become_init(host, "busybox", "/opt/init", "busybox", &[0, 1, 2]);
        stays_a_script(host);
    });
    host.stop();
}

/// Asserts for each of these wrappers that the machine runs with the kind of the real init and stops cleanly.
fn become_init(host: &Host, tree: &str, init: &str, kind: &str, ways: &[usize]) {
    host.define(tree, "");
    for (way, script) in ways.iter().map(|way| LEADING[*way]) {
        host.sh_ok(&format!(
            "cd /var/lib/machines/{tree}/usr/sbin; rm -f init; INIT={init}; echo $INIT >../../etc/real-init
             {script}; chmod 755 init"
        ));
        host.coracle(&["start", tree]);
        assert_eq!(host.property(tree, "is-late"), "false", "{tree} {way}");
        if kind == "systemd" {
            host.in_guest(tree, &["systemctl", "is-active", "slow.service"]).success("wait for the guest");
        }
        assert_eq!(host.property(tree, "phase"), "running", "{tree} {way}");
        assert_eq!(host.property(tree, "init"), kind, "{tree} {way}");
        host.coracle(&["stop", tree]);
        host.assert_clean_stop(tree);
    }
}

/// Moves the inits to paths where only their names reveal their kind. systemd is ready only after a slow
/// unit.
fn move_inits(host: &Host) {
    host.sh_ok(
        "machinectl -q list; cd /var/lib/machines
         mkdir -p trixie/opt/systemd busybox/opt sysvinit/opt
         mv trixie/usr/lib/systemd/systemd trixie/opt/systemd/systemd
         ln -s ../bin/busybox busybox/opt/init
         mv sysvinit/usr/sbin/init sysvinit/opt/init
         mkdir -p trixie/etc/systemd/system/multi-user.target.wants
         printf '[Service]\\nType=oneshot\\nRemainAfterExit=yes\\nExecStart=sleep 1\\n' \\
             >trixie/etc/systemd/system/slow.service
         ln -s ../slow.service trixie/etc/systemd/system/multi-user.target.wants/slow.service",
    );
}

/// Asserts that a script that does not execute an init counts as running, and is stopped by SIGTERM.
fn stays_a_script(host: &Host) {
    host.sh_ok(
        "cd /var/lib/machines/busybox/usr/sbin; rm init
         printf '#!/bin/sh\\ntrap \"exit 0\" TERM\\nwhile :; do sleep 9 & wait $!; done\\n' >init && chmod 755 init",
    );
    host.coracle(&["start", "busybox"]);
    assert_eq!(host.property("busybox", "is-late"), "false");
    assert_eq!(host.property("busybox", "init"), "unknown");
    assert_eq!(host.property("busybox", "phase"), "running");
    host.coracle(&["stop", "busybox"]);
    host.assert_clean_stop("busybox");
}
