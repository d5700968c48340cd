//! Containers in machines: podman and Coracle in a machine with a user namespace (`security.nesting`), and
//! Coracle in privileged containers of podman and Docker. With `CORACLE_HOST_BY=coracle` every other test of
//! the host suite runs on a host that is a Coracle machine without a user namespace; the tests of this file
//! verify such a host, and the life cycle of a machine on it.

use crate::support::{Host, Output, Snapshot, install, trees};

#[test]
fn a_machine_hosts_machines() {
    let host = Host::builder().in_coracle().guest("busybox").guest("trixie").start();
    // A host of nested-host.sh has this marker.
    assert_ne!(host.read("/run/host/container-manager").trim(), "nested-host");
    host.activate_machined();
    let before = Snapshot::take(&host);
    host.start_machine("busybox");
    host.define("trixie", "");
    host.coracle(&["start", "--wait=ready", "trixie"]);
    for name in ["busybox", "trixie"] {
        host.assert_registered(name, true);
        host.ok(&["ping", "-c1", "-W5", &host.address(name)]);
        let map = host.in_guest(name, &["cat", "/proc/self/uid_map"]).success("the id map");
        assert!(!map.stdout.contains(" 0 4294967295"), "users of its own, two levels deep: {map}");
    }
    assert_eq!(host.in_guest("trixie", &["systemctl", "is-system-running"]).stdout, "running\n");
    let leader = host.machine_leader("busybox");
    host.coracle(&["reboot", "busybox"]);
    host.wait_for_reboot("busybox", leader);
    host.coracle(&["stop", "busybox", "trixie"]);
    for name in ["busybox", "trixie"] {
        host.assert_clean_stop(name);
        host.assert_registered(name, false);
    }
    before.assert_same(&host);
    host.stop();
}

/// Starts `outer`, a guest with podman and Coracle and a tree for containers of both, by the given
/// definition. Also returns the snapshot from before the start.
fn outer(definition: &str) -> (Host, Snapshot) {
    let host = Host::builder().guest_as("trixie-nesting", "outer").start();
    host.add_guest("busybox", "outer/srv/box");
    trees::copy(&install::staged().join("usr"), &host.machines().join("outer/usr"));
    host.define("outer", definition);
    let before = Snapshot::take(&host);
    host.coracle(&["start", "--wait=ready", "outer"]);
    (host, before)
}

/// Runs a shell script in `outer`, with the capabilities and in the cgroup of its processes.
fn inside(host: &Host, script: &str) -> Output {
    host.exec(&["coracle", "exec", "-T", "outer", "--", "sh", "-euc", script])
}

/// Podman's default process limit is an error on hosts without the pids controller in any hierarchy.
const PODMAN: &str = "podman run --rm --pids-limit=0";

#[test]
fn podman_runs_in_a_machine_that_nests() {
    let (host, before) = outer("[security]\nnesting = true\n");
    let inside = |script: &str| inside(&host, script);
    let out = inside(&format!("{PODMAN} --rootfs /srv/box sh -c 'hostname -i; id -u; echo $$'"));
    let lines: Vec<&str> = out.stdout.lines().collect();
    assert!(lines.len() == 3 && lines[0].starts_with("10.88.") && lines[1..] == ["0", "1"], "{out}");
    // An image on an overlay, which root of a user namespace can mount.
    let script = format!(
        "tar -C /srv/box --exclude=./dev -c . | podman import -q - box:1 >/dev/null && \
         {PODMAN} box:1 sh -c 'grep -c \" / / .* overlay \" /proc/self/mountinfo; echo written >/file && cat /file; exit 7'"
    );
    let out = inside(&script);
    assert_eq!((out.status, out.stdout.as_str()), (7, "1\nwritten\n"), "{out}");
    assert_eq!(host.in_guest("outer", &["systemctl", "is-system-running"]).stdout, "running\n");
    // The additional permissions are reported.
    let said = host.coracle(&["inspect", "--security", "outer"]);
    for opened in ["the filter allows '@keyring'", "procfs is full", "tun and fuse"] {
        assert!(said.contains(opened), "{opened}: {said}");
    }
    host.coracle(&["stop", "outer"]);
    host.assert_clean_stop("outer");
    before.assert_same(&host);
    host.stop();
}

