//! Definitions of build sessions in `build.d`, and sessions that a reboot of the host interrupts.

use crate::support::{Host, LONG, Snapshot};

const STORAGE: &str = "/var/lib/machines/.storage";

/// Starts a host with a base, and with the store beside it: the host's own root is an overlay.
fn host() -> (Host, Snapshot) {
    let host = Host::builder().guest_as("busybox", "base").on_disk().start();
    host.sh_ok(&format!(
        "mkdir -m 700 {STORAGE}; mkdir -p /var/lib/coracle /var/tmp/out; ln -s {STORAGE} /var/lib/coracle/storage
         install -d /usr/lib/coracle; ln -sf $(command -v coracle) /usr/lib/coracle/schroot"
    ));
    host.activate_machined();
    host.first_session(&["--sync"]);
    let before = Snapshot::take(&host);
    (host, before)
}

/// Asserts that nothing of a session is left.
#[track_caller]
fn is_clean(host: &Host, before: &Snapshot) {
    before.assert_same(host);
    host.sh_ok(&format!(
        "! ls -A {STORAGE}/throwaway {STORAGE}/synced {STORAGE}/trash /var/lib/coracle/sessions 2>/dev/null | grep -v : | grep ."
    ));
}

#[test]
fn a_definition_sets_the_defaults_of_its_sessions() {
    let (host, before) = host();
    host.write(
        "/etc/coracle/build.d/small.toml",
        "[root]\ndirectory = \"/var/lib/machines/base\"\n[resources]\ntasks-max = 99\n\
         [environment]\nFROM = \"definition\"\nOVER = \"definition\"\n[network]\nmode = \"host\"\n\
         [build]\naliases = [\"tiny\"]\nuser = \"builder:900\"\nresults = [\"/var/tmp/out\"]\n",
    );
    host.write("/run/coracle/build.d/small.toml.d/10-tasks.toml", "[resources]\ntasks-max = 98\n");
    host.sh_ok(
        "coracle check | grep 'no errors'
         name=$(coracle build begin small); echo $name | grep -E '^small-[a-z2-7]{6}$'
         coracle build list --no-legend | grep -E \"^$name +small +running +builder +host \"
         systemctl show -P TasksMax coracle-$name.scope | grep -x 98
         coracle build run $name -- sh -c 'id -u; id -un' | tr '\\n' ' ' | grep -x '900 builder '
         coracle build run $name -u root -- sh -c 'echo FROM=file >/etc/environment; echo FILE=file >>/etc/environment'
         coracle build run $name -E OVER=caller -- sh -c 'echo $FROM $FILE $OVER' | grep -x 'definition file caller'
         coracle exec -E OVER=caller $name -- sh -c 'echo $FROM $OVER' | grep -x 'definition caller'
         test $(stat -c %a /run/coracle/$name/environment.json) = 600
         coracle build run $name -- touch /results/made; coracle build end $name
         test $(stat -c %u /var/tmp/out/made) = 0; rm /var/tmp/out/made",
    );
    // Options of the caller replace it.
    host.sh_ok(
        "coracle build begin small --name=s --network=none --user=root --tasks-max=97
         coracle build list --no-legend | grep -E '^s +small +running +root +none '
         systemctl show -P TasksMax coracle-s.scope | grep -x 97
         coracle build run s -- sh -c '! test -s /etc/resolv.conf'; coracle build end s",
    );
    // By its names for schroot, with the network of the definition.
    host.sh_ok(
        "schroot=/usr/lib/coracle/schroot; $schroot -l | grep -x chroot:small; $schroot -la | grep -x chroot:base
         $schroot --info -c tiny | grep -E '^  Aliases .* tiny$'
         $schroot -c tiny -u root -d / -- id -u | grep -x 0; $schroot -c chroot:tiny -d / -- id -un | grep -x root",
    );
    // A session is recovered by its definition.
    host.coracle(&["build", "begin", "small", "--name=dead"]);
    host.sh_ok(&format!("kill -9 {}", host.supervisor("dead")));
    host.wait_until(LONG, "coracle build list --no-legend | grep -E '^dead .* dead '");
    host.sh_ok("mv /etc/coracle/build.d/small.toml /tmp; rm -r /run/coracle/build.d");
    let output = host.exec(&["coracle", "build", "recover", "dead"]);
    assert!(output.status == 1 && output.stderr.contains("the definition 'small'"), "{output}");
    host.sh_ok("mv /tmp/small.toml /etc/coracle/build.d; coracle build recover dead; coracle build end dead");
    // What a definition must not have.
    host.write("/etc/coracle/build.d/bad.toml", "[build]\nalias = ['x']\n");
    let output = host.exec(&["coracle", "build", "begin", "bad"]);
    assert!(output.status == 1 && output.stderr.contains("bad.toml:2:1"), "{output}");
    let output = host.exec(&["coracle", "build", "begin", "smal"]);
    assert!(output.status == 1 && output.stderr.contains("did you mean 'small'?"), "{output}");
    host.write("/etc/coracle/machines.d/web.toml", "[build]\nuser = 'x'\n");
    let output = host.exec(&["coracle", "check"]);
    assert!(output.status == 1 && output.stdout.contains("build.user"), "{output}");
    host.sh_ok("rm /etc/coracle/machines.d/web.toml /etc/coracle/build.d/*.toml");
    is_clean(&host, &before);
    host.stop();
}

