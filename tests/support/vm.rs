//! A virtual machine: a Debian with its own kernel and all cgroup controllers, in QEMU's software emulation.
//! Called by `tests/vm.rs` only; built by `tests/vm/`. A restored virtual machine is ready within a second,
//! and runs at a tenth of the speed of a nested host.
//!
//! QEMU is a child of the test and is killed with it. The disk is a snapshot: changes of a test are
//! discarded.

use std::fs;
use std::io::{self, Seek, SeekFrom, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use super::job::{self, Job, Output};
use super::leaks::Inspect;
use super::{install, state};

/// The default time limit of a command.
pub const BOUND: Duration = Duration::from_secs(120);
/// For the cache, or a build from Debian's packages.
const BUILD_BOUND: Duration = Duration::from_secs(1800);
const READY_BOUND: Duration = Duration::from_secs(180);
/// The time that vm.py may need beyond its time limit.
const SLACK: Duration = Duration::from_secs(15);

static IMAGES: OnceLock<PathBuf> = OnceLock::new();

/// A running virtual machine.
#[derive(Debug)]
pub struct Vm {
    dir: PathBuf,
    qemu: Child,
}

impl Vm {
    /// Starts a virtual machine from the saved state and installs coracle.
    pub fn start() -> Self {
        let images = images();
        let dir = state::own();
        let log = fs::File::create(dir.join("log")).expect("create the log");
        // If the test is killed, QEMU is killed too.
        let qemu = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(program())
            .arg("run")
            .args([&dir, images])
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("duplicate the log"))
            .stderr(log)
            .spawn()
            .expect("start the virtual machine");
        let vm = Self { dir, qemu };
        vm.wait_until_ready();
        vm.install();
        vm
    }

    /// Runs a command as root.
    pub fn exec(&self, command: &[&str]) -> Output {
        self.exec_for(BOUND, command)
    }

    /// Runs a command; at the time limit it is killed and its status is 124.
    pub fn exec_for(&self, bound: Duration, command: &[&str]) -> Output {
        self.job(bound, &[], Stdio::null(), command).wait(bound + SLACK)
    }

    /// Runs a shell script.
    pub fn sh(&self, script: &str) -> Output {
        self.exec(&["sh", "-euc", script])
    }

    /// Runs a shell script and returns its standard output; the script must succeed.
    #[track_caller]
    pub fn sh_ok(&self, script: &str) -> String {
        self.sh(script).success("in the virtual machine").stdout
    }

    /// Runs coracle and returns its standard output; the command must succeed.
    #[track_caller]
    pub fn coracle(&self, arguments: &[&str]) -> String {
        self.exec(&[&["coracle"], arguments].concat()).success("in the virtual machine").stdout
    }

    /// Defines a machine with its own copy of the busybox guest at `/var/lib/machines/NAME`.
    #[track_caller]
    pub fn define(&self, name: &str, definition: &str) {
        let script = r#"[ -d "/var/lib/machines/$1" ] || cp -a /var/lib/machines/busybox "/var/lib/machines/$1"
            mkdir -p /etc/coracle/machines.d; cat >"/etc/coracle/machines.d/$1.toml""#;
        let command = ["sh", "-euc", script, "sh", name];
        self.job(BOUND, &["-i"], job::input_of(definition.as_bytes()), &command)
            .wait(BOUND + SLACK)
            .success("defining a machine");
    }

    /// Repeats a shell script until it succeeds; panics with its last output at the time limit.
    #[track_caller]
    pub fn wait_until(&self, bound: Duration, script: &str) -> Output {
        let end = Instant::now() + bound;
        loop {
            let out = self.sh(script);
            if out.status == 0 {
                return out;
            }
            assert!(Instant::now() < end, "not in {bound:?}: {out}");
            thread::sleep(Duration::from_millis(200));
        }
    }

    /// Reboots the virtual machine like a user and waits until it is `running` again.
    #[track_caller]
    pub fn reboot(&self) {
        let before = self.boot_id();
        self.sh_ok("systemctl reboot --no-block");
        self.wait_for_boot_after(&before);
    }

    /// Resets the virtual machine, as by a power cut, and waits until it is `running` again: what was not written to the
    /// disk is lost.
    #[track_caller]
    pub fn cut_power(&self, before: &str) {
        let mut monitor = UnixStream::connect(self.dir.join("qmp")).expect("QEMU's control channel");
        // QEMU closes the channel when it has executed all commands.
        monitor
            .write_all(b"{\"execute\": \"qmp_capabilities\"}\n{\"execute\": \"system_reset\"}\n")
            .and_then(|()| monitor.shutdown(Shutdown::Write))
            .and_then(|()| io::copy(&mut monitor, &mut io::sink()))
            .expect("reset the virtual machine");
        self.wait_for_boot_after(before);
    }

    /// Returns the number of this boot (random(4)).
    #[track_caller]
    pub fn boot_id(&self) -> String {
        self.sh_ok("cat /proc/sys/kernel/random/boot_id")
    }

    #[track_caller]
    fn wait_for_boot_after(&self, before: &str) {
        let end = Instant::now() + READY_BOUND;
        loop {
            let out = self.exec_for(Duration::from_secs(5), &["cat", "/proc/sys/kernel/random/boot_id"]);
            if out.status == 0 && out.stdout != before {
                break;
            }
            assert!(Instant::now() < end, "it does not come back: {out}\n{}", self.console());
            thread::sleep(Duration::from_millis(200));
        }
        let out = self.exec_for(READY_BOUND, &["systemctl", "is-system-running", "--wait"]);
        assert_eq!(out.stdout, "running\n", "{out}\n{}", self.sh("systemctl --failed; systemctl list-jobs"));
    }

    /// Powers off the virtual machine like a user. Panics if it does not power off in time.
    #[track_caller]
    pub fn power_off(mut self) {
        self.sh_ok("systemctl poweroff --no-block");
        let end = Instant::now() + READY_BOUND;
        while self.qemu.try_wait().expect("wait for QEMU").is_none() {
            assert!(Instant::now() < end, "it does not power off\n{}", self.console());
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Returns the last console output of the kernel and of systemd.
    pub fn console(&self) -> String {
        let text = fs::read(self.dir.join("console")).unwrap_or_default();
        String::from_utf8_lossy(&text[text.len().saturating_sub(4000)..]).into_owned()
    }

    /// Installs the files of `make install`, sent as one archive.
    fn install(&self) {
        let archive = tempfile::tempfile().expect("a file for the archive");
        let mut tar = Command::new("tar");
        tar.args(["-C"]).arg(install::staged()).args(["--owner=0", "--group=0", "-cf", "-", "usr", "etc"]);
        tar.stdin(Stdio::null()).stdout(archive.try_clone().expect("duplicate the archive"));
        assert!(tar.status().expect("run tar").success(), "tar failed");
        (&archive).seek(SeekFrom::Start(0)).expect("rewind the archive");
        let unpack = [
            "sh",
            "-euc",
            "tar xf - -C / && apparmor_parser -r /etc/apparmor.d/coracle-machine /etc/apparmor.d/coracle-machine-nesting && systemctl daemon-reload",
        ];
        self.job(BOUND, &["-i"], Stdio::from(archive), &unpack)
            .wait(BOUND + SLACK)
            .success("installing coracle");
    }

    fn wait_until_ready(&self) {
        let mut command = Command::new(program());
        command.arg("ready").arg(&self.dir).args(["-t", &READY_BOUND.as_secs().to_string()]);
        let out = job::run(&mut command, READY_BOUND + SLACK);
        let log = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
        assert_eq!(out.status, 0, "{out}\n{log}\n{}", self.console());
    }

    fn job(&self, bound: Duration, options: &[&str], stdin: Stdio, command: &[&str]) -> Job {
        let mut vm = Command::new(program());
        vm.arg("exec").arg(&self.dir).args(["-t", &bound.as_secs().max(1).to_string()]);
        vm.args(options).arg("--").args(command).stdin(stdin);
        Job::start(&mut vm, None).named(command.join(" "))
    }
}

impl Inspect for Vm {
    fn run_script(&self, script: &str) -> Output {
        self.exec(&["sh", "-c", script, "leaks.sh"])
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        if thread::panicking() && self.qemu.try_wait().is_ok_and(|ended| ended.is_none()) {
            let command = ["journalctl", "--no-pager", "-q", "-o", "short-monotonic", "-n", "80"];
            let journal = self.exec_for(Duration::from_secs(20), &command);
            eprintln!("--- end of the journal\n{}---\n{}", journal.stdout, self.console());
        }
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn program() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vm/vm.py")
}

/// Returns the directory printed by build.sh.
fn images() -> &'static PathBuf {
    IMAGES.get_or_init(|| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vm/build.sh");
        let out = job::run(&mut Command::new(script), BUILD_BOUND).success("building the virtual machine");
        let path = PathBuf::from(out.stdout.lines().last().unwrap_or_default());
        assert!(path.is_absolute() && path.is_dir(), "build.sh printed no path: {out}");
        path
    })
}
