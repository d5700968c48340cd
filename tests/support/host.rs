//! A nested host: a Debian with systemd as PID 1 of new namespaces, an overlay root, its own cgroup subtree
//! and real directories for `/var/lib/machines` and `/var/tmp`. Called by tests.
//!
//! It boots in about a second. `stop` powers it off like a user and checks that it exits; dropping it kills
//! it. The root must not be accessed through `/proc/PID/root`: an absolute symlink in it resolves on the
//! outer system.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::job::{self, Job, Output};
use super::state::{State, Storage};
use super::{install, trees};

/// The default time limit of a command.
pub const BOUND: Duration = Duration::from_secs(60);
const BOOT_BOUND: Duration = Duration::from_secs(60);
const STOP_BOUND: Duration = Duration::from_secs(30);

/// The configuration of a host.
#[derive(Debug, Clone)]
pub struct Builder {
    tree: String,
    guests: Vec<(String, String)>,
    binds: Vec<String>,
    networkd: bool,
    coracle: bool,
    by: By,
    storage: Storage,
}

/// The program that boots a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    /// unshare(1) and a script, independent of coracle.
    Script,
    /// coracle: the host is a machine of the outer system.
    Coracle,
}

/// A running nested host.
#[derive(Debug)]
pub struct Host {
    state: State,
    unshare: Child,
    leader: u32,
    commands: AtomicU32,
    by: By,
}

impl Builder {
    /// Sets another tree than `host`.
    pub fn on(mut self, tree: &str) -> Self {
        tree.clone_into(&mut self.tree);
        self
    }

    /// Sets the Debian suite, regardless of the suite of the run.
    pub fn suite(mut self, suite: &str) -> Self {
        self.tree = host_tree(suite);
        self
    }

    /// Adds a copy of the guest tree at `/var/lib/machines/TREE`.
    pub fn guest(self, tree: &str) -> Self {
        self.guest_as(tree, tree)
    }

    /// Adds a copy of the guest tree at `/var/lib/machines/NAME`.
    pub fn guest_as(mut self, tree: &str, name: &str) -> Self {
        self.guests.push((tree.to_owned(), name.to_owned()));
        self
    }

    /// Bind mounts a path of the outer system in the host; neither path may contain a space or a colon.
    pub fn bind(mut self, source: &str, target: &str) -> Self {
        for path in [source, target] {
            assert!(path.starts_with('/') && !path.contains([' ', ':', '\n']), "bad path '{path}'");
        }
        self.binds.push(format!("{source}:{target}"));
        self
    }

    /// Enables systemd-networkd, which is disabled by default.
    pub fn networkd(mut self) -> Self {
        self.networkd = true;
        self
    }

    /// Runs the host as a machine of coracle.
    pub fn in_coracle(mut self) -> Self {
        self.by = By::Coracle;
        self
    }

    /// Runs the host without coracle in every lane of the suite.
    pub fn script(mut self) -> Self {
        self.by = By::Script;
        self
    }

    /// Stores the host's files on disk, for tests that depend on the file system.
    pub fn on_disk(mut self) -> Self {
        self.storage = Storage::Disk;
        self
    }

    /// Does not install coracle on the host.
    pub fn without_coracle(mut self) -> Self {
        self.coracle = false;
        self
    }

    /// Boots the host and waits until it is `running`; a degraded host fails the test.
    pub fn start(self) -> Host {
        let tree = trees::tree(&self.tree);
        let state = State::new(self.storage);
        for (guest, name) in &self.guests {
            add_guest(&state, guest, name);
        }
        if self.coracle {
            trees::copy(&install::staged().join("usr"), &state.dir.join("upper/usr"));
            // If /usr were newer than the last update, the first boot would run all update services.
            let mut touch = Command::new("touch");
            touch.arg("-r").arg(tree.join("usr")).arg(state.dir.join("upper/usr"));
            job::run(&mut touch, BOUND).success("touch");
        }
        let unshare = self.boot(&state, &tree);
        let mut host = Host { state, unshare, leader: 0, commands: AtomicU32::new(0), by: self.by };
        host.wait_for_systemd();
        host.wait_until_running();
        host
    }

