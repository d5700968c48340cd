//! Programs of Debian around Coracle, unmodified. Those that call systemd-nspawn or schroot, with Coracle in its place,
//! build and test packages and images, and enter and boot them; every test installs a Debian from the part of its
//! archive that the host's tree has. Others set up machines (Ansible) or read what Coracle prints (Prometheus,
//! Graphviz). Run by `make test-callers` and not by `cargo test`.

#[path = "callers/ansible.rs"]
mod ansible;
#[path = "callers/graphs.rs"]
mod graphs;
#[path = "callers/metrics.rs"]
mod metrics;
#[path = "callers/sbuild.rs"]
mod sbuild;
#[path = "callers/sessions.rs"]
mod sessions;
mod support;
#[path = "callers/testbeds.rs"]
mod testbeds;

use std::time::Duration;

use support::{Host, LONG, Snapshot};

/// The time limit of a build, generous because two processors may run several.
const BUILD: Duration = Duration::from_secs(1200);
const PATH: &str = "PATH=/opt/callers:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin";
/// The program that the callers find first: it records its command line and executes Coracle.
const RECORDER: &str = "#!/bin/bash
{ printf 'systemd-nspawn'; printf ' %q' \"$@\"; echo; } >>/var/tmp/calls 2>/dev/null
exec /usr/lib/coracle/systemd-nspawn \"$@\"
";
const SERVER: &str = "systemd-run -q --unit=archive python3 -m http.server --directory /srv 8000";
const RUNS: &str = "[ $(systemctl -M small is-system-running) = running ]";
const SERVES: &str = "exec 3<>/dev/tcp/127.0.0.1/8000";

/// Starts a host with the callers and the archive that they install from.
fn host() -> (Host, Snapshot) {
    let sources = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/callers");
    let host = Host::builder().on("host-callers").bind(sources, "/srv/callers").start();
    host.write("/opt/callers/systemd-nspawn", RECORDER);
    host.sh_ok("chmod +x /opt/callers/systemd-nspawn; mkdir /var/tmp/work");
    host.sh_ok(SERVER);
    host.wait_until(LONG, &format!("bash -c '{SERVES}'"));
    host.activate_machined();
    host.sh_ok("systemctl start machine.slice");
    let before = Snapshot::take(&host);
    (host, before)
}

/// Runs a script in a unit, with the recorder first in the path, and returns its standard output.
#[track_caller]
fn run(host: &Host, script: &str) -> String {
    let unit = ["systemd-run", "-q", "--collect", "--wait", "--pipe", "-p", "WorkingDirectory=/var/tmp/work"];
    host.exec_for(BUILD, &[&unit[..], &["-E", PATH, "sh", "-euc", script]].concat())
        .success("a caller")
        .stdout
}

/// Prints the recorded command lines, asserts that one has each of these words, and stops the host.
#[track_caller]
fn finish(host: Host, before: &Snapshot, words: &[&str]) {
    let calls = host.read("/var/tmp/calls");
    eprintln!("{calls}");
    for word in words {
        assert!(calls.split_whitespace().any(|found| found == *word), "no '{word}' in\n{calls}");
    }
    before.assert_same(&host);
    host.stop();
}

#[test]
fn mkosi_builds_enters_and_boots_an_image() {
    let (host, before) = host();
    run(
        &host,
        "cp -r /srv/callers/mkosi/. .; mkdir mkosi.sandbox/etc/apt/trusted.gpg.d
         cp /usr/share/keyrings/debian-archive-keyring.gpg mkosi.sandbox/etc/apt/trusted.gpg.d/
         mkosi build",
    );
    assert_eq!(host.read("/var/tmp/work/small/etc/mark"), "built-by-mkosi\n");

    let shown = run(&host, "mkosi shell sh -c 'cat /etc/mark /proc/1/comm; exit 7' || echo $?");
    assert_eq!(shown, "built-by-mkosi\nsh\n7\n");
    let shown = run(&host, "mkosi --ephemeral shell sh -c 'touch /new; cat /etc/mark'; ls small/new || true");
    assert_eq!(shown, "built-by-mkosi\n");
    let shown = host.exec_on_tty(LONG, &format!("cd /var/tmp/work; {PATH} mkosi shell sh -c 'tty; id -u'"));
    // script(1) types a NUL at the end of its own input; a terminal echoes that as "^@".
    let lines = shown.stdout.replace("^@", "");
    assert!(shown.status == 0 && lines.contains("/dev/pts/0\r\n0\r\n"), "{shown}");

    let boot = format!("cd /var/tmp/work; {PATH} exec mkosi boot systemd.unit=multi-user.target");
    let mut job = host.spawn(&["sh", "-euc", &boot]);
    host.wait_until(LONG, RUNS);
    let shown = host.ok(&["machinectl", "show", "small", "-p", "Class", "-p", "Service"]);
    assert_eq!(shown, "Service=systemd-nspawn\nClass=container\n");
    let inside = ["systemd-run", "-q", "--wait", "--pipe", "-M", "small", "cat", "/etc/mark"];
    assert_eq!(host.ok(&inside), "built-by-mkosi\n");
    host.ok(&["machinectl", "poweroff", "small"]);
    let status = job.wait_for_exit(LONG);
    assert!(status == 0 && job.stdout().contains("System Power Off"), "{status}: {}", job.stdout());

    // Stopped with the service that its caller is.
    let unit = "systemd-run -q --collect --unit=boot -p WorkingDirectory=/var/tmp/work -E";
    host.sh_ok(&format!("{unit} {PATH} mkosi boot systemd.unit=multi-user.target"));
    host.wait_until(LONG, RUNS);
    host.ok(&["systemctl", "stop", "boot.service"]);
    host.wait_until(LONG, "! machinectl status small && ! systemctl is-active machine-small.scope");
    finish(host, &before, &["--console=autopipe", "--boot", "systemd.unit=multi-user.target"]);
}

#[test]
fn debspawn_builds_a_package() {
    let (host, before) = host();
    run(
        &host,
        "cp -r /srv/callers/small-1.0 .; debspawn create --mirror http://127.0.0.1:8000/debian trixie",
    );
    run(&host, "cd small-1.0; debspawn build --results-dir=/var/tmp/results trixie .");
    let package = host.sh_ok("dpkg-deb --fsys-tarfile /var/tmp/results/small_1.0_amd64.deb | tar -t");
    assert!(package.contains("./usr/bin/small\n"), "{package}");

    let script = "id -un; cat debian/source/format; echo made >/srv/artifacts/made.txt";
    let directories = "--build-dir=/var/tmp/work/small-1.0 --artifacts-out=/var/tmp/artifacts";
    host.sh_ok("mkdir /var/tmp/artifacts");
    let shown = run(&host, &format!("debspawn run {directories} trixie -- sh -c '{script}'"));
    assert!(shown.contains("root\r\n3.0 (native)\r\n"), "{shown}");
    assert_eq!(host.read("/var/tmp/artifacts/made.txt"), "made\n");
    finish(host, &before, &["--private-network", "builder", "--build-run"]);
}

#[test]
fn debos_builds_an_image() {
    let (host, before) = host();
    run(&host, "debos --disable-fakemachine --artifactdir=/var/tmp/work /srv/callers/debos.yaml");
    assert_eq!(run(&host, "tar -xOf image.tar ./etc/mark"), "built-by-debos\n");
    assert!(run(&host, "tar -tf image.tar").lines().any(|file| file.ends_with("bin/ip")));
    finish(host, &before, &["--keep-unit", "--console=pipe", "--timezone=off"]);
}

#[test]
fn obs_build_builds_a_package() {
    let (host, before) = host();
    // It has a search path of its own.
    host.sh_ok("ln -s /opt/callers/systemd-nspawn /usr/sbin/");
    run(&host, "cp -r /srv/callers/small-1.0 .; cd small-1.0; dpkg-buildpackage -S -us -uc -d -nc");
    run(
        &host,
        "obs-build --dist /srv/callers/obs-build.conf --root /var/tmp/root --vm-type=nspawn \
             --repo /srv/debian/pool --arch x86_64 small_1.0.dsc",
    );
    let packages = "/var/tmp/root/usr/src/packages/DEBS";
    let package = host.sh_ok(&format!("dpkg-deb --fsys-tarfile {packages}/small_1.0_amd64.deb | tar -t"));
    assert!(package.contains("./usr/bin/small\n"), "{package}");
    finish(host, &before, &["--private-network", "--pipe", "/.build/build"]);
}

/// The recipe of Debian for the program that the tree has, which takes the first of alternative dependencies: packages of
/// D-Bus would need some that the archive does not have.
const RECIPE: &str = "suite = 'trixie'
packages = ['systemd-sysv', 'passwd']
keyring = ['/usr/share/keyrings/debian-archive-keyring.gpg']
keyring-package = 'debian-archive-keyring'

[architectures]
x86_64 = 'amd64'
aarch64 = 'arm64'

[[step]]
program = 'debootstrap'
package = 'debootstrap'
arguments = ['--variant=minbase', '--arch={arch}', '--keyring={keyring}', '--force-check-gpg', '--include={packages}', '{suite}', '{tree}', '{mirror}']
";

#[test]
fn create_installs_a_debian_with_signatures() {
    let (host, _) = host();
    // The root of the host is an overlay, on which no other one can write.
    host.sh_ok(
        "mkdir -p /var/lib/coracle; mkdir -m 700 /var/lib/machines/.storage; ln -s /var/lib/machines/.storage /var/lib/coracle/storage",
    );
    host.write("/etc/coracle/distributions.d/debian.toml", RECIPE);
    let shown = run(&host, "coracle create web --from debian --mirror=http://127.0.0.1:8000/debian");
    assert!(shown.contains("created by debootstrap and verified with debian-archive-keyring"), "{shown}");
    let again = run(&host, "coracle create shop --from debian:trixie --mirror=http://127.0.0.1:8000/debian");
    assert!(
        again.contains("created today\nshop: stack on that base in ") && again.trim().ends_with(" ms"),
        "{again}"
    );
    for name in ["web", "shop"] {
        host.coracle(&["start", "--wait=running", name]);
        assert_eq!(host.coracle(&["exec", name, "--", "hostname"]).trim(), name);
    }
    host.coracle(&["stop", "web", "shop"]);

    // An archive with another list of packages than the signed one.
    host.sh_ok("cp -a /srv/debian /srv/other; sed -i 's/^Origin: Debian$/Origin: Other/' /srv/other/dists/trixie/InRelease");
    let failed = host.exec_for(
        BUILD,
        &["coracle", "create", "other", "--from=debian", "--mirror=http://127.0.0.1:8000/other"],
    );
    assert!(failed.status != 0 && failed.stderr.to_lowercase().contains("signature"), "{failed}");
    host.sh_ok("! ls -d /var/lib/machines/other* /var/lib/machines/.storage/tmp/* 2>/dev/null | grep .");
    host.stop();
}
