//! The service `io.coracle1` for users without the rights of root: copies, bind mounts, settings and definitions.

use super::bus::{ALL_OF_WEB, by, host, is_refused, rule};
use crate::support::{Host, LONG, Output};

/// A tree of `ann`, and its listing.
const TREE: &str = "mkdir -p ~/tree/below ~/tree/empty && cd ~/tree && echo text >below/file && chmod 640 below/file && \
    ln below/file same && ln -s below/file link && mkfifo pipe && truncate -s 20M sparse && touch -d '2001-02-03' empty \
    'with space' && head -c 3000000 /dev/urandom >large && chmod 700 empty";

/// Lists a tree of the machine, with types, modes, owners, sizes and times.
fn listing(host: &Host, tree: &str) -> String {
    let script = format!(
        "cd {tree} && find . | sort | while read -r file; do stat -c '%n %F %a %u %g %s %Y' \"$file\"; done && sha256sum large"
    );
    host.ok(&["coracle", "exec", "web", "--", "sh", "-ec", &script])
}

/// Returns status, output and error. Warnings of a job are in the journal.
fn of(out: &Output) -> (i32, &str, &str) {
    (out.status, &out.stdout, if out.status == 0 { "" } else { &out.stderr })
}

#[test]
fn refusals_name_the_action_and_the_cure() {
    let host = host();
    by(&host, "ann", "echo x >~/x").success("a file");
    is_refused(&host, "coracle copy-to web ~/x /tmp/x", 1, "enter");
    is_refused(&host, "tar c -C ~ x | coracle copy-to web - /tmp", 1, "enter");
    is_refused(&host, "coracle copy-from web /etc/passwd ~/passwd", 1, "enter");
    is_refused(&host, "coracle copy-from web /etc/passwd - >/dev/null", 1, "enter");
    is_refused(&host, "coracle bind web /srv /mnt", 1, "configure");
    is_refused(&host, "coracle unbind web /mnt", 1, "configure");
    is_refused(&host, "coracle set web memory-max=1G", 1, "configure");
    is_refused(&host, "coracle apply web", 1, "configure");
    is_refused(&host, "echo '[boot]' | coracle edit web --from=-", 1, "configure");
    assert!(by(&host, "ann", "test ! -e ~/passwd").status == 0, "nothing was written");
    // The list of bind mounts is for all.
    by(&host, "ann", "coracle bind web").success("a list");
    host.stop();
}

#[test]
fn copies_are_those_of_root() {
    let host = host();
    rule(&host, ALL_OF_WEB);
    by(&host, "ann", TREE).success("a tree");
    by(&host, "ann", "coracle copy-to web ~/tree /tmp/by-user").success("a copy");
    host.ok(&["coracle", "copy-to", "web", "/home/ann/tree", "/tmp/by-root"]);
    assert_eq!(listing(&host, "/tmp/by-user"), listing(&host, "/tmp/by-root"));
    // Into an existing directory, a single file, a link, and an archive.
    by(&host, "ann", "mkdir -p ~/w && cd ~/w && echo one >one && coracle copy-to web one /tmp")
        .success("a file");
    by(&host, "ann", "cd ~/w && ln -s one two && coracle copy-to -P web two /tmp").success("a link");
    by(&host, "ann", "tar c -C ~/w one | coracle copy-to --force web - /tmp").success("an archive");
    let script = "cat /tmp/one; readlink /tmp/two";
    assert_eq!(host.ok(&["coracle", "exec", "web", "--", "sh", "-ec", script]), "one\none\n");
    // The same errors as root's.
    for line in [
        "coracle copy-to web one /tmp",
        "coracle copy-to web no-such-file /tmp/x",
        "coracle copy-to web one relative",
        "coracle copy-to web one /no/such/directory/x",
        "coracle copy-to web - </dev/null",
        "echo nothing | coracle copy-to web - /tmp",
        "coracle copy-from web /no/such x",
        "coracle copy-from web /etc/passwd /no/such/directory/x",
    ] {
        let (root, user) =
            (host.sh(&format!("cd /home/ann/w; {line}")), by(&host, "ann", &format!("cd ~/w; {line}")));
        assert_eq!(of(&user), of(&root), "{line}");
        assert_ne!(user.status, 0, "{line}");
    }
    copies_from_a_machine_belong_to_the_user(&host);
    host.wait_until(LONG, "! systemctl list-units --no-legend 'coracle-job-*' | grep .");
    let rest = "find /home/ann /tmp /var/lib/machines/web /var/lib/coracle/copies -name '*coracle-copy*'";
    assert_eq!(host.sh_ok(rest), "");
    host.stop();
}

