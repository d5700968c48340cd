//! Repeated restarts and reboots: each succeeds, and no state is left.
//!
//! `CORACLE_RESTARTS` and `CORACLE_REBOOTS` set the numbers of rounds for longer or shorter runs.

use std::time::Duration;

use crate::support::{Host, Snapshot};

const BOUND: Duration = Duration::from_secs(600);

fn rounds(variable: &str, default: u32) -> u32 {
    std::env::var(variable).map_or(default, |text| text.parse().expect("a number of rounds"))
}

/// Returns a host with running guests of one tree, and a snapshot taken before their start.
fn bench(tree: &str, guests: &[&str]) -> (Host, Snapshot) {
    let host = guests.iter().fold(Host::builder(), |host, guest| host.guest_as(tree, guest)).start();
    host.activate_machined();
    let before = Snapshot::take(&host);
    guests.iter().for_each(|guest| host.define(guest, ""));
    host.coracle(&[&["start", "--wait=ready"], guests].concat());
    (host, before)
}

/// The check at the end of each round: the machine replies to ping, and its name resolves.
const ANSWERS: &str = r#"
    answers() {
        ping -q -c1 -W5 $(address $1) || die no answer of $1 in round $2
        getent ahosts $1 || die no name of $1 in round $2
    }
    address() { set -- $(coracle show $1 -p addresses); echo ${1#addresses=}; }
    die() { echo "$@"; machinectl list --no-pager; sleep 2; machinectl list --no-pager; exit 1; }
"#;

const RESTARTS: &str = r#"
    restarts() {
        for round in $(seq 1 $2); do
            was=$(machinectl show $1 -p Leader --value)
            coracle restart --wait=ready $1 || die $1 did not restart in round $round
            leader=$(machinectl show $1 -p Leader --value)
            [ $leader != $was ] || die the same leader of $1 in round $round
            answers $1 $round
        done
    }
"#;

const REBOOTS: &str = r#"
    reboots() {
        for round in $(seq 1 $2); do
            was=$(coracle show $1 -p leader)
            nsenter -t ${was#leader=} -a $3 || true
            while now=$(coracle show $1 -p leader) || die $1 is not there in round $round; [ $now = $was ]; do
                sleep 0.02
            done
            while now=$(coracle show $1 -p phase) || die $1 is not there in round $round; [ $now != phase=running ]; do
                sleep 0.02
            done
            answers $1 $round
        done
    }
"#;

/// Restarts guests in parallel, `count` times in total. Each restart results in a new leader.
fn restarts(tree: &str, guests: &[&str], count: u32) {
    let (host, before) = bench(tree, guests);
    let each = count.div_ceil(u32::try_from(guests.len()).expect("a few"));
    let calls: Vec<String> = guests.iter().map(|guest| format!("restarts {guest} {each}")).collect();
    run(&host, &format!("{ANSWERS}{RESTARTS}"), &calls);
    ends(&host, &before, guests);
}

/// Reboots a guest from inside. The invocation of the unit, the supervisor, its number of descriptors and the
/// link stay the same.
fn reboots(guest: &str, count: u32, command: &str) {
    let (host, before) = bench(guest, &[guest]);
    let kept = || {
        let link = host.property(guest, "host-ifindex");
        (host.unit(guest, "InvocationID"), host.supervisor(guest), link, descriptors(&host, guest))
    };
    let was = kept();
    run(&host, &format!("{ANSWERS}{REBOOTS}"), &[format!("reboots {guest} {count} '{command}'")]);
    assert_eq!(kept(), was);
    ends(&host, &before, &[guest]);
}

/// Runs calls of shell functions in parallel and asserts that all succeed.
#[track_caller]
fn run(host: &Host, functions: &str, calls: &[String]) {
    let started: Vec<String> = calls.iter().map(|call| format!("{call} & pids=\"$pids $!\"")).collect();
    let script = format!("{functions}\npids=\n{}\nfor pid in $pids; do wait $pid; done", started.join("\n"));
    host.exec_for(BOUND, &["sh", "-euc", &script]).success("again and again");
}

/// Returns the number of open descriptors of a machine's supervisor.
fn descriptors(host: &Host, guest: &str) -> usize {
    host.wait_for_phase(guest, "running");
    host.ok(&["ls", &format!("/proc/{}/fd", host.supervisor(guest))]).lines().count()
}

fn ends(host: &Host, before: &Snapshot, guests: &[&str]) {
    host.coracle(&[&["stop"], guests].concat());
    guests.iter().for_each(|guest| host.assert_clean_stop(guest));
    before.assert_same(host);
}

#[test]
fn restarts_of_busybox_guests() {
    // The guests are restarted in parallel, because busybox waits two seconds in its shutdown.
    restarts("busybox", &["one", "two", "three", "four", "five"], rounds("CORACLE_RESTARTS", 100));
}

#[test]
fn restarts_of_a_systemd_guest() {
    restarts("trixie", &["trixie"], rounds("CORACLE_RESTARTS", 100) / 10);
}

#[test]
fn reboots_of_a_busybox_guest() {
    // `-f` skips the orderly shutdown, in which busybox waits two seconds. Each reboot is delayed longer than
    // the previous reboot, and the machine fails after twenty reboots within a minute of running time.
    reboots("busybox", rounds("CORACLE_REBOOTS", 6), "busybox reboot -f");
}

#[test]
fn reboots_of_a_systemd_guest() {
    reboots("trixie", rounds("CORACLE_REBOOTS", 4), "systemctl reboot");
}
