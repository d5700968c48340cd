//! Images: their names and versions, and the locks that Coracle shares with machinectl and systemd-nspawn.

use crate::support::{Host, LONG, Snapshot};

/// Starts systemd-nspawn on a tree, and waits until it holds the locks.
fn nspawn(host: &Host, options: &str) -> crate::support::Job {
    let words = format!("exec systemd-nspawn -q --register=no --keep-unit {options} sleep 600");
    let job = host.spawn(&["sh", "-c", &words]);
    host.wait_until(LONG, "ls /run/systemd/nspawn/locks/inode-* && pgrep -x sleep");
    job
}

/// Asserts that no lock file is left. systemd-nspawn leaves other files, so that snapshots differ.
#[track_caller]
fn has_no_locks(host: &Host) {
    host.sh_ok("! ls -d /run/systemd/nspawn/locks/* /var/lib/machines/.#* 2>/dev/null | grep .");
}

#[test]
fn images_are_found_by_name_and_version() {
    let host = Host::builder().guest_as("busybox", "plain").start();
    host.sh_ok(
        "mkdir -p /var/lib/machines/web.v /etc/machines
         cp -a /var/lib/machines/plain /var/lib/machines/web.v/web_1
         cp -a /var/lib/machines/plain /var/lib/machines/web.v/web_2+3-0
         cp -a /var/lib/machines/plain /var/lib/machines/web.v/web_9_s390x
         ln -s /var/lib/machines/plain /etc/machines/linked",
    );
    host.activate_machined();
    let before = Snapshot::take(&host);
    // The start takes an attempt of the version.
    for (name, root) in [("web", "/var/lib/machines/web.v/web_2+2-1"), ("linked", "/etc/machines/linked")] {
        host.coracle(&["start", name]);
        assert_eq!(host.property(name, "root"), root);
        host.coracle(&["stop", name]);
        host.assert_clean_stop(name);
    }
    before.assert_same(&host);
    let names = host.coracle(&["names"]);
    assert!(["plain", "web", "linked"].iter().all(|name| names.lines().any(|line| line == *name)), "{names}");
    host.define("plain", "");
    host.sh_ok("mkdir -p /usr/local/lib/machines/plain");
    let checked = host.exec(&["coracle", "check"]);
    let text = format!("{}{}", checked.stdout, checked.stderr);
    assert!(text.contains("'/usr/local/lib/machines/plain' is not used"), "{text}");
    host.stop();
}

#[test]
fn machines_of_nspawn_and_coracle_exclude_each_other() {
    let host = Host::builder().guest_as("busybox", "web").start();
    host.activate_machined();
    let job = nspawn(&host, "-D /var/lib/machines/web");
    assert_ne!(host.exec(&["coracle", "start", "web"]).status, 0);
    let status = host.coracle(&["status", "web"]);
    assert!(status.contains("root '/var/lib/machines/web' is in use by process"), "{status}");
    assert!(status.contains("(systemd-nspawn)"), "{status}");
    // A read-only machine reads what nspawn changes.
    let refused = host.exec(&["coracle", "run", "--read-only", "-D", "/var/lib/machines/web", "true"]);
    assert!(refused.status != 0 && refused.stderr.contains("is in use by process"), "{refused}");
    host.sh_ok("pkill -KILL -x sleep");
    job.wait(LONG);

    host.coracle(&["start", "web"]);
    let refused =
        host.exec(&["systemd-nspawn", "-q", "--register=no", "-D", "/var/lib/machines/web", "true"]);
    assert!(refused.status != 0 && refused.stderr.contains("busy"), "{refused}");
    for verb in [&["rename", "web", "other"][..], &["remove", "web"], &["clone", "web", "other"]] {
        let refused = host.exec(&[&["machinectl"], verb].concat());
        // The clone of a running image reads it.
        assert_eq!(refused.status != 0, verb[0] != "clone", "{verb:?} {refused}");
    }
    // The name is locked, not the image alone.
    let refused = host.exec(&["machinectl", "rename", "other", "web"]);
    assert_ne!(refused.status, 0, "{refused}");
    host.sh_ok("machinectl remove other");
    host.coracle(&["stop", "web"]);
    host.assert_clean_stop("web");
    host.sh_ok("machinectl rename web other && machinectl rename other web");
    has_no_locks(&host);
    host.stop();
}

#[test]
fn read_only_machines_share_a_root() {
    let host = Host::builder().guest_as("busybox", "base").start();
    host.activate_machined();
    for name in ["a", "b"] {
        host.define(name, "[root]\ndirectory = \"/var/lib/machines/base\"\nread-only = true\n");
        host.coracle(&["start", "--wait=running", name]);
    }
    let nspawn = nspawn(&host, "--read-only -D /var/lib/machines/base");
    let refused = host.exec(&["coracle", "run", "-q", "-D", "/var/lib/machines/base", "true"]);
    assert!(refused.status != 0 && refused.stderr.contains("is in use by machine 'a'"), "{refused}");
    let images = host.coracle(&["images", "--no-legend"]);
    assert_eq!(
        images.split_whitespace().collect::<Vec<_>>(),
        ["base", "directory", "no", "a", "b", "/var/lib/machines/base"]
    );
    host.coracle(&["stop", "a"]);
    host.assert_clean_stop("a");
    let refused = host.exec(&["coracle", "run", "-q", "-D", "/var/lib/machines/base", "true"]);
    assert!(refused.status != 0 && refused.stderr.contains("is in use by machine 'b'"), "{refused}");
    host.coracle(&["stop", "b"]);
    host.sh_ok("pkill -KILL -x sleep");
    nspawn.wait(LONG);
    host.sh_ok("coracle run -q -D /var/lib/machines/base true");
    has_no_locks(&host);
    host.stop();
}

