//! Roots: clones, throw-away starts, stacks of many layers, snapshots. Called by `main`, in the host, whose
//! images are on ext4.

use super::boot::{Measure, compare_to};
use super::contenders;
use super::managers::{self, MACHINES};
use super::run::{self, shell};
use super::table::{self, number};
use std::time::Instant;

const ROUNDS: usize = 8;
const START_ROUNDS: usize = 30;
const CLONES: usize = 100;
/// Options of both programs for a command without a unit.
const OPTIONS: &str = "-q -M bench --keep-unit --register=no --private-network --console=pipe";
/// Podman with images on the disk, like those of the other contenders.
const PODMAN: &str =
    "podman --storage-driver=overlay --root=/var/tmp/bench-images --runroot=/run/bench-images";

/// Prints all tables.
pub fn all() {
    contenders::prepare();
    managers::add("busybox", "bb");
    managers::add("trixie", "deb");
    shell(&format!(
        "cd {MACHINES}; test -d golden && exit; cp -a busybox golden; mkdir golden/data
         mkdir -m 700 .storage; mkdir -p /var/lib/coracle; ln -s $PWD/.storage /var/lib/coracle/storage
         for n in $(seq 64); do head -c 16M /dev/zero >golden/data/$n; done
         for n in $(seq 2000); do head -c 4k /dev/zero >golden/data/small-$n; done
         mkdir -p layered.mstack/rw; cp -a --reflink=auto golden layered.mstack/layer@0
         coracle read-only golden yes
         tar -C golden -c . | {PODMAN} import -q - golden:1; sync"
    ))
    .expect("create the source of clones");
    clones();
    many();
    throwaway();
    layers();
    snapshots();
    shell("coracle read-only golden no").expect("a tree that can be deleted");
}

/// Returns a function that measures a command, and then runs a script without measuring it.
pub fn timed(command: String, after: &str) -> Measure {
    let after = after.to_owned();
    Box::new(move || {
        let sample = run::once(&run::words(&command));
        shell(&after)?;
        sample.map(|sample| sample.wall)
    })
}

fn clones() {
    let remove = "coracle remove copy";
    compare_to(
        "Clone: a tree of 1 GB on ext4",
        vec![
            (
                "cp -a",
                timed(format!("cp -a {MACHINES}/golden {MACHINES}/copy"), &format!("rm -r {MACHINES}/copy")),
            ),
            ("machinectl clone", timed("machinectl clone golden copy".into(), "machinectl remove copy")),
            (
                "podman create",
                timed(
                    format!("{PODMAN} create --name=copy golden:1 /bin/true"),
                    &format!("{PODMAN} rm copy"),
                ),
            ),
            ("coracle clone, of a read-only tree", timed("coracle clone golden copy".into(), remove)),
            ("coracle clone, of a stack", timed("coracle clone layered copy".into(), remove)),
        ],
        ROUNDS,
        "cp -a",
    );
}

/// Returns the used space of the file system of images, KiB.
fn used() -> f64 {
    let text = shell(&format!("sync; df --output=used -k {MACHINES} | tail -n1"));
    text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(f64::NAN)
}

/// Creates many clones of one tree, and starts them.
fn many() {
    let names: Vec<String> = (1..=CLONES).map(|number| format!("clone{number}")).collect();
    let before = used();
    let each = |begun: Instant| begun.elapsed().as_secs_f64() * 1e3 / CLONES as f64;
    let begun = Instant::now();
    let all = |verb: &str| names.iter().try_for_each(|name| shell(&verb.replace('@', name)).map(drop));
    let mut rows = Vec::new();
    let mut measured = |what: &str, verb: &str| {
        let begun = Instant::now();
        let done = all(verb);
        let took = each(begun);
        rows.push(vec![what.to_owned(), number(took), number((used() - before) / CLONES as f64)]);
        done
    };
    let done = measured("cloned", "coracle clone golden @")
        .and_then(|()| measured("started", "coracle start @"))
        .and_then(|()| measured("stopped", "coracle stop @"));
    drop(all("coracle terminate @ 2>/dev/null || true"));
    let removed = measured("removed", "coracle remove @");
    table::print(
        &format!("Clones: {CLONES} of one tree of 1 GB, in {:.1} s", begun.elapsed().as_secs_f64()),
        &["state", "ms each", "KiB on disk each"],
        &rows,
    );
    for why in [done, removed].into_iter().filter_map(Result::err) {
        println!("  failed: {why}");
    }
}

