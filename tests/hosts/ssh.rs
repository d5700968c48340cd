//! `ssh machine/NAME`: the configuration of ssh(1) reaches the sshd(8) of a machine through `coracle exec`.

use crate::support::{Host, Output, trees};

/// The mount point of the programs of the client, which the host does not have.
const CLIENT: &str = "/opt/ssh";

/// The file that `make install` writes.
const CONFIGURATION: &str = "/etc/ssh/ssh_config.d/10-coracle.conf";

/// Runs a program of the client on the host.
fn client(host: &Host, command: &str) -> Output {
    host.sh(&format!(
        "export LD_LIBRARY_PATH={CLIENT}/usr/lib/x86_64-linux-gnu PATH={CLIENT}/usr/bin:$PATH HOME=/root; {command}"
    ))
}

#[test]
fn ssh_reaches_a_machine_by_its_name() {
    let tree = trees::tree("trixie-ssh");
    let host = Host::builder()
        .guest_as("trixie-ssh", "web")
        .guest_as("busybox", "bb")
        .bind(&tree.display().to_string(), CLIENT)
        .start();
    client(&host, "mkdir -p /root/.ssh; ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id_ed25519")
        .success("ssh-keygen");
    host.coracle(&["provision", "web", "--ssh-key=/root/.ssh/id_ed25519.pub"]);
    host.write(CONFIGURATION, include_str!("../../ssh/10-coracle.conf"));
    // Without a network: the machine has none.
    host.define("web", "[network]\nmode = \"none\"\n");
    host.coracle(&["start", "--wait=ready", "web"]);
    let ssh = "-o BatchMode=yes -o StrictHostKeyChecking=accept-new";
    let ssh = format!("ssh -F {CONFIGURATION} {ssh}");
    let shown = client(&host, &format!("{ssh} machine/web 'hostname; id -u'"));
    assert_eq!(shown.success("ssh").stdout, "web\n0\n");
    assert_eq!(client(&host, &format!("{ssh} machine/web 'exit 7'")).status, 7);
    let copied = client(
        &host,
        &format!("echo text | {ssh} machine/web 'cat >/root/file'; {ssh} machine/web cat file"),
    );
    assert_eq!(copied.success("ssh").stdout, "text\n");
    // Other names are not those of Coracle.
    host.coracle(&["start", "bb"]);
    for (name, message) in [("bb", "not found"), ("nosuch", "resolve hostname")] {
        let failed = client(&host, &format!("{ssh} machine/{name} true"));
        assert!(failed.status == 255 && failed.stderr.contains(message), "{failed}");
    }
    host.coracle(&["stop", "web", "bb"]);
    host.stop();
}
