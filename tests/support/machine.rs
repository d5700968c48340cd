//! Actions of tests on machines of a host: definitions, units, console lines, processes. Called by tests.
//! They use only programs available to users: the binary under test, systemctl, journalctl, machinectl.

use std::time::Duration;

use super::host::Host;
use super::job::Job;

/// The time limit of a boot, reboot or stop. Generous, because only a hanging one reaches it.
pub const LONG: Duration = Duration::from_secs(90);

impl Host {
    /// Writes the definition of a machine; an empty `text` stands for `[root]` alone.
    #[track_caller]
    pub fn define(&self, name: &str, text: &str) {
        let text = if text.is_empty() { "[root]\n" } else { text };
        self.write(&format!("/etc/coracle/machines.d/{name}.toml"), text);
    }

    /// Runs `coracle` with these arguments and returns its standard output; the command must succeed.
    #[track_caller]
    pub fn coracle(&self, words: &[&str]) -> String {
        self.exec_for(LONG, &[&["coracle"], words].concat()).success("coracle").stdout
    }

    /// Defines a machine with default settings, starts it and waits until its unit is active.
    #[track_caller]
    pub fn start_machine(&self, name: &str) {
        self.define(name, "");
        self.coracle(&["start", name]);
    }

    /// Returns a property of a machine from `coracle show`; panics if the machine is not running.
    #[track_caller]
    pub fn property(&self, name: &str, property: &str) -> String {
        let shown = self.coracle(&["show", name, "-p", property]);
        shown.trim().split_once('=').map_or_else(|| panic!("strange: {shown}"), |(_, value)| value.to_owned())
    }

    /// Returns the pid of a machine's PID 1 in the host's pid namespace.
    #[track_caller]
    pub fn machine_leader(&self, name: &str) -> u32 {
        self.property(name, "leader").parse().expect("a process id")
    }

    /// Waits until a machine is in this phase, as shown by `coracle show`.
    #[track_caller]
    pub fn wait_for_phase(&self, name: &str, phase: &str) {
        self.wait_until(LONG, &format!("coracle show {name} -p phase | grep -x phase={phase}"));
    }

    /// Waits until the leader of a machine is a process other than `leader`, and the machine is running.
    #[track_caller]
    pub fn wait_for_reboot(&self, name: &str, leader: u32) {
        let shown = format!("coracle show {name} -p leader -p phase");
        let other = format!("! {shown} | grep -x -e leader= -e leader={leader}");
        self.wait_until(LONG, &format!("{shown} | grep -x phase=running && {other}"));
    }

    /// Returns the pid of a machine's supervisor in the host's pid namespace.
    #[track_caller]
    pub fn supervisor(&self, name: &str) -> u32 {
        self.property(name, "supervisor").parse().expect("a process id")
    }

    /// Kills a machine's supervisor with SIGKILL and waits until its unit has failed.
    #[track_caller]
    pub fn kill_supervisor(&self, name: &str) {
        self.sh_ok(&format!("kill -KILL {}", self.supervisor(name)));
        self.wait_for_unit(name, "failed");
    }

    /// Returns the first IPv4 address of a machine.
    #[track_caller]
    pub fn address(&self, name: &str) -> String {
        let all = self.property(name, "addresses");
        all.split(' ').next().filter(|first| first.contains('.')).expect("an IPv4 address").to_owned()
    }

    /// Returns a property of a machine's unit.
    #[track_caller]
    pub fn unit(&self, name: &str, property: &str) -> String {
        self.ok(&["systemctl", "show", "-P", property, &unit(name)]).trim().to_owned()
    }

    /// Returns the state of a unit of the host (`ActiveState`).
    #[track_caller]
    pub fn unit_state(&self, unit: &str) -> String {
        self.ok(&["systemctl", "show", "-P", "ActiveState", unit]).trim().to_owned()
    }

    /// Returns the machine's console lines in the host's journal.
    #[track_caller]
    pub fn console(&self, name: &str) -> String {
        // Entries reach the journal with a delay.
        self.ok(&["journalctl", "--sync"]);
        let only = format!("CORACLE_MACHINE={name}");
        self.exec(&["journalctl", "-q", "--no-pager", "-a", "-o", "cat", &only]).stdout
    }

    /// Returns the journal entries of the machine's unit: those of the supervisor and those of systemd.
    #[track_caller]
    pub fn unit_journal(&self, name: &str) -> String {
        self.ok(&["journalctl", "--sync"]);
        self.ok(&["journalctl", "-q", "--no-pager", "-a", "-o", "cat", "-u", &unit(name)])
    }

    /// Waits until the console of a machine contains a text.
    #[track_caller]
    pub fn wait_for_console(&self, name: &str, text: &str) {
        self.wait_until(
            LONG,
            &format!("journalctl -q --no-pager -a -o cat CORACLE_MACHINE={name} | grep -F -e '{text}'"),
        );
    }

    /// Waits until a machine's unit is in this state (`ActiveState`).
    #[track_caller]
    pub fn wait_for_unit(&self, name: &str, state: &str) {
        self.wait_until(
            LONG,
            &format!(
                "state=$(systemctl show -P ActiveState '{}'); echo $state; [ $state = {state} ]",
                unit(name)
            ),
        );
    }

