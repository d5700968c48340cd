//! The host and the hostile machines that all tests of this target share, and the programs they attack with.
//! The host is there for as long as one of them uses it.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, Weak};

use crate::support::{self, Host, Output, Snapshot};

/// A host with two machines that run: `own` has a user namespace, as by default, and the root of `same` is
/// the host's.
pub struct Machines {
    pub host: Option<Host>,
    before: Snapshot,
}

static SHARED: Mutex<Weak<Machines>> = Mutex::new(Weak::new());

impl Machines {
    /// The shared ones.
    pub fn shared() -> Arc<Self> {
        let mut shared = SHARED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(machines) = shared.upgrade() {
            return machines;
        }
        let machines = Arc::new(Self::start());
        *shared = Arc::downgrade(&machines);
        machines
    }

    fn start() -> Self {
        let host = Host::builder().guest_as("busybox", "own").guest_as("busybox", "same").start();
        host.write("/etc/coracle/machines.d/same.toml", "[users]\nprivate = \"no\"\n");
        // Tests compare the directories of the host that attacks aim at.
        host.sh_ok("mkdir /mnt/victim /mnt/source; echo source >/mnt/source/mark");
        let before = Snapshot::take(&host);
        for guest in ["own", "same"] {
            install(&host, guest, "probe");
            install(&host, guest, "attacker");
        }
        host.ok(&["coracle", "start", "own", "same"]);
        Self { host: Some(host), before }
    }

    /// The host.
    pub fn host(&self) -> &Host {
        self.host.as_ref().unwrap()
    }

    /// Runs a command as root of a machine, with the rights of its processes.
    pub fn inside(&self, machine: &str, command: &[&str]) -> Output {
        self.host().exec(&[&["coracle", "exec", "-T", machine, "--"], command].concat())
    }

    /// Runs a shell script so.
    pub fn sh(&self, machine: &str, script: &str) -> Output {
        self.inside(machine, &["sh", "-c", script])
    }
}

impl Drop for Machines {
    fn drop(&mut self) {
        let Some(host) = self.host.take() else { return };
        if !std::thread::panicking() {
            host.ok(&["coracle", "stop", "own", "same"]);
            self.before.assert_same(&host);
            host.stop();
        }
    }
}

/// Puts a static program into a machine's tree.
pub fn install(host: &Host, machine: &str, program: &str) {
    let to = host.machines().join(machine).join("usr/bin").join(program);
    std::fs::copy(build(program), to).unwrap();
}

/// Builds `probe`, `attacker` or `narrow`, statically, once for all tests.
pub fn build(program: &str) -> PathBuf {
    static PROBE: OnceLock<PathBuf> = OnceLock::new();
    static ATTACKER: OnceLock<PathBuf> = OnceLock::new();
    static NARROW: OnceLock<PathBuf> = OnceLock::new();
    let (cell, source) = match program {
        "probe" => (&PROBE, "tests/hosts/security/probe.c"),
        "narrow" => (&NARROW, "tests/hosts/security/narrow.c"),
        _ => (&ATTACKER, "tests/escape/attacker.c"),
    };
    cell.get_or_init(|| {
        let narrow = ["-m32", "-nostdlib", "-fno-stack-protector"];
        support::program::build(source, if program == "narrow" { &narrow } else { &[] })
    })
    .clone()
}
