//! Images of distributions: the first one creates a base, further ones stand on it. The recipe of the tests copies a
//! tree of the host; `callers` installs a Debian.

use crate::support::{Host, LONG};

/// A recipe that copies `/var/lib/machines/.source`, after a program that shows its namespaces and its environment.
const RECIPE: &str = "suite = 'one'
packages = ['init']
keyring = ['/usr/share/keyrings/own.gpg']
keyring-package = 'own-keyring'

[architectures]
x86_64 = 'amd64'
aarch64 = 'arm64'

[[step]]
program = 'own-program'
package = 'own'
arguments = ['{suite}', '{arch}', '{tree}', '{keyring}', '{mirror}', '{packages}']

[[step]]
program = 'cp'
package = 'coreutils'
arguments = ['-aT', '/var/lib/machines/.source', '{tree}']
";
const PROGRAM: &str = "#!/bin/bash
echo \"$*\" >>/run/calls
readlink /proc/self/ns/{mnt,pid,ipc,uts,net} /proc/$$/exe >/run/namespaces
echo $$ >/run/pid; hostname changed; mount -t tmpfs tmpfs /mnt; tty >/run/tty; env >/run/environment
[ ! -e /run/fail ] || { echo 'E: no such suite'; echo 'it ends' >&2; exit 25; }
while [ -e /run/hang ]; do sleep 0.01; done
";

/// Starts a host with a recipe, whose store is on its disk: the host's own root is an overlay.
fn host() -> Host {
    let host = Host::builder().guest_as("trixie", ".source").on_disk().start();
    host.sh_ok(
        "mkdir -m 700 /var/lib/machines/.storage; mkdir -p /var/lib/coracle
         ln -s /var/lib/machines/.storage /var/lib/coracle/storage
         cd /var/lib/machines/.source/etc; echo 0123456789abcdef0123456789abcdef >machine-id; uname -n >hostname
         echo nameserver 192.0.2.1 >resolv.conf",
    );
    host.write("/etc/coracle/distributions.d/own.toml", RECIPE);
    host.write("/usr/local/bin/own-program", PROGRAM);
    host.sh_ok(
        "chmod +x /usr/local/bin/own-program; mkdir -p /usr/share/keyrings; : >/usr/share/keyrings/own.gpg",
    );
    host.activate_machined();
    host
}

#[track_caller]
fn has_no_drafts(host: &Host) {
    host.sh_ok(
        "! ls -d /run/systemd/nspawn/locks/* /var/lib/machines/.#* /var/lib/coracle/storage/tmp/* \
         /var/lib/coracle/storage/trash/* /run/coracle/.locks/base-* 2>/dev/null | grep .",
    );
}

#[test]
fn a_second_image_stands_on_the_base_of_the_first() {
    let host = host();
    let first = host.coracle(&["create", "web", "--from", "own", "--mirror=https://example.org/own"]);
    let lines: Vec<&str> = first.lines().collect();
    let base = "web: base own:one amd64, created by cp and verified with own-keyring in ";
    assert!(lines[0].starts_with(base) && lines[1].starts_with("web: "), "{first}");
    has_no_drafts(&host);
    let calls = host.read("/run/calls");
    assert!(calls.starts_with("one amd64 /var/lib/coracle/storage/tmp/"), "{calls}");
    assert!(calls.ends_with("/tree /usr/share/keyrings/own.gpg https://example.org/own init\n"), "{calls}");
    let second = host.coracle(&["create", "shop", "--from=own:one", "--mirror=https://example.org/own"]);
    assert!(second.starts_with("shop: base own:one amd64, created today\nshop: "), "{second}");
    assert!(second.trim().ends_with(" ms"), "{second}");
    assert_eq!(host.read("/run/calls"), calls, "no program is called again");

    // Neither the host nor the machines share an identity.
    for name in ["web", "shop"] {
        host.coracle(&["start", name]);
        host.wait_until(
            LONG,
            &format!("coracle exec {name} -- systemctl is-system-running | grep -x running"),
        );
        assert_eq!(host.coracle(&["exec", name, "--", "hostname"]).trim(), name);
        host.sh_ok(&format!("coracle exec {name} -- sh -c '! grep 0123456789abcdef /etc/machine-id && ! grep 192.0.2.1 /etc/resolv.conf'"));
    }
    host.sh_ok(
        "coracle exec web -- sh -c 'echo web >/root/which'; ! coracle exec shop -- test -e /root/which",
    );
    for name in ["web", "shop"] {
        host.coracle(&["stop", name]);
        host.assert_clean_stop(name);
    }

    // Unused images go, the base stays.
    host.coracle(&["remove", "web", "shop"]);
    assert_eq!(host.coracle(&["prune"]), "");
    let json = host.coracle(&[
        "create",
        "web",
        "--from=own",
        "--mirror=https://example.org/own",
        "--directory",
        "--json",
    ]);
    assert!(json.contains("\"age\": ") && json.contains("\"duration-ms\": null"), "{json}");
    host.sh_ok("test -d /var/lib/machines/web/usr; rm -r /var/lib/machines/web; coracle prune");
    assert_eq!(host.read("/run/calls"), calls);
    host.coracle(&["create", "web", "--from=own", "--mirror=https://example.org/own", "--refresh"]);
    host.sh_ok("test $(wc -l </run/calls) = 2");
    // The former base has no user.
    let pruned = host.coracle(&["prune"]);
    assert!(pruned.starts_with("layer ") && pruned.lines().count() == 1, "{pruned}");
    host.stop();
}

