//! A virtual machine: a Debian with its own kernel and all cgroup controllers, under QEMU's software
//! emulation. Called by `tests/vm.rs` alone; `tests/vm/` builds it. A restored one replies within a second,
//! at a tenth of the speed of a nested host.
//!
//! QEMU is a child of the test and dies with it. The disk is read-only: changes of a test end with the
//! machine.

use std::fs;
use std::io::{Seek, SeekFrom};
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
/// From the cache, or from Debian's packages.
const BUILD_BOUND: Duration = Duration::from_secs(1800);
const READY_BOUND: Duration = Duration::from_secs(180);
/// The time that vm.py needs beyond its time limit.
const SLACK: Duration = Duration::from_secs(15);

static IMAGES: OnceLock<PathBuf> = OnceLock::new();

/// A running virtual machine.
#[derive(Debug)]
pub struct Vm {
    dir: PathBuf,
    qemu: Child,
}

impl Vm {
    /// A virtual machine with coracle installed, from the saved state.
    pub fn start() -> Self {
        let images = images();
        let dir = state::own();
        let log = fs::File::create(dir.join("log")).expect("create the log");
        // A test that is killed takes its machine with it.
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

    /// Runs a command; at the bound it is killed and its status is 124.
    pub fn exec_for(&self, bound: Duration, command: &[&str]) -> Output {
        self.job(bound, &[], Stdio::null(), command).wait(bound + SLACK)
    }

    /// Runs a shell script.
    pub fn sh(&self, script: &str) -> Output {
        self.exec(&["sh", "-euc", script])
    }

    /// Runs a shell script that must succeed, and returns its standard output.
    #[track_caller]
    pub fn sh_ok(&self, script: &str) -> String {
        self.sh(script).success("in the virtual machine").stdout
    }

    /// Runs coracle, which must succeed, and returns its standard output.
    #[track_caller]
    pub fn coracle(&self, arguments: &[&str]) -> String {
        self.exec(&[&["coracle"], arguments].concat()).success("in the virtual machine").stdout
    }

    /// Defines a machine with the busybox guest's files of its own at `/var/lib/machines/NAME`.
    #[track_caller]
    pub fn define(&self, name: &str, definition: &str) {
        let script = r#"[ -d "/var/lib/machines/$1" ] || cp -a /var/lib/machines/busybox "/var/lib/machines/$1"
            mkdir -p /etc/coracle/machines.d; cat >"/etc/coracle/machines.d/$1.toml""#;
        let command = ["sh", "-euc", script, "sh", name];
        self.job(BOUND, &["-i"], job::input_of(definition.as_bytes()), &command)
            .wait(BOUND + SLACK)
            .success("defining a machine");
    }

    /// Repeats a shell script until it succeeds; panics with its last output at the bound.
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

    /// Reboots it as a user does and waits until it is `running` again.
    #[track_caller]
    pub fn reboot(&self) {
        let before = self.sh_ok("cat /proc/sys/kernel/random/boot_id");
        self.sh_ok("systemctl reboot --no-block");
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

    /// Powers it off as a user does. Panics when it does not end by itself.
    #[track_caller]
    pub fn power_off(mut self) {
        self.sh_ok("systemctl poweroff --no-block");
        let end = Instant::now() + READY_BOUND;
        while self.qemu.try_wait().expect("wait for QEMU").is_none() {
            assert!(Instant::now() < end, "it does not power off\n{}", self.console());
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// The last console lines of the kernel and of systemd.
    pub fn console(&self) -> String {
        let text = fs::read(self.dir.join("console")).unwrap_or_default();
        String::from_utf8_lossy(&text[text.len().saturating_sub(4000)..]).into_owned()
    }

    /// The files of `make install`, as one archive.
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

/// The directory that build.sh prints.
fn images() -> &'static PathBuf {
    IMAGES.get_or_init(|| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vm/build.sh");
        let out = job::run(&mut Command::new(script), BUILD_BOUND).success("building the virtual machine");
        let path = PathBuf::from(out.stdout.lines().last().unwrap_or_default());
        assert!(path.is_absolute() && path.is_dir(), "build.sh printed no path: {out}");
        path
    })
}
