//! `snapshot` and `rollback`: of stopped and running machines, on stacks and directories.

use std::time::Duration;

use crate::support::{Host, LONG, Snapshot, program};

/// Places the store on the file system of the images: the host's own root is an overlay.
const STORE: &str = "mkdir -m 700 /var/lib/machines/.storage; mkdir -p /var/lib/coracle
                     ln -s /var/lib/machines/.storage /var/lib/coracle/storage";

/// Starts a host with a tree `base`, and a stack `web` on it.
fn host() -> Host {
    let host = Host::builder().guest_as("busybox", "base").on_disk().start();
    host.sh_ok(&format!(
        "{STORE}; mkdir -p /var/lib/machines/web.mstack/rw
         ln -s /var/lib/machines/base /var/lib/machines/web.mstack/layer@0"
    ));
    host.activate_machined();
    host
}

/// Asserts that no draft is left.
#[track_caller]
pub fn has_no_drafts(host: &Host) {
    host.sh_ok(
        "if find /var/lib/machines -maxdepth 1 -name '.#*' -not -name '*.lck' | grep .; then exit 1; fi
         ! ls -A /var/lib/coracle/storage/tmp /var/lib/coracle/storage/trash 2>/dev/null | grep -v :$ | grep .",
    );
}

/// Returns the words of the tags of an image.
pub fn tags(host: &Host, name: &str) -> Vec<String> {
    let list = host.coracle(&["snapshot", "--list", "--no-legend", name]);
    list.lines().map(|line| line.split(' ').next().unwrap_or_default().to_owned()).collect()
}

#[test]
fn a_stopped_stack_is_saved_and_restored_without_copies() {
    let host = host();
    let before = Snapshot::take(&host);
    let run = |command: &str| {
        host.sh_ok(&format!("coracle run -q --mstack=/var/lib/machines/web.mstack -M web sh -c '{command}'"))
    };
    run("echo one >/state; mkdir /data; chown 1000:7 /data; rm /etc/passwd");
    let said = host.coracle(&["snapshot", "web", "one"]);
    assert_eq!(said, "web: snapshot 'one': shared layers\n");
    run("echo two >/state; test -d /data; test ! -e /etc/passwd");
    let existing = host.exec(&["coracle", "snapshot", "web", "one"]);
    assert!(existing.status != 0 && existing.stderr.contains("'one' exists already"), "{existing}");
    host.coracle(&["snapshot", "web", "two"]);
    run("echo three >/state");
    assert_eq!(tags(&host, "web"), ["one", "two"]);
    let said = host.coracle(&["rollback", "web", "one"]);
    assert!(
        said.starts_with("web: rolled back to snapshot 'one': shared layers; its former state"),
        "{said}"
    );
    assert_eq!(run("cat /state; stat -c %u:%g /data; test ! -e /etc/passwd"), "one\n1000:7\n");
    // The former state is a snapshot, and is not the newest one.
    let former = tags(&host, "web").pop().expect("the former state");
    assert!(former.starts_with("before-rollback-"), "{former}");
    host.coracle(&["rollback", "--discard", "web"]);
    assert_eq!(run("cat /state"), "two\n");
    host.coracle(&["rollback", "--discard", "web", &former]);
    assert_eq!(run("cat /state"), "three\n");
    assert_eq!(tags(&host, "web").len(), 3);
    host.coracle(&["snapshot", "--remove", "web", "one"]);
    let gone = host.exec(&["coracle", "rollback", "web", "one"]);
    assert!(gone.status != 0 && gone.stderr.contains("'one' does not exist"), "{gone}");
    host.coracle(&["rollback", "--discard", "web", "two"]);
    assert_eq!(run("cat /state"), "two\n");
    let json = host.coracle(&["snapshot", "--list", "--json", "web"]);
    assert!(json.contains("\"tag\": \"two\"") && json.contains("\"method\": \"layers\""), "{json}");
    let report = |command: &str| {
        let json = host.sh_ok(&format!("coracle {command} --json | tr -d ' \n'"));
        json.trim_matches(|c| c == '{' || c == '}').replace('"', "")
    };
    assert_eq!(
        report("snapshot web json"),
        "name:web,tag:json,method:layers,bytes:0,paused-ms:null,hint:null"
    );
    assert_eq!(
        report("rollback --discard web json"),
        "name:web,tag:json,method:layers,bytes:0,former-state:null"
    );
    assert_eq!(report("convert web stack"), "name:web,type:stack,method:unchanged,bytes:0");
    host.coracle(&["snapshot", "--remove", "web", "json"]);
    before.assert_same(&host);
    has_no_drafts(&host);
    host.stop();
}

