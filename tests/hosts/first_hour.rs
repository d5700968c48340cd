//! Commands of a first user, each with its status and its text. All rows share one host,
//! and each row leaves it as it was: `web` and `bb` are running, `db` is stopped.

use crate::support::{Host, LONG};
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A claim and its test.
type Row = (&'static str, fn(&Host));

/// The rows, in the order of their run.
const ROWS: &[Row] = &[
    ("a broken rule names its settings, and 'set' cures it", broken_rules),
    ("a machine that does not exist is an error", unknown_machines),
    ("errors of journalctl are passed on", bad_queries_of_logs),
    ("restart leaves a machine running whose next start would fail", restarts_that_would_fail),
    ("check takes names of machines", checks_by_name),
    ("commands have the exit statuses of a shell", exit_statuses_of_commands),
    ("a requested kill is no failure", requested_kills),
    ("lists are changed by value, and 'set' removes its own changes only", changes_of_lists),
    ("a source that is a link is followed, and the order of scp is explained", copies),
    ("logs select units, order and boots", selections_of_logs),
    ("limits without a controller are not reported as done", unenforced_limits),
    ("secrets in the environment are reported", secrets_in_the_environment),
    ("a plan of a running machine is refused", plans_of_running_machines),
    ("a guest of systemd has the host name of its definition", host_names),
    ("a stop after a kill is orderly, and a slow one names what it waits for", stops_after_a_kill),
    ("machines with the same machine id are reported", shared_machine_ids),
    ("a terminal of a machine can be left", terminals_are_left),
    ("what is left of a machine without a tree is removed", leftovers),
    ("a definition is edited, checked and compared", edited_definitions),
    ("list tells of machines that it does not show", lists_on_a_terminal),
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
    let failed = |(name, row): &Row| catch_unwind(AssertUnwindSafe(|| row(&host))).is_err().then_some(*name);
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

fn exit_statuses_of_commands(host: &Host) {
    for machine in ["web", "bb"] {
        let missing = format!("coracle: no such command in machine '{machine}': nosuchcmd\nhint: ");
        expect(host, &format!("coracle exec {machine} -- nosuchcmd"), 127, &[&missing]);
        expect(host, &format!("coracle exec {machine} -- /no/such"), 127, &["': /no/such\n"]);
        for file in ["/etc/passwd", "/etc"] {
            let refused =
                format!("coracle: in machine '{machine}': cannot execute '{file}': permission denied\n");
            expect(host, &format!("coracle exec {machine} -- {file}"), 126, &[&refused]);
        }
        expect(host, &format!("coracle exec {machine} -- sh -c nosuchcmd"), 127, &[]);
        expect(
            host,
            &format!("coracle exec -u nosuch {machine} -- id"),
            125,
            &["user 'nosuch' does not exist"],
        );
    }
    expect(host, "coracle exec -u 1234 web -- id -u", 0, &["1234\n"]);
    expect(host, "coracle exec -u 1234:5 web -- id -g", 0, &["5\n"]);
}

fn requested_kills(host: &Host) {
    for command in ["terminate bb", "kill -s KILL bb", "kill -s KILL --kill-whom=leader bb"] {
        expect(host, &format!("coracle {command}"), 0, &[]);
        host.wait_for_unit("bb", "inactive");
        expect(host, "systemctl is-failed coracle@bb", 1, &["inactive"]);
        expect(host, "coracle show bb -p state", 0, &["state=stopped\n"]);
        host.coracle(&["start", "bb"]);
    }
    // An end that was not requested is a failure.
    host.sh_ok(&format!("kill -KILL {}", host.machine_leader("bb")));
    host.wait_for_unit("bb", "failed");
    host.coracle(&["start", "bb"]);
}

fn changes_of_lists(host: &Host) {
    expect(host, "coracle set web ports=8080:80", 0, &[]);
    expect(host, "coracle set web ports+=8081:81", 0, &["\"8080:80\"", "\"8080:80\", \"8081:81\""]);
    expect(host, "coracle set web ports-=8080:80", 0, &[]);
    expect(host, "coracle show web -p ports", 0, &["ports=8081:81\n"]);
    let replaced = "coracle: network.ports replaces \"8081:81\"; 'ports+=' adds values\n";
    expect(host, "coracle set web ports=8082:82", 0, &[replaced]);
    expect(host, "coracle set web ports-=9:9", 1, &["'ports' has no value \"9:9\" that 'set' has written"]);
    expect(host, "coracle set web memory-max+=1G", 2, &["'memory-max' is not a list"]);
    expect(host, "coracle set db boot.arguments=x", 0, &[]);
    expect(host, "coracle set db boot.arguments= && coracle set web ports=", 0, &[]);
    host.define("db", "[network]\nzone = \"lan\"\n");
    let foreign = "network.zone is set in /etc/coracle/machines.d/db.toml:2: 'set' removes only what";
    expect(host, "coracle set db zone=", 1, &[foreign, "\nhint: "]);
    host.sh_ok("rm /etc/coracle/machines.d/db.toml; ! ls /etc/coracle/machines.d/*.d");
}

fn copies(host: &Host) {
    host.sh_ok("mkdir /root/copies");
    expect(host, "cd /root/copies && coracle copy-from web /etc/os-release x && grep Debian x", 0, &[]);
    expect(
        host,
        "cd /root/copies && coracle copy-from -P web /etc/os-release y && readlink y",
        0,
        &["os-release"],
    );
    host.sh_ok("ln -s /etc/os-release /root/copies/link");
    expect(
        host,
        "coracle copy-to web /root/copies/link /root/name && coracle exec web -- cat /root/name",
        0,
        &["Debian"],
    );
    for command in ["copy-to /etc/hostname web:/root/", "copy-from web:/etc/hostname ."] {
        let order = "coracle: invalid value";
        expect(
            host,
            &format!("coracle {command}"),
            2,
            &[order, "the machine is the first argument\nhint: write 'coracle copy-to NAME SRC DST'"],
        );
    }
    host.sh_ok("rm -r /root/copies");
}

fn selections_of_logs(host: &Host) {
    host.wait_until(LONG, "coracle logs web -u dbus.service | grep 'Started dbus.service'");
    let units = expect(host, "coracle logs web -u dbus.service", 0, &[]);
    assert!(!units.contains("systemd-logind.service"), "{units}");
    let forward =
        expect(host, "coracle logs web -u systemd-logind -u dbus.service -o short-unix", 0, &["logind"]);
    let backward = expect(host, "coracle logs web -u systemd-logind -u dbus -r -o short-unix", 0, &[]);
    let mut lines: Vec<&str> = backward.lines().collect();
    let times = |lines: &[&str]| {
        lines.iter().map(|line| line.split(' ').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert!(times(&lines).is_sorted_by(|one, next| one >= next), "{backward}");
    lines.reverse();
    assert_eq!(times(&lines), times(&forward.lines().collect::<Vec<_>>()));
    let last = expect(host, "coracle logs web -r -n 1 -u dbus --no-pager", 0, &[]);
    assert_eq!(last.lines().count(), 1, "{last}");
    let found = expect(host, "coracle logs web -g Started -n 2 -o short-unix", 0, &[]);
    let found: Vec<&str> = found.lines().collect();
    assert!(found.len() == 2 && times(&found).is_sorted(), "{found:?}");
    let boots = expect(host, "coracle logs bb --list-boots", 0, &["\n  0 "]);
    assert!(boots.lines().all(|line| line.split_whitespace().count() == 4), "{boots}");
    expect(host, "coracle logs nosuch --list-boots", 1, &["machine 'nosuch' does not exist"]);
    host.sh_ok("id joe || useradd joe");
    let refused = "hint: run it with sudo(8), or add the user to the group systemd-journal";
    expect(host, "runuser -u joe -- coracle logs web", 1, &["insufficient permissions", refused]);
}

fn lists_on_a_terminal(host: &Host) {
    let list = |line: &str| host.exec_on_tty(LONG, line).stdout;
    host.define("db", "[[mount]]\nsource = \"/srv/missing\"\n");
    host.exec(&["coracle", "start", "db"]);
    let shown = list("coracle list");
    assert!(
        shown.ends_with("2 more machines, 1 failed: coracle list -a\r\n")
            || shown.ends_with("1 more machine, 1 failed: coracle list -a\r\n"),
        "{shown}"
    );
    assert!(!host.ok(&["coracle", "list"]).contains("more"), "not on a terminal");
    host.sh_ok("rm /etc/coracle/machines.d/db.toml; systemctl reset-failed coracle@db; coracle stop web bb");
    assert_eq!(list("coracle list"), "no running machines, 3 stopped: coracle list -a\r\n");
    host.coracle(&["start", "web", "bb"]);
}

/// The nested hosts of the suite have no controllers; `tests/vm.rs` has limits in force.
fn unenforced_limits(host: &Host) {
    let message = "resources.memory-max is not enforced: the host lacks the cgroup controller 'memory'";
    let set =
        expect(host, "coracle set web memory-max=64M", 0, &[message, "systemd.unified_cgroup_hierarchy=1"]);
    assert!(set.lines().any(|line| line.starts_with("not enforced  resources.memory-max")), "{set}");
    expect(host, "coracle doctor web", 0, &["risk: ", message]);
    expect(host, "coracle restart web", 0, &[message]);
    let unset = expect(host, "coracle set web memory-max=", 0, &[]);
    assert!(!unset.contains("not enforced"), "{unset}");
}

fn secrets_in_the_environment(host: &Host) {
    host.define("db", "[environment]\nDB_PASSWORD = \"x\"\nKEYMAP = \"de\"\n");
    let checked =
        expect(host, "coracle check db", 0, &["db.toml:2: warning: ", "'DB_PASSWORD'", "[credentials]"]);
    assert!(!checked.contains("KEYMAP"), "{checked}");
    host.sh_ok("rm /etc/coracle/machines.d/db.toml");
}

fn plans_of_running_machines(host: &Host) {
    for options in ["--dry-run -M web", "-M web"] {
        expect(host, &format!("coracle run {options}"), 125, &["machine 'web' is already running"]);
    }
}

fn host_names(host: &Host) {
    let file = "/var/lib/machines/db/etc/hostname";
    let hostname = "coracle exec --wait-ready db -- hostname";
    // The tree was built on this host.
    host.write(file, &format!("{}\n", host.name()));
    host.coracle(&["start", "db"]);
    assert_eq!(expect(host, hostname, 0, &[]), "db\n");
    host.write(file, "built-elsewhere\n");
    host.coracle(&["restart", "db"]);
    assert_eq!(expect(host, hostname, 0, &[]), "built-elsewhere\n");
    host.define("db", "[identity]\nhostname = \"www\"\n");
    host.coracle(&["restart", "db"]);
    assert_eq!(expect(host, hostname, 0, &[]), "www\n");
    host.coracle(&["stop", "db"]);
    host.sh_ok(&format!("rm {file} /etc/coracle/machines.d/db.toml"));
}

fn stops_after_a_kill(host: &Host) {
    let ready = "coracle exec --wait-ready web -- true";
    for _ in 0..3 {
        expect(host, ready, 0, &[]);
        let sent = host.exec_on_tty(LONG, "coracle kill web").stdout;
        assert!(
            sent.contains("coracle: sent SIGTERM to ") && sent.contains(" processes of machine 'web'"),
            "{sent}"
        );
        expect(host, "coracle stop web", 0, &[]);
        host.coracle(&["start", "web"]);
    }
    assert!(!host.unit_journal("web").contains("did not stop in time"));
    expect(host, "coracle kill -s CONT --kill-whom=leader web", 0, &[]);
    // A stop that waits for a unit, and one that waits for PID 1.
    let slow =
        "systemd-run -q --unit=slow -p TimeoutStopSec=8 sh -c 'trap : TERM; while :; do sleep 1; done'";
    expect(host, &format!("{ready} && coracle exec web -- {slow}"), 0, &[]);
    expect(host, "coracle stop web", 0, &["coracle: machine 'web' is stopping: waiting for slow.service"]);
    host.coracle(&["start", "web"]);
    expect(host, ready, 0, &[]);
    let leader = host.machine_leader("web");
    host.sh_ok(&format!("kill -STOP {leader}"));
    let mut stop = host.spawn(&["sh", "-c", "coracle stop web 2>&1"]);
    stop.wait_for_stdout(
        "machine 'web' is stopping: waiting for PID 1, which has not read the request\n",
        LONG,
    );
    host.sh_ok(&format!("kill -CONT {leader}"));
    stop.wait(LONG).success("stop");
    host.coracle(&["start", "web"]);
    // Services of the guest that others need.
    expect(host, ready, 0, &[]);
    let journal =
        "systemctl stop systemd-journald.socket systemd-journald-dev-log.socket systemd-journald.service";
    expect(host, &format!("coracle exec web -- {journal}"), 0, &[]);
    expect(host, "coracle doctor web", 0, &["risk: the journal of the guest is not running"]);
    expect(host, "coracle exec web -- systemctl start systemd-journald.service", 0, &[]);
    let healed = expect(host, "coracle doctor web", 0, &[]);
    assert!(!healed.contains("journal of the guest"), "{healed}");
}

fn shared_machine_ids(host: &Host) {
    let id = "/var/lib/machines/db/etc/machine-id";
    expect(host, &format!("coracle exec --wait-ready web -- cat /etc/machine-id >{id}"), 0, &[]);
    let both = "machines 'web' and 'db' have the same machine id: ";
    let cure = "hint: run 'coracle stop db', empty etc/machine-id in '/var/lib/machines/db'";
    expect(host, "coracle start db", 0, &[both, cure]);
    expect(host, "coracle doctor db", 0, &["risk: machines 'web' and 'db'", cure]);
    assert!(host.exec(&["coracle", "doctor"]).stdout.contains(both));
    expect(host, &format!("coracle stop db && : >{id} && coracle start db"), 0, &[]);
    let healed = expect(host, "coracle doctor db", 0, &[]);
    assert!(!healed.contains("machine id"), "{healed}");
    host.coracle(&["stop", "db"]);
}

fn terminals_are_left(host: &Host) {
    host.sh_ok("coracle exec web -- sh -c 'cp -a /etc/shadow /etc/kept; sed -i s/:[^:]*:/:*:/ /etc/shadow'");
    let announced = "coracle: connected to machine 'web'; ^] three times within a second disconnects";
    for (command, texts) in [
        ("coracle shell web", &[announced][..]),
        (
            "coracle login web",
            &["no user of machine 'web' has a password", "coracle shell web", announced, "login:"][..],
        ),
        ("coracle exec web -- sh -c 'echo begun; exec sleep 1000'", &["begun"][..]),
    ] {
        let mut job = host.spawn_on_tty(command);
        texts.iter().for_each(|text| job.wait_for_stdout(text, LONG));
        job.input().write_all(&[0x1d; 3]).unwrap();
        let left = job.wait(LONG);
        assert_eq!(left.status, 0, "{left}");
        assert!(left.stdout.contains("coracle: disconnected from machine 'web'"), "{left}");
    }
    let mut job = host.spawn_on_tty("coracle exec --no-escape web -- sh -c 'echo begun; head -n 1 | od -c'");
    job.wait_for_stdout("begun", LONG);
    job.input().write_all(b"\x1d\x1d\x1d\n").unwrap();
    let passed = job.wait(LONG);
    assert!(passed.status == 0 && passed.stdout.contains("035 035 035"), "{passed}");
    host.sh_ok("coracle exec web -- mv /etc/kept /etc/shadow");
}

fn leftovers(host: &Host) {
    host.sh_ok("cp -a /var/lib/machines/bb /var/lib/machines/old && coracle start old && coracle stop old");
    let ids = host.sh_ok("grep -lx old /var/lib/coracle/ids/*");
    host.sh_ok("rm -r /var/lib/machines/old");
    host.define("old", "");
    host.exec(&["coracle", "start", "old"]);
    assert_eq!(host.unit("old", "ActiveState"), "failed");
    let removed = expect(
        host,
        "coracle remove --purge old",
        0,
        &[
            "old: removed '/etc/coracle/machines.d/old.toml'\n",
            &format!("old: removed '{}'\n", ids.trim()),
            "old: reset the failed unit 'coracle@old.service'\n",
        ],
    );
    assert!(removed.contains("it had no image"), "{removed}");
    expect(host, "systemctl is-failed coracle@old", 1, &["inactive"]);
    expect(host, "coracle remove old", 1, &["image 'old' does not exist"]);
    // An unit that has failed without a file.
    host.exec(&["systemctl", "start", "coracle@old"]);
    assert_eq!(host.unit("old", "ActiveState"), "failed");
    expect(host, "coracle remove old", 0, &["old: reset the failed unit 'coracle@old.service'\n"]);
    host.sh_ok("! grep -lx old /var/lib/coracle/ids/* && ! coracle list -a | grep old");
}

fn edited_definitions(host: &Host) {
    let file = "/etc/coracle/machines.d/web.toml";
    let editor = |script: &str| host.write("/root/editor", &format!("#!/bin/sh\n{script}\n"));
    let edit = "chmod +x /root/editor; EDITOR='/root/editor -x' coracle edit web";
    editor("true");
    expect(host, edit, 0, &["the definition was not changed\n"]);
    expect(host, &format!("ls {file}"), 2, &[]);
    // The first text has an error, which the second call of the editor sees.
    editor(
        "grep -q '^#! .*web.toml:1:2: unknown key .netwrk' $2 && exec sed -i s/netwrk/network/ $2\n\
         grep -q 'coracle.toml(5)' $2 && printf '[netwrk]\\nports = [\"8077:77\"]\\n' >$2",
    );
    let stored = format!("stored in {file}\n");
    expect(host, edit, 0, &[&stored, "HOW", "network.ports"]);
    assert_eq!(host.read(file), "[network]\nports = [\"8077:77\"]\n");
    // Errors that are left do not replace the definition.
    editor("grep -q '^#!' $2 || echo '[netwrk]' >$2");
    expect(host, edit, 1, &["the definition has errors, and was not replaced: ", "unknown key 'netwrk'"]);
    editor("exit 3");
    expect(host, edit, 1, &["the editor '/root/editor' failed: exit status: 3"]);
    assert_eq!(host.read(file), "[network]\nports = [\"8077:77\"]\n");
    host.sh_ok(&format!("rm {file} /root/editor; ! ls -A /etc/coracle/machines.d | grep edit"));
}
