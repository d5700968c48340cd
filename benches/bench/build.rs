//! Build sessions, and the programs that enter build roots: the helper of sbuild, schroot, bubblewrap and podman. Called
//! by `main`, in the host, whose images are on ext4.

use super::boot::{Measure, compare_to};
use super::contenders;
use super::managers::{self, MACHINES};
use super::rest;
use super::run::{self, shell};
use super::table::{self, number};
use std::time::Instant;

const ROUNDS: usize = 40;
const BEGIN_ROUNDS: usize = 15;
const LARGE_ROUNDS: usize = 6;
/// The number of sessions begun side by side.
const MANY: usize = 50;
/// The helper of sbuild's default mode, and the ids that it maps.
const HELPER: &str = "/usr/libexec/sbuild-usernsexec";
const IDS: &str = "u:0:100000:65536 g:0:100000:65536";
/// Podman without the network, which no other contender has here.
const PODMAN: &str = "podman run -d --name=bench --network=none --runtime=crun --cgroups=disabled";
/// The root that the helper of sbuild has unpacked.
const UNPACKED: &str = "/var/tmp/bench-unpacked";
/// Gives schroot(1) a directory of changes on a disk: the root of the host is an overlay, on which no other one can write.
pub const UNION: &str =
    "mkdir -p /var/lib/machines/.union/overlay /var/lib/machines/.union/underlay /var/lib/schroot/union
    mount --bind /var/lib/machines/.union /var/lib/schroot/union";
/// Writes 300 MB in files of 64 KiB.
const LARGE: &str = "for i in $(seq 100); do dd if=/dev/zero of=/l$i bs=64k count=48 2>/dev/null; done";
/// Writes files as dpkg(1) does: each is written to the disk before it is renamed.
const SYNCED: &str = "i=0; while [ $i -lt 300 ]; do dd if=/dev/zero of=/f bs=4k count=1 conv=fsync 2>/dev/null; \
                      mv /f /f$i; i=$((i + 1)); done";

/// Prints all tables.
pub fn all() {
    contenders::prepare();
    managers::add("trixie", "deb");
    prepare();
    enter();
    begin_and_end();
    large();
    tarball();
    synced();
    side_by_side();
    idle();
    shell(&format!("rm -rf {UNPACKED} /var/tmp/bench.tar")).expect("roots that can be removed");
}

