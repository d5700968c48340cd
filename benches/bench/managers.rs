//! The managers of long-running machines, and the commands of each to start, stop, enter and show a machine.
//! Called by the parts on whole machines. In every command, `@G@` is replaced by the guest's name and `@R@`
//! by its root.

use super::contenders;
use super::run::{self, shell};
use std::fs;

/// The directory of the guests' trees.
pub const MACHINES: &str = "/var/lib/machines";

/// A manager of machines.
pub struct Manager {
    /// The name in tables.
    pub name: &'static str,
    /// Starts a guest; returns once PID 1 is executed.
    pub up: &'static str,
    /// Stops a guest with the manager's own command.
    pub down: &'static str,
    /// Stops and starts a guest.
    pub restart: Option<&'static str>,
    /// Runs `/bin/true` in the machine, by each available command.
    pub enter: &'static [(&'static str, &'static str)],
    /// A shell script that prints the guest's PID 1.
    pub leader: &'static str,
    /// A shell script that prints the manager's processes for the guest.
    pub kept: &'static str,
    /// A shell script that removes everything left of the guest.
    pub end: &'static str,
}

const MACHINED_LEADER: &str = "machinectl show @G@ -P Leader";

/// All managers, coracle first.
pub const ALL: &[Manager] = &[
    Manager {
        name: "coracle",
        up: "coracle start --wait=running @G@",
        down: "coracle stop @G@",
        restart: Some("coracle restart --wait=running @G@"),
        enter: &[
            ("coracle exec", "coracle exec @G@ -- /bin/true"),
            ("nsenter", "nsenter -t @P@ -a /bin/true"),
        ],
        leader: MACHINED_LEADER,
        kept: "systemctl show -P MainPID coracle@@G@.service",
        end: "coracle terminate @G@ || systemctl kill -s KILL coracle@@G@.service || true",
    },
    Manager {
        name: "systemd-nspawn",
        up: "systemctl start systemd-nspawn@@G@.service",
        down: "systemctl stop systemd-nspawn@@G@.service",
        restart: Some("systemctl restart systemd-nspawn@@G@.service"),
        enter: &[("nsenter (of nspawn's)", "nsenter -t @P@ -a /bin/true")],
        leader: MACHINED_LEADER,
        kept: "systemctl show -P MainPID systemd-nspawn@@G@.service",
        // An init ignores a stop request right after its start, and nspawn would wait for it.
        end: "systemctl kill -s KILL systemd-nspawn@@G@.service || true; machinectl terminate @G@ || true; \
              systemctl reset-failed systemd-nspawn@@G@.service || true",
    },
    Manager {
        name: "lxc",
        up: "lxc-start -n @G@ -P /run/bench/lxc -f /run/bench/@G@.lxc",
        down: "lxc-stop -n @G@ -P /run/bench/lxc",
        restart: None,
        enter: &[("lxc-attach", "lxc-attach -n @G@ -P /run/bench/lxc -- /bin/true")],
        leader: "lxc-info -n @G@ -P /run/bench/lxc -pH",
        kept: "ps -o ppid= -p $(lxc-info -n @G@ -P /run/bench/lxc -pH)",
        end: "lxc-stop -k -n @G@ -P /run/bench/lxc || true",
    },
    Manager {
        name: "podman (conmon, crun)",
        up: "podman run -d --name=@G@ --network=none --runtime=crun --cgroups=disabled --rootfs @R@ /sbin/init",
        down: "podman stop @G@",
        restart: None,
        enter: &[("podman exec", "podman exec @G@ /bin/true"), ("crun exec", "crun exec @C@ /bin/true")],
        leader: "podman inspect -f '{{.State.Pid}}' @G@",
        kept: "podman inspect -f '{{.State.ConmonPid}}' @G@",
        end: "podman rm -f -t 0 @G@ || true",
    },
];

impl Manager {
    /// Returns a command for a guest, split into arguments.
    pub fn command(&self, command: &str, guest: &str) -> Vec<String> {
        run::words(&fill(command, guest))
    }

    /// Returns the output of a script.
    ///
    /// # Errors
    /// The failure of the script.
    pub fn ask(&self, script: &str, guest: &str) -> Result<String, String> {
        shell(&fill(script, guest))
    }

    /// Terminates a guest and waits until its manager has removed it.
    pub fn end(&self, guest: &str) {
        let _ = self.ask(self.end, guest);
        for _ in 0..100 {
            let gone = "! machinectl show @G@ && ! systemctl is-active coracle@@G@ systemd-nspawn@@G@ \
                        coracle-@G@.scope machine-@G@.scope";
            if self.ask(gone, guest).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }
}

fn fill(text: &str, guest: &str) -> String {
    text.replace("@R@", &format!("{MACHINES}/{guest}")).replace("@G@", guest)
}

/// Copies a guest's tree and configures every manager for it.
pub fn add(tree: &str, guest: &str) {
    let poweroff = if tree == "busybox" { "SIGUSR2" } else { "SIGRTMIN+3" };
    shell(&format!("test -d {MACHINES}/{guest} || cp -a {MACHINES}/{tree} {MACHINES}/{guest}"))
        .expect("copy a guest");
    for directory in ["/etc/coracle/machines.d", "/etc/systemd/nspawn", "/run/bench/lxc"] {
        fs::create_dir_all(directory).expect("make a directory for definitions");
    }
    let definition = format!("[root]\ndirectory = \"{MACHINES}/{guest}\"\n");
    fs::write(format!("/etc/coracle/machines.d/{guest}.toml"), definition).expect("write a definition");
    let nspawn = format!("[Exec]\nKillSignal={poweroff}\n");
    fs::write(format!("/etc/systemd/nspawn/{guest}.nspawn"), nspawn).expect("write nspawn's settings");
    let lxc = contenders::lxc_machine(&format!("{MACHINES}/{guest}"), guest, poweroff);
    fs::write(format!("/run/bench/{guest}.lxc"), lxc).expect("write lxc's configuration");
}
