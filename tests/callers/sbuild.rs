//! sbuild(1) in build sessions, by the front end `unschroot`.

use crate::sessions::{BASE, Before, add_sources, install_base, run_logged, session_host};
use crate::support::{Host, LONG};
use crate::{SERVER, SERVES, run};

/// The commands of the manual for sbuild(1), as they are typed.
fn commands_of_the_readme() -> &'static str {
    let blocks = include_str!("../../README.md").split("```\n");
    blocks.into_iter().find(|block| block.contains("$schroot = ")).expect("a block for sbuild")
}

/// Calls mmdebstrap(1) with the archive of the host: by default it would use that of Debian.
const MMDEBSTRAP: &str =
    "#!/bin/sh\nexec /usr/bin/mmdebstrap \"$@\" 'deb http://192.0.2.1:8000/debian trixie main'\n";
/// Builds without further programs, as a user with a tarball.
const UNSHARE: &str =
    "$chroot_mode = 'unshare'; $unshare_mmdebstrap_auto_create = 0; $run_lintian = 0; $verbose = 1;";

#[test]
fn sbuild_of_the_readme_builds_the_packages_of_its_unshare_mode() {
    let host = session_host();
    host.write("/opt/callers/mmdebstrap", MMDEBSTRAP);
    host.sh_ok("chmod 755 /opt/callers/mmdebstrap");
    host.sh_ok(
        "echo '$verbose = 1; $run_lintian = 0; $run_piuparts = 0; $run_autopkgtest = 0;' >/root/.sbuildrc",
    );
    run_logged(&host, commands_of_the_readme());
    host.sh_ok("grep '^Status: successful' /var/tmp/work/log");
    add_sources(&host);
    let before = Before::take(&host);
    // By name: sbuild fetches the source in the session.
    run_logged(&host, "sbuild -d trixie sl");
    host.sh_ok("grep '^Status: successful' /var/tmp/work/log");
    before.assert_same(&host);

    // The same base as a tarball, unpacked by a user.
    host.write("/home/builder/.sbuildrc", UNSHARE);
    host.sh_ok(&format!(
        "useradd --no-create-home builder; mkdir -p /home/builder/.cache/sbuild; cp /srv/sources/* /home/builder
         tar -C {BASE} --exclude='./dev/*' -cf /home/builder/.cache/sbuild/trixie-amd64.tar .
         chown -R builder: /home/builder"
    ));
    run_logged(
        &host,
        "cd /home/builder; for source in hello_*.dsc sl; do
             runuser -u builder -- env HOME=/home/builder sbuild -d trixie $source; done",
    );
    host.sh_ok("grep -c '^Status: successful' /var/tmp/work/log | grep -x 2");
    let compared = run(
        &host,
        "for package in *.deb; do diffoscope $package /home/builder/$package; cmp $package /home/builder/$package; done
         ls *.deb",
    );
    let has = |name: &str| compared.lines().any(|line| line.starts_with(name));
    assert!(has("hello_") && has("hello-dbgsym_") && has("sl_"), "{compared}");
    host.stop();
}

/// The configuration of sbuild: sessions of Coracle, and no further programs.
const SBUILDRC: &str = "$chroot_mode = 'schroot'; $schroot = '/usr/lib/coracle/unschroot';
$run_lintian = 0; $run_piuparts = 0; $run_autopkgtest = 0; $clean_source = 0; $nolog = 1; $verbose = 1;
";

/// Twenty sessions install packages at the same time, with one cache: apt takes its locks in each of them.
fn sessions_share_packages(host: &Host) {
    const CACHE: &str = "/var/tmp/packages";
    let options = format!("--network=host --cache=apt:{CACHE}");
    let install = "apt-get -y -q --no-install-recommends install iproute2 >/dev/null";
    host.sh_ok(&format!(
        "coracle build once trixie {options} -w / -u root -- sh -c '{install}'; ls {CACHE}/iproute2_*.deb"
    ));
    host.sh_ok("systemctl stop archive");
    // All of them are there before the first one installs.
    run(
        host,
        &format!(
            "for number in $(seq 20); do coracle build begin trixie {options} --name=p$number; done
             for number in $(seq 20); do
                 (coracle build run p$number -u root -- sh -c '{install}; ip -V' >/tmp/ip-$number 2>&1) &
             done; wait; coracle build end $(coracle build list --no-legend | cut -d ' ' -f 1) | wc -l | grep -x 20
             grep -l 'ip utility' /tmp/ip-* | wc -l | grep -x 20; rm /tmp/ip-*"
        ),
    );
    host.sh_ok(SERVER);
    host.wait_until(LONG, &format!("bash -c '{SERVES}'"));
}

#[test]
fn sbuild_builds_offline_in_a_session_and_keeps_a_failed_one() {
    let host = session_host();
    install_base(&host, "debhelper,passwd");
    let before = Before::take(&host);
    sessions_share_packages(&host);
    before.assert_same(&host);
    host.write("/root/.sbuildrc", SBUILDRC);
    // The build succeeds only without a network: the archive of the host is reachable in the session.
    let connects = "bash -c 'exec 3<>/dev/tcp/192.0.2.1/8000'";
    run(
        &host,
        &format!(
            "cd small-1.0; sed -i 's/^all: small/all: small offline/' Makefile
             printf \"offline:\\n\\t! {connects}\\n\" >>Makefile; dpkg-buildpackage -S -us -uc -d -nc"
        ),
    );
    run_logged(&host, "sbuild -d trixie small_1.0.dsc");
    host.sh_ok("grep '^Status: successful' /var/tmp/work/log");
    let package = host.sh_ok("dpkg-deb --fsys-tarfile /var/tmp/work/small_1.0_amd64.deb | tar -t");
    assert!(package.contains("./usr/bin/small\n"), "{package}");
    before.assert_same(&host);

    // A build that needs the network fails, and its session can be entered: the network of the session is there.
    run(&host, "cd small-1.0; sed -i 's/! bash/bash/' Makefile; dpkg-buildpackage -S -us -uc -d -nc");
    run_logged(&host, "! sbuild -d trixie --purge=successful small_1.0.dsc");
    host.sh_ok(
        "cd /var/tmp/work; grep '^Status: attempted' log; grep '192.0.2.1.*Network is unreachable' log",
    );
    let session = host.sh_ok("coracle build list --no-legend | cut -d ' ' -f 1");
    let shell = ["coracle", "build", "shell", "-T", session.trim()];
    let script = format!("cd /build/*/small-1.0; pwd; {connects} && echo reached; exit 7\n");
    let shown = host.exec_with_input(script.as_bytes(), &shell);
    assert!(shown.status == 7 && shown.stdout.ends_with("/small-1.0\nreached\n"), "{shown}");
    host.coracle(&["build", "end", session.trim()]);
    before.assert_same(&host);
    host.stop();
}
