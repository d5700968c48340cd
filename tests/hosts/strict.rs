//! Coracle under the name of systemd-nspawn(1). Each case runs with the systemd-nspawn of the host too, and both
//! have the same output and exit status.

use crate::support::{Host, Snapshot};

const TREE: &str = "/var/lib/machines/busybox";

/// Starts a host on which Coracle is also called as `systemd-nspawn`.
fn host() -> (Host, Snapshot) {
    let host = Host::builder().guest_as("busybox", "busybox").on_disk().start();
    host.activate_machined();
    // The store is beside the tree: the host's own root is an overlay.
    host.sh_ok(
        "mkdir -p /usr/lib/coracle /var/lib/coracle; ln -s /usr/bin/coracle /usr/lib/coracle/systemd-nspawn
         mkdir -m 700 /var/lib/machines/.storage; ln -s /var/lib/machines/.storage /var/lib/coracle/storage
         /usr/lib/coracle/systemd-nspawn -q -x -M busybox true",
    );
    let before = Snapshot::take(&host);
    (host, before)
}

/// Arguments with the root of the tests, and what the machine prints and returns.
const COMMANDS: &[(&str, &str, i32)] = &[
    ("-q -P -D @ true", "", 0),
    ("-qPD@ sh -c 'exit 7'", "", 7),
    ("-q --pipe --directory @ sh -c 'pwd; exit 3' --boot", "/\n", 3),
    ("-q -P -D @ --chdir /etc pwd", "/etc\n", 0),
    ("-q -P -D @ -E PATH=/nothere:/bin -E A='b c' sh -c 'echo \"$PATH $A\"'", "/nothere:/bin b c\n", 0),
    ("-aqP -D @ --regis=no sh -c 'echo $$'", "2\n", 0),
    ("-q -P -D @ -u root --hostname=x hostname", "x\n", 0),
    ("-q -P -D @ --user root -- id -u", "0\n", 0),
    ("-q -P -D @ --volatile=yes -- touch /new", "", 0),
    ("-q -P -D @ nothere", "", 1),
    ("-q -P -D @ --bogus true", "", 1),
    ("-q -P -D /nothere true", "", 1),
    ("-q -P -M nothere true", "", 1),
    ("-q -P -D @ -M busybox -- hostname", "busybox\n", 0),
    ("-q -P -M busybox -- hostname", "busybox\n", 0),
    ("-q -P -D @ -x -- sh -c 'hostname | wc -c'", "25\n", 0),
    ("-q -D @ --console=pipe --as-pid2 -b", "", 1),
    ("--console=help", "autopipe\ninteractive\nread-only\npassive\npipe\n", 0),
];

#[test]
fn commands_have_the_output_and_the_status_of_systemd_nspawn() {
    let (host, before) = host();
    let mut different = Vec::new();
    for program in ["/usr/lib/coracle/systemd-nspawn", "/usr/bin/systemd-nspawn"] {
        for (words, expected, status) in COMMANDS {
            let words = words.replace('@', TREE);
            let output = host.sh(&format!("{program} {words} </dev/null"));
            let mut found: Vec<&str> = output.stdout.lines().collect();
            let mut lines: Vec<&str> = expected.lines().collect();
            if words.contains("=help") {
                // Older versions have fewer words.
                found.sort_unstable();
                lines.sort_unstable();
            }
            if (&found, output.status) != (&lines, *status) {
                different.push(format!("expected {lines:?} and {status}: {output}"));
            }
        }
        if program.contains("coracle") {
            before.assert_same(&host);
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
    host.stop();
}
