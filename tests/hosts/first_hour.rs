//! What a first user types and expects: a plain command, its status and its text. All rows share one host, and
//! each row leaves it as it was: `web` and `bb` are running, `db` is stopped.

use crate::support::{Host, LONG};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The rows, in the order of their run.
const ROWS: &[(&str, fn(&Host))] = &[
    ("a broken rule names its settings, and 'set' cures it", broken_rules),
    ("a machine that does not exist is an error", unknown_machines),
    ("errors of journalctl are passed on", bad_queries_of_logs),
    ("restart leaves a machine running whose next start would fail", restarts_that_would_fail),
    ("check takes names of machines", checks_by_name),
];

/// The properties of a row's command: its status, and parts of its output.
#[track_caller]
fn expect(host: &Host, command: &str, status: i32, texts: &[&str]) -> String {
    let out = host.exec(&["sh", "-c", command]);
    let all = format!("{}{}", out.stdout, out.stderr);
    assert_eq!(out.status, status, "{command}: {out}");
    for text in texts {
        assert!(all.contains(text), "{command}: no '{text}' in {all}");
    }
    assert!(!all.contains("/proc/"), "{command}: a path of a process in {all}");
    all
}

#[test]
fn first_hour_rows_hold() {
    let host =
        Host::builder().guest_as("trixie", "web").guest_as("busybox", "bb").guest_as("trixie", "db").start();
    host.coracle(&["start", "web", "bb"]);
    let failed = |(name, row): &(&'static str, fn(&Host))| {
        catch_unwind(AssertUnwindSafe(|| row(&host))).is_err().then_some(*name)
    };
    let failed: Vec<&str> = ROWS.iter().filter_map(failed).collect();
    assert!(failed.is_empty(), "rows that do not hold: {failed:#?}");
    host.coracle(&["stop", "web", "bb"]);
    host.stop();
}

fn broken_rules(host: &Host) {
    expect(host, "coracle set db ports=9000:81", 0, &[]);
    host.define("db", "[network]\nbridge = \"br0\"\n");
    let origins = [
        "network.ports: /etc/coracle/machines.d/db.toml.d/90-set.toml:2",
        "network.bridge: /etc/coracle/machines.d/db.toml:2",
    ];
    for command in ["coracle check", "coracle apply db", "coracle restart db", "coracle config db"] {
        expect(host, command, 1, &origins);
    }
    expect(host, "coracle config db --explain", 1, &[origins[0], "SETTING", "/db.toml.d/90-set.toml:2\n"]);
    expect(host, "coracle set db memory-max=1G", 1, &origins);
    expect(host, "coracle set db ports=", 0, &["stored in "]);
    expect(host, "coracle check db", 0, &["warning: bridge 'br0' does not exist"]);
    host.sh_ok("rm -r /etc/coracle/machines.d/db.toml*");
}

fn unknown_machines(host: &Host) {
    const MISSING: &str = "coracle: machine 'nosuch' does not exist\nhint: ";
    for command in [
        "logs nosuch",
        "stop nosuch",
        "disable nosuch",
        "enable nosuch",
        "start nosuch",
        "restart nosuch",
        "show nosuch",
        "status nosuch",
        "top nosuch",
        "inspect nosuch",
        "bind nosuch",
        "freeze nosuch",
        "kill nosuch",
        "poweroff nosuch",
        "set nosuch memory-max=1G",
    ] {
        expect(host, &format!("coracle {command}"), 1, &[MISSING]);
    }
    expect(host, "coracle exec nosuch -- id", 125, &[MISSING]);
    // The others are still stopped.
    expect(host, "coracle stop bb nosuch", 1, &[MISSING]);
    assert_eq!(host.unit("bb", "ActiveState"), "inactive");
    host.coracle(&["start", "bb"]);
    expect(host, "coracle exec db -- id", 125, &["machine 'db' is not running"]);
    expect(host, "coracle show db -p name -p state -p leader", 0, &["name=db\nstate=stopped\nleader=\n"]);
}

fn bad_queries_of_logs(host: &Host) {
    expect(host, "coracle logs web --since garbage", 1, &["coracle: journalctl: Failed to parse timestamp"]);
    expect(host, "coracle logs web -p foo", 1, &["coracle: journalctl: Unknown log level foo"]);
    expect(host, "coracle logs web -g '('", 1, &["coracle: journalctl: Bad pattern \"(\""]);
}

fn restarts_that_would_fail(host: &Host) {
    let leader = host.machine_leader("web");
    let server = host.serve_http("8099");
    for (definition, problem) in [
        (
            "[[mount]]\nsource = \"/srv/missing\"\n",
            "cannot mount '/srv/missing' on '/srv/missing': no such file",
        ),
        ("[network]\nbridge = \"brno\"\n", "bridge 'brno' does not exist"),
        ("[network]\nbridge = \"lo\"\n", "interface 'lo' is not a bridge"),
        ("[network]\nmacvlan = [\"eth9\"]\n", "the host has no interface 'eth9'"),
        ("[network]\nports = [\"8099:80\"]\n", "(busybox) listens on port 8099/tcp"),
        ("[root]\ndirectory = \"/srv/no/tree\"\n", "the root '/srv/no/tree' does not exist"),
        ("[security]\ndevices = [\"/dev/missing\"]\n", "cannot find device '/dev/missing'"),
    ] {
        host.define("web", definition);
        let left = format!("coracle: machine 'web' was left running: {problem}");
        let (_, problem) = left.split_once("running: ").unwrap();
        expect(host, "coracle check web", 0, &["/machines.d/web.toml: warning: ", problem]);
        // A device is opened by its name.
        expect(host, "coracle restart web", 1, &["coracle: machine 'web' was left running: ", problem]);
        assert_eq!(host.machine_leader("web"), leader);
    }
    drop(server);
    host.define("web", "[network]\nprots = []\n");
    expect(host, "coracle restart web", 1, &["machine 'web' was left running: ", "unknown key 'prots'"]);
    host.define("web", "");
    assert_eq!(host.machine_leader("web"), leader);
    // A port of the machine itself is not taken.
    expect(host, "coracle set web ports=8098:80", 0, &[]);
    expect(
        host,
        "coracle restart web && coracle set web ports= && rm /etc/coracle/machines.d/web.toml",
        0,
        &[],
    );
    assert_ne!(host.machine_leader("web"), leader);
}

fn checks_by_name(host: &Host) {
    expect(host, "coracle check web", 0, &["no errors, 0 warnings"]);
    expect(host, "coracle check nosuch", 1, &["coracle: machine 'nosuch' does not exist"]);
    host.define("db", "[netwrk]\n");
    expect(host, "coracle check db", 1, &["/etc/coracle/machines.d/db.toml:1:2: unknown key 'netwrk'"]);
    expect(
        host,
        "cd /etc/coracle/machines.d; coracle check db.toml",
        1,
        &["db.toml:1:2: unknown key 'netwrk'"],
    );
    host.sh_ok("rm /etc/coracle/machines.d/db.toml");
}