#[test]
fn a_missing_root_is_created_from_a_template() {
    let host = Host::builder().guest_as("busybox", "base").on_disk().start();
    host.activate_machined();
    // The list of all files, and the rights and attributes that it does not show.
    host.sh_ok(
        "cat >/usr/local/bin/list <<'EOF'\n#!/bin/sh\ncd \"$1\" && find . -printf '%P %y %m %U:%G %s %b %n %l\\n' | sort && \
         find . -type f -exec md5sum {} + | sort; find odd -printf '%p %T@\\n' | sort\nEOF
         chmod 755 /usr/local/bin/list; cd /var/lib/machines/base; mkdir -p odd/empty; ln etc/passwd odd/hard
         mkfifo odd/fifo; mknod odd/device c 1 3; truncate -s 1M odd/hole; echo x >>odd/hole; ln -s /nowhere odd/link
         cp /bin/true odd/setuid; chown 1000:7 odd/setuid odd/empty; chmod 4755 odd/setuid; touch -d @1 odd/hole odd
         python3 -c 'import os, socket; socket.socket(socket.AF_UNIX).bind(\"odd/socket\")' || true
         list /var/lib/machines/base >/tmp/before",
    );
    let before = Snapshot::take(&host);
    let run = "coracle run --template=/var/lib/machines/base -D /var/lib/machines";
    let created = host.sh(&format!("{run}/new sh -c 'echo x >/own'"));
    assert!(created.status == 0 && created.stderr.contains("created '/var/lib/machines/new'"), "{created}");
    host.sh_ok("rm /var/lib/machines/new/own; list /var/lib/machines/new | diff /tmp/before -");
    // An existing one is used as it is.
    host.sh_ok("coracle run -q --template=/missing -D /var/lib/machines/new true");
    before.assert_same(&host);
    // The draft of a killed process is replaced, and a template in use is refused.
    host.sh_ok("mkdir -p /var/lib/machines/.#next.template/etc");
    let job = host.spawn(&["coracle", "run", "-q", "-D", "/var/lib/machines/base", "sleep", "600"]);
    host.wait_until(LONG, "coracle exec base -- true");
    let refused = host.sh(&format!("{run}/next true"));
    assert!(
        refused.status != 0 && refused.stderr.contains("'/var/lib/machines/base' is in use"),
        "{refused}"
    );
    host.sh_ok("test ! -e /var/lib/machines/next");
    host.coracle(&["terminate", "base"]);
    job.wait(LONG);
    host.sh_ok(&format!("{run}/next true"));
    before.assert_same(&host);
    host.sh_ok("! ls -d /var/lib/machines/.#*");
    host.stop();
}

#[test]
fn images_are_listed_with_their_users() {
    let host = Host::builder().guest_as("busybox", "base").on_disk().start();
    host.sh_ok(
        "cd /var/lib/machines; mkdir -p web.mstack/rw broken.mstack/redo /usr/local/lib/machines/base v.v/v_1
         ln -s ../base web.mstack/layer@0; chattr +i base 2>/dev/null || mount --bind -o ro base base",
    );
    host.coracle(&["start", "web"]);
    let json = host.coracle(&["images", "--json", "--usage"]);
    let rows: Vec<serde_json::Value> = serde_json::from_str(&json).unwrap();
    let find =
        |path: &str| rows.iter().find(|row| row["path"] == path).unwrap_or_else(|| panic!("{path}: {json}"));
    let base = find("/var/lib/machines/base");
    assert_eq!((&base["name"], &base["type"]), (&"base".into(), &"directory".into()), "{json}");
    assert_eq!((&base["read-only"], &base["used-by"][0]), (&true.into(), &"web".into()), "{json}");
    assert!(base["usage"].as_u64().unwrap() > 100_000 && base["hidden-by"].is_null(), "{json}");
    assert_eq!(find("/usr/local/lib/machines/base")["hidden-by"], "/var/lib/machines/base");
    assert_eq!(base["shared"], 0, "{json}");
    let web = find("/var/lib/machines/web.mstack");
    assert_eq!(web["shared"], base["usage"], "{json}");
    assert!(web["usage"].as_u64() < base["usage"].as_u64(), "{json}");
    assert_eq!(host.coracle(&["list-images"]), host.coracle(&["images"]));
    assert_eq!((&web["type"], &web["read-only"]), (&"stack".into(), &false.into()), "{json}");
    assert!(
        find("/var/lib/machines/broken.mstack")["problem"].as_str().unwrap().contains("unknown entry 'redo'")
    );
    assert_eq!(find("/var/lib/machines/v.v/v_1")["name"], "v");
    let table = host.coracle(&["images", "base"]);
    assert!(table.contains("hidden by /var/lib/machines/base") && !table.contains("USAGE"), "{table}");
    assert_ne!(host.exec(&["coracle", "images", "none"]).status, 0);
    host.coracle(&["stop", "web"]);
    host.sh_ok("chattr -i /var/lib/machines/base 2>/dev/null || umount /var/lib/machines/base");
    host.stop();
}
