//! Plans of machines as text. Each directory of tests/plan/ is a case: `machine.toml` is the definition of
//! the machine 'web', `run` contains the arguments of `coracle run`, or `nspawn` those of `systemd-nspawn`;
//! `facts` contains the differences between the simulated host and the default one (`terminal`, `apparmor`,
//! `selinux`, `no-devices`, `shifted`, `passed NAMES`, `timezone ZONE`, `journal GID GID`, `attached
//! TARGET…`, `init KIND PATH`, `user NAME UID`); `expected.txt` is the plan. To add a case, create a
//! directory, run the test once with BLESS=1, and review the created plan.

// clippy.toml allows unwrap in #[test] functions only, not in their helpers.
#![allow(clippy::unwrap_used)]

use coracle::channel::SyncPoint;
use coracle::cli::nspawn::Nspawn;
use coracle::cli::{self, Verb};
use coracle::config;
use coracle::machine::Machine;
use coracle::machine::command::Payload;
use coracle::machine::id128::Id128;
use coracle::machine::init::Init;
use coracle::machine::name::Name;
use coracle::machine::network::{Addresses, Mode};
use coracle::machine::users::{Ownership, Users};
use coracle::paths::Paths;
use coracle::plan::step::{
    BindSource, BuildStep, HostStep, InitStep, JournalDirectory, ResolvConfAction, TimezoneAction,
};
use coracle::plan::{BindOwners, Facts, Plan, User, make};
use coracle::sys::mount::Depth;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// The synchronisation points in the order of the protocol.
const SYNC_POINTS: [SyncPoint; 3] = [SyncPoint::Cloned, SyncPoint::Unshared, SyncPoint::Ready];

/// A case with its plan.
struct Case {
    directory: PathBuf,
    machine: Machine,
    plan: Plan,
    /// The root directory of the simulated host, removed from the compared text.
    root: PathBuf,
}

fn cases() -> Vec<Case> {
    let home = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/plan");
    let mut directories: Vec<PathBuf> =
        std::fs::read_dir(home).unwrap().map(|entry| entry.unwrap().path()).collect();
    directories.sort();
    assert!(directories.len() > 10, "the cases are not where they were");
    directories.into_iter().map(case).collect()
}

fn case(directory: PathBuf) -> Case {
    let read = |name: &str| std::fs::read_to_string(directory.join(name)).ok();
    let root = tempfile::tempdir().unwrap();
    let paths = Paths::below(root.path());
    let machine = match (read("machine.toml"), read("run")) {
        (Some(text), None) => defined(&paths, &text),
        (None, Some(line)) => run(&paths, &line),
        (None, None) => nspawn(&paths, &read("nspawn").unwrap_or_default()),
        _ => panic!("{}: needs 'machine.toml', 'run' or 'nspawn'", directory.display()),
    };
    let facts = facts(&machine, &read("facts").unwrap_or_default());
    let plan = make(&machine, &facts).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    Case { directory, machine, plan, root: root.path().to_owned() }
}

fn defined(paths: &Paths, text: &str) -> Machine {
    let places = paths.definitions();
    let place = places.first().unwrap();
    std::fs::create_dir_all(place).unwrap();
    std::fs::write(place.join("web.toml"), text).unwrap();
    let resolved = config::machine(paths, &Name::new("web").unwrap());
    *resolved.unwrap_or_else(|error| panic!("{error}")).machine
}

fn run(paths: &Paths, line: &str) -> Machine {
    let words = ["coracle", "run"].into_iter().chain(line.split_whitespace());
    let Some(Verb::Run(options)) =
        cli::parse(&words.map(Into::into).collect::<Vec<_>>()).unwrap().map(|cli| cli.verb)
    else {
        panic!("'{line}' is no run")
    };
    *config::run(paths, options.options().unwrap(), None).unwrap_or_else(|error| panic!("{error}")).machine
}

