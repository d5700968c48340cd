//! The service `io.coracle1` for users without the rights of root: images, their streams, and the progress of jobs.

use super::bus::{by, is_refused, rule};
use crate::support::{Host, LONG, Output};

/// The rule that lets `ann` do everything with images.
const ALL_IMAGES: &str = "polkit.addRule(function (action, subject) {\n\
    if (action.id == 'io.coracle1.images' && subject.user == 'ann') { return polkit.Result.YES; } });\n";

/// Returns status, output without times and sizes that differ, and error.
fn of(out: &Output) -> (i32, String, &str) {
    let words = out.stdout.split_whitespace().filter(|word| !word.starts_with(|c: char| c.is_ascii_digit()));
    let words: Vec<&str> = words.filter(|word| !["ms", "s"].contains(word)).collect();
    (out.status, words.join(" "), if out.status == 0 { "" } else { &out.stderr })
}

/// Starts a host with the image `base`, the running machine `web`, and the users `ann` and `bob`. The store is on the
/// file system of the images: the host's own root is an overlay.
fn host() -> Host {
    let host = Host::builder().guest_as("busybox", "base").guest_as("busybox", "web").on_disk().start();
    host.sh_ok(
        "mkdir -m 700 /var/lib/machines/.storage; mkdir -p /var/lib/coracle
         ln -s /var/lib/machines/.storage /var/lib/coracle/storage; useradd -m ann; useradd -m bob",
    );
    host.start_machine("web");
    host
}

#[test]
fn refusals_name_the_action_and_the_cure() {
    let host = host();
    by(&host, "ann", "tar c -C /etc passwd >~/x.tar").success("an archive");
    for line in [
        "coracle snapshot base one",
        "coracle snapshot --remove base one",
        "coracle rollback base",
        "coracle clone base new",
        "coracle rename base new",
        "coracle remove base",
        "coracle read-only base",
        "coracle convert base stack",
        "coracle import ~/x.tar new",
        "coracle import - new <~/x.tar",
        "coracle export base ~/base.tar",
        "coracle export base - >/dev/null",
        "coracle create new --from=debian",
        "coracle update base ~/x.tar",
        "coracle pull registry.example/a/b new",
        "coracle verify base",
        "coracle prune",
    ] {
        is_refused(&host, line, 1, "images");
    }
    let out = by(&host, "ann", "coracle clone base new");
    assert!(out.stderr.starts_with("coracle: cloning image 'base' is not allowed to you\n"), "{out}");
    assert!(out.stderr.contains("'sudo coracle clone base new'"), "{out}");
    assert_eq!(by(&host, "ann", "ls ~").stdout, "x.tar\n", "no file was written");
    host.stop();
}

#[test]
fn verbs_are_those_of_root() {
    let host = host();
    rule(&host, ALL_IMAGES);
    for (line, undo) in [
        ("coracle snapshot base one", "coracle snapshot --remove base one"),
        ("coracle snapshot web two", "coracle snapshot --remove web two"),
        ("coracle snapshot base one --json >/dev/null", "coracle snapshot --remove base one"),
        ("coracle clone base new", "coracle remove new"),
        ("coracle clone --exact --read-only base new", "coracle read-only new no; coracle remove new"),
        ("coracle rename base other", "coracle rename other base"),
        ("coracle read-only base", "coracle read-only base no"),
        ("coracle convert base stack", "coracle convert base directory"),
        ("coracle verify base web", "true"),
        ("coracle prune --dry-run", "true"),
        ("coracle prune", "true"),
        ("coracle clone no-such-image new", "true"),
        ("coracle clone base web", "true"),
        ("coracle remove web", "true"),
        ("coracle rollback base no-such-tag", "true"),
        ("coracle snapshot --remove base none", "true"),
        ("coracle create new --from=nosuch", "true"),
        ("coracle create new --from=debian --mirror='deb [trusted=yes] http://x'", "true"),
    ] {
        let root = host.sh(line);
        host.sh(undo);
        let user = by(&host, "ann", line);
        assert_eq!(of(&user), of(&root), "{line}");
        host.sh(undo);
    }
    let ok = |line: &str| by(&host, "ann", line).success(line).stdout;
    ok("coracle snapshot base first");
    host.sh_ok("touch /var/lib/machines/base/later");
    assert!(ok("coracle rollback base first").contains("base"), "a report");
    host.sh_ok("test ! -e /var/lib/machines/base/later");
    ok("coracle clone base@first a; coracle clone base b; coracle remove a b");
    host.sh_ok("test ! -e /var/lib/machines/a");
    // A rule can name both images of a clone.
    rule(
        &host,
        &ALL_IMAGES.replace(
            "subject.user == 'ann'",
            "subject.user == 'ann' && action.lookup('machine') == 'base' \
        && action.lookup('target') == 'ann-1'",
        ),
    );
    ok("coracle clone base ann-1");
    is_refused(&host, "coracle clone base other", 1, "images");
    is_refused(&host, "coracle remove base", 1, "images");
    host.stop();
}

