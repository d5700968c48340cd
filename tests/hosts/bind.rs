//! `coracle bind` and `unbind`: bind mounts of the host's files in a running machine, their id maps, and the
//! permissions of the guest on them.

use crate::support::{Host, Output, Snapshot};

fn inside(host: &Host, guest: &str, script: &str) -> Output {
    host.exec(&["coracle", "exec", guest, "--", "sh", "-ec", script])
}

/// The directory of the host that is bound. In `host_with_user`, it belongs to user 1001 of the host.
const TREE: &str = "/var/lib/machines/data";

/// Returns a host with the running machine `trixie`, which has the user `ann` with the id 1000.
fn host_with_user() -> Host {
    let host = Host::start(&["trixie"]);
    host.activate_machined();
    host.ok(&["coracle", "start", "trixie"]);
    host.sh_ok(&format!("mkdir {TREE}; echo hello >{TREE}/f; chown -R 1001:1001 {TREE}; chmod 700 {TREE}"));
    let script = "echo 'ann:x:1000:1000::/home/ann:/bin/sh' >>/etc/passwd; echo 'ann:x:1000:' >>/etc/group";
    inside(&host, "trixie", script).success("add a user");
    host
}

#[track_caller]
fn bind(host: &Host, target: &str, options: &[&str]) {
    host.ok(&[&["coracle", "bind", "trixie", TREE, target], options].concat());
}

#[test]
fn a_user_of_the_host_is_mapped_to_a_user_of_the_guest() {
    let host = host_with_user();
    bind(&host, "/data", &["--mkdir", "--map=1001:ann"]);
    // Files of user 1000 in the guest belong to user 1001 of the host; root of the guest does not own them.
    let write = "cat /data/f; echo new >/data/g; stat -c '%u %g' /data/f /data/g";
    let out = host.exec(&["coracle", "exec", "trixie", "-u", "ann", "--", "sh", "-ec", write]);
    assert_eq!((out.status, out.stdout.as_str()), (0, "hello\n1000 1000\n1000 1000\n"), "{out}");
    assert_eq!(host.ok(&["stat", "-c", "%u %g", &format!("{TREE}/g")]), "1001 1001\n");
    assert_ne!(inside(&host, "trixie", "touch /data/root").status, 0);
    host.stop();
}

#[test]
fn a_bind_is_mapped_to_root_or_to_the_owner_of_its_target() {
    let host = host_with_user();
    bind(&host, "/root-owned", &["--mkdir", "--map=root"]);
    let owners = inside(&host, "trixie", "touch /root-owned/r; stat -c %u /root-owned/f /root-owned/r");
    assert_eq!(owners.stdout, "0\n0\n");
    inside(&host, "trixie", "mkdir /owned; chown 1000:1000 /owned").success("make a target");
    bind(&host, "/owned", &["--map=owner"]);
    assert_eq!(inside(&host, "trixie", "stat -c %u /owned/f").stdout, "1000\n");
    bind(&host, "/numbers", &["--mkdir"]);
    assert_eq!(inside(&host, "trixie", "stat -c %u /numbers/f").stdout, "1001\n");
    host.stop();
}

#[test]
fn binds_are_listed_and_removed() {
    let host = host_with_user();
    let missing = host.exec(&["coracle", "bind", "trixie", TREE, "/data"]);
    assert!(missing.status == 1 && missing.stderr.contains("--mkdir"), "{missing}");
    bind(&host, "/data", &["--mkdir", "--map=1001:ann"]);
    assert_eq!(
        host.ok(&["coracle", "bind", "trixie"]),
        format!(
            "TARGET  SOURCE                  ACCESS      MAP       FROM\n\
             /data   {TREE}  read-write  1001:ann  bind\n"
        )
    );
    assert!(host.exec(&["coracle", "bind", "trixie", TREE, "/data"]).stderr.contains("already"));
    host.ok(&["coracle", "unbind", "trixie", "/data"]);
    assert_eq!(inside(&host, "trixie", "ls /data").stdout, "");
    assert!(host.exec(&["coracle", "unbind", "trixie", "/data"]).stderr.contains("has no bind mount on"));
    host.stop();
}