#[test]
fn programs_run_in_namespaces_of_their_own() {
    let host = host();
    host.coracle(&["create", "web", "--from=own"]);
    assert_eq!(host.read("/run/pid"), "1\n");
    assert_eq!(host.read("/run/tty"), "not a tty\n");
    host.sh_ok(
        "for own in mnt pid ipc uts; do
             if grep -F \"$(readlink /proc/self/ns/$own)\" /run/namespaces; then exit 1; fi
         done
         grep -F \"$(readlink /proc/self/ns/net)\" /run/namespaces; grep -x /usr/bin/bash /run/namespaces
         [ \"$(hostname)\" != changed ]; if mountpoint /mnt; then exit 1; fi; grep -x HOME=/root /run/environment",
    );
    host.stop();
}

#[test]
fn failures_leave_nothing() {
    let host = host();
    let refused = |arguments: &str, cause: &str, hint: &str| {
        let failed = host.sh(&format!("coracle create web --from={arguments}"));
        let text = &failed.stderr;
        assert!(failed.status != 0 && text.contains(cause) && text.contains(hint), "{failed}");
        has_no_drafts(&host);
        host.sh_ok("! ls -d /var/lib/machines/web* 2>/dev/null && ! ls -A /var/lib/coracle/storage/layers 2>/dev/null | grep .");
    };
    host.sh_ok("touch /run/fail");
    refused("own", "it failed with exit status 25: E: no such suite", "");
    host.sh_ok("rm /run/fail");
    refused("owm", "there is no recipe for the distribution 'owm'", "hint: did you mean 'own'?");
    refused("own --arch=sparc", "no architecture 'sparc'", "hint: known are arm64, amd64");
    refused("alpine", "the programs that create alpine know no mirror of it", "hint: name one: --mirror=URL");
    refused(
        "alpine --mirror=https://example.org",
        "the program 'apk' is not installed",
        "hint: install the package 'apk-tools'",
    );
    host.sh_ok("mv /usr/share/keyrings/own.gpg /run");
    refused("own", "the keys of own are missing", "hint: install the package 'own-keyring'");
    host.sh_ok("mv /run/own.gpg /usr/share/keyrings/own.gpg; touch /run/hang");

    // Interrupted, and killed: the programs end, too.
    for signal in ["INT", "KILL"] {
        host.sh_ok("rm -f /run/pid; setsid coracle create web --from=own </dev/null >/run/said 2>&1 & echo $! >/run/creator");
        host.wait_until(LONG, "pgrep -f /usr/local/bin/[o]wn-program");
        host.sh_ok(&format!("kill -{signal} $(cat /run/creator)"));
        host.wait_until(LONG, "! pgrep -x coracle && ! pgrep -f /usr/local/bin/[o]wn-program");
        if signal == "KILL" {
            host.sh_ok("coracle prune");
            // Lock files of killed processes stay.
            host.sh_ok("rm -f /run/coracle/.locks/base-* /run/systemd/nspawn/locks/name-web");
        }
        has_no_drafts(&host);
        host.sh_ok("! ls -d /var/lib/machines/web* 2>/dev/null && ! ls -A /var/lib/coracle/storage/layers 2>/dev/null | grep .");
    }

    // Two commands create the same base once.
    host.sh_ok("rm /run/calls; for name in web shop; do setsid coracle create $name --from=own </dev/null >/run/said-$name 2>&1 & done");
    host.wait_until(LONG, "test -e /run/calls");
    host.sh_ok("rm /run/hang");
    host.wait_until(LONG, "! pgrep -x coracle");
    host.sh_ok("test $(wc -l </run/calls) = 1; coracle images --no-legend | grep '^web '; coracle images --no-legend | grep '^shop '");
    has_no_drafts(&host);
    host.stop();
}