#[test]
fn the_root_of_an_exposed_session_has_a_path_for_root_only() {
    let (host, before) = host();
    host.write(
        "/etc/coracle/build.d/open.toml",
        "[root]\ndirectory = \"/var/lib/machines/base\"\n[users]\nprivate = \"identity\"\n[build]\nexpose = true\n",
    );
    host.sh_ok(
        "schroot=/usr/lib/coracle/schroot; id=$($schroot -b -c open)
         at=$($schroot --location -c session:$id); test $at = /run/coracle/$id/root
         $schroot -r -c $id -u root -d / -- sh -c 'echo inside >/made; cp /bin/busybox /set; chmod 4755 /set'
         grep -x inside $at/made; echo outside >$at/made; $schroot -r -c $id -d / -- cat /made | grep -x outside
         as_user() { setpriv --reuid=nobody --regid=nogroup --clear-groups \"$@\" 2>/dev/null; }
         if as_user ls $at/ || as_user $at/set id -u; then exit 1; fi
         $schroot -e -c $id; test ! -e $at",
    );
    let output = host.exec(&["coracle", "build", "begin", "open", "--users=pick"]);
    assert!(output.status == 1 && output.stderr.contains("build.expose"), "{output}");
    host.sh_ok("rm /etc/coracle/build.d/open.toml");
    is_clean(&host, &before);
    host.stop();
}

/// Without a reboot: systemd ends the sessions, and the files in `/run` are lost.
#[test]
fn a_synced_session_outlasts_the_files_in_run() {
    let (host, before) = host();
    for name in ["kept", "lost"] {
        let sync = if name == "kept" { "--sync" } else { "--tasks-max=90" };
        host.coracle(&["build", "begin", "base", &format!("--name={name}"), sync]);
        host.coracle(&["build", "run", name, "--", "sh", "-c", "echo here >/kept"]);
    }
    host.sh_ok("systemctl stop coracle-kept.scope coracle-lost.scope");
    host.wait_until(LONG, "coracle build list --no-legend | grep -E '^kept .* dead '");
    host.wait_until(LONG, "! coracle build show lost 2>/dev/null");
    host.sh_ok("coracle build recover kept; coracle build run kept -- cat /kept | grep -x here");
    for is_killed in [false, true] {
        match is_killed {
            false => host.sh_ok("systemctl stop coracle-kept.scope"),
            true => host.sh_ok(&format!("kill -9 {}", host.supervisor("kept"))),
        };
        host.wait_until(LONG, "coracle build list --no-legend | grep -E '^kept .* dead '");
        host.sh_ok(
            "rm -r /run/coracle/kept; coracle build list --no-legend | grep -E '^kept .* dead '
             coracle build once base --sync -w / -- true
             coracle build recover kept; coracle build run kept -- cat /kept | grep -x here",
        );
    }
    // Ended by its caller, dead or alive.
    host.sh_ok("coracle build end kept; if coracle build show kept; then exit 1; fi");
    host.coracle(&["build", "begin", "base", "--name=kept", "--sync"]);
    host.sh_ok("systemctl stop coracle-kept.scope");
    host.wait_until(LONG, "coracle build list --no-legend | grep -E '^kept .* dead '");
    host.sh_ok(
        "rm -r /run/coracle/kept; coracle build end kept; if coracle build show kept; then exit 1; fi",
    );
    is_clean(&host, &before);
    host.stop();
}

/// Without a reboot, like the one before.
#[test]
fn changes_of_sessions_that_cannot_be_restored_stay() {
    let (host, before) = host();
    let process = host.spawn(&["sleep", "900"]);
    host.wait_until(LONG, "pgrep -fx 'sleep 900'");
    host.sh_ok(
        "coracle build begin base --name=kept --sync --while=$(pgrep -fx 'sleep 900')
         coracle build run kept -- sh -c 'echo here >/kept'; systemctl stop coracle-kept.scope",
    );
    host.wait_until(LONG, "coracle build list --no-legend | grep -E '^kept .* dead '");
    host.sh_ok("rm -r /run/coracle/kept");
    let once = "coracle build once base --sync -w / -- true";
    // The disk with them is not mounted.
    host.sh_ok(&format!(
        "mv {STORAGE}/synced {STORAGE}/disk; coracle build list --no-legend
         if coracle build begin base --name=kept 2>/run/error; then exit 1; fi
         grep 'cannot be restored' /run/error; mv {STORAGE}/disk {STORAGE}/synced; {once}"
    ));
    // The file of another session cannot be read.
    host.sh_ok(&format!(
        "cd /var/lib/coracle/sessions; cp kept.json /run/kept.json; echo {{ >kept.json; {once}; cat /run/kept.json >kept.json"
    ));
    // A machine has the name.
    host.sh_ok(&format!(
        "rm -r /run/coracle/kept; cp -a /var/lib/machines/base /var/lib/machines/kept; coracle start kept; {once}
         coracle stop kept; coracle remove kept"
    ));
    // After a reboot another process has the number.
    host.sh_ok(
        "coracle build list --no-legend | grep -E '^kept .* dead '
         grep '\"with-processes\":\\[\\]' /run/coracle/kept/session.json
         coracle build recover kept; coracle build run kept -- cat /kept | grep -x here; coracle build end kept",
    );
    host.sh_ok("kill $(pgrep -fx 'sleep 900')");
    process.wait(LONG);
    is_clean(&host, &before);
    host.stop();
}
