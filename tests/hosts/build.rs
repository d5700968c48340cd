//! Build sessions: disposable machines on a shared base, entered by commands.

use crate::support::{Host, LONG, Snapshot};

const BASE: &str = "/var/lib/machines/base";
const STORAGE: &str = "/var/lib/machines/.storage";

/// Starts a host with a base, and with the store beside it: the host's own root is an overlay.
fn host() -> Host {
    let host = Host::builder().guest_as("busybox", "base").on_disk().start();
    host.sh_ok(
        "mkdir -m 700 /var/lib/machines/.storage; mkdir -p /var/lib/coracle
         ln -s /var/lib/machines/.storage /var/lib/coracle/storage
         cat >/usr/local/bin/tree-of <<'EOF'\n#!/bin/sh\ncd \"$1\" && find . -printf '%P %y %m %U:%G %s %l\\n' | sort && \
         find . -type f -exec md5sum {} + | sort\nEOF
         chmod 755 /usr/local/bin/tree-of; tree-of /var/lib/machines/base >/tmp/before",
    );
    host.activate_machined();
    host.first_session(&[]);
    host
}

/// Installs a front end beside the program.
fn front_end(host: &Host, name: &str) -> String {
    host.sh_ok(&format!("install -d /usr/lib/coracle; ln -sf $(command -v coracle) /usr/lib/coracle/{name}"));
    format!("/usr/lib/coracle/{name}")
}

/// Asserts that the base is as before, and that nothing of a session is left.
#[track_caller]
fn is_clean(host: &Host, before: &Snapshot) {
    before.assert_same(host);
    host.sh_ok(&format!(
        "tree-of {BASE} | diff /tmp/before -; ! ls -A {STORAGE}/throwaway 2>/dev/null | grep ."
    ));
}

#[test]
fn a_session_runs_commands_and_leaves_nothing() {
    let host = host();
    let before = Snapshot::take(&host);
    let name = host.coracle(&["build", "begin", "base"]).trim().to_owned();
    assert!(name.starts_with("base-") && name.len() == 11, "{name}");
    host.sh_ok(&format!("coracle build list --no-legend | grep -E '^{name} +base +running +root +none '"));
    // Changes stay for the next command, and streams are separate.
    host.sh_ok(&format!("coracle build run {name} -- sh -c 'echo kept >/kept; rm -r /var/www'"));
    let output =
        host.exec(&["coracle", "build", "run", &name, "--", "sh", "-c", "cat /kept; echo bad >&2; exit 7"]);
    assert_eq!((output.status, output.stdout.as_str(), output.stderr.as_str()), (7, "kept\n", "bad\n"));
    // The preset.
    host.sh_ok(&format!(
        "run() {{ coracle build run {name} -- \"$@\"; }}
         run hostname | grep -x localhost; run sh -c 'umask' | grep -x 0022
         run sh -c 'echo $HOME $USER $LOGNAME $LANG' | grep -x '/root root root C.UTF-8'
         run cat /etc/hosts | grep -w ::1; run sh -c '! test -s /etc/resolv.conf'
         run sh -ec 'grep -w lo: /proc/net/dev; if grep : /proc/net/route; then exit 1; fi; ping -c 1 127.0.0.1'
         run sh -c '! grep -E \" /(tmp|run) \" /proc/mounts && stat -c %a /run/lock' | grep -x 1777
         run sh -c 'cat /proc/1/comm' | grep -i hold; run sh -c '! reboot -f'
         systemctl show -P Slice coracle-{name}.scope | grep -x coracle-build.slice
         ! machinectl show {name}"
    ));
    // The supervisor keeps no lock of its caller, and no pipe open.
    host.sh_ok(
        "exec 9>/tmp/lock; flock 9; coracle build begin base --name=free; exec 9>&-; flock -w 9 /tmp/lock true
         rm /tmp/lock; coracle build end free",
    );
    // What a command leaves is killed, and named in the history.
    host.sh_ok(&format!(
        "coracle build run {name} -- sh -c 'sleep 3000 & exit 3' </dev/null || test $? = 3
         if pgrep -fx 'sleep 3000'; then exit 1; fi
         coracle build run {name} --keep-processes -- sh -c 'sleep 3001 & :' | cat; pgrep -fx 'sleep 3001'
         coracle build show {name} --json | grep -A20 'sleep 3000' | grep -w '\"killed\": 1'"
    ));
    let summary = host.coracle(&["build", "end", &name]);
    assert!(summary.starts_with(&format!("{name}: ")) && summary.contains(" commands, "), "{summary}");
    host.sh_ok("! pgrep -fx 'sleep 3001'");
    is_clean(&host, &before);
    host.stop();
}

