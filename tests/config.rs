//! Definitions and the output of the program. Each directory of tests/config/ is a case: `tree/` is the root
//! of a host, `command` contains the arguments of the program (default: `check`), and `expected.txt` its
//! output and exit status. To add a case, create a directory, run the test once with BLESS=1, and review the
//! created file.

// clippy.toml allows unwrap in #[test] functions only, not in their helpers.
#![allow(clippy::unwrap_used)]

use coracle::config::layer::{Layer, Origin, definition_settings, settings};
use coracle::config::nspawn::SettingsMode;
use coracle::config::{Options, machine};
use coracle::machine::command::Payload;
use coracle::machine::console::Console;
use coracle::machine::contract::Contract;
use coracle::machine::name::Name;
use coracle::machine::network::Mode;
use coracle::machine::users::{Ownership, Users};
use coracle::machine::{Machine, Register};
use coracle::paths::Paths;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Returns the output and exit status of the program with `arguments` on the host below `tree`. Paths in the
/// output are shown without the prefix `tree`.
fn output_of(tree: &Path, arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_coracle"))
        .arg("--root")
        .arg(tree)
        .args(arguments)
        .current_dir(tree)
        .output()
        .unwrap();
    let root = tree.to_str().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap().replace(root, "");
    format!("{}{}exit {}\n", text(output.stdout), text(output.stderr), output.status.code().unwrap())
}

