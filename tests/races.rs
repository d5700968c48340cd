//! Races between the builder and changes of the tree: while the root of a machine is created, attackers
//! rename links, pipes, devices, files, directories and mount points to and from all names used by Coracle,
//! at full speed. In no round is a file outside the tree mounted on, written to or opened, and a completed
//! root has all of its mounts.
//!
//! `cargo test` runs a few hundred rounds; `CORACLE_RACES` sets the number (`make storm`: 100 000). The
//! program has a single thread, because the builder is cloned from it, as it is from a supervisor.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

#[path = "races/attack.rs"]
mod attack;
#[path = "races/mount_table.rs"]
mod mount_table;

use coracle::channel::{self, FromPayload};
use coracle::config;
use coracle::host::idmap;
use coracle::host::probe::Tree;
use coracle::machine::contract::Contract;
use coracle::machine::id128::Id128;
use coracle::machine::init::{Init, InitChoice};
use coracle::machine::name::Name;
use coracle::network::hosts_file::Hosts;
use coracle::paths::Paths;
use coracle::payload::{self, BuildInputs};
use coracle::plan::step::{BuildStep, ResolvConfAction};
use coracle::plan::{Facts, User, make};
use coracle::sys::process::{self, Ended, Side};
use mount_table::{MountTable, mounts};
use nix::sched::{CloneFlags, unshare};
use rustix::fd::{AsFd, OwnedFd};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// First host id of the machine.
const BASE: u32 = 655_360_000;
const DEFINITION: &str = "[root]\ndirectory = \"/tree\"\n[users]\nprivate = \"pick\"\n\
    [[mount]]\ntype = \"bind\"\nsource = \"/source\"\ntarget = \"/srv/a/deep/place\"\n\
    [[mount]]\ntype = \"tmpfs\"\ntarget = \"/srv/b/other\"\n";

/// The number of processes that run the rounds.
const RACERS: u32 = 6;

/// The result of a round, as the exit status of the process that checked it.
const BUILT: i32 = 0;
const REFUSED: i32 = 3;

/// The paths and inputs of a run.
struct Field {
    base: PathBuf,
    steps: Vec<BuildStep>,
    id_map: OwnedFd,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [word, tree, seed] = &arguments[..]
        && word == "attack"
    {
        attack::run(Path::new(tree), seed.parse().unwrap());
    }
    assert!(rustix::process::geteuid().is_root(), "must be run as root");
    match &arguments[..] {
        [word, rounds] if word == "race" => race(rounds.parse().unwrap()),
        _ => several(std::env::var("CORACLE_RACES").map_or(300, |rounds| rounds.parse().unwrap())),
    }
}

/// Runs the rounds in several processes, each with its own tree and attackers. Most of the time of a round is
/// spent in the kernel, on the removal of a mount namespace.
fn several(rounds: u32) {
    let each = rounds.div_ceil(RACERS).to_string();
    let racer = |_| {
        let mut racer = Command::new(std::env::current_exe().unwrap());
        racer.args(["race", &each]).stdout(Stdio::piped()).spawn().unwrap()
    };
    let racers: Vec<_> = (0..RACERS).map(racer).collect();
    let mut sums = [0; 3];
    for racer in racers {
        let out = racer.wait_with_output().unwrap();
        assert!(out.status.success(), "a racer ended with {}", out.status);
        let text = String::from_utf8(out.stdout).unwrap();
        let counts = text.split_whitespace().map(|word| word.parse::<u32>().unwrap());
        sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
    }
    let [built, refused, broken] = sums;
    println!("{} rounds: {built} roots built, {refused} refused, {broken} broken", built + refused + broken);
    // Otherwise the attackers were too slow or too fast for a race.
    assert!(built > 0 && refused > 0 && broken == 0);
}

fn race(rounds: u32) {
    apart();
    let base = tempfile::Builder::new().prefix("coracle-races.").tempdir_in("/var/tmp").unwrap();
    let field = Field::new(base.path());
    let calm = field.calm();
    let victims = field.victims();
    let mut attackers: Vec<_> = (0..2)
        .map(|seed| {
            let mut attacker = Command::new(std::env::current_exe().unwrap());
            attacker.arg("attack").arg(field.tree()).arg(seed.to_string()).spawn().unwrap()
        })
        .collect();
    let mut counts: BTreeMap<i32, u32> = BTreeMap::new();
    for round in 0..rounds {
        *counts.entry(field.round(&calm)).or_default() += 1;
        field.look();
        if round % 500 == 0 {
            assert_eq!(victims, field.victims(), "after round {round}");
        }
    }
    attackers.iter_mut().for_each(|attacker| attacker.kill().unwrap());
    attackers.iter_mut().for_each(|attacker| drop(attacker.wait()));
    assert_eq!(victims, field.victims());
    let [built, refused] = [BUILT, REFUSED].map(|status| counts.remove(&status).unwrap_or_default());
    println!("{built} {refused} {}", counts.values().sum::<u32>());
    assert!(counts.is_empty(), "{counts:?}");
    attack::clear(&field.tree());
}