#[test]
fn volumes_of_a_stack_are_saved_with_it() {
    let host = host();
    host.sh_ok(
        "cd /var/lib/machines; mkdir web.mstack/bind@srv .outside; ln -s ../.outside web.mstack/bind@opt",
    );
    let run = |command: &str| {
        host.sh_ok(&format!("coracle run -q --mstack=/var/lib/machines/web.mstack -M web sh -c '{command}'"))
    };
    run("echo one | tee /state /srv/state /opt/state");
    let said = host.coracle(&["snapshot", "web"]);
    assert!(said.contains(": copied 4B") || said.contains(": a copy with shared blocks"), "{said}");
    run("echo two | tee /state /srv/state /opt/state");
    host.coracle(&["rollback", "web"]);
    // A link to a directory elsewhere stays one.
    assert_eq!(run("cat /state /srv/state /opt/state"), "one\none\ntwo\n");
    host.coracle(&["rollback", "web", &tags(&host, "web")[1]]);
    assert_eq!(run("cat /state /srv/state /opt/state"), "two\ntwo\ntwo\n");
    has_no_drafts(&host);
    host.stop();
}

#[test]
fn a_running_machine_is_paused_and_saved() {
    let host = host();
    host.coracle(&["start", "web"]);
    // Two counters that are always equal, but for the moment between their writes.
    host.sh_ok(
        "coracle exec web -- sh -c 'mkdir /data; dd if=/dev/zero of=/data/big bs=1M count=64 2>/dev/null
         cat >/loop <<\"EOF\"\nn=0\nwhile :; do n=$((n + 1))
           for f in a b; do echo $n >/data/new; mv /data/new /data/$f; done; done\nEOF
         setsid sh /loop >/dev/null 2>&1 &'",
    );
    host.wait_until(LONG, "coracle exec web -- test -s /data/b");
    let said = host.coracle(&["snapshot", "web", "live"]);
    assert!(said.starts_with("web: snapshot 'live': ") && said.contains(" (paused "), "{said}");
    assert!(host.coracle(&["list", "--no-legend"]).contains("running"));
    // It goes on.
    host.wait_until(
        LONG,
        "a=$(coracle exec web -- cat /data/a); sleep 0.1; [ $a != $(coracle exec web -- cat /data/a) ]",
    );
    let refused = host.exec(&["coracle", "rollback", "web", "live"]);
    assert!(refused.status != 0 && refused.stderr.contains("in use by machine 'web'"), "{refused}");
    // One that the user has frozen stays frozen.
    host.coracle(&["freeze", "web"]);
    host.coracle(&["snapshot", "web", "frozen"]);
    host.sh_ok("grep 'frozen 1' /sys/fs/cgroup/machine.slice/coracle@web.service/payload/cgroup.events");
    let refused = host.exec(&["coracle", "exec", "web", "true"]);
    assert!(refused.stderr.contains("machine 'web' is frozen"), "{refused}");
    host.coracle(&["thaw", "web"]);
    host.coracle(&["stop", "web"]);
    for tag in ["live", "frozen"] {
        host.coracle(&["rollback", "--discard", "web", tag]);
        let state = "cat /data/a /data/b; stat -c %s /data/big";
        let state = host
            .sh_ok(&format!("coracle run -q --mstack=/var/lib/machines/web.mstack -M web sh -c '{state}'"));
        let numbers: Vec<i64> = state.lines().map(|line| line.parse().unwrap_or_default()).collect();
        assert_eq!(numbers.len(), 3, "{state:?}");
        assert!((0..=1).contains(&(numbers[0] - numbers[1])), "{numbers:?}");
        assert_eq!(numbers[2], 64 << 20);
    }
    has_no_drafts(&host);
    host.stop();
}