#[test]
fn streams_are_files_of_the_user() {
    let host = host();
    rule(&host, ALL_IMAGES);
    let ok = |line: &str| by(&host, "ann", line).success(line).stdout;
    assert!(ok("coracle export base ~/base.tar.gz").starts_with("base: wrote "), "a report");
    assert_eq!(ok("stat -c '%U %a' ~/base.tar.gz"), "ann 600\n");
    ok("coracle export base - >~/base.tar && tar tf ~/base.tar >/dev/null");
    host.ok(&["coracle", "export", "base", "/var/tmp/base.tar"]);
    host.sh_ok("cmp /home/ann/base.tar /var/tmp/base.tar");
    assert!(ok("coracle import ~/base.tar.gz one").starts_with("one: "), "a report");
    ok("coracle import - two <~/base.tar");
    ok("mv ~/base.tar ~/five.tar && coracle import ~/five.tar && mv ~/five.tar ~/base.tar");
    ok("mkdir -p ~/tree/etc && cp /bin/true ~/tree/ && coracle import ~/tree three");
    host.sh_ok("cmp /bin/true /var/lib/machines/three/true; test -e /var/lib/machines/two/usr/bin/busybox");
    ok("coracle update three ~/base.tar --version=7");
    let out = by(&host, "ann", "coracle import ~/base.tar one");
    assert!(out.status == 1 && out.stderr.contains("exists"), "{out}");
    // Files are opened by the user, and a failure leaves nothing.
    host.sh_ok("cp /var/tmp/base.tar /root/secret.tar");
    for (line, message) in [
        ("coracle import /root/secret.tar four", "ermission denied"),
        ("coracle export base /root/out.tar", "ermission denied"),
        ("coracle export base ~/base.tar", "exists already"),
        ("coracle export nosuch ~/nosuch.tar", "nosuch"),
        ("head -c 100000 ~/base.tar | coracle import - four", "truncated"),
        ("echo x | coracle import - four", "four"),
        ("coracle export base oci:dir", "needs root"),
        ("coracle import oci:dir four", "needs root"),
    ] {
        let out = by(&host, "ann", &format!("cd; {line}"));
        assert!(out.status != 0 && out.stderr.contains(message), "{line}: {out}");
    }
    host.sh_ok("test ! -e /var/lib/machines/four && test ! -e /root/out.tar");
    assert_eq!(ok("ls -A ~ | grep -v '^\\.bash\\|^\\.profile'"), "base.tar\nbase.tar.gz\ntree\n");
    // A killed client ends its job, which leaves nothing. The writer may be killed first, so the archive is not whole.
    let mut job = super::bus::spawn(
        &host,
        &["sh", "-c", "{ head -c 100000 /home/ann/base.tar; sleep 9876; } | coracle import - four"],
    );
    host.wait_until(LONG, "systemctl list-units --no-legend --state=running 'coracle-job-*' | grep .");
    job.kill();
    host.wait_until(LONG, "! systemctl list-units --no-legend 'coracle-job-*' | grep .");
    host.wait_until(LONG, "! find /var/lib/machines -maxdepth 1 -name '*four*' | grep .");
    host.stop();
}

#[test]
fn jobs_report_their_progress() {
    let host = host();
    rule(&host, ALL_IMAGES);
    // A size that is known, and a slow reader.
    host.sh_ok("head -c 40000000 /dev/urandom >/var/lib/machines/base/large");
    let reader = "coracle export base - | while head -c 200000 | grep -q .; do sleep 0.1; done";
    let mut job = super::bus::spawn(&host, &["sh", "-c", reader]);
    let property = |name: &str| {
        format!(
            "busctl get-property io.coracle1 $(busctl tree --list io.coracle1 | grep -m1 /job/) io.coracle1.Job {name}"
        )
    };
    host.wait_until(LONG, &format!("{} | grep -q '^d 0[.]'", property("Progress")));
    let status = host.sh_ok(&property("Status"));
    assert!(status.contains("base: copying ["), "{status}");
    job.kill();
    host.wait_until(LONG, "! systemctl list-units --no-legend 'coracle-job-*' | grep .");
    host.stop();
}