/// An overlay on an overlay is refused by the kernel: the containers of a stack lie beside it.
#[test]
fn podman_runs_in_a_stack() {
    let host = Host::builder().guest_as("trixie-nesting", "base").on_disk().start();
    host.add_guest("busybox", "base/srv/box");
    host.sh_ok("cd /var/lib/machines; mkdir -p outer.mstack/rw; ln -s ../base outer.mstack/layer@0");
    host.activate_machined();
    host.define("outer", "[security]\nnesting = true\n");
    let before = Snapshot::take(&host);
    host.coracle(&["start", "--wait=ready", "outer"]);
    let script = format!(
        "tar -C /srv/box --exclude=./dev -c . | podman import -q - box:1 >/dev/null && \
         podman info --format '{{{{.Store.GraphDriverName}}}}' && {PODMAN} box:1 echo ran"
    );
    assert_eq!(inside(&host, &script).success("podman").stdout, "overlay\nran\n");
    host.coracle(&["stop", "outer"]);
    host.assert_clean_stop("outer");
    before.assert_same(&host);
    // The images are still there, and the next start creates nothing.
    host.coracle(&["start", "--wait=ready", "outer"]);
    assert_eq!(inside(&host, &format!("{PODMAN} box:1 echo again")).success("podman").stdout, "again\n");
    let entries = host.sh_ok("ls -A /var/lib/machines/outer.mstack");
    assert_eq!(entries, "bind@var-lib-containers\nbind@var-lib-docker\nlayer@0\nrw\n");
    host.coracle(&["stop", "outer"]);
    host.stop();
}

#[test]
fn coracle_runs_in_a_machine_that_nests() {
    let (host, before) = outer("[security]\nnesting = true\n");
    let inside = |script: &str| inside(&host, script);
    let out = inside("coracle run -q -D /srv/box sh -c 'hostname; echo $$; exit 7'");
    assert_eq!((out.status, out.stdout.as_str()), (7, "box\n1\n"), "{out}");
    // A machine as a unit, with its own users, link and firewall, two levels deep.
    let define = "mkdir -p /etc/coracle/machines.d; mount -t tmpfs -o mode=700 none /var/lib/machines; \
                  (cd /srv/box && tar --exclude='./dev/*' -c .) | (mkdir /var/lib/machines/inner; tar -C /var/lib/machines/inner -x); \
                  systemctl start systemd-machined; coracle start inner";
    inside(define).success("start the inner one");
    let map = inside("coracle exec inner -- cat /proc/self/uid_map").success("the id map");
    let words: Vec<u32> = map.stdout.split_whitespace().map(|word| word.parse().unwrap()).collect();
    assert!(words[1] >= 524_288 && words[1] < 1_048_576 && words[2] == 65536, "{map}");
    inside("ping -c1 -W5 $(coracle show inner -p addresses | sed 's/.*=//; s/ .*//')").success("its address");
    inside("machinectl show inner -p Leader").success("it is registered");
    assert!(inside("coracle list --no-legend").stdout.contains("running"));
    inside("coracle stop inner && systemctl is-system-running").success("stop it");
    // The start of a machine with a tree that does not support id-mapped mounts fails with a hint at
    // `users.private`, and succeeds without a user namespace.
    let out = inside(
        "mkdir -p /root/other; tar -C /srv/box --exclude='./dev/*' -c . | tar -C /root/other -x; printf '[root]\\ndirectory = \"/root/other\"\\n' >/etc/coracle/machines.d/other.toml; \
                      coracle start other",
    );
    assert!(out.status == 1 && out.stderr.contains("users.private = \"no\""), "{out}");
    inside(
        "printf '[users]\\nprivate = \"no\"\\n' >>/etc/coracle/machines.d/other.toml; \
            coracle start other && coracle stop other",
    )
    .success("the host's users");
    host.coracle(&["stop", "outer"]);
    host.assert_clean_stop("outer");
    before.assert_same(&host);
    host.stop();
}

