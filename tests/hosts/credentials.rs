//! Credentials of machines: as systemd-nspawn passes them, in the guest, and nowhere else.

use crate::support::{Host, LONG, Output};

const TREE: &str = "/var/lib/machines/busybox";
/// The name, mode, owner and content of each credential.
const SHOW: &str = "cd $CREDENTIALS_DIRECTORY && stat -c '%n %a %u %g' . * && pwd && cat * && \
                    grep -o 'ramfs ro,nosuid,nodev,noexec' /proc/mounts";

#[track_caller]
fn coracle(host: &Host, options: &[&str], script: &str) -> Output {
    let command = ["coracle", "run", "-q", "--pipe", "-D", TREE];
    host.exec_for(LONG, &[&command, options, &["--", "sh", "-c", script]].concat())
}

#[test]
fn credentials_are_files_as_with_nspawn() {
    let host = Host::start(&["busybox"]);
    host.write("/root/file", "from a file\n");
    let options = ["--set-credential=b.given:line\\n\\x41\\n", "--load-credential=a:/root/file"];
    let command = ["systemd-nspawn", "-q", "--register=no", "--keep-unit", "--pipe", "-D", TREE];
    let theirs = host.exec_for(LONG, &[&command, &options[..], &["--", "sh", "-c", SHOW]].concat());
    let theirs = theirs.success("systemd-nspawn").stdout;
    for users in [&[][..], &["-U"]] {
        let ours = coracle(&host, &[&options[..], users].concat(), SHOW).success("coracle run").stdout;
        assert_eq!(ours, theirs);
    }
    assert!(theirs.contains("a 400 0 0\nb.given 400 0 0\n"), "{theirs}");
    assert!(theirs.contains("from a file\nline\nA\n"), "{theirs}");
    // Also for a command of a user without a way to become root.
    let user = ["--uid=65534", "--no-new-privileges=yes"];
    let shown = coracle(&host, &[&options[..], &user].concat(), SHOW).success("coracle run").stdout;
    assert!(shown.contains("a 444 0 0\n"), "{shown}");
    let refused = coracle(&host, &[&options[..], &user[..1]].concat(), SHOW);
    assert!(refused.stderr.contains("Permission denied"), "{refused}");
    for change in
        ["echo x >$CREDENTIALS_DIRECTORY/a", "rm $CREDENTIALS_DIRECTORY/a", "umount /run/host/credentials"]
    {
        let refused = coracle(&host, &[&options[..], &["-U"]].concat(), change);
        assert_ne!(refused.status, 0, "{refused}");
    }
    assert_eq!(coracle(&host, &[], "echo $CREDENTIALS_DIRECTORY; ls /run/host/credentials").stdout, "\n");
    host.stop();
}

#[test]
fn credentials_are_loaded_from_sockets_and_units() {
    let host = Host::start(&["busybox"]);
    host.write("/root/passed/key", "passed\n");
    host.write("/root/secret", "from a service\n");
    host.sh_ok(
        "systemd-run -q -u secrets systemd-socket-activate -l /run/secrets --accept --inetd cat /root/secret",
    );
    host.wait_until(LONG, "test -S /run/secrets");
    let show = "cat $CREDENTIALS_DIRECTORY/x";
    let loaded = coracle(&host, &["--load-credential=x:/run/secrets"], show);
    assert_eq!(loaded.success("coracle run").stdout, "from a service\n");
    let run = format!("coracle run -q --pipe -D {TREE} --load-credential=x:key -- sh -c '{show}'");
    assert_eq!(host.sh_ok(&format!("CREDENTIALS_DIRECTORY=/root/passed {run}")), "passed\n");
    for (option, hint) in [
        ("--load-credential=x:key", "hint: write an absolute path, store it in /etc/credstore, or pass it"),
        ("--load-credential=x:/nothere", "credential 'x': cannot read '/nothere'"),
    ] {
        let refused = coracle(&host, &[option], show);
        assert!(refused.status == 125 && refused.stderr.contains(hint), "{refused}");
    }
    let twice = coracle(&host, &["--set-credential=x:hunter2", "--load-credential=x:/root/secret"], show);
    assert!(twice.status == 2 && !twice.stderr.contains("hunter2"), "{twice}");
    // A dry run connects to no service.
    host.sh_ok("systemctl stop secrets");
    let plan = host.coracle(&["run", "-D", TREE, "--load-credential=x:/run/secrets", "--dry-run", "true"]);
    assert!(plan.contains("create credentials in '/run/host/credentials' 400"), "{plan}");
    host.define("busybox", "[credentials.load]\nx = 'key'\n");
    host.write(
        "/etc/systemd/system/coracle@busybox.service.d/key.conf",
        "[Service]\nLoadCredential=key:/root/passed/key\n",
    );
    host.sh_ok("systemctl daemon-reload");
    host.coracle(&["start", "busybox"]);
    let read = ["exec", "busybox", "cat", "/run/host/credentials/x"];
    assert_eq!(host.coracle(&read), "passed\n");
    // A reboot reads them again.
    let leader = host.machine_leader("busybox");
    host.write("/root/passed/key", "renewed\n");
    host.define("busybox", "[credentials.load]\nx = '/root/passed/key'\n");
    host.coracle(&["reboot", "busybox"]);
    host.wait_for_reboot("busybox", leader);
    assert_eq!(host.coracle(&read), "renewed\n");
    // The stores of the host, for a name that the unit does not have.
    host.write("/etc/credstore/stored", "stored\n");
    host.define("busybox", "[credentials.load]\nx = 'stored'\n");
    host.coracle(&["restart", "busybox"]);
    assert_eq!(host.coracle(&read), "stored\n");
    host.stop();
}

