//! Checks the rules of the map in `src/lib.rs` in the source: dependencies between stages, the modules
//! allowed to contain `unsafe`, output and large libraries, and the shape of files. An exception to a rule is
//! a row of a table in this file, with its reason.

// clippy.toml allows unwrap in #[test] functions only, not in their helpers.
#![allow(clippy::unwrap_used)]

#[path = "architecture/scripts.rs"]
mod scripts;
#[path = "architecture/source.rs"]
mod source;

use source::{is_of_word, lies_in, named, sources, words};
use std::path::Path;

/// The allowed dependencies: a stage, and the paths below `crate::` that it may use. Every stage may use
/// `error`. A path includes all paths below it.
const MAY_USE: &[(&str, &[&str])] = &[
    ("error", &[]),
    ("machine", &[]),
    ("sys", &[]),
    ("channel", &[]),
    ("tree", &["sys"]),
    // The details of a question name machines.
    ("ask", &["machine::name::Name"]),
    // The paths of a machine are derived from its name.
    ("paths", &["machine::name::Name"]),
    // The init of a stack decides whether the machine of an OCI image boots.
    ("config", &["machine", "paths", "image::find", "image::layer_files"]),
    (
        "plan",
        &[
            "machine",
            // The protocol declares the synchronisation points, which are steps of both sides.
            "channel::SyncPoint",
            // Plain data, so that a step contains the arguments of its system call directly.
            "sys::mount::MountAttributes",
            "sys::mount::Depth",
            "sys::filter::Instruction",
        ],
    ),
    // Children receive their input through the plan and the channel only.
    ("payload", &["plan::step", "channel", "sys"]),
    (
        "host",
        &[
            "machine",
            "paths",
            "sys",
            // The client of the service sends requests.
            "ask",
            // A plan depends on the users of a tree and on the kind of its init.
            "plan::NamedDevice",
            // The emulator of a build session is a program of the host.
            "plan::Emulator",
            "plan::User",
            "plan::init",
            // A plan contains the LSM label of processes that enter a machine.
            "plan::step::Device",
            "plan::step::LsmLabel",
            "plan::step::ResourceLimit",
        ],
    ),
    ("network", &["machine", "paths", "host", "sys"]),
    // A record is the undo list: it contains the addresses and firewall elements of its machine.
    ("state", &["machine", "paths", "host", "network", "sys"]),
    // A call contains ports and the traffic policy of a machine.
    ("protocol", &["machine", "network::firewall::TrafficPolicy"]),
    ("generator", &["machine", "paths", "config"]),
    ("image", &["machine", "paths", "host", "state", "sys", "tree"]),
    ("claim", &["machine", "paths", "host", "network", "state", "image::locks", "image::throwaway"]),
    (
        "supervisor",
        &[
            "protocol", "machine", "paths", "plan", "channel", "host", "network", "state", "claim",
            "payload", "sys", "image",
        ],
    ),
    (
        "control",
        &[
            "machine",
            "paths",
            "host",
            "network",
            "state",
            "image",
            "sys",
            "tree",
            "protocol",
            // Verbs of users without root go through the service.
            "ask",
            // `set` and `apply` change definitions; `start` and `status` read them.
            "config",
            // `start` reloads the units of a changed definition.
            "generator",
            // `exec` repeats the steps of PID 1: planned, synchronised over a channel, executed by a child.
            "plan::exec",
            "plan::User",
            "plan::filter::Policy",
            "plan::step::ResourceLimit",
            "channel",
            "payload::run_init_steps",
            "payload::run_command_steps",
            "payload::InitInputs",
            // It looks up users by getent(1) of the machine, as PID 1 does.
            "payload::user_lookup",
            // `bind` mounts with a child process, like the builder.
            "payload::bind",
            // `device` creates nodes like the builder.
            "payload::hotplug",
        ],
    ),
    (
        "run",
        &[
            "config",
            "machine",
            "paths",
            "plan",
            "host",
            "network",
            "state",
            "claim",
            "supervisor",
            "image",
            // A process in a chroot(2) is rejected.
            "sys::mount::leaves_chroot",
            // A reboot executes the program again with its arguments.
            "sys::entry",
            // A signal undoes a start in the foreground.
            "sys::process::interrupt",
            // `--dry-run` prints the plan, `--template=` shows a bar, of the size of the template.
            "cli::output",
            "tree::usage",
        ],
    ),
    ("service", &["ask", "config", "host", "machine", "paths", "state", "sys"]),
    ("cli", &["ask", "config", "control", "machine", "paths", "run"]),
    (
        "main",
        &[
            "cli",
            "control",
            "generator",
            "paths",
            "run",
            "service",
            // The machines that a job may act on.
            "state::expected",
            // Instead of Rust's own entry point.
            "entry_point",
            "sys::entry",
        ],
    ),
];