/// Asserts that copies on the host belong to the user, without privileges, and that a failed one leaves nothing.
fn copies_from_a_machine_belong_to_the_user(host: &Host) {
    let script = "mkdir /tmp/out; cp /bin/busybox /tmp/out/su; chmod 4755 /tmp/out/su; chown 33 /tmp/out/su";
    host.ok(&["coracle", "exec", "web", "--", "sh", "-ec", script]);
    by(host, "ann", "coracle copy-from web /tmp/out ~/out").success("a tree");
    by(host, "ann", "coracle copy-from web /tmp/by-user ~/back").success("a tree");
    by(host, "ann", "diff -r -x pipe --no-dereference ~/tree ~/back").success("equal trees");
    assert_eq!(by(host, "ann", "stat -c '%U %a' ~/out/su").stdout, "ann 755\n");
    assert_ne!(by(host, "ann", "coracle copy-from web /tmp/out ~/back/large/x").status, 0);
    let out = by(host, "ann", "coracle copy-from web /tmp/out /root/x");
    assert!(out.status == 1 && out.stderr.contains("ermission denied"), "{out}");
    let line = "coracle copy-from web /tmp/out - | tar tv --numeric-owner | grep -c ' 33/0 '";
    assert_eq!(by(host, "ann", line).stdout, "1\n");
}

#[test]
fn binds_are_by_descriptor() {
    let host = host();
    rule(&host, ALL_OF_WEB);
    host.sh_ok("mkdir -m 755 /var/tmp/data; echo here >/var/tmp/data/file");
    let inside = |script: &str| host.exec(&["coracle", "exec", "web", "--", "sh", "-ec", script]);
    by(&host, "ann", "cd /var/tmp && coracle bind --mkdir --read-only web data /mnt/data").success("a bind");
    assert_eq!(inside("cat /mnt/data/file").stdout, "here\n");
    assert_ne!(inside("touch /mnt/data/new").status, 0, "it is read-only");
    let listed = host.ok(&["coracle", "bind", "web"]);
    assert!(listed.lines().any(|line| line.starts_with("/mnt/data  /var/tmp/data  read-only")), "{listed}");
    let again = by(&host, "ann", "coracle bind web /var/tmp/data /mnt/data");
    assert!(again.status == 1 && again.stderr.contains("already bound"), "{again}");
    by(&host, "ann", "coracle unbind web /mnt/data").success("an unbind");
    assert_ne!(inside("cat /mnt/data/file").status, 0);
    by(&host, "ann", "coracle bind --mkdir web - /mnt/file </var/tmp/data/file").success("an open file");
    assert_eq!(inside("cat /mnt/file").stdout, "here\n");
    // Neither devices, nor files without a path on this host, nor those that the user must not reach.
    for (line, message) in [
        ("coracle bind --mkdir web /dev/null /mnt/null", "standard input is a device"),
        ("coracle bind --mkdir web /root/x /mnt/x", "ermission denied"),
        ("echo | coracle bind --mkdir web - /mnt/pipe", "is not 'pipe:"),
        (
            "exec 3>~/gone; rm ~/gone; coracle bind --mkdir web - /mnt/gone <&3",
            "is not '/home/ann/gone (deleted)'",
        ),
    ] {
        let out = by(&host, "ann", line);
        assert!(out.status != 0 && out.stderr.contains(message), "{line}: {out}");
    }
    let other = "mkdir -p /var/tmp/other && exec unshare -m sh -ec 'mount -t tmpfs other /var/tmp/other; chmod 755 /var/tmp/other; \
        exec setpriv --reuid=ann --regid=ann --init-groups coracle bind --mkdir web /var/tmp/other /mnt/other'";
    let out = host.sh(other);
    assert!(out.status != 0 && out.stderr.contains("is not '/"), "{out}");
    host.stop();
}

#[test]
fn settings_are_changed_as_by_root() {
    let host = host();
    host.define("web", "[resources]\ntasks-max = 512\n");
    host.coracle(&["restart", "web"]);
    rule(&host, ALL_OF_WEB);
    for line in [
        "coracle set web memory-max=512M",
        "coracle set --json web memory-max=1G tasks-max=300",
        "coracle apply --dry-run web",
        "coracle set web hostname=other",
        "coracle apply web",
        "coracle apply --json web",
        "coracle set web nosuch=1",
        "coracle set web memory-max=x",
        "coracle set web hostname=",
    ] {
        host.sh_ok("rm -rf /etc/coracle/machines.d/web.toml.d; coracle apply web >/dev/null");
        let root = host.sh(line);
        host.sh_ok("rm -rf /etc/coracle/machines.d/web.toml.d; coracle apply web >/dev/null");
        let user = by(&host, "ann", line);
        assert_eq!(of(&user), of(&root), "{line}");
    }
    by(&host, "ann", "coracle set web memory-max=640M").success("a change");
    host.sh_ok("grep -r 640M /etc/coracle/machines.d/web.toml.d");
    // A rule can name the settings.
    let some = ALL_OF_WEB.replace(
        "subject.user == 'ann'",
        "subject.user == 'ann' && action.lookup('settings') == 'memory-max'",
    );
    rule(&host, &some);
    by(&host, "ann", "coracle set web memory-max=700M").success("the named setting");
    is_refused(&host, "coracle set web memory-max=700M hostname=x", 1, "configure");
    // Settings can be secrets: neither the unit nor the processes of the job show them.
    let fields = host
        .sh_ok("journalctl -o json --output-fields=CORACLE_VERB,MESSAGE | grep -c memory-max=700M || true");
    assert_eq!(fields.trim(), "0");
    host.stop();
}

