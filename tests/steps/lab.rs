//! A disposable host for `coracle run`: a directory with a busybox tree and all state of coracle, and
//! namespaces that end with each run. Called by the tests.
//!
//! A run that leaves a mount, a network link, a cgroup or a file behind fails its test.

use std::cell::Cell;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tempfile::TempDir;

use crate::support::job::{self, Job, Output};
use crate::support::{install, trees};

/// The timeout of one run.
pub const BOUND: Duration = Duration::from_secs(60);

/// Runs its arguments in a host without systemd, bus and other processes. Exits with 99 if a mount or a link
/// is left over.
const APART: &str = r#"
    mount -t proc proc /proc && mount -t tmpfs tmpfs /run || exit 98
    state() {
        sed -e '\, [^ ]*/run/coracle/\.mounts[ /],d' -e 's/ [^ ]*:[^ ]* - / - /' /proc/self/mountinfo
        sed -n 's/:.*//p' /proc/net/dev
    }
    before=$(state)
    status=0
    "$@" || status=$?
    after=$(state)
    [ "$before" = "$after" ] || {
        echo "left over: $(echo "$after" | grep -vxF "$before"); missing: $(echo "$before" | grep -vxF "$after")" >&2
        exit 99
    }
    exit $status
"#;

/// The disposable host.
pub struct Lab {
    directory: TempDir,
    name: String,
    mounts: Cell<Mounts>,
}

/// The origin of a machine's mount namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mounts {
    /// The empty one, created by the run.
    Empty,
    /// The host's: an empty one counts as refused by the kernel.
    Host,
}

impl Lab {
    /// Creates a host with one tree.
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        assert!(rustix::process::geteuid().is_root(), "must be run as root");
        let name = format!("steps-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        // Not in /tmp, which may be a tmpfs: older kernels do not map its ids.
        let directory = tempfile::Builder::new().prefix("coracle-steps.").tempdir_in("/var/tmp").unwrap();
        let lab = Self { directory, name, mounts: Cell::new(Mounts::Empty) };
        lab.grow();
        lab.define("[root]\n");
        lab
    }

    /// Sets the origin of the mount namespaces of later runs.
    pub fn copy_mounts_of(&self, mounts: Mounts) {
        self.mounts.set(mounts);
    }

    /// Returns the name of its machine.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns a path of the host, below its root.
    pub fn path(&self, path: &str) -> PathBuf {
        self.directory.path().join(path.trim_start_matches('/'))
    }

    /// Returns the root of the tree.
    pub fn tree(&self) -> PathBuf {
        self.path("/var/lib/machines").join(&self.name)
    }

    /// Writes the definition of the machine.
    pub fn define(&self, text: &str) {
        let file = self.path("/etc/coracle/machines.d").join(format!("{}.toml", self.name));
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    }

    /// Writes a file of the host and returns its path.
    pub fn file(&self, path: &str, text: &str) -> String {
        let file = self.path(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, text).unwrap();
        file.to_str().unwrap().to_owned()
    }

    fn grow(&self) {
        let tree = self.tree();
        for directory in ["usr/bin", "etc", "root"] {
            fs::create_dir_all(tree.join(directory)).unwrap();
        }
        // The mode of an installed host: its users must not access the trees.
        fs::set_permissions(tree.parent().unwrap(), fs::Permissions::from_mode(0o700)).unwrap();
        fs::copy(busybox(), tree.join("usr/bin/busybox")).unwrap();
        for applet in applets() {
            symlink("busybox", tree.join("usr/bin").join(applet)).unwrap();
        }
        // If a test binds the host's /usr, these links lead to the host's libraries.
        for (link, to) in
            [("bin", "usr/bin"), ("sbin", "usr/bin"), ("lib", "usr/lib"), ("lib64", "usr/lib64")]
        {
            symlink(to, tree.join(link)).unwrap();
        }
        for (file, text) in [
            ("passwd", "root:x:0:0:root:/root:/bin/sh\njoe:x:1000:1000:joe:/home/joe:/bin/sh\n"),
            ("group", "root:x:0:\njoe:x:1000:\nstaff:x:50:joe\n"),
            ("os-release", "ID=busybox\n"),
        ] {
            fs::write(tree.join("etc").join(file), text).unwrap();
        }
    }