#[test]
fn services_of_a_default_machine_have_a_proc_of_their_own() {
    let host = Host::start(&["trixie"]);
    host.define("trixie", "");
    host.coracle(&["start", "--wait=ready", "trixie"]);
    let unit = |words: &[&str]| {
        let run = ["coracle", "exec", "trixie", "--", "systemd-run", "-q", "--wait", "--pipe"];
        host.exec(&[&run, words].concat())
    };
    let out = unit(&["-p", "ProtectProc=invisible", "-p", "User=nobody", "sh", "-c", "cat /proc/1/comm"]);
    assert_eq!(out.stdout, "", "{out}");
    assert_ne!(unit(&["-p", "ProcSubset=pid", "cat", "/proc/meminfo"]).status, 0);
    let out =
        unit(&["-p", "PrivatePIDs=yes", "cut", "-d ", "-f1", "/proc/self/stat"]).success("PrivatePIDs=");
    assert_eq!(out.stdout, "1\n", "{out}");
    let out = unit(&["-p", "PrivatePIDs=yes", "cat", "/proc/1/comm"]).success("PrivatePIDs=");
    assert_eq!(out.stdout, "cat\n", "{out}");
    host.coracle(&["stop", "trixie"]);
    host.stop();
}

#[test]
fn nesting_is_off_by_default() {
    let (host, before) = outer("[security]\nprocfs = \"masked\"\n");
    let inside = |script: &str| inside(&host, script);
    for (container, word) in [
        (format!("{PODMAN} --network=none --rootfs /srv/box true"), "permi"),
        ("coracle run -q -D /srv/box true".to_owned(), "security.nesting = true"),
        ("mount -t proc none /mnt".to_owned(), "too revealing"),
        ("cat /dev/fuse".to_owned(), "No such file"),
        ("cat /dev/net/tun".to_owned(), "No such file"),
        ("ls /run/host/full".to_owned(), "No such file"),
        ("setpriv --reuid=70000 true".to_owned(), "Invalid argument"),
    ] {
        let out = inside(&container);
        assert!(out.status != 0 && out.stderr.contains(word), "{container}: {out}");
    }
    let said = host.coracle(&["inspect", "--security", "outer"]);
    assert!(!said.contains("@keyring") && !said.contains("containers inside"), "{said}");
    host.coracle(&["stop", "outer"]);
    before.assert_same(&host);
    host.stop();
}

/// A host with podman. The root of the containers is a Debian tree with Coracle.
#[test]
fn coracle_runs_in_privileged_containers_and_in_no_chroot() {
    let host = Host::builder().on("host-containers").guest("busybox").guest_as("trixie", "outer").start();
    trees::copy(&install::staged().join("usr"), &host.machines().join("outer/usr"));
    let tree = "/var/lib/machines/busybox";
    let podman = |options: &str| {
        let script = format!(
            "podman --storage-driver=vfs run --rm --pids-limit=0 --network=none {options} -v {tree}:/srv/box --rootfs /var/lib/machines/outer \
             coracle run -D /srv/box sh -c 'echo PID $$'"
        );
        host.sh(&script)
    };
    let notices = |out: &Output| out.stderr.matches("no cgroup of its own").count();
    // With the capabilities of a privileged container, with a writable and with a read-only cgroup hierarchy.
    for options in
        ["--privileged", "--cap-add=all --security-opt seccomp=unconfined --security-opt unmask=all"]
    {
        let out = podman(options);
        assert!(out.status == 0 && out.stdout.contains("PID 1"), "{options}: {out}");
        assert!(notices(&out) <= 1, "{options}: {out}");
    }
    // Without the required capabilities, Coracle fails before it changes the host.
    let out = podman("");
    assert!(out.status == 125 && out.stderr.contains("(--privileged)"), "{out}");
    let script = format!(
        "mount -t tmpfs none /run/systemd; mount -o remount,bind,ro /sys/fs/cgroup; coracle run -D {tree} sh -c 'echo PID $$'"
    );
    let out = host.exec(&["unshare", "-m", "sh", "-euc", &script]);
    assert!(out.status == 0 && out.stdout.contains("PID 1") && notices(&out) == 1, "{out}");
    // A chroot at a mount point, and in a directory without procfs.
    for prepare in [
        "mount --rbind / /mnt",
        "mkdir /mnt/in; mount -t tmpfs none /mnt; mkdir /mnt/in; cp -a /usr/bin /mnt/in",
    ] {
        let script = format!(
            "{prepare}; cd /mnt; root=/mnt; [ ! -d in ] || root=/mnt/in; mkdir -p $root/usr; \
             [ -d $root/usr/bin ] || mount --rbind /usr $root/usr; for l in bin lib lib64; do [ -e $root/$l ] || ln -s usr/$l $root/$l; done; \
             chroot $root coracle run -D {tree} true"
        );
        let out = host.exec(&["unshare", "-m", "sh", "-uc", &script]);
        assert!(out.status == 125 && out.stderr.contains("runs in a chroot"), "{out}");
    }
    host.stop();
}