#[test]
fn cases_print_the_expected_output() {
    let mut failures = Vec::new();
    let mut cases: Vec<PathBuf> = std::fs::read_dir(repository().join("tests/config"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    cases.sort();
    assert!(cases.len() > 5);
    for case in cases {
        let command = std::fs::read_to_string(case.join("command")).unwrap_or_else(|_| "check".into());
        let arguments: Vec<&str> = command.split_whitespace().collect();
        let found = output_of(&case.join("tree"), &arguments);
        let file = case.join("expected.txt");
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(&file, &found).unwrap();
        }
        let expected = std::fs::read_to_string(&file).unwrap_or_default();
        if found != expected {
            failures.push(format!("{}\nexpected:\n{expected}\nfound:\n{found}", case.display()));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn examples_are_valid_and_cover_all_settings() {
    let mut keys = Vec::new();
    let copies = tempfile::tempdir().unwrap();
    let examples = |directory: &str| std::fs::read_dir(repository().join(directory)).unwrap();
    for entry in examples("machines.d").chain(examples("build.d")) {
        let entry = entry.unwrap();
        let directory = entry.path().parent().unwrap().file_name().unwrap().to_owned();
        std::fs::create_dir_all(copies.path().join(&directory)).unwrap();
        // Contents of credentials must be readable for root only.
        let file = copies.path().join(directory).join(entry.file_name());
        std::fs::copy(entry.path(), &file).unwrap();
        std::fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        let file = file.to_str().unwrap();
        // This host has none of the trees, directories and interfaces of the examples.
        let output = output_of(Path::new("/"), &["check", file]);
        let mut other = output.lines().filter(|line| line.contains("warning: "));
        let is_missing = |line: &str| {
            ["does not exist", "no such file", "has no interface"].iter().any(|text| line.contains(text))
        };
        assert!(output.ends_with("exit 0\n") && other.all(is_missing), "{output}");
        let (layer, _) = coracle::config::definition_files::read(Path::new(file));
        for setting in settings().filter(|setting| !layer.lines(setting).is_empty()) {
            keys.push(setting.key);
        }
    }
    for setting in definition_settings() {
        assert!(keys.contains(&setting.key), "no example has '{}'", setting.key);
    }
}

#[test]
fn the_manual_describes_all_settings_and_options() {
    let pages = repository().join("man");
    let definition = std::fs::read_to_string(pages.join("coracle.toml.5")).unwrap().replace('\\', "");
    for setting in definition_settings() {
        let key = setting.key.rsplit('.').next().unwrap();
        assert!(definition.contains(key), "coracle.toml(5) lacks '{}'", setting.key);
    }
    for (page, options) in [
        ("coracle.1", coracle::cli::manual::options()),
        ("coracle-build.1", coracle::cli::manual::build_options()),
    ] {
        has_generated_part(&pages.join(page), &options);
    }
}

/// Asserts that a page of the manual has these options, after it was renewed with BLESS=1.
#[track_caller]
fn has_generated_part(page: &Path, options: &str) {
    let text = std::fs::read_to_string(page).unwrap();
    let (begin, end) = (".\\\" begin of the generated part\n", ".\\\" end of the generated part\n");
    let (before, rest) = text.split_once(begin).unwrap();
    let (_, after) = rest.split_once(end).unwrap();
    let renewed = format!("{before}{begin}{options}{end}{after}");
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(page, &renewed).unwrap();
    }
    assert!(
        std::fs::read_to_string(page).unwrap() == renewed,
        "{} is outdated: run this test with BLESS=1",
        page.display()
    );
}

/// Creates the root of a host with the given files.
fn host(files: &[(&str, &str)]) -> (tempfile::TempDir, Paths) {
    let root = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let file = root.path().join(path);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, text).unwrap();
    }
    let paths = Paths::below(root.path());
    (root, paths)
}

#[test]
fn a_tree_without_a_definition_is_a_machine_with_all_defaults() {
    let (_root, paths) = host(&[("var/lib/machines/web/etc/os-release", "")]);
    let name = Name::new("web").unwrap();
    let machine = machine(&paths, &name).unwrap().machine;
    assert_eq!(machine.root.path(), paths.images().join("web"));
    assert_eq!((machine.users, machine.ownership), (Users::Pick, Ownership::Map));
    assert_eq!(
        (machine.network.mode, machine.console, machine.register),
        (Mode::Veth, Console::Journal, Register::Auto)
    );
    assert_eq!(machine.command.payload, Payload::Boot { arguments: Vec::new() });
    assert!(machine.keep_unit);
    assert!(coracle::config::names(&paths).unwrap().contains(&name));
    assert!(coracle::config::machine(&paths, &Name::new("db").unwrap()).is_err());
}

/// Returns the machine of options.
fn run(paths: &Paths, layer: Layer) -> Machine {
    let options = Options { layer, settings: SettingsMode::Yes, contract: Contract::Coracle, bundle: None };
    *coracle::config::run(paths, options, None).unwrap().machine
}

#[test]
fn run_has_the_defaults_of_nspawn() {
    let (root, paths) = host(&[]);
    let mut flags = Layer::default();
    flags.root.directory.set(root.path().join("My Tree.v1"), Origin::Flag("-D"));
    let machine = run(&paths, flags);
    assert_eq!(machine.name.as_str(), "MyTree.v1");
    assert_eq!((machine.users, machine.ownership), (Users::Host, Ownership::Off));
    assert_eq!((machine.network.mode, machine.console), (Mode::Host, Console::Auto));
    assert_eq!(machine.command.payload, Payload::Command { argv: Vec::new(), as_pid2: false });
    assert!(!machine.keep_unit);
}

#[test]
fn options_of_run_override_the_definition() {
    let (_root, paths) = host(&[(
        "etc/coracle/machines.d/web.toml",
        "[root]\nread-only = true\n[users]\nprivate = false\n[[mount]]\nsource = '/srv/b'\n[[mount]]\nsource = '/srv'\n",
    )]);
    let mut flags = Layer::default();
    flags.identity.name.set(Name::new("web").unwrap(), Origin::Flag("-M"));
    flags.root.read_only.set(false, Origin::Flag("--read-only"));
    let machine = run(&paths, flags.clone());
    assert!(!machine.root.read_only);
    assert_eq!((machine.users, machine.ownership), (Users::Host, Ownership::Off));
    assert_eq!((machine.network.mode, machine.console), (Mode::Veth, Console::Auto));
    assert!(matches!(machine.command.payload, Payload::Boot { .. }));
    let targets: Vec<_> = machine.mounts.iter().map(|mount| mount.target.to_str().unwrap()).collect();
    assert_eq!(targets, ["/srv", "/srv/b"]);
    flags.command.user.set("joe".into(), Origin::Flag("-u"));
    assert!(matches!(run(&paths, flags).command.payload, Payload::Command { .. }));
}

#[test]
fn the_output_of_config_is_an_equivalent_definition() {
    for entry in std::fs::read_dir(repository().join("machines.d")).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        let (root, _paths) = host(&[("etc/coracle/machines.d/web.toml", &text)]);
        let shown = output_of(root.path(), &["config", "web"]);
        let shown = shown.strip_suffix("exit 0\n").unwrap();
        let (root, _paths) = host(&[("etc/coracle/machines.d/web.toml", shown)]);
        assert_eq!(output_of(root.path(), &["config", "web"]), format!("{shown}exit 0\n"));
    }
}

