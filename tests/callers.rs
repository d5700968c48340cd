//! Programs of Debian around Coracle, unmodified. Those that call systemd-nspawn or schroot, with Coracle in its place,
//! build packages and images, and enter and boot them; every test installs a Debian from the part of its archive that
//! the host's tree has. Others set up machines (Ansible) or read what Coracle prints (Prometheus, Graphviz). Run by
//! `make test-callers` and not by `cargo test`.

#[path = "callers/ansible.rs"]
mod ansible;
#[path = "callers/graphs.rs"]
mod graphs;
#[path = "callers/metrics.rs"]
mod metrics;
mod support;

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
const SERVER: &str =
    "systemd-run -q --unit=archive python3 -m http.server --bind 127.0.0.1 --directory /srv 8000";
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
    assert!(shown.status == 0 && shown.stdout.contains("/dev/pts/0\r\n0\r\n"), "{shown}");

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

/// The configuration of sbuild: sessions of Coracle, and no further programs.
const SBUILDRC: &str = "$chroot_mode = 'schroot'; $schroot = '/usr/lib/coracle/unschroot';
$run_lintian = 0; $run_piuparts = 0; $run_autopkgtest = 0; $clean_source = 0; $nolog = 1; 1;
";

/// Twenty sessions install packages at the same time, with one cache: apt takes its locks in each of them.
fn sessions_share_packages(host: &Host) {
    const CACHE: &str = "/var/lib/machines/.cache";
    let options = format!("--network=host --cache=apt:{CACHE}");
    let install = "apt-get -y -q install iproute2 >/dev/null";
    host.sh_ok(&format!(
        "coracle build once trixie {options} -w / -u root -- sh -c '{install}'; ls {CACHE}/iproute2_*.deb"
    ));
    host.sh_ok("systemctl stop archive");
    host.sh_ok(&format!(
        "for number in $(seq 20); do
             (coracle build once trixie {options} -w / -u root -- sh -c '{install}; ip -V' >/tmp/ip-$number 2>&1) &
         done; wait; grep -l 'ip utility' /tmp/ip-* | wc -l | grep -x 20; rm /tmp/ip-*"
    ));
    host.sh_ok(SERVER);
    host.wait_until(LONG, &format!("bash -c '{SERVES}'"));
}

#[test]
fn sbuild_builds_a_package_in_a_session() {
    let (host, _) = host();
    // The root of the host is an overlay, on which no other one can write.
    host.sh_ok(
        "mkdir -p /var/lib/coracle; mkdir -m 700 /var/lib/machines/.storage; ln -s /var/lib/machines/.storage /var/lib/coracle/storage",
    );
    run(
        &host,
        "debootstrap --variant=buildd --include=debhelper,passwd trixie /var/lib/machines/trixie http://127.0.0.1:8000/debian >log",
    );
    host.sh_ok("coracle build begin trixie --name=first; coracle build end first");
    sessions_share_packages(&host);
    // The first session creates the directories and the slices that stay.
    let before = Snapshot::take(&host);
    host.write("/var/tmp/work/sbuildrc", SBUILDRC);
    // The build succeeds only without a network: the archive of the host is reachable in the session.
    run(
        &host,
        "cp -r /srv/callers/small-1.0 .; cd small-1.0; sed -i 's/^all: small/all: small offline/' Makefile
         printf \"offline:\\n\\t! bash -c 'exec 3<>/dev/tcp/127.0.0.1/8000'\\n\" >>Makefile
         dpkg-buildpackage -S -us -uc -d -nc",
    );
    let sbuild = "SBUILD_CONFIG=/var/tmp/work/sbuildrc sbuild -d trixie --verbose";
    run(
        &host,
        &format!(
            "{sbuild} small_1.0.dsc >log 2>&1 || {{ cat log >&2; exit 1; }}; grep '^Status: successful' log"
        ),
    );
    let package = host.sh_ok("dpkg-deb --fsys-tarfile /var/tmp/work/small_1.0_amd64.deb | tar -t");
    assert!(package.contains("./usr/bin/small\n"), "{package}");
    host.sh_ok("! coracle build list --no-legend | grep .");

    // A failed build can be entered.
    run(&host, "cd small-1.0; echo '#error broken' >>small.c; dpkg-buildpackage -S -us -uc -d -nc");
    run(
        &host,
        &format!("! {sbuild} --purge=successful small_1.0.dsc >log 2>&1; grep '^Status: attempted' log"),
    );
    host.sh_ok(
        "session=$(coracle build list --no-legend | cut -d ' ' -f 1)
         coracle build run $session -- sh -c 'grep -r broken /build --include=small.c'
         coracle build end $session; ! ls -A /var/lib/machines/.storage/throwaway | grep .",
    );
    before.assert_same(&host);
    host.stop();
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
    host.sh_ok("! ls -d /var/lib/machines/other* /var/lib/machines/.storage/tmp/* 2>/dev/null");
    host.stop();
}

/// The results of a run of autopkgtest, and its exit status (autopkgtest(1)).
fn autopkgtest(host: &Host, options: &str) -> (i32, String) {
    let shown = run(
        host,
        &format!(
            "rm -rf results; autopkgtest --output-dir results small_1.0_amd64.deb small-1.0/ -- coracle {options} trixie >log 2>&1 || echo $?
             cat results/summary || cat log >&2"
        ),
    );
    let failed =
        shown.split_once('\n').and_then(|(status, rest)| Some((status.parse().ok()?, rest.to_owned())));
    let (status, summary) = failed.unwrap_or((0, shown));
    assert!(!summary.contains("FAIL"), "{summary}{}", host.read("/var/tmp/work/log"));
    (status, summary)
}

#[test]
fn autopkgtest_tests_a_package_in_sessions() {
    let (host, _) = host();
    // The root of the host is an overlay, on which no other one can write.
    host.sh_ok(
        "mkdir -p /var/lib/coracle; mkdir -m 700 /var/lib/machines/.storage; ln -s /var/lib/machines/.storage /var/lib/coracle/storage",
    );
    run(
        &host,
        "debootstrap --variant=buildd --include=debhelper,passwd,systemd-sysv,dbus,udev trixie /var/lib/machines/trixie \
             http://127.0.0.1:8000/debian >log
         cp -r /srv/callers/small-1.0 .
         coracle build once trixie --user=root -w /build/small-1.0 --bind=.:/build -- dpkg-buildpackage -us -uc -b >log 2>&1",
    );
    host.sh_ok("coracle build begin trixie --name=first --network=nat; coracle build end first");
    let before = Snapshot::take(&host);
    // Without an init, two tests are skipped (status 2).
    let (status, summary) = autopkgtest(&host, "");
    assert_eq!(status, 2, "{summary}");
    for test in ["user", "root", "daemon", "breaks", "after"] {
        assert!(summary.lines().any(|line| line.starts_with(test) && line.ends_with("PASS")), "{summary}");
    }
    host.sh_ok("cat /var/tmp/work/results/artifacts/made | grep -x made; stat -c %u /var/tmp/work/results/artifacts/made | grep -x 0");
    before.assert_same(&host);
    let (status, summary) = autopkgtest(&host, "--boot");
    assert_eq!((status, summary.matches("PASS").count()), (0, 7), "{summary}");
    host.sh_ok(
        "! coracle build list --no-legend | grep .; ! ls -A /var/lib/machines/.storage/throwaway | grep .",
    );
    before.assert_same(&host);
    host.stop();
}
