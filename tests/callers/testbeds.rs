//! Programs that test packages in build sessions: autopkgtest(1), reprotest(1) and piuparts(1).

use crate::run;
use crate::sessions::{Before, MIRROR, install_base, run_logged, session_host};
use crate::support::Host;

/// The results of a run of autopkgtest, and its exit status (autopkgtest(1)).
fn autopkgtest(host: &Host, what: &str, options: &str) -> (i32, String) {
    let shown = run(
        host,
        &format!(
            "rm -rf results; autopkgtest --output-dir results {what} -- coracle {options} trixie >log 2>&1 || echo $?
             cat results/summary || cat log >&2"
        ),
    );
    let failed =
        shown.split_once('\n').and_then(|(status, rest)| Some((status.parse().ok()?, rest.to_owned())));
    let (status, summary) = failed.unwrap_or((0, shown));
    // Tests that are skipped have the status 2.
    let has_run = [0, 2].contains(&status) && !summary.contains("FAIL");
    assert!(has_run, "{status}: {summary}{}", host.read("/var/tmp/work/log"));
    (status, summary)
}

#[test]
fn autopkgtest_tests_packages_in_sessions() {
    let host = session_host();
    install_base(&host, "debhelper,passwd,systemd-sysv,dbus,udev,apt-utils");
    host.sh_ok(
        "cd /var/tmp/work
         coracle build once trixie --user=root -w /build/small-1.0 --bind=.:/build -- dpkg-buildpackage -us -uc -b >log 2>&1",
    );
    let before = Before::take(&host);
    let small = "small_1.0_amd64.deb small-1.0/";
    // Without an init, two tests are skipped (status 2).
    let (status, summary) = autopkgtest(&host, small, "");
    assert_eq!(status, 2, "{summary}");
    for test in ["user", "root", "daemon", "breaks", "after"] {
        assert!(summary.lines().any(|line| line.starts_with(test) && line.ends_with("PASS")), "{summary}");
    }
    host.sh_ok("cat /var/tmp/work/results/artifacts/made | grep -x made; stat -c %u /var/tmp/work/results/artifacts/made | grep -x 0");
    before.assert_same(&host);
    let (status, summary) = autopkgtest(&host, small, "--boot");
    assert_eq!((status, summary.matches("PASS").count()), (0, 7), "{summary}");
    before.assert_same(&host);
    // Debian's hello, which the testbed builds from its source.
    for options in ["", "--boot"] {
        let (status, summary) = autopkgtest(&host, "hello_*.dsc", options);
        assert_eq!((status, summary.matches("PASS").count()), (0, 2), "{summary}");
        before.assert_same(&host);
    }
    host.stop();
}

#[test]
fn reprotest_builds_twice_in_a_session() {
    let host = session_host();
    install_base(&host, "debhelper,passwd");
    let before = Before::take(&host);
    // Of the programs that reprotest installs by default, disorderfs needs FUSE, which the session does not have.
    let init = "apt-get -y --no-install-recommends install fakeroot faketime locales-all sudo util-linux";
    host.sh_ok("cp /srv/debian/pool/main/s/sl/* /var/tmp/work");
    run_logged(
        &host,
        &format!("reprotest --vary=-fileordering --testbed-init='{init}' sl_*.dsc -- schroot trixie"),
    );
    host.sh_ok("grep -i 'reproduction successful' /var/tmp/work/log");
    before.assert_same(&host);
    host.stop();
}

/// A base whose sessions have a path on the host, at which piuparts looks.
const EXPOSED: &str =
    "[root]\ndirectory = '/var/lib/machines/trixie'\n[users]\nprivate = 'identity'\n[build]\nexpose = true\n";

#[test]
fn piuparts_tests_a_package_in_a_session() {
    let host = session_host();
    install_base(&host, "debhelper,passwd");
    host.sh_ok(
        "cd /var/tmp/work
         coracle build once trixie --user=root -w /build/small-1.0 --bind=.:/build -- dpkg-buildpackage -us -uc -b >log 2>&1",
    );
    host.write("/etc/coracle/build.d/exposed.toml", EXPOSED);
    let before = Before::take(&host);
    run_logged(
        &host,
        &format!(
            "piuparts --schroot=exposed -d trixie --mirror='{MIRROR} main' --warn-on-others small_1.0_amd64.deb"
        ),
    );
    host.sh_ok("cd /var/tmp/work; grep 'PASS: All tests' log; grep 'New schroot session in ./run/coracle/exposed-' log");
    before.assert_same(&host);
    host.stop();
}