/// Gives each contender its root.
fn prepare() {
    let schroot = format!(
        "[bench]\ntype=directory\ndirectory={MACHINES}/deb\nunion-type=overlay\nusers=root\nroot-users=root\nprofile=sbuild\n"
    );
    std::fs::create_dir_all("/etc/schroot/chroot.d").expect("make a directory of schroot");
    std::fs::write("/etc/schroot/chroot.d/bench", schroot).expect("write the configuration of schroot");
    shell(&format!(
        "mkdir -p -m 700 {MACHINES}/.storage /var/lib/coracle; ln -sfn {MACHINES}/.storage /var/lib/coracle/storage
         mkdir -p /usr/lib/coracle; ln -sf \"$(command -v coracle)\" /usr/lib/coracle/unschroot
         tar -C {MACHINES}/deb --exclude=./dev/* -cf /var/tmp/bench.tar .
         mkdir -p {UNPACKED}; chown 100000:100000 {UNPACKED}
         {HELPER} {IDS} -- tar --directory={UNPACKED} -xf /var/tmp/bench.tar
         {UNION}"
    ))
    .expect("the roots of all contenders");
}

/// Returns a measure of a command line; the scripts before and after it are not measured.
fn timed(before: &str, command: &str, after: &str) -> Measure {
    let (before, command, after) = (before.to_owned(), run::words(command), after.to_owned());
    Box::new(move || {
        shell(&before)?;
        let sample = run::once(&command);
        shell(&after)?;
        sample.map(|sample| sample.wall)
    })
}

/// A command in a root that is ready.
fn enter() {
    let ready = shell(&format!(
        "coracle build begin deb --name=bench --user=root; schroot -b -c bench -n bench >&2
         {PODMAN} --rootfs {MACHINES}/deb:O /bin/sleep infinity >&2"
    ));
    if let Err(why) = &ready {
        println!("\n  not all contenders have a root: {why}");
    }
    let root = format!("{MACHINES}/deb");
    let bwrap =
        format!("bwrap --bind {root} / --proc /proc --dev /dev --unshare-all --die-with-parent /bin/true");
    let commands = [
        ("sbuild-usernsexec", format!("{HELPER} --pivotroot {IDS} {UNPACKED} root / -- /bin/true")),
        ("schroot -r", "schroot -r -c bench -u root -d / -- /bin/true".to_owned()),
        ("bwrap", bwrap),
        ("podman exec", "podman exec bench /bin/true".to_owned()),
        ("chroot", format!("chroot {root} /bin/true")),
        ("coracle exec", "coracle exec bench -- /bin/true".to_owned()),
        ("unschroot -r", "/usr/lib/coracle/unschroot -r -c bench -u root -d / -- /bin/true".to_owned()),
        ("coracle build run", "coracle build run bench -- /bin/true".to_owned()),
    ];
    let measures = commands.iter().map(|(name, command)| (*name, timed(":", command, ":"))).collect();
    compare_to("Build: /bin/true in a ready root", measures, ROUNDS, "sbuild-usernsexec");
    let _ = shell("coracle build end bench; schroot -e -c bench; podman rm -f -t 0 bench");
}

/// The begin and the end of a session without changes.
fn begin_and_end() {
    let begins = [
        ("schroot", "schroot -b -c bench -n bench", "schroot -e -c bench"),
        (
            "podman",
            &format!("{PODMAN} --rootfs {MACHINES}/deb:O /bin/sleep infinity"),
            "podman rm -f -t 0 bench",
        ),
        ("coracle", "coracle build begin deb --name=bench", "coracle build end bench"),
    ];
    let measures = begins.iter().map(|(name, begin, end)| (*name, timed(":", begin, end))).collect();
    compare_to("Build: begin of a session", measures, BEGIN_ROUNDS, "schroot");
    let measures = begins.iter().map(|(name, begin, end)| (*name, timed(begin, end, ":"))).collect();
    compare_to("Build: end of a session without changes", measures, BEGIN_ROUNDS, "schroot");
}

/// The end of a session with 300 MB of changes.
fn large() {
    let schroot =
        format!("schroot -b -c bench -n bench; schroot -r -c bench -u root -d / -- sh -c '{LARGE}'; sync");
    let ours = format!(
        "coracle build begin deb --name=bench; coracle build run bench -u root -- sh -c '{LARGE}'; sync"
    );
    // What is removed after the answer is not left to the next round.
    let swept = format!("while ls -A {MACHINES}/.storage/trash 2>/dev/null | grep -q .; do sleep 0.1; done");
    let measures = vec![
        ("schroot", timed(&schroot, "schroot -e -c bench", ":")),
        ("coracle", timed(&ours, "coracle build end bench", &swept)),
    ];
    compare_to("Build: end of a session with 300 MB of changes", measures, LARGE_ROUNDS, "schroot");
}

/// A whole session against the tarball that sbuild unpacks and deletes.
fn tarball() {
    let other = "/var/tmp/bench-other";
    let script = format!(
        "mkdir {other} && chown 100000:100000 {other} && {HELPER} {IDS} -- tar --directory={other} -xf /var/tmp/bench.tar && rm -r {other}"
    );
    let measure = |script: String| -> Measure {
        let command = vec!["sh".to_owned(), "-c".to_owned(), script];
        Box::new(move || run::once(&command).map(|sample| sample.wall))
    };
    let ours = "coracle build begin deb --name=bench && coracle build end bench".to_owned();
    compare_to(
        "Build: a root that is created and removed",
        vec![("sbuild's tarball", measure(script)), ("coracle build", measure(ours))],
        LARGE_ROUNDS,
        "sbuild's tarball",
    );
}

/// Files that are written to the disk one by one, as by dpkg(1).
fn synced() {
    let run = |options: &str| -> Measure {
        let options = run::words(options);
        Box::new(move || {
            let name = options.join(" ");
            shell(&format!("coracle build begin deb --name=bench {name}"))?;
            let command = ["coracle", "build", "run", "bench", "-u", "root", "--", "sh", "-c", SYNCED];
            let sample = run::once(&command.map(str::to_owned));
            shell("coracle build end bench")?;
            sample.map(|sample| sample.wall)
        })
    };
    compare_to(
        "Build: 300 files with fsync(2)",
        vec![("--sync", run("--sync")), ("coracle build", run(""))],
        LARGE_ROUNDS,
        "--sync",
    );
}

/// The last of many begins side by side against a single one.
fn side_by_side() {
    let begin = |number: usize| {
        let began = Instant::now();
        let begun = shell(&format!("coracle build begin deb --name=bench{number}"));
        begun.map(|_| began.elapsed().as_secs_f64() * 1e3)
    };
    let times: Vec<f64> = (0..MANY).filter_map(|number| begin(number).ok()).collect();
    let rows = [("first", times.first()), (&format!("{MANY}th"), times.get(MANY - 1))]
        .map(|(name, time)| vec![name.to_owned(), number(time.copied().unwrap_or(f64::NAN))]);
    table::print("Build: begin beside sessions that run", &["begin", "ms"], &rows);
    let _ = shell("coracle build clean --all");
}

/// The memory of a session that nobody uses.
fn idle() {
    let begun = shell(
        "coracle build begin deb --name=bench >&2; sleep 1; pgrep -f 'coracle supervise detached'; pgrep -f coracle-hold",
    );
    let Ok(pids) = begun else { return println!("\n  no session: {begun:?}") };
    let keys = ["Private_Dirty:", "Private_Clean:"];
    let rows: Vec<Vec<String>> = pids
        .lines()
        .map(|pid| {
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            let memory = |keys: &[&str]| number(rest::memory(pid, keys));
            vec![name.trim().to_owned(), memory(&keys[..1]), memory(&keys)]
        })
        .collect();
    table::print("Build: an idle session", &["process", "private dirty KiB", "private KiB"], &rows);
    let _ = shell("coracle build end bench");
}