    /// Asserts that a machine stopped cleanly, without a killed process.
    #[track_caller]
    pub fn assert_clean_stop(&self, name: &str) {
        let all = self.unit_journal(name);
        // Only the entries since the last start.
        let journal = &all[all.rfind(&format!("Starting {}", unit(name))).unwrap_or_default()..];
        assert_eq!(self.unit(name, "Result"), "success", "{journal}");
        assert_eq!(self.unit(name, "ActiveState"), "inactive", "{journal}");
        // The messages of the supervisor, then those of systemd.
        for forced in ["killing the guest", "did not stop in time", "timed out", "with signal SIGKILL"] {
            let said = |line: &&str| line.contains(forced);
            assert_eq!(journal.lines().find(said), None, "{journal}");
        }
    }

    /// Asserts that a machine of this name is registered with machined, or is not.
    #[track_caller]
    pub fn assert_registered(&self, name: &str, expected: bool) {
        let out = self.exec(&["machinectl", "show", name, "-p", "Leader", "--value"]);
        assert_eq!(out.status == 0, expected, "{out}");
    }

    /// Waits for the page of a machine's web server; only the busybox guest has a web server.
    #[track_caller]
    pub fn wait_for_page(&self, place: &str) {
        self.wait_until(Duration::from_secs(20), &page(place));
    }

    /// Waits for the page of a machine's web server, requested from the network namespace `outside`.
    #[track_caller]
    pub fn wait_for_page_outside(&self, place: &str) {
        self.wait_until(Duration::from_secs(20), &format!("ip netns exec outside {}", page(place)));
    }

    /// Repeats a shell script, without apostrophes, in all namespaces of a machine's PID 1 until it succeeds.
    #[track_caller]
    pub fn wait_until_in_guest(&self, name: &str, script: &str) {
        let leader = format!("$(machinectl show {name} -p Leader --value)");
        self.wait_until(LONG, &format!("nsenter -t {leader} -a sh -c '{script}'"));
    }

    /// Activates systemd-machined, which systemd starts on the first request.
    #[track_caller]
    pub fn activate_machined(&self) {
        self.ok(&["machinectl", "-q", "list"]);
    }

    /// Begins and ends a build session on the image `base`, until nothing of it is left: the first session creates the
    /// directories and slices that stay. `options` are those of its begin.
    #[track_caller]
    pub fn first_session(&self, options: &[&str]) {
        self.ok(&[&["coracle", "build", "begin", "base", "--name=first"], options].concat());
        self.ok(&["coracle", "build", "end", "first"]);
        self.wait_until(LONG, "! find /sys/fs/cgroup -name coracle-first.scope | grep .");
    }

    /// Enables forwarding; otherwise the first machine enables it permanently.
    #[track_caller]
    pub fn enable_forwarding(&self) {
        self.sh_ok("sysctl -q net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
    }

    /// Waits until duplicate address detection has ended on all interfaces of the host.
    #[track_caller]
    pub fn wait_for_address_detection(&self) {
        self.wait_until(LONG, "! ip -6 addr show tentative | grep .");
    }

    /// Enables systemd-networkd in the tree of a stopped machine.
    #[track_caller]
    pub fn enable_networkd(&self, name: &str) {
        let root = format!("/var/lib/machines/{name}");
        self.ok(&["chroot", &root, "systemctl", "-q", "enable", "systemd-networkd"]);
    }

    /// Serves `/srv/www`, created if missing, at a port or `ADDRESS:PORT` of the host with busybox until the
    /// job ends.
    #[track_caller]
    pub fn serve_http(&self, place: &str) -> Job {
        let server =
            self.spawn(&["sh", "-ec", "mkdir -p /srv/www; exec busybox httpd -f -p $0 -h /srv/www", place]);
        let port = place.rsplit(':').next().unwrap_or(place);
        self.wait_until(LONG, &format!("ss -Hltn 'sport = :{port}' | grep ."));
        server
    }
}

/// Returns a script for a host that succeeds if the web server of a busybox guest replies at `place`.
pub fn page(place: &str) -> String {
    format!("timeout 2 {} | grep 'hello from busybox'", fetch(place))
}

/// Returns a script for a host that prints the reply of a web server at `place`, which is
/// `ADDRESS[:PORT][/PATH]`. The script uses bash only: the wget of Debian 12's busybox crashes for any
/// address.
pub fn fetch(place: &str) -> String {
    let (at, path) = place.split_once('/').unwrap_or((place, ""));
    let (address, port) = match at.rsplit_once(':') {
        Some((address, port)) if !port.ends_with(']') => (address, port),
        _ => (at, "80"),
    };
    let address = address.trim_matches(['[', ']']);
    let ask = format!("printf \"GET /{path} HTTP/1.0\\r\\n\\r\\n\" >&3");
    format!("timeout 30 bash -c 'exec 3<>/dev/tcp/{address}/{port} && {ask} && cat <&3'")
}

/// Returns an address as written in a URL.
pub fn bracketed(address: &str) -> String {
    if address.contains(':') { format!("[{address}]") } else { address.to_owned() }
}

/// Returns the unit of a machine.
pub fn unit(name: &str) -> String {
    format!("coracle@{name}.service")
}
