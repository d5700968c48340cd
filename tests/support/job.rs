//! Commands with a time limit, on the outer system or in a nested host. Called by the rest of the harness
//! and, through `Host::spawn`, by tests.
//!
//! Output goes to unlinked files, not to pipes: no thread has to read them, and a background process that
//! holds them open cannot block a test.

use std::fmt;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

/// The exit status of a command killed at its time limit, as in timeout(1).
pub const TIMED_OUT: i32 = 124;

/// The result of a command: exit status (128+n for a signal, 124 at the time limit) and both streams.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    pub command: String,
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { command, status, stdout, stderr } = self;
        write!(f, "`{command}` ended with {status}\n--- stdout\n{stdout}\n--- stderr\n{stderr}\n---")
    }
}

impl Output {
    /// Returns the output of a successful command; panics with all details otherwise.
    #[track_caller]
    pub fn success(self, doing: &str) -> Self {
        assert!(self.status == 0, "{doing}: {self}");
        self
    }
}

/// A running command, killed when dropped.
#[derive(Debug)]
pub struct Job {
    command: String,
    child: Child,
    stdout: File,
    stderr: File,
    /// The cgroup of the command and its descendants; `None` on the outer system.
    cgroup: Option<PathBuf>,
}

/// Runs a command on the outer system, without input, and waits for it.
pub fn run(command: &mut Command, bound: Duration) -> Output {
    command.stdin(Stdio::null());
    Job::start(command, None).wait(bound)
}

impl Job {
    /// Starts a command in a new process group. The caller sets its standard input.
    pub fn start(command: &mut Command, cgroup: Option<PathBuf>) -> Self {
        let stdout = tempfile::tempfile().expect("a file for standard output");
        let stderr = tempfile::tempfile().expect("a file for standard error");
        command
            .stdout(stdout.try_clone().expect("duplicate a file"))
            .stderr(stderr.try_clone().expect("duplicate"));
        let child =
            command.process_group(0).spawn().unwrap_or_else(|error| panic!("start {command:?}: {error}"));
        let command = format!("{command:?}");
        Self { command, child, stdout, stderr, cgroup }
    }

    /// Sets the name of the command in messages.
    pub fn named(mut self, name: String) -> Self {
        self.command = name;
        self
    }

    /// Returns the standard input, which must be a pipe. Dropping it is end of file.
    pub fn input(&mut self) -> ChildStdin {
        self.child.stdin.take().expect("standard input is no pipe, or was taken")
    }

    /// Returns the standard output so far.
    pub fn stdout(&self) -> String {
        content(&self.stdout)
    }

    /// Returns the standard error so far.
    pub fn stderr(&self) -> String {
        content(&self.stderr)
    }

    /// Returns the exit status; `None` if the command is still running.
    pub fn poll(&mut self) -> Option<i32> {
        self.child.try_wait().expect("wait for a child").map(status_of)
    }

    /// Waits until the command exits; kills it and all its descendants at the time limit.
    pub fn wait(mut self, bound: Duration) -> Output {
        let end = Instant::now() + bound;
        let mut pause = Duration::from_millis(1);
        let status = loop {
            if let Some(status) = self.poll() {
                break status;
            }
            if Instant::now() >= end {
                self.kill();
                break TIMED_OUT;
            }
            thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        };
        Output { command: self.command.clone(), status, stdout: self.stdout(), stderr: self.stderr() }
    }

    /// Waits until the command exits, without consuming the job. Panics at the time limit.
    #[track_caller]
    pub fn wait_for_exit(&mut self, bound: Duration) -> i32 {
        let end = Instant::now() + bound;
        loop {
            if let Some(status) = self.poll() {
                return status;
            }
            let command = &self.command;
            assert!(Instant::now() < end, "`{command}` runs:\n{}\n{}", self.stdout(), self.stderr());
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until standard output contains `text`; panics at the time limit or if the command exits without
    /// it.
    #[track_caller]
    pub fn wait_for_stdout(&mut self, text: &str, bound: Duration) {
        self.wait_for_nth_stdout(text, 1, bound);
    }

    /// Waits until standard output contains `text` at least `count` times.
    #[track_caller]
    pub fn wait_for_nth_stdout(&mut self, text: &str, count: usize, bound: Duration) {
        let end = Instant::now() + bound;
        loop {
            // Poll first: output written before the exit is then read.
            let ended = self.poll();
            let stdout = self.stdout();
            if stdout.matches(text).count() >= count {
                return;
            }
            let stderr = self.stderr();
            let command = &self.command;
            assert!(ended.is_none(), "`{command}` ended with {ended:?} before '{text}':\n{stdout}\n{stderr}");
            assert!(
                Instant::now() < end,
                "`{command}` did not say '{text}' in {bound:?}:\n{stdout}\n{stderr}"
            );
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Kills the command with all its descendants, also those in nested pid namespaces.
    pub fn kill(&mut self) {
        if let Some(cgroup) = &self.cgroup {
            let _ = std::fs::write(cgroup.join("cgroup.kill"), "1");
        }
        // Only `poll` reaps the child, so the pid is still valid.
        if self.poll().is_none() {
            let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a pid");
            let _ = kill_process_group(pid, Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if self.poll().is_none() {
            self.kill();
        }
        // Fails while a background process of the command is running; the host removes the cgroup when it
        // stops.
        if let Some(cgroup) = &self.cgroup {
            let _ = std::fs::remove_dir(cgroup);
        }
    }
}

/// Returns a file with the given content as standard input.
pub fn input_of(bytes: &[u8]) -> Stdio {
    let mut file = tempfile::tempfile().expect("a file for standard input");
    file.write_all(bytes).expect("write standard input");
    file.seek(SeekFrom::Start(0)).expect("rewind standard input");
    Stdio::from(file)
}

fn status_of(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
}

/// Reads the whole file without moving the offset, which is shared with the writer.
fn content(file: &File) -> String {
    let mut bytes =
        vec![0; usize::try_from(file.metadata().map_or(0, |meta| meta.len())).unwrap_or_default()];
    let mut filled = 0;
    while let Ok(more @ 1..) = file.read_at(&mut bytes[filled..], filled as u64) {
        filled += more;
    }
    bytes.truncate(filled);
    String::from_utf8_lossy(&bytes).into_owned()
}
