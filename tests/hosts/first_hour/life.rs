//! Rows about the life of machines: starts, stops, lists and what is left.

use super::expect;
use crate::support::{Host, LONG};

pub(super) fn unknown_machines(host: &Host) {
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

pub(super) fn requested_kills(host: &Host) {
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

pub(super) fn stops_after_a_kill(host: &Host) {
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

pub(super) fn plans_of_running_machines(host: &Host) {
    for options in ["--dry-run -M web", "-M web"] {
        expect(host, &format!("coracle run {options}"), 125, &["machine 'web' is already running"]);
    }
}

pub(super) fn shared_machine_ids(host: &Host) {
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

pub(super) fn host_names(host: &Host) {
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

pub(super) fn leftovers(host: &Host) {
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

pub(super) fn lists_on_a_terminal(host: &Host) {
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
    let all = host.ok(&["coracle", "list", "-a"]);
    let boot = all.lines().next().unwrap().split_whitespace().any(|column| column == "BOOT");
    assert!(boot && all.contains("db    failed"), "{all}");
    host.sh_ok("rm /etc/coracle/machines.d/db.toml; systemctl reset-failed coracle@db; coracle stop web bb");
    assert_eq!(list("coracle list"), "no running machines, 3 stopped: coracle list -a\r\n");
    host.coracle(&["start", "web", "bb"]);
}

pub(super) fn colors(host: &Host) {
    host.define("db", "[[mount]]\nsource = \"/srv/missing\"\n");
    host.exec(&["coracle", "start", "db"]);
    for command in ["coracle list -a", "coracle status db"] {
        let red = "\x1b[31mfailed\x1b[0m";
        assert!(host.exec_on_tty(LONG, command).stdout.contains(red), "{command}");
        for plain in
            [format!("NO_COLOR=1 {command}"), format!("TERM=dumb {command}"), format!("{command} | cat")]
        {
            let shown = host.exec_on_tty(LONG, &plain).stdout;
            assert!(shown.contains("failed") && !shown.contains("\x1b["), "{plain}: {shown}");
        }
    }
    host.sh_ok("rm /etc/coracle/machines.d/db.toml; systemctl reset-failed coracle@db");
}

pub(super) fn other_users(host: &Host) {
    host.sh_ok("id joe || useradd joe");
    let as_joe = |command: &str| host.exec(&["runuser", "-u", "joe", "--", "sh", "-c", command]);
    for command in [
        "coracle start db",
        "coracle stop web",
        "coracle exec web -- id",
        "coracle inspect web",
        "coracle doctor web",
    ] {
        let refused = as_joe(command);
        assert!(refused.status != 0 && refused.stderr.contains("'sudo coracle "), "{command}: {refused}");
        assert!(
            !refused.stderr.contains("/proc/") && !refused.stderr.contains("coracle logs"),
            "{command}: {refused}"
        );
    }
    let host_findings = as_joe("coracle doctor").stdout;
    for false_finding in ["has no root", "deleted machine"] {
        assert!(!host_findings.contains(false_finding), "{host_findings}");
    }
}

pub(super) fn images_of_registries(host: &Host) {
    let message = "'docker.io/library/debian' is an image of a registry: coracle runs root directories";
    expect(
        host,
        "coracle run docker.io/library/debian bash",
        125,
        &[message, "hint: pull it with 'coracle pull docker.io/library/debian NAME'"],
    );
    expect(host, "cd / && coracle run /usr/bin/x", 125, &["the root directory is '/'"]);
}
