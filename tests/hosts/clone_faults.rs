//! Clones, conversions and imports are killed at each of their system calls, and each call fails in turn: an image has
//! its files before or after the verb, and the next verb removes what is left. `cargo test` tries a sample of
//! the faults, `make faults` all of them.

use std::time::Duration;

use crate::support::{Host, program};

const BOUND: Duration = Duration::from_secs(3600);

/// Creates a small tree with an identity, owners, links and devices.
const TREE: &str = "mkdir -p golden/etc golden/var/lib/systemd golden/srv
    echo 0123456789abcdef0123456789abcdef >golden/etc/machine-id; echo golden >golden/etc/hostname
    echo seed >golden/var/lib/systemd/random-seed; ln -s /etc/passwd golden/srv/link
    chown 1000:7 golden/srv; chmod 2751 golden; mknod golden/srv/null c 1 3";
/// Makes a stack of it, with files in its writable layer and a layer of its own.
const STACK: &str = "mkdir -p golden.mstack/layer@1/srv golden.mstack/rw/data/srv golden.mstack/rw/work
    mv golden golden.mstack/layer@0; echo 1 >golden.mstack/layer@1/srv/one
    chmod 2751 golden.mstack/rw/data golden.mstack/layer@1; echo w >golden.mstack/rw/data/srv/written";

/// A recipe that copies such a tree.
const RECIPE: &str = "suite = 'one'
packages = []
keyring = ['/etc/keys']
keyring-package = 'own-keyring'
[architectures]
x86_64 = 'amd64'
aarch64 = 'arm64'
[[step]]
program = 'cp'
package = 'coreutils'
arguments = ['-aT', '/run/source', '{tree}']
";

fn host() -> Host {
    let host = Host::builder().guest_as("busybox", "live").on_disk().start();
    std::fs::copy(program::build("tests/faults/faulty.c", &[]), host.machines().join("faulty"))
        .expect("copy the tool");
    host.sh_ok(
        "mv /var/lib/machines/faulty /usr/bin/faulty; chmod 755 /usr/bin/faulty
         mkdir -m 700 /var/lib/machines/.storage; mkdir -p /var/lib/coracle
         ln -s /var/lib/machines/.storage /var/lib/coracle/storage",
    );
    host
}

/// Injects faults into a verb. `before` is a script, the images are compared by their names.
#[track_caller]
fn inject(host: &Host, before: &str, names: &str, verb: &str) {
    inject_beside(host, "", before, names, verb);
}

/// [`inject`] beside a running machine, which must go on.
#[track_caller]
fn inject_beside(host: &Host, running: &str, before: &str, names: &str, verb: &str) {
    let script = include_str!("../faults/clones.sh");
    let run = |argument: &str| {
        let setup = format!("export SETUP='{before}' NAMES='{names}' RUNNING='{running}'; exec </run/faults");
        let command = format!("{setup}; set -- {argument} /usr/bin/coracle {verb}\n{script}");
        host.exec_for(BOUND, &["bash", "-c", &command]).success("the faults").stdout
    };
    host.write("/run/faults", "");
    let counted = run("count");
    let count: usize = counted.trim().parse().expect(&counted);
    assert!(count > 100, "{count}");
    let step = if std::env::var_os("CORACLE_FAULTS").is_some() { 1 } else { count / 30 };
    let kills = (1..=count).step_by(step).map(|number| format!("kill {number}\n"));
    let errors = (1..=count).skip(step / 2).step_by(step).map(|number| format!("error {number}\n"));
    eprintln!("{verb}: {count} calls");
    host.write("/run/faults", &kills.chain(errors).collect::<String>());
    let bad = run("inject");
    assert!(bad.is_empty(), "{bad}");
}

#[test]
fn a_killed_clone_is_complete_or_absent() {
    let host = host();
    inject(&host, TREE, "golden web", "clone golden web");
    host.stop();
}

#[test]
fn a_killed_clone_of_a_stack_is_complete_or_absent() {
    let host = host();
    inject(&host, &format!("{TREE}\n{STACK}"), "golden web", "clone golden web");
    host.stop();
}