fn nspawn(paths: &Paths, line: &str) -> Machine {
    let words = std::iter::once("systemd-nspawn").chain(line.split_whitespace()).map(Into::into);
    let mut nspawn = Nspawn::parse(&words.collect::<Vec<_>>()).unwrap().unwrap();
    let options = nspawn.options().unwrap_or_else(|failures| panic!("{:?}", failures.0));
    *config::run(paths, options, None).unwrap_or_else(|error| panic!("{error}")).machine
}

fn root() -> User {
    User {
        name: "root".into(),
        uid: 0,
        gid: 0,
        groups: Vec::new(),
        home: "/root".into(),
        shell: "/bin/bash".into(),
    }
}

/// The facts of the simulated host: a Debian with systemd in the tree, without a terminal.
fn facts(machine: &Machine, words: &str) -> Facts {
    let booting = matches!(machine.command.payload, Payload::Boot { .. });
    let mut facts = Facts {
        id_base: match machine.users {
            Users::Pick => Some(655_360_000),
            Users::Fixed { base, .. } => Some(base),
            Users::Identity | Users::OfRoot => Some(0),
            Users::Host => None,
        },
        mapped_from: (machine.ownership == Ownership::Map).then_some(0),
        targets: Vec::new(),
        bound_users: Vec::new(),
        build: None,
        bind_owners: Vec::new(),
        throwaway: "/var/lib/coracle/storage/throwaway/1".into(),
        attached_targets: None,
        user_namespace: machine.users != Users::Host,
        machine_id: Id128::new([0x11; 16]),
        boot_id: Id128::new([0x22; 16]),
        host_os_release: "ID=debian\nVERSION_ID=\"13\"\n".into(),
        init_has_successor: false,
        init: booting.then(|| ("/usr/lib/systemd/systemd".into(), Init::Systemd)),
        socketcall: false,
        has_hosts_name: false,
        has_systemd: true,
        user: root(),
        finds_user: false,
        // All capabilities of Linux 6.
        bounding: (1 << 41) - 1,
        ignored_signals: 0,
        is_root: true,
        passed_descriptors: 0,
        descriptor_names: None,
        terminal: "dumb".into(),
        color_variables: Vec::new(),
        devices: vec!["net/tun".into(), "fuse".into()],
        further_devices: Vec::new(),
        resolved_drop_in: None,
        guest_network_file: (matches!(machine.network.mode, Mode::Veth | Mode::Zone)
            || !machine.network.address.is_empty())
        .then(|| "[Match]\n".into()),
        resolv_conf: (matches!(machine.network.mode, Mode::Veth | Mode::Zone))
            .then(|| ResolvConfAction::Write("nameserver 192.0.2.53\n".into())),
        timezone: None,
        journal: None,
        journal_socket: machine.receives_journal().then(|| "/run/coracle/web/journal".into()),
        hosts_file: None,
        limit_files: Vec::new(),
        attach_at: "/run/coracle/web/root".into(),
        label: None,
        on_terminal: false,
    };
    change(&mut facts, machine, words);
    facts
}

/// Passes descriptors with names, separated by colons.
fn pass(facts: &mut Facts, names: &str) {
    facts.passed_descriptors = names.split(':').count().try_into().unwrap();
    facts.descriptor_names = Some(names.to_owned());
}

