//! Stacks of directories as roots of machines (systemd.mstack(7)), with picked user ids and without, and the
//! same stacks under systemd-nspawn.

use crate::support::{Host, LONG, Snapshot};

/// A line for each file of a tree: name, kind, mode, owner, size and content.
const LIST: &str = "list() { (cd \"$1\" && find . -printf '%P %y %m %U:%G %s %l\\n' | sort && \
                    find . -type f -exec md5sum {} + | sort); }";

/// Starts a host with a tree `base`, and a stack `NAME.mstack` on it for each name.
fn host(names: &[&str]) -> Host {
    let host = Host::builder().guest_as("busybox", "base").on_disk().start();
    for name in names {
        stack(&host, name);
    }
    host.activate_machined();
    host
}

fn stack(host: &Host, name: &str) {
    host.sh_ok(&format!(
        "mkdir -p /var/lib/machines/{name}.mstack/rw
         ln -s /var/lib/machines/base /var/lib/machines/{name}.mstack/layer@0"
    ));
}

#[test]
fn a_stack_boots_with_ids_of_its_own() {
    let host = host(&["web"]);
    host.sh_ok(&format!(
        "{LIST}; echo old >/var/lib/machines/base/gone; list /var/lib/machines/base >/tmp/before"
    ));
    let before = Snapshot::take(&host);
    host.coracle(&["start", "web"]);
    host.sh_ok(
        "coracle exec web -- sh -c 'echo new >/srv-file; rm /gone; mkdir /own; chown 1000:7 /own; id -u'",
    );
    let mounted = host.sh_ok("coracle exec web -- sed -n 's/ - / - /;/ \\/ \\/ /p' /proc/self/mountinfo");
    assert!(mounted.contains(" overlay ") && !mounted.contains("machines"), "{mounted}");
    assert!(mounted.contains("userxattr"), "{mounted}");
    let leader = host.machine_leader("web");
    assert_ne!(host.sh_ok(&format!("stat -c %u /proc/{leader}/root/srv-file")).trim(), "0");
    // A reboot from inside mounts the same layers again.
    host.ask_in_guest("web", &["reboot"]);
    host.wait_for_reboot("web", leader);
    host.wait_until(
        LONG,
        "coracle exec web -- sh -c 'grep new /srv-file && test ! -e /gone && test -d /own'",
    );
    host.coracle(&["stop", "web"]);
    host.assert_clean_stop("web");
    before.assert_same(&host);
    host.sh_ok(
        "cd /var/lib/machines/web.mstack/rw/data; stat -c %u:%g srv-file . | sort -u | grep -x 0:0
         stat -c %u:%g own | grep -x 1000:7; stat -c %F gone | grep character",
    );
    host.sh_ok(&format!("{LIST}; list /var/lib/machines/base | diff /tmp/before -"));
    // A killed supervisor leaves nothing either, and the next start finds the same files.
    host.coracle(&["start", "web"]);
    host.kill_supervisor("web");
    host.wait_for_unit("web", "failed");
    host.coracle(&["start", "web"]);
    host.sh_ok("coracle exec web -- sh -c 'grep new /srv-file && test ! -e /gone'");
    host.coracle(&["stop", "web"]);
    before.assert_same(&host);
    host.stop();
}

