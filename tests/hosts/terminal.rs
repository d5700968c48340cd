//! Commands on a real terminal: tmux(1) on the test machine, with a shell of the nested host. Window sizes,
//! keys, job control on both sides, and full-screen programs.

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Host, job};

const BOUND: Duration = Duration::from_secs(20);

/// A tmux window with a shell of the host.
struct Window {
    socket: String,
}

impl Window {
    fn open(host: &Host) -> Self {
        let window = Self { socket: format!("coracle-test-{}", host.name()) };
        let environment = "env -i PATH=/usr/sbin:/usr/bin HOME=/root TERM=screen PS1='host> '";
        let shell = format!("nsenter -t {} -a {environment} bash --norc -i", host.leader());
        window.tmux(&["new-session", "-d", "-x", "100", "-y", "30", &shell]);
        window.sees("host>");
        window
    }

    fn tmux(&self, words: &[&str]) -> String {
        let mut command = Command::new("tmux");
        command.args(["-L", &self.socket, "-f", "/dev/null"]).args(words);
        job::run(&mut command, BOUND).success("tmux").stdout
    }

    fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    /// Types text, followed by keys with the names used by tmux.
    fn types(&self, text: &str, keys: &[&str]) {
        self.tmux(&["send-keys", "-l", text]);
        for key in keys {
            self.tmux(&["send-keys", key]);
        }
    }