/// Applies the differences of a case.
fn change(facts: &mut Facts, machine: &Machine, words: &str) {
    for line in words.lines() {
        match line.split(' ').collect::<Vec<_>>().as_slice() {
            ["terminal"] => {
                (facts.on_terminal, facts.terminal) = (true, "xterm".into());
                facts.color_variables = vec![("COLORTERM", "truecolor".into())];
            }
            ["passed", names] => pass(facts, names),
            ["apparmor"] => {
                let file = "/proc/thread-self/attr/apparmor/exec";
                facts.label =
                    Some(coracle::plan::step::LsmLabel { file, text: "exec coracle-machine".into() });
            }
            ["selinux"] => {
                let text = machine.security.selinux_context.clone().unwrap();
                facts.label =
                    Some(coracle::plan::step::LsmLabel { file: "/proc/thread-self/attr/exec", text });
            }
            ["attached", targets @ ..] => {
                facts.attached_targets = Some(targets.iter().map(PathBuf::from).collect());
            }
            ["journal", host, inside] => {
                facts.journal = Some(JournalDirectory {
                    source: "/var/log/journal/9c5d4e1a".into(),
                    target: "/var/log/journal/9c5d4e1a".into(),
                    groups: Some((host.parse().unwrap(), inside.parse().unwrap())),
                    is_required: false,
                    ids: None,
                });
            }
            ["timezone", "delete"] => facts.timezone = Some(TimezoneAction::Delete),
            ["timezone", zone] => {
                let file = "/etc/localtime".into();
                facts.timezone = Some(TimezoneAction::Link { zone: (*zone).to_owned(), file });
            }
            ["shifted"] => facts.mapped_from = None,
            ["mapped-from", base] => facts.mapped_from = Some(base.parse().unwrap()),
            ["owners", target, source, inside] => {
                let pair = |text: &str| {
                    let (user, group) = text.split_once(':').unwrap();
                    (user.parse().unwrap(), group.parse().unwrap())
                };
                let owners = BindOwners { source: pair(source), target: pair(inside) };
                facts.bind_owners.push((target.into(), owners));
            }
            ["no-devices"] => facts.devices.clear(),
            ["init", kind, path] => facts.init = Some((path.into(), Init::from_word(kind).unwrap())),
            ["user", name, uid] => {
                let uid = uid.parse().unwrap();
                let (name, home) = ((*name).to_owned(), format!("/home/{name}"));
                let groups = vec![100, uid];
                facts.user = User { name, uid, gid: uid, groups, home, shell: "/bin/sh".into() };
            }
            ["looked-up", name] => {
                facts.user = User { name: (*name).to_owned(), uid: u32::MAX, gid: u32::MAX, ..root() };
                facts.finds_user = true;
            }
            other => panic!("no such fact: {other:?}"),
        }
    }
}

/// Returns the text of a plan, one line per step.
fn text(case: &Case) -> String {
    let plan = &case.plan;
    let kinds = [
        (libc::CLONE_NEWUSER, "user"),
        (libc::CLONE_NEWPID, "pid"),
        (libc::CLONE_NEWIPC, "ipc"),
        (libc::CLONE_NEWUTS, "uts"),
        (libc::CLONE_NEWNET, "net"),
        (libc::CLONE_NEWNS, "mnt"),
        (libc::CLONE_NEWCGROUP, "cgroup"),
    ];
    let namespaces: Vec<&str> = kinds
        .iter()
        .filter(|(flag, _)| plan.namespaces & u64::from(flag.cast_unsigned()) != 0)
        .map(|(_, word)| *word)
        .collect();
    let mut text = String::new();
    writeln!(text, "cloned into: {}", namespaces.join(" ")).unwrap();
    if let Some((base, count)) = plan.id_map {
        let maps_tree = !plan.mount_maps.is_empty();
        writeln!(text, "ids: 0 to {} from {base}, tree mapped: {maps_tree}", count - 1).unwrap();
    }
    for map in plan.mount_maps.iter().filter(|map| map.users.0 != 0 || map.groups.0 != 0) {
        writeln!(text, "mount ids (disk, seen, count): users {:?}, groups {:?}", map.users, map.groups)
            .unwrap();
    }
    let waits = if plan.waits_for_ready { "ready" } else { "running" };
    writeln!(text, "init: {}, waits until: {waits}, console: {:?}", plan.init.as_str(), plan.console)
        .unwrap();
    text.push_str(&plan.to_string());
    for step in plan.tree() {
        match step {
            BuildStep::Bind { source: BindSource::Host(source), depth: Depth::Tree, .. } => {
                writeln!(text, "with what is mounted below: '{}'", source.display()).unwrap();
            }
            BuildStep::File { path, content, .. } if !content.is_empty() => {
                writeln!(text, "in '{}': {}", path.display(), content.trim_end().replace('\n', " | "))
                    .unwrap();
            }
            _ => {}
        }
    }
    if let Some(InitStep::Execute { programs, argv, environment, .. }) = plan.init_steps.last() {
        for program in programs {
            writeln!(text, "candidate: {}", program.display()).unwrap();
        }
        writeln!(text, "words: {argv:?}").unwrap();
        for variable in environment {
            writeln!(text, "variable: {}", variable.to_string_lossy()).unwrap();
        }
    }
    let text = text.replace(case.root.to_str().unwrap(), "");
    text.lines().map(|line| format!("{}\n", lasting(line))).collect()
}