    /// Returns a command in disposable namespaces, not started yet.
    pub fn apart(&self, words: &[&str]) -> Command {
        let mut command = Command::new("unshare");
        command.args(["--net", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", APART, "sh"]);
        command.args(words).stdin(Stdio::null());
        command
    }

    /// Returns a command line of `coracle` with the root of this host.
    pub fn coracle<'a>(&'a self, binary: &'a str, arguments: &[&'a str]) -> Vec<&'a str> {
        let root = self.directory.path().to_str().unwrap();
        [binary, "--root", root].into_iter().chain(arguments.iter().copied()).collect()
    }

    /// Waits for a started run, and checks for leftovers.
    #[track_caller]
    pub fn wait(&self, job: Job) -> Output {
        let output = job.wait(BOUND);
        self.assert_clean(&output);
        output
    }

    /// Runs `coracle run` with its required arguments, in the defined machine.
    #[track_caller]
    pub fn run(&self, options: &[&str], command: &[&str]) -> Output {
        self.run_as(&["-M", &self.name], options, command)
    }

    /// Runs `coracle run` with the defaults of systemd-nspawn(1): ids and network of the host.
    #[track_caller]
    pub fn run_plain(&self, options: &[&str], command: &[&str]) -> Output {
        let tree = self.tree();
        self.run_as(&["-D", tree.to_str().unwrap()], options, command)
    }

    #[track_caller]
    fn run_as(&self, which: &[&str], options: &[&str], command: &[&str]) -> Output {
        let binary = install::binary();
        let pinned = self.path("/run/coracle/.mounts");
        // The namespace of an earlier run ended with it.
        let _ = fs::remove_dir_all(&pinned);
        if self.mounts.get() == Mounts::Host {
            fs::create_dir_all(&pinned).unwrap();
            fs::write(pinned.join("empty"), "refused").unwrap();
        }
        let arguments = [&["run"], which, options, &["--"], command].concat();
        let words = self.coracle(binary.to_str().unwrap(), &arguments);
        self.wait(Job::start(&mut self.apart(&words), None))
    }

    /// Returns the output of a script in the defined machine; the script must succeed.
    #[track_caller]
    pub fn sh(&self, options: &[&str], script: &str) -> String {
        self.run(options, &["sh", "-ec", script]).success("a script inside").stdout
    }

    /// Returns the output of a script, with the defaults of systemd-nspawn(1).
    #[track_caller]
    pub fn sh_plain(&self, options: &[&str], script: &str) -> String {
        self.run_plain(options, &["sh", "-ec", script]).success("a script inside").stdout
    }

    /// Asserts that the machine has left no state: no file except the tree and the files of the test, no
    /// cgroup.
    #[track_caller]
    fn assert_clean(&self, output: &Output) {
        assert!(![98, 99].contains(&output.status), "{output}");
        let mut left = Vec::new();
        let mut directories = vec![self.path("/run")];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
                if entry.file_name() == ".mounts" {
                    // The empty mount namespace was pinned there.
                } else if entry.file_type().unwrap().is_dir() {
                    directories.push(entry.path());
                } else {
                    left.push(entry.path());
                }
            }
        }
        left.extend(self.cgroup().filter(|directory| directory.exists()));
        left.extend([self.path("/run/coracle").join(&self.name)].into_iter().filter(|path| path.exists()));
        assert!(left.is_empty(), "left over: {left:?}\n{output}");
    }

    /// Returns the cgroup of the machine; `None` without a unified hierarchy.
    pub fn cgroup(&self) -> Option<PathBuf> {
        let own = coracle::host::cgroup::current()?;
        Some(own.join(format!("coracle.{}", self.name)))
    }
}

/// Returns a static busybox: that of this system, or that of the cached tree.
fn busybox() -> &'static Path {
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    FOUND.get_or_init(|| {
        let is_static = |path: &&Path| {
            // A dynamically linked program has the name of its loader near the start of the file.
            fs::read(path).is_ok_and(|bytes| {
                let front = &bytes[..bytes.len().min(4096)];
                !front.windows(4).any(|four| four == b"ld-l" || four == b"ld-m")
            })
        };
        let own = ["/usr/bin/busybox", "/bin/busybox"].map(Path::new);
        own.iter()
            .copied()
            .find(is_static)
            .map_or_else(|| trees::tree("busybox").join("usr/bin/busybox"), Path::to_owned)
    })
}

/// Returns the names of busybox's applets.
fn applets() -> &'static [String] {
    static FOUND: OnceLock<Vec<String>> = OnceLock::new();
    FOUND.get_or_init(|| {
        let listed = job::run(Command::new(busybox()).arg("--list"), BOUND).success("listing applets");
        listed.stdout.lines().filter(|name| *name != "busybox").map(str::to_owned).collect()
    })
}

/// The options that bind the host's programs and libraries, for programs missing in busybox.
pub const HOST_PROGRAMS: &[&str] = &["--bind-ro=/usr"];
