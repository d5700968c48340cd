//! Hosts whose programs build and test packages in build sessions of Coracle.

use crate::support::{Host, Snapshot};
use crate::{host, run};

/// The store of the host.
const STORAGE: &str = "/var/lib/machines/.storage";
/// The base of all sessions.
pub(crate) const BASE: &str = "/var/lib/machines/trixie";
/// The archive of the host at an address of its own, which sessions reach with every network that leads to the host.
pub(crate) const MIRROR: &str = "http://192.0.2.1:8000/debian";
/// Lists the files of the base with all attributes, and their contents.
const BASE_FILES: &str = "cd /var/lib/machines/trixie
    find . -printf '%P %y %m %U:%G %s %n %T@ %C@ %l\\n' | sort; find . -type f -exec sha256sum {} + | sort";

/// Starts a host with the store on a disk: the root of the host is an overlay, on which no other one can write.
pub(crate) fn session_host() -> Host {
    let (host, _) = host();
    host.sh_ok(&format!(
        "mkdir -p /var/lib/coracle; mkdir -m 700 {STORAGE}; ln -s {STORAGE} /var/lib/coracle/storage
         ip address add 192.0.2.1/32 dev lo; ln -s /usr/lib/coracle/schroot /opt/callers/schroot
         echo 'deb {MIRROR} trixie main' >/etc/apt/sources.list; rm -rf /etc/apt/sources.list.d
         cp -r /srv/callers/small-1.0 /srv/sources/* /var/tmp/work"
    ));
    host
}

/// Installs a base with these packages, and the sources of the archive.
pub(crate) fn install_base(host: &Host, packages: &str) {
    run(
        host,
        &format!(
            "debootstrap --variant=buildd --include={packages} trixie {BASE} {MIRROR} >log || {{ tail -n 40 log {BASE}/debootstrap/debootstrap.log >&2; exit 1; }}"
        ),
    );
    add_sources(host);
}

/// Lets sessions install the sources of packages.
pub(crate) fn add_sources(host: &Host) {
    // The archive has no translations.
    host.sh_ok(&format!(
        "echo 'deb-src {MIRROR} trixie main' >>{BASE}/etc/apt/sources.list
         echo 'Acquire::Languages \"none\";' >{BASE}/etc/apt/apt.conf.d/languages"
    ));
}

/// The state of a host before its sessions.
pub(crate) struct Before {
    snapshot: Snapshot,
}

impl Before {
    /// Takes it after a first session, which creates the directories and the slices that stay.
    pub(crate) fn take(host: &Host) -> Self {
        host.sh_ok("coracle build begin trixie --name=first --network=nat; coracle build end first");
        run(host, &format!("({BASE_FILES}) >/var/tmp/base"));
        Self { snapshot: Snapshot::take(host) }
    }

    /// Asserts that no session and no change of one is left, and that the base is the same.
    #[track_caller]
    pub(crate) fn assert_same(&self, host: &Host) {
        host.sh_ok(&format!(
            "test -z \"$(coracle build list --no-legend)\"; test -z \"$(ls -A {STORAGE}/throwaway)\""
        ));
        run(host, &format!("({BASE_FILES}) | diff /var/tmp/base -"));
        self.snapshot.assert_same(host);
    }
}

/// Runs a script in the working directory, as root with the home directory of root. Its output is in the file `log`,
/// which is printed if it fails.
#[track_caller]
pub(crate) fn run_logged(host: &Host, script: &str) {
    host.write("/var/tmp/script", script);
    run(host, "HOME=/root sh -eu /var/tmp/script >log 2>&1 || { tail -n 300 log >&2; exit 1; }");
}