#[test]
fn commands_have_limits_of_their_own() {
    let host = host();
    let before = Snapshot::take(&host);
    let name = "limits";
    host.coracle(&["build", "begin", "base", "--name=limits", "--network=host"]);
    host.sh_ok(
        "run() { coracle build run limits \"$@\"; }
         ip link add row0 type veth peer name row1; run -- grep row0: /proc/net/dev
         run --offline -- sh -c '! grep row0: /proc/net/dev && ping -c 1 127.0.0.1'
         run --timeout=1s -- sleep 600 || test $? = 124
         run --timeout=1s --keep-processes -- sh -c 'setsid sleep 602 & sleep 603' || test $? = 124
         if pgrep -fx 'sleep 60[23]'; then exit 1; fi
         run --max-status=253 -- sh -c 'exit 254' || test $? = 253
         run --failure-status=254 -w /nowhere -- true || test $? = 254
         run -w /nowhere -- true || test $? = 125
         run -- /no/command || test $? = 127
         ip link delete row0",
    );
    // Side by side, each in a cgroup of its own.
    host.sh_ok(
        "for number in 1 2 3 4; do coracle build run limits -- sh -c \"sleep 0.2; echo $number\" & done >/tmp/all; wait
         sort /tmp/all | tr -d '\\n' | grep -x 1234; test $(ls -d /sys/fs/cgroup/coracle.slice/coracle-build.slice/coracle-limits.scope/payload/cmd-* | wc -l) -le 4",
    );
    // Signals reach all processes of the group; the status is that of the command.
    for (signal, status) in [("TERM", 143), ("INT", 130), ("HUP", 129)] {
        let command = "trap 'exit 3' USR1; sleep 604; exit 4";
        let job = host.spawn(&["coracle", "build", "run", "-E", "A=b", name, "--", "sh", "-c", command]);
        host.wait_until(LONG, "pgrep -fx 'sleep 604'");
        host.sh_ok(&format!("kill -{signal} $(pgrep -f '[c]oracle build run -E A=b')"));
        assert_eq!(job.wait(LONG).status, status, "{signal}");
        host.sh_ok("! pgrep -fx 'sleep 604'");
    }
    let command = "trap : TERM; sleep 605; exit 5";
    let job = host.spawn(&["coracle", "build", "run", "--keep-processes", name, "--", "sh", "-c", command]);
    host.wait_until(LONG, "pgrep -fx 'sleep 605'");
    host.sh_ok("kill -TERM $(pgrep -f '[c]oracle build run --keep-processes')");
    // Its shell waits for the process that the signal has reached too.
    assert_eq!(job.wait(LONG).status, 5);
    let job = host.spawn(&["coracle", "build", "run", name, "--", "sleep", "600"]);
    host.wait_until(LONG, "pgrep -fx 'sleep 600'");
    host.coracle(&["build", "end", name]);
    assert_eq!(job.wait(LONG).status, 137);
    is_clean(&host, &before);
    host.stop();
}

