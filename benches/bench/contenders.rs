//! The measured programs, with the command of each for the same task. Called by the parts.

use super::host::TOOLS;
use super::run::{shell, words};
use std::fs;

/// The root in which `/bin/true` is run. All its parent directories are searchable by all users, because some
/// contenders require that for a user namespace.
pub const ROOT: &str = "/var/tmp/bench-root";
/// The directory of the configuration files of the managers.
const PLACE: &str = "/run/bench";
/// The namespaces and mounts of the OCI default, with `/run` and `/tmp`, as in `floor.c`.
const CONFIG: &str = r#"{"ociVersion":"1.0.2","process":{"terminal":false,"user":{"uid":0,"gid":0},
"args":["/bin/true"],"env":["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],"cwd":"/"},
"root":{"path":"@ROOT@","readonly":false},"hostname":"bench","mounts":[
{"destination":"/proc","type":"proc","source":"proc","options":["nosuid","noexec","nodev"]},
{"destination":"/dev","type":"tmpfs","source":"tmpfs","options":["nosuid","mode=755","size=65536k"]},
{"destination":"/dev/pts","type":"devpts","source":"devpts",
 "options":["nosuid","noexec","newinstance","ptmxmode=0666","mode=0620"@TTY@]},
{"destination":"/dev/shm","type":"tmpfs","source":"shm","options":["nosuid","noexec","nodev","mode=1777"]},
{"destination":"/dev/mqueue","type":"mqueue","source":"mqueue","options":["nosuid","noexec","nodev"]},
{"destination":"/sys","type":"sysfs","source":"sysfs","options":["nosuid","noexec","nodev","ro"]},
{"destination":"/sys/fs/cgroup","type":"cgroup","source":"cgroup","options":["nosuid","noexec","nodev","ro"]},
{"destination":"/run","type":"tmpfs","source":"tmpfs","options":["nosuid","nodev","mode=755"]},
{"destination":"/tmp","type":"tmpfs","source":"tmpfs","options":["nosuid","nodev","mode=1777"]}],
"linux":{"cgroupsPath":"/@CGROUP@","namespaces":[{"type":"pid"},{"type":"network"},{"type":"ipc"},{"type":"uts"},
{"type":"mount"},{"type":"cgroup"}@USER@],"maskedPaths":["/proc/acpi","/proc/asound","/proc/kcore","/proc/keys",
"/proc/latency_stats","/proc/timer_list","/proc/timer_stats","/proc/sched_debug","/proc/scsi"],
"readonlyPaths":["/proc/bus","/proc/fs","/proc/irq","/proc/sys","/proc/sysrq-trigger"]}}"#;
const LXC: &str = "lxc.rootfs.path = dir:@ROOT@\nlxc.uts.name = bench\nlxc.init.cmd = /bin/true\n\
lxc.mount.auto = proc:mixed sys:ro cgroup:ro\nlxc.autodev = 1\nlxc.pty.max = 16\nlxc.net.0.type = empty\n\
lxc.mount.entry = shm dev/shm tmpfs create=dir 0 0\nlxc.mount.entry = mqueue dev/mqueue mqueue create=dir 0 0\n\
lxc.mount.entry = run run tmpfs defaults 0 0\nlxc.mount.entry = tmp tmp tmpfs defaults 0 0\n\
lxc.console.path = none\nlxc.namespace.clone = mnt pid uts ipc net cgroup@CLONE@\n";

/// Whether a user namespace is created as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Users {
    /// No.
    Host,
    /// Ids from 1000000, with an idmapped root if the manager supports it.
    Private,
}

/// A program that starts containers.
pub struct Contender {
    /// The name in tables.
    pub name: &'static str,
    /// The command that prints its version.
    version: &'static str,
    /// The name of its option for a user namespace in tables; `None` if it creates no container.
    pub private: Option<&'static str>,
    /// Whether the comparison has no meaning without it.
    pub required: bool,
    /// The command that runs `/bin/true`.
    pub start: fn(Users) -> Vec<String>,
}