/// Enters namespaces without mounts of the host.
fn apart() {
    unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWNET).unwrap();
    let flags = rustix::mount::MountPropagationFlags::REC | rustix::mount::MountPropagationFlags::PRIVATE;
    rustix::mount::mount_change("/", flags).unwrap();
}

impl Field {
    fn new(base: &Path) -> Self {
        for place in ["victim/host/inaccessible", "victim/pts", "at", "source"] {
            fs::create_dir_all(base.join(place)).unwrap();
        }
        for file in ["resolv.conf", "hosts", "keys", "notify", "null", "0", "host/notify"] {
            fs::write(base.join("victim").join(file), "the host's\n").unwrap();
        }
        attack::grow(&base.join("tree"), &base.join("victim"));
        // The mapping of a supervisor: the host's root creates directories as an unmapped user.
        let ids = [(0, BASE, 65536), (i32::MAX as u32 - 1, 0, 1)];
        Self { base: base.to_owned(), steps: steps(base), id_map: idmap::namespace(&ids, &ids).unwrap() }
    }

    fn tree(&self) -> PathBuf {
        self.base.join("tree")
    }

    /// Returns the mounts of a root built without attackers.
    fn calm(&self) -> MountTable {
        let file = self.base.join("mount-table");
        let status = self.apart(|| {
            let built = self.build();
            fs::write(&file, serde_json::to_vec(&MountTable::at(&self.base.join("at"))).unwrap()).unwrap();
            built.unwrap_or_else(|error| panic!("without attackers: {error}"));
            BUILT
        });
        assert_eq!(status, BUILT);
        serde_json::from_slice(&fs::read(&file).unwrap()).unwrap()
    }

    /// Builds a root and checks the result.
    fn round(&self, calm: &MountTable) -> i32 {
        let at = self.base.join("at");
        self.apart(|| {
            let before = mounts();
            let built = self.build();
            let after = mounts();
            for mount in after.iter().filter(|mount| before.iter().all(|old| old.id != mount.id)) {
                assert!(mount.at.starts_with(&at), "ESCAPED: {mount:?}");
            }
            match built {
                Ok(()) => {
                    calm.assert_same(&MountTable::at(&at));
                    BUILT
                }
                Err(error) => {
                    // ENOSPC is the error of a write to the device.
                    assert!(!error.contains("no space left"), "{error}");
                    REFUSED
                }
            }
        })
    }

    /// Runs a function in a process with its own mounts and process ids; returns its status.
    fn apart(&self, judge: impl FnOnce() -> i32) -> i32 {
        let namespaces = (libc::CLONE_NEWNS | libc::CLONE_NEWPID) as u64;
        match process::clone(namespaces, None).unwrap() {
            Side::Child => {
                let status = std::panic::catch_unwind(std::panic::AssertUnwindSafe(judge));
                process::exit_now(status.unwrap_or(101))
            }
            Side::Parent(child) => match process::wait(child.pidfd.as_fd()).unwrap() {
                Ended::Exited(status) => status,
                Ended::Killed(signal) => 128 + signal,
            },
        }
    }