#[test]
fn a_killed_clone_of_a_running_machine_is_complete_or_absent() {
    let host = host();
    host.activate_machined();
    // The fewer files, the fewer calls.
    host.sh_ok(
        "cd /var/lib/machines/live; rm -r etc/apt etc/dpkg usr/share var/cache var/lib dev/*
         find usr/bin usr/sbin -type l -not -name sh -not -name init -not -name true -delete",
    );
    for kind in ["directory", "stack"] {
        if kind == "stack" {
            host.coracle(&["convert", "live", kind]);
        }
        host.coracle(&["start", "--wait=running", "live"]);
        host.sh_ok("coracle exec live -- sh -c 'echo written >/state'");
        inject_beside(&host, "live", ":", "web", "clone live web");
        host.coracle(&["stop", "live"]);
    }
    host.assert_clean_stop("live");
    host.stop();
}

#[test]
fn a_killed_conversion_keeps_all_files() {
    let host = host();
    inject(&host, TREE, "golden", "convert golden stack");
    inject(&host, &format!("{TREE}\n{STACK}"), "golden", "convert golden directory");
    host.stop();
}

#[test]
fn a_killed_import_is_complete_or_absent() {
    let host = host();
    let archive = format!("{TREE}\n    tar -C golden -cf /run/golden.tar .");
    inject(&host, &archive, "web", "import /run/golden.tar web");
    inject(&host, &format!("{archive}; gzip -f /run/golden.tar"), "web", "import /run/golden.tar.gz web");
    inject(&host, TREE, "golden web", "import /var/lib/machines/golden web");
    let incus = "mkdir image; mv golden image/rootfs; : >image/metadata.yaml; tar -C image -cf /run/image.tar .; rm -r image";
    inject(&host, &format!("{TREE}\n    {incus}"), "web", "import /run/image.tar web");
    let disk = "test -e /run/disk || { truncate -s 8M /run/disk; mkfs.ext4 -q /run/disk; }";
    inject(&host, disk, "web web.raw", "import /run/disk web");
    host.stop();
}

#[test]
fn a_killed_export_is_complete_or_absent() {
    let host = host();
    inject(&host, TREE, "golden out.tar", "export golden /var/lib/machines/out.tar");
    inject(&host, TREE, "golden out.tar.gz", "export golden /var/lib/machines/out.tar.gz");
    inject(&host, &format!("{TREE}\n{STACK}"), "golden out.tar", "export golden /var/lib/machines/out.tar");
    host.stop();
}

#[test]
fn a_killed_update_adds_a_version_or_none() {
    let host = host();
    let versions = "mkdir web.v; mv golden web.v/web_0; cp -a web.v/web_0 /run/next";
    let verb = "update web /run/next --version=1";
    inject(&host, &format!("rm -rf /run/next; {TREE}\n    {versions}"), "web.v", verb);
    host.stop();
}

#[test]
fn a_killed_creation_is_complete_or_absent() {
    let host = host();
    host.write("/etc/coracle/distributions.d/own.toml", RECIPE);
    host.sh_ok(": >/etc/keys");
    let source = format!("{TREE}; rm -rf /run/source; mv golden /run/source");
    inject(&host, &source, "web", "create web --from=own");
    // On an existing base.
    let base = "rm -rf web.mstack; coracle create web --from=own >/dev/null; rm -r web.mstack";
    inject(&host, &format!("{source}; {base}"), "web", "create web --from=own");
    host.stop();
}

#[test]
fn a_full_disk_leaves_no_part_of_a_clone() {
    let host = Host::builder().start();
    for options in ["size=512k", "size=16m,nr_inodes=40"] {
        host.sh_ok(&format!(
            "mount -t tmpfs -o {options} tmpfs /var/lib/machines; cd /var/lib/machines; mkdir golden
             head -c 300k /dev/urandom >golden/file; for i in $(seq 25); do : >golden/$i; done"
        ));
        for verb in [&["clone", "golden", "web"][..], &["convert", "golden", "stack"]] {
            let failed = host.exec(&[&["coracle"], verb].concat());
            // The conversion copies the directory into the store, on another file system.
            if verb[0] == "clone" {
                assert!(failed.status != 0 && failed.stderr.contains("no space left on device"), "{failed}");
            }
            host.sh_ok("cd /var/lib/machines; ls -A | grep -v lck | grep -x -e golden -e golden.mstack");
            host.sh_ok("! ls -d /var/lib/machines/.#* /var/lib/coracle/storage/tmp/* 2>/dev/null | grep -v '\\.lck$'");
        }
        host.sh_ok("cd /; umount /var/lib/machines");
    }
    host.stop();
}