#[test]
fn stacks_share_a_layer_that_no_machine_writes_to() {
    let host = host(&["a", "b", "c"]);
    let before = Snapshot::take(&host);
    for name in ["a", "b", "c"] {
        host.coracle(&["start", "--wait=running", name]);
        host.sh_ok(&format!("coracle exec {name} -- sh -c 'echo {name} >/which'"));
    }
    for name in ["a", "b", "c"] {
        assert_eq!(host.coracle(&["exec", name, "--", "cat", "/which"]).trim(), name);
    }
    let refused = host.exec(&["coracle", "run", "-q", "-D", "/var/lib/machines/base", "true"]);
    assert!(refused.status != 0 && refused.stderr.contains("is in use by machine 'a'"), "{refused}");
    let refused =
        host.exec(&["systemd-nspawn", "-q", "--register=no", "-D", "/var/lib/machines/base", "true"]);
    assert!(refused.status != 0 && refused.stderr.contains("busy"), "{refused}");
    let refused =
        host.exec(&["coracle", "run", "-q", "--mstack=/var/lib/machines/a.mstack", "-M", "d", "true"]);
    assert!(
        refused.status != 0 && refused.stderr.contains("a.mstack' is in use by machine 'a'"),
        "{refused}"
    );
    for name in ["a", "b", "c"] {
        host.coracle(&["stop", name]);
        host.assert_clean_stop(name);
    }
    before.assert_same(&host);
    host.sh_ok("coracle run -q -D /var/lib/machines/base true");
    // The other way round.
    let job = host.spawn(&["coracle", "run", "-q", "-D", "/var/lib/machines/base", "sleep", "600"]);
    host.wait_until(LONG, "coracle exec base -- true");
    assert_ne!(host.exec(&["coracle", "start", "a"]).status, 0);
    assert!(host.coracle(&["status", "a"]).contains("'/var/lib/machines/base' is in use by machine 'base'"));
    host.coracle(&["terminate", "base"]);
    job.wait(LONG);
    host.stop();
}

#[test]
fn all_entries_of_a_stack_are_mounted() {
    let host = host(&["web"]);
    let stack = "/var/lib/machines/web.mstack";
    host.sh_ok(&format!(
        "cd {stack}; mkdir -p layer@1/etc layer@10 layer@9 bind@srv-data robind@opt /var/lib/machines/.spool
         echo 1 >layer@1/etc/one; echo 9 >layer@9/which; echo 10 >layer@10/which; echo r >robind@opt/file
         ln -s /var/lib/machines/.spool bind@var-spool"
    ));
    let before = Snapshot::take(&host);
    for users in ["pick", "no"] {
        host.define("web", &format!("[users]\nprivate = \"{users}\"\n"));
        host.coracle(&["start", "web"]);
        host.sh_ok(
            "coracle exec web -- sh -ec 'grep 10 /which; grep 1 /etc/one; echo x >/srv/data/x; echo y >/var/spool/y
             grep r /opt/file; ! echo z 2>/dev/null >/opt/z'",
        );
        host.coracle(&["stop", "web"]);
        host.assert_clean_stop("web");
        before.assert_same(&host);
        host.sh_ok(&format!(
            "cd {stack}; stat -c %u bind@srv-data/x .. bind@var-spool/y | sort -u | grep -x 0
            rm bind@srv-data/x bind@var-spool/y"
        ));
    }
    // A read-only stack has what it had, and changes nothing.
    host.sh_ok(&format!("echo kept >{stack}/rw/data/kept; {LIST}; list {stack} >/tmp/before"));
    host.define("web", "[root]\nread-only = true\n");
    host.coracle(&["start", "--wait=running", "web"]);
    host.sh_ok("coracle exec web -- sh -c 'grep kept /kept && ! echo z 2>/dev/null >/z && ! echo z 2>/dev/null >/srv/data/z'");
    host.coracle(&["stop", "web"]);
    before.assert_same(&host);
    host.sh_ok(&format!("{LIST}; list {stack} | diff /tmp/before -"));
    // The layers of /usr alone, below another root; a single layer; a writable layer alone.
    host.sh_ok(
        "cd /var/lib/machines; mkdir -p u.mstack/layer@0 u.mstack/rw one.mstack two.mstack
         cp -a base/usr u.mstack/layer@0/; mkdir u.mstack/root; cp -a base/. u.mstack/root/; rm -r u.mstack/root/usr
         ln -s ../base one.mstack/layer@0; cp -a base two.mstack/rw",
    );
    for (name, writable) in [("u", true), ("one", false), ("two", true)] {
        host.coracle(&["start", "--wait=running", name]);
        let written = host.exec(&["coracle", "exec", name, "--", "sh", "-c", "echo x >/new && cat /new"]);
        assert_eq!(written.status == 0, writable, "{name} {written}");
        host.coracle(&["stop", name]);
        host.assert_clean_stop(name);
    }
    before.assert_same(&host);
    host.stop();
}