/// Returns a line without the parts that depend on other steps: its number and the length of the filter.
fn lasting(line: &str) -> String {
    let numbered = ["host ", "build ", "init "].iter().find(|who| line.starts_with(**who));
    let line = match (numbered, line.split_once(": ")) {
        (Some(who), Some((_, step))) => format!("{who}{step}"),
        _ => line.to_owned(),
    };
    match line.split_once("filter (") {
        Some((before, _)) => format!("{before}filter"),
        None => line,
    }
}

#[test]
fn every_plan_is_as_expected() {
    let mut wrong = Vec::new();
    for case in cases() {
        let found = text(&case);
        let file = case.directory.join("expected.txt");
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(&file, &found).unwrap();
        }
        let expected = std::fs::read_to_string(&file).unwrap_or_default();
        for line in different(&expected, &found) {
            wrong.push(format!("{}: {line}", case.directory.display()));
        }
    }
    assert!(wrong.is_empty(), "\n{}\nif that is meant: BLESS=1", wrong.join("\n"));
}

/// Returns the lines that are only in one of the texts: expected lines with `-`, found lines with `+`.
/// Returns a single line if only the order differs.
fn different(expected: &str, found: &str) -> Vec<String> {
    let only = |marker: &str, text: &str, other: &str| -> Vec<String> {
        let other: Vec<&str> = other.lines().collect();
        text.lines().filter(|line| !other.contains(line)).map(|line| format!("{marker} {line}")).collect()
    };
    let mut different = only("-", expected, found);
    different.extend(only("+", found, expected));
    if different.is_empty() && expected != found {
        different.push("the same lines in another order".into());
    }
    different
}

#[test]
fn both_sides_synchronise_in_the_order_of_the_protocol() {
    assert!(SYNC_POINTS.is_sorted());
    for Case { directory, plan, .. } in cases() {
        let of_host = |wanted: fn(&HostStep) -> Option<SyncPoint>| -> Vec<SyncPoint> {
            plan.host.iter().filter_map(wanted).collect()
        };
        let awaited = of_host(|step| if let HostStep::Await(sync) = step { Some(*sync) } else { None });
        let released = of_host(|step| if let HostStep::Release(sync) = step { Some(*sync) } else { None });
        let of_init = |wanted: fn(&InitStep) -> Option<SyncPoint>| -> Vec<SyncPoint> {
            plan.init_steps.iter().filter_map(wanted).collect()
        };
        let reached = of_init(|step| match step {
            InitStep::Sync(sync) | InitStep::Report(sync) => Some(*sync),
            _ => None,
        });
        let waits = of_init(|step| if let InitStep::Sync(sync) = step { Some(*sync) } else { None });
        let name = directory.display();
        assert!(awaited.is_sorted() && awaited.last() == Some(&SyncPoint::Ready), "{name}");
        assert_eq!(awaited, reached, "{name}");
        assert_eq!(released, waits, "{name}");
        // Without a user namespace there is no id to map, and no process to wait for.
        let all = if plan.id_map.is_some() { &SYNC_POINTS[..] } else { &SYNC_POINTS[2..] };
        assert_eq!(awaited, all, "{name}");
        for sync in released {
            let place = |wanted: HostStep| plan.host.iter().position(|step| *step == wanted);
            assert!(place(HostStep::Await(sync)) < place(HostStep::Release(sync)), "{name}");
        }
    }
}

/// Returns the index of the first step that satisfies `wanted`.
fn place<S>(steps: &[S], wanted: impl FnMut(&S) -> bool) -> usize {
    steps.iter().position(wanted).unwrap_or_else(|| panic!("a step is missing"))
}