#[test]
fn definitions_are_edited_checked_and_replaced() {
    let host = host();
    host.define("web", "[resources]\ntasks-max = 512\n");
    rule(&host, ALL_OF_WEB);
    let file = "/etc/coracle/machines.d/web.toml";
    host.write("/usr/local/bin/raise", "#!/bin/sh\nsed -i '/^#!/d; s/512/513/' \"$1\"\n");
    host.write("/usr/local/bin/break", "#!/bin/sh\ngrep -q ^nosuch \"$1\" || echo 'nosuch = 1' >>\"$1\"\n");
    host.sh_ok("chmod 755 /usr/local/bin/raise /usr/local/bin/break");
    let out = by(&host, "ann", "EDITOR=raise coracle edit web").success("an edit");
    assert!(out.stdout.starts_with(&format!("stored in {file}\n")), "{out}");
    assert!(host.sh_ok(&format!("cat {file}")).contains("513"));
    assert_eq!(by(&host, "ann", "EDITOR=true coracle edit web").stdout, "the definition was not changed\n");
    let out = by(&host, "ann", "EDITOR=break coracle edit web");
    assert!(out.status == 1 && out.stderr.contains("has errors, and was not replaced"), "{out}");
    assert!(out.stderr.contains("unknown"), "{out}");
    assert!(!host.sh_ok(&format!("cat {file}")).contains("nosuch"));
    // The definition is not replaced by an invalid text for a moment, and a change of another program stays.
    host.write(
        "/usr/local/bin/race",
        "#!/bin/sh\necho '# of another' >>/etc/coracle/machines.d/web.toml\nsed -i 's/513/514/' \"$1\"\n",
    );
    host.sh_ok("chmod 755 /usr/local/bin/race");
    let out = host.sh("EDITOR=race coracle edit web");
    assert!(out.status == 1 && out.stderr.contains("was changed by another program"), "{out}");
    assert!(host.sh_ok(&format!("cat {file}")).ends_with("# of another\n"));
    let inode = host.sh_ok(&format!("stat -c %i {file}"));
    assert_eq!(host.sh("printf 'nosuch = 1\\n' | coracle edit web --from=-").status, 1);
    assert_eq!(host.sh_ok(&format!("stat -c %i {file}")), inode);
    // A text in place of an editor, with the same output as root's.
    for line in [
        "printf '[resources]\\ntasks-max = 600\\n' | coracle edit web --from=-",
        "printf '[resources]\\ntasks-max = 600\\n' | coracle edit web --from=-",
        "printf '[resources]\\ntasks-max = none of these\\nx = 1\\n' | coracle edit web --from=-",
        "coracle edit web --from=/no/such",
    ] {
        let reset = format!("printf '[resources]\\ntasks-max = 513\\n' >{file}");
        host.sh_ok(&reset);
        let root = host.sh(line);
        host.sh_ok(&reset);
        assert_eq!(of(&by(&host, "ann", line)), of(&root), "{line}");
    }
    // Another name is another machine for the rule.
    is_refused(&host, "echo | coracle edit other --from=-", 1, "configure");
    let check = |text: &str| {
        let call =
            format!("busctl call -j io.coracle1 /io/coracle1 io.coracle1.Manager Check ss web '{text}'");
        let reply: serde_json::Value =
            serde_json::from_str(&by(&host, "ann", &call).success("a check").stdout).unwrap();
        serde_json::from_str::<serde_json::Value>(reply["data"][0].as_str().unwrap()).unwrap()
    };
    let problems = check("[resources]\nnosuch = 1\n");
    assert_eq!(
        (problems[0]["severity"].as_str(), problems[0]["line"].as_u64()),
        (Some("error"), Some(2)),
        "{problems}"
    );
    assert_eq!(check("[resources]\n"), serde_json::json!([]));
    let large = by(&host, "ann", "head -c 70000 /dev/zero | tr '\\0' '#' | coracle edit web --from=-");
    assert!(large.status == 1 && large.stderr.contains("at most 64 KiB"), "{large}");
    host.stop();
}

#[test]
fn configure_implies_the_other_actions() {
    let host = host();
    rule(
        &host,
        &ALL_OF_WEB.replace("action.id.indexOf('io.coracle1.') == 0", "action.id == 'io.coracle1.configure'"),
    );
    for line in ["coracle restart web", "coracle exec web -- true", "coracle logs web", "coracle inspect web"]
    {
        by(&host, "ann", line).success(line);
    }
    by(&host, "ann", "coracle set web memory-max=1G").success("configure itself");
    let other =
        ALL_OF_WEB.replace("action.id.indexOf('io.coracle1.') == 0", "action.id == 'io.coracle1.control'");
    rule(&host, &other);
    is_refused(&host, "coracle set web memory-max=1G", 1, "configure");
    host.stop();
}