/// All contenders: the floor first, coracle second.
pub const ALL: &[Contender] = &[
    required("floor", "echo bare system calls", "--user", floor),
    required("coracle", "coracle --version", "-U", coracle),
    contender("bubblewrap", "bwrap --version", "--unshare-user", bubblewrap),
    contender("crun", "crun --version", "(user)", crun),
    contender("runc", "runc --version", "(user)", runc),
    contender("youki", "/mnt/bench/youki --version", "(user)", youki),
    contender("lxc-start", "lxc-start --version", "(user)", lxc),
    contender("systemd-nspawn", "systemd-nspawn --version", "-U", nspawn),
    contender("podman", "podman --version", "(user)", podman),
    Contender { private: None, ..contender("empty unit", "systemctl --version", "", empty_unit) },
];

const fn contender(
    name: &'static str,
    version: &'static str,
    private: &'static str,
    start: fn(Users) -> Vec<String>,
) -> Contender {
    Contender { name, version, private: Some(private), required: false, start }
}

const fn required(
    name: &'static str,
    version: &'static str,
    private: &'static str,
    start: fn(Users) -> Vec<String>,
) -> Contender {
    Contender { required: true, ..contender(name, version, private, start) }
}

impl Contender {
    /// Returns the version, or a note that the program is missing.
    pub fn version(&self) -> String {
        shell(&format!("{} 2>&1", self.version))
            .map(|text| text.lines().next().unwrap_or_default().to_owned())
            .unwrap_or_else(|_| "not installed".into())
    }
}

/// Writes the configuration files of the managers.
pub fn prepare() {
    shell(&format!("test -d {ROOT} || cp -a /var/lib/machines/busybox {ROOT}; mkdir -p {PLACE}/lxc"))
        .expect("copy the root");
    for file in ["/etc/subuid", "/etc/subgid"] {
        fs::write(file, "root:1000000:65536\nroot:100000:65536\n").expect("allow lxc and sbuild their ids");
    }
    for users in [Users::Host, Users::Private] {
        for runtime in ["crun", "runc", "youki"] {
            let bundle = bundle(runtime, users);
            fs::create_dir_all(&bundle).expect("make a bundle");
            fs::write(format!("{bundle}/config.json"), config(runtime, users)).expect("write a bundle");
        }
        let (clone, map) = match users {
            Users::Host => ("", ""),
            Users::Private => (
                " user",
                "lxc.idmap = u 0 1000000 65536\nlxc.idmap = g 0 1000000 65536\nlxc.rootfs.options = idmap=container\n",
            ),
        };
        let text = LXC.replace("@ROOT@", ROOT).replace("@CLONE@", clone) + map;
        fs::write(lxc_file(users), text).expect("write lxc's configuration");
    }
    let unit = "[Unit]\nStartLimitIntervalSec=0\n[Service]\nType=oneshot\nExecStart=/bin/true\n";
    fs::write("/run/systemd/system/bench-empty.service", unit).expect("write a unit");
    shell("systemctl daemon-reload").expect("load the unit");
    fs::create_dir_all("/etc/containers").expect("make podman's directory");
    let storage = "[storage]\ndriver = \"vfs\"\ngraphroot = \"/var/tmp/podman\"\nrunroot = \"/run/podman\"\n";
    fs::write("/etc/containers/storage.conf", storage).expect("write podman's storage");
    let engine = "[engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"none\"\n";
    fs::write("/etc/containers/containers.conf", engine).expect("write podman's configuration");
}