/// Libraries allowed in some stages only. The children use none of them, so that no host state leaks into a
/// machine.
const LIBRARIES: &[(&str, &[&str])] = &[
    ("clap", &["cli"]),
    ("comfy_table", &["cli"]),
    ("toml", &["config", "cli"]),
    ("zbus", &["host", "network", "service"]),
    ("rtnetlink", &["network"]),
    ("tokio", &["host", "network", "control", "service"]),
    ("sd_notify", &["supervisor", "run", "control", "service"]),
    ("systemd_journal_logger", &["main"]),
    // The children report over the channel and do not log.
    (
        "log",
        &[
            "claim",
            "cli",
            "control",
            "host",
            "image",
            "network",
            "run",
            "service",
            "state",
            "supervisor",
            "tree",
            "main",
        ],
    ),
];

/// Names of files and modules that do not describe their content.
const EMPTY_NAMES: [&str; 5] = ["utils", "common", "helpers", "types", "misc"];

/// The maximum length of a file, in lines.
const LONGEST: usize = 470;

/// Tables of facts, exempt from the maximum length.
const TABLES: [&str; 1] = ["plan/filter/calls/syscall_table.rs"];

/// Fails with a list of all violations, one per line.
fn none(wrong: &[String]) {
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn stages_use_only_what_they_may() {
    let mut wrong = Vec::new();
    for source in sources() {
        let stage = source.stage();
        if stage == "lib" {
            continue;
        }
        let Some((_, allowed)) = MAY_USE.iter().find(|(name, _)| *name == stage) else {
            wrong.push(format!("src/{}: the stage '{stage}' is not on the map", source.path.display()));
            continue;
        };
        let root = if stage == "main" { "coracle" } else { "crate" };
        for path in named(&source.code, root) {
            let free = lies_in(&path, &stage) || lies_in(&path, "error");
            if !free && !allowed.iter().any(|opened| lies_in(&path, opened)) {
                wrong.push(format!("src/{}: '{stage}' may not use '{root}::{path}'", source.path.display()));
            }
        }
    }
    none(&wrong);
}

#[test]
fn paths_of_systemd_are_in_one_file() {
    // Paths inside a machine.
    let inside = ["machine", "plan", "payload"];
    let mut wrong = Vec::new();
    for source in sources() {
        let is_free = source.path == Path::new("paths.rs") || inside.contains(&source.stage().as_str());
        let text = source.raw.split("#[cfg(test)]\nmod tests {").next().unwrap();
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        let literals = code
            .filter(|line| ["\"/run/systemd", "\"/etc/machine-id"].iter().any(|path| line.contains(path)));
        wrong.extend(
            literals
                .filter(|_| !is_free)
                .map(|line| format!("src/{}: use 'paths' for {}", source.path.display(), line.trim())),
        );
    }
    none(&wrong);
}

#[test]
fn stages_are_not_imported_by_super() {
    let mut wrong = Vec::new();
    for source in sources() {
        let depth = source.path.iter().count();
        for at in words(&source.code, "super") {
            let mut steps = 0;
            let mut rest = &source.code[at..];
            while let Some(after) = rest.strip_prefix("super::") {
                (steps, rest) = (steps + 1, after);
            }
            // The first `super` of a module inside the file refers to the file.
            let indented = source.code[..at].rsplit('\n').next().unwrap().starts_with(' ');
            let is_in_tests = indented && source.code[..at].contains("\nmod tests {");
            if steps >= depth + usize::from(is_in_tests) {
                wrong.push(format!("src/{}: 'super' leads out of its stage", source.path.display()));
            }
        }
    }
    none(&wrong);
}

#[test]
fn libraries_stay_in_their_stages() {
    let mut wrong = Vec::new();
    for source in sources() {
        let stage = source.stage();
        for (library, stages) in LIBRARIES {
            let is_used = !named(source.without_tests(), library).is_empty();
            if is_used && !stages.contains(&stage.as_str()) {
                wrong.push(format!("src/{}: '{stage}' may not use '{library}'", source.path.display()));
            }
        }
    }
    none(&wrong);
}

#[test]
fn unsafe_is_in_sys_alone() {
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|source| source.stage() != "sys") {
        for word in ["unsafe", "unsafe_code"] {
            if words(&source.code, word).next().is_some() {
                wrong.push(format!("src/{}: '{word}' outside of src/sys", source.path.display()));
            }
        }
    }
    none(&wrong);
}

#[test]
fn output_is_in_one_place() {
    let mut wrong = Vec::new();
    for source in sources() {
        if source.path == Path::new("cli/output.rs") || source.path == Path::new("main.rs") {
            continue;
        }
        for printer in ["println", "eprintln", "print", "eprint", "dbg"] {
            let code = source.without_tests();
            if words(code, printer).any(|at| code[at + printer.len()..].starts_with('!')) {
                wrong.push(format!("src/{}: '{printer}!'", source.path.display()));
            }
        }
    }
    none(&wrong);
}