#[test]
fn systemd_uses_credentials_that_the_host_does_not_record() {
    let host = Host::start(&["trixie"]);
    let text =
        "[credentials.set]\n'my.secret' = 'hunter2'\n'tmpfiles.extra' = 'f /hello 0644 - - - hunter2'\n";
    host.define("trixie", text);
    let open = host.exec(&["coracle", "start", "trixie"]);
    assert!(
        open.status == 1 && open.stderr.contains("other users can read the credentials in '/etc/coracle"),
        "{open}"
    );
    // Also without the client.
    host.exec(&["systemctl", "start", "coracle@trixie"]);
    host.wait_for_unit("trixie", "failed");
    host.sh_ok("chmod 600 /etc/coracle/machines.d/trixie.toml");
    host.coracle(&["start", "--wait=ready", "trixie"]);
    let listed = host.coracle(&["exec", "trixie", "systemd-creds", "--system", "list"]);
    assert!(listed.contains("my.secret") && listed.contains("tmpfiles.extra"), "{listed}");
    let shown = host.coracle(&["exec", "trixie", "systemd-creds", "--system", "cat", "my.secret"]);
    assert_eq!(shown, "hunter2");
    assert_eq!(host.coracle(&["exec", "trixie", "cat", "/hello"]), "hunter2");
    // In no record, log, argument and variable of the host, and in no memory of the supervisor.
    host.sh_ok(
        "if grep -rl hunter2 /run/coracle /run/systemd /var/lib/coracle | grep .; then exit 1; fi
         if journalctl --no-pager -o verbose | grep hunter2; then exit 1; fi
         supervisor=$(coracle show trixie -p supervisor | cut -d= -f2)
         if grep -l hunter2 /proc/$supervisor/cmdline /proc/$supervisor/environ | grep .; then exit 1; fi
         ! coracle config --explain trixie | grep hunter2",
    );
    // A change is noticed.
    host.define("trixie", &text.replace("hunter2", "hunter3"));
    let changed = host.coracle(&["apply", "trixie"]);
    assert!(changed.contains("credentials.set") && !changed.contains("hunter"), "{changed}");
    host.stop();
}

#[test]
fn credentials_and_overlays_work_on_a_host_that_is_a_machine() {
    let host = Host::builder().in_coracle().guest("busybox").start();
    // Root of such a host may mount no ramfs, and set no trusted attributes.
    let options = ["--set-credential=a:secret", "--overlay=+/etc::/etc"];
    let script =
        "cat $CREDENTIALS_DIRECTORY/a; stat -c ' %a' $CREDENTIALS_DIRECTORY/a; echo x >/etc/x; cat /etc/x";
    let shown = coracle(&host, &options, script).success("coracle run").stdout;
    assert_eq!(shown, "secret 400\nx\n");
    host.stop();
}