#[test]
fn the_manual_lists_all_settings_of_nspawn_files() {
    let page = std::fs::read_to_string(repository().join("man/coracle.toml.5")).unwrap().replace('\\', "");
    for (_, key) in coracle::config::nspawn::keys() {
        let name = key.strip_prefix("Limit").filter(|_| key != "LimitCPU").map_or(key, |_| "LimitCPU");
        assert!(page.contains(&format!("{name}=")), "coracle.toml(5) lacks '{key}='");
    }
}

/// Runs the program under the name of systemd-nspawn(1). Returns its standard output, error and exit status.
fn as_nspawn(arguments: &[&str]) -> (String, String, Option<i32>) {
    let mut program = Command::new(env!("CARGO_BIN_EXE_coracle"));
    let output = program.arg0("/usr/bin/systemd-nspawn").args(arguments).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (text(output.stdout), text(output.stderr), output.status.code())
}

#[test]
fn wrong_arguments_of_systemd_nspawn_are_one_line_each() {
    for (arguments, lines) in [
        (&["--x"][..], &["systemd-nspawn: unrecognized option '--x'"][..]),
        (&["-D"], &["systemd-nspawn: option '-D' requires an argument"]),
        (&["-b", "-a"], &["systemd-nspawn: --boot and --as-pid2 may not be combined"]),
        (&["-a", "--boot"], &["systemd-nspawn: --boot and --as-pid2 may not be combined"]),
        (&["--user"], &["systemd-nspawn: option '--user' is not supported: there is no user scope"]),
        (
            &["--share-system"],
            &["systemd-nspawn: option '--share-system' is not supported: namespaces are not shared"],
        ),
        (&["--console=journal"], &["systemd-nspawn: '--console=': unknown mode"]),
        (&["--background=red"], &["systemd-nspawn: '--background=': not an ANSI color"]),
        (&["--settings=x"], &["systemd-nspawn: '--settings=x': unknown mode"]),
        (
            &["--uuid=", "--tmpfs=x", "--user=ann"],
            &[
                "systemd-nspawn: --user=NAME is deprecated",
                "systemd-nspawn: '--uuid=': ",
                "systemd-nspawn: '--tmpfs=x': ",
            ],
        ),
    ] {
        let (stdout, stderr, status) = as_nspawn(arguments);
        assert_eq!((stdout.as_str(), status), ("", Some(1)), "{arguments:?}");
        let found: Vec<&str> = stderr.lines().collect();
        let agree = found.len() == lines.len()
            && found.iter().zip(lines).all(|(found, line)| found.starts_with(line));
        assert!(agree, "{arguments:?}: {stderr}");
    }
}

#[test]
fn texts_of_systemd_nspawn_are_on_standard_output() {
    let (stdout, stderr, status) = as_nspawn(&["--version"]);
    let words: Vec<&str> = stdout.split_whitespace().collect();
    assert!(words[2].starts_with(&format!("({}-coracle-", words[1])), "{stdout}");
    assert_eq!((stderr.as_str(), status), ("", Some(0)));
    let (stdout, stderr, status) = as_nspawn(&["-h", "--x"]);
    assert!(stdout.contains("--network-veth-extra=") && stdout.contains("--no-ask-password"), "{stdout}");
    assert_eq!((stderr.as_str(), status), ("", Some(0)));
    let (stdout, _, status) = as_nspawn(&["--console", "help"]);
    assert_eq!((stdout.as_str(), status), ("autopipe\ninteractive\nread-only\npassive\npipe\n", Some(0)));
}