#[test]
fn host_steps_are_in_order() {
    for Case { directory, machine, plan, .. } in cases() {
        let at = |wanted: &HostStep| place(&plan.host, |step| step == wanted);
        let mut order = vec![HostStep::Cgroups, HostStep::Clone];
        if plan.id_map.is_some() {
            // PID 1 copies the mounts of the complete tree.
            let unshared = HostStep::Release(SyncPoint::Unshared);
            order.extend([HostStep::MapIds, HostStep::Build, HostStep::Built, unshared]);
        }
        order.push(HostStep::Executed);
        assert!(order.iter().map(at).collect::<Vec<_>>().is_sorted(), "{}", directory.display());
        assert_eq!(at(&HostStep::Cgroups), 0);
        assert_eq!(plan.host.contains(&HostStep::Build), plan.id_map.is_some());
        assert_eq!(
            plan.host.contains(&HostStep::Link),
            matches!(machine.network.mode, Mode::Veth | Mode::Zone)
                && machine.network.addresses == Addresses::Auto
        );
    }
}

#[test]
fn pid_1_drops_its_rights_in_order() {
    for Case { directory, plan, .. } in cases() {
        let name = directory.display();
        let at = |wanted: fn(&InitStep) -> bool| place(&plan.init_steps, wanted);
        let last = plan.init_steps.len() - 1;
        assert_eq!(at(|step| matches!(step, InitStep::Execute { .. })), last, "{name}");
        // The ids of PID 1 are not mapped before the first synchronisation point.
        if plan.id_map.is_some() {
            assert_eq!(at(|step| *step == InitStep::Sync(SyncPoint::Cloned)), 0, "{name}");
        }
        let filter = at(|step| matches!(step, InitStep::Filter(_)));
        let after = &plan.init_steps[filter + 1..last];
        assert!(after.iter().all(|step| matches!(step, InitStep::Stub(_))), "{name}");
        let ready =
            at(|step| matches!(step, InitStep::Sync(SyncPoint::Ready) | InitStep::Report(SyncPoint::Ready)));
        assert!(ready < filter, "{name}");
        // The working directory is in the tree, not on the host.
        let enters = at(|step| matches!(step, InitStep::Directory(_) | InitStep::Home(_)));
        assert!(at(|step| *step == InitStep::SharedMounts) < enters, "{name}");
        // Capabilities are dropped before the user changes: afterwards, the process may not do so.
        let drops = at(|step| matches!(step, InitStep::Capabilities { .. }));
        if let Some(user) = plan.init_steps.iter().position(|step| matches!(step, InitStep::User { .. })) {
            assert!(drops < user && user < ready, "{name}");
            // A change of the user clears the ambient set.
            let raises = plan.init_steps.iter().position(|step| matches!(step, InitStep::Ambient(_)));
            assert!(raises.is_none_or(|raises| user < raises), "{name}");
        }
        // Building the tree requires the capabilities of the host's root.
        if let Some(built) = plan.init_steps.iter().rposition(|step| matches!(step, InitStep::Build(_))) {
            assert!(built < drops, "{name}");
        }
    }
}

#[test]
fn the_tree_is_built_in_order() {
    for Case { directory, plan, .. } in cases() {
        let name = directory.display();
        let steps: Vec<&BuildStep> = plan.tree().collect();
        assert_eq!(steps.first() == Some(&&BuildStep::Join), plan.id_map.is_some(), "{name}");
        assert_eq!(steps.last(), Some(&&BuildStep::Pivot), "{name}");
        let mounted = |wanted: &str| {
            place(
                &steps,
                |step| matches!(step, BuildStep::Mount { target, .. } if target == Path::new(wanted)),
            )
        };
        for (number, step) in steps.iter().enumerate() {
            if let BuildStep::Mask { target, .. } = step {
                // A mask is a bind mount from /run over the existing file.
                assert!(mounted("/run") < number, "{name}: {}", target.display());
                assert!(!target.starts_with("/proc") || mounted("/proc") < number, "{name}");
            }
        }
        for (upper, lower) in [("/dev", "/dev/pts"), ("/dev", "/dev/shm"), ("/sys", "/sys/fs/cgroup")] {
            assert!(mounted(upper) < mounted(lower), "{name}: {lower}");
        }
    }
}