    /// Starts the process that becomes PID 1 of the host.
    fn boot(&self, state: &State, tree: &Path) -> Child {
        let log = fs::File::create(state.dir.join("log")).expect("create the log");
        // The child enters the cgroup before it unshares, so that the cgroup is the root of the cgroup
        // namespace.
        let (script, setup) = match self.by {
            By::Script => (
                r#"echo $$ >"$CGROUP/cgroup.procs" && exec unshare --mount --uts --ipc --net --pid --cgroup \
            --fork --kill-child --propagation slave bash "$SETUP""#,
                concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/nested-host.sh"),
            ),
            By::Coracle => (
                r#"echo $$ >"$CGROUP/cgroup.procs" && exec unshare --mount --propagation slave bash "$SETUP""#,
                concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/coracle-host.sh"),
            ),
        };
        Command::new("setsid")
            .args(["bash", "-c", script])
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("CGROUP", &state.cgroup)
            .env("SETUP", setup)
            .env("CORACLE", install::binary())
            .env("STATE", &state.dir)
            .env("TREE", tree)
            .env("NAME", format!("host-{}", state.name))
            .env("OUTER_MNT", fs::read_link("/proc/self/ns/mnt").expect("read our mount namespace"))
            .env("BINDS", self.binds.join(" "))
            .env("NETWORKD", if self.networkd { "1" } else { "0" })
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("duplicate the log"))
            .stderr(log)
            .spawn()
            .expect("start the host")
    }
}

impl Host {
    /// Starts a host with coracle installed and without networkd, with these guest trees under their own
    /// names. It is a Debian 13 unless `CORACLE_HOST_SUITE` names another suite, and a machine of coracle if
    /// `CORACLE_HOST_BY` is `coracle`.
    pub fn start(guests: &[&str]) -> Self {
        guests.iter().fold(Self::builder(), |builder, guest| builder.guest(guest)).start()
    }

    /// Returns the builder of such a host, without guest trees.
    pub fn builder() -> Builder {
        let tree = host_tree(&std::env::var("CORACLE_HOST_SUITE").unwrap_or_default());
        let by = match std::env::var("CORACLE_HOST_BY").unwrap_or_default().as_str() {
            "" => By::Script,
            "coracle" => By::Coracle,
            other => panic!("CORACLE_HOST_BY is '{other}', which is neither empty nor 'coracle'"),
        };
        Builder {
            tree,
            guests: Vec::new(),
            binds: Vec::new(),
            networkd: false,
            coracle: true,
            by,
            storage: Storage::Memory,
        }
    }

    /// Adds a copy of the guest tree at `/var/lib/machines/NAME` of the running host.
    pub fn add_guest(&self, tree: &str, name: &str) {
        add_guest(&self.state, tree, name);
    }

    /// Returns the host's name, unique on the outer system.
    pub fn name(&self) -> String {
        format!("host-{}", self.state.name)
    }

    /// Returns the pid of the host's systemd in the outer pid namespace.
    pub fn leader(&self) -> u32 {
        self.leader
    }

    /// Returns the cgroup that is the root of the host's cgroup namespace.
    fn top(&self) -> PathBuf {
        match self.by {
            By::Script => self.state.cgroup.clone(),
            By::Coracle => self.state.cgroup.join(format!("coracle.{}/payload", self.name())),
        }
    }

    /// Returns the path of the host's `/var/lib/machines` on the outer system.
    pub fn machines(&self) -> PathBuf {
        self.state.dir.join("machines")
    }

    /// Creates a disk of 2 GiB with a file system of this kind, in the host's file `/var/tmp/disk`, and
    /// mounts it.
    #[track_caller]
    pub fn add_disk(&self, kind: &str, place: &str) {
        let file = self.state.dir.join("vartmp/disk");
        let disk = fs::File::create(&file).expect("create a disk");
        disk.set_len(2 << 30).expect("set the size of a disk");
        let mut format = Command::new(format!("mkfs.{kind}"));
        job::run(format.arg("-q").arg(&file).stdin(Stdio::null()), BOUND).success("mkfs");
        self.sh_ok(&format!("mkdir -p {place}; mount /var/tmp/disk {place}"));
    }

