//! The rights that root in a machine has on the host, with the defaults of each manager: the probe of
//! `tests/hosts/security`, run by all managers in the same tree. Called by `main`, in the host.

use super::contenders;
use super::run::shell;
use super::table;

/// The tree with the probe.
const TREE: &str = "/var/lib/machines/busybox";

/// A machine with the probe as its first script: it sees the state inherited by PID 1.
const BOOTED: &str = "/var/lib/machines/probe";

/// Boots that machine with `start`, waits for the probe, and stops it with `stop`.
macro_rules! booted {
    ($start:literal, $stop:literal) => {
        concat!(
            "rm -f @B@/said; ",
            $start,
            " probe >&2; for i in $(seq 100); do grep -q ^total @B@/said && break; sleep 0.1; done; cat @B@/said; ",
            $stop,
            " >&2"
        )
    };
}

/// The examined managers: the name, and a script that prints the output of the probe.
const ALL: &[(&str, &str)] = &[
    ("coracle, unit", booted!("coracle start", "coracle stop probe")),
    (
        "coracle, unit, users.private = \"no\"",
        booted!(
            "mkdir -p /etc/coracle/machines.d; printf '[users]\nprivate = \"no\"\n' \
             >/etc/coracle/machines.d/probe.toml; coracle start",
            "coracle stop probe; rm /etc/coracle/machines.d/probe.toml"
        ),
    ),
    ("coracle run", "coracle run -q --console=pipe -D @T@ /usr/bin/probe"),
    ("systemd-nspawn -U", "systemd-nspawn -q -U --private-network --pipe -D @T@ /usr/bin/probe"),
    ("systemd-nspawn", "systemd-nspawn -q --pipe -D @T@ /usr/bin/probe"),
    ("lxc, unprivileged", "lxc-start -F -n probe -P /run/bench/lxc -f /run/bench/probe-Private.conf"),
    ("lxc, privileged", "lxc-start -F -n probe -P /run/bench/lxc -f /run/bench/probe-Host.conf"),
    (
        "podman",
        "podman run --rm --network=none --runtime=crun --cgroups=disabled --rootfs @T@ /usr/bin/probe",
    ),
    (
        "bubblewrap",
        "bwrap --unshare-all --bind @T@ / --proc /proc --dev /dev --tmpfs /tmp --ro-bind /sys /sys /usr/bin/probe",
    ),
    // Last, because the cleanup of its unit takes a while.
    (
        "systemd-nspawn@.service",
        booted!(
            "for one in probe; do systemctl start systemd-nspawn@$one; done; true",
            "systemctl kill -s KILL systemd-nspawn@probe; systemctl reset-failed systemd-nspawn@probe || true"
        ),
    ),
];

/// Prints the counts of all managers, then every point that at least one manager leaves open.
pub fn all() {
    prepare();
    let said: Vec<(&str, Result<String, String>)> = ALL
        .iter()
        .map(|(name, script)| (*name, shell(&script.replace("@T@", TREE).replace("@B@", BOOTED))))
        .collect();
    let mut rows = Vec::new();
    for (name, said) in &said {
        let total = said.as_ref().ok().and_then(|text| text.lines().find(|line| line.starts_with("total\t")));
        let Some(total) = total else {
            println!("  {name} cannot run here: {}", said.as_ref().err().map_or("no total", String::as_str));
            continue;
        };
        let words: Vec<&str> = total.split('\t').skip(1).collect();
        rows.push(std::iter::once(*name).chain(words).map(str::to_owned).collect());
    }
    table::print("Open points by weight, of root inside", &["", "high", "medium", "low", ""], &rows);
    points(&said);
}

/// Prints a row for each point and a column for each manager.
fn points(said: &[(&str, Result<String, String>)]) {
    let columns: Vec<(String, &str)> = said
        .iter()
        .filter_map(|(name, text)| Some((name, text.as_ref().ok()?)))
        .filter(|(_, text)| text.contains("total\t"))
        .zip('A'..)
        .map(|((name, text), letter)| {
            println!("  {letter}: {name}");
            (letter.to_string(), text.as_str())
        })
        .collect();
    let Some((_, first)) = columns.first() else { return };
    let mut rows = Vec::new();
    for line in first.lines() {
        let words: Vec<&str> = line.split('\t').collect();
        let [_, weight, name, ..] = words[..] else { continue };
        if weight.parse::<u32>().is_ok() {
            continue;
        }
        let open = format!("open\t{weight}\t{name}\t");
        let cells = columns.iter().map(|(_, text)| text.lines().any(|line| line.starts_with(&open)));
        let cells: Vec<bool> = cells.collect();
        if cells.contains(&true) {
            let marks = cells.iter().map(|open| if *open { "open" } else { "-" }.to_owned());
            rows.push(std::iter::once(format!("{weight}: {name}")).chain(marks).collect());
        }
    }
    let head: Vec<&str> =
        std::iter::once("").chain(columns.iter().map(|(letter, _)| letter.as_str())).collect();
    table::print("Points that somebody leaves open", &head, &rows);
}

/// Installs the probe in the tree and writes the configuration for lxc.
fn prepare() {
    contenders::prepare();
    shell(&format!("cp {}/probe {TREE}/usr/bin/probe", super::host::TOOLS)).expect("copy the probe");
    shell(&format!(
        "cp -a {TREE} {BOOTED} && (echo '#!/bin/sh'; echo '/usr/bin/probe >/said') >{BOOTED}/etc/rcS && chmod 755 \
         {BOOTED}/etc/rcS"
    ))
    .expect("make the machine that probes");
    for users in ["Host", "Private"] {
        let common = "lxc.include = /usr/share/lxc/config/common.conf\nlxc.tty.dir =\nlxc.tty.max = 0\n";
        let text =
            std::fs::read_to_string(format!("/run/bench/lxc-{users}.conf")).expect("lxc's configuration");
        let text = text.replace(contenders::ROOT, TREE).replace("/bin/true", "/usr/bin/probe");
        std::fs::write(format!("/run/bench/probe-{users}.conf"), format!("{common}{text}"))
            .expect("tell lxc");
    }
}
