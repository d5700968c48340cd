//! `coracle provision`: the first settings of a tree, and what a booted guest makes of them.

use crate::support::Host;

#[test]
fn settings_of_a_tree_are_those_of_its_guest() {
    let host = Host::builder().guest_as("trixie", "web").guest_as("busybox", "db").start();
    let tree = "/var/lib/machines/web";
    host.write("/root/password", "secret word\n");
    host.write("/root/joe.pub", "ssh-ed25519 AAAAC3joe joe@desk\n");
    host.write("/root/ann.pub", "ssh-ed25519 AAAAC3ann ann@desk\n");
    host.sh_ok(&format!("mkdir -p /usr/share/zoneinfo/Europe {tree}/usr/share/zoneinfo/Europe; printf TZif2 >/usr/share/zoneinfo/Europe/Berlin; printf TZif2 >{tree}/usr/share/zoneinfo/Europe/Berlin; printf x >/usr/share/zoneinfo/Europe/Wrong; chmod 600 /root/password"));
    host.sh_ok(&format!("echo other >{tree}/etc/hostname; cp {tree}/etc/shadow /root/shadow"));
    host.coracle(&[
        "provision",
        "web",
        "--hostname=www",
        "--locale=C.UTF-8",
        "--timezone=Europe/Berlin",
        "--ssh-key=/root/joe.pub",
    ]);
    assert_eq!(host.read(&format!("{tree}/etc/hostname")), "www\n");
    assert!(host.read(&format!("{tree}/etc/locale.conf")).contains("LANG=C.UTF-8"));
    assert!(host.ok(&["readlink", &format!("{tree}/etc/localtime")]).ends_with("/zoneinfo/Europe/Berlin\n"));
    // The password is left as it was.
    host.sh_ok(&format!("cmp {tree}/etc/shadow /root/shadow"));
    host.coracle(&[
        "provision",
        "web",
        "--root-password-file=/root/password",
        "--ssh-key=/root/ann.pub",
        "--ssh-key=/root/joe.pub",
    ]);
    assert!(host.read(&format!("{tree}/etc/shadow")).lines().any(|line| line.starts_with("root:$")));
    assert_eq!(host.read(&format!("{tree}/etc/hostname")), "www\n");
    let keys = "ssh-ed25519 AAAAC3joe joe@desk\nssh-ed25519 AAAAC3ann ann@desk\n";
    host.coracle(&["start", "--wait=ready", "web"]);
    assert_eq!(host.ok(&["coracle", "exec", "web", "--", "cat", "/root/.ssh/authorized_keys"]), keys);
    let owner = [
        "coracle",
        "exec",
        "web",
        "--",
        "stat",
        "-c",
        "%a %u:%g",
        "/root/.ssh",
        "/root/.ssh/authorized_keys",
    ];
    assert_eq!(host.ok(&owner), "700 0:0\n600 0:0\n");
    assert_eq!(host.ok(&["coracle", "exec", "web", "--", "hostname"]), "www\n");
    let refused = host.exec(&["coracle", "provision", "web", "--hostname=x"]);
    assert!(refused.status == 1 && refused.stderr.contains("machine 'web' is running"), "{refused}");
    host.coracle(&["stop", "web"]);
    host.stop();
}

#[test]
fn refused_settings_leave_a_tree_as_it_was() {
    let host = Host::builder().guest_as("busybox", "db").start();
    let etc = "/var/lib/machines/db/etc";
    host.sh_ok(&format!("mkdir -p /usr/share/zoneinfo/Europe; printf x >/usr/share/zoneinfo/Europe/Wrong; echo www >{etc}/hostname"));
    for (arguments, status, message) in [
        (&["db"][..], 2, "no setting is given"),
        (&["db", "--hostname=x", "--timezone=Europe/Wrong"], 1, "systemd-firstboot: "),
        (&["db", "--timezone=Mars/Base"], 1, "the host has no time zone 'Mars/Base'"),
        (&["db", "--root-password-file=/nosuch"], 1, "cannot read '/nosuch'"),
        (&["db", "--ssh-key=/etc/hosts.equiv"], 1, "cannot read '/etc/hosts.equiv'"),
        (&["nosuch", "--hostname=x"], 1, "machine 'nosuch' does not exist"),
    ] {
        let refused = host.exec(&[&["coracle", "provision"], arguments].concat());
        assert!(refused.status == status && refused.stderr.contains(message), "{arguments:?}: {refused}");
    }
    host.sh_ok(&format!("grep -x www {etc}/hostname; ! ls -A {etc} | grep coracle"));
    // Links of the tree do not lead to files of the host.
    host.sh_ok("mv /var/lib/machines/db/etc /var/lib/machines/db/etc-of-it; ln -s /etc /var/lib/machines/db/etc; echo host >/etc/hostname");
    host.exec(&["coracle", "provision", "db", "--hostname=x"]);
    host.sh_ok("grep -x host /etc/hostname");
    host.stop();
}