    /// Runs a command in the host as root, with a time limit of one minute.
    pub fn exec(&self, command: &[&str]) -> Output {
        self.exec_for(BOUND, command)
    }

    /// Runs a command in the host. At the time limit it is killed with its descendants, and its status is
    /// 124.
    pub fn exec_for(&self, bound: Duration, command: &[&str]) -> Output {
        self.start_job(command, Stdio::null()).wait(bound)
    }

    /// Runs a shell script in the host.
    pub fn sh(&self, script: &str) -> Output {
        self.exec(&["sh", "-euc", script])
    }

    /// Runs a command in the host and returns its standard output; the command must succeed.
    #[track_caller]
    pub fn ok(&self, command: &[&str]) -> String {
        self.exec(command).success("in the host").stdout
    }

    /// Runs a command in all namespaces of PID 1 of a machine registered with machined.
    pub fn in_guest(&self, machine: &str, command: &[&str]) -> Output {
        let script = r#"leader=$(machinectl show "$1" -p Leader --value) && shift && exec nsenter -t "$leader" -a "$@""#;
        self.exec(&[&["sh", "-euc", script, "sh", machine], command].concat())
    }

    /// Runs a shutdown or reboot command in a machine. The machine's exit may kill the command: 128 plus the
    /// number of SIGTERM or SIGKILL is accepted as well.
    #[track_caller]
    pub fn ask_in_guest(&self, machine: &str, command: &[&str]) {
        let asked = self.in_guest(machine, command);
        assert!([0, 143, 137].contains(&asked.status), "asked from inside: {asked}");
    }

    /// Runs a shell script in the host and returns its standard output; the script must succeed.
    #[track_caller]
    pub fn sh_ok(&self, script: &str) -> String {
        self.sh(script).success("in the host").stdout
    }

    /// Runs a command with the given standard input.
    pub fn exec_with_input(&self, input: &[u8], command: &[&str]) -> Output {
        self.start_job(command, job::input_of(input)).wait(BOUND)
    }

    /// Runs a shell command line on a new terminal. Both streams are returned as standard output, with CR LF.
    pub fn exec_on_tty(&self, bound: Duration, command_line: &str) -> Output {
        self.exec_for(bound, &["script", "-qefc", command_line, "/dev/null"])
    }

    /// Starts a command in the background.
    pub fn spawn(&self, command: &[&str]) -> Job {
        self.start_job(command, Stdio::null())
    }

    /// Starts a command in the background with a pipe as standard input, see `Job::input`.
    pub fn spawn_with_pipe(&self, command: &[&str]) -> Job {
        self.start_job(command, Stdio::piped())
    }

    /// Starts a shell command line in the background on a new terminal; bytes written to `Job::input` are
    /// typed.
    pub fn spawn_on_tty(&self, command_line: &str) -> Job {
        self.spawn_with_pipe(&["script", "-qefc", command_line, "/dev/null"])
    }

    /// Writes a file in the host and creates its parent directories.
    #[track_caller]
    pub fn write(&self, path: &str, content: &str) {
        let script = r#"mkdir -p "$(dirname "$1")" && cat >"$1""#;
        self.exec_with_input(content.as_bytes(), &["sh", "-euc", script, "sh", path])
            .success("writing a file");
    }

    /// Reads a file of the host.
    #[track_caller]
    pub fn read(&self, path: &str) -> String {
        self.ok(&["cat", "--", path])
    }