#[test]
fn a_killed_client_or_supervisor_leaves_nothing() {
    let host = host();
    let before = Snapshot::take(&host);
    for name in ["a", "b"] {
        host.coracle(&["build", "begin", "base", &format!("--name={name}")]);
    }
    // The client of a command: the next use of its cgroup kills what is left.
    let job = host.spawn(&["coracle", "build", "run", "a", "--", "sh", "-c", "setsid sleep 777 & sleep 778"]);
    host.wait_until(LONG, "pgrep -fx 'sleep 777' && pgrep -fx 'sleep 778'");
    host.sh_ok("kill -9 $(pgrep -f '[c]oracle build run a')");
    job.wait(LONG);
    host.wait_until(LONG, "! pgrep -fx 'sleep 778'");
    host.sh_ok("coracle build run a -- true; ! pgrep -fx 'sleep 777'");
    // The client of a session for one command: the session ends with it.
    let unschroot = front_end(&host, "unschroot");
    for client in
        ["coracle build once base --name=own --bind=/tmp:/x", &format!("{unschroot} -c base -n own")]
    {
        let job = host.spawn(&["sh", "-c", &format!("exec {client} -- sleep 779")]);
        host.wait_until(LONG, "pgrep -fx 'sleep 779'");
        host.sh_ok("kill -9 $(pgrep -f '[ ]-- sleep 779')");
        job.wait(LONG);
        host.wait_until(LONG, "! coracle build show own 2>/dev/null");
        host.sh_ok("! pgrep -fx 'sleep 779'");
    }
    // The supervisor: the kernel ends the session, which is removed by its caller.
    for name in ["a", "b"] {
        host.sh_ok(&format!("kill -9 {}", host.supervisor(name)));
    }
    host.wait_until(LONG, "coracle build list --no-legend | grep -c dead | grep -x 2");
    let output = host.exec(&["coracle", "build", "run", "a", "--", "true"]);
    assert!(output.status == 125 && output.stderr.contains("build end a"), "{output}");
    host.sh_ok(
        "coracle build once base -w / -- true; coracle build list --no-legend | grep -c dead | grep -x 2",
    );
    host.coracle(&["build", "end", "a"]);
    host.coracle(&["build", "clean"]);
    is_clean(&host, &before);
    // The client of a begin: no name is printed, and nothing is left.
    for delay in ["0.001", "0.005", "0.01", "0.02", "0.04"] {
        host.sh(&format!("timeout -s KILL {delay} coracle build begin base --name=k >/tmp/name"));
        host.wait_until(LONG, "! pgrep -f '[c]oracle build begin'");
        host.sh_ok("if test -s /tmp/name; then coracle build end k; fi; coracle build clean --all");
        is_clean(&host, &before);
    }
    // Both processes of a begin: the next cleanup removes what the launch has left.
    for delay in ["0.005", "0.01", "0.02", "0.03", "0.05", "0.08"] {
        host.sh(&format!(
            "coracle build begin base --name=k >/tmp/name & sleep {delay}; kill -9 $(pgrep -f '[c]oracle build begin'); wait"
        ));
        host.sh_ok("coracle build clean --all");
        is_clean(&host, &before);
    }
    host.stop();
}