#[test]
fn new_images_and_stacks_have_first_settings() {
    let host = Host::builder().guest_as("trixie", "golden").start();
    host.write("/root/password", "secret word\n");
    host.write("/root/joe.pub", "ssh-ed25519 AAAAC3joe joe@desk\n");
    let first = "--hostname=www --locale=C.UTF-8 --root-password-file=/root/password --ssh-key=/root/joe.pub";
    host.coracle(&["read-only", "golden", "yes"]);
    host.sh_ok(&format!("coracle clone {first} golden web"));
    assert!(host.coracle(&["images", "--json", "web"]).contains("\"stack\""));
    let inside =
        "cat /root/.ssh/authorized_keys /etc/hostname /etc/locale.conf; grep -o '^root:.' /etc/shadow
                  stat -c '%a %u:%g' /root/.ssh /root/.ssh/authorized_keys";
    let expected = "ssh-ed25519 AAAAC3joe joe@desk\nwww\nLANG=C.UTF-8\nroot:$\n700 0:0\n600 0:0\n";
    host.coracle(&["start", "--wait=ready", "web"]);
    assert_eq!(host.ok(&["coracle", "exec", "web", "--", "sh", "-c", inside]), expected);
    assert_eq!(host.ok(&["coracle", "exec", "web", "--", "hostname"]), "www\n");
    // A running machine, and one of which the layer is not its own.
    let running = host.sh("coracle set web --hostname=x");
    assert!(running.status == 1 && running.stderr.contains("machine 'web' is running"), "{running}");
    host.coracle(&["stop", "web"]);
    host.sh_ok(
        "coracle set web --hostname=other --ssh-key=/root/joe.pub && coracle provision web --locale=C.UTF-8",
    );
    host.coracle(&["start", "--wait=ready", "web"]);
    assert_eq!(host.ok(&["coracle", "exec", "web", "--", "cat", "/etc/hostname"]), "other\n");
    host.coracle(&["stop", "web"]);
    // A setting that is refused leaves no image.
    for (options, message) in [
        ("--hostname=-x-", "systemd-firstboot: "),
        ("--timezone=Mars/Base", "the host has no time zone"),
        ("--ssh-key=/nosuch", "cannot read '/nosuch'"),
    ] {
        let refused = host.sh(&format!("coracle clone {options} golden two"));
        assert!(refused.status == 1 && refused.stderr.contains(message), "{options}: {refused}");
        host.sh_ok("! ls -d /var/lib/machines/two*");
    }
    let refused = host.sh("coracle clone --read-only --hostname=x golden two");
    assert!(
        refused.status == 2 && refused.stderr.contains("a read-only clone takes no settings"),
        "{refused}"
    );
    // A root of `run`, and one that is not kept.
    host.coracle(&["clone", "--exact", "golden", "plain"]);
    let options = "--locale=C.UTF-8 --root-password-file=/root/password --ssh-key=/root/joe.pub";
    let run = format!(
        "coracle run -q -P {options} -M plain sh -c 'cat /root/.ssh/authorized_keys; grep -o ^root:. /etc/shadow'"
    );
    assert_eq!(host.sh_ok(&run), "ssh-ed25519 AAAAC3joe joe@desk\nroot:$\n");
    let refused = host.sh("coracle run -q -x --ssh-key=/root/joe.pub -M plain true");
    assert!(refused.status == 125 && refused.stderr.contains("use credentials instead"), "{refused}");
    let far = host.sh("CORACLE_SSH=/bin/false coracle -H far clone --ssh-key=/root/joe.pub golden three");
    assert!(far.status == 2 && far.stderr.contains("cannot be executed on another host"), "{far}");
    host.stop();
}