    #[track_caller]
    fn sees(&self, text: &str) {
        let end = Instant::now() + BOUND;
        while !self.screen().contains(text) {
            assert!(Instant::now() < end, "'{text}' does not come:\n{}", self.screen());
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn clear(&self) {
        self.types("clear", &["Enter"]);
        let end = Instant::now() + BOUND;
        while self.screen().trim() != "host>" {
            assert!(Instant::now() < end, "the screen is not cleared:\n{}", self.screen());
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        let mut kill = Command::new("tmux");
        let _ = kill.args(["-L", &self.socket, "kill-server"]).stderr(std::process::Stdio::null()).status();
    }
}

#[test]
fn a_shell_has_window_size_and_job_control() {
    let host = Host::start(&["trixie"]);
    host.ok(&["coracle", "start", "trixie"]);
    let window = Window::open(&host);
    window.types("coracle shell trixie", &["Enter"]);
    window.sees("root@trixie");
    // The window size, initially and after a change.
    window.types("stty size", &["Enter"]);
    window.sees("30 100");
    window.types("trap 'echo changed' WINCH", &["Enter"]);
    window.tmux(&["resize-window", "-x", "120", "-y", "40"]);
    window.types("", &["Enter"]);
    window.sees("changed");
    window.types("stty size", &["Enter"]);
    window.sees("40 120");
    // ^C terminates the command, but not the shell.
    window.types("sleep 100", &["Enter"]);
    host.wait_until(BOUND, "pgrep -fx 'sleep 100'");
    window.types("", &["C-c"]);
    window.types("echo status-$?", &["Enter"]);
    window.sees("status-130");
    // ^Z stops the command, and `bg` continues it.
    window.types("sleep 200", &["Enter"]);
    host.wait_until(BOUND, "pgrep -fx 'sleep 200'");
    window.types("", &["C-z"]);
    window.sees("Stopped");
    window.types("bg; jobs", &["Enter"]);
    window.sees("Running");
    window.types("kill %1; wait; exit 4", &["Enter"]);
    window.sees("host>");
    window.types("echo then-$?", &["Enter"]);
    window.sees("then-4");
    // The host's terminal is restored.
    window.types("stty -a | grep -c ' echo '", &["Enter"]);
    window.sees("\n1\n");
    host.stop();
}

#[test]
fn exec_is_a_job_of_the_shell() {
    let host = Host::start(&["busybox"]);
    host.ok(&["coracle", "start", "busybox"]);
    let window = Window::open(&host);
    window.types(
        "coracle exec -T busybox -- sh -c 'while :; do date +%s.%N >/tmp/now; sleep .1; done'",
        &["Enter"],
    );
    host.wait_until(BOUND, "coracle exec busybox -- cat /tmp/now");
    window.types("", &["C-z"]);
    window.sees("Stopped");
    // The command in the machine stops and continues together with its client.
    let state = |is: &str| format!("ps -C sh -o stat=,args= | grep '[t]mp/now' | grep '^{is}'");
    host.wait_until(BOUND, &state("T"));
    let before = host.ok(&["coracle", "exec", "busybox", "--", "cat", "/tmp/now"]);
    window.types("fg", &["Enter"]);
    host.wait_until(
        BOUND,
        &format!("[ \"$(coracle exec busybox -- cat /tmp/now)\" != '{}' ]", before.trim()),
    );
    window.types("", &["C-c"]);
    host.wait_until(BOUND, &format!("! {}", state("")));
    window.types("echo status-$?", &["Enter"]);
    window.sees("status-130");
    host.stop();
}

#[test]
fn full_screen_programs_work() {
    let host = Host::start(&["busybox"]);
    host.ok(&["coracle", "start", "busybox"]);
    let window = Window::open(&host);
    window.types("coracle exec busybox -- vi /tmp/text", &["Enter"]);
    window.sees("/tmp/text");
    window.types("ihello from vi", &["Escape"]);
    window.sees("hello from vi");
    // The indicator of vi's command mode.
    window.sees("- /tmp/text");
    // After a change of the size, the command line of vi is the last line of the window.
    window.tmux(&["resize-window", "-x", "80", "-y", "20"]);
    window.types(":wq", &["Enter"]);
    window.sees("host>");
    assert_eq!(host.ok(&["coracle", "exec", "busybox", "--", "cat", "/tmp/text"]), "hello from vi\n");
    window.clear();
    // Attaches to the console, and detaches.
    window.types("coracle attach busybox", &["Enter"]);
    window.sees("busybox: up");
    window.types("", &["C-]", "C-]", "C-]"]);
    window.sees("detached");
    window.sees("host>");
    host.stop();
}

/// Returns the output of a command in a window of the given width, without its prompt. Asserts that no line
/// is longer than the window.
#[track_caller]
fn shown(window: &Window, columns: u32, line: &str) -> String {
    window.tmux(&["resize-window", "-x", &columns.to_string(), "-y", "50"]);
    window.clear();
    window.types(&format!("{line}; echo the-end"), &["Enter"]);
    window.sees("\nthe-end");
    let screen = window.screen();
    // Wrapped lines are joined in this form.
    let joined = window.tmux(&["capture-pane", "-p", "-J"]);
    let trimmed = |text: &str| text.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>();
    assert_eq!(trimmed(&screen), trimmed(&joined), "lines are wrapped at {columns} columns:\n{screen}");
    let body: Vec<_> = screen.lines().skip(1).take_while(|line| !line.starts_with("the-end")).collect();
    body.join("\n")
}

#[test]
fn output_fits_narrow_and_wide_windows() {
    let host = Host::builder().guest("trixie").guest("busybox").guest_as("busybox", "database-1").start();
    host.define("database-1", "[users]\nprivate = \"no\"\n");
    host.define("broken", "[root]\ndirectory = \"/srv/broken\"\n");
    host.ok(&["coracle", "start", "--wait=ready", "trixie"]);
    host.ok(&["coracle", "start", "busybox", "database-1"]);
    // Address detection of the link-local addresses takes a second.
    host.wait_until(BOUND, "! ip addr | grep tentative");
    let window = Window::open(&host);
    for columns in [80, 200] {
        let list = shown(&window, columns, "coracle list");
        for name in ["trixie", "busybox", "database-1", "running", "ADDRESSES", "UPTIME", "10."] {
            assert!(list.contains(name), "no {name} at {columns} columns:\n{list}");
        }
        assert!(list.contains("UNCONFINED"), "the one without users is told of:\n{list}");
        let status = shown(&window, columns, "coracle status trixie");
        assert!(status.contains("leader: ") && status.contains("unit: "), "{status}");
        let findings = shown(&window, columns, "coracle doctor");
        assert!(
            findings.contains("wrong: machine 'broken' has no root") && findings.contains("hint: "),
            "{findings}"
        );
        let doctor = shown(&window, columns, "coracle doctor broken");
        assert!(doctor.contains("/srv/broken"), "{doctor}");
        window.types("coracle top -d 1", &["Enter"]);
        window.sees("coracle top: 3 machines");
        window.sees("database-1");
        let top = window.screen();
        assert!(top.contains("database-1") && top.lines().count() == 50, "{top}");
        window.types("q", &[]);
        window.sees("host>");
    }
    host.stop();
}
