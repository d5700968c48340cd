//! Build sessions whose root has a path on the host, for programs that look at its files.

use crate::support::{Host, LONG, Snapshot};

const STORAGE: &str = "/var/lib/machines/.storage";
/// The path of the session `s`.
const ROOT: &str = "/run/coracle/s/root";

fn host(users: &str) -> (Host, Snapshot) {
    let host = Host::builder().guest_as("busybox", "base").on_disk().start();
    host.sh_ok(&format!(
        "mkdir -m 700 {STORAGE}; mkdir -p /var/lib/coracle; ln -s {STORAGE} /var/lib/coracle/storage"
    ));
    let definition = format!(
        "[root]\ndirectory = '/var/lib/machines/base'\n[users]\nprivate = '{users}'\n[build]\nexpose = true\n"
    );
    host.write("/etc/coracle/build.d/exposed.toml", &definition);
    host.activate_machined();
    host.first_session(&[]);
    let before = Snapshot::take(&host);
    (host, before)
}

#[track_caller]
fn is_clean(host: &Host, before: &Snapshot) {
    before.assert_same(host);
    host.sh_ok(&format!(
        "if ls -A {STORAGE}/throwaway | grep .; then exit 1; fi; test ! -e /run/coracle/s; test -e /var/lib/machines/base/bin"
    ));
}

#[test]
fn an_exposed_root_is_a_mount_of_the_host_until_the_end() {
    for users in ["identity", "no"] {
        let (host, before) = host(users);
        host.sh_ok(&format!(
            "coracle build begin exposed --name=s; run() {{ coracle build run s -u root -- \"$@\"; }}
             echo host >{ROOT}/of-host; run cat /of-host | grep -x host; run sh -c 'echo inside >/inside'
             grep -x inside {ROOT}/inside; stat -c %u {ROOT}/inside | grep -x 0
             findmnt -no OPTIONS {ROOT} | grep -w nosuid | grep -w nodev; findmnt -no PROPAGATION {ROOT} | grep -x private
             test $(findmnt -rno TARGET | grep -c {ROOT}) = 1
             run mkdir /m; run mount -t tmpfs none /m || true; if mountpoint {ROOT}/m; then exit 1; fi
             echo 'A=of-session' >{ROOT}/etc/environment; run sh -c 'echo $A' | grep -x of-session"
        ));
        // A program that looks for processes in the root, to kill them, finds none.
        let leader = host.machine_leader("s");
        host.sh_ok(&format!(
            "for link in root cwd; do test ! /proc/{leader}/$link -ef {ROOT}; done
             test ! -L {ROOT}; test \"$(realpath {ROOT})\" = {ROOT}"
        ));
        host.coracle(&["build", "end", "s"]);
        is_clean(&host, &before);
        host.stop();
    }
}

#[test]
fn an_exposed_root_does_not_outlive_a_killed_supervisor() {
    let (host, before) = host("identity");
    host.sh_ok(&format!("coracle build begin exposed --name=s; echo kept >{ROOT}/kept"));
    for _ in 0..2 {
        host.sh_ok(&format!("kill -9 {}", host.supervisor("s")));
        host.wait_until(LONG, "coracle build list --no-legend | grep -E '^s .* dead '");
        host.sh_ok(&format!(
            "coracle build recover s; coracle build run s -- cat /kept; grep -x kept {ROOT}/kept
             test $(findmnt -rno TARGET | grep -c {ROOT}) = 1"
        ));
    }
    host.sh_ok(&format!("kill -9 {}", host.supervisor("s")));
    host.wait_until(LONG, "coracle build list --no-legend | grep -E '^s .* dead '");
    // The changes are not removed through it if the record cannot be read.
    let layer = host.sh_ok(&format!("ls -d {STORAGE}/throwaway/*"));
    host.sh_ok(
        "mv /run/coracle/s/state.json /run/record; echo { >/run/coracle/s/state.json; coracle cleanup s
         if test -e /run/coracle/s; then exit 1; fi",
    );
    host.sh_ok(&format!(
        "grep -rx kept {}; mkdir /run/coracle/s; mv /run/record /run/coracle/s/state.json",
        layer.trim()
    ));
    host.coracle(&["build", "end", "s"]);
    is_clean(&host, &before);
    // Also if a program of the host uses it.
    host.coracle(&["build", "begin", "exposed", "--name=s"]);
    host.sh_ok(&format!("kill -9 {}", host.supervisor("s")));
    host.wait_until(LONG, "coracle build list --no-legend | grep -E '^s .* dead '");
    let job = host.spawn(&["sh", "-c", &format!("cd {ROOT} && exec sleep 500")]);
    host.wait_until(LONG, "pgrep -fx 'sleep 500'");
    host.coracle(&["build", "end", "s"]);
    host.sh_ok("pkill -fx 'sleep 500'");
    job.wait(LONG);
    is_clean(&host, &before);
    host.stop();
}
