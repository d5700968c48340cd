//! Files of systemd.nspawn(5): in units, beside images, and in the foreground, where each case also runs with
//! the systemd-nspawn of the host.

mod cases;

use crate::support::{Host, LONG, Output, Snapshot};
use cases::{CASES, Case, UNITS};

const TRUSTED: &str = "/etc/systemd/nspawn/web.nspawn";
const UNTRUSTED: &str = "/var/lib/machines/web.nspawn";

/// Starts a host with an image that has no definition, and with a link that tells its network from a private
/// one.
fn host() -> Host {
    let host = Host::builder().guest_as("busybox", "web").on_disk().start();
    host.activate_machined();
    host.sh_ok("ip link add outer type bridge");
    host
}

/// Returns the output of a script in the machine; it ends at the first failure.
#[track_caller]
fn inside(host: &Host, script: &str) -> String {
    host.coracle(&["exec", "web", "--", "sh", "-euc", script])
}

#[test]
fn a_trusted_file_defines_a_machine_of_a_unit() {
    let host = host();
    host.sh_ok("mkdir /var/lib/machines/.data; echo content >/var/lib/machines/.data/file");
    let before = Snapshot::take(&host);
    host.write(
        TRUSTED,
        "# as for systemd-nspawn@.service\n[Exec]\nEnvironment=FROM=file \"TITLE=a b\"\nHostname=by-file\n\
         DropCapability=CAP_NET_RAW\nKilSignal=TERM\n[Files]\nBind=/var/lib/machines/.data:/data:idmap\nBindReadOnly=/var/lib/machines/.data:/fixed\n\
         TemporaryFileSystem=/scratch:size=1M\nInaccessible=/var/www\n[Network]\nVirtualEthernet=yes\nPort=8080:80\n",
    );
    let started = host.exec_for(LONG, &["coracle", "start", "web"]).success("start");
    assert!(started.stderr.contains("web.nspawn:6: warning: unknown key 'KilSignal'"), "{started}");
    let variables = inside(&host, "tr '\\0' '\\n' </proc/1/environ; hostname; cat /proc/1/comm");
    for line in ["FROM=file", "TITLE=a b", "by-file", "init"] {
        assert!(variables.lines().any(|found| found == line), "{line}: {variables}");
    }
    inside(
        &host,
        "grep -x content /data/file; echo new >/data/new; touch /fixed/new && exit 3
         grep -q ' /scratch tmpfs ' /proc/mounts; ls /var/www/index.html && exit 4; cut -d: -f1 /proc/net/dev | grep -q host0
         grep -q ' 4294967295$' /proc/self/uid_map && exit 5; true",
    );
    assert_eq!(host.read("/var/lib/machines/.data/new"), "new\n");
    host.ok(&["ping", "-c1", "-W5", &host.address("web")]);
    assert!(host.coracle(&["show", "web", "-p", "ports"]).contains("8080:80"));
    let explained = host.coracle(&["config", "--explain", "web"]);
    for line in ["web.nspawn:13", "web.nspawn:3", "boot.stop-timeout", "identity.hostname"] {
        assert!(explained.contains(line), "{line}: {explained}");
    }
    assert!(host.unit_journal("web").contains("web.nspawn:6"), "{}", host.unit_journal("web"));
    // A reboot reads the file again.
    host.write(TRUSTED, "[Exec]\nHostname=again\n");
    let leader = host.machine_leader("web");
    host.ask_in_guest("web", &["reboot"]);
    host.wait_for_reboot("web", leader);
    assert_eq!(inside(&host, "hostname"), "again\n");
    // A changed file is applied to the running machine, and a setting of `set` leaves the file in effect.
    host.write(TRUSTED, "[Exec]\nHostname=again\n[Files]\nBindReadOnly=/var/lib/machines/.data:/late\n");
    host.coracle(&["set", "web", "tasks-max=500"]);
    host.coracle(&["apply", "web"]);
    inside(&host, "grep -x content /late/file");
    host.coracle(&["restart", "web"]);
    inside(&host, "grep -x content /late/file; hostname | grep -x again");
    assert_eq!(host.unit("web", "TasksMax"), "500");
    host.coracle(&["stop", "web"]);
    host.sh_ok("rm -r /etc/coracle/machines.d/web.toml.d");
    before.assert_same(&host);

    // Ports need a link; the problem names the file.
    host.write(TRUSTED, "[Exec]\nPrivateUsersDelegate=1\n[Network]\nPrivate=no\nPort=8080:80\n");
    let refused = host.exec(&["coracle", "start", "web"]);
    let named = "web.nspawn:2: 'PrivateUsersDelegate=";
    assert!(refused.status == 1 && refused.stderr.contains(named), "{refused}");
    assert!(refused.stderr.contains("network.ports requires"), "{refused}");
    let refused = host.exec_for(LONG, &["systemctl", "start", "coracle@web"]);
    assert_ne!(refused.status, 0, "{refused}");
    host.wait_for_unit("web", "failed");
    let diagnosis = host.exec(&["coracle", "doctor", "web"]);
    assert!(diagnosis.stdout.contains(&format!("{named}': ids are not delegated")), "{diagnosis}");
    host.sh_ok("systemctl reset-failed");
    before.assert_same(&host);
    host.stop();
}