    /// Runs all steps of the builder in a child, like a supervisor. Returns the error of the failed step.
    fn build(&self) -> Result<(), String> {
        let (ours, theirs) = channel::pair().unwrap();
        let socket = || {
            use rustix::net::{AddressFamily, SocketType};
            rustix::net::socket(AddressFamily::UNIX, SocketType::DGRAM, None).unwrap()
        };
        let (notify, log) = (socket(), socket());
        let inputs = BuildInputs {
            credentials: Vec::new(),
            root: Vec::new(),
            leader: None,
            empty: None,
            id_maps: vec![self.id_map.as_fd()],
            private_network: true,
            owner: BASE,
            notify: Some(notify.as_fd()),
            log: Some(log.as_fd()),
        };
        let child = match process::clone(0, None).unwrap() {
            Side::Child => payload::build(&self.steps, &theirs, inputs),
            Side::Parent(child) => child,
        };
        drop(theirs);
        let mut console = None;
        let said = loop {
            match ours.receive().unwrap() {
                Some((FromPayload::KernelLog | FromPayload::Warned(_), _)) => {}
                Some((FromPayload::Console, descriptor)) => console = descriptor,
                other => break other,
            }
        };
        process::wait(child.pidfd.as_fd()).unwrap();
        match said {
            Some((FromPayload::Done, _)) => {
                let kind = rustix::fs::fstatfs(console.unwrap()).unwrap().f_type;
                assert_eq!(kind, 0x1cd1, "the console is no terminal of ours");
                Ok(())
            }
            Some((FromPayload::Failed(failure), _)) => Err(format!("{}: {}", failure.doing, failure.cause)),
            other => panic!("the builder said {other:?}"),
        }
    }

    /// Reads and writes files of the tree, like a supervisor.
    fn look(&self) {
        let tree = Tree::open(&self.tree()).unwrap();
        let _ = (tree.machine_id(), tree.user("root"), tree.check_is_root(Contract::Coracle, true));
        let _ = tree.find_init(&InitChoice::Auto);
        for text in [tree.read_text("/etc/resolv.conf"), tree.read_text("/etc/hosts")] {
            assert!(!text.unwrap_or_default().contains("the host's"), "read outside of the tree");
        }
        let hosts = Hosts::of_tree(&self.tree());
        let _ = (hosts.is_writable(), hosts.write("192.0.2.1 other\n"), hosts.write(""));
    }

    /// Returns the complete state outside the tree.
    fn victims(&self) -> String {
        let mut command = Command::new("sh");
        command.args(["-c", "cd \"$1\" && find victim source -printf '%p %y %m %U %G %s %T@ %l\\n' | sort && cat victim/* 2>/dev/null", "sh"]);
        let out = command.arg(&self.base).output().unwrap();
        String::from_utf8(out.stdout).unwrap()
    }
}

/// Returns the builder's steps for a machine of this tree, without the steps that use no path in it.
fn steps(base: &Path) -> Vec<BuildStep> {
    let paths = Paths::below(base);
    let places = paths.definitions();
    fs::create_dir_all(&places[0]).unwrap();
    fs::write(places[0].join("web.toml"), DEFINITION).unwrap();
    let machine = config::machine(&paths, &Name::new("web").unwrap()).unwrap().machine;
    let facts = Facts {
        timezone: None,
        journal: None,
        journal_socket: None,
        id_base: Some(BASE),
        mapped_from: Some(0),
        targets: Vec::new(),
        bound_users: Vec::new(),
        build: None,
        bind_owners: Vec::new(),
        throwaway: PathBuf::new(),
        attached_targets: None,
        user_namespace: true,
        machine_id: Id128::new([1; 16]),
        boot_id: Id128::new([2; 16]),
        host_os_release: "ID=debian\n".into(),
        init: Some(("/sbin/init".into(), Init::Busybox)),
        init_has_successor: false,
        socketcall: false,
        has_hosts_name: false,
        has_systemd: true,
        user: User {
            name: "root".into(),
            uid: 0,
            gid: 0,
            groups: Vec::new(),
            home: "/root".into(),
            shell: "/bin/sh".into(),
        },
        finds_user: false,
        bounding: (1 << 41) - 1,
        ignored_signals: 0,
        is_root: true,
        terminal: "dumb".into(),
        color_variables: Vec::new(),
        passed_descriptors: 0,
        descriptor_names: None,
        devices: vec!["net/tun".into(), "fuse".into()],
        further_devices: Vec::new(),
        guest_network_file: Some("[Match]\n".into()),
        resolved_drop_in: None,
        resolv_conf: Some(ResolvConfAction::Write("nameserver 192.0.2.53\n".into())),
        hosts_file: None,
        limit_files: Vec::new(),
        label: None,
        attach_at: base.join("at"),
        on_terminal: false,
    };
    let mut steps = make(&machine, &facts).unwrap().build;
    // This program has already created the namespaces and set the limits. After the last step, its mounts
    // could not be inspected.
    steps.retain(|step| {
        !matches!(step, BuildStep::Join | BuildStep::Limits | BuildStep::MountNamespace | BuildStep::Pivot)
    });
    steps
}
