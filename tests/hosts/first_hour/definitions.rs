//! Rows about definitions: `check`, `set`, `edit`, `restart` and `config`.

use super::expect;
use crate::support::Host;

pub(super) fn broken_rules(host: &Host) {
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

pub(super) fn restarts_that_would_fail(host: &Host) {
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

pub(super) fn checks_by_name(host: &Host) {
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

pub(super) fn changes_of_lists(host: &Host) {
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

pub(super) fn edited_definitions(host: &Host) {
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
    // No other user reads a definition with secrets, nor its copy.
    editor("runuser -u nobody -- cat $2 && exit 1; exit 0");
    expect(host, &format!("chmod 600 {file}; {edit}"), 0, &["the definition was not changed\n"]);
    editor("exit 3");
    expect(host, edit, 1, &["the editor '/root/editor' failed: exit status: 3"]);
    assert_eq!(host.read(file), "[network]\nports = [\"8077:77\"]\n");
    host.sh_ok(&format!("rm {file} /root/editor; ! ls -A /etc/coracle/machines.d | grep edit"));
}

pub(super) fn secrets_in_the_environment(host: &Host) {
    host.define("db", "[environment]\nDB_PASSWORD = \"x\"\nKEYMAP = \"de\"\n");
    let checked =
        expect(host, "coracle check db", 0, &["db.toml:2: warning: ", "'DB_PASSWORD'", "[credentials]"]);
    assert!(!checked.contains("KEYMAP"), "{checked}");
    host.sh_ok("rm /etc/coracle/machines.d/db.toml");
}

/// The nested hosts of the suite have no controllers; `tests/vm.rs` has limits in force.
pub(super) fn unenforced_limits(host: &Host) {
    let message = "resources.memory-max is not enforced: the host lacks the cgroup controller 'memory'";
    let set =
        expect(host, "coracle set web memory-max=64M", 0, &[message, "systemd.unified_cgroup_hierarchy=1"]);
    assert!(set.lines().any(|line| line.starts_with("not enforced  resources.memory-max")), "{set}");
    expect(host, "coracle doctor web", 0, &["risk: ", message]);
    expect(host, "coracle restart web", 0, &[message]);
    expect(host, "coracle status web", 0, &["memory: of 64M, not enforced\n"]);
    let unset = expect(host, "coracle set web memory-max=", 0, &[]);
    assert!(!unset.contains("not enforced"), "{unset}");
}
