//! Build sessions on bases for other architectures: a 32-bit one of the same processor, and one that needs an emulator.

use crate::support::{Host, Snapshot};

/// Prints whether the emulator, a file of the host, can be opened for writing. While it is executed it is busy, too.
const WRITE: &str = "sleep 60 >/dev/null 2>&1 & if test -w /proc/$!/exe; then echo writable; else echo protected; fi; kill $!";
const STORAGE: &str = "/var/lib/machines/.storage";

fn host() -> (Host, Snapshot) {
    let guests = [("arm64", "arm64"), ("i386", "i386"), ("qemu", "emulator"), ("busybox", "base")];
    let host = guests.into_iter().fold(Host::builder(), |host, (tree, name)| host.guest_as(tree, name));
    let host = host.on_disk().start();
    host.sh_ok(&format!(
        "mkdir -m 700 {STORAGE}; mkdir -p /var/lib/coracle; ln -s {STORAGE} /var/lib/coracle/storage"
    ));
    host.activate_machined();
    host.first_session(&[]);
    let before = Snapshot::take(&host);
    (host, before)
}

#[test]
fn a_32_bit_base_reports_a_32_bit_processor() {
    let (host, before) = host();
    host.sh_ok(
        "coracle build begin i386 --name=s
         coracle build run s -- uname -m | grep -xE 'i[3-6]86'
         coracle build run s -- sh -c 'echo $(uname -m)' | grep -xE 'i[3-6]86'
         coracle exec s -- uname -m | grep -xE 'i[3-6]86'; coracle build end s
         coracle build once base -w / -- uname -m | grep -x x86_64",
    );
    before.assert_same(&host);
    host.stop();
}

#[test]
fn a_session_registers_an_emulator_of_its_own() {
    let (host, before) = host();
    // Without one, nothing begins.
    let output = host.exec(&["coracle", "build", "begin", "arm64"]);
    assert!(output.status == 1 && output.stderr.contains("the base is for aarch64"), "{output}");
    assert!(output.stderr.contains("qemu-user-binfmt"), "{output}");
    before.assert_same(&host);
    host.sh_ok("install -m 755 /var/lib/machines/emulator/usr/bin/qemu-aarch64 /usr/local/bin");
    // With the ids of the host, root inside is the owner.
    for users in ["pick", "identity"] {
        host.sh_ok(&format!(
            "coracle build begin arm64 --name=s --users={users}
             coracle build run s -- uname -m | grep -x aarch64
             coracle build run s -- sh -c 'echo $(uname -m); exit 7' | grep -x aarch64
             coracle build run s -- sh -c 'exit 7' || test $? = 7
             coracle build run s --offline -u nobody -- sh -c 'id -un; kill -TERM $$' | grep -x nobody || test $? = 143
             coracle build run s -- cat /proc/sys/fs/binfmt_misc/qemu-aarch64 | grep -x 'flags: POCF'
             coracle exec s -- uname -m | grep -x aarch64
             coracle build run s -u root -- sh -c '{WRITE}' | grep -x protected
             if grep binfmt_misc /proc/self/mounts; then exit 1; fi"
        ));
        host.sh_ok(&format!(
            "kill -9 {}; until coracle build list | grep -w dead; do sleep 0.02; done",
            host.supervisor("s")
        ));
        host.sh_ok(
            "coracle build recover s; coracle build run s -- uname -m | grep -x aarch64; coracle build end s",
        );
        before.assert_same(&host);
    }
    // Sessions beside it, and a base that needs none.
    host.sh_ok(
        "for name in a b c; do coracle build begin arm64 --name=$name >/dev/null & done; wait
         for name in a b c; do coracle build run $name -- uname -m; done | grep -c aarch64 | grep -x 3
         coracle build end a b c; coracle build once base -w / -- uname -m | grep -x x86_64",
    );
    // Without a user namespace only the host can register one.
    let output = host.exec(&["coracle", "build", "begin", "arm64", "--users=no"]);
    assert!(output.status == 1 && output.stderr.contains("without --users=no"), "{output}");
    // An emulator that needs libraries of the host is of no use.
    host.sh_ok("cp /bin/sh /usr/local/bin/qemu-aarch64");
    let output = host.exec(&["coracle", "build", "begin", "arm64"]);
    assert!(output.status == 1 && output.stderr.contains("qemu-user-binfmt"), "{output}");
    host.sh_ok("rm /usr/local/bin/qemu-aarch64");
    before.assert_same(&host);
    host.stop();
}