#[test]
fn invalid_stacks_are_refused_before_anything_is_created() {
    let host = host(&["web"]);
    host.coracle(&["start", "web"]);
    host.coracle(&["stop", "web"]);
    let before = Snapshot::take(&host);
    for (entry, expected) in [
        ("mkdir redo", "unknown entry 'redo'"),
        ("mkdir -p layer@0.v/layer@0_1", "exists twice"),
        ("touch layer@1", "'layer@1' is not a directory"),
        ("ln -s /missing layer@1", "cannot look at the entry 'layer@1'"),
        // Left by a guest of the stack when it was 'rw' alone.
        ("rm -r rw/data && ln -s /etc rw/data", "cannot prepare the writable layer"),
    ] {
        host.sh_ok(&format!(
            "cd /var/lib/machines; rm -rf copy; cp -a web.mstack copy; cd web.mstack; {entry}"
        ));
        assert_ne!(host.exec(&["coracle", "start", "web"]).status, 0, "{entry}");
        let status = host.coracle(&["status", "web"]);
        assert!(status.contains(expected), "{entry}: {status}");
        host.sh_ok("cd /var/lib/machines; rm -rf web.mstack; mv copy web.mstack");
        before.assert_same(&host);
    }
    host.coracle(&["start", "web"]);
    host.coracle(&["stop", "web"]);
    let refused = host.exec(&["coracle", "run", "--mstack=/var/lib/machines/base", "true"]);
    assert!(refused.status != 0 && refused.stderr.contains("does not end in '.mstack'"), "{refused}");
    host.stop();
}

#[test]
fn systemd_and_coracle_run_the_same_stack() {
    let host = Host::builder().suite("sid").guest_as("busybox", "base").on_disk().start();
    stack(&host, "web");
    host.activate_machined();
    // Created by Coracle, with picked ids.
    host.coracle(&["start", "web"]);
    host.sh_ok(
        "coracle exec web -- sh -c 'echo coracle >/by; rm -r /var/www; mkdir /var/www; chown 33 /var/www'",
    );
    let nspawn = "systemd-nspawn -q --register=no --keep-unit --private-users=no --mstack=/var/lib/machines/web.mstack";
    host.coracle(&["stop", "web"]);
    host.assert_clean_stop("web");
    host.sh_ok(&format!(
        "{nspawn} sh -c 'set -e; grep coracle /by; test -z \"$(ls -A /var/www)\"; stat -c %u /var/www | grep -x 33
         stat -c %u /by | grep -x 0; echo nspawn >/by; rm /etc/hostname; mkdir /etc/hostname'"
    ));
    // Changed by systemd.
    host.coracle(&["start", "web"]);
    host.sh_ok(
        "coracle exec web -- sh -ec 'grep nspawn /by; test -d /etc/hostname; stat -c %u /by | grep -x 0'",
    );
    host.coracle(&["stop", "web"]);
    // Created by systemd.
    host.sh_ok(&format!(
        "mkdir -p /var/lib/machines/own.mstack/rw /var/lib/machines/own.mstack/bind@srv
         cp -a /var/lib/machines/base /var/lib/machines/own.mstack/layer@0
         {} sh -c 'echo nspawn >/by; echo data >/srv/file; rm -r /var/www'",
        nspawn.replace("web.mstack", "own.mstack")
    ));
    host.coracle(&["start", "own"]);
    host.sh_ok("coracle exec own -- sh -ec 'grep nspawn /by; grep data /srv/file; test ! -e /var/www'");
    host.coracle(&["stop", "own"]);
    host.assert_clean_stop("own");
    host.stop();
}