/// Returns the lxc configuration of a whole machine: its init, a user namespace, a pair of interfaces.
pub fn lxc_machine(root: &str, name: &str, poweroff: &str) -> String {
    format!(
        "lxc.rootfs.path = dir:{root}\nlxc.uts.name = {name}\nlxc.init.cmd = /sbin/init\n\
         lxc.mount.auto = proc:mixed sys:mixed cgroup:rw\nlxc.autodev = 1\nlxc.pty.max = 16\n\
         lxc.net.0.type = veth\nlxc.mount.entry = run run tmpfs defaults 0 0\nlxc.signal.halt = {poweroff}\n\
         lxc.idmap = u 0 1000000 65536\nlxc.idmap = g 0 1000000 65536\nlxc.rootfs.options = idmap=container\n\
         lxc.console.path = none\n"
    )
}

fn config(runtime: &str, users: Users) -> String {
    let (user, tty) = match users {
        Users::Host => ("", ",\"gid=5\""),
        Users::Private => (
            "{\"type\":\"user\"}],\"uidMappings\":[{\"containerID\":0,\"hostID\":1000000,\"size\":65536}],\
             \"gidMappings\":[{\"containerID\":0,\"hostID\":1000000,\"size\":65536}",
            ",\"gid=5\"",
        ),
    };
    let user = if user.is_empty() { String::new() } else { format!(",{user}") };
    let cgroup = format!("bench-{runtime}");
    CONFIG.replace("@ROOT@", ROOT).replace("@TTY@", tty).replace("@CGROUP@", &cgroup).replace("@USER@", &user)
}

fn bundle(runtime: &str, users: Users) -> String {
    format!("{PLACE}/{runtime}-{users:?}")
}

fn lxc_file(users: Users) -> String {
    format!("{PLACE}/lxc-{users:?}.conf")
}

fn floor(users: Users) -> Vec<String> {
    let user = if users == Users::Private { "--user" } else { "" };
    words(&format!("{TOOLS}/floor {user} {ROOT} /bin/true"))
}

/// The options common to coracle and systemd-nspawn.
fn shared(users: Users) -> String {
    let users = match users {
        Users::Host => "",
        Users::Private => "--private-users=1000000:65536 --private-users-ownership=map",
    };
    format!("-q -D {ROOT} -M bench --keep-unit --register=no --private-network --console=pipe {users}")
}

fn coracle(users: Users) -> Vec<String> {
    words(&format!("coracle run {} /bin/true", shared(users)))
}

fn nspawn(users: Users) -> Vec<String> {
    let off = "--settings=no --link-journal=no --resolv-conf=off --timezone=off";
    words(&format!("systemd-nspawn {} {off} /bin/true", shared(users)))
}

fn crun(users: Users) -> Vec<String> {
    words(&format!("crun run --bundle {} bench", bundle("crun", users)))
}

fn runc(users: Users) -> Vec<String> {
    words(&format!("runc run --bundle {} bench", bundle("runc", users)))
}

fn youki(users: Users) -> Vec<String> {
    words(&format!("{TOOLS}/youki run --bundle {} bench", bundle("youki", users)))
}

/// A unit without namespaces: the share of systemd in the start of a machine's unit.
fn empty_unit(_: Users) -> Vec<String> {
    words("systemctl start bench-empty.service")
}

fn lxc(users: Users) -> Vec<String> {
    words(&format!("lxc-start -F -n bench -P {PLACE}/lxc -f {}", lxc_file(users)))
}

fn bubblewrap(users: Users) -> Vec<String> {
    let user = match users {
        Users::Host => "",
        Users::Private => "--unshare-user",
    };
    words(&format!(
        "bwrap {user} --unshare-ipc --unshare-pid --unshare-net --unshare-uts --unshare-cgroup --bind {ROOT} / \
         --proc /proc --dev /dev --mqueue /dev/mqueue --ro-bind /sys /sys --tmpfs /run --tmpfs /tmp /bin/true"
    ))
}

fn podman(users: Users) -> Vec<String> {
    let users = match users {
        Users::Host => "",
        Users::Private => "--uidmap=0:1000000:65536 --gidmap=0:1000000:65536",
    };
    words(&format!(
        "podman run --rm --network=none --runtime=crun --cgroups=disabled {users} --rootfs {ROOT} /bin/true"
    ))
}