    /// Repeats a shell script until it succeeds; panics with its last output at the time limit.
    #[track_caller]
    pub fn wait_until(&self, bound: Duration, script: &str) -> Output {
        let end = Instant::now() + bound;
        let mut pause = Duration::from_millis(20);
        loop {
            let out = self.sh(script);
            if out.status == 0 {
                return out;
            }
            assert!(Instant::now() < end, "not in {bound:?}: {out}");
            // Pause longer each time: the script takes processor time from the awaited service.
            thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(200));
        }
    }

    /// Returns the last lines of the host's journal.
    pub fn journal(&self, lines: u32) -> String {
        let count = lines.to_string();
        let command = ["journalctl", "--no-pager", "-q", "-o", "short-monotonic", "-n", &count];
        self.exec_for(Duration::from_secs(10), &command).stdout
    }

    /// Powers off the host and removes it. Panics if it does not power off in time.
    pub fn stop(mut self) {
        let mut kill = Command::new("kill");
        kill.args(["-s", "RTMIN+4", &self.leader.to_string()]);
        assert!(
            self.unshare.try_wait().expect("wait for unshare").is_none(),
            "the host ended before its time"
        );
        job::run(&mut kill, BOUND).success("ask the host to power off");
        let end = Instant::now() + STOP_BOUND;
        while self.unshare.try_wait().expect("wait for unshare").is_none() {
            if Instant::now() >= end {
                panic!("the host did not power off in {STOP_BOUND:?}");
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Starts a command in a separate cgroup at the top of the host: nsenter does not enter a cgroup, and
    /// without one `/proc/self/cgroup` would show a path above the root. The cgroup also identifies the
    /// descendants.
    fn start_job(&self, command: &[&str], stdin: Stdio) -> Job {
        let number = self.commands.fetch_add(1, Ordering::Relaxed);
        let cgroup = self.top().join(format!("exec.{number}"));
        fs::create_dir(&cgroup).expect("create a command's cgroup");
        let script = r#"echo $$ >"$1/cgroup.procs" && shift && exec nsenter -t "$@""#;
        let leader = self.leader.to_string();
        let mut sh = Command::new("sh");
        sh.args(["-c", script, "sh"]).arg(&cgroup).args([&leader, "-a", "env", "-i"]);
        sh.args(["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin", "HOME=/root", "LANG=C.UTF-8"]);
        sh.args(["TERM=xterm", "SYSTEMD_PAGER=", "SYSTEMD_COLORS=0"]);
        sh.args(command).stdin(stdin);
        Job::start(&mut sh, Some(cgroup)).named(command.join(" "))
    }

    /// Waits until the setup script has executed systemd.
    fn wait_for_systemd(&mut self) {
        let unshare = self.unshare.id();
        let end = Instant::now() + BOOT_BOUND;
        loop {
            let children =
                fs::read_to_string(format!("/proc/{unshare}/task/{unshare}/children")).unwrap_or_default();
            if let Ok(leader) = children.trim().parse()
                && fs::read_to_string(format!("/proc/{leader}/comm")).is_ok_and(|comm| comm == "systemd\n")
            {
                self.leader = leader;
                return;
            }
            let ended = self.unshare.try_wait().expect("wait for unshare");
            let log = || fs::read_to_string(self.state.dir.join("log")).unwrap_or_default();
            assert!(ended.is_none(), "the host's set-up failed: {ended:?}\n{}", log());
            assert!(Instant::now() < end, "the host's set-up hangs\n{}", log());
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn wait_until_running(&self) {
        let end = Instant::now() + BOOT_BOUND;
        loop {
            let out = self.exec_for(BOOT_BOUND, &["systemctl", "is-system-running", "--wait"]);
            match out.stdout.trim() {
                "running" => return,
                "degraded" => panic!("the host is degraded:\n{}", self.ok(&["systemctl", "--failed"])),
                // The bus is not available yet.
                _ => assert!(Instant::now() < end, "the host does not boot: {out}"),
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if thread::panicking() && self.leader != 0 {
            eprintln!("--- end of the journal of {}\n{}---", self.name(), self.journal(80));
        }
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
        if self.by == By::Coracle {
            // The caller must clean up after a foreground supervisor was killed.
            let mut cleanup = Command::new(install::binary());
            cleanup.args(["cleanup", &self.name()]);
            let out = job::run(&mut cleanup, BOUND);
            assert!(out.status == 0 || thread::panicking(), "{out}");
        }
        if let Err(error) = self.state.remove() {
            // A panic during a panic would abort the test program.
            assert!(thread::panicking(), "{error}");
            eprintln!("{error}");
        }
    }
}

/// Returns the host tree of a suite; the default is Debian 13.
fn host_tree(suite: &str) -> String {
    match suite {
        "" | "trixie" => "host".to_owned(),
        other => format!("host-{other}"),
    }
}

fn add_guest(state: &State, tree: &str, name: &str) {
    let target = state.dir.join("machines").join(name);
    assert!(!target.exists(), "there is a guest '{name}' already");
    trees::copy(&trees::tree(tree), &target);
}