#[test]
fn a_killed_client_leaves_nothing_frozen() {
    let host = host();
    host.coracle(&["start", "web"]);
    host.sh_ok("coracle exec web -- sh -c 'for n in $(seq 3000); do echo $n >/file$n; done'");
    let events = "/sys/fs/cgroup/machine.slice/coracle@web.service/payload/cgroup.events";
    let frozen = &format!("grep -q 'frozen 1' {events}");
    // Stopped while it holds the machine: its connection stays open, and the machine stays frozen.
    host.sh_ok(&format!(
        "coracle snapshot web killed & pid=$!
         until {{ read -r line; read -r line; }} <{events}; [ \"$line\" = 'frozen 1' ]; do :; done; kill -STOP $pid; {frozen}
         coracle exec web -- true & entering=$!
         sleep 0.5; {frozen}; kill -0 $entering; kill -KILL $pid; wait $pid || true; wait $entering
         ! ls /run/coracle/web/paused 2>/dev/null"
    ));
    host.wait_until(LONG, &format!("! {frozen} && coracle exec web -- true"));
    assert!(tags(&host, "web").is_empty());
    // A signal ends the pause, too.
    host.sh_ok(&format!(
        "coracle snapshot web signalled 2>/tmp/said & pid=$!
         until {{ read -r line; read -r line; }} <{events}; [ \"$line\" = 'frozen 1' ]; do :; done
         kill -STOP $pid; kill -TERM $pid; kill -CONT $pid; if wait $pid; then exit 1; fi; grep 'interrupted$' /tmp/said"
    ));
    host.wait_until(LONG, &format!("! {frozen} && coracle exec web -- true"));
    assert!(tags(&host, "web").is_empty());
    host.coracle(&["snapshot", "web", "next"]);
    has_no_drafts(&host);
    // A stop thaws; the snapshot is refused.
    host.coracle(&["stop", "web"]);
    host.stop();
}

/// Kills a verb at each of its system calls, or a sample of them, and lets them fail. The image has the state
/// before or after the verb, and nothing is lost or left.
fn survives_faults(verb: &str) {
    let host = host();
    std::fs::copy(program::build("tests/faults/faulty.c", &[]), host.machines().join("faulty"))
        .expect("copy the tool");
    host.sh_ok(
        "mv /var/lib/machines/faulty /usr/bin/faulty; cd /var/lib/machines; mkdir .lower; mv base/* .lower; ln -sfn ../.lower web.mstack/layer@0
         mkdir base/below; echo one | tee base/state base/below/file >web.mstack/one; mkdir -p web.mstack/rw/data; mv web.mstack/one web.mstack/rw/data/state
         coracle snapshot web one; coracle snapshot base one",
    );
    let script = include_str!("../faults/snapshots.sh");
    let run = |faults: &str, bound: Duration| {
        host.write("/run/faults", faults);
        let out = host
            .exec_for(bound, &["bash", "-c", &format!("exec </run/faults; {script}"), "snapshots.sh", verb]);
        assert_eq!(out.status, 0, "{out}");
        let lines: Vec<&str> = out.stdout.lines().collect();
        assert!(lines.len() == 1 && lines[0].starts_with("tried "), "{}", out.stdout);
    };
    run("count 0\n", LONG);
    let count = |image: &str| {
        host.read(&format!("/run/calls-{image}")).lines().filter(|line| line.starts_with("0 ")).count()
    };
    let calls = count("web").max(count("base"));
    assert!(count("web") > 100 && count("base") > 100, "{calls} calls");
    let asked = std::env::var("CORACLE_FAULTS").unwrap_or_default();
    let (step, bound) = if asked.is_empty() { (calls / 8, 240) } else { (1, 7200) };
    // The dynamic loader makes the first calls.
    let faults =
        (40..=calls).step_by(step).flat_map(|call| [format!("kill {call}\n"), format!("error {call}\n")]);
    run(&faults.collect::<String>(), Duration::from_secs(bound));
    has_no_drafts(&host);
    host.stop();
}

#[test]
fn a_snapshot_survives_failing_calls_and_kills() {
    survives_faults("snapshot");
}

#[test]
fn a_rollback_survives_failing_calls_and_kills() {
    survives_faults("rollback");
}

#[test]
fn users_that_do_not_change_an_image_are_not_paused() {
    let host = host();
    let job = host.spawn(&[
        "coracle",
        "run",
        "-q",
        "-x",
        "-D",
        "/var/lib/machines/base",
        "-M",
        "a",
        "sleep",
        "600",
    ]);
    host.wait_until(LONG, "coracle exec a -- true");
    let said = host.coracle(&["snapshot", "base", "one"]);
    assert!(said.starts_with("base: snapshot 'one': ") && !said.contains("paused"), "{said}");
    let refused = host.exec(&["coracle", "rollback", "base"]);
    assert!(refused.status != 0 && refused.stderr.contains("in use by machine 'a'"), "{refused}");
    // A stack stands on the directory, which must stay.
    host.coracle(&["terminate", "a"]);
    job.wait(LONG);
    let refused = host.exec(&["coracle", "rollback", "base"]);
    assert!(refused.status != 0 && refused.stderr.contains("web.mstack' stands on image"), "{refused}");
    host.sh_ok("rm -r /var/lib/machines/web.mstack");
    host.coracle(&["rollback", "base"]);
    has_no_drafts(&host);
    host.stop();
}

/// PostgreSQL with clients that move money between accounts, branches and tellers: the sums of all are equal in
/// every committed state.
#[test]
fn a_database_under_load_is_consistent_in_a_snapshot() {
    let host = Host::builder().guest_as("trixie-untrimmed", "base").on_disk().start();
    host.sh_ok(&format!(
        "{STORE}; mkdir -p /var/lib/machines/db.mstack/rw
         ln -s /var/lib/machines/base /var/lib/machines/db.mstack/layer@0"
    ));
    host.activate_machined();
    host.define("db", "");
    let sql = |query: &str| {
        host.sh_ok(&format!("coracle exec db -u postgres -- psql -qtAc \"{query}\" bench")).trim().to_owned()
    };
    let postgres = "coracle exec db -u postgres -- ";
    let is_up = format!("{postgres} pg_isready -q");
    host.coracle(&["start", "--wait=ready", "db"]);
    host.wait_until(LONG, &is_up);
    host.sh_ok(&format!("{postgres} createdb bench; {postgres} pgbench -q -i -s 2 bench 2>/dev/null"));
    let load = host.spawn(&["sh", "-c", &format!("{postgres} pgbench -n -c 4 -T 20 bench")]);
    let count = || sql("select count(*) from pgbench_history").parse::<u64>().expect("a number");
    host.wait_until(
        LONG,
        &format!("[ $({postgres} psql -qtAc 'select count(*) from pgbench_history' bench) -gt 100 ]"),
    );
    let before = count();
    let said = host.coracle(&["snapshot", "db", "live"]);
    assert!(said.contains(" (paused "), "{said}");
    let end = load.wait(LONG);
    assert!(end.status == 0 && end.stdout.contains("number of failed transactions: 0 "), "{end}");
    let after = count();
    host.coracle(&["stop", "db"]);
    host.coracle(&["rollback", "db", "live"]);
    host.coracle(&["start", "--wait=ready", "db"]);
    host.wait_until(LONG, &is_up);
    let saved = count();
    assert!((before..=after).contains(&saved), "{before} <= {saved} <= {after}");
    let sums = ["accounts", "branches", "tellers"].map(|table| {
        let column = table.chars().next().expect("a letter");
        sql(&format!("select sum({column}balance) from pgbench_{table}"))
    });
    let moved = sql("select sum(delta) from pgbench_history");
    assert!(sums.iter().all(|sum| *sum == moved), "{sums:?} {moved}");
    host.coracle(&["stop", "db"]);
    host.assert_clean_stop("db");
    has_no_drafts(&host);
    host.stop();
}