/// Returns a function that measures a command in a root.
fn started(program: &str, root: &str) -> Measure {
    timed(format!("{program} {OPTIONS} {root} /bin/true"), "true")
}

fn throwaway() {
    let root = format!("-D {MACHINES}/deb");
    compare_to(
        "Start: /bin/true in a Debian tree that is thrown away",
        vec![
            ("coracle run, in place", started("coracle run", &root)),
            ("coracle run -x", started("coracle run -x", &root)),
            ("systemd-nspawn -x", started("systemd-nspawn -x", &root)),
        ],
        ROUNDS,
        "coracle run, in place",
    );
}

fn layers() {
    shell(&format!(
        "cd {MACHINES}; test -d ten.mstack && exit; mkdir -p ten.mstack/rw; cp -a busybox ten.mstack/layer@0
         tar -C busybox -c . | {PODMAN} import -q - ten:0
         for n in $(seq 9); do
             mkdir ten.mstack/layer@$n; echo $n >ten.mstack/layer@$n/file-$n
             {PODMAN} run --name=ten --network=none --cgroups=disabled ten:$((n - 1)) touch /file-$n
             {PODMAN} commit -q ten ten:$n; {PODMAN} rm ten
         done"
    ))
    .expect("create layers");
    compare_to(
        "Start: /bin/true on ten layers",
        vec![
            ("coracle run, a directory", started("coracle run", &format!("-D {MACHINES}/bb"))),
            ("coracle run, ten layers", started("coracle run", &format!("--mstack={MACHINES}/ten.mstack"))),
            (
                "podman run, ten layers",
                timed(format!("{PODMAN} run --rm --network=none --cgroups=disabled ten:9 /bin/true"), "true"),
            ),
        ],
        START_ROUNDS,
        "coracle run, a directory",
    );
}

/// Creates 100 MB of new files in a shell.
const NEW: &str = "for n in 1 2 3 4 5; do head -c 20M /dev/zero >@/new-$n; done; sync";

fn snapshots() {
    let all: Vec<(&'static str, Measure)> =
        vec![("cp -a of the new files", Box::new(copy)), ("coracle snapshot, the pause", Box::new(pause))];
    compare_to("Snapshot: a running machine with 100 MB of new files", all, ROUNDS, "cp -a of the new files");
}

/// Returns the pause of a running machine, ms.
fn pause() -> Result<f64, String> {
    let new = NEW.replace('@', "");
    shell(&format!("cd {MACHINES}; mkdir -p live.mstack/rw; ln -sfn ../golden live.mstack/layer@0"))?;
    shell(&format!("coracle start live; coracle exec live -- sh -c '{new}'"))?;
    let said = shell("coracle snapshot live bench 2>&1");
    let undone = shell("coracle snapshot --remove live bench; coracle terminate live; coracle remove live");
    let said = said?;
    undone?;
    let pause = said.split("paused ").nth(1).and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    pause.ok_or(format!("no pause in '{said}'"))
}

/// Returns the time of a copy of such files, ms.
fn copy() -> Result<f64, String> {
    let files = "/var/tmp/bench-new";
    shell(&format!("mkdir -p {files}; {}", NEW.replace('@', files)))?;
    let sample = run::once(&run::words(&format!("cp -a {files} {files}-copy")));
    shell(&format!("rm -r {files} {files}-copy"))?;
    sample.map(|sample| sample.wall)
}
