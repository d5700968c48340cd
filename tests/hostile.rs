//! A default machine whose root is hostile: what it uses up is its own.

mod support;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use support::Host;

fn build_attacks() -> std::path::PathBuf {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/hostile/attacks.c");
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("attacks-{}", std::process::id()));
    let mut cc = Command::new("cc");
    cc.args(["-O1", "-Wall", "-Werror", "-static", "-o"]).arg(&program).arg(source);
    support::job::run(&mut cc, Duration::from_secs(60)).success("build the attacks");
    program
}

/// A machine with the attacks on board.
fn add_attacks(host: &Host, machine: &str) {
    let program = host.machines().join(machine).join("usr/bin/attacks");
    std::fs::copy(build_attacks(), program).expect("copy the attacks");
}

#[test]
fn pools_of_the_kernel_are_counted_per_machine() {
    let host = Host::builder().guest_as("busybox", "hostile").guest_as("trixie", "neighbour").start();
    add_attacks(&host, "hostile");
    host.coracle(&["start", "hostile"]);
    let mut attack = host.spawn(&["coracle", "exec", "hostile", "--", "attacks", "-", "inotify"]);
    attack.wait_for_stdout("inotify instances used up", Duration::from_secs(30));
    host.ok(&["/var/lib/machines/hostile/usr/bin/attacks"]);
    host.coracle(&["start", "neighbour"]);
    let state = host.in_guest("neighbour", &["systemctl", "is-system-running"]);
    assert_eq!(state.stdout, "running\n", "{state}");
    attack.kill();
    host.coracle(&["stop", "hostile", "neighbour"]);
    host.stop();
}
