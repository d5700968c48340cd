//! The server of testbeds for autopkgtest(1), by its line protocol.

use crate::support::{Host, LONG, Snapshot};

const STORAGE: &str = "/var/lib/machines/.storage";
/// Starts a server in the background, and defines functions that send requests and run commands.
const SERVER: &str = "rm -f /tmp/in /tmp/out; mkfifo /tmp/in /tmp/out
serve() { autopkgtest-virt-coracle \"$@\" </tmp/in >/tmp/out 2>/tmp/errors & server=$!; exec 8>/tmp/in 9</tmp/out; read -r answer <&9; test \"$answer\" = ok; }
ask() { echo \"$*\" >&8; read -r answer <&9 || answer=none; }
open() { ask open; scratch=${answer#ok }; ask print-execute-command; command=$(echo \"${answer#ok }\" | tr , ' '); }
run() { $command \"$@\" </dev/null; }
";

fn host(base: &str) -> (Host, Snapshot) {
    let host = Host::builder().guest_as(base, "base").on_disk().start();
    host.sh_ok(&format!(
        "mkdir -p -m 1777 /var/lib/machines/base/var/tmp; mkdir -m 700 {STORAGE}; mkdir -p /var/lib/coracle; ln -s {STORAGE} /var/lib/coracle/storage"
    ));
    host.activate_machined();
    host.first_session(&["--network=nat"]);
    let before = Snapshot::take(&host);
    (host, before)
}

#[track_caller]
fn is_clean(host: &Host, before: &Snapshot) {
    host.wait_until(LONG, "! coracle build list --no-legend | grep .");
    before.assert_same(host);
    host.sh_ok(&format!("! ls -A {STORAGE}/throwaway | grep ."));
}

#[test]
fn a_testbed_runs_commands_copies_files_and_is_reverted() {
    let (host, before) = host("busybox");
    host.sh_ok(&format!(
        "{SERVER} cd /tmp; serve base; ask capabilities
         test \"$answer\" = 'ok revert revert-full-system root-on-testbed suggested-normal-user=tester'
         open; run stat -c '%a %u' $scratch | grep -x '1777 0'; run sh -c 'id -u; pwd' | tr '\\n' ' ' | grep -x '0 / '
         run id -u tester; run sh -c 'echo 1 >/made'; run sh -c 'exit 255' || test $? = 253
         run sh -c 'sleep 900 & echo left' | grep -x left; pgrep -fx 'sleep 900'
         mkdir -p /tmp/down/sub; echo a >/tmp/down/sub/a; chown -R 5:5 /tmp/down; chmod 750 /tmp/down/sub/a
         ask copydown /tmp/down/ $scratch/tree/; test \"$answer\" = ok
         run stat -c '%a %u' $scratch/tree/sub/a | grep -x '750 0'
         rm /tmp/down/sub/a; echo b >/tmp/down/sub/b; ask copydown /tmp/down/ $scratch/tree/
         run cat $scratch/tree/sub/a $scratch/tree/sub/b | tr '\\n' ' ' | grep -x 'a b '
         run chown -R 7:7 $scratch/tree; ask copyup $scratch/tree/ /tmp/up/; test \"$answer\" = ok
         ask copyup $scratch/tree/ /tmp/up/; stat -c %u /tmp/up/sub/a /tmp/up/sub | sort -u | grep -x 0
         ask copydown /tmp/down/sub/b $scratch/a%20b; run cat \"$scratch/a b\" | grep -x b
         ask copyup $scratch/a%20b /tmp/up/file; grep -x b /tmp/up/file
         ask copyup $scratch/a%20b up/relative; test \"$answer\" = ok; grep -x b /tmp/up/relative
         ask auxverb_debug_fail; test \"$answer\" = ok; before=$scratch
         ask revert; test \"$answer\" = \"ok $before\"; ask print-execute-command; command=$(echo \"${{answer#ok }}\" | tr , ' ')
         run sh -ec \"test ! -e /made; test -d $scratch; test ! -e $scratch/tree\"; if pgrep -fx 'sleep 900'; then exit 1; fi
         ask close; test \"$answer\" = ok; if coracle build list --no-legend | grep .; then exit 1; fi
         open; run true; echo quit >&8; wait $server; rm -r /tmp/up /tmp/down /tmp/in /tmp/out /tmp/errors"
    ));
    is_clean(&host, &before);
    host.stop();
}

#[test]
fn a_failed_request_ends_the_server_and_its_session() {
    let (host, before) = host("busybox");
    let long = "a".repeat(70_000);
    for (number, request) in
        ["unknown", "open", "reboot", "copyup /missing /tmp/x", "copydown /etc/ /tmp/x", "open%", &long]
            .iter()
            .enumerate()
    {
        host.sh_ok(&format!(
            "{SERVER} serve base; open; echo '{request}' >&8; status=0; wait $server || status=$?; test $status = 12
             grep . /tmp/errors; : {number}"
        ));
        is_clean(&host, &before);
    }
    // The end of the caller, and a signal.
    host.sh_ok(&format!(
        "{SERVER} serve base; open; exec 8>&-; status=0; wait $server || status=$?; test $status = 12"
    ));
    is_clean(&host, &before);
    host.sh_ok(&format!(
        "{SERVER} serve base; open; kill -9 $server; wait $server || true; rm -f /tmp/in /tmp/out /tmp/errors"
    ));
    is_clean(&host, &before);
    host.stop();
}

#[test]
fn a_booted_testbed_reboots_with_its_files() {
    let (host, before) = host("trixie");
    host.sh_ok(&format!(
        "{SERVER} serve --boot base; ask capabilities; echo \"$answer\" | grep -w isolation-container | grep -w reboot
         open; run systemctl is-system-running --wait || true; run cat /proc/1/comm | grep -x systemd
         run touch /run/mark $scratch/kept; ask reboot; test \"$answer\" = ok
         run sh -ec \"test ! -e /run/mark; test -e $scratch/kept; touch /run/mark /run/autopkgtest-reboot-prepare-mark\"
         (run sh -c 'while test -e /run/autopkgtest-reboot-prepare-mark; do sleep 0.1; done; systemctl reboot') &
         ask reboot prepare-only; test \"$answer\" = ok
         run sh -ec \"test ! -e /run/mark; test -e $scratch/kept\"
         ask revert; ask print-execute-command; command=$(echo \"${{answer#ok }}\" | tr , ' '); run test ! -e $scratch/kept
         echo quit >&8; wait $server; rm -f /tmp/in /tmp/out /tmp/errors"
    ));
    is_clean(&host, &before);
    // A session with an init is begun when it is ready, and its end does not wait for a shutdown.
    host.sh_ok("coracle build begin base --name=s --boot; coracle build run s -- systemctl is-active basic.target; coracle build end s");
    is_clean(&host, &before);
    host.stop();
}