/// A Docker container also has a mount namespace with its own root, and masks other paths than podman.
#[test]
fn coracle_runs_in_privileged_containers_of_docker() {
    let host = Host::builder().on("host-containers").guest("busybox").guest_as("trixie", "outer").start();
    trees::copy(&install::staged().join("usr"), &host.machines().join("outer/usr"));
    host.write(
        "/etc/docker/daemon.json",
        r#"{"storage-driver": "vfs", "bridge": "none", "iptables": false, "ip6tables": false}"#,
    );
    host.sh_ok("systemctl start docker.service");
    host.sh_ok("tar -C /var/lib/machines/outer -c . | docker import - outer:1");
    let docker = |options: &str| {
        host.sh(&format!(
            "docker run --rm --network=none {options} -v /var/lib/machines/busybox:/srv/box outer:1 \
             coracle run -D /srv/box sh -c 'echo PID $$'"
        ))
    };
    let out = docker("--privileged");
    assert!(out.status == 0 && out.stdout.contains("PID 1"), "{out}");
    assert!(out.stderr.matches("no cgroup of its own").count() <= 1, "{out}");
    let out = docker("");
    assert!(out.status == 125 && out.stderr.contains("(--privileged)"), "{out}");
    host.sh_ok("systemctl stop docker.service docker.socket containerd.service");
    host.stop();
}

#[test]
fn unusual_trees_boot() {
    let host = Host::start(&["busybox", "trixie"]);
    let tree = "/var/lib/machines/busybox";
    let run = |words: &str| host.sh(&format!("coracle run -q -U -D {tree} {words}"));
    host.sh_ok(&format!("mount -t proc proc {tree}/proc; mkdir -p '{tree}/srv/a b'; mount --bind /var/tmp '{tree}/srv/a b'; touch /var/tmp/file"));
    let out = run("stat -c %u '/srv/a b/file'");
    assert_eq!((out.status, out.stdout.as_str()), (0, "0\n"), "{out}");
    host.sh_ok(&format!(
        "mkdir -p {tree}/var/cache; mount -t overlay overlay -o lowerdir=/usr/share:/usr/lib {tree}/var/cache"
    ));
    let out = run("true");
    assert!(out.status == 125 && out.stderr.contains(&format!("umount '{tree}/var/cache'")), "{out}");
    host.sh_ok(&format!("umount {tree}/var/cache {tree}/proc '{tree}/srv/a b'"));
    host.sh_ok(&format!("cd {tree}; rm -r tmp; mkdir -p sysroot/tmp; ln -s sysroot/tmp tmp"));
    run("touch /tmp/file").success("/tmp is a link");
    host.sh_ok(&format!("cd {tree}; rm tmp; mkdir tmp; test ! -e sysroot/tmp/file"));
    // A tree with all of /usr from the host, and a tree without /usr.
    host.sh_ok(
        "cd /var/lib/machines; mkdir -p empty/etc; cp -L /etc/os-release empty/etc; \
         for link in bin sbin lib lib64; do ln -s usr/$link empty/$link; done; \
         mkdir -p bare/store bare/sbin bare/etc; cp busybox/usr/bin/busybox bare/store; cp -L /etc/os-release bare/etc; \
         ln -s /store/busybox bare/sbin/init; echo '::respawn:/store/busybox sleep 1000' >bare/etc/inittab",
    );
    host.define(
        "empty",
        "[[mount]]\nsource = \"/usr\"\nread-only = true\nmap-ids = false\n[boot]\nwait = \"running\"\n",
    );
    host.define("bare", "");
    host.coracle(&["start", "empty", "bare"]);
    host.coracle(&["stop", "bare"]);
    host.coracle(&["terminate", "empty"]);
    init_by_links_and_mounts(&host);
    shifted_owners(&host);
    // systemd mounts /dev/mqueue, and a new instance for a service in another IPC namespace.
    host.start_machine("trixie");
    let unit = "systemd-run -q --wait -p IPCNamespacePath=/proc/1/ns/ipc sh -c 'test -d /dev/mqueue'";
    host.exec(&["coracle", "exec", "-T", "trixie", "--", "sh", "-c", unit]).success("IPCNamespacePath=");
    let mounts = host.in_guest("trixie", &["cat", "/proc/mounts"]).stdout;
    assert!(mounts.contains(" /dev/mqueue mqueue "), "{mounts}");
    assert_eq!(host.in_guest("trixie", &["stat", "-c", "%u:%g", "/dev/mqueue"]).stdout, "0:0\n");
    host.coracle(&["stop", "trixie"]);
    host.stop();
}