#[test]
fn a_unit_runs_a_command_of_its_file() {
    let host = host();
    let before = Snapshot::take(&host);
    host.write(TRUSTED, "[Exec]\nProcessTwo=yes\nParameters=sh -c 'echo \"said by $$\"; exec sleep 1000'\n");
    host.coracle(&["start", "web"]);
    host.wait_for_console("web", "said by 2");
    host.coracle(&["stop", "web"]);
    before.assert_same(&host);
    host.stop();
}

#[test]
fn an_untrusted_file_gives_no_rights() {
    let host = host();
    let before = Snapshot::take(&host);
    host.write(
        UNTRUSTED,
        "[Exec]\nEnvironment=FROM=file\nPrivateUsers=no\nCapability=all\nSystemCallFilter=@keyring\n\
         [Files]\nBindReadOnly=/etc:/host-etc\n[Network]\nPrivate=no\n",
    );
    let started = host.exec_for(LONG, &["coracle", "start", "web"]).success("start");
    for line in
        ["web.nspawn:3", "web.nspawn:4", "web.nspawn:5", "web.nspawn:7", "web.nspawn:9: warning: '[Network]'"]
    {
        assert!(started.stderr.contains(line), "{line}: {started}");
    }
    inside(
        &host,
        "tr '\\0' '\\n' </proc/1/environ | grep -x FROM=file; ls /host-etc 2>/dev/null && exit 3
         cut -d: -f1 /proc/net/dev | grep -q host0; grep -q ' 4294967295$' /proc/self/uid_map && exit 4; true",
    );
    let capabilities = |host: &Host| inside(host, "grep CapBnd /proc/1/status");
    let untrusted = capabilities(&host);
    host.coracle(&["stop", "web"]);
    before.assert_same(&host);
    // The same file of the administrator.
    host.sh_ok(&format!("mkdir -p /etc/systemd/nspawn; mv {UNTRUSTED} {TRUSTED}"));
    host.coracle(&["start", "web"]);
    inside(
        &host,
        "ls /host-etc/passwd; grep -q ' 4294967295$' /proc/self/uid_map
         cut -d: -f1 /proc/net/dev | grep -q host0 && exit 3; true",
    );
    assert_ne!(capabilities(&host), untrusted);
    host.coracle(&["stop", "web"]);
    before.assert_same(&host);
    // A definition replaces the file, and the start says so.
    host.define("web", "");
    let started = host.exec_for(LONG, &["coracle", "start", "web"]).success("start");
    assert!(started.stderr.contains("web.nspawn: warning: the file is not read"), "{started}");
    assert!(host.coracle(&["check"]).contains("web.nspawn: warning: the file is not read"));
    assert_eq!(capabilities(&host), untrusted);
    host.coracle(&["stop", "web"]);
    before.assert_same(&host);
    host.stop();
}

