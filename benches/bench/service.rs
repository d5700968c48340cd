//! The service on the bus: commands and starts of a user whom a rule of polkit allows them, a first call, and the
//! list of many machines; beside machined(8) and hostnamed(8). Called by `main`, in the host.

use super::boot::compare_to;
use super::contenders;
use super::managers;
use super::rest;
use super::run::{self, shell, words};
use super::scale;
use super::table::{self, median, number};
use std::fs;

const ROUNDS: usize = 20;
const BUSY_ROUNDS: usize = 10;
/// The user.
const AS_USER: &str = "setpriv --reuid=bench --regid=bench --init-groups";
/// A first call of each service.
const COLD: [(&str, &str, &str); 2] = [
    (
        "coracle, GetMachine",
        "coracle-manager.service",
        "busctl call io.coracle1 /io/coracle1 io.coracle1.Manager GetMachine s bb",
    ),
    (
        "hostnamed, Describe",
        "systemd-hostnamed.service",
        "busctl call org.freedesktop.hostname1 /org/freedesktop/hostname1 org.freedesktop.hostname1 Describe",
    ),
];
/// A list of all machines.
const LISTS: [(&str, &str); 2] = [
    (
        "coracle, GetManagedObjects",
        "busctl call io.coracle1 /io/coracle1 org.freedesktop.DBus.ObjectManager GetManagedObjects",
    ),
    ("machinectl list", "machinectl list --no-legend"),
];

/// Prints all tables.
pub fn all() {
    contenders::prepare();
    managers::add("busybox", "bb");
    managers::add("trixie", "deb");
    let rule =
        "polkit.addRule(function (action, subject) { if (subject.user == 'bench') { return 'yes'; } });\n";
    fs::write("/etc/polkit-1/rules.d/10-bench.rules", rule).expect("write a rule");
    shell("id bench || useradd bench; chmod a+r /etc/polkit-1/rules.d/*; systemctl restart polkit")
        .expect("a user");
    commands();
    starts();
    compare_to(
        "The first call of a service that is not running",
        COLD.map(|(name, unit, call)| (name, move || cold(unit, call))).into(),
        ROUNDS,
        COLD[1].0,
    );
    memory();
    lists();
}

/// Measures a command line.
fn timed(command: &str) -> impl Fn() -> Result<f64, String> + use<> {
    let words = words(command);
    move || run::once(&words).map(|sample| sample.wall)
}

fn commands() {
    shell("coracle start --wait=ready deb; systemctl start systemd-machined").expect("start a machine");
    let ways = [
        ("machinectl shell, by rule", format!("{AS_USER} machinectl -q shell deb /bin/true")),
        ("coracle exec, by rule", format!("{AS_USER} coracle exec deb -- /bin/true")),
        ("coracle exec -t, by rule", format!("{AS_USER} coracle exec -t deb -- /bin/true")),
        ("machinectl shell, as root", "machinectl -q shell deb /bin/true".to_owned()),
        ("coracle exec, as root", "coracle exec deb -- /bin/true".to_owned()),
    ];
    compare_to(
        "Enter: /bin/true in a running Debian, by the service",
        ways.iter().map(|(name, command)| (*name, timed(command))).collect(),
        ROUNDS,
        ways[0].0,
    );
    managers::ALL[0].end("deb");
}

fn starts() {
    let ways = [("coracle start, as root", ""), ("coracle start, by rule", AS_USER)];
    let start = |prefix: &'static str| {
        move || {
            let took = run::once(&words(&format!("{prefix} coracle start --wait=running bb")));
            managers::ALL[0].end("bb");
            took.map(|sample| sample.wall)
        }
    };
    let ways_and_starts = ways.map(|(name, prefix)| (name, start(prefix)));
    compare_to("Start: a busybox machine, to 'running'", ways_and_starts.into(), BUSY_ROUNDS, ways[0].0);
}

/// Measures a call that starts its service.
fn cold(unit: &str, call: &str) -> Result<f64, String> {
    shell(&format!("systemctl stop {unit}"))?;
    run::once(&words(call)).map(|sample| sample.wall)
}

/// Prints the memory of both services after a call.
fn memory() {
    let row = |(name, unit, call): &(&str, &str, &str)| {
        shell(call).ok()?;
        let pid = shell(&format!("systemctl show -P MainPID {unit}")).ok()?;
        let kib = |keys: &[&str]| number(rest::memory(&pid, keys));
        let private = ["Private_Dirty:", "Private_Clean:"];
        Some(vec![(*name).to_owned(), kib(&private[..1]), kib(&private), kib(&["Pss:"])])
    };
    let head = ["name", "private dirty KiB", "private KiB", "proportional KiB"];
    table::print("Memory of a service after a call", &head, &COLD.iter().filter_map(row).collect::<Vec<_>>());
}

fn lists() {
    let names = scale::names();
    for name in &names {
        managers::add("busybox", name);
        shell(&format!("coracle start --wait=running {name}")).expect("start a machine");
    }
    let title = format!("The list of {} running machines", names.len());
    let all = LISTS.map(|(name, command)| (name, timed(command)));
    compare_to(&title, all.into(), ROUNDS, LISTS[1].0);
    let cpu = |(name, command): &(&str, &str)| {
        let times: Vec<f64> =
            (0..5).filter_map(|_| run::once(&words(command)).ok()).map(|sample| sample.host).collect();
        vec![(*name).to_owned(), number(median(&times))]
    };
    table::print("The same, processor time", &["name", "ms"], &LISTS.iter().map(cpu).collect::<Vec<_>>());
    let _ = shell(&format!("coracle terminate {}", names.join(" ")));
}