#[test]
fn binds_end_with_the_boot() {
    let host = Host::start(&["trixie"]);
    host.activate_machined();
    let before = Snapshot::take(&host);
    host.ok(&["coracle", "start", "trixie"]);
    host.sh_ok(&format!("mkdir {TREE}; echo hello >{TREE}/f"));
    bind(&host, "/numbers", &["--mkdir"]);
    let leader = host.machine_leader("trixie");
    host.ok(&["coracle", "reboot", "trixie"]);
    host.wait_until(
        crate::support::LONG,
        &format!(
            "[ \"$(coracle bind trixie --json)\" = '[]' ] && coracle exec --wait-ready trixie -- true && \
             ! coracle show trixie -p leader | grep -qx leader={leader}"
        ),
    );
    assert_eq!(inside(&host, "trixie", "ls /numbers").stdout, "");
    bind(&host, "/numbers", &[]);
    host.sh_ok(&format!("coracle stop trixie; rm -r {TREE}"));
    before.assert_same(&host);
    host.stop();
}

#[test]
fn the_guest_cannot_weaken_binds() {
    let host = Host::builder().guest_as("busybox", "own").guest_as("busybox", "same").start();
    host.write("/etc/coracle/machines.d/same.toml", "[users]\nprivate = \"no\"\n");
    host.ok(&["coracle", "start", "own", "same"]);
    let tree = "/var/lib/machines/data";
    host.sh_ok(&format!("mkdir -p {tree}; echo hello >{tree}/f; mknod {tree}/null c 1 3; chmod 666 {tree}/null; echo one >/etc/file"));
    for guest in ["own", "same"] {
        host.ok(&["coracle", "bind", guest, tree, "/data", "--mkdir", "--read-only"]);
        // The source is a single file.
        host.ok(&["coracle", "bind", guest, &format!("{tree}/f"), "/one", "--mkdir", "--read-only"]);
        assert_eq!(inside(&host, guest, "cat /one /data/f").stdout, "hello\nhello\n");
        assert_ne!(inside(&host, guest, "echo x >/data/f").status, 0);
        assert_ne!(inside(&host, guest, "echo x >/one").status, 0);
        assert_ne!(inside(&host, guest, "echo x >/data/null").status, 0);
        assert!(host.ok(&["coracle", "bind", guest]).contains("read-only"));
        host.sh(&format!("coracle exec {guest} -- ln -s /etc /way"));
        let link = host.exec(&["coracle", "bind", guest, tree, "/way"]);
        assert!(link.status == 1 && link.stderr.contains("symbolic link"), "{link}");
    }
    for place in ["/data", "/one"] {
        let out = inside(
            &host,
            "own",
            &format!(
                "mount -o remount,bind,rw {place} && echo ESCAPED; mount -o remount,bind,rw,dev {place} && echo ESCAPED"
            ),
        );
        assert!(!out.stdout.contains("ESCAPED"), "{out}");
        assert_ne!(inside(&host, "own", &format!("echo x >{place}")).status, 0);
    }
    // A mount of the guest on top of the bind mount is not unmounted.
    assert_eq!(inside(&host, "own", "mount -t tmpfs none /data").status, 0);
    let over = host.exec(&["coracle", "unbind", "own", "/data"]);
    assert!(over.status == 1 && over.stderr.contains("has mounted over"), "{over}");
    assert_eq!(inside(&host, "own", "umount /data").status, 0);
    host.ok(&["coracle", "unbind", "own", "/data", "/one"]);
    host.ok(&["coracle", "unbind", "same", "/data", "/one"]);
    assert_eq!(host.read("/var/lib/machines/data/f"), "hello\n");
    host.stop();
}