/// Prints the effects of settings, in the machine.
const SHOW: &str = r#"#!/bin/sh
links=$(cut -s -d: -f1 /proc/net/dev | tr -d ' ' | sort | tr '\n' ',')
scratch=$(sed -n 's@^[^ ]* /scratch \([a-z]*\) .*@\1@p' /proc/mounts)
echo "$(hostname) file=$FILE option=$OPTION bound=$(cat /bound/file 2>/dev/null) scratch=$scratch links=$links"
printf 'arguments='
[ $# = 0 ] || printf '<%s>' "$@"
printf '\npid=%s\n' $$
# Without a setting, systemd-nspawn has other values.
case $PWD in /srv) pwd ;; esac
case $container_uuid in 6d1d*) echo "$container_uuid" ;; esac
grep -e CapBnd -e NoNewPrivs /proc/self/status
"#;

#[test]
fn files_mean_the_same_to_systemd_nspawn() {
    let host = host();
    // The host's own root is an overlay, which cannot have the changes of an ephemeral machine.
    host.sh_ok(
        "mkdir -m 700 /var/lib/machines/.storage; mkdir -p /var/lib/coracle
         ln -s /var/lib/machines/.storage /var/lib/coracle/storage",
    );
    host.sh_ok("mkdir -p /srv/a:b /var/lib/machines/web/srv; echo found >/srv/a:b/file");
    host.write("/var/lib/machines/web/usr/bin/show", SHOW);
    host.sh_ok("chmod 755 /var/lib/machines/web/usr/bin/show; : >/var/lib/machines/web/etc/machine-id");
    let mut wrong = Vec::new();
    for Case { place, file, words, shown } in CASES {
        host.sh_ok(&format!("rm -f {TRUSTED} {UNTRUSTED}"));
        host.write(place, file);
        let run = |program: &[&str]| {
            host.exec_for(LONG, &[program, &["-q", "-M", "web", "--console=pipe"], *words].concat())
        };
        let theirs = run(&["systemd-nspawn", "--register=no", "--keep-unit"]);
        let ours = run(&["coracle", "run", "--register=no", "--keep-unit"]);
        let is_as_shown = |out: &Output| match shown {
            Some(shown) => out.status == 0 && out.stdout.contains(shown),
            None => out.status != 0,
        };
        if !is_as_shown(&theirs) || !is_as_shown(&ours) || (shown.is_some() && theirs.stdout != ours.stdout) {
            wrong.push(format!("{file}{words:?}\ntheirs: {theirs}\nours: {ours}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    host.stop();
}

#[test]
fn a_unit_is_as_that_of_systemd_nspawn() {
    let host = host();
    host.sh_ok("mkdir -p /srv/a:b /var/lib/machines/web/srv; echo found >/srv/a:b/file");
    host.write("/var/lib/machines/web/usr/bin/show", SHOW);
    host.sh_ok("chmod 755 /var/lib/machines/web/usr/bin/show; : >/var/lib/machines/web/etc/machine-id");
    let mut wrong = Vec::new();
    for (place, file, shown) in UNITS {
        host.sh_ok(&format!("rm -f {TRUSTED} {UNTRUSTED}"));
        host.write(place, file);
        let run = |unit: &str| {
            host.exec_for(LONG, &["systemctl", "start", unit]).success("start");
            host.wait_until(LONG, "grep -x init /proc/$(machinectl show web -p Leader --value)/comm");
            // Each command has the capabilities of the host: those of PID 1 count.
            let script = "tr '\\0' '\\n' </proc/1/environ | grep ^FILE; show | head -n 1; readlink /proc/1/cwd
                grep NoNewPrivs /proc/1/status; grep -q ' 4294967295$' /proc/self/uid_map && echo 'ids of the host'; true";
            let out = host.in_guest("web", &["sh", "-c", script]);
            // Busybox does not know the signal of systemd-nspawn.
            host.sh_ok("kill -9 $(machinectl show web -p Leader --value)");
            host.wait_until(LONG, &format!("systemctl is-active {unit} | grep -e ^inactive -e ^failed"));
            host.sh_ok("systemctl reset-failed");
            out.stdout
        };
        let (theirs, ours) = (run("systemd-nspawn@web"), run("coracle@web"));
        if theirs != ours || !ours.contains(shown) {
            wrong.push(format!("{file}\ntheirs: {theirs}\nours: {ours}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    host.stop();
}
