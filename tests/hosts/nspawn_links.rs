//! Links of machines beside those of systemd-nspawn on the same host: names, link-layer addresses.

use crate::support::{Host, Job, LONG, Snapshot};

/// The interfaces of the machine `m`, in both programs.
const INTERFACES: [&str; 4] = [
    "--network-veth-extra=xa:ia",
    "--network-veth-extra=xb",
    "--network-macvlan=up0",
    "--network-macvlan=up1:lan1",
];

fn host() -> Host {
    let host = Host::builder().guest_as("busybox", "m").start();
    host.sh_ok("for i in 0 1; do ip link add up$i type veth peer name out$i; ip link set up$i up; done");
    host.write("/usr/local/bin/addresses", ADDRESSES);
    host.sh_ok("chmod 755 /usr/local/bin/*");
    host.activate_machined();
    host.enable_forwarding();
    host
}

/// Runs a command in the machine `m` by one of the programs, and waits until `sleep` runs in it.
fn run(host: &Host, program: &str, options: &[&str]) -> Job {
    let words = format!(
        "exec {program} -q --register=no --keep-unit -D /var/lib/machines/m {} sleep 600",
        options.join(" ")
    );
    let job = host.spawn(&["sh", "-c", &words]);
    host.wait_until(LONG, "pgrep -x sleep");
    job
}

/// Returns the output of a script in the network namespace of the running command.
#[track_caller]
fn inside(host: &Host, script: &str) -> String {
    host.sh_ok(&format!("exec nsenter -n -t $(pgrep -x sleep) sh -euc '{script}'"))
}

/// Ends the command and waits until its links are gone.
fn end(host: &Host, job: Job) {
    host.sh_ok("pkill -KILL -x sleep");
    job.wait(LONG);
    host.wait_until(LONG, "! ip link | grep -e xa@ -e ve-m -e vb-m");
}

/// Shows the names and link-layer addresses of all links.
const ADDRESSES: &str = r"#!/bin/sh
ip -o link | sed -n 's/^[0-9]*: \([^:@]*\).*link.ether \([0-9a-f:]*\) .*/\1 \2/p' | sort
";

/// Returns the names and link-layer addresses inside, and those of the hosts' ends.
fn addresses(host: &Host, program: &str, options: &[&str]) -> [String; 2] {
    let job = run(host, program, options);
    let both = [inside(host, "addresses"), host.sh_ok("addresses | grep -e ^x -e ^v")];
    end(host, job);
    both
}

#[test]
fn names_and_link_layer_addresses_are_those_of_systemd_nspawn() {
    let host = host();
    host.sh_ok("ip link add br0 type bridge; ip link set br0 up");
    let name = "--machine=exactly-13chr";
    for options in [&["-n"][..], &["--network-bridge=br0"], &["--network-zone=lan"], &["-n", name]] {
        let options = [options, &INTERFACES].concat();
        let theirs = addresses(&host, "systemd-nspawn", &options);
        let ours = addresses(&host, "coracle run", &options);
        assert!(theirs[0].contains("host0 ") && theirs[0].contains("lan1 "), "{theirs:?}");
        // The bridge of a zone has a random address in systemd-nspawn.
        let theirs =
            theirs.map(|lines| lines.lines().filter(|line| !line.starts_with("vz-")).collect::<String>());
        let ours =
            ours.map(|lines| lines.lines().filter(|line| !line.starts_with("vz-")).collect::<String>());
        assert_eq!(theirs, ours, "{options:?}");
    }
    host.stop();
}

#[test]
fn a_failed_start_leaves_the_link_of_systemd_nspawn() {
    let host = host();
    host.sh_ok("cp -a /var/lib/machines/m /var/lib/machines/other");
    let job = run(&host, "systemd-nspawn", &["-n", "--network-veth-extra=xa:ia"]);
    let before = Snapshot::take(&host);
    for definition in ["", "[network]\nmode = \"none\"\nveth-extra = [\"xa:ia\"]\n"] {
        // Once with the lock of the same tree, and once without.
        for root in ["m", "other"] {
            host.define("m", &format!("root.directory = \"/var/lib/machines/{root}\"\n{definition}"));
            assert_ne!(host.exec(&["coracle", "start", "m"]).status, 0);
            before.assert_same(&host);
        }
        let status = host.coracle(&["status", "m"]);
        assert!(status.contains("exists and does not belong to the machine"), "{status}");
    }
    end(&host, job);
    host.stop();
}
