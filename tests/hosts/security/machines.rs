//! The host and the hostile machines shared by all tests of `security`, and the programs of the attacks. The
//! host runs as long as a test uses it.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, Weak};

use crate::support::{self, Host, Output, Snapshot};

/// A host with two running machines: `own` has a user namespace, the default, and the root user of `same` is
/// the host's root user.
pub struct Machines {
    pub host: Option<Host>,
    before: Snapshot,
}

static SHARED: Mutex<Weak<Machines>> = Mutex::new(Weak::new());

impl Machines {
    /// Returns the shared machines, and starts them if necessary.
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
        // Directories of the host targeted by attacks. Tests compare their contents.
        host.sh_ok("mkdir /mnt/victim /mnt/source /etc/cdi; echo source >/mnt/source/mark");
        let before = Snapshot::take(&host);
        for guest in ["own", "same"] {
            install(&host, guest, "probe");
            install(&host, guest, "attacker");
        }
        host.ok(&["coracle", "start", "own", "same"]);
        Self { host: Some(host), before }
    }

    /// Returns the host.
    pub fn host(&self) -> &Host {
        self.host.as_ref().unwrap()
    }

    /// Runs a command as root of a machine, with the capabilities of its processes.
    pub fn inside(&self, machine: &str, command: &[&str]) -> Output {
        self.host().exec(&[&["coracle", "exec", "-T", machine, "--"], command].concat())
    }

    /// Runs a shell script as root of a machine.
    pub fn sh(&self, machine: &str, script: &str) -> Output {
        self.inside(machine, &["sh", "-c", script])
    }
}

impl Drop for Machines {
    fn drop(&mut self) {
        let Some(host) = self.host.take() else { return };
        if !std::thread::panicking() {
            host.ok(&["coracle", "stop", "own", "same"]);
            // Users asked them; they end by themselves when they have been idle for a while.
            host.ok(&["systemctl", "stop", "coracle-manager.service", "polkit.service"]);
            self.before.assert_same(&host);
            host.stop();
        }
    }
}

/// Installs a static program into the tree of a machine.
pub fn install(host: &Host, machine: &str, program: &str) {
    let to = host.machines().join(machine).join("usr/bin").join(program);
    std::fs::copy(build(program), to).unwrap();
}

/// Builds `probe`, `attacker` or `narrow` statically, once for all tests.
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
