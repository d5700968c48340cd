//! Caches of packages that build sessions share.

use crate::support::{Host, Snapshot};

const STORAGE: &str = "/var/lib/machines/.storage";
const CACHE: &str = "/var/lib/machines/.cache";

/// Starts a host with a base, and with the store and the cache beside it: the host's own root is an overlay.
fn host() -> Host {
    let host = Host::builder().guest_as("busybox", "base").on_disk().start();
    host.sh_ok(&format!(
        "mkdir -m 700 {STORAGE}; mkdir -p /var/lib/coracle; ln -s {STORAGE} /var/lib/coracle/storage"
    ));
    host.activate_machined();
    host.sh_ok(&format!("coracle build once base --cache=apt:{CACHE} -w / -- true"));
    host
}

#[test]
fn sessions_side_by_side_share_packages_and_no_locks() {
    let host = host();
    let before = Snapshot::take(&host);
    host.sh_ok(&format!("echo old >{CACHE}/kept.deb"));
    // Each session has the lock of the package manager, and one package of its own.
    host.sh_ok(&format!(
        "for number in $(seq 20); do
             (coracle build begin base --name=s$number --cache=apt:{CACHE} >/dev/null
              coracle build run s$number -u root -- sh -c \"cd /var/cache/apt/archives; grep -x old kept.deb
                  set -C; : >lock; mkdir partial; echo $number >partial/p$number.deb; mv partial/p$number.deb p$number.deb
                  rm kept.deb; echo new >kept.deb; echo common >common.deb\" && touch /tmp/done-$number) >/dev/null &
         done; wait; ls /tmp/done-* | wc -l | grep -x 20; rm /tmp/done-*
         ls {CACHE} | tr '\\n' ' ' | grep -x 'kept.deb '
         coracle build end $(coracle build list --no-legend | cut -d ' ' -f 1) | wc -l | grep -x 20
         ls {CACHE} | wc -l | grep -x 22; cat {CACHE}/kept.deb | grep -x old; cat {CACHE}/p7.deb | grep -x 7
         stat -c '%a %u:%g' {CACHE}/*.deb | sort -u | grep -x '644 0:0'"
    ));
    // The next session finds them.
    host.sh_ok(&format!(
        "coracle build once base --cache=apt:{CACHE} -w / -- cat /var/cache/apt/archives/p20.deb | grep -x 20
         ! ls -A {STORAGE}/throwaway | grep ."
    ));
    before.assert_same(&host);
    host.stop();
}

#[test]
fn a_hostile_session_adds_no_program_and_no_link() {
    let host = host();
    let before = Snapshot::take(&host);
    for users in ["pick", "no"] {
        host.sh_ok(&format!(
            "coracle build once base --users={users} --cache=apt:{CACHE} -w / -u root -- sh -c 'cd /var/cache/apt/archives
                 cp /bin/busybox set.deb; chmod 6777 set.deb; ln -s /etc/shadow link.deb; mkfifo fifo.deb; mkdir directory.deb
                 echo x >\"a b.deb\"; echo x >.hidden.deb; echo x >program; : >empty.deb; mknod node.deb c 1 3 || true'
             ls -A {CACHE} | tr '\\n' ' ' | grep -x 'set.deb '; stat -c '%a %u' {CACHE}/set.deb | grep -x '644 0'; rm {CACHE}/set.deb"
        ));
    }
    // A dead session adds its packages when it is ended, and one in memory none.
    host.sh_ok(&format!(
        "coracle build begin base --name=s --cache=apt:{CACHE}; coracle build run s -u root -- sh -c 'echo 1 >/var/cache/apt/archives/a.deb'"
    ));
    host.sh_ok(&format!("kill -9 {}", host.supervisor("s")));
    host.sh_ok(&format!(
        "coracle build recover s; coracle build run s -u root -- sh -c 'cd /var/cache/apt/archives; cat a.deb; echo 2 >b.deb'
         coracle build end s; ls {CACHE} | tr '\\n' ' ' | grep -x 'a.deb b.deb '
         coracle build once base --memory --cache=apt:{CACHE} -w / -u root -- sh -c 'cd /var/cache/apt/archives; cat a.deb; echo 3 >c.deb'
         test ! -e {CACHE}/c.deb; rm {CACHE}/*.deb"
    ));
    let output = host.exec(&["coracle", "build", "begin", "base", "--cache=npm"]);
    assert!(output.status == 2 && output.stderr.contains("apt, dnf, pacman or apk"), "{output}");
    before.assert_same(&host);
    host.stop();
}