/// Asserts that `/sbin/init` may be a link into a mount of the definition: into a directory, to a file, and
/// by a link of `/sbin`.
fn init_by_links_and_mounts(host: &Host) {
    host.sh_ok(
        "cd /var/lib/machines/bare; mkdir -p /srv/store/sbin; mv store/busybox /srv/store; rmdir store
         ln -s ../busybox /srv/store/sbin/init; ln -sf /store/sbin/init sbin/init",
    );
    let mount =
        |source: &str, target: &str| format!("[[mount]]\nsource = \"{source}\"\ntarget = \"{target}\"\n");
    for (script, mounts) in [
        ("true", mount("/srv/store", "/store")),
        ("ln -sf /file sbin/init", mount("/srv/store", "/store") + &mount("/srv/store/busybox", "/file")),
        ("rm sbin/init; rmdir sbin; ln -s store/sbin sbin", mount("/srv/store", "/store")),
    ] {
        host.sh_ok(&format!("cd /var/lib/machines/bare; {script}"));
        host.define("bare", &mounts);
        host.coracle(&["start", "bare"]);
        assert_eq!(host.property("bare", "init"), "busybox", "{script}");
        host.coracle(&["terminate", "bare"]);
    }
}

/// Asserts that a tree with owners shifted by another container manager keeps them, and runs in their id
/// range.
fn shifted_owners(host: &Host) {
    let (tree, base) = ("/var/lib/machines/busybox", 2_058_485_760_u32);
    host.define("busybox", "");
    let shift = |base: u32| host.sh_ok(&format!("find {tree} -exec chown -h {base}:{base} {{}} +"));
    shift(base);
    host.coracle(&["start", "busybox"]);
    assert_eq!(host.property("busybox", "id-base"), base.to_string());
    let script = "touch /etc/new; stat -c %u /etc /etc/new /etc/hosts /etc/resolv.conf";
    assert_eq!(host.in_guest("busybox", &["sh", "-c", script]).stdout, "0\n0\n0\n0\n");
    let owner = host.sh_ok(&format!("stat -c %u {tree}/etc/new"));
    assert_eq!(owner.trim(), base.to_string());
    let leader = host.machine_leader("busybox");
    host.coracle(&["reboot", "busybox"]);
    host.wait_for_reboot("busybox", leader);
    host.in_guest("busybox", &["touch", "/etc/new"]).success("write after a reboot");
    host.coracle(&["stop", "busybox"]);
    // A range as used by LXC, which is mapped to one of the machine's own.
    shift(100_000);
    host.coracle(&["start", "busybox"]);
    assert_ne!(host.property("busybox", "id-base"), "100000");
    assert_eq!(host.in_guest("busybox", &["sh", "-c", script]).stdout, "0\n0\n0\n0\n");
    host.coracle(&["stop", "busybox"]);
    host.define("busybox", "[users]\nprivate = \"100000\"\nownership = \"off\"\n");
    host.coracle(&["start", "busybox"]);
    host.in_guest("busybox", &["touch", "/etc/new"]).success("take the range all the same");
    host.coracle(&["terminate", "busybox"]);
}
