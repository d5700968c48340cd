//! A machine inherits no state of the process that starts it. The probe in the guest checks all kinds of it.

use std::time::Duration;

use super::machines::{Machines, install};
use super::probes::assert_closed;

/// The path of the probe on the host.
const PROBE: &str = "/var/lib/machines/own/usr/bin/probe";

/// Creates a tree with the probe for one test, beside the trees of the shared machines, and returns its path.
fn tree(machines: &Machines, name: &str) -> String {
    let host = machines.host();
    host.add_guest("busybox", name);
    install(host, name, "probe");
    install(host, name, "attacker");
    format!("/var/lib/machines/{name}")
}

/// Returns the output of the probe in a machine run in the foreground by the given shell line, with and
/// without a user namespace.
fn probe_run_by(machines: &Machines, tree: &str, line: &str) -> [String; 2] {
    ["pick", "no"].map(|users| {
        let run =
            format!("coracle run -q --console=pipe --private-users={users} --private-network -D {tree}");
        let out = machines.host().sh(&line.replace("RUN", &run));
        out.success("the probe").stdout
    })
}

#[test]
fn the_state_of_the_caller_is_not_inherited() {
    let machines = Machines::shared();
    let tree = tree(&machines, "inherits");
    let line = "exec 5</etc 9</etc/passwd 7</; trap '' INT HUP TERM USR1; cd /etc; \
                exec setpriv --inh-caps=+net_raw,+sys_admin,+chown --ambient-caps=+net_raw,+sys_admin --groups=4,27,33 -- RUN /usr/bin/probe";
    for said in probe_run_by(&machines, &tree, line) {
        let points = [
            "descriptors of the host",
            "working directory outside",
            "inheritable capabilities",
            "ambient capabilities",
            "supplementary groups",
            "signals ignored",
            "signals blocked",
            "capabilities of the host",
        ];
        assert_closed(&said, &points);
    }
    // Also with exec in running machines.
    for machine in ["own", "same"] {
        let line = format!("exec setpriv --groups=4,27,33 -- coracle exec {machine} -- probe");
        let out = machines.host().sh(&line).success("the probe");
        assert_closed(&out.stdout, &["supplementary groups"]);
    }
}

#[test]
fn keyrings_of_the_caller_are_not_inherited() {
    let machines = Machines::shared();
    let tree = tree(&machines, "keys");
    // The probe works: it finds the key in the session that has it.
    let here = machines.host().sh_ok(&format!("{PROBE} with-key {PROBE}"));
    assert!(here.contains("open\thigh\tkeys of the host"), "{here}");
    // The filter refuses the calls. If it allows them, the keys are not present.
    for allow in ["", "--system-call-filter=@keyring"] {
        let line = format!("exec {PROBE} with-key RUN {allow} /usr/bin/probe");
        for said in probe_run_by(&machines, &tree, &line) {
            assert_closed(&said, &["keys of the host", "reads /proc/keys"]);
            if allow.is_empty() {
                assert_closed(&said, &["keyctl, add_key"]);
            }
        }
    }
}

#[test]
fn abstract_sockets_of_the_host_are_invisible() {
    let machines = Machines::shared();
    let host = machines.host();
    let mut job = host.spawn(&[PROBE, "listen", "@hosts-own"]);
    job.wait_for_stdout("listening", Duration::from_secs(10));
    let here = host.ok(&[PROBE]);
    assert!(here.contains("open\thigh\tsockets of the host by name"), "{here}");
    for machine in ["own", "same"] {
        assert_closed(&machines.inside(machine, &["probe"]).stdout, &["sockets of the host by name"]);
    }
    // A machine with the network of the host is reported.
    host.write("/etc/coracle/machines.d/open.toml", "[network]\nmode = \"host\"\n");
    tree(&machines, "open");
    host.ok(&["coracle", "start", "open"]);
    let list = host.ok(&["coracle", "list"]);
    let line = list.lines().find(|line| line.starts_with("open")).unwrap();
    assert!(line.contains("network"), "{list}");
    host.ok(&["coracle", "stop", "open"]);
    job.kill();
}

#[test]
fn a_guest_cannot_type_into_the_terminal_of_its_caller() {
    let machines = Machines::shared();
    let tree = tree(&machines, "typist");
    for users in ["pick", "no"] {
        let line = format!("coracle run -q --private-users={users} -D {tree} /usr/bin/attacker tiocsti");
        let out = machines.host().exec_on_tty(Duration::from_secs(20), &line);
        assert!(out.stdout.contains("refused") && !out.stdout.contains("ESCAPED"), "{out}");
    }
}
