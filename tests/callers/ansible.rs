//! Ansible with the plugins of `contrib/ansible`, as `make install` installs them, on a real machine.

use std::time::Duration;

use crate::support::{Host, LONG, Output, Snapshot};

/// The time limit of a playbook.
const PLAY: Duration = Duration::from_secs(300);
/// A file of all bytes and its digest.
const BYTES: &str = r#"mkdir -p /srv/work; cd /srv/work
    python3 -c 'open("bytes", "wb").write(bytes(range(256)) * 4000)'
    sha256sum bytes | cut -d' ' -f1 | tr -d '\n' >bytes.sha256"#;
/// A package and the index of its repository.
const REPOSITORY: &str = r#"mkdir -p /srv/work/small/DEBIAN /srv/work/small/usr/bin /srv/work/repository
    printf 'Package: small\nVersion: 1.0\nArchitecture: all\nMaintainer: none <none@localhost>\nDescription: small\n' \
        >/srv/work/small/DEBIAN/control
    printf '#!/bin/sh\necho small of a package\n' >/srv/work/small/usr/bin/small
    chmod 755 /srv/work/small/usr/bin/small
    cd /srv/work/repository
    dpkg-deb --build --root-owner-group /srv/work/small small.deb
    { dpkg-deb --field small.deb; echo Filename: ./small.deb; echo Size: $(stat -c %s small.deb)
      echo SHA256: $(sha256sum small.deb | cut -d' ' -f1); } >Packages"#;

/// Starts a host with Ansible and a tree with Python.
fn host() -> Host {
    let sources = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/callers/ansible");
    let builder = Host::builder().on("host-callers-tools").bind(sources, "/srv/ansible");
    let host = builder.guest_as("trixie-callers", "web").guest("busybox").start();
    host.sh_ok(BYTES);
    host.sh_ok(REPOSITORY);
    host.activate_machined();
    host.sh_ok("systemctl start machine.slice");
    host
}

/// Starts that host, and the machine.
fn host_and_machine() -> Host {
    let host = host();
    host.coracle(&["start", "--wait=ready", "web"]);
    host
}

fn ansible(host: &Host, script: &str) -> Output {
    let shell = format!("cd /srv/ansible; export ANSIBLE_NOCOLOR=1; {script}");
    host.exec_for(PLAY, &["sh", "-euc", &shell])
}

#[track_caller]
fn plays(host: &Host, script: &str) -> String {
    let shown = ansible(host, script).success("ansible").stdout;
    eprintln!("{shown}");
    shown
}

#[test]
fn playbooks_set_up_a_machine_with_and_without_pipelining() {
    let host = host();
    let before = Snapshot::take(&host);
    host.coracle(&["start", "--wait=ready", "web"]);
    for pipelining in ["0", "1"] {
        let play = "ansible-playbook -i machines.coracle.yml site.yml";
        plays(&host, &format!("ANSIBLE_PIPELINING={pipelining} {play}"));
        host.sh_ok("cd /srv/work; cmp bytes fetched; cmp bytes fetched-by-user; rm fetched fetched-by-user");
    }
    let greeting = host.coracle(&["exec", "web", "--", "cat", "/etc/greeting"]);
    assert_eq!(greeting, "Grüße an web mit systemd\n");
    let left = "ls -A /root/.ansible/tmp /home/op/.ansible/tmp";
    assert_eq!(
        host.coracle(&["exec", "web", "--", "sh", "-c", &format!("{left} | grep ansible-tmp || true")]),
        ""
    );
    host.coracle(&["stop", "web"]);
    before.assert_same(&host);
    host.stop();
}

#[test]
fn failures_of_commands_and_machines_are_told_apart() {
    let host = host_and_machine();
    let run = |arguments: &str| ansible(&host, &format!("ansible -i machines.coracle.yml {arguments}"));
    let failed = run("web -m command -a 'sh -c \"exit 125\"'");
    assert!(failed.status == 2 && failed.stdout.contains("non-zero return code"), "{failed}");
    assert!(failed.stdout.contains("rc=125"), "{failed}");
    let stopped = run("busybox -m raw -a true");
    assert!(stopped.status == 4 && stopped.stdout.contains("machine 'busybox' is not running"), "{stopped}");
    host.start_machine("busybox");
    // Without Python in the machine.
    assert!(run("busybox -m raw -a 'echo $((6 * 7))'").success("raw").stdout.contains("\n42\n"));
    let refused = run("web -m copy -a 'src=/srv/work/bytes dest=/proc/no'");
    assert!(refused.status == 2, "{refused}");
    // A user with a password that is wrong, and a user without one.
    let setup = "useradd -m -G sudo -s /bin/bash op; echo op:secret | chpasswd";
    host.coracle(&["exec", "web", "--", "sh", "-c", setup]);
    let become_root = "web -u op -b -m command -a 'id -un' -e ansible_become_password";
    assert!(run(&format!("{become_root}=secret")).success("sudo").stdout.contains("\nroot\n"));
    let wrong = run(&format!("{become_root}=wrong"));
    assert!(wrong.status != 0 && wrong.stdout.contains("incorrect sudo password"), "{wrong}");
    let none = run("web -u op -b -m command -a 'id -un'");
    assert!(none.status != 0 && none.stdout.contains("password is required"), "{none}");
    host.stop();
}

#[test]
fn inventories_list_machines_with_their_states() {
    let host = host_and_machine();
    let shown = plays(&host, "ansible-inventory -i machines.coracle.yml --graph");
    for line in ["@up:\n  |  |--web\n", "@init_systemd:\n  |  |--web\n", "  |--busybox\n"] {
        assert!(shown.contains(line), "no '{line}' in\n{shown}");
    }
    let shown = plays(&host, "ansible-inventory -i machines.coracle.yml --host web");
    for line in ["\"coracle_unit\": \"coracle@web.service\"", "\"ansible_connection\": \"coracle\""] {
        assert!(shown.contains(line), "no '{line}' in\n{shown}");
    }
    for kind in ["connection", "inventory"] {
        assert!(plays(&host, &format!("ansible-doc -t {kind} coracle")).contains("coracle_command"));
    }
    host.stop();
}

#[test]
fn users_of_the_host_use_sudo() {
    let host = host_and_machine();
    host.sh_ok(
        "useradd --create-home ann
         echo 'ann ALL=(root) NOPASSWD: /usr/bin/coracle' >/etc/sudoers.d/ann",
    );
    let as_ann = |arguments: &str| {
        let command = format!("runuser -u ann -- env HOME=/home/ann ansible {arguments}");
        plays(&host, &command)
    };
    let inventory = "-i sudo.coracle.yml web";
    host.write("/home/ann/file", "from ann\n");
    host.sh_ok("chown ann: /home/ann/file");
    as_ann(&format!("{inventory} -m copy -a 'src=/home/ann/file dest=/root/file'"));
    as_ann(&format!("{inventory} -m fetch -a 'src=/root/file dest=/home/ann/back flat=true'"));
    assert_eq!(host.coracle(&["exec", "web", "--", "stat", "-c", "%u %g", "/root/file"]), "0 0\n");
    assert_eq!(host.ok(&["stat", "-c", "%U", "/home/ann/back"]), "ann\n");
    host.sh_ok("cmp /home/ann/file /home/ann/back");
    host.wait_until(LONG, "! pgrep -u ann");
    host.stop();
}