#[test]
fn sessions_side_by_side_share_a_base() {
    let host = host();
    let before = Snapshot::take(&host);
    host.sh_ok(
        "for number in $(seq 20); do
             (coracle build begin base --name=s$number >/dev/null && coracle build run s$number -- sh -c \"echo $number >/number\") &
         done; wait
         for number in $(seq 20); do coracle build run s$number -- cat /number; done | tr '\\n' ' ' | grep -x \"$(seq -s ' ' 20) \"
         coracle build end $(coracle build list --no-legend | cut -d ' ' -f 1) | wc -l | grep -x 20",
    );
    is_clean(&host, &before);
    host.stop();
}

#[test]
fn a_store_that_holds_no_layers_is_replaced_by_memory() {
    let host = Host::builder().guest_as("busybox", "base").start();
    let output = host.exec(&["coracle", "build", "begin", "base", "--name=first"]);
    assert!(output.status == 0 && output.stderr.contains("in memory"), "{output}");
    host.sh_ok("coracle build run first -- sh -c 'echo x >/x; cat /x'; coracle build end first");
    let before = Snapshot::take(&host);
    host.sh_ok("coracle build once base --memory -w / -- sh -c 'echo x >/x; cat /x'");
    before.assert_same(&host);
    host.stop();
}

#[test]
fn wrong_options_are_refused_before_the_session_exists() {
    let host = host();
    let before = Snapshot::take(&host);
    for (words, status, text) in [
        (&["bas"][..], 1, "did you mean 'base'?"),
        (&["/nowhere"], 1, "cannot find the base"),
        (&["base", "--user=nobody:7"], 1, "not 7"),
        (&["base", "--user=x:0"], 1, "belongs to 'root'"),
        (&["base", "--user=x:70000"], 1, "outside the range"),
        (&["base", "--tmpfs"], 2, "--tmpfs"),
        (&["base", "--bind=/srv:/a", "--bind=/etc:/a"], 2, "both"),
        (&["base", "--memory-max=much"], 2, "much"),
    ] {
        let output = host.exec(&[&["coracle", "build", "begin"], words].concat());
        assert!(output.status == status && output.stdout.is_empty(), "{words:?}: {output}");
        assert!(output.stderr.contains(text), "{words:?}: {output}");
        is_clean(&host, &before);
    }
    for verb in [&["run", "x", "--", "true"][..], &["end", "x"], &["show", "x"]] {
        let output = host.exec(&[&["coracle", "build"], verb].concat());
        assert!(output.status != 0 && output.stderr.contains("no session 'x'"), "{output}");
    }
    // A session keeps writers of its base out, and shares it with other sessions.
    host.coracle(&["build", "begin", "base", "--name=one"]);
    host.coracle(&["build", "begin", "base", "--name=two"]);
    let output = host.exec(&["coracle", "run", "-q", "-D", BASE, "-M", "writer", "true"]);
    assert!(output.status == 125, "{output}");
    let output = host.exec(&["coracle", "build", "begin", "base", "--name=one"]);
    assert!(output.status == 1 && output.stderr.contains("'one'"), "{output}");
    host.coracle(&["build", "end", "one", "two"]);
    is_clean(&host, &before);
    host.stop();
}

#[test]
fn the_build_user_and_the_caller_own_the_same_files() {
    let host = host();
    host.sh_ok("useradd -m -u 1234 ann; install -d -o ann -g ann /var/tmp/src; install -d /var/tmp/src/sub; echo text | install -o ann -g ann /dev/stdin /var/tmp/src/file");
    let before = Snapshot::take(&host);
    for users in ["pick", "identity", "no"] {
        host.sh_ok(&format!(
            "cd /var/tmp/src; export SUDO_USER=ann SUDO_UID=1234 SUDO_GID=1234; unset HOME
             name=$(coracle build begin base --users={users} --bind=.:/build --bind=/var/tmp/src/sub:/host:ro --results=out)
             run() {{ coracle build run $name \"$@\"; }}
             run -- sh -c 'id -u; id -un; echo $HOME' | tr '\\n' ' ' | grep -x '1234 ann /home/ann '
             run -- sh -c 'stat -c %U /build/file; cd /build && echo more >>file; echo x >~/x' | grep -x ann
             fails() {{ if \"$@\"; then echo \"no failure: $*\" >&2; return 1; fi; }}
             fails run -- touch /host/x; fails run -- touch /etc/x; run -u root -- touch /etc/x
             run -- sh -c 'cp /bin/busybox /results/own; chmod 4755 /results/own'
             run -u root -- sh -c 'cd /results; mkdir -p a/b; echo 1 >a/b/c; cp /bin/busybox set; chmod 6755 set; ln -s /etc/passwd link; mkfifo fifo'
             fails run -u root -- mknod /results/disk b 1 3; run -u root -- mknod /results/device c 1 3 || true
             fails run -u root -- ln /build/file /results/hard; fails run -u root -- ln /etc/passwd /results/hard
             test $(stat -c %u /var/tmp/src/out/own) = 1234
             coracle build end $name
             for bad in '! -user ann' '! -group ann' '-type f -perm /6000' '-type f -links +1' '-type b' '-type c'; do
                 test -z \"$(find out $bad)\"; done
             test -L out/link; stat -c %u:%g /etc/passwd | grep -x 0:0; grep -c more file | grep -x 1
             rm -r out; echo text >file"
        ));
        is_clean(&host, &before);
    }
    // Without a range of ids, a file that another user had there stays that user's.
    host.sh_ok(
        "cd /var/tmp/src; export SUDO_USER=ann SUDO_UID=1234 SUDO_GID=1234; install -d -o ann -g ann out
         for users in identity no; do
             echo x >out/old; chown daemon:daemon out/old
             coracle build once base --users=$users --results=out -u root -- touch /results/new
             stat -c %U out/old out/new | tr '\\n' ' ' | grep -x 'daemon ann '; rm out/old out/new
         done; rm -r out",
    );
    is_clean(&host, &before);
    // Directories too deep to follow are reported, and change nothing for the files beside them.
    host.sh_ok(
        "cd /var/tmp/src; export SUDO_USER=ann SUDO_UID=1234 SUDO_GID=1234
         coracle build once base --results=out -- sh -c 'cp /bin/busybox /results/z; chmod 4755 /results/z; mkdir /results/m; cd /results/m; for i in $(seq 300); do mkdir d; cd d; done'
         stat -c '%U %a' out/z | grep -x 'ann 755'; journalctl --sync
         journalctl -b -t coracle | grep -F \"'/var/tmp/src/out': directories are nested deeper\"; rm -r out",
    );
    is_clean(&host, &before);
    // A user with another number, and one of the base.
    host.sh_ok(
        "cd /var/tmp/src; export SUDO_USER=ann SUDO_UID=1234 SUDO_GID=1234
         coracle build once base --user=builder:900 -- sh -c 'id -u; id -un; stat -c %U file; pwd' | tr '\\n' ' ' | grep -x '900 builder builder /build '
         coracle build once base --user=root -- sh -c 'id -u; stat -c %U file; touch made' | tr '\\n' ' ' | grep -x '0 root '
         stat -c %U made | grep -x ann; rm made
         coracle build once base -u nobody -- id -un | grep -x nobody
         coracle build once base -w / -- false || test $? = 1
         coracle build once nowhere --failure-status=99 -- true || test $? = 99
         coracle build once base --keep=failed -- sh -c 'exit 4' >/tmp/name || test $? = 4
         coracle build run $(cat /tmp/name) -- true; coracle build end $(cat /tmp/name)",
    );
    is_clean(&host, &before);
    host.stop();
}

#[test]
fn a_session_ends_by_its_timer_or_with_a_process() {
    let host = host();
    let before = Snapshot::take(&host);
    host.coracle(&["build", "begin", "base", "--name=timed", "--lifetime=1s"]);
    host.wait_until(LONG, "! coracle build show timed 2>/dev/null");
    is_clean(&host, &before);
    let job = host.spawn(&["sleep", "600"]);
    host.wait_until(LONG, "pgrep -fx 'sleep 600'");
    host.sh_ok("coracle build begin base --name=tied --while=$(pgrep -fx 'sleep 600')");
    host.sh_ok("coracle build run tied -- true; kill $(pgrep -fx 'sleep 600')");
    job.wait(LONG);
    host.wait_until(LONG, "! coracle build show tied 2>/dev/null");
    // The status of a command stays, also if its session has ended by itself.
    host.sh_ok("coracle build once base -w / --lifetime=1s -- sleep 600 || test $? = 137");
    let output = host.exec(&["coracle", "build", "begin", "base", "--while=999999"]);
    assert!(output.status == 1 && output.stderr.contains("process 999999 does not exist"), "{output}");
    is_clean(&host, &before);
    host.stop();
}

#[test]
fn the_calls_of_sbuild_work_through_unschroot() {
    let host = host();
    let unschroot = front_end(&host, "unschroot");
    let before = Snapshot::take(&host);
    // As Sbuild::ChrootInfoSchroot and Sbuild::ChrootSchroot call it.
    host.sh_ok(&format!(
        "{unschroot} --info | grep -x '  --- Chroot ---'; {unschroot} --info | grep -E '^  Aliases +base-sbuild base-[a-z0-9]+ base-'
         {unschroot} -l | grep -x chroot:base-sbuild; {unschroot} --config | grep -x 'root-users=root'
         id=$({unschroot} -c chroot:base-sbuild --begin-session)
         {unschroot} --info --chroot session:$id | grep -xE '  Session Purged +true'
         test -d $({unschroot} --info --chroot session:$id | sed -n 's/^  Location *//p')
         run() {{ {unschroot} -d / -c $id --run-session -q \"$@\"; }}
         run -u root -p -- /bin/sh -c 'mkdir /build; chmod 1777 /build; echo $SCHROOT_SESSION_ID' | grep -x $id
         LD_X=1 KEPT=2 run -u root -p -- /bin/sh -c 'echo $LD_X-$KEPT' | grep -x -- -2
         run -u nobody -p -- id -un | grep -x nobody
         run -u root -p -- sh -c 'exit 9' || test $? = 9
         ip link add row0 type veth peer name row1
         run -u root -- grep row0: /proc/net/dev; run -u root --isolate-network -- sh -c '! grep row0: /proc/net/dev'
         ip link delete row0
         {unschroot} -c $id --end-session; ! {unschroot} -i -c session:$id"
    ));
    is_clean(&host, &before);
    // A session for one command, in the directory of the caller.
    host.sh_ok(&format!(
        "cd /tmp; {unschroot} -c base -- pwd | grep -x /tmp; cd /root; {unschroot} -c base -u root true"
    ));
    // All sessions are ended at once, and none without a name.
    host.sh_ok(&format!(
        "{unschroot} -c base -b -n one; {unschroot} -c base -b -n two; if {unschroot} -e 2>/dev/null; then exit 1; fi
         coracle build show one --json >/dev/null; {unschroot} -e --all-sessions; ! coracle build list --no-legend | grep ."
    ));
    let output = host.exec(&[&unschroot, "-c", "nothing", "-b"]);
    assert_eq!((output.status, output.stderr.lines().next()), (1, Some("E: nothing: Chroot not found")));
    is_clean(&host, &before);
    host.stop();
}