/// Functions that open a file by name. A guest may have replaced the file.
const BY_NAME: [&str; 22] = [
    "accessat",
    "chmod",
    "chmodat",
    "chown",
    "chownat",
    "fchmod",
    "fchown",
    "linkat",
    "mkdirat",
    "mkfifo",
    "mknodat",
    "open_inside",
    "open_inside_as",
    "openat",
    "openat2",
    "read_from",
    "readlinkat",
    "renameat",
    "renameat_with",
    "statat",
    "symlinkat",
    "unlinkat",
];

/// The files allowed to call them, besides the module for guest files, and the reason why each is safe.
const MAY_CALL_BY_NAME: &[(&str, &str)] = &[
    ("sys/guest_files.rs", "the module itself"),
    ("sys/guest_files/reopen.rs", "its descriptors, by /proc/self/fd"),
    ("sys/loops.rs", "nodes in /dev of the host"),
    ("sys/mount.rs", "directories of the host"),
    ("payload/", "the children: the builder works below roots of its own, the others inside the machine"),
    ("control/copy/", "the guest's side is a child inside the machine; the host's side is no machine's root"),
    ("sys/overlay.rs", "directories of a writable layer: a link of the guest is refused"),
    ("control/provision.rs", "entries of the tree of a stopped machine, whose locks are held"),
    ("image/", "entries of open directories; no link of a guest is followed"),
    ("tree/", "entries of open directories; no link is followed"),
    ("host/cgroup.rs", "cgroups"),
    ("host/cgroup_leaf.rs", "cgroups"),
    ("supervisor/package_cache.rs", "after the session has ended; no link is followed"),
    ("supervisor/results.rs", "after the session has ended; no link is followed"),
    ("supervisor/launch/journal.rs", "before the guest runs; links are resolved inside the tree or refused"),
    ("supervisor/launch/journal_receiver.rs", "its own socket in the state directory"),
    ("supervisor/launch/network.rs", "the state directory"),
    ("supervisor/control_socket.rs", "its own socket in the state directory"),
];

#[test]
fn files_of_guests_are_opened_in_one_module() {
    let mut wrong = Vec::new();
    for source in sources() {
        let path = source.path.display().to_string();
        let code = source.without_tests();
        if !MAY_CALL_BY_NAME.iter().any(|(place, _)| path.starts_with(place)) {
            for call in BY_NAME {
                if words(code, call).any(|at| code[..at].ends_with("fs::") || code[..at].ends_with("Dir::")) {
                    wrong.push(format!("src/{path}: '{call}' outside of sys/guest_files.rs"));
                }
            }
        }
        // The path to the root of a running machine, and the tree of a stopped machine.
        let text = source.raw.split("#[cfg(test)]\nmod tests {").next().unwrap();
        let leads_in = text.contains("}/root");
        if leads_in && path != "sys/guest_files.rs" {
            wrong.push(format!("src/{path}: a path through /proc/PID/root outside of sys/guest_files.rs"));
        }
        for opened in ["root.directory", "record.root", ".root.join("] {
            let by_std = text
                .lines()
                .any(|line| line.contains(opened) && (line.contains("fs::") || line.contains("File::open")));
            if by_std {
                wrong.push(format!("src/{path}: '{opened}' is opened outside of sys/guest_files.rs"));
            }
        }
    }
    none(&wrong);
}

#[test]
fn files_have_a_header_and_a_specific_name() {
    let mut wrong = Vec::new();
    for source in sources() {
        let mut say = |what: &str| wrong.push(format!("src/{}: {what}", source.path.display()));
        let is_table = TABLES.iter().any(|table| source.path == Path::new(table));
        if source.raw.lines().count() > LONGEST && !is_table {
            say("longer than 470 lines; make a part of it a file of its own");
        }
        if !source.raw.starts_with("//! ") {
            say("does not begin with //! and what it is");
        }
        if source.path.ends_with("mod.rs") {
            say("a stage is 'stage.rs' beside 'stage/', never 'mod.rs'");
        }
        let names = source.path.iter().map(|part| part.to_string_lossy().trim_end_matches(".rs").to_owned());
        let inner = words(&source.code, "mod")
            .map(|at| source.code[at + 4..].chars().take_while(|c| is_of_word(*c)).collect());
        if names.chain(inner).any(|name: String| EMPTY_NAMES.contains(&name.as_str())) {
            say("its name does not describe its content");
        }
    }
    none(&wrong);
}

#[test]
fn the_map_names_every_stage() {
    let map = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    for (stage, _) in MAY_USE {
        assert!(
            map.contains(&format!("//! | [`{stage}`] |")) || map.contains(&format!("//! | `{stage}` |")),
            "src/lib.rs does not say what '{stage}' is"
        );
    }
}
